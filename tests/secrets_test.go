package tests

import (
	"bytes"
	"encoding/base64"
	"io"
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/api/common/v1"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/query/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/keyturn/keyturn/tests/sentinel"
	"github.com/keyturn/keyturn/workflows"
)

// remains is what a stage leaves behind, by its place.
type remains map[string][]byte

// seen adds what Temporal says about the rotation now: its description with what is pending and the last failures and
// heartbeats, its current details, and its status.
func (r remains) seen(s *stage, c client.Client) {
	s.t.Helper()
	execution := &common.WorkflowExecution{WorkflowId: workflows.WorkflowID(credential)}
	described, err := c.WorkflowService().DescribeWorkflowExecution(s.t.Context(), &workflowservice.DescribeWorkflowExecutionRequest{Namespace: s.namespace, Execution: execution})
	require.NoError(s.t, err)
	r.message("descriptions", described)
	for _, name := range []string{"__temporal_workflow_metadata", workflows.StatusName} {
		answer, err := c.WorkflowService().QueryWorkflow(s.t.Context(), &workflowservice.QueryWorkflowRequest{
			Namespace: s.namespace, Execution: execution, Query: &query.WorkflowQuery{QueryType: name},
		})
		require.NoError(s.t, err)
		r.message("current details and status", answer)
		for _, p := range answer.GetQueryResult().GetPayloads() {
			r["current details and status"] = append(r["current details and status"], p.GetData()...)
		}
	}
}

// message adds a message as it is sent and as it is shown.
func (r remains) message(place string, m proto.Message) {
	sent, _ := proto.Marshal(m)
	shown, _ := protojson.Marshal(m)
	r[place] = append(append(append(r[place], sent...), shown...), '\n')
	for _, data := range payloads.FindAllSubmatch(shown, -1) {
		if plain, err := base64.StdEncoding.DecodeString(string(data[1])); err == nil {
			r[place] = append(append(r[place], plain...), '\n')
		}
	}
}

// payloads are the data in a message as it is shown.
var payloads = regexp.MustCompile(`"data": ?"([A-Za-z0-9+/=]+)"`)

// end adds what is there at the end, after a sweep: all histories and the files, and what the programs said.
func (r remains) end(s *stage, c client.Client) {
	s.t.Helper()
	s.sweep()
	runs, err := c.WorkflowService().ListWorkflowExecutions(s.t.Context(), &workflowservice.ListWorkflowExecutionsRequest{Namespace: s.namespace})
	require.NoError(s.t, err)
	for _, run := range runs.GetExecutions() {
		r.message("visibility", run)
		events := c.GetWorkflowHistory(s.t.Context(), run.GetExecution().GetWorkflowId(), run.GetExecution().GetRunId(), false, enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
		for events.HasNext() {
			event, err := events.Next()
			require.NoError(s.t, err)
			r.message("histories", event)
		}
	}
	files := map[string]string{"database": s.database(), "write-ahead log of the database": s.database() + "-wal", "server's log": s.database() + ".log", "audit record": s.place.Audit}
	for place, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(s.t, err, place)
		r[place] = text
	}
	r["command line"] = append(r["command line"], s.said.Bytes()...)
	r.log("services' log", s.services)
	r.log("worker's log", s.worker)
	for path, lines := range map[string][]string{"/healthz": nil, "/readyz": nil, "/metrics": {"\ntemporal_", "\nkeyturn_"}} {
		resp, err := http.Get("http://" + s.health + path)
		require.NoError(s.t, err)
		text, err := io.ReadAll(resp.Body)
		require.NoError(s.t, err)
		_ = resp.Body.Close()
		require.Equal(s.t, http.StatusOK, resp.StatusCode, path)
		for _, line := range lines {
			require.Contains(s.t, "\n"+string(text), line, path)
		}
		r["worker's HTTP"] = append(append(r["worker's HTTP"], path...), text...)
	}
}

func (r remains) log(place string, p *process) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r[place] = append(r[place], p.text.Bytes()...)
}

// search sees that no place has any of the secrets, and that one which was put there is found in each form.
func (r remains) search(t *testing.T, secrets ...string) {
	t.Helper()
	search := sentinel.New(secrets...)
	const planted = `plant&ed"<+/>secret of a run that leaks`
	control, forms := sentinel.New(planted), sentinel.Forms(planted)
	for _, place := range slices.Sorted(maps.Keys(r)) {
		text := r[place]
		found, err := search.In(bytes.NewReader(text))
		require.NoError(t, err)
		assert.Empty(t, found, "%s of %d bytes", place, len(text))
		readers := []io.Reader{}
		for i, form := range slices.Sorted(maps.Keys(forms)) {
			from, to := len(text)*i/len(forms), len(text)*(i+1)/len(forms)
			readers = append(readers, bytes.NewReader(text[from:to]), strings.NewReader(forms[form]))
		}
		found, err = control.In(io.MultiReader(readers...))
		require.NoError(t, err)
		assert.Len(t, found, len(forms), "all that was planted in %s is found", place)
		t.Logf("%8d bytes: %s", len(text), place)
	}
}

// known has the values of all keys that were ever stored.
func (s *stage) known(v *victim) {
	s.t.Helper()
	_, err := v.look()
	require.NoError(s.t, err)
}

// dump kills the worker so that it writes the stacks of all its goroutines, and starts another.
func (r remains) dump(s *stage) {
	s.t.Helper()
	s.worker.end(syscall.SIGQUIT)
	r.log("stacks of the worker", s.worker)
	assert.Contains(s.t, string(r["stacks of the worker"]), "goroutine ")
	s.startWorker()
}

// verbose is a worker that says all that it can.
func (s *stage) verbose() {
	s.variables["worker"] = append(s.variables["worker"], "GOTRACEBACK=all")
	s.flags = []string{"--allow-unsigned", "--log-level", "debug"}
}

// A rotation and one that is turned back, with all commands and formats: no key is anywhere but at issuer, store and
// consumers.
func TestNoSecretIsLeftBehind(t *testing.T) {
	t.Parallel()
	s := onOwnServer(t).prepared("--overlap", "20s")
	leavesNone(t, s, &victim{stage: s, values: map[string]string{}})
}

// The same on AWS, which besides answers with errors that repeat all that it was sent and would have answered.
func TestNoSecretOfAWSIsLeftBehind(t *testing.T) {
	t.Parallel()
	s := prepareAWSOn(onOwnServer(t), "--overlap", "20s")
	s.aws.Echo("iam:CreateAccessKey", 0, 1) // the SDK does not repeat that one
	for _, action := range []string{
		"secretsmanager:PutSecretValue", "secretsmanager:GetSecretValue", "secretsmanager:UpdateSecretVersionStage",
		"secretsmanager:CreateSecret", "iam:UpdateAccessKey", "iam:DeleteAccessKey",
	} {
		s.aws.Echo(action, 0, 4)
	}
	leavesNone(t, s.stage, &victim{stage: s.stage, aws: s.aws, values: map[string]string{}})
}

func leavesNone(t *testing.T, s *stage, v *victim) {
	t.Helper()
	s.verbose()
	s.startWorker()
	c := s.client()
	left := remains{}
	run := func(args ...string) { s.starter(args...) }
	s.known(v)
	for _, turn := range []bool{false, true} {
		run("plan", credential, "-f", s.place.Inventory, "-o", "json")
		out, code := s.starter("rotate", credential, "-f", s.place.Inventory)
		require.Zero(t, code, out)
		s.awaitThat("a wave is delivered", func(status workflows.Status) bool { return len(status.Waves) > 0 && !status.Incoming.IsZero() })
		left.dump(s)
		s.await(workflows.PhaseOverlap)
		s.known(v)
		left.seen(s, c)
		for _, args := range [][]string{
			{"status"}, {"status", credential}, {"status", credential, "-o", "json"}, {"status", credential, "-o", "yaml"},
			{"validate", "-f", s.place.Inventory}, {"validate", "-f", s.place.Worker}, {"extend", credential, "--by", "1s"}, {"rotate", credential, "-f", s.place.Inventory},
			{"approve", credential, "--gate", "revoke"}, {"approve", credential, "--nonsense"},
		} {
			run(args...)
		}
		if turn {
			run("rollback", credential, "--reason", "errors at checkout")
		} else {
			s.await(workflows.PhaseRevokeGate)
			left.seen(s, c)
			run("approve", credential, "--gate", "revoke", "--as", "ann", "-o", "json")
		}
		report := s.report()
		require.Equal(t, map[bool]workflows.Outcome{false: workflows.Completed, true: workflows.RolledBack}[turn], report.Outcome, report.Message)
		left.seen(s, c)
		run("status", credential, "--watch")
	}
	s.known(v)
	left.end(s, c)
	require.GreaterOrEqual(t, len(v.values), 3, "the first key and one of each rotation")
	left.search(t, secretsOf(v)...)
}

// secretsOf are the keys without what everybody may know of them.
func secretsOf(v *victim) (list []string) {
	for _, value := range v.values {
		list = append(list, value[strings.LastIndexByte(value, '_')+1:]) // before that is the gateway's key ID
	}
	return list
}
