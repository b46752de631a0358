package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"

	"github.com/keyturn/keyturn/internal/namespace"
	"github.com/keyturn/keyturn/internal/outside"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/workflows"
)

func newSweep(t *terminal) *cobra.Command {
	var now bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "sweep [--now]", Short: "Shows what nobody looks after, and what to do about it", Args: noArgs,
		Long: `Shows what the last sweep found: overdue credentials, rotations that stand still or failed and what they left,
retired keys that are still alive, instances on another key than the store has, keys that nobody declared,
signatures that end soon. Sweep runs by a Schedule of its own (see setup), and destroys nothing: for a retired
key that is still alive it opens the revoke gate again.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			c, _, err := t.connect(ctx)
			if err != nil {
				return err
			}
			defer c.Close()
			report, err := swept(ctx, c, now, t.warn)
			if err != nil {
				return err
			}
			report.Known, report.Steps = nil, nil // they are for the next sweep
			return t.show(report, func(w io.Writer) { t.printSweep(w, report) })
		},
	}
	cmd.Flags().BoolVar(&now, "now", false, "run one, and take debt up again at once, also where somebody said no lately")
	cmd.Flags().DurationVar(&timeout, "timeout", 15*time.Minute, "with --now, how long to wait for its end; it goes on after that")
	return cmd
}

// sweeps are the report of the last sweep that ended, and what became of those since.
type sweeps struct {
	policy.SweepReport
	Failing *policy.SweepsFailed `json:"failing,omitempty"`
}

// swept returns the report of the last sweep, or of one that is run now.
func swept(ctx context.Context, c client.Client, now bool, tell func(string)) (report sweeps, err error) {
	if !now {
		var found bool
		if report.SweepReport, found, err = namespace.LatestSweep(ctx, c); err != nil {
			return report, err
		}
		failed, err := namespace.FailedSweeps(ctx, c, report.EndedAt)
		switch {
		case err != nil:
			return report, err
		case failed.Runs > 0 && !found:
			return report, exit(exitFailed, fmt.Errorf("no sweep has ended well: %s", failed))
		case !found:
			return report, exit(exitNotFound, errors.New("no sweep has ended yet; run one with: keyturn sweep --now"))
		case failed.Runs > 0:
			report.Failing = &failed
		}
		return report, nil
	}
	run, err := c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID: workflows.SweepNowID, TaskQueue: workflows.TaskQueue, StaticSummary: "sweep that was asked for",
		WorkflowIDConflictPolicy: enumspb.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING, // who asks at the same time gets the same
	}, workflows.Sweep, workflows.SweepInput{Now: true})
	if err != nil {
		return report, fmt.Errorf("starting the sweep: %w", err)
	}
	if warning := noWorker(ctx, c, workflows.TaskQueue); warning != "" {
		tell(warning)
	}
	return report, await(ctx, c, run, &report.SweepReport, "sweeping", tell)
}

func (t *terminal) printSweep(w io.Writer, r sweeps) {
	if r.Failing != nil {
		fmt.Fprintf(w, "%s  %s\n  what to do: mend what the cause names, and see that one ends well: keyturn sweep --now\n\n", t.bold("NOT SWEPT"), outside.Text(r.Failing.String(), outside.MaxText))
	}
	fmt.Fprintf(w, "%s  %s; swept %s\n", t.bold("SWEPT"), r.Summary(), clock(r.EndedAt))
	for _, f := range r.Findings {
		about := strings.TrimSpace(f.Credential + " " + f.About)
		fmt.Fprintf(w, "\n%s  %s  since %s\n  %s\n  what to do: %s\n", t.bold(string(f.Kind)), outside.Text(about, outside.MaxText), clock(f.Since),
			outside.Text(f.Message, outside.MaxText), outside.Text(f.Do, outside.MaxText))
	}
	if more := r.Total() - len(r.Findings); more > 0 {
		fmt.Fprintf(w, "\nand %d more that are only counted\n", more)
	}
	if len(r.TakenUp) > 0 {
		fmt.Fprintf(w, "\nThe revoke gate is open again for %s.\n", outside.Text(strings.Join(r.TakenUp, ", "), 4*outside.MaxText))
	}
	for _, n := range r.Notes {
		fmt.Fprintf(w, "\nnote: %s\n", outside.Text(n, outside.MaxText))
	}
}
