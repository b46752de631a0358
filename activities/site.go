package activities

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keyturn/keyturn/internal/incident"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
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
	reads               *reads
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
	s.reads = &reads{record: a.recordRead(r, s)}
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

// pulls tells whether some consumer reads the store by itself.
func (s *site) pulls() bool {
	return slices.ContainsFunc(s.consumers, func(c consumer) bool { return c.pulls })
}
