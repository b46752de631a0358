package activities

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/incident"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/signed"
	"github.com/keyturn/keyturn/providers"
)

// Emergency is by what a rotation acts whose credential has exposed keys.
type Emergency struct {
	// Declaration is an incident.Declaration, signed by one whom trust.incidents names.
	Declaration signed.Envelope `json:"declaration"`
	// Since is when the incident began: its deadline counts from then, but never from before the declaration was signed.
	Since time.Time `json:"since"`
}

// declaration proves who signed what an emergency acts by, and that it is for this namespace and credential.
func (a *Activities) declaration(e Emergency) (d incident.Declaration, by string, err error) {
	refuse := func(err error) (incident.Declaration, string, error) {
		return d, "", fmt.Errorf("%w: %w", ErrDeclaration, err)
	}
	signers, err := a.Config().IncidentSigners()
	if err != nil {
		return refuse(err)
	}
	body, signer, err := e.Declaration.Open(signed.Incident, signers, a.Now())
	if err != nil {
		return refuse(err)
	}
	if d, err = incident.Parse(body); err != nil {
		return refuse(err)
	}
	if d.Namespace != a.Namespace {
		return refuse(fmt.Errorf("it is signed for namespace %q, and this is %q", d.Namespace, a.Namespace))
	}
	return d, signer.Name, nil
}

// DeclarationInput asks who declared an incident; for one credential, when that is named.
type DeclarationInput struct {
	Emergency
	Credential string `json:"credential,omitempty"`
}

// Declared is what a declaration proves.
type Declared struct {
	By          string               `json:"by"`
	Declaration incident.Declaration `json:"declaration"`
}

// ProveDeclaration tells who declared an incident, and what. It changes nothing: the activities that act by it prove it again.
// ErrDeclaration when it proves nothing, or may not begin anything any more.
func (a *Activities) ProveDeclaration(ctx context.Context, in DeclarationInput) (Declared, error) {
	d, by, err := a.declared(in)
	if err != nil {
		logger(ctx).Warn("declaration refused", "reason", err.Error())
		return Declared{}, forTemporal(err)
	}
	return Declared{By: by, Declaration: d}, nil
}

// declared proves who declared an incident that may begin something now. All its errors are ErrDeclaration.
func (a *Activities) declared(in DeclarationInput) (d incident.Declaration, by string, err error) {
	if d, by, err = a.declaration(in.Emergency); err != nil {
		return d, "", err
	}
	if err = d.Good(a.Now()); err == nil && in.Credential != "" && len(d.Keys(in.Credential)) == 0 {
		err = fmt.Errorf("it lists no exposed key of %q", in.Credential)
	}
	if err != nil {
		return d, "", fmt.Errorf("%w: %w", ErrDeclaration, err)
	}
	return d, by, nil
}

// holdsTo has an emergency act by its declaration alone. Its first effect for a credential writes by which it is: from then on that is
// good to the end, which Record writes, whoever is trusted then.
func (a *Activities) holdsTo(ctx context.Context, s *site, r Rotation) error {
	if r.Emergency == nil {
		return nil
	}
	name := s.spec.Credential.Name
	d, by, unproved := a.declaration(*r.Emergency)
	if unproved != nil {
		d, _ = incident.Peek(r.Emergency.Declaration)
	}
	if d.Drill && s.spec.Credential.Labels[incident.DrillLabel] != "true" {
		return fmt.Errorf("%w: it is a drill, and %q is not labelled %s=true", ErrDeclaration, name, incident.DrillLabel)
	}
	digest, err := incident.Digest(r.Emergency.Declaration)
	if err != nil || len(d.Keys(name)) == 0 {
		return errors.Join(unproved, fmt.Errorf("%w: it lists no exposed key of %q", ErrDeclaration, name))
	}
	_, err = s.amend(ctx, func(m *key.Metadata) error {
		if m.Incident != nil && m.Incident.Digest == digest {
			before := len(m.Exposed)
			if m.Exposed = exposedBy(m.Exposed, d, name); len(m.Exposed) == before {
				return errUnchanged
			}
			return nil // a worker of before has begun it
		}
		if unproved != nil {
			return unproved
		}
		if err := d.Good(a.Now()); err != nil {
			return fmt.Errorf("%w: %w", ErrDeclaration, err)
		}
		// Before the write, so that none has begun of which there is no event; one that is there already is not written twice.
		begun := a.event(ctx, r, s, audit.EmergencyBegun, digest, map[string]string{"incident": d.Incident, "by": by, "reason": d.Reason, "exposed": strings.Join(d.Keys(name), ", ")})
		if err := a.Audit.Append(ctx, begun); err != nil {
			return err
		}
		m.Incident = &key.Incident{ID: d.Incident, Digest: digest, At: a.Now().UTC()}
		m.Exposed = exposedBy(m.Exposed, d, name)
		return nil
	})
	if err != nil {
		return err
	}
	s.declared = &d
	return nil
}

// exposedBy adds the keys that a declaration lists to those that are known to be exposed.
func exposedBy(known map[string]string, d incident.Declaration, credential string) map[string]string {
	all := map[string]string{}
	maps.Copy(all, known)
	for _, id := range d.Keys(credential) {
		all[id] = d.Incident
	}
	return all
}

// listed are the keys that the declaration lists; none without one.
func (s *site) listed() []string {
	if s.declared == nil {
		return nil
	}
	return s.declared.Keys(s.spec.Credential.Name)
}

// exposed are the keys that the declaration lists and the issuer still has.
func (s *site) exposed(f policy.Facts) (alive []string) {
	for _, id := range s.listed() {
		if _, live := f.Live(id); live {
			alive = append(alive, id)
		}
	}
	return alive
}

// AssessExposure tells how the keys of a credential stand, of which some are exposed. It changes nothing.
func (a *Activities) AssessExposure(ctx context.Context, r Rotation) (policy.Exposure, error) {
	s, err := a.openWithin(r)
	if err != nil {
		return policy.Exposure{}, forTemporal(err)
	}
	if r.Emergency == nil {
		return policy.Exposure{}, forTemporal(fmt.Errorf("%w: there is none", ErrDeclaration))
	}
	d, err := incident.Peek(r.Emergency.Declaration)
	if err != nil {
		return policy.Exposure{}, forTemporal(fmt.Errorf("%w: %w", ErrDeclaration, err))
	}
	facts, err := s.facts(ctx, false)
	if err != nil {
		return policy.Exposure{}, forTemporal(fmt.Errorf("looking at the keys of %q: %w", s.spec.Credential.Name, err))
	}
	name := s.spec.Credential.Name
	facts.Metadata.Exposed = exposedBy(facts.Metadata.Exposed, d, name) // as the first effect is going to write it
	return policy.Expose(s.spec.Credential, facts, d.Keys(name), r.ID), nil
}

// ContainInput names an exposed key.
type ContainInput struct {
	Rotation
	Key key.Ref `json:"key"`
}

// Contain destroys an exposed key, and proves with the key itself that it is refused: as soon as every instance is on another one
// that works; whoever still uses it, once the incident's deadline has passed, or where it takes the slot of the next key. Of the credential's keys it touches only
// those that the declaration lists. A key that the issuer lets nobody destroy is disabled, where it can be: which the decision says.
// Called again it finds the key gone and probes again. A refusal is an answer, not an error.
func (a *Activities) Contain(ctx context.Context, in ContainInput) (Destroyed, error) {
	s, err := a.openForEffect(ctx, in.Rotation)
	if err != nil {
		return Destroyed{}, forTemporal(err)
	}
	defer s.release()
	defer s.beating(ctx)()
	d, err := a.contain(ctx, s, in)
	if err != nil {
		return Destroyed{}, forTemporal(fmt.Errorf("destroying the exposed key %s of %q: %w", in.Key.KeyID, s.spec.Credential.Name, err))
	}
	return d, nil
}

func (a *Activities) contain(ctx context.Context, s *site, in ContainInput) (Destroyed, error) {
	if s.declared == nil || !slices.Contains(s.declared.Keys(s.spec.Credential.Name), in.Key.KeyID) {
		return Destroyed{}, fmt.Errorf("%w: it does not list this key", ErrDeclaration)
	}
	all := s.declared.Keys(s.spec.Credential.Name)
	late := func() bool { return !a.Now().Before(s.deadline(*in.Emergency)) } // asked again when the look has taken its time
	whoeverUsesIt := func(f policy.Facts) bool {
		return late() || policy.Expose(s.spec.Credential, f, all, in.ID).Frees.KeyID == in.Key.KeyID
	}
	facts, d, err := s.judge(ctx, judgement{
		gather: func(ctx context.Context) (policy.Facts, error) {
			if late() { // no instance holds it up
				return s.settledKeys(ctx, false, in.Key.KeyID)
			}
			return s.settled(ctx, in.Key.KeyID)
		},
		may: func(f policy.Facts) policy.Decision {
			return policy.MayContain(s.spec.Credential, f, in.Key, all, in.ID, late())
		},
		kept: func(f policy.Facts) string {
			if current, _ := f.Version(key.Current); !whoeverUsesIt(f) {
				return current.KeyID
			}
			return ""
		},
	})
	if err != nil {
		return Destroyed{}, err
	}
	if owned, ours := facts.Metadata.Key(in.Key.KeyID); ours { // by which version it is probed once it is gone
		in.Key.StoreVersion = owned.StoreVersion
	}
	in.Key = facts.Named(in.Key)
	if !d.OK {
		refusing(ctx, d)
		return Destroyed{Decision: d}, nil
	}
	if _, recorded := facts.Metadata.Key(in.Key.KeyID); d.Reason == policy.KeyAbsent || !recorded && facts.Metadata.LastRotation.HasEnded(in.Key.KeyID) {
		refusing(ctx, d)
		return Destroyed{Decision: d}, nil // of a key that is nowhere nothing is recorded, nor twice of one that was ended
	}
	k, live := facts.Live(in.Key.KeyID)
	if live {
		if facts.Metadata, err = s.ending(ctx, facts.Metadata, in.Key); err != nil {
			return Destroyed{}, err
		}
		destroy := s.destroy
		if whoeverUsesIt(facts) {
			destroy = s.destroyWhoeverUsesIt
		}
		err := destroy(ctx, facts, in.Key)
		if disabler, can := s.issuer.(providers.Disabler); errors.Is(err, providers.ErrDenied) && can {
			return a.disableExposed(ctx, s, in, facts, k, disabler, err)
		}
		if err != nil {
			return Destroyed{}, err
		}
	}
	return a.dead(ctx, s, in.Rotation, facts, in.Key, map[string]string{"decision": d.Message}, d)
}

// ending notes that a key is about to be destroyed of which there is no record, so that nobody takes it for one that never was. One that
// the store has gets a record, by which it can be probed when it is gone.
func (s *site) ending(ctx context.Context, judged key.Metadata, ref key.Ref) (key.Metadata, error) {
	if _, ours := judged.Key(ref.KeyID); ours {
		return judged, nil
	}
	if ref.StoreVersion != "" {
		return s.mark(ctx, ref, func(*key.Owned) {})
	}
	return s.noting(ctx, ref.KeyID, func(i *key.Incident) *[]string { return &i.Ending })
}

// noting adds to a list of the emergency's a key to which it is about to do something.
func (s *site) noting(ctx context.Context, keyID string, list func(*key.Incident) *[]string) (key.Metadata, error) {
	m, err := s.amend(ctx, func(m *key.Metadata) error {
		if m.Incident == nil || slices.Contains(*list(m.Incident), keyID) {
			return errUnchanged
		}
		begun := *m.Incident
		more := list(&begun)
		*more = append(slices.Clone(*more), keyID)
		m.Incident = &begun
		return nil
	})
	if err != nil {
		return m, fmt.Errorf("noting what begins: %w", err)
	}
	return m, nil
}

// disableExposed is what is left where the issuer lets nobody destroy a key. Nobody takes it for one that keyturn may enable again.
func (a *Activities) disableExposed(ctx context.Context, s *site, in ContainInput, facts policy.Facts, k key.Info, disabler providers.Disabler, denied error) (Destroyed, error) {
	d := policy.Decision{Reason: policy.NotDestroyed, Message: fmt.Sprintf("key %s is disabled, and could not be destroyed: %s", k.KeyID, capText(denied.Error()))}
	begun := facts.Metadata.Incident
	switch {
	case k.State == key.Active:
		if _, err := s.noting(ctx, k.KeyID, func(i *key.Incident) *[]string { return &i.Disabling }); err != nil {
			return Destroyed{}, err
		}
		if _, err := s.unchanged(ctx, facts, k.KeyID); err != nil {
			return Destroyed{}, err
		}
		if err := disabler.Disable(ctx, in.Key); err != nil {
			return Destroyed{}, fmt.Errorf("disabling it, since nobody may destroy it: %w", err)
		}
		if err := a.awaitState(ctx, s, in.Key, key.Disabled, facts.Capabilities.ConsistentWithin); err != nil {
			return Destroyed{}, err
		}
	case begun == nil || !slices.Contains(begun.Disabling, k.KeyID): // somebody else disabled it
		return Destroyed{Decision: d}, nil
	}
	return Destroyed{Decision: d}, a.Audit.Append(ctx, a.event(ctx, in.Rotation, s, audit.KeyDisabled, in.Key.KeyID+"/exposed", map[string]string{"key": k.KeyID, "decision": d.Message}))
}

// deadline is when the exposed keys are destroyed whoever uses them.
func (s *site) deadline(e Emergency) time.Time {
	return s.declared.Begun(e.Since).Add(s.declared.Deadline.Std())
}
