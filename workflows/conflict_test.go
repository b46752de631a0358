package workflows_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/keyturn/keyturn/internal/policy"
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
				against := taken[policy.Reject] + taken[policy.Rollback]
				t.Log(report.Outcome, taken, s.asked)
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

// decision is a request, and what it asks for.
type decision struct {
	action  policy.Action
	request policy.Request
}
