package workflows_test

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/internal/incident"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/temporaltest"
	"github.com/keyturn/keyturn/providers/memory"
	"github.com/keyturn/keyturn/workflows"
)

// newIncidents is a crisis whose environment has incidents, and passes signals on.
func newIncidents(t *testing.T) *crisis { return newIncidentsWith(t, workflows.EmergencyRotation) }

// newIncidentsWith has other emergencies.
func newIncidentsWith(t *testing.T, emergency func(workflow.Context, workflows.RotationInput) (workflows.Report, error)) *crisis {
	t.Helper()
	c := newCrisis(t)
	c.another(emergency)
	return c
}

// another gives incidents another environment, at the time of the one before.
func (c *crisis) another(emergency func(workflow.Context, workflows.RotationInput) (workflows.Report, error)) {
	now := c.env.Now()
	c.env = temporaltest.NewEnvironment()
	c.env.SetStartTime(now)
	c.clock.Store(c.env)
	c.env.RegisterActivity(c.do)
	c.env.RegisterWorkflowWithOptions(emergency, workflow.RegisterOptions{Name: "EmergencyRotation"})
	c.env.RegisterWorkflow(workflows.Incident)
}

// beside runs incidents, by their names, beside something that has the ID of the credential's rotation, and returns how each ended.
func (c *crisis) beside(other any, incidents map[string]*workflows.Emergency) map[string]workflows.IncidentStatus {
	c.t.Helper()
	c.runs = map[string]*workflowservice.DescribeWorkflowExecutionResponse{workflows.WorkflowID("payments-api"): {
		WorkflowExecutionInfo: &workflowpb.WorkflowExecutionInfo{
			Execution: &commonpb.WorkflowExecution{RunId: "the-run"}, Status: enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING,
		},
	}}
	if other != nil {
		c.env.RegisterWorkflowWithOptions(other, workflow.RegisterOptions{Name: "Other"})
	}
	c.world.On(memory.OpDeliver, func(memory.Phase) { c.env.SignalWorkflow("delivering", nil) })
	c.env.SetStartWorkflowOptions(client.StartWorkflowOptions{ID: "everything", TaskQueue: workflows.EmergencyQueue})
	everything := func(ctx workflow.Context) (map[string]workflows.IncidentStatus, error) {
		named := func(id string) workflow.Context {
			return workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{WorkflowID: id, ParentClosePolicy: enumspb.PARENT_CLOSE_POLICY_ABANDON})
		}
		if other != nil {
			if err := workflow.ExecuteChildWorkflow(named(workflows.WorkflowID("payments-api")), "Other").GetChildWorkflowExecution().Get(ctx, nil); err != nil {
				return nil, err
			}
		}
		running := map[string]workflow.ChildWorkflowFuture{}
		for n, name := range workflow.DeterministicKeys(incidents) {
			if n > 0 { // while the emergency of the one before delivers
				workflow.GetSignalChannel(ctx, "delivering").Receive(ctx, nil)
			}
			running[name] = workflow.ExecuteChildWorkflow(named(incident.ID(name)), workflows.Incident, workflows.IncidentInput{
				Declaration: incidents[name].Declaration, Specs: map[string]inventory.SignedSpec{"payments-api": c.spec()},
			})
		}
		ends := map[string]workflows.IncidentStatus{}
		for _, name := range workflow.DeterministicKeys(running) {
			var end workflows.IncidentStatus
			if err := running[name].Get(ctx, &end); err != nil {
				return nil, err
			}
			ends[name] = end
		}
		return ends, nil
	}
	c.env.RegisterWorkflowWithOptions(everything, workflow.RegisterOptions{Name: "Everything"}) // the SDK takes functions without a name for one another
	c.env.ExecuteWorkflow("Everything")
	require.True(c.t, c.env.IsWorkflowCompleted())
	require.NoError(c.t, c.env.GetWorkflowError())
	var ends map[string]workflows.IncidentStatus
	require.NoError(c.t, c.env.GetWorkflowResult(&ends))
	return ends
}

// What has the ID of the credential's rotation and does not answer is ended, and its emergency begins.
func TestWhatDoesNotAnswerAnIncidentIsEnded(t *testing.T) {
	t.Parallel()
	c := newIncidents(t)
	c.query = func(string) (converter.EncodedValue, error) { return nil, errors.New("no worker has it") }
	var ended time.Time
	c.terminate = func(id string) error {
		ended = c.env.Now()
		c.runs[id].WorkflowExecutionInfo.Status = enumspb.WORKFLOW_EXECUTION_STATUS_TERMINATED
		return c.env.SignalWorkflowByID(id, "end", nil)
	}
	squatter := func(ctx workflow.Context) error {
		workflow.GetSignalChannel(ctx, "end").Receive(ctx, nil)
		return temporal.NewApplicationError("terminated", "Terminated")
	}
	ends := c.beside(squatter, map[string]*workflows.Emergency{"leak": c.declared([]string{"key-old"})})
	end := ends["leak"]
	assert.Equal(t, workflows.Contained, end.Outcome, end.Message)
	assert.False(t, ended.IsZero())
	assert.LessOrEqual(t, ended.Sub(end.Since), 2*time.Minute)
	assert.Contains(t, fmt.Sprint(end.Timeline), "did not answer, and was ended")
	assert.Equal(t, []string{"new-1 active"}, c.keys())
}

// An emergency that was stopped is begun again: what is exposed must end.
func TestAnEmergencyThatWasStoppedIsBegunAgain(t *testing.T) {
	t.Parallel()
	begun := 0
	c := newIncidentsWith(t, func(ctx workflow.Context, in workflows.RotationInput) (workflows.Report, error) {
		if begun++; begun == 1 {
			return workflows.Report{}, temporal.NewCanceledError()
		}
		return workflows.EmergencyRotation(ctx, in)
	})
	end := c.beside(nil, map[string]*workflows.Emergency{"leak": c.declared([]string{"key-old"})})["leak"]
	assert.Equal(t, workflows.Contained, end.Outcome, end.Message)
	assert.Equal(t, 2, begun)
	assert.Contains(t, fmt.Sprint(end.Timeline), "its emergency was stopped")
	assert.Equal(t, []string{"new-1 active"}, c.keys())
}

// An emergency that is stuck is ended, and begun again.
func TestAnEmergencyThatDoesNotAnswerIsBegunAgain(t *testing.T) {
	t.Parallel()
	begun := 0
	c := newIncidentsWith(t, func(ctx workflow.Context, in workflows.RotationInput) (workflows.Report, error) {
		if begun++; begun == 1 {
			workflow.GetSignalChannel(ctx, "end").Receive(ctx, nil)
			return workflows.Report{}, temporal.NewCanceledError()
		}
		return workflows.EmergencyRotation(ctx, in)
	})
	c.query = func(string) (converter.EncodedValue, error) { return nil, errors.New("its workflow task fails") }
	c.terminate = func(id string) error { return c.env.SignalWorkflowByID(id, "end", nil) }
	end := c.beside(nil, map[string]*workflows.Emergency{"leak": c.declared([]string{"key-old"})})["leak"]
	assert.Equal(t, workflows.Contained, end.Outcome, end.Message)
	assert.Equal(t, 2, begun)
	assert.Less(t, end.ContainedAt.Sub(end.Since), 3*time.Minute)
	assert.Contains(t, fmt.Sprint(end.Timeline), "did not answer, and was ended")
	assert.Equal(t, []string{"new-1 active"}, c.keys())
}

// A rotation that has heard, and is not the emergency once the deadline has passed, is ended; until its keys are dead, that they are not is
// said first.
func TestARotationThatOnlyHearsIsEnded(t *testing.T) {
	t.Parallel()
	c := newIncidents(t)
	c.terminate = func(id string) error {
		c.runs[id].WorkflowExecutionInfo.Status = enumspb.WORKFLOW_EXECUTION_STATUS_TERMINATED
		return c.env.SignalWorkflowByID(id, "end", nil)
	}
	stuck := func(ctx workflow.Context) error {
		workflow.GetSignalChannel(ctx, "end").Receive(ctx, nil)
		return temporal.NewApplicationError("terminated", "Terminated")
	}
	end := c.beside(stuck, map[string]*workflows.Emergency{"leak": c.declared([]string{"key-old"})})["leak"]
	assert.Equal(t, workflows.Contained, end.Outcome, end.Message)
	assert.Less(t, end.ContainedAt.Sub(end.Deadline), 3*time.Minute)
	assert.Contains(t, fmt.Sprint(end.Timeline), "NOT CONTAINED YET, and the deadline has passed: payments-api (key-old): ")
	assert.Contains(t, fmt.Sprint(end.Timeline), "was not the emergency when the deadline had passed, and was ended")
	assert.Equal(t, []string{"new-1 active"}, c.keys())
	assert.Equal(t, []string{"begun", "late", "contained", "ended"}, c.news())
}

// news are what people were told of the incident, in order.
func (c *crisis) news() (told []string) {
	for _, n := range c.world.Notifications() {
		if what, of := strings.CutPrefix(n.Type, "dev.keyturn.incident."); of {
			told = append(told, what)
		}
	}
	return told
}

// Two incidents list different keys of a credential: the keys of both end, one emergency after the other; the same key ends once, and
// both hear of it.
func TestTwoIncidentsOfOneCredential(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		other string
		dead  []string
	}{
		"the same key":   {"key-old", []string{"destroy key-old"}},
		"different keys": {"stranger", []string{"destroy key-old", "destroy stranger"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var c *crisis
			c = newIncidentsWith(t, func(ctx workflow.Context, in workflows.RotationInput) (workflows.Report, error) {
				report, err := workflows.EmergencyRotation(ctx, in)
				_ = workflow.Sleep(ctx, time.Second) // no activity goes on as that passes
				c.runs[workflows.WorkflowID("payments-api")].WorkflowExecutionInfo.Status = enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED
				return report, err
			})
			settings := memory.Strict()
			settings.Slots, settings.UsageLag = 3, time.Minute
			c.world.SetPrincipal("payments-api", settings)
			c.world.AddKey("payments-api", "stranger", c.began)
			heard := map[string]any{"incidents": []string{incident.ID("first"), incident.ID("second")}}
			c.query = func(string) (converter.EncodedValue, error) { return temporaltest.Answer{Of: heard}, nil }
			of := func(id string) func(*incident.Declaration) {
				return func(d *incident.Declaration) { d.Incident, d.Nonce = incident.ID(id), id }
			}
			ends := c.beside(nil, map[string]*workflows.Emergency{
				"first": c.declared([]string{"key-old"}, of("first")), "second": c.declared([]string{x.other}, of("second")),
			})
			for id, end := range ends {
				assert.Equal(t, workflows.Contained, end.Outcome, "%s: %s %v", id, end.Message, end.Timeline)
			}
			assert.Len(t, ends, 2)
			assert.Equal(t, x.dead, c.happened(memory.OpDestroy))
			assert.Len(t, c.happened(memory.OpIssue), 1)
		})
	}
}

// Deployments are frozen from the begin of an incident to its end, unless somebody wants them to go on. What hooks do delays nothing.
func TestAnIncidentFreezesDeployments(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		prepare      func(*crisis)
		says         string
		while, after int // freezes in force as the exposed key is destroyed, and at the end
	}{
		"from begin to end":        {func(*crisis) {}, "unfrozen by memory (1 of 1)", 1, 0},
		"where a hook fails first": {func(c *crisis) { c.world.Fail(memory.OpFreeze, errors.New("the pipeline is away"), 1) }, "failed: memory (1 of 1)", 0, 0},
		"until somebody wants them to go on": {func(c *crisis) {
			c.world.On(memory.OpSelfTest, func(memory.Phase) {
				_ = c.env.SignalWorkflowByID(incident.ID("leak"), workflows.UnfreezeName, workflows.Unfreeze{By: "ann"})
			})
		}, "deployments go on, as ann asked for", 0, 0},
		"where none ends it": {func(c *crisis) { c.world.Fail(memory.OpUnfreeze, errors.New("the pipeline is away"), 1000) },
			"deployments may be frozen until", 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newIncidents(t)
			x.prepare(c)
			var while atomic.Int32
			c.world.On(memory.OpDestroy, func(p memory.Phase) {
				if p == memory.Before {
					while.Store(int32(len(c.world.Freezes()))) //nolint:gosec // a few
				}
			})
			end := c.beside(nil, map[string]*workflows.Emergency{"leak": c.declared([]string{"key-old"})})["leak"]
			assert.Equal(t, workflows.Contained, end.Outcome, end.Message)
			assert.EqualValues(t, x.while, while.Load())
			assert.Less(t, end.ContainedAt.Sub(end.Since), time.Minute)
			assert.Contains(t, fmt.Sprint(end.Timeline), x.says)
			assert.Len(t, c.world.Freezes(), x.after)
			assert.Equal(t, x.after > 0, !end.FrozenUntil.IsZero())
		})
	}
}
