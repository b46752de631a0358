package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/workflows"
)

// Nobody signs what they were not shown: the gate, both keys and the evidence that the signature is bound to.
func TestWhoSignsAnApprovalIsShownWhatFor(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	s := workflows.Status{
		Credential: "payments-api", Owner: "payments@example.com", RequestedBy: "ann", Reason: "quarterly",
		Retiring: key.Ref{KeyID: "key-old"}, Incoming: key.Ref{KeyID: "key-new"},
		Evidence: &policy.Evidence{Complete: true, Digest: "sha256:of-it", QuietSince: now.Add(-time.Hour), Instances: []key.Statement{{Instance: "checkout/a"}}},
		Gate: &policy.OpenGate{
			Gate: inventory.GateRevoke, OpenedAt: now, Evidence: "sha256:of-it", Needs: inventory.Approval{Count: 2, Trust: inventory.TrustSigned, From: []string{"owners"}},
			Approvals: []policy.Verdict{{Action: policy.Approve, Accepted: true, By: "olga", Verified: true, Groups: []string{"owners"}, At: now}},
		},
	}
	var out bytes.Buffer
	printGate(&out, s, now)
	for _, shown := range []string{"payments-api", "payments@example.com", "1 of 2 approved", "ann: quarterly", "olga", "key-old", "key-new", "sha256:of-it", "1 instance on the incoming key", "nothing brings it back"} {
		assert.Contains(t, out.String(), shown)
	}
	for gate, lost := range map[inventory.Gate]workflows.Status{
		inventory.GateSignoff: {OnlyForward: "there is no earlier key"}, inventory.GateHold: {NoWayBack: "there is no earlier key"},
	} {
		for _, status := range []workflows.Status{{}, lost} {
			status.Gate = &policy.OpenGate{Gate: gate}
			said := allows(status)
			assert.Equal(t, status.OnlyForward+status.NoWayBack == "", strings.Contains(said, "rollback") || strings.Contains(said, "turned back"), said)
		}
	}
	asks := func(gate inventory.Gate) (string, error) {
		var said bytes.Buffer
		err := (&terminal{in: strings.NewReader("yes\n"), err: &said}).askToApprove(s, gate)
		return said.String(), err
	}
	said, err := asks(inventory.GateRevoke)
	require.ErrorContains(t, err, "--yes", "an input that is no terminal says no yes")
	assert.Contains(t, said, "key-old")
	said, err = asks(inventory.GateSignoff)
	require.NoError(t, err, "that it does not wait is the worker's to say")
	assert.Empty(t, said)
}
