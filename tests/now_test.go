package tests

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"

	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/workflows"
)

// In a blackout a person begins no rotation without saying that it shall be now: not by the command, nor with what Temporal offers. One
// that was begun so keeps the retiring key all the same.
func TestAPersonBeginsARotationInABlackout(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	today := time.Now().UTC()
	s.rewrite(s.place.Inventory, "policy: demo\n", fmt.Sprintf("policy: demo\n    schedule: {blackouts: [{from: %s, to: %s, why: launch}]}\n",
		today.AddDate(0, 0, -1).Format(time.DateOnly), today.AddDate(0, 0, 2).Format(time.DateOnly)))
	s.apply(0, "-f", s.place.Inventory)

	out, code := s.starter("rotate", credential)
	assert.Equal(t, 3, code, out)
	assert.Contains(t, out, "a blackout lasts until")
	assert.Contains(t, out, "keyturn rotate "+credential+" --now")
	out, code = s.starter("plan", credential)
	assert.Equal(t, 3, code, out)
	assert.Contains(t, out, "--now")
	out, code = s.starter("plan", credential, "--now", "-o", "json")
	assert.Zero(t, code, out)
	var plan policy.Plan
	require.NoError(t, json.Unmarshal([]byte(out), &plan), out)
	assert.Contains(t, fmt.Sprint(plan.Warnings), "a blackout lasts until")

	run, err := s.client().ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: workflows.WorkflowID(credential), TaskQueue: workflows.TaskQueue},
		workflows.Rotation, workflows.RotationInput{Credential: credential})
	require.NoError(t, err)
	var report workflows.Report
	require.NoError(t, run.Get(t.Context(), &report))
	assert.Equal(t, workflows.Refused, report.Outcome)
	assert.Equal(t, policy.BlackedOut, report.Reason, report.Message)

	out, code = s.starter("rotate", credential, "--now", "--reason", "a customer asks")
	require.Zero(t, code, out)
	status := s.awaitThat("it waits for the blackout's end", func(status workflows.Status) bool { return status.Phase == workflows.PhaseEvidence })
	require.Nil(t, status.Report)
	s.awaitThat("it says so", func(status workflows.Status) bool {
		return status.Evidence != nil && len(status.Evidence.Missing) == 1 && status.Evidence.Missing[0].Reason == policy.BlackedOut
	})
	out, code = s.starter("rollback", credential, "--reason", "the test is over")
	require.Zero(t, code, out)
	assert.Equal(t, workflows.RolledBack, s.report().Outcome)
	s.nobodyRefused()
}
