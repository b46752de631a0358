package policy_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
)

// expose has an incident have declared a key exposed.
func expose(f *policy.Facts, keyID string) {
	f.Metadata.Exposed = map[string]string{keyID: "incident/leak"}
}

// What an incident declared exposed nobody is sent to, whoever asks, and it is enabled for nobody: also when the emergency is over.
func TestNobodyIsSentToAnExposedKey(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		facts   policy.Facts
		exposed key.Ref
		judge   func(policy.Facts) policy.Decision
	}{
		"delivery of the retiring key": {promoted(), retiring, func(f policy.Facts) policy.Decision { return policy.MayDeliver(credential(), f, retiring) }},
		"delivery of CURRENT":          {promoted(), incoming, func(f policy.Facts) policy.Decision { return policy.MayDeliver(credential(), f, incoming) }},
		"delivery of the incoming key": {staged(), incoming, func(f policy.Facts) policy.Decision { return policy.MayDeliver(credential(), f, incoming) }},
		"promotion":                    {staged(), incoming, func(f policy.Facts) policy.Decision { return policy.MayPromote(credential(), f, retiring, incoming) }},
		"promotion at once": {staged(), incoming, func(f policy.Facts) policy.Decision {
			return policy.MayPromoteAtOnce(credential(), f, retiring, incoming)
		}},
		"labels moved back":              {promoted(), retiring, func(f policy.Facts) policy.Decision { return policy.MayRestore(credential(), f, retiring, incoming) }},
		"enabling what keyturn disabled": {disabled(), retiring, func(f policy.Facts) policy.Decision { return policy.MayEnable(credential(), f, retiring) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			assert.True(t, x.judge(x.facts).OK, x.judge(x.facts).Message)
			expose(&x.facts, x.exposed.KeyID)
			assert.Equal(t, policy.KeyExposed, x.judge(x.facts).Reason)
			assert.Contains(t, x.judge(x.facts).Message, "incident/leak")
		})
	}
}

// Who uses an exposed key after it was disabled does not miss it, but misuses it.
func TestNobodyMissesAnExposedKey(t *testing.T) {
	t.Parallel()
	f := disabled()
	f.Keys[0].LastUsedAt = now
	assert.Equal(t, policy.RetiringMissed, policy.Missed(f, retiring).Reason)
	expose(&f, "key-old")
	assert.True(t, policy.Missed(f, retiring).OK)
}

// What takes the place of an exposed key, and which one ends first so that another can be issued.
func TestExpose(t *testing.T) {
	t.Parallel()
	const emergency = "the-emergency"
	others := func(f *policy.Facts) *key.Owned { return &f.Metadata.Keys[len(f.Metadata.Keys)-1] }
	for name, x := range map[string]struct {
		facts         policy.Facts
		change        func(*policy.Facts)
		incoming      string
		frees         string
		currentIsSafe bool
	}{
		"there is no other":                            {before(), func(*policy.Facts) {}, "", "", false},
		"a rotation has minted one":                    {staged(), func(*policy.Facts) {}, "key-new", "", false},
		"a rotation has turned back from it":           {turnedBack(staged()), func(*policy.Facts) {}, "key-new", "", false},
		"it is CURRENT already":                        {promoted(), func(*policy.Facts) {}, "", "", true},
		"its value is in no store any more":            {staged(), func(f *policy.Facts) { f.Versions = f.Versions[:1] }, "", "key-old", false},
		"another rotation left it untested":            {staged(), func(f *policy.Facts) { others(f).VerifiedAt = time.Time{} }, "", "key-old", false},
		"this one has minted it, and not tested":       {staged(), func(f *policy.Facts) { *others(f) = key.Owned{Ref: incoming, Rotation: emergency} }, "", "", false},
		"a rotation has minted one, which is disabled": {staged(), func(f *policy.Facts) { f.Keys[1].State = key.Disabled }, "", "key-old", false},
		"one that nobody had, of a rotation that ended since": {staged(), func(f *policy.Facts) {
			others(f).DeliveredAt, f.Metadata.LastRotation = time.Time{}, &key.LastRotation{ID: rotationID, Outcome: "completed", At: now}
		}, "", "key-old", false},
		"this one has minted it, and nobody could test it now": {staged(), func(f *policy.Facts) {
			others(f).Rotation = emergency
			says("key-new", policy.TestUnknown)(f)
		}, "key-new", "", false},
		"this one has minted one, which is disabled": {staged(), func(f *policy.Facts) { others(f).Rotation, f.Keys[1].State = emergency, key.Disabled }, "", "key-old", false},
		"another incident exposed that one":          {staged(), func(f *policy.Facts) { f.Metadata.Exposed = map[string]string{"key-new": "incident/other"} }, "", "key-old", false},
		"what a mint left has the other slot":        {interrupted([]int{0}, 5), func(f *policy.Facts) { f.Capabilities.Slots = 2 }, "", "", false},
		"so has what it may have left":               {interrupted([]int{0}, -60), func(f *policy.Facts) { f.Capabilities.Slots = 2 }, "", "", false},
		"a lost key has the other slot": {staged(), func(f *policy.Facts) {
			f.Versions, others(f).StoreVersion, others(f).VerifiedAt = f.Versions[:1], "", time.Time{}
		}, "", "", false},
		"a staged key that is not on record": {staged(), func(f *policy.Facts) { f.Metadata.Keys = f.Metadata.Keys[:1] }, "", "", false},
		"an issuer that has no slots":        {staged(), func(f *policy.Facts) { f.Keys[1].State, f.Capabilities.Slots = key.Disabled, 0 }, "", "", false},
		"a stranger has the other slot": {before(), func(f *policy.Facts) {
			f.Keys = append(f.Keys, key.Info{KeyID: "stranger", State: key.Active})
		}, "", "key-old", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := x.facts
			x.change(&f)
			if f.Metadata.Exposed == nil {
				expose(&f, "key-old")
			}
			got := policy.Expose(credential(), f, []string{"key-old"}, emergency)
			assert.Equal(t, !x.currentIsSafe, got.CurrentExposed)
			assert.Equal(t, x.incoming, got.Incoming.KeyID)
			assert.Equal(t, x.frees, got.Frees.KeyID)
		})
	}
}

// Of several, one that consumers have is the last to be destroyed for its slot.
func TestTheKeyInCurrentIsTheLastToFreeASlot(t *testing.T) {
	t.Parallel()
	got := policy.Expose(credential(), staged(), []string{"key-old", "key-new"}, "the-emergency")
	assert.Equal(t, "key-new", got.Frees.KeyID)
	assert.Len(t, got.Alive, 2)
	assert.Empty(t, got.Stored)
	f := staged()
	assert.Equal(t, []string{"key-new"}, policy.Expose(credential(), f, []string{"key-old"}, "the-emergency").Stored)
	f.Versions = f.Versions[:1]
	assert.Empty(t, policy.Expose(credential(), f, []string{"key-old"}, "the-emergency").Stored, "its value is in no store")
}

// disabled are the facts once keyturn has disabled the retiring key.
func disabled() policy.Facts {
	f := promoted()
	f.Keys[0].State, f.Metadata.Keys[0].DisablingAt, f.Metadata.Keys[0].DisabledAt = key.Disabled, now.Add(-time.Hour), now.Add(-time.Hour)
	return f
}

// What an earlier incident declared exposed is nothing to send consumers to, and nothing that this one ends.
func TestAKeyThatAnEarlierIncidentExposed(t *testing.T) {
	t.Parallel()
	f := promoted()
	expose(&f, "key-new")
	got := policy.Expose(credential(), f, []string{"key-old"}, "the-emergency")
	assert.True(t, got.CurrentExposed)
	assert.Empty(t, got.Incoming.KeyID)
	assert.Equal(t, "key-old", got.Frees.KeyID, "no other key is ended for a slot")
	assert.NotContains(t, got.Stored, "key-new")
}

// An exposed CURRENT is no way back, and no reason to end the one other key.
func TestARoutineBesideAnExposedKey(t *testing.T) {
	t.Parallel()
	f := before()
	expose(&f, "key-old")
	plan := policy.Make(spec(credential()), f, noPulls, anyOnly)
	assert.Empty(t, plan.Refusals, "a routine rotation leads away from it")
	assert.False(t, plan.CanRollBack)
	assert.Contains(t, plan.NoWayBack, "exposed, by incident/leak")

	f = staged()
	expose(&f, "key-old")
	f.Keys[1].State = key.Disabled // what consumers have is refused
	plan = policy.Make(spec(credential()), f, noPulls, anyOnly)
	assert.Empty(t, plan.TakeBack, "nobody is sent to the exposed one")
	assert.Empty(t, plan.Discard)
	assert.False(t, policy.MayDiscard(credential(), f, incoming).OK)

	f = promoted()
	assert.True(t, policy.Gather(credential(), f, retiring, incoming).Complete)
	expose(&f, "key-new")
	assert.False(t, policy.MayDisable(credential(), f, retiring, incoming, nil).OK, "it would be all that is left")
	assert.Equal(t, policy.KeyExposed, policy.MayDisable(credential(), f, retiring, incoming, nil).Reason)
	assert.Equal(t, policy.KeyExposed, policy.StillKept(credential(), f, "key-new").Reason)
}
