package workflows_test

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/workflows"
)

func TestRoutineRotation(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.approveAt(atGate)
	s.in("overlap", inOverlap, func() {
		st := s.status()
		assert.Equal(t, "the end of the overlap", st.WaitsFor)
		assert.Equal(t, "time; or: extend, rollback", st.UnblockedBy)
		assert.Contains(t, st.Notices, "The spec is unsigned.")
	})
	s.in("revoke-gate", atGate-time.Minute, func() {
		st := s.status()
		require.NotNil(t, st.Gate)
		assert.Equal(t, "digest", st.Gate.Evidence)
		assert.Contains(t, st.UnblockedBy, "with approve")
	})
	report := s.run()
	assert.Equal(t, workflows.Completed, report.Outcome, report.Message)
	assert.Equal(t, routine, s.asked)
	assert.Equal(t, "refused", report.Probe)
	assert.Equal(t, "digest", report.EvidenceDigest)
	assert.Equal(t, workflows.PhaseEnded, s.status().Phase)
	assert.Equal(t, []string{"gate-revoke", "ended"}, s.told())
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	cases := map[string]func(*script){
		"a spec that the worker does not take": func(s *script) {
			s.answers["Accept"] = func(int) (any, error) {
				return nil, temporal.NewNonRetryableApplicationError("no", activities.TypeSpec, nil)
			}
		},
		"facts that cannot be gathered": func(s *script) {
			s.answers["Inspect"] = func(int) (any, error) {
				return nil, temporal.NewNonRetryableApplicationError("no", activities.TypeDenied, nil)
			}
		},
		"a plan with refusals": func(s *script) { s.plan.Refusals = []policy.Decision{no(policy.SlotsFull)} },
		"a sign-off that is rejected": func(s *script) {
			s.credential.Approvals.Signoff = &inventory.Approval{Count: 1, Trust: inventory.TrustAny}
			s.in("signoff", time.Minute, func() { s.ask(policy.Reject, policy.Request{Gate: "signoff", By: "ann", Reason: "not today"}, nil) })
		},
		"a rollback before anything was changed": func(s *script) {
			s.credential.Approvals.Signoff = &inventory.Approval{Count: 1, Trust: inventory.TrustAny}
			s.in("signoff", time.Minute, func() { s.ask(policy.Rollback, policy.Request{By: "ann", Reason: "not today"}, nil) })
		},
		"a workflow ID of another credential": func(s *script) {
			s.env.SetStartWorkflowOptions(client.StartWorkflowOptions{ID: workflows.WorkflowID("other"), TaskQueue: workflows.TaskQueue})
		},
	}
	for name, prepare := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScript(t)
			prepare(s)
			report := s.run()
			assert.Equal(t, workflows.Refused, report.Outcome, report.Message)
			assert.NotEmpty(t, report.Message)
			assert.Empty(t, s.asked, "nothing is changed")
		})
	}
}

func TestSignoffComesBeforeAnythingIsChanged(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.credential.Approvals.Signoff = &inventory.Approval{Count: 2, Trust: inventory.TrustAny, RequestExpires: minutes(60)}
	s.in("signoff", time.Minute, func() { s.ask(policy.Approve, policy.Request{Gate: "signoff", By: "ann"}, nil) })
	s.in("signoff", 2*time.Minute, func() {
		s.ask(policy.Approve, policy.Request{Gate: "signoff", By: "ann"}, func(v policy.Verdict) { assert.Equal(t, policy.AlreadyCounted, v.Reason) })
		assert.Empty(t, s.asked)
	})
	s.in("signoff", 3*time.Minute, func() { s.ask(policy.Approve, policy.Request{Gate: "signoff", By: "bob"}, nil) })
	s.approveAt(atGate + 5*time.Minute)
	assert.Equal(t, workflows.Completed, s.run().Outcome)
	assert.Equal(t, routine, s.asked)
}

// What a rotation that did not end left behind is taken back first: its key from whoever uses it, then the
// key itself.
func TestTakingBackWhatDidNotEnd(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.plan.TakeBack = []string{"checkout/a"}
	s.plan.Discard = []key.Ref{{KeyID: "key-left"}}
	s.approveAt(100 * time.Minute)
	require.Equal(t, workflows.Completed, s.run().Outcome)
	assert.Equal(t, []string{"deliver key-old to [checkout/a]", "discard", "issue 1"}, s.asked[:3])
}

// A receiver that is down is told when it is back.
func TestPeopleAreToldLater(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.answers["Notify"] = func(n int) (any, error) {
		if n <= 3 {
			return nil, errors.New("the webhook does not answer")
		}
		return nil, nil
	}
	s.approveAt(atGate)
	report := s.run()
	assert.Equal(t, workflows.Completed, report.Outcome)
	assert.Equal(t, []string{"gate-revoke", "ended"}, s.told())
	assert.Empty(t, s.status().Notices[1:], "nothing was lost")
}

// A pause waits for whoever can mend its cause: they hear of it though the receiver is away for long, but not once it is over.
func TestAPauseIsToldUntilItIsHeardOfOrOver(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		away time.Duration // of the receiver, from the begin on
		told int
	}{
		"a receiver that is away for hours":               {5 * time.Hour, 1},
		"one that comes back when the pause is long over": {30 * time.Hour, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScript(t)
			begun := s.env.Now()
			s.credential.ErrorBudget = &inventory.ErrorBudget{Ratio: 0.01, Window: minutes(5), OnBreach: inventory.BreachPause}
			s.answers["Watch"] = func(n int) (any, error) {
				if n == 1 {
					return no(policy.BudgetBreached), nil
				}
				return nil, nil
			}
			s.answers["AwaitHealth"] = func(int) (any, error) {
				if s.env.Now().Sub(begun) < 20*time.Hour {
					return nil, temporal.NewApplicationErrorWithOptions("not well", activities.TypeNotYet, temporal.ApplicationErrorOptions{Category: temporal.ApplicationErrorCategoryBenign})
				}
				return nil, nil
			}
			s.answers["Notify"] = func(int) (any, error) {
				if s.env.Now().Sub(begun) < c.away {
					return nil, errors.New("the webhook does not answer")
				}
				return nil, nil
			}
			told := func() (n int) {
				for _, what := range s.told() {
					if what == "paused" {
						n++
					}
				}
				return n
			}
			s.at(19*time.Hour, func() { assert.Equal(t, c.told, told(), "in the pause") })
			s.approveAt(20*time.Hour + atGate)
			assert.Equal(t, workflows.Completed, s.run().Outcome)
			assert.Equal(t, c.told, told())
		})
	}
}

// Who has to act is told until that was heard, ever more rarely, and reminded each day; nobody is when it is decided.
func TestWhoIsAskedIsRemindedUntilItIsDecided(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		away  time.Duration // of the receiver
		after time.Duration // the approval
		told  int
	}{
		"one that answers":                     {0, 50 * time.Hour, 3},
		"one that is away for half a day":      {12 * time.Hour, 50 * time.Hour, 3},
		"one that comes back when all is over": {100 * time.Hour, 50 * time.Hour, 0},
		"one that hears of it once":            {0, time.Hour, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScript(t)
			s.credential.Approvals.Revoke.RequestExpires = inventory.Duration(72 * time.Hour)
			tries, heard, begun := 0, 0, s.env.Now()
			s.answers["Notify"] = func(int) (any, error) {
				if s.status().Gate == nil {
					return nil, nil
				}
				if tries++; s.env.Now().Sub(begun) < atGate+c.away {
					return nil, errors.New("the webhook does not answer")
				}
				heard++
				return nil, nil
			}
			s.approveAt(atGate + c.after)
			assert.Equal(t, workflows.Completed, s.run().Outcome)
			assert.Equal(t, c.told, heard)
			assert.Less(t, tries, 300)
		})
	}
}

func TestFirstKeyHasNothingToRevoke(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.plan.Retiring = nil
	report := s.run()
	assert.Equal(t, workflows.Completed, report.Outcome)
	assert.Equal(t, append(append([]string{}, routine[:4]...), "record completed"), s.asked)
}

func TestConsumersThatPullFollowThePromotion(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.plan.Waves[1].ByPromotion = true
	s.in("overlap", inOverlap, func() { s.ask(policy.Rollback, policy.Request{By: "ann", Reason: "errors"}, nil) })
	assert.Equal(t, workflows.RolledBack, s.run().Outcome)
	assert.Equal(t, []string{
		"issue 1", "deliver key-new to [canary]", "promote", "deliver key-new to [checkout/a checkout/b]",
		"restore labels", "deliver key-old to [canary checkout/a checkout/b]", "discard", "record rolled-back",
	}, s.asked, "those who pull are back once the labels are")
}
