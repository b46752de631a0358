package tests

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
	"log/slog"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/host"
	"github.com/keyturn/keyturn/workflows"
)

const credential = "payments-api"

// stage is one machine with everything running on it: a Temporal server, the demo services with their
// traffic, and a worker, each a process of its own.
type stage struct {
	t        *testing.T
	folder   string
	address  string
	place    place
	services *process
	worker   *process
	health   string
}

// place is what the demo services say of themselves.
type place struct {
	Inventory string `json:"inventory"`
	Worker    string `json:"worker"`
	Audit     string `json:"audit"`
	Snapshot  string `json:"snapshot"`
}

// traffic is what was counted.
type traffic struct {
	Sent      int `json:"sent"`
	Refused   int `json:"refused"`
	Failed    int `json:"failed"`
	Consumers []struct {
		Name string `json:"name"`
		Key  string `json:"key"`
	} `json:"consumers"`
}

// newStage starts everything. windows are flags of sandbox demo-services.
func newStage(t *testing.T, windows ...string) *stage {
	t.Helper()
	s := &stage{t: t, folder: t.TempDir()}
	server := s.start("sandbox", "server", "-o", "json", "--port", "0", "--ui-port", "0", "--db", filepath.Join(s.folder, "temporal.db"))
	var where struct {
		Address string `json:"address"`
	}
	server.firstLine(&where)
	s.address = where.Address

	s.services = s.start("sandbox", append([]string{"demo-services", "--folder", filepath.Join(s.folder, "demo")}, windows...)...)
	s.services.firstLine(&s.place)

	out, code := s.starter("setup", "--build-id", "test")
	require.Zero(t, code, out)
	s.startWorker()
	return s
}

func (s *stage) startWorker() {
	s.t.Helper()
	s.health = freeAddress(s.t)
	s.worker = s.start("worker", "--config", s.place.Worker, "--address", s.address, "--allow-unsigned",
		"--health-address", s.health, "--build-id", "test", "--log-format", "json")
	require.Eventually(s.t, func() bool { return s.get("http://"+s.health+"/readyz") == http.StatusOK }, 30*time.Second, 50*time.Millisecond, "the worker polls")
}

func (s *stage) get(url string) int {
	resp, err := http.Get(url)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

// process is a program that runs until the test ends.
type process struct {
	t     *testing.T
	cmd   *exec.Cmd
	lines chan string

	mu   sync.Mutex
	text bytes.Buffer
	done chan struct{}
}

// start runs a program with nothing of this test's environment but what Go programs need.
func (s *stage) start(program string, args ...string) *process {
	s.t.Helper()
	p := &process{t: s.t, cmd: exec.Command(filepath.Join(programs, program), args...), lines: make(chan string, 1000), done: make(chan struct{})}
	p.cmd.Env = s.environment()
	out, err := p.cmd.StdoutPipe()
	require.NoError(s.t, err)
	p.cmd.Stderr = p
	require.NoError(s.t, p.cmd.Start())
	go func() {
		scanner := bufio.NewScanner(out)
		scanner.Buffer(nil, 1<<20)
		for scanner.Scan() {
			p.lines <- scanner.Text()
		}
		close(p.lines)
		_ = p.cmd.Wait()
		close(p.done)
	}()
	s.t.Cleanup(func() {
		p.end(syscall.SIGTERM)
		if s.t.Failed() {
			p.mu.Lock()
			defer p.mu.Unlock()
			s.t.Logf("%s said:\n%s", program, p.text.String())
		}
	})
	return p
}

func (s *stage) environment() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.folder, "TEMPORAL_ADDRESS=" + s.address}
}

// Write keeps what the program says on its standard error.
func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.Write(b)
}

// firstLine reads the JSON with which a program says that it is ready.
func (p *process) firstLine(into any) {
	p.t.Helper()
	select {
	case line, ok := <-p.lines:
		p.mu.Lock()
		defer p.mu.Unlock()
		require.True(p.t, ok, "the program ended: %s", p.text.String())
		require.NoError(p.t, json.Unmarshal([]byte(line), into), line)
	case <-time.After(time.Minute):
		require.Fail(p.t, "the program said nothing")
	}
}

// end sends a signal and waits for the program to end. It may be called twice.
func (p *process) end(signal syscall.Signal) {
	_ = p.cmd.Process.Signal(signal)
	select {
	case <-p.done:
	case <-time.After(40 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// starter runs the command line and returns what it printed, and its exit code.
func (s *stage) starter(args ...string) (string, int) {
	s.t.Helper()
	cmd := exec.Command(filepath.Join(programs, "starter"), append([]string{"--address", s.address}, args...)...)
	cmd.Env = s.environment()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	var exited *exec.ExitError
	if !errors.As(err, &exited) {
		require.NoError(s.t, err)
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

// status is what the rotation says of itself; the zero one while it cannot be asked.
func (s *stage) status() workflows.Status {
	var status workflows.Status
	if out, code := s.starter("status", credential, "-o", "json"); code == 0 {
		_ = json.Unmarshal([]byte(out), &status)
	}
	return status
}

// await waits for a phase.
func (s *stage) await(phase workflows.Phase) workflows.Status {
	s.t.Helper()
	var status workflows.Status
	require.Eventually(s.t, func() bool {
		status = s.status()
		return status.Phase == phase
	}, 2*time.Minute, 200*time.Millisecond, "the rotation comes to %s", phase)
	return status
}

// report waits for the end of the rotation.
func (s *stage) report() workflows.Report {
	s.t.Helper()
	status := s.await(workflows.PhaseEnded)
	require.NotNil(s.t, status.Report)
	return *status.Report
}

// traffic ends the services and returns all that they counted.
func (s *stage) traffic() traffic {
	s.t.Helper()
	s.services.end(syscall.SIGTERM)
	var last string
	for line := range s.services.lines {
		last = line
	}
	var counted traffic
	require.NoError(s.t, json.Unmarshal([]byte(last), &counted), last)
	return counted
}

// now is what the services have counted so far.
func (s *stage) now() traffic {
	s.t.Helper()
	resp, err := http.Get(s.place.Snapshot)
	require.NoError(s.t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(s.t, err)
	var counted traffic
	require.NoError(s.t, json.Unmarshal(text, &counted))
	return counted
}

// nobodyRefused sees that traffic flowed and that none of it was refused.
func (s *stage) nobodyRefused() {
	s.t.Helper()
	counted := s.traffic()
	assert.Greater(s.t, counted.Sent, 100, "traffic flowed")
	assert.Zero(s.t, counted.Refused, "requests refused")
	assert.Zero(s.t, counted.Failed, "requests without answer")
}

// replays runs the rotation's history through this build's workflow code.
func (s *stage) replays() {
	s.t.Helper()
	silent := log.NewStructuredLogger(slog.New(slog.DiscardHandler))
	c, err := client.Dial(client.Options{HostPort: s.address, Logger: silent})
	require.NoError(s.t, err)
	defer c.Close()
	replayer := worker.NewWorkflowReplayer()
	host.Register(replayer)
	require.NoError(s.t, replayer.ReplayWorkflowExecution(context.Background(), c.WorkflowService(), silent, client.DefaultNamespace,
		workflow.Execution{ID: workflows.WorkflowID(credential)}))
}

// trail is the audit record.
func (s *stage) trail() []string {
	s.t.Helper()
	trail, err := audit.Read(s.place.Audit)
	require.NoError(s.t, err)
	var types []string
	for _, e := range trail.Events {
		types = append(types, fmt.Sprint(e.Type))
	}
	return types
}
