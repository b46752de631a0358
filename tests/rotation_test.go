package tests

import (
	"encoding/json"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/workflows"
)

// A gateway key is rotated while three instances use it 20 times a second each: no request is refused.
func TestGatewayRotation(t *testing.T) {
	t.Parallel()
	s := newStage(t)

	out, code := s.starter("plan", credential, "-f", s.place.Inventory)
	require.Zero(t, code, out)
	assert.Contains(t, out, "ALLOWED")
	assert.Contains(t, out, "made-by-hand-in-2024")

	out, code = s.starter("rotate", credential, "-f", s.place.Inventory, "--reason", "quarterly", "--as", "ann")
	require.Zero(t, code, out)
	out, code = s.starter("approve", credential, "--gate", "revoke")
	assert.Equal(t, 3, code, "an approval before its gate: %s", out)
	out, code = s.starter("rotate", credential, "-f", s.place.Inventory)
	assert.Equal(t, 3, code, "one at a time: %s", out)
	out, code = s.starter("rotate", "nobody", "-f", s.place.Inventory)
	assert.Equal(t, 4, code, out)

	status := s.await(workflows.PhaseRevokeGate)
	assert.Contains(t, status.UnblockedBy, "approve")
	for _, c := range s.now().Consumers {
		assert.True(t, status.Incoming.Is(c.Key), "%s is on the incoming key", c.Name)
	}
	out, code = s.starter("status")
	assert.Zero(t, code)
	assert.Contains(t, out, credential)
	out, code = s.starter("approve", credential, "--gate", "revoke", "--as", "ann")
	require.Zero(t, code, out)

	report := s.report()
	require.Equal(t, workflows.Completed, report.Outcome, report.Message)
	assert.Contains(t, report.Probe, "refused")
	s.nobodyRefused()
	s.replays()
	const early = 5 // events of the approval before its gate
	assert.LessOrEqual(t, len(s.history().Events), 98+early, "a history of two waves and one approval is short")
	assert.Equal(t, "rotation.ended", s.trail()[len(s.trail())-1])
	s.audited(report)
}

// audited holds what audit tells of the rotation that ended against its report and the audit file, with a worker and without one.
func (s *stage) audited(report workflows.Report) {
	s.t.Helper()
	type record struct {
		Rotations []struct {
			Outcome   string
			Decisions []struct {
				By               string
				Proved, Accepted bool
			}
			Evidence struct{ Digest, Says string }
			Keys     []struct {
				Key                          string
				Disabled, Destroyed, Refused *struct{ At time.Time }
			}
		}
		Events []struct{ ID, Type, Source string }
		Unread []string
	}
	ask := func(more ...string) (r record) {
		out, code := s.starter(append([]string{"audit", credential, "-o", "json"}, more...)...)
		require.Zero(s.t, code, out)
		require.NoError(s.t, json.Unmarshal([]byte(out), &r), out)
		require.Len(s.t, r.Rotations, 1)
		told := r.Rotations[0]
		assert.Equal(s.t, string(report.Outcome), told.Outcome)
		assert.Equal(s.t, report.EvidenceDigest, told.Evidence.Digest)
		assert.Contains(s.t, told.Evidence.Says, "on the incoming key, none on the retiring one")
		taken := told.Decisions[len(told.Decisions)-1]
		assert.True(s.t, taken.Accepted && !taken.Proved && taken.By == "ann", "%+v", taken)
		for _, k := range told.Keys {
			if k.Key == report.Retiring.KeyID {
				assert.True(s.t, k.Disabled != nil && k.Destroyed != nil && k.Refused != nil, "%+v", k)
			}
		}
		return r
	}
	whole := ask()
	happened := 0
	for _, e := range whole.Events {
		assert.Equal(s.t, "file", e.Source, "each event of the history is the file's: %+v", whole.Events)
		if e.Type != string(audit.ValueRead) {
			happened++
		}
	}
	assert.Len(s.t, s.trail(), happened)
	assert.Greater(s.t, len(whole.Events), happened, "what was read, too")
	out, code := s.starter("audit", credential)
	require.Zero(s.t, code, out)
	assert.Contains(s.t, out, "approved by")
	out, code = s.starter("audit", "nobody")
	assert.Equal(s.t, 4, code, out)
	out, code = s.starter("audit", credential, "--rotation", "none")
	assert.Equal(s.t, 4, code, out)

	s.worker.end(syscall.SIGKILL)
	alone := ask("--timeout", "2s") // a worker that has just died still counts as one that polls
	for _, e := range alone.Events {
		assert.Equal(s.t, "history", e.Source)
	}
	assert.NotEmpty(s.t, alone.Unread)
}

// A rollback in the overlap brings everybody back to the retiring key, and destroys the incoming one.
func TestRollbackInTheOverlap(t *testing.T) {
	t.Parallel()
	s := newStage(t, "--overlap", "1m")
	out, code := s.starter("rotate", credential, "-f", s.place.Inventory)
	require.Zero(t, code, out)
	status := s.await(workflows.PhaseOverlap)
	out, code = s.starter("extend", credential, "--by", "30s")
	require.Zero(t, code, out)
	assert.True(t, s.status().Until.After(status.Until), "the overlap was extended")

	out, code = s.starter("rollback", credential, "--reason", "errors at checkout", "--as", "ann")
	require.Zero(t, code, out)
	report := s.report()
	require.Equal(t, workflows.RolledBack, report.Outcome, report.Message)
	out, code = s.starter("status", credential, "--watch")
	assert.Equal(t, 6, code, "rolled back: %s", out)
	for _, c := range s.now().Consumers {
		assert.True(t, report.Retiring.Is(c.Key), "%s is back on the retiring key", c.Name)
	}
	s.nobodyRefused()
	s.replays()
	assert.NotContains(t, s.trail(), "key.destroyed")
}

// The worker is killed in the overlap, and another one goes on where it stood. It is killed at the gate, and what is sent then waits: each
// signal is answered once there is a worker again, and counts once.
func TestKilledWorker(t *testing.T) {
	t.Parallel()
	s := newStage(t, "--overlap", "30s")
	out, code := s.starter("rotate", credential, "-f", s.place.Inventory)
	require.Zero(t, code, out)
	before := s.await(workflows.PhaseOverlap)
	s.worker.end(syscall.SIGKILL)
	sent := s.now().Sent
	eventually(t, func() bool { return s.now().Sent > sent+100 }, patience, 100*time.Millisecond, "traffic flows without a worker")
	s.startWorker()

	after := s.await(workflows.PhaseRevokeGate)
	assert.Equal(t, before.Incoming, after.Incoming, "no second key was minted")
	s.worker.end(syscall.SIGKILL)
	approval := policy.Request{Gate: inventory.GateRevoke, By: "ann", ID: "one"}
	for _, sent := range []any{"nonsense", policy.Request{Gate: inventory.GateSignoff, By: "ann", ID: "another gate"}, approval, approval} {
		require.NoError(t, s.client().SignalWorkflow(t.Context(), workflows.WorkflowID(credential), "", workflows.ApproveName, sent))
	}
	s.startWorker()
	report := s.report()
	require.Equal(t, workflows.Completed, report.Outcome, report.Message)
	verdicts := map[string]bool{}
	for _, v := range report.Verdicts {
		verdicts[v.ID] = v.Accepted
	}
	assert.Equal(t, map[string]bool{"another gate": false, "one": true}, verdicts)
	assert.Len(t, report.Verdicts, 2)
	assert.Contains(t, strings.Join(s.status().Notices, "\n"), `a signal "approve" could not be read`)
	s.nobodyRefused()
	s.replays()
}
