package tests

import (
	"bytes"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/workflows"
)

// agent starts an SSH agent that has the keys, for the command line.
func (s *trustingStage) agent(people ...person) {
	s.t.Helper()
	need(s.t, "ssh-agent", "apt-get install openssh-client")
	need(s.t, "ssh-add", "apt-get install openssh-client")
	socket := s.folder + "/agent"
	agent := follow(s.t, "ssh-agent", exec.Command("ssh-agent", "-D", "-a", socket))
	eventually(s.t, func() bool { _, err := os.Stat(socket); return err == nil || agent.ended() }, patience, 20*time.Millisecond)
	s.variables["starter"] = []string{"SSH_AUTH_SOCK=" + socket}
	for _, p := range people {
		add := exec.Command("ssh-add", p.file)
		add.Env = []string{"PATH=" + os.Getenv("PATH"), "SSH_AUTH_SOCK=" + socket}
		var out bytes.Buffer
		add.Stdout, add.Stderr = &out, &out
		require.NoError(s.t, add.Run(), out.String())
	}
}

// missing ends a test that needs what is not installed: in CI it fails.
func missing(t *testing.T, how string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		require.Fail(t, how)
	}
	t.Skip(how)
}

// People sign plans, rotations and decisions, by file and by agent; what nobody signed is refused, with what
// to do.
func TestSigning(t *testing.T) {
	t.Parallel()
	s := newTrustingStage(t, "--disable-soak", "30s")
	s.agent(s.olga)
	out, code := s.starter("plan", credential, "-f", s.place.Inventory)
	assert.Equal(t, 3, code, out)
	assert.Contains(t, out, "unsigned")
	out, code = s.starter("plan", credential, "-f", s.place.Inventory, "--sign", s.mallory.file)
	assert.Equal(t, 3, code, out)
	assert.Contains(t, out, "not trusted")
	out, code = s.starter("plan", credential, "-f", s.place.Inventory, "--sign", s.folder+"/nobody")
	assert.Equal(t, 2, code, out)
	out, code = s.starter("plan", credential, "-f", s.place.Inventory, "--sign", s.ann.file)
	require.Zero(t, code, out)
	assert.Contains(t, out, "ALLOWED")

	s.rotate()
	s.await(workflows.PhaseRevokeGate)
	comes(func() bool { // Temporal's list may be a moment late
		out, code = s.starter("approvals")
		return strings.Contains(out, credential)
	}, patience, time.Second)
	require.Zero(t, code, out)
	assert.Contains(t, out, "approve "+credential+" --gate revoke --sign KEY")
	assert.Contains(t, out, "0 of 1")
	out, code = s.starter("approvals", "--group", "strangers")
	require.Zero(t, code, out)
	assert.Contains(t, out, "Nothing waits")
	out, code = s.starter("reject", credential, "--gate", "revoke", "--reason", "not on a Friday")
	assert.Equal(t, 3, code, out)
	assert.Contains(t, out, "--sign")
	out, code = s.starter("reject", credential, "--gate", "revoke", "--reason", "not on a Friday", "--sign", "agent")
	require.Zero(t, code, out)
	report := s.report()
	require.Equal(t, workflows.RolledBack, report.Outcome, report.Message)
	assert.Contains(t, report.Message, "olga")

	s.rotate()
	s.await(workflows.PhaseRevokeGate)
	require.NoError(t, os.WriteFile(s.olga.file+".pub", []byte(strings.TrimSpace(string(s.olga.public()))), 0o600))
	out, code = s.starter("approve", credential, "--gate", "revoke", "--sign", s.olga.file+".pub")
	assert.Equal(t, 2, code, "nobody is there to say yes: %s", out)
	status := s.status()
	for _, shown := range []string{status.Retiring.KeyID, status.Incoming.KeyID, status.Evidence.Digest, "0 of 1 approved", "--yes"} {
		assert.Contains(t, out, shown)
	}
	assert.Empty(t, s.status().Gate.Approvals)
	out, code = s.starter("approve", credential, "--gate", "revoke", "--sign", s.olga.file+".pub", "--yes")
	require.Zero(t, code, out)
	s.await(workflows.PhaseDisableSoak)
	out, code = s.starter("rollback", credential, "--reason", "missed", "--as", "olga")
	assert.Equal(t, 3, code, "a disabled key is not brought back by a name: %s", out)
	out, code = s.starter("rollback", credential, "--reason", "missed", "--sign", s.olga.file)
	require.Zero(t, code, out)
	report = s.report()
	require.Equal(t, workflows.RolledBack, report.Outcome, report.Message)
	assert.Equal(t, map[string]string{report.Retiring.KeyID: "active"}, s.gatewayKeys())
	s.harmless()
	s.nobodyRefused()
}

// A signer who is trusted no more, while a rotation is under way: it waits with both keys alive, says for
// whom, and goes on once somebody who is trusted has signed the same spec.
func TestSignerLeaves(t *testing.T) {
	t.Parallel()
	s := newTrustingStage(t, "--overlap", "20s")
	s.rotate()
	s.await(workflows.PhaseOverlap)
	bob := newPerson(t, s.folder, "bob")
	trust(t, s.signers, bob)
	status := s.awaitThat("it is held", func(now workflows.Status) bool { return strings.HasPrefix(now.Doing, "Held") })
	assert.Contains(t, status.UnblockedBy, "--sign KEY")
	assert.Len(t, s.gatewayKeys(), 2)
	out, code := s.starter("rotate", credential, "-f", s.place.Inventory, "--sign", s.ann.file)
	assert.Equal(t, 3, code, out)
	out, code = s.starter("rotate", credential, "-f", s.place.Inventory, "--sign", bob.file)
	require.Zero(t, code, out)
	s.await(workflows.PhaseRevokeGate)
	s.approve()
	report := s.report()
	require.Equal(t, workflows.Completed, report.Outcome, report.Message)
	s.harmless()
	s.nobodyRefused()
}

// Each attack of the threat model names tests that exist.
func TestThreatModelNamesTests(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/threat-model.md")
	require.NoError(t, err)
	var files strings.Builder
	for _, folder := range []string{".", "../activities", "../workflows", "../starter", "../worker", "../internal/*", "../providers/*", "../sandbox/internal/*"} {
		out, err := exec.Command("sh", "-c", "cat "+folder+"/*_test.go").Output()
		require.NoError(t, err)
		files.Write(out)
	}
	named := regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z]+)`")
	attacks, columns := 0, 0
	for line := range strings.Lines(string(page)) {
		cells := strings.Count(strings.TrimSpace(line), " | ") + 1
		switch {
		case strings.HasPrefix(line, "| attack |"), strings.HasPrefix(line, "| who |"):
			columns = cells
		case strings.HasPrefix(line, "| "):
			assert.Equal(t, columns, cells, "a line with other columns than its table: %s", line)
			if columns == 3 {
				attacks++
				tests := line[strings.LastIndex(line, " | ")+1:]
				assert.Regexp(t, named, tests, "a line without a test: %s", line)
			}
		}
	}
	assert.Greater(t, attacks, 20)
	for _, name := range named.FindAllStringSubmatch(string(page), -1) {
		assert.Contains(t, files.String(), "func "+name[1]+"(", "docs/threat-model.md names %s", name[1])
	}
}
