package activities

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/providers"
)

// RestoreLabels moves CURRENT back to the retiring key, if it was moved. Called again it finds that
// done.
func (a *Activities) RestoreLabels(ctx context.Context, r Rotation) error {
	s, err := a.openForEffect(ctx, r)
	if err != nil {
		return forTemporal(err)
	}
	if err := a.restoreLabels(ctx, s, r); err != nil {
		return forTemporal(fmt.Errorf("moving the labels of %q back: %w", s.spec.Credential.Name, err))
	}
	return nil
}

func (a *Activities) restoreLabels(ctx context.Context, s *site, r Rotation) error {
	versions, err := s.store.Versions(ctx)
	if err != nil {
		return err
	}
	incoming := slices.IndexFunc(versions, func(v providers.Version) bool { return v.ID == r.Incoming.StoreVersion })
	if incoming < 0 || !versions[incoming].Has(providers.Current) && !versions[incoming].Has(providers.Previous) {
		return nil // it was never promoted
	}
	if r.Retiring.StoreVersion == "" {
		return fmt.Errorf("%w: the value of the retiring key is in no store", providers.ErrInvalid)
	}
	if err := s.store.Promote(ctx, r.Incoming.StoreVersion, r.Retiring.StoreVersion); err != nil {
		return err
	}
	return a.Audit.Append(ctx, a.event(ctx, r, s, audit.LabelsRestored, r.Retiring.KeyID, nil))
}

// Discard destroys what this rotation minted, and what earlier ones minted and never promoted, each as
// soon as policy.MayDiscard allows it; until then it answers with a benign error that the server
// retries. It begins a rotation that finds leftovers, and ends every rollback. A refusal that waiting
// cannot mend is an answer, not an error. Called again it finds the rest.
func (a *Activities) Discard(ctx context.Context, r Rotation) (policy.Decision, error) {
	s, err := a.openForEffect(ctx, r)
	if err != nil {
		return policy.Decision{}, forTemporal(err)
	}
	d, err := a.discard(ctx, s, r)
	if err != nil {
		return policy.Decision{}, forTemporal(fmt.Errorf("discarding unwanted keys of %q: %w", s.spec.Credential.Name, err))
	}
	return d, nil
}

func (a *Activities) discard(ctx context.Context, s *site, r Rotation) (policy.Decision, error) {
	facts, err := s.facts(ctx, true)
	if err != nil {
		return policy.Decision{}, err
	}
	if orphans := policy.Orphans(facts.Metadata, facts.Keys, facts.Versions); len(orphans) > 1 {
		return policy.Decision{}, fmt.Errorf("%w: keys %v all may come from one interrupted mint", ErrAmbiguous, orphans)
	}
	unwanted := unwantedKeys(s, facts, r.ID)
	for _, ref := range unwanted {
		switch d := policy.MayDiscard(s.spec.Credential, facts, ref, r.ID); {
		case d.OK:
		case passing(d.Reason):
			return policy.Decision{}, notYet(d.Message, 0)
		default:
			return d, nil
		}
	}
	for _, ref := range unwanted {
		if err := a.discardOne(ctx, s, r, ref); err != nil {
			return policy.Decision{}, err
		}
	}
	return policy.Decision{OK: true, Reason: policy.Allowed, Message: fmt.Sprintf("%d unwanted keys destroyed", len(unwanted))},
		a.clearPending(ctx, s)
}

// passing tells whether a refusal to discard may end by itself.
func passing(r policy.Reason) bool {
	return slices.Contains([]policy.Reason{policy.RetiringNotQuiet, policy.RetiringStillHeld, policy.InstanceNotConverged}, r)
}

// unwantedKeys are the ones to discard. A key in the metadata counts even when the issuer does not list
// it: it may be slow to, and destroying a key that is gone harms nobody.
func unwantedKeys(s *site, f policy.Facts, rotation string) []key.Ref {
	current, _ := f.Version(providers.Current)
	standings := f.Standings(s.spec.Credential.Adopt)
	var refs []key.Ref
	for _, k := range f.Metadata.Keys {
		if k.KeyID != current.KeyID && k.Rotation != "" && (k.Rotation == rotation || k.PromotedAt.IsZero()) {
			refs = append(refs, k.Ref)
		}
	}
	for _, k := range f.Keys {
		listed := slices.ContainsFunc(refs, func(r key.Ref) bool { return r.KeyID == k.KeyID })
		if st := standings[k.KeyID]; !listed && (st == policy.StandingIncoming || st == policy.StandingOrphan) {
			refs = append(refs, f.Ref(k))
		}
	}
	return refs
}

// discardOne destroys a key, then its stored version, then the record of it: whenever the process dies,
// the record still names what is left to do.
func (a *Activities) discardOne(ctx context.Context, s *site, r Rotation, ref key.Ref) error {
	if err := s.issuer.Destroy(ctx, ref); err != nil {
		return fmt.Errorf("destroying key %s: %w", ref.KeyID, err)
	}
	if ref.StoreVersion != "" {
		if err := s.store.Prune(ctx, ref.StoreVersion); err != nil {
			return fmt.Errorf("pruning version %s: %w", ref.StoreVersion, err)
		}
	}
	if err := a.Audit.Append(ctx, a.event(ctx, r, s, audit.KeyDiscarded, ref.KeyID, map[string]string{"key": ref.KeyID})); err != nil {
		return err
	}
	m, err := s.store.Metadata(ctx)
	if err != nil {
		return fmt.Errorf("reading metadata of the store: %w", err)
	}
	disown(&m, ref.KeyID)
	if err := s.store.PutMetadata(ctx, m); err != nil {
		return fmt.Errorf("recording it: %w", err)
	}
	return nil
}

// clearPending removes a PENDING version that holds no live key, and the mint intent: after a discard
// there is no mint to finish.
func (a *Activities) clearPending(ctx context.Context, s *site) error {
	facts, err := s.facts(ctx, false)
	if err != nil {
		return err
	}
	if v, ok := facts.Version(providers.Pending); ok && v.KeyID == "" && !v.Has(providers.Current) {
		if err := s.store.Prune(ctx, v.ID); err != nil && !errors.Is(err, providers.ErrNotFound) {
			return fmt.Errorf("pruning version %s: %w", v.ID, err)
		}
	}
	if facts.Metadata.Intent == nil {
		return nil
	}
	facts.Metadata.Intent = nil
	return s.store.PutMetadata(ctx, facts.Metadata)
}
