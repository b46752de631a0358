package activities

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/keyturn/keyturn/internal/incident"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/patience"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/internal/signed"
	"github.com/keyturn/keyturn/internal/workerconfig"
	"github.com/keyturn/keyturn/providers"
)

// site is one credential with everything of it opened.
type site struct {
	spec       inventory.Spec
	signer     signed.Signer // zero for an unsigned spec
	config     func() *workerconfig.Config
	principals []string
	programs   []string
	path       string
	issuer     providers.Issuer
	can        *capable
	store      providers.Store
	verify     []providers.Check
	health     []providers.HealthSignal
	consumers  []consumer
	places     map[string]int // of each instance, wave by wave
	now        func() time.Time
	// release ends the activity's turn at the secret.
	release func()
	// declared is what an emergency acts by, once that is proved; nil in a routine rotation.
	declared *incident.Declaration
	// lease is the one that the activity acts by; nil for one that only looks.
	lease *key.Lease
	// workflow is the ID of who may act on the credential: its rotation's, or key.LeaseOfImport.
	namespace, workflow string
	standings           *standings
	// acknowledge is that of Activities, with what the activity has in its heartbeat.
	acknowledge func(context.Context, any) error
	heartbeat   any
}

type consumer struct {
	inventory.Consumer
	waves    map[string]string // by instance
	pulls    bool
	target   providers.Target
	check    providers.Check
	attestor providers.Attestor
	purger   providers.Purger
}

// cannotApprove says why a gate could never be passed here; empty when it can.
func (s *site) cannotApprove(needs inventory.Approval) string {
	return s.config().CannotApprove(needs, s.signer, s.now())
}

// open reads the spec and opens its providers from the worker's own accounts. It calls nothing.
func (a *Activities) open(r Rotation) (*site, error) {
	spec, signer, err := a.spec(r.Spec)
	if err != nil {
		return nil, err
	}
	c := spec.Credential
	s := &site{spec: spec, signer: signer, config: a.Config, now: a.Now, can: new(capable), places: map[string]int{}, namespace: a.Namespace, workflow: WorkflowID(c.Name), standings: &a.standings, acknowledge: a.Acknowledge}
	o := opener{descriptors: a.Descriptors, config: a.Config(), environment: workerconfig.Environment(a.Config, c.Environment)}
	s.issuer, s.principals = o.issuer(c.Issuer)
	s.store, s.path = o.store(c.Store)
	for _, p := range c.Verify {
		s.verify = append(s.verify, o.check(p))
	}
	for _, p := range c.Health {
		s.health = append(s.health, o.health(p))
	}
	s.population(&o)
	if err := errors.Join(o.problems...); err != nil {
		return nil, fmt.Errorf("opening %q: %w: %w", c.Name, ErrOutOfBounds, err)
	}
	s.programs = o.programs
	return s, nil
}

// population opens each consumer once, in the order of the waves.
func (s *site) population(o *opener) {
	at := map[string]int{}
	for _, w := range s.spec.Credential.Waves(o.pulls) {
		for _, part := range w.Consumers {
			i, opened := at[part.Name]
			if !opened {
				i = len(s.consumers)
				at[part.Name] = i
				all := s.spec.Credential.Consumers
				whole := all[slices.IndexFunc(all, func(c inventory.Consumer) bool { return c.Name == part.Name })]
				s.consumers = append(s.consumers, o.consumer(whole))
			}
			for _, name := range part.InstanceNames() {
				s.consumers[i].waves[name] = w.Name
				s.places[policy.InstanceName(part.Name, name)] = len(s.places)
			}
		}
	}
}

// denied lists the bounds that the spec breaks, of the worker configuration in force at this moment, without the word.
func (s *site) denied() []string {
	var texts []string
	env, config := s.spec.Credential.Environment, s.config()
	problems := config.CheckSpec(s.spec)
	for _, p := range s.principals {
		problems = append(problems, config.AllowPrincipal(env, p))
	}
	problems = append(problems, config.AllowStorePath(env, s.path))
	for _, p := range s.programs {
		problems = append(problems, config.AllowProgram(env, p))
	}
	for _, err := range problems {
		if err != nil {
			texts = append(texts, strings.TrimPrefix(err.Error(), providers.ErrDenied.Error()+": "))
		}
	}
	return texts
}

// shown gathers facts for who shows them and changes nothing: there, that the spec is out of bounds is one.
func (s *site) shown(ctx context.Context, instances bool) (policy.Facts, error) {
	if denied := s.denied(); len(denied) > 0 {
		return policy.Facts{Denied: denied, At: s.now()}, nil
	}
	return s.facts(ctx, instances)
}

// facts gathers all that policy judges by. Instances are asked only when wanted. What an instance does
// not answer is a fact too, not an error. What is out of bounds is not looked at, so that no effect takes it for what is not
// there: bounds may have been narrowed since the activity began.
func (s *site) facts(ctx context.Context, instances bool) (policy.Facts, error) {
	f := policy.Facts{At: s.now(), Untestable: !s.testable()}
	err := s.within()
	if err != nil {
		return f, err
	}
	if f.Capabilities, err = s.capabilities(ctx); err != nil {
		return f, err
	}
	for range 2 { // when instances took their time, or the process stood still, what was read first is read again
		listed := s.now()
		if f.Keys, err = s.issuer.List(ctx); err != nil {
			return f, fmt.Errorf("listing keys at the issuer: %w", err)
		}
		if f.Metadata, err = s.store.Metadata(ctx); err != nil {
			return f, fmt.Errorf("reading metadata of the store: %w", err)
		}
		if d := s.mayHold(f.Metadata, s.holder()); !d.OK {
			f.Held = d.Message
		}
		if f.Versions, err = s.versions(ctx, f); err != nil {
			return f, err
		}
		if instances && f.Instances == nil {
			if f.Instances, err = s.seen(ctx, f); err != nil {
				return f, err
			}
		}
		f.At = s.now()
		if f.LookedFor = f.At.Sub(listed); f.LookedFor <= judgedFor {
			break
		}
	}
	if f.LookedFor > time.Minute { // nothing is judged by what is as old
		return f, fmt.Errorf("issuer and store took %s to answer: looking again", f.LookedFor.Round(time.Second))
	}
	return f, nil
}

// seen looks at every instance, by what issuer and store say.
func (s *site) seen(ctx context.Context, f policy.Facts) ([]policy.Instance, error) {
	known, err := s.known(ctx, f)
	if err != nil {
		return nil, err
	}
	defer closeAll(known)
	return f.Believe(s.instances(ctx, s.consumers, look{attest: true, keys: f.Keys, known: known, unstored: s.unstored(f), reach: true})), nil
}

// settled gathers the facts, and when the issuer does not list one of the keys, or one that a mint intent tells
// of, once more after the time that it needs to settle: one look alone does not prove that a key is gone.
func (s *site) settled(ctx context.Context, keyIDs ...string) (policy.Facts, error) {
	return s.settledKeys(ctx, true, keyIDs...)
}

// settledKeys is settled, with what instances say or without.
func (s *site) settledKeys(ctx context.Context, instances bool, keyIDs ...string) (policy.Facts, error) {
	facts, err := s.facts(ctx, instances)
	if err != nil {
		return facts, err
	}
	// Our record of a key goes when the key does: only one of the two left means that one is late.
	unsure := slices.ContainsFunc(keyIDs, func(id string) bool {
		_, live := facts.Live(id)
		_, ours := facts.Metadata.Key(id)
		return !live || !ours
	}) || policy.Unlisted(facts, s.spec.Credential.Adopt)
	if settle := facts.Capabilities.ConsistentWithin; unsure && settle > 0 {
		if err := patience.Pause(ctx, settle); err != nil {
			return facts, err
		}
		return s.facts(ctx, instances)
	}
	return facts, nil
}

// destroy is the last moment before a key is gone for good: whatever was judged before, the key in CURRENT
// is not destroyed, nor one on which another worker acted since the facts were gathered.
func (s *site) destroy(ctx context.Context, facts policy.Facts, ref key.Ref) error {
	versions, err := s.versions(ctx, facts)
	if err != nil {
		return err
	}
	for _, v := range versions {
		if v.Has(key.Current) && (v.KeyID == ref.KeyID || ref.StoreVersion != "" && v.ID == ref.StoreVersion) {
			return fmt.Errorf("%w: it has become CURRENT", providers.ErrConflict)
		}
	}
	return s.destroyWhoeverUsesIt(ctx, facts, ref)
}

// destroyWhoeverUsesIt is destroy for an exposed key.
func (s *site) destroyWhoeverUsesIt(ctx context.Context, facts policy.Facts, ref key.Ref) error {
	if err := s.within(); err != nil {
		return err
	}
	if _, err := s.unchanged(ctx, facts, ref.KeyID); err != nil {
		return err
	}
	return s.issuer.Destroy(ctx, ref)
}

// sameRecord compares two records of a key as stores keep them.
func sameRecord(a, b key.Owned) bool {
	textA, errA := json.Marshal(a)
	textB, errB := json.Marshal(b)
	return errA == nil && errB == nil && bytes.Equal(textA, textB)
}

// rightsObjections asks an issuer whose keys have their principal's rights what those are.
func (s *site) rightsObjections(ctx context.Context) ([]string, error) {
	checker, can := s.issuer.(providers.RightsChecker)
	if !can {
		return nil, nil
	}
	objections, err := checker.CheckRights(ctx, s.spec.Credential.Scopes)
	if err != nil {
		return nil, fmt.Errorf("checking the rights of the principal: %w", err)
	}
	for i := range objections {
		objections[i] = capText(objections[i])
	}
	return objections, nil
}

// versions lists the store's versions with the live key that each one's value is. Of those that are on record that is known, since a
// version never changes: only others are read, as each reading of a secret's value may be billed, and is logged.
func (s *site) versions(ctx context.Context, f policy.Facts) ([]policy.StoredKey, error) {
	versions, err := s.store.Versions(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing versions of the store: %w", err)
	}
	stored := make([]policy.StoredKey, 0, len(versions))
	for _, v := range versions {
		known := policy.StoredKey{Version: v}
		if at := slices.IndexFunc(f.Metadata.Keys, func(k key.Owned) bool { return k.StoreVersion == v.ID }); at >= 0 {
			mine := f.Metadata.Keys[at]
			known.Fingerprint = mine.Fingerprint
			if _, live := f.Live(mine.KeyID); live {
				known.KeyID = mine.KeyID
			}
			stored = append(stored, known)
			continue
		}
		bundle, err := s.store.Read(ctx, v.ID)
		if errors.Is(err, providers.ErrNotFound) { // pruned since it was listed, or without a value from the start
			if known.Empty = v.Has(key.Pending) && !v.Has(key.Current); known.Empty {
				stored = append(stored, known)
			}
			continue
		}
		// What somebody once put there by mistake holds no key; only as CURRENT is it in the way.
		mistake := errors.Is(err, providers.ErrInvalid)
		if err == nil {
			known.KeyID, known.Fingerprint, err = s.identify(ctx, bundle)
			mistake = errors.Is(err, providers.ErrDenied)
			bundle.Close()
		}
		if err != nil && (!mistake || v.Has(key.Current)) {
			return nil, fmt.Errorf("telling which key version %s of the store is: %w", v.ID, err)
		}
		stored = append(stored, known)
	}
	return stored, nil
}

// identify tells which live key a bundle is, "" for none, and its fingerprint.
func (s *site) identify(ctx context.Context, b secret.Bundle) (keyID, fingerprint string, err error) {
	own, err := s.ownFields(ctx)
	if err != nil {
		return "", "", err
	}
	keyID, err = s.issuer.Identify(ctx, b)
	if errors.Is(err, providers.ErrNotFound) {
		return "", b.Only(own...).Fingerprint(), nil
	}
	return keyID, b.Only(own...).Fingerprint(), err
}

// capabilities are what the issuer can do, which is asked once.
func (s *site) capabilities(ctx context.Context) (key.Capabilities, error) {
	s.can.mu.Lock()
	defer s.can.mu.Unlock()
	if !s.can.asked {
		told, err := s.issuer.Capabilities(ctx)
		if err != nil {
			return told, fmt.Errorf("asking the issuer what it can do: %w", err)
		}
		s.can.told, s.can.asked = told, true
	}
	return s.can.told, nil
}

// capable is what an issuer said that it can do, once it was asked.
type capable struct {
	mu    sync.Mutex
	asked bool
	told  key.Capabilities
}

// ownFields are those of a bundle that make up a key.
func (s *site) ownFields(ctx context.Context) ([]string, error) {
	capabilities, err := s.capabilities(ctx)
	if err != nil {
		return nil, err
	}
	if len(capabilities.Fields) == 0 {
		return []string{secret.ValueField}, nil
	}
	return capabilities.Fields, nil
}

// pulls tells whether some consumer reads the store by itself.
func (s *site) pulls() bool {
	return slices.ContainsFunc(s.consumers, func(c consumer) bool { return c.pulls })
}

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

// owned returns the metadata's record of a key, or a new one.
func owned(m *key.Metadata, ref key.Ref) *key.Owned {
	for i := range m.Keys {
		if m.Keys[i].KeyID == ref.KeyID {
			return &m.Keys[i]
		}
	}
	m.Keys = append(m.Keys, key.Owned{Ref: ref})
	return &m.Keys[len(m.Keys)-1]
}

// own writes a key into the metadata as one that a rotation minted, unless it was there when that was judged.
func (s *site) own(ctx context.Context, judged key.Metadata, ref key.Ref, rotation string) (key.Metadata, error) {
	if _, ours := judged.Key(ref.KeyID); ours {
		return judged, nil
	}
	m, err := s.amendKey(ctx, judged, ref, func(mine *key.Owned) { mine.Rotation = rotation })
	if err != nil {
		return m, fmt.Errorf("recording key %s: %w", ref.KeyID, err)
	}
	return m, nil
}

// disown removes the record of a key that is ours no more, and the intents that are resolved with it.
func (s *site) disown(ctx context.Context, ref key.Ref, resolved []key.Intent) (key.Metadata, error) {
	return s.amend(ctx, func(m *key.Metadata) error {
		disown(m, ref.KeyID)
		resolve(m, resolved)
		return nil
	})
}

// resolve removes mint intents of which it is known what became.
func resolve(m *key.Metadata, resolved []key.Intent) {
	m.Intents = slices.DeleteFunc(m.Intents, func(i key.Intent) bool { return slices.ContainsFunc(resolved, i.Is) })
}

// disown removes a destroyed key from the metadata.
func disown(m *key.Metadata, keyID string) {
	m.Keys = slices.DeleteFunc(m.Keys, func(k key.Owned) bool { return k.KeyID == keyID })
}
