package tests

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"
	"golang.org/x/sync/errgroup"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/workflows"
)

// A flood of requests, by signal and by update, while a rotation is in its overlap: it continues as new, and each request
// that the server took is carried out once. At the gate of another a flood voids what was approved, and the gate opens again.
func TestFloodOfRequests(t *testing.T) {
	t.Parallel()
	const byEach, senders, by = 320, 8, time.Millisecond // more than a run takes
	s := newStage(t, "--overlap", "1h")                  // however long the flood takes
	c := s.client()
	// A flood may leave too little of the machine to consumers for their checks: nothing but people turns this rotation back.
	s.rewrite(s.place.Inventory, "onBreach: rollback", "onBreach: pause")
	out, code := s.starter("rotate", credential, "-f", s.place.Inventory)
	require.Zero(t, code, out)
	before := s.await(workflows.PhaseOverlap)
	first := s.run(c)

	var taken atomic.Int64
	flood := func(ctx context.Context, name string, request func(id string) policy.Request) {
		var group errgroup.Group
		for sender := range senders {
			group.Go(func() error {
				for n := range byEach {
					id := fmt.Sprintf("%s/%d/%d", name, sender, n)
					if n%10 > 0 {
						if c.SignalWorkflow(ctx, workflows.WorkflowID(credential), "", name, request(id)) == nil {
							taken.Add(1)
						}
						continue
					}
					update, err := c.UpdateWorkflow(ctx, client.UpdateWorkflowOptions{
						WorkflowID: workflows.WorkflowID(credential), UpdateName: name, WaitForStage: client.WorkflowUpdateStageCompleted, Args: []any{request(id)},
					})
					if err == nil && update.Get(ctx, nil) == nil {
						taken.Add(1)
					}
				}
				return nil
			})
		}
		_ = group.Wait()
	}
	flood(t.Context(), workflows.ExtendName, func(id string) policy.Request {
		return policy.Request{ID: id, By: "mallory", Extension: inventory.Duration(by)}
	})
	assert.Greater(t, taken.Load(), int64(1800))
	want := before.Until.Add(time.Duration(taken.Load()) * by)
	after := s.awaitThat("each counts", func(status workflows.Status) bool { return !status.Until.Before(want) })
	assert.Equal(t, want, after.Until, "each counts once")
	assert.Equal(t, workflows.PhaseOverlap, after.Phase)
	assert.NotEqual(t, first, s.run(c), "it went on in another run")
	out, code = s.starter("rollback", credential, "--reason", "the flood")
	require.Zero(t, code, out)
	report := s.report()
	assert.Equal(t, workflows.RolledBack, report.Outcome, report.Message)
	assert.Equal(t, first, report.Rotation)
	s.replays()

	s.rewrite(s.place.Inventory, "overlap: 1h", "overlap: 5s")
	out, code = s.starter("rotate", credential, "-f", s.place.Inventory)
	require.Zero(t, code, out)
	s.await(workflows.PhaseRevokeGate)
	second := s.run(c)
	flood(t.Context(), workflows.ApproveName, func(id string) policy.Request {
		return policy.Request{ID: id, By: "mallory", Gate: inventory.GateSignoff} // another gate
	})
	eventually(t, func() bool { return s.run(c) != second }, patience, time.Second, "the gate opens again in another run")
	s.awaitThat("the gate is open again", func(status workflows.Status) bool { return status.Gate != nil && status.Gate.Run == s.run(c) })
	out, code = s.starter("approve", credential, "--gate", "revoke", "--as", "ann")
	require.Zero(t, code, out)
	report = s.report()
	assert.Equal(t, workflows.Completed, report.Outcome, report.Message)
	assert.Equal(t, second, report.Rotation)
	s.replays()
	s.nobodyRefused()
}

// run is the ID of the rotation's last run.
func (s *stage) run(c client.Client) string {
	s.t.Helper()
	described, err := c.DescribeWorkflowExecution(s.t.Context(), workflows.WorkflowID(credential), "")
	require.NoError(s.t, err)
	return described.GetWorkflowExecutionInfo().GetExecution().GetRunId()
}
