package workflows_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/signed"
	"github.com/keyturn/keyturn/workflows"
)

// One person passes a gate of two alone, and everybody is told.
func TestOnePersonPassesAGateAlone(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.credential.Approvals.Revoke.Count, s.credential.Approvals.Revoke.Trust, s.credential.Approvals.Revoke.From = 2, inventory.TrustSigned, []string{"owners"}
	s.env.OnActivity(act.Prove, mock.Anything, mock.Anything).Return(func(ctx context.Context, _ activities.ProveInput) ([]policy.Proof, error) {
		info := activity.GetInfo(ctx)
		return []policy.Proof{{By: signed.Signer{Name: "sally"}, Groups: []string{"oncall"}, MayBreakGlass: true, Request: policy.SignedRequest{
			Action: policy.Approve, BreakGlass: true, Reason: "bob is away", Nonce: "n1", SignedAt: s.env.Now(),
			Bound: policy.Bound{
				Namespace: info.Namespace, Workflow: info.WorkflowExecution.ID, Run: info.WorkflowExecution.RunID, Gate: inventory.GateRevoke, Evidence: "digest",
				Rotation: info.WorkflowExecution.RunID, Retiring: retiring.KeyID, Incoming: incoming.KeyID,
			},
		}}}, nil
	})
	var verdict policy.Verdict
	s.in("revoke-gate", atGate, func() {
		s.ask(policy.Approve, policy.Request{Signed: &signed.Envelope{Body: []byte(`{}`), Signature: "sally's"}}, func(v policy.Verdict) { verdict = v })
	})
	report := s.run()
	assert.True(t, verdict.Accepted, verdict.Message)
	assert.Equal(t, workflows.Completed, report.Outcome, report.Message)
	assert.Contains(t, s.told(), "break-glass/revoke")
}

// A run that reviews break-glass does that and nothing else, and says what was reviewed.
func TestARunThatReviewsBreakGlass(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		err  error
		want workflows.Outcome
		says string
	}{
		"one that counts":   {nil, workflows.Completed, "olga reviewed break-glass of sally at the revoke gate (bob is away): the evidence was complete"},
		"one that does not": {temporal.NewNonRetryableApplicationError("review refused: sally broke the glass", activities.TypeReview, nil), workflows.Refused, "sally broke the glass"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScript(t)
			s.env.OnActivity(act.ReviewBreakGlass, mock.Anything, mock.Anything).Return(func(_ context.Context, in activities.GlassReviewInput) (activities.GlassReviewed, error) {
				assert.Equal(t, "olga's", in.Review.Signature)
				return activities.GlassReviewed{By: "olga", Comment: "the evidence was complete", Of: []key.BrokenGlass{{By: "sally", Gate: "revoke", Reason: "bob is away"}}}, c.err
			})
			s.env.ExecuteWorkflow(workflows.Rotation, workflows.RotationInput{
				Spec:   inventory.SignedSpec{Envelope: signed.Envelope{Body: s.body()}},
				Review: &signed.Envelope{Body: []byte(`{}`), Signature: "olga's"},
			})
			var report workflows.Report
			require.NoError(t, s.env.GetWorkflowError())
			require.NoError(t, s.env.GetWorkflowResult(&report))
			assert.Equal(t, c.want, report.Outcome)
			assert.Contains(t, report.Message, c.says)
			assert.Empty(t, s.asked)
		})
	}
}
