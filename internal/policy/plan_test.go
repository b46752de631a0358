package policy_test

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
)

// anybody can approve.
func anybody(inventory.Approval) string { return "" }

// anyOnly is a worker that cannot verify signatures.
func anyOnly(a inventory.Approval) string {
	if a.Trust == inventory.TrustAny {
		return ""
	}
	return "nobody can verify"
}

func TestPlanRefusals(t *testing.T) {
	t.Parallel()
	type given struct {
		c inventory.Credential
		f policy.Facts
	}
	cases := map[string]struct {
		change func(*given)
		want   []policy.Reason
	}{
		"a healthy credential may be rotated": {func(*given) {}, nil},
		"a bound of the worker configuration refuses": {func(g *given) { g.f.Denied = []string{"principal is out of bounds"} },
			[]policy.Reason{policy.SpecRefused}},
		"all slots in use by own keys refuse": {func(g *given) {
			g.f.Keys = append(g.f.Keys, key.Info{KeyID: "key-older", State: key.Disabled})
			g.f.Metadata.Keys = append(g.f.Metadata.Keys, key.Owned{Ref: key.Ref{KeyID: "key-older"}, Rotation: "r", PromotedAt: now})
		}, []policy.Reason{policy.SlotsFull}},
		"an unknown active key refuses": {func(g *given) {
			g.f.Capabilities.Slots = 0
			g.f.Keys = append(g.f.Keys, key.Info{KeyID: "key-x", State: key.Active})
		}, []policy.Reason{policy.UnknownActiveKey}},
		"an unknown disabled key is left alone": {func(g *given) {
			g.f.Capabilities.Slots = 0
			g.f.Keys = append(g.f.Keys, key.Info{KeyID: "key-x", State: key.Disabled})
		}, nil},
		"an unknown key that is adopted does not refuse": {func(g *given) {
			g.f.Capabilities.Slots = 0
			g.c.Adopt = []string{"key-x"}
			g.f.Keys = append(g.f.Keys, key.Info{KeyID: "key-x", State: key.Active})
		}, nil},
		"a leftover of an interrupted mint is cleared away and frees its slot": {func(g *given) {
			g.f.Keys = append(g.f.Keys, key.Info{KeyID: "key-x", State: key.Active, CreatedAt: now})
			g.f.Metadata.Intents = []key.Intent{{Rotation: "r", Ordinal: 1, At: now, Within: policy.MintWithin, Known: []string{"key-old"}}}
		}, nil},
		"two candidates for one interrupted mint are ambiguous": {func(g *given) {
			g.f.Capabilities.Slots = 0
			g.f.Keys = append(g.f.Keys, key.Info{KeyID: "key-x", State: key.Active, CreatedAt: now}, key.Info{KeyID: "key-y", State: key.Active, CreatedAt: now})
			g.f.Metadata.Intents = []key.Intent{{Rotation: "r", Ordinal: 1, At: now, Within: policy.MintWithin, Known: []string{"key-old"}}}
		}, []policy.Reason{policy.AmbiguousOrphan}},
		"an instance on the key of a rotation that turned back is taken back": {func(g *given) {
			g.f = turnedBack(staged())
			g.f.Metadata.Keys[1].VerifiedAt = time.Time{}
			g.f.Instances = fleet("fp:old")
			g.f.Instances[1].Statement.Keys = []string{"fp:new"}
			g.f.Instances[2].Statement.Keys = []string{"fp:old", "fp:new"}
		}, nil},
		"an instance on the key of a rotation that turned back refuses when the current value is in no store": {func(g *given) {
			g.f = turnedBack(staged())
			g.f.Metadata.Keys[1].VerifiedAt = time.Time{}
			g.f.Instances = fleet("fp:old")
			g.f.Instances[2].Statement.Keys = []string{"fp:old", "fp:new"}
			g.f.Versions = g.f.Versions[1:]
			g.c.Adopt = []string{"key-old"}
		}, []policy.Reason{policy.UnfinishedRotation, policy.ConsumerOnOtherKey}},
		"a CURRENT that is no key of ours refuses": {func(g *given) {
			g.f.Versions[0].KeyID, g.f.Keys, g.f.Metadata.Keys, g.f.Capabilities.Slots = "", nil, nil, 0
		}, []policy.Reason{policy.RetiringKeyNotLive}},
		"a CURRENT whose key was ours and is gone does not": {func(g *given) { g.f.Versions[0].KeyID, g.f.Keys, g.f.Capabilities.Slots = "", nil, 0 }, nil},
		"a disabled current key refuses":                    {func(g *given) { g.f.Keys[0].State = key.Disabled }, []policy.Reason{policy.RetiringKeyDisabled}},
		"two adopted keys and no CURRENT are ambiguous": {func(g *given) {
			g.c.Adopt = []string{"key-old", "key-x"}
			g.f.Capabilities.Slots = 3
			g.f.Keys = append(g.f.Keys, key.Info{KeyID: "key-x", State: key.Active})
			g.f.Versions, g.f.Metadata, g.f.Instances = nil, key.Metadata{}, nil
		}, []policy.Reason{policy.AmbiguousRetiringKey}},
		"an adopted key that the issuer does not have refuses": {func(g *given) {
			g.c.Adopt = []string{"key-gone"}
			g.f.Keys, g.f.Versions, g.f.Metadata, g.f.Instances = nil, nil, key.Metadata{}, nil
		}, []policy.Reason{policy.AdoptedKeyMissing}},
		"an adopted key that was retired long ago does not refuse": {func(g *given) { g.c.Adopt = []string{"key-2024"} }, nil},
		"a store that something else manages refuses":              {func(g *given) { g.f.StoreProblem = "native rotation is on" }, []policy.Reason{policy.StoreRefused}},
		"a spec older than the last issue refuses":                 {func(g *given) { g.f.Metadata.Generation = 101 }, []policy.Reason{policy.StaleSpec}},
		"a spec of another inventory refuses":                      {func(g *given) { g.f.Metadata.Inventory, g.f.Metadata.Environment = "payroll", "production" }, []policy.Reason{policy.OtherOwner}},
		"a spec of another environment refuses":                    {func(g *given) { g.f.Metadata.Inventory, g.f.Metadata.Environment = "payments", "play" }, []policy.Reason{policy.OtherOwner}},
		"a spec of the same inventory and environment does not":    {func(g *given) { g.f.Metadata.Inventory, g.f.Metadata.Environment = "payments", "production" }, nil},
		"every unreachable instance is named": {func(g *given) {
			g.f.Instances[0].Unreachable, g.f.Instances[2].Unreachable = "no route", "no route"
		}, []policy.Reason{policy.ConsumerUnreachable, policy.ConsumerUnreachable}},
		"an instance that is not well before the rotation refuses": {func(g *given) { g.f.Instances[1].Unhealthy = "503" }, []policy.Reason{policy.ConsumerUnhealthy}},
		"an instance without statement refuses": {func(g *given) {
			g.f.Instances[1].Statement, g.f.Instances[1].NotAttesting = nil, "connection refused"
		}, []policy.Reason{policy.ConsumerNotAttesting}},
		"an instance on another key refuses": {func(g *given) { g.f.Instances[1].Statement.Keys = []string{"fp:else"} }, []policy.Reason{policy.ConsumerOnOtherKey}},
		"an instance whose replicas differ refuses, though one of them has the key": {func(g *given) {
			g.f.Instances[1].Statement.Keys, g.f.Instances[1].Statement.Split = []string{"fp:old", "fp:else"}, true
		}, []policy.Reason{policy.ConsumerOnOtherKey}},
		"one whose replicas differ by the key of a rotation that turned back is taken back": {func(g *given) {
			g.f = turnedBack(staged())
			g.f.Metadata.Keys[1].VerifiedAt = time.Time{}
			g.f.Instances = fleet("fp:old")
			g.f.Instances[2].Statement.Keys, g.f.Instances[2].Statement.Split = []string{"fp:old", "fp:new"}, true
		}, nil},
		"replicas that differ refuse an adoption, too": {func(g *given) {
			g.c.Adopt = []string{"key-old"}
			g.f.Versions, g.f.Metadata = nil, key.Metadata{}
			g.f.Instances = fleet("fp:none-that-we-know")
			g.f.Instances[1].Statement.Keys, g.f.Instances[1].Statement.Split = []string{"fp:none-that-we-know", "fp:else"}, true
		}, []policy.Reason{policy.ConsumerOnOtherKey}},
		"an instance may state the key by its ID": {func(g *given) { g.f.Instances[1].Statement.Keys = []string{"key-old"} }, nil},
		"an adopted key in no store is stated by a fingerprint that nobody can match": {func(g *given) {
			g.c.Adopt = []string{"key-old"}
			g.f.Versions, g.f.Metadata = nil, key.Metadata{}
		}, nil},
		"a quiet window below the account's lag refuses":                             {func(g *given) { g.f.Capabilities.UsageLag = 7 * time.Hour }, []policy.Reason{policy.QuietBelowLag}},
		"keys that shall expire need an issuer that can":                             {func(g *given) { g.c.Expires = hours(1); g.f.Capabilities.CanExpire = false }, []policy.Reason{policy.CannotExpire}},
		"a retiring key that ends before all have the incoming one needs a sign-off": {func(g *given) { g.f.Keys[0].ExpiresAt = now.Add(2 * time.Hour) }, []policy.Reason{policy.SignoffNeeded}},
		"and with that gate it is one more thing to be signed off": {func(g *given) {
			g.f.Keys[0].ExpiresAt, g.c.Approvals.Signoff = now.Add(2*time.Hour), &inventory.Approval{Count: 1, Trust: inventory.TrustAny}
		}, nil},
		"a retiring key that ends later does not": {func(g *given) { g.f.Keys[0].ExpiresAt = now.Add(2*time.Hour + time.Minute) }, nil},
		"the only key that was ever delivered is not cleared away because nobody says that it is used": {func(g *given) {
			g.f = staged()
			g.f.Metadata.Keys[1].VerifiedAt = time.Time{}
			g.f.Keys, g.f.Versions, g.f.Metadata.Keys = g.f.Keys[1:], g.f.Versions[1:], g.f.Metadata.Keys[1:]
			for i := range g.f.Instances {
				g.f.Instances[i].Statement, g.f.Instances[i].NotAttesting = nil, "connection refused"
			}
		}, []policy.Reason{policy.UnfinishedRotation}},
		"the only key that was ever delivered is no reason against another one once it has ended": {func(g *given) {
			g.f = onlyDelivered()
			g.f.Keys[0].ExpiresAt = now.Add(-time.Hour)
		}, nil},
		"nor when somebody disabled it":                               {func(g *given) { g.f = onlyDelivered(); g.f.Keys[0].State = key.Disabled }, nil},
		"as long as it works it is, though it cannot be gone on with": {func(g *given) { g.f = onlyDelivered() }, []policy.Reason{policy.UnfinishedRotation, policy.UnfinishedRotation, policy.UnfinishedRotation}},
		"signed approvals that nobody can verify refuse":              {func(g *given) { g.c.Approvals.Revoke.Trust = inventory.TrustSigned }, []policy.Reason{policy.TrustNotVerifiable}},
		"rights beyond the scopes refuse, each by itself": {func(g *given) { g.f.RightsObjections = []string{"policy a", "policy b"} },
			[]policy.Reason{policy.RightsRefused, policy.RightsRefused}},
		"all reasons are given at once": {func(g *given) {
			g.f.Instances[0].Unhealthy = "503"
			g.f.Metadata.Generation = 101
		}, []policy.Reason{policy.StaleSpec, policy.ConsumerUnhealthy}},
		"out of bounds, nothing is told of what is there, and a bound is named once": {func(g *given) {
			g.f.Denied = []string{"no", "no"}
			g.f.Instances[0].Unhealthy = "503"
		}, []policy.Reason{policy.SpecRefused}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := given{c: credential(), f: before()}
			c.change(&g)
			plan := policy.Make(spec(g.c), g.f, noPulls, anyOnly)
			var got []policy.Reason
			for _, d := range plan.Refusals {
				assert.NotEmpty(t, d.Message)
				assert.False(t, d.OK)
				got = append(got, d.Reason)
			}
			assert.Equal(t, c.want, got)
			assert.Equal(t, len(c.want) > 0, plan.Refused())
		})
	}
}

func TestThePlanSaysWhatTrafficAWaveWaitsFor(t *testing.T) {
	t.Parallel()
	made := func(change func(*inventory.Credential)) string {
		c := credential()
		c.ErrorBudget = &inventory.ErrorBudget{Ratio: 0.01, Window: hours(1), MinTotal: 50}
		change(&c)
		text := ""
		for _, s := range policy.Make(spec(c), before(), noPulls, anybody).Steps {
			text += s.What + "\n"
		}
		return text
	}
	assert.Contains(t, made(func(*inventory.Credential) {}), "until there were 50 requests; when there were too few for 1d, wait for 1 approval from anybody at the hold gate")
	assert.Contains(t, made(func(c *inventory.Credential) { c.Approvals.Revoke, c.ErrorBudget.MaxHold = nil, hours(2) }), "too few for 2h, go on without")
	assert.NotContains(t, made(func(c *inventory.Credential) { c.ErrorBudget.MinTotal = 0 }), "until there were")
	assert.NotContains(t, made(func(c *inventory.Credential) { c.ErrorBudget = nil }), "until there were")
}

func TestThePlanSaysUntilWhenThereIsAWayBack(t *testing.T) {
	t.Parallel()
	made := func(ends time.Time) policy.Plan {
		f := before()
		f.Keys[0].ExpiresAt = ends
		return policy.Make(spec(credential()), f, noPulls, anybody)
	}
	assert.True(t, made(time.Time{}).CanRollBack)
	assert.Zero(t, made(time.Time{}).WayBackEnds)

	later := made(now.Add(72 * time.Hour))
	assert.True(t, later.CanRollBack)
	assert.Equal(t, now.Add(71*time.Hour), later.WayBackEnds, "a wave's time before the key ends")
	assert.Contains(t, later.Warnings, "the retiring key ends by itself 2026-03-04T12:00:00Z: a rollback is possible until 2026-03-04T11:00:00Z")

	soon := made(now.Add(time.Hour))
	assert.False(t, soon.CanRollBack)
	assert.Contains(t, soon.Warnings, "the retiring key ends by itself 2026-03-01T13:00:00Z: after the first delivery a rollback is impossible")
}

func TestPlanSaysWhatWillHappen(t *testing.T) {
	t.Parallel()
	plan := policy.Make(spec(credential()), before(), noPulls, anybody)
	require.False(t, plan.Refused())
	assert.Equal(t, &retiring, plan.Retiring)
	assert.True(t, plan.CanRollBack)
	assert.Equal(t, []policy.Wave{
		{Name: "canary", Instances: []string{"checkout-canary"}, Soak: hours(1)},
		{Name: "rest", Instances: []string{"checkout/a", "checkout/b"}, Soak: hours(1)},
	}, plan.Waves)
	var phases []string
	for _, s := range plan.Steps {
		phases = append(phases, s.Phase)
	}
	assert.Equal(t, []string{"issue", "issue", "deliver", "deliver", "promote", "overlap", "revoke-gate", "disable", "revoke", "record"}, phases)
	assert.Equal(t, hours(1+1+48+24), plan.Takes)
	assert.Contains(t, plan.Warnings[0], "whoever may write to the Temporal namespace can approve")

	t.Run("the last steps have no way back", func(t *testing.T) {
		t.Parallel()
		for _, s := range plan.Steps {
			assert.Equal(t, s.Phase == "revoke" || s.Phase == "record", s.Undo == "", s.Phase)
		}
	})
	t.Run("nor has any after the first delivery, where the retiring key cannot be delivered", func(t *testing.T) {
		t.Parallel()
		f := before()
		f.Keys[0].ExpiresAt = now.Add(time.Hour)
		lost := policy.Make(spec(credential()), f, noPulls, anybody)
		require.False(t, lost.CanRollBack)
		for _, s := range lost.Steps {
			assert.Equal(t, slices.Contains([]string{"signoff", "issue", "disable"}, s.Phase), s.Undo != "", s.Phase)
		}
	})
	t.Run("rights that a delivery changes are told, once for all instances", func(t *testing.T) {
		t.Parallel()
		f := before()
		for i := range f.Instances {
			f.Instances[i].ChangesRights = "the mode of its file, 0640, becomes 0600"
		}
		f.Instances[1].ChangesRights = "another"
		warnings := strings.Join(policy.Make(spec(credential()), f, noPulls, anybody).Warnings, "\n")
		assert.Contains(t, warnings, f.Instances[0].Name()+" (and "+strconv.Itoa(len(f.Instances)-2)+" more): the mode of its file, 0640, becomes 0600")
		assert.Contains(t, warnings, f.Instances[1].Name()+": another")
	})
	t.Run("an adopted key in no store cannot be rolled back to", func(t *testing.T) {
		t.Parallel()
		c, f := credential(), before()
		c.Adopt, f.Versions, f.Metadata = []string{"key-old"}, nil, key.Metadata{}
		plan := policy.Make(spec(c), f, noPulls, anybody)
		require.False(t, plan.Refused())
		assert.False(t, plan.CanRollBack)
		assert.Contains(t, plan.Warnings, "the value of the retiring key is in no store: after the first delivery a rollback is impossible")
	})
	t.Run("a first key has nothing to revoke", func(t *testing.T) {
		t.Parallel()
		f := policy.Facts{At: now, Capabilities: gatewayLike()}
		plan := policy.Make(spec(credential()), f, noPulls, anybody)
		require.False(t, plan.Refused())
		assert.Nil(t, plan.Retiring)
		assert.Equal(t, "record", plan.Steps[len(plan.Steps)-1].Phase)
	})
	t.Run("consumers that read the store follow the promotion, their canary goes before", func(t *testing.T) {
		t.Parallel()
		c := credential()
		for i := range c.Consumers {
			c.Consumers[i].Target.Type = "label"
		}
		plan := policy.Make(spec(c), before(), func(string) bool { return true }, anybody)
		assert.False(t, plan.Waves[0].ByPromotion)
		assert.True(t, plan.Waves[1].ByPromotion)
	})
	t.Run("an issuer that cannot disable leaves no way back, and the plan says so", func(t *testing.T) {
		t.Parallel()
		f := before()
		f.Capabilities.CanDisable = false
		plan := policy.Make(spec(credential()), f, noPulls, anybody)
		assert.Contains(t, plan.Warnings, "the issuer cannot disable a key: revoking has no way back")
		for _, s := range plan.Steps {
			assert.NotEqual(t, "disable", s.Phase)
		}
	})
}

// onlyDelivered are the facts of a first key that was delivered and never promoted.
func onlyDelivered() policy.Facts {
	f := staged()
	f.Keys, f.Versions, f.Metadata.Keys = f.Keys[1:], f.Versions[1:], f.Metadata.Keys[1:]
	f.Metadata.Keys[0].VerifiedAt = time.Time{}
	f.Instances = fleet("fp:new")
	return f
}
