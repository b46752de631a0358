package workflows_test

import (
	"context"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/signed"
	"github.com/keyturn/keyturn/workflows"
)

// Where the worker configuration bounds them, a rotation that a Schedule began has a slot from before it issues until it has promoted, or has
// ended otherwise. One that a person began waits for nobody.
func TestOnlySoManyAreBetweenIssueAndPromotion(t *testing.T) {
	t.Parallel()
	slotted, slotless := []string{"take unpromoted/sandbox/2", "issue 1", "promote", "leave"}, []string{"issue 1", "promote"}
	second, usual := activities.Slot{Environment: "sandbox", Number: 2, Decision: yes}, func(*script) {}
	for name, x := range map[string]struct {
		fired, bounded bool
		slot           activities.Slot
		change         func(s *script)
		want           []string
		outcome        workflows.Outcome
	}{
		"one that a Schedule began":          {true, true, second, usual, slotted, workflows.Completed},
		"one that a person began":            {false, true, second, usual, slotless, workflows.Completed},
		"where nothing bounds them":          {true, false, second, usual, slotless, workflows.Completed},
		"where nothing bounds them any more": {true, true, activities.Slot{Decision: yes}, usual, slotless, workflows.Completed},
		"one that may not promote, until its end": {true, true, second, func(s *script) {
			s.answers["Promote"] = func(int) (any, error) { return no(policy.CurrentMoved), nil }
		}, slotted, workflows.RolledBack},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScript(t)
			s.credential.Approvals = inventory.Approvals{}
			s.answers["Accept"] = func(int) (any, error) { return activities.Accepted{Signer: "bob", Unpromoted: x.bounded}, nil }
			s.registerParent()
			s.slots(x.slot)
			x.change(s)
			s.env.SetOnChildWorkflowStartedListener(func(info *workflow.Info, _ workflow.Context, _ converter.EncodedValues) {
				if info.WorkflowType.Name == "RotationSlot" {
					s.did("take %s", info.WorkflowExecution.ID)
				}
			})
			s.env.SetOnChildWorkflowCompletedListener(func(info *workflow.Info, _ converter.EncodedValue, _ error) {
				if info.WorkflowType.Name == "RotationSlot" {
					s.did("leave")
				}
			})
			report := s.begun(x.fired)
			assert.Equal(t, x.outcome, report.Outcome, report.Message)
			var order []string
			for _, done := range s.asked {
				if slices.Contains(slotted, done) {
					order = append(order, done)
				}
			}
			assert.Equal(t, x.want, order)
		})
	}
}

// slots answers who asks for a slot.
func (s *script) slots(slot activities.Slot) {
	s.env.RegisterWorkflow(workflows.RotationSlot)
	s.env.OnActivity(act.AwaitSlot, mock.Anything, mock.Anything).Return(func(_ context.Context, in activities.SlotInput) (activities.Slot, error) {
		assert.True(s.t, in.Unpromoted)
		return slot, nil
	})
}

// registerParent registers a workflow that begins a rotation, as that of a Schedule does.
func (s *script) registerParent() {
	s.env.RegisterWorkflowWithOptions(func(ctx workflow.Context, in workflows.RotationInput) (report workflows.Report, err error) {
		ctx = workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{WorkflowID: workflows.WorkflowID("payments-api")})
		err = workflow.ExecuteChildWorkflow(ctx, workflows.Rotation, in).Get(ctx, &report)
		return report, err
	}, workflow.RegisterOptions{Name: "Parent"})
}

// begun is how a rotation ends that a Schedule's run began, or a person.
func (s *script) begun(fired bool) (report workflows.Report) {
	s.t.Helper()
	begin := any(workflows.Rotation)
	if fired {
		begin = "Parent"
		s.env.SetStartWorkflowOptions(client.StartWorkflowOptions{ID: workflows.ScheduledID("payments-api"), TaskQueue: workflows.TaskQueue})
	}
	s.env.ExecuteWorkflow(begin, workflows.RotationInput{Spec: inventory.SignedSpec{Envelope: signed.Envelope{Body: s.body()}}})
	require.NoError(s.t, s.env.GetWorkflowError())
	require.NoError(s.t, s.env.GetWorkflowResult(&report))
	return report
}
