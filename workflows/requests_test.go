package workflows_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/signed"
	"github.com/keyturn/keyturn/workflows"
)

func TestRequests(t *testing.T) {
	t.Parallel()
	t.Run("an approval before its gate is not taken, and is not kept for it", func(t *testing.T) {
		t.Parallel()
		s := newScript(t)
		s.in("overlap", inOverlap, func() {
			s.ask(policy.Approve, policy.Request{Gate: "revoke", By: "ann"}, func(v policy.Verdict) { assert.Equal(t, policy.NotOpen, v.Reason) })
		})
		s.in("revoke-gate", atGate, func() { assert.Empty(t, s.status().Gate.Approvals) })
		s.approveAt(atGate + time.Minute)
		assert.Equal(t, workflows.Completed, s.run().Outcome)
	})
	t.Run("a signal approves as an update does", func(t *testing.T) {
		t.Parallel()
		s := newScript(t)
		s.in("revoke-gate", atGate, func() { s.env.SignalWorkflow(workflows.ApproveName, policy.Request{Gate: "revoke", By: "ann"}) })
		report := s.run()
		assert.Equal(t, workflows.Completed, report.Outcome)
		assert.Equal(t, routine, s.asked)
		require.Len(t, report.Verdicts, 1)
		assert.True(t, report.Verdicts[0].Accepted)
	})
	t.Run("a signal that cannot be read is reported, not lost", func(t *testing.T) {
		t.Parallel()
		s := newScript(t)
		s.in("overlap", inOverlap, func() { s.env.SignalWorkflow(workflows.ApproveName, 42) })
		s.in("revoke-gate", atGate, func() {
			assert.Contains(t, fmt.Sprint(s.status().Notices), `a signal "approve" could not be read: it is no JSON object; write it as {"gate":"revoke","by":"you"}`)
		})
		s.approveAt(atGate)
		assert.Equal(t, workflows.Completed, s.run().Outcome)
	})
	t.Run("a signal that is misspelt, or says not who decides on what, counts for nobody", func(t *testing.T) {
		t.Parallel()
		s := newScript(t)
		s.in("revoke-gate", atGate, func() {
			for _, vague := range []any{map[string]string{"gat": "revoke", "name": "ann"}, map[string]string{}, map[string]string{"by": "ann"}, map[string]string{"gate": "revoke"}} {
				s.env.SignalWorkflow(workflows.ApproveName, vague)
			}
			s.ask(policy.Approve, policy.Request{Gate: "revoke"}, func(v policy.Verdict) { assert.Equal(t, policy.Unnamed, v.Reason) })
			s.ask(policy.Approve, policy.Request{By: "ann"}, func(v policy.Verdict) { assert.Equal(t, policy.Unnamed, v.Reason) })
		})
		s.in("revoke-gate", atGate+time.Minute, func() {
			assert.Empty(t, s.status().Gate.Approvals)
			notices := fmt.Sprint(s.status().Notices)
			assert.Contains(t, notices, `unknown field "gat"; write it as {"gate":"revoke","by":"you"}`)
			assert.Contains(t, notices, `approve by signal was not taken: say who decides, as {"gate":"revoke","by":"you"}, or with --as`)
			assert.Contains(t, notices, `say which gate it is for`)
		})
		s.approveAt(atGate + 2*time.Minute)
		assert.Equal(t, workflows.Completed, s.run().Outcome)
	})
	t.Run("a signal that is sent again is answered again", func(t *testing.T) {
		t.Parallel()
		s := newScript(t)
		malformed := func() {
			s.env.SignalWorkflow(workflows.ApproveName, map[string]int{strings.Repeat("x", 2000): 1})
			s.env.SignalWorkflow(workflows.ApproveName, 42)
		}
		var first string
		answered := func() (last string, count int) {
			for _, n := range s.status().Notices {
				if last = n; strings.Contains(n, "could not be read") {
					count++
				}
			}
			return last, count
		}
		s.in("revoke-gate", atGate, malformed)
		s.in("revoke-gate", atGate+time.Minute, func() {
			first, _ = answered()
			assert.Contains(t, first, `a signal "approve" could not be read`)
			s.env.SignalWorkflow(workflows.ApproveName, policy.Request{Gate: "signoff", By: "ann"})
			malformed()
		})
		s.in("revoke-gate", atGate+2*time.Minute, func() {
			again, count := answered()
			assert.Contains(t, again, `a signal "approve" could not be read`)
			assert.NotEqual(t, first, again, "by when it came")
			assert.Equal(t, 2, count, "each once, however long")
		})
		s.approveAt(atGate + 3*time.Minute)
		assert.Equal(t, workflows.Completed, s.run().Outcome)
	})
	t.Run("a signal of a name that nobody takes is told of", func(t *testing.T) {
		t.Parallel()
		s := newScript(t)
		s.in("overlap", inOverlap, func() { s.env.SignalWorkflow("Approve", policy.Request{Gate: "revoke", By: "ann"}) })
		s.in("revoke-gate", atGate, func() {
			assert.Contains(t, fmt.Sprint(s.status().Notices), `a signal "Approve" was sent, which no rotation takes`)
		})
		s.approveAt(atGate)
		assert.Equal(t, workflows.Completed, s.run().Outcome)
	})
	t.Run("no overlap is extended past the day on which the incoming key is to be rotated", func(t *testing.T) {
		t.Parallel()
		s := newScript(t)
		s.answers["Issue"] = func(int) (any, error) {
			return activities.Issued{Key: incoming, RotateBy: s.env.Now().Add(3 * time.Hour), Decision: policy.Decision{OK: true}}, nil
		}
		s.in("overlap", inOverlap, func() {
			s.ask(policy.Extend, policy.Request{By: "ann", Extension: minutes(30)}, func(v policy.Verdict) { assert.True(t, v.Accepted, v.Message) })
			s.ask(policy.Extend, policy.Request{By: "ann", Extension: minutes(600)}, func(v policy.Verdict) {
				assert.Equal(t, policy.BadExtension, v.Reason)
				assert.Contains(t, v.Message, "the incoming key is itself to be rotated by")
			})
		})
		s.approveAt(atGate + 30*time.Minute)
		assert.Equal(t, workflows.Completed, s.run().Outcome)
	})
	t.Run("a repeated decision gets its first verdict and counts once", func(t *testing.T) {
		t.Parallel()
		s := newScript(t)
		s.credential.Approvals.Revoke.Count = 2
		var first policy.Verdict
		s.in("revoke-gate", atGate, func() {
			s.ask(policy.Approve, policy.Request{Gate: "revoke", ID: "d1", By: "ann"}, func(v policy.Verdict) { first = v })
		})
		s.in("revoke-gate", atGate+time.Minute, func() {
			s.ask(policy.Approve, policy.Request{Gate: "revoke", ID: "d1", By: "bob"}, func(v policy.Verdict) { assert.Equal(t, first, v) })
		})
		s.in("revoke-gate", atGate+2*time.Minute, func() { assert.Len(t, s.status().Gate.Approvals, 1) })
		s.in("revoke-gate", atGate+3*time.Minute, func() { s.ask(policy.Approve, policy.Request{Gate: "revoke", ID: "d2", By: "bob"}, nil) })
		assert.Equal(t, workflows.Completed, s.run().Outcome)
	})
	t.Run("an extension lengthens the overlap", func(t *testing.T) {
		t.Parallel()
		s := newScript(t)
		s.in("overlap", inOverlap, func() {
			s.ask(policy.Extend, policy.Request{By: "ann", Extension: minutes(120)}, func(v policy.Verdict) { assert.True(t, v.Accepted, v.Message) })
		})
		s.in("overlap", 190*time.Minute, func() {})
		s.approveAt(210 * time.Minute)
		assert.Equal(t, workflows.Completed, s.run().Outcome)
	})
	t.Run("an overlap never passes the retiring key's expiry", func(t *testing.T) {
		t.Parallel()
		s := newScript(t)
		s.plan.RetiringExpires = s.env.Now().Add(30 * time.Minute)
		s.in("revoke-gate", inOverlap, func() {})
		s.approveAt(inOverlap + time.Minute)
		assert.Equal(t, workflows.Completed, s.run().Outcome)
	})
	t.Run("nor that of the incoming one, and ends before it", func(t *testing.T) {
		t.Parallel()
		s := newScript(t)
		ends := s.env.Now().Add(inOverlap + time.Minute + s.credential.WaveTimeout.Std())
		s.answers["Issue"] = func(int) (any, error) {
			return activities.Issued{Key: incoming, Ends: ends, Decision: policy.Decision{OK: true}}, nil
		}
		s.in("overlap", inOverlap, func() {
			s.ask(policy.Extend, policy.Request{By: "ann", Extension: minutes(1)}, func(v policy.Verdict) { assert.Equal(t, policy.BadExtension, v.Reason) })
		})
		s.in("revoke-gate", inOverlap+2*time.Minute, func() {})
		s.approveAt(inOverlap + 3*time.Minute)
		assert.Equal(t, workflows.Completed, s.run().Outcome)
	})
	t.Run("there is no way back to a key that ends", func(t *testing.T) {
		t.Parallel()
		s := newScript(t)
		s.plan.RetiringExpires = s.env.Now().Add(30 * time.Hour)
		s.plan.WayBackEnds = s.env.Now().Add(inOverlap)
		s.in("overlap", inOverlap+time.Minute, func() {
			s.ask(policy.Rollback, policy.Request{By: "ann", Reason: "late"}, func(v policy.Verdict) {
				assert.Equal(t, policy.NoWayBack, v.Reason)
				assert.Contains(t, v.Message, "the retiring key ends by itself")
			})
		})
		s.approveAt(atGate)
		assert.Equal(t, workflows.Completed, s.run().Outcome)
	})
	t.Run("requests that arrive with the end are answered", func(t *testing.T) {
		t.Parallel()
		s := newScript(t)
		s.approveAt(atGate)
		answered := 0
		s.when("Record", func() {
			for i := range 5 {
				s.ask(policy.Rollback, policy.Request{By: "ann", ID: fmt.Sprint(i), Reason: "late"}, func(v policy.Verdict) {
					answered++
					assert.Equal(t, policy.NoWayBack, v.Reason)
				})
				s.env.SignalWorkflow(workflows.RollbackName, policy.Request{By: "ann", ID: fmt.Sprint("s", i), Reason: "late"})
			}
		})
		report := s.run()
		assert.Equal(t, workflows.Completed, report.Outcome)
		assert.Equal(t, 5, answered)
		assert.Len(t, report.Verdicts, 6, "one approval and five signals")
		assert.Equal(t, 5, s.atTheDoor, "the updates are in no history")
	})
	t.Run("what has no place now is refused at the door", func(t *testing.T) {
		t.Parallel()
		s := newScript(t)
		reasons := map[string]policy.VerdictReason{}
		refused := func(what string, action policy.Action, req policy.Request) {
			s.ask(action, req, func(v policy.Verdict) { reasons[what] = v.Reason })
		}
		s.in("canary soaking", inFirstSoak, func() {
			refused("no gate is open", policy.Approve, policy.Request{Gate: "revoke", By: "ann"})
			refused("there is no overlap yet", policy.Extend, policy.Request{By: "ann", Extension: minutes(1)})
			refused("no reason", policy.Rollback, policy.Request{By: "ann"})
			refused("a text is too long", policy.Rollback, policy.Request{By: "ann", Reason: strings.Repeat("x", 1001)})
			refused("signed, and no gate is open", policy.Approve, policy.Request{Signed: &signed.Envelope{Body: json.RawMessage(`{"nonce":"n"}`)}})
		})
		s.in("overlap", inOverlap, func() { refused("by nothing", policy.Extend, policy.Request{By: "ann"}) })
		s.in("revoke-gate", atGate, func() {
			refused("for another run", policy.Approve, policy.Request{Gate: "revoke", By: "ann", Run: "another"}) // only the content says so
		})
		s.approveAt(atGate + time.Minute)
		report := s.run()
		assert.Equal(t, workflows.Completed, report.Outcome)
		assert.Equal(t, map[string]policy.VerdictReason{
			"no gate is open": policy.NotOpen, "there is no overlap yet": policy.WrongPhase, "no reason": policy.ReasonMissing,
			"a text is too long": policy.TextTooLong, "signed, and no gate is open": policy.NotOpen, "by nothing": policy.BadExtension,
			"for another run": policy.OtherRun,
		}, reasons)
		assert.Equal(t, 6, s.atTheDoor)
		assert.Len(t, report.Verdicts, 2, "what was refused for its content, and the approval")
	})
	t.Run("a decision that has its verdict gets it also when it has no place any more", func(t *testing.T) {
		t.Parallel()
		s := newScript(t)
		longer := policy.Request{ID: "longer", By: "ann", Extension: minutes(10)}
		s.in("overlap", inOverlap, func() { s.ask(policy.Extend, longer, func(v policy.Verdict) { assert.True(t, v.Accepted) }) })
		s.in("revoke-gate", atGate+10*time.Minute, func() { s.ask(policy.Extend, longer, func(v policy.Verdict) { assert.True(t, v.Accepted, v.Message) }) })
		s.approveAt(atGate + 11*time.Minute)
		assert.Equal(t, workflows.Completed, s.run().Outcome)
		assert.Zero(t, s.atTheDoor)
	})
	t.Run("an extension counts once, also when it is sent again after hundreds of refusals", func(t *testing.T) {
		t.Parallel()
		s := newScript(t)
		longer := policy.Request{ID: "longer", By: "ann", Extension: minutes(30)}
		s.in("overlap", inOverlap, func() {
			for i := range 300 {
				s.env.SignalWorkflow(workflows.ApproveName, policy.Request{Gate: "revoke", ID: fmt.Sprint(i), By: "bot"})
			}
		})
		var first time.Time
		s.in("overlap", inOverlap+time.Minute, func() { s.ask(policy.Extend, longer, nil) })
		s.in("overlap", inOverlap+2*time.Minute, func() { first = s.status().Until; s.ask(policy.Extend, longer, nil) })
		s.in("overlap", inOverlap+3*time.Minute, func() { assert.Equal(t, first, s.status().Until) })
		s.approveAt(atGate + 30*time.Minute)
		assert.LessOrEqual(t, len(s.run().Verdicts), 200)
	})
	t.Run("a gate that has what it needs takes no more", func(t *testing.T) {
		t.Parallel()
		s := newScript(t)
		s.in("revoke-gate", atGate, func() {
			for i := range 50 {
				s.env.SignalWorkflow(workflows.ApproveName, policy.Request{Gate: "revoke", ID: fmt.Sprint(i), By: fmt.Sprint("ann", i)})
			}
		})
		assert.Equal(t, workflows.Completed, s.run().Outcome)
		assert.True(t, s.has("disable with 1 approvals"), s.asked)
	})
	t.Run("a cancel that is not taken leaves a notice", func(t *testing.T) {
		t.Parallel()
		s := newScript(t)
		s.plan.CanRollBack = false
		s.in("overlap", inOverlap, s.env.CancelWorkflow)
		s.in("overlap", inOverlap+time.Minute, func() {
			assert.Contains(t, fmt.Sprint(s.status().Notices), "the run was cancelled, which was not taken: the rotation cannot be turned back")
		})
		s.approveAt(atGate)
		assert.Equal(t, workflows.Completed, s.run().Outcome)
	})
}

// Who asks again and again without a signature fills no run: what is refused for its content is so on record a hundred times for
// each opening of a gate, and after that at the door, while others are heard.
func TestAFloodOfRefusedDecisionsIsBounded(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	reasons := map[policy.VerdictReason]int{}
	s.in("revoke-gate", atGate-time.Minute, func() {
		for range 150 {
			s.ask(policy.Approve, policy.Request{Gate: "revoke", By: "bot", Run: "another"}, func(v policy.Verdict) { reasons[v.Reason]++ })
		}
	})
	s.in("revoke-gate", atGate-30*time.Second, func() {
		s.ask(policy.Approve, policy.Request{Gate: "signoff", By: "bot"}, func(v policy.Verdict) { reasons[v.Reason]++ })
	})
	s.approveAt(atGate)
	report := s.run()
	require.Equal(t, workflows.Completed, report.Outcome, "the gate still opens for others")
	assert.Equal(t, map[policy.VerdictReason]int{policy.OtherRun: 150, policy.NotOpen: 1}, reasons)
	assert.Equal(t, 51, s.atTheDoor)
	assert.Len(t, report.Verdicts, 101)
}

// Signed decisions are verified together, and no more than a hundred for each opening of a gate: a flood
// costs neither history nor the gate.
func TestAFloodOfSignedDecisionsIsBounded(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	var asked, calls int
	s.env.OnActivity(act.Prove, mock.Anything, mock.Anything).Return(func(_ context.Context, in activities.ProveInput) ([]policy.Proof, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		calls++
		asked += len(in.Decisions)
		proofs := make([]policy.Proof, len(in.Decisions))
		for i := range proofs {
			proofs[i].Problem = "the signer is not trusted"
		}
		return proofs, nil
	})
	flood := signed.Envelope{Body: json.RawMessage(`{}`), Signature: "mallory's"}
	s.in("revoke-gate", atGate-time.Minute, func() {
		for range 150 {
			s.ask(policy.Approve, policy.Request{Signed: &flood}, func(v policy.Verdict) { assert.False(t, v.Accepted) })
		}
	})
	s.approveAt(atGate)
	require.Equal(t, workflows.Completed, s.run().Outcome, "the gate still opens for others")
	s.mu.Lock()
	defer s.mu.Unlock()
	assert.Equal(t, 100, asked)
	assert.LessOrEqual(t, calls, 5)
}
