package tests

import (
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A worker that is told to reads its configuration again: all of it comes into force, or nothing of it, and what runs goes on.
func TestAWorkerReadsItsConfigurationAgain(t *testing.T) {
	t.Parallel()
	s := prepare(t)
	s.flags = []string{"--allow-unsigned"}
	s.startWorker()
	whole, err := os.ReadFile(s.place.Worker)
	require.NoError(t, err)
	plan := func() (string, int) { return s.starter("plan", credential, "-f", s.place.Inventory) }
	reload := func(text, says string) {
		t.Helper()
		before := len(s.worker.said())
		require.NoError(t, os.WriteFile(s.place.Worker, []byte(text), 0o600))
		require.NoError(t, s.worker.cmd.Process.Signal(syscall.SIGHUP))
		require.True(t, comes(func() bool { return strings.Contains(s.worker.said()[before:], says) }, patience, 20*time.Millisecond), "it never said %s", says)
	}
	out, code := plan()
	require.Zero(t, code, out)
	s.rewrite(s.place.Worker, "principals: [", "principals: [nobody] #")
	narrowed, err := os.ReadFile(s.place.Worker)
	require.NoError(t, err)

	reload(string(narrowed), "the worker configuration is reloaded")
	out, code = plan()
	assert.Equal(t, 3, code, out)
	assert.Contains(t, out, "outside of bounds")
	reload("nonsense: [", "the worker configuration was not reloaded: the one before stays in force")
	out, code = plan()
	assert.Equal(t, 3, code, out)
	reload(string(whole)+"\nextra: true\n", "extra is not a known field")
	bounded := strings.Replace(string(whole), "quota: 50/s", "quota: 40/s", 1)
	require.NotEqual(t, string(whole), bounded)
	for _, text := range []string{string(whole), bounded} { // with another quota the account's queue is polled anew
		reload(text, "the worker configuration is reloaded")
		out, code = plan()
		assert.Zero(t, code, out)
	}
	assert.False(t, s.worker.ended())
}
