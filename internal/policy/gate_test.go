package policy_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
)

func TestAGateSaysHowToDecide(t *testing.T) {
	t.Parallel()
	anybody := inventory.Approval{Count: 1, Trust: inventory.TrustAny}
	owners := inventory.Approval{Count: 2, Trust: inventory.TrustSigned, From: []string{"owners"}}
	for name, c := range map[string]struct {
		gate                    inventory.Gate
		needs                   inventory.Approval
		command, signal, summed string
	}{
		"where anybody may, by command or signal": {inventory.GateRevoke, anybody,
			"keyturn approve payments-api --gate revoke", `{"gate":"revoke","by":"you"}`, `revoke gate: approve {"gate":"revoke","by":"you"}, 1 approval`},
		"with the gate that is open": {inventory.GateSignoff, anybody,
			"keyturn approve payments-api --gate signoff", `{"gate":"signoff","by":"you"}`, `signoff gate: approve {"gate":"signoff","by":"you"}, 1 approval`},
		"where it takes signatures, with one": {inventory.GateHold, owners,
			"keyturn approve payments-api --gate hold --sign KEY", "", "hold gate: keyturn approve --gate hold --sign KEY, 2 approvals"},
		"where nothing is said of trust, with a signature": {inventory.GateRevoke, inventory.Approval{Count: 1},
			"keyturn approve payments-api --gate revoke --sign KEY", "", "revoke gate: keyturn approve --gate revoke --sign KEY, 1 approval"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := policy.OpenGate{Gate: c.gate, Needs: c.needs}
			assert.Equal(t, c.command, g.Command("payments-api"))
			assert.Equal(t, c.signal, g.Signal())
			assert.Equal(t, c.summed, g.Summary())
			assert.Contains(t, g.How("payments-api"), c.command)
			assert.Contains(t, g.How("payments-api"), c.signal)
			if c.signal == "" {
				return
			}
			var req policy.Request
			require.NoError(t, json.Unmarshal([]byte(c.signal), &req))
			v := policy.Judge(policy.Approve, req, nil, policy.Standpoint{Gate: &g})
			assert.True(t, v.Accepted, v.Message)
		})
	}
}

func TestAGateCountsWhatIsValidNow(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)
	by := func(name string, at time.Time) policy.Verdict {
		return policy.Verdict{Action: policy.Approve, Accepted: true, By: name, At: at}
	}
	g := policy.OpenGate{
		Gate: inventory.GateRevoke, Needs: inventory.Approval{Count: 2, Trust: inventory.TrustAny, ApprovalExpires: inventory.Duration(time.Hour)},
		Approvals: []policy.Verdict{by("ann", at), by("bob", at.Add(30*time.Minute)), by("bob", at.Add(40*time.Minute))},
	}
	assert.Equal(t, "2 of 2 approved", g.Progress(at.Add(45*time.Minute)))
	assert.Equal(t, "1 of 2 approved", g.Progress(at.Add(61*time.Minute)), "that of ann has expired")
	assert.Equal(t, "bob", g.Valid(at.Add(61 * time.Minute))[0].By)
	assert.Equal(t, "0 of 2 approved", g.Progress(at.Add(2*time.Hour)))
}
