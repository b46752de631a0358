package trace_test

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/atomicfile"
	"github.com/keyturn/keyturn/tests/trace"
)

// writes asks this program to be the one that is traced.
const writes = "writes"

func TestMain(m *testing.M) {
	switch {
	case trace.Asked():
		os.Exit(trace.Main())
	case len(os.Args) > 2 && os.Args[1] == writes:
		os.Exit(write(os.Args[2]))
	}
	os.Exit(m.Run())
}

// write replaces a file, appends to one, and removes it.
func write(folder string) int {
	dir, err := os.OpenRoot(folder)
	if err != nil {
		return 1
	}
	if err := atomicfile.Write(dir, "keys", []byte("new"), 0o600, nil); err != nil {
		return 2
	}
	f, err := dir.OpenFile("record", os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return 3
	}
	if _, err := f.WriteString("line"); err != nil {
		return 4
	}
	if err := atomicfile.Remove(dir, "record"); err != nil {
		return 5
	}
	return 0
}

func run(t *testing.T, killAt int) (stops []trace.Stop, folder string, code int) {
	t.Helper()
	if !trace.Possible {
		t.Skip("programs can be traced on Linux only")
	}
	folder, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(folder, "keys"), []byte("old"), 0o600))
	self, err := os.Executable()
	require.NoError(t, err)
	traced, err := trace.New(folder, self, writes, folder)
	require.NoError(t, err)
	traced.Cmd.Stderr = os.Stderr
	out, err := traced.Cmd.StdoutPipe() // it is closed when the program is dead
	require.NoError(t, err)
	require.NoError(t, traced.Cmd.Start())
	t.Cleanup(func() { _, _ = traced.Cmd.Process.Kill(), traced.Cmd.Wait() })
	require.NoError(t, traced.Follow(func(s trace.Stop) {
		s.Path, _ = filepath.Rel(folder, s.Path)
		stops = append(stops, s)
		if len(stops) == killAt {
			_ = traced.Cmd.Process.Kill()
		}
	}))
	_, err = io.Copy(io.Discard, out)
	require.NoError(t, err)
	_ = traced.Cmd.Wait()
	return stops, folder, traced.Cmd.ProcessState.ExitCode()
}

func TestAProgramIsHeldAtEachChange(t *testing.T) {
	stops, folder, code := run(t, 0)
	assert.Zero(t, code)
	assert.Equal(t, []trace.Stop{
		{Call: trace.Make, Path: "keys"}, {Call: trace.Make, Path: "keys", Done: true},
		{Call: trace.Replace, Path: "keys"}, {Call: trace.Replace, Path: "keys", Done: true},
		{Call: trace.Append, Path: "record", Text: "line"}, {Call: trace.Append, Path: "record", Text: "line", Done: true},
		{Call: trace.Remove, Path: "record"}, {Call: trace.Remove, Path: "record", Done: true},
	}, stops)
	text, err := os.ReadFile(filepath.Join(folder, "keys"))
	require.NoError(t, err)
	assert.Equal(t, "new", string(text))
}

func TestItDiesRightThere(t *testing.T) {
	for at, want := range map[int]string{1: "old", 3: "old", 4: "new"} {
		stops, folder, code := run(t, at)
		assert.Len(t, stops, at)
		assert.Equal(t, -1, code, "a signal")
		text, err := os.ReadFile(filepath.Join(folder, "keys"))
		require.NoError(t, err)
		assert.Equal(t, want, string(text), "killed at stop %d", at)
	}
}
