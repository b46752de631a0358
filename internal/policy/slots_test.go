package policy_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
)

func TestThePlanNamesWhichKeyTakesTheSlot(t *testing.T) {
	t.Parallel()
	other := func(id string, state key.State, used time.Time) key.Info {
		return key.Info{KeyID: id, State: state, CreatedAt: time.Date(2024, 5, 6, 0, 0, 0, 0, time.UTC), LastUsedAt: used}
	}
	used := time.Date(2025, 1, 2, 0, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		change func(*policy.Facts)
		says   []string
	}{
		"one that is left over, with the command that ends it": {func(f *policy.Facts) {
			f.Keys = append(f.Keys, other("key-older", key.Disabled, used))
			f.Metadata.Keys = append(f.Metadata.Keys, key.Owned{Ref: key.Ref{KeyID: "key-older"}, Rotation: "r", PromotedAt: now})
		}, []string{"key-older (retired, disabled, created 2024-05-06, last used 2025-01-02)", "keyturn retire payments-api --key key-older"}},
		"an inactive one of somebody else counts, and may go": {func(f *policy.Facts) { f.Keys = append(f.Keys, other("key-x", key.Disabled, time.Time{})) },
			[]string{"has 2", "key-x (unknown, disabled, created 2024-05-06, no use recorded)", "key-x is not the current key, and no consumer states it"}},
		"an active one of somebody else, used long ago": {func(f *policy.Facts) { f.Keys = append(f.Keys, other("key-x", key.Active, used)) },
			[]string{"key-x (unknown, active, created 2024-05-06, last used 2025-01-02)", "once you know that nobody uses it, destroy it at the issuer"}},
		"of several the inactive one, and of those the one used longest ago": {func(f *policy.Facts) {
			f.Capabilities.Slots = 4
			f.Keys = append(f.Keys, other("key-x", key.Active, time.Time{}), other("key-y", key.Disabled, used.Add(time.Hour)), other("key-z", key.Disabled, used))
		}, []string{"has 4", "key-z is not the current key"}},
		"none that a consumer uses": {func(f *policy.Facts) {
			f.Keys = append(f.Keys, other("key-x", key.Active, used))
			f.Instances[1].Statement.Keys = []string{"key-x"}
		}, []string{"each is in use: take whoever is not on the current key to it"}},
		"where the issuer tells of no use": {func(f *policy.Facts) {
			f.Capabilities.ReportsUsage = false
			f.Keys = append(f.Keys, other("key-x", key.Disabled, time.Time{}))
		}, []string{"key-x (unknown, disabled, created 2024-05-06, its use is not reported)"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := before()
			c.change(&f)
			said := ""
			for _, refusal := range policy.Make(spec(credential()), f, noPulls, anyOnly).Refusals {
				if refusal.Reason == policy.SlotsFull {
					said = refusal.Message
				}
			}
			require.NotEmpty(t, said)
			for _, part := range c.says {
				assert.Contains(t, said, part)
			}
		})
	}
}

func TestThePlanSaysWhoMayReadAKeyBeforeItIsTested(t *testing.T) {
	t.Parallel()
	f := before()
	warned := func() []string { return policy.Make(spec(credential()), f, noPulls, anyOnly).Warnings }
	assert.NotContains(t, warned(), "checkout-canary may read the incoming key as soon as it is staged, before it is tested: whoever reads PENDING must keep the key in use while that one is refused")
	for i := range f.Instances {
		f.Instances[i].Pulls = true
	}
	require.Equal(t, inventory.CanaryWave, f.Instances[0].Wave)
	assert.Contains(t, warned(), "checkout-canary may read the incoming key as soon as it is staged, before it is tested: whoever reads PENDING must keep the key in use while that one is refused",
		"and nobody who reads CURRENT")
}
