package tests

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/workflows"
)

// A key that consumers use, and that no store has, is imported: the very first rotation can turn back to it, and nobody is refused.
func TestTheFirstRotationOfAnImportedKeyCanTurnBack(t *testing.T) {
	t.Parallel()
	s := prepare(t, "--overlap", "1m")
	s.flags = []string{"--allow-unsigned"}
	demo := filepath.Join(s.folder, "demo")
	require.NoError(t, os.RemoveAll(filepath.Join(demo, "store", credential)), "as it is before keyturn")
	value, err := os.ReadFile(filepath.Join(demo, "keys", "checkout-canary", credential))
	require.NoError(t, err)

	out, code := s.imports(append(value[:len(value)-1:len(value)-1], '!'))
	require.Equal(t, 3, code, "another key than the consumers': %s", out)
	assert.Contains(t, out, "checkout-canary states key")
	out, code = s.imports(value)
	require.Zero(t, code, out)
	assert.Contains(t, out, "key made-by-hand-in-2024 of "+credential+" is CURRENT")
	assert.NotContains(t, out, string(value))

	s.startWorker()
	out, code = s.starter("rotate", credential, "-f", s.place.Inventory)
	require.Zero(t, code, out)
	s.await(workflows.PhaseOverlap)
	out, code = s.imports(value)
	require.Equal(t, 3, code, "a rotation holds it: %s", out)
	assert.Contains(t, out, "holds the credential")
	out, code = s.starter("rollback", credential, "--reason", "errors at checkout", "--as", "ann")
	require.Zero(t, code, out)
	report := s.report()
	require.Equal(t, workflows.RolledBack, report.Outcome, report.Message)
	assert.Equal(t, "made-by-hand-in-2024", report.Retiring.KeyID)
	for _, c := range s.now().Consumers {
		assert.True(t, report.Retiring.Is(c.Key), "%s is back on the imported key", c.Name)
	}
	s.nobodyRefused()
	assert.Equal(t, []string{"import.begun", "key.imported"}, s.trail()[:2])
	record, err := os.ReadFile(s.place.Audit)
	require.NoError(t, err)
	assert.NotContains(t, string(record), string(value))
}

// imports runs keyturn-worker import with the key on file descriptor 3.
func (s *stage) imports(key []byte) (string, int) {
	s.t.Helper()
	file := filepath.Join(s.t.TempDir(), "key")
	require.NoError(s.t, os.WriteFile(file, key, 0o600))
	opened, err := os.Open(file)
	require.NoError(s.t, err)
	defer opened.Close()
	cmd := s.command("worker", "import", credential, "-f", s.place.Inventory, "--config", s.place.Worker, "--fd", "3", "--allow-unsigned")
	cmd.ExtraFiles = []*os.File{opened}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		var ended *exec.ExitError
		require.ErrorAs(s.t, err, &ended)
	}
	return out.String(), cmd.ProcessState.ExitCode()
}
