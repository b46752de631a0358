package policy_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
)

func TestWhatIsOneIsSaidAsOne(t *testing.T) {
	t.Parallel()
	for slots, says := range map[int]string{1: "the one key slot of the principal is taken: ", 2: "all 2 key slots of the principal are taken: "} {
		f := policy.Facts{At: now, Keys: []key.Info{{KeyID: "a"}, {KeyID: "b"}}}
		f.Capabilities.Slots = slots
		d := policy.MayImport(credential(), f, policy.Importing{Key: key.Ref{KeyID: "key-mine"}, CanImport: true})
		assert.Equal(t, policy.SlotsFull, d.Reason)
		assert.Contains(t, d.Message, says)
	}
	assert.Contains(t, policy.JudgedUse{Use: key.Use{KeyID: "k", First: now, Last: now, Count: 1}}.String(), ", 1 time, ")
	assert.Contains(t, policy.JudgedUse{Use: key.Use{KeyID: "k", First: now, Last: now, Count: 2}}.String(), ", 2 times, ")
}

func TestMayImport(t *testing.T) {
	t.Parallel()
	brought := key.Ref{KeyID: "key-mine", Fingerprint: "fp-mine"}
	attests := func(name string, keys ...string) policy.Instance {
		return policy.Instance{Consumer: name, Instance: name, Statement: &key.Statement{Instance: name, Keys: keys}}
	}
	atIssuer := func(f *policy.Facts, in *policy.Importing) {
		in.Known = true
		f.Keys = []key.Info{{KeyID: "key-mine", State: key.Active}}
	}
	for name, c := range map[string]struct {
		change func(*policy.Facts, *policy.Importing)
		want   policy.Reason
	}{
		"a key that the issuer takes":         {nil, policy.Allowed},
		"a key that the issuer has":           {atIssuer, policy.Allowed},
		"one that it has, and would not take": {func(f *policy.Facts, in *policy.Importing) { atIssuer(f, in); in.CanImport = false }, policy.Allowed},
		"one that has a slot, though all are taken": {func(f *policy.Facts, in *policy.Importing) {
			atIssuer(f, in)
			f.Keys = append(f.Keys, key.Info{KeyID: "b"})
		}, policy.Allowed},
		"one at an issuer without slots":        {func(f *policy.Facts, _ *policy.Importing) { f.Capabilities.Slots, f.Keys = 0, []key.Info{{KeyID: "a"}} }, policy.Allowed},
		"one that it has not and does not take": {func(_ *policy.Facts, in *policy.Importing) { in.CanImport = false }, policy.NotAtIssuer},
		"one whose ID is another key's":         {func(f *policy.Facts, in *policy.Importing) { atIssuer(f, in); in.Known = false }, policy.NotAtIssuer},
		"one that is disabled":                  {func(f *policy.Facts, in *policy.Importing) { atIssuer(f, in); f.Keys[0].State = key.Disabled }, policy.RetiringKeyDisabled},
		"one that is exposed": {func(f *policy.Facts, _ *policy.Importing) {
			f.Metadata.Exposed = map[string]string{"key-mine": "incident/x"}
		}, policy.KeyExposed},
		"one beyond the slots":   {func(f *policy.Facts, _ *policy.Importing) { f.Keys = []key.Info{{KeyID: "a"}, {KeyID: "b"}} }, policy.SlotsFull},
		"beside another CURRENT": {func(f *policy.Facts, _ *policy.Importing) { f.Versions = labelled("v1", key.Current) }, policy.CurrentIsAnother},
		"beside another PENDING": {func(f *policy.Facts, _ *policy.Importing) { f.Versions = labelled("v1", key.Pending) }, policy.UnfinishedRotation},
		"in CURRENT already": {func(f *policy.Facts, in *policy.Importing) {
			f.Versions = labelled("v1", key.Current)
			in.Key.StoreVersion = "v1"
		}, policy.Allowed},
		"in PENDING already": {func(f *policy.Facts, in *policy.Importing) {
			f.Versions = labelled("v1", key.Pending)
			in.Key.StoreVersion = "v1"
		}, policy.Allowed},
		"while a mint is not resolved":          {func(f *policy.Facts, _ *policy.Importing) { f.Metadata.Intents = []key.Intent{{Rotation: "r"}} }, policy.UnfinishedRotation},
		"with a consumer on another key":        {func(f *policy.Facts, _ *policy.Importing) { f.Instances[1] = attests("b", "fp-other") }, policy.ConsumerNotAttesting},
		"with a consumer that says nothing":     {func(f *policy.Facts, _ *policy.Importing) { f.Instances[1].Statement = nil }, policy.ConsumerNotAttesting},
		"with a consumer whose replicas differ": {func(f *policy.Facts, _ *policy.Importing) { f.Instances[1].Statement.Split = true }, policy.ConsumerNotAttesting},
		"with a consumer on another key, as it was wanted": {func(f *policy.Facts, in *policy.Importing) {
			f.Instances[1] = attests("b", "fp-other")
			in.Unattested = true
		}, policy.Allowed},
		"one that a test refuses":    {tested(atIssuer, policy.TestRefused), policy.KeyNotWorking},
		"one that nobody could test": {tested(atIssuer, policy.TestUnknown), policy.KeyNotTested},
		"one that passes its test":   {tested(atIssuer, policy.TestPasses), policy.Allowed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := policy.Facts{At: now, Instances: []policy.Instance{attests("a", "key-mine"), attests("b", "fp-mine")}}
			f.Capabilities.Slots = 2
			in := policy.Importing{Key: brought, CanImport: true}
			if c.change != nil {
				c.change(&f, &in)
			}
			d := policy.MayImport(credential(), f, in)
			assert.Equal(t, c.want, d.Reason, d.Message)
			assert.Equal(t, c.want == policy.Allowed, d.OK)
		})
	}
}

func labelled(id string, l key.Label) []policy.StoredKey {
	return []policy.StoredKey{{Version: key.Version{ID: id, Labels: []key.Label{l}}}}
}

func tested(before func(*policy.Facts, *policy.Importing), result policy.TestResult) func(*policy.Facts, *policy.Importing) {
	return func(f *policy.Facts, in *policy.Importing) {
		before(f, in)
		f.Tests = map[string]policy.Test{"key-mine": {Result: result, Why: "a test says so"}}
	}
}
