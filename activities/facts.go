package activities

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/patience"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
)

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
		bundle, err := s.read(ctx, key.Ref{StoreVersion: v.ID}, toIdentify)
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
