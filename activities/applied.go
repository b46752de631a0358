package activities

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/converter"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/retried"
)

// Applied lists the credentials that are applied. It is an index: whoever may write to the namespace may have
// written it, so that a spec counts only once its signature is proved.
type Applied interface {
	// Entries lists them all, in any order.
	Entries(ctx context.Context) ([]Entry, error)
	// SpecIn is the spec of a credential, as it was applied; ErrLeft, and ErrSpec when its Schedule has none.
	SpecIn(ctx context.Context, c Named) (inventory.SignedSpec, error)
}

// Runs tells of workflow runs, and ends them; client.Client does.
type Runs interface {
	ListWorkflow(ctx context.Context, request *workflowservice.ListWorkflowExecutionsRequest) (*workflowservice.ListWorkflowExecutionsResponse, error)
	DescribeWorkflowExecution(ctx context.Context, workflowID, runID string) (*workflowservice.DescribeWorkflowExecutionResponse, error)
	QueryWorkflow(ctx context.Context, workflowID, runID, queryType string, args ...any) (converter.EncodedValue, error)
	TerminateWorkflow(ctx context.Context, workflowID, runID, reason string, details ...any) error
}

// Named names a credential of an inventory.
type Named struct {
	Inventory  string `json:"inventory"`
	Credential string `json:"credential"`
}

// Entry is a credential that is applied.
type Entry struct {
	Named
	// Account is that of its issuer.
	Account     string             `json:"account"`
	Principals  []string           `json:"principals"`
	RotateEvery inventory.Duration `json:"rotateEvery,omitzero"`
	// Paused is why no routine rotation begins; empty when they do.
	Paused string `json:"paused,omitempty"`
}

func byName(a, b Named) int {
	return cmp.Or(cmp.Compare(a.Credential, b.Credential), cmp.Compare(a.Inventory, b.Inventory))
}

// ListAppliedInput asks for the credentials that come after one, at most Limit.
type ListAppliedInput struct {
	After Named `json:"after,omitzero"`
	Limit int   `json:"limit"`
}

// ListApplied lists credentials that are applied, by name.
func (a *Activities) ListApplied(ctx context.Context, in ListAppliedInput) ([]Entry, error) {
	entries, err := a.Applied.Entries(ctx)
	if err != nil {
		return nil, forTemporal(err)
	}
	entries = slices.DeleteFunc(entries, func(e Entry) bool { return byName(e.Named, in.After) <= 0 })
	slices.SortFunc(entries, func(a, b Entry) int { return byName(a.Named, b.Named) })
	return entries[:min(len(entries), in.Limit)], nil
}

// run is what Temporal knows of the latest rotation of a credential; the zero one when it knows of none.
func (a *Activities) run(ctx context.Context, credential string) (policy.Run, error) {
	if a.Runs == nil {
		return policy.Run{}, nil
	}
	described, err := a.Runs.DescribeWorkflowExecution(ctx, WorkflowID(credential), "")
	var none *serviceerror.NotFound
	if errors.As(err, &none) {
		return policy.Run{}, nil
	}
	if err != nil {
		return policy.Run{}, fmt.Errorf("asking Temporal for the rotation of %q: %w", credential, err)
	}
	return runOf(described), nil
}

func runOf(d *workflowservice.DescribeWorkflowExecutionResponse) policy.Run {
	info := d.GetWorkflowExecutionInfo()
	r := policy.Run{
		ID: info.GetExecution().GetRunId(), Rotation: info.GetFirstRunId(), Type: info.GetType().GetName(), Status: policy.RunStatus(info.GetStatus().String()), StartedAt: info.GetStartTime().AsTime(),
		Running: info.GetStatus() == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING,
	}
	if info.GetCloseTime() != nil {
		r.ClosedAt = info.GetCloseTime().AsTime()
	}
	if task := d.GetPendingWorkflowTask(); task != nil {
		r.TaskAttempts, r.TaskSince = int(task.GetAttempt()), task.GetOriginalScheduledTime().AsTime()
	}
	if step, ok := retried.MostTried(d.GetPendingActivities()); ok {
		r.Step, r.StepID, r.StepAttempts, r.StepFailure = step.Activity, step.ID, step.Attempts, capText(step.Failure)
	}
	return r
}
