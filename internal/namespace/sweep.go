package namespace

import (
	"context"
	"errors"
	"fmt"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/keyturn/keyturn/internal/outside"
	"github.com/keyturn/keyturn/internal/patience"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/workflows"
)

// SweepEvery is how often Sweep runs when setup is not told otherwise.
const SweepEvery = time.Hour

// sweepCatchUp is how late Sweep still runs after an outage: the next one is soon enough.
const sweepCatchUp = 10 * time.Minute

// ScheduleSweep makes the Schedule of Sweep, unless it is there: one that is there stays as people made it. It
// tells whether it made one.
func ScheduleSweep(ctx context.Context, c client.Client, every time.Duration) (created bool, err error) {
	_, err = c.ScheduleClient().Create(ctx, client.ScheduleOptions{
		ID:   workflows.SweepScheduleID,
		Spec: client.ScheduleSpec{Intervals: []client.ScheduleIntervalSpec{{Every: every}}},
		Action: &client.ScheduleWorkflowAction{
			ID: workflows.SweepID, Workflow: workflows.SweepName, TaskQueue: workflows.TaskQueue, Args: []any{workflows.SweepInput{}},
			StaticSummary: "looks for what nobody looks after",
		},
		Overlap: enumspb.SCHEDULE_OVERLAP_POLICY_SKIP, CatchupWindow: sweepCatchUp,
		Note: "made by keyturn setup",
	})
	switch {
	case errors.Is(err, temporal.ErrScheduleAlreadyRunning):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("creating Schedule %s: %w", workflows.SweepScheduleID, err)
	}
	return true, nil
}

// ChangeSweep makes the Schedule of Sweep run every so often, and leaves the rest of it as it is.
func ChangeSweep(ctx context.Context, c client.Client, every time.Duration) error {
	err := c.ScheduleClient().GetHandle(ctx, workflows.SweepScheduleID).Update(ctx, client.ScheduleUpdateOptions{
		DoUpdate: func(in client.ScheduleUpdateInput) (*client.ScheduleUpdate, error) {
			changed := in.Description.Schedule
			changed.Spec = &client.ScheduleSpec{Intervals: []client.ScheduleIntervalSpec{{Every: every}}}
			return &client.ScheduleUpdate{Schedule: &changed}, nil
		},
	})
	if err != nil {
		return fmt.Errorf("updating Schedule %s: %w", workflows.SweepScheduleID, err)
	}
	return nil
}

// LatestSweep returns the report of the last sweep that ended well; found is false when there is none.
func LatestSweep(ctx context.Context, c client.Client) (report policy.SweepReport, found bool, err error) {
	latest, err := latestSweep(ctx, c)
	if err != nil || latest == nil {
		return report, false, err
	}
	run := c.GetWorkflow(ctx, latest.GetExecution().GetWorkflowId(), latest.GetExecution().GetRunId())
	if err := run.Get(ctx, &report); err != nil {
		return report, false, fmt.Errorf("reading the last sweep: %w", err)
	}
	return report, true, nil
}

// lastSweepEnd is when a sweep ended well last; zero for never.
func lastSweepEnd(ctx context.Context, c client.Client) (time.Time, error) {
	latest, err := latestSweep(ctx, c)
	if err != nil || latest == nil {
		return time.Time{}, err
	}
	return latest.GetCloseTime().AsTime(), nil
}

func latestSweep(ctx context.Context, c client.Client) (latest *workflowpb.WorkflowExecutionInfo, err error) {
	answer, err := c.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{
		Query: fmt.Sprintf("WorkflowType = '%s' AND ExecutionStatus = 'Completed'", workflows.SweepName), PageSize: latestOf,
	})
	if err != nil {
		return nil, fmt.Errorf("listing sweeps: %w", err)
	}
	for _, e := range answer.GetExecutions() {
		if latest == nil || e.GetCloseTime().AsTime().After(latest.GetCloseTime().AsTime()) {
			latest = e
		}
	}
	return latest, nil
}

// latestOf is how many sweeps are looked at for the one that ended last: Temporal lists them by their begin.
const latestOf = 10

// FailedSweeps tells of the sweeps that failed since one ended well, at that time; zero for never.
func FailedSweeps(ctx context.Context, c client.Client, since time.Time) (policy.SweepsFailed, error) {
	var failed policy.SweepsFailed
	query := fmt.Sprintf("WorkflowType = '%s' AND ExecutionStatus IN ('Failed', 'TimedOut', 'Terminated')", workflows.SweepName)
	if !since.IsZero() {
		query += fmt.Sprintf(" AND CloseTime > '%s'", since.UTC().Format(time.RFC3339Nano))
	}
	answer, err := c.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{Query: query, PageSize: mostFailed})
	if err != nil {
		return failed, fmt.Errorf("listing sweeps that failed: %w", err)
	}
	var latest *workflowpb.WorkflowExecutionInfo
	for _, e := range answer.GetExecutions() {
		failed.Runs++
		if began := e.GetStartTime().AsTime(); failed.Since.IsZero() || began.Before(failed.Since) {
			failed.Since = began
		}
		if latest == nil || e.GetCloseTime().AsTime().After(latest.GetCloseTime().AsTime()) {
			latest = e
		}
	}
	if latest != nil {
		failed.Cause = outside.Text(causeOf(c.GetWorkflow(ctx, latest.GetExecution().GetWorkflowId(), latest.GetExecution().GetRunId()).Get(ctx, nil)), outside.MaxText/2)
	}
	return failed, nil
}

// mostFailed bounds how many sweeps that failed are counted.
const mostFailed = 500

// causeOf is why a run failed, without the names of the run.
func causeOf(err error) string {
	var run *temporal.WorkflowExecutionError
	var step *temporal.ActivityError
	if errors.As(err, &run) && run.Unwrap() != nil {
		err = run.Unwrap()
	}
	if errors.As(err, &step) && step.Unwrap() != nil {
		err = step.Unwrap()
	}
	if err == nil {
		return "no cause is known"
	}
	return err.Error()
}

// LookAtSweep describes the Schedule of Sweep, and how its runs went; one that is not there is a fact, and no error.
func LookAtSweep(ctx context.Context, c client.Client) (policy.SweepSchedule, error) {
	d, err := patience.Call(ctx, func() (*client.ScheduleDescription, error) {
		return c.ScheduleClient().GetHandle(ctx, workflows.SweepScheduleID).Describe(ctx)
	})
	var missing *serviceerror.NotFound
	if errors.As(err, &missing) {
		return policy.SweepSchedule{}, nil
	}
	if err != nil {
		return policy.SweepSchedule{}, fmt.Errorf("describing Schedule %s: %w", workflows.SweepScheduleID, err)
	}
	s := policy.SweepSchedule{Found: true, Created: d.Info.CreatedAt}
	if state := d.Schedule.State; state != nil {
		s.Paused, s.Note = state.Paused, state.Note
	}
	if spec := d.Schedule.Spec; spec != nil && len(spec.Intervals) == 1 {
		s.Every = spec.Intervals[0].Every
	}
	if n := len(d.Info.RecentActions); n > 0 {
		s.LastRun = d.Info.RecentActions[n-1].ActualTime
	}
	if s.LastEnd, err = lastSweepEnd(ctx, c); err != nil {
		return s, err
	}
	s.Failing, err = FailedSweeps(ctx, c, s.LastEnd)
	return s, err
}
