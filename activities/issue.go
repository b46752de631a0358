package activities

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
)

// IssueInput asks for the key of one mint.
type IssueInput struct {
	Rotation
	// Ordinal counts the mints of the rotation, from 1.
	Ordinal int `json:"ordinal"`
}

// IssueAndStage mints a key and stores it as PENDING before anything else; a default read of the store
// still yields CURRENT. Only the key's Ref returns.
//
// Called again for the same mint it returns the key that was staged. A key that was minted and not
// staged is lost, since an issuer tells a secret once: the mint intent, written before the mint, proves
// it to be ours, it is destroyed, and another is minted. Two such keys, or one that another could have
// made, end the mint with ErrAmbiguous.
func (a *Activities) IssueAndStage(ctx context.Context, in IssueInput) (key.Ref, error) {
	s, err := a.openForEffect(ctx, in.Rotation)
	if err != nil {
		return key.Ref{}, forTemporal(err)
	}
	ref, err := a.issueAndStage(ctx, s, in)
	if err != nil {
		return key.Ref{}, forTemporal(fmt.Errorf("issuing key for %q: %w", s.spec.Credential.Name, err))
	}
	return ref, nil
}

func (a *Activities) issueAndStage(ctx context.Context, s *site, in IssueInput) (key.Ref, error) {
	c := s.spec.Credential
	token := policy.Token(in.ID, in.Ordinal)
	if err := a.Audit.Append(ctx, a.event(ctx, in.Rotation, s, audit.RotationStarted, "", nil)); err != nil {
		return key.Ref{}, err
	}
	facts, err := s.facts(ctx, false)
	if err != nil {
		return key.Ref{}, err
	}
	if facts.Metadata.Generation > s.spec.Generation {
		return key.Ref{}, fmt.Errorf("%w: the spec is of generation %d, a key was already issued with %d", ErrSpec, s.spec.Generation, facts.Metadata.Generation)
	}
	if staged := slices.IndexFunc(facts.Versions, func(v policy.StoredKey) bool { return v.Token == token }); staged >= 0 {
		return a.finishStaging(ctx, s, in, facts, facts.Versions[staged])
	}
	if facts, err = a.destroyOrphan(ctx, s, in, facts); err != nil {
		return key.Ref{}, err
	}
	if slots := facts.Capabilities.Slots; slots > 0 && len(facts.Keys) >= slots {
		return key.Ref{}, fmt.Errorf("%w: %d of %d", providers.ErrSlotsFull, len(facts.Keys), slots)
	}

	intent := &providers.MintIntent{Rotation: in.ID, Ordinal: in.Ordinal, At: a.Now().UTC()}
	for _, k := range facts.Keys {
		intent.Known = append(intent.Known, k.KeyID)
	}
	facts.Metadata.Intent = intent
	if err := s.store.PutMetadata(ctx, facts.Metadata); err != nil {
		return key.Ref{}, fmt.Errorf("writing mint intent: %w", err)
	}
	if err := a.Audit.Append(ctx, a.event(ctx, in.Rotation, s, audit.MintIntended, token, nil)); err != nil {
		return key.Ref{}, err
	}

	request := providers.IssueRequest{Token: token, Principal: in.Retiring.Principal, Scopes: c.Scopes}
	if c.Expires > 0 {
		request.ExpiresAt = a.Now().Add(c.Expires.Std()).UTC()
	}
	issued, err := s.issuer.Issue(ctx, request)
	if err != nil {
		return key.Ref{}, err
	}
	defer issued.Bundle.Close()
	version, err := s.store.Stage(ctx, token, issued.Bundle)
	if err != nil {
		return key.Ref{}, fmt.Errorf("staging key %s: %w", issued.Key.KeyID, err)
	}
	return a.record(ctx, s, in, facts.Metadata, key.Ref{
		Principal: issued.Key.Principal, KeyID: issued.Key.KeyID,
		StoreVersion: version, Fingerprint: issued.Bundle.Fingerprint(),
	})
}

// finishStaging ends a mint whose key was staged by an attempt that died before it could say so.
func (a *Activities) finishStaging(ctx context.Context, s *site, in IssueInput, facts policy.Facts, v policy.StoredKey) (key.Ref, error) {
	k, live := facts.Live(v.KeyID)
	if !live {
		return key.Ref{}, fmt.Errorf("%w: version %s", ErrStagedKeyDead, v.ID)
	}
	return a.record(ctx, s, in, facts.Metadata, key.Ref{
		Principal: k.Principal, KeyID: k.KeyID, StoreVersion: v.ID, Fingerprint: v.Fingerprint,
	})
}

// record makes the staged key ours in the metadata, and clears the intent.
func (a *Activities) record(ctx context.Context, s *site, in IssueInput, m providers.Metadata, ref key.Ref) (key.Ref, error) {
	mine := owned(&m, ref)
	if mine.IssuedAt.IsZero() {
		mine.IssuedAt = a.Now().UTC()
	}
	mine.Ref, mine.Rotation = ref, in.ID
	m.Intent, m.Generation = nil, s.spec.Generation
	if err := s.store.PutMetadata(ctx, m); err != nil {
		return key.Ref{}, fmt.Errorf("recording key %s: %w", ref.KeyID, err)
	}
	in.Incoming = ref
	return ref, a.Audit.Append(ctx, a.event(ctx, in.Rotation, s, audit.KeyIssued, ref.KeyID, nil))
}

// destroyOrphan destroys the key of an interrupted mint. Where an intent is there and no key yet, the
// issuer may be slow to list it: it is asked once more after the time that it needs to settle.
func (a *Activities) destroyOrphan(ctx context.Context, s *site, in IssueInput, facts policy.Facts) (policy.Facts, error) {
	if facts.Metadata.Intent == nil {
		return facts, nil
	}
	orphans := policy.Orphans(facts.Metadata, facts.Keys, facts.Versions)
	if settle := facts.Capabilities.ConsistentWithin; len(orphans) == 0 && settle > 0 {
		if err := wait(ctx, settle); err != nil {
			return facts, err
		}
		again, err := s.facts(ctx, false)
		if err != nil {
			return facts, err
		}
		facts, orphans = again, policy.Orphans(again.Metadata, again.Keys, again.Versions)
	}
	switch len(orphans) {
	case 0:
		return facts, nil
	case 1:
	default:
		return facts, fmt.Errorf("%w: keys %v all may come from one interrupted mint; destroy at the issuer those that are not in use", ErrAmbiguous, orphans)
	}
	orphan, _ := facts.Live(orphans[0])
	if err := s.issuer.Destroy(ctx, facts.Ref(orphan)); err != nil {
		return facts, fmt.Errorf("destroying orphan %s: %w", orphan.KeyID, err)
	}
	if err := a.Audit.Append(ctx, a.event(ctx, in.Rotation, s, audit.OrphanDestroyed, orphan.KeyID, nil)); err != nil {
		return facts, err
	}
	facts.Keys = slices.DeleteFunc(facts.Keys, func(k key.Info) bool { return k.KeyID == orphan.KeyID })
	return facts, nil
}

// verifyRow is how many tries in a row must succeed: issuers are eventually consistent.
const verifyRow = 3

// settleMargin is how much longer than the issuer says a new key may be refused.
const settleMargin = 20

// Verify tries the staged key as a consumer would: the issuer's self-test and the smoke tests, several
// times in a row. It changes nothing but the key's last use. ErrKeyNotWorking when the key is still
// refused after the issuer had time to settle.
func (a *Activities) Verify(ctx context.Context, r Rotation) error {
	s, err := a.openForEffect(ctx, r)
	if err != nil {
		return forTemporal(err)
	}
	if err := a.verify(ctx, s, r.Incoming); err != nil {
		return forTemporal(fmt.Errorf("verifying key %s of %q: %w", r.Incoming.KeyID, s.spec.Credential.Name, err))
	}
	return forTemporal(a.Audit.Append(ctx, a.event(ctx, r, s, audit.KeyVerified, r.Incoming.KeyID, nil)))
}

func (a *Activities) verify(ctx context.Context, s *site, ref key.Ref) error {
	bundle, err := s.store.Read(ctx, ref.StoreVersion)
	if err != nil {
		return fmt.Errorf("reading version %s: %w", ref.StoreVersion, err)
	}
	defer bundle.Close()
	capabilities, err := s.issuer.Capabilities(ctx)
	if err != nil {
		return err
	}
	patience := time.Now().Add(capabilities.ConsistentWithin + settleMargin*a.PollEvery)
	for good := 0; good < verifyRow; {
		err := s.try(ctx, ref, bundle)
		if err == nil {
			good++
			continue
		}
		good = 0
		if !errors.Is(err, providers.ErrKeyRefused) {
			return err
		}
		if time.Now().After(patience) {
			return fmt.Errorf("%w: %w", ErrKeyNotWorking, err)
		}
		if err := wait(ctx, a.PollEvery); err != nil {
			return err
		}
	}
	return nil
}

// try uses a key once in every way there is. nil means that it works everywhere, ErrKeyRefused that
// somebody refused it.
func (s *site) try(ctx context.Context, ref key.Ref, bundle secret.Bundle) error {
	if tester, ok := s.issuer.(providers.SelfTester); ok {
		if err := tester.SelfTest(ctx, bundle); err != nil {
			return fmt.Errorf("issuer self-test: %w", err)
		}
	}
	for i, check := range s.verify {
		if err := check.Check(ctx, providers.CheckInput{Key: ref, Bundle: bundle}); err != nil {
			return fmt.Errorf("smoke test %d: %w", i+1, err)
		}
	}
	return nil
}
