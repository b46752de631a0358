package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"
	"golang.org/x/crypto/ssh"

	"github.com/keyturn/keyturn/internal/incident"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/sandbox/internal/demo"
	"github.com/keyturn/keyturn/sandbox/internal/devserver"
	"github.com/keyturn/keyturn/workflows"
)

// onCall is somebody who may declare incidents, by the worker configuration at a place.
func onCall(t *testing.T, place demo.Place) ssh.Signer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	signer, err := ssh.NewSignerFromKey(private)
	require.NoError(t, err)
	trusted := filepath.Join(t.TempDir(), "incidents")
	require.NoError(t, os.WriteFile(trusted, fmt.Appendf(nil, "ines %s", ssh.MarshalAuthorizedKey(signer.PublicKey())), 0o600))
	config, err := os.ReadFile(place.Worker)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(place.Worker, fmt.Appendf(config, "\ntrust: {incidents: %q}\n", trusted), 0o600))
	return signer
}

// seesAnIncident reads the page of an incident from its begin to its end, and has it pause there.
func (b *browser) seesAnIncident(c *console) {
	b.t.Helper()
	var before workflows.Report
	require.NoError(b.t, c.run.Get(b.t.Context(), &before))
	spec, err := specOf(c.place, false)
	require.NoError(b.t, err)
	const reason = "a **key** in a [public](repository)"
	c.run, err = c.client.ExecuteWorkflow(b.t.Context(), client.StartWorkflowOptions{ID: incident.ID("leak"), TaskQueue: workflows.EmergencyQueue}, workflows.Incident,
		workflows.IncidentInput{Credentials: []string{demo.Credential}, Reason: reason, Specs: map[string]inventory.SignedSpec{demo.Credential: spec}})
	require.NoError(b.t, err)
	c.awaitsDetails("rotates as a routine; waits for a signature")

	emergencies := savedViews(b.t)["emergencies"]
	c.awaits(func() bool { return slices.Contains(c.lists(emergencies), c.run.GetID()) }, func() string { return emergencies })
	b.does("opening the list", chromedp.Navigate(c.server.UIURL()+"/namespaces/default/workflows?query="+url.QueryEscape(emergencies)))
	b.clicks("a", c.run.GetID())
	b.clicks("a", "User Metadata")
	b.reads("NOT CONTAINED: nobody has signed for it", "keyturn incident confirm incident/leak --sign KEY", "incident/leak: "+reason, "Declared by: nobody who may", "rotates as a routine; waits for a signature")
	b.keeps("incident")
	b.signals("pause", `{"by":"ann","reason":"checkout is down"}`)
	c.awaitsDetails("PAUSED by ann at ", "(checkout is down)", "keyturn incident resume incident/leak")

	now := time.Now().UTC()
	declaration, err := incident.Declaration{
		Namespace: devserver.Namespace, Incident: incident.ID("leak"), Reason: reason, Deadline: incident.DefaultDeadline, Nonce: rand.Text(), SignedAt: now, Expires: now.Add(incident.MaxValid),
		Exposed: map[string][]string{demo.Credential: {before.Incoming.KeyID}},
	}.Sign(c.ines)
	require.NoError(b.t, err)
	require.NoError(b.t, c.client.SignalWorkflow(b.t.Context(), incident.ID("leak"), "", workflows.ConfirmName, workflows.Confirmation{Declaration: declaration}))
	c.awaitsDetails("Declared by: ines", "waits: the incident is paused", "0 of 1 exposed keys are dead")
	b.does("looking again", chromedp.Reload())
	b.reads("PAUSED by ann at ", "(1 of 1 credentials wait)", "0 of 1 exposed keys are dead", before.Incoming.KeyID, "waits: the incident is paused", "then exposed keys end whoever uses them")
	b.keeps("incident-paused")

	b.signals("resume", `{"by":"ann"}`)
	c.awaits(c.completed, c.details)
	b.does("looking again", chromedp.Reload())
	b.reads("Completed", "Every exposed key is dead, after", "goes on, as ann asked for", "contained", before.Incoming.KeyID+" ")
	b.keeps("incident-contained")
}
