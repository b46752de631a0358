package workflows_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/signed"
	"github.com/keyturn/keyturn/workflows"
)

// fills plays a run until it hands over to the next one, and returns what that one is given.
func (s *script) fills() workflows.RotationInput {
	s.t.Helper()
	s.env.ExecuteWorkflow(workflows.Rotation, workflows.RotationInput{Spec: inventory.SignedSpec{Envelope: signed.Envelope{Body: s.body()}}})
	require.True(s.t, s.env.IsWorkflowCompleted())
	s.allFell()
	var next *workflow.ContinueAsNewError
	require.ErrorAs(s.t, s.env.GetWorkflowError(), &next)
	var in workflows.RotationInput
	require.NoError(s.t, converter.GetDefaultDataConverter().FromPayloads(next.Input, &in))
	require.NotNil(s.t, in.Carried)
	return in
}

// goesOn plays the next run.
func (s *script) goesOn(in workflows.RotationInput) workflows.Report {
	s.t.Helper()
	s.env.ExecuteWorkflow(workflows.Rotation, in)
	require.True(s.t, s.env.IsWorkflowCompleted())
	s.allFell()
	require.NoError(s.t, s.env.GetWorkflowError())
	var report workflows.Report
	require.NoError(s.t, s.env.GetWorkflowResult(&report))
	return report
}

// crowd lets the server suggest to continue as new, and then something happen.
func (s *script) crowd(place string, after time.Duration) {
	s.in(place, after, func() {
		s.env.SetContinueAsNewSuggested(true)
		s.env.SignalWorkflow(workflows.ExtendName, policy.Request{ID: "noise", By: "ann"})
	})
}

// overfill makes the history so long that the run ends whatever it waits for.
func (s *script) overfill(place string, after time.Duration) {
	s.in(place, after, func() {
		s.env.SetCurrentHistoryLength(10_000)
		s.env.SignalWorkflow(workflows.ExtendName, policy.Request{By: "mallory"})
	})
}

func TestAFullRunGoesOnInTheNextOne(t *testing.T) {
	t.Parallel()
	approve := func(after time.Duration) func(*script) { return func(s *script) { s.approveAt(after) } }
	for name, c := range map[string]struct {
		change      func(*inventory.Credential)
		first, next func(*script)
		done, then  []string
		want        workflows.Outcome
	}{
		"while a wave is delivered to: it is delivered to again": {
			first: func(s *script) {
				s.when("DeliverWave", func() {
					s.env.SetContinueAsNewSuggested(true)
					s.env.SignalWorkflow(workflows.ExtendName, policy.Request{ID: "noise", By: "ann"})
				})
				s.answers["DeliverWave"] = func(int) (any, error) { return nil, busy() }
			},
			next: approve(atGate), done: routine[:2], then: routine[1:], want: workflows.Completed,
		},
		"in a wave's soak: it soaks for as long as it would have": {
			first: func(s *script) { s.crowd("canary soaking", inFirstSoak) },
			next: func(s *script) {
				s.in("canary soaking", 10*time.Minute-inFirstSoak-time.Minute, func() {})
				s.in("rest soaking", 10*time.Minute-inFirstSoak+time.Minute, func() {})
				s.approveAt(atGate)
			},
			done: routine[:2], then: routine[2:], want: workflows.Completed,
		},
		"before the key is minted, in an overlong run: it is signed off anew": {
			change: func(c *inventory.Credential) {
				c.Approvals.Signoff = &inventory.Approval{Count: 1, Trust: inventory.TrustAny}
			},
			first: func(s *script) {
				s.in("signoff", time.Minute, func() {
					s.env.SetCurrentHistoryLength(10_000)
					s.ask(policy.Approve, policy.Request{Gate: "signoff", By: "ann"}, nil)
				})
			},
			next: func(s *script) {
				s.in("signoff", time.Minute, func() {})
				s.approveAt(2 * time.Minute)
				s.approveAt(2*time.Minute + atGate)
			},
			then: routine, want: workflows.Completed,
		},
		"in the overlap: it ends when it would have": {
			first: func(s *script) { s.crowd("overlap", inOverlap) },
			next: func(s *script) {
				s.in("overlap", 15*time.Minute, func() {})
				s.approveAt(50 * time.Minute) // 40 are left of it
			},
			done: routine[:4], then: routine[4:], want: workflows.Completed,
		},
		"in the overlap, while somebody turns back": {
			first: func(s *script) {
				s.in("overlap", inOverlap, func() {
					s.env.SetContinueAsNewSuggested(true)
					s.ask(policy.Rollback, policy.Request{By: "ann", Reason: "errors"}, nil)
				})
			},
			next: func(*script) {}, done: routine[:4],
			then: []string{"restore labels", "deliver key-old to [canary checkout/a checkout/b]", "discard", "record rolled-back"}, want: workflows.RolledBack,
		},
		"at the gate, in an overlong run: approvals are given anew": {
			change: func(c *inventory.Credential) { c.Approvals.Revoke.Count = 2 },
			first: func(s *script) {
				s.approveAt(atGate)
				s.overfill("revoke-gate", atGate+time.Minute)
			},
			next: func(s *script) {
				s.in("revoke-gate", time.Minute, func() { assert.Empty(s.t, s.status().Gate.Approvals) })
				s.approveAt(2 * time.Minute)
				s.in("revoke-gate", 3*time.Minute, func() { s.ask(policy.Approve, policy.Request{Gate: "revoke", By: "bob"}, nil) })
			},
			done: routine[:5], then: []string{"gather", "disable with 2 approvals", "destroy with 2 approvals", "record completed"}, want: workflows.Completed,
		},
		"in the disable soak, in an overlong run: the key is enabled until somebody approves anew": {
			first: func(s *script) {
				s.approveAt(atGate)
				s.overfill("disable-soak", inDisableSoak)
			},
			next: approve(time.Minute), done: routine[:6], then: append([]string{"enable"}, routine[4:]...), want: workflows.Completed,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScript(t)
			if c.change != nil {
				c.change(&s.credential)
			}
			c.first(s)
			in := s.fills()
			// The run may end while an activity that it began has yet to say that it was asked.
			require.Eventually(t, func() bool { s.mu.Lock(); defer s.mu.Unlock(); return len(s.asked) >= len(c.done) }, time.Minute, time.Millisecond)
			assert.Equal(t, c.done, s.asked)

			next := newScript(t)
			next.credential = s.credential
			next.env.SetStartTime(s.env.Now())
			next.disabled, next.requests = in.Carried.Disabled, s.requests
			c.next(next)
			report := next.goesOn(in)
			assert.Equal(t, c.want, report.Outcome, report.Message)
			assert.Equal(t, c.then, next.asked)
			assert.Equal(t, in.Carried.Report.StartedAt, report.StartedAt)
			assert.Zero(t, next.called("Inspect"), "it was looked at in the run before")
		})
	}
}

// A suggestion alone does not end a run whose approvals would be lost by that.
func TestWhatWasApprovedKeepsTheRun(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.crowd("revoke-gate", atGate)
	s.crowd("disable-soak", inDisableSoak)
	s.approveAt(atGate + time.Minute)
	assert.Equal(t, workflows.Completed, s.run().Outcome)
	assert.Equal(t, routine, s.asked)
}

// Nor does it where the issuer cannot disable, so that nothing lies between the gate and the end of the key.
func TestWhatWasApprovedKeepsTheRunToTheDestroying(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.plan.CanDisable = false
	s.in("revoke-gate", atGate, func() {
		s.env.SetContinueAsNewSuggested(true)
		s.ask(policy.Approve, policy.Request{Gate: "revoke", By: "ann"}, nil)
	})
	assert.Equal(t, workflows.Completed, s.run().Outcome)
	assert.True(t, s.has("destroy with 1 approvals"), s.asked)
}

// A run that is paused when it is full is paused still in the next one, and nobody is told again.
func TestAPauseGoesOnInTheNextRun(t *testing.T) {
	t.Parallel()
	for place, after := range map[string]time.Duration{"overlap": inOverlap, "canary soaking": inFirstSoak} {
		t.Run(place, func(t *testing.T) {
			t.Parallel()
			pauseGoesOn(t, place, after)
		})
	}
}

func pauseGoesOn(t *testing.T, place string, after time.Duration) {
	t.Helper()
	s := newScript(t)
	s.credential.ErrorBudget = &inventory.ErrorBudget{Ratio: 0.01, OnBreach: inventory.BreachPause}
	bad := false
	s.in(place, after, func() { bad = true })
	s.answers["Watch"] = func(int) (any, error) {
		if bad {
			return policy.Decision{Reason: policy.BudgetBreached, Message: "5 of 100 failed"}, nil
		}
		return nil, nil
	}
	ill := func(int) (any, error) {
		return nil, temporal.NewApplicationErrorWithOptions("not well", activities.TypeNotYet, temporal.ApplicationErrorOptions{Category: temporal.ApplicationErrorCategoryBenign})
	}
	s.answers["AwaitHealth"] = ill
	s.at(after+5*time.Minute, func() {
		assert.Contains(t, s.status().Doing, "Paused: 5 of 100 failed")
		s.env.SetContinueAsNewSuggested(true)
		s.env.SignalWorkflow(workflows.ExtendName, policy.Request{By: "ann"})
	})
	in := s.fills()

	next := newScript(t)
	next.credential = s.credential
	next.env.SetStartTime(s.env.Now())
	well := false
	next.answers["AwaitHealth"] = func(n int) (any, error) {
		if well {
			return nil, nil
		}
		return ill(n)
	}
	next.at(time.Minute, func() { assert.Contains(t, next.status().Doing, "Paused: 5 of 100 failed") })
	next.at(2*time.Minute, func() { well = true })
	next.approveAt(atGate)
	assert.Equal(t, workflows.Completed, next.goesOn(in).Outcome)
	assert.Contains(t, s.told(), "paused")
	assert.NotContains(t, next.told(), "paused")
}

// A hold lasts no longer for its going on in the next run, and is not counted for again.
func TestAHoldGoesOnInTheNextRun(t *testing.T) {
	t.Parallel()
	always := func(*script) bool { return true }
	s := quiet(t, always)
	s.crowd("canary held", inHold)
	in := s.fills()

	next := quiet(t, always)
	next.env.SetStartTime(s.env.Now())
	delete(next.answers, "HadTraffic")
	next.in("canary held", atHoldGate-inHold-2*time.Minute, func() { assert.Nil(t, next.status().Gate) })
	next.in("canary held", atHoldGate-inHold, func() { next.ask(policy.Approve, policy.Request{Gate: inventory.GateHold, By: "ann"}, nil) })
	next.approveAt(atGate + atHoldGate - inHold - 10*time.Minute)
	report := next.goesOn(in)
	assert.Equal(t, workflows.Completed, report.Outcome, report.Message)
	assert.Equal(t, routine[2:], next.asked)
	assert.Equal(t, 1, next.called("HadTraffic"), "of the second wave")
}

// Decisions get their first verdict in the next run, too, and events have IDs of their own.
func TestDecisionsAndEventsGoOnInTheNextRun(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.in("overlap", inOverlap, func() {
		s.ask(policy.Extend, policy.Request{ID: "longer", By: "ann", Extension: minutes(30)}, func(v policy.Verdict) {
			assert.True(t, v.Accepted, v.Message)
		})
	})
	s.crowd("overlap", inOverlap+time.Minute)
	in := s.fills()

	next := newScript(t)
	next.env.SetStartTime(s.env.Now())
	next.in("overlap", time.Minute, func() {
		next.ask(policy.Extend, policy.Request{ID: "longer", By: "ann", Extension: minutes(30)}, func(v policy.Verdict) {
			assert.True(t, v.Accepted, v.Message)
		})
		assert.Equal(t, in.Carried.OverlapEnds, next.status().Until, "it is not extended twice")
	})
	next.requests = s.requests
	next.approveAt(80 * time.Minute)
	report := next.goesOn(in)
	assert.Equal(t, workflows.Completed, report.Outcome, report.Message)
	assert.Len(t, report.Verdicts, 3, "the extension, the noise and the approval")
	var carried struct{ Events []audit.Event }
	text, err := json.Marshal(in.Carried)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &carried))
	require.NotEmpty(t, carried.Events)
	for _, e := range carried.Events {
		assert.NotContains(t, e.ID, fmt.Sprintf("/%d", in.Carried.Numbered+1))
	}
}

// What people could not be told in one run they are told by the next one, as long as it is true.
func TestWhatPeopleDidNotHearTheNextRunTells(t *testing.T) {
	t.Parallel()
	untrusted := func(int) (any, error) {
		return nil, temporal.NewNonRetryableApplicationError("the signer is not trusted", activities.TypeUntrusted, nil)
	}
	breached := func(int) (any, error) {
		return policy.Decision{Reason: policy.BudgetBreached, Message: "5 of 100 failed"}, nil
	}
	for name, x := range map[string]struct {
		what  string
		step  string
		fails func(int) (any, error)
		waits string        // for what mends it
		back  time.Duration // of the receiver, after the next run's begin; it is mended an hour after that
		told  bool
	}{
		"of a pause, while it is so":      {"paused", "Watch", breached, "AwaitHealth", 10 * time.Minute, true},
		"of a pause, not once it is over": {"paused", "Watch", breached, "AwaitHealth", 2 * time.Hour, false},
		"of a hold, while it is so":       {"held", "Promote", untrusted, "AwaitTrust", 10 * time.Minute, true},
		"of a hold, not once it is over":  {"held", "Promote", untrusted, "AwaitTrust", 2 * time.Hour, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			away := func(int) (any, error) { return nil, errors.New("the webhook does not answer") }
			ill := func(int) (any, error) {
				return nil, temporal.NewApplicationErrorWithOptions("not yet", activities.TypeNotYet, temporal.ApplicationErrorOptions{Category: temporal.ApplicationErrorCategoryBenign})
			}
			s := newScript(t)
			s.credential.ErrorBudget = &inventory.ErrorBudget{Ratio: 0.01, OnBreach: inventory.BreachPause}
			s.answers[x.step], s.answers[x.waits], s.answers["Notify"] = x.fails, ill, away
			s.at(30*time.Minute, func() {
				s.env.SetContinueAsNewSuggested(true)
				s.env.SignalWorkflow(workflows.ExtendName, policy.Request{By: "ann"})
			})
			in := s.fills()
			assert.Empty(t, s.told())

			next := newScript(t)
			next.credential = s.credential
			next.env.SetStartTime(s.env.Now())
			mended := s.env.Now().Add(time.Hour)
			next.answers[x.waits] = func(n int) (any, error) {
				if next.env.Now().After(mended) {
					return nil, nil
				}
				return ill(n)
			}
			if x.what == "held" { // what broke a budget is not seen again by the next run, which takes a new baseline
				next.answers[x.step] = func(n int) (any, error) {
					if next.env.Now().After(mended) {
						return nil, nil
					}
					return x.fails(n)
				}
			}
			next.answers["Notify"] = func(n int) (any, error) {
				if next.env.Now().Before(mended.Add(x.back - time.Hour)) {
					return away(n)
				}
				return nil, nil
			}
			next.approveAt(time.Hour + atGate + 2*time.Hour)
			assert.Equal(t, workflows.Completed, next.goesOn(in).Outcome)
			assert.Equal(t, x.told, slices.Contains(next.told(), x.what), next.told())
		})
	}
}
