package policy_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
)

// turnedBack notes of the incoming key that its rotation turned back from it.
func turnedBack(f policy.Facts) policy.Facts {
	for i := range f.Metadata.Keys {
		if f.Metadata.Keys[i].KeyID == "key-new" {
			f.Metadata.Keys[i].TurnedBackAt = now
		}
	}
	return f
}

func TestARotationThatDidNotEndIsGoneOnWith(t *testing.T) {
	t.Parallel()
	owned := func(f *policy.Facts) *key.Owned { return &f.Metadata.Keys[len(f.Metadata.Keys)-1] }
	cases := map[string]struct {
		facts  policy.Facts
		change func(*policy.Facts)
		// part it is gone on with; "" where it is not
		want string
	}{
		"its key is minted, stored and works":            {staged(), func(*policy.Facts) {}, "pending"},
		"some have the key, and nobody else says":        {staged(), func(f *policy.Facts) { owned(f).DeliveredAt = now }, "pending"},
		"its key is CURRENT":                             {promoted(), func(*policy.Facts) {}, "current"},
		"and the retiring one is disabled":               {promoted(), func(f *policy.Facts) { f.Keys[0].State = key.Disabled }, "current"},
		"not when it turned back before it was promoted": {turnedBack(staged()), func(*policy.Facts) {}, ""},
		"but when nothing leads back":                    {turnedBack(staged()), func(f *policy.Facts) { f.Keys = f.Keys[1:] }, "forward"},
		"but when what it leads back to is exposed":      {turnedBack(staged()), func(f *policy.Facts) { expose(f, "key-old") }, "pending"},
		"not with a key that is exposed":                 {staged(), func(f *policy.Facts) { expose(f, "key-new") }, ""},
		"not with a CURRENT that is exposed":             {promoted(), func(f *policy.Facts) { expose(f, "key-new") }, ""},
		"but when it is CURRENT still":                   {turnedBack(promoted()), func(*policy.Facts) {}, "current"},
		"it failed, for want of a way back": {promoted(), func(f *policy.Facts) {
			f.Metadata.LastRotation = &key.LastRotation{ID: owned(f).Rotation, Outcome: key.OutcomeFailed, At: now}
		}, "current"},
		"when it was promoted is not on record":            {promoted(), func(f *policy.Facts) { owned(f).PromotedAt = time.Time{} }, "moved"},
		"not when its end is on record":                    {promoted(), func(f *policy.Facts) { f.Metadata.LastRotation = &key.LastRotation{ID: owned(f).Rotation} }, ""},
		"not when it is of before the last one that ended": {promoted(), func(f *policy.Facts) { f.Metadata.LastRotation = &key.LastRotation{ID: "a later one", At: now} }, ""},
		"an earlier end says nothing of it":                {promoted(), func(f *policy.Facts) { f.Metadata.LastRotation = &key.LastRotation{ID: "an earlier one"} }, "current"},
		"nor an end that came before its mint": {staged(), func(f *policy.Facts) {
			f.Metadata.LastRotation = &key.LastRotation{ID: "an earlier one", At: now.Add(-61 * time.Hour)}
		}, "pending"},
		"nor one between its mint and its promotion": {promoted(), func(f *policy.Facts) {
			f.Metadata.LastRotation = &key.LastRotation{ID: "one in between", Outcome: "rolled-back", At: now.Add(-55 * time.Hour)}
		}, "current"},
		"not when it is kept":                       {promoted(), func(f *policy.Facts) { owned(f).KeptAt = now }, ""},
		"not with a key that nobody saw working":    {staged(), func(f *policy.Facts) { owned(f).VerifiedAt = time.Time{} }, ""},
		"not with a key that is disabled":           {staged(), func(f *policy.Facts) { f.Keys[1].State = key.Disabled }, ""},
		"not with a key that is about to end":       {staged(), func(f *policy.Facts) { f.Keys[1].ExpiresAt = now.Add(time.Minute) }, ""},
		"not with a key whose value is in no store": {staged(), func(f *policy.Facts) { f.Versions = f.Versions[:1] }, ""},
		"not with a key that is PENDING no more":    {staged(), func(f *policy.Facts) { f.Versions[1].Labels = nil }, ""},
		"not when nothing says which of two it is":  {staged(), func(f *policy.Facts) { twice(f, key.Owned{Rotation: "another"}) }, ""},
		"its retiring key is gone already":          {promoted(), func(f *policy.Facts) { f.Keys = f.Keys[1:] }, "record"},
		"nor when two were CURRENT before and none PREVIOUS": {promoted(), func(f *policy.Facts) {
			f.Versions[0].Labels = nil
			twice(f, key.Owned{PromotedAt: now.AddDate(-1, 0, 0)})
		}, ""},
		"but when PREVIOUS says which of two was CURRENT before": {promoted(), func(f *policy.Facts) {
			twice(f, key.Owned{PromotedAt: now.AddDate(-1, 0, 0)})
			f.Keys[0], f.Keys[2] = f.Keys[2], f.Keys[0]
		}, "current"},
		"PREVIOUS is no live key, and one was CURRENT before": {promoted(), func(f *policy.Facts) {
			f.Versions[0].Labels = nil
			f.Versions = append(f.Versions, stored("v0", "", "fp:gone", key.Previous))
		}, "current"},
		"not when beside its key that is CURRENT two were minted": {promoted(), func(f *policy.Facts) {
			twice(f, key.Owned{Rotation: "another"})
			f.Keys = append(f.Keys, key.Info{Principal: "payments-api", KeyID: "key-third", State: key.Active})
			f.Metadata.Keys = append(f.Metadata.Keys, key.Owned{Ref: key.Ref{Principal: "payments-api", KeyID: "key-third"}, Rotation: "a third"})
		}, ""},
		"not when CURRENT went back to a key that is exposed since, and that it did is not on record": {turnedBack(promoted()), func(f *policy.Facts) {
			f.Versions[0].Labels, f.Versions[1].Labels = []key.Label{key.Current}, []key.Label{key.Previous, key.Pending}
			expose(f, "key-old")
		}, ""},
		"a rollback took PENDING from its key, and what it led back to is refused since": {turnedBack(staged()), func(f *policy.Facts) {
			f.Versions[1].Labels = []key.Label{key.Previous}
			says("key-old", policy.TestRefused)(f)
		}, "pending"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.change(&c.facts)
			plan := policy.Make(spec(credential()), c.facts, noPulls, anyOnly)
			if c.want == "" {
				assert.Nil(t, plan.Resume)
				return
			}
			require.NotNil(t, plan.Resume)
			assert.Empty(t, plan.Refusals, "a full slot and instances on the incoming key are its own doing")
			assert.Equal(t, "key-new", plan.Resume.Incoming.KeyID)
			assert.Empty(t, plan.Discard)
			assert.Empty(t, plan.TakeBack)
			assert.Equal(t, c.want == "current" || c.want == "record", plan.Resume.Promoted())
			assert.Equal(t, c.want == "current" || c.want == "record" || c.want == "moved", plan.Resume.IsCurrent())
			if c.want == "record" || c.want == "forward" {
				assert.Nil(t, plan.Retiring)
				return
			}
			assert.Equal(t, "key-old", plan.Retiring.KeyID)
			retiring, _ := c.facts.Live("key-old")
			assert.Equal(t, retiring.State == key.Disabled, plan.Resume.Disabled)
			_, exposed := c.facts.Metadata.Exposed["key-old"]
			assert.Equal(t, !exposed, plan.CanRollBack)
			var said []string
			for _, s := range plan.Steps {
				said = append(said, s.What)
			}
			all := strings.Join(said, "\n")
			assert.Contains(t, all, "go on with rotation "+plan.Resume.Rotation)
			assert.NotContains(t, all, "mint a key")
			assert.Equal(t, c.want == "pending", strings.Contains(all, "move CURRENT"), all)
			assert.Equal(t, c.want != "current", strings.Contains(all, "deliver to"), all)
			assert.Contains(t, all, "destroy key-old")
		})
	}
}

// A first key that consumers have is gone on with, whatever mint followed it: none of its labels is left, and an end of the follower is
// on record.
func TestAFirstKeyThatConsumersHaveIsGoneOnWith(t *testing.T) {
	t.Parallel()
	alone := func() policy.Facts {
		f := staged()
		f.Keys, f.Versions, f.Metadata.Keys = f.Keys[1:], f.Versions[1:], f.Metadata.Keys[1:]
		f.Versions[0].Labels = nil
		f.Metadata.LastRotation = &key.LastRotation{ID: "the follower", Outcome: "rolled-back", At: now}
		return f
	}
	follower := func(f *policy.Facts, of key.Owned) {
		of.Rotation, of.VerifiedAt, of.IssuedAt = "the follower", now, now
		twice(f, of)
		f.Versions = append(f.Versions, stored("v3", "key-other", "fp:other", key.Pending))
	}
	for name, c := range map[string]struct {
		change    func(*policy.Facts)
		goesOn    bool
		discarded int
	}{
		"when its follower was turned back from":          {func(*policy.Facts) {}, true, 0},
		"when its follower was given to nobody":           {func(f *policy.Facts) { follower(f, key.Owned{}) }, true, 1},
		"not when its follower was given to somebody":     {func(f *policy.Facts) { follower(f, key.Owned{DeliveredAt: now}) }, false, 0},
		"not when it was given to nobody itself":          {func(f *policy.Facts) { f.Metadata.Keys[0].DeliveredAt = time.Time{} }, false, 1},
		"not when it is refused, but then it is followed": {func(f *policy.Facts) { f.Keys[0].State = key.Disabled }, false, 0},
		"not when it is exposed":                          {func(f *policy.Facts) { expose(f, "key-new") }, false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := alone()
			c.change(&f)
			plan := policy.Make(spec(credential()), f, noPulls, anyOnly)
			assert.Len(t, plan.Discard, c.discarded)
			if !c.goesOn {
				assert.Nil(t, plan.Resume)
				if f.Metadata.Exposed["key-new"] != "" {
					require.Len(t, plan.Refusals, 1)
					assert.Equal(t, policy.KeyExposed, plan.Refusals[0].Reason)
				}
				return
			}
			require.NotNil(t, plan.Resume)
			assert.Equal(t, "key-new", plan.Resume.Incoming.KeyID)
			assert.Empty(t, plan.Refusals)
			f.Instances = fleet("fp:new")
			assert.True(t, policy.MayPromote(credential(), f, key.Ref{}, incoming).OK)
		})
	}
}

// Of two first keys that both came to consumers a person chooses one: a refusal says what is true, what to do, and with which command.
func TestOfTwoFirstKeysAPersonChooses(t *testing.T) {
	t.Parallel()
	both := func() policy.Facts {
		f := staged()
		f.Keys, f.Versions, f.Metadata.Keys = f.Keys[1:], f.Versions[1:], f.Metadata.Keys[1:]
		f.Versions[0].Labels = nil
		f.Metadata.LastRotation = &key.LastRotation{ID: "the follower", Outcome: "rolled-back", At: now}
		twice(&f, key.Owned{Rotation: "the follower", VerifiedAt: now, IssuedAt: now, DeliveredAt: now})
		f.Versions = append(f.Versions, stored("v3", "key-other", "fp:other", key.Pending))
		f.Capabilities.Slots = 2
		f.Instances[1].Statement.Keys = []string{"fp:other"}
		return f
	}
	f := both()
	plan := policy.Make(spec(credential()), f, noPulls, anyOnly)
	require.Len(t, plan.Refusals, 1)
	assert.Equal(t, policy.UnfinishedRotation, plan.Refusals[0].Reason)
	assert.Equal(t, "rotations that did not end brought consumers to keys key-new and key-other, and none of them was ever CURRENT, so that nothing says which one is to be kept: "+
		"checkout-canary, checkout/b use key key-new; checkout/a uses key key-other. All of them are left as they are. "+
		"Choose one, let every consumer load it, and destroy the others at the issuer; then keyturn rotate payments-api goes on with it", plan.Refusals[0].Message)
	assert.Empty(t, plan.Discard)
	for _, s := range plan.Steps {
		assert.NotContains(t, s.What, "destroy key")
	}
	f.Instances = fleet("fp:new")
	assert.Contains(t, policy.Make(spec(credential()), f, noPulls, anyOnly).Refusals[0].Message, "; no consumer is seen to use key key-other. ")

	f = both()
	f.Keys[0].State, f.Keys[1].State, f.Capabilities.Slots = key.Disabled, key.Disabled, 3
	assert.Empty(t, policy.Make(spec(credential()), f, noPulls, anyOnly).Refusals, "two that are both refused are followed by a third")
	f = both()
	f.Keys = append([]key.Info{{Principal: "payments-api", KeyID: "key-old", State: key.Active}}, f.Keys...)
	f.Versions, f.Capabilities.Slots = append(f.Versions, stored("v1", "key-old", "fp:old", key.Current)), 4
	expose(&f, "key-old")
	f.Instances = nil
	var told []policy.Reason
	for _, d := range policy.Make(spec(credential()), f, noPulls, anyOnly).Refusals {
		told = append(told, d.Reason)
	}
	assert.Equal(t, []policy.Reason{policy.KeyExposed, policy.KeyExposed}, told, "beside an exposed CURRENT an emergency comes first")

	for i, chosen := range []string{"key-new", "key-other"} {
		f := both()
		f.Keys, f.Instances = f.Keys[i:i+1], fleet([]string{"fp:new", "fp:other"}[i])
		f.Versions[1-i].KeyID = ""
		plan := policy.Make(spec(credential()), f, noPulls, anyOnly)
		assert.Empty(t, plan.Refusals)
		require.NotNil(t, plan.Resume)
		assert.Equal(t, chosen, plan.Resume.Incoming.KeyID)
	}
}

// twice adds another live key of ours.
func twice(f *policy.Facts, of key.Owned) {
	of.Ref = key.Ref{Principal: "payments-api", KeyID: "key-other"}
	f.Capabilities.Slots = 3
	f.Keys = append(f.Keys, key.Info{Principal: "payments-api", KeyID: "key-other", State: key.Active})
	f.Metadata.Keys = append(f.Metadata.Keys, of)
}
