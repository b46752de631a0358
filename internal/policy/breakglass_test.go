package policy_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
)

// glass is an approval by break-glass of somebody who may, and who is in none of the gate's groups.
func glass(change func(*policy.Proof)) *policy.Proof {
	return proof(func(p *policy.Proof) {
		p.Groups, p.MayBreakGlass = []string{"security-oncall"}, true
		p.Request.BreakGlass, p.Request.Reason = true, "bob is away"
		if change != nil {
			change(p)
		}
	})
}

func TestWhoMayPassAGateAlone(t *testing.T) {
	t.Parallel()
	waiting := func() policy.Standpoint {
		return policy.Standpoint{Now: now.Add(time.Minute), Here: here, Gate: &policy.OpenGate{
			Gate: inventory.GateRevoke, Run: "run-1", Evidence: "digest-1", OpenedAt: now,
			Needs: inventory.Approval{Count: 3, Trust: inventory.TrustSigned, From: []string{"owners"}, ApprovalExpires: hours(1)},
		}}
	}
	for name, c := range map[string]struct {
		proof  *policy.Proof
		change func(*policy.Standpoint)
		want   policy.VerdictReason
	}{
		"one whom the worker configuration names":             {glass(nil), nil, policy.Accepted},
		"not one of the gate's group whom it does not name":   {glass(func(p *policy.Proof) { p.Groups, p.MayBreakGlass = []string{"owners"}, false }), nil, policy.NoGlassToBreak},
		"not without a reason":                                {glass(func(p *policy.Proof) { p.Request.Reason = "" }), nil, policy.ReasonMissing},
		"not on other evidence":                               {glass(func(p *policy.Proof) { p.Request.Evidence = "digest-0" }), nil, policy.OtherEvidence},
		"not in another run":                                  {glass(func(p *policy.Proof) { p.Request.Run = "run-0" }), nil, policy.OtherRun},
		"not an hour later":                                   {glass(nil), func(s *policy.Standpoint) { s.Now = now.Add(2 * time.Hour) }, policy.TooLate},
		"not to reject":                                       {glass(func(p *policy.Proof) { p.Request.Action = policy.Reject }), nil, policy.OtherAction},
		"not where any approval counts":                       {glass(nil), func(s *policy.Standpoint) { s.Gate.Needs.Trust = inventory.TrustAny }, policy.NoGlassToBreak},
		"not the gate hold, which guards no effect":           {glass(func(p *policy.Proof) { p.Request.Gate = inventory.GateHold }), func(s *policy.Standpoint) { s.Gate.Gate = inventory.GateHold }, policy.NoGlassToBreak},
		"one who approved before, and whom nobody joins":      {glass(nil), func(s *policy.Standpoint) { s.Gate.Approvals = []policy.Verdict{verified("ann", "m")} }, policy.Accepted},
		"not who signed the spec, where four eyes are wanted": {glass(nil), func(s *policy.Standpoint) { s.Gate.Needs.FourEyes, s.Requester.Name = true, "ann" }, policy.ByRequester},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := waiting()
			if c.change != nil {
				c.change(&s)
			}
			v := policy.Judge(policy.Approve, policy.Request{}, c.proof, s)
			assert.Equal(t, c.want, v.Reason, v.Message)
			assert.Equal(t, c.want == policy.Accepted, v.BreakGlass)
			s.Gate.Approvals = append(s.Gate.Approvals, v)
			assert.Equal(t, c.want == policy.Accepted, s.Gate.Passed(s.Now))
			if v.BreakGlass {
				assert.Contains(t, v.Person(), "BREAK-GLASS")
				assert.Contains(t, v.Message, "keyturn review rotation/")
				assert.Contains(t, s.Gate.Progress(s.Now), "break-glass of ann")
			}
		})
	}
	v := policy.Judge(policy.Approve, policy.Request{Gate: inventory.GateRevoke, By: "ann", Reason: "bob is away", BreakGlass: true}, nil, waiting())
	assert.Equal(t, policy.NoGlassToBreak, v.Reason, "words prove nothing: %s", v.Message)
}

// What passed with the approvals that were asked for is owed no review, though one of them would have passed it alone.
func TestWhatBrokeGlass(t *testing.T) {
	t.Parallel()
	needs := inventory.Approval{Count: 2, Trust: inventory.TrustSigned, From: []string{"owners"}, ApprovalExpires: hours(1)}
	by := func(who string, alone bool) policy.Verdict {
		return policy.Verdict{ID: who, Action: policy.Approve, Accepted: true, Verified: true, Groups: []string{"owners"}, By: who, BreakGlass: alone, At: now}
	}
	for name, c := range map[string]struct {
		approvals []policy.Verdict
		at        time.Time
		want      string
	}{
		"nothing":                                 {nil, now, ""},
		"one alone":                               {[]policy.Verdict{by("ann", true)}, now, "ann"},
		"one alone beside one of two":             {[]policy.Verdict{by("bob", false), by("ann", true)}, now, "ann"},
		"one who approved before and breaks it":   {[]policy.Verdict{by("ann", false), by("ann", true)}, now, "ann"},
		"all that were asked for":                 {[]policy.Verdict{by("bob", false), by("ann", true), by("eve", false)}, now, ""},
		"one of two, who approved twice, and one": {[]policy.Verdict{by("bob", false), by("bob", false), by("ann", true)}, now, "ann"},
		"one that has expired":                    {[]policy.Verdict{by("ann", true)}, now.Add(2 * time.Hour), ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v, broken := policy.BrokeGlass(c.approvals, c.at, needs)
			assert.Equal(t, c.want != "", broken)
			assert.Equal(t, c.want, v.By)
		})
	}
}

// A day after something was done on one approval alone, no routine rotation begins until somebody else has looked at it.
func TestAReviewThatIsOverdueHoldsRoutineRotations(t *testing.T) {
	t.Parallel()
	at := func(before time.Duration) key.Metadata {
		return key.Metadata{BrokenGlass: []key.BrokenGlass{{ID: "n", Gate: "revoke", By: "ann", Reason: "bob is away", At: now.Add(-before)}}}
	}
	assert.Empty(t, policy.ReviewsOverdue(at(23*time.Hour), now))
	assert.Len(t, policy.ReviewsOverdue(at(24*time.Hour), now), 1)
	assert.Contains(t, policy.HowToReview("payments-api"), "keyturn review rotation/payments-api --sign KEY")
}

func TestReviewsOfBreakGlassThatAreNotRead(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"no JSON":            `x`,
		"of an incident":     `{"schema":"keyturn/review/v1","incident":"incident/x"}`,
		"a name too many":    `{"schema":"keyturn/break-glass-review/v1","credential":"c","of":["n"],"comment":"fine","signedAt":"2026-05-01T00:00:00Z","more":1}`,
		"without an ID":      `{"schema":"keyturn/break-glass-review/v1","credential":"c","comment":"fine","signedAt":"2026-05-01T00:00:00Z"}`,
		"without a comment":  `{"schema":"keyturn/break-glass-review/v1","credential":"c","of":["n"],"comment":" ","signedAt":"2026-05-01T00:00:00Z"}`,
		"without a time":     `{"schema":"keyturn/break-glass-review/v1","credential":"c","of":["n"],"comment":"fine"}`,
		"without credential": `{"schema":"keyturn/break-glass-review/v1","of":["n"],"comment":"fine","signedAt":"2026-05-01T00:00:00Z"}`,
	} {
		_, err := policy.ParseGlassReview([]byte(body))
		assert.Error(t, err, name)
	}
	_, err := policy.ParseGlassReview([]byte(`{"schema":"keyturn/break-glass-review/v1","credential":"c","of":["n"],"comment":"fine","signedAt":"2026-05-01T00:00:00Z"}`))
	assert.NoError(t, err)
}
