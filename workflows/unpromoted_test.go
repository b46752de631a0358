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
		"not one whose window has closed meanwhile": {true, true, activities.Slot{Decision: no(policy.WindowClosed)}, usual, nil, workflows.Refused},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScript(t)
			s.credential.Approvals = inventory.Approvals{}
			s.answers["Accept"] = func(int) (any, error) { return activities.Accepted{Signer: "bob", Unpromoted: x.bounded}, nil }
			s.registerParent()
			s.slots(x.slot)
			x.change(s)
			report := s.begun(x.fired)
			assert.Equal(t, x.outcome, report.Outcome, report.Message)
			assert.Equal(t, x.want, s.of(slotted))
		})
	}
}

// A run that goes on in the next one before it has promoted gives its slot back; the next one takes another before it delivers on, and asks
// no calendar any more.
func TestARunThatGoesOnBeforeItsPromotionTakesAnotherSlot(t *testing.T) {
	t.Parallel()
	first := newScript(t)
	first.credential.Approvals = inventory.Approvals{}
	first.crowd("canary soaking", inFirstSoak)
	in := first.fills()
	in.Carried.Bounded = true

	s := newScript(t)
	s.credential, s.requests = first.credential, first.requests
	s.env.SetStartTime(first.env.Now())
	s.registerParent()
	s.slots(activities.Slot{Environment: "sandbox", Number: 2, Decision: yes})
	report := s.begunBy("Parent", in)
	assert.Equal(t, workflows.Completed, report.Outcome, report.Message)
	assert.Equal(t, []bool{true}, s.slotsBegun)
	assert.Equal(t, []string{"take unpromoted/sandbox/2", "deliver key-new to [checkout/a checkout/b]", "promote", "leave"},
		s.of([]string{"take unpromoted/sandbox/2", "deliver key-new to [checkout/a checkout/b]", "promote", "leave"}))
}

// of are those of these steps that were done, in their order.
func (s *script) of(steps []string) (done []string) {
	for _, one := range s.asked {
		if slices.Contains(steps, one) {
			done = append(done, one)
		}
	}
	return done
}

// slots answers who asks for a slot, and sees who takes one.
func (s *script) slots(slot activities.Slot) {
	s.env.RegisterWorkflow(workflows.RotationSlot)
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
	s.env.OnActivity(act.AwaitSlot, mock.Anything, mock.Anything).Return(func(_ context.Context, in activities.SlotInput) (activities.Slot, error) {
		assert.True(s.t, in.Unpromoted)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.slotsBegun = append(s.slotsBegun, in.Begun)
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
	in := workflows.RotationInput{Spec: inventory.SignedSpec{Envelope: signed.Envelope{Body: s.body()}}}
	if fired {
		return s.begunBy("Parent", in)
	}
	return s.begunBy(workflows.Rotation, in)
}

func (s *script) begunBy(begin any, in workflows.RotationInput) (report workflows.Report) {
	s.t.Helper()
	if begin == "Parent" {
		s.env.SetStartWorkflowOptions(client.StartWorkflowOptions{ID: workflows.ScheduledID("payments-api"), TaskQueue: workflows.TaskQueue})
	}
	s.env.ExecuteWorkflow(begin, in)
	require.NoError(s.t, s.env.GetWorkflowError())
	require.NoError(s.t, s.env.GetWorkflowResult(&report))
	return report
}
