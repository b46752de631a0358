package workflows_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/workflows"
)

// Whoever turns back before anything was changed has nothing to turn back.
func TestATurnBeforeAnythingIsChangedRefuses(t *testing.T) {
	t.Parallel()
	for name, turn := range map[string]func(*script){
		"a rollback": func(s *script) {
			s.env.SignalWorkflow(workflows.RollbackName, policy.Request{By: "ann", Reason: "errors"})
		},
		"a cancel": func(s *script) { s.env.CancelWorkflow() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScript(t)
			s.answers["Inspect"] = func(int) (any, error) { turn(s); return nil, nil }
			report := s.run()
			assert.Equal(t, workflows.Refused, report.Outcome)
			assert.Contains(t, report.Message, "nothing was changed")
			assert.Empty(t, s.asked)
		})
	}
}

// Nor has somebody who cancels while the record of what people decided is written, right before the key is issued.
func TestATurnWhileTheRecordIsWrittenBeforeTheFirstChangeRefuses(t *testing.T) {
	t.Parallel()
	for many := 44; many < 50; many++ { // decisions, some of which fill the outbox just as the gate closes
		s := newScript(t)
		s.credential.Approvals.Signoff = &inventory.Approval{Count: 1, Trust: inventory.TrustAny}
		s.in("signoff", time.Minute, func() {
			for i := range many {
				s.env.SignalWorkflow(workflows.ApproveName, policy.Request{Gate: "revoke", ID: fmt.Sprint(i), By: "bot"})
			}
		})
		s.in("signoff", 2*time.Minute, func() { s.ask(policy.Approve, policy.Request{Gate: "signoff", By: "ann"}, nil) })
		s.when("Log", func() {
			if s.called("Issue") == 0 {
				s.env.CancelWorkflow()
			}
		})
		s.env.RegisterDelayedCallback(s.env.CancelWorkflow, inOverlap) // for those that the record did not stop
		if report := s.run(); s.called("Issue") == 0 {
			assert.Equal(t, workflows.Refused, report.Outcome, "%d: %s", many, report.Message)
			assert.Empty(t, s.asked)
		}
	}
}

// The news of an incident counts until what the rotation did is recorded; after that its emergency begins by itself.
func TestAnIncidentIsHeardToTheEnd(t *testing.T) {
	t.Parallel()
	for step, handsOver := range map[string]bool{"Destroy": false, "Record": false, "Notify": true} {
		t.Run("while it waits for "+step, func(t *testing.T) {
			t.Parallel()
			s := newScript(t)
			s.approveAt(atGate)
			s.answers[step] = func(int) (any, error) {
				s.compromised()
				return nil, nil
			}
			if handsOver {
				s.handsOver()
				return
			}
			report := s.run()
			assert.Equal(t, workflows.Completed, report.Outcome)
			assert.Contains(t, fmt.Sprint(report.Timeline), "the emergency begins after it")
		})
	}
}

// What keeps everybody from the retiring key does so also after it was not destroyed.
func TestNoWayBackOutlivesARefusedDestroying(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.plan.CanRollBack = false
	s.answers["Destroy"] = func(n int) (any, error) {
		if n == 1 {
			return activities.Destroyed{Decision: no(policy.RetiringStillHeld)}, nil
		}
		return nil, nil
	}
	s.approveAt(atGate)
	s.in("revoke-gate", atGate+40*time.Minute, func() {
		s.ask(policy.Rollback, policy.Request{By: "ann", Reason: "errors"}, func(v policy.Verdict) { assert.Equal(t, policy.NoWayBack, v.Reason) })
	})
	s.approveAt(atGate + 45*time.Minute)
	assert.Equal(t, workflows.Completed, s.run().Outcome)
}

// Where consumers read the store by themselves, promotion is their delivery.
func TestNoWayBackFromAPromotionThatDelivers(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.plan.CanRollBack = false
	for i := range s.plan.Waves {
		s.plan.Waves[i].ByPromotion = true
	}
	s.when("Promote", func() {
		s.ask(policy.Rollback, policy.Request{By: "ann", Reason: "errors"}, func(v policy.Verdict) { assert.Equal(t, policy.NoWayBack, v.Reason) })
	})
	s.approveAt(atGate)
	assert.Equal(t, workflows.Completed, s.run().Outcome)
}

func TestCompromised(t *testing.T) {
	t.Parallel()
	t.Run("it stops in the overlap, changes nothing more, and carries what it did", func(t *testing.T) {
		t.Parallel()
		s := newScript(t)
		s.in("overlap", inOverlap, func() { s.compromised() })
		in := s.handsOver()
		assert.Equal(t, routine[:4], s.asked)
		assert.Equal(t, incoming, in.Carried.Status.Incoming)
	})
	t.Run("nobody turns it back after that", func(t *testing.T) {
		t.Parallel()
		s := newScript(t)
		s.in("revoke-gate", atGate, func() {
			s.compromised()
			s.ask(policy.Rollback, policy.Request{By: "ann", Reason: "errors"}, nil)
			s.ask(policy.Reject, policy.Request{By: "ann", Gate: "revoke", Reason: "errors"}, nil)
		})
		s.handsOver()
		assert.NotContains(t, s.asked, "restore labels")
	})
	t.Run("it stops a rollback before the exposed key is brought back", func(t *testing.T) {
		t.Parallel()
		s := newScript(t)
		s.in("overlap", inOverlap, func() { s.ask(policy.Rollback, policy.Request{By: "ann", Reason: "errors"}, nil); s.compromised() })
		s.handsOver()
		assert.NotContains(t, s.asked, "restore labels")
	})
	for name, signal := range map[string]func(*script){
		"without a declaration": func(s *script) {
			s.env.SignalWorkflow(workflows.CompromisedName, workflows.Compromised{Incident: "incident/leak", Reason: "key on a paste site"})
		},
		"by one that does not hold": func(s *script) {
			s.answers["ProveDeclaration"] = func(int) (any, error) {
				return nil, temporal.NewNonRetryableApplicationError("not signed", activities.TypeDeclaration, nil)
			}
			s.compromised()
		},
	} {
		t.Run("it goes on when it is told so "+name, func(t *testing.T) {
			t.Parallel()
			s := newScript(t)
			s.in("overlap", inOverlap, func() { signal(s) })
			s.approveAt(atGate)
			report := s.run()
			assert.Equal(t, workflows.Completed, report.Outcome, report.Message)
			var status workflows.Status
			value, err := s.env.QueryWorkflow(workflows.StatusName)
			require.NoError(t, err)
			require.NoError(t, value.Get(&status))
			assert.Contains(t, fmt.Sprint(status.Notices), "was not followed")
		})
	}
}

// An end that nobody could look at, since the store denies, owes both keys, and is in the audit record all the same.
func TestAnEndThatCannotBeRecordedOwesBothKeys(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	h := s.handed()
	s.answers["Record"] = func(int) (any, error) {
		return nil, temporal.NewNonRetryableApplicationError("the store denies", activities.TypeDenied, nil)
	}
	s.approveAt(atGate)
	report := s.run()
	assert.Equal(t, workflows.CompletedWithDebt, report.Outcome)
	var owed []string
	for _, d := range report.Debt {
		owed = append(owed, d.Kind+" "+d.About)
	}
	require.Equal(t, []string{"not-looked-at " + retiring.KeyID, "not-looked-at " + incoming.KeyID}, owed)
	assert.Contains(t, report.Message, "could not be looked at: the store denies. Still owed: "+owed[0]+", "+owed[1])
	assert.True(t, h.has(audit.RotationEnded))
}
