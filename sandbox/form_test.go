package main

import (
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/schedule"
	"github.com/keyturn/keyturn/providers/all"
	"github.com/keyturn/keyturn/sandbox/internal/devserver"
	"github.com/keyturn/keyturn/workflows"
)

// form is what a person writes into "Start Workflow" of the Web UI.
type form struct{ id, queue, kind, input string }

var written = regexp.MustCompile("workflow ID `([^`]+)`, task queue `([^`]+)`, workflow type `([^`]+)`, input\\s`([^`]+)` with the encoding `json/plain`")

// documentedForm is the one that docs/temporal-cli.md says.
func documentedForm(t *testing.T) form {
	t.Helper()
	page, err := os.ReadFile("../docs/temporal-cli.md")
	require.NoError(t, err)
	m := written.FindStringSubmatch(string(page))
	require.NotNil(t, m, "what to write into the form")
	return form{id: m[1], queue: m[2], kind: m[3], input: m[4]}
}

// starts a run as the form does, which is looked at from then on.
func (c *console) starts(f form) {
	c.t.Helper()
	var started struct{ RunID string }
	c.asks(http.MethodPost, c.workflows("/"+url.PathEscape(f.id)), map[string]any{
		"workflowId": f.id, "taskQueue": map[string]string{"name": f.queue}, "workflowType": map[string]string{"name": f.kind}, "input": inJSON(f.input),
	}, &started)
	require.NotEmpty(c.t, started.RunID)
	c.run = c.client.GetWorkflow(c.t.Context(), f.id, started.RunID)
}

// applies the inventory, as keyturn apply does.
func (c *console) applies() {
	c.t.Helper()
	spec, err := specOf(c.place, false)
	require.NoError(c.t, err)
	schedules := schedule.New(c.client, devserver.Namespace, all.Catalog(all.Descriptors()...))
	require.NoError(c.t, schedules.Create(c.t.Context(), schedule.Content{Signed: spec, Paused: true}))
}

// touched are the keys that the gateway accepts, as its file has them.
func (c *console) touched() string {
	c.t.Helper()
	keys, err := os.ReadFile(c.place.Folder.GatewayKeys())
	require.NoError(c.t, err)
	return string(keys)
}

// A rotation begins by the form as documented. What is wrong in it ends the run, says why, and touches nothing.
func TestAPersonStartsARotationByTheFormOfTheWebUI(t *testing.T) {
	t.Parallel()
	c := newIdleConsole(t)
	c.gets(http.MethodGet, c.server.UIURL(), nil) // brings the cookie
	right := documentedForm(t)
	before := c.touched()
	for name, wrong := range map[string]struct{ input, fails, refused string }{
		"JSON that ends in the middle": {input: strings.TrimSuffix(right.input, "}"), fails: "unable to decode: unexpected end of JSON input"},
		"a name alone":                 {input: c.place.Credential, fails: "unable to decode: invalid character 'p'"},
		"nothing at all":               {fails: "unable to decode: unexpected end of JSON input"},
		"a word that it does not know": {
			input:   strings.Replace(right.input, "credential", "credental", 1),
			refused: `the input has an unknown field "credental"`,
		},
		"no credential": {input: "{}", refused: "the input names no credential: write it as " + right.input},
		"a wish that it does not know": {
			input:   strings.Replace(right.input, "{", `{"retier":"key-1",`, 1),
			refused: `the input has an unknown field "retier"`,
		},
		"a credential that was never applied": {input: right.input, refused: "payments-api is in no applied inventory"},
	} {
		f := right
		f.input = wrong.input
		c.starts(f)
		var report workflows.Report
		if err := c.run.Get(t.Context(), &report); wrong.fails != "" {
			require.ErrorContains(t, err, wrong.fails, name)
			continue
		}
		assert.Equal(t, workflows.Refused, report.Outcome, name)
		assert.Contains(t, report.Message, wrong.refused, name)
		assert.Contains(t, strings.NewReplacer("“", `"`, "”", `"`).Replace(c.details()), wrong.refused, name)
	}
	assert.Equal(t, before, c.touched())

	c.applies()
	c.starts(right)
	c.awaitsDetails("0 of 1 approved", wantsApproval)
	assert.NotEqual(t, before, c.touched())
	c.signals("approve", wantsApproval)
	c.awaits(c.completed, c.details)
}
