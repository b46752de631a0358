package policy_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
)

func TestMayPrune(t *testing.T) {
	t.Parallel()
	pulls := func(f *policy.Facts) { f.Instances[0].Pulls, f.Instances[0].Wave = true, inventory.CanaryWave }
	for name, c := range map[string]struct {
		facts   policy.Facts
		change  func(*policy.Facts)
		version string
		want    policy.Reason
	}{
		"a version that is gone":                         {staged(), nil, "v9", policy.Allowed},
		"what CURRENT is, never":                         {promoted(), nil, "v2", policy.CurrentMoved},
		"that of an unwanted key":                        {staged(), nil, "v2", policy.Allowed},
		"that of a dead key":                             {promoted(), func(f *policy.Facts) { f.Versions[0].KeyID = "" }, "v1", policy.Allowed},
		"not that of the way back":                       {promoted(), nil, "v1", policy.NotOurs},
		"PENDING that somebody reads":                    {staged(), pulls, "v2", policy.Allowed},
		"PENDING that nobody reads, whatever CURRENT is": {staged(), func(f *policy.Facts) { f.Keys[0].State = key.Disabled }, "v2", policy.Allowed},
		"not when CURRENT is disabled":                   {staged(), func(f *policy.Facts) { pulls(f); f.Keys[0].State = key.Disabled }, "v2", policy.RetiringKeyNotLive},
		"not when CURRENT is refused": {staged(), func(f *policy.Facts) {
			pulls(f)
			f.Tests = map[string]policy.Test{"key-old": {Result: policy.TestRefused}}
		}, "v2", policy.RetiringKeyNotLive},
		"not while nobody could test CURRENT": {staged(), func(f *policy.Facts) {
			pulls(f)
			f.Tests = map[string]policy.Test{"key-old": {Result: policy.TestUnknown}}
		}, "v2", policy.KeyNotTested},
		"not when there is nothing to go back to": {staged(), func(f *policy.Facts) { pulls(f); f.Versions, f.Keys = f.Versions[1:], f.Keys[1:] }, "v2", policy.NothingKept},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if c.change != nil {
				c.change(&c.facts)
			}
			d := policy.MayPrune(credential(), c.facts, c.version)
			assert.Equal(t, c.want, d.Reason, d.Message)
		})
	}
}
