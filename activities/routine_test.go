package activities_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/workerconfig"
)

// index is an activities.Index in memory.
type index struct {
	mu              sync.Mutex
	specs           map[string]inventory.SignedSpec
	states          map[string]inventory.State
	running         bool
	taken           []int
	takenOf         string // the environment whose slots are taken; empty for those that are shared
	takenUnpromoted bool
	paused          string
	waiting         []policy.Waiter
	down            error
}

func (i *index) Spec(_ context.Context, credential string) (inventory.SignedSpec, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	spec, ok := i.specs[credential]
	if !ok {
		return spec, fmt.Errorf("finding %q: %w", credential, activities.ErrLeft)
	}
	return spec, nil
}

func (i *index) Observe(_ context.Context, inventory, credential string, state inventory.State) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.states[inventory+"/"+credential] = state
	return i.down
}

func (i *index) Schedule(ctx context.Context, _, credential string) (activities.Scheduled, error) {
	spec, err := i.Spec(ctx, credential)
	return activities.Scheduled{Spec: spec, Paused: i.paused}, err
}

func (i *index) Running(context.Context, string) (bool, error) { return i.running, nil }

func (i *index) TakenSlots(context.Context) (taken []policy.Slot, err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, n := range i.taken {
		taken = append(taken, policy.Slot{Environment: i.takenOf, Number: n, Unpromoted: i.takenUnpromoted})
	}
	return taken, i.down
}

func (i *index) Waiting(context.Context) ([]policy.Waiter, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.waiting, i.down
}

func (c *crashCase) rewrite(change func(*inventory.Credential)) {
	c.t.Helper()
	spec, err := c.spec.Peek()
	require.NoError(c.t, err)
	change(&spec.Credential)
	c.spec, err = inventory.NewSpec(spec)
	require.NoError(c.t, err)
}

func TestWhetherARoutineRotationIsDue(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	noon := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) // a Sunday; the key is an hour old
	for name, x := range map[string]struct {
		change func(*inventory.Credential)
		after  time.Duration
		runs   bool
		want   policy.Reason
		next   time.Time
	}{
		"a young key is not":                    {nil, 0, false, policy.NotDue, time.Time{}},
		"a key a tenth before its rotate-by is": {nil, 81 * day, false, policy.Allowed, time.Time{}},
		"one whose rotation runs is not":        {nil, 81 * day, true, policy.AlreadyRunning, time.Time{}},
		"not outside of the window": {func(c *inventory.Credential) { c.Schedule.At = "10:00" }, 85 * day, false, policy.WindowClosed,
			time.Date(2026, 5, 26, 10, 0, 0, 0, time.UTC)},
		"in the window it is": {func(c *inventory.Credential) { c.Schedule.At, c.Schedule.TimeZone = "14:00", "Europe/Berlin" }, 85 * day, false, policy.Allowed, time.Time{}},
		"not in a blackout": {func(c *inventory.Credential) {
			c.Schedule.Blackouts = []inventory.Blackout{{From: "2026-05-20", To: "2026-06-01", Why: "audit"}}
		}, 85 * day, false, policy.BlackedOut, time.Time{}},
		"a shorter cadence counts at once": {func(c *inventory.Credential) { c.RotateEvery = inventory.Duration(7 * day) }, 7 * day, false, policy.Allowed, time.Time{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCase(t)
			if x.change != nil {
				c.rewrite(x.change)
			}
			c.index.running = x.runs
			c.wait(x.after)
			var due activities.Due
			c.execute("LookWhetherDue", c.subject(), &due)
			assert.Equal(t, x.want, due.Decision.Reason, due.Decision.Message)
			assert.Equal(t, x.want == policy.Allowed, due.Decision.OK)
			if !x.next.IsZero() {
				assert.Equal(t, x.next, due.NextRun.UTC())
			}
			if x.want != policy.Allowed && !x.runs {
				state := c.index.states["payments/payments-api"]
				assert.Equal(t, "key-old", state.KeyID, "the index gets a copy")
				assert.Equal(t, noon.Add(-time.Hour), state.KeyIssuedAt.UTC())
			}
			assert.Len(t, c.world.Ledger(), 1, "nothing was changed but by the case itself")
		})
	}
}

// The clocks of New York show 01:30 twice on the first of November, and the server fires both times. The window is open for long, and
// the key is due: because the first rotation failed, perhaps.
func TestASecondFiringOfOneWindowRotatesNothing(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		nominal time.Time
		want    policy.Reason
	}{
		"the first":            {time.Date(2026, 11, 1, 5, 30, 0, 0, time.UTC), policy.Allowed},
		"the second":           {time.Date(2026, 11, 1, 6, 30, 0, 0, time.UTC), policy.Repeated},
		"that of a day before": {time.Date(2026, 10, 31, 5, 30, 0, 0, time.UTC), policy.Allowed},
		"what a person began":  {time.Time{}, policy.Allowed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCase(t)
			c.rewrite(func(credential *inventory.Credential) {
				credential.Schedule = inventory.Schedule{TimeZone: "America/New_York", At: "01:30", Window: inventory.Duration(4 * time.Hour)}
			})
			c.clock.Store(time.Date(2026, 11, 1, 6, 45, 0, 0, time.UTC).UnixNano())
			look := c.subject()
			look.Start.Nominal = x.nominal
			var due activities.Due
			c.execute("LookWhetherDue", look, &due)
			assert.Equal(t, x.want, due.Decision.Reason, due.Decision.Message)
			if x.want == policy.Repeated {
				assert.Equal(t, time.Date(2026, 11, 2, 6, 30, 0, 0, time.UTC), due.NextRun.UTC())
			}
		})
	}
}

func TestTheRecordOfARotationReachesTheIndex(t *testing.T) {
	t.Parallel()
	c := newCase(t)
	for _, step := range forward {
		c.run(step)
	}
	state := c.index.states["payments/payments-api"]
	assert.Equal(t, c.incoming.KeyID, state.KeyID)
	assert.Equal(t, "completed", state.LastOutcome)
	assert.Equal(t, c.metadata().RotateBy, state.RotateBy)

	// The store is the truth: an index that cannot be reached holds nothing up.
	c = newCase(t)
	c.index.down = errors.New("no connection")
	c.index.taken = nil
	for _, step := range forward {
		if step != "AwaitSlot" {
			c.run(step)
		}
	}
	assert.Equal(t, "completed", c.metadata().LastRotation.Outcome)
}

func TestACredentialThatLeftTheInventoryIsNotFound(t *testing.T) {
	t.Parallel()
	c := newCase(t)
	var left *temporal.ApplicationError
	require.ErrorAs(t, c.attempt("Resolve", "nobody", nil, 3), &left)
	assert.Equal(t, activities.TypeLeft, left.Type())
	c.index.specs["other"] = c.spec
	require.ErrorContains(t, c.attempt("Resolve", "other", nil, 3), "another credential")
}

func TestAFiringIsHeldAgainstItsSchedule(t *testing.T) {
	t.Parallel()
	c := newCase(t)
	var same activities.Standing
	c.execute("Compare", c.spec, &same)
	assert.True(t, same.Decision.OK)
	assert.Empty(t, same.Newer.Body)

	fired := c.spec
	c.rewrite(func(credential *inventory.Credential) { credential.RotateEvery = inventory.Duration(time.Hour) })
	c.index.specs["payments-api"] = c.spec
	var other activities.Standing
	c.execute("Compare", fired, &other)
	assert.True(t, other.Newer.Same(c.spec))

	c.index.paused = "the vault is moving"
	var paused activities.Standing
	c.execute("Compare", fired, &paused)
	assert.Equal(t, policy.RotationsPaused, paused.Decision.Reason)
	assert.Contains(t, paused.Decision.Message, "the vault is moving")

	delete(c.index.specs, "payments-api")
	var left *temporal.ApplicationError
	require.ErrorAs(t, c.attempt("Compare", fired, nil, 3), &left)
	assert.Equal(t, activities.TypeLeft, left.Type())
}

func TestSlotsAreGivenOutOnce(t *testing.T) {
	t.Parallel()
	c := newCase(t)
	few, err := workerconfig.Load("keyturn-worker.yaml", []byte(caseConfig+"maxRotations: 3\n"), c.do.Descriptors)
	require.NoError(t, err)
	c.do.Config = func() *workerconfig.Config { return few }
	c.index.taken = []int{2}
	numbers := map[int]bool{}
	for range 2 {
		var slot activities.Slot
		c.execute("AwaitSlot", activities.SlotInput{Spec: c.spec}, &slot)
		numbers[slot.Number] = true
	}
	assert.Equal(t, map[int]bool{1: true, 3: true}, numbers)
	c.executeToNotYet("AwaitSlot", activities.SlotInput{Spec: c.spec})

	// Nobody waits past the window.
	c.rewrite(func(credential *inventory.Credential) { credential.Schedule.At = "02:00" })
	var slot activities.Slot
	c.execute("AwaitSlot", activities.SlotInput{Spec: c.spec}, &slot)
	assert.Equal(t, policy.WindowClosed, slot.Decision.Reason)
}

// An environment with a bound of its own has slots of its own: it waits for no other one, and no other one for it.
func TestAnEnvironmentHasItsOwnSlots(t *testing.T) {
	t.Parallel()
	const own = `
apiVersion: keyturn/worker/v1
maxRotations: 1
accounts: {edge: {type: memory}, vault: {type: memory}}
bounds: {test: {principals: ["payments-*"], storePaths: ["payments-*"], maxRotations: 2}}
`
	for name, x := range map[string]struct {
		taken   []int
		takenOf string
		line    []policy.Waiter
		want    []int // numbers, in some order
	}{
		"two of them":                      {nil, "", nil, []int{1, 2}},
		"though all that others share are": {[]int{1}, "", nil, []int{1, 2}},
		"but for those that are taken":     {[]int{2}, "test", nil, []int{1}},
		"none when all are":                {[]int{1, 2}, "test", nil, nil},
		"whoever waits in another environment": {nil, "", []policy.Waiter{
			{Credential: "a", Environment: "other", Risk: inventory.RiskCritical}, {Credential: "b", Environment: "other", Risk: inventory.RiskCritical},
		}, []int{1, 2}},
		"after those who wait in this one": {nil, "", []policy.Waiter{
			{Credential: "a", Environment: "test", Risk: inventory.RiskCritical}, {Credential: "b", Environment: "test", Risk: inventory.RiskCritical},
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCase(t)
			config, err := workerconfig.Load("keyturn-worker.yaml", []byte(own), c.do.Descriptors)
			require.NoError(t, err)
			c.do.Config = func() *workerconfig.Config { return config }
			c.index.taken, c.index.takenOf, c.index.waiting = x.taken, x.takenOf, x.line
			given := map[int]bool{}
			for range x.want {
				var slot activities.Slot
				c.execute("AwaitSlot", activities.SlotInput{Spec: c.spec}, &slot)
				assert.Equal(t, "test", slot.Environment)
				given[slot.Number] = true
			}
			assert.ElementsMatch(t, x.want, slices.Collect(maps.Keys(given)))
			c.executeToNotYet("AwaitSlot", activities.SlotInput{Spec: c.spec})
		})
	}
}

// Of those between issue and promotion there are as many as the environment's bound says, whatever other slots are taken.
func TestSlotsOfThoseThatAreNotPromotedYet(t *testing.T) {
	t.Parallel()
	ask := func(c *crashCase) activities.SlotInput { return activities.SlotInput{Spec: c.spec, Unpromoted: true} }
	bounded := func(t *testing.T, bound string) *crashCase {
		t.Helper()
		c := newCase(t)
		config, err := workerconfig.Load("keyturn-worker.yaml", []byte(`
apiVersion: keyturn/worker/v1
accounts: {edge: {type: memory}, vault: {type: memory}}
bounds: {test: {principals: ["payments-*"], storePaths: ["payments-*"]`+bound+`}}
`), c.do.Descriptors)
		require.NoError(t, err)
		c.do.Config = func() *workerconfig.Config { return config }
		return c
	}
	var accepted activities.Accepted
	c := bounded(t, ", maxUnpromoted: 2")
	c.execute("Accept", c.spec, &accepted)
	assert.True(t, accepted.Unpromoted)
	c.index.taken, c.index.takenOf = []int{1, 2}, "test"
	numbers := map[int]bool{}
	for range 2 {
		var slot activities.Slot
		c.execute("AwaitSlot", ask(c), &slot)
		assert.Equal(t, "test", slot.Environment)
		numbers[slot.Number] = true
	}
	assert.Equal(t, map[int]bool{1: true, 2: true}, numbers)
	c.executeToNotYet("AwaitSlot", ask(c))

	c = bounded(t, ", maxUnpromoted: 2")
	c.index.taken, c.index.takenOf, c.index.takenUnpromoted = []int{1, 2}, "test", true
	c.executeToNotYet("AwaitSlot", ask(c))
	var slot activities.Slot
	c.execute("AwaitSlot", activities.SlotInput{Spec: c.spec}, &slot)
	assert.Positive(t, slot.Number, "they are none of those of rotations that run")

	c = bounded(t, "")
	accepted = activities.Accepted{}
	c.execute("Accept", c.spec, &accepted)
	assert.False(t, accepted.Unpromoted)
	slot = activities.Slot{}
	c.execute("AwaitSlot", ask(c), &slot)
	assert.Zero(t, slot.Number, "without a bound nobody needs one")
	assert.True(t, slot.Decision.OK)
}

// Who waits for such a slot waits not past the window, nor into a blackout; one that has an incoming key has begun.
func TestWhoIsNotPromotedYetAsksTheCalendarUntilItHasBegun(t *testing.T) {
	t.Parallel()
	c := newCase(t)
	c.rewrite(func(credential *inventory.Credential) { credential.Schedule.At = "02:00" })
	var slot activities.Slot
	c.execute("AwaitSlot", activities.SlotInput{Spec: c.spec, Unpromoted: true}, &slot)
	assert.Equal(t, policy.WindowClosed, slot.Decision.Reason)
	slot = activities.Slot{}
	c.execute("AwaitSlot", activities.SlotInput{Spec: c.spec, Unpromoted: true, Begun: true}, &slot)
	assert.True(t, slot.Decision.OK, slot.Decision.Message)
}

// A rotation that waited, for a signature or a slot, mints no key in a blackout, unless it was begun to do so all the same. Its window may
// have closed meanwhile.
func TestNoKeyIsMintedInABlackout(t *testing.T) {
	t.Parallel()
	blackout := func(c *inventory.Credential) {
		c.Schedule.Blackouts = []inventory.Blackout{{From: "2026-03-01T00:00", To: "2026-03-03T06:00", Why: "launch"}}
	}
	for name, x := range map[string]struct {
		calendar func(*inventory.Credential)
		start    policy.Start
		mints    bool
	}{
		"not one that a person began":         {blackout, policy.Start{}, false},
		"not one that a Schedule began":       {blackout, policy.Start{Fired: true}, false},
		"one that is wanted all the same":     {blackout, policy.Start{Now: true}, true},
		"one whose window has closed by then": {func(c *inventory.Credential) { c.Schedule.At = "02:00" }, policy.Start{}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCase(t)
			c.rewrite(x.calendar)
			in := activities.IssueInput{Rotation: c.subject(), Ordinal: 1}
			in.Start = x.start
			err := c.attempt("Issue", in, nil, 1)
			if x.mints {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, "a blackout lasts until 2026-03-03T06:00:00Z: launch")
			assert.Equal(t, []string{"key-old active"}, c.keys())
		})
	}
}

// How soon a slot that is given out can be given again.
func TestASlotIsGivenAgain(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		// lists are what Temporal has of the slot, second by second, after it was given.
		lists []bool
		free  bool
	}{
		"not before Temporal can have listed it": {[]bool{false, false, false}, false},
		"not while Temporal lists it":            {[]bool{false, true, true}, false},
		"as soon as its run has ended":           {[]bool{true, true, false}, true},
		"when no run took it":                    {make([]bool, 15), true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCase(t)
			one, err := workerconfig.Load("keyturn-worker.yaml", []byte(caseConfig+"maxRotations: 1\n"), c.do.Descriptors)
			require.NoError(t, err)
			c.do.Config = func() *workerconfig.Config { return one }
			ask := activities.SlotInput{Spec: c.spec}
			c.index.taken = nil
			c.execute("AwaitSlot", ask, nil)
			for second, listed := range x.lists {
				c.wait(1001 * time.Millisecond)
				c.index.taken = nil
				if listed {
					c.index.taken = []int{1}
				}
				if x.free && second == len(x.lists)-1 {
					c.execute("AwaitSlot", ask, nil)
				} else {
					c.executeToNotYet("AwaitSlot", ask)
				}
			}
		})
	}
}

func TestASlotIsForTheMostUrgent(t *testing.T) {
	t.Parallel()
	c := newCase(t)
	one, err := workerconfig.Load("keyturn-worker.yaml", []byte(caseConfig+"maxRotations: 1\n"), c.do.Descriptors)
	require.NoError(t, err)
	c.do.Config = func() *workerconfig.Config { return one }
	ask := activities.SlotInput{Spec: c.spec, RotateBy: c.now().Add(time.Hour), Since: c.now()}
	var slot activities.Slot

	// One that waits goes first, for as long as it may take to ask; it may not wait any more.
	c.index.waiting = []policy.Waiter{{Credential: "critical", Risk: inventory.RiskCritical, RotateBy: c.now(), Since: c.now()}}
	c.executeToNotYet("AwaitSlot", ask)
	c.wait(10 * time.Second)
	c.executeToNotYet("AwaitSlot", ask)
	c.wait(10 * time.Second)
	c.execute("AwaitSlot", ask, &slot)
	assert.Equal(t, 1, slot.Number)

	// The time in which the slot was taken does not count.
	c.wait(time.Minute)
	c.index.taken = []int{1}
	c.executeToNotYet("AwaitSlot", ask)
	c.wait(time.Minute)
	c.index.taken = nil
	c.executeToNotYet("AwaitSlot", ask)

	// Nobody waits for itself, nor for who is less urgent.
	spec, err := c.spec.Peek()
	require.NoError(t, err)
	c.index.waiting = []policy.Waiter{
		{Credential: spec.Credential.Name, Risk: inventory.RiskCritical},
		{Credential: "later", Risk: spec.Credential.Risk, RotateBy: c.now().Add(24 * time.Hour), Since: c.now().Add(-24 * time.Hour)},
	}
	c.wait(6 * time.Second)
	c.execute("AwaitSlot", ask, &slot)
	assert.Equal(t, 1, slot.Number)
}

// In a blackout a rotation does not begin; one that runs keeps the retiring key until its end.
func TestABlackoutKeepsTheRetiringKey(t *testing.T) {
	t.Parallel()
	c := newCase(t)
	c.rewrite(func(credential *inventory.Credential) {
		credential.Schedule.Blackouts = []inventory.Blackout{{From: "2026-03-01T14:30", To: "2026-03-03T06:00", Why: "launch"}}
	})
	for _, step := range []string{"Issue", "DeliverWave", "Promote"} {
		c.run(step)
	}
	c.wait(2 * time.Minute) // so that it is not keyturn's own try
	c.use()
	c.wait(3 * time.Hour) // 15:00 and later
	var e policy.Evidence
	c.execute("GatherEvidence", activities.EvidenceInput{Rotation: c.subject()}, &e)
	require.Len(t, e.Missing, 1, "%v", e.Missing)
	assert.Equal(t, policy.BlackedOut, e.Missing[0].Reason)
	assert.Contains(t, e.Missing[0].Message, "2026-03-03T06:00:00Z: launch")
	c.executeToNotYet("GatherEvidence", activities.EvidenceInput{Rotation: c.subject(), Shown: e.Lacks(), Late: c.now()})
	var d policy.Decision
	approvals := []policy.Verdict{{Action: policy.Approve, Accepted: true, By: "ann", At: c.now()}}
	c.execute("Disable", activities.RevokeInput{Rotation: c.subject(), Approvals: approvals}, &d)
	assert.Equal(t, policy.BlackedOut, d.Reason, "approved or not")
	var plan policy.Plan
	c.execute("Inspect", c.subject(), &plan)
	assert.Contains(t, fmt.Sprint(plan.Refusals), "a blackout lasts until")
	now := c.subject()
	now.Start.Now = true
	plan = policy.Plan{}
	c.execute("Inspect", now, &plan)
	assert.NotContains(t, fmt.Sprint(plan.Refusals), "blackout", "whoever wants it now may begin")
	assert.Contains(t, fmt.Sprint(plan.Warnings), "a blackout lasts until")

	c.clock.Store(time.Date(2026, 3, 3, 6, 0, 0, 0, time.UTC).UnixNano())
	approvals[0].At = c.now()
	c.execute("Disable", activities.RevokeInput{Rotation: c.subject(), Approvals: approvals}, &d)
	assert.True(t, d.OK, d.Message)
}
