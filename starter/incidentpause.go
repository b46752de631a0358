package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"

	"github.com/keyturn/keyturn/workflows"
)

func newPause(t *terminal) *cobra.Command {
	var asked workflows.PauseRequest
	cmd := &cobra.Command{
		Use: "pause ID", Short: "Has an incident begin nothing further, until it is resumed", Args: oneIncident,
		Long: `Has an incident begin nothing further, until keyturn incident resume. The credentials whose emergency has begun go on to their end, since
consumers half way to another key are worse off than on either; the exposed keys of the others stay alive, past the deadline, too. All
notifiers are told, each hour again. Deployments stay frozen, until keyturn incident unfreeze.`,
		Example: `  keyturn incident pause incident/2026-05-01-031500 --reason "checkout is down"`,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, _, err := t.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer c.Close()
			return t.askIncident(cmd.Context(), c, incidentID(args[0]), workflows.PauseName, asked)
		},
	}
	cmd.Flags().StringVar(&asked.By, "as", me(), "who asks, for the record")
	cmd.Flags().StringVar(&asked.Reason, "reason", "", "why, for whoever reads of it")
	return cmd
}

func newResume(t *terminal) *cobra.Command {
	var asked workflows.PauseRequest
	cmd := &cobra.Command{
		Use: "resume ID", Short: "Has an incident go on after a pause", Args: oneIncident,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, _, err := t.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer c.Close()
			return t.askIncident(cmd.Context(), c, incidentID(args[0]), workflows.ResumeName, asked)
		},
	}
	cmd.Flags().StringVar(&asked.By, "as", me(), "who asks, for the record")
	return cmd
}

// askedIncident is what became of asking an incident to pause, or to go on.
type askedIncident struct {
	Workflow string `json:"workflow"`
	Paused   bool   `json:"paused"`
	// Answered: a worker has taken it; else one is going to, once there is one.
	Answered bool `json:"answered"`
}

// askIncident has an incident pause, or go on: by a signal, which is kept until a worker is there, and says what became of it.
func (t *terminal) askIncident(ctx context.Context, c client.Client, id, signal string, asked workflows.PauseRequest) error {
	err := c.SignalWorkflow(ctx, id, "", signal, asked)
	var missing *serviceerror.NotFound
	if errors.As(err, &missing) {
		return exit(exitNotFound, fmt.Errorf("no incident %q goes on; see them with: keyturn incident list", id))
	}
	if err != nil {
		return fmt.Errorf("telling %s: %w", id, err)
	}
	tellOfSilentRun(ctx, c, id, t.warn)
	status, err := incidentStatus(ctx, c, id, "", enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING)
	answer := askedIncident{Workflow: id, Paused: signal == workflows.PauseName, Answered: err == nil}
	if err == nil {
		answer.Paused = status.Paused != nil
	}
	return t.show(answer, func(w io.Writer) {
		switch line := status.PauseLine(); {
		case !answer.Answered:
			fmt.Fprintf(w, "%s is asked to %s, and does as soon as a worker answers; see with: keyturn incident show %s\n", id, signal, id)
		case line != "":
			fmt.Fprintf(w, "%s\n", plain(line))
		default:
			fmt.Fprintf(w, "%s goes on; see how with: keyturn incident show %s\n", id, id)
		}
	})
}
