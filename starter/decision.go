package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/workflows"
)

// decision is a request with its flags.
type decision struct {
	action policy.Action
	req    policy.Request
	gate   string
	extend string
	print  bool
	sign   string
	yes    bool
}

func (d *decision) gateFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&d.gate, "gate", "", "signoff, revoke or hold")
	cmd.Flags().BoolVar(&d.print, "print", false, "print the decision for pasting into the Web UI instead of sending it")
}

func (d *decision) command(t *terminal, use, short string) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Args: oneCredential,
		RunE: func(cmd *cobra.Command, args []string) error { return d.run(cmd.Context(), t, args[0]) },
	}
	cmd.Flags().StringVar(&d.req.Reason, "reason", "", "why, for the record")
	cmd.Flags().StringVar(&d.req.By, "as", me(), "who decides; with --sign, the signature says who")
	signFlag(cmd, &d.sign)
	return cmd
}

func (d *decision) run(ctx context.Context, t *terminal, credential string) error {
	if err := d.complete(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	c, namespace, err := t.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	return d.send(ctx, t, c, namespace, credential)
}

// send makes the request, and hands it to the rotation, whose verdict it shows.
func (d *decision) send(ctx context.Context, t *terminal, c client.Client, namespace, credential string) error {
	tellOfSilentRun(ctx, c, workflows.WorkflowID(credential), t.warn)
	if err := d.bind(ctx, t, c, namespace, credential); err != nil {
		return err
	}
	if d.print {
		text, err := json.MarshalIndent(d.req, "", "  ")
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(t.out, string(text))
		return err
	}
	verdict, err := update(ctx, c, credential, string(d.action), d.req.ID, d.req)
	if err != nil {
		return err
	}
	if err := t.show(verdict, func(w io.Writer) {
		word := "taken"
		if !verdict.Accepted {
			word = "not taken"
		}
		fmt.Fprintf(w, "%s of %s is %s: %s\n", d.action, credential, word, plain(verdict.Message))
	}); err != nil {
		return err
	}
	if !verdict.Accepted {
		return exit(exitRefused, nil)
	}
	return nil
}

// bind makes the decision one on what is shown now: run and evidence of the gate go into it, and, signed,
// all that there is to bind it to.
func (d *decision) bind(ctx context.Context, t *terminal, c client.Client, namespace, credential string) error {
	if d.gate == "" && d.sign == "" {
		return nil
	}
	s, err := status(ctx, c, credential, untold)
	if err != nil {
		return err
	}
	if s.Gate != nil && s.Gate.Gate == d.req.Gate {
		d.req.Run, d.req.Evidence = s.Gate.Run, s.Gate.Evidence
	}
	if d.sign == "" {
		return nil
	}
	if d.action == policy.Approve && !d.yes {
		if err := t.askToApprove(s.Status, d.req.Gate); err != nil {
			return err
		}
	}
	described, err := c.DescribeWorkflowExecution(ctx, workflows.WorkflowID(credential), "")
	if err != nil {
		return fmt.Errorf("describing the rotation of %q: %w", credential, err)
	}
	run := described.GetWorkflowExecutionInfo().GetExecution().GetRunId()
	d.req, err = t.signRequest(d.req, d.action, d.sign, namespace, s.Status, run)
	return err
}

// complete checks the flags.
func (d *decision) complete() error {
	d.req.ID = uuid.NewString()
	switch d.action {
	case policy.Approve, policy.Reject:
		d.req.Gate = inventory.Gate(d.gate)
		if !slices.Contains(inventory.Gates, d.req.Gate) {
			return usage("say which gate, with --gate signoff, --gate revoke or --gate hold")
		}
	case policy.Extend:
		by, err := inventory.ParseDuration(d.extend)
		if err != nil || by <= 0 {
			return usage("say by how much, with --by and a duration such as 2h or 1d")
		}
		d.req.Extension = by
	}
	switch {
	case d.req.BreakGlass && d.sign == "":
		return usage("break-glass takes a signature: say with which key, with --sign")
	case d.req.BreakGlass && d.req.Reason == "":
		return usage("say why it is needed, with --reason")
	}
	if (d.action == policy.Reject || d.action == policy.Rollback) && d.req.Reason == "" {
		return usage("say why, with --reason")
	}
	return nil
}

// update asks the rotation by update, whose result is the verdict. A worker that is just starting is asked
// again: the update's ID makes that harmless.
func update(ctx context.Context, c client.Client, credential, name, id string, body any) (policy.Verdict, error) {
	var v policy.Verdict
	for {
		handle, err := c.UpdateWorkflow(ctx, client.UpdateWorkflowOptions{
			WorkflowID: workflows.WorkflowID(credential), UpdateID: id, UpdateName: name,
			WaitForStage: client.WorkflowUpdateStageCompleted, Args: []any{body},
		})
		if err == nil {
			err = handle.Get(ctx, &v)
		}
		var notReady *serviceerror.WorkflowNotReady
		var missing *serviceerror.NotFound
		var misplaced *temporal.ApplicationError // refused without a trace in the history
		switch {
		case err == nil:
			return v, nil
		case errors.As(err, &misplaced) && misplaced.Details(&v) == nil:
			return v, nil
		case errors.As(err, &notReady):
		case errors.As(err, &missing):
			return v, exit(exitNotFound, fmt.Errorf("no rotation of %q is running", credential))
		case errors.Is(ctx.Err(), context.DeadlineExceeded), trouble(err) == troubleLate:
			return v, exit(exitTimedOut, fmt.Errorf("no worker answered for %s; the decision was not taken, or its answer was lost: ask again, a repetition is harmless", credential))
		default:
			return v, fmt.Errorf("sending %s to the rotation of %s: %w", name, credential, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
}
