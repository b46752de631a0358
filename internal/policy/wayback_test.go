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
		"not to one that is being disabled, and that a test refuses": {func(f *policy.Facts, _ *key.Ref) {
			f.Metadata.Keys[0].DisablingAt = now
			says("key-old", policy.TestRefused)(f)
		}, policy.RetiringKeyNotLive},
		"not to one that is not ours any more": {func(f *policy.Facts, _ *key.Ref) {
			f.Versions, f.Metadata.Keys = f.Versions[1:], f.Metadata.Keys[1:]
		}, policy.RetiringKeyNotLive},
		"not to one that is exposed": {func(f *policy.Facts, _ *key.Ref) { expose(f, "key-old") }, policy.KeyExposed},
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

func TestMayRestore(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*policy.Facts)
		want   policy.Reason
	}{
		"to the key that was CURRENT before":          {func(*policy.Facts) {}, policy.Allowed},
		"to one that was imported, whenever that was": {func(f *policy.Facts) { f.Metadata.Keys[0].Rotation, f.Metadata.Keys[0].PromotedAt = "", time.Time{} }, policy.Allowed},
		"not to one that was promoted later":          {func(f *policy.Facts) { f.Metadata.Keys[0].PromotedAt = now }, policy.CurrentMoved},
		"nor at the same time":                        {func(f *policy.Facts) { f.Metadata.Keys[0].PromotedAt = f.Metadata.Keys[1].PromotedAt }, policy.CurrentMoved},
		"not from one that no rotation minted":        {func(f *policy.Facts) { f.Metadata.Keys[1].Rotation = "" }, policy.NotOurs},
		"nor from one that is kept, wherever CURRENT is": {func(f *policy.Facts) {
			f.Versions[0].Labels, f.Versions[1].Labels = f.Versions[1].Labels, f.Versions[0].Labels
			f.Metadata.Keys[1].KeptAt = now
		}, policy.WayBackOver},
		"not to one that a test refuses": {says("key-old", policy.TestRefused), policy.IncomingNotLive},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := promoted()
			c.change(&f)
			d := policy.MayRestore(credential(), f, retiring, incoming)
			assert.Equal(t, c.want, d.Reason, d.Message)
		})
	}
}

func TestWhenNothingLeadsBackFromCurrent(t *testing.T) {
	t.Parallel()
	f := promoted()
	assert.True(t, policy.Kept(credential(), f), "the overlap is over")
	f.Metadata.Keys[1].PromotedAt = now.Add(-47 * time.Hour)
	assert.False(t, policy.Kept(credential(), f))
	f.Keys, f.Versions, f.Metadata.Keys = f.Keys[1:], f.Versions[1:], f.Metadata.Keys[1:]
	assert.True(t, policy.Kept(credential(), f), "no earlier key is left")
	f.Metadata.Keys[0].PromotedAt = time.Time{}
	assert.False(t, policy.Kept(credential(), f), "when it was promoted is not on record")
	f.Metadata.Keys = nil
	assert.False(t, policy.Kept(credential(), f), "it is not ours")
}

func TestAnOverlapEndsBeforeTheFirstKeyThatDoes(t *testing.T) {
	t.Parallel()
	c, until := credential(), now.Add(48*time.Hour)
	assert.Equal(t, until, policy.OverlapEnds(c, until, time.Time{}, now.Add(100*time.Hour)))
	assert.Equal(t, now.Add(9*time.Hour), policy.OverlapEnds(c, until, now.Add(20*time.Hour), now.Add(10*time.Hour), now.Add(30*time.Hour)))
}
