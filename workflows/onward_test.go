package workflows_test

import (
	"context"
	"errors"
	"strings"
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
	"github.com/keyturn/keyturn/workflows"
)

// A wave that does not converge is turned back from, while something leads back. Otherwise to give it up would leave consumers apart,
// on two keys: it is delivered to again, however long that takes, and people are told.
func TestAWaveThatNothingLeadsBackFromIsDeliveredToAgain(t *testing.T) {
	t.Parallel()
	gone := func(s *script) {
		s.answers["LookBack"] = func(int) (any, error) { return no(policy.RetiringGone), nil }
	}
	first := func(s *script) { s.plan.Retiring = nil }
	for name, c := range map[string]struct {
		prepare func(*script)
		// answer of the second wave, three times
		wave policy.Decision
		want workflows.Outcome
		told string
	}{
		"of a first key":                        {first, no(policy.InstanceNotConverged), workflows.Completed, "there is no earlier key to go back to"},
		"of a first key, whose check fails":     {first, no(policy.CheckFailing), workflows.Completed, "there is no earlier key to go back to"},
		"whose retiring key is gone":            {gone, no(policy.InstanceNotConverged), workflows.Completed, "because of retiring-gone"},
		"whose retiring key is in no store":     {func(s *script) { s.plan.CanRollBack = false }, no(policy.InstanceNotConverged), workflows.Completed, "in no store"},
		"while the retiring key is there":       {func(*script) {}, no(policy.InstanceNotConverged), workflows.RolledBack, ""},
		"of a first key that is dead":           {first, no(policy.IncomingNotLive), workflows.Failed, ""},
		"of a first key that may not be told":   {func(s *script) { first(s); s.refuses("DeliverWave") }, policy.Decision{}, workflows.Failed, ""},
		"of a first key, when nobody can do it": {func(s *script) { first(s); s.fails("DeliverWave") }, policy.Decision{}, workflows.Completed, "connection reset"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScript(t)
			s.answers["DeliverWave"] = func(n int) (any, error) {
				if n > 1 && n <= 4 {
					return activities.WaveResult{Decision: c.wave}, nil
				}
				return nil, nil
			}
			c.prepare(s)
			s.every(time.Minute, 6*time.Hour, func() {
				if gate := s.status().Gate; gate != nil && len(gate.Approvals) == 0 {
					s.ask(policy.Approve, policy.Request{Gate: "revoke", By: "ann"}, nil)
				}
			})
			report := s.run()
			assert.Equal(t, c.want, report.Outcome, report.Message)
			var told []string
			for _, n := range s.notes {
				if n.What == "insists" && strings.HasPrefix(n.Subject, "Delivering the incoming key") {
					told = append(told, n.Body)
				}
			}
			if c.told == "" {
				assert.Empty(t, told)
				return
			}
			require.Len(t, told, 1, "once, and not at each try")
			assert.Contains(t, told[0], c.told)
			assert.Contains(t, told[0], "It is tried again and again")
		})
	}
}

// refuses has an activity refuse from its second call on.
func (s *script) refuses(name string) {
	s.answers[name] = func(n int) (any, error) {
		if n > 1 {
			return nil, temporal.NewNonRetryableApplicationError("not allowed", activities.TypeRefused, nil)
		}
		return nil, nil
	}
}

// fails has an activity fail for some rounds of attempts, after its first call.
func (s *script) fails(name string) {
	s.answers[name] = func(n int) (any, error) {
		if n > 1 && n <= 60 {
			return nil, errors.New("connection reset")
		}
		return nil, nil
	}
}

// A rotation that ended as failed, since nothing led back, is gone on with by the next one: nobody has to edit anything.
func TestARotationThatFailedIsGoneOnWith(t *testing.T) {
	t.Parallel()
	sorry := policy.Request{By: "ann", Reason: "errors"}
	for name, prepare := range map[string]func(*stage){
		"since its gate was rejected when its retiring key was gone": func(s *stage) {
			s.in("overlap", 12*time.Minute, func() {
				require.NoError(s.t, s.world.Issuer("payments-api").Destroy(context.Background(), key.Ref{Principal: "payments-api", KeyID: "key-old"}))
			})
			s.every(time.Minute, 2*time.Hour, func() {
				if gate := s.status().Gate; gate != nil {
					s.env.SignalWorkflow("reject", policy.Request{By: "ann", Gate: gate.Gate, Reason: "errors"})
				}
			})
		},
		"since its retiring key was destroyed by hand while it turned back": func(s *stage) {
			var delivered atomic.Int32
			s.world.On(memory.OpDeliver, func(p memory.Phase) {
				if p == memory.Before && delivered.Add(1) == 2 { // the first one was the canary's
					_ = s.world.Issuer("payments-api").Destroy(context.Background(), key.Ref{Principal: "payments-api", KeyID: "key-old"})
				}
			})
			s.request("canary soaking", time.Minute, "rollback", sorry)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			s.coarse()
			s.traffic(2 * time.Hour)
			prepare(s)
			report := s.run()
			require.Equal(t, workflows.Failed, report.Outcome, report.Message)
			report, err := s.over(workflows.RotationInput{Spec: s.spec()}, &step{id: "second"})
			require.NoError(t, err)
			assert.Equal(t, workflows.Completed, report.Outcome, report.Message)
			assert.Equal(t, []string{"new-1 active"}, s.keys(), "no second key was minted")
			assert.Len(t, s.versions(), 1)
		})
	}
}

// A first key that somebody disables before all have it leaves nobody anything to go back to: the next rotation brings them another
// one, and the one after that clears it away.
func TestAFirstKeyThatIsRefusedIsFollowedByAnother(t *testing.T) {
	t.Parallel()
	without := func() *stage {
		s := newStage(t)
		s.coarse()
		s.forgetStore()
		require.NoError(t, s.world.Issuer("payments-api").Destroy(context.Background(), key.Ref{Principal: "payments-api", KeyID: "key-old"}))
		return s
	}
	whole, s := &step{id: "first"}, without()
	_, err := s.over(workflows.RotationInput{Spec: s.spec()}, whole)
	require.NoError(t, err)
	second, waves := 0, 0 // the activity that delivers to the second wave
	for i, asked := range whole.asked {
		if asked.name == "DeliverWave" {
			if waves++; waves == 2 {
				second = i + 1
			}
		}
	}
	require.Positive(t, second)

	s = without()
	_, err = s.over(workflows.RotationInput{Spec: s.spec()}, lost("first", second))
	require.ErrorContains(t, err, "the run is lost before ")
	issuer := s.world.Issuer("payments-api")
	list, err := issuer.List(context.Background())
	require.NoError(t, err)
	require.NoError(t, issuer.(providers.Disabler).Disable(context.Background(), key.Ref{Principal: "payments-api", KeyID: list[0].KeyID}))

	report, err := s.over(workflows.RotationInput{Spec: s.spec()}, &step{id: "second"})
	require.NoError(t, err)
	assert.Equal(t, workflows.CompletedWithDebt, report.Outcome, report.Message)
	assert.Equal(t, []string{"new-1 disabled", "new-2 active"}, s.keys())
	report, err = s.over(workflows.RotationInput{Spec: s.spec()}, &step{id: "third"})
	require.NoError(t, err)
	assert.Equal(t, workflows.Completed, report.Outcome, report.Message)
	assert.Equal(t, []string{"new-3 active"}, s.keys())
}

// That first key works again when its follower is turned back from: it stays, and the follower goes; nothing waits for consumers to have
// another one, which there is none of. Its version has no label then, and the next rotation goes on with it.
func TestAFirstKeyThatWorksAgainIsNotDiscarded(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.coarse()
	s.forgetStore()
	require.NoError(t, s.world.Issuer("payments-api").Destroy(context.Background(), key.Ref{Principal: "payments-api", KeyID: "key-old"}))
	_, err := s.over(workflows.RotationInput{Spec: s.spec()}, lost("first", 6))
	require.ErrorContains(t, err, "the run is lost before ")
	require.Equal(t, []string{"new-1 active"}, s.keys())
	list, err := s.world.Issuer("payments-api").List(context.Background())
	require.NoError(t, err)
	first := key.Ref{Principal: "payments-api", KeyID: list[0].KeyID}
	disabler := s.world.Issuer("payments-api").(providers.Disabler)
	held, _ := s.world.Held("canary")
	id, err := s.world.Issuer("payments-api").Identify(context.Background(), held)
	require.NoError(t, err)
	require.Equal(t, first.KeyID, id, "the canary has it")
	require.NoError(t, disabler.Disable(context.Background(), first))

	s.anew(&step{id: "second", at: 2, do: func(name string) {
		assert.Equal(t, "Issue", name)
		require.NoError(t, disabler.Enable(context.Background(), first))
		s.at(0, func() {
			s.env.SignalWorkflow(workflows.RollbackName, policy.Request{By: "ann", Reason: "the first one works again"})
		})
	}})
	s.env.SetWorkflowRunTimeout(72 * time.Hour)
	report, err := s.execute(workflows.RotationInput{Spec: s.spec()})
	require.NoError(t, err, "%v", s.status())
	assert.Equal(t, workflows.RolledBack, report.Outcome, report.Message)
	assert.Equal(t, []string{"new-1 active"}, s.keys())
	assert.Contains(t, report.Message, "still owed: incoming-key-alive "+first.KeyID)

	report, err = s.over(workflows.RotationInput{Spec: s.spec()}, &step{id: "third"})
	require.NoError(t, err)
	assert.Equal(t, workflows.Completed, report.Outcome, report.Message)
	assert.Equal(t, []string{"new-1 active"}, s.keys(), "nobody is brought to another one")
	assert.Equal(t, map[string][]key.Label{report.Incoming.StoreVersion: {key.Current}}, s.versions())
	assert.Empty(t, s.metadata().Debt)
}

// A follower that nobody had is discarded, and its first key gone on with, when the run was lost that minted it.
func TestAFirstKeyThatWorksAgainIsGoneOnWithBesideItsFollower(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.coarse()
	s.forgetStore()
	issuer := s.world.Issuer("payments-api")
	require.NoError(t, issuer.Destroy(context.Background(), key.Ref{Principal: "payments-api", KeyID: "key-old"}))
	_, err := s.over(workflows.RotationInput{Spec: s.spec()}, lost("first", 6))
	require.ErrorContains(t, err, "the run is lost before ")
	list, err := issuer.List(context.Background())
	require.NoError(t, err)
	first, disabler := key.Ref{Principal: "payments-api", KeyID: list[0].KeyID}, issuer.(providers.Disabler)
	require.NoError(t, disabler.Disable(context.Background(), first))
	_, err = s.over(workflows.RotationInput{Spec: s.spec()}, lost("second", 3))
	require.ErrorContains(t, err, "the run is lost before DeliverWave")
	require.Equal(t, []string{"new-1 disabled", "new-2 active"}, s.keys())
	require.NoError(t, disabler.Enable(context.Background(), first))

	report, err := s.over(workflows.RotationInput{Spec: s.spec()}, &step{id: "third"})
	require.NoError(t, err)
	assert.Equal(t, workflows.Completed, report.Outcome, report.Message)
	assert.Equal(t, []string{"new-1 active"}, s.keys())
	assert.Equal(t, map[string][]key.Label{report.Incoming.StoreVersion: {key.Current}}, s.versions())
}
