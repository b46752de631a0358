package tests

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/workflows"
)

// alarmed is a trusting stage on which ann may declare incidents, too.
func alarmed(t *testing.T, windows ...string) *trustingStage {
	t.Helper()
	prepared := prepare(t, windows...)
	s := &trustingStage{stage: prepared, signers: filepath.Join(prepared.folder, "signers"), ran: filepath.Join(prepared.folder, "ran")}
	s.ann, s.mallory = newPerson(t, s.folder, "ann"), newPerson(t, s.folder, "mallory")
	trust(t, s.signers, s.ann)
	s.rewrite(s.place.Worker, "audit:", "trust:\n  inventory: [{environments: [sandbox], allowedSigners: '"+s.signers+"'}]\n  incidents: '"+s.signers+"'\naudit:")
	s.startWorker()
	return s
}

// emergency runs the command to its end, and returns what it says.
func (s *trustingStage) emergency(by person, more ...string) (status workflows.IncidentStatus, out string, code int) {
	s.t.Helper()
	args := append([]string{"emergency", credential, "-f", s.place.Inventory, "--reason", "key in a public repository", "--sign", by.file, "--yes", "--wait", "-o", "json"}, more...)
	out, code = s.starter(args...)
	if at := strings.Index(out, "{"); at >= 0 {
		require.NoError(s.t, json.NewDecoder(strings.NewReader(out[at:])).Decode(&status), out)
	}
	return status, out, code
}

// An exposed key is dead in moments, though nobody approved anything; whoever may not declare that moves nothing.
func TestEmergencyByTheCommandLine(t *testing.T) {
	t.Parallel()
	s := alarmed(t)
	_, out, code := s.emergency(s.mallory)
	assert.Equal(t, 3, code, out)
	assert.Contains(t, out, "the signer is not trusted")
	keys := s.gatewayKeys()
	require.Len(t, keys, 1, "nothing was touched")

	status, out, code := s.emergency(s.ann)
	require.Zero(t, code, out)
	assert.Equal(t, workflows.Contained, status.Outcome, status.Message)
	assert.Equal(t, "ann", status.DeclaredBy)
	require.Len(t, status.Credentials, 1)
	m := status.Credentials[0]
	require.Len(t, m.Contained, 1)
	assert.Contains(t, keys, m.Contained[0].KeyID, "it is the key that was in use")
	assert.Equal(t, map[string]string{m.Current.KeyID: "active"}, s.gatewayKeys())
	s.harmless()
	s.nobodyRefused()
}

// A rotation in its overlap is taken over; its worker is killed in the middle of it, and whatever was done by then, each effect is done
// once.
func TestEmergencyTakesARotationOver(t *testing.T) {
	t.Parallel()
	s := alarmed(t, "--overlap", "1h")
	s.rotate()
	before := s.await(workflows.PhaseOverlap)
	run := s.start("starter", s.connection(), "emergency", credential, "-f", s.place.Inventory, "--reason", "key in a public repository",
		"--sign", s.ann.file, "--yes", "--wait")
	eventually(t, func() bool { return s.now().Sent > 0 && s.status().Phase != workflows.PhaseOverlap || run.ended() }, patience, 20*time.Millisecond)
	s.worker.end(syscall.SIGKILL)
	s.startWorker()
	eventually(t, run.ended, patience, 100*time.Millisecond, "the incident ends")
	report := s.report()
	assert.Equal(t, workflows.Completed, report.Outcome, report.Message)
	assert.Equal(t, before.Incoming.KeyID, report.Incoming.KeyID, "no second key was minted")
	require.Len(t, report.Contained, 1)
	assert.Equal(t, before.Retiring.KeyID, report.Contained[0].KeyID)
	assert.Equal(t, map[string]string{before.Incoming.KeyID: "active"}, s.gatewayKeys())
	s.nobodyRefused()
}
