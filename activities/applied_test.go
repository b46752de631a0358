package activities

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	commonpb "go.temporal.io/api/common/v1"
	failurepb "go.temporal.io/api/failure/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"

	"github.com/keyturn/keyturn/internal/policy"
)

func TestWhatARunFailsAt(t *testing.T) {
	t.Parallel()
	pending := func(id, name string, attempt int32, failure, typ string) *workflowpb.PendingActivityInfo {
		p := &workflowpb.PendingActivityInfo{ActivityId: id, ActivityType: &commonpb.ActivityType{Name: name}, Attempt: attempt}
		if failure != "" {
			p.LastFailure = &failurepb.Failure{
				Message: failure, FailureInfo: &failurepb.Failure_ApplicationFailureInfo{ApplicationFailureInfo: &failurepb.ApplicationFailureInfo{Type: typ}},
			}
		}
		return p
	}
	for name, c := range map[string]struct {
		pending  []*workflowpb.PendingActivityInfo
		step     string
		attempts int
		failing  bool // often enough to be kept for the next sweep
		before   map[string]int
		stuck    bool
	}{
		"nothing that is tried first":                {pending: []*workflowpb.PendingActivityInfo{pending("5", "Issue", 1, "", "")}},
		"nothing that waits for hours":               {pending: []*workflowpb.PendingActivityInfo{pending("5", "Watch", 361, "still watching", TypeNotYet)}},
		"one ordinary error while it waits":          {[]*workflowpb.PendingActivityInfo{pending("5", "Watch", 361, "no route", TypePassing)}, "Watch", 361, true, nil, false},
		"the same step again, at a later attempt":    {[]*workflowpb.PendingActivityInfo{pending("5", "Watch", 361, "no route", TypePassing)}, "Watch", 361, true, map[string]int{"r/5": 241}, true},
		"the same attempt, seen by two sweeps":       {[]*workflowpb.PendingActivityInfo{pending("5", "Watch", 361, "no route", TypePassing)}, "Watch", 361, true, map[string]int{"r/5": 361}, false},
		"another step than the sweep before":         {[]*workflowpb.PendingActivityInfo{pending("6", "Watch", 361, "no route", TypePassing)}, "Watch", 361, true, map[string]int{"r/5": 241}, false},
		"a few tries":                                {[]*workflowpb.PendingActivityInfo{pending("5", "Issue", 3, "no route", TypePassing)}, "Issue", 3, false, map[string]int{"r/5": 2}, false},
		"of two the one that was tried more":         {[]*workflowpb.PendingActivityInfo{pending("5", "Issue", 3, "no", TypePassing), pending("6", "Record", 12, "no", TypePassing)}, "Record", 12, true, nil, false},
		"not the one that was tried more, and waits": {[]*workflowpb.PendingActivityInfo{pending("5", "Issue", 3, "no", TypePassing), pending("6", "Watch", 99, "watching", TypeNotYet)}, "Issue", 3, false, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := runOf(&workflowservice.DescribeWorkflowExecutionResponse{
				WorkflowExecutionInfo: &workflowpb.WorkflowExecutionInfo{Execution: &commonpb.WorkflowExecution{RunId: "r"}}, PendingActivities: c.pending,
			})
			assert.Equal(t, c.step, r.Step)
			assert.Equal(t, c.attempts, r.StepAttempts)
			var out Swept
			a := &Activities{Swept: func(context.Context) (policy.SweepReport, bool, error) {
				return policy.SweepReport{Steps: c.before}, true, nil
			}}
			assert.Equal(t, c.stuck, a.failedBefore(context.Background(), r, &out))
			assert.Equal(t, c.failing, len(out.Steps) == 1)
		})
	}
}
