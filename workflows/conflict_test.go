package workflows_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/mock"
	"go.temporal.io/sdk/activity"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/signed"
	"github.com/keyturn/keyturn/workflows"
)

// Decisions that contradict each other and come at once, in either order and by either way: each is answered, and what becomes of the key is
// what the one says that was taken, never a part of both.
func TestDecisionsThatContradictEachOther(t *testing.T) {
	t.Parallel()
	approve := decision{policy.Approve, policy.Request{Gate: "revoke", ID: "yes", By: "ann"}}
	reject := decision{policy.Reject, policy.Request{Gate: "revoke", ID: "no", By: "bob", Reason: "not now"}}
	back := decision{policy.Rollback, policy.Request{ID: "back", By: "bob", Reason: "not now"}}
	for name, x := range map[string]struct {
		count int
		send  []decision
	}{
		"an approval, then a rejection":                 {1, []decision{approve, reject}},
		"a rejection, then an approval":                 {1, []decision{reject, approve}},
		"an approval, then a rollback":                  {1, []decision{approve, back}},
		"a rollback, then an approval":                  {1, []decision{back, approve}},
		"a rejection, then a rollback":                  {1, []decision{reject, back}},
		"one approval of two, then a rejection":         {2, []decision{approve, reject}},
		"a rejection, then one approval of two":         {2, []decision{reject, approve}},
		"an approval between a rejection and the same":  {1, []decision{reject, approve, reject}},
		"a rejection between an approval and the same":  {1, []decision{approve, reject, approve}},
		"who approves and then rejects, under one name": {1, []decision{approve, {policy.Reject, policy.Request{Gate: "revoke", ID: "no", By: "ann", Reason: "a mistake"}}}},
	} {
		for way, send := range map[string]func(s *script, d decision){
			"by signal": func(s *script, d decision) { s.env.SignalWorkflow(string(d.action), d.request) },
			"by update": func(s *script, d decision) { s.ask(d.action, d.request, nil) },
		} {
			t.Run(name+", "+way, func(t *testing.T) {
				t.Parallel()
				s := newScript(t)
				s.credential.Approvals.Revoke.Count = x.count
				s.in("revoke-gate", atGate, func() {
					for _, d := range x.send {
						send(s, d)
					}
				})
				report := s.run()
				taken := map[policy.Action]int{}
				ids := map[string]int{}
				for _, v := range report.Verdicts {
					ids[v.ID]++
					if v.Accepted {
						taken[v.Action]++
					}
				}
				for id, n := range ids {
					assert.Equal(t, 1, n, "%s is counted once", id)
				}
				for _, d := range x.send {
					if way == "by signal" { // an update may be answered at the door
						assert.Contains(t, ids, d.request.ID)
					}
				}
				against := taken[policy.Reject] + taken[policy.Rollback]
				if report.Outcome == workflows.Completed {
					assert.Zero(t, against, "what was taken against it was carried out")
					assert.True(t, s.has("disable with 1 approvals"), s.asked)
					return
				}
				assert.Equal(t, workflows.RolledBack, report.Outcome, report.Message)
				assert.Positive(t, against)
				assert.False(t, s.asks(func(done string) bool { return done == "promote again" }))
			})
		}
	}
}

// A rejection and an approval whose signatures are proved together are judged in one task: who comes second hears what the first one made of it.
func TestWhoApprovesWhatIsJustRejectedIsToldSo(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.credential.Approvals.Revoke.Trust, s.credential.Approvals.Revoke.From = inventory.TrustSigned, []string{"owners"}
	proves := 0
	s.env.OnActivity(act.Prove, mock.Anything, mock.Anything).Return(func(ctx context.Context, in activities.ProveInput) (proofs []policy.Proof, err error) {
		info := activity.GetInfo(ctx)
		s.mu.Lock()
		defer s.mu.Unlock()
		proves++
		for _, d := range in.Decisions {
			p := policy.Proof{By: signed.Signer{Name: d.Signature}, Groups: []string{"owners"}, Request: policy.SignedRequest{
				Action: policy.Approve, Nonce: d.Signature, SignedAt: s.env.Now(),
				Bound: policy.Bound{
					Namespace: info.Namespace, Workflow: info.WorkflowExecution.ID, Run: info.WorkflowExecution.RunID, Gate: inventory.GateRevoke, Evidence: "digest",
					Rotation: info.WorkflowExecution.RunID, Retiring: retiring.KeyID, Incoming: incoming.KeyID,
				},
			}}
			if d.Signature == "bob" {
				p.Request.Action, p.Request.Reason = policy.Reject, "not now"
			}
			proofs = append(proofs, p)
		}
		return proofs, nil
	})
	by := func(who string) policy.Request {
		return policy.Request{Signed: &signed.Envelope{Body: []byte(`{}`), Signature: who}}
	}
	answers := map[string]policy.Verdict{}
	hears := func(who string) func(policy.Verdict) {
		return func(v policy.Verdict) { answers[who] = v }
	}
	s.in("revoke-gate", atGate, func() {
		s.ask(policy.Approve, by("carl"), hears("carl")) // is proved while the others arrive; of those the last is judged first
		s.ask(policy.Approve, by("ann"), hears("ann"))
		s.ask(policy.Reject, by("bob"), hears("bob"))
	})
	s.credential.Approvals.Revoke.Count = 2
	report := s.run()
	assert.Equal(t, workflows.RolledBack, report.Outcome, report.Message)
	assert.Equal(t, 2, proves, "what came meanwhile is proved together")
	assert.True(t, answers["carl"].Accepted, answers["carl"].Message)
	assert.True(t, answers["bob"].Accepted, answers["bob"].Message)
	assert.Equal(t, policy.NotOpen, answers["ann"].Reason, answers["ann"].Message)
	assert.Len(t, answers, 3)
}

// decision is a request, and what it asks for.
type decision struct {
	action  policy.Action
	request policy.Request
}
