package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	"go.temporal.io/sdk/client"

	"github.com/keyturn/keyturn/internal/incident"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/sandbox/internal/demo"
	"github.com/keyturn/keyturn/sandbox/internal/devserver"
	"github.com/keyturn/keyturn/workflows"
)

// longOverlap keeps the routine rotation where the emergency finds it.
const longOverlap = inventory.Duration(time.Hour)

func newEmergency() *cobra.Command {
	o := demoOptions{emergency: true}
	cmd := &cobra.Command{
		Use:   "emergency",
		Short: "Shows how an exposed key is ended, in the middle of its routine rotation",
		Long: `Runs the demonstration up to the overlap of its rotation, in which both keys are accepted. Then the retiring one is exposed, and
somebody declares that: the rotation is taken over, and the exposed key is dead in moments, while no request of a consumer is
refused. Everything is signed: the sandbox makes an SSH key of its own, which its worker trusts.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runDemo(cmd.Context(), o, cmd.OutOrStdout()) },
	}
	cmd.Flags().StringVar(&o.folder, "folder", "", "folder of the state (default a new temporary one)")
	cmd.Flags().BoolVar(&o.once, "once", false, "declare the incident by itself, and end with one line of JSON once the key is dead")
	return cmd
}

// contained is the last line of emergency --once.
type contained struct {
	Outcome workflows.Outcome `json:"outcome"`
	// Seconds from the declaration until the exposed key was seen dead.
	Seconds  float64 `json:"secondsToContain"`
	Requests int     `json:"requests"`
	Refused  int     `json:"refused"`
	Failed   int     `json:"failed"`
	Exposed  string  `json:"exposed"`
	Current  string  `json:"current"`
}

// emergency follows the rotation into its overlap, declares that the retiring key is exposed or says how to, and follows that.
func (d *demonstration) emergency(ctx context.Context, out io.Writer, command string) error {
	d.latest = true // another run goes on
	if err := d.until(ctx, func(s workflows.Status) bool { return s.Phase == workflows.PhaseOverlap }); err != nil {
		return err
	}
	exposed := d.state.Status.Retiring.KeyID
	if !d.once {
		d.state.Say = []string{"Both keys are accepted. Say that the retiring one is exposed, in another terminal:", command}
		if err := d.until(ctx, func(s workflows.Status) bool { return s.Phase != workflows.PhaseOverlap }); err != nil {
			return err
		}
		d.state.Say = nil
		if err := d.until(ctx, func(s workflows.Status) bool { return s.Report != nil }); err != nil {
			return err
		}
		d.idle(ctx, "The emergency has ended")
		return nil
	}
	run, err := d.declare(ctx, exposed)
	if err != nil {
		return err
	}
	if err := d.until(ctx, func(s workflows.Status) bool { return s.Report != nil && s.Report.Contained != nil }); err != nil {
		return err
	}
	var status workflows.IncidentStatus
	if err := run.Get(ctx, &status); err != nil {
		return fmt.Errorf("waiting for the incident: %w", err)
	}
	d.services.Stop() // every request is answered before the count
	return concludeEmergency(out, status, exposed, d.services.Snapshot())
}

// until shows what goes on until the rotation says something.
func (d *demonstration) until(ctx context.Context, said func(workflows.Status) bool) error {
	for {
		d.look(ctx)
		d.screen.Draw(d.state)
		switch report := d.state.Status.Report; {
		case said(d.state.Status):
			return nil
		case report != nil && report.Outcome != workflows.Superseded:
			return fmt.Errorf("the rotation ended as %s: %s", report.Outcome, report.Message)
		}
		select {
		case <-ctx.Done():
			return errors.New("ended before the exposed key was")
		case <-time.After(watchEvery):
		}
	}
}

// declare begins the incident.
func (d *demonstration) declare(ctx context.Context, keyID string) (client.WorkflowRun, error) {
	spec, err := specOf(d.services.Place(), true)
	if err != nil {
		return nil, err
	}
	key, done, err := d.services.Place().Folder.Signer()
	if err != nil {
		return nil, err
	}
	defer done()
	now := time.Now().UTC()
	id := incident.ID(now.Format("2006-01-02-150405"))
	declaration, err := incident.Declaration{
		Namespace: devserver.Namespace, Incident: id, Reason: "the sandbox's demonstration: the key is in a public repository", Deadline: incident.DefaultDeadline,
		Exposed: map[string][]string{demo.Credential: {keyID}}, Nonce: rand.Text(), SignedAt: now, Expires: now.Add(incident.MaxValid),
	}.Sign(key)
	if err != nil {
		return nil, err
	}
	run, err := d.client.ExecuteWorkflow(ctx, client.StartWorkflowOptions{ID: id, TaskQueue: workflows.EmergencyQueue, StaticSummary: "emergency: " + demo.Credential},
		workflows.Incident, workflows.IncidentInput{Declaration: declaration, Specs: map[string]inventory.SignedSpec{demo.Credential: spec}, RequestedBy: "sandbox"})
	if err != nil {
		return nil, fmt.Errorf("starting the incident: %w", err)
	}
	return run, nil
}

// concludeEmergency prints the summary. Only an exposed key that is dead, and no refused request, is a success.
func concludeEmergency(out io.Writer, s workflows.IncidentStatus, exposed string, traffic demo.Snapshot) error {
	line := contained{Outcome: s.Outcome, Seconds: s.ContainedAt.Sub(s.Since).Round(100 * time.Millisecond).Seconds(), Requests: traffic.Sent, Refused: traffic.Refused, Failed: traffic.Failed, Exposed: exposed}
	if len(s.Credentials) > 0 {
		line.Current = s.Credentials[0].Current.KeyID
	}
	text, err := json.Marshal(line)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, string(text))
	switch {
	case s.Outcome != workflows.Contained:
		return fmt.Errorf("the incident ended as %s: %s", s.Outcome, s.Message)
	case traffic.Refused+traffic.Failed > 0:
		return fmt.Errorf("%d requests were refused and %d got no answer", traffic.Refused, traffic.Failed)
	}
	return nil
}
