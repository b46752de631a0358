package policy_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
)

func TestWhoGetsASlotFirst(t *testing.T) {
	t.Parallel()
	// Each goes before all that follow.
	line := []policy.Waiter{
		{Credential: "of an age nobody knows", Risk: inventory.RiskCritical, Since: now},
		{Credential: "overdue", Risk: inventory.RiskCritical, RotateBy: now.Add(-time.Hour), Since: now},
		{Credential: "critical", Risk: inventory.RiskCritical, RotateBy: now, Since: now},
		{Credential: "high", Risk: inventory.RiskHigh, RotateBy: now.Add(-time.Hour), Since: now},
		{Credential: "waits longer", Risk: inventory.RiskStandard, RotateBy: now, Since: now.Add(-time.Hour)},
		{Credential: "waits", Risk: inventory.RiskStandard, RotateBy: now.Add(time.Millisecond), Since: now.Add(time.Millisecond)},
		{Credential: "waits, by name", Risk: inventory.RiskStandard, RotateBy: now, Since: now},
		{Credential: "low", Risk: inventory.RiskLow, RotateBy: now.Add(-time.Hour), Since: now},
		{Credential: "of no known risk", RotateBy: now.Add(-time.Hour), Since: now},
	}
	for i, a := range line {
		for j, b := range line {
			assert.Equal(t, i < j, a.Before(b), "%s before %s", a.Credential, b.Credential)
		}
	}
}
