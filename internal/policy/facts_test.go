package policy_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"pgregory.net/rapid"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
)

var (
	now      = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	retiring = key.Ref{Principal: "payments-api", KeyID: "key-old", StoreVersion: "v1", Fingerprint: "fp:old"}
	incoming = key.Ref{Principal: "payments-api", KeyID: "key-new", StoreVersion: "v2", Fingerprint: "fp:new"}
)

const rotationID = "first-run"

func hours(n int) inventory.Duration { return inventory.Duration(time.Duration(n) * time.Hour) }

// credential asks for everything: waves, budget, approvals.
func credential() inventory.Credential {
	return inventory.Credential{
		Name: "payments-api", Owner: "payments@example.com", Environment: "production",
		Terms: inventory.Terms{
			RotateEvery: hours(90 * 24), Overlap: hours(48), QuietWindow: hours(6), WaveSoak: hours(1), WaveTimeout: hours(1), DisableSoak: hours(24),
			Approvals: inventory.Approvals{Revoke: &inventory.Approval{Count: 1, Trust: inventory.TrustAny, ApprovalExpires: hours(24)}},
		},
		Consumers: []inventory.Consumer{
			{Name: "checkout-canary", Wave: "canary"},
			{Name: "checkout", Instances: []string{"a", "b"}},
		},
	}
}

func spec(c inventory.Credential) inventory.Spec {
	return inventory.Spec{Schema: inventory.SpecSchema, Inventory: "payments", Generation: 100, Credential: c}
}

func instance(consumer, name, wave string, stated ...string) policy.Instance {
	return policy.Instance{Consumer: consumer, Instance: name, Wave: wave,
		Statement: &key.Statement{Instance: name, Keys: stated, ObservedAt: now, Source: "test"}}
}

func fleet(stated string) []policy.Instance {
	return []policy.Instance{
		instance("checkout-canary", "checkout-canary", "canary", stated),
		instance("checkout", "a", "rest", stated),
		instance("checkout", "b", "rest", stated),
	}
}

func gatewayLike() key.Capabilities {
	return key.Capabilities{Slots: 2, CanDisable: true, CanNarrow: true, CanExpire: true, ReportsUsage: true, ReportsRefusals: true, UsageLag: time.Hour}
}

func stored(version, keyID, fingerprint string, labels ...key.Label) policy.StoredKey {
	return policy.StoredKey{Version: key.Version{ID: version, Labels: labels}, KeyID: keyID, Fingerprint: fingerprint}
}

// before are the facts of a healthy credential that waits for its rotation.
func before() policy.Facts {
	return policy.Facts{
		At: now, Capabilities: gatewayLike(),
		Keys:     []key.Info{{Principal: "payments-api", KeyID: "key-old", State: key.Active, CreatedAt: now.Add(-2000 * time.Hour)}},
		Versions: []policy.StoredKey{stored("v1", "key-old", "fp:old", key.Current)},
		Metadata: key.Metadata{Generation: 99, Keys: []key.Owned{
			{Ref: retiring, Rotation: "earlier", PromotedAt: now.Add(-2000 * time.Hour)},
		}},
		Instances: fleet("fp:old"),
	}
}

// staged are the facts once the incoming key is issued and every instance is on it.
func staged() policy.Facts {
	f := before()
	f.Keys = append(f.Keys, key.Info{Principal: "payments-api", KeyID: "key-new", State: key.Active, CreatedAt: now.Add(-60 * time.Hour), LastUsedAt: now.Add(-time.Minute)})
	f.Versions = append(f.Versions, stored("v2", "key-new", "fp:new", key.Pending))
	f.Metadata.Keys = append(f.Metadata.Keys, key.Owned{Ref: incoming, Rotation: rotationID, IssuedAt: now.Add(-60 * time.Hour), VerifiedAt: now.Add(-60 * time.Hour), DeliveredAt: now.Add(-59 * time.Hour)})
	f.Instances = fleet("fp:new")
	return f
}

// promoted are the facts after an overlap in which nobody used the retiring key.
func promoted() policy.Facts {
	f := staged()
	f.Versions = []policy.StoredKey{stored("v1", "key-old", "fp:old", key.Previous), stored("v2", "key-new", "fp:new", key.Current)}
	f.Metadata.Keys[1].PromotedAt = now.Add(-50 * time.Hour)
	f.Keys[0].LastUsedAt = now.Add(-51 * time.Hour)
	return f
}

func approval(by string, at time.Time) policy.Verdict {
	return policy.Verdict{ID: "nonce-1", Action: policy.Approve, Gate: inventory.GateRevoke, By: by, Accepted: true, At: at}
}

func noPulls(string) bool { return false }

func TestStandings(t *testing.T) {
	t.Parallel()
	extra := func(k key.Info, change func(*policy.Facts)) policy.Facts {
		f := before()
		f.Keys = append(f.Keys, k)
		if change != nil {
			change(&f)
		}
		return f
	}
	other := key.Info{Principal: "payments-api", KeyID: "key-x", State: key.Active, CreatedAt: now.Add(-time.Minute)}
	intent := func(at time.Time, known ...string) func(*policy.Facts) {
		return func(f *policy.Facts) {
			f.Metadata.Intents = []key.Intent{{Rotation: rotationID, Ordinal: 1, At: at, Within: policy.MintWithin, Known: known}}
		}
	}
	used := other
	used.LastUsedAt = now
	ahead := other
	ahead.CreatedAt = now.Add(time.Hour)
	usedWithToken := used
	usedWithToken.Token = policy.Token(rotationID, 1)
	withToken := other
	withToken.Token = policy.Token(rotationID, 1)
	foreignToken := other
	foreignToken.Token = policy.Token("another rotation", 1)
	cases := map[string]struct {
		facts policy.Facts
		want  policy.Standing
	}{
		"a key that nothing knows of is unknown":                                             {extra(other, nil), policy.StandingUnknown},
		"a key created after the intent and not known before it is an orphan":                {extra(other, intent(now.Add(-2*time.Minute), "key-old")), policy.StandingOrphan},
		"a key that was not there before the intent, and was created before it, is unproved": {extra(other, intent(now, "key-old")), policy.StandingUnproved},
		"a key created after this moment, by another clock, is unproved":                     {extra(ahead, intent(now.Add(-2*time.Minute), "key-old")), policy.StandingUnproved},
		"a key of the token that was used is unproved":                                       {extra(usedWithToken, intent(now.Add(-2*time.Minute), "key-old")), policy.StandingUnproved},
		"a key that was used is unknown whatever its clock":                                  {extra(used, intent(now, "key-old")), policy.StandingUnknown},
		"a key of another principal than the mint's is unknown": {extra(other, func(f *policy.Facts) {
			intent(now.Add(-2*time.Minute), "key-old")(f)
			f.Metadata.Intents[0].Principal = "payments-api-2"
		}), policy.StandingUnknown},
		"an earlier intent is not forgotten for a later one": {extra(other, func(f *policy.Facts) {
			intent(now.Add(-2*time.Minute), "key-old")(f)
			f.Metadata.Intents = append(f.Metadata.Intents, key.Intent{Rotation: "later", Ordinal: 1, At: now, Within: policy.MintWithin, Known: []string{"key-old"}})
		}), policy.StandingOrphan},
		"how long a mint may last is what its intent says": {extra(other, func(f *policy.Facts) {
			intent(now.Add(-20*time.Minute), "key-old")(f)
			f.Metadata.Intents[0].Within = 30 * time.Minute
		}), policy.StandingOrphan},
		"a key that was there before the mint is unknown":                       {extra(other, intent(now.Add(-2*time.Minute), "key-old", "key-x")), policy.StandingUnknown},
		"a key whose creation the issuer cut to the second is still an orphan":  {extra(other, intent(now.Add(-time.Minute+900*time.Millisecond), "key-old")), policy.StandingOrphan},
		"a key created long after the intent is somebody else's":                {extra(other, intent(now.Add(-20*time.Minute), "key-old")), policy.StandingUnknown},
		"a key that was used is somebody else's, since ours was told to nobody": {extra(used, intent(now.Add(-2*time.Minute), "key-old")), policy.StandingUnknown},
		"a key minted with the intent's token is an orphan whatever its clock":  {extra(withToken, intent(now.Add(time.Hour), "key-old")), policy.StandingOrphan},
		"a key minted with another token is unknown in spite of its clock":      {extra(foreignToken, intent(now.Add(-2*time.Minute), "key-old")), policy.StandingUnknown},
		"a key in PENDING that was never promoted is incoming": {extra(other, func(f *policy.Facts) {
			f.Versions = append(f.Versions, stored("v9", "key-x", "fp:x", key.Pending))
		}), policy.StandingIncoming},
		"a key in PREVIOUS is retired": {extra(other, func(f *policy.Facts) {
			f.Versions = append(f.Versions, stored("v0", "key-x", "fp:x", key.Previous))
		}), policy.StandingRetired},
		"a minted key that was promoted once is retired": {extra(other, func(f *policy.Facts) {
			f.Metadata.Keys = append(f.Metadata.Keys, key.Owned{Ref: key.Ref{KeyID: "key-x"}, Rotation: "r", PromotedAt: now})
		}), policy.StandingRetired},
		"a minted key that was never promoted is incoming": {extra(other, func(f *policy.Facts) {
			f.Metadata.Keys = append(f.Metadata.Keys, key.Owned{Ref: key.Ref{KeyID: "key-x"}, Rotation: "r"})
		}), policy.StandingIncoming},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			standings := c.facts.Standings(nil)
			assert.Equal(t, c.want, standings["key-x"])
			assert.Equal(t, policy.StandingCurrent, standings["key-old"])
		})
	}
	t.Run("an adopted key is no orphan", func(t *testing.T) {
		t.Parallel()
		f := extra(other, intent(now.Add(-2*time.Minute), "key-old"))
		assert.Equal(t, policy.StandingRetired, f.Standings([]string{"key-x"})["key-x"])
	})
	t.Run("an adopted key is current when the store has none", func(t *testing.T) {
		t.Parallel()
		f := before()
		f.Versions, f.Metadata = nil, key.Metadata{}
		assert.Equal(t, policy.StandingCurrent, f.Standings([]string{"key-old"})["key-old"])
		assert.Equal(t, policy.StandingUnknown, f.Standings(nil)["key-old"])
	})
}

// Whatever the facts, a key that is in no store, no metadata and no adoption, and that no intent proves, is never ours: the
// ground of I2.
func TestUnknownKeysAreNeverOurs(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		f := staged()
		stranger := key.Info{
			Principal: "payments-api", KeyID: "stranger",
			State:     rapid.SampledFrom([]key.State{key.Active, key.Disabled}).Draw(t, "state"),
			CreatedAt: now.Add(time.Duration(rapid.Int64Range(-1e15, 1e15).Draw(t, "age"))),
		}
		f.Keys = append(f.Keys, stranger)
		if rapid.Bool().Draw(t, "intent") {
			f.Metadata.Intents = []key.Intent{{Rotation: rotationID, Ordinal: 1, At: stranger.CreatedAt.Add(3 * time.Second), Within: policy.MintWithin}}
		}
		ref := f.Ref(stranger)
		assert.Contains(t, []policy.Standing{policy.StandingUnknown, policy.StandingUnproved}, f.Standings(nil)["stranger"])
		assert.False(t, policy.MayDisable(credential(), f, ref, incoming, []policy.Verdict{approval("ann", now)}).OK)
		assert.False(t, policy.MayDiscard(credential(), f, ref).OK)
		stranger.State = key.Disabled
		assert.False(t, policy.MayRevoke(credential(), f, ref, incoming, "run-1", []policy.Verdict{approval("ann", now)}).OK)
	})
}

func TestTokenNamesOneMint(t *testing.T) {
	t.Parallel()
	assert.Equal(t, "6a215e02-1561-54fc-acdd-602477f99f8f", policy.Token("a", 1), "the token of a rotation that runs must not change with a release")
	assert.NotEqual(t, policy.Token("a", 1), policy.Token("a", 2))
	assert.NotEqual(t, policy.Token("a", 1), policy.Token("b", 1))
	assert.Len(t, policy.Token("a", 1), 36)
}

// What consumers used a key for is noted before a test of it hides that.
func TestUsesByOthersThanKeyturn(t *testing.T) {
	t.Parallel()
	f := staged()
	assert.Equal(t, f.Keys[1].LastUsedAt, f.SeenUsed("key-new"))
	f.Metadata.Keys[1].TestedUntil = now
	assert.Zero(t, f.SeenUsed("key-new"), "it may have been the test")
	f.Metadata.Keys[1].UsedAt = now.Add(-time.Hour)
	assert.Equal(t, now.Add(-time.Minute), f.SeenUsed("key-new"), "others use it, so that this one is theirs as well")
	f.Keys[1].LastUsedAt = now.Add(-2 * time.Hour)
	assert.Equal(t, now.Add(-time.Hour), f.SeenUsed("key-new"), "what was noted is no less than what is told now")
	f.Metadata.Keys = []key.Owned{{Ref: incoming}}
	assert.Equal(t, now.Add(-2*time.Hour), f.SeenUsed("key-new"), "of a key that no rotation minted each use is one")
	f.Metadata.Keys = nil
	assert.Equal(t, now.Add(-2*time.Hour), f.SeenUsed("key-new"), "nor is there need of a record of it")

	f = promoted()
	f.Metadata.Keys[1].DeliveredAt = time.Time{}
	assert.Equal(t, f.Keys[1].LastUsedAt, f.SeenUsed("key-new"), "consumers have it by promotion alone")
	f = staged()
	f.Metadata.Keys[1].UsedAt, f.Metadata.Keys[1].TestedUntil = now.Add(-59*time.Hour), now
	assert.Nil(t, f.Believe([]policy.Instance{usedAt(now)})[0].Statement, "what was noted before the last delivery says nothing of whom it reached")
	for lag, counts := range map[time.Duration]bool{0: true, 30 * time.Second: true, time.Hour: false} { // 40 s after a test
		f = staged()
		f.Capabilities.UsageLag, f.Metadata.Keys[1].TestedUntil = lag, now.Add(-40*time.Second)
		assert.Equal(t, counts, f.Believe([]policy.Instance{usedAt(now)})[0].Statement != nil, "at an issuer that tells of uses within %s", lag)
	}
	f.Capabilities.UsageLag, f.Metadata.Keys[1].TestedUntil = 0, now.Add(-2*time.Second)
	assert.Nil(t, f.Believe([]policy.Instance{usedAt(now)})[0].Statement, "its clock may be as coarse")
}

// usedAt is an instance that uses the incoming key, by the issuer's record of a use.
func usedAt(at time.Time) policy.Instance {
	one := instance("checkout", "checkout", "rest", "key-new")
	one.Statement.UsedAt = at
	return one
}

// As of when an issuer reports is the latest of what it says of its keys.
func TestAsOfWhenAnIssuerReports(t *testing.T) {
	t.Parallel()
	f := staged()
	assert.Zero(t, f.Reported())
	f.Keys[0].ReportedAt, f.Keys[1].ReportedAt = now, now.Add(-time.Hour)
	assert.Equal(t, now, f.Reported())
	f.Keys[0].ReportedAt, f.Keys[1].ReportedAt = now.Add(-time.Hour), now
	assert.Equal(t, now, f.Reported())
}
