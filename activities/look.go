package activities

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/providers"
)

// look is what shall be seen of instances, beside whether they are well.
type look struct {
	// attest: which keys they use. keys are those that may be named, known those that a batch job may begin with.
	// unstored: the key that they use is none of these, since its value is in no store.
	attest   bool
	keys     []key.Info
	known    []known
	unstored bool
	// reach: whether they can be delivered to.
	reach bool
}

// instances looks at every instance of the consumers at once. A look that must end before all have answered tells of those
// that have not: none of them holds up the others.
func (s *site) instances(ctx context.Context, consumers []consumer, l look) []policy.Instance {
	ctx, done := glance(ctx)
	defer done()
	var all []policy.Instance
	var mu sync.Mutex
	s.each(consumers, func(c consumer, name string) {
		seen := s.instance(ctx, c, name, l)
		mu.Lock()
		defer mu.Unlock()
		all = append(all, seen)
	})
	slices.SortFunc(all, func(a, b policy.Instance) int { return s.places[a.Name()] - s.places[b.Name()] })
	return all
}

// instance looks at one instance. Each question has a part of the time alone: one that hangs leaves the others theirs, and the
// other instances their turn.
func (s *site) instance(ctx context.Context, c consumer, name string, l look) policy.Instance {
	seen := policy.Instance{Consumer: c.Name, Instance: name, Wave: c.waves[name], Pulls: c.pulls}
	ask := func(question func(context.Context)) {
		ctx, done := glance(ctx)
		defer done()
		question(ctx)
	}
	if l.attest {
		ask(func(ctx context.Context) {
			one := c
			one.Instances = []string{name}
			seen.Statement, seen.NotAttesting = one.attest(ctx, l.keys).of(name)
			if c.IsBatch() {
				seen.Statement, seen.NotAttesting = s.starting(ctx, c, name, seen.Statement, l)
			}
		})
	}
	if c.check != nil {
		ask(func(ctx context.Context) {
			if err := c.check.Check(ctx, providers.CheckInput{Instance: name}); err != nil {
				seen.Unhealthy = trouble(cutShort(ctx, err))
			}
		})
	}
	if l.reach && !c.pulls {
		ask(func(ctx context.Context) {
			if err := c.target.Reach(ctx, name); err != nil {
				seen.Unreachable = trouble(cutShort(ctx, err))
				return
			}
			if rights, can := c.target.(providers.RightsChanger); can {
				seen.ChangesRights, _ = rights.ChangesRights(ctx, name) // whoever does not say now said that it can be delivered to
			}
		})
	}
	return seen
}

// each does something for every instance of the consumers, a bounded number of them at once.
func (s *site) each(consumers []consumer, do func(c consumer, name string)) {
	var all fanOut
	for _, c := range consumers {
		for _, name := range c.InstanceNames() {
			all.do(func() { do(c, name) })
		}
	}
	all.wait()
}

// longestLook is longer than any provider lets one question take.
const longestLook = 130 * time.Second

// errLookOver is what is told of whoever did not answer in a look: the same for each, and each time.
var errLookOver = errors.New("no answer before the look had to end")

// glance bounds a look at peers, of which any may hang: it ends well before the attempt that it is a part of, which goes on
// with what was seen.
func glance(ctx context.Context) (context.Context, context.CancelFunc) {
	lasts := longestLook
	if end, ends := ctx.Deadline(); ends {
		lasts = min(lasts, time.Until(end)/2)
	}
	return context.WithTimeoutCause(ctx, lasts, errLookOver)
}

// cutShort tells trouble that is the end of the look from that of the peer.
func cutShort(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// instancesAtOnce bounds the fan-out to instances.
const instancesAtOnce = 16

// fanOut does things at once, a bounded number of them. A panic in one of them reaches the caller of
// wait, and so Temporal, instead of ending the worker.
type fanOut struct {
	// atOnce is the bound; instancesAtOnce when zero.
	atOnce   int
	running  errgroup.Group
	limit    sync.Once
	mu       sync.Mutex
	panicked any
}

func (f *fanOut) do(thing func()) {
	f.limit.Do(func() { f.running.SetLimit(cmp.Or(f.atOnce, instancesAtOnce)) })
	f.running.Go(func() error {
		defer func() {
			if p := recover(); p != nil {
				f.mu.Lock()
				defer f.mu.Unlock()
				f.panicked = p
			}
		}()
		thing()
		return nil
	})
}

func (f *fanOut) wait() {
	_ = f.running.Wait() // no function of it returns an error
	if f.panicked != nil {
		panic(f.panicked)
	}
}
