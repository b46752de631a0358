package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"

	"github.com/keyturn/keyturn/workflows"
)

func newPlan(t *terminal) *cobra.Command {
	var file, sign string
	var now bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "plan CREDENTIAL", Short: "Shows what a rotation would do, and whether it may; changes nothing", Args: oneCredential,
		Long: "Shows what a rotation would do, and whether it may. It changes nothing. Without -f the credential is taken\nas the inventory has it that was applied.",
		RunE: func(cmd *cobra.Command, args []string) error {
			pick, err := t.pick(file, args[0], sign, planValid)
			if err != nil {
				return err
			}
			ctx, c, done, err := pick.open(cmd.Context(), timeout)
			if err != nil {
				return err
			}
			defer done()
			plan, err := lookAt(ctx, c, workflows.TaskQueue, args[0], workflows.InspectInput{Spec: c.spec, Now: now}, t.warn)
			if err != nil {
				return err
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
	cmd.Flags().BoolVar(&now, "now", false, "as if it began whatever the calendar says")
	cmd.Flags().DurationVar(&timeout, "timeout", time.Minute, "how long to wait for a worker's answer")
	signFlag(cmd, &sign)
	return cmd
}

// isRunning tells whether a rotation of the credential runs now; not being able to tell counts as no.
func isRunning(ctx context.Context, c client.Client, credential string) bool {
	return latestStatus(ctx, c, credential) == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING
}

// wasCutOff tells whether the latest rotation ended without having come to its end, so that the next one goes on from there.
func wasCutOff(ctx context.Context, c client.Client, credential string) bool {
	_, cutOff := endings[latestStatus(ctx, c, credential)]
	return cutOff
}

// latestStatus is that of the latest rotation; none where there was none, or nobody can tell.
func latestStatus(ctx context.Context, c client.Client, credential string) enumspb.WorkflowExecutionStatus {
	described, err := c.DescribeWorkflowExecution(ctx, workflows.WorkflowID(credential), "")
	if err != nil {
		return enumspb.WORKFLOW_EXECUTION_STATUS_UNSPECIFIED
	}
	return described.GetWorkflowExecutionInfo().GetStatus()
}
