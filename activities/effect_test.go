package activities_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/memory"
)

// effects are those that send consumers to a key, or leave them with one: up to where the rotation gets before, how each is asked
// for, and what shows that it was.
var effects = map[string]struct {
	before []string
	wait   time.Duration
	ask    func(c *crashCase, attempts int32) (policy.Decision, error)
	op     memory.Op
	writes int  // of metadata, before the effect
	back   bool // it leads back to the retiring key
}{
	"delivering the incoming key": {before: []string{"Issue"}, ask: deliver(false), op: memory.OpDeliver, writes: 2},
	"promoting the incoming key":  {before: []string{"Issue", "DeliverWave"}, ask: decide("Promote"), op: memory.OpPromote, writes: 2},
	"disabling the retiring key":  {before: []string{"Issue", "DeliverWave", "Promote"}, wait: 2 * time.Hour, ask: revoke("Disable"), op: memory.OpDisable, writes: 2},
	"destroying the retiring key": {before: []string{"Issue", "DeliverWave", "Promote", "Disable"}, wait: 31 * time.Minute, ask: revoke("Destroy"), op: memory.OpDestroy, writes: 1},
	"delivering the retiring key": {before: []string{"Issue", "DeliverWave"}, ask: deliver(true), op: memory.OpDeliver, writes: 2, back: true},
	"moving the labels back":      {before: []string{"Issue", "DeliverWave", "Promote", "DeliverBack"}, ask: justDo("RestoreLabels"), op: memory.OpPromote, writes: 3, back: true},
	"destroying the incoming key": {before: []string{"Issue", "DeliverWave", "DeliverBack"}, wait: time.Hour, ask: decide("Discard"), op: memory.OpDestroy, writes: 1},
}

func decide(name string) func(*crashCase, int32) (policy.Decision, error) {
	return func(c *crashCase, attempts int32) (policy.Decision, error) {
		var d policy.Decision
		err := c.attempt(name, c.subject(), &d, attempts)
		return d, err
	}
}

// justDo is for what answers nothing.
func justDo(name string) func(*crashCase, int32) (policy.Decision, error) {
	return func(c *crashCase, attempts int32) (policy.Decision, error) {
		return policy.Decision{OK: true}, c.attempt(name, c.subject(), nil, attempts)
	}
}

func revoke(name string) func(*crashCase, int32) (policy.Decision, error) {
	return func(c *crashCase, attempts int32) (policy.Decision, error) {
		in := activities.RevokeInput{Rotation: c.subject(), Approvals: []policy.Verdict{{Action: policy.Approve, Accepted: true, By: "ann", At: c.now()}}}
		if name == "Disable" {
			var d policy.Decision
			err := c.attempt(name, in, &d, attempts)
			return d, err
		}
		var destroyed activities.Destroyed
		err := c.attempt(name, in, &destroyed, attempts)
		return destroyed.Decision, err
	}
}

func deliver(back bool) func(*crashCase, int32) (policy.Decision, error) {
	return func(c *crashCase, attempts int32) (policy.Decision, error) {
		in := activities.WaveInput{Rotation: c.subject(), Key: c.incoming, Wave: "all"}
		if back {
			in.Key = c.retiring
		}
		var result activities.WaveResult
		err := c.attempt("DeliverWave", in, &result, attempts)
		return result.Decision, err
	}
}

// isType tells whether an activity ended with an error of this type.
func isType(err error, name string) bool {
	var told *temporal.ApplicationError
	return errors.As(err, &told) && told.Type() == name
}

// before brings a rotation to the moment before an effect, all of whose keys are in use.
func before(t *testing.T, steps []string, wait time.Duration) *crashCase {
	c := reached(t, steps...)
	c.wait(2 * time.Minute)
	c.use()
	c.wait(wait)
	return c
}

func TestAnEffectTestsTheKeyThatConsumersAreLeftWith(t *testing.T) {
	t.Parallel()
	for name, e := range effects {
		done := func(c *crashCase) int { return len(c.world.Happened(e.op)) }
		t.Run(name+": a key that is listed as active and refused holds it", func(t *testing.T) {
			t.Parallel()
			c := before(t, e.before, e.wait)
			was := done(c)
			c.world.Fail(memory.OpSelfTest, fmt.Errorf("%w: at the edge", providers.ErrKeyRefused), 1000)
			d, err := e.ask(c, 3)
			refused := err == nil && !d.OK || isType(err, activities.TypeRefused)
			assert.True(t, refused, "%v %v", d, err)
			assert.Equal(t, was, done(c), "nothing happened")
		})
		t.Run(name+": a test that nobody answers", func(t *testing.T) {
			t.Parallel()
			c := before(t, e.before, e.wait)
			was := done(c)
			c.world.Fail(memory.OpSelfTest, errors.New("503"), 3)
			d, err := e.ask(c, 1)
			if e.back {
				require.NoError(t, err, "holds no way back")
				assert.True(t, d.OK, d.Message)
				return
			}
			require.Error(t, err, "holds what goes forward")
			assert.False(t, isType(err, activities.TypeRefused), "it passes")
			assert.Equal(t, was, done(c), "nothing happened")
			d, err = e.ask(c, 5)
			require.NoError(t, err)
			assert.True(t, d.OK, d.Message)
			assert.Greater(t, done(c), was)
		})
	}
}

func TestWhatWasJudgedMomentsAgoIsJudgedAgain(t *testing.T) {
	t.Parallel()
	for name, e := range effects {
		for write := 1; write <= e.writes; write++ {
			t.Run(fmt.Sprintf("%s, when the process stands still after write %d", name, write), func(t *testing.T) {
				t.Parallel()
				c := before(t, e.before, e.wait)
				was := len(c.world.Happened(e.op))
				writes := 0
				c.world.On(memory.OpPutMetadata, func(p memory.Phase) {
					if p != memory.After {
						return
					}
					if writes++; writes != write {
						return
					}
					c.wait(time.Minute) // and meanwhile the key that consumers would be left with is taken away
					kept := c.incoming
					if e.back || name == "destroying the incoming key" {
						kept = c.retiring
					}
					require.NoError(t, c.world.Issuer("payments-api").(providers.Disabler).Disable(context.Background(), kept))
				})
				d, err := e.ask(c, 5)
				refused := err == nil && !d.OK || isType(err, activities.TypeRefused)
				assert.True(t, refused, "%v %v", d, err)
				if e.op == memory.OpDisable {
					was++ // by hand
				}
				assert.Len(t, c.world.Happened(e.op), was, "nothing happened")
			})
		}
	}
}

func TestATestIsNeverTakenForAConsumer(t *testing.T) {
	t.Parallel()
	missing := func(c *crashCase) (reasons []policy.Reason) {
		var e policy.Evidence
		c.execute("GatherEvidence", activities.EvidenceInput{Rotation: c.subject(), Shown: "-"}, &e)
		for _, d := range e.Missing {
			reasons = append(reasons, d.Reason)
		}
		return reasons
	}
	c := reached(t, "Issue", "DeliverWave", "Promote")
	c.wait(3 * time.Hour)
	assert.Equal(t, []policy.Reason{policy.IncomingNotUsed}, missing(c), "keyturn tested the key before each effect, and nobody else used it")

	c.use()
	c.wait(3 * time.Hour)
	assert.Empty(t, missing(c))
	c.world.Fail(memory.OpSelfTest, errors.New("503"), 3)
	d, err := revoke("Disable")(c, 1)
	require.Error(t, err, d.Message)
	assert.Empty(t, missing(c), "the test before the disabling hides no use of a consumer")
	d, err = revoke("Disable")(c, 5)
	require.NoError(t, err)
	assert.True(t, d.OK, d.Message)
}

func TestAKeyIsNotDiscardedWhileAnAttemptMayStillDeliverIt(t *testing.T) {
	t.Parallel()
	c := reached(t, "Issue")
	c.world.On(memory.OpDeliver, func(p memory.Phase) {
		if p == memory.Before && !c.died.Swap(true) {
			panic("the process dies") // as far as anybody knows: it may as well stand still
		}
	})
	c.run("DeliverWave")
	assert.Len(t, c.metadata().Keys[len(c.metadata().Keys)-1].Delivering, 1, "the attempt that ended is not in the list")
	c.run("DeliverBack")
	c.wait(45 * time.Minute) // quiet, and less than a wave may take
	c.isNotYet(c.attempt("Discard", c.subject(), nil, 1))
	c.wait(30 * time.Minute)
	c.run("Discard")
	assert.Equal(t, []string{"key-old active"}, c.keys())
}

// How an attempt to deliver ends decides whether it is known to have ended: one that was cancelled says so, though Temporal acknowledges
// it no more; one that does not count writes nothing, since another one may have its mark.
func TestHowAnAttemptToDeliverEnds(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answer error
		marks  int
	}{
		"it is cancelled":            {context.Canceled, 0},
		"it does not count any more": {activities.ErrSuperseded, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := reached(t, "Issue")
			var delivering atomic.Bool
			k.world.On(memory.OpDeliver, func(memory.Phase) { delivering.Store(true) })
			k.do.Acknowledge = func(context.Context, any) error {
				if delivering.Load() {
					return c.answer
				}
				return nil
			}
			require.Error(t, k.attempt("DeliverWave", activities.WaveInput{Rotation: k.subject(), Key: k.incoming, Wave: "all"}, nil, 1))
			mine, _ := k.metadata().Key(k.incoming.KeyID)
			assert.False(t, mine.DeliveredAt.IsZero())
			assert.Len(t, mine.Delivering, c.marks)
		})
	}
}

// What stands outside Temporal acts by the same path, under the same lease.
func TestNoEffectNeedsATemporalContext(t *testing.T) {
	t.Parallel()
	c := newCase(t)
	ctx := activities.ByProgram(t.Context(), activities.WorkflowID("payments-api"), "by-a-program")
	ordinal := 0
	issue := func() {
		ordinal++
		issued, err := c.do.Issue(ctx, activities.IssueInput{Rotation: c.subject(), Ordinal: ordinal})
		require.NoError(t, err)
		require.True(t, issued.Decision.OK, issued.Decision.Message)
		c.incoming = issued.Key
	}
	deliver := func(ref key.Ref) {
		result, err := c.do.DeliverWave(ctx, activities.WaveInput{Rotation: c.subject(), Key: ref, Wave: "all"})
		require.NoError(t, err)
		require.True(t, result.Decision.OK, result.Decision.Message)
	}
	allowed := func(d policy.Decision, err error) {
		t.Helper()
		require.NoError(t, err)
		require.True(t, d.OK, d.Message)
	}
	issue()
	deliver(c.incoming)
	allowed(c.do.Promote(ctx, c.subject()))
	deliver(c.retiring)
	require.NoError(t, c.do.RestoreLabels(ctx, c.subject()))
	c.passOverlap()
	allowed(c.do.Discard(ctx, c.subject()))
	assert.Equal(t, []string{"key-old active"}, c.keys())

	c.incoming = key.Ref{}
	issue()
	deliver(c.incoming)
	allowed(c.do.Promote(ctx, c.subject()))
	c.passOverlap()
	revoke := activities.RevokeInput{Rotation: c.subject(), Approvals: []policy.Verdict{{Action: policy.Approve, Accepted: true, By: "ann", At: c.now()}}}
	allowed(c.do.Disable(ctx, revoke))
	allowed(c.do.Enable(ctx, c.subject()))
	revoke.Approvals[0].At, revoke.Approvals[0].ID = c.now(), "another"
	allowed(c.do.Disable(ctx, revoke))
	c.wait(31 * time.Minute)
	destroyed, err := c.do.Destroy(ctx, revoke)
	allowed(destroyed.Decision, err)
	recorded, err := c.do.Record(ctx, activities.RecordInput{Rotation: c.subject(), Outcome: "completed"})
	require.NoError(t, err)
	assert.Equal(t, "completed", recorded.Outcome, recorded.Left)
	assert.Equal(t, []string{c.incoming.KeyID + " active"}, c.keys())
}

func TestWhereNoUseIsToldOneMoreApproves(t *testing.T) {
	t.Parallel()
	c := reached(t, "Issue", "DeliverWave", "Promote")
	c.wait(2 * time.Minute)
	settings := memory.Strict()
	settings.KnowsTokens, settings.ReportsUsage, settings.UsageLag = false, false, time.Minute
	c.world.SetPrincipal("payments-api", settings)
	c.wait(2 * time.Hour)
	approved := func(by ...string) policy.Decision {
		in := activities.RevokeInput{Rotation: c.subject()}
		for _, name := range by {
			in.Approvals = append(in.Approvals, policy.Verdict{Action: policy.Approve, Accepted: true, By: name, At: c.now()})
		}
		var d policy.Decision
		c.execute("Disable", in, &d)
		return d
	}
	assert.Equal(t, policy.ApprovalsMissing, approved("ann").Reason)
	assert.Equal(t, []string{"key-old active", c.incoming.KeyID + " active"}, c.keys())
	assert.True(t, approved("ann", "ben").OK)
	assert.Equal(t, []string{"key-old " + string(key.Disabled), c.incoming.KeyID + " active"}, c.keys())
}

// The last look before a key is gone for good is at its record and at the lease: what another worker wrote since it was judged holds it.
func TestAKeyIsNotDestroyedOnARecordThatIsPast(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		write func(m *key.Metadata, at int)
		says  string
	}{
		"another worker sends somebody to the key": {func(m *key.Metadata, at int) { m.Keys[at].DeliveredAt = m.Keys[at].DeliveredAt.Add(time.Minute) }, "another worker has just acted on key"},
		"another run has taken over": {func(m *key.Metadata, _ int) {
			next := *m.Lease
			next.Run = "next-run"
			m.Lease = &next
		}, `run "next-run" of rotation/payments-api has taken over`},
	} {
		for _, effect := range []string{"destroying the retiring key", "destroying the incoming key"} {
			t.Run(effect+": "+name, func(t *testing.T) {
				t.Parallel()
				e := effects[effect]
				c := before(t, e.before, e.wait)
				writes := 0
				c.world.On(memory.OpPutMetadata, func(p memory.Phase) {
					if p != memory.After {
						return
					}
					if writes++; writes != e.writes {
						return
					}
					away, m := c.retiring.KeyID, c.metadata()
					if effect == "destroying the incoming key" {
						away = c.incoming.KeyID
					}
					x.write(&m, slices.IndexFunc(m.Keys, func(k key.Owned) bool { return k.KeyID == away }))
					_, err := c.world.Store("payments-api").PutMetadata(t.Context(), m)
					assert.NoError(t, err)
				})
				_, err := e.ask(c, 1)
				require.ErrorContains(t, err, x.says)
				assert.Empty(t, c.world.Happened(memory.OpDestroy))
			})
		}
	}
}
