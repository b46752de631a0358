package policy_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
)

// settled is a credential of which nothing is owed: the retired key is gone.
func settled() policy.SweptCredential {
	f := promoted()
	f.Keys, f.Versions, f.Metadata.Keys = f.Keys[1:], f.Versions[1:], f.Metadata.Keys[1:]
	f.Metadata.Keys[0].IssuedAt = now.Add(-72 * time.Hour)
	f.Metadata.LastRotation = &key.LastRotation{ID: "r", Outcome: "completed", At: now.Add(-time.Hour)}
	return policy.SweptCredential{
		Spec: inventory.Spec{Inventory: "payments", Credential: credential()}, Facts: f,
		Run: policy.Run{ID: "r", Status: policy.RunCompleted, StartedAt: now.Add(-72 * time.Hour), ClosedAt: now.Add(-time.Hour)},
	}
}

// owing is one whose retired key is still alive, beside a current one that everybody is on.
func owing() policy.SweptCredential {
	c := settled()
	c.Facts = promoted()
	return c
}

// running is one in a rotation.
func running() policy.SweptCredential {
	c := owing()
	c.Run = policy.Run{ID: "r", Status: policy.RunRunning, Running: true, StartedAt: now.Add(-time.Hour)}
	return c
}

func TestSweepFinds(t *testing.T) {
	t.Parallel()
	type change func(*policy.SweptCredential)
	for name, c := range map[string]struct {
		from   func() policy.SweptCredential
		change change
		kind   policy.FindingKind // "": nothing
		says   string
		do     string
	}{
		"nothing at a credential that is well": {settled, func(*policy.SweptCredential) {}, "", "", ""},
		"nothing at a rotation that goes on":   {running, func(*policy.SweptCredential) {}, "", "", ""},
		"an overdue key": {settled, func(c *policy.SweptCredential) { c.Facts.Metadata.Keys[0].IssuedAt = now.Add(-10_000 * time.Hour) },
			policy.FoundOverdue, "was to be rotated by", "keyturn plan"},
		"an overdue key whose Schedule is paused": {settled, func(c *policy.SweptCredential) {
			c.Facts.Metadata.Keys[0].IssuedAt, c.Paused = now.Add(-10_000*time.Hour), "for the move"
		}, policy.FoundOverdue, "for the move", "end the pause"},
		"an overdue key while all slots are taken": {settled, func(c *policy.SweptCredential) {
			c.Facts.Metadata.Keys[0].IssuedAt, c.SlotsFull = now.Add(-10_000*time.Hour), 250
		}, policy.FoundOverdue, "all slots of routine rotations are taken (250)", "raise maxRotations"},
		"an approval by break-glass that nobody reviewed": {settled, func(c *policy.SweptCredential) {
			c.Facts.Metadata.BrokenGlass = []key.BrokenGlass{{ID: "n", Gate: "revoke", By: "ann", Reason: "bob is away", At: now.Add(-25 * time.Hour)}}
		}, policy.FoundUnreviewed, "ann passed the revoke gate alone", "keyturn review rotation/payments-api"},
		"nothing while there is time to review it": {settled, func(c *policy.SweptCredential) {
			c.Facts.Metadata.BrokenGlass = []key.BrokenGlass{{ID: "n", Gate: "revoke", By: "ann", At: now.Add(-23 * time.Hour)}}
		}, "", "", ""},
		"nothing while they are, when it is not overdue": {settled, func(c *policy.SweptCredential) { c.SlotsFull = 250 }, "", "", ""},
		"a rotation that failed":                         {settled, func(c *policy.SweptCredential) { c.Run.Status = policy.RunFailed }, policy.FoundFailed, "failed", "keyturn status"},
		"a rotation that was terminated":                 {settled, func(c *policy.SweptCredential) { c.Run.Status = policy.RunTerminated }, policy.FoundTerminated, "terminated", "keyturn rotate"},
		"a rotation that timed out":                      {settled, func(c *policy.SweptCredential) { c.Run.Status = policy.RunTimedOut }, policy.FoundTerminated, "timed out in the middle", "keyturn rotate"},
		"a rotation whose workflow was cancelled":        {settled, func(c *policy.SweptCredential) { c.Run.Status = policy.RunCanceled }, policy.FoundTerminated, "was cancelled in the middle", "keyturn rotate"},
		"one whose failed run is deleted":                {settled, func(c *policy.SweptCredential) { c.Run, c.Facts.Metadata.LastRotation.Outcome = policy.Run{}, "failed" }, policy.FoundFailed, "history is deleted", "keyturn plan"},
		"nothing when a good one followed":               {settled, func(c *policy.SweptCredential) { c.Facts.Metadata.LastRotation.Outcome = "failed" }, "", "", ""},
		"a rotation whose task is not taken": {running, func(c *policy.SweptCredential) { c.Run.TaskAttempts, c.Run.TaskSince = 1, now.Add(-time.Hour) },
			policy.FoundStuck, "waits since", "keyturn doctor"},
		"a rotation whose task fails":                 {running, func(c *policy.SweptCredential) { c.Run.TaskAttempts, c.Run.TaskSince = 7, now.Add(-time.Minute) }, policy.FoundStuck, "tried 7 times", "keyturn doctor"},
		"nothing when its task is due since a moment": {running, func(c *policy.SweptCredential) { c.Run.TaskAttempts, c.Run.TaskSince = 1, now.Add(-time.Second) }, "", "", ""},
		"a rotation whose step fails": {running, func(c *policy.SweptCredential) {
			c.Run.Step, c.Run.StepAttempts, c.Run.StepFailure, c.FailedBefore = "Enable", 12, "denied", true
		}, policy.FoundStuck, "Enable of its rotation is at attempt 12, and failed when two sweeps in a row looked; the last one failed: denied", "Whether it can be turned back, and how, says: keyturn status"},
		"nothing when a step that waits for hours fails once": {running, func(c *policy.SweptCredential) {
			c.Run.Step, c.Run.StepAttempts, c.Run.StepFailure = "Watch", 361, "no route"
		}, "", "", ""},
		"nothing when a step fails that was tried a few times": {running, func(c *policy.SweptCredential) {
			c.Run.Step, c.Run.StepAttempts, c.Run.StepFailure, c.FailedBefore = "Enable", 9, "denied", true
		}, "", "", ""},
		"a rotation that takes too long": {running, func(c *policy.SweptCredential) { c.Run.StartedAt = now.Add(-90 * 24 * time.Hour) }, policy.FoundStuck, "longer than all its waits", "keyturn status"},
		"a version that is left PENDING": {settled, func(c *policy.SweptCredential) {
			c.Facts.Versions = append(c.Facts.Versions, policy.StoredKey{Version: key.Version{ID: "v9", Labels: []key.Label{key.Pending}}})
		}, policy.FoundPendingLeft, "v9", "clears it away"},
		"one that has no value": {settled, func(c *policy.SweptCredential) {
			c.Facts.Versions = append(c.Facts.Versions, policy.StoredKey{Version: key.Version{ID: "v9", Labels: []key.Label{key.Pending}}, Empty: true})
		}, policy.FoundPendingLeft, "v9 of the store is PENDING without a value", "clears it away"},
		"nothing when the version that is CURRENT bears PENDING still": {settled, func(c *policy.SweptCredential) {
			c.Facts.Versions[0].Labels = append(c.Facts.Versions[0].Labels, key.Pending)
		}, "", "", ""},
		"a retired key that is alive": {owing, func(*policy.SweptCredential) {}, policy.FoundRetiredAlive, "key-old is still alive", "approve with: keyturn approve"},
		"one that is still in use":    {owing, func(c *policy.SweptCredential) { c.Facts.Keys[0].LastUsedAt = now }, policy.FoundRetiredAlive, "still alive", "must be quiet"},
		"one that was disabled, and is missed": {owing, func(c *policy.SweptCredential) {
			c.Facts.Keys[0].State, c.Facts.Keys[0].LastUsedAt, c.Facts.Keys[0].LastUsedBy = key.Disabled, now, "night-batch"
			c.Facts.Metadata.Keys[0].DisablingAt, c.Facts.Metadata.Keys[0].DisabledAt = now.Add(-time.Hour), now.Add(-time.Hour)
		}, policy.FoundRetiredMissed, "was used by night-batch", "enable it at the issuer"},
		"a current key that is exposed": {settled, func(c *policy.SweptCredential) { expose(&c.Facts, "key-new") }, policy.FoundExposedAlive, "exposed, by incident/leak, and still alive", "keyturn emergency payments-api --key payments-api=key-new "},
		"one that is exposed and disabled: nobody is told to enable it": {settled, func(c *policy.SweptCredential) {
			expose(&c.Facts, "key-new")
			c.Facts.Keys[0].State = key.Disabled
		}, policy.FoundExposedAlive, "exposed", "keyturn emergency"},
		"an incoming key whose rotation is gone": {settled, func(c *policy.SweptCredential) {
			c.Facts.Keys = append(c.Facts.Keys, key.Info{Principal: "payments-api", KeyID: "key-left", State: key.Active, CreatedAt: now})
			c.Facts.Metadata.Keys = append(c.Facts.Metadata.Keys, key.Owned{Ref: key.Ref{KeyID: "key-left"}, Rotation: "gone"})
		}, policy.FoundIncomingAlive, "key-left", "the next rotation"},
		"copies that an instance did not remove": {settled, func(c *policy.SweptCredential) {
			c.Facts.Metadata.Debt = []key.Debt{{Kind: "copies-left", About: "key-gone", Since: now}}
		}, policy.FoundCopiesLeft, "copies of the dead key key-gone may be left", "the next rotation purges them again"},
		"a key of a stranger": {settled, func(c *policy.SweptCredential) {
			c.Facts.Keys = append(c.Facts.Keys, key.Info{Principal: "payments-api", KeyID: "stranger", State: key.Active, CreatedAt: now})
		}, policy.FoundUnmanaged, "stranger", "adopt"},
		"a CURRENT whose key was ours and is gone": {settled, func(c *policy.SweptCredential) { c.Facts.Versions[0].KeyID, c.Facts.Keys = "", nil }, policy.FoundCurrentNotLive, "no live key", "keyturn rotate payments-api"},
		"a CURRENT that is no key of ours": {settled, func(c *policy.SweptCredential) {
			c.Facts.Versions[0].KeyID, c.Facts.Keys, c.Facts.Metadata.Keys = "", nil, nil
		}, policy.FoundCurrentNotLive, "no live key", "put the value"},
		"a current key that is disabled": {settled, func(c *policy.SweptCredential) { c.Facts.Keys[0].State = key.Disabled }, policy.FoundCurrentDisabled, "disabled", "enable it"},
		"an instance on another key":     {settled, func(c *policy.SweptCredential) { c.Facts.Instances[0].Statement.Keys = []string{"key-old"} }, policy.FoundDrift, "states key-old", "load their key again"},
		"an instance that is silent": {settled, func(c *policy.SweptCredential) {
			c.Facts.Instances[0].Statement, c.Facts.Instances[0].NotAttesting = nil, "no route"
		}, policy.FoundSilent, "no route", "reached"},
		"a signature that ends soon":       {settled, func(c *policy.SweptCredential) { c.Spec.NotAfter = now.Add(24 * time.Hour) }, policy.FoundExpiring, "expires", "--sign KEY"},
		"one that has ended":               {settled, func(c *policy.SweptCredential) { c.Spec.NotAfter = now.Add(-24 * time.Hour) }, policy.FoundExpiring, "expired", "--sign KEY"},
		"nothing when it lasts for months": {settled, func(c *policy.SweptCredential) { c.Spec.NotAfter = now.Add(100 * 24 * time.Hour) }, "", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			swept := c.from()
			c.change(&swept)
			found := policy.Sweep(swept, now)
			if c.kind == "" {
				assert.Empty(t, found)
				return
			}
			require.Len(t, found, 1)
			f := found[0]
			assert.Equal(t, c.kind, f.Kind)
			assert.Contains(t, policy.FindingKinds, f.Kind)
			assert.Contains(t, f.Message, c.says)
			assert.Contains(t, f.Do, c.do)
			assert.Equal(t, "payments-api", f.Credential)
			assert.NotEmpty(t, f.Owner)
			again := policy.Sweep(swept, now.Add(time.Minute))
			require.Len(t, again, 1)
			assert.Equal(t, f.ID, again[0].ID, "the same thing has the same ID in the next sweep")
		})
	}
}

// People are told of each rotation that ended in the middle, also when one follows the other between two sweeps; of one whose history is deleted
// meanwhile they know already.
func TestEachRotationThatEndsInTheMiddleIsAFindingOfItsOwn(t *testing.T) {
	t.Parallel()
	found := func(change func(*policy.SweptCredential)) string {
		c := settled()
		change(&c)
		list := policy.Sweep(c, now)
		require.Len(t, list, 1)
		return list[0].ID
	}
	for status, other := range map[policy.RunStatus]func(*policy.SweptCredential){
		policy.RunTerminated: func(c *policy.SweptCredential) { c.Run.Status = policy.RunTerminated },
		policy.RunFailed:     func(c *policy.SweptCredential) { c.Run.Status = policy.RunFailed },
		policy.RunRunning: func(c *policy.SweptCredential) {
			c.Run.Status, c.Run.Running, c.Run.TaskAttempts = policy.RunRunning, true, 7
		},
	} {
		of := func(rotation string) string {
			return found(func(c *policy.SweptCredential) {
				other(c)
				c.Run.ID, c.Run.Rotation = "run of "+rotation, rotation
			})
		}
		assert.NotEqual(t, of("first"), of("second"), status)
	}
	failed := found(func(c *policy.SweptCredential) { c.Run.Status, c.Run.Rotation = policy.RunFailed, "first" })
	assert.Equal(t, failed, found(func(c *policy.SweptCredential) {
		c.Run, c.Facts.Metadata.LastRotation = policy.Run{}, &key.LastRotation{ID: "first", Outcome: key.OutcomeFailed, At: now}
	}))
}

// What a rotation that ended in the middle left decides what is to be done first.
func TestWhatToDoAfterARotationThatEndedInTheMiddle(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		from   func() policy.SweptCredential
		change func(*policy.SweptCredential)
		do     []string // in this order
		not    string
	}{
		"nothing is in the way": {settled, func(*policy.SweptCredential) {}, []string{"keyturn rotate"}, "revoke"},
		"a retired key that may be taken away": {owing, func(*policy.SweptCredential) {},
			[]string{"key-old", "keyturn sweep --now", "keyturn approve payments-api --gate revoke", "when that run has ended", "keyturn rotate"}, "slot"},
		"a retired key that somebody uses, and no free slot": {owing, func(c *policy.SweptCredential) { c.Facts.Capabilities.Slots, c.Facts.Keys[0].LastUsedAt = 2, now },
			[]string{"key-old has a slot", "must be quiet", "once it is gone", "keyturn rotate"}, "approve"},
		"a retired key that somebody uses, and a free slot": {owing, func(c *policy.SweptCredential) { c.Facts.Capabilities.Slots, c.Facts.Keys[0].LastUsedAt = 3, now },
			[]string{"keyturn rotate"}, "key-old"},
		"a stranger's key in the last slot": {settled, func(c *policy.SweptCredential) {
			c.Facts.Capabilities.Slots = 2
			c.Facts.Keys = append(c.Facts.Keys, key.Info{KeyID: "stranger", State: key.Disabled})
		}, []string{"allows 2 keys and has 2", "stranger", "stranger is not the current key", "destroy it at the issuer", "keyturn rotate"}, "approve"},
		"an incoming key in the last slot, which the next rotation destroys": {settled, func(c *policy.SweptCredential) {
			c.Facts.Capabilities.Slots = 2
			c.Facts.Keys = append(c.Facts.Keys, key.Info{KeyID: "key-left", State: key.Active})
			c.Facts.Metadata.Keys = append(c.Facts.Metadata.Keys, key.Owned{Ref: key.Ref{KeyID: "key-left"}, Rotation: "gone"})
		}, []string{"keyturn rotate"}, "allows"},
	} {
		for status, kind := range map[policy.RunStatus]policy.FindingKind{policy.RunTerminated: policy.FoundTerminated, policy.RunFailed: policy.FoundFailed} {
			t.Run(name+", "+string(status), func(t *testing.T) {
				t.Parallel()
				swept := c.from()
				swept.Run.Status = status
				c.change(&swept)
				found := policy.Sweep(swept, now)
				require.NotEmpty(t, found)
				require.Equal(t, kind, found[0].Kind)
				rest := found[0].Do
				for _, part := range c.do {
					_, after, there := strings.Cut(rest, part)
					require.True(t, there, "%q in this order: %s", part, found[0].Do)
					rest = after
				}
				assert.NotContains(t, found[0].Do, c.not)
			})
		}
	}
}

func TestDebtIsTakenUp(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*policy.SweptCredential)
		want   policy.Reason
	}{
		"once everything but an approval is proved":     {func(*policy.SweptCredential) {}, policy.Allowed},
		"not while a rotation runs":                     {func(c *policy.SweptCredential) { c.Run.Running = true }, policy.RunInTheWay},
		"not while routine is paused":                   {func(c *policy.SweptCredential) { c.Paused = "for the move" }, policy.RotationsPaused},
		"not by a spec whose time is over":              {func(c *policy.SweptCredential) { c.Spec.NotAfter = now.Add(-time.Second) }, policy.SignatureExpired},
		"not while somebody uses the retired key":       {func(c *policy.SweptCredential) { c.Facts.Keys[0].LastUsedAt = now }, policy.EvidenceLacking},
		"not while an instance is on it":                {func(c *policy.SweptCredential) { c.Facts.Instances[0].Statement.Keys = []string{"key-old"} }, policy.EvidenceLacking},
		"not beside a key that keyturn did not promote": {func(c *policy.SweptCredential) { c.Facts.Metadata.Keys[1].PromotedAt = time.Time{} }, policy.NotPromoted},
		"not the current key": {func(c *policy.SweptCredential) {
			c.Facts.Versions[0].Labels, c.Facts.Versions[1].Labels = c.Facts.Versions[1].Labels, nil
		}, policy.NotOurs},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			swept := owing()
			c.change(&swept)
			assert.Equal(t, c.want, policy.MayTakeUp(swept, "key-old", now).Reason)
			want := ""
			if c.want == policy.Allowed {
				want = "key-old"
			}
			assert.Equal(t, want, policy.TakeUp(swept, 0, now))
		})
	}
	lately := owing()
	assert.Empty(t, policy.TakeUp(lately, policy.DebtRetryAfter, now), "who said no an hour ago is not asked again")
	assert.Equal(t, "key-old", policy.TakeUp(lately, policy.DebtRetryAfter, now.Add(24*time.Hour)))
	assert.Empty(t, policy.TakeUp(settled(), 0, now))
}

func TestSettlement(t *testing.T) {
	t.Parallel()
	can := func(inventory.Approval) string { return "" }
	spec := inventory.Spec{Generation: 100, Credential: credential()}
	s := policy.Settle(spec, promoted(), "key-old", false, can)
	require.Empty(t, s.Plan.Refusals)
	assert.Equal(t, "key-old", s.Plan.Retiring.KeyID)
	assert.Equal(t, "key-new", s.Current.KeyID)
	for name, c := range map[string]struct {
		change  func(*policy.Facts)
		keyID   string
		want    policy.Reason
		approve func(inventory.Approval) string
	}{
		"of the current key":      {func(*policy.Facts) {}, "key-new", policy.NotOurs, can},
		"of a key that is gone":   {func(*policy.Facts) {}, "key-gone", policy.NotOurs, can},
		"of a stranger's key":     {func(f *policy.Facts) { f.Keys = append(f.Keys, key.Info{KeyID: "stranger"}) }, "stranger", policy.NotOurs, can},
		"without a live current":  {func(f *policy.Facts) { f.Keys[1].State = key.Disabled }, "key-old", policy.RetiringKeyNotLive, can},
		"by an old spec":          {func(f *policy.Facts) { f.Metadata.Generation = 101 }, "key-old", policy.StaleSpec, can},
		"out of bounds":           {func(f *policy.Facts) { f.Denied = []string{"no"} }, "key-old", policy.SpecRefused, can},
		"that nobody can approve": {func(*policy.Facts) {}, "key-old", policy.TrustNotVerifiable, func(inventory.Approval) string { return "no group" }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := promoted()
			c.change(&f)
			s := policy.Settle(spec, f, c.keyID, false, c.approve)
			require.NotEmpty(t, s.Plan.Refusals)
			assert.Equal(t, c.want, s.Plan.Refusals[0].Reason)
		})
	}
}

func TestFindingsOfAScan(t *testing.T) {
	t.Parallel()
	k := policy.ScannedKey{SeenKey: policy.SeenKey{Account: "edge", Info: key.Info{Principal: "batch", KeyID: "k"}}, Custody: policy.Unmanaged, Advice: "declare it"}
	f, ok := policy.OfScan(k)
	assert.True(t, ok)
	assert.Equal(t, policy.FoundUnmanaged, f.Kind)
	assert.Equal(t, "declare it", f.Do)
	k.Custody = policy.Orphaned
	f, ok = policy.OfScan(k)
	assert.True(t, ok)
	assert.Equal(t, policy.FoundOrphaned, f.Kind)
	k.Credential = "payments-api"
	_, ok = policy.OfScan(k)
	assert.False(t, ok, "its credential is swept itself")
	k.Credential, k.Custody = "", policy.Managed
	_, ok = policy.OfScan(k)
	assert.False(t, ok)
}

func TestSignersWhoseTimeEnds(t *testing.T) {
	t.Parallel()
	found := policy.Expiring([]policy.SignerEnd{
		{File: "/signers", For: "specs of production", Name: "ann", Key: "SHA256:a", End: now.Add(24 * time.Hour)},
		{File: "/signers", Name: "bob", Key: "SHA256:b", End: now.Add(100 * 24 * time.Hour)},
		{File: "/signers", Name: "cleo", Key: "SHA256:c", End: now.Add(-time.Hour)},
	}, now)
	require.Len(t, found, 2)
	assert.Contains(t, found[0].Message, "of ann, who signs specs of production")
	assert.Contains(t, found[0].Do, "/signers")
	assert.Equal(t, "cleo", found[1].About)
}

func TestASweepRemindsOfWhatIsThereStill(t *testing.T) {
	t.Parallel()
	at := func(hours int) policy.SweepReport {
		r := policy.SweepReport{StartedAt: now.Add(time.Duration(hours) * time.Hour)}
		r.Add(policy.Sweep(owing(), now)...)
		return r
	}
	report := at(0)
	require.Len(t, report.Since(policy.SweepReport{}), 1)
	var told []int
	for hour := 1; hour <= 3*7*24+1; hour++ {
		next := at(hour)
		fresh := next.Since(report)
		assert.Zero(t, next.New)
		require.Len(t, fresh, next.Again)
		if next.Again > 0 {
			assert.Equal(t, now, fresh[0].Since)
			told = append(told, hour)
		}
		report = next
	}
	assert.Equal(t, []int{7 * 24, 2 * 7 * 24, 3 * 7 * 24}, told, "once a week")
	late := at(5 * 7 * 24)
	assert.Len(t, late.Since(report), 1, "after sweeps that were left out, too")
}

func TestReportOfASweep(t *testing.T) {
	t.Parallel()
	var first policy.SweepReport
	first.StartedAt = now
	swept := owing()
	first.Add(policy.Sweep(swept, now)...)
	assert.Len(t, first.Since(policy.SweepReport{}), 1)
	assert.Equal(t, 1, first.New)
	assert.Equal(t, now, first.Findings[0].Since)
	first.Credentials = 1
	assert.Equal(t, "1 finding at 1 credential, 1 new", first.Summary())

	second := policy.SweepReport{StartedAt: now.Add(time.Hour)}
	second.Add(policy.Sweep(swept, now)...)
	swept.Run.Status = policy.RunFailed
	second = policy.SweepReport{StartedAt: now.Add(time.Hour)}
	second.Add(policy.Sweep(swept, now)...)
	fresh := second.Since(first)
	require.Len(t, fresh, 1, "only what is new is told")
	assert.Equal(t, policy.FoundFailed, fresh[0].Kind)
	assert.Equal(t, policy.FoundFailed, second.Findings[0].Kind, "what needs somebody soonest comes first")
	assert.Equal(t, now, second.Findings[1].Since, "since it was found first")
	assert.True(t, fresh[0].Alarming())

	untold := policy.SweepReport{Known: []string{"a", "b", "c"}}
	untold.Untold(policy.SweepReport{Known: []string{"a", "gone"}}, []string{"c"})
	assert.Equal(t, []string{"a", "c"}, untold.Known, "what was known, and what somebody heard of")

	var many policy.SweepReport
	for n := range 30_000 {
		many.Add(policy.Finding{ID: fmt.Sprintf("%016x", n), Kind: policy.FoundUnmanaged, Message: strings.Repeat("x", 600), Do: strings.Repeat("y", 600)})
	}
	assert.Equal(t, 30_000, many.Total())
	assert.LessOrEqual(t, len(many.Findings), 500)
	assert.LessOrEqual(t, len(many.Known), 20_000)
}
