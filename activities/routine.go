package activities

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/outside"
	"github.com/keyturn/keyturn/internal/policy"
)

// Resolve finds the spec of a credential by name, in its Schedule. Who signed it is checked by whoever takes
// it. It changes nothing.
func (a *Activities) Resolve(ctx context.Context, credential string) (inventory.SignedSpec, error) {
	signed, err := a.resolve(ctx, credential)
	if err != nil {
		return signed, forTemporal(fmt.Errorf("resolving %q: %w", credential, err))
	}
	return signed, nil
}

func (a *Activities) resolve(ctx context.Context, credential string) (inventory.SignedSpec, error) {
	if a.Index == nil {
		return inventory.SignedSpec{}, ErrLeft
	}
	signed, err := a.Index.Spec(ctx, credential)
	if err != nil {
		return signed, err
	}
	if spec, err := signed.Peek(); err != nil || spec.Credential.Name != credential {
		return signed, fmt.Errorf("%w: its Schedule has the spec of another credential", ErrSpec)
	}
	return signed, nil
}

// Due says whether a routine rotation shall begin now.
type Due struct {
	Decision policy.Decision `json:"decision"`
	State    inventory.State `json:"state"`
	// NextRun is when the next one is due, if none begins now.
	NextRun time.Time `json:"nextRun,omitzero"`
}

// LookWhetherDue judges by issuer and store whether a routine rotation shall begin now, and gives the index a
// copy of what it found, so that the Schedule fires next when one is due. It changes nothing else.
func (a *Activities) LookWhetherDue(ctx context.Context, r Rotation) (Due, error) {
	s, err := a.openWithin(r)
	if err != nil {
		return Due{}, forTemporal(err)
	}
	c := s.spec.Credential
	if a.Index != nil {
		running, err := a.Index.Running(ctx, c.Name)
		if err != nil {
			return Due{}, forTemporal(fmt.Errorf("looking whether %q is due: %w", c.Name, err))
		}
		if running {
			return Due{Decision: AlreadyRunning(c.Name)}, nil
		}
	}
	facts, err := s.facts(ctx, false)
	if err != nil {
		return Due{}, forTemporal(fmt.Errorf("looking whether %q is due: %w", c.Name, err))
	}
	state := policy.StateOf(c, facts)
	due := Due{Decision: policy.MayFire(c, r.Start), State: state}
	if due.Decision.OK {
		due.Decision = policy.IsDue(c, state, a.Now())
	}
	if !due.Decision.OK {
		due.NextRun = policy.NextRun(c, state, a.Now())
		a.observe(ctx, s.spec, state)
	}
	return due, nil
}

// AlreadyRunning is why no other rotation of a credential begins.
func AlreadyRunning(credential string) policy.Decision {
	return policy.Decision{Reason: policy.AlreadyRunning, Message: "a rotation or an emergency of " + credential + " is running"}
}

// observe gives the index a copy of the truth. The truth is in the store, so that an index that cannot be
// reached holds nothing up: the next rotation, or --verify, finds the difference.
func (a *Activities) observe(ctx context.Context, spec inventory.Spec, state inventory.State) {
	if a.Index == nil {
		return
	}
	if err := a.Index.Observe(ctx, spec.Inventory, spec.Credential.Name, state); err != nil {
		logger(ctx).Warn("the Schedule of a credential does not have its state", "credential", spec.Credential.Name, "error", err)
	}
}

// LookUp returns what issuer and store say of a credential, and gives the index a copy.
func (a *Activities) LookUp(ctx context.Context, r Rotation) (inventory.State, error) {
	s, err := a.openWithin(r)
	if err != nil {
		return inventory.State{}, forTemporal(err)
	}
	facts, err := s.facts(ctx, false)
	if err != nil {
		return inventory.State{}, forTemporal(fmt.Errorf("looking up %q: %w", s.spec.Credential.Name, err))
	}
	state := policy.StateOf(s.spec.Credential, facts)
	a.observe(ctx, s.spec, state)
	return state, nil
}

// Scheduled is what the Schedule of a credential says.
type Scheduled struct {
	// Spec is the one that it has, signed or not.
	Spec inventory.SignedSpec
	// Paused is why it does not fire; empty when it does.
	Paused string
}

// Standing is whether a firing of a Schedule still stands.
type Standing struct {
	Decision policy.Decision `json:"decision"`
	// Newer is the spec that was applied since; none when it is still the same.
	Newer inventory.SignedSpec `json:"newer,omitzero"`
}

// Compare holds the spec that a Schedule fired with against what the Schedule says now. A credential that has left
// the inventory is ErrLeft, final. Who signed a newer spec is checked by whoever takes it. It changes nothing.
func (a *Activities) Compare(ctx context.Context, fired inventory.SignedSpec) (Standing, error) {
	standing := Standing{Decision: policy.Decision{OK: true, Reason: policy.Allowed}}
	if a.Index == nil {
		return standing, nil
	}
	spec, err := fired.Peek()
	if err != nil {
		return standing, forTemporal(fmt.Errorf("reading spec: %w: it is no JSON object of a spec", ErrSpec))
	}
	now, err := a.Index.Schedule(ctx, spec.Inventory, spec.Credential.Name)
	switch {
	case err != nil:
		return standing, forTemporal(fmt.Errorf("comparing with the Schedule of %q: %w", spec.Credential.Name, err))
	case now.Paused != "":
		standing.Decision = policy.Decision{Reason: policy.RotationsPaused, Message: "no routine rotation begins: " + outside.Text(now.Paused, outside.MaxText)}
	case !fired.Same(now.Spec):
		standing.Newer = now.Spec
	}
	return standing, nil
}

// SlotInput asks for a slot.
type SlotInput struct {
	Spec inventory.SignedSpec `json:"spec"`
	// Unpromoted asks for one of those between issue and promotion.
	Unpromoted bool `json:"unpromoted,omitempty"`
	// Begun: it has an incoming key already, so that the calendar is asked no more.
	Begun bool `json:"begun,omitempty"`
	// Lost is the slot that somebody else took first; 0 for none.
	Lost int `json:"lost,omitempty"`
	// RotateBy of the key, and Since when it was fired, are its place in the line.
	RotateBy time.Time `json:"rotateBy,omitzero"`
	Since    time.Time `json:"since,omitzero"`
}

// Slot is an answer to SlotInput: a number that seems free, 0 where there is no bound, or why none is wanted any more.
type Slot struct {
	Number int `json:"number,omitempty"`
	// Environment is the one whose own slot it is; empty for one that environments share.
	Environment string          `json:"environment,omitempty"`
	Decision    policy.Decision `json:"decision"`
}

// AwaitSlot answers "not yet" until one of the slots of routine rotations seems free, or the calendar lets no
// rotation begin any more. Who waits with a higher risk, or is due for longer, goes first; but no slot stays free for
// them for long. Whether it is free shows when its workflow is started: two may get one number.
func (a *Activities) AwaitSlot(ctx context.Context, in SlotInput) (Slot, error) {
	spec, _, err := a.spec(in.Spec)
	if err != nil {
		return Slot{}, forTemporal(err)
	}
	if a.Index == nil {
		return Slot{Number: 1, Decision: policy.Decision{OK: true, Reason: policy.Allowed}}, nil
	}
	if d := policy.MayBegin(spec.Credential, a.Now()); !d.OK && !in.Begun {
		return Slot{Decision: d}, nil
	}
	if in.Unpromoted {
		return a.awaitUnpromoted(ctx, spec.Credential, in)
	}
	who := policy.Waiter{Credential: spec.Credential.Name, Environment: spec.Credential.Environment, Risk: spec.Credential.Risk, RotateBy: in.RotateBy, Since: in.Since}
	slot, ahead, err := a.slots.give(ctx, a.Index, a.Now, a.Config().Slots, in.Lost, who)
	if err != nil {
		return Slot{}, forTemporal(fmt.Errorf("looking for a slot: %w", err))
	}
	if slot.Number == 0 {
		return Slot{}, notYet(fmt.Sprintf("no slot of routine rotations is free, or not for this one: %d that wait are more urgent", ahead), time.Second+rand.N(slotPatience(ahead))) //nolint:gosec // only spreads
	}
	return Slot{Number: slot.Number, Environment: slot.Environment, Decision: policy.Decision{OK: true, Reason: policy.Allowed}}, nil
}

// awaitUnpromoted is AwaitSlot for the slots of those between issue and promotion, which whoever asks first gets: they are free soon again.
func (a *Activities) awaitUnpromoted(ctx context.Context, c inventory.Credential, in SlotInput) (Slot, error) {
	slot := Slot{Environment: c.Environment, Decision: policy.Decision{OK: true, Reason: policy.Allowed}}
	limit := a.Config().Bounds[c.Environment].MaxUnpromoted
	if limit == 0 { // the configuration has none any more
		return slot, nil
	}
	who := policy.Waiter{Credential: c.Name, Environment: c.Environment}
	given, _, err := a.unpromoted.give(ctx, unpromotedIndex{a.Index}, a.Now, func(environment string) (string, int) { return environment, limit }, in.Lost, who)
	if err != nil {
		return Slot{}, forTemporal(fmt.Errorf("looking for a slot: %w", err))
	}
	if given.Number == 0 {
		return Slot{}, notYet(fmt.Sprintf("%d routine rotations of environment %s are between issue and promotion, as many as maxUnpromoted lets", limit, c.Environment), time.Second+rand.N(slotPatience(0))) //nolint:gosec // only spreads
	}
	slot.Number = given.Number
	return slot, nil
}

// unpromotedIndex has the slots of those between issue and promotion alone, and nobody who goes first.
type unpromotedIndex struct{ Index }

func (i unpromotedIndex) TakenSlots(ctx context.Context) ([]policy.Slot, error) {
	all, err := i.Index.TakenSlots(ctx)
	var taken []policy.Slot
	for _, s := range all {
		if s.Unpromoted {
			taken = append(taken, policy.Slot{Environment: s.Environment, Number: s.Number})
		}
	}
	return taken, err
}

func (i unpromotedIndex) Waiting(context.Context) ([]policy.Waiter, error) { return nil, nil }

// slotPatience bounds how long somebody waits before asking for a slot again: the longer, the more go first, so that
// thousands who wait for days do not ask all the time, and those at the front find a slot before it is anybody's.
func slotPatience(ahead int) time.Duration {
	return min(max(time.Duration(ahead)*time.Second, 10*time.Second), 5*time.Minute)
}

const (
	// listedFor and linedUpFor are how long a list of the taken slots, and of those who wait, counts.
	listedFor  = time.Second
	linedUpFor = 5 * time.Second
	// heldFor is how long a slot that was given out is not given to others, unless it shows before in what Temporal lists.
	heldFor = 15 * time.Second
	// yieldsFor is how long a slot stays free for those who go first: some of them may not wait any more.
	yieldsFor = 15 * time.Second
)

// slots gives out the numbers that nobody has, to all who ask this process.
type slots struct {
	mu     sync.Mutex
	listed time.Time
	taken  []policy.Slot
	// given are those that the list does not show yet.
	given map[policy.Slot]time.Time
	// freed is since when a slot is seen to be free.
	freed map[policy.Slot]time.Time
	// line are those who wait.
	line    []policy.Waiter
	linedUp time.Time
}

// give answers with a slot, or with number 0; ahead is how many go first who wait for the same ones. bound says whose slots an
// environment needs, and how many there are.
func (s *slots) give(ctx context.Context, index Index, clock func() time.Time, bound func(environment string) (of string, limit int), lost int, who policy.Waiter) (slot policy.Slot, ahead int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.look(ctx, index, clock); err != nil {
		return slot, 0, err
	}
	now := clock()
	of, limit := bound(who.Environment)
	if lost > 0 {
		s.given[policy.Slot{Environment: of, Number: lost}] = now
	}
	var free, anybodys []policy.Slot
	for number := 1; number <= limit; number++ {
		n := policy.Slot{Environment: of, Number: number}
		if slices.Contains(s.taken, n) || now.Sub(s.given[n]) <= heldFor {
			delete(s.freed, n)
			continue
		}
		if s.freed[n].IsZero() {
			s.freed[n] = now
		}
		free = append(free, n)
		if now.Sub(s.freed[n]) > yieldsFor {
			anybodys = append(anybodys, n)
		}
	}
	for _, w := range s.line {
		same := w.Environment == ""
		if theirs, _ := bound(w.Environment); !same {
			same = theirs == of
		}
		if same && w.Credential != who.Credential && w.Before(who) {
			ahead++
		}
	}
	if ahead >= len(free) {
		free = anybodys
	}
	if len(free) == 0 {
		return slot, ahead, nil
	}
	slot = free[rand.N(len(free))] //nolint:gosec // only spreads
	s.given[slot] = now
	delete(s.freed, slot)
	s.line = slices.DeleteFunc(s.line, func(w policy.Waiter) bool { return w.Credential == who.Credential })
	return slot, ahead, nil
}

// look lists again what was listed too long ago.
func (s *slots) look(ctx context.Context, index Index, clock func() time.Time) error {
	if s.given == nil {
		s.given, s.freed = map[policy.Slot]time.Time{}, map[policy.Slot]time.Time{}
	}
	if clock().Sub(s.listed) > listedFor {
		taken, err := index.TakenSlots(ctx)
		if err != nil {
			return err
		}
		s.taken, s.listed = taken, clock() // not of before: who waited for a slow list must not ask for another
		for _, n := range taken {
			delete(s.given, n)
		}
	}
	if clock().Sub(s.linedUp) > linedUpFor {
		line, err := index.Waiting(ctx)
		if err != nil {
			return err
		}
		s.line, s.linedUp = line, clock()
	}
	return nil
}
