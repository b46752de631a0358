package policy_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
)

// interrupted are the facts of a credential of which mints were interrupted: intents and keys are told by their seconds after now,
// and the list is late enough for all of them.
func interrupted(intents []int, keys ...int) policy.Facts {
	f := before()
	f.Capabilities.Slots, f.Capabilities.ConsistentWithin = 0, 10*time.Second
	f.At, f.LookedFor = now.Add(10*time.Minute), time.Second
	for n, s := range intents {
		f.Metadata.Intents = append(f.Metadata.Intents, key.Intent{
			Rotation: rotationID, Ordinal: n + 1, At: now.Add(time.Duration(s) * time.Second), Within: policy.MintWithin, Known: []string{"key-old"},
		})
	}
	for n, s := range keys {
		f.Keys = append(f.Keys, key.Info{
			Principal: "payments-api", KeyID: "key-" + string(rune('a'+n)), State: key.Active, CreatedAt: now.Add(time.Duration(s) * time.Second),
		})
	}
	return f
}

// of makes the intents those of mints for a principal.
func of(principal string, f policy.Facts) policy.Facts {
	for n := range f.Metadata.Intents {
		f.Metadata.Intents[n].Principal = principal
	}
	return f
}

func TestWhatInterruptedMintsLeft(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		facts   policy.Facts
		orphans []string
		unclear []policy.Reason
	}{
		"a mint that made nothing leaves nothing":                      {interrupted([]int{0}), nil, nil},
		"a mint that made one leaves it":                               {interrupted([]int{0}, 5), []string{"key-a"}, nil},
		"a mint for the key's principal leaves it":                     {of("payments-api", interrupted([]int{0}, 5)), []string{"key-a"}, nil},
		"a mint for another principal did not make it":                 {of("payments-batch", interrupted([]int{0}, 5)), nil, nil},
		"two mints in a row that made one each leave both":             {interrupted([]int{0, 30}, 1, 31), []string{"key-a", "key-b"}, nil},
		"a key that either of two may have made is theirs":             {interrupted([]int{0, 30}, 50), []string{"key-a"}, nil},
		"two keys within the time of one mint are ambiguous":           {interrupted([]int{0}, 5, 6), []string{"key-a", "key-b"}, []policy.Reason{policy.AmbiguousOrphan}},
		"a mint of another time does not speak for the second of them": {interrupted([]int{0, 300}, 5, 6), []string{"key-a", "key-b"}, []policy.Reason{policy.AmbiguousOrphan}},
		"three keys of two mints are ambiguous":                        {interrupted([]int{0, 30}, 5, 40, 41), []string{"key-a", "key-b", "key-c"}, []policy.Reason{policy.AmbiguousOrphan}},
		"each of three has a mint, in whatever order they are found":   {interrupted([]int{0, 30, 80}, 35, 70, 85), []string{"key-a", "key-b", "key-c"}, nil},
		"a key made later is somebody else's":                          {interrupted([]int{0}, 5, 120), []string{"key-a"}, nil},
		"a key made before, which was not there, cannot be placed":     {interrupted([]int{0}, -60), nil, []policy.Reason{policy.OrphanUnplaced}},
		"a key made in the future cannot be placed":                    {interrupted([]int{0}, 3600), nil, []policy.Reason{policy.OrphanUnplaced}},
		"what cannot be placed beside one mint may be another's": {
			interrupted([]int{0, 30}, 5), []string{"key-a"}, nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, c.orphans, c.facts.Orphans(nil))
			var reasons []policy.Reason
			for _, d := range policy.Unclear(c.facts, nil) {
				reasons = append(reasons, d.Reason)
			}
			assert.Equal(t, c.unclear, reasons)
		})
	}
	t.Run("with a key that is being destroyed, another may be the mint's as well", func(t *testing.T) {
		t.Parallel()
		f := interrupted([]int{0}, 5, 6)
		f.Metadata.Keys = append(f.Metadata.Keys, key.Owned{Ref: key.Ref{KeyID: "key-a"}, Rotation: rotationID})
		require.Len(t, policy.Unclear(f, nil), 1)
	})
	t.Run("a key that a person disabled holds nobody", func(t *testing.T) {
		t.Parallel()
		f := interrupted([]int{0}, -60)
		f.Keys[1].State = key.Disabled
		assert.Empty(t, policy.Unclear(f, nil))
	})
	t.Run("what cannot be told says which key, which mint and what to do", func(t *testing.T) {
		t.Parallel()
		d := policy.Unclear(interrupted([]int{0}, -60), nil)[0]
		for _, want := range []string{"key-a", rotationID, "2026-03-01T12:00:00Z", "2026-03-01T11:59:00Z", "destroy it at the issuer if nobody made it by hand", "adopt"} {
			assert.Contains(t, d.Message, want)
		}
	})
}

func TestWhenAMintIntentIsResolved(t *testing.T) {
	t.Parallel()
	left := func(f policy.Facts, resolved []key.Intent) (ordinals []int) {
		for _, i := range f.Metadata.Intents {
			for _, done := range resolved {
				if i.Is(done) {
					ordinals = append(ordinals, i.Ordinal)
				}
			}
		}
		return ordinals
	}
	for name, c := range map[string]struct {
		facts    policy.Facts
		change   func(*policy.Facts)
		byList   []int
		withKeyA []int
	}{
		"by a late list that shows nothing of it": {interrupted([]int{0}), nil, []int{1}, nil},
		"not by a list that was taken before its call was over": {interrupted([]int{0}), func(f *policy.Facts) {
			f.At = now.Add(65 * time.Second)
		}, nil, nil},
		"nor before the issuer had time to show it": {interrupted([]int{0}), func(f *policy.Facts) {
			f.At = now.Add(71 * time.Second)
		}, nil, nil},
		"nor while its key is listed, but with that":         {interrupted([]int{0}, 5), nil, nil, []int{1}},
		"nor while a key is listed that may be of it":        {interrupted([]int{0}, -60), nil, nil, nil},
		"of two only the one whose key it is":                {interrupted([]int{0, 300}, 5), nil, []int{2}, []int{1}},
		"none of two that may both have made it":             {interrupted([]int{0, 30}, 50), nil, nil, nil},
		"by a late list that shows a key that somebody uses": {interrupted([]int{0}, 5), func(f *policy.Facts) { f.Keys[1].LastUsedAt = f.At }, []int{1}, []int{1}},
		"not again with a key that was recorded": {interrupted([]int{0}, 5), func(f *policy.Facts) {
			f.Metadata.Keys = append(f.Metadata.Keys, key.Owned{Ref: key.Ref{KeyID: "key-a", StoreVersion: "v2"}, Rotation: rotationID})
		}, []int{1}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if c.change != nil {
				c.change(&c.facts)
			}
			assert.Equal(t, c.byList, left(c.facts, policy.Resolved(c.facts, nil)))
			assert.Equal(t, c.withKeyA, left(c.facts, policy.ResolvedWith(c.facts, "key-a")))
		})
	}
}

// With a token, too, the value of a lost key was told to nobody.
func TestAnOrphanThatWasUsedIsNotDestroyed(t *testing.T) {
	t.Parallel()
	for name, token := range map[string]string{"with the token of its mint": policy.Token(rotationID, 1), "without tokens": ""} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := interrupted([]int{0}, 5)
			f.Capabilities.UsageLag = 0
			f.Keys[1].Token = token
			assert.True(t, policy.MayDestroyOrphan(f, nil, f.Ref(f.Keys[1])).OK)
			f.Keys[1].LastUsedAt = f.At
			d := policy.MayDestroyOrphan(f, nil, f.Ref(f.Keys[1]))
			assert.Equal(t, policy.OrphanInUse, d.Reason, d.Message)
			assert.Empty(t, f.Orphans(nil))
		})
	}
}

func TestAMintWaitsForThatOfAnotherRun(t *testing.T) {
	t.Parallel()
	m := interrupted([]int{0, 30}).Metadata
	m.Intents[0].Run, m.Intents[1].Run = "theirs", "mine"
	assert.Equal(t, 20*time.Second, policy.OthersMintFor(m, "mine", now.Add(40*time.Second)))
	assert.Zero(t, policy.OthersMintFor(m, "mine", now.Add(time.Minute)))
	assert.Equal(t, 50*time.Second, policy.OthersMintFor(m, "next", now.Add(40*time.Second)))
}
