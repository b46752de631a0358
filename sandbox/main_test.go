package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/log"

	"github.com/keyturn/keyturn/sandbox/internal/demo"
	"github.com/keyturn/keyturn/sandbox/internal/devserver"
)

// asSandbox makes the test binary the program itself.
const asSandbox = "KEYTURN_TEST_AS_SANDBOX"

func TestMain(m *testing.M) {
	if os.Getenv(asSandbox) != "" {
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin) // until whoever began it ends
			os.Exit(1)
		}()
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// process is a running sandbox.
type process struct {
	cmd    *exec.Cmd
	lines  *bufio.Scanner
	errors bytes.Buffer
}

func begin(t *testing.T, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(os.Args[0], args...)}
	p.cmd.Env = append(os.Environ(), asSandbox+"=1")
	p.cmd.Stderr = &p.errors
	_, err := p.cmd.StdinPipe()
	require.NoError(t, err)
	out, err := p.cmd.StdoutPipe()
	require.NoError(t, err)
	p.lines = bufio.NewScanner(out)
	p.lines.Buffer(nil, 1<<20)
	require.NoError(t, p.cmd.Start())
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait() // an error when it was waited for
		if t.Failed() {
			t.Logf("%s said:\n%s", args, p.errors.String())
		}
	})
	return p
}

// reads the next line of output as JSON.
func (p *process) reads(t *testing.T, into any) {
	t.Helper()
	require.True(t, p.lines.Scan(), "it prints a line")
	require.NoError(t, json.Unmarshal(p.lines.Bytes(), into), p.lines.Text())
}

// ends the process as Ctrl-C does, without the terminal.
func (p *process) ends(t *testing.T) {
	t.Helper()
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
}

func (p *process) waits(t *testing.T) {
	t.Helper()
	require.False(t, p.lines.Scan(), "it prints nothing more")
	require.NoError(t, p.cmd.Wait(), "it ends well")
	for line := range strings.Lines(p.errors.String()) {
		assert.Contains(t, line, "still starting", "of errors it has none")
	}
}

func TestServerServesUntilItIsTold(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "temporal.db")
	p := begin(t, "server", "--port", "0", "--ui-port", "0", "--db", file, "--retention", "5s", "--log-file", file+".log", "-o", "json")
	var s served
	p.reads(t, &s)
	assert.Equal(t, served{Address: s.Address, UI: s.UI, Namespace: "default", Database: file, PID: p.cmd.Process.Pid}, s)
	c, err := client.Dial(client.Options{
		HostPort: s.Address, Logger: log.NewStructuredLogger(slog.New(slog.DiscardHandler)),
		ConnectionOptions: client.ConnectionOptions{GetSystemInfoTimeout: devserver.ReadyWithin},
	})
	require.NoError(t, err)
	c.Close()
	resp, err := http.Get(s.UI)
	require.NoError(t, err)
	_ = resp.Body.Close()
	assert.Equal(t, http.StatusOK, resp.StatusCode)
	p.ends(t)
	p.waits(t)
	assert.FileExists(t, file+".log")
}

func TestServersAtOnceTakePortsOfTheirOwn(t *testing.T) {
	t.Parallel()
	both := []*process{begin(t, "server", "-o", "json"), begin(t, "server", "-o", "json")} // both want the usual ports
	var at [2]served
	for i, p := range both {
		p.reads(t, &at[i])
	}
	assert.NotEqual(t, at[0].Address, at[1].Address)
	assert.NotEqual(t, at[0].UI, at[1].UI)
	for _, p := range both {
		p.ends(t)
		p.waits(t)
	}
}

func TestOnceLeavesItsFolderWhenThereIsAReason(t *testing.T) {
	t.Parallel()
	failed := errors.New("the rotation failed")
	for name, c := range map[string]struct {
		once, given bool
		err         error
		stays       bool
	}{
		"a success":                      {once: true},
		"a failure":                      {once: true, err: failed, stays: true},
		"a success in somebody's folder": {once: true, given: true, stays: true},
		"a failure in somebody's folder": {once: true, given: true, err: failed, stays: true},
		"a sandbox to look at":           {stays: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			folder, err := demo.MakeFolder(filepath.Join(t.TempDir(), "state"))
			require.NoError(t, err)
			o := demoOptions{once: c.once}
			if c.given {
				o.folder = string(folder)
			}
			err = o.leave(folder, c.err)
			require.ErrorIs(t, err, c.err)
			if c.err != nil {
				assert.ErrorContains(t, err, string(folder))
			}
			if c.stays {
				assert.DirExists(t, folder.Store())
			} else {
				assert.NoDirExists(t, string(folder))
			}
		})
	}
}

func TestServerTellsPeopleHowToUseIt(t *testing.T) {
	t.Parallel()
	p := begin(t, "server", "--port", "0", "--headless")
	var text strings.Builder
	for p.lines.Scan() {
		text.WriteString(p.lines.Text() + "\n")
		if strings.Contains(p.lines.Text(), "Ctrl-C") {
			p.ends(t)
		}
	}
	require.NoError(t, p.cmd.Wait())
	assert.Contains(t, text.String(), "TEMPORAL_ADDRESS=127.0.0.1:")
	assert.Contains(t, text.String(), "in memory")
}

func TestDemoServicesRunUntilTheyAreTold(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), "state")
	p := begin(t, "demo-services", "--folder", folder, "--every", "5ms", "--overlap", "30s", "--stuck", "checkout-b")
	var place demo.Place
	p.reads(t, &place)
	text, err := os.ReadFile(place.Inventory)
	require.NoError(t, err)
	assert.Contains(t, string(text), "overlap: 30s")

	var meanwhile, final demo.Snapshot
	resp, err := http.Get(place.Snapshot)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&meanwhile))
	p.ends(t)
	p.reads(t, &final)
	p.waits(t)
	assert.Len(t, final.Consumers, 3)
	assert.GreaterOrEqual(t, final.Sent, max(meanwhile.Sent, 3))
	assert.Zero(t, final.Refused+final.Failed)
	accepted := 0
	for _, e := range final.Ledger {
		accepted += e.Accepted
	}
	assert.Equal(t, final.Sent, accepted)
}

func TestUsage(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = taken.Close() })
	_, port, err := net.SplitHostPort(taken.Addr().String())
	require.NoError(t, err)
	for name, c := range map[string]struct {
		args []string
		says string
	}{
		"an unknown command":           {[]string{"serve"}, "serve"},
		"an unknown output":            {[]string{"server", "-o", "xml"}, "write text or json"},
		"a retention without a unit":   {[]string{"server", "--retention", "5"}, "numbers with units"},
		"a port that is taken":         {[]string{"server", "--port", port}, "choose another"},
		"a log file that cannot be":    {[]string{"server", "--log-file", "/nowhere/x"}, "--log-file"},
		"an instance that there isn't": {[]string{"demo-services", "--folder", t.TempDir(), "--stuck", "x"}, "checkout-canary"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := begin(t, c.args...)
			assert.False(t, p.lines.Scan())
			require.Error(t, p.cmd.Wait())
			assert.Equal(t, 1, p.cmd.ProcessState.ExitCode())
			assert.Contains(t, p.errors.String(), c.says)
			assert.Equal(t, 1, strings.Count(p.errors.String(), "\n"), "one line")
		})
	}
}

func TestAnotherPortThanTheUsualOneIsSaidLast(t *testing.T) {
	t.Parallel()
	assert.Contains(t, howToUse("127.0.0.1:7233"), "Use it with TEMPORAL_ADDRESS=127.0.0.1:7233")
	assert.NotContains(t, howToUse("127.0.0.1:7233"), "export")
	lines := strings.Split(strings.TrimSpace(howToUse("127.0.0.1:40123")), "\n")
	assert.Equal(t, "  export TEMPORAL_ADDRESS=127.0.0.1:40123", lines[len(lines)-1])
	assert.Contains(t, howToUse("127.0.0.1:40123"), "ATTENTION")
}
