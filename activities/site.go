package activities

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/internal/workerconfig"
	"github.com/keyturn/keyturn/providers"
)

// site is one credential with everything of it opened.
type site struct {
	spec       inventory.Spec
	config     *workerconfig.Config
	principals []string
	path       string
	issuer     providers.Issuer
	store      providers.Store
	verify     []providers.Check
	health     []providers.HealthSignal
	consumers  []consumer
	now        func() time.Time
}

type consumer struct {
	inventory.Consumer
	wave     string
	pulls    bool
	target   providers.Target
	check    providers.Check
	attestor providers.Attestor
}

// open reads the spec and opens its providers from the worker's own accounts. It calls nothing.
func (a *Activities) open(r Rotation) (*site, error) {
	spec, err := a.spec(r.Spec)
	if err != nil {
		return nil, err
	}
	c := spec.Credential
	s := &site{spec: spec, config: a.Config(), now: a.Now}
	o := opener{descriptors: a.Descriptors, config: s.config, environment: s.config.Environment(c.Environment)}
	s.issuer, s.principals = o.issuer(c.Issuer)
	s.store, s.path = o.store(c.Store)
	for _, p := range c.Verify {
		s.verify = append(s.verify, o.check(p))
	}
	for _, p := range c.Health {
		s.health = append(s.health, o.healthSignal(p))
	}
	for _, w := range c.Waves() {
		for _, declared := range w.Consumers {
			opened := consumer{Consumer: declared, wave: w.Name}
			opened.target, opened.pulls = o.target(declared.Target)
			if declared.Check != nil {
				opened.check = o.check(*declared.Check)
			}
			if declared.Attestation != nil {
				opened.attestor = o.attestor(*declared.Attestation)
			}
			s.consumers = append(s.consumers, opened)
		}
	}
	if err := errors.Join(o.problems...); err != nil {
		return nil, fmt.Errorf("opening %q: %w: %w", c.Name, ErrSpec, err)
	}
	return s, nil
}

// denied lists the bounds of the worker configuration that the spec breaks.
func (s *site) denied() []string {
	var texts []string
	env := s.spec.Credential.Environment
	problems := s.config.CheckSpec(s.spec)
	for _, p := range s.principals {
		problems = append(problems, s.config.AllowPrincipal(env, p))
	}
	problems = append(problems, s.config.AllowStorePath(env, s.path))
	for _, err := range problems {
		if err != nil {
			texts = append(texts, err.Error())
		}
	}
	return texts
}

// facts gathers all that policy judges by. Instances are asked only when wanted. What an instance does
// not answer is a fact too, not an error.
func (s *site) facts(ctx context.Context, instances bool) (policy.Facts, error) {
	f := policy.Facts{Denied: s.denied(), At: s.now()}
	if len(f.Denied) > 0 {
		return f, nil
	}
	var err error
	if f.Capabilities, err = s.issuer.Capabilities(ctx); err != nil {
		return f, fmt.Errorf("asking the issuer what it can do: %w", err)
	}
	if f.Keys, err = s.issuer.List(ctx); err != nil {
		return f, fmt.Errorf("listing keys at the issuer: %w", err)
	}
	if f.Metadata, err = s.store.Metadata(ctx); err != nil {
		return f, fmt.Errorf("reading metadata of the store: %w", err)
	}
	if f.Versions, err = s.versions(ctx); err != nil {
		return f, err
	}
	if instances {
		f.Instances = s.instances(ctx, s.consumers, f.Keys, true)
	}
	f.At = s.now()
	return f, nil
}

// versions lists the store's versions with the key that each one's value is.
func (s *site) versions(ctx context.Context) ([]policy.StoredKey, error) {
	versions, err := s.store.Versions(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing versions of the store: %w", err)
	}
	stored := make([]policy.StoredKey, 0, len(versions))
	for _, v := range versions {
		known := policy.StoredKey{Version: v}
		bundle, err := s.store.Read(ctx, v.ID)
		if errors.Is(err, providers.ErrNotFound) {
			continue // pruned since it was listed
		}
		if err != nil {
			return nil, fmt.Errorf("reading version %s of the store: %w", v.ID, err)
		}
		known.KeyID, known.Fingerprint, err = s.identify(ctx, bundle)
		bundle.Close()
		if err != nil {
			return nil, fmt.Errorf("telling which key version %s of the store is: %w", v.ID, err)
		}
		stored = append(stored, known)
	}
	return stored, nil
}

// identify tells which live key a bundle is, "" for none, and its fingerprint.
func (s *site) identify(ctx context.Context, b secret.Bundle) (keyID, fingerprint string, err error) {
	capabilities, err := s.issuer.Capabilities(ctx)
	if err != nil {
		return "", "", fmt.Errorf("asking the issuer what it can do: %w", err)
	}
	own := capabilities.Fields
	if len(own) == 0 {
		own = []string{secret.ValueField}
	}
	keyID, err = s.issuer.Identify(ctx, b)
	if errors.Is(err, providers.ErrNotFound) {
		return "", b.Only(own...).Fingerprint(), nil
	}
	return keyID, b.Only(own...).Fingerprint(), err
}

// instances looks at every instance of the consumers at once: which key it states, whether it is well,
// and, when asked for, whether it can be delivered to.
func (s *site) instances(ctx context.Context, consumers []consumer, keys []key.Info, reach bool) []policy.Instance {
	var all []policy.Instance
	var mu sync.Mutex
	var looks fanOut
	for _, c := range consumers {
		statements := c.attest(ctx, keys)
		for _, name := range c.InstanceNames() {
			looks.do(func() {
				seen := policy.Instance{Consumer: c.Name, Instance: name, Wave: c.wave, Pulls: c.pulls}
				if found := slices.IndexFunc(statements.list, func(st key.Statement) bool { return st.Instance == name }); found >= 0 {
					seen.Statement = &statements.list[found]
				} else {
					seen.NotAttesting = statements.problem
				}
				if c.check != nil {
					if err := c.check.Check(ctx, providers.CheckInput{Instance: name}); err != nil {
						seen.Unhealthy = capText(err.Error())
					}
				}
				if reach && !c.pulls {
					if err := c.target.Reach(ctx, name); err != nil {
						seen.Unreachable = capText(err.Error())
					}
				}
				mu.Lock()
				defer mu.Unlock()
				all = append(all, seen)
			})
		}
	}
	looks.wait()
	slices.SortFunc(all, func(a, b policy.Instance) int { return s.order(a) - s.order(b) })
	return all
}

// instancesAtOnce bounds the fan-out to instances.
const instancesAtOnce = 16

// fanOut does things at once, a bounded number of them. A panic in one of them reaches the caller of
// wait, and so Temporal, instead of ending the worker.
type fanOut struct {
	running  errgroup.Group
	limit    sync.Once
	mu       sync.Mutex
	panicked any
}

func (f *fanOut) do(thing func()) {
	f.limit.Do(func() { f.running.SetLimit(instancesAtOnce) })
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

// order is an instance's place in the spec.
func (s *site) order(i policy.Instance) int {
	place := 0
	for _, c := range s.consumers {
		for _, name := range c.InstanceNames() {
			if c.Name == i.Consumer && name == i.Instance {
				return place
			}
			place++
		}
	}
	return place
}

type statements struct {
	list    []key.Statement
	problem string
}

// attest asks the consumer's instances. What one states that is neither a fingerprint nor the ID of a key
// of the principal is not repeated: a careless consumer may state the key itself.
func (c consumer) attest(ctx context.Context, keys []key.Info) statements {
	if c.attestor == nil {
		return statements{problem: "it declares no attestation"}
	}
	list, err := c.attestor.Attest(ctx, c.InstanceNames())
	problem := "no statement"
	if err != nil {
		problem = capText(err.Error())
	}
	for i := range list {
		for j, stated := range list[i].Keys {
			known := slices.ContainsFunc(keys, func(k key.Info) bool { return k.KeyID == stated })
			if !known && !secret.IsFingerprint(stated) {
				list[i].Keys[j] = "something that is no fingerprint and no known key ID"
			}
		}
	}
	return statements{list: list, problem: problem}
}

// owned returns the metadata's record of a key, or a new one.
func owned(m *providers.Metadata, ref key.Ref) *providers.OwnedKey {
	for i := range m.Keys {
		if m.Keys[i].KeyID == ref.KeyID {
			return &m.Keys[i]
		}
	}
	m.Keys = append(m.Keys, providers.OwnedKey{Ref: ref})
	return &m.Keys[len(m.Keys)-1]
}

// disown removes a destroyed key from the metadata.
func disown(m *providers.Metadata, keyID string) {
	m.Keys = slices.DeleteFunc(m.Keys, func(k providers.OwnedKey) bool { return k.KeyID == keyID })
}
