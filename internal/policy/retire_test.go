package policy_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
)

// left are facts with a key of a rotation that did not end, which never came to a consumer.
func left() policy.Facts {
	f := promoted()
	f.Keys = append(f.Keys, key.Info{Principal: "payments-api", KeyID: "key-left", State: key.Active, CreatedAt: now.Add(-time.Hour)})
	f.Versions = append(f.Versions, stored("v3", "key-left", "fp:left", key.Pending))
	f.Metadata.Keys = append(f.Metadata.Keys, key.Owned{Ref: key.Ref{Principal: "payments-api", KeyID: "key-left", StoreVersion: "v3"}, Rotation: "cut-off", IssuedAt: now.Add(-time.Hour)})
	return f
}

// adopted are facts with a second key, which existed before keyturn and is named under adopt.
func adopted() policy.Facts {
	f := promoted()
	f.Keys = append(f.Keys, key.Info{Principal: "payments-api", KeyID: "key-2024-07", State: key.Active, CreatedAt: now.Add(-9000 * time.Hour), LastUsedAt: now.Add(-5000 * time.Hour)})
	return f
}

func TestWhichKeyMayBeRetired(t *testing.T) {
	t.Parallel()
	same := func(*policy.Facts) {}
	for name, c := range map[string]struct {
		from   func() policy.Facts
		change func(*policy.Facts)
		keyID  string
		want   policy.Reason
		says   string // what to do
	}{
		"a retired one":                               {promoted, same, "key-old", policy.Allowed, "left alive beside key-new"},
		"one that is disabled":                        {promoted, func(f *policy.Facts) { f.Keys[0].State = key.Disabled }, "key-old", policy.Allowed, ""},
		"one that was used lately: the run waits":     {promoted, func(f *policy.Facts) { f.Keys[0].LastUsedAt = f.At }, "key-old", policy.Allowed, ""},
		"a second one that the spec adopts":           {adopted, same, "key-2024-07", policy.Allowed, ""},
		"one of a rotation that did not end":          {left, same, "key-left", policy.Allowed, "never became CURRENT"},
		"not the current one":                         {promoted, same, "key-new", policy.KeyCurrent, "keyturn rotate payments-api"},
		"not one that does not exist":                 {promoted, same, "key-typo", policy.KeyGone, "it has key-old (retired, active), key-new (current, active)"},
		"not a stranger's":                            {promoted, func(f *policy.Facts) { f.Keys = append(f.Keys, key.Info{KeyID: "stranger", State: key.Active}) }, "stranger", policy.NotOurs, "name it under adopt of payments-api"},
		"not one that an instance states":             {promoted, func(f *policy.Facts) { f.Instances[1].Statement.Keys = []string{"fp:old"} }, "key-old", policy.RetiringStillHeld, "let them load the current key key-new"},
		"not one that an instance has besides":        {promoted, func(f *policy.Facts) { f.Instances[1].Statement.Keys = []string{"fp:new", "fp:old"} }, "key-old", policy.RetiringStillHeld, "uses key key-old"},
		"not one of a rotation that somebody was on":  {left, func(f *policy.Facts) { f.Instances[0].Statement.Keys = []string{"fp:left"} }, "key-left", policy.RetiringStillHeld, "brings them back: keyturn rotate payments-api"},
		"not an exposed one":                          {promoted, func(f *policy.Facts) { expose(f, "key-old") }, "key-old", policy.KeyExposed, "keyturn emergency payments-api --key payments-api=key-old"},
		"not beside an exposed one":                   {promoted, func(f *policy.Facts) { expose(f, "key-new") }, "key-old", policy.KeyExposed, "keyturn emergency payments-api --key payments-api=key-new"},
		"not beside a current one that is disabled":   {promoted, func(f *policy.Facts) { f.Keys[1].State = key.Disabled }, "key-old", policy.RetiringKeyNotLive, "keyturn plan payments-api"},
		"not without a CURRENT":                       {promoted, func(f *policy.Facts) { f.Versions = f.Versions[:1] }, "key-old", policy.RetiringKeyNotLive, "keyturn plan payments-api"},
		"not beside one that keyturn did not promote": {promoted, func(f *policy.Facts) { f.Metadata.Keys[1].PromotedAt = time.Time{} }, "key-old", policy.NotPromoted, "keyturn-worker import payments-api"},
		"not one that was never stored": {left, func(f *policy.Facts) {
			f.Versions = f.Versions[:2]
			f.Metadata.Keys[2].StoreVersion = ""
		}, "key-left", policy.UnfinishedRotation, "keyturn rotate payments-api"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := c.from()
			c.change(&f)
			adopts := credential()
			adopts.Adopt = []string{"key-2024-07"}
			d := policy.MayRetire(adopts, f, c.keyID)
			assert.Equal(t, c.want, d.Reason, d.Message)
			assert.Contains(t, d.Message, c.says)
			can := func(inventory.Approval) string { return "" }
			s := policy.Settle(inventory.Spec{Generation: 100, Credential: adopts}, f, c.keyID, true, can)
			assert.Equal(t, d.OK, !s.Plan.Refused())
			if d.OK {
				require.NotNil(t, s.Plan.Retiring)
				assert.Equal(t, c.keyID, s.Plan.Retiring.KeyID)
				assert.Equal(t, "key-new", s.Current.KeyID)
			}
		})
	}
}

// Another run of the same secret, elsewhere, is waited for.
func TestNoKeyIsRetiredWhileTheCredentialIsHeld(t *testing.T) {
	t.Parallel()
	f := promoted()
	f.Held = "namespace other holds it"
	s := policy.Settle(inventory.Spec{Generation: 100, Credential: credential()}, f, "key-old", true, func(inventory.Approval) string { return "" })
	require.Len(t, s.Plan.Refusals, 1)
	assert.Equal(t, policy.Held, s.Plan.Refusals[0].Reason)
}

// The end of a key that never became CURRENT stands on what lets a rollback destroy it, and on the approvals of the revoke gate.
func TestTheEvidenceAgainstAKeyThatNeverBecameCurrent(t *testing.T) {
	t.Parallel()
	unwanted := key.Ref{Principal: "payments-api", KeyID: "key-left", StoreVersion: "v3", Fingerprint: "fp:left"}
	delivered := func(f *policy.Facts) {
		f.Metadata.Keys[2].DeliveredAt, f.Metadata.Keys[1].AttestedAt = now.Add(-59*time.Minute), now.Add(-50*time.Minute)
	}
	for name, c := range map[string]struct {
		change   func(*policy.Facts)
		missing  policy.Reason // "": complete
		neverHad bool
	}{
		"nobody ever had it, so that it needs no quiet":     {func(*policy.Facts) {}, "", true},
		"likewise when instances are silent":                {func(f *policy.Facts) { f.Instances[0].Statement = nil }, "", true},
		"somebody has it":                                   {func(f *policy.Facts) { f.Instances[0].Statement.Keys = []string{"fp:left"} }, policy.RetiringStillHeld, true},
		"it was delivered, and is not quiet":                {func(f *policy.Facts) { delivered(f); f.Keys[2].LastUsedAt = now }, policy.RetiringNotQuiet, false},
		"it was delivered, and somebody is silent":          {func(f *policy.Facts) { delivered(f); f.Instances[0].Statement = nil }, policy.InstanceNotConverged, false},
		"it was delivered, and the one that is kept failed": {func(f *policy.Facts) { delivered(f); f.Keys[1].State = key.Disabled }, policy.RetiringKeyNotLive, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := left()
			c.change(&f)
			e := policy.Gather(credential(), f, unwanted, incoming)
			assert.Equal(t, c.neverHad, e.NeverHad)
			assert.NotEmpty(t, e.Digest)
			d := policy.MayDisable(credential(), f, unwanted, incoming, nil)
			assert.False(t, d.OK, "nobody approved")
			if c.missing != "" {
				require.False(t, e.Complete)
				assert.Equal(t, c.missing, e.Missing[0].Reason, e.Missing[0].Message)
				assert.Equal(t, c.missing, policy.MayDisable(credential(), f, unwanted, incoming, []policy.Verdict{approval("ann", now)}).Reason)
				return
			}
			require.True(t, e.Complete, e.Missing)
			assert.False(t, e.Unseen, "that no use is told of a key that nobody had wants no approval more")
			assert.Contains(t, e.Describe(), "no consumer was ever sent to")
			assert.Equal(t, policy.ApprovalsMissing, d.Reason)
			d = policy.MayDisable(credential(), f, unwanted, incoming, []policy.Verdict{approval("ann", now)})
			assert.True(t, d.OK, d.Message)
		})
	}
}

// What refuses a rotation since a key is left over names the command that ends that key.
func TestWhoIsToldOfAKeyThatIsLeftOverIsToldHowToEndIt(t *testing.T) {
	t.Parallel()
	const command = "keyturn retire payments-api --key key-old --reason ..."
	can := func(inventory.Approval) string { return "" }
	f := promoted()
	f.Capabilities.Slots = 3
	f.Metadata.LastRotation = &key.LastRotation{ID: rotationID, Outcome: "completed-with-debt", At: now}
	plan := policy.Make(inventory.Spec{Generation: 100, Credential: credential()}, f, noPulls, can)
	require.Empty(t, plan.Refusals)
	require.Len(t, plan.Left, 1)
	assert.Equal(t, "key-old", plan.Left[0].Key.KeyID)
	assert.Contains(t, plan.Warnings, "retired key key-old is still alive (active): end it with: "+command)
	f.Capabilities.Slots = 2
	plan = policy.Make(inventory.Spec{Generation: 100, Credential: credential()}, f, noPulls, can)
	require.Len(t, plan.Refusals, 1)
	assert.Equal(t, policy.SlotsFull, plan.Refusals[0].Reason)
	assert.Contains(t, plan.Refusals[0].Message, command)

	f.Metadata.LastRotation = nil // it was cut off: the next one goes on with it, and ends the key
	plan = policy.Make(inventory.Spec{Generation: 100, Credential: credential()}, f, noPulls, can)
	assert.Empty(t, plan.Left)
	assert.NotContains(t, plan.Warnings, command)

	assert.Equal(t, `keyturn retire payments-api --key 'k; rm -r '\''/' --reason ...`, policy.RetireWith("payments-api", "k; rm -r '/"), "what is copied into a shell is quoted")

	paused := owing()
	paused.Paused = "for the move"
	assert.Contains(t, policy.MayTakeUp(paused, "key-old", now).Message, command)
	strange := owing()
	strange.Facts.Keys = append(strange.Facts.Keys, key.Info{KeyID: "stranger", State: key.Active})
	found := policy.Sweep(strange, now)
	assert.Contains(t, found[len(found)-1].Do, "keyturn retire payments-api --key stranger --reason ...")
}
