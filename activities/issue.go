package activities

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/patience"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/providers"
)

// IssueInput asks for the key of one mint.
type IssueInput struct {
	Rotation
	// Ordinal counts the mints of the rotation, from 1.
	Ordinal int `json:"ordinal"`
	// Resume is the key of a rotation that did not end, to go on with instead of minting one; none when zero.
	Resume key.Ref `json:"resume,omitzero"`
	// Approvals are those of the sign-off gate.
	Approvals []policy.Verdict `json:"approvals,omitempty"`
}

// Issued is the key of one mint, and whether it works.
type Issued struct {
	Key key.Ref `json:"key"`
	// Ends is the key's own end; zero for none. RotateBy is until when it is to be rotated itself.
	Ends     time.Time `json:"ends,omitzero"`
	RotateBy time.Time `json:"rotateBy,omitzero"`
	// Decision is OK when the key works everywhere, else KeyNotWorking.
	Decision policy.Decision `json:"decision"`
}

// Issue mints a key, stores it as PENDING before anything else, and then sees that it works; a default read of
// the store still yields CURRENT. Only the key's Ref returns. Told to go on with the key of a rotation that did not end, it mints
// none, as long as policy.MayResume allows that.
//
// Called again for the same mint it returns the key that was staged. A key that was minted and not
// staged is lost, since an issuer tells a secret once: the mint intent, written before the mint, proves
// it to be ours, it is destroyed, and another is minted. Where the issuer tells late of uses that takes as
// long: until then it is disabled, and the answer a benign error that the server retries. So it is while it is not proved
// whose a key is, until a person acts, and while a mint of another run may still make one. One that somebody uses
// ends the mint with ErrAmbiguous.
func (a *Activities) Issue(ctx context.Context, in IssueInput) (Issued, error) {
	s, err := a.openForEffect(ctx, in.Rotation)
	if err != nil {
		return Issued{}, forTemporal(err)
	}
	defer s.release()
	defer s.beating(ctx)()
	ref, ends, err := a.issueAndStage(ctx, s, in)
	if err != nil {
		return Issued{}, forTemporal(fmt.Errorf("issuing key for %q: %w", s.spec.Credential.Name, err))
	}
	in.Incoming = ref
	mine, d, err := a.verify(ctx, s, in.Rotation)
	if err != nil {
		return Issued{}, forTemporal(fmt.Errorf("verifying key %s of %q: %w", ref.KeyID, s.spec.Credential.Name, err))
	}
	return Issued{Key: ref, Ends: ends, RotateBy: policy.RotateBy(s.spec.Credential, mine.IssuedAt, ends), Decision: d}, nil
}

// issueAndStage returns the staged key and its own end.
func (a *Activities) issueAndStage(ctx context.Context, s *site, in IssueInput) (ref key.Ref, ends time.Time, err error) {
	if err := a.current(s.spec); err != nil && s.declared == nil {
		return ref, ends, err
	}
	c := s.spec.Credential
	token := policy.Token(in.ID, in.Ordinal)
	facts, err := s.facts(ctx, false)
	if err != nil {
		return ref, ends, err
	}
	if v, staged := stagedBy(token, facts); staged {
		settle := facts.Capabilities.ConsistentWithin
		if _, live := facts.Live(v.KeyID); !live && settle > 0 { // the issuer may be slow to list it
			if err := patience.Pause(ctx, settle); err != nil {
				return ref, ends, err
			}
			if facts, err = s.facts(ctx, false); err != nil {
				return ref, ends, err
			}
			v, _ = stagedBy(token, facts)
		}
		return a.finishStaging(ctx, s, in, facts, v)
	}
	if !in.Resume.IsZero() {
		return a.takeUp(ctx, s, in, facts)
	}
	if err := a.mayMint(ctx, s, in, facts); err != nil {
		return ref, ends, err
	}
	if err := a.Audit.Append(ctx, a.event(ctx, in.Rotation, s, audit.RotationStarted, "", nil)); err != nil {
		return ref, ends, err
	}
	objections, err := s.rightsObjections(ctx)
	if err != nil {
		return ref, ends, err
	}
	if len(objections) > 0 {
		return ref, ends, fmt.Errorf("%w: %s", providers.ErrDenied, strings.Join(objections, "; "))
	}
	if facts, err = a.destroyOrphans(ctx, s, in, facts); err != nil {
		return ref, ends, err
	}
	if s.stillJudged(facts) != nil { // that took its time
		if facts, err = s.facts(ctx, false); err != nil {
			return ref, ends, err
		}
		if err := a.mayMint(ctx, s, in, facts); err != nil {
			return ref, ends, err
		}
	}
	run := acting(ctx).run
	if left := policy.OthersMintFor(facts.Metadata, run, a.Now()); left > 0 {
		return ref, ends, notYet("the mint of another run was interrupted, and may still make a key: minting when that is over", left)
	}
	if slots := facts.Capabilities.Slots; slots > 0 && len(facts.Keys) >= slots {
		return ref, ends, fmt.Errorf("%w: %d of %d", providers.ErrSlotsFull, len(facts.Keys), slots)
	}

	principal := in.Retiring.Principal
	if principal != "" && !slices.Contains(s.principals, principal) {
		return ref, ends, fmt.Errorf("%w: %q is not its principal", ErrSpec, principal)
	}
	beside, err := s.beside(ctx, facts)
	if err != nil {
		return ref, ends, err
	}
	defer beside.Close()
	if err := a.Audit.Append(ctx, a.event(ctx, in.Rotation, s, audit.MintIntended, token, nil)); err != nil {
		return ref, ends, err
	}
	// Between the intent and the call there is nothing: what is made in that time may be taken for ours.
	intent := key.Intent{Rotation: in.ID, Ordinal: in.Ordinal, Run: run, Principal: principal, At: a.Now().UTC(), Within: policy.MintWithin}
	for _, k := range facts.Keys {
		intent.Known = append(intent.Known, k.KeyID)
	}
	if err := s.intend(ctx, facts, intent); err != nil {
		return ref, ends, fmt.Errorf("writing mint intent: %w", err)
	}
	request := providers.IssueRequest{Token: token, Principal: principal, Scopes: c.Scopes}
	if c.Expires > 0 {
		request.ExpiresAt = a.Now().Add(c.Expires.Std()).UTC()
	}
	bounded, done := context.WithTimeout(ctx, intent.Within-a.Now().Sub(intent.At))
	issued, err := s.issuer.Issue(bounded, request)
	done()
	if mintedNothing(err) {
		// An intent that is left would claim a key that somebody makes later.
		err = errors.Join(err, s.forget(ctx, facts.Metadata, intent))
	}
	if err != nil {
		return ref, ends, err
	}
	defer issued.Bundle.Close()
	if err := s.fits(beside.With(issued.Bundle)); err != nil {
		return ref, ends, fmt.Errorf("key %s, which was minted just now, was given to nobody, and the next rotation destroys it: %w", issued.Key.KeyID, err)
	}
	if err := s.mayWrite(ctx); err != nil { // else PENDING could become a key that another run destroys as an orphan
		return ref, ends, err
	}
	version, err := s.store.Stage(ctx, token, issued.Bundle)
	if err != nil {
		return ref, ends, fmt.Errorf("staging key %s: %w", issued.Key.KeyID, err)
	}
	ref, err = a.record(ctx, s, in, key.Ref{
		Principal: issued.Key.Principal, KeyID: issued.Key.KeyID,
		StoreVersion: version, Fingerprint: issued.Bundle.Fingerprint(),
	}, []key.Intent{intent})
	return ref, issued.Key.ExpiresAt, err
}

// mayMint refuses a mint in a blackout, which may have begun while the rotation waited, and one that nobody approved where the sign-off
// gate asks for it: what a workflow waited for is only what a history says. What is approved is to replace the key that is current by the
// facts.
func (a *Activities) mayMint(ctx context.Context, s *site, in IssueInput, facts policy.Facts) error {
	if s.declared != nil { // by somebody whom the worker configuration names
		return nil
	}
	c := s.spec.Credential
	if d := policy.MayStart(c, in.Start, true, a.Now()); !d.OK {
		refusing(ctx, d)
		return fmt.Errorf("%w: %s", providers.ErrDenied, d.Message)
	}
	gate := in.Rotation
	gate.Retiring, gate.Incoming = key.Ref{}, key.Ref{}
	for keyID, standing := range facts.Standings(c.Adopt) {
		if standing == policy.StandingCurrent {
			gate.Retiring = key.Ref{KeyID: keyID}
		}
	}
	approvals, left := a.approvals(ctx, s, inventory.GateSignoff, gate, in.Approvals)
	d := policy.MayMint(c, facts, approvals)
	if d.OK {
		return a.noteBreakGlass(ctx, s, in.Rotation, inventory.GateSignoff, d)
	}
	refusing(ctx, d, left...)
	return fmt.Errorf("%w: %s", providers.ErrDenied, d.Message)
}

// mintedNothing tells whether an error of Issue proves that no key was made.
func mintedNothing(err error) bool {
	return slices.ContainsFunc([]error{providers.ErrSlotsFull, providers.ErrDenied, providers.ErrInvalid, providers.ErrUnsupported},
		func(proof error) bool { return errors.Is(err, proof) })
}

// takeUp makes the key of a rotation that did not end that of this one.
func (a *Activities) takeUp(ctx context.Context, s *site, in IssueInput, facts policy.Facts) (ref key.Ref, ends time.Time, err error) {
	if d := policy.MayResume(s.spec.Credential, facts, in.Resume); !d.OK {
		return ref, ends, forbidden(ctx, d)
	}
	if err := a.Audit.Append(ctx, a.event(ctx, in.Rotation, s, audit.RotationStarted, "", nil)); err != nil {
		return ref, ends, err
	}
	k, _ := facts.Live(in.Resume.KeyID)
	ref, err = a.record(ctx, s, in, facts.Ref(k), policy.ResolvedWith(facts, k.KeyID))
	return ref, k.ExpiresAt, err
}

// intend writes a mint intent, beside those that are not resolved by what was judged. By writing it the credential becomes this
// inventory's, unless another one came first.
func (s *site) intend(ctx context.Context, judged policy.Facts, intent key.Intent) error {
	_, err := s.amend(ctx, func(m *key.Metadata) error {
		if err := s.stillJudged(judged); err != nil {
			return err
		}
		if d := policy.Governs(s.spec, *m); !d.OK {
			return fmt.Errorf("%w: %s", ErrSpec, d.Message)
		}
		if !slices.EqualFunc(m.Intents, judged.Metadata.Intents, key.Intent.Is) {
			return notYet("another worker has just begun or ended a mint; looking again", 0)
		}
		resolve(m, policy.Resolved(judged, s.spec.Credential.Adopt))
		m.Intents = append(m.Intents, intent)
		m.Inventory, m.Environment = s.spec.Inventory, s.spec.Credential.Environment
		return nil
	})
	return err
}

// forget takes back what intend wrote.
func (s *site) forget(ctx context.Context, before key.Metadata, intent key.Intent) error {
	_, err := s.amend(ctx, func(m *key.Metadata) error {
		if !slices.ContainsFunc(m.Intents, intent.Is) {
			return errUnchanged
		}
		resolve(m, []key.Intent{intent})
		m.Inventory, m.Environment = before.Inventory, before.Environment
		return nil
	})
	return err
}
