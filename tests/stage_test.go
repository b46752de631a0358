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
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/history/v1"
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

// patience is how long a condition is awaited before its test fails. It is long, since the machine may be slow
// and busy, and costs nothing where the condition comes true.
const patience = 15 * time.Minute

// eventually waits for a condition. Other than testify it asks in the test's own goroutine, where a condition may end the test.
func eventually(t testing.TB, condition func() bool, within, every time.Duration, what ...any) {
	t.Helper()
	if !comes(condition, within, every) {
		require.Fail(t, "it never came true", what...)
	}
}

// comes tells whether a condition comes true.
func comes(condition func() bool, within, every time.Duration) bool {
	end, tick := time.Now().Add(within), time.NewTicker(every)
	defer tick.Stop()
	for !condition() {
		if time.Now().After(end) {
			return false
		}
		<-tick.C
	}
	return true
}

// stage is one machine with everything running on it: a Temporal server, the demo services with their
// traffic, and a worker, each a process of its own. The server is one that tests share, or the stage's own.
type stage struct {
	home
	t        *testing.T
	folder   string
	place    place
	server   *process
	services *process
	worker   *process
	health   string
	// flags are the worker's, beside where everything is.
	flags []string
	// variables are of a program's environment, beside those that every program has.
	variables map[string][]string
	// profile, when there is one, says where Temporal is, and the file says what is in it.
	profile, profiles string

	mu sync.Mutex
	// said is all that the command line printed.
	said bytes.Buffer
	// asks is this test's own client.
	asks client.Client
}

// place is what the demo services say of themselves.
type place struct {
	Inventory string `json:"inventory"`
	Worker    string `json:"worker"`
	Audit     string `json:"audit"`
	Snapshot  string `json:"snapshot"`
	Gateway   string `json:"gateway"`
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

// onSharedServer is a stage with nothing on it yet, in a namespace of its own on the server that tests share.
func onSharedServer(t *testing.T) *stage {
	t.Helper()
	return &stage{t: t, folder: t.TempDir(), home: sharedServer(t), variables: map[string][]string{}}
}

// onOwnServer is a stage with nothing on it but a server of its own, which may be ended, and whose database is a file.
func onOwnServer(t *testing.T) *stage {
	t.Helper()
	s := &stage{t: t, folder: t.TempDir(), home: home{namespace: client.DefaultNamespace}, variables: map[string][]string{}}
	s.startServer()
	return s
}

// newStage starts everything. windows are flags of sandbox demo-services.
func newStage(t *testing.T, windows ...string) *stage {
	t.Helper()
	s := prepare(t, windows...)
	s.flags = []string{"--allow-unsigned"}
	s.startWorker()
	return s
}

// prepare starts everything but the worker.
func prepare(t *testing.T, windows ...string) *stage {
	t.Helper()
	return onSharedServer(t).prepared(windows...)
}

// prepared starts the services of a stage that has a server, and prepares its namespace.
func (s *stage) prepared(windows ...string) *stage {
	s.t.Helper()
	s.startServices(windows...)
	out, code := s.starter("setup", "--build-id", "test")
	require.Zero(s.t, code, out)
	return s
}

// startServer starts Temporal, or starts it again at its address.
func (s *stage) startServer() {
	s.t.Helper()
	if s.server != nil { // it was there before
		require.NoError(s.t, s.serve())
		return
	}
	s.listens(func() bool {
		s.address = freeAddress(s.t)
		return s.serve() == nil
	})
}

// listens starts a program that is told its port, until it has that: another may have come first.
func (s *stage) listens(start func() bool) {
	s.t.Helper()
	for range 5 {
		if start() {
			return
		}
	}
	require.Fail(s.t, "it does not start")
}

// serve starts Temporal at its address. Any goroutine may.
func (s *stage) serve() error {
	server, err := launch(s.t, "sandbox", s.command("sandbox", "server", "-o", "json", "--port", port(s.address), "--headless",
		"--db", s.database(), "--log-file", s.database()+".log"))
	if err != nil {
		return err
	}
	s.server = server
	_, err = s.server.address()
	return err
}

// database is Temporal's file.
func (s *stage) database() string { return filepath.Join(s.folder, "temporal.db") }

func (s *stage) startServices(flags ...string) {
	s.t.Helper()
	s.services = s.start("sandbox", append([]string{"demo-services", "--folder", filepath.Join(s.folder, "demo")}, flags...)...)
	s.services.firstLine(&s.place)
}

func (s *stage) startWorker() {
	s.t.Helper()
	s.worker = s.start("worker", append([]string{"--config", s.place.Worker, s.connection(),
		"--health-address", anyPort, "--build-id", "test", "--log-format", "json"}, s.flags...)...)
	s.health = s.polls(s.worker)
}

// anyPort has a program choose its port; it tells which one that is.
const anyPort = "127.0.0.1:0"

// polls waits until a worker polls, and returns the address of its health checks.
func (s *stage) polls(worker *process) string {
	s.t.Helper()
	health := worker.says(`serving health checks"\W+address\W+([\d.:]+)`)
	eventually(s.t, func() bool { return worker.ended() || s.get("http://"+health+"/readyz") == http.StatusOK }, patience, 50*time.Millisecond, "the worker polls")
	require.False(s.t, worker.ended(), "the worker ended")
	return health
}

func (s *stage) restartWorker() {
	s.t.Helper()
	s.worker.end(syscall.SIGTERM)
	s.startWorker()
}

// rewrite changes a file.
func (s *stage) rewrite(file, old, with string) {
	s.t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(s.t, err)
	require.Contains(s.t, string(text), old)
	require.NoError(s.t, os.WriteFile(file, []byte(strings.Replace(string(text), old, with, 1)), 0o600))
}

func (s *stage) get(url string) int {
	resp, err := http.Get(url)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

// freeAddress is one that nobody listens on, for programs that cannot choose and tell, or that come back to their port: no
// connection and no other test is given it by chance, since it is below the ports that the system chooses from.
func freeAddress(t *testing.T) string {
	t.Helper()
	for range 1000 {
		port := 20000 + (os.Getpid()*101+int(ports.Add(1)))%12000
		if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			defer l.Close()
			return l.Addr().String()
		}
	}
	require.Fail(t, "no port is free")
	return ""
}

// ports counts those that were given out.
var ports atomic.Int32

func port(address string) string { return address[strings.LastIndex(address, ":")+1:] }

// process is a program that runs until the test ends, or all tests do.
type process struct {
	t     testing.TB
	cmd   *exec.Cmd
	lines chan string

	mu   sync.Mutex
	text bytes.Buffer
	done chan struct{}
}

// start runs a program with nothing of this test's environment but what Go programs need.
func (s *stage) start(program string, args ...string) *process {
	s.t.Helper()
	return follow(s.t, program, s.command(program, args...))
}

func (s *stage) command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(programs, program), args...)
	cmd.Env = append(s.environment(), s.variables[program]...)
	return cmd
}

// follow starts a command and keeps what it says.
func follow(t testing.TB, name string, cmd *exec.Cmd) *process {
	t.Helper()
	p, err := launch(t, name, cmd)
	require.NoError(t, err)
	return p
}

// launch is follow for any goroutine.
func launch(t testing.TB, name string, cmd *exec.Cmd) (*process, error) {
	p, err := spawn(cmd)
	if err != nil {
		return nil, err
	}
	p.t = t
	t.Cleanup(func() {
		p.end(syscall.SIGTERM)
		if t.Failed() {
			t.Logf("%s said:\n%s", name, p.said())
		}
	})
	return p, nil
}

// spawn starts a command that belongs to no test.
func spawn(cmd *exec.Cmd) (*process, error) {
	p := &process{cmd: cmd, lines: make(chan string, 1000), done: make(chan struct{})}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.cmd.Stderr = p
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		scanner := bufio.NewScanner(out)
		scanner.Buffer(nil, 1<<20)
		for scanner.Scan() {
			select {
			case p.lines <- scanner.Text():
			default: // a server that says much would wait for a reader for ever
			}
		}
		close(p.lines)
		_ = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

func (s *stage) environment() []string {
	where := "TEMPORAL_ADDRESS=" + s.address
	if s.profile != "" {
		where = "TEMPORAL_CONFIG_FILE=" + s.profiles
	}
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.folder, where, "TEMPORAL_NAMESPACE=" + s.namespace}
}

// connection is the flag that leads worker and starter to Temporal.
func (s *stage) connection() string {
	if s.profile != "" {
		return "--profile=" + s.profile
	}
	return "--address=" + s.address
}

// Write keeps what the program says on its standard error.
func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.Write(b)
}

// said is its standard error so far.
func (p *process) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.String()
}

// says waits for what a pattern describes on the standard error, and returns its first group.
func (p *process) says(pattern string) string {
	p.t.Helper()
	found := p.hears(pattern)
	require.NotNil(p.t, found, "it never said %s", pattern)
	return found[1]
}

// hears is says for a program that may end before: then there is nothing.
func (p *process) hears(pattern string) (found []string) {
	what := regexp.MustCompile(pattern)
	comes(func() bool {
		ended := p.ended() // then this is all
		found = what.FindStringSubmatch(p.said())
		return found != nil || ended
	}, patience, 50*time.Millisecond)
	return found
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// firstLine reads the JSON with which a program says that it is ready.
func (p *process) firstLine(into any) {
	p.t.Helper()
	require.NoError(p.t, p.first(into))
}

// first is firstLine for any goroutine.
func (p *process) first(into any) error {
	select {
	case line, ok := <-p.lines:
		if !ok {
			<-p.done
			return fmt.Errorf("the program ended: %s", p.said())
		}
		return json.Unmarshal([]byte(line), into)
	case <-time.After(patience):
		return errors.New("the program said nothing")
	}
}

// end sends a signal and waits for the program to end. It may be called twice.
func (p *process) end(signal syscall.Signal) {
	_ = p.cmd.Process.Signal(signal)
	select {
	case <-p.done:
	case <-time.After(patience):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// starter runs the command line and returns what it printed, and its exit code: of a result for programs that alone.
func (s *stage) starter(args ...string) (string, int) {
	s.t.Helper()
	cmd := exec.Command(filepath.Join(programs, "starter"), append([]string{s.connection()}, args...)...)
	cmd.Env = append(s.environment(), s.variables["starter"]...)
	var out, result bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	forPrograms := slices.Contains(args, "json")
	if forPrograms {
		cmd.Stdout = &result
	}
	err := cmd.Run()
	var exited *exec.ExitError
	if !errors.As(err, &exited) {
		require.NoError(s.t, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.said.Write(out.Bytes())
	s.said.Write(result.Bytes())
	if forPrograms && err == nil {
		return result.String(), 0 // what is warned of stands beside it
	}
	return out.String() + result.String(), cmd.ProcessState.ExitCode()
}

// client is the test's own: it may do all that the namespace allows.
func (s *stage) client() client.Client {
	s.t.Helper()
	if s.asks == nil {
		s.asks = s.dial(s.t)
		s.t.Cleanup(s.asks.Close)
	}
	return s.asks
}

// status is what the rotation says of itself; the zero one while it cannot be asked.
func (s *stage) status() workflows.Status {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Second)
	defer cancel()
	var status workflows.Status
	if answer, err := s.client().QueryWorkflow(ctx, workflows.WorkflowID(credential), "", workflows.StatusName); err == nil && answer.Get(&status) == nil {
		return status
	}
	// No worker answers: the command line knows the end of one that has ended.
	if out, code := s.starter("status", credential, "-o", "json"); code == 0 {
		_ = json.Unmarshal([]byte(out), &status)
	}
	return status
}

// await waits for a phase.
func (s *stage) await(phase workflows.Phase) workflows.Status {
	s.t.Helper()
	return s.awaitThat("the rotation comes to "+string(phase), func(status workflows.Status) bool { return status.Phase == phase })
}

// awaitThat waits until the rotation stands as described.
func (s *stage) awaitThat(what string, holds func(workflows.Status) bool) workflows.Status {
	s.t.Helper()
	var status workflows.Status
	comes(func() bool {
		status = s.status()
		return holds(status) || status.Report != nil // an ended one changes no more
	}, patience, 200*time.Millisecond)
	if holds(status) {
		return status
	}
	text, err := json.MarshalIndent(status, "", " ")
	require.NoError(s.t, err)
	require.Fail(s.t, what, "but it stands so: %s", text)
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

// patientReplayer knows all workflows, and takes no slow machine for a deadlock.
func patientReplayer(t *testing.T) worker.WorkflowReplayer {
	t.Helper()
	replayer, err := worker.NewWorkflowReplayerWithOptions(worker.WorkflowReplayerOptions{DisableDeadlockDetection: true})
	require.NoError(t, err)
	host.Register(replayer)
	return replayer
}

// replays runs the rotation's history through this build's workflow code.
func (s *stage) replays() {
	s.t.Helper()
	replayer := patientReplayer(s.t)
	require.NoError(s.t, replayer.ReplayWorkflowHistoryWithOptions(silent, s.history(), worker.ReplayWorkflowHistoryOptions{
		OriginalExecution: workflow.Execution{ID: workflows.WorkflowID(credential)},
	}))
}

// silent drops what the SDK has to say.
var silent = log.NewStructuredLogger(slog.New(slog.DiscardHandler))

func (s *stage) history() *history.History {
	s.t.Helper()
	events := s.client().GetWorkflowHistory(s.t.Context(), workflows.WorkflowID(credential), "", false, enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	var whole history.History
	for events.HasNext() {
		event, err := events.Next()
		require.NoError(s.t, err)
		whole.Events = append(whole.Events, event)
	}
	return &whole
}

// trail is the audit record, without the values that were read.
func (s *stage) trail() []string {
	s.t.Helper()
	trail, err := audit.Read(s.place.Audit)
	require.NoError(s.t, err)
	var types []string
	for _, e := range trail.Events {
		if e.Type != audit.ValueRead { // each attempt says what it reads
			types = append(types, fmt.Sprint(e.Type))
		}
	}
	return types
}
