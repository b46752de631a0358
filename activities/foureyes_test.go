package activities_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
)

// With four eyes who signed the spec approves nothing, though one of the owners; with two, they may.
func TestWhoSignedTheSpecIsNotTheSecondPairOfEyes(t *testing.T) {
	t.Parallel()
	for fourEyes, want := range map[bool]policy.Reason{true: policy.ApprovalsMissing, false: policy.Allowed} {
		c := newSignedCase(t)
		trust(t, c.inventory, "olga-at-home", c.olga)
		c.sign(c.olga, func(s *inventory.Spec) { s.Credential.Approvals.Revoke.FourEyes = fourEyes })
		for _, step := range []string{"Issue", "DeliverWave", "Promote"} {
			c.run(step)
		}
		c.passOverlap()
		var d policy.Decision
		c.execute("Disable", activities.RevokeInput{Rotation: c.subject(), Approvals: []policy.Verdict{c.approval(c.olga, asSigned)}}, &d)
		assert.Equal(t, want, d.Reason, d.Message)
	}
}
