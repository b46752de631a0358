package main

import (
	"bytes"
	"context"
	"encoding/json"
	"html"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/log"
	"golang.org/x/crypto/ssh"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/sandbox/internal/demo"
	"github.com/keyturn/keyturn/sandbox/internal/devserver"
)

// patience ends a wait that hangs.
const patience = 10 * time.Minute

// shortWindows let a rotation be at its revoke gate in seconds, and leave after its approval what can be looked at.
var shortWindows = demo.Windows{
	Overlap:     inventory.Duration(time.Second),
	Quiet:       inventory.Duration(time.Second),
	WaveSoak:    inventory.Duration(time.Second),
	DisableSoak: inventory.Duration(time.Second),
}

// console is the Web UI of a sandbox with one rotation, as its pages use it: by their own HTTP API.
type console struct {
	t      *testing.T
	server *devserver.Server
	place  demo.Place
	client client.Client
	run    client.WorkflowRun // the one that is looked at
	http   *http.Client
	ines   ssh.Signer // may declare incidents
}

// newConsole begins a rotation whose revoke gate takes unsigned approvals.
func newConsole(t *testing.T) *console {
	t.Helper()
	c := newIdleConsole(t)
	run, err := startRotation(t.Context(), c.client, c.place, false)
	require.NoError(t, err)
	c.run = run
	return c
}

// newIdleConsole has no rotation yet.
func newIdleConsole(t *testing.T) *console {
	t.Helper()
	folder, err := demo.MakeFolder(filepath.Join(t.TempDir(), "state"))
	require.NoError(t, err)
	server, err := devserver.Start(t.Context(), devserver.Options{})
	require.NoError(t, err)
	t.Cleanup(server.Stop)
	services, err := demo.Start(t.Context(), demo.Options{Folder: folder, Windows: shortWindows})
	require.NoError(t, err)
	t.Cleanup(services.Stop)
	ines := onCall(t, services.Place())
	quiet := slog.New(slog.DiscardHandler)
	c, err := client.DialContext(t.Context(), client.Options{
		HostPort: server.Address(), Namespace: devserver.Namespace, Logger: log.NewStructuredLogger(quiet),
		ConnectionOptions: client.ConnectionOptions{GetSystemInfoTimeout: devserver.ReadyWithin},
	})
	require.NoError(t, err)
	t.Cleanup(c.Close)
	worker, err := startWorker(t.Context(), c, services.Place(), true, quiet)
	require.NoError(t, err)
	t.Cleanup(worker.Stop)
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	return &console{t: t, server: server, place: services.Place(), client: c, http: &http.Client{Jar: jar}, ines: ines}
}

// page is the run's page in the Web UI.
func (c *console) page() string { return c.server.RunURL(c.run.GetID(), c.run.GetRunID()) }

// workflows is a path of the Web UI's API below that of the namespace's workflows.
func (c *console) workflows(of string) string {
	return c.server.UIURL() + "/api/v1/namespaces/" + devserver.Namespace + "/workflows" + of
}

// ofRun is a path of the Web UI's API below that of the run.
func (c *console) ofRun(path string) string {
	return c.workflows("/" + url.PathEscape(c.run.GetID()) + path)
}

// asks calls the Web UI's API.
func (c *console) asks(method, address string, body, answer any) {
	c.t.Helper()
	text := c.gets(method, address, body)
	require.NoError(c.t, json.Unmarshal(text, answer), "%s", text)
}

// gets what the Web UI answers to a page of its own, which shows the token that its cookie has.
func (c *console) gets(method, address string, body any) []byte {
	c.t.Helper()
	sent, err := json.Marshal(body)
	require.NoError(c.t, err)
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(sent))
	require.NoError(c.t, err)
	req.Header.Set("Content-Type", "application/json")
	for _, cookie := range c.http.Jar.Cookies(req.URL) {
		req.Header.Set("X-CSRF-TOKEN", cookie.Value)
	}
	resp, err := c.http.Do(req)
	require.NoError(c.t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(c.t, err)
	require.Equal(c.t, http.StatusOK, resp.StatusCode, "%s %s: %s", method, address, text)
	return text
}

// payload is how the Web UI writes a value, and reads one.
type payload struct {
	Metadata map[string][]byte `json:"metadata"`
	Data     []byte            `json:"data"`
}

type payloads struct {
	Payloads []payload `json:"payloads"`
}

// inJSON is the input of a dialog whose encoding is left as it is.
func inJSON(text string) payloads {
	return payloads{[]payload{{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: []byte(text)}}}
}

func (c *console) execution() map[string]string {
	return map[string]string{"workflowId": c.run.GetID(), "runId": c.run.GetRunID()}
}

// queries the run, as its page does for the current details.
func (c *console) queries(name string, answer any) {
	c.t.Helper()
	var result struct{ QueryResult payloads }
	c.asks(http.MethodPost, c.ofRun("/query/"+name), map[string]any{"execution": c.execution(), "query": map[string]any{"queryType": name}}, &result)
	require.Len(c.t, result.QueryResult.Payloads, 1)
	require.NoError(c.t, json.Unmarshal(result.QueryResult.Payloads[0].Data, answer))
}

var tag = regexp.MustCompile(`<[^>]*>`)

// details are the current details, as text of the page that the Web UI makes of their Markdown.
func (c *console) details() string {
	c.t.Helper()
	var metadata struct{ CurrentDetails string }
	c.queries("__temporal_workflow_metadata", &metadata)
	page := c.gets(http.MethodGet, c.server.UIURL()+"/render?content="+url.QueryEscape(metadata.CurrentDetails), nil)
	_, body, found := strings.Cut(string(page), "<main>")
	require.True(c.t, found, "%s", page)
	return html.UnescapeString(tag.ReplaceAllString(body, ""))
}

// awaitsDetails until they say all of what.
func (c *console) awaitsDetails(what ...string) {
	c.t.Helper()
	var details string
	c.awaits(func() bool {
		details = c.details()
		return !slices.ContainsFunc(what, func(w string) bool { return !strings.Contains(details, w) })
	}, func() string { return strings.Join(what, "\n") + "\n\nin the current details:\n" + details })
}

// awaits a condition, and says at the end of patience which it was.
func (c *console) awaits(condition func() bool, what func() string) {
	c.t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for !condition() {
		select {
		case <-deadline.C:
			require.Fail(c.t, "it did not come", what())
		case <-ticker.C:
		}
	}
}

// signals the run as the dialog "Send a Signal" does.
func (c *console) signals(name, input string) {
	c.t.Helper()
	c.asks(http.MethodPost, c.ofRun("/signal/"+name), map[string]any{"signalName": name, "input": inJSON(input), "workflowExecution": c.execution()}, &struct{}{})
}

// lists the runs that a filter finds.
func (c *console) lists(filter string) (ids []string) {
	c.t.Helper()
	var list struct {
		Executions []struct{ Execution struct{ WorkflowID string } }
	}
	c.asks(http.MethodGet, c.workflows("?query="+url.QueryEscape(filter)), nil, &list)
	for _, e := range list.Executions {
		ids = append(ids, e.Execution.WorkflowID)
	}
	return ids
}

// summaries are those of the events of a type, which the Timeline shows as their names.
func (c *console) summaries(eventType string) (texts []string) {
	c.t.Helper()
	var history struct {
		History struct {
			Events []struct {
				EventType    string
				UserMetadata struct{ Summary payload }
			}
		}
	}
	c.asks(http.MethodGet, c.ofRun("/history?maximumPageSize=1000&execution.runId="+c.run.GetRunID()), nil, &history)
	for _, e := range history.History.Events {
		if e.EventType != eventType {
			continue
		}
		var text string
		if len(e.UserMetadata.Summary.Data) > 0 {
			require.NoError(c.t, json.Unmarshal(e.UserMetadata.Summary.Data, &text))
		}
		texts = append(texts, text)
	}
	return texts
}

// described is what the run's page has of it beside its history.
type described struct {
	ExecutionConfig struct {
		UserMetadata struct{ Summary, Details payload }
	}
	WorkflowExecutionInfo struct{ Status string }
}

func (c *console) describes() (d described) {
	c.t.Helper()
	c.asks(http.MethodGet, c.ofRun("?execution.runId="+c.run.GetRunID()), nil, &d)
	return d
}

func (c *console) completed() bool {
	c.t.Helper()
	return c.describes().WorkflowExecutionInfo.Status == "WORKFLOW_EXECUTION_STATUS_COMPLETED"
}

var savedView = regexp.MustCompile(`(?m)^temporal workflow count --query '(.*)' +# (.*)$`)

// savedViews are the filters that docs/temporal-cli.md says are worth saving, by what they answer.
func savedViews(t *testing.T) map[string]string {
	t.Helper()
	page, err := os.ReadFile("../docs/temporal-cli.md")
	require.NoError(t, err)
	_, section, found := strings.Cut(string(page), "### Views worth saving")
	require.True(t, found)
	views := map[string]string{}
	for _, m := range savedView.FindAllStringSubmatch(section, -1) {
		views[m[2]] = m[1]
	}
	return views
}

// wantsApproval is what the signal approve takes at the gate, as the run says it.
const wantsApproval = `{"gate":"revoke","by":"you"}`

// malformed are inputs of the signal approve that people write, and what the run says of each.
var malformed = []struct{ input, says string }{
	{`{"gate":"revoke"}`, "say who decides, as " + wantsApproval},
	{`{"gate":"revoke","bye":"olga"}`, `unknown field “bye”; write it as ` + wantsApproval},
	{`{"gate":"revoke",`, "the JSON ends in the middle of something; write it as " + wantsApproval},
	{`approve`, "it is no JSON object; write it as " + wantsApproval},
}

// How a person works in the Web UI, by the calls that its pages make: whatever a change of their markup does to the test
// in a browser.
func TestAPersonApprovesByTheWebUIsOwnAPI(t *testing.T) {
	t.Parallel()
	c := newConsole(t)
	c.gets(http.MethodGet, c.page(), nil) // brings the cookie

	c.awaitsDetails("0 of 1 approved", "payments@example.com", "keyturn approve payments-api --gate revoke", wantsApproval, "keyturn rollback payments-api --reason WHY")
	assert.Contains(t, c.summaries("EVENT_TYPE_TIMER_STARTED"), "revoke gate: approve "+wantsApproval+", 1 approval", "the Timeline answers by itself")
	assert.NotContains(t, c.summaries("EVENT_TYPE_ACTIVITY_TASK_SCHEDULED"), "", "each activity has a name")
	assert.JSONEq(t, `"rotation of payments-api"`, string(c.describes().ExecutionConfig.UserMetadata.Summary.Data))

	type offers []struct{ Name, Description string }
	var metadata struct {
		Definition struct{ SignalDefinitions, UpdateDefinitions, QueryDefinitions offers }
	}
	c.queries("__temporal_workflow_metadata", &metadata)
	for what, of := range map[string]offers{"signal": metadata.Definition.SignalDefinitions, "update": metadata.Definition.UpdateDefinitions, "query": metadata.Definition.QueryDefinitions} {
		assert.NotEmpty(t, of, what)
		for _, d := range of {
			assert.NotEmpty(t, d.Description, "%s %s", what, d.Name)
		}
	}

	views := savedViews(t)
	require.Contains(t, views["overdue on that day"], "2027")
	views["overdue on that day"] = strings.ReplaceAll(views["overdue on that day"], "2027", "2127") // our key is new
	for _, answers := range []string{"waits for approval", "ours, under way", "overdue on that day"} {
		c.awaits(func() bool { return slices.Equal(c.lists(views[answers]), []string{c.run.GetID()}) }, // the list may be a moment late
			func() string { return answers + ", found by " + views[answers] })
	}
	for _, answers := range []string{"needs a human", "emergencies"} {
		assert.Empty(t, c.lists(views[answers]), views[answers])
	}

	for _, m := range malformed {
		c.signals("approve", m.input)
		c.awaitsDetails(m.says, "0 of 1 approved")
	}
	c.signals("approve", strings.Replace(wantsApproval, "you", "olga", 1))
	c.awaits(func() bool {
		return c.describes().WorkflowExecutionInfo.Status == "WORKFLOW_EXECUTION_STATUS_COMPLETED"
	}, c.details)
	assert.Contains(t, c.details(), "olga")
}
