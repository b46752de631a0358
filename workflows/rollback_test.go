package workflows_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/workflows"
)

// A rollback from every phase undoes what was done up to there, and only that.
func TestRollbackFromEveryPhase(t *testing.T) {
	t.Parallel()
	fails := func(name string, call int) func(*script) {
		return func(s *script) {
			s.answers[name] = func(n int) (any, error) {
				if n == call {
					return nil, temporal.NewNonRetryableApplicationError(name+" is denied", activities.TypeDenied, nil)
				}
				return nil, nil
			}
		}
	}
	asked := func(place string, after time.Duration) func(*script) {
		return func(s *script) {
			if after > atGate {
				s.approveAt(atGate)
			}
			s.in(place, after, func() { s.ask(policy.Rollback, policy.Request{By: "ann", Reason: "errors"}, nil) })
		}
	}
	canaryBack := []string{"restore labels", "deliver key-old to [canary]", "discard", "record rolled-back"}
	allBack := []string{"restore labels", "deliver key-old to [canary checkout/a checkout/b]", "discard", "record rolled-back"}
	cases := map[string]struct {
		prepare func(*script)
		done    int // how much of the routine way
		undone  []string
	}{
		"issuing fails": {fails("Issue", 1), 1, []string{"restore labels", "discard", "record rolled-back"}},
		"the incoming key does not work": {func(s *script) {
			s.answers["Issue"] = func(int) (any, error) {
				return activities.Issued{Key: incoming, Decision: no(policy.KeyNotWorking)}, nil
			}
		}, 1, []string{"restore labels", "discard", "record rolled-back"}},
		"the canary does not converge": {func(s *script) {
			s.answers["DeliverWave"] = func(n int) (any, error) {
				if n == 1 {
					return activities.WaveResult{Decision: no(policy.InstanceNotConverged)}, nil
				}
				return nil, nil
			}
		}, 2, canaryBack},
		"somebody asks in the canary's soak": {asked("canary soaking", inFirstSoak), 2, canaryBack},
		"the watch breaches in the canary's soak": {func(s *script) {
			s.answers["Watch"] = func(n int) (any, error) {
				if n == 3 {
					return no(policy.BudgetBreached), nil
				}
				return nil, nil
			}
		}, 2, canaryBack},
		"delivering the rest fails": {fails("DeliverWave", 2), 3, allBack},
		"promoting fails":           {fails("Promote", 1), 4, allBack},
		"promoting is refused": {func(s *script) {
			s.answers["Promote"] = func(int) (any, error) { return no(policy.CurrentMoved), nil }
		}, 4, allBack},
		"somebody asks in the overlap": {asked("overlap", inOverlap), 4, allBack},
		"somebody cancels the run in the overlap": {func(s *script) {
			s.in("overlap", inOverlap, s.env.CancelWorkflow)
		}, 4, allBack},
		"somebody rejects the revoke gate": {func(s *script) {
			s.in("revoke-gate", atGate, func() {
				s.ask(policy.Reject, policy.Request{Gate: "revoke", By: "ann", Reason: "batch job tonight"}, nil)
			})
		}, 5, allBack},
		"disabling fails": {func(s *script) { s.approveAt(atGate); fails("Disable", 1)(s) }, 6,
			append([]string{"enable"}, allBack...)},
		"somebody asks in the disable soak": {asked("disable-soak", inDisableSoak), 6, append([]string{"enable"}, allBack...)},
		"the watch breaches in the disable soak": {func(s *script) {
			s.approveAt(atGate)
			s.answers["Watch"] = func(int) (any, error) {
				if s.env.Now().Sub(s.began) > inDisableSoak {
					return no(policy.CheckFailing), nil
				}
				return nil, nil
			}
		}, 6, append([]string{"enable"}, allBack...)},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScript(t)
			c.prepare(s)
			report := s.run()
			assert.Equal(t, workflows.RolledBack, report.Outcome, report.Message)
			assert.Equal(t, append(append([]string{}, routine[:c.done]...), c.undone...), s.asked)
			assert.NotEmpty(t, report.Message)
		})
	}
}

// What the timeline says of a rollback is what was seen: how many keys were destroyed, and that a key was there to go back to.
func TestARollbackClaimsOnlyWhatWasDone(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		prepare func(*script)
		says    string
	}{
		"no key was minted": {func(*script) {}, "every consumer is on the retiring key; 0 unwanted keys destroyed"},
		"there was none before": {func(s *script) { s.plan.Retiring = nil },
			"there was no key to go back to; 0 unwanted keys destroyed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScript(t)
			c.prepare(s)
			s.answers["Issue"] = func(int) (any, error) {
				return nil, temporal.NewNonRetryableApplicationError("denied", activities.TypeDenied, nil)
			}
			s.answers["Discard"] = func(int) (any, error) { return policy.Decision{OK: true, Message: "0 unwanted keys destroyed"}, nil }
			report := s.run()
			require.Equal(t, workflows.RolledBack, report.Outcome, report.Message)
			assert.Contains(t, fmt.Sprint(report.Timeline), c.says)
			assert.NotContains(t, fmt.Sprint(report.Timeline), "the incoming one is destroyed")
		})
	}
}

func TestAfterTheKeyIsDestroyed(t *testing.T) {
	t.Parallel()
	t.Run("a rollback is not taken while it is being destroyed", func(t *testing.T) {
		t.Parallel()
		s := newScript(t)
		s.approveAt(atGate)
		asked := false
		s.answers["Destroy"] = func(n int) (any, error) {
			if n == 1 {
				return nil, errors.New("the reply was lost")
			}
			return nil, nil
		}
		s.in("revoke", atGate+30*time.Minute+500*time.Millisecond, func() {
			s.ask(policy.Rollback, policy.Request{By: "ann", Reason: "errors"}, func(v policy.Verdict) {
				asked = true
				assert.Equal(t, policy.NoWayBack, v.Reason)
			})
		})
		assert.Equal(t, workflows.Completed, s.run().Outcome)
		assert.True(t, asked)
	})
	t.Run("what Destroy does not manage is debt", func(t *testing.T) {
		t.Parallel()
		s := newScript(t)
		s.approveAt(atGate)
		s.answers["Destroy"] = func(int) (any, error) {
			return nil, temporal.NewNonRetryableApplicationError("denied", activities.TypeDenied, nil)
		}
		s.answers["Record"] = func(int) (any, error) {
			return activities.Recorded{Outcome: "completed-with-debt", Debt: []activities.Debt{{Kind: activities.DebtRetiredAlive, About: "key-old"}}}, nil
		}
		report := s.run()
		assert.Equal(t, workflows.CompletedWithDebt, report.Outcome)
		assert.Contains(t, report.Message, "key-old")
		assert.Len(t, report.Debt, 1)
	})
}

// A rollback goes on until it is done: nobody has to begin it again, and who can mend the cause is told.
func TestARollbackGoesOnUntilItIsDone(t *testing.T) {
	t.Parallel()
	for name, fails := range map[string]struct {
		step   string
		answer func() (any, error)
	}{
		"a host that cannot be written": {"DeliverWave", func() (any, error) {
			return activities.WaveResult{Decision: no(policy.InstanceNotConverged), Stragglers: []policy.Instance{{Consumer: "canary"}}}, nil
		}},
		"a store that denies": {"RestoreLabels", func() (any, error) {
			return nil, temporal.NewNonRetryableApplicationError("access denied", activities.TypeDenied, nil)
		}},
		"an issuer that denies": {"Discard", func() (any, error) {
			return nil, temporal.NewNonRetryableApplicationError("access denied", activities.TypeDenied, nil)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScript(t)
			s.in("overlap", inOverlap, func() { s.ask(policy.Rollback, policy.Request{By: "ann", Reason: "errors"}, nil) })
			mended := inOverlap + 80*time.Hour
			begun := s.env.Now()
			s.answers[fails.step] = func(int) (any, error) {
				if at := s.env.Now().Sub(begun); at >= inOverlap && at < mended {
					return fails.answer()
				}
				return nil, nil
			}
			report := s.run()
			assert.Equal(t, workflows.RolledBack, report.Outcome, report.Message)
			assert.Contains(t, s.asked, "discard")
			told := 0
			for _, n := range s.notes {
				if n.What == "insists" {
					told++
				}
			}
			assert.Equal(t, 4, told, "at once, and each day")
		})
	}
}

// What no waiting changes is for people; what is true then is what the record finds.
func TestARollbackThatCannotGoOn(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.in("overlap", inOverlap, func() { s.ask(policy.Rollback, policy.Request{By: "ann", Reason: "errors"}, nil) })
	s.answers["RestoreLabels"] = func(int) (any, error) {
		return nil, temporal.NewNonRetryableApplicationError("refused: key key-old is not active at the issuer", activities.TypeRefused, nil)
	}
	s.answers["Record"] = func(int) (any, error) {
		return activities.Recorded{Outcome: "failed", Debt: []activities.Debt{{Kind: activities.DebtRetiredAlive, About: "key-old"}}}, nil
	}
	report := s.run()
	assert.Equal(t, workflows.Failed, report.Outcome)
	assert.Contains(t, report.Message, "key key-old is not active at the issuer")
	assert.Contains(t, report.Message, "still owed: retired-key-alive key-old")
	assert.NotContains(t, s.asked, "discard")
}

// What the run remembers of the way back may be past: who asks for a rollback gets a verdict on what issuer and store say now.
func TestARollbackIsRefusedWhileNothingLeadsBack(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.traffic(2 * time.Hour)
	s.approve()
	issuer := s.world.Issuer("payments-api").(providers.Disabler)
	retiring := key.Ref{Principal: "payments-api", KeyID: "key-old"}
	var verdicts []policy.Verdict
	ask := func(id string) {
		s.env.UpdateWorkflow(workflows.RollbackName, id, &testsuite.TestUpdateCallback{
			OnAccept:   func() {},
			OnReject:   func(err error) { require.NoError(t, err) },
			OnComplete: func(v any, err error) { require.NoError(t, err); verdicts = append(verdicts, v.(policy.Verdict)) },
		}, policy.Request{By: "ann", Reason: "errors"})
	}
	s.in("overlap", 10*time.Minute, func() {
		require.NoError(t, issuer.Disable(t.Context(), retiring)) // by hand
		ask("at once")
	})
	s.in("overlap", 10*time.Minute+10*time.Second, func() {
		require.NoError(t, issuer.Enable(t.Context(), retiring))
		ask("within the minute")
	})
	s.in("overlap", 12*time.Minute, func() { ask("later") })
	report := s.run()
	require.Len(t, verdicts, 3)
	assert.Equal(t, policy.NoWayBack, verdicts[0].Reason)
	assert.Contains(t, verdicts[0].Message, "key key-old is not active at the issuer")
	assert.Equal(t, policy.NoWayBack, verdicts[1].Reason, "a flood is answered by one look a minute")
	assert.True(t, verdicts[2].Accepted, verdicts[2].Message)
	assert.Equal(t, workflows.RolledBack, report.Outcome, report.Message)
	assert.Zero(t, s.refused())
}

// Nor does the budget turn back to where nothing leads: it pauses, and people are told.
func TestABreachPausesWhileNothingLeadsBack(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answer policy.Decision
		err    error
		want   workflows.Outcome
	}{
		"the retiring key does not work any more": {no(policy.RetiringKeyNotLive), nil, workflows.Completed},
		"the retiring key works":                  {yes, nil, workflows.RolledBack},
		"nobody can tell":                         {yes, errors.New("503"), workflows.RolledBack},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScript(t)
			told := false
			s.answers["Watch"] = func(int) (any, error) {
				if !told && s.has("promote") {
					told = true
					return no(policy.BudgetBreached), nil
				}
				return nil, nil
			}
			s.answers["LookBack"] = func(int) (any, error) { return c.answer, c.err }
			if c.want == workflows.Completed {
				s.approveAt(atGate)
			}
			report := s.run()
			assert.Equal(t, c.want, report.Outcome, report.Message)
			assert.Equal(t, c.want == workflows.Completed, s.has("await health"))
		})
	}
}
