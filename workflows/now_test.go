package workflows_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/workflows"
)

func TestARotationOutsideOfItsWindowBeginsIfItIsWantedNow(t *testing.T) {
	t.Parallel()
	outside := func() *stage {
		s := newStage(t)
		s.traffic(3 * time.Hour)
		s.approve()
		s.credential.Schedule.At = s.began.UTC().Add(12 * time.Hour).Format("15:04")
		return s
	}
	s := outside()
	report := s.run()
	assert.Equal(t, workflows.Refused, report.Outcome)
	assert.Equal(t, policy.WindowClosed, report.Reason)
	assert.Contains(t, report.Message, "--now")
	assert.Equal(t, []string{"key-old active"}, s.keys())

	s = outside()
	s.env.ExecuteWorkflow(workflows.Rotation, workflows.RotationInput{Spec: s.spec(), Now: true})
	require.NoError(t, s.env.GetWorkflowError())
	require.NoError(t, s.env.GetWorkflowResult(&report))
	assert.Equal(t, workflows.Completed, report.Outcome, report.Message)
}

// What begins a rotation as its child has asked the calendar, and the window may close while the rotation looks around.
func TestHowARotationWasBegunIsKnown(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		child bool
		in    workflows.RotationInput
		want  policy.Start
	}{
		"by a person":                    {false, workflows.RotationInput{}, policy.Start{}},
		"by a person who wants it now":   {false, workflows.RotationInput{Now: true}, policy.Start{Now: true}},
		"by a Schedule, or by another's": {true, workflows.RotationInput{}, policy.Start{Fired: true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			var told policy.Start
			s.env.OnActivity(act.Inspect, mock.Anything, mock.Anything).Return(func(_ context.Context, r activities.Rotation) (policy.Plan, error) {
				told = r.Start
				return policy.Plan{Refusals: []policy.Decision{no(policy.SlotsFull)}}, nil
			})
			x.in.Spec = s.spec()
			begin := any(workflows.Rotation)
			if x.child {
				begin = "Parent"
				s.env.SetStartWorkflowOptions(client.StartWorkflowOptions{ID: workflows.ScheduledID("payments-api"), TaskQueue: workflows.TaskQueue})
				s.env.RegisterWorkflowWithOptions(func(ctx workflow.Context, in workflows.RotationInput) error {
					ctx = workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{WorkflowID: workflows.WorkflowID("payments-api")})
					return workflow.ExecuteChildWorkflow(ctx, workflows.Rotation, in).Get(ctx, nil)
				}, workflow.RegisterOptions{Name: "Parent"})
			}
			s.env.ExecuteWorkflow(begin, x.in)
			require.NoError(t, s.env.GetWorkflowError())
			assert.Equal(t, x.want, told)
		})
	}
}

// What is signed off in a blackout, which began while the request waited, mints nothing.
func TestWhatIsSignedOffInABlackoutMintsNothing(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.traffic(3 * time.Hour)
	s.credential.Approvals.Signoff = &inventory.Approval{Count: 1, Trust: inventory.TrustAny}
	from, to := s.began.UTC().Add(10*time.Minute), s.began.UTC().Add(2*time.Hour).Truncate(time.Minute)
	s.credential.Schedule.Blackouts = []inventory.Blackout{{From: from.Format("2006-01-02T15:04"), To: to.Format("2006-01-02T15:04"), Why: "launch"}}
	s.in("signoff", 30*time.Minute, func() {
		s.env.SignalWorkflow(workflows.ApproveName, policy.Request{Gate: "signoff", By: "ann"})
	})
	report := s.run()
	assert.Equal(t, workflows.RolledBack, report.Outcome, report.Message)
	assert.Contains(t, report.Message, "a blackout lasts until "+to.Format(time.RFC3339)+": launch")
	assert.Equal(t, []string{"key-old active"}, s.keys())
}
