package tests

import (
	"context"
	"crypto/rand"
	"flag"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/workflows"
)

var resets = flag.Bool("resets", false, "reset rotations at each of their workflow tasks: make resets")

// TestResetAtEachWorkflowTask resets a rotation to each of its workflow tasks, as the server does it: while it runs, as soon as that task
// is done, and once it has ended, when all that it would do is done. Nobody is left with a key that is refused, and the next
// rotation completes.
func TestResetAtEachWorkflowTask(t *testing.T) {
	if !*resets {
		t.Skip("run by make resets")
	}
	f := newField(t, ownServer(t))
	whole := f.begins(t, "whole", nil, nil)
	whole.approved()
	require.Equal(t, workflows.Completed, whole.report().Outcome)
	tasks := len(whole.tasks(""))
	require.Greater(t, tasks, 10)
	t.Run("to each", func(t *testing.T) {
		for n := range tasks {
			for when, ended := range map[string]bool{"while it runs": false, "once it has ended": true} {
				what := fmt.Sprintf("task %c %s", 'a'+n, when)
				t.Run(what, func(t *testing.T) {
					t.Parallel()
					r := f.begins(t, what, nil, nil)
					r.approved()
					first := r.run.GetRunID()
					if ended {
						r.report()
					}
					var done []int64
					eventually(t, func() bool {
						done = r.tasks(first)
						return len(done) > n || r.status().Report != nil // with fewer tasks than the first one: then to the last
					}, patience, 5*time.Millisecond)
					report := r.reset(first, done[min(n, len(done)-1)])
					t.Logf("%s: %s", report.Outcome, report.Message)
					r.sound()
					var spec inventory.SignedSpec
					value, err := r.client.QueryWorkflow(t.Context(), r.id, "", workflows.SpecName)
					require.NoError(t, err)
					require.NoError(t, value.Get(&spec))
					r.run, err = f.rotate(t.Context(), r.name, spec)
					require.NoError(t, err)
					report = r.report()
					require.Equal(t, workflows.Completed, report.Outcome, report.Message)
					r.sound()
					keys, err := f.world.Issuer(r.name).List(t.Context())
					require.NoError(t, err)
					assert.Len(t, keys, 1)
				})
			}
		}
	})
}

// tasks are the events of a run's workflow tasks that were completed.
func (r *rotating) tasks(run string) (events []int64) {
	r.t.Helper()
	for _, e := range r.history(r.id, run).GetEvents() {
		if e.GetEventType() == enums.EVENT_TYPE_WORKFLOW_TASK_COMPLETED {
			events = append(events, e.GetEventId())
		}
	}
	return events
}

// approved has people approve whatever gate is open, to the end of the test.
func (r *rotating) approved() {
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	r.t.Cleanup(func() { stop(); <-done })
	go func() {
		defer close(done)
		look := time.NewTicker(50 * time.Millisecond)
		defer look.Stop()
		for ctx.Err() == nil {
			select {
			case <-look.C:
			case <-ctx.Done():
			}
			if gate := r.status().Gate; gate != nil && len(gate.Approvals) < gate.Needs.Count {
				by := []string{"ann", "ben"}[len(gate.Approvals)]
				_ = r.client.SignalWorkflow(ctx, r.id, "", workflows.ApproveName, policy.Request{Gate: gate.Gate, By: by}) // or it has just ended
			}
		}
	}()
}

// reset resets a run, and returns the report of the one that goes on.
func (r *rotating) reset(run string, task int64) (report workflows.Report) {
	r.t.Helper()
	reset, err := r.client.ResetWorkflowExecution(r.t.Context(), &workflowservice.ResetWorkflowExecutionRequest{
		Namespace: r.namespace, WorkflowExecution: &commonpb.WorkflowExecution{WorkflowId: r.id, RunId: run},
		Reason: "test", RequestId: rand.Text(), WorkflowTaskFinishEventId: task,
	})
	require.NoError(r.t, err)
	r.run = r.client.GetWorkflow(r.t.Context(), r.id, reset.GetRunId())
	return r.report()
}

// sound holds that every instance uses a key that is accepted.
func (r *rotating) sound() {
	r.t.Helper()
	for _, instance := range []string{"canary", "a", "b"} {
		using := r.world.Using(r.name + "-" + instance)
		assert.True(r.t, r.world.Accepts(r.name, using), "%s uses key %q, which is refused", instance, using)
	}
}
