package policy_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
)

// says has a test of a key say something.
func says(keyID string, result policy.TestResult) func(*policy.Facts) {
	return func(f *policy.Facts) {
		f.Tests = map[string]policy.Test{keyID: {Result: result, Why: "a test says so"}}
	}
}

func TestMayDeliver(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		facts  policy.Facts
		change func(*policy.Facts)
		wanted key.Ref
		want   policy.Reason
	}{
		"an incoming key that works":                            {staged(), says("key-new", policy.TestPasses), incoming, policy.Allowed},
		"not one that was not seen to work":                     {staged(), func(f *policy.Facts) { f.Metadata.Keys[1].VerifiedAt = time.Time{} }, incoming, policy.KeyNotWorking},
		"not one that is disabled":                              {staged(), func(f *policy.Facts) { f.Keys[1].State = key.Disabled }, incoming, policy.IncomingNotLive},
		"one that ends much later":                              {staged(), func(f *policy.Facts) { f.Keys[1].ExpiresAt = now.Add(100 * time.Hour) }, incoming, policy.Allowed},
		"not one that ends soon":                                {staged(), func(f *policy.Facts) { f.Keys[1].ExpiresAt = now.Add(59 * time.Minute) }, incoming, policy.IncomingNotLive},
		"not one that a test refuses":                           {staged(), says("key-new", policy.TestRefused), incoming, policy.IncomingNotLive},
		"not one that nobody could test":                        {staged(), says("key-new", policy.TestUnknown), incoming, policy.KeyNotTested},
		"CURRENT that nobody could test, since it is that kept": {before(), says("key-old", policy.TestUnknown), retiring, policy.Allowed},
		"CURRENT as the way back, though nobody could test it":  {staged(), says("key-old", policy.TestUnknown), retiring, policy.Allowed},
		"also beside an earlier one": {staged(), func(f *policy.Facts) {
			f.Keys = append(f.Keys, key.Info{KeyID: "key-z", State: key.Active})
			f.Versions = append(f.Versions, stored("v0", "key-z", "fp:z", key.Previous))
			says("key-old", policy.TestUnknown)(f)
		}, retiring, policy.Allowed},
		"not CURRENT that a test refuses":                  {staged(), says("key-old", policy.TestRefused), retiring, policy.IncomingNotLive},
		"not CURRENT that is disabled":                     {staged(), func(f *policy.Facts) { f.Keys[0].State = key.Disabled }, retiring, policy.IncomingNotLive},
		"CURRENT that a rotation has promoted":             {promoted(), says("key-new", policy.TestPasses), incoming, policy.Allowed},
		"not when nobody could test that one":              {promoted(), says("key-new", policy.TestUnknown), incoming, policy.KeyNotTested},
		"a retiring key, though nobody could test it":      {promoted(), says("key-old", policy.TestUnknown), retiring, policy.Allowed},
		"not one that a test refuses, though it is listed": {promoted(), says("key-old", policy.TestRefused), retiring, policy.IncomingNotLive},
		"not one from which nothing leads back":            {promoted(), func(f *policy.Facts) { f.Metadata.Keys[1].KeptAt = now }, retiring, policy.WayBackOver},
		"not a stranger's": {staged(), func(f *policy.Facts) {
			f.Keys = append(f.Keys, key.Info{KeyID: "stranger", State: key.Active})
		}, key.Ref{KeyID: "stranger"}, policy.NotOurs},
		"not one that is gone": {staged(), func(f *policy.Facts) { f.Keys = f.Keys[:1] }, incoming, policy.NotOurs},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.change(&c.facts)
			d := policy.MayDeliver(credential(), c.facts, c.wanted)
			assert.Equal(t, c.want, d.Reason, d.Message)
		})
	}
}

func TestADeliveredKeyThatWorksNoMore(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*policy.Facts)
		want   policy.Reason
	}{
		"one that is active works":       {func(*policy.Facts) {}, policy.Allowed},
		"one that was disabled does not": {func(f *policy.Facts) { f.Keys[1].State = key.Disabled }, policy.IncomingNotLive},
		"one that has ended does not":    {func(f *policy.Facts) { f.Keys[1].ExpiresAt = now }, policy.IncomingNotLive},
		"one that is gone does not":      {func(f *policy.Facts) { f.Keys = f.Keys[:1] }, policy.IncomingNotLive},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := staged()
			c.change(&f)
			assert.Equal(t, c.want, policy.StillWorks(f, incoming).Reason)
		})
	}
}

func TestMayContain(t *testing.T) {
	t.Parallel()
	well := func(*policy.Facts) {}
	for name, c := range map[string]struct {
		change func(*policy.Facts)
		late   bool
		want   policy.Reason
	}{
		"when everybody is on the other key":     {well, false, policy.Allowed},
		"not while somebody is not":              {func(f *policy.Facts) { f.Instances[1].Statement.Keys = []string{"fp:old"} }, false, policy.InstanceNotConverged},
		"not while somebody says nothing":        {func(f *policy.Facts) { f.Instances[1].Statement = nil }, false, policy.InstanceNotConverged},
		"not while somebody has both":            {func(f *policy.Facts) { f.Instances[1].Statement.Keys = []string{"fp:new", "fp:old"} }, false, policy.RetiringStillHeld},
		"whoever still uses it, when it is late": {func(f *policy.Facts) { f.Instances[1].Statement = nil }, true, policy.Allowed},
		"not while an attempt may still deliver it": {func(f *policy.Facts) {
			f.Metadata.Keys[0].Delivering = map[string]time.Time{"of a run before": now.Add(-time.Minute)}
		}, false, policy.DeliveryNotOver},
		"not when the other is refused":        {says("key-new", policy.TestRefused), false, policy.IncomingNotLive},
		"not when nobody could test the other": {says("key-new", policy.TestUnknown), false, policy.KeyNotTested},
		"not while it is CURRENT": {func(f *policy.Facts) {
			f.Versions[0].Labels, f.Versions[1].Labels = []key.Label{key.Current}, []key.Label{key.Pending}
			f.Capabilities.Slots = 3
		}, false, policy.CurrentMoved},
		"not while CURRENT is no key": {func(f *policy.Facts) { f.Versions[1].KeyID = ""; f.Capabilities.Slots = 3 }, false, policy.CurrentMoved},
		"whoever uses it, when nothing else frees a slot for another": {func(f *policy.Facts) {
			f.Versions[1].KeyID = ""
			f.Instances[1].Statement = nil
		}, false, policy.Allowed},
		"one that is gone needs nothing more":   {func(f *policy.Facts) { f.Keys = f.Keys[1:] }, false, policy.KeyGone},
		"one that nobody knows may be mistyped": {func(f *policy.Facts) { f.Keys, f.Metadata.Keys = f.Keys[1:], f.Metadata.Keys[1:] }, false, policy.KeyAbsent},
		"one that an emergency ended is none such": {func(f *policy.Facts) {
			f.Keys, f.Metadata.Keys = f.Keys[1:], f.Metadata.Keys[1:]
			f.Metadata.Incident = &key.Incident{Ending: []string{"key-old"}}
		}, false, policy.KeyGone},
		"nor is one that the last rotation ended": {func(f *policy.Facts) {
			f.Keys, f.Metadata.Keys = f.Keys[1:], f.Metadata.Keys[1:]
			f.Metadata.LastRotation = &key.LastRotation{ID: "emergency", Ended: []string{"key-old"}}
		}, false, policy.KeyGone},
		"nor does it speak for another": {func(f *policy.Facts) {
			f.Keys, f.Metadata.Keys = f.Keys[1:], f.Metadata.Keys[1:]
			f.Metadata.Incident = &key.Incident{Ending: []string{"key-z"}}
		}, false, policy.KeyAbsent},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := promoted()
			expose(&f, "key-old")
			c.change(&f)
			d := policy.MayContain(credential(), f, retiring, []string{"key-old"}, "the-emergency", c.late)
			assert.Equal(t, c.want, d.Reason, d.Message)
		})
	}
}

func TestMayDestroyOrphan(t *testing.T) {
	t.Parallel()
	record := func(change func(*key.Owned)) func(*policy.Facts) {
		return func(f *policy.Facts) {
			mine := key.Owned{Ref: key.Ref{KeyID: "key-a"}, Rotation: rotationID}
			change(&mine)
			f.Metadata.Keys = append(f.Metadata.Keys, mine)
		}
	}
	disabledFor := func(d time.Duration) func(*policy.Facts) {
		return func(f *policy.Facts) {
			f.Keys[1].State = key.Disabled
			record(func(mine *key.Owned) { mine.DisabledAt = f.At.Add(-d) })(f)
		}
	}
	for name, c := range map[string]struct {
		change func(*policy.Facts)
		want   policy.Reason
	}{
		"one with the token of its mint, at once":                      {func(f *policy.Facts) { f.Keys[1].Token = policy.Token(rotationID, 1) }, policy.Allowed},
		"one without, that is told of late, waits":                     {func(*policy.Facts) {}, policy.OrphanNotQuiet},
		"at once where uses are never told":                            {func(f *policy.Facts) { f.Capabilities.ReportsUsage = false }, policy.Allowed},
		"or told without a lag":                                        {func(f *policy.Facts) { f.Capabilities.UsageLag = 0 }, policy.Allowed},
		"disabled for the lag":                                         {disabledFor(time.Hour), policy.Allowed},
		"not before":                                                   {disabledFor(time.Hour - time.Second), policy.OrphanNotQuiet},
		"not while since when it is disabled is not told":              {func(f *policy.Facts) { f.Keys[1].State = key.Disabled }, policy.OrphanNotQuiet},
		"not when somebody enabled it":                                 {func(f *policy.Facts) { disabledFor(2 * time.Hour)(f); f.Keys[1].State = key.Active }, policy.OrphanNotQuiet},
		"where nothing disables, not before the lag since it was made": {func(f *policy.Facts) { f.Capabilities.CanDisable = false }, policy.OrphanNotQuiet},
		"and then":                            {func(f *policy.Facts) { f.Capabilities.CanDisable, f.At = false, f.Keys[1].CreatedAt.Add(time.Hour) }, policy.Allowed},
		"not one that is in the store":        {func(f *policy.Facts) { f.Versions = append(f.Versions, stored("v2", "key-a", "fp:a", key.Pending)) }, policy.NotOurs},
		"nor recorded as staged":              {record(func(mine *key.Owned) { mine.StoreVersion = "v2" }), policy.NotOurs},
		"nor as promoted":                     {record(func(mine *key.Owned) { mine.PromotedAt = now }), policy.NotOurs},
		"nor without a rotation":              {record(func(mine *key.Owned) { mine.Rotation = "" }), policy.NotOurs},
		"nor a stranger's":                    {func(f *policy.Facts) { f.Metadata.Intents = nil }, policy.NotOurs},
		"one that is gone needs nothing more": {func(f *policy.Facts) { f.Keys = f.Keys[:1] }, policy.Allowed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := interrupted([]int{0}, 5)
			c.change(&f)
			d := policy.MayDestroyOrphan(f, nil, key.Ref{KeyID: "key-a"})
			assert.Equal(t, c.want, d.Reason, d.Message)
			if c.want == policy.OrphanNotQuiet {
				assert.Equal(t, c.want, policy.MayDiscard(credential(), f, key.Ref{KeyID: "key-a"}).Reason, "discarding it asks as much")
			}
		})
	}
}

func TestMayWithdraw(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*policy.Facts)
		want   policy.Reason
	}{
		"what nobody uses": {func(f *policy.Facts) { f.Keys[1].LastUsedAt = time.Time{} }, policy.Allowed},
		"not what somebody states": {func(f *policy.Facts) {
			f.Keys[1].LastUsedAt = time.Time{}
			f.Instances[2] = instance("checkout", "b", "rest", "fp:new")
		}, policy.RetiringStillHeld},
		"not what somebody has used": {func(*policy.Facts) {}, policy.RetiringNotQuiet},
		"what is gone":               {func(f *policy.Facts) { f.Keys = f.Keys[:1] }, policy.Allowed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := staged()
			f.Instances = fleet("fp:old")
			f.Instances[0].Statement = nil
			c.change(&f)
			assert.Equal(t, c.want, policy.MayWithdraw(f, incoming).Reason)
		})
	}
}

// An approved end that gave way is taken back; a lost key nobody ever had.
func TestWhatIsEnabledOfKeysThatNobodyKept(t *testing.T) {
	t.Parallel()
	f := staged()
	f.Keys[1].State = key.Disabled
	assert.Equal(t, policy.NotOurs, policy.MayEnable(credential(), f, incoming).Reason, "somebody else disabled it")
	f.Metadata.Keys[1].DisablingAt = now
	assert.Equal(t, policy.Allowed, policy.MayEnable(credential(), f, incoming).Reason)
	f.Metadata.Keys[1].StoreVersion = ""
	assert.Equal(t, policy.NotOurs, policy.MayEnable(credential(), f, incoming).Reason, "it was never stored")
	assert.Equal(t, policy.Allowed, policy.MayEnable(credential(), f, retiring).Reason, "consumers use it")
}

func TestARotationThatEndedIsNotDoneAgain(t *testing.T) {
	t.Parallel()
	f := before()
	assert.True(t, policy.MayRun(f, rotationID).OK, "none has ended")
	f.Metadata.LastRotation = &key.LastRotation{ID: rotationID, Outcome: "completed", At: now}
	assert.Equal(t, policy.RotationEnded, policy.MayRun(f, rotationID).Reason)
	assert.True(t, policy.MayRun(f, "another").OK)
	f.Metadata.LastRotation.Outcome = key.OutcomeFailed
	assert.True(t, policy.MayRun(f, rotationID).OK, "its cause is mended")
}

// A rotation that ends well leaves consumers with a key that works.
func TestWhetherCurrentWorks(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*policy.Facts)
		want   policy.Reason
	}{
		"an active key does":                     {func(*policy.Facts) {}, policy.Allowed},
		"a disabled one does not":                {func(f *policy.Facts) { f.Keys[1].State = key.Disabled }, policy.KeyNotWorking},
		"one of ours that is gone does not":      {func(f *policy.Facts) { f.Keys, f.Versions[1].KeyID = f.Keys[:1], "" }, policy.KeyNotWorking},
		"of what was never ours nothing is said": {func(f *policy.Facts) { f.Versions[1] = stored("v3", "", "fp:z", key.Current) }, policy.Allowed},
		"nor where nothing is CURRENT":           {func(f *policy.Facts) { f.Versions = nil; f.Metadata.Keys[0].StoreVersion = "" }, policy.Allowed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := promoted()
			c.change(&f)
			assert.Equal(t, c.want, policy.CurrentWorks(f).Reason)
		})
	}
}

// What is kept beside an unwanted key is never one that an incident exposed, nor the unwanted one.
func TestWhatIsKeptBesideAnUnwantedKey(t *testing.T) {
	t.Parallel()
	unwanted := []key.Ref{incoming}
	f := staged()
	assert.Equal(t, "key-old", policy.KeptBeside(credential(), f, unwanted))
	assert.True(t, policy.StillKept(credential(), f, "key-old").OK)
	f.Keys[0].State = key.Disabled
	assert.Equal(t, policy.RetiringKeyNotLive, policy.StillKept(credential(), f, "key-old").Reason)
	assert.True(t, policy.StillKept(credential(), f, "").OK)

	f = staged()
	f.Metadata.Keys[1].DeliveredAt = time.Time{}
	assert.Empty(t, policy.KeptBeside(credential(), f, unwanted), "nobody had it")
	f.Instances[0].Pulls, f.Instances[0].Wave = true, inventory.CanaryWave
	assert.Equal(t, "key-old", policy.KeptBeside(credential(), f, unwanted), "somebody reads PENDING")

	f = staged() // somebody has put into CURRENT what is no key
	f.Versions[0].Labels = []key.Label{key.Previous}
	f.Versions = append(f.Versions, stored("v3", "", "fp:somebody's", key.Current))
	assert.Equal(t, "key-old", policy.KeptBeside(credential(), f, unwanted))
	expose(&f, "key-old")
	assert.Empty(t, policy.KeptBeside(credential(), f, unwanted))
}

// Right before a key is minted, the approvals of the sign-off gate are counted again.
func TestMayMint(t *testing.T) {
	t.Parallel()
	signoff := func(id, by string, at time.Time) policy.Verdict {
		return policy.Verdict{ID: id, Action: policy.Approve, Gate: inventory.GateSignoff, By: by, Accepted: true, Verified: true, Groups: []string{"owners"}, At: at}
	}
	broken := signoff("c", "cam", now)
	broken.BreakGlass = true
	for name, c := range map[string]struct {
		approvals []policy.Verdict
		want      policy.Reason
	}{
		"on the approvals of two":    {[]policy.Verdict{signoff("a", "ann", now), signoff("b", "bob", now)}, policy.Allowed},
		"not on that of one":         {[]policy.Verdict{signoff("a", "ann", now)}, policy.ApprovalsMissing},
		"nor on two of the same":     {[]policy.Verdict{signoff("a", "ann", now), signoff("b", "ann", now)}, policy.ApprovalsMissing},
		"nor on one that is too old": {[]policy.Verdict{signoff("a", "ann", now), signoff("b", "bob", now.Add(-24*time.Hour))}, policy.ApprovalsMissing},
		"on one by break-glass":      {[]policy.Verdict{broken}, policy.Allowed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cred := credential()
			cred.Approvals.Signoff = &inventory.Approval{Count: 2, Trust: inventory.TrustSigned, From: []string{"owners"}, ApprovalExpires: hours(24)}
			d := policy.MayMint(cred, before(), c.approvals)
			assert.Equal(t, c.want, d.Reason, d.Message)
			assert.Equal(t, len(c.approvals) == 1 && c.approvals[0].BreakGlass, d.Broke != nil, "it is owed a review")
		})
	}
}

// Where nothing proves whose an approval is, none passes a gate alone; and where nobody is asked, nobody more is.
func TestWhatAGateAsksFor(t *testing.T) {
	t.Parallel()
	c := credential()
	c.Approvals.Signoff = &inventory.Approval{Count: 2, Trust: inventory.TrustAny}
	alone := policy.Verdict{ID: "c", Action: policy.Approve, Gate: inventory.GateSignoff, By: "cam", Accepted: true, Verified: true, BreakGlass: true, At: now}
	assert.Equal(t, policy.ApprovalsMissing, policy.MayMint(c, before(), []policy.Verdict{alone}).Reason)
	assert.Equal(t, 2, policy.Needs(c, inventory.GateSignoff, true).Count, "uses tell nothing of a mint")
	assert.Equal(t, 2, policy.Needs(c, inventory.GateRevoke, true).Count)
	assert.Equal(t, 1, policy.Needs(c, inventory.GateRevoke, false).Count)
	c.Approvals.Revoke.Count = 0
	assert.Zero(t, policy.Needs(c, inventory.GateRevoke, true).Count)
}

// Since when a key is quiet is told as of the last moment at which somebody may have had it.
func TestSinceWhenAKeyIsQuiet(t *testing.T) {
	t.Parallel()
	at := now.Add(-10 * time.Hour)
	for name, change := range map[string]func(*policy.Facts){
		"it was used":                  func(f *policy.Facts) { f.Keys[0].LastUsedAt = at },
		"it was delivered":             func(f *policy.Facts) { f.Metadata.Keys[0].DeliveredAt = at },
		"the other one was attested":   func(f *policy.Facts) { f.Metadata.Keys[1].AttestedAt = at },
		"the other one became CURRENT": func(f *policy.Facts) { f.Metadata.Keys[1].PromotedAt = at },
	} {
		f := promoted()
		change(&f)
		assert.Equal(t, at, policy.Gather(credential(), f, retiring, incoming).QuietSince, name)
	}
	for name, change := range map[string]func(*policy.Facts){
		"it was used":                     func(f *policy.Facts) { f.Keys[1].LastUsedAt = at },
		"it was delivered":                func(f *policy.Facts) { f.Metadata.Keys[1].DeliveredAt = at },
		"the kept one was delivered back": func(f *policy.Facts) { f.Metadata.Keys[0].DeliveredAt = at },
		"the kept one was attested":       func(f *policy.Facts) { f.Metadata.Keys[0].AttestedAt = at },
	} {
		f := staged()
		f.Keys[1].LastUsedAt = now.Add(-58 * time.Hour)
		change(&f)
		assert.Equal(t, at, policy.Gather(credential(), f, incoming, retiring).QuietSince, name)
	}
}

// Of a key that only the store tells of, its labels say what it is: none but one that is PENDING alone was never kept.
func TestStandingsByLabels(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		labels []key.Label
		want   policy.Standing
	}{
		"no label":             {nil, policy.StandingRetired},
		"PREVIOUS":             {[]key.Label{key.Previous}, policy.StandingRetired},
		"PENDING":              {[]key.Label{key.Pending}, policy.StandingIncoming},
		"PENDING and PREVIOUS": {[]key.Label{key.Pending, key.Previous}, policy.StandingRetired},
	} {
		f := before()
		f.Keys = append(f.Keys, key.Info{KeyID: "key-x", State: key.Active})
		f.Versions = append(f.Versions, stored("v2", "key-x", "fp:x", c.labels...))
		assert.Equal(t, c.want, f.Standings(nil)["key-x"], name)
	}
	f := before()
	f.Versions, f.Metadata.Keys = nil, nil
	f.Keys = append(f.Keys, key.Info{KeyID: "key-x", State: key.Disabled})
	assert.Equal(t, policy.StandingCurrent, f.Standings([]string{"key-old", "key-x"})["key-old"], "of adopted keys, the one that is active")
	f.Keys[1].State = key.Active
	assert.Equal(t, policy.StandingRetired, f.Standings([]string{"key-old", "key-x"})["key-old"], "of two, none")
}

// Only when CURRENT is the key of before again has a rotation turned back from its own.
func TestWhetherARotationTurnedBackFromItsKey(t *testing.T) {
	t.Parallel()
	back := func() policy.Facts {
		f := promoted()
		f.Versions[0].Labels, f.Versions[1].Labels = f.Versions[1].Labels, f.Versions[0].Labels
		f.Metadata.Keys[1].TurnedBackAt = now
		return f
	}
	f := back()
	assert.True(t, f.TurnedBackFrom(f.Metadata.Keys[1]))
	assert.Equal(t, policy.StandingIncoming, f.Standings(nil)["key-new"])
	for name, change := range map[string]func(*policy.Facts){
		"it did not turn back":                   func(f *policy.Facts) { f.Metadata.Keys[1].TurnedBackAt = time.Time{} },
		"CURRENT is still the key":               func(f *policy.Facts) { f.Versions = promoted().Versions },
		"CURRENT is none of ours":                func(f *policy.Facts) { f.Metadata.Keys[0].KeyID = "key-z" },
		"when CURRENT was promoted is not known": func(f *policy.Facts) { f.Metadata.Keys[0].PromotedAt = time.Time{} },
		"CURRENT was promoted later":             func(f *policy.Facts) { f.Metadata.Keys[0].PromotedAt = now },
	} {
		f := back()
		change(&f)
		assert.False(t, f.TurnedBackFrom(f.Metadata.Keys[1]), name)
		assert.NotEqual(t, policy.StandingIncoming, f.Standings(nil)["key-new"], name)
	}
}

// A key that a canary may have read, or that was promoted and turned back from, is none that nobody had.
func TestAKeyThatConsumersNeverHad(t *testing.T) {
	t.Parallel()
	never := func() policy.Facts {
		f := staged()
		f.Instances, f.Metadata.Keys[1].DeliveredAt, f.Keys[1].LastUsedAt = fleet("fp:old"), time.Time{}, time.Time{}
		return f
	}
	e := policy.Gather(credential(), never(), incoming, retiring)
	assert.True(t, e.Complete && e.NeverHad && !e.Unseen, e.Describe())
	f := never()
	f.Instances[0].Pulls = true
	assert.False(t, policy.Gather(credential(), f, incoming, retiring).NeverHad, "a canary reads PENDING")
	f = turnedBack(never())
	f.Metadata.Keys[1].PromotedAt = now.Add(-50 * time.Hour)
	e = policy.Gather(credential(), f, incoming, retiring)
	assert.False(t, e.NeverHad, "it was CURRENT")
	assert.True(t, e.Unseen, "one approval more is asked for")
}

// The end of a key that never was CURRENT needs all that of a retired one does.
func TestAnUnkeptKeyIsDestroyedAfterItsSoak(t *testing.T) {
	t.Parallel()
	f := staged()
	f.Instances = fleet("fp:old")
	f.Keys[1].State, f.Keys[1].LastUsedAt = key.Disabled, now.Add(-40*time.Hour)
	mine := &f.Metadata.Keys[1]
	mine.DisablingAt, mine.DisabledAt, mine.DisablingRun = now.Add(-25*time.Hour), now.Add(-25*time.Hour), "run-1"
	approvals := []policy.Verdict{approval("ann", now.Add(-26*time.Hour))}
	d := policy.MayRevoke(credential(), f, incoming, retiring, "run-1", approvals)
	assert.Equal(t, policy.Allowed, d.Reason, d.Message)
	mine.DisabledAt = now.Add(-23 * time.Hour)
	assert.Equal(t, policy.SoakNotOver, policy.MayRevoke(credential(), f, incoming, retiring, "run-1", approvals).Reason)
}

// A refused key is gone on from by another one only where nothing leads back.
func TestARefusedKeyIsSparedWhereThereIsNoOther(t *testing.T) {
	t.Parallel()
	f := staged()
	says("key-new", policy.TestRefused)(&f)
	assert.False(t, policy.Spared(credential(), f, incoming), "it is discarded")
	f.Keys, f.Versions, f.Metadata.Keys = f.Keys[1:], f.Versions[1:], f.Metadata.Keys[1:]
	assert.True(t, policy.Spared(credential(), f, incoming))
	says("key-new", policy.TestUnknown)(&f)
	assert.False(t, policy.Spared(credential(), f, incoming), "it is gone on with")
}

func TestMayResume(t *testing.T) {
	t.Parallel()
	assert.True(t, policy.MayResume(credential(), staged(), incoming).OK)
	assert.False(t, policy.MayResume(credential(), staged(), retiring).OK, "another key")
	assert.False(t, policy.MayResume(credential(), before(), incoming).OK, "there is none")
}
