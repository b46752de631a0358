package activities

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/providers"
)

// watchState is what a watch carries from attempt to attempt, in its heartbeat: the server keeps it
// across retries, restarts and kills.
type watchState struct {
	// Signals are the readings of each health signal, the first one the baseline.
	Signals []policy.Readings `json:"signals,omitempty"`
	// Blind counts the looks in a row in which no health signal answered.
	Blind int `json:"blind,omitempty"`
	// Failing counts, for each instance, the checks in a row that failed.
	Failing map[string]int `json:"failing,omitempty"`
	// Lost counts the looks in a row that found a key refused which the rotation goes on with, and Gone those that found the retiring one
	// gone for good.
	Lost int `json:"lost,omitempty"`
	Gone int `json:"gone,omitempty"`
	// Asked is when the issuer was last asked for the keys, Acted when something was last done with one of them, by their record.
	Asked time.Time `json:"asked,omitzero"`
	Acted time.Time `json:"acted,omitzero"`
	// Well counts the looks in a row that found nothing wrong, Since is when the first of them was. AwaitHealth alone counts them.
	Well  int       `json:"well,omitempty"`
	Since time.Time `json:"since,omitzero"`
}

// remembered is what the last attempt left. A state that does not decode was written by another version: a new
// baseline is taken.
func remembered(ctx context.Context) (st watchState) {
	if activity.HasHeartbeatDetails(ctx) {
		_ = activity.GetHeartbeatDetails(ctx, &st)
	}
	return st
}

// inARow is how often something must be found before it counts: a blip turns nothing back.
const inARow = 3

// keysEvery is how many looks of a watch, or minutes, pass before it asks the issuer for the keys again: thousands of rotations
// may wait at one account.
const (
	keysEvery  = 10
	keysWithin = 5 * time.Minute
)

// watched is what one look of a watch found. A decision that allows found nothing wrong.
type watched struct {
	budget, blind, keys, checks policy.Decision
	// failed is how often in a row the check failed that checks is about.
	failed int
}

// Watch looks once at the error budget, at both keys and at every instance's check. While all hold it answers with a
// benign error that the server retries after the interval: a watch of weeks adds nothing to the history
// and holds no worker. It ends with the decision that something does not hold. It changes nothing but the lease, which it renews.
func (a *Activities) Watch(ctx context.Context, r Rotation) (policy.Decision, error) {
	s, err := a.openWithin(r)
	if err != nil {
		return policy.Decision{}, forTemporal(err)
	}
	st := remembered(ctx)
	keys := activity.GetInfo(ctx).Attempt%keysEvery == 1 || st.Lost > 0 || a.Now().Sub(st.Asked) >= keysWithin
	keys = keys && a.clockIsRight(ctx) == nil // by which it is judged which keys have ended
	w := a.watch(ctx, s, r, &st, keys)
	if ctx.Err() != nil {
		return policy.Decision{}, notYet("the worker stops; another goes on watching", 0)
	}
	if d, counts := w.counts(st); counts {
		about := string(d.Reason) + "/" + a.Now().UTC().Format(time.RFC3339)
		return d, forTemporal(a.Audit.Append(ctx, a.event(ctx, r, s, audit.BudgetBreached, about, map[string]string{"decision": d.Message})))
	}
	return policy.Decision{}, notYet("still watching: "+w.budget.Message, pause(s.spec.Credential, st, a.Now()))
}

// pause is how long nobody need look again; zero for the activity's own interval. Where nothing was done with the keys for long, in
// an overlap of days, a hundredth of that, but 5 minutes at most, a fifth of the error budget's window, and half of a soak: what is
// done next may be watched for no longer.
func pause(c inventory.Credential, st watchState, now time.Time) time.Duration {
	if st.Acted.IsZero() || st.Lost > 0 || st.Blind > 0 || len(st.Failing) > 0 {
		return 0
	}
	lasts := min(now.Sub(st.Acted)/100, keysWithin)
	if c.ErrorBudget != nil {
		lasts = min(lasts, c.ErrorBudget.Window.Std()/5)
	}
	for _, soak := range []inventory.Duration{c.WaveSoak, c.DisableSoak} {
		if soak > 0 {
			lasts = min(lasts, soak.Std()/2)
		}
	}
	if lasts <= c.LookEvery() {
		return 0
	}
	return lasts
}

// counts is the decision that ends a watch, once what it says was found as often as it must be.
func (w watched) counts(st watchState) (policy.Decision, bool) {
	switch {
	case w.budget.Reason == policy.BudgetBreached:
		return w.budget, true
	case st.Lost >= inARow && w.keys.Reason != "" && !w.goneForAMoment(st): // without a reason nobody could tell this time
		return w.keys, true
	case w.failed >= inARow:
		return w.checks, true
	case st.Blind >= inARow:
		return w.blind, true
	}
	return policy.Decision{}, false
}

// goneForAMoment tells whether the retiring key was not gone in as many looks yet: whatever was wrong before, a list may lack it once.
func (w watched) goneForAMoment(st watchState) bool {
	return w.keys.Reason == policy.RetiringGone && st.Gone < inARow
}

// watch looks once. The health signals come first, and what they say is left to the next attempt before anything else is
// asked: whoever hangs then loses no reading. A breach needs no further look.
func (a *Activities) watch(ctx context.Context, s *site, r Rotation, st *watchState, keys bool) (w watched) {
	w.budget, w.blind, w.checks = policy.Decision{OK: true, Message: "the keys alone"}, policy.Decision{OK: true}, policy.Decision{OK: true}
	if !r.KeysAlone {
		w.budget, w.blind = a.budget(ctx, s, st)
	}
	if s.spec.Credential.ErrorBudget != nil && ctx.Err() == nil {
		activity.RecordHeartbeat(ctx, *st)
	}
	if w.budget.Reason == policy.BudgetBreached || ctx.Err() != nil {
		return w
	}
	before := *st
	look, done := glance(ctx)
	defer done()
	var asked fanOut
	asked.do(func() { s.renew(look, r) })
	if keys {
		asked.do(func() { w.keys = s.bothAccepted(look, r, st) })
	}
	if !r.KeysAlone {
		asked.do(func() { w.checks, w.failed = s.failing(look, st) })
	}
	asked.wait()
	if ctx.Err() == nil && !reflect.DeepEqual(before, *st) {
		activity.RecordHeartbeat(ctx, *st)
	}
	return w
}

// budget samples the health signals and judges by them. One that has no data answers, too.
func (a *Activities) budget(ctx context.Context, s *site, st *watchState) (budget, blind policy.Decision) {
	blind = policy.Decision{OK: true}
	b := s.spec.Credential.ErrorBudget
	if b == nil {
		return policy.Decision{OK: true, Message: "no error budget"}, blind
	}
	window := b.Window.Std()
	if len(st.Signals) != len(s.health) {
		st.Signals = make([]policy.Readings, len(s.health))
	}
	var silent []string
	for i, told := range s.sample(ctx, window) {
		if told.err == nil {
			st.Signals[i] = st.Signals[i].Add(told.Sample, window)
			continue
		}
		st.Signals[i] = st.Signals[i].Since(a.Now().Add(-window))
		if !errors.Is(told.err, providers.ErrNoData) {
			silent = append(silent, told.trouble())
		}
	}
	st.Blind++
	if len(silent) < len(s.health) {
		st.Blind = 0
	}
	if st.Blind > 0 {
		blind = policy.Blind(silent)
	}
	return policy.BudgetHolds(*b, st.Signals), blind
}

// sampled is what one health signal says, or why it says nothing.
type sampled struct {
	key.Sample
	name string
	err  error
}

func (t sampled) trouble() string { return t.name + ": " + trouble(t.err) }

// sample asks every health signal at once.
func (s *site) sample(ctx context.Context, window time.Duration) []sampled {
	look, done := glance(ctx)
	defer done()
	told := make([]sampled, len(s.health))
	var asked fanOut
	for i, signal := range s.health {
		asked.do(func() {
			sample, err := signal.Sample(look, window)
			told[i] = sampled{sample, fmt.Sprintf("health[%d] (%s)", i, s.spec.Credential.Health[i].Type), cutShort(look, err)}
		})
	}
	asked.wait()
	return told
}

// bothAccepted looks whether the issuer still accepts the keys that the rotation goes on with. When nobody can tell, nothing is found.
func (s *site) bothAccepted(ctx context.Context, r Rotation, st *watchState) policy.Decision {
	st.Asked = s.now()
	f, err := s.keys(ctx)
	if err != nil {
		return policy.Decision{Message: "whether the issuer accepts the keys is not known: " + trouble(cutShort(ctx, err))}
	}
	st.Acted = f.Metadata.ActedAt()
	d := policy.BothAccepted(s.spec.Credential, f, r.Retiring, r.Incoming)
	st.Lost, st.Gone = st.Lost+1, st.Gone+1
	if d.OK {
		st.Lost = 0
	}
	if d.Reason != policy.RetiringGone {
		st.Gone = 0
	}
	return d
}

// keys are the facts of the keys alone.
func (s *site) keys(ctx context.Context) (f policy.Facts, err error) {
	if f.Keys, err = s.issuer.List(ctx); err != nil {
		return f, fmt.Errorf("listing keys at the issuer: %w", err)
	}
	if f.Metadata, err = s.store.Metadata(ctx); err != nil { // after the keys: what keyturn disables it records before
		return f, fmt.Errorf("reading metadata of the store: %w", err)
	}
	f.At = s.now()
	return f, nil
}

// failing counts failed checks, and tells of the instance that failed most often in a row. One that was not asked, since others
// took all the time, keeps its count.
func (s *site) failing(ctx context.Context, st *watchState) (verdict policy.Decision, most int) {
	verdict = policy.Decision{OK: true}
	counts := map[string]int{}
	var mu sync.Mutex
	s.each(s.consumers, func(c consumer, name string) {
		if c.check == nil {
			return
		}
		asked := ctx.Err() == nil
		ctx, done := glance(ctx) // one that hangs leaves others their turn
		defer done()
		err := c.check.Check(ctx, providers.CheckInput{Instance: name})
		mu.Lock()
		defer mu.Unlock()
		instance := policy.InstanceName(c.Name, name)
		n := st.Failing[instance]
		switch {
		case !asked && verdict.OK:
			verdict = policy.Decision{Reason: policy.CheckFailing, Message: instance + " was not asked: " + errLookOver.Error()}
		case !asked:
		case err == nil:
			return
		case n >= most:
			most = n + 1
			verdict = policy.Decision{Reason: policy.CheckFailing, Message: fmt.Sprintf("%s failed its check %s in a row: %s", instance, policy.Counted(most, "time"), trouble(cutShort(ctx, err)))}
		}
		if asked {
			n++
		}
		if n > 0 {
			counts[instance] = n
		}
	})
	if st.Failing = counts; len(counts) == 0 {
		st.Failing = nil
	}
	return verdict, most
}

// AwaitHealth answers, like Watch, "not yet" until nothing was wrong for a whole window of the error budget, or, without a
// budget, in some looks in a row: the way out of a pause. A signal without data says nothing against it. ErrRetiringGone ends it: then
// nothing leads back, and all may never be well again until consumers have the incoming key.
func (a *Activities) AwaitHealth(ctx context.Context, r Rotation) error {
	s, err := a.openWithin(r)
	if err != nil {
		return forTemporal(err)
	}
	st := remembered(ctx)
	before := st
	wrong := a.clockIsRight(ctx) // by which it is judged which keys have ended
	w := a.watch(ctx, s, r, &st, wrong == nil)
	if ctx.Err() != nil {
		return notYet("the worker stops; another goes on waiting", 0)
	}
	switch {
	case wrong != nil:
		w.keys = policy.Decision{Message: wrong.Error()}
	case w.budget.Reason == policy.BudgetBreached: // that the key is gone may be why
		w.keys = s.bothAccepted(ctx, r, &st)
	}
	if w.keys.Reason == policy.RetiringGone && !w.goneForAMoment(st) {
		return forTemporal(fmt.Errorf("%w: %s", ErrRetiringGone, w.keys.Message))
	}
	for _, d := range []policy.Decision{w.budget, w.blind, w.keys, w.checks} {
		nothing := d.OK || d.Reason == policy.BudgetNoData || d.Reason == policy.BudgetTooLittle
		if !nothing {
			st.Well, st.Since = 0, time.Time{}
			activity.RecordHeartbeat(ctx, st)
			return notYet(d.Message, 0)
		}
	}
	if st.Well++; before.Well == 0 {
		st.Since = a.Now()
	}
	activity.RecordHeartbeat(ctx, st)
	lasts := time.Duration(0)
	if b := s.spec.Credential.ErrorBudget; b != nil {
		lasts = b.Window.Std()
	}
	if st.Well >= inARow && a.Now().Sub(st.Since) >= lasts {
		return nil
	}
	return notYet(fmt.Sprintf("all is well since %s", st.Since.UTC().Format(time.RFC3339)), 0)
}

// baseline samples the health signals once, where an error budget needs requests to say something.
func (s *site) baseline(ctx context.Context) []policy.Readings {
	b := s.spec.Credential.ErrorBudget
	if b == nil || b.MinTotal == 0 {
		return nil
	}
	ctx, done := context.WithTimeout(ctx, heartbeatEvery) // nothing beats meanwhile
	defer done()
	return s.readOn(ctx, make([]policy.Readings, len(s.health)))
}

// readOn adds what the health signals say now to what they said before.
func (s *site) readOn(ctx context.Context, before []policy.Readings) []policy.Readings {
	window := s.spec.Credential.ErrorBudget.Window.Std()
	for i, told := range s.sample(ctx, window) {
		if told.err == nil && i < len(before) {
			before[i] = before[i].Add(told.Sample, window)
		}
	}
	return before
}

// TrafficInput asks whether there were enough requests since the readings.
type TrafficInput struct {
	Rotation
	Signals []policy.Readings `json:"signals"`
}

// HadTraffic tells whether there were as many requests, since the readings, as the error budget needs to say something. It changes nothing.
func (a *Activities) HadTraffic(ctx context.Context, in TrafficInput) (policy.Decision, error) {
	s, err := a.openWithin(in.Rotation)
	if err != nil || s.spec.Credential.ErrorBudget == nil {
		return policy.Decision{OK: true}, forTemporal(err)
	}
	return policy.HadTraffic(*s.spec.Credential.ErrorBudget, s.readOn(ctx, in.Signals)), nil
}

// AwaitTraffic answers "not yet" until there were, in a window, as many requests as the error budget needs to say something.
func (a *Activities) AwaitTraffic(ctx context.Context, r Rotation) error {
	s, err := a.openWithin(r)
	if err != nil || s.spec.Credential.ErrorBudget == nil {
		return forTemporal(err)
	}
	st := remembered(ctx)
	a.budget(ctx, s, &st)
	if ctx.Err() != nil {
		return notYet("the worker stops; another goes on waiting", 0)
	}
	activity.RecordHeartbeat(ctx, st)
	if d := policy.HadTraffic(*s.spec.Credential.ErrorBudget, st.Signals); !d.OK {
		return notYet(d.Message, 0)
	}
	return nil
}
