package main

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/temporaltest"
	"github.com/keyturn/keyturn/workflows"
)

// waiting is Temporal with rotations that wait at gates, by their credentials: what each says of itself, nil for one that nobody answers for.
type waiting struct {
	client.Client
	rotations map[string]*workflows.Status
}

func (w waiting) execution(credential string) *workflowpb.WorkflowExecutionInfo {
	phase, _ := converter.GetDefaultDataConverter().ToPayload(workflows.PhaseRevokeGate)
	return &workflowpb.WorkflowExecutionInfo{
		Execution: &commonpb.WorkflowExecution{WorkflowId: workflows.WorkflowID(credential), RunId: "run"}, Status: enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING,
		SearchAttributes: &commonpb.SearchAttributes{IndexedFields: map[string]*commonpb.Payload{workflows.AttributePhase.GetName(): phase}},
	}
}

func (w waiting) ListWorkflow(context.Context, *workflowservice.ListWorkflowExecutionsRequest) (*workflowservice.ListWorkflowExecutionsResponse, error) {
	var answer workflowservice.ListWorkflowExecutionsResponse
	for credential := range w.rotations {
		answer.Executions = append(answer.Executions, w.execution(credential))
	}
	return &answer, nil
}

func (w waiting) DescribeWorkflowExecution(_ context.Context, id, _ string) (*workflowservice.DescribeWorkflowExecutionResponse, error) {
	return &workflowservice.DescribeWorkflowExecutionResponse{WorkflowExecutionInfo: w.execution(strings.TrimPrefix(id, workflows.WorkflowID("")))}, nil
}

func (w waiting) QueryWorkflow(_ context.Context, id, _, _ string, _ ...any) (converter.EncodedValue, error) {
	if s := w.rotations[strings.TrimPrefix(id, workflows.WorkflowID(""))]; s != nil {
		return temporaltest.Answer{Of: *s}, nil
	}
	return nil, serviceerror.NewInvalidArgument("it has had no task")
}

func (w waiting) DescribeTaskQueue(context.Context, string, enumspb.TaskQueueType) (*workflowservice.DescribeTaskQueueResponse, error) {
	return &workflowservice.DescribeTaskQueueResponse{Pollers: []*taskqueuepb.PollerInfo{{LastAccessTime: timestamppb.Now()}}}, nil
}

// Whoever decides sees all that waits, over all rotations, what waits longest first, and also what cannot be asked.
func TestWhatWaitsForADecisionIsShownOldestFirst(t *testing.T) {
	t.Parallel()
	at := func(credential string, opened time.Time) *workflows.Status {
		return &workflows.Status{Credential: credential, Phase: workflows.PhaseRevokeGate, Gate: &policy.OpenGate{
			Gate: inventory.GateRevoke, OpenedAt: opened, Needs: inventory.Approval{Count: 2, Trust: inventory.TrustAny},
		}}
	}
	c := waiting{rotations: map[string]*workflows.Status{
		"a-young": at("a-young", after(30)), "b-old": at("b-old", after(10)), "c-younger": at("c-younger", after(40)), "d-old": at("d-old", after(10)),
		"e-passed": {Credential: "e-passed", Phase: workflows.PhaseDisable}, "f-silent": nil,
	}}
	list, err := approvals(t.Context(), c, func(text string) { t.Error(text) })
	require.NoError(t, err)
	var out bytes.Buffer
	require.NoError(t, (&terminal{output: "table", out: &out}).showAwaited(list))
	var order []string
	for _, a := range list {
		order = append(order, a.Credential)
	}
	assert.Equal(t, []string{"f-silent", "b-old", "d-old", "a-young", "c-younger"}, order)
	assert.Contains(t, out.String(), "0 of 2")
	assert.Contains(t, out.String(), "keyturn approve b-old --gate revoke")
	assert.Contains(t, out.String(), "note: f-silent: ")
}
