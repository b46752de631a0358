package workflows_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/incident"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
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
		_ = workflow.Sleep(ctx, 90*time.Minute)
		c.runs[workflows.WorkflowID("payments-api")].WorkflowExecutionInfo.Status = enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED
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

// Whoever has the credential's workflow ID, and ends as the incident asks it to become the emergency, has told that its keys are dead: the
// emergency begins all the same, and what it sees counts.
func TestWhoeverEndsInTheTakeoverEndsNoIncident(t *testing.T) {
	t.Parallel()
	c := newIncidents(t)
	far := c.env.Now().Add(1000 * time.Hour)
	squatter := func(ctx workflow.Context) error {
		workflow.GetSignalChannel(ctx, workflows.CompromisedName).Receive(ctx, nil)
		c.runs[workflows.WorkflowID("payments-api")].WorkflowExecutionInfo.Status = enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED
		for _, credential := range []string{"payments-api", "somebody-elses"} {
			err := workflow.SignalExternalWorkflow(ctx, incident.ID("leak"), "", workflows.NewsName, workflows.EmergencyNews{Credential: credential, Report: workflows.Report{
				Incoming: key.Ref{KeyID: "key-of-mallory"}, Contained: []workflows.ContainedKey{{KeyID: "key-old", At: far}, {KeyID: "another", At: far}},
			}}).Get(ctx, nil)
			if err != nil {
				return err
			}
		}
		return nil
	}
	end := c.beside(squatter, map[string]*workflows.Emergency{"leak": c.declared([]string{"key-old"})})["leak"]
	assert.Equal(t, workflows.Contained, end.Outcome, "%s %v", end.Message, end.Timeline)
	assert.Equal(t, []string{"new-1 active"}, c.keys())
	assert.Less(t, end.ContainedAt.Sub(end.Since), 5*time.Minute, "it is dead when it was seen dead")
	require.Len(t, end.Credentials, 1)
	require.Len(t, end.Credentials[0].Contained, 1)
	assert.NotEqual(t, "key-of-mallory", end.Credentials[0].Current.KeyID)
	assert.NotContains(t, end.Markdown(), "mallory")
}

// An end that somebody tells, of whatever length and with whatever keys, is kept as far as there is a use for it.
func TestAnEndThatIsToldAtLength(t *testing.T) {
	t.Parallel()
	c := newIncidents(t)
	long := strings.Repeat("x", 200<<10)
	far := c.env.Now().Add(1000 * time.Hour)
	report := workflows.Report{
		Incident: incident.ID("leak"), Outcome: workflows.Failed, Message: "**call** \x1b[31m+1 555 0100 now " + long, Incoming: key.Ref{KeyID: long},
		Contained: []workflows.ContainedKey{{KeyID: "another", At: far, Probe: long}, {KeyID: "key-old", At: far, Probe: long}, {KeyID: "key-old", At: far}},
		Misuse:    &policy.Misuse{Deny: long, Unusual: 7},
	}
	for range 300 {
		report.Debt = append(report.Debt, activities.Debt{Kind: "copies-left", About: long[:1<<10]})
	}
	squatter := func(ctx workflow.Context) error {
		workflow.GetSignalChannel(ctx, workflows.CompromisedName).Receive(ctx, nil)
		_ = workflow.Sleep(ctx, time.Second)
		if err := c.world.Issuer("payments-api").Destroy(context.Background(), key.Ref{Principal: "payments-api", KeyID: "key-old"}); err != nil {
			return err
		}
		return workflow.SignalExternalWorkflow(ctx, incident.ID("leak"), "", workflows.NewsName, workflows.EmergencyNews{Credential: "payments-api", Report: report}).Get(ctx, nil)
	}
	end := c.beside(squatter, map[string]*workflows.Emergency{"leak": c.declared([]string{"key-old"})})["leak"]
	text, err := json.Marshal(end)
	require.NoError(t, err)
	assert.Less(t, len(text), 64<<10)
	assert.NotContains(t, end.Markdown(), "**call**")
	assert.NotContains(t, end.Message, "\x1b")
	assert.NotContains(t, end.Markdown(), "another")
	assert.False(t, end.ContainedAt.After(end.EndedAt), "nothing is dead that is to die yet")
	require.Len(t, end.Credentials, 1)
	assert.Len(t, end.Credentials[0].Contained, 1)
	assert.Contains(t, fmt.Sprint(end.Timeline), "200 more are owed than are kept here")
	assert.Contains(t, fmt.Sprint(end.Timeline), "what was told of who used its keys is longer")
}

// An end that is told in an emergency's place, of whatever kind and however often, is none as long as an exposed key is alive: what told it
// is looked after like everything that has the credential's workflow ID, and the emergency begins.
func TestAnEndThatIsToldWhileAKeyLivesIsNone(t *testing.T) {
	t.Parallel()
	dead := []workflows.ContainedKey{{KeyID: "key-old", Probe: "refused"}}
	for name, told := range map[string]workflows.Report{
		"completed":                     {Outcome: workflows.Completed, Contained: dead},
		"completed, with a debt":        {Outcome: workflows.CompletedWithDebt, Contained: dead, Debt: []activities.Debt{{Kind: "copies-left", About: "a"}}},
		"failed":                        {Outcome: workflows.Failed, Message: "NOT CONTAINED: the issuer is away"},
		"refused for want of authority": {Outcome: workflows.Failed, Unconfirmed: true, Message: "the declaration has expired"},
		"an outcome that is none":       {Outcome: "fine", Contained: dead},
		"contained, and not ended":      {Contained: dead},
	} {
		told.Incident = incident.ID("leak")
		for stays, then := range map[bool]string{false: "and ends", true: "again and again"} {
			t.Run(name+" "+then, func(t *testing.T) {
				t.Parallel()
				c := newIncidents(t)
				var early atomic.Bool // people heard of it while the key lived
				c.world.On(memory.OpDestroy, func(p memory.Phase) {
					if p == memory.Before && slices.Contains(c.news(), "contained") {
						early.Store(true)
					}
				})
				c.query = func(string) (converter.EncodedValue, error) { return nil, errors.New("nobody answers") }
				c.terminate = func(id string) error {
					c.runs[id].WorkflowExecutionInfo.Status = enumspb.WORKFLOW_EXECUTION_STATUS_TERMINATED
					return c.env.SignalWorkflowByID(id, "end", nil)
				}
				squatter := func(ctx workflow.Context) error {
					workflow.GetSignalChannel(ctx, workflows.CompromisedName).Receive(ctx, nil)
					for ended := false; !ended; {
						err := workflow.SignalExternalWorkflow(ctx, incident.ID("leak"), "", workflows.NewsName, workflows.EmergencyNews{Credential: "payments-api", Report: told}).Get(ctx, nil)
						if err != nil {
							return err
						}
						if !stays {
							c.runs[workflows.WorkflowID("payments-api")].WorkflowExecutionInfo.Status = enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED
							return nil
						}
						ended, _ = workflow.GetSignalChannel(ctx, "end").ReceiveWithTimeout(ctx, 7*time.Second, nil)
					}
					return temporal.NewApplicationError("terminated", "Terminated")
				}
				end := c.beside(squatter, map[string]*workflows.Emergency{"leak": c.declared([]string{"key-old"})})["leak"]
				assert.Equal(t, workflows.Contained, end.Outcome, "%s %v", end.Message, end.Timeline)
				assert.Equal(t, []string{"new-1 active"}, c.keys())
				assert.Less(t, end.ContainedAt.Sub(end.Since), 5*time.Minute)
				assert.False(t, early.Load(), "nobody is told that a key is dead which lives")
				assert.Equal(t, told.Outcome != "", strings.Contains(fmt.Sprint(end.Timeline), "is said to have ended, and has not"), end.Timeline)
			})
		}
	}
}

// An end that is told when every exposed key is dead, while the emergency's record is open, is none either: somebody has to finish it.
func TestAnEndThatIsToldBeforeItIsRecordedIsNone(t *testing.T) {
	t.Parallel()
	begun := 0
	c := newIncidentsWith(t, func(ctx workflow.Context, in workflows.RotationInput) (workflows.Report, error) {
		begun++
		return workflows.EmergencyRotation(ctx, in)
	})
	held := 0
	c.env.OnActivity("LookAtExposed", mock.Anything, mock.Anything).Return(func(context.Context, activities.ExposedInput) (activities.ExposedKeys, error) {
		held++
		return activities.ExposedKeys{Dead: []string{"key-old"}, Held: held == 1}, nil
	})
	squatter := func(ctx workflow.Context) error {
		workflow.GetSignalChannel(ctx, workflows.CompromisedName).Receive(ctx, nil)
		c.runs[workflows.WorkflowID("payments-api")].WorkflowExecutionInfo.Status = enumspb.WORKFLOW_EXECUTION_STATUS_TERMINATED
		return workflow.SignalExternalWorkflow(ctx, incident.ID("leak"), "", workflows.NewsName, workflows.EmergencyNews{Credential: "payments-api", Report: workflows.Report{
			Incident: incident.ID("leak"), Outcome: workflows.Completed, Contained: []workflows.ContainedKey{{KeyID: "key-old"}},
		}}).Get(ctx, nil)
	}
	end := c.beside(squatter, map[string]*workflows.Emergency{"leak": c.declared([]string{"key-old"})})["leak"]
	assert.Equal(t, workflows.Contained, end.Outcome, "%s %v", end.Message, end.Timeline)
	assert.Equal(t, 1, begun)
	assert.Contains(t, fmt.Sprint(end.Timeline), "has not recorded that")
}
