package workflows_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/internal/incident"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/signed"
	"github.com/keyturn/keyturn/workflows"
)

// What a person mistypes in an input begins nothing: it may have been the wish not to rotate.
func TestAnInputWithAnUnknownFieldIsNotFollowed(t *testing.T) {
	t.Parallel()
	t.Run("of a rotation", func(t *testing.T) {
		t.Parallel()
		s := newScript(t)
		s.env.ExecuteWorkflow("Rotation", json.RawMessage(`{"credential":"payments-api","retier":"key-old"}`))
		require.NoError(t, s.env.GetWorkflowError())
		var report workflows.Report
		require.NoError(t, s.env.GetWorkflowResult(&report))
		assert.Equal(t, workflows.Refused, report.Outcome)
		assert.Contains(t, report.Message, `the input has an unknown field "retier"`)
		assert.Empty(t, s.asked)
	})
	t.Run("of an incident", func(t *testing.T) {
		t.Parallel()
		c := newCrisis(t)
		c.env.RegisterWorkflow(workflows.Incident)
		c.env.SetStartWorkflowOptions(client.StartWorkflowOptions{ID: incident.ID("leak"), TaskQueue: workflows.EmergencyQueue})
		c.env.ExecuteWorkflow("Incident", json.RawMessage(`{"credentials":["payments-api"],"reason":"leak","noFreze":true}`))
		require.NoError(t, c.env.GetWorkflowError())
		var status workflows.IncidentStatus
		require.NoError(t, c.env.GetWorkflowResult(&status))
		assert.Equal(t, workflows.Refused, status.Outcome)
		assert.Contains(t, status.Message, `Nothing was touched: the input has an unknown field "noFreze"`)
		assert.Equal(t, []string{"key-old active"}, c.keys())
	})
	t.Run("but one of a workflow is, which may be of a newer build", func(t *testing.T) {
		t.Parallel()
		s := newScript(t)
		s.credential.Approvals = inventory.Approvals{} // signals reach no child here
		s.env.RegisterWorkflowWithOptions(func(ctx workflow.Context, body []byte) (report workflows.Report, err error) {
			spec, err := json.Marshal(signed.Envelope{Body: body})
			if err != nil {
				return report, err
			}
			ctx = workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{WorkflowID: workflows.WorkflowID("payments-api")})
			in := json.RawMessage(`{"spec":` + string(spec) + `,"later":true}`)
			err = workflow.ExecuteChildWorkflow(ctx, "Rotation", in).Get(ctx, &report)
			return report, err
		}, workflow.RegisterOptions{Name: "Parent"})
		s.env.SetStartWorkflowOptions(client.StartWorkflowOptions{ID: workflows.ScheduledID("payments-api"), TaskQueue: workflows.TaskQueue})
		s.env.ExecuteWorkflow("Parent", []byte(s.body()))
		require.NoError(t, s.env.GetWorkflowError())
		var report workflows.Report
		require.NoError(t, s.env.GetWorkflowResult(&report))
		assert.Equal(t, workflows.Completed, report.Outcome, report.Message)
	})
}
