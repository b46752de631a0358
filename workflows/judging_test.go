package workflows_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/signed"
	"github.com/keyturn/keyturn/workflows"
)

// What the watch finds is judged before the rotation goes on: a soak that ends while it is looked up whether there is a way back ends
// in no destroying.
func TestABreachAtTheEndOfTheSoakIsNotLost(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.credential.ErrorBudget = &inventory.ErrorBudget{Ratio: 0.01, Window: minutes(5), MinTotal: 1, OnBreach: inventory.BreachRollback}
	s.looks = 45 * time.Second // past the end of the soak
	s.answers["Watch"] = func(int) (any, error) {
		if s.env.Now().Sub(s.began) >= atGate+29*time.Minute+30*time.Second {
			return no(policy.BudgetBreached), nil
		}
		return nil, nil
	}
	s.approveAt(atGate)
	report := s.run()
	assert.Equal(t, 1, s.called("LookBack"))
	assert.Equal(t, workflows.RolledBack, report.Outcome, report.Message)
	assert.False(t, s.has("destroy with 1 approvals"), s.asked)
}

// What is known already waits for no judgement: an incident that comes while it is looked up whether there is a way back takes over at
// once.
func TestATakeoverWaitsForNoJudgement(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.credential.ErrorBudget = &inventory.ErrorBudget{Ratio: 0.01, Window: minutes(5), MinTotal: 1, OnBreach: inventory.BreachRollback}
	s.looks = 25 * time.Minute
	s.answers["Watch"] = func(int) (any, error) {
		if s.env.Now().Sub(s.began) >= inOverlap {
			s.did("breach")
			return no(policy.BudgetBreached), nil
		}
		return nil, nil
	}
	s.in("overlap", inOverlap+2*time.Minute, s.compromised)
	s.handsOver()
	assert.True(t, s.has("breach"))
	assert.Less(t, s.env.Now().Sub(s.began), inOverlap+3*time.Minute)
}

// A cancellation that is not taken ends nothing: signed approvals that come as updates are verified as before.
func TestAnUpdateAfterACancelIsTaken(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.plan.CanRollBack = false
	s.env.OnActivity(act.Prove, mock.Anything, mock.Anything).Return(func(_ context.Context, in activities.ProveInput) ([]policy.Proof, error) {
		return []policy.Proof{{Problem: "it was looked at"}}, nil
	})
	s.in("overlap", inOverlap, s.env.CancelWorkflow)
	looked := false
	s.in("revoke-gate", atGate-time.Minute, func() {
		s.ask(policy.Approve, policy.Request{Signed: &signed.Envelope{Body: []byte(`{}`), Signature: "ann's"}}, func(v policy.Verdict) {
			looked = true
			assert.Contains(t, v.Message, "it was looked at")
		})
	})
	s.approveAt(atGate)
	require.Equal(t, workflows.Completed, s.run().Outcome)
	assert.True(t, looked)
}

// Who goes on with a rotation that had disabled its retiring key enables that before anything else: waits follow in which nobody sees
// who misses it.
func TestADisabledKeyIsEnabledByWhoGoesOn(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.disabled = true
	retiring := *s.plan.Retiring
	s.plan.Resume = &policy.Resume{Rotation: "before", Incoming: incoming, Delivered: true, Moved: true, PromotedAt: s.env.Now(), Retiring: &retiring, Disabled: true}
	s.in("overlap", 5*time.Minute, func() { assert.True(t, s.has("enable"), s.asked) })
	s.at(4*time.Hour, func() { s.env.SignalWorkflow(workflows.ApproveName, policy.Request{By: "ann"}) })
	report := s.run()
	assert.Equal(t, workflows.Completed, report.Outcome, report.Message)
}
