package workflows_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/internal/incident"
	"github.com/keyturn/keyturn/workflows"
)

// begins is an emergency that notes when it begins, and takes its time.
func (c *crisis) begins(at map[string]time.Time, takes time.Duration) func(workflow.Context, workflows.RotationInput) (workflows.Report, error) {
	return func(ctx workflow.Context, in workflows.RotationInput) (workflows.Report, error) {
		at[in.Credential] = workflow.Now(ctx)
		_ = workflow.Sleep(ctx, takes)
		return workflows.Report{Outcome: workflows.Completed, Contained: []workflows.ContainedKey{{KeyID: "key-of-" + in.Credential, At: workflow.Now(ctx)}}}, nil
	}
}

// asks has somebody ask something of the incident, after a while.
func (c *crisis) asks(after time.Duration, signal string, input any) {
	c.env.RegisterDelayedCallback(func() { assert.NoError(c.t, c.env.SignalWorkflowByID(incident.ID("leak"), signal, input)) }, after)
}

// shows is what the incident says of itself, after a while.
func (c *crisis) shows(after time.Duration) *workflows.IncidentStatus {
	shown := &workflows.IncidentStatus{}
	c.env.RegisterDelayedCallback(func() {
		answer, err := c.env.QueryWorkflowByID(incident.ID("leak"), workflows.StatusName)
		if assert.NoError(c.t, err) {
			assert.NoError(c.t, answer.Get(shown))
		}
	}, after)
	return shown
}

// While an incident pauses, no emergency of it begins, past the deadline either: people hear so each hour, and what has begun goes on.
func TestAnIncidentThatPausesBeginsNothingFurther(t *testing.T) {
	t.Parallel()
	at := map[string]time.Time{}
	c := newIncidents(t)
	c.another(c.begins(at, 2*time.Minute))
	c.asks(time.Minute, workflows.PauseName, workflows.PauseRequest{By: "ann", Reason: "checkout is down"})
	atOnce, late := c.shows(90*time.Second), c.shows(time.Hour)
	c.asks(100*time.Minute, workflows.ResumeName, workflows.PauseRequest{By: "bob"})
	end := c.begun(workflows.IncidentInput{Declaration: c.declaredFor("a", "b"), After: map[string][]string{"b": {"a"}}}, ended)

	assert.Equal(t, workflows.Contained, end.Outcome, "%s %v", end.Message, end.Timeline)
	assert.WithinDuration(t, end.Since, at["a"], time.Second)
	assert.WithinDuration(t, end.Since.Add(100*time.Minute), at["b"], time.Second)
	assert.Nil(t, end.Paused)

	require.NotNil(t, atOnce.Paused)
	assert.Contains(t, atOnce.PauseLine(), "PAUSED by ann at")
	assert.Contains(t, atOnce.PauseLine(), "(checkout is down)")
	assert.Contains(t, atOnce.PauseLine(), "Go on with: keyturn incident resume incident/leak (1 of 2 credentials wait)", "b would wait for a, otherwise")
	assert.Contains(t, atOnce.PauseLine(), "Deployments stay frozen meanwhile; let them go on with: keyturn incident unfreeze incident/leak")
	assert.Contains(t, atOnce.Markdown(), "PAUSED by ann")
	require.Len(t, late.Credentials, 2)
	assert.Equal(t, workflows.Contained, workflows.Outcome(late.Credentials[0].State), "what had begun went on to its end")
	assert.Equal(t, "waits: the incident is paused", late.Credentials[1].State)
	assert.Contains(t, late.Message, "NOT CONTAINED YET, and the deadline has passed: b (key-of-b): waits: the incident is paused")
	assert.Equal(t, "1 of 2 exposed keys are dead", late.Progress(end.Since.Add(time.Hour)), "at no rate at all")

	assert.Equal(t, []string{"begun", "paused", "late", "paused", "late", "resumed", "ended"}, c.news())
	for _, n := range c.world.Notifications() {
		if n.Type == "dev.keyturn.incident.paused" {
			assert.Contains(t, n.Body, "NOT CONTAINED: somebody paused it, and nothing begins for b, not at the deadline either")
			assert.NotContains(t, n.Body, "checkout", "whoever writes to the namespace has none of their words sent")
		}
	}
	assert.Contains(t, fmt.Sprint(end.Timeline), "goes on, as bob asked for")
}

// A pause holds from whenever it comes, and whatever its input is: what is asked for is said by its name.
func TestAPauseHoldsWheneverItComes(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		after  time.Duration
		inputs []any
		by     string
	}{
		"before anything has begun": {0, []any{workflows.PauseRequest{By: "ann"}}, "ann"},
		"without an input":          {0, []any{nil}, "somebody"},
		"with one of another kind":  {0, []any{"stop!"}, "somebody"},
		"twice":                     {0, []any{workflows.PauseRequest{By: "ann"}, workflows.PauseRequest{By: "bob"}}, "ann"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at := map[string]time.Time{}
			c := newIncidents(t)
			c.another(c.begins(at, time.Second))
			for _, input := range x.inputs {
				c.asks(x.after, workflows.PauseName, input)
			}
			shown := c.shows(5 * time.Minute)
			c.asks(10*time.Minute, workflows.ResumeName, nil)
			end := c.begun(workflows.IncidentInput{Declaration: c.declaredFor("a")}, ended)
			assert.Equal(t, workflows.Contained, end.Outcome, "%s %v", end.Message, end.Timeline)
			assert.WithinDuration(t, end.Since.Add(10*time.Minute), at["a"], time.Second)
			require.NotNil(t, shown.Paused)
			assert.Equal(t, x.by, shown.Paused.By)
		})
	}
}

// Deployments go on whatever the input is of whoever asks for that.
func TestDeploymentsGoOnWhateverTheInputIs(t *testing.T) {
	t.Parallel()
	c := newIncidents(t)
	c.another(c.begins(map[string]time.Time{}, 5*time.Minute))
	c.asks(time.Minute, workflows.UnfreezeName, "now!")
	shown := c.shows(2 * time.Minute)
	end := c.begun(workflows.IncidentInput{Declaration: c.declaredFor("a")}, ended)
	assert.Equal(t, workflows.Contained, end.Outcome, end.Message)
	assert.Zero(t, shown.FrozenUntil)
	assert.Contains(t, fmt.Sprint(end.Timeline), "deployments go on, as somebody asked for")
}

// An emergency that somebody stops while its incident pauses is not begun again before that goes on.
func TestAnEmergencyThatIsStoppedInAPauseIsNotBegunAgain(t *testing.T) {
	t.Parallel()
	var at []time.Time
	c := newIncidents(t)
	c.another(func(ctx workflow.Context, in workflows.RotationInput) (workflows.Report, error) {
		if at = append(at, workflow.Now(ctx)); len(at) == 1 {
			_ = workflow.Sleep(ctx, 2*time.Minute)
			return workflows.Report{}, fmt.Errorf("terminated")
		}
		return workflows.Report{Outcome: workflows.Completed, Contained: []workflows.ContainedKey{{KeyID: "key-of-a", At: workflow.Now(ctx)}}}, nil
	})
	c.asks(time.Minute, workflows.PauseName, workflows.PauseRequest{By: "ann"})
	shown := c.shows(5 * time.Minute)
	c.asks(10*time.Minute, workflows.ResumeName, nil)
	end := c.begun(workflows.IncidentInput{Declaration: c.declaredFor("a")}, ended)
	assert.Equal(t, workflows.Contained, end.Outcome, "%s %v", end.Message, end.Timeline)
	require.Len(t, at, 2)
	assert.WithinDuration(t, end.Since.Add(10*time.Minute), at[1], time.Second)
	require.Len(t, shown.Credentials, 1)
	assert.True(t, shown.Credentials[0].Held)
}

// A pause goes on in the next run of an incident, and is not said anew.
func TestAPauseGoesOnInAnotherRun(t *testing.T) {
	t.Parallel()
	at := map[string]time.Time{}
	c := newIncidents(t)
	c.another(c.begins(at, time.Second))
	c.asks(0, workflows.PauseName, workflows.PauseRequest{By: "ann"})
	c.env.RegisterDelayedCallback(func() { c.env.SetContinueAsNewSuggested(true) }, 5*time.Minute)
	c.env.SetStartWorkflowOptions(client.StartWorkflowOptions{ID: incident.ID("leak"), TaskQueue: workflows.EmergencyQueue})
	c.env.ExecuteWorkflow(workflows.Incident, workflows.IncidentInput{Declaration: c.declaredFor("a")})
	var again *workflow.ContinueAsNewError
	require.ErrorAs(t, c.env.GetWorkflowError(), &again)
	var next workflows.IncidentInput
	require.NoError(t, converter.GetDefaultDataConverter().FromPayloads(again.Input, &next))
	told := c.news()
	assert.Contains(t, told, "paused")
	assert.Empty(t, at)

	c.another(c.begins(at, time.Second))
	shown := c.shows(5 * time.Minute)
	c.asks(20*time.Minute, workflows.ResumeName, nil)
	end := c.begun(next, ended)
	assert.Equal(t, workflows.Contained, end.Outcome, "%s %v", end.Message, end.Timeline)
	require.NotNil(t, shown.Paused)
	assert.Equal(t, "ann", shown.Paused.By)
	assert.Equal(t, append(told, "late", "resumed", "ended"), c.news(), "nothing is said again")
}
