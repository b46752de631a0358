package tests

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/workflows"
)

// One of two owners is away: who is on call passes the gate alone, loudly; nobody else does, and somebody else has to review it.
func TestBreakGlass(t *testing.T) {
	t.Parallel()
	s := newTrustingStage(t)
	sally, oncall := newPerson(t, s.folder, "sally"), filepath.Join(s.folder, "oncall")
	trust(t, oncall, sally)
	trust(t, s.owners, s.olga, newPerson(t, s.folder, "bob"))
	s.rewrite(s.place.Worker, "approvers: {owners: '"+s.owners+"'}", "approvers: {owners: '"+s.owners+"', oncall: '"+oncall+"'}\n  breakGlass: {sandbox: [oncall]}")
	s.rewrite(s.place.Inventory, "revoke: {count: 1,", "revoke: {count: 2,")
	s.restartWorker()
	s.rotate()
	s.await(workflows.PhaseRevokeGate)

	const why = "bob is away, and the key ends at noon"
	alone := func(by person) (string, int) {
		return s.starter("approve", credential, "--gate", "revoke", "--break-glass", "--reason", why, "--sign", by.file, "--yes")
	}
	out, code := alone(s.olga)
	assert.Equal(t, 3, code, out)
	assert.Contains(t, out, "trust.breakGlass")
	out, code = alone(sally)
	require.Zero(t, code, out)
	assert.Contains(t, out, "BREAK-GLASS")
	report := s.report()
	require.Equal(t, workflows.Completed, report.Outcome, report.Message)
	s.nobodyRefused()
	assert.Contains(t, s.trail(), "glass.broken")
	assert.Contains(t, fmt.Sprint(report.Timeline), "BREAK-GLASS: sally passed the revoke gate alone")
	out, code = s.starter("audit", credential)
	require.Zero(t, code, out)
	assert.Contains(t, out, "sally (BREAK-GLASS)")
	assert.Contains(t, out, why)

	review := func(by person) (string, int) {
		return s.starter("review", "rotation/"+credential, "--comment", "the evidence was complete", "--sign", by.file, "--yes")
	}
	out, code = review(sally)
	assert.Equal(t, 3, code, out)
	assert.Contains(t, out, "somebody else has to review it")
	out, code = review(s.olga)
	require.Zero(t, code, out)
	assert.Contains(t, out, "olga reviewed break-glass of sally")
	assert.Contains(t, s.trail(), "glass.reviewed")
	out, code = review(s.olga)
	assert.Equal(t, 3, code, out)
	assert.Contains(t, out, "waits for a review")
}
