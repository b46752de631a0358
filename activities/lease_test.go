package activities_test

import (
	"context"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/providers/memory"
)

// elsewhere is a worker of another namespace that has the same secret.
func (c *crashCase) elsewhere() *activities.Activities {
	other := c.other()
	other.Namespace = "staging"
	return other
}

// plans are the reasons against a rotation, as a worker sees it.
func (c *crashCase) plans(worker *activities.Activities) (reasons []policy.Reason) {
	c.by(worker, func() {
		var plan policy.Plan
		c.execute("Inspect", c.subject(), &plan)
		for _, d := range plan.Refusals {
			reasons = append(reasons, d.Reason)
		}
	})
	return reasons
}

// mint is an attempt of a worker to mint a key.
func (c *crashCase) mint(worker *activities.Activities) (err error) {
	c.by(worker, func() { err = c.attempt("Issue", activities.IssueInput{Rotation: c.subject(), Ordinal: 1}, nil, 1) })
	return err
}

// Temporal's workflow ID is the mutex of one namespace: between two, the lease is.
func TestTwoNamespacesDoNotActOnOneSecret(t *testing.T) {
	t.Parallel()
	c := newCase(t)
	here, there := c.do, c.elsewhere()
	assert.Empty(t, c.plans(there), "nobody holds it")
	c.run("Issue")
	assert.Equal(t, []policy.Reason{policy.Held}, c.plans(there))
	before := len(c.world.Ledger())
	refused := (&signedCase{crashCase: c}).refusal(c.mint(there))
	assert.Equal(t, activities.TypeHeld, refused.Type())
	assert.Contains(t, refused.Message(), `rotation/payments-api of namespace "" holds the credential`)
	assert.Len(t, c.world.Ledger(), before, "nothing was changed")

	// A watch that looks keeps it, however long it only looks.
	for range 4 {
		c.wait(31 * time.Minute)
		c.by(here, func() { c.run("Watch") })
		assert.Equal(t, []policy.Reason{policy.Held}, c.plans(there))
	}
	// Nor does an effect that waits for hours: a rollback whose key is not quiet.
	for range 4 {
		c.wait(31 * time.Minute)
		c.by(here, func() { c.execute("Enable", c.subject(), nil) })
		assert.Equal(t, []policy.Reason{policy.Held}, c.plans(there))
	}
	// Nobody renews it for the whole term, as who wants it sees it.
	c.wait(59 * time.Minute)
	assert.Equal(t, activities.TypeHeld, (&signedCase{crashCase: c}).refusal(c.mint(there)).Type())
	c.wait(time.Minute)
	assert.NotContains(t, c.plans(there), policy.Held)
	c.by(there, func() {
		c.execute("Enable", c.subject(), nil)
		assert.Equal(t, "staging", c.metadata().Lease.Namespace)
	})
	assert.Equal(t, activities.TypeHeld, (&signedCase{crashCase: c}).refusal(c.attempt("Promote", c.subject(), nil, 1)).Type(), "and who had it has it no more")
}

// The end of a rotation gives the lease back: whoever comes next need not wait.
func TestTheRecordGivesTheLeaseBack(t *testing.T) {
	t.Parallel()
	c := reached(t, "Issue", "DeliverWave", "Promote", "Disable", "Destroy")
	there := c.elsewhere()
	assert.Contains(t, c.plans(there), policy.Held)
	c.run("Record")
	assert.Nil(t, c.metadata().Lease)
	assert.NotContains(t, c.plans(there), policy.Held)
}

// An attempt that outlived its run writes nothing once the next run acts.
func TestAnAttemptOfAnEarlierRunIsFenced(t *testing.T) {
	t.Parallel()
	for step, x := range map[string]struct {
		before []string
		write  int32
		none   memory.Op // what does not happen
	}{
		"Issue":       {nil, 2, memory.OpIssue},
		"Stage":       {nil, 0, memory.OpStage},
		"DeliverWave": {[]string{"Issue"}, 1, memory.OpDeliver},
		"Promote":     {[]string{"Issue", "DeliverWave"}, 1, memory.OpPromote},
		"Disable":     {[]string{"Issue", "DeliverWave", "Promote"}, 1, memory.OpDisable},
	} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			c := reached(t, x.before...)
			if step == "Disable" {
				c.passOverlap()
			}
			happened := len(c.world.Happened(x.none))
			takes := func() {
				m := c.metadata()
				next := *m.Lease
				next.Run = "next-run"
				m.Lease = &next
				_, err := c.world.Store("payments-api").PutMetadata(t.Context(), m)
				assert.NoError(t, err)
			}
			activity := step
			if step == "Stage" {
				activity = "Issue" // whose mint was slow
				c.world.On(memory.OpIssue, func(p memory.Phase) {
					if p == memory.After {
						takes()
					}
				})
			} else {
				c.interleave(x.write, takes)
			}
			var input any
			approvals := []policy.Verdict{{Action: policy.Approve, Accepted: true, By: "ann", At: c.now()}}
			switch activity {
			case "Issue":
				input = activities.IssueInput{Rotation: c.subject(), Ordinal: 1}
			case "DeliverWave":
				input = c.wave()
			case "Promote":
				input = c.subject()
			case "Disable":
				input = activities.RevokeInput{Rotation: c.subject(), Approvals: approvals}
			}
			refused := (&signedCase{crashCase: c}).refusal(c.attempt(activity, input, nil, 1))
			assert.Equal(t, activities.TypeHeld, refused.Type(), "%v", refused)
			assert.Contains(t, refused.Message(), `run "next-run" of rotation/payments-api has taken over`)
			assert.Len(t, c.world.Happened(x.none), happened)
			require.NotNil(t, c.metadata().Lease)
			assert.Equal(t, "next-run", c.metadata().Lease.Run)
		})
	}
}

// An attempt that outlived its run finds that nobody has the lease, and does not take it: the record has the end already. Only that
// end may be recorded again.
func TestAnAttemptOfARunThatHasEndedTakesNoLease(t *testing.T) {
	t.Parallel()
	c := newSignedCase(t)
	for _, step := range []string{"Issue", "DeliverWave", "Promote", "Record"} {
		c.run(step)
	}
	happened, record := len(c.world.Ledger()), must(os.ReadFile(c.auditFile))
	for activity, input := range c.acting() {
		if activity == "Record" {
			continue
		}
		refused := c.refusal(c.attempt(activity, input, nil, 1))
		assert.Equal(t, activities.TypeHeld, refused.Type(), "%s: %v", activity, refused)
		assert.Contains(t, refused.Message(), "this run has ended", activity)
	}
	assert.Len(t, c.world.Ledger(), happened)
	assert.Equal(t, record, must(os.ReadFile(c.auditFile)))
	c.run("Record")
	assert.Nil(t, c.metadata().Lease)
	c.byRun = "next-run"
	c.run("RestoreLabels")
	require.NotNil(t, c.metadata().Lease)
	assert.Equal(t, "next-run", c.metadata().Lease.Run)
}

// Once Temporal does not wait for an attempt any more, it writes nothing: not after any of its questions.
func TestAnAttemptThatDoesNotCountWritesNothing(t *testing.T) {
	t.Parallel()
	for activity := range newSignedCase(t).acting() {
		t.Run(activity, func(t *testing.T) {
			t.Parallel()
			questions := 0
			for refused := true; refused; questions++ {
				require.Less(t, questions, 50)
				c := readyFor(t, activity)
				var asked atomic.Int32
				wrote := -1 // by the first refusal
				var mu sync.Mutex
				c.do.Acknowledge = func(context.Context, any) error {
					if int(asked.Add(1)) <= questions {
						return nil
					}
					mu.Lock()
					defer mu.Unlock()
					if wrote < 0 {
						wrote = len(c.world.Ledger())
					}
					return activities.ErrSuperseded
				}
				input := c.acting()[activity]
				if wave, ok := input.(activities.WaveInput); ok {
					wave.Instances = []string{"canary"} // of several, one may be written to on an answer from before the refusal
					input = wave
				}
				err := c.attempt(activity, input, nil, 1)
				if refused = wrote >= 0; refused {
					require.Error(t, err)
					assert.Len(t, c.world.Ledger(), wrote, "after question %d", questions)
				}
			}
			assert.Greater(t, questions, 1, "it asks at least once")
		})
	}
}

// Times in the metadata are judged by whichever worker comes next: one whose clock is wrong neither writes nor judges any.
func TestAWorkerWhoseClockIsWrongChangesNothing(t *testing.T) {
	t.Parallel()
	for activity := range newSignedCase(t).acting() {
		t.Run(activity, func(t *testing.T) {
			t.Parallel()
			for _, off := range []time.Duration{2 * time.Hour, -2 * time.Hour} {
				c := readyFor(t, activity)
				before := len(c.world.Ledger())
				var asked atomic.Int32
				c.do.Ahead = func(context.Context) time.Duration {
					if asked.Add(1) == 1 {
						return off
					}
					return 20 * time.Second // it was set right, or another worker goes on
				}
				require.ErrorContains(t, c.attempt(activity, c.acting()[activity], nil, 1), "the clock of this worker is not that of Temporal")
				assert.Len(t, c.world.Ledger(), before)
				require.NoError(t, c.attempt(activity, c.acting()[activity], nil, 1))
			}
		})
	}
}

func TestMayHoldNamesWhoHoldsIt(t *testing.T) {
	t.Parallel()
	run := key.Lease{Namespace: "default", Workflow: "rotation/x", Run: "r2", Term: key.LeaseTerm}
	for name, c := range map[string]struct {
		held  *key.Lease
		stood time.Duration
		want  bool
	}{
		"nobody":                                  {nil, 0, true},
		"an earlier run of the same workflow":     {&key.Lease{Namespace: "default", Workflow: "rotation/x", Run: "r1", Term: key.LeaseTerm}, 0, true},
		"a run of another namespace":              {&key.Lease{Namespace: "staging", Workflow: "rotation/x", Run: "r1", Term: key.LeaseTerm}, 59 * time.Minute, false},
		"one that was not renewed":                {&key.Lease{Namespace: "staging", Workflow: "rotation/x", Run: "r1", Term: key.LeaseTerm}, time.Hour, true},
		"an import":                               {&key.Lease{Workflow: key.LeaseOfImport, Term: key.LeaseTerm}, 0, false},
		"one whose term nobody wrote down":        {&key.Lease{Namespace: "staging", Workflow: "rotation/x"}, time.Minute, false},
		"another credential with the same secret": {&key.Lease{Namespace: "default", Workflow: "rotation/y", Term: key.LeaseTerm}, 0, false},
	} {
		assert.Equal(t, c.want, policy.MayHold(c.held, run, c.stood).OK, name)
	}
}
