package main

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	failurepb "go.temporal.io/api/failure/v1"
	"go.temporal.io/api/serviceerror"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/retried"
	"github.com/keyturn/keyturn/workflows"
)

// failingAt is an activity that was tried so often, and failed so.
func failingAt(activity string, attempt int32, kind, message string) *workflowpb.PendingActivityInfo {
	return &workflowpb.PendingActivityInfo{ActivityType: &commonpb.ActivityType{Name: activity}, Attempt: attempt, LastFailure: &failurepb.Failure{
		Message: message, FailureInfo: &failurepb.Failure_ApplicationFailureInfo{ApplicationFailureInfo: &failurepb.ApplicationFailureInfo{Type: kind}},
	}}
}

func TestStatusSaysWhatKeepsFailing(t *testing.T) {
	t.Parallel()
	noFile := "reading keys: open /etc/edge/keys.json:\nno such file"
	n := &namespaceOf{
		is: enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING, says: &workflows.Status{Credential: "payments-api", Phase: workflows.PhaseInspect, Doing: "Looking."},
		pending: []*workflowpb.PendingActivityInfo{failingAt("Watch", 99, retried.NotYet, "still fine"), failingAt("Inspect", 2, "Passing", noFile)},
	}
	var out bytes.Buffer
	require.NoError(t, (&terminal{output: "table", out: &out}).tellStatus(t.Context(), n, "payments-api"))
	assert.Contains(t, out.String(), "failing    Inspect, which is tried again (attempt 2): reading keys: open /etc/edge/keys.json: no such file\n")
	assert.Contains(t, out.String(), "last look  still fine\n", "no failure, but what the watch found")
	assert.Equal(t, 1, strings.Count(out.String(), "still fine"))

	out.Reset()
	require.NoError(t, (&terminal{output: "json", out: &out}).tellStatus(t.Context(), n, "payments-api"))
	var told struct{ Retrying retrying }
	require.NoError(t, json.Unmarshal(out.Bytes(), &told))
	assert.Equal(t, retrying{Activity: "Inspect", Attempt: 2, Failure: "reading keys: open /etc/edge/keys.json: no such file"}, told.Retrying)

	lines, _ := followed(t, &terminal{output: "table"}, answer{at: ten, status: standing{Status: *n.says, Retrying: &told.Retrying}}, ends(workflows.Completed))
	assert.Contains(t, lines, "failing  Inspect")
}

// unanswered is a workflow that nobody has answered for until something was told.
type unanswered struct {
	client.WorkflowRun
	told <-chan string
	err  error
}

func (unanswered) GetID() string    { return "inspect/payments-api" }
func (unanswered) GetRunID() string { return "run" }

func (u unanswered) Get(context.Context, any) error {
	<-u.told
	return u.err
}

func TestWhoWaitsIsToldAtOnceWhatKeepsFailing(t *testing.T) {
	t.Parallel()
	n := &namespaceOf{is: enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING, pending: []*workflowpb.PendingActivityInfo{failingAt("Inspect", 2, "Passing", "no such file")}}
	told := make(chan string, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	err := await(t.Context(), n, unanswered{told: told, err: ctx.Err()}, nil, "inspecting payments-api", func(text string) { told <- text })
	assert.Equal(t, exitTimedOut, code(err))
	assert.Contains(t, err.Error(), "the last failure was of Inspect, which is tried again (attempt 2): no such file")
	assert.NotContains(t, err.Error(), "is a worker running", "it is known that one does")
}

func TestADryRunThatNobodyTakesIsWarnedOf(t *testing.T) {
	t.Parallel()
	for nobody, want := range map[bool]int{true: 1, false: 0} {
		n := &namespaceOf{nobodyPolls: nobody, plan: &policy.Plan{}}
		var told []string
		_, err := lookAt(t.Context(), n, workflows.TaskQueue, "payments-api", workflows.InspectInput{}, func(text string) { told = append(told, text) })
		require.NoError(t, err)
		assert.Len(t, told, want)
	}
}

// closed is what was told long ago.
var closed = func() <-chan string {
	told := make(chan string)
	close(told)
	return told
}()

// unpolled is a namespace with a rotation, or an incident, that waits for a person, and with no worker.
type unpolled struct{ namespaceOf }

func (*unpolled) UpdateWorkflow(context.Context, client.UpdateWorkflowOptions) (client.WorkflowUpdateHandle, error) {
	return nil, context.DeadlineExceeded
}

func (*unpolled) SignalWorkflow(context.Context, string, string, string, any) error { return nil }

func (*unpolled) ListWorkflow(context.Context, *workflowservice.ListWorkflowExecutionsRequest) (*workflowservice.ListWorkflowExecutionsResponse, error) {
	phase, err := converter.GetDefaultDataConverter().ToPayload(workflows.PhaseRevokeGate)
	return &workflowservice.ListWorkflowExecutionsResponse{Executions: []*workflowpb.WorkflowExecutionInfo{{
		Execution:        &commonpb.WorkflowExecution{WorkflowId: "rotation/payments-api", RunId: "run"},
		SearchAttributes: &commonpb.SearchAttributes{IndexedFields: map[string]*commonpb.Payload{workflows.AttributePhase.GetName(): phase}},
	}}}, err
}

func (*unpolled) ExecuteWorkflow(context.Context, client.StartWorkflowOptions, any, ...any) (client.WorkflowRun, error) {
	return unanswered{told: closed, err: context.DeadlineExceeded}, nil
}

func TestWhoAsksWhereNoWorkerPollsIsToldAtOnce(t *testing.T) {
	t.Parallel()
	decides := func(d decision) func(context.Context, *terminal, client.Client) error {
		return func(ctx context.Context, t *terminal, c client.Client) error {
			return d.send(ctx, t, c, "default", "payments-api")
		}
	}
	revoke := policy.Request{Gate: inventory.GateRevoke}
	const ofTheRun = "keyturn-of-the-run"
	for name, x := range map[string]struct {
		queue string // nobody polls it
		ask   func(context.Context, *terminal, client.Client) error
	}{
		"who extends the overlap":     {ofTheRun, decides(decision{action: policy.Extend})},
		"who turns the rotation back": {ofTheRun, decides(decision{action: policy.Rollback})},
		"who approves":                {ofTheRun, decides(decision{action: policy.Approve, gate: "revoke", req: revoke})},
		"who rejects":                 {ofTheRun, decides(decision{action: policy.Reject, gate: "revoke", req: revoke})},
		"who asks for the status": {ofTheRun, func(ctx context.Context, t *terminal, c client.Client) error {
			return t.tellStatus(ctx, c, "payments-api")
		}},
		"who asks what waits for a decision": {workflows.TaskQueue, func(ctx context.Context, t *terminal, c client.Client) error {
			_, err := approvals(ctx, c, t.warn)
			return err
		}},
		"who asks how an incident stands": {ofTheRun, func(ctx context.Context, t *terminal, c client.Client) error {
			_, _, err := findIncident(ctx, c, "incident/leak", t.warn)
			return err
		}},
		"who says that a key is exposed": {ofTheRun, func(ctx context.Context, t *terminal, c client.Client) error {
			return new(emergency).expose(ctx, c, t, []affected{{Credential: "payments-api"}}, nil)
		}},
		"who begins an incident": {workflows.EmergencyQueue, func(ctx context.Context, t *terminal, c client.Client) error {
			return t.declare(ctx, c, "incident/leak", "a leak", workflows.IncidentInput{}, true)
		}},
		"who has an incident pause": {ofTheRun, func(ctx context.Context, t *terminal, c client.Client) error {
			return t.askIncident(ctx, c, "incident/leak", workflows.PauseName, workflows.PauseRequest{})
		}},
		"who signs the spec of a rotation again": {ofTheRun, func(ctx context.Context, t *terminal, c client.Client) error {
			return t.resignRunning(ctx, c, inventory.Spec{Credential: inventory.Credential{Name: "payments-api"}}, "default", "signing-key")
		}},
		"who scans": {workflows.TaskQueue, func(ctx context.Context, t *terminal, c client.Client) error {
			_, _, err := scanned(ctx, c, workflows.ScanInput{}, t.warn)
			return err
		}},
		"who sweeps": {workflows.TaskQueue, func(ctx context.Context, t *terminal, c client.Client) error {
			_, err := swept(ctx, c, true, t.warn)
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				for nobody, want := range map[bool]int{true: 1, false: 0} {
					n := &unpolled{namespaceOf{is: enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING, queue: ofTheRun, silence: serviceerror.NewDeadlineExceeded("late"), nobodyPolls: nobody}}
					var out bytes.Buffer
					_ = x.ask(t.Context(), &terminal{output: "table", out: &out, err: &out}, n)
					assert.Equal(t, want, strings.Count(out.String(), "warning: no worker polls task queue "+x.queue+":"), out.String())
				}
			})
		})
	}
}

func TestAWarningIsOneLineOnTheStandardError(t *testing.T) {
	t.Parallel()
	for output, want := range map[string]string{"table": "warning: a\\nb\n", "json": `{"warning":"a\\nb"}` + "\n", "yaml": `{"warning":"a\\nb"}` + "\n"} {
		var out, errOut bytes.Buffer
		(&terminal{output: output, out: &out, err: &errOut}).warn("a\nb")
		assert.Empty(t, out.String())
		assert.Equal(t, strings.ReplaceAll(want, `\\\\`, `\\`), errOut.String())
	}
}

// Another signature is for a rotation that can be asked; where no worker is, that is said, in no words of the network.
func TestARotationThatNobodyAnswersForIsNotSignedAnew(t *testing.T) {
	t.Parallel()
	n := &namespaceOf{is: enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING, silence: serviceerror.NewDeadlineExceeded("stream terminated by RST_STREAM with error code: CANCEL")}
	ours := inventory.Spec{Credential: inventory.Credential{Name: "payments-api"}}
	err := (&terminal{}).resignRunning(t.Context(), n, ours, "default", "signing-key")
	assert.Equal(t, exitTimedOut, code(err))
	assert.EqualError(t, err, "the rotation of payments-api is running, and no worker answers for it; start one, nothing is lost")
}
