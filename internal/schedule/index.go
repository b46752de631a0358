package schedule

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/workflows"
)

// Schedules are the index that activities ask.
var _ activities.Index = (*Schedules)(nil)

// Spec is the one that a credential's Schedule has. activities.ErrLeft, activities.ErrSpec.
func (s *Schedules) Spec(ctx context.Context, credential string) (inventory.SignedSpec, error) {
	found, err := s.Find(ctx, credential)
	return found.Signed, forActivities(credential, err)
}

// Schedule is what a credential's Schedule in an inventory says now. activities.ErrLeft.
func (s *Schedules) Schedule(ctx context.Context, inventory, credential string) (activities.Scheduled, error) {
	found, err := s.Describe(ctx, inventory, credential)
	switch {
	case errors.Is(err, ErrNotFound):
		return activities.Scheduled{}, fmt.Errorf("finding the Schedule of %q: %w", credential, activities.ErrLeft)
	case err != nil:
		return activities.Scheduled{}, err
	}
	scheduled := activities.Scheduled{Spec: found.Signed}
	if found.Paused {
		scheduled.Paused = cmp.Or(found.Note, "its Schedule is paused")
	}
	return scheduled, nil
}

// Running tells whether a rotation or an emergency of a credential runs.
func (s *Schedules) Running(ctx context.Context, credential string) (bool, error) {
	described, err := s.client.DescribeWorkflowExecution(ctx, workflows.WorkflowID(credential), "")
	var none *serviceerror.NotFound
	if errors.As(err, &none) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("describing the rotation of %q: %w", credential, err)
	}
	return described.GetWorkflowExecutionInfo().GetStatus() == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING, nil
}

// TakenSlots lists the slots of routine rotations that are taken, as visibility has them.
func (s *Schedules) TakenSlots(ctx context.Context) ([]policy.Slot, error) {
	var taken []policy.Slot
	err := s.running(ctx, "WorkflowType = 'RotationSlot'", func(e *workflowpb.WorkflowExecutionInfo) {
		if slot, ok := workflows.SlotOf(e.GetExecution().GetWorkflowId()); ok {
			taken = append(taken, slot)
		}
	})
	return taken, err
}

// Waiting lists the routine rotations that wait for a slot, as visibility has them.
func (s *Schedules) Waiting(ctx context.Context) ([]policy.Waiter, error) {
	query := fmt.Sprintf("WorkflowType = '%s' AND %s = '%s'", workflows.ScheduledName, workflows.AttributePhase.GetName(), workflows.PhaseSlot)
	var waiting []policy.Waiter
	err := s.running(ctx, query, func(e *workflowpb.WorkflowExecutionInfo) {
		w := policy.Waiter{Since: e.GetStartTime().AsTime()}
		fields := e.GetSearchAttributes().GetIndexedFields()
		decode(fields[workflows.AttributeCredential.GetName()], &w.Credential)
		decode(fields[workflows.AttributeEnvironment.GetName()], &w.Environment)
		decode(fields[workflows.AttributeRisk.GetName()], &w.Risk)
		decode(fields[workflows.AttributeRotateBy.GetName()], &w.RotateBy)
		waiting = append(waiting, w)
	})
	return waiting, err
}

// running goes through the workflows that run and that a query finds.
func (s *Schedules) running(ctx context.Context, query string, each func(*workflowpb.WorkflowExecutionInfo)) error {
	var page []byte
	for {
		answer, err := s.client.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{
			Query: query + " AND ExecutionStatus = 'Running'", PageSize: pageSize, NextPageToken: page,
		})
		if err != nil {
			return fmt.Errorf("listing what has or waits for a slot: %w", err)
		}
		for _, e := range answer.GetExecutions() {
			each(e)
		}
		if page = answer.GetNextPageToken(); len(page) == 0 {
			return nil
		}
	}
}
