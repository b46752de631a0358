package policy_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
)

func TestACacheLengthensTheWait(t *testing.T) {
	t.Parallel()
	c := credential() // an overlap of 48h, promoted 50h ago, and quiet for 6h and a lag of 1h
	assert.True(t, policy.Gather(c, promoted(), retiring, incoming).Complete)

	c.Consumers[1].CacheTTL = hours(3)
	lacks := func(f policy.Facts) []policy.Reason {
		var reasons []policy.Reason
		for _, d := range policy.Gather(c, f, retiring, incoming).Missing {
			reasons = append(reasons, d.Reason)
		}
		return reasons
	}
	assert.Equal(t, []policy.Reason{policy.OverlapNotOver}, lacks(promoted()), "the overlap begins when the caches have run out")
	f := promoted()
	f.At = now.Add(time.Hour)
	assert.Empty(t, lacks(f))
	assert.True(t, policy.Kept(c, f))
	assert.False(t, policy.Kept(c, promoted()), "until then there is a way back")

	// The quiet window, too, when it is the longer one.
	c.Overlap, c.QuietWindow = hours(1), hours(48)
	f = promoted()
	f.Keys[0].LastUsedAt = now.Add(-100 * time.Hour)
	assert.Equal(t, []policy.Reason{policy.RetiringNotQuiet}, lacks(f))
	f.At = now.Add(3 * time.Hour)
	assert.Empty(t, lacks(f))
}

func TestWhatCachesAndRunsMayHaveIsNotDestroyed(t *testing.T) {
	t.Parallel()
	// Turned back: the retiring key was delivered again an hour ago, and nobody used the incoming one since long.
	back := staged()
	back.Instances = fleet("fp:old")
	back.Keys[1].LastUsedAt = now.Add(-40 * time.Hour)
	back.Metadata.Keys[0].DeliveredAt = now.Add(-time.Hour)
	c := credential()
	assert.Equal(t, policy.RetiringNotQuiet, policy.MayDiscard(c, back, incoming).Reason, "the window begins when the last of them is back")
	credential := func() inventory.Credential {
		c := credential()
		c.QuietWindow = hours(1) / 2
		return c
	}
	back.Capabilities.UsageLag = 0
	c = credential()
	assert.True(t, policy.MayDiscard(c, back, incoming).OK)
	for name, change := range map[string]func(*inventory.Consumer){
		"a cache":                                func(x *inventory.Consumer) { x.CacheTTL = hours(2) },
		"a run":                                  func(x *inventory.Consumer) { x.LongestRun = hours(2) },
		"a run that began with what a cache had": func(x *inventory.Consumer) { x.CacheTTL, x.LongestRun = hours(1), hours(1) },
	} {
		c := credential()
		change(&c.Consumers[1])
		assert.Equal(t, policy.CachesNotOver, policy.MayDiscard(c, back, incoming).Reason, name)
		later := back
		later.At = now.Add(2 * time.Hour)
		assert.True(t, policy.MayDiscard(c, later, incoming).OK, name)
	}
}

func TestWhoReadsPendingMayHaveCachedIt(t *testing.T) {
	t.Parallel()
	// Turned back before anything was delivered, an hour after the key was issued and PENDING.
	f := staged()
	f.Instances = fleet("fp:old")
	f.Instances[0].Pulls, f.Instances[0].Wave = true, inventory.CanaryWave
	f.Capabilities.ReportsUsage = false
	for i := range f.Metadata.Keys {
		f.Metadata.Keys[i].DeliveredAt, f.Metadata.Keys[i].IssuedAt = time.Time{}, now.Add(-time.Hour)
	}
	c := credential()
	c.Consumers[0].CacheTTL = hours(5)
	assert.Equal(t, policy.CachesNotOver, policy.MayDiscard(c, f, incoming).Reason)
	f.At = now.Add(7 * time.Hour) // and nobody would tell of a use
	d := policy.MayDiscard(c, f, incoming)
	assert.True(t, d.OK, d.Message)
}

func TestThePlanSaysWhatWavesAndCachesMean(t *testing.T) {
	t.Parallel()
	pulls := func(typ string) bool { return typ == "pull" }
	c := credential()
	c.WaveSteps = []inventory.WaveStep{"10%"}
	c.Consumers[1].CacheTTL = hours(2)
	c.Consumers = append(c.Consumers, inventory.Consumer{Name: "own", Target: inventory.Provider{Type: "pull"}})
	f := before()
	f.Instances = append(f.Instances, instance("own", "own", "rest", "fp:old"))
	plan := policy.Make(spec(c), f, pulls, anybody)
	assert.False(t, plan.Refused(), plan.Refusals)
	var waves []string
	for _, w := range plan.Waves {
		waves = append(waves, fmt.Sprintf("%s %d %s %t", w.Name, len(w.Instances), w.Soak, w.ByPromotion))
	}
	assert.Equal(t, []string{"canary 1 1h false", "rest-10% 1 3h false", "rest 1 3h false", "rest 1 1h true"}, waves)
	assert.Contains(t, strings.Join(plan.Warnings, "\n"), "waveSteps do not part those who read the store by themselves")
	assert.Equal(t, hours(1+3+3+1+2+48+24), plan.Takes)
	var steps []string
	for _, s := range plan.Steps {
		steps = append(steps, s.What)
	}
	assert.Contains(t, strings.Join(steps, "\n"), "wave rest-10%: deliver to checkout/")
	assert.Contains(t, strings.Join(steps, "\n"), "caches run out within 2h; then both keys are accepted for 2d")

	for i := range 5000 {
		c.Consumers[1].Instances = append(c.Consumers[1].Instances, fmt.Sprintf("host-%d", i))
	}
	for _, s := range policy.Make(spec(c), f, pulls, anybody).Steps {
		assert.Less(t, len(s.What), 1000, "thousands of instances are not named one by one")
	}
}

func TestAnOverlapBelowTheLongestRunIsRefused(t *testing.T) {
	t.Parallel()
	c := credential()
	c.Consumers[1].LongestRun = hours(48)
	assert.False(t, policy.Make(spec(c), before(), noPulls, anybody).Refused())
	c.Consumers[1].LongestRun = hours(49)
	refusals := policy.Make(spec(c), before(), noPulls, anybody).Refusals
	assert.Len(t, refusals, 1)
	assert.Equal(t, policy.OverlapTooShort, refusals[0].Reason)
	assert.Contains(t, refusals[0].Message, "a run of checkout may last 2d1h, and the overlap is 2d")
}

func TestAWaveThatIsOverBeforeTheIssuerReportsUsesIsRefused(t *testing.T) {
	t.Parallel()
	c, f := credential(), before()
	refused := func() []policy.Decision { return policy.Make(spec(c), f, noPulls, anybody).Refusals }
	c.WaveTimeout = inventory.Duration(f.Capabilities.UsageLag)
	assert.Empty(t, refused(), "whoever attests for itself is not late")
	c.Issuer.Account = "aws"
	c.Consumers[1].Attestation = &inventory.Provider{Type: c.Issuer.Type, Account: "aws"}
	refusals := refused()
	if assert.Len(t, refusals, 1) {
		assert.Equal(t, policy.WaveBelowLag, refusals[0].Reason)
		assert.Equal(t, "waveTimeout is 1h, and checkout is attested by the issuer account's report of uses, which is up to 1h late: ask for more than that", refusals[0].Message)
	}
	c.WaveTimeout += inventory.Duration(time.Second)
	assert.Empty(t, refused())
}

func TestReplicasThatDifferHaveNotConverged(t *testing.T) {
	t.Parallel()
	f := promoted()
	f.Instances[1].Statement = &key.Statement{Instance: "a", Keys: []string{"fp:new", "fp:old"}, Split: true}
	d := policy.MayDeliverNext(f.Instances, incoming)
	assert.Equal(t, policy.InstanceNotConverged, d.Reason)
	assert.Contains(t, d.Message, "the replicas of checkout/a do not all use key key-new")
	assert.Equal(t, policy.InstanceNotConverged, policy.MayDisable(credential(), f, retiring, incoming, nil).Reason)
	// One process that holds both while it reloads is another matter: the wave goes on, the evidence waits.
	f.Instances[1].Statement.Split = false
	assert.True(t, policy.MayDeliverNext(f.Instances, incoming).OK)
	assert.Equal(t, policy.RetiringStillHeld, policy.MayDisable(credential(), f, retiring, incoming, nil).Reason)
}

func TestADisabledKeyIsMissed(t *testing.T) {
	t.Parallel()
	disabled := func(used time.Time) policy.Facts {
		f := promoted()
		f.Keys[0].State, f.Keys[0].LastUsedAt, f.Keys[0].LastUsedBy = key.Disabled, used, "night-batch"
		f.Metadata.Keys[0].DisablingAt, f.Metadata.Keys[0].DisabledAt = now.Add(-time.Hour), now.Add(-time.Hour)
		return f
	}
	for name, c := range map[string]struct {
		f    policy.Facts
		want bool
	}{
		"nobody used it":                         {disabled(now.Add(-10 * time.Hour)), false},
		"right before, by a clock that is ahead": {disabled(now.Add(-time.Hour + time.Second)), false},
		"somebody used it since":                 {disabled(now.Add(-time.Minute)), true},
		"it is enabled": {func() policy.Facts {
			f := disabled(now.Add(-time.Minute))
			f.Keys[0].State = key.Active
			return f
		}(), false},
		"somebody else disabled it": {func() policy.Facts {
			f := disabled(now.Add(-time.Minute))
			f.Metadata.Keys[0].DisablingAt, f.Metadata.Keys[0].DisabledAt = time.Time{}, time.Time{}
			return f
		}(), false},
		"somebody else disabled it, and it was used since keyturn found it so": {func() policy.Facts {
			f := disabled(now.Add(-time.Minute))
			f.Metadata.Keys[0].DisablingAt = time.Time{}
			return f
		}(), true},
		"the issuer does not report uses": {func() policy.Facts {
			f := disabled(now.Add(-time.Minute))
			f.Capabilities.ReportsUsage = false
			return f
		}(), false},
	} {
		d := policy.Missed(c.f, retiring)
		assert.Equal(t, !c.want, d.OK, name)
		if c.want {
			assert.Equal(t, policy.RetiringMissed, d.Reason)
			assert.Contains(t, d.Message, "was used by night-batch")
			assert.Contains(t, d.Message, "a consumer that went back to it, or somebody whom the inventory does not name")
		}
	}
}

// It is watched only where the issuer can tell: the plan says so, of a rotation and of a run that settles.
func TestThePlanSaysWhetherTheIssuerTellsWhoMissesAKey(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct{ disables, reports, want bool }{
		"it disables keys and reports who is refused with them": {true, true, true},
		"it reports nobody who is refused":                      {true, false, false},
		"it disables no key":                                    {false, true, false},
	} {
		f := before()
		f.Capabilities.CanDisable, f.Capabilities.ReportsRefusals = x.disables, x.reports
		plan := policy.Make(spec(credential()), f, noPulls, anybody)
		assert.Equal(t, x.want, plan.TellsMissed, name)
		assert.Equal(t, x.disables && !x.reports, slices.ContainsFunc(plan.Warnings, func(w string) bool {
			return strings.Contains(w, "does not report who is refused with a disabled key")
		}), name)
	}
}

// A key is quiet by the clock of who reports its use, as of its report, and as long as that goes on.
func TestAKeyIsQuietByTheReport(t *testing.T) {
	t.Parallel()
	// Everybody had the incoming key 20 h ago, when the report was as of then, by a clock that is ahead by skew.
	reports := func(skew, last, report time.Duration) func(*policy.Facts) {
		return func(f *policy.Facts) {
			f.Metadata.Keys[1].AttestedAt, f.Metadata.Keys[1].AttestedReport = now.Add(-20*time.Hour), now.Add(skew-20*time.Hour)
			f.Keys[0].LastUsedAt, f.Keys[0].ReportedAt = now.Add(skew-last), now.Add(skew-report)
		}
	}
	for name, c := range map[string]struct {
		change func(*policy.Facts)
		want   policy.Reason
	}{
		"a report of now, by a clock like ours":         {reports(0, 51*time.Hour, 0), policy.Allowed},
		"one that is as late as the issuer's may be":    {reports(0, 51*time.Hour, time.Hour), policy.Allowed},
		"a key that is in use, by a clock hours behind": {reports(-8*time.Hour, time.Second, 0), policy.RetiringNotQuiet},
		"one that is not, by the same clock":            {reports(-8*time.Hour, 30*time.Hour, 0), policy.Allowed},
		"one that is not, by a clock hours ahead":       {reports(8*time.Hour, 30*time.Hour, 0), policy.Allowed},
		"a report that stands still since all had it":   {reports(0, 51*time.Hour, 20*time.Hour), policy.UsageStale},
		"one that went on for the window, and stopped":  {reports(0, 51*time.Hour, 12*time.Hour), policy.UsageStale},
		"one that stopped, by a clock hours behind":     {reports(-8*time.Hour, 51*time.Hour, 2*time.Hour), policy.UsageStale},
		"one that stopped, by a clock hours ahead":      {reports(8*time.Hour, 51*time.Hour, 2*time.Hour), policy.UsageStale},
		"one whose clock was set right since, and is now": {func(f *policy.Facts) {
			reports(0, 51*time.Hour, 0)(f)
			f.Metadata.Keys[1].AttestedReport = now.Add(-12 * time.Hour)
		}, policy.Allowed},
		"one whose clock was set right since, and stopped": {func(f *policy.Facts) {
			reports(0, 51*time.Hour, 4*time.Hour)(f)
			f.Metadata.Keys[1].AttestedReport = f.Metadata.Keys[1].AttestedAt.Add(-10 * time.Hour)
		}, policy.UsageStale},
		"a report that was never held against our clock": {func(f *policy.Facts) {
			reports(0, 51*time.Hour, 2*time.Hour)(f)
			f.Metadata.Keys[1].AttestedReport = time.Time{}
		}, policy.UsageStale},
		"a look that took so long that the listing is old": {func(f *policy.Facts) {
			f.Keys[0].LastUsedAt, f.LookedFor = now.Add(-7*time.Hour), time.Minute
		}, policy.RetiringNotQuiet},
	} {
		f := promoted()
		c.change(&f)
		assert.Equal(t, c.want, policy.MayDisable(credential(), f, retiring, incoming, []policy.Verdict{approval("ann", now.Add(-time.Hour))}).Reason, name)
	}
}

func TestADisabledKeyIsMissedByTheReportersClock(t *testing.T) {
	t.Parallel()
	f := promoted()
	f.Keys[0].State = key.Disabled
	f.Metadata.Keys[0].DisablingAt, f.Metadata.Keys[0].DisabledAt = now.Add(-time.Hour), now.Add(-time.Hour)
	f.Metadata.Keys[0].DisablingReport = now.Add(-9 * time.Hour) // eight hours behind
	f.Keys[0].ReportedAt, f.Keys[0].LastUsedAt = now.Add(-8*time.Hour), now.Add(-8*time.Hour-time.Minute)
	assert.Equal(t, policy.RetiringMissed, policy.Missed(f, retiring).Reason)
	f.Keys[0].LastUsedAt = now.Add(-10 * time.Hour)
	assert.True(t, policy.Missed(f, retiring).OK)

	f.Keys[0].ReportedAt = now.Add(-9 * time.Hour) // as it was when the key was disabled
	f.Metadata.Keys[0].DisablingAt = now.Add(-2 * time.Hour)
	assert.Equal(t, policy.UsageStale, policy.Missed(f, retiring).Reason, "nobody reports whether it is missed")
}
