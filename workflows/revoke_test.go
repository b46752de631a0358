package workflows_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"go.temporal.io/sdk/temporal"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/workflows"
)

func TestEvidenceIsAwaited(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	lacking := policy.Evidence{Missing: []policy.Decision{{Reason: policy.InstanceNotConverged, Message: "checkout/b is not on key key-new"}}}
	s.answers["GatherEvidence"] = func(n int) (any, error) {
		switch {
		case n == 1:
			return lacking, nil
		case n < 60:
			return nil, temporal.NewApplicationErrorWithOptions("not yet", activities.TypeNotYet, temporal.ApplicationErrorOptions{Category: temporal.ApplicationErrorCategoryBenign})
		}
		return nil, nil
	}
	s.in("evidence", 81*time.Minute, func() {
		assert.Contains(t, s.status().WaitsFor, "checkout/b")
	})
	s.approveAt(200 * time.Minute)
	assert.Equal(t, workflows.Completed, s.run().Outcome)
}

// Evidence that is late is told once, and is waited for without end.
func TestLateEvidenceIsTold(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	missing := policy.Evidence{Missing: []policy.Decision{{Reason: policy.RetiringStillHeld, Message: "checkout/b still holds it"}}}
	s.answers["GatherEvidence"] = func(n int) (any, error) {
		if n <= 2 { // the second time since it is late
			return missing, nil
		}
		return nil, nil
	}
	s.approveAt(atGate)
	assert.Equal(t, workflows.Completed, s.run().Outcome)
	assert.ElementsMatch(t, []string{"reminder", "gate-revoke", "ended"}, s.told(), "beside each other")
}

func TestRevokeIsJudgedAgain(t *testing.T) {
	t.Parallel()
	t.Run("when Disable refuses, the evidence is gathered and approved anew", func(t *testing.T) {
		t.Parallel()
		s := newScript(t)
		s.answers["Disable"] = func(n int) (any, error) {
			if n == 1 {
				return no(policy.RetiringNotQuiet), nil
			}
			return nil, nil
		}
		s.approveAt(atGate)
		s.approveAt(atGate + 10*time.Minute)
		assert.Equal(t, workflows.Completed, s.run().Outcome)
		assert.Equal(t, []string{"gather", "disable with 1 approvals", "gather", "disable with 1 approvals", "destroy with 1 approvals"}, s.asked[4:9])
	})
	t.Run("when Destroy refuses, the key is enabled again first", func(t *testing.T) {
		t.Parallel()
		s := newScript(t)
		s.answers["Destroy"] = func(n int) (any, error) {
			if n == 1 {
				return activities.Destroyed{Decision: no(policy.RetiringStillHeld)}, nil
			}
			return nil, nil
		}
		s.approveAt(atGate)
		s.approveAt(atGate + 45*time.Minute)
		assert.Equal(t, workflows.Completed, s.run().Outcome)
		assert.Equal(t, []string{"destroy with 1 approvals", "enable", "gather", "disable with 1 approvals", "destroy with 1 approvals"}, s.asked[6:11])
	})
	t.Run("a gate whose request expires asks again", func(t *testing.T) {
		t.Parallel()
		s := newScript(t)
		s.approveAt(atGate + 150*time.Minute)
		assert.Equal(t, workflows.Completed, s.run().Outcome)
		assert.Equal(t, []string{"gather", "gather", "disable with 1 approvals"}, s.asked[4:7])
	})
}
