package main

import (
	"bytes"
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
)

// listed is Temporal as far as visibility is asked.
type listed struct {
	client.Client
	ids []string
}

func (l listed) ListWorkflow(context.Context, *workflowservice.ListWorkflowExecutionsRequest) (*workflowservice.ListWorkflowExecutionsResponse, error) {
	var answer workflowservice.ListWorkflowExecutionsResponse
	for _, id := range l.ids {
		answer.Executions = append(answer.Executions, &workflowpb.WorkflowExecutionInfo{Execution: &commonpb.WorkflowExecution{WorkflowId: id, RunId: "run"}})
	}
	return &answer, nil
}

func TestARunThatHadNoTaskYetIsListedByItsCredential(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	term := &terminal{output: "table", out: &out}
	require.NoError(t, term.listRunning(t.Context(), listed{ids: []string{"rotation/payments-api", "rotation/payments-batch"}}))
	assert.Contains(t, out.String(), "payments-api ")
	assert.Contains(t, out.String(), "payments-batch ")
}
