package host

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/worker"

	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/workflows"
)

func TestWhatAnEmergencysActivityCallsIsUrgent(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		priority int
		urgent   bool
	}{
		"an emergency's":                {workflows.UrgentPriority, true},
		"an emergency's, afterwards":    {workflows.SoonPriority, true},
		"one of a routine rotation":     {0, false},
		"one that lets others go first": {4, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			info := activity.Info{Priority: temporal.Priority{PriorityKey: c.priority}}
			assert.Equal(t, c.urgent, providers.IsUrgent(marked(t.Context(), info)))
		})
	}
}

// The test environment knows no priorities.
func TestAnActivityRunsUnderTheMark(t *testing.T) {
	t.Parallel()
	env := new(testsuite.WorkflowTestSuite).NewTestActivityEnvironment()
	env.SetWorkerOptions(worker.Options{Interceptors: []interceptor.WorkerInterceptor{&urgency{}}})
	calls := func(ctx context.Context) (bool, error) { return providers.IsUrgent(ctx), nil }
	env.RegisterActivityWithOptions(calls, activity.RegisterOptions{Name: "calls"})
	answer, err := env.ExecuteActivity("calls")
	require.NoError(t, err)
	var urgent bool
	require.NoError(t, answer.Get(&urgent))
	assert.False(t, urgent)
}
