package workflows_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/workflows"
)

func TestASlotIsKnownByItsID(t *testing.T) {
	t.Parallel()
	for id, slot := range map[string]policy.Slot{"slot/7": {Number: 7}, "slot/production/7": {Environment: "production", Number: 7}, "slot/7/3": {Environment: "7", Number: 3}, "unpromoted/production/2": {Environment: "production", Number: 2, Unpromoted: true}} {
		assert.Equal(t, id, workflows.SlotID(slot))
		read, ok := workflows.SlotOf(id)
		assert.True(t, ok)
		assert.Equal(t, slot, read)
	}
	for _, id := range []string{"", "slot/", "slot/x", "slot/production/", "rotation/7"} {
		_, ok := workflows.SlotOf(id)
		assert.False(t, ok, id)
	}
}

func TestAFiringTakesTheSlotOfItsEnvironment(t *testing.T) {
	t.Parallel()
	f := newFiring(t)
	f.env.OnActivity("AwaitSlot", mock.Anything, mock.Anything).Return(activities.Slot{Number: 3, Environment: "production", Decision: yes}, nil)
	f.answers(nil, nil, yes)
	f.rotates(workflows.Report{Outcome: workflows.Completed}, nil)
	var taken []string
	f.env.OnWorkflow(workflows.RotationSlot, mock.Anything).Return(func(ctx workflow.Context) error {
		taken = append(taken, workflow.GetInfo(ctx).WorkflowExecution.ID)
		return nil
	})
	report, err := f.run(workflows.RotationInput{Spec: f.spec()})
	require.NoError(t, err)
	assert.Equal(t, workflows.Completed, report.Outcome)
	assert.Equal(t, []string{"slot/production/3"}, taken)
}
