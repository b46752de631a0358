package workflows_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/internal/incident"
	"github.com/keyturn/keyturn/internal/signed"
	"github.com/keyturn/keyturn/workflows"
)

// declaredFor is a declaration of the incident for other credentials.
func (c *crisis) declaredFor(credentials ...string) signed.Envelope {
	return c.declared(nil, func(d *incident.Declaration) {
		d.Exposed = map[string][]string{}
		for _, name := range credentials {
			d.Exposed[name] = []string{"key-of-" + name}
		}
	}).Declaration
}

// An incident of many credentials has several declarations: the emergency of each acts by the one that lists it.
func TestAnIncidentOfSeveralDeclarations(t *testing.T) {
	t.Parallel()
	acted := map[string][]string{} // by credential, what the declaration lists
	c := newIncidentsWith(t, func(_ workflow.Context, in workflows.RotationInput) (workflows.Report, error) {
		d, err := incident.Peek(in.Emergency.Declaration)
		for name := range d.Exposed {
			acted[in.Credential] = append(acted[in.Credential], name)
		}
		return workflows.Report{Outcome: workflows.Completed, Contained: []workflows.ContainedKey{{KeyID: "key-of-" + in.Credential}}}, err
	})
	end := c.begun(workflows.IncidentInput{Declaration: c.declaredFor("a", "b"), More: []signed.Envelope{c.declaredFor("c")}}, ended)
	assert.Equal(t, workflows.Contained, end.Outcome, end.Message)
	slices.Sort(acted["a"])
	slices.Sort(acted["b"])
	assert.Equal(t, map[string][]string{"a": {"a", "b"}, "b": {"a", "b"}, "c": {"c"}}, acted)
	for _, n := range c.world.Notifications() {
		if n.Type == "dev.keyturn.incident.begun" {
			assert.Contains(t, n.Body, "Exposed: a (key-of-a), b (key-of-b), c (key-of-c).")
		}
	}
	assert.Equal(t, []string{"begun", "ended"}, c.news())
}

// What does not fit together is refused before anything is touched.
func TestDeclarationsThatDoNotFitTogether(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		more func(*crisis) []signed.Envelope
		says string
	}{
		"one credential twice": {func(c *crisis) []signed.Envelope { return []signed.Envelope{c.declaredFor("b", "a")} }, "a is listed twice"},
		"one of another incident": {func(c *crisis) []signed.Envelope {
			return []signed.Envelope{c.declared([]string{"k"}, func(d *incident.Declaration) { d.Incident = incident.ID("other") }).Declaration}
		}, `the declaration is one of "incident/other"`},
		"one that nobody signed": {func(c *crisis) []signed.Envelope {
			return []signed.Envelope{{Body: c.declaredFor("b").Body}}
		}, "not signed"},
		"too many": {func(c *crisis) []signed.Envelope {
			return slices.Repeat([]signed.Envelope{c.declaredFor("b")}, incident.MaxParts)
		}, fmt.Sprintf("it has %d declarations", incident.MaxParts+1)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newIncidentsWith(t, ended)
			end := c.begun(workflows.IncidentInput{Declaration: c.declaredFor("a"), More: x.more(c)}, ended)
			assert.Equal(t, workflows.Refused, end.Outcome)
			assert.Contains(t, end.Message, x.says)
			assert.Empty(t, c.news())
		})
	}
}

// An incident whose history is long goes on in another run: with its deadline, what it knows and what it has said.
func TestAnIncidentGoesOnInAnotherRun(t *testing.T) {
	t.Parallel()
	runs := 0
	c := newIncidentsWith(t, func(ctx workflow.Context, in workflows.RotationInput) (workflows.Report, error) {
		if in.Credential == "b" {
			if runs++; runs == 1 {
				_ = workflow.Sleep(ctx, 40*time.Minute)
			}
		}
		return workflows.Report{Outcome: workflows.Completed, Contained: []workflows.ContainedKey{{KeyID: "key-of-" + in.Credential, At: workflow.Now(ctx)}}}, nil
	})
	c.env.RegisterDelayedCallback(func() { c.env.SetContinueAsNewSuggested(true) }, 25*time.Minute)
	c.env.SetStartWorkflowOptions(client.StartWorkflowOptions{ID: incident.ID("leak"), TaskQueue: workflows.EmergencyQueue})
	c.env.ExecuteWorkflow(workflows.Incident, workflows.IncidentInput{Declaration: c.declaredFor("a"), More: []signed.Envelope{c.declaredFor("b")}})
	require.True(t, c.env.IsWorkflowCompleted())
	var again *workflow.ContinueAsNewError
	require.ErrorAs(t, c.env.GetWorkflowError(), &again)
	assert.Equal(t, "Incident", again.WorkflowType.Name)
	var next workflows.IncidentInput
	require.NoError(t, converter.GetDefaultDataConverter().FromPayloads(again.Input, &next))
	require.NotNil(t, next.Carried)
	before := next.Carried.Status
	assert.True(t, next.Carried.Asked["b"])
	assert.Contains(t, before.Message, "NOT CONTAINED YET, and the deadline has passed: b (key-of-b)")

	told := c.news()
	assert.Contains(t, told, "late")

	c.another(func(ctx workflow.Context, in workflows.RotationInput) (workflows.Report, error) {
		assert.Equal(t, "b", in.Credential, "a has ended")
		_ = workflow.Sleep(ctx, 10*time.Minute)
		return workflows.Report{Outcome: workflows.Completed, Contained: []workflows.ContainedKey{{KeyID: "key-of-b", At: workflow.Now(ctx)}}}, nil
	})
	end := c.begun(next, ended)
	assert.Equal(t, workflows.Contained, end.Outcome, "%s %v", end.Message, end.Timeline)
	assert.Equal(t, before.Since, end.Since)
	assert.Equal(t, before.Deadline, end.Deadline)
	assert.Equal(t, before.Timeline, end.Timeline[:len(before.Timeline)])
	assert.Equal(t, append(told, "ended"), c.news(), "nothing is said again")
}

// A page of thousands is bounded, and has those first whose keys may be alive.
func TestAPageOfManyCredentials(t *testing.T) {
	t.Parallel()
	var s workflows.IncidentStatus
	for n := range 2000 {
		m := workflows.IncidentMember{Credential: fmt.Sprint("payments-", n), Exposed: []string{"k"}}
		if n < 1990 {
			m.Contained = []workflows.ContainedKey{{KeyID: "k"}}
		}
		s.Credentials = append(s.Credentials, m)
	}
	page := s.Markdown()
	assert.Less(t, len(page), 20<<10)
	assert.Contains(t, page, "payments-1999")
	assert.Contains(t, page, "and 1900 more, see `keyturn incident show")
}
