package activities

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/patience"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
)

// member is one instance of a wave, as one attempt to deliver sees it.
type member struct {
	consumer
	name string
	// given: the key was delivered and what was cached purged, by this attempt or the one before; looks and times are how
	// often it was looked at since, and how often it was given the key again.
	given        bool
	looks, times int
	// before: it had converged once, so that it is given the key again when it has lost it.
	before bool
	// converged by the last look; hopeless: trying again cannot help.
	converged, hopeless bool
	tries               int
	seen                policy.Instance
	last                *key.Statement // what it stated when it last stated anything
	bit                 int            // in the cursor
}

func (m *member) settled() bool { return m.converged || m.hopeless }

// cursor is what a delivery leaves in its heartbeat for the attempt that follows it: a bit for each instance, however
// long its name. It is a hint alone. Whether an instance has converged, each attempt sees for itself.
type cursor struct {
	// Key and Of say what it is about: the key, and a digest of the instances in their order.
	Key string `json:"key"`
	Of  string `json:"of"`
	// Done has a bit for each instance that was given the key and had converged.
	Done []byte `json:"done"`
	// Spent is how long attempts have tried so far, all of them together, each by the clock of its own worker.
	Spent time.Duration `json:"spent,omitempty"`
}

// left is the cursor that the attempt before left; the zero one for none, or of another version.
func left(ctx context.Context) (c cursor) {
	if activity.IsActivity(ctx) && activity.HasHeartbeatDetails(ctx) && activity.GetHeartbeatDetails(ctx, &c) != nil {
		return cursor{}
	}
	return c
}

func (c cursor) has(i int) bool { return i/8 < len(c.Done) && c.Done[i/8]&(1<<(i%8)) != 0 }

// convergence is one attempt to bring a wave to a key.
type convergence struct {
	*Activities
	site   *site
	facts  policy.Facts
	in     WaveInput
	bundle secret.Bundle
	list   []*member
	turns  chan struct{} // as many as the policy lets be tried at once
	began  time.Time
	before time.Duration // what earlier attempts spent
	due    time.Duration // when the run is told how far it is, from the begin

	judging sync.Mutex // guards judged
	judged  policy.Facts

	mu     sync.Mutex // guards what follows
	cursor cursor
	latest []policy.Instance  // what was last seen of each
	record func(cursor) error // sends the cursor as a heartbeat
	end    context.CancelCauseFunc
}

// lastTry is how long an attempt may take that begins when the time is spent, since the one before it died at its end.
const lastTry = 30 * time.Second

// convergeAll brings the instances of the wave to the key: a bounded number of them is tried at once, and none that is
// waited for holds up another. It returns what was last seen of each, once all have converged or the time is spent.
func (a *Activities) convergeAll(ctx context.Context, s *site, facts policy.Facts, in WaveInput, bundle secret.Bundle, from cursor) ([]policy.Instance, error) {
	c := &convergence{Activities: a, site: s, facts: facts, judged: facts, in: in, bundle: bundle, turns: make(chan struct{}, s.spec.Credential.Parallel()), began: a.Now(), due: tellAfter}
	c.gather(from)
	// The SDK sends a heartbeat later, with the context that it was recorded with, and an activity whose heartbeat fails is
	// cancelled: so that is the activity's own, which outlives this part of it.
	whole := ctx
	c.record = func(at cursor) error {
		if a.Acknowledge != nil {
			return a.Acknowledge(whole, at)
		}
		if activity.IsActivity(whole) {
			activity.RecordHeartbeat(whole, at)
		}
		return nil
	}
	defer func() { s.heartbeat = c.soFar() }()
	left := c.left()
	if left <= 0 {
		left = lastTry
	}
	ctx, cancel := context.WithDeadline(ctx, time.Now().Add(left))
	defer cancel()
	beat, stop := c.heartbeat(ctx)
	defer stop()
	for {
		c.each(func(m *member) bool { return !m.settled() }, func(m *member) { c.follow(beat, m) })
		if !c.all((*member).settled) || c.all(func(m *member) bool { return m.tries == 1 }) {
			break
		}
		// Some were waited for, and others may have lost the key since: the judgement rests on a look at all of them now.
		c.each(func(m *member) bool { return m.converged }, func(m *member) { c.attend(beat, m) })
		if c.all((*member).settled) {
			break
		}
	}
	if cause := context.Cause(beat); cause != nil && !errors.Is(cause, context.DeadlineExceeded) { // ErrSuperseded, too
		return nil, cause // cancelled, or the worker stops: another attempt will tell
	}
	seen := make([]policy.Instance, 0, len(c.list))
	for _, m := range c.list {
		seen = append(seen, m.seen)
	}
	return seen, nil
}

// gather lists the instances of the wave in the order of the spec.
func (c *convergence) gather(from cursor) {
	wanted := map[string]bool{}
	for _, name := range c.in.Instances {
		wanted[name] = true
	}
	digest := sha256.New()
	for _, owner := range c.site.consumers {
		for _, name := range owner.InstanceNames() {
			whole := policy.InstanceName(owner.Name, name)
			if len(wanted) > 0 && !wanted[whole] {
				continue
			}
			one := owner
			one.Instances = []string{name}
			c.list = append(c.list, &member{consumer: one, name: name, bit: len(c.list), seen: policy.Instance{
				Consumer: owner.Name, Instance: name, Wave: owner.waves[name], Pulls: owner.pulls, NotAttesting: "the time was over before it was asked",
			}})
			fmt.Fprintf(digest, "%s\x00", whole)
		}
	}
	for _, m := range c.list {
		c.latest = append(c.latest, m.seen)
	}
	c.cursor = cursor{Key: c.in.Key.KeyID, Of: hex.EncodeToString(digest.Sum(nil)[:8]), Done: make([]byte, (len(c.list)+7)/8)}
	if from.Key != c.cursor.Key || from.Of != c.cursor.Of {
		return
	}
	c.before = from.Spent
	for i, m := range c.list {
		if from.has(i) {
			m.given, m.before = true, true
			c.cursor.Done[i/8] |= 1 << (i % 8)
		}
	}
}

// spent is how long this attempt and those before it have tried.
func (c *convergence) spent() time.Duration { return c.before + c.Now().Sub(c.began) }

// left is what the instances still have of their time.
func (c *convergence) left() time.Duration {
	return c.site.spec.Credential.WaveTimeout.Std() - c.spent()
}

// soFar is the cursor as of now.
func (c *convergence) soFar() cursor {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := c.cursor
	at.Spent = c.spent()
	return at
}

// each does something with members, all at the same time.
func (c *convergence) each(which func(*member) bool, do func(*member)) {
	run := fanOut{atOnce: max(1, len(c.list))}
	for _, m := range c.list {
		if which(m) {
			run.do(func() { do(m) })
		}
	}
	run.wait()
}

func (c *convergence) all(is func(*member) bool) bool {
	return !slices.ContainsFunc(c.list, func(m *member) bool { return !is(m) })
}

// follow tries an instance until it has converged, trying cannot help, or time is over.
func (c *convergence) follow(ctx context.Context, m *member) {
	for {
		c.attend(ctx, m)
		if m.settled() || patience.Pause(ctx, c.PollEvery) != nil || c.left() <= 0 {
			return
		}
	}
}

// againAfter is after how many looks an instance that was given the key, and does not state it, gets it again: its cache
// may have taken the old value anew, from a store that still told it. It is twice as many each further time.
const againAfter = 20

// shortLook is a time in which who is well has answered. A look that begins with less left may be cut short by the end of it all.
const shortLook = 10 * time.Second

// attend waits for its turn, gives an instance the key unless it has it, and looks at it once.
func (c *convergence) attend(ctx context.Context, m *member) {
	select {
	case c.turns <- struct{}{}:
		defer func() { <-c.turns }()
	case <-ctx.Done():
		return
	}
	m.tries++
	if !m.given && !c.give(ctx, m) {
		c.progress(m)
		return
	}
	hurried := c.left() < shortLook
	now := c.site.instances(ctx, []consumer{m.consumer}, look{
		attest: true, keys: []key.Info{{KeyID: c.in.Retiring.KeyID}, {KeyID: c.in.Incoming.KeyID}}, known: []known{{c.in.Key, c.bundle}},
	})
	if ctx.Err() != nil || hurried && m.looks > 0 && now[0].NotAttesting == trouble(errLookOver) {
		return // a look that was cut short tells nothing: what was seen before stays
	}
	m.seen = c.facts.Believe(now)[0]
	if m.last = cmp.Or(m.seen.Statement, m.last); m.seen.Statement == nil && m.last != nil {
		m.seen.NotAttesting = fmt.Sprintf("%s; before, it stated %v", m.seen.NotAttesting, m.last.Keys)
	}
	m.converged = c.in.converged(m.seen)
	m.looks++
	states := m.seen.Statement != nil && m.seen.Statement.Holds(c.in.Key)
	switch {
	case m.converged:
		m.before = true
	case m.before && !states:
		m.given, m.before = false, false // it has lost the key since
	case m.looks >= againAfter<<m.times && (!states || m.seen.Statement.Split):
		m.given, m.looks = false, 0
		m.times++
	}
	c.progress(m)
}

// give delivers to an instance and has it forget what it cached. What fails is seen as the instance's trouble.
func (c *convergence) give(ctx context.Context, m *member) bool {
	err := c.mayGive(ctx)
	if err == nil && !m.pulls {
		if err = m.target.Deliver(ctx, providers.Delivery{Instance: m.name, Key: c.in.Key, Bundle: c.bundle}); err != nil {
			err = fmt.Errorf("delivering: %w", err)
		}
	}
	if err == nil && m.purger != nil {
		if err = m.purger.Purge(ctx, m.name, c.in.replaced()); err != nil {
			err = fmt.Errorf("purging its caches: %w", err)
		}
	}
	if err != nil && ctx.Err() == nil {
		m.seen.Statement, m.seen.NotAttesting = nil, trouble(err)
	}
	m.given, m.hopeless = err == nil, final(err)
	return m.given
}

// mayGive tells whether this attempt counts, and the key may still be brought to an instance: a wave may take long. When Temporal's
// answer was late, what was judged before it is judged again.
func (c *convergence) mayGive(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := c.still(ctx); err != nil {
			return err
		}
		if err := c.beat(); err != nil {
			return err
		}
		c.judging.Lock()
		judged := c.judged
		c.judging.Unlock()
		if c.site.stillJudged(judged) == nil {
			return nil
		}
	}
	return ctx.Err()
}

// still tells whether the key may still be brought to an instance, by the worker configuration and by facts of this moment: one
// look serves all that are given the key within moments. A key that may not ends the whole attempt.
func (c *convergence) still(ctx context.Context) error {
	if err := c.site.within(); err != nil {
		return err
	}
	c.judging.Lock()
	defer c.judging.Unlock()
	if c.site.stillJudged(c.judged) == nil {
		return nil
	}
	may := c.site.delivering(c.in.Key)
	facts, err := may.gather(ctx)
	if err != nil {
		return err
	}
	if d := may.may(facts); !d.OK {
		err := forbidden(ctx, d)
		c.end(err)
		return err
	}
	c.judged = facts
	return nil
}

// replaced is the key that an instance is to forget: the zero one when that is not known.
func (in WaveInput) replaced() key.Ref {
	if in.Key.KeyID == in.Retiring.KeyID {
		return in.Incoming
	}
	return in.Retiring
}

// progress notes what was seen of an instance, and in the heartbeat how far the wave has come.
func (c *convergence) progress(m *member) {
	c.mu.Lock()
	c.latest[m.bit] = m.seen
	same := c.cursor.has(m.bit) == m.converged
	if !same {
		c.cursor.Done = slices.Clone(c.cursor.Done)
		c.cursor.Done[m.bit/8] ^= 1 << (m.bit % 8)
	}
	c.mu.Unlock()
	if !same {
		_ = c.beat() // if nobody hears it, the next one tells
	}
}

// heartbeatEvery is well below the heartbeat time-out of the long activities.
const heartbeatEvery = 5 * time.Second

// beat tells the server how far the wave has come. Once the attempt does not count any more, all of it ends.
func (c *convergence) beat() error {
	err := c.record(c.soFar())
	if errors.Is(err, ErrSuperseded) || errors.Is(err, context.Canceled) {
		c.end(err)
	}
	return err
}

// heartbeat keeps the activity alive and its cursor with the server, and ends the returned context when it is cancelled.
func (c *convergence) heartbeat(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, c.end = context.WithCancelCause(ctx)
	_ = c.beat()
	go func() {
		for patience.Pause(ctx, heartbeatEvery) == nil {
			_ = c.beat()
			c.tell(ctx)
		}
	}()
	return ctx, func() { c.end(nil) }
}
