package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/workflows"
)

func newRotate(t *terminal) *cobra.Command {
	var file, reason, as, sign string
	var wait, now bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "rotate CREDENTIAL", Short: "Begins a routine rotation", Args: oneCredential,
		Long: "Begins a routine rotation now, due or not. Outside of the credential's windows and in a blackout it is refused\nwithout --now. Without -f the credential is taken as the inventory has it that was applied, with the signature\nthat it was applied with.",
		RunE: func(cmd *cobra.Command, args []string) error {
			pick, err := t.pick(file, args[0], sign, rotateValid)
			if err != nil {
				return err
			}
			ctx, c, done, err := pick.open(cmd.Context(), timeout)
			if err != nil {
				return err
			}
			defer done()
			// The worker judges it as well, by its own clock: of a rotation that was begun in another way.
			if d := policy.MayStart(c.credential, policy.Start{Now: now}, wasCutOff(ctx, c, args[0]), time.Now()); !d.OK && !isRunning(ctx, c, args[0]) {
				return exit(exitRefused, fmt.Errorf("nothing was begun: %s", d.Message))
			}
			run, err := begin(ctx, c, c.credential, "rotation of "+args[0], workflows.RotationInput{Spec: c.spec, Reason: reason, RequestedBy: as, Now: now})
			var running *serviceerror.WorkflowExecutionAlreadyStarted
			if errors.As(err, &running) && sign != "" {
				return t.resignRunning(ctx, c, pick.wanted, c.namespace, sign)
			}
			if errors.As(err, &running) {
				return exit(exitRefused, fmt.Errorf("a rotation of %s is running already (run %s); see it with: keyturn status %s", args[0], running.RunId, args[0]))
			}
			if err != nil {
				return fmt.Errorf("starting the rotation: %w", err)
			}
			return t.follow(ctx, c, run, args[0], "Rotation of "+args[0]+" has begun.", wait)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&file, "file", "f", "", "an inventory file that has the credential (default what was applied)")
	f.StringVar(&reason, "reason", "", "why, for the record")
	f.StringVar(&as, "as", me(), "who asks, for the record")
	signFlag(cmd, &sign)
	f.BoolVar(&now, "now", false, "begin outside of the windows and in a blackout, too; a blackout keeps the retiring key alive all the same")
	f.BoolVar(&wait, "wait", false, "wait for the end and report it")
	f.DurationVar(&timeout, "timeout", 0, "give up waiting after this long; the rotation goes on (0: never)")
	return cmd
}

// begin starts a rotation of a credential, or what goes by the same ID; summary is what Temporal lists it as.
func begin(ctx context.Context, c client.Client, credential inventory.Credential, summary string, in workflows.RotationInput) (client.WorkflowRun, error) {
	return c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID: workflows.WorkflowID(credential.Name), TaskQueue: workflows.TaskQueue,
		WorkflowExecutionErrorWhenAlreadyStarted: true,
		TypedSearchAttributes:                    workflows.SearchAttributes(credential),
		StaticSummary:                            summary,
		StaticDetails:                            fmt.Sprintf("%s\n\nOwner: %s. Reason: %s", credential.Purpose, credential.Owner, orNone(in.Reason)),
	}, workflows.Rotation, in)
}

// follow says that a run has begun, or, for who waits, how it ended.
func (t *terminal) follow(ctx context.Context, c client.Client, run client.WorkflowRun, credential, said string, wait bool) error {
	begun := begun{Workflow: run.GetID(), Run: run.GetRunID(), Credential: credential}
	if warning := noWorker(ctx, c, workflows.TaskQueue); warning != "" {
		begun.Warnings = []string{warning}
		t.warn(warning)
	}
	if !wait {
		return t.show(begun, func(w io.Writer) {
			fmt.Fprintln(w, said)
			columns(w, []string{"workflow", run.GetID()}, []string{"run", run.GetRunID()}, []string{"follow with", "keyturn status " + credential + " --watch"})
		})
	}
	report, err := result(ctx, run)
	var ended *temporal.WorkflowExecutionError
	if errors.As(err, &ended) { // by Temporal, without a report
		return t.tellStatus(ctx, c, credential)
	}
	if err != nil {
		return err
	}
	if err := t.show(report, func(w io.Writer) { t.printReport(w, report) }); err != nil {
		return err
	}
	return exit(outcomeCode(report.Outcome), nil)
}

// begun is a rotation that runs from now on, and what keeps it from that.
type begun struct {
	Workflow   string   `json:"workflow"`
	Run        string   `json:"run"`
	Credential string   `json:"credential"`
	Warnings   []string `json:"warnings,omitempty"`
}

// resignRunning is what rotate --sign does when a rotation runs: one that is held gets another signature.
func (t *terminal) resignRunning(ctx context.Context, c client.Client, wanted inventory.Spec, ns, key string) error {
	name := wanted.Credential.Name
	verdict, err := t.resign(ctx, c, wanted, ns, key)
	if err != nil {
		return err
	}
	if !verdict.Accepted {
		return exit(exitRefused, fmt.Errorf("a rotation of %s is running already, and takes no other signature: %s; see it with: keyturn status %s", name, verdict.Message, name))
	}
	return t.show(verdict, func(w io.Writer) {
		fmt.Fprintf(w, "The rotation of %s was held, and has a trusted signature again, of %s: %s.\n", name, plain(verdict.By), plain(verdict.Message))
	})
}

func orNone(s string) string {
	if s == "" {
		return "none given"
	}
	return s
}
