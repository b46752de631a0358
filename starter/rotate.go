package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/workflows"
)

func newPlan(t *terminal) *cobra.Command {
	var file, sign string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "plan CREDENTIAL", Short: "Shows what a rotation would do, and whether it may; changes nothing", Args: oneCredential,
		Long: "Shows what a rotation would do, and whether it may. It changes nothing. Without -f the credential is taken\nas the inventory has it that was applied.",
		RunE: func(cmd *cobra.Command, args []string) error {
			pick, err := t.pick(file, args[0], sign, planValid)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			c, ns, err := t.connect(ctx)
			if err != nil {
				return err
			}
			defer c.Close()
			spec, _, err := pick.spec(ctx, c, ns)
			if err != nil {
				return err
			}
			run, err := c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
				ID: workflows.InspectID(args[0]), TaskQueue: workflows.TaskQueue,
				WorkflowIDConflictPolicy: enumspb.WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING, // it changes nothing: the latest question counts
				WorkflowExecutionTimeout: 10 * time.Minute,
				StaticSummary:            "dry run for " + args[0],
			}, workflows.Inspect, workflows.InspectInput{Spec: spec})
			if err != nil {
				return fmt.Errorf("starting the dry run: %w", err)
			}
			var plan policy.Plan
			if err := run.Get(ctx, &plan); err != nil {
				return noAnswer(ctx, "inspecting "+args[0], err)
			}
			running := isRunning(ctx, c, args[0])
			if err := t.show(plan, func(w io.Writer) {
				t.printPlan(w, plan)
				if running {
					fmt.Fprintf(w, "\nnote: a rotation of %s is running; this is what another one would find now. See it with: keyturn status %s\n", args[0], args[0])
				}
			}); err != nil {
				return err
			}
			if plan.Refused() {
				return exit(exitRefused, nil)
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "an inventory file that has the credential (default what was applied)")
	cmd.Flags().DurationVar(&timeout, "timeout", time.Minute, "how long to wait for a worker's answer")
	signFlag(cmd, &sign)
	return cmd
}

// planValid is how long a spec that is signed for a dry run could begin a rotation; rotateValid leaves time
// for a sign-off.
const (
	planValid   = 15 * time.Minute
	rotateValid = 7 * 24 * time.Hour
)

// isRunning tells whether a rotation of the credential runs now; not being able to tell counts as no.
func isRunning(ctx context.Context, c client.Client, credential string) bool {
	described, err := c.DescribeWorkflowExecution(ctx, workflows.WorkflowID(credential), "")
	return err == nil && described.GetWorkflowExecutionInfo().GetStatus() == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING
}

// noAnswer explains a wait that ended with the context.
func noAnswer(ctx context.Context, doing string, err error) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return exit(exitTimedOut, fmt.Errorf("%s: no answer in time; is a worker running, and is its build current? See the run in the Web UI", doing))
	}
	var refused *temporal.ApplicationError
	if errors.As(err, &refused) {
		return exit(exitRefused, fmt.Errorf("%s: %s", doing, refused.Message()))
	}
	return fmt.Errorf("%s: %w", doing, err)
}

func newRotate(t *terminal) *cobra.Command {
	var file, reason, as, sign string
	var wait bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "rotate CREDENTIAL", Short: "Begins a routine rotation", Args: oneCredential,
		Long: "Begins a routine rotation now, due or not. Without -f the credential is taken as the inventory has it that\nwas applied, with the signature that it was applied with.",
		RunE: func(cmd *cobra.Command, args []string) error {
			pick, err := t.pick(file, args[0], sign, rotateValid)
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			if timeout > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, timeout)
				defer cancel()
			}
			c, ns, err := t.connect(ctx)
			if err != nil {
				return err
			}
			defer c.Close()
			spec, credential, err := pick.spec(ctx, c, ns)
			if err != nil {
				return err
			}
			run, err := c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
				ID: workflows.WorkflowID(args[0]), TaskQueue: workflows.TaskQueue,
				WorkflowExecutionErrorWhenAlreadyStarted: true,
				TypedSearchAttributes:                    workflows.SearchAttributes(credential),
				StaticSummary:                            "rotation of " + args[0],
				StaticDetails:                            fmt.Sprintf("%s\n\nOwner: %s. Reason: %s", credential.Purpose, credential.Owner, orNone(reason)),
			}, workflows.Rotation, workflows.RotationInput{Spec: spec, Reason: reason, RequestedBy: as})
			var running *serviceerror.WorkflowExecutionAlreadyStarted
			if errors.As(err, &running) && sign != "" {
				return t.resignRunning(ctx, c, pick.wanted, ns, sign)
			}
			if errors.As(err, &running) {
				return exit(exitRefused, fmt.Errorf("a rotation of %s is running already (run %s); see it with: keyturn status %s", args[0], running.RunId, args[0]))
			}
			if err != nil {
				return fmt.Errorf("starting the rotation: %w", err)
			}
			if !wait {
				started := map[string]string{"workflow": run.GetID(), "run": run.GetRunID(), "credential": args[0]}
				return t.show(started, func(w io.Writer) {
					fmt.Fprintf(w, "Rotation of %s has begun.\n", args[0])
					columns(w, []string{"workflow", run.GetID()}, []string{"run", run.GetRunID()}, []string{"follow with", "keyturn status " + args[0] + " --watch"})
				})
			}
			report, err := result(ctx, run)
			if err != nil {
				return err
			}
			if err := t.show(report, func(w io.Writer) { t.printReport(w, report) }); err != nil {
				return err
			}
			return exit(outcomeCode(report.Outcome), nil)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&file, "file", "f", "", "an inventory file that has the credential (default what was applied)")
	f.StringVar(&reason, "reason", "", "why, for the record")
	f.StringVar(&as, "as", me(), "who asks, for the record")
	signFlag(cmd, &sign)
	f.BoolVar(&wait, "wait", false, "wait for the end and report it")
	f.DurationVar(&timeout, "timeout", 0, "give up waiting after this long; the rotation goes on (0: never)")
	return cmd
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

// result waits for the report of a rotation. A failed one has it in its error.
func result(ctx context.Context, run client.WorkflowRun) (workflows.Report, error) {
	var report workflows.Report
	err := run.Get(ctx, &report)
	var ended *temporal.ApplicationError
	switch {
	case err == nil:
		return report, nil
	case errors.As(err, &ended) && ended.Type() == workflows.FailedType && ended.Details(&report) == nil:
		return report, nil
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return report, exit(exitTimedOut, errors.New("the rotation goes on; it did not end in the time that --timeout gave"))
	}
	return report, fmt.Errorf("waiting for the rotation: %w", err)
}

func outcomeCode(o workflows.Outcome) int {
	switch o {
	case workflows.Completed, workflows.CompletedWithDebt:
		return exitDone
	case workflows.Refused:
		return exitRefused
	case workflows.RolledBack:
		return exitRolledBack
	}
	return exitFailed
}
