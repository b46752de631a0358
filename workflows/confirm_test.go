package workflows_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/incident"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/signed"
	"github.com/keyturn/keyturn/providers/memory"
	"github.com/keyturn/keyturn/workflows"
)

// ended is a rotation that ends at once.
func ended(workflow.Context, workflows.RotationInput) (workflows.Report, error) {
	return workflows.Report{Outcome: workflows.Completed}, nil
}

// begun runs an incident, beside rotations like that one.
func (c *crisis) begun(in workflows.IncidentInput, rotation func(workflow.Context, workflows.RotationInput) (workflows.Report, error)) workflows.IncidentStatus {
	c.t.Helper()
	c.env.RegisterWorkflowWithOptions(rotation, workflow.RegisterOptions{Name: "Rotation"})
	c.env.SetStartWorkflowOptions(client.StartWorkflowOptions{ID: incident.ID("leak"), TaskQueue: workflows.EmergencyQueue})
	in.Specs = map[string]inventory.SignedSpec{"payments-api": c.spec()}
	c.env.ExecuteWorkflow(workflows.Incident, in)
	require.True(c.t, c.env.IsWorkflowCompleted())
	require.NoError(c.t, c.env.GetWorkflowError())
	var status workflows.IncidentStatus
	require.NoError(c.t, c.env.GetWorkflowResult(&status))
	return status
}

// confirms has somebody sign for the incident at that time, and says what came of it.
func (c *crisis) confirms(after time.Duration, declaration func() *workflows.Emergency) *error {
	verdict := new(error)
	c.env.RegisterDelayedCallback(func() {
		c.env.UpdateWorkflow(workflows.ConfirmName, fmt.Sprint("confirm-", after), &testsuite.TestUpdateCallback{
			OnAccept: func() {}, OnReject: func(err error) { *verdict = err }, OnComplete: func(_ any, err error) { *verdict = err },
		}, workflows.Confirmation{Declaration: declaration().Declaration})
	}, after)
	return verdict
}

// Without a signature another key is issued and delivered, as a routine does it, and none is destroyed; by one the exposed key ends.
func TestAnIncidentThatNobodySigned(t *testing.T) {
	t.Parallel()
	c := newIncidents(t)
	c.traffic(4 * time.Hour)
	var before []string
	verdict := c.confirms(90*time.Minute, func() *workflows.Emergency {
		before = c.keys()
		return c.declared([]string{"key-old"})
	})
	end := c.begun(workflows.IncidentInput{Credentials: []string{"payments-api"}, Reason: "key in a public repository"}, workflows.Rotation)
	require.NoError(t, *verdict)
	assert.Equal(t, workflows.Contained, end.Outcome, "%s %v", end.Message, end.Timeline)
	assert.Equal(t, "ines", end.DeclaredBy)
	assert.Equal(t, []string{"key-old active", "new-1 active"}, before, "nothing is destroyed that nobody signed for")
	assert.Equal(t, []string{"new-1 active"}, c.keys())
	assert.Zero(t, c.refused())
	assert.Equal(t, []string{"unconfirmed", "unconfirmed", "begun", "contained", "ended"}, c.news())
	assert.Less(t, end.ContainedAt.Sub(end.Since), 2*time.Hour)
	assert.False(t, end.Credentials[0].Unconfirmed)
}

// What nobody signs for ends without having destroyed anything, and says so.
func TestAnIncidentThatNobodyEverSigns(t *testing.T) {
	t.Parallel()
	c := newIncidents(t)
	mallory := newCrisis(t)
	other := c.confirms(time.Hour, func() *workflows.Emergency {
		return c.declared([]string{"key-old"}, func(d *incident.Declaration) { d.Incident = incident.ID("another") })
	})
	untrusted := c.confirms(2*time.Hour, func() *workflows.Emergency { return mallory.declared([]string{"key-old"}) })
	c.env.RegisterDelayedCallback(func() {
		c.env.SignalWorkflow(workflows.ConfirmName, workflows.Confirmation{})
	}, 3*time.Hour)
	end := c.begun(workflows.IncidentInput{Credentials: []string{"payments-api"}, Reason: "key in a public repository"}, ended)
	assert.Equal(t, workflows.NotContained, end.Outcome)
	assert.Contains(t, end.Message, "NOT CONTAINED: nobody signed for it within 1d")
	assert.Contains(t, c.keys(), "key-old active")
	require.ErrorContains(t, *other, `the declaration is one of "incident/another"`)
	require.ErrorContains(t, *untrusted, "the signer is not trusted")
	assert.Contains(t, fmt.Sprint(end.Timeline), "a confirmation was not taken")
	assert.Len(t, c.news(), 25)
	assert.Equal(t, "unsigned", c.news()[24])
}

// What an incident cannot be of is said, and nothing is touched.
func TestWhatNoIncidentIsOf(t *testing.T) {
	t.Parallel()
	many := make([]string, workflows.MaxUnsigned+1)
	for n := range many {
		many[n] = fmt.Sprintf("payments-%d", n)
	}
	for name, x := range map[string]struct {
		in   workflows.IncidentInput
		says string
	}{
		"of nothing":           {workflows.IncidentInput{}, `it has no "declaration", and names no "credentials"`},
		"of nothing, but why":  {workflows.IncidentInput{Reason: "leaked"}, `names no "credentials"`},
		"without a reason":     {workflows.IncidentInput{Credentials: []string{"payments-api"}}, `it gives no "reason"`},
		"of more than a few":   {workflows.IncidentInput{Credentials: many, Reason: "leaked"}, "it names 11 credentials"},
		"by an empty envelope": {workflows.IncidentInput{Credentials: many[:1], Declaration: signed.Envelope{Body: []byte("{}")}}, "declaration refused"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newIncidents(t)
			end := c.begun(x.in, ended)
			assert.Equal(t, workflows.Refused, end.Outcome)
			assert.Contains(t, end.Message, "Nothing was touched: ")
			assert.Contains(t, end.Message, x.says)
			assert.Len(t, c.world.Happened(memory.OpIssue), 1, "none but the one from before")
			assert.Empty(t, c.news())
		})
	}
}

// A declaration that is too old for what begins late waits for another one, loudly.
func TestADeclarationThatIsTooOldForWhatBeginsLate(t *testing.T) {
	t.Parallel()
	late := true
	c := newIncidentsWith(t, func(ctx workflow.Context, in workflows.RotationInput) (workflows.Report, error) {
		if late {
			late = false
			_ = workflow.Sleep(ctx, 2*time.Hour)
		}
		return workflows.EmergencyRotation(ctx, in)
	})
	c.traffic(6 * time.Hour)
	early := c.confirms(time.Minute, func() *workflows.Emergency { return c.declared([]string{"key-old"}) })
	less := c.confirms(3*time.Hour, func() *workflows.Emergency { return c.declared([]string{"key-new"}) })
	verdict := c.confirms(4*time.Hour, func() *workflows.Emergency { return c.declared([]string{"key-old"}) })
	end := c.begun(workflows.IncidentInput{Declaration: c.declared([]string{"key-old"}).Declaration}, ended)
	require.ErrorContains(t, *early, "nothing of this incident waits for a signature")
	require.ErrorContains(t, *less, "it leaves out key key-old of payments-api")
	require.NoError(t, *verdict)
	assert.Equal(t, workflows.Contained, end.Outcome, "%s %v", end.Message, end.Timeline)
	assert.Equal(t, []string{"new-1 active"}, c.keys())
	assert.Contains(t, c.news(), string(activities.NewsUnconfirmed))
}

// Somebody who signs while the rotations begin is heard, also when it is for fewer credentials.
func TestAConfirmationThatComesAtOnce(t *testing.T) {
	t.Parallel()
	c := newIncidentsWith(t, func(_ workflow.Context, in workflows.RotationInput) (workflows.Report, error) {
		return workflows.Report{Outcome: workflows.Completed, Contained: []workflows.ContainedKey{{KeyID: "key-of-" + in.Credential}}}, nil
	})
	c.env.RegisterDelayedCallback(func() {
		c.env.SignalWorkflow(workflows.ConfirmName, workflows.Confirmation{Declaration: c.declaredFor("a")})
	}, 0)
	end := c.begun(workflows.IncidentInput{Credentials: []string{"a", "b"}, Reason: "key in a public repository"}, ended)
	assert.Equal(t, workflows.Contained, end.Outcome, "%s %v", end.Message, end.Timeline)
	require.Len(t, end.Credentials, 1)
	assert.Contains(t, fmt.Sprint(end.Timeline), "b: no key of it is exposed, as ines says")
}
