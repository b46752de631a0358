package tests

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/workflows"
)

// The page about the temporal CLI is run from its first command to its last, each on a rotation that stands
// where its section takes it for granted.
func TestTemporalCLI(t *testing.T) {
	t.Parallel()
	need(t, "temporal", "pip install -r tests/requirements.txt")
	text, err := os.ReadFile("../docs/temporal-cli.md")
	require.NoError(t, err)
	s := newStage(t, "--overlap", "30s")
	s.apply(0, "-f", s.place.Inventory)
	run := func(command string) (string, error) {
		t.Helper()
		cmd := exec.Command("sh", "-c", command)
		cmd.Env = s.environment()
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	var begin string // the page's own command
	ran := 0
	for section := range strings.SplitSeq(string(text), "```sh\n") {
		block, _, ok := strings.Cut(section, "```\n")
		if !ok || !strings.HasPrefix(block, "temporal ") {
			continue
		}
		for command := range strings.Lines(block) {
			command = strings.TrimSpace(command)
			switch {
			case strings.Contains(command, `"retire"`): // by name, so that what is applied must be the newest
				s.apply(0, "-f", s.place.Inventory)
			case strings.Contains(command, "workflow start"):
				begin = command
			case strings.Contains(command, "--name extend"): // the overlap of the one that was looked at may be over
				out, code := s.starter("rollback", credential, "--reason", "begin anew")
				require.Zero(t, code, out)
				s.report()
				out, err := run(begin)
				require.NoError(t, err, out)
				s.await(workflows.PhaseOverlap)
			case strings.Contains(command, "--name approve"):
				s.await(workflows.PhaseRevokeGate)
			case strings.Contains(command, "workflow result"): // of the one that is ending
			case strings.Contains(command, `"gate":"signoff"`):
				const signoff, revoke = "signoff: {count: 1, trust: any}\n      ", "revoke: {count: 1, trust: any}"
				s.rewrite(s.place.Inventory, revoke, signoff+revoke)
				s.apply(0, "-f", s.place.Inventory)
				out, err := run(begin)
				require.NoError(t, err, out)
				s.await(workflows.PhaseSignoff)
				s.rewrite(s.place.Inventory, signoff, "")
			case s.status().Report != nil: // the one before has ended
				out, code := s.starter("rotate", credential, "-f", s.place.Inventory)
				require.Zero(t, code, out)
				s.await(workflows.PhaseOverlap)
			}
			out, err := run(command)
			require.NoError(t, err, "%s\n%s", command, out)
			switch {
			case strings.Contains(command, `"retire"`):
				report := s.report()
				assert.Equal(t, workflows.Refused, report.Outcome)
				assert.Contains(t, report.Message, "key key-2024-07 does not exist at the issuer")
			case command == begin:
				s.await(workflows.PhaseOverlap)
				again, err := run(command)
				require.NoError(t, err, again)
				one := regexp.MustCompile(`RunId\s+\S+`).FindString(out)
				assert.NotEmpty(t, one, out)
				assert.Contains(t, again, one, "it is the one that runs, and no other is begun")
			case strings.Contains(command, "workflow update execute"):
				assert.Contains(t, out, "accepted:true", command)
			}
			ran++
		}
	}
	assert.Greater(t, ran, 15)
	out, code := s.starter("rotate", credential, "-f", s.place.Inventory)
	require.Zero(t, code, out)
	status := s.await(workflows.PhaseRevokeGate)
	assert.Contains(t, fmt.Sprint(status.Timeline), "which did not end: its key "+status.Incoming.KeyID+" is CURRENT", "what the terminated one did is gone on with")
	out, code = s.starter("approve", credential, "--gate", "revoke")
	require.Zero(t, code, out)
	report := s.report()
	assert.Equal(t, workflows.Completed, report.Outcome, report.Message)
	s.nobodyRefused()
}
