package tests

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/workflows"
)

// The pipeline of examples/ci runs as it stands: what would change is shown, applied, and one credential rotated, with exit codes that say
// how it went.
func TestAPipeline(t *testing.T) {
	t.Parallel()
	s := newStage(t, "--overlap", "3s")
	bin := t.TempDir()
	starter, err := filepath.Abs(filepath.Join(programs, "starter"))
	require.NoError(t, err)
	require.NoError(t, os.Symlink(starter, filepath.Join(bin, "keyturn")))
	inventory, sign := s.place.Inventory, ""
	run := func(script string, args ...string) (string, int) {
		cmd := exec.Command("../examples/ci/"+script, args...)
		cmd.Env = append(s.environment(), "INVENTORY="+inventory, "SIGN="+sign, "PATH="+bin+":"+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		var failed *exec.ExitError
		if err != nil && !errors.As(err, &failed) {
			require.NoError(t, err)
		}
		return string(out), cmd.ProcessState.ExitCode()
	}
	out, code := run("pull-request.sh")
	require.Zero(t, code, out)
	assert.Contains(t, out, credential)
	out, code = run("rotate.sh", credential)
	assert.Equal(t, 4, code, "a pull request applies nothing: %s", out)
	assert.Contains(t, out, "no such credential is applied")
	out, code = run("merge.sh")
	require.Zero(t, code, out)
	rotated := make(chan string, 1)
	go func() {
		out, code := run("rotate.sh", credential, patience.String())
		rotated <- fmt.Sprint(code, " ", out)
	}()
	s.await(workflows.PhaseRevokeGate)
	out, code = s.starter("approve", credential, "--gate", "revoke")
	require.Zero(t, code, out)
	out = <-rotated
	assert.True(t, strings.HasPrefix(out, "0 ") && strings.HasSuffix(out, "rotated\n"), out)
	out, code = run("rotate.sh", credential, "10s")
	assert.Equal(t, 5, code, "nobody approves it: %s", out)
	assert.Contains(t, out, "it goes on: look with: keyturn status "+credential)
	s.rewrite(s.place.Inventory, "risk: standard", "risk: high")
	out, code = run("merge.sh")
	require.Zero(t, code, out)
	assert.Contains(t, out, "a rotation is running: it keeps the spec it began with")
	out, code = s.starter("status", credential)
	require.Zero(t, code, out)
	assert.Regexp(t, `it keeps the spec that it began with: another one was applied .* \(risk standard -> high\)`, out)
	s.nobodyRefused()

	out, code = s.starter("__complete", "status", "")
	require.Zero(t, code, out)
	assert.Contains(t, out, credential+"\n", "the shell completes what was applied")
	s.rewrite(s.place.Inventory, "owner:", "woner:")
	out, code = run("pull-request.sh")
	assert.Equal(t, 2, code, out)
	assert.Contains(t, out, "woner")

	// Of a signed inventory a pull request shows what the merge does, and has no key.
	inventory, sign = filepath.Join(s.folder, "signed.yaml"), newPerson(t, s.folder, "ann").file
	require.NoError(t, os.WriteFile(inventory, []byte(declared("signed", []string{"kept", "gone"}, nothingMore)), 0o600))
	out, code = run("merge.sh")
	require.Zero(t, code, out)
	require.NoError(t, os.WriteFile(inventory, []byte(declared("signed", []string{"kept"}, func(string) string { return "    rotateEvery: 60d\n" })), 0o600))
	key := sign
	sign = ""
	out, code = run("pull-request.sh")
	assert.Zero(t, code, out)
	assert.Contains(t, out, "rotateEvery  90d -> 60d")
	assert.Contains(t, out, "1 to change, 1 to remove")
	sign = key
	out, code = run("merge.sh")
	assert.Zero(t, code, out)
	assert.Contains(t, out, "1 to change, 1 to remove", "as the pull request said")

	text, err := os.ReadFile("../examples/ci/github.yaml")
	require.NoError(t, err)
	var pipeline struct {
		Jobs map[string]struct{ Steps []struct{ Run string } }
	}
	require.NoError(t, yaml.Unmarshal(text, &pipeline))
	for job, j := range pipeline.Jobs {
		last := j.Steps[len(j.Steps)-1].Run
		name, _, _ := strings.Cut(strings.TrimPrefix(last, "./"), " ")
		assert.Equal(t, job+".sh", name)
		assert.FileExists(t, "../examples/ci/"+name)
	}
}
