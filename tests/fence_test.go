package tests

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/activities"
)

// An attempt that stood still asks Temporal itself whether it still counts, whatever the SDK's heartbeats said before.
func TestAnAttemptAsksTemporalWhetherItCounts(t *testing.T) {
	t.Parallel()
	c := onSharedServer(t).client()

	asks, answers, kept := make(chan any), make(chan error), make(chan string, 1)
	w := worker.New(c, "fence", worker.Options{})
	w.RegisterWorkflowWithOptions(func(ctx workflow.Context, timeout time.Duration) error {
		ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
			StartToCloseTimeout: timeout, RetryPolicy: &temporal.RetryPolicy{MaximumAttempts: 2},
		})
		return workflow.ExecuteActivity(ctx, "attempt").Get(ctx, nil)
	}, workflow.RegisterOptions{Name: "fenced"})
	w.RegisterActivityWithOptions(func(ctx context.Context) error {
		if activity.GetInfo(ctx).Attempt > 1 {
			assert.NoError(t, activities.Acknowledged(ctx, nil)) // it keeps what the attempt before left
			var left string
			assert.NoError(t, activity.GetHeartbeatDetails(ctx, &left))
			kept <- left
			return nil
		}
		alive := context.WithoutCancel(ctx) // as a process that stood still would ask
		for details := range asks {
			answers <- activities.Acknowledged(alive, details)
			if details == "last" {
				return nil
			}
		}
		return nil
	}, activity.RegisterOptions{Name: "attempt"})
	require.NoError(t, w.Start())
	defer w.Stop()
	ask := func(details any) error {
		asks <- details
		return <-answers
	}

	ended, err := c.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: "ended", TaskQueue: "fence"}, "fenced", 10*time.Minute)
	require.NoError(t, err)
	require.NoError(t, ask("far"))
	require.NoError(t, c.TerminateWorkflow(t.Context(), ended.GetID(), "", "the test is over"))
	require.ErrorIs(t, ask("last"), activities.ErrSuperseded, "its run has ended")

	late, err := c.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: "late", TaskQueue: "fence"}, "fenced", 20*time.Second) // within which a slow machine asks once
	require.NoError(t, err)
	require.NoError(t, ask("half"))
	assert.Equal(t, "half", <-kept, "the next attempt begins when this one has timed out")
	require.ErrorIs(t, ask("last"), activities.ErrSuperseded, "another attempt followed it")
	require.NoError(t, late.Get(t.Context(), nil))
}
