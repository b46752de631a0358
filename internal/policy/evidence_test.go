package policy_test

import (
	"encoding/json"
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

func TestMayDisable(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		change func(*inventory.Credential, *policy.Facts)
		want   policy.Reason
	}{
		"with everything proved and approved it may": {func(*inventory.Credential, *policy.Facts) {}, policy.Allowed},
		"an instance that states nothing holds it": {func(_ *inventory.Credential, f *policy.Facts) {
			f.Instances[1].Statement, f.Instances[1].NotAttesting = nil, "no route"
		}, policy.InstanceNotConverged},
		"an instance on the retiring key holds it": {func(_ *inventory.Credential, f *policy.Facts) { f.Instances[1].Statement.Keys = []string{"key-old"} }, policy.InstanceNotConverged},
		"an instance that holds both keys holds it": {func(_ *inventory.Credential, f *policy.Facts) {
			f.Instances[1].Statement.Keys = []string{"fp:new", "fp:old"}
		}, policy.RetiringStillHeld},
		"an incoming key that was never used holds it": {func(_ *inventory.Credential, f *policy.Facts) { f.Keys[1].LastUsedAt = time.Time{} }, policy.IncomingNotUsed},
		"an incoming key that keyturn alone used, to see it work, holds it": {func(_ *inventory.Credential, f *policy.Facts) {
			f.Keys[1].LastUsedAt = f.Metadata.Keys[1].VerifiedAt.Add(time.Minute)
		}, policy.IncomingNotUsed},
		"an incoming key that was not used since its last delivery holds it": {func(_ *inventory.Credential, f *policy.Facts) {
			f.Keys[1].LastUsedAt = f.Metadata.Keys[1].DeliveredAt
		}, policy.IncomingNotUsed},
		"an incoming key that was disabled holds it":       {func(_ *inventory.Credential, f *policy.Facts) { f.Keys[1].State = key.Disabled }, policy.IncomingNotLive},
		"a use of the retiring key in the window holds it": {func(_ *inventory.Credential, f *policy.Facts) { f.Keys[0].LastUsedAt = now.Add(-5 * time.Hour) }, policy.RetiringNotQuiet},
		"a window shorter than the lag is as long as the lag": {func(c *inventory.Credential, f *policy.Facts) {
			c.QuietWindow, f.Capabilities.UsageLag = hours(1), 6*time.Hour
			f.Keys[0].LastUsedAt = now.Add(-5 * time.Hour)
		}, policy.RetiringNotQuiet},
		"an incoming key that ends soon holds it": {func(_ *inventory.Credential, f *policy.Facts) { f.Keys[1].ExpiresAt = now.Add(59 * time.Minute) }, policy.IncomingNotLive},
		"an issuer that reports no usage has no last use": {func(c *inventory.Credential, f *policy.Facts) {
			c.Approvals.Revoke = nil
			f.Capabilities.ReportsUsage = false
			f.Keys[0].LastUsedAt, f.Keys[1].LastUsedAt = now, time.Time{}
		}, policy.Allowed},
		"and, where people are asked, wants one approval more": {func(_ *inventory.Credential, f *policy.Facts) {
			f.Capabilities.ReportsUsage = false
		}, policy.ApprovalsMissing},
		"so does one that tells of no use of the retiring key": {func(_ *inventory.Credential, f *policy.Facts) {
			f.Keys[0].LastUsedAt = time.Time{}
		}, policy.ApprovalsMissing},
		"an incoming key that is listed as active, and that a test refuses, holds it": {func(_ *inventory.Credential, f *policy.Facts) {
			f.Tests = map[string]policy.Test{"key-new": {Result: policy.TestRefused, Why: "403"}}
		}, policy.IncomingNotLive},
		"one that nobody could test holds it, for another reason": {func(_ *inventory.Credential, f *policy.Facts) {
			f.Tests = map[string]policy.Test{"key-new": {Result: policy.TestUnknown, Why: "503"}}
		}, policy.KeyNotTested},
		"a use that was seen before keyturn tested the key is one": {func(_ *inventory.Credential, f *policy.Facts) {
			f.Metadata.Keys[1].UsedAt, f.Metadata.Keys[1].TestedUntil = f.Keys[1].LastUsedAt, now
			f.Keys[1].LastUsedAt = now
		}, policy.Allowed},
		"one that may have been the test is none": {func(_ *inventory.Credential, f *policy.Facts) {
			f.Metadata.Keys[1].TestedUntil, f.Keys[1].LastUsedAt = now, now
		}, policy.IncomingNotUsed},
		"but a window that counts from when all had the incoming key": {func(_ *inventory.Credential, f *policy.Facts) {
			f.Capabilities.ReportsUsage = false
			f.Metadata.Keys[1].AttestedAt = now.Add(-6 * time.Hour)
		}, policy.RetiringNotQuiet},
		"the last instance that attested the incoming key begins the window": {func(_ *inventory.Credential, f *policy.Facts) {
			f.Metadata.Keys[1].AttestedAt = now.Add(-6 * time.Hour)
		}, policy.RetiringNotQuiet},
		"an overlap that is not over by the store's record holds it": {func(_ *inventory.Credential, f *policy.Facts) {
			f.Metadata.Keys[1].PromotedAt = now.Add(-47 * time.Hour)
		}, policy.OverlapNotOver},
		"a retiring key that expired needs no overlap and no quiet": {func(_ *inventory.Credential, f *policy.Facts) {
			f.Metadata.Keys[1].PromotedAt = now.Add(-time.Hour)
			f.Keys[0].ExpiresAt, f.Keys[0].LastUsedAt = now.Add(-time.Minute), now.Add(-2*time.Minute)
		}, policy.Allowed},
		"but an incoming key that consumers use": {func(_ *inventory.Credential, f *policy.Facts) {
			f.Keys[0].ExpiresAt, f.Keys[1].LastUsedAt = now.Add(-time.Minute), time.Time{}
		}, policy.IncomingNotUsed},
		"an incoming key that is exposed holds it": {func(_ *inventory.Credential, f *policy.Facts) { expose(f, "key-new") }, policy.KeyExposed},
		"not when the retiring one is exposed as well": {func(_ *inventory.Credential, f *policy.Facts) {
			expose(f, "key-new")
			f.Metadata.Exposed["key-old"] = f.Metadata.Exposed["key-new"]
		}, policy.Allowed},
		"an overlap ends before the retiring key does": {func(_ *inventory.Credential, f *policy.Facts) {
			f.Metadata.Keys[1].PromotedAt = now.Add(-47 * time.Hour)
			f.Keys[0].ExpiresAt = now.Add(time.Hour)
		}, policy.Allowed},
		"a CURRENT that is another key holds it": {func(_ *inventory.Credential, f *policy.Facts) { f.Versions[1].KeyID = "key-z" }, policy.CurrentMoved},
		"the key that is CURRENT is never the retiring one": {func(_ *inventory.Credential, f *policy.Facts) {
			f.Versions[0].Labels, f.Versions[1].Labels = []key.Label{key.Current}, []key.Label{key.Pending}
		}, policy.NotOurs},
		"an attempt that may still deliver it holds it": {func(_ *inventory.Credential, f *policy.Facts) {
			f.Metadata.Keys[0].Delivering = map[string]time.Time{"of a run before": now.Add(-time.Hour)}
		}, policy.DeliveryNotOver},
		"one that is over does not": {func(_ *inventory.Credential, f *policy.Facts) {
			f.Metadata.Keys[0].Delivering = map[string]time.Time{"of a run before": now.Add(-2 * time.Hour)}
		}, policy.Allowed},
		"a key that is gone needs nothing more": {func(_ *inventory.Credential, f *policy.Facts) { f.Keys = f.Keys[1:] }, policy.KeyGone},
		"two approvals are not one":             {func(c *inventory.Credential, _ *policy.Facts) { c.Approvals.Revoke.Count = 2 }, policy.ApprovalsMissing},
		"an approval that expired does not count": {func(c *inventory.Credential, f *policy.Facts) {
			c.Approvals.Revoke.ApprovalExpires = inventory.Duration(30 * time.Minute)
		}, policy.ApprovalsMissing},
		"without a gate nobody is asked": {func(c *inventory.Credential, _ *policy.Facts) { c.Approvals.Revoke = nil }, policy.Allowed},
		"nor by one of no approvals, though no use is told": {func(c *inventory.Credential, f *policy.Facts) {
			c.Approvals.Revoke.Count, f.Keys[0].LastUsedAt = 0, time.Time{}
		}, policy.Allowed},
		"an adopted key that no record tells of may have had consumers, though no use is told": {func(c *inventory.Credential, f *policy.Facts) {
			c.Adopt, f.Metadata.Keys, f.Keys[0].LastUsedAt = []string{"key-old"}, f.Metadata.Keys[1:], time.Time{}
		}, policy.ApprovalsMissing},
		"a retiring key that was delivered again begins the window": {func(_ *inventory.Credential, f *policy.Facts) {
			f.Metadata.Keys[0].DeliveredAt = now.Add(-6 * time.Hour)
		}, policy.RetiringNotQuiet},
		"so does when the last one attested, by the clock of who reports": {func(_ *inventory.Credential, f *policy.Facts) {
			f.Metadata.Keys[1].AttestedAt, f.Metadata.Keys[1].AttestedReport = now.Add(-8*time.Hour), now.Add(-5*time.Hour)
			f.Keys[0].ReportedAt = now
		}, policy.RetiringNotQuiet},
		"an incoming key that consumers have by promotion alone is theirs": {func(_ *inventory.Credential, f *policy.Facts) {
			f.Metadata.Keys[1].DeliveredAt = time.Time{}
		}, policy.Allowed},
		"an approval is spent once somebody enabled the key again": {func(_ *inventory.Credential, f *policy.Facts) {
			mine := &f.Metadata.Keys[0]
			mine.Approvals, mine.DisablingAt, mine.DisabledAt = []string{"nonce-1"}, now.Add(-time.Minute), now.Add(-time.Minute)
		}, policy.ApprovalsMissing},
		"not while it is being disabled on it": {func(_ *inventory.Credential, f *policy.Facts) {
			f.Metadata.Keys[0].Approvals, f.Metadata.Keys[0].DisablingAt = []string{"nonce-1"}, now.Add(-time.Minute)
		}, policy.Allowed},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cred, f := credential(), promoted()
			c.change(&cred, &f)
			d := policy.MayDisable(cred, f, retiring, incoming, []policy.Verdict{approval("ann", now.Add(-time.Hour))})
			assert.Equal(t, c.want, d.Reason, d.Message)
			assert.Equal(t, c.want == policy.Allowed || c.want == policy.KeyGone, d.OK)
		})
	}
}

func TestMayRevoke(t *testing.T) {
	t.Parallel()
	soaked := func() policy.Facts {
		f := promoted()
		f.Keys[0].State = key.Disabled
		f.Metadata.Keys[0].DisabledAt, f.Metadata.Keys[0].DisablingRun = now.Add(-25*time.Hour), "run-1"
		return f
	}
	cases := map[string]struct {
		change func(*policy.Facts)
		want   policy.Reason
	}{
		"a key that was disabled for the soak may be destroyed": {func(*policy.Facts) {}, policy.Allowed},
		"a key that is active again may not":                    {func(f *policy.Facts) { f.Keys[0].State = key.Active }, policy.NotDisabled},
		"a key that somebody else disabled may not":             {func(f *policy.Facts) { f.Metadata.Keys[0].DisabledAt = time.Time{} }, policy.NotDisabled},
		"one that another run disabled may not":                 {func(f *policy.Facts) { f.Metadata.Keys[0].DisablingRun = "run-0" }, policy.NotDisabled},
		"a soak that is not over holds it":                      {func(f *policy.Facts) { f.Metadata.Keys[0].DisabledAt = now.Add(-23 * time.Hour) }, policy.SoakNotOver},
		"one that is over does not":                             {func(f *policy.Facts) { f.Metadata.Keys[0].DisabledAt = now.Add(-24 * time.Hour) }, policy.Allowed},
		"somebody who used it since holds it": {func(f *policy.Facts) {
			f.Metadata.Keys[0].DisablingAt, f.Keys[0].LastUsedAt = now.Add(-25*time.Hour), now.Add(-time.Minute)
		}, policy.RetiringMissed},
		"an instance that went back to it holds it": {func(f *policy.Facts) { f.Instances[0].Statement.Keys = []string{"fp:old"} }, policy.InstanceNotConverged},
		"a key that is not ours may not":            {func(f *policy.Facts) { f.Versions = f.Versions[1:]; f.Metadata.Keys = f.Metadata.Keys[1:] }, policy.NotOurs},
		"a key that is gone needs nothing more":     {func(f *policy.Facts) { f.Keys = f.Keys[1:] }, policy.Allowed},
		"a CURRENT that moved away holds it": {func(f *policy.Facts) {
			f.Versions[0].Labels, f.Versions[1].Labels = f.Versions[1].Labels, f.Versions[0].Labels
		}, policy.NotOurs},
		"a CURRENT that is a third key holds it":                 {func(f *policy.Facts) { f.Versions[1].KeyID = "key-z" }, policy.CurrentMoved},
		"an incoming key that was removed holds it":              {func(f *policy.Facts) { f.Keys = f.Keys[:1] }, policy.IncomingNotLive},
		"an incoming key that has ended holds it":                {func(f *policy.Facts) { f.Keys[1].ExpiresAt = now.Add(-time.Minute) }, policy.IncomingNotLive},
		"an incoming key that ends soon holds it":                {func(f *policy.Facts) { f.Keys[1].ExpiresAt = now.Add(59 * time.Minute) }, policy.IncomingNotLive},
		"a promotion that is not on record holds it":             {func(f *policy.Facts) { f.Metadata.Keys[1].PromotedAt = time.Time{} }, policy.CurrentMoved},
		"an overlap that is not over holds it":                   {func(f *policy.Facts) { f.Metadata.Keys[1].PromotedAt = now.Add(-47 * time.Hour) }, policy.OverlapNotOver},
		"an incoming key that nobody used holds it":              {func(f *policy.Facts) { f.Keys[1].LastUsedAt = time.Time{} }, policy.IncomingNotUsed},
		"an incoming key that was disabled meanwhile holds it":   {func(f *policy.Facts) { f.Keys[1].State = key.Disabled }, policy.IncomingNotLive},
		"an approval that an earlier disabling used up holds it": {func(f *policy.Facts) { f.Metadata.Keys[0].Spent = []string{"nonce-1"} }, policy.ApprovalsMissing},
		"an issuer that cannot disable asks for all that disabling asks for": {func(f *policy.Facts) {
			f.Capabilities.CanDisable, f.Keys[0].State = false, key.Active
			f.Keys[0].LastUsedAt = now
		}, policy.RetiringNotQuiet},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := soaked()
			c.change(&f)
			d := policy.MayRevoke(credential(), f, retiring, incoming, "run-1", []policy.Verdict{approval("ann", now.Add(-time.Hour))})
			assert.Equal(t, c.want, d.Reason, d.Message)
		})
	}
}

// A soak outlives an approval: what it allowed was begun in time.
func TestAnApprovalMayGrowOldInTheSoak(t *testing.T) {
	t.Parallel()
	f := promoted()
	f.Keys[0].State = key.Disabled
	f.Metadata.Keys[0].DisablingAt, f.Metadata.Keys[0].DisabledAt, f.Metadata.Keys[0].DisablingRun = now.Add(-25*time.Hour), now.Add(-25*time.Hour), "run-1"
	old := []policy.Verdict{approval("ann", now.Add(-26*time.Hour))}
	assert.Equal(t, policy.Allowed, policy.MayRevoke(credential(), f, retiring, incoming, "run-1", old).Reason)
	f.Keys[0].State = key.Active
	f.Metadata.Keys[0].DisablingAt, f.Metadata.Keys[0].DisabledAt = time.Time{}, time.Time{}
	assert.Equal(t, policy.ApprovalsMissing, policy.MayDisable(credential(), f, retiring, incoming, old).Reason)
}

// What was signed since the key was disabled, or did not count then, is not what it was disabled on.
func TestOnlyWhatAKeyWasDisabledOnLetsItBeDestroyed(t *testing.T) {
	t.Parallel()
	f := promoted()
	signed := approval("ann", now.Add(-time.Hour))
	signed.Verified = true
	assert.Equal(t, policy.Allowed, policy.MayDisable(credential(), f, retiring, incoming, []policy.Verdict{signed}).Reason)
	f.Keys[0].State = key.Disabled
	f.Metadata.Keys[0].DisablingAt, f.Metadata.Keys[0].DisabledAt, f.Metadata.Keys[0].DisablingRun = now.Add(-25*time.Hour), now.Add(-25*time.Hour), "run-1"
	signed.At = now.Add(-26 * time.Hour)
	assert.Equal(t, policy.ApprovalsMissing, policy.MayRevoke(credential(), f, retiring, incoming, "run-1", []policy.Verdict{signed}).Reason)
	f.Metadata.Keys[0].Approvals = []string{signed.ID}
	assert.Equal(t, policy.Allowed, policy.MayRevoke(credential(), f, retiring, incoming, "run-1", []policy.Verdict{signed}).Reason)
}

// Some issuers tell no use of a key that is disabled: the gate asked for as many as it did while it was active.
func TestAGateAsksForNoMoreInTheSoak(t *testing.T) {
	t.Parallel()
	f := promoted()
	f.Keys[0].LastUsedAt = time.Time{}
	one := []policy.Verdict{approval("ann", now.Add(-26*time.Hour))}
	assert.Equal(t, policy.ApprovalsMissing, policy.MayDisable(credential(), f, retiring, incoming, one).Reason)
	f.Keys[0].State = key.Disabled
	f.Metadata.Keys[0].DisablingAt, f.Metadata.Keys[0].DisabledAt, f.Metadata.Keys[0].DisablingRun = now.Add(-25*time.Hour), now.Add(-25*time.Hour), "run-1"
	d := policy.MayRevoke(credential(), f, retiring, incoming, "run-1", one)
	assert.Equal(t, policy.Allowed, d.Reason, d.Message)
}

func TestMayDiscard(t *testing.T) {
	t.Parallel()
	// A rollback that brought everybody back to the retiring key.
	back := func() policy.Facts {
		f := staged()
		f.Instances = fleet("fp:old")
		f.Keys[1].LastUsedAt = now.Add(-7 * time.Hour)
		return f
	}
	cases := map[string]struct {
		change func(*policy.Facts)
		want   policy.Reason
	}{
		"a key that everybody left and that is quiet may be destroyed": {func(*policy.Facts) {}, policy.Allowed},
		"a key that an instance holds may not":                         {func(f *policy.Facts) { f.Instances[0].Statement.Keys = []string{"fp:old", "key-new"} }, policy.RetiringStillHeld},
		"a key that was used of late may not":                          {func(f *policy.Facts) { f.Keys[1].LastUsedAt = now.Add(-5 * time.Hour) }, policy.RetiringNotQuiet},
		"an instance that states nothing holds it":                     {func(f *policy.Facts) { f.Instances[0].Statement = nil }, policy.InstanceNotConverged},
		"a retiring key that is disabled holds it":                     {func(f *policy.Facts) { f.Keys[0].State = key.Disabled }, policy.RetiringKeyNotLive},
		"a key that was never delivered may at once": {func(f *policy.Facts) {
			f.Metadata.Keys[1].DeliveredAt = time.Time{}
			f.Keys[1].LastUsedAt, f.Instances[0].Statement = now, nil
		}, policy.Allowed},
		"one that a canary may have read as PENDING waits for all to be back": {func(f *policy.Facts) {
			f.Metadata.Keys[1].DeliveredAt = time.Time{}
			f.Instances[0].Pulls, f.Instances[0].Statement = true, nil
		}, policy.InstanceNotConverged},
		"one that was delivered of late may have been used since, though no use is reported": {func(f *policy.Facts) {
			f.Keys[1].LastUsedAt, f.Metadata.Keys[1].DeliveredAt = time.Time{}, now.Add(-5*time.Hour)
		}, policy.RetiringNotQuiet},
		"one that was delivered long ago and never used may": {func(f *policy.Facts) { f.Keys[1].LastUsedAt = time.Time{} }, policy.Allowed},
		"quiet counts from before the issuer's reports lag":  {func(f *policy.Facts) { f.Keys[1].LastUsedAt = now.Add(-7*time.Hour + time.Second) }, policy.RetiringNotQuiet},
		"one that a canary may have read as PENDING was delivered when it was issued": {func(f *policy.Facts) {
			f.Metadata.Keys[1].DeliveredAt, f.Metadata.Keys[1].IssuedAt = time.Time{}, now.Add(-5*time.Hour)
			f.Keys[1].LastUsedAt, f.Instances[0].Pulls = time.Time{}, true
		}, policy.RetiringNotQuiet},
		"a key to go back to that has ended holds it": {func(f *policy.Facts) { f.Keys[0].ExpiresAt = now.Add(-time.Minute) }, policy.RetiringKeyNotLive},
		"one that ends soon holds it":                 {func(f *policy.Facts) { f.Keys[0].ExpiresAt = now.Add(59 * time.Minute) }, policy.RetiringKeyNotLive},
		"the last instance that came back begins the window": {func(f *policy.Facts) {
			f.Metadata.Keys[0].AttestedAt = now.Add(-6 * time.Hour)
		}, policy.RetiringNotQuiet},
		"an issuer that reports no usage waits as long": {func(f *policy.Facts) {
			f.Capabilities.ReportsUsage = false
			f.Metadata.Keys[1].DeliveredAt = now.Add(-6 * time.Hour)
		}, policy.RetiringNotQuiet},
		"with what is no key in CURRENT, the one that was there before is kept": {func(f *policy.Facts) {
			f.Versions[0].Labels = []key.Label{key.Previous}
			f.Versions = append(f.Versions, stored("v3", "", "fp:somebody's", key.Current))
		}, policy.Allowed},
		"and an instance that is not on that one holds it": {func(f *policy.Facts) {
			f.Versions[0].Labels = []key.Label{key.Previous}
			f.Versions = append(f.Versions, stored("v3", "", "fp:somebody's", key.Current))
			f.Instances[0].Statement.Keys = []string{"fp:somebody's"}
		}, policy.InstanceNotConverged},
		"the only key that consumers have may not, though they say nothing": {func(f *policy.Facts) {
			f.Versions, f.Keys, f.Metadata.Keys = f.Versions[1:], f.Keys[1:], f.Metadata.Keys[1:]
			for i := range f.Instances {
				f.Instances[i].Statement = nil
			}
		}, policy.NothingKept},
		"the key in CURRENT may not": {func(f *policy.Facts) {
			f.Versions[0].Labels, f.Versions[1].Labels = nil, []key.Label{key.Current}
		}, policy.NotOurs},
		"a key that was turned back from may": {func(f *policy.Facts) {
			f.Versions[1].Labels = []key.Label{key.Previous}
		}, policy.Allowed},
		"one that is gone needs nothing more": {func(f *policy.Facts) { f.Keys = f.Keys[:1] }, policy.Allowed},
		"an attempt that may still deliver it holds it": {func(f *policy.Facts) {
			f.Metadata.Keys[1].Delivering = map[string]time.Time{"of a run before": now.Add(-time.Minute)}
		}, policy.DeliveryNotOver},
		"who pulls in a later wave does not read PENDING": {func(f *policy.Facts) {
			f.Metadata.Keys[1].DeliveredAt, f.Instances[1].Pulls = time.Time{}, true
			f.Keys[1].LastUsedAt = now
		}, policy.Allowed},
		"a delivery counts from then also where a canary reads PENDING": {func(f *policy.Facts) {
			f.Metadata.Keys[1].DeliveredAt = now.Add(-5 * time.Hour)
			f.Keys[1].LastUsedAt, f.Instances[0].Pulls = time.Time{}, true
		}, policy.RetiringNotQuiet},
		"and where no record tells of it, from when the key was made": {func(f *policy.Facts) {
			f.Metadata.Keys, f.Keys[1].CreatedAt = f.Metadata.Keys[:1], now.Add(-5*time.Hour)
			f.Keys[1].LastUsedAt, f.Instances[0].Pulls = time.Time{}, true
		}, policy.RetiringNotQuiet},
		"a promoted key may not, whoever says that it is unwanted": {func(f *policy.Facts) {
			f.Metadata.Keys[1].PromotedAt = now.Add(-8 * time.Hour)
			f.Versions[1].Labels = []key.Label{key.Previous}
		}, policy.NotOurs},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := back()
			c.change(&f)
			d := policy.MayDiscard(credential(), f, incoming)
			assert.Equal(t, c.want, d.Reason, d.Message)
			assert.Equal(t, d.OK, policy.MayDiscardAll(credential(), f, []key.Ref{incoming}).OK)
		})
	}
}

func TestMayPromote(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		change func(*policy.Facts)
		want   policy.Reason
	}{
		"when every instance attests the staged key it may":  {func(*policy.Facts) {}, policy.Allowed},
		"an instance on the retiring key holds it":           {func(f *policy.Facts) { f.Instances[2].Statement.Keys = []string{"fp:old"} }, policy.InstanceNotConverged},
		"a consumer that reads CURRENT by itself does not":   {func(f *policy.Facts) { f.Instances[2].Statement.Keys = []string{"fp:old"}; f.Instances[2].Pulls = true }, policy.Allowed},
		"a canary that reads PENDING does":                   {func(f *policy.Facts) { f.Instances[0].Statement.Keys = []string{"fp:old"}; f.Instances[0].Pulls = true }, policy.InstanceNotConverged},
		"a CURRENT that somebody moved holds it":             {func(f *policy.Facts) { f.Versions[0].ID = "v7" }, policy.CurrentMoved},
		"a CURRENT that somebody removed holds it":           {func(f *policy.Facts) { f.Versions = f.Versions[1:] }, policy.CurrentMoved},
		"a PENDING that somebody moved holds it":             {func(f *policy.Facts) { f.Versions[1].ID = "v7" }, policy.PendingMoved},
		"an incoming key that was not seen to work holds it": {func(f *policy.Facts) { f.Metadata.Keys[1].VerifiedAt = time.Time{} }, policy.KeyNotWorking},
		"an incoming key that ends soon holds it":            {func(f *policy.Facts) { f.Keys[1].ExpiresAt = now.Add(59 * time.Minute) }, policy.IncomingNotLive},
		"an incoming key that is gone holds it":              {func(f *policy.Facts) { f.Keys = f.Keys[:1] }, policy.IncomingNotLive},
		"an incoming key that is exposed holds it":           {func(f *policy.Facts) { expose(f, "key-new") }, policy.KeyExposed},
		"one that was turned back from has PREVIOUS, and is not promoted again": {func(f *policy.Facts) {
			*f = turnedBack(*f)
			f.Versions[1].Labels = []key.Label{key.Previous}
		}, policy.PendingMoved},
		"nor is one that was CURRENT": {func(f *policy.Facts) {
			f.Metadata.Keys[1].PromotedAt = now.Add(-50 * time.Hour)
			f.Versions[1].Labels = []key.Label{key.Previous}
		}, policy.PendingMoved},
		"what is promoted already stays so": {func(f *policy.Facts) {
			*f = promoted()
			f.Instances = nil
		}, policy.Allowed},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := staged()
			c.change(&f)
			d := policy.MayPromote(credential(), f, retiring, incoming)
			assert.Equal(t, c.want, d.Reason, d.Message)
		})
	}
}

// A rotation without a retiring key begins with no CURRENT, or with one whose key is gone: it never takes the label from a live key.
func TestWhatAFirstKeyIsPromotedFrom(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*policy.Facts)
		want   policy.Reason
	}{
		"from no CURRENT":                    {func(f *policy.Facts) { f.Keys, f.Versions = f.Keys[1:], f.Versions[1:] }, policy.Allowed},
		"from a CURRENT that is no live key": {func(f *policy.Facts) { f.Keys, f.Versions[0].KeyID = f.Keys[1:], "" }, policy.Allowed},
		"and then it needs no PENDING, which a rollback that led nowhere took": {func(f *policy.Facts) {
			f.Keys, f.Versions[0].KeyID = f.Keys[1:], ""
			f.Versions[1].Labels, f.Metadata.Keys[1].DeliveredAt = nil, time.Time{}
		}, policy.Allowed},
		"not from a live key": {func(*policy.Facts) {}, policy.CurrentMoved},
		"not when it is not PENDING, and nobody was brought to it": {func(f *policy.Facts) {
			f.Keys, f.Versions = f.Keys[1:], f.Versions[1:]
			f.Versions[0].Labels, f.Metadata.Keys[1].DeliveredAt = nil, time.Time{}
		}, policy.PendingMoved},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := staged()
			c.change(&f)
			d := policy.MayPromote(credential(), f, key.Ref{}, incoming)
			assert.Equal(t, c.want, d.Reason, d.Message)
		})
	}
	f := staged()
	f.Keys, f.Versions = f.Keys[1:], nil
	d := policy.MayPromote(credential(), f, key.Ref{}, f.Named(incoming))
	assert.Equal(t, policy.PendingMoved, d.Reason, "not a key whose value is in no store: %s", d.Message)
	f = staged()
	f.Versions[0].KeyID = ""
	d = policy.MayPromote(credential(), f, key.Ref{}, key.Ref{})
	assert.Equal(t, policy.IncomingNotLive, d.Reason, "a CURRENT that is no live key is not the one that nobody names: %s", d.Message)
}

func TestMayDeliverNext(t *testing.T) {
	t.Parallel()
	wave := fleet("fp:new")
	assert.True(t, policy.MayDeliverNext(wave, incoming).OK)
	wave[1].Unhealthy = "HTTP 500"
	assert.Equal(t, policy.CheckFailing, policy.MayDeliverNext(wave, incoming).Reason)
	wave[2].Statement.Keys = []string{"fp:old"}
	assert.Equal(t, policy.InstanceNotConverged, policy.MayDeliverNext(wave, incoming).Reason)
}

func TestEvidenceIsOneValue(t *testing.T) {
	t.Parallel()
	e := policy.Gather(credential(), promoted(), retiring, incoming)
	assert.True(t, e.Complete)
	assert.Len(t, e.Instances, 3)
	assert.Equal(t, now.Add(-50*time.Hour), e.QuietSince, "the promotion is later than the last use")
	assert.Len(t, e.Digest, 64)

	f := promoted()
	f.Keys[0].LastUsedAt = now.Add(-time.Hour)
	waiting := policy.Gather(credential(), f, retiring, incoming)
	assert.False(t, waiting.Complete)
	assert.NotEqual(t, e.Digest, waiting.Digest)
	f.At, f.Keys[0].LastUsedAt = now.Add(time.Minute), now
	assert.Equal(t, waiting.Lacks(), policy.Gather(credential(), f, retiring, incoming).Lacks(), "a later last use lacks the same")
	f.Instances[0].Statement = nil
	assert.NotEqual(t, waiting.Lacks(), policy.Gather(credential(), f, retiring, incoming).Lacks())
}

// The issuer's record of uses does not tell by whom: what came before the delivery was no consumer.
func TestAStatementByUsageProvesUsesSinceTheDelivery(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*policy.Facts, *key.Statement)
		want   bool
	}{
		"a use after the delivery counts": {func(*policy.Facts, *key.Statement) {}, true},
		"keyturn's own test does not":     {func(f *policy.Facts, s *key.Statement) { s.UsedAt = f.Metadata.Keys[1].VerifiedAt }, false},
		"nor does its like, by a clock that is ahead": {func(f *policy.Facts, s *key.Statement) {
			s.UsedAt = f.Metadata.Keys[1].VerifiedAt.Add(time.Minute)
			f.Metadata.Keys[1].DeliveredAt = f.Metadata.Keys[1].VerifiedAt
		}, false},
		"nor any use of a key that nobody was given":             {func(f *policy.Facts, _ *key.Statement) { f.Metadata.Keys[1].DeliveredAt = time.Time{} }, false},
		"a use of a key that existed before keyturn counts":      {func(_ *policy.Facts, s *key.Statement) { s.Keys = []string{"key-before"} }, true},
		"a statement of the instance itself needs no use at all": {func(_ *policy.Facts, s *key.Statement) { s.UsedAt = time.Time{} }, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := staged()
			one := []policy.Instance{instance("checkout", "checkout", "rest", "key-new")}
			one[0].Statement.UsedAt = now
			c.change(&f, one[0].Statement)
			believed := f.Believe(one)
			assert.Equal(t, c.want, believed[0].Statement != nil)
			assert.Equal(t, c.want, believed[0].NotAttesting == "")
		})
	}
}

// A fleet that is down, each instance with all that is kept of its trouble, fits into a history.
func TestAFleetThatIsDownFitsIntoAHistory(t *testing.T) {
	t.Parallel()
	f := promoted()
	f.Instances = nil
	for i := range 5000 {
		trouble := strings.Repeat("x", 512)
		f.Instances = append(f.Instances, policy.Instance{Consumer: "checkout", Instance: strconv.Itoa(i), Unhealthy: trouble, Unreachable: trouble, NotAttesting: trouble})
	}
	evidence := policy.Gather(credential(), f, retiring, incoming)
	assert.False(t, evidence.Complete)
	assert.Equal(t, "and 4975 more", evidence.Missing[25].Message)
	text, err := json.Marshal(evidence)
	require.NoError(t, err)
	assert.Less(t, len(text), 64<<10)
}
