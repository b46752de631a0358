package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/api/serviceerror"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/signed"
	"github.com/keyturn/keyturn/internal/temporaltest"
	"github.com/keyturn/keyturn/workflows"
)

// namespaceOf is Temporal with one rotation in it, as far as status asks it.
type namespaceOf struct {
	client.Client
	is      enumspb.WorkflowExecutionStatus
	pending []*workflowpb.PendingActivityInfo
	// says is what the rotation answers, report what it ended with; silence is why no worker answers.
	says    *workflows.Status
	report  *workflows.Report
	silence error
	// queue is that of the run's tasks. nobodyPolls: there is no worker.
	queue       string
	nobodyPolls bool
	// plan is what a dry run finds, and asked what it was asked with.
	plan  *policy.Plan
	asked workflows.InspectInput
	// spec is the body of what the run was begun with. It is of no applied inventory.
	spec string
	// retires is the leftover key that the run was begun for.
	retires string
}

func (n *namespaceOf) DescribeWorkflowExecution(context.Context, string, string) (*workflowservice.DescribeWorkflowExecutionResponse, error) {
	if n.is == 0 {
		return nil, serviceerror.NewNotFound("none")
	}
	phase, err := converter.GetDefaultDataConverter().ToPayload("deliver")
	return &workflowservice.DescribeWorkflowExecutionResponse{PendingActivities: n.pending, WorkflowExecutionInfo: &workflowpb.WorkflowExecutionInfo{
		Execution: &commonpb.WorkflowExecution{WorkflowId: "rotation/payments-api", RunId: "run"}, Status: n.is, TaskQueue: n.queue, CloseTime: timestamppb.New(after(5)),
		SearchAttributes: &commonpb.SearchAttributes{IndexedFields: map[string]*commonpb.Payload{"KeyturnPhase": phase}},
	}}, err
}

func (n *namespaceOf) QueryWorkflow(context.Context, string, string, string, ...any) (converter.EncodedValue, error) {
	switch {
	case n.silence != nil:
		return nil, n.silence
	case n.says == nil:
		return nil, serviceerror.NewInvalidArgument("it has had no task")
	}
	return temporaltest.Answer{Of: *n.says}, nil
}

func (n *namespaceOf) DescribeTaskQueue(context.Context, string, enumspb.TaskQueueType) (*workflowservice.DescribeTaskQueueResponse, error) {
	if n.nobodyPolls {
		return &workflowservice.DescribeTaskQueueResponse{}, nil
	}
	return &workflowservice.DescribeTaskQueueResponse{Pollers: []*taskqueuepb.PollerInfo{{Identity: "worker", LastAccessTime: timestamppb.Now()}}}, nil
}

// ran is a workflow that has ended.
type ran struct {
	client.WorkflowRun
	result any
}

func (r ran) Get(_ context.Context, into any) error {
	return temporaltest.Answer{Of: r.result}.Get(into)
}

type endedOtherwise struct{ client.WorkflowRun }

func (endedOtherwise) Get(context.Context, any) error { return errors.New("terminated") }

func (n *namespaceOf) GetWorkflow(context.Context, string, string) client.WorkflowRun {
	if n.report == nil {
		return endedOtherwise{}
	}
	return ran{result: *n.report}
}

func (n *namespaceOf) ExecuteWorkflow(_ context.Context, _ client.StartWorkflowOptions, _ any, in ...any) (client.WorkflowRun, error) {
	if n.plan == nil {
		return nil, serviceerror.NewUnavailable("stream terminated by RST_STREAM")
	}
	n.asked = in[0].(workflows.InspectInput)
	return ran{result: *n.plan}, nil
}

// history is the first or the last event of the rotation.
type history struct {
	client.HistoryEventIterator
	event *historypb.HistoryEvent
}

func (h history) HasNext() bool                          { return true }
func (h history) Next() (*historypb.HistoryEvent, error) { return h.event, nil }

// nothingApplied is Temporal without Schedules.
type nothingApplied struct {
	client.ScheduleClient
	client.ScheduleHandle
}

func (n *namespaceOf) ScheduleClient() client.ScheduleClient { return nothingApplied{} }

func (nothingApplied) GetHandle(context.Context, string) client.ScheduleHandle {
	return nothingApplied{}
}

func (nothingApplied) Describe(context.Context) (*client.ScheduleDescription, error) {
	return nil, serviceerror.NewNotFound("schedule not found")
}

func (n *namespaceOf) GetWorkflowHistory(_ context.Context, _, _ string, _ bool, which enumspb.HistoryEventFilterType) client.HistoryEventIterator {
	if which == enumspb.HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT {
		return history{event: &historypb.HistoryEvent{Attributes: &historypb.HistoryEvent_WorkflowExecutionTerminatedEventAttributes{
			WorkflowExecutionTerminatedEventAttributes: &historypb.WorkflowExecutionTerminatedEventAttributes{Reason: "by \x1b[1mmistake", Identity: "ann@laptop"},
		}}}
	}
	in, _ := converter.GetDefaultDataConverter().ToPayloads(workflows.RotationInput{Retire: n.retires, Spec: inventory.SignedSpec{Envelope: signed.Envelope{Body: []byte(cmp.Or(n.spec, `"spec"`))}}})
	return history{event: &historypb.HistoryEvent{Attributes: &historypb.HistoryEvent_WorkflowExecutionStartedEventAttributes{
		WorkflowExecutionStartedEventAttributes: &historypb.WorkflowExecutionStartedEventAttributes{Input: in},
	}}}
}

func TestStatusSaysHowARunEnded(t *testing.T) {
	t.Parallel()
	old, fresh := key.Ref{Principal: "payments-api", KeyID: "key-old"}, key.Ref{Principal: "payments-api", KeyID: "key-new"}
	delivering := &workflows.Status{Credential: "payments-api", Phase: workflows.PhaseDeliver, Doing: "Delivering.", WaitsFor: "the wave's soak", Incoming: fresh}
	left := &policy.Plan{Retiring: &old, Resume: &policy.Resume{Incoming: fresh, Delivered: true}}
	refused := &policy.Plan{Retiring: &old, Refusals: []policy.Decision{{Reason: policy.SlotsFull, Message: "the issuer allows 2 keys"}}}
	late := serviceerror.NewDeadlineExceeded("context deadline exceeded")
	for name, c := range map[string]struct {
		in       namespaceOf
		code     int
		says     []string
		saysNone []string
	}{
		"a run that was terminated, with what is true of both keys": {
			namespaceOf{is: enumspb.WORKFLOW_EXECUTION_STATUS_TERMINATED, says: delivering, plan: left}, exitFailed, []string{
				"payments-api: terminated", `by ann@laptop (by \x1b[1mmistake)`, "was doing", "Delivering.", "key-old of payments-api: current",
				"key-new of payments-api: pending, consumers may have it", "keyturn rotate payments-api",
			}, []string{"waits for", "\x1b"},
		},
		"one that was to retire a key, which is there still": {
			namespaceOf{is: enumspb.WORKFLOW_EXECUTION_STATUS_TERMINATED, retires: "key-left", plan: &policy.Plan{
				Retiring: &fresh, Left: []policy.LeftKey{{Key: key.Ref{Principal: "payments-api", KeyID: "key-left"}, State: key.Disabled}}, Refusals: refused.Refusals,
			}}, exitFailed, []string{
				"It was to end key key-left, and did nothing else", "retiring key  key-left of payments-api: disabled, not current any more", "incoming key  key-new of payments-api: current",
				"keyturn retire payments-api --key key-left --reason ...",
			}, []string{"keyturn rotate", "the issuer allows 2 keys"},
		},
		"one that was to retire a key, which is gone": {
			namespaceOf{is: enumspb.WORKFLOW_EXECUTION_STATUS_TERMINATED, retires: "key-left", plan: &policy.Plan{Retiring: &fresh}}, exitFailed, []string{
				"retiring key  key-left of payments-api: not left over any more", "incoming key  key-new of payments-api: current",
			}, nil,
		},
		"one that is to retire a key, and runs": {
			namespaceOf{is: enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING, says: &workflows.Status{Credential: "payments-api", Phase: workflows.PhaseRevokeGate, Ends: "key-left", RequestedBy: "ann", Reason: "no slot is free"}},
			exitDone, []string{"ends          key key-left, and does nothing else", "asked for by  ann: no slot is free"}, nil,
		},
		"one that was terminated before its first task": {
			namespaceOf{is: enumspb.WORKFLOW_EXECUTION_STATUS_TERMINATED, plan: &policy.Plan{Retiring: &old}}, exitFailed, []string{
				"payments-api: terminated", "in phase", "key-old of payments-api: current",
			}, nil,
		},
		"one that timed out, and no worker answers": {
			namespaceOf{is: enumspb.WORKFLOW_EXECUTION_STATUS_TIMED_OUT, silence: late}, exitFailed, []string{
				"payments-api: timed-out", "ended by its time-out", "no worker answers", "deliver", "keyturn rotate payments-api",
			}, []string{"deadline"},
		},
		"one that failed without a report, and cannot go on": {
			namespaceOf{is: enumspb.WORKFLOW_EXECUTION_STATUS_FAILED, says: delivering, plan: refused}, exitFailed, []string{
				"payments-api: failed", "would be refused", "the issuer allows 2 keys", "keyturn plan payments-api",
			}, nil,
		},
		"one whose rotation failed": {
			namespaceOf{is: enumspb.WORKFLOW_EXECUTION_STATUS_FAILED, silence: late, report: &workflows.Report{Credential: "payments-api", Outcome: workflows.Failed, Message: "It cannot."}},
			exitFailed, []string{"payments-api: failed", "It cannot."}, []string{"left no report"},
		},
		"one that completed": {
			namespaceOf{is: enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED, silence: late, report: &workflows.Report{Credential: "payments-api", Outcome: workflows.Completed, Message: "It is over."}},
			exitDone, []string{"payments-api: completed", "It is over."}, nil,
		},
		"one that runs": {namespaceOf{is: enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING, says: delivering}, exitDone, []string{"payments-api: deliver", "the wave's soak"}, nil},
		"one that runs, and no worker answers": {
			namespaceOf{is: enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING, silence: late}, exitTimedOut, []string{"is running, and no worker answers"}, []string{"deadline"},
		},
		"one that runs, while the server starts anew": {
			namespaceOf{is: enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING, silence: serviceerror.NewInternal("stream terminated by RST_STREAM with error code: CANCEL")},
			exitTimedOut, []string{"Temporal does not answer"}, []string{"RST_STREAM"},
		},
		"none that is known": {namespaceOf{}, exitNotFound, []string{"no rotation of \"payments-api\" is known"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			term := &terminal{output: "table", out: &out, err: &out}
			got := exitDone
			if err := term.tellStatus(t.Context(), &c.in, "payments-api"); err != nil {
				out.WriteString(err.Error())
				got = code(err)
			}
			assert.Equal(t, c.code, got, out.String())
			for _, text := range c.says {
				assert.Contains(t, out.String(), text)
			}
			for _, text := range c.saysNone {
				assert.NotContains(t, out.String(), text)
			}
		})
	}
}

func TestAProgramReadsHowARunEnded(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	n := &namespaceOf{is: enumspb.WORKFLOW_EXECUTION_STATUS_TERMINATED, plan: &policy.Plan{Retiring: &key.Ref{KeyID: "key-old"}}}
	require.Equal(t, exitFailed, code((&terminal{output: "json", out: &out, err: &out}).tellStatus(t.Context(), n, "payments-api")))
	var told struct {
		Credential string
		Ended      struct {
			As, By, Why, Next string
			Keys              []struct {
				Role string
				Key  struct{ KeyID string }
				Is   string
			}
		}
	}
	require.NoError(t, json.Unmarshal(out.Bytes(), &told), out.String())
	assert.Equal(t, "payments-api", told.Credential)
	assert.Equal(t, "terminated", told.Ended.As)
	assert.Equal(t, "keyturn rotate payments-api", told.Ended.Next)
	require.Len(t, told.Ended.Keys, 1)
	assert.Equal(t, "key-old", told.Ended.Keys[0].Key.KeyID)
	assert.JSONEq(t, `"spec"`, string(n.asked.Spec.Body), "the dry run asks by what the run was begun with")
}

// What is in no applied inventory is gone on with by its file, whoever reads that.
func TestHowToGoOnAfterTheEndOfWhatIsNotApplied(t *testing.T) {
	t.Parallel()
	for _, output := range []string{"table", "json", "yaml"} {
		t.Run("for "+output, func(t *testing.T) {
			t.Parallel()
			n := &namespaceOf{is: enumspb.WORKFLOW_EXECUTION_STATUS_TERMINATED, plan: &policy.Plan{}, spec: `{"inventory":"payments","credential":{"name":"payments-api"}}`}
			var out bytes.Buffer
			require.Equal(t, exitFailed, code((&terminal{output: output, out: &out, err: &out}).tellStatus(t.Context(), n, "payments-api")))
			assert.Equal(t, 2, strings.Count(out.String(), "keyturn rotate payments-api"), out.String())
			assert.Equal(t, 2, strings.Count(out.String(), "keyturn rotate payments-api -f FILE"), out.String())
		})
	}
}

func TestWhatIsTrueOfBothKeysComesFromThePlan(t *testing.T) {
	t.Parallel()
	old, fresh := key.Ref{KeyID: "key-old"}, key.Ref{KeyID: "key-new"}
	for name, c := range map[string]struct {
		plan policy.Plan
		want []string
	}{
		"nothing was issued":                        {policy.Plan{Retiring: &old}, []string{"retiring key-old: current"}},
		"one was issued and cannot be gone on with": {policy.Plan{Retiring: &old, Discard: []key.Ref{fresh}}, []string{"retiring key-old: current", "incoming key-new: never current, the next rotation destroys it first"}},
		"one is staged":                             {policy.Plan{Retiring: &old, Resume: &policy.Resume{Incoming: fresh}}, []string{"retiring key-old: current", "incoming key-new: pending, no consumer was sent to it"}},
		"one is delivered":                          {policy.Plan{Retiring: &old, Resume: &policy.Resume{Incoming: fresh, Delivered: true}}, []string{"retiring key-old: current", "incoming key-new: pending, consumers may have it"}},
		"one is promoted":                           {policy.Plan{Retiring: &old, Resume: &policy.Resume{Incoming: fresh, Delivered: true, Moved: true, Retiring: &old}}, []string{"retiring key-old: active, not current any more", "incoming key-new: current"}},
		"the other is disabled":                     {policy.Plan{Resume: &policy.Resume{Incoming: fresh, Moved: true, Retiring: &old, Disabled: true}}, []string{"retiring key-old: disabled", "incoming key-new: current"}},
		"the other is destroyed":                    {policy.Plan{Resume: &policy.Resume{Incoming: fresh, Moved: true}}, []string{"incoming key-new: current"}},
		"a first key was staged":                    {policy.Plan{Resume: &policy.Resume{Incoming: fresh}}, []string{"incoming key-new: pending, no consumer was sent to it"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got []string
			for _, k := range keysNow(c.plan) {
				got = append(got, string(k.Role)+" "+k.Key.KeyID+": "+k.Is)
			}
			assert.Equal(t, c.want, got)
		})
	}
}
