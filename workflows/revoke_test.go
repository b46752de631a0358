package workflows_test

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
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

// What keeps the key from being destroyed may last for an hour, in which it is only disabled: it is watched, it can be enabled again,
// and whoever turns back is not told that it is being destroyed.
func TestUntilTheKeyIsDestroyedItIsOnlyDisabled(t *testing.T) {
	t.Parallel()
	untested := func(last int) func(int) (any, error) {
		return func(n int) (any, error) {
			if n <= last {
				return nil, errors.New("whether key key-new works is not known: connection refused")
			}
			return nil, nil
		}
	}
	held := func(n int) (any, error) {
		if n <= 2 {
			return nil, temporal.NewNonRetryableApplicationError("the signer is not trusted", activities.TypeUntrusted, nil)
		}
		return nil, nil
	}
	const between = atGate + 32*time.Minute // after the first try, at the end of a soak of half an hour
	for name, c := range map[string]struct {
		destroy func(int) (any, error)
		prepare func(*script)
		want    workflows.Outcome
	}{
		"it is tried again":           {untested(12), func(*script) {}, workflows.Completed},
		"and it is when it was held":  {held, func(*script) {}, workflows.Completed},
		"for hours, and then no more": {untested(1000), func(*script) {}, workflows.Completed},
		"somebody turns back":         {untested(1000), func(s *script) { s.at(between, s.turnBack) }, workflows.RolledBack},
		"somebody turns back from what is held": {func(int) (any, error) { return held(1) }, func(s *script) {
			s.answers["AwaitTrust"] = func(int) (any, error) { return nil, errors.New("not yet") }
			s.at(between, s.turnBack)
		}, workflows.RolledBack},
		"the budget is breached": {untested(1000), func(s *script) {
			s.answers["Watch"] = func(int) (any, error) {
				if s.called("Destroy") > 0 {
					return no(policy.BudgetBreached), nil
				}
				return nil, nil
			}
		}, workflows.RolledBack},
		"nobody turns back from what is destroyed, and not proved yet": {untested(12), func(s *script) {
			var gone atomic.Bool
			s.answers["LookBack"] = func(int) (any, error) {
				if gone.Load() {
					return no(policy.RetiringGone), nil
				}
				return nil, nil
			}
			s.at(between, func() {
				gone.Store(true)
				s.ask(policy.Rollback, policy.Request{By: "ann", Reason: "errors"}, func(v policy.Verdict) { assert.Equal(t, policy.NoWayBack, v.Reason) })
			})
		}, workflows.Completed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScript(t)
			s.answers["Destroy"] = c.destroy
			c.prepare(s)
			s.approveAt(atGate)
			report := s.run()
			assert.Equal(t, c.want, report.Outcome, report.Message)
			assert.Equal(t, c.want == workflows.RolledBack, s.has("enable"))
		})
	}
}

// turnBack asks for a rollback, which is taken.
func (s *script) turnBack() {
	s.ask(policy.Rollback, policy.Request{By: "ann", Reason: "errors"}, func(v policy.Verdict) { assert.True(s.t, v.Accepted, v.Message) })
}

// Whoever misses the key between two tries gets it back.
func TestWhoMissesAKeyThatIsNotDestroyedYetGetsItBack(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.answers["Destroy"] = func(n int) (any, error) {
		if n <= 10 {
			return nil, errors.New("connection refused")
		}
		return nil, nil
	}
	s.answers["AwaitMissed"] = func(int) (any, error) {
		if s.called("Destroy") > 0 && !s.has("enable") {
			return no(policy.RetiringMissed), nil
		}
		return nil, nil
	}
	s.every(20*time.Minute, 8*time.Hour, func() {
		if gate := s.status().Gate; gate != nil && len(gate.Approvals) == 0 {
			s.ask(policy.Approve, policy.Request{Gate: "revoke", By: "ann"}, nil)
		}
	})
	report := s.run()
	require.Equal(t, workflows.Completed, report.Outcome, report.Message)
	assert.Contains(t, s.asked, "enable")
	assert.Equal(t, 2, s.called("Disable"), "on evidence and approval of its own")
}

// Others destroyed the key, and whether that is so cannot be looked up between two tries to prove it: nobody is asked a second time, and no
// message says what nobody saw.
func TestAKeyThatOthersDestroyedIsProvedToBeDeadOnOneApproval(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.answers["Disable"] = func(int) (any, error) {
		return policy.Decision{OK: true, Reason: policy.KeyGone, Message: "it is gone"}, nil
	}
	s.answers["Destroy"] = func(n int) (any, error) {
		if n <= 10 {
			return nil, errors.New("connection refused")
		}
		return nil, nil
	}
	s.answers["LookBack"] = func(int) (any, error) { return nil, errors.New("connection refused") }
	s.every(20*time.Minute, 8*time.Hour, func() {
		if gate := s.status().Gate; gate != nil && len(gate.Approvals) == 0 {
			s.ask(policy.Approve, policy.Request{Gate: "revoke", By: "ann"}, nil)
		}
	})
	report := s.run()
	require.Equal(t, workflows.Completed, report.Outcome, report.Message)
	assert.Len(t, report.Verdicts, 1, "it was asked once")
	assert.Equal(t, 1, s.called("Disable"))
	told := 0
	for _, n := range s.notes {
		if n.What == "not-destroyed" {
			told++
			assert.Contains(t, n.Body, "whether it lives could not be looked up")
		}
	}
	assert.Equal(t, 1, told)
}
