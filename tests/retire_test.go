package tests

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/workflows"
)

// A second key of the credential, which the spec adopts, fills a slot. It is retired on approval, while traffic flows, and is refused
// afterwards; what may not be retired stays, and who asks is told why.
func TestALeftoverKeyIsRetired(t *testing.T) {
	t.Parallel()
	s := prepare(t)
	s.flags = []string{"--allow-unsigned"}
	demo := filepath.Join(s.folder, "demo")
	require.NoError(t, os.RemoveAll(filepath.Join(demo, "store", credential)), "as it is before keyturn")
	value, err := os.ReadFile(filepath.Join(demo, "keys", "checkout-canary", credential))
	require.NoError(t, err)
	s.oldKey(credential, "left-over", time.Now().Add(-time.Hour))
	s.rewrite(s.place.Inventory, "    owner:", "    adopt: [left-over]\n    owner:")
	out, code := s.imports(value)
	require.Zero(t, code, out)
	s.startWorker()
	retire := func(keyID string, more ...string) (string, int) {
		return s.starter(append([]string{"retire", credential, "--key", keyID, "--reason", "no slot is free", "--as", "ann", "-f", s.place.Inventory}, more...)...)
	}
	const current = "made-by-hand-in-2024"

	out, code = s.starter("plan", credential, "-f", s.place.Inventory)
	assert.Equal(t, 3, code, out)
	assert.Contains(t, out, "keyturn retire "+credential+" --key left-over --reason ...", "what refuses a rotation names the way out")
	out, code = retire(current, "--wait")
	assert.Equal(t, 3, code, out)
	assert.Contains(t, out, "is the current one")
	out, code = retire("nobodys", "--wait", "-o", "json")
	assert.Equal(t, 3, code, out)
	var report workflows.Report
	require.NoError(t, json.Unmarshal([]byte(out), &report), out)
	assert.Equal(t, workflows.Refused, report.Outcome)

	works := func() int { return ping(t.Context(), s.place.Gateway, "value-of-"+credential+"-left-over") }
	require.Equal(t, http.StatusOK, works())
	out, code = retire("left-over")
	require.Zero(t, code, out)
	assert.Contains(t, out, "keyturn status "+credential+" --watch")
	gate := s.await(workflows.PhaseRevokeGate)
	assert.Equal(t, "left-over", gate.Ends)
	assert.Equal(t, "left-over", gate.Retiring.KeyID)
	assert.Equal(t, current, gate.Incoming.KeyID)
	out, code = s.starter("status", credential)
	require.Zero(t, code, out)
	assert.Contains(t, out, "key left-over, and does nothing else")
	out, code = retire("left-over")
	assert.Equal(t, 3, code, out)
	assert.Contains(t, out, "is running")
	for range gate.Gate.Needs.Count {
		out, code = s.starter("approve", credential, "--gate", "revoke", "--as", []string{"ann", "ben"}[len(s.status().Gate.Approvals)])
		require.Zero(t, code, out)
	}
	report = s.report()
	require.Equal(t, workflows.Completed, report.Outcome, report.Message)
	assert.Equal(t, http.StatusUnauthorized, works())
	text, err := os.ReadFile(s.keyFile())
	require.NoError(t, err)
	assert.NotContains(t, string(text), "left-over")
	out, code = s.starter("plan", credential, "-f", s.place.Inventory)
	assert.Zero(t, code, "nothing is in the way of a rotation: %s", out)
	s.nobodyRefused()
	s.replays()
	out, code = s.starter("audit", credential)
	require.Zero(t, code, out)
	assert.Contains(t, out, "key left-over, and nothing else")
	assert.Contains(t, out, "ann")
}
