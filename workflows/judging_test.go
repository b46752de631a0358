package workflows_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"

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

// A cancellation that comes while a request is proved, or while it is looked up whether there is a way back, takes nothing from that: who
// asked gets the verdict on what they asked for.
func TestACancelWhileARequestIsJudgedLosesNothing(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		action   policy.Action
		during   string
		forward  bool // by the plan, nothing leads back: the cancellation is not taken
		lookBack policy.Decision
		verdict  policy.VerdictReason
		want     workflows.Outcome
	}{
		"an approval that is proved, and it goes on":         {policy.Approve, "Prove", true, yes, policy.Accepted, workflows.Completed},
		"an approval that is proved, and it turns back":      {policy.Approve, "Prove", false, yes, policy.NotOpen, workflows.RolledBack},
		"an extension that is proved":                        {policy.Extend, "Prove", true, yes, policy.Accepted, workflows.Completed},
		"a rollback that is proved":                          {policy.Rollback, "Prove", false, yes, policy.NoWayBack, workflows.RolledBack}, // it is turning back already
		"a rollback that is looked back for":                 {policy.Rollback, "LookBack", false, yes, policy.Accepted, workflows.RolledBack},
		"a rollback that is looked back for, and none leads": {policy.Rollback, "LookBack", false, no(policy.RetiringKeyNotLive), policy.NoWayBack, workflows.Completed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScript(t)
			s.plan.CanRollBack, s.looks = !c.forward, 20*time.Second
			s.answers["LookBack"] = func(int) (any, error) { return c.lookBack, nil }
			s.env.OnActivity(act.Prove, mock.Anything, mock.Anything).After(40 * time.Second).Return(func(ctx context.Context, _ activities.ProveInput) ([]policy.Proof, error) {
				info := activity.GetInfo(ctx)
				here := policy.Bound{
					Namespace: info.Namespace, Workflow: info.WorkflowExecution.ID, Run: info.WorkflowExecution.RunID,
					Rotation: info.WorkflowExecution.RunID, Retiring: retiring.KeyID, Incoming: incoming.KeyID,
				}
				if c.action == policy.Approve {
					here.Gate, here.Evidence = inventory.GateRevoke, "digest"
				}
				return []policy.Proof{{By: signed.Signer{Name: "ann"}, Request: policy.SignedRequest{
					Action: c.action, Bound: here, Reason: "errors", Extension: minutes(10), Nonce: "n1", SignedAt: s.env.Now(),
				}}}, nil
			})
			place, at := "overlap", inOverlap
			if c.action == policy.Approve {
				place, at = "revoke-gate", atGate
			}
			var verdict policy.Verdict
			s.in(place, at, func() {
				req := policy.Request{Signed: &signed.Envelope{Body: []byte(`{}`), Signature: "ann's"}}
				if c.during == "LookBack" {
					req = policy.Request{By: "ann", Reason: "errors"}
				}
				s.ask(c.action, req, func(v policy.Verdict) { verdict = v })
				assert.Empty(t, verdict)
			})
			s.in(place, at+10*time.Second, s.env.CancelWorkflow)
			if c.want == workflows.Completed && c.action != policy.Approve {
				s.approveAt(atGate + 20*time.Minute)
			}
			report := s.run()
			assert.Equal(t, c.verdict, verdict.Reason, verdict.Message)
			assert.Equal(t, c.want, report.Outcome, report.Message)
		})
	}
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
	s.at(4*time.Hour, func() { s.env.SignalWorkflow(workflows.ApproveName, policy.Request{Gate: "revoke", By: "ann"}) })
	report := s.run()
	assert.Equal(t, workflows.Completed, report.Outcome, report.Message)
}
