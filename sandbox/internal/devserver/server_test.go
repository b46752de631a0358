package devserver

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/cookiejar"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
	"go.temporal.io/server/common/primitives"
	schema "go.temporal.io/server/schema/sqlite"

	"github.com/keyturn/keyturn/workflows"
)

// childFile makes the test binary a server on this database, to be killed.
const childFile = "KEYTURN_TEST_DATABASE"

func TestMain(m *testing.M) {
	file := os.Getenv(childFile)
	if file == "" {
		os.Exit(m.Run())
	}
	s, err := Start(context.Background(), Options{File: file, Headless: true, Log: os.Stderr})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(s.Address())
	_, _ = io.Copy(io.Discard, os.Stdin) // until it is killed, or whoever began it ends
}

// patience ends a hang. What is waited for surely comes, in its own time.
const patience = 3 * time.Minute

func start(t *testing.T, o Options) *Server {
	t.Helper()
	s, err := Start(t.Context(), o)
	require.NoError(t, err)
	t.Cleanup(s.Stop)
	return s
}

func dial(t *testing.T, address string) client.Client {
	t.Helper()
	c, err := client.Dial(client.Options{
		HostPort: address, Logger: log.NewStructuredLogger(slog.New(slog.DiscardHandler)),
		ConnectionOptions: client.ConnectionOptions{GetSystemInfoTimeout: patience},
	})
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

// begin starts a workflow that nobody works on, with a search attribute of keyturn's.
func begin(t *testing.T, c client.Client, id string) {
	t.Helper()
	_, err := c.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{
		ID: id, TaskQueue: "nobody", TypedSearchAttributes: temporal.NewSearchAttributes(
			workflows.AttributeCredential.ValueSet(id), workflows.AttributeLabels.ValueSet([]string{"team=payments"}),
		),
	}, "Rotation")
	require.NoError(t, err)
}

// awaitListed returns once a list by search attributes has the workflow.
func awaitListed(t *testing.T, c client.Client, id string) {
	t.Helper()
	ctx := t.Context()
	require.EventuallyWithT(t, func(t *assert.CollectT) {
		found, err := c.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{
			Query: fmt.Sprintf("KeyturnCredential = '%s' AND KeyturnLabels = 'team=payments'", id),
		})
		assert.NoError(t, err)
		assert.Len(t, found.GetExecutions(), 1)
	}, patience, 20*time.Millisecond)
}

func retention(t *testing.T, c client.Client) time.Duration {
	t.Helper()
	d, err := c.WorkflowService().DescribeNamespace(t.Context(), &workflowservice.DescribeNamespaceRequest{Namespace: Namespace})
	require.NoError(t, err)
	return d.GetConfig().GetWorkflowExecutionRetentionTtl().AsDuration()
}

func TestServerCanBeUsedAtOnce(t *testing.T) {
	t.Parallel()
	var warnings buffer
	s := start(t, Options{Log: &warnings})
	c := dial(t, s.Address())

	begin(t, c, "payments-api")
	awaitListed(t, c, "payments-api")
	assert.Equal(t, DefaultRetention, retention(t, c))

	asked := map[string]string{
		"the page":           "/",
		"the settings":       "/api/v1/settings",
		"the list of runs":   "/api/v1/namespaces/default/workflows",
		"the page of a run":  "/namespaces/default/workflows/rotation%2Fx/y",
		"what the run is of": "/api/v1/namespaces/default/workflows/payments-api",
	}
	for what, path := range asked {
		require.NoError(t, answers(t.Context(), s.UIURL()+path), what)
	}
	resp, err := http.Get(s.UIURL() + "/api/v1/namespaces/default/workflows")
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	assert.Contains(t, string(body), "payments-api", "the Web UI talks to this server")

	for _, line := range bytes.Split(bytes.TrimSpace(warnings.Bytes()), []byte("\n")) {
		var entry struct{ Level string }
		if len(line) > 0 && assert.NoError(t, json.Unmarshal(line, &entry)) {
			assert.NotContains(t, []string{"debug", "info"}, entry.Level)
		}
	}
}

func TestWorkflowsSetSearchAttributesAtOnce(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Headless: true})
	assert.Empty(t, s.UIURL())
	assert.Empty(t, s.RunURL("a", "b"))
	c := dial(t, s.Address())
	w := worker.New(c, "q", worker.Options{})
	w.RegisterWorkflowWithOptions(func(ctx workflow.Context) error {
		return workflow.UpsertTypedSearchAttributes(ctx, workflows.AttributePhase.ValueSet("overlap"), workflows.AttributeRotateBy.ValueSet(workflow.Now(ctx)))
	}, workflow.RegisterOptions{Name: "Sets"})
	require.NoError(t, w.Start())
	defer w.Stop()
	run, err := c.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: "sets", TaskQueue: "q"}, "Sets")
	require.NoError(t, err)
	require.NoError(t, run.Get(t.Context(), nil))
}

// child is a server in a process of its own, until it is killed.
func child(t *testing.T, file string) (address string, kill func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childFile+"="+file)
	var said bytes.Buffer
	cmd.Stderr = &said
	_, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	kill = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	t.Cleanup(func() {
		kill()
		if t.Failed() {
			t.Logf("the child said:\n%s", said.String())
		}
	})
	lines := bufio.NewScanner(out)
	require.True(t, lines.Scan(), "the child says where it is")
	return lines.Text(), kill
}

func TestFileSurvivesAKill(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "a b?c#d%20.db")
	for round := range 3 {
		address, kill := child(t, file)
		c := dial(t, address)
		for before := range round {
			awaitListed(t, c, "credential-"+strconv.Itoa(before))
		}
		id := "credential-" + strconv.Itoa(round)
		begin(t, c, id)
		awaitListed(t, c, id)
		kill()
	}
	for _, name := range []string{file, file + "-wal"} {
		info, err := os.Stat(name)
		require.NoError(t, err)
		assert.Equal(t, os.FileMode(0o600), info.Mode().Perm(), name)
	}
}

func TestFileOfAnOlderKeyturnGetsTheSearchAttributes(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "old.db")
	require.NoError(t, makeFile(file))
	space, err := schema.NewNamespaceConfig(clusterName, Namespace, false, nil)
	require.NoError(t, err)
	require.NoError(t, schema.CreateNamespaces(inFile(file), space))

	s := start(t, Options{File: file, Headless: true})
	c := dial(t, s.Address())
	begin(t, c, "payments-api")
	assert.Equal(t, 24*time.Hour, retention(t, c), "an existing namespace keeps its retention")
	s.Stop()

	s = start(t, Options{File: file, Headless: true, Retention: 90 * time.Second})
	assert.Equal(t, 90*time.Second, retention(t, dial(t, s.Address())))
}

func TestClosedWorkflowsGoAfterTheRetention(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Headless: true, Retention: time.Second})
	c := dial(t, s.Address())
	begin(t, c, "payments-api")
	require.NoError(t, c.TerminateWorkflow(t.Context(), "payments-api", "", "no need"))
	ctx := t.Context()
	assert.EventuallyWithT(t, func(t *assert.CollectT) {
		_, err := c.DescribeWorkflowExecution(ctx, "payments-api", "")
		var gone *serviceerror.NotFound
		assert.ErrorAs(t, err, &gone)
	}, patience, 50*time.Millisecond)
}

func TestStartRefuses(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", loopback+":0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = taken.Close() }) // after the cases, which run later
	port := taken.Addr().(*net.TCPAddr).Port
	file := filepath.Join(t.TempDir(), "used.db")
	start(t, Options{File: file, Headless: true})

	for name, c := range map[string]struct {
		options Options
		want    error
	}{
		"a taken port":               {Options{Port: port}, ErrPortTaken},
		"a taken port of the Web UI": {Options{UIPort: port}, ErrPortTaken},
		"a database in use":          {Options{File: file}, ErrInUse},
		"a folder that is not there": {Options{File: filepath.Join(t.TempDir(), "no", "x.db")}, os.ErrNotExist},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Start(t.Context(), c.options)
			assert.ErrorIs(t, err, c.want)
		})
	}
}

func TestListenersAtOnceGetPortsOfTheirOwn(t *testing.T) {
	t.Parallel()
	taken, err := listen(0, false)
	require.NoError(t, err)
	t.Cleanup(func() { _ = taken.Close() })
	port := taken.Addr().(*net.TCPAddr).Port

	// Half of them come after somebody else, half while the port is given free.
	const many = 16
	var (
		all  = make([]net.Listener, many)
		errs = make([]error, many)
		wg   sync.WaitGroup
	)
	for i := range many {
		if i == many/2 {
			require.NoError(t, taken.Close())
		}
		wg.Go(func() { all[i], errs[i] = listen(port, true) })
	}
	wg.Wait()
	seen := map[string]bool{}
	for i, l := range all {
		require.NoError(t, errs[i])
		t.Cleanup(func() { _ = l.Close() })
		assert.False(t, seen[l.Addr().String()], "two listen on %s", l.Addr())
		seen[l.Addr().String()] = true
	}
}

func TestServersThatWantTheSamePortsBothLive(t *testing.T) {
	t.Parallel()
	first := start(t, Options{})
	second := start(t, Options{
		Port: first.ports[primitives.FrontendService].Addr().(*net.TCPAddr).Port, OrAnotherPort: true,
		UIPort: first.ports[webUI].Addr().(*net.TCPAddr).Port, OrAnotherUIPort: true,
	})
	assert.NotEqual(t, first.Address(), second.Address())
	assert.NotEqual(t, first.UIURL(), second.UIURL())
	for i, s := range []*Server{first, second} {
		id := "credential-" + strconv.Itoa(i)
		c := dial(t, s.Address())
		begin(t, c, id)
		awaitListed(t, c, id)
		require.NoError(t, answers(t.Context(), s.UIURL()+"/api/v1/namespaces/default/workflows/"+id), "the Web UI talks to this server")
	}
}

func TestASlowStartIsWaitedForAndTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for name, c := range map[string]struct {
			takes time.Duration
			lines int
			err   error
		}{
			"a start as usual":    {5 * time.Second, 0, nil},
			"one of minutes":      {5*time.Minute + time.Second, 20, nil},
			"one that never ends": {24 * time.Hour, 40, context.DeadlineExceeded},
		} {
			var lines []string
			begun := time.Now()
			err := patiently(t.Context(), func(line string) { lines = append(lines, line) }, func(ctx context.Context) error {
				return await(ctx, "the frontend", func() error {
					if time.Since(begun) < c.takes {
						return errors.New("not yet")
					}
					return nil
				})
			})
			assert.ErrorIs(t, err, c.err, name)
			assert.InDelta(t, c.lines, len(lines), 1, name)
			if len(lines) > 0 {
				assert.Equal(t, "Temporal is still starting after 15s; it has 10m0s.", lines[0])
			}
		}
	})
}

func TestStopGivesEverythingFree(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "x.db")
	s := start(t, Options{File: file})
	s.Stop()
	s.Stop()
	requireGivenFree(t, s)
	start(t, Options{File: file})
}

// requireGivenFree asks the listeners themselves: their ports may be those of somebody else by now.
func requireGivenFree(t *testing.T, s *Server) {
	t.Helper()
	require.Len(t, s.ports, 5)
	for _, l := range s.ports {
		_, err := l.Accept()
		require.ErrorIs(t, err, net.ErrClosed)
	}
}

func TestAFailedStartGivesEverythingFree(t *testing.T) {
	t.Parallel()
	s := &Server{}
	require.ErrorIs(t, s.start(t.Context(), Options{File: filepath.Join(t.TempDir(), "no", "x.db")}), os.ErrNotExist)
	s.Stop()
	requireGivenFree(t, s)
}

func TestRunURL(t *testing.T) {
	t.Parallel()
	s := &Server{uiURL: "http://127.0.0.1:8233"}
	assert.Equal(t, "http://127.0.0.1:8233/namespaces/default/workflows/rotation%2Fpayments-api/r1", s.RunURL("rotation/payments-api", "r1"))
}

// buffer is written by the server's goroutines.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) Bytes() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Clone(b.b.Bytes())
}

func TestWebUITakesDecisionsButNoForgedOnes(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	begin(t, dial(t, s.Address()), "rotation/payments-api")
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	browser := &http.Client{Jar: jar}
	page, err := browser.Get(s.UIURL())
	require.NoError(t, err)
	require.NoError(t, page.Body.Close())
	approve := func(change func(*http.Request)) int {
		address := s.UIURL() + "/api/v1/namespaces/default/workflows/rotation%2Fpayments-api/signal/approve"
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, address, strings.NewReader("{}"))
		require.NoError(t, err)
		req.Header.Set("Content-Type", "application/json")
		change(req)
		resp, err := browser.Do(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		return resp.StatusCode
	}
	assert.Equal(t, http.StatusOK, approve(func(r *http.Request) {
		for _, c := range jar.Cookies(r.URL) {
			r.Header.Set("X-CSRF-TOKEN", c.Value)
		}
	}))
	assert.Equal(t, http.StatusBadRequest, approve(func(*http.Request) {}), "a form on another page")
	assert.Equal(t, http.StatusForbidden, approve(func(r *http.Request) { r.Header.Set("X-CSRF-TOKEN", "guessed") }))
}
