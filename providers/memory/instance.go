package memory

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
)

// InstanceSettings say how one instance of a consumer behaves.
type InstanceSettings struct {
	// Store is the secret that it pulls its key from; empty when keys are delivered to it.
	Store string
	// Label is what it pulls; a default read when empty. A canary pulls PENDING, and the default while
	// there is none.
	Label key.Label
	// ReloadAfter is how long it goes on with the old key after it got a new one.
	ReloadAfter time.Duration
	// NeverReloads: it goes on with its first key.
	NeverReloads bool
	// Caches: it states the key that it got last, and goes on with the one before for this long, or until its cache
	// is purged.
	Caches time.Duration
	// RunsEvery and RunsFor make a batch job: it runs every so often for so long, with the key that it had when the
	// run began, and between two runs it states nothing and sends nothing.
	RunsEvery, RunsFor time.Duration
	// KeepsCopies: a key that was replaced stays with it until it is purged.
	KeepsCopies bool
	// ChangesRights is what a delivery changes for whoever may read its copy.
	ChangesRights string
	// Unreachable fails deliveries, Unhealthy its check, Mute its attestation.
	Unreachable, Unhealthy, Mute error
}

type instance struct {
	settings InstanceSettings
	held     secret.Bundle // what it got last
	heldKey  key.Ref
	heldAt   time.Time
	using    secret.Bundle // what it uses
	copies   []secret.Bundle
	run      int64 // of a batch job, counted from 1; 0 between two
	purged   int
	requests int
	refused  int
}

// SetInstance makes an instance, or changes the settings of one. Its name is what the providers' field
// instance says, {instance} expanded.
func (w *World) SetInstance(name string, s InstanceSettings) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if i := w.instances[name]; i != nil {
		i.settings = s
		return
	}
	w.instances[name] = &instance{settings: s}
}

// Give gives an instance a key that it had before keyturn.
func (w *World) Give(name string, b secret.Bundle) {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := w.instances[name]
	i.held, i.using, i.heldAt = copied(b), copied(b), w.now().UTC()
}

// Held returns the key that an instance got last, and when.
func (w *World) Held(name string) (secret.Bundle, time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := w.instances[name]
	return copied(i.held), i.heldAt
}

// Using returns the ID of the key that an instance uses now; empty for none.
func (w *World) Using(name string) (keyID string) {
	_ = w.locked(func(now time.Time) error {
		i := w.instances[name]
		i.refresh(w, name, now)
		if _, k := w.keyOf(i.using); k != nil {
			keyID = k.info.KeyID
		}
		return nil
	})
	return keyID
}

// Request sends one request with the key that the instance uses now. nil: it was accepted;
// providers.ErrKeyRefused: it was not, or there is no key.
func (w *World) Request(name string) error {
	return w.do(context.Background(), OpRequest, func(now time.Time) error {
		i := w.instances[name]
		i.refresh(w, name, now)
		if i.idle(now) {
			return nil
		}
		i.requests++
		err := w.use(now, i.using, name)
		if err != nil {
			i.refused++
			refused := Event{Op: OpRequest, Instance: name}
			if p, k := w.keyOf(i.using); k != nil {
				refused.Principal, refused.KeyID = p.name, k.info.KeyID
			}
			w.note(now, refused)
		}
		return err
	})
}

// Requests returns how many requests an instance has sent, and how many of them were refused; of all
// instances for an empty name.
func (w *World) Requests(name string) (sent, refused int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for n, i := range w.instances {
		if name == "" || name == n {
			sent, refused = sent+i.requests, refused+i.refused
		}
	}
	return sent, refused
}

// refresh pulls, and begins to use what is due.
func (i *instance) refresh(w *World, name string, now time.Time) {
	if i.settings.Store != "" {
		st := w.storeAt(i.settings.Store)
		b, err := st.byLabel(i.settings.Label)
		if err != nil {
			b, err = st.byLabel("")
		}
		if err == nil && !b.Equal(i.held) {
			i.take(b, key.Ref{}, now)
		}
	}
	first := len(i.using.Names()) == 0
	due := !i.settings.NeverReloads && !now.Before(i.heldAt.Add(max(i.settings.ReloadAfter, i.settings.Caches)))
	if i.settings.RunsEvery > 0 {
		run := i.settings.run(now)
		due = run == 0 || run != i.run
		i.run = run
	}
	if first || due {
		i.reload(w, name, now)
	}
}

// run numbers the run of a batch job that is going on; 0 for none.
func (s InstanceSettings) run(now time.Time) int64 {
	since := now.UnixNano() % int64(s.RunsEvery)
	if since >= int64(s.RunsFor) {
		return 0
	}
	return now.UnixNano()/int64(s.RunsEvery) + 1
}

// idle tells whether it is a batch job that does not run now.
func (i *instance) idle(now time.Time) bool {
	return i.settings.RunsEvery > 0 && i.settings.run(now) == 0
}

// reload begins to use the key that it got last.
func (i *instance) reload(w *World, name string, now time.Time) {
	if p, k := w.keyOf(i.held); k != nil && !i.held.Equal(i.using) {
		w.note(now, Event{Op: OpReload, Instance: name, Principal: p.name, KeyID: k.info.KeyID})
	}
	i.using = i.held
}

func (i *instance) take(b secret.Bundle, ref key.Ref, now time.Time) {
	if i.settings.KeepsCopies && len(i.held.Names()) > 0 {
		i.copies = append(i.copies, i.held)
	}
	i.held, i.heldKey, i.heldAt = b, ref, now
}

// statement is what the instance states: the fingerprint of the key that it uses, whatever its cache has.
func (i *instance) statement(w *World, name string, now time.Time) []string {
	i.refresh(w, name, now)
	states := i.using
	if i.settings.Caches > 0 && !now.Before(i.heldAt.Add(i.settings.ReloadAfter)) {
		states = i.held
	}
	if len(states.Names()) == 0 {
		return nil
	}
	b := states.Only(secret.ValueField)
	if _, k := w.keyOf(states); k != nil {
		b = k.bundle
	}
	return []string{b.Fingerprint()}
}

// on runs an operation on an instance.
func (w *World) on(ctx context.Context, op Op, name string, effect func(i *instance, now time.Time) error) error {
	return w.doAt(ctx, op, name, func(now time.Time) error {
		i := w.instances[name]
		if i == nil {
			return fmt.Errorf("%w: instance %q", providers.ErrNotFound, name)
		}
		return effect(i, now)
	})
}

// target delivers to instances.
type target struct {
	w    *World
	name func(instance string) string
}

var (
	_ providers.Target = target{}
	_ providers.Purger = target{}
	_ providers.Holder = target{}
)

// Holds implements providers.Holder.
func (t target) Holds(ctx context.Context, d providers.Delivery) (held bool, err error) {
	err = t.w.on(ctx, OpHolds, t.name(d.Instance), func(i *instance, _ time.Time) error {
		if i.settings.Unreachable != nil {
			return i.settings.Unreachable
		}
		held = i.held.Equal(d.Bundle)
		return nil
	})
	return held, err
}

// purger is the purge hook of instances that cache.
type purger struct {
	w    *World
	name func(instance string) string
}

var _ providers.Purger = purger{}

// Purge implements providers.Purger.
func (p purger) Purge(ctx context.Context, name string, ref key.Ref) error {
	name = p.name(name)
	return p.w.on(ctx, OpPurge, name, func(i *instance, now time.Time) error {
		if i.settings.Unreachable != nil {
			return i.settings.Unreachable
		}
		i.purged++
		i.refresh(p.w, name, now) // who reads the store reads it anew
		if i.settings.Caches > 0 && !i.held.Equal(i.using) {
			p.w.note(now, Event{Op: OpPurge, Instance: name, KeyID: ref.KeyID})
			i.reload(p.w, name, now)
		}
		return nil
	})
}

// Purged is how often the purge hook of an instance was called and took effect.
func (w *World) Purged(name string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.instances[name].purged
}

// Deliver implements providers.Target.
func (t target) Deliver(ctx context.Context, d providers.Delivery) error {
	name := t.name(d.Instance)
	return t.w.on(ctx, OpDeliver, name, func(i *instance, now time.Time) error {
		switch {
		case i.settings.Store != "":
			return fmt.Errorf("%w: instance %q pulls its key", providers.ErrUnsupported, name)
		case i.settings.Unreachable != nil:
			return i.settings.Unreachable
		case i.held.Equal(d.Bundle):
			return nil
		}
		i.take(copied(d.Bundle), d.Key, now)
		t.w.note(now, Event{Op: OpDeliver, Instance: name, Principal: d.Key.Principal, KeyID: d.Key.KeyID})
		return nil
	})
}

// Reach implements providers.Target.
func (t target) Reach(ctx context.Context, name string) error {
	return t.w.on(ctx, OpReach, t.name(name), func(i *instance, _ time.Time) error { return i.settings.Unreachable })
}

// ChangesRights implements providers.RightsChanger.
func (t target) ChangesRights(ctx context.Context, name string) (what string, err error) {
	return what, t.w.on(ctx, OpReach, t.name(name), func(i *instance, _ time.Time) error {
		what = i.settings.ChangesRights
		return nil
	})
}

// Purge implements providers.Purger.
func (t target) Purge(ctx context.Context, name string, ref key.Ref) error {
	name = t.name(name)
	return t.w.on(ctx, OpPurge, name, func(i *instance, now time.Time) error {
		if i.settings.Store != "" {
			return fmt.Errorf("%w: instance %q pulls its key", providers.ErrUnsupported, name)
		}
		if _, k := t.w.keyOf(i.held); k != nil && k.info.KeyID == ref.KeyID {
			return fmt.Errorf("%w: key %s is the live copy of instance %q", providers.ErrDenied, ref.KeyID, name)
		}
		kept := slices.DeleteFunc(slices.Clone(i.copies), func(b secret.Bundle) bool {
			_, k := t.w.keyOf(b)
			return k == nil || k.info.KeyID == ref.KeyID
		})
		if len(kept) < len(i.copies) {
			i.copies = kept
			t.w.note(now, Event{Op: OpPurge, Instance: name, KeyID: ref.KeyID})
		}
		return nil
	})
}

// Copies is how many replaced keys an instance still keeps.
func (w *World) Copies(name string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.instances[name].copies)
}

// attestor states which key instances use.
type attestor struct {
	w    *World
	name func(instance string) string
}

var _ providers.Attestor = attestor{}

// Attest implements providers.Attestor.
func (a attestor) Attest(ctx context.Context, names []string) ([]key.Statement, error) {
	var list []key.Statement
	var failed []error
	for _, asked := range names {
		name := a.name(asked)
		err := a.w.on(ctx, OpAttest, name, func(i *instance, now time.Time) error {
			if i.settings.Mute != nil {
				return i.settings.Mute
			}
			if i.idle(now) {
				return errors.New("connection refused: it does not run now")
			}
			list = append(list, key.Statement{Instance: asked, Keys: i.statement(a.w, name, now), ObservedAt: now, Source: "memory"})
			return nil
		})
		if err != nil {
			failed = append(failed, fmt.Errorf("instance %q: %w", name, err))
		}
	}
	return list, errors.Join(failed...)
}

// check looks after instances, or tries a key.
type check struct {
	w    *World
	name func(instance string) string
}

var _ providers.Check = check{}

// Check implements providers.Check. A bundle is used as a smoke test does; an instance is well unless its
// settings say otherwise.
func (c check) Check(ctx context.Context, in providers.CheckInput) error {
	name := ""
	if in.Instance != "" {
		name = c.name(in.Instance)
	}
	return c.w.doAt(ctx, OpCheck, name, func(now time.Time) error {
		if len(in.Bundle.Names()) > 0 {
			return c.w.use(now, in.Bundle, "smoke test")
		}
		i := c.w.instances[name]
		if i == nil {
			return fmt.Errorf("%w: instance %q", providers.ErrNotFound, in.Instance)
		}
		return i.settings.Unhealthy
	})
}

// health counts the requests of instances, and those that were refused.
type health struct {
	w         *World
	instances []string
}

var _ providers.HealthSignal = health{}

// Sample implements providers.HealthSignal. It counts from the beginning of the World.
func (h health) Sample(ctx context.Context, _ time.Duration) (s key.Sample, err error) {
	err = h.w.do(ctx, OpSample, func(now time.Time) error {
		s.At = now
		for name, i := range h.w.instances {
			if len(h.instances) == 0 || slices.Contains(h.instances, name) {
				s.Errors += float64(i.refused)
				s.Total += float64(i.requests)
			}
		}
		return nil
	})
	return s, err
}

// notifier keeps what it is told.
type notifier struct{ w *World }

var _ providers.Notifier = notifier{}

// Notify implements providers.Notifier.
func (n notifier) Notify(ctx context.Context, m providers.Notification) error {
	return n.w.do(ctx, OpNotify, func(now time.Time) error {
		n.w.notifications = append(n.w.notifications, m)
		n.w.note(now, Event{Op: OpNotify, Token: m.ID})
		return nil
	})
}

// Notifications returns what people were told.
func (w *World) Notifications() []providers.Notification {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.notifications)
}

// freezer keeps the freezes that are in force.
type freezer struct{ w *World }

var _ providers.Freezer = freezer{}

// Freeze implements providers.Freezer.
func (f freezer) Freeze(ctx context.Context, freeze providers.Freeze) error {
	return f.w.do(ctx, OpFreeze, func(now time.Time) error {
		if f.w.freezes == nil {
			f.w.freezes = map[string]providers.Freeze{}
		}
		f.w.freezes[freeze.Incident] = freeze
		f.w.note(now, Event{Op: OpFreeze, Token: freeze.Incident})
		return nil
	})
}

// Unfreeze implements providers.Freezer.
func (f freezer) Unfreeze(ctx context.Context, incident string) error {
	return f.w.do(ctx, OpUnfreeze, func(now time.Time) error {
		delete(f.w.freezes, incident)
		f.w.note(now, Event{Op: OpUnfreeze, Token: incident})
		return nil
	})
}

// Freezes returns those that are in force now.
func (w *World) Freezes() (list []providers.Freeze) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(w.freezes)) {
		if f := w.freezes[id]; w.now().Before(f.Until) {
			list = append(list, f)
		}
	}
	return list
}
