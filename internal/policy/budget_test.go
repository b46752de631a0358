package policy_test

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"pgregory.net/rapid"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
)

func TestBudgetHolds(t *testing.T) {
	t.Parallel()
	budget := inventory.ErrorBudget{Ratio: 0.01, Window: inventory.Duration(5 * time.Minute), MinTotal: 50}
	read := func(errors, total float64, after time.Duration) key.Sample {
		return key.Sample{Errors: errors, Total: total, At: now.Add(after)}
	}
	over := func(errors, total float64) key.Sample {
		return key.Sample{Errors: errors, Total: total, At: now, Window: 5 * time.Minute}
	}
	cases := map[string]struct {
		signals []policy.Readings
		want    policy.Reason
	}{
		"no reading is no data":                             {nil, policy.BudgetNoData},
		"a baseline alone is no data":                       {[]policy.Readings{{read(90, 100, 0)}}, policy.BudgetNoData},
		"errors before the baseline do not count":           {[]policy.Readings{{read(90, 100, 0), read(90, 300, time.Minute)}}, policy.Allowed},
		"errors since the baseline do":                      {[]policy.Readings{{read(0, 100, 0), read(3, 300, time.Minute)}}, policy.BudgetBreached},
		"at the ratio the budget holds":                     {[]policy.Readings{{read(0, 0, 0), read(1, 100, time.Minute)}}, policy.Allowed},
		"too little traffic says nothing":                   {[]policy.Readings{{read(0, 0, 0), read(49, 49, time.Minute)}}, policy.BudgetTooLittle},
		"signals are added up":                              {[]policy.Readings{{read(0, 0, 0), read(2, 40, time.Minute)}, {read(0, 0, 0), read(0, 40, time.Minute)}}, policy.BudgetBreached},
		"a source that counts its window needs no baseline": {[]policy.Readings{{over(30, 1000)}}, policy.BudgetBreached},
		"a counter that restarted counts from zero":         {[]policy.Readings{{read(0, 1000, 0), read(0, 20, time.Minute), read(5, 80, 2*time.Minute)}}, policy.BudgetBreached},
		"one signal without data does not hide the other":   {[]policy.Readings{nil, {read(0, 0, 0), read(50, 100, time.Minute)}}, policy.BudgetBreached},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := policy.BudgetHolds(budget, c.signals)
			assert.Equal(t, c.want, d.Reason, d.Message)
		})
	}
}

// However long a watch lasts, its readings stay few, the last is kept, and one reaches back to the begin
// of the window.
func TestReadingsAreBounded(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		window := time.Duration(rapid.IntRange(1, 3600).Draw(t, "window")) * time.Second
		var r policy.Readings
		at, total := now, 0.0
		for range rapid.IntRange(1, 300).Draw(t, "samples") {
			at = at.Add(time.Duration(rapid.IntRange(1, 60).Draw(t, "gap")) * time.Second)
			total += float64(rapid.IntRange(0, 100).Draw(t, "traffic"))
			r = r.Add(key.Sample{Total: total, At: at}, window)
		}
		assert.LessOrEqual(t, len(r), 60)
		assert.InDelta(t, total, r[len(r)-1].Total, 0)
		if len(r) > 1 && r[0].At.Before(at.Add(-window)) {
			assert.True(t, len(r) == 2 || r[1].At.After(at.Add(-window)) || len(r) >= 59, "no more than one reading is older than the window")
		}
	})
}

func TestASignalThatFellSilentSaysNothingOfNow(t *testing.T) {
	t.Parallel()
	r := policy.Readings{{Total: 1, At: now}, {Total: 2, At: now.Add(time.Minute)}}
	assert.Equal(t, r, r.Since(now.Add(time.Minute)))
	assert.Empty(t, r.Since(now.Add(time.Minute+1)))
	assert.Empty(t, policy.Readings(nil).Since(now))
}

func TestBothKeysAreAccepted(t *testing.T) {
	t.Parallel()
	at := func(f *policy.Facts, keyID string) *key.Info {
		return &f.Keys[slices.IndexFunc(f.Keys, func(k key.Info) bool { return k.KeyID == keyID })]
	}
	without := func(f *policy.Facts, keyID string) {
		f.Keys = slices.DeleteFunc(f.Keys, func(k key.Info) bool { return k.KeyID == keyID })
	}
	record := func(f *policy.Facts, change func(*key.Owned)) {
		mine := key.Owned{Ref: retiring}
		change(&mine)
		f.Metadata.Keys = append(slices.DeleteFunc(f.Metadata.Keys, func(k key.Owned) bool { return k.KeyID == retiring.KeyID }), mine)
	}
	for name, c := range map[string]struct {
		change func(*policy.Facts)
		want   policy.Reason
	}{
		"both are active":                         {func(*policy.Facts) {}, policy.Allowed},
		"both end later":                          {func(f *policy.Facts) { at(f, "key-old").ExpiresAt = now.Add(time.Hour) }, policy.Allowed},
		"the incoming one is not listed":          {func(f *policy.Facts) { without(f, "key-new") }, policy.IncomingNotLive},
		"the incoming one is disabled":            {func(f *policy.Facts) { at(f, "key-new").State = key.Disabled }, policy.IncomingNotLive},
		"the incoming one has ended":              {func(f *policy.Facts) { at(f, "key-new").ExpiresAt = f.At }, policy.IncomingNotLive},
		"somebody disabled the retiring one":      {func(f *policy.Facts) { at(f, "key-old").State = key.Disabled }, policy.RetiringKeyDisabled},
		"the retiring one has ended":              {func(f *policy.Facts) { at(f, "key-old").ExpiresAt = f.At }, policy.RetiringGone},
		"the retiring one is disabled, and ended": {func(f *policy.Facts) { at(f, "key-old").State, at(f, "key-old").ExpiresAt = key.Disabled, f.At }, policy.RetiringGone},
		"somebody destroyed the retiring one":     {func(f *policy.Facts) { record(f, func(*key.Owned) {}); without(f, "key-old") }, policy.RetiringGone},
		"or before there was a record of it":      {func(f *policy.Facts) { f.Metadata.Keys = nil; without(f, "key-old") }, policy.RetiringGone},
		"keyturn destroyed the retiring one": {func(f *policy.Facts) {
			f.Metadata.Keys = []key.Owned{{Ref: incoming, PromotedAt: now}}
			without(f, "key-old")
		}, policy.Allowed},
		"keyturn is disabling the retiring one": {func(f *policy.Facts) {
			record(f, func(k *key.Owned) { k.DisablingAt = now })
			at(f, "key-old").State = key.Disabled
		}, policy.Allowed},
		"keyturn has disabled it, and it is gone": {func(f *policy.Facts) {
			record(f, func(k *key.Owned) { k.DisabledAt = now })
			without(f, "key-old")
		}, policy.Allowed},
		"the incoming one ends while the other is": {func(f *policy.Facts) { without(f, "key-new"); without(f, "key-old") }, policy.IncomingNotLive},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := staged()
			c.change(&f)
			d := policy.BothAccepted(credential(), f, retiring, incoming)
			assert.Equal(t, c.want, d.Reason, d.Message)
		})
	}
	t.Run("a key that is not named is not judged", func(t *testing.T) {
		t.Parallel()
		assert.True(t, policy.BothAccepted(credential(), policy.Facts{At: now}, key.Ref{}, key.Ref{}).OK)
	})
}
