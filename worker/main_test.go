package main

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// readersEnv makes this test binary a worker that writes after everybody who read it has gone.
const readersEnv = "KEYTURN_WORKER_TEST_READERS"

func TestMain(m *testing.M) {
	if os.Getenv(readersEnv) == "" {
		os.Exit(m.Run())
	}
	outliveReaders()
	if _, err := os.Stdout.WriteString("{}\n"); !errors.Is(err, syscall.EPIPE) {
		os.Exit(1)
	}
	os.Exit(0)
}

func TestAWorkerOutlivesWhoeverReadsWhatItWrites(t *testing.T) {
	t.Parallel()
	from, to, err := os.Pipe()
	require.NoError(t, err)
	require.NoError(t, from.Close())
	worker := exec.Command(os.Args[0])
	worker.Env, worker.Stdout = append(os.Environ(), readersEnv+"=gone"), to
	require.NoError(t, worker.Run())
	require.NoError(t, to.Close())
}

func TestTheWorkersExitCodes(t *testing.T) {
	t.Parallel()
	broken := filepath.Join(t.TempDir(), "keyturn-worker.yaml")
	require.NoError(t, os.WriteFile(broken, []byte("apiVersion: keyturn/worker/v1\nacounts: {}\ntrsut: {}\n"), 0o600))
	missing := filepath.Join(t.TempDir(), "none.yaml")
	for name, c := range map[string]struct {
		args []string
		code int
		says string
	}{
		"its version":                       {[]string{"version"}, exitDone, "keyturn-worker "},
		"its help":                          {[]string{"--help"}, exitDone, "Exit codes"},
		"an unknown command":                {[]string{"frob"}, exitUsage, `keyturn-worker: unknown command "frob"`},
		"an unknown flag":                   {[]string{"--nonsense"}, exitUsage, "keyturn-worker: unknown flag: --nonsense"},
		"an unknown flag of a command":      {[]string{"run", "--nonsense"}, exitUsage, "keyturn-worker: unknown flag: --nonsense"},
		"an import of nothing":              {[]string{"import"}, exitUsage, "keyturn-worker: name one credential"},
		"a configuration that is not there": {[]string{"--config", missing}, exitUsage, "none.yaml"},
		"the same, asked to run":            {[]string{"run", "--config", missing}, exitUsage, "none.yaml"},
		"a configuration that is invalid":   {[]string{"run", "--config", broken}, exitUsage, "acounts"},
		"a level of logs that is none":      {[]string{"--log-level", "loud"}, exitUsage, "--log-level"},
		"a format of logs that is none":     {[]string{"--log-format", "xml"}, exitUsage, "--log-format"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			assert.Equal(t, c.code, run(t.Context(), c.args, &out, &out), out.String())
			assert.Contains(t, out.String(), c.says)
			if c.code != exitDone {
				for line := range strings.SplitSeq(strings.TrimSuffix(out.String(), "\n"), "\n") {
					assert.True(t, strings.HasPrefix(line, "keyturn-worker: "), line)
				}
			}
		})
	}
}

func TestAWorkerSaysWhyItDoesNotReachTemporal(t *testing.T) {
	t.Parallel()
	config := filepath.Join(t.TempDir(), "keyturn-worker.yaml")
	require.NoError(t, os.WriteFile(config, []byte("apiVersion: keyturn/worker/v1\naccounts: {vault: {type: file, root: /nowhere}}\nbounds: {sandbox: {}}\n"), 0o600))
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = silent.Close() })
	for name, c := range map[string]struct {
		address string
		code    int
		says    string
	}{
		"nobody listens":  {"127.0.0.1:1", exitFailed, "the connection is refused"},
		"nothing is said": {silent.Addr().String(), exitTimedOut, "it takes the connection and says nothing"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second) // nobody answers
			defer cancel()
			var out bytes.Buffer
			assert.Equal(t, c.code, run(ctx, []string{"--config", config, "--address", c.address, "--health-address", "", "--allow-unsigned"}, &out, &out), out.String())
			assert.Contains(t, out.String(), "keyturn-worker: connecting to Temporal at "+c.address+": "+c.says)
			assert.NotContains(t, out.String(), "transport")
		})
	}
}
