package workflows_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/signed"
	"github.com/keyturn/keyturn/workflows"
)

// A signer who stops being trusted ends nothing that has begun: the rotation waits, with both keys alive,
// until its spec is trusted again.
func TestASpecThatIsNotTrustedAnyMoreHoldsTheRotation(t *testing.T) {
	t.Parallel()
	untrusted := temporal.NewNonRetryableApplicationError("the signer is not trusted", activities.TypeUntrusted, nil)
	held := func(t *testing.T) *script {
		t.Helper()
		s := newScript(t)
		s.answers["Promote"] = func(n int) (any, error) {
			if n == 1 {
				return nil, untrusted
			}
			return nil, nil
		}
		s.answers["AwaitTrust"] = func(n int) (any, error) {
			if n < 200 { // each 30 seconds
				return nil, temporal.NewApplicationErrorWithOptions("not yet", activities.TypeNotYet, temporal.ApplicationErrorOptions{Category: temporal.ApplicationErrorCategoryBenign})
			}
			return nil, nil
		}
		s.in("promote", 40*time.Minute, func() {
			st := s.status()
			assert.Contains(t, st.Doing, "Held: the signer is not trusted")
			assert.Contains(t, st.UnblockedBy, "rotate payments-api -f FILE --sign KEY")
			assert.Contains(t, s.told(), "held")
		})
		return s
	}
	resign := func(s *script, signature, body string, want policy.VerdictReason) {
		s.requests++
		s.env.UpdateWorkflow(workflows.ResignName, fmt.Sprint("resign-", s.requests), &testsuite.TestUpdateCallback{
			OnAccept: func() {}, OnReject: func(err error) { assert.Equal(s.t, want, s.refused(err).Reason) },
			OnComplete: func(result any, err error) {
				require.NoError(s.t, err)
				assert.Equal(s.t, want, result.(policy.Verdict).Reason)
			},
		}, inventory.SignedSpec{Envelope: signed.Envelope{Body: json.RawMessage(body), Signature: signature}})
	}
	t.Run("until the worker trusts its signer again", func(t *testing.T) {
		t.Parallel()
		s := held(t)
		s.approveAt(300 * time.Minute)
		require.Equal(t, workflows.Completed, s.run().Outcome)
	})
	t.Run("until somebody who is trusted signs it anew", func(t *testing.T) {
		t.Parallel()
		s := held(t)
		body := string(s.body())
		s.in("promote", 41*time.Minute, func() { resign(s, "mallory's", body, policy.SignatureBad) })
		s.in("promote", 42*time.Minute, func() { resign(s, "bob's", `{"another":"spec"}`, policy.OtherRotation) })
		s.in("promote", 43*time.Minute, func() { resign(s, "bob's", body, policy.Accepted) })
		s.in("overlap", 44*time.Minute, func() { resign(s, "bob's", body, policy.WrongPhase) })
		s.approveAt(200 * time.Minute)
		require.Equal(t, workflows.Completed, s.run().Outcome)
	})
	t.Run("or until somebody turns it back, once it is trusted", func(t *testing.T) {
		t.Parallel()
		s := held(t)
		s.in("promote", 41*time.Minute, func() { s.ask(policy.Rollback, policy.Request{By: "ann", Reason: "enough"}, nil) })
		require.Equal(t, workflows.RolledBack, s.run().Outcome)
	})
}

// So do bounds of the worker configuration that tighten in the middle, whatever it does then: it says so, and goes on once they have room.
func TestBoundsThatTightenHoldTheRotation(t *testing.T) {
	t.Parallel()
	const says = "out of the bounds of the worker configuration: bounds.test.minOverlap is 48h"
	for asked, back := range map[string]bool{
		"DeliverWave": false, "Promote": false, "Disable": false, "Destroy": false, "Record": false,
		"RestoreLabels": true, "Discard": true,
	} {
		t.Run(asked, func(t *testing.T) {
			t.Parallel()
			s := newScript(t)
			s.answers[asked] = func(n int) (any, error) {
				if n == 1 {
					return nil, temporal.NewNonRetryableApplicationError(says, activities.TypeOutOfBounds, nil)
				}
				return nil, nil
			}
			held := ""
			s.answers["AwaitTrust"] = func(n int) (any, error) {
				if n < 20 {
					return nil, temporal.NewApplicationErrorWithOptions("not yet", activities.TypeNotYet, temporal.ApplicationErrorOptions{Category: temporal.ApplicationErrorCategoryBenign})
				}
				return nil, nil
			}
			s.when("AwaitTrust", func() { held = s.status().Doing })
			want := workflows.Completed
			if back {
				want = workflows.RolledBack
				s.in("overlap", inOverlap, func() { s.ask(policy.Rollback, policy.Request{By: "ann", Reason: "errors"}, nil) })
			}
			s.approveAt(atGate)
			report := s.run()
			assert.Equal(t, want, report.Outcome, report.Message)
			assert.Equal(t, "Held: "+says, held)
			assert.Contains(t, s.told(), "held")
		})
	}
}
