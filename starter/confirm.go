package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.temporal.io/sdk/client"

	"github.com/keyturn/keyturn/internal/incident"
	"github.com/keyturn/keyturn/workflows"
)

func newConfirm(t *terminal) *cobra.Command {
	var e emergency
	cmd := &cobra.Command{
		Use: "confirm ID --sign KEY", Short: "Signs for an incident that nobody has signed for: its exposed keys end now", Args: oneIncident,
		Long: `Signs for an incident that began without a signature, or whose signature was too old for what had not begun by then. From then on
it is an emergency like any other. Which key is exposed is what was said when it began, or the one that the rotation which runs retires; --key says another one. Compare it
with what the issuer lists: nobody has proved it.`,
		Example: `  keyturn incident confirm incident/2026-05-01-031500 --sign ~/.ssh/id_ed25519`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if e.sign == "" {
				return usage("say with which key to sign: --sign KEY")
			}
			e.suspect = suspectOnlyRetiring
			if err := e.checkKeys(); err != nil {
				return err
			}
			return t.confirmIncident(cmd.Context(), e, incidentID(args[0]))
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&e.keys, "key", nil, "an exposed key as CREDENTIAL=ID, more than once for several")
	f.DurationVar(&e.deadline, "deadline", incident.DefaultDeadline.Std(), "when the exposed keys are destroyed whoever uses them; 0: at once, before there are others")
	signFlag(cmd, &e.sign)
	f.BoolVar(&e.yes, "yes", false, "do not ask before it goes on")
	return cmd
}

func (t *terminal) confirmIncident(ctx context.Context, e emergency, id string) error {
	c, ns, err := t.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	status, _, err := findIncident(ctx, c, id, t.warn)
	if err != nil {
		return err
	}
	who, err := t.unconfirmed(ctx, c, e, status)
	if err != nil {
		return err
	}
	e.reason, e.drill = status.Reason, status.Drill
	parts := e.declarations(ns, id, who)
	for _, d := range parts {
		if err := d.Validate(); err != nil {
			return exit(exitUsage, err)
		}
	}
	declarations, err := t.signFor(parts, who, e)
	if err != nil {
		return err
	}
	var confirmed workflows.Confirmed
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for _, one := range declarations {
		handle, err := c.UpdateWorkflow(ctx, client.UpdateWorkflowOptions{
			WorkflowID: id, UpdateName: workflows.ConfirmName, WaitForStage: client.WorkflowUpdateStageCompleted, Args: []any{workflows.Confirmation{Declaration: one}},
		})
		if err == nil {
			err = handle.Get(ctx, &confirmed)
		}
		if err != nil {
			return noAnswer("confirming "+id, nil, err)
		}
	}
	return t.show(confirmed, func(w io.Writer) {
		fmt.Fprintf(w, "%s is confirmed by %s: its exposed keys end now; see how it goes with: keyturn incident show %s\n", id, plain(confirmed.By), id)
	})
}

// unconfirmed are the credentials of an incident that wait for a signature, with the keys to be ended.
func (t *terminal) unconfirmed(ctx context.Context, c client.Client, e emergency, status workflows.IncidentStatus) ([]affected, error) {
	var who []affected
	for _, m := range status.Credentials {
		if !m.Unconfirmed {
			continue
		}
		a := affected{Credential: m.Credential, Because: "one that waits for a signature", Exposed: m.Exposed}
		named := slices.ContainsFunc(e.keys, func(k string) bool { return strings.HasPrefix(k, m.Credential+"=") })
		switch {
		case len(a.Exposed) > 0, named:
		case e.yes:
			return nil, usage("which key of %s is exposed is said by who did not sign: name it with --key %s=ID, or leave --yes out and see it", m.Credential, m.Credential)
		case len(m.Suspects) > 0:
			a.Exposed = m.Suspects
		case isRunning(ctx, c, m.Credential): // it says which key it retires
		default: // its rotation may have ended, so that the key in use is the good one
			return nil, exit(exitRefused, fmt.Errorf("which key of %s is exposed is not known: name it with --key %s=ID", m.Credential, m.Credential))
		}
		who = append(who, a)
	}
	if len(who) == 0 {
		return nil, exit(exitRefused, fmt.Errorf("nothing of %s waits for a signature; see how it stands with: keyturn incident show %s", status.Incident, status.Incident))
	}
	return who, e.expose(ctx, c, t, who, nil)
}
