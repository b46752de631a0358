package workflows_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/workflows"
)

func TestAFiringSaysWhenItsScheduleWasToFire(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		suffix string
		want   time.Time
	}{
		"of a Schedule": {"-2026-11-01T06:30:00Z", time.Date(2026, 11, 1, 6, 30, 0, 0, time.UTC)},
		"of a person":   {"-by-hand", time.Time{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFiring(t)
			f.env.SetStartWorkflowOptions(client.StartWorkflowOptions{ID: workflows.ScheduledID("payments-api") + x.suffix, TaskQueue: workflows.TaskQueue})
			var told policy.Start
			f.env.OnActivity("LookWhetherDue", mock.Anything, mock.Anything).Return(func(_ context.Context, r activities.Rotation) (activities.Due, error) {
				told = r.Start
				return activities.Due{Decision: no(policy.Repeated)}, nil
			})
			f.answers(nil, nil, yes)
			f.rotates(workflows.Report{}, nil)
			report, err := f.run(workflows.RotationInput{Spec: f.spec()})
			require.NoError(t, err)
			assert.Equal(t, policy.Repeated, report.Reason)
			assert.True(t, x.want.Equal(told.Nominal), told.Nominal)
			assert.Zero(t, f.began)
		})
	}
}
