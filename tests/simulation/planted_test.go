package simulation

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/memory"
	"github.com/keyturn/keyturn/tests/invariant"
	"github.com/keyturn/keyturn/workflows"
)

// A checker that cannot fail proves nothing. Here keyturn is given bugs, none of them in its own code: what it is
// told, what it reaches the world through, or how an activity is called. The simulation must find each soon.

// within is how many seeds may pass before a planted bug is found.
const within = 12

// bent is an issuer with a bug.
type bent struct {
	providers.Issuer
	providers.Disabler
	providers.SelfTester
	providers.RightsChecker
	issue   func(context.Context, providers.IssueRequest) (providers.Issued, error)
	list    func(context.Context) ([]key.Info, error)
	disable func(context.Context, key.Ref) error
	enable  func(context.Context, key.Ref) error
	destroy func(context.Context, key.Ref) error
}

func (b bent) List(ctx context.Context) ([]key.Info, error) {
	if b.list != nil {
		return b.list(ctx)
	}
	return b.Issuer.List(ctx)
}

func (b bent) Enable(ctx context.Context, k key.Ref) error {
	if b.enable != nil {
		return b.enable(ctx, k)
	}
	return b.Disabler.Enable(ctx, k)
}

func (b bent) Issue(ctx context.Context, r providers.IssueRequest) (providers.Issued, error) {
	if b.issue != nil {
		return b.issue(ctx, r)
	}
	return b.Issuer.Issue(ctx, r)
}

func (b bent) Disable(ctx context.Context, k key.Ref) error {
	if b.disable != nil {
		return b.disable(ctx, k)
	}
	return b.Disabler.Disable(ctx, k)
}

func (b bent) Destroy(ctx context.Context, k key.Ref) error {
	if b.destroy != nil {
		return b.destroy(ctx, k)
	}
	return b.Issuer.Destroy(ctx, k)
}

// issuer makes a plant of a change to an issuer that can disable.
func issuer(bend func(*bent)) func(*memory.World, *providers.Descriptor) {
	return func(w *memory.World, d *providers.Descriptor) {
		if d.Issuer == nil {
			return
		}
		d.Issuer = providers.Make(func(_ providers.Environment, c *memory.IssuerConfig) (providers.Issuer, error) {
			whole := w.Issuer(c.Principal)
			disabler, can := whole.(providers.Disabler)
			if !can {
				return whole, nil
			}
			b := bent{Issuer: whole, Disabler: disabler, SelfTester: whole.(providers.SelfTester), RightsChecker: whole.(providers.RightsChecker)}
			bend(&b)
			return b, nil
		})
	}
}

// bentStore is a store with a bug.
type bentStore struct {
	providers.Store
	prune       func(context.Context, string) error
	putMetadata func(context.Context, key.Metadata) (key.Revision, error)
	promote     func(ctx context.Context, from, to string) error
	stage       func(context.Context, string, secret.Bundle) (string, error)
}

func (b bentStore) Stage(ctx context.Context, token string, value secret.Bundle) (string, error) {
	if b.stage != nil {
		return b.stage(ctx, token, value)
	}
	return b.Store.Stage(ctx, token, value)
}

func (b bentStore) Prune(ctx context.Context, version string) error {
	if b.prune != nil {
		return b.prune(ctx, version)
	}
	return b.Store.Prune(ctx, version)
}

func (b bentStore) PutMetadata(ctx context.Context, m key.Metadata) (key.Revision, error) {
	if b.putMetadata != nil {
		return b.putMetadata(ctx, m)
	}
	return b.Store.PutMetadata(ctx, m)
}

func (b bentStore) Promote(ctx context.Context, from, to string) error {
	if b.promote != nil {
		return b.promote(ctx, from, to)
	}
	return b.Store.Promote(ctx, from, to)
}

func store(bend func(*memory.World, *bentStore)) func(*memory.World, *providers.Descriptor) {
	return func(w *memory.World, d *providers.Descriptor) {
		if d.Store == nil {
			return
		}
		d.Store = providers.Make(func(_ providers.Environment, c *memory.StoreConfig) (providers.Store, error) {
			b := bentStore{Store: w.Store(c.Path)}
			bend(w, &b)
			return b, nil
		})
	}
}

// liar states for every instance the newest key that any of them has.
type liar struct {
	providers.Attestor
	mu   *sync.Mutex
	best *key.Statement
}

func (l liar) Attest(ctx context.Context, instances []string) ([]key.Statement, error) {
	honest, err := l.Attestor.Attest(ctx, instances)
	if err != nil {
		return honest, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range honest {
		if l.best.Instance == "" || len(s.Keys) == 1 && s.Keys[0] != l.best.Keys[0] && l.best.Source == "first" {
			source := "first"
			if l.best.Instance != "" {
				source = "newest"
			}
			*l.best = key.Statement{Instance: s.Instance, Keys: s.Keys, Source: source}
		}
	}
	for i := range honest {
		honest[i].Keys = slices.Clone(l.best.Keys)
	}
	return honest, nil
}

func lies(_ *memory.World, d *providers.Descriptor) {
	if d.Attestor == nil {
		return
	}
	open, mu, best := d.Attestor.Open, new(sync.Mutex), new(key.Statement)
	d.Attestor.Open = func(e providers.Environment, a, c any) (providers.Attestor, error) {
		honest, err := open(e, a, c)
		return liar{honest, mu, best}, err
	}
}

// forgetful delivers the incoming key, and not the retiring one again.
type forgetful struct{ providers.Target }

func (f forgetful) Deliver(ctx context.Context, d providers.Delivery) error {
	if d.Key.KeyID == first {
		return nil
	}
	return f.Target.Deliver(ctx, d)
}

func forgets(_ *memory.World, d *providers.Descriptor) {
	open := d.Target.Open
	d.Target.Open = func(e providers.Environment, a, c any) (providers.Target, error) {
		whole, err := open(e, a, c)
		return forgetful{whole}, err
	}
}

// sink is an audit sink with a bug: it may leave events out, or keep them for later.
type sink struct {
	audit.Sink
	keep func([]audit.Event) []audit.Event
}

func (s sink) Append(ctx context.Context, events ...audit.Event) error {
	return s.Sink.Append(ctx, s.keep(slices.Clone(events))...)
}

func leavesOut(t audit.Type) func(audit.Sink) audit.Sink {
	return func(whole audit.Sink) audit.Sink {
		return sink{whole, func(events []audit.Event) []audit.Event {
			return slices.DeleteFunc(events, func(e audit.Event) bool { return e.Type == t })
		}}
	}
}

func delays(t audit.Type) func(audit.Sink) audit.Sink {
	return func(whole audit.Sink) audit.Sink {
		var mu sync.Mutex
		var late []audit.Event
		return sink{whole, func(events []audit.Event) []audit.Event {
			mu.Lock()
			defer mu.Unlock()
			before := late
			late = nil
			for _, e := range events {
				if e.Type == t {
					late = append(late, e)
				}
			}
			return append(slices.DeleteFunc(events, func(e audit.Event) bool { return e.Type == t }), before...)
		}}
	}
}

// instead replaces what an activity does.
func instead(name string, do func(in []any, call func([]any) (any, error)) (any, error)) func(string, []any, func([]any) (any, error)) (any, error) {
	return func(activity string, in []any, call func([]any) (any, error)) (any, error) {
		if activity == name {
			return do(in, call)
		}
		return call(in)
	}
}

// leavesDisabled is an issuer that does not enable a key again, and shows it as if it had.
func leavesDisabled(w *memory.World, d *providers.Descriptor) {
	var asked atomic.Bool
	issuer(func(b *bent) {
		b.enable = func(context.Context, key.Ref) error {
			asked.Store(true)
			return nil
		}
		b.list = func(ctx context.Context) ([]key.Info, error) {
			keys, err := b.Issuer.List(ctx)
			for i := range keys {
				if keys[i].KeyID == first && asked.Load() {
					keys[i].State = key.Active
				}
			}
			return keys, err
		}
	})(w, d)
}

// takesBoth is an issuer where with a key that is destroyed the retiring one goes, too.
func takesBoth(b *bent) {
	b.destroy = func(ctx context.Context, k key.Ref) error {
		if err := b.Issuer.Destroy(ctx, key.Ref{Principal: principal, KeyID: first}); err != nil && !errors.Is(err, providers.ErrNotFound) {
			return err
		}
		return b.Issuer.Destroy(ctx, k)
	}
}

// overwrites promotes over whatever is CURRENT.
func overwrites(store providers.Store) func(context.Context, string, string) error {
	return func(ctx context.Context, from, to string) error {
		err := store.Promote(ctx, from, to)
		if !errors.Is(err, providers.ErrConflict) {
			return err
		}
		versions, err := store.Versions(ctx)
		for _, v := range versions {
			if v.Has(key.Current) {
				return store.Promote(ctx, v.ID, to)
			}
		}
		return err
	}
}

// backwards turns the order of the plan's waves round.
func backwards(in []any, call func([]any) (any, error)) (any, error) {
	out, err := call(in)
	if plan, ok := out.(policy.Plan); ok {
		slices.Reverse(plan.Waves)
		return plan, err
	}
	return out, err
}

// unseeing looks, and goes on whatever it sees.
func unseeing(in []any, call func([]any) (any, error)) (any, error) {
	if _, err := call(in); err != nil {
		return nil, err
	}
	return nil, temporal.NewApplicationError("still watching", "not-yet")
}

// pushed has keyturn deliver to all consumers by itself.
func pushed(s *script) {
	for i := range s.consumers {
		s.consumers[i].pulls = false
	}
}

// planted are the bugs.
var planted = map[string]struct {
	// violates and rule are what the checker must find.
	violates invariant.Invariant
	rule     string
	// in makes each seed's world one in which the bug can show.
	in    func(*script)
	plant plant
}{
	"a mint makes two keys": {invariant.I7, "every key is accounted for", nil, plant{types: issuer(func(b *bent) {
		b.issue = func(ctx context.Context, r providers.IssueRequest) (providers.Issued, error) {
			twice := r
			twice.Token += "-again"
			if second, err := b.Issuer.Issue(ctx, twice); err == nil {
				second.Bundle.Close()
			}
			return b.Issuer.Issue(ctx, r)
		}
	})}},
	"an orphan is forgotten": {invariant.I7, "every key is accounted for", func(s *script) { s.faults = []fault{{activity: "Issue", op: memory.OpIssue, call: 1, kind: dieAfter}} },
		plant{types: store(func(_ *memory.World, b *bentStore) {
			b.putMetadata = func(ctx context.Context, m key.Metadata) (key.Revision, error) {
				m.Intents = nil
				return b.Store.PutMetadata(ctx, m)
			}
		})},
	},
	"promote without compare-and-swap": {invariant.I2, "nobody else's CURRENT is overwritten", func(s *script) {
		pushed(s)
		s.overtaken = true
	}, plant{types: store(func(_ *memory.World, b *bentStore) { b.promote = overwrites(b.Store) })}},
	"attestations are not asked for": {invariant.I3, "every instance is on CURRENT when the retiring key goes", func(s *script) { s.never, s.reportsUsage = "web-a", false }, // its requests would tell
		plant{types: lies},
	},
	"all waves at once": {invariant.I1, "the canary goes first", nil, plant{activity: instead("DeliverWave", func(in []any, call func([]any) (any, error)) (any, error) {
		wave := in[0].(activities.WaveInput)
		wave.Instances = nil
		return call([]any{wave})
	})}},
	"waves do not soak":           {invariant.I1, "each wave soaks", nil, plant{told: func(s *script) { s.waveSoak = 0 }}},
	"stored versions are left":    {invariant.I7, "labels are right", nil, plant{types: store(func(_ *memory.World, b *bentStore) { b.prune = func(context.Context, string) error { return nil } })}},
	"the overlap is cut short":    {invariant.I3, "the overlap has passed", func(s *script) { s.lag, s.overlap = 0, 15*time.Minute }, plant{told: func(s *script) { s.overlap, s.quiet = time.Minute, time.Minute }}},
	"the quiet window is ignored": {invariant.I3, "the retiring key was quiet", func(s *script) { s.lag, s.reportsUsage, s.quiet, s.undeclared = 0, true, s.overlap, time.Hour }, plant{told: func(s *script) { s.quiet = time.Minute }}},
	"one approval counts for two": {invariant.I9, "each revoking has its own approvals", func(s *script) { s.approvals = 2 }, plant{told: func(s *script) { s.approvals = 1 }}},
	"caches are not waited for": {
		invariant.I1, "no key in use is taken away",
		func(s *script) {
			s.reportsUsage, s.lag = false, 0
			plain(s, func(c *consumer) { c.cacheTTL = 2 * s.overlap })
		},
		plant{told: func(s *script) { plain(s, func(c *consumer) { c.cacheTTL = 0 }) }},
	},
	"caches are not purged": {
		invariant.I1, "no key in use is taken away",
		func(s *script) { s.reportsUsage, s.lag = false, 0; plain(s, func(c *consumer) { c.purge = true }) },
		plant{types: func(_ *memory.World, d *providers.Descriptor) {
			if d.Purge != nil {
				d.Purge.Open = func(providers.Environment, any, any) (providers.Purger, error) { return lazy{}, nil }
			}
		}},
	},
	"a run of a batch job is cut off": {
		invariant.I1, "no key in use is taken away",
		func(s *script) {
			s.reportsUsage, s.lag, s.overlap = false, 0, time.Hour
			plain(s, func(c *consumer) { c.longestRun = time.Hour })
		},
		plant{types: lies, told: func(s *script) {
			s.overlap, s.quiet = time.Minute, time.Minute
			plain(s, func(c *consumer) { c.longestRun = time.Minute })
		}},
	},
	"nobody watches the disabled key": {
		invariant.I1, "a user that nobody declared is refused until it is noticed",
		func(s *script) {
			s.reportsUsage, s.lag, s.pauses, s.wakes, s.disableSoak = true, 0, false, true, 20*time.Minute
		},
		plant{activity: func(name string, in []any, call func([]any) (any, error)) (any, error) {
			switch name {
			case "AwaitMissed":
				return policy.Decision{OK: true}, nil
			case "Watch":
				return unseeing(in, call)
			}
			return call(in)
		}},
	},
	"one wave instead of its steps": {
		invariant.I1, "the canary goes first",
		func(s *script) {
			s.steps = []string{"1"}
			plain(s, func(c *consumer) { c.instances = []string{"a", "b", "c"} })
		},
		plant{told: func(s *script) { s.steps = nil }},
	},
	"the soak is ignored":          {invariant.I3, "a key is disabled before it is destroyed, for the soak", nil, plant{told: func(s *script) { s.disableSoak = 0 }}},
	"disabling destroys":           {invariant.I3, "a key is disabled before it is destroyed, for the soak", nil, plant{types: issuer(func(b *bent) { b.disable = b.Issuer.Destroy })}},
	"an audit event is left out":   {invariant.I10, "each effect is recorded", nil, plant{audit: leavesOut(audit.KeyDisabled)}},
	"the intent is recorded late":  {invariant.I10, "the record is in causal order", nil, plant{audit: delays(audit.MintIntended)}},
	"a rollback forgets consumers": {invariant.I4, "a rollback ends well", func(s *script) { s.acts = []act{{after: 20 * time.Minute, what: "rollback"}} }, plant{types: forgets}},
	"a stranger's key is destroyed": {invariant.I2, "strangers are untouched", func(s *script) { s.slots, s.stranger = 3, "disabled" }, plant{types: issuer(func(b *bent) {
		b.destroy = func(ctx context.Context, k key.Ref) error {
			if err := b.Issuer.Destroy(ctx, key.Ref{Principal: principal, KeyID: "stranger"}); err != nil {
				return err
			}
			return b.Issuer.Destroy(ctx, k)
		}
	})}},
	"a key that lives on is no debt": {invariant.I5, "after a rotation the retiring key is dead, or debt", nil, plant{activity: func(name string, in []any, call func([]any) (any, error)) (any, error) {
		switch name {
		case "Destroy":
			return activities.Destroyed{Decision: policy.Decision{OK: true}}, nil
		case "Record":
			out, err := call(in)
			if recorded, ok := out.(activities.Recorded); ok {
				recorded.Debt = nil
				return recorded, err
			}
			return out, err
		}
		return call(in)
	}}},
	"whose credential it is is forgotten": {invariant.I7, "the metadata is clean", nil, plant{types: store(forgetting(func(m *key.Metadata) { m.Inventory, m.Environment = "", "" }))}},
	"the end of a rotation is not marked": {invariant.I7, "the metadata is clean", nil, plant{types: store(forgetting(func(m *key.Metadata) {
		for i := range m.Keys {
			m.Keys[i].KeptAt = time.Time{}
		}
	}))}},
	"a rollback leaves the key disabled": {
		invariant.I4, "a rollback ends well", // it is noticed: nobody is brought back to a key that is refused
		func(s *script) { s.acts = []act{{what: "rollback", in: workflows.PhaseDisableSoak}} },
		plant{types: leavesDisabled},
	},
	"a rollback takes the retiring key": {
		invariant.I4, "a rollback that was accepted is carried out",
		func(s *script) { s.acts = []act{{what: "rollback", in: workflows.PhaseOverlap}} },
		plant{types: issuer(takesBoth)},
	},
	"a rejected gate revokes": {
		invariant.I9, "a rejected gate stays closed",
		func(s *script) { s.approvals, s.acts = 1, []act{{what: "reject", in: workflows.PhaseRevokeGate}} },
		plant{types: issuer(takesBoth)},
	},
	"wave order reversed": {invariant.I1, "the canary goes first", pushed, plant{activity: instead("Inspect", backwards)}},
	"CURRENT moves at once": {invariant.I1, "CURRENT moves after the deliveries", pushed, plant{types: store(func(_ *memory.World, b *bentStore) {
		b.stage = func(ctx context.Context, token string, value secret.Bundle) (string, error) {
			id, err := b.Store.Stage(ctx, token, value)
			if err != nil {
				return "", err
			}
			return id, b.Store.Promote(ctx, "v1", id)
		}
	})}},
	"nobody looks after the disabling": {
		invariant.I1, "a user that nobody declared is refused until it is noticed",
		func(s *script) {
			s.reportsUsage, s.pauses, s.disableSoak, s.undeclared = false, false, 30*time.Minute, 3*time.Hour
		},
		plant{activity: instead("Watch", unseeing)},
	},
	"the issuer is not believed that somebody misses the key": {
		invariant.I1, "a user that nobody declared is refused until it is noticed",
		func(s *script) {
			s.canDisable, s.reportsUsage, s.lag, s.disableSoak, s.wakes = true, true, 0, 5*time.Minute, true
		},
		plant{activity: instead("Watch", unseeing), types: issuer(func(b *bent) {
			b.list = func(ctx context.Context) ([]key.Info, error) {
				keys, err := b.Issuer.List(ctx)
				for n := range keys {
					if keys[n].State == key.Disabled {
						keys[n].LastUsedAt = time.Time{}
					}
				}
				return keys, err
			}
		})},
	},
	"another rotation mints meanwhile": {invariant.I6, "one key is incoming at a time", func(s *script) { s.slots = 3 }, plant{types: issuer(func(b *bent) {
		b.issue = func(ctx context.Context, r providers.IssueRequest) (providers.Issued, error) {
			theirs := r
			theirs.Token += "-of-another"
			if other, err := b.Issuer.Issue(ctx, theirs); err == nil {
				other.Bundle.Close()
			}
			return b.Issuer.Issue(ctx, r)
		}
	})}},
	"a pruning is left out":  {invariant.I10, "each effect is recorded", nil, plant{audit: leavesOut(audit.VersionPruned)}},
	"a decision is left out": {invariant.I10, "each decision is recorded", func(s *script) { s.approvals = 1 }, plant{audit: leavesOut(audit.DecisionAccepted)}},
}

// plain changes the last consumer, which is delivered to, and nothing else of it.
func plain(s *script, change func(*consumer)) {
	s.consumers = slices.Clone(s.consumers)
	for i := range s.consumers {
		c := &s.consumers[i]
		c.cacheTTL, c.purge, c.longestRun = 0, false, 0
		for _, name := range c.instances {
			s.reload[c.instance(name)] = 0
		}
	}
	last := &s.consumers[len(s.consumers)-1]
	last.pulls = false
	change(last)
	if last.longestRun > 0 {
		s.steps = nil
	}
}

// lazy is a purge hook that does nothing.
type lazy struct{}

func (lazy) Purge(context.Context, string, key.Ref) error { return nil }

// forgetting makes a store that keeps the metadata but for something.
func forgetting(leaveOut func(*key.Metadata)) func(*memory.World, *bentStore) {
	return func(_ *memory.World, b *bentStore) {
		b.putMetadata = func(ctx context.Context, m key.Metadata) (key.Revision, error) {
			m.Keys = slices.Clone(m.Keys)
			leaveOut(&m)
			return b.Store.PutMetadata(ctx, m)
		}
	}
}

func TestPlantedBugsAreFound(t *testing.T) {
	t.Parallel()
	for name, c := range planted {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var last []string
			for seed := uint64(1); seed <= within; seed++ {
				s := write(seed)
				// The bug alone, in a world in which it can show.
				s.faults, s.acts, s.outages, s.never, s.breachAt = nil, nil, nil, "", 0
				s.adopted, s.leftover, s.canDisable, s.undeclared, s.wakes = false, false, true, 0, false
				if s.stranger == "active" {
					s.stranger = ""
				}
				if c.in != nil {
					c.in(&s)
				}
				found := simulate(t, s, c.plant)
				at := slices.IndexFunc(found.violations, func(v invariant.Violation) bool { return v.Invariant == c.violates && v.Rule == c.rule })
				if at >= 0 {
					t.Logf("found by seed %d: %s", seed, found.violations[at])
					require.Empty(t, simulate(t, s, plant{}).problems, "without the bug nothing is wrong")
					return
				}
				last = found.problems
			}
			assert.Fail(t, "no seed found the bug", "%s (%s); the last one found %q", c.violates, c.rule, last)
		})
	}
}
