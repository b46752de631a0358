package policy_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
)

var here = policy.Bound{
	Namespace: "default", Workflow: "rotation/payments-api", Run: "run-1", Rotation: "first-run", Retiring: "key-old", Incoming: "key-new",
}

func TestJudge(t *testing.T) {
	t.Parallel()
	gate := func() *policy.OpenGate {
		return &policy.OpenGate{
			Gate: inventory.GateRevoke, Run: "run-1", Evidence: "digest-1", OpenedAt: now,
			Needs: inventory.Approval{Count: 2, Trust: inventory.TrustAny, ApprovalExpires: hours(1)},
		}
	}
	at := func(change func(*policy.Standpoint)) policy.Standpoint {
		s := policy.Standpoint{Now: now, Here: here, Gate: gate()}
		if change != nil {
			change(&s)
		}
		return s
	}
	overlap := func(s *policy.Standpoint) { s.Gate, s.InOverlap, s.OverlapEnds = nil, true, now.Add(time.Hour) }
	until := func(rotateBy time.Time) func(*policy.Standpoint) {
		return func(s *policy.Standpoint) { overlap(s); s.RotateBy = rotateBy }
	}
	cases := map[string]struct {
		action policy.Action
		req    policy.Request
		s      policy.Standpoint
		want   policy.VerdictReason
	}{
		"an approval of the open gate is taken":      {policy.Approve, policy.Request{Gate: "revoke", By: "ann"}, at(nil), policy.Accepted},
		"an approval before its gate is not taken":   {policy.Approve, policy.Request{Gate: "revoke", By: "ann"}, at(func(s *policy.Standpoint) { s.Gate = nil }), policy.NotOpen},
		"an approval of another gate is not taken":   {policy.Approve, policy.Request{By: "ann", Gate: "signoff"}, at(nil), policy.NotOpen},
		"an approval for another run is not taken":   {policy.Approve, policy.Request{Gate: "revoke", By: "ann", Run: "run-0"}, at(nil), policy.OtherRun},
		"an approval of other evidence is not taken": {policy.Approve, policy.Request{Gate: "revoke", By: "ann", Evidence: "digest-0"}, at(nil), policy.OtherEvidence},
		"the same person does not count twice": {policy.Approve, policy.Request{Gate: "revoke", By: "ann"},
			at(func(s *policy.Standpoint) { s.Gate.Approvals = []policy.Verdict{approval("ann", now)} }), policy.AlreadyCounted},
		"the same person may approve again once the first expired": {policy.Approve, policy.Request{Gate: "revoke", By: "ann"},
			at(func(s *policy.Standpoint) {
				s.Gate.Approvals = []policy.Verdict{approval("ann", now.Add(-2*time.Hour))}
			}), policy.Accepted},
		"a gate that wants signatures takes none without": {policy.Approve, policy.Request{Gate: "revoke", By: "ann"},
			at(func(s *policy.Standpoint) { s.Gate.Needs.Trust = inventory.TrustSigned }), policy.SignatureNeeded},
		"a decision that says not by whom counts for nobody":    {policy.Approve, policy.Request{Gate: "revoke"}, at(nil), policy.Unnamed},
		"nor does one that says not on what":                    {policy.Reject, policy.Request{By: "ann", Reason: "r"}, at(nil), policy.Unnamed},
		"an unnamed rollback turns nothing back":                {policy.Rollback, policy.Request{Reason: "errors"}, at(nil), policy.Unnamed},
		"an extension to the day of the next rotation is taken": {policy.Extend, policy.Request{By: "ann", Extension: hours(2)}, at(until(now.Add(3 * time.Hour))), policy.Accepted},
		"one past it is not":                                    {policy.Extend, policy.Request{By: "ann", Extension: hours(2)}, at(until(now.Add(2 * time.Hour))), policy.BadExtension},
		"a rejection with a reason is taken":                    {policy.Reject, policy.Request{Gate: "revoke", By: "ann", Reason: "batch job at night"}, at(nil), policy.Accepted},
		"a rejection without a reason is not taken":             {policy.Reject, policy.Request{Gate: "revoke", By: "ann"}, at(nil), policy.ReasonMissing},
		"an extension in the overlap is taken":                  {policy.Extend, policy.Request{By: "ann", Extension: hours(2)}, at(overlap), policy.Accepted},
		"an extension outside of it is not taken":               {policy.Extend, policy.Request{By: "ann", Extension: hours(2)}, at(nil), policy.WrongPhase},
		"an extension by nothing is not taken":                  {policy.Extend, policy.Request{By: "ann"}, at(overlap), policy.BadExtension},
		"an extension past the retiring key's expiry is not taken": {policy.Extend, policy.Request{By: "ann", Extension: hours(2)},
			at(func(s *policy.Standpoint) {
				overlap(s)
				s.LatestEnd = func(time.Time) time.Time { return now.Add(2 * time.Hour) }
			}), policy.BadExtension},
		"a rollback with a reason is taken":        {policy.Rollback, policy.Request{By: "ann", Reason: "errors"}, at(overlap), policy.Accepted},
		"a rollback without a reason is not taken": {policy.Rollback, policy.Request{By: "ann"}, at(overlap), policy.ReasonMissing},
		"a rollback of a disabled key needs a signature where the gate does": {policy.Rollback, policy.Request{By: "ann", Reason: "errors"},
			at(func(s *policy.Standpoint) {
				overlap(s)
				s.Disabled, s.Revoke = true, &inventory.Approval{Count: 1, Trust: inventory.TrustSigned, From: []string{"owners"}}
			}), policy.SignatureNeeded},
		"a rollback of a disabled key needs none where the gate needs none": {policy.Rollback, policy.Request{By: "ann", Reason: "errors"},
			at(func(s *policy.Standpoint) {
				overlap(s)
				s.Disabled, s.Revoke = true, &inventory.Approval{Count: 1, Trust: inventory.TrustAny}
			}), policy.Accepted},
		"a rollback past the way back is not taken": {policy.Rollback, policy.Request{By: "ann", Reason: "errors"},
			at(func(s *policy.Standpoint) { s.NoWayBack = "the key is destroyed" }), policy.NoWayBack},
		"a text without end is not taken": {policy.Approve, policy.Request{By: strings.Repeat("x", policy.MaxText+1)}, at(nil), policy.TextTooLong},
		"an unknown action is not taken":  {"resume", policy.Request{}, at(nil), policy.UnknownAction},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := policy.Judge(c.action, c.req, nil, c.s)
			assert.Equal(t, c.want, v.Reason, v.Message)
			assert.Equal(t, c.want == policy.Accepted, v.Accepted)
			assert.NotEmpty(t, v.Message)
		})
	}
}

func TestGatePasses(t *testing.T) {
	t.Parallel()
	g := policy.OpenGate{Needs: inventory.Approval{Count: 2, Trust: inventory.TrustAny, ApprovalExpires: hours(1)}}
	g.Approvals = []policy.Verdict{approval("ann", now), approval("ann", now)}
	assert.False(t, g.Passed(now), "one person is not two")
	g.Approvals = append(g.Approvals, approval("bob", now))
	assert.True(t, g.Passed(now))
	assert.False(t, g.Passed(now.Add(time.Hour)), "approvals expire")
	rejected := approval("cat", now)
	rejected.Accepted = false
	g.Approvals = []policy.Verdict{approval("ann", now), rejected}
	assert.False(t, g.Passed(now), "what was not taken does not count")
}
