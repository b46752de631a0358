package policy_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
)

func TestMayTurnBack(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(f *policy.Facts, retiring *key.Ref)
		want   policy.Reason
	}{
		"while the retiring key is active": {func(*policy.Facts, *key.Ref) {}, policy.Allowed},
		"while keyturn has disabled it, since it enables it": {func(f *policy.Facts, _ *key.Ref) {
			f.Keys[0].State = key.Disabled
			f.Metadata.Keys[0].DisablingAt = now
		}, policy.Allowed},
		"not while somebody else has disabled it": {func(f *policy.Facts, _ *key.Ref) { f.Keys[0].State = key.Disabled }, policy.RetiringKeyNotLive},
		"not when it is gone":                     {func(f *policy.Facts, _ *key.Ref) { f.Keys = f.Keys[1:] }, policy.RetiringGone},
		"not when it has ended":                   {func(f *policy.Facts, _ *key.Ref) { f.Keys[0].ExpiresAt = now }, policy.RetiringGone},
		"not when it ends soon":                   {func(f *policy.Facts, _ *key.Ref) { f.Keys[0].ExpiresAt = now.Add(time.Minute) }, policy.RetiringKeyNotLive},
		"not to one that keyturn disabled and that ends soon": {func(f *policy.Facts, _ *key.Ref) {
			f.Keys[0].State, f.Keys[0].ExpiresAt, f.Metadata.Keys[0].DisablingAt = key.Disabled, now.Add(time.Minute), now
		}, policy.RetiringKeyNotLive},
		"not when its value is in no store":      {func(_ *policy.Facts, r *key.Ref) { r.StoreVersion = "" }, policy.RetiringKeyNotLive},
		"not when the rotation ended long since": {func(f *policy.Facts, _ *key.Ref) { f.Metadata.Keys[1].KeptAt = now }, policy.WayBackOver},
		"not to one that is exposed":             {func(f *policy.Facts, _ *key.Ref) { expose(f, "key-old") }, policy.KeyExposed},
		"whatever nobody could test": {func(f *policy.Facts, _ *key.Ref) {
			f.Tests = map[string]policy.Test{"key-old": {Result: policy.TestUnknown}}
		}, policy.Allowed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := promoted()
			from := f.Named(retiring)
			c.change(&f, &from)
			assert.Equal(t, c.want, policy.MayTurnBack(credential(), f, from, incoming).Reason)
		})
	}
}
