package workflows_test

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/temporaltest"
	"github.com/keyturn/keyturn/workflows"
)

func TestAuditAsksAWorkerForItsFile(t *testing.T) {
	t.Parallel()
	want := workflows.AuditAnswer{Worker: "me", Recorded: true, Excerpt: audit.Excerpt{Events: []audit.Event{}, Left: 2}}
	tries := 0
	env := temporaltest.NewEnvironment()
	env.RegisterActivityWithOptions(func(_ context.Context, in workflows.AuditInput) (workflows.AuditAnswer, error) {
		assert.Equal(t, workflows.AuditInput{Credential: "payments-api", Rotation: "r1"}, in)
		if tries++; tries == 1 {
			return workflows.AuditAnswer{}, errors.New("lost on the way")
		}
		return want, nil
	}, activity.RegisterOptions{Name: "ReadAudit"})
	env.ExecuteWorkflow(workflows.Audit, workflows.AuditInput{Credential: "payments-api", Rotation: "r1"})
	require.NoError(t, env.GetWorkflowError())
	var answer workflows.AuditAnswer
	require.NoError(t, env.GetWorkflowResult(&answer))
	assert.Equal(t, want, answer)
}
