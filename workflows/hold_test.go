package workflows_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"go.temporal.io/sdk/temporal"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/workflows"
)

// quiet is a rotation whose canary sees too little traffic, until is says otherwise. Its hold may last two hours.
func quiet(t *testing.T, is func(*script) bool) *script {
	t.Helper()
	s := newScript(t)
	s.credential.ErrorBudget = &inventory.ErrorBudget{Ratio: 0.01, Window: minutes(5), MinTotal: 50, MaxHold: minutes(120), OnBreach: inventory.BreachRollback}
	s.answers["DeliverWave"] = func(int) (any, error) {
		return activities.WaveResult{Decision: yes, Signals: make([]policy.Readings, 1)}, nil
	}
	s.answers["HadTraffic"] = func(n int) (any, error) {
		if n == 1 {
			return no(policy.BudgetTooLittle), nil
		}
		return nil, nil
	}
	s.answers["AwaitTraffic"] = func(int) (any, error) {
		if is(s) {
			return nil, temporal.NewApplicationErrorWithOptions("3 requests", activities.TypeNotYet, temporal.ApplicationErrorOptions{Category: temporal.ApplicationErrorCategoryBenign})
		}
		return nil, nil
	}
	return s
}

const (
	inHold     = 30 * time.Minute
	atHoldGate = 10*time.Minute + 121*time.Minute
)

func TestAWaveIsHeldForWantOfTraffic(t *testing.T) {
	t.Parallel()
	always := func(*script) bool { return true }
	t.Run("it goes on once there was enough", func(t *testing.T) {
		t.Parallel()
		enough := false
		s := quiet(t, func(*script) bool { return !enough })
		s.in("canary held", inHold, func() {
			status := s.status()
			assert.Equal(t, "50 requests in 5m", status.WaitsFor)
			assert.Contains(t, status.UnblockedBy, "hold gate")
			assert.Nil(t, status.Gate)
			enough = true
		})
		s.approveAt(atGate + inHold - 10*time.Minute)
		report := s.run()
		assert.Equal(t, workflows.Completed, report.Outcome, report.Message)
		assert.Equal(t, routine, s.asked)
	})
	t.Run("somebody lets it go on without an error budget", func(t *testing.T) {
		t.Parallel()
		s := quiet(t, always)
		s.in("canary held", atHoldGate, func() {
			assert.Equal(t, inventory.GateHold, s.status().Gate.Gate)
			assert.Equal(t, *s.credential.Approvals.Revoke, s.status().Gate.Needs, "as the revoke gate")
			for reason, req := range map[policy.VerdictReason]policy.Request{
				policy.NotOpen:       {Gate: inventory.GateRevoke, By: "ann"},
				policy.OtherEvidence: {Gate: inventory.GateHold, By: "ann", Evidence: "wave rest"},
				policy.OtherRun:      {Gate: inventory.GateHold, By: "ann", Run: "another"},
			} {
				s.ask(policy.Approve, req, func(v policy.Verdict) { assert.Equal(t, reason, v.Reason, v.Message) })
			}
			s.ask(policy.Approve, policy.Request{Gate: inventory.GateHold, By: "ann", Evidence: "wave canary"}, func(v policy.Verdict) {
				assert.True(t, v.Accepted, v.Message)
			})
		})
		s.approveAt(atGate + atHoldGate - 10*time.Minute)
		report := s.run()
		assert.Equal(t, workflows.Completed, report.Outcome, report.Message)
		assert.Equal(t, routine, s.asked)
	})
	t.Run("nobody decides for long, and the gate opens again", func(t *testing.T) {
		t.Parallel()
		s := quiet(t, always)
		s.in("canary held", atHoldGate+3*time.Hour, func() { s.ask(policy.Approve, policy.Request{Gate: inventory.GateHold, By: "ann"}, nil) })
		s.approveAt(atGate + atHoldGate + 3*time.Hour - 10*time.Minute)
		assert.Equal(t, workflows.Completed, s.run().Outcome)
	})
	t.Run("there is enough while the gate waits", func(t *testing.T) {
		t.Parallel()
		enough := false
		s := quiet(t, func(*script) bool { return !enough })
		s.in("canary held", atHoldGate, func() { enough = true })
		s.approveAt(atGate + atHoldGate - 10*time.Minute)
		assert.Equal(t, workflows.Completed, s.run().Outcome)
		assert.Equal(t, routine, s.asked)
	})
	t.Run("somebody rejects", func(t *testing.T) {
		t.Parallel()
		s := quiet(t, always)
		s.in("canary held", atHoldGate, func() {
			s.ask(policy.Reject, policy.Request{Gate: inventory.GateHold, By: "ann", Reason: "not in the dark"}, nil)
		})
		assert.Equal(t, workflows.RolledBack, s.run().Outcome)
	})
	t.Run("nobody is asked at the revoke gate, nor here", func(t *testing.T) {
		t.Parallel()
		s := quiet(t, always)
		s.credential.Approvals = inventory.Approvals{}
		report := s.run()
		assert.Equal(t, workflows.Completed, report.Outcome, report.Message)
		assert.GreaterOrEqual(t, report.EndedAt.Sub(report.StartedAt), 2*time.Hour)
	})
}
