package activities_test

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/workerconfig"
)

func TestAWorkerTellsWhatItsAuditFileHasOfACredential(t *testing.T) {
	t.Parallel()
	c := newCase(t)
	c.do.Worker = "me"
	var answer activities.AuditAnswer
	c.execute("ReadAudit", activities.AuditInput{Credential: "payments-api"}, &answer)
	assert.Equal(t, activities.AuditAnswer{Worker: "me", Excerpt: audit.Excerpt{Events: []audit.Event{}}}, answer, "its configuration names no file")

	path := filepath.Join(t.TempDir(), "audit.jsonl")
	file, err := audit.OpenFile(path)
	require.NoError(t, err)
	require.NoError(t, file.Append(t.Context(),
		audit.Event{ID: "a", Type: audit.KeyIssued, Time: c.now(), Credential: "payments-api", Rotation: "r1"},
		audit.Event{ID: "b", Type: audit.KeyIssued, Time: c.now(), Credential: "reports-api", Rotation: "r2"},
		audit.Event{ID: "c", Type: audit.KeyIssued, Time: c.now(), Credential: "payments-api", Rotation: "r3"}))
	config := *c.do.Config()
	config.Audit.File = path
	c.do.Config = func() *workerconfig.Config { return &config }
	for rotation, want := range map[string][]string{"": {"a", "c"}, "r3": {"c"}, "r2": nil} {
		c.execute("ReadAudit", activities.AuditInput{Credential: "payments-api", Rotation: rotation}, &answer)
		var got []string
		for _, e := range answer.Events {
			got = append(got, e.ID)
		}
		assert.Equal(t, want, got)
		assert.True(t, answer.Recorded)
	}

	config.Audit.File = filepath.Dir(path)
	c.execute("ReadAudit", activities.AuditInput{Credential: "payments-api"}, &answer)
	assert.Contains(t, answer.Problem, "reading audit file", "what cannot be read is a part of the answer")
	require.ErrorContains(t, c.attempt("ReadAudit", activities.AuditInput{}, nil, 1), "name a credential")
}

// Who ended a key says on whose approvals: its own proof, whatever a workflow tells.
func TestTheEndOfAKeySaysWhoApprovedIt(t *testing.T) {
	t.Parallel()
	c := reached(t, "Issue", "DeliverWave", "Promote", "GatherEvidence", "Disable", "Destroy")
	trail, err := audit.Read(c.auditFile)
	require.NoError(t, err)
	said := map[audit.Type]string{}
	for _, e := range trail.Events {
		said[e.Type] = e.Detail["approved"]
		if e.Type == audit.EvidenceComplete {
			assert.NotEmpty(t, e.Detail["digest"])
		}
	}
	assert.Equal(t, "ann (unverified)", said[audit.KeyDisabled])
	assert.Equal(t, "ann (unverified)", said[audit.KeyDestroyed])
}

func TestTheEndOfAKeySaysWhoSignedItsApproval(t *testing.T) {
	t.Parallel()
	c := inOverlap(t)
	c.passOverlap()
	var d policy.Decision
	c.execute("Disable", activities.RevokeInput{Rotation: c.subject(), Approvals: []policy.Verdict{c.approval(c.olga, asSigned), {By: "eve", Accepted: true, Action: policy.Approve, At: c.now()}}}, &d)
	require.True(t, d.OK, d.Message)
	trail, err := audit.Read(c.auditFile)
	require.NoError(t, err)
	last := trail.Events[len(trail.Events)-1]
	assert.Equal(t, audit.KeyDisabled, last.Type)
	assert.NotEmpty(t, last.Detail["approved"])
	assert.NotContains(t, last.Detail["approved"], "unverified", "it counts what it proved, and nothing else")
	assert.NotContains(t, last.Detail["approved"], "eve")
}
