package workflows_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/mock"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/incident"
	"github.com/keyturn/keyturn/providers/memory"
	"github.com/keyturn/keyturn/workflows"
)

// What somebody tells an incident before it has asked for anything is news of an emergency before: what runs now is asked all the same, and
// ended when it does nothing.
func TestNewsOfAnEmergencyBeforeEndNoIncident(t *testing.T) {
	t.Parallel()
	c := newIncidents(t)
	c.env.OnActivity("ProveDeclaration", mock.Anything, mock.Anything).Return(func(ctx context.Context, in activities.DeclarationInput) (activities.Declared, error) {
		err := c.env.SignalWorkflowByID(incident.ID("leak"), workflows.NewsName, workflows.EmergencyNews{Credential: "payments-api", Report: workflows.Report{
			Incident: incident.ID("leak"), Outcome: workflows.Completed, Contained: []workflows.ContainedKey{{KeyID: "key-old"}},
		}})
		assert.NoError(t, err)
		return c.do.ProveDeclaration(ctx, in)
	})
	c.terminate = func(id string) error {
		c.runs[id].WorkflowExecutionInfo.Status = enumspb.WORKFLOW_EXECUTION_STATUS_TERMINATED
		return c.env.SignalWorkflowByID(id, "end", nil)
	}
	idle := func(ctx workflow.Context) error {
		workflow.GetSignalChannel(ctx, "end").Receive(ctx, nil)
		return temporal.NewApplicationError("terminated", "Terminated")
	}
	end := c.beside(idle, map[string]*workflows.Emergency{"leak": c.declared([]string{"key-old"})})["leak"]
	assert.Equal(t, workflows.Contained, end.Outcome, end.Message)
	assert.Greater(t, end.ContainedAt, end.Deadline, "what ran did nothing until it was ended")
	assert.Equal(t, []string{"new-1 active"}, c.keys())
}

// A rotation was taken over when the declaration was too old to begin by. Somebody signs again, and its emergency begins anew.
func TestADeclarationThatIsTooOldForARotationThatWasTakenOver(t *testing.T) {
	t.Parallel()
	c := newIncidents(t)
	c.traffic(4 * time.Hour)
	tooLate := func(ctx workflow.Context) error {
		workflow.GetSignalChannel(ctx, workflows.CompromisedName).Receive(ctx, nil)
		_ = workflow.Sleep(ctx, 10*time.Second)
		return workflow.SignalExternalWorkflow(ctx, incident.ID("leak"), "", workflows.NewsName, workflows.EmergencyNews{Credential: "payments-api", Report: workflows.Report{
			Incident: incident.ID("leak"), Outcome: workflows.Failed, Unconfirmed: true, Message: "the declaration has expired",
		}}).Get(ctx, nil)
	}
	c.env.RegisterDelayedCallback(func() {
		assert.Contains(t, c.keys(), "key-old active", "nobody signed for it in time")
		assert.NoError(t, c.env.SignalWorkflowByID(incident.ID("leak"), workflows.ConfirmName, workflows.Confirmation{Declaration: c.declared([]string{"key-old"}).Declaration}))
	}, 2*time.Hour)
	end := c.beside(tooLate, map[string]*workflows.Emergency{"leak": c.declared([]string{"key-old"})})["leak"]
	assert.Equal(t, workflows.Contained, end.Outcome, "%s %v", end.Message, end.Timeline)
	assert.Contains(t, fmt.Sprint(end.Timeline), "its declaration was refused, and it waits for another one")
	assert.Contains(t, c.news(), "unconfirmed")
	assert.Equal(t, []string{"new-1 active"}, c.keys())
}

// A hook that held deployments and then does not answer is asked again: until the freeze that it has ends by itself, people see until when.
func TestAFreezeThatIsNotRenewed(t *testing.T) {
	t.Parallel()
	c := newIncidentsWith(t, func(ctx workflow.Context, in workflows.RotationInput) (workflows.Report, error) {
		_ = workflow.Sleep(ctx, 25*time.Minute)
		return workflows.EmergencyRotation(ctx, in)
	})
	c.world.On(memory.OpFreeze, func(p memory.Phase) {
		if p == memory.After {
			c.world.Fail(memory.OpFreeze, errors.New("the pipeline is away"), 1000)
		}
	})
	var shown workflows.IncidentStatus
	c.env.RegisterDelayedCallback(func() {
		answer, err := c.env.QueryWorkflowByID(incident.ID("leak"), workflows.StatusName)
		if assert.NoError(t, err) {
			assert.NoError(t, answer.Get(&shown))
		}
	}, 20*time.Minute)
	end := c.beside(nil, map[string]*workflows.Emergency{"leak": c.declared([]string{"key-old"})})["leak"]
	assert.Equal(t, workflows.Contained, end.Outcome, end.Message)
	assert.WithinDuration(t, end.Since.Add(30*time.Minute), shown.FrozenUntil, time.Minute)
	assert.Contains(t, fmt.Sprint(shown.Timeline), "failed: memory (1 of 1)")
	assert.Contains(t, fmt.Sprint(end.Timeline), "unfrozen by memory (1 of 1)")
	assert.Zero(t, end.FrozenUntil)
	assert.Empty(t, c.world.Freezes())
}
