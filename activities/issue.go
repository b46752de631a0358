package activities

import (
	"cmp"
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
	"github.com/keyturn/keyturn/internal/secret"
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
	if err := a.signedOff(ctx, s, in, facts); err != nil {
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
		if err := a.signedOff(ctx, s, in, facts); err != nil {
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

// beside is what the secret has beside the key, and a version of the next key will have, too; nothing where nobody asks for it.
func (s *site) beside(ctx context.Context, facts policy.Facts) (secret.Bundle, error) {
	current, stored := facts.Version(key.Current)
	if !stored || !s.asksWhatFits() {
		return secret.Bundle{}, nil
	}
	b, err := s.foreign(ctx, current.ID)
	if errors.Is(err, providers.ErrNotFound) { // it has no value
		return secret.Bundle{}, nil
	}
	return b, err
}

// asksWhatFits tells whether a consumer or a test may not take every key.
func (s *site) asksWhatFits() bool {
	can := func(carries any) bool { _, is := carries.(providers.Fitter); return is }
	return slices.ContainsFunc(s.verify, func(c providers.Check) bool { return can(c) }) ||
		slices.ContainsFunc(s.consumers, func(c consumer) bool { return can(c.target) })
}

// fits tells whether all consumers, and the tests of the key, would get it as it was minted.
func (s *site) fits(b secret.Bundle) error {
	var wrong []error
	judge := func(who string, carries any) {
		if fitter, can := carries.(providers.Fitter); can {
			if err := fitter.Fits(b); err != nil {
				wrong = append(wrong, fmt.Errorf("%s: %w", who, err))
			}
		}
	}
	for i, check := range s.verify {
		judge(fmt.Sprintf("verify[%d]", i), check)
	}
	for _, c := range s.consumers {
		judge("consumer "+c.Name, c.target)
	}
	return errors.Join(wrong...)
}

// signedOff refuses a mint that nobody approved, where the sign-off gate asks for it: what a workflow waited for
// is only what a history says. What is approved is to replace the key that is current by the facts.
func (a *Activities) signedOff(ctx context.Context, s *site, in IssueInput, facts policy.Facts) error {
	if s.declared != nil { // by somebody whom the worker configuration names
		return nil
	}
	c := s.spec.Credential
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
		return a.noteBreakGlass(ctx, s, in.Rotation, inventory.GateSignoff, approvals)
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

// stagedBy is the version that a mint's key was staged in, if it was. A store may spell the token in other case.
func stagedBy(token string, f policy.Facts) (policy.StoredKey, bool) {
	at := slices.IndexFunc(f.Versions, func(v policy.StoredKey) bool { return strings.EqualFold(v.Token, token) && !v.Empty })
	if at < 0 {
		return policy.StoredKey{}, false
	}
	return f.Versions[at], true
}

// finishStaging ends a mint whose key was staged by an attempt that died before it could say so.
func (a *Activities) finishStaging(ctx context.Context, s *site, in IssueInput, facts policy.Facts, v policy.StoredKey) (ref key.Ref, ends time.Time, err error) {
	k, live := facts.Live(v.KeyID)
	if !live {
		return ref, ends, fmt.Errorf("%w: version %s", ErrStagedKeyDead, v.ID)
	}
	ref, err = a.record(ctx, s, in, key.Ref{
		Principal: k.Principal, KeyID: k.KeyID, StoreVersion: v.ID, Fingerprint: v.Fingerprint,
	}, policy.ResolvedWith(facts, k.KeyID))
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

// record makes the staged key ours in the metadata, and removes the intents that are resolved with it.
func (a *Activities) record(ctx context.Context, s *site, in IssueInput, ref key.Ref, resolved []key.Intent) (key.Ref, error) {
	now := a.Now().UTC()
	_, err := s.amend(ctx, func(m *key.Metadata) error {
		mine := owned(m, ref)
		if mine.IssuedAt.IsZero() {
			mine.IssuedAt = now
		}
		mine.Ref, mine.Rotation, mine.TurnedBackAt = ref, in.ID, time.Time{}
		resolve(m, resolved)
		m.Generation = max(m.Generation, s.spec.Generation)
		m.Inventory, m.Environment = s.spec.Inventory, s.spec.Credential.Environment
		return nil
	})
	if err != nil {
		return key.Ref{}, fmt.Errorf("recording key %s: %w", ref.KeyID, err)
	}
	in.Incoming = ref
	return ref, a.Audit.Append(ctx, a.event(ctx, in.Rotation, s, audit.KeyIssued, ref.KeyID, nil))
}

// destroyOrphans destroys the keys of interrupted mints, unless it is not proved whose one is. Where they are fewer than the
// intents, the issuer may be slow to list one: it is asked once more after the time that it needs to settle.
func (a *Activities) destroyOrphans(ctx context.Context, s *site, in IssueInput, facts policy.Facts) (policy.Facts, error) {
	adopt := s.spec.Credential.Adopt
	if settle := facts.Capabilities.ConsistentWithin; settle > 0 && policy.Unlisted(facts, adopt) {
		if err := patience.Pause(ctx, settle); err != nil {
			return facts, err
		}
		again, err := s.facts(ctx, false)
		if err != nil {
			return facts, err
		}
		facts = again
	}
	if unclear := policy.Unclear(facts, adopt); len(unclear) > 0 {
		refusing(ctx, unclear[0])
		return facts, notYet(unclear[0].Message, 0)
	}
	var lost []key.Ref
	for _, k := range facts.Metadata.Keys {
		if policy.Lost(k) {
			lost = append(lost, k.Ref)
		}
	}
	for _, keyID := range facts.Orphans(adopt) {
		orphan, _ := facts.Live(keyID)
		lost = append(lost, facts.Ref(orphan))
	}
	var waits error
	for _, ref := range lost { // all are set aside at once, so that the lag of uses passes once
		var err error
		facts, err = a.destroyLost(ctx, s, in, facts, ref)
		if err != nil && !isNotYet(err) {
			return facts, err
		}
		waits = cmp.Or(waits, err)
	}
	return facts, waits
}

// destroyLost destroys a lost key that the metadata names: whenever the process dies, that says what is left to do
// and to record.
func (a *Activities) destroyLost(ctx context.Context, s *site, in IssueInput, facts policy.Facts, ref key.Ref) (policy.Facts, error) {
	facts, err := a.setAside(ctx, s, in.Rotation, facts, ref)
	if err != nil {
		return facts, err
	}
	if err := s.destroy(ctx, facts, ref); err != nil {
		return facts, fmt.Errorf("destroying orphan %s: %w", ref.KeyID, err)
	}
	resolved := policy.ResolvedWith(facts, ref.KeyID)
	if err := a.Audit.Append(ctx, a.event(ctx, in.Rotation, s, audit.OrphanDestroyed, ref.KeyID, nil)); err != nil {
		return facts, err
	}
	facts.Keys = slices.DeleteFunc(facts.Keys, func(k key.Info) bool { return k.KeyID == ref.KeyID })
	if facts.Metadata, err = s.disown(ctx, ref, resolved); err != nil {
		return facts, fmt.Errorf("recording it: %w", err)
	}
	return facts, nil
}

// setAside claims the key of an interrupted mint, and returns without an error once it may be destroyed. Where the issuer
// tells late of uses, it is disabled first, and that is not yet. One that turns out to be in use is given back.
func (a *Activities) setAside(ctx context.Context, s *site, r Rotation, facts policy.Facts, ref key.Ref) (policy.Facts, error) {
	adopt := s.spec.Credential.Adopt
	if s.stillJudged(facts) != nil { // what was done about another one took its time
		again, err := s.facts(ctx, false)
		if err != nil {
			return facts, err
		}
		facts = again
	}
	mint := r.ID
	for _, of := range policy.ResolvedWith(facts, ref.KeyID) {
		mint = of.Rotation
	}
	d := policy.MayDestroyOrphan(facts, adopt, ref)
	switch d.Reason {
	case policy.NotOurs:
		return facts, notYet(d.Message, 0)
	case policy.OrphanInUse:
		refusing(ctx, d)
		if err := a.giveBack(ctx, s, r, facts, ref); err != nil {
			return facts, fmt.Errorf("giving key %s back: %w", ref.KeyID, err)
		}
		return facts, fmt.Errorf("%w: %s", ErrAmbiguous, d.Message)
	}
	m, err := s.own(ctx, facts.Metadata, ref, mint)
	if facts.Metadata = m; err != nil || d.OK {
		return facts, err
	}
	mine, _ := m.Key(ref.KeyID)
	disabler, can := s.issuer.(providers.Disabler)
	if k, _ := facts.Live(ref.KeyID); can && (k.State != key.Disabled || mine.DisabledAt.IsZero()) {
		begun := a.Now().UTC()
		facts.Metadata, err = s.amendKey(ctx, facts.Metadata, ref, func(mine *key.Owned) {
			mine.DisablingAt, mine.DisabledAt = begun, time.Time{}
		})
		if err != nil {
			return facts, fmt.Errorf("recording that key %s is disabled: %w", ref.KeyID, err)
		}
		if _, err := s.unchanged(ctx, facts, ref.KeyID); err != nil {
			return facts, err
		}
		if err := disabler.Disable(ctx, ref); err != nil {
			return facts, fmt.Errorf("disabling orphan %s: %w", ref.KeyID, err)
		}
		if err := a.awaitState(ctx, s, ref, key.Disabled, facts.Capabilities.ConsistentWithin); err != nil {
			return facts, err
		}
		event := a.event(ctx, r, s, audit.OrphanDisabled, ref.KeyID, map[string]string{"key": ref.KeyID, "why": d.Message})
		if err := a.Audit.Append(ctx, event); err != nil {
			return facts, err
		}
		mine.DisabledAt = a.Now().UTC()
		facts.Metadata, err = s.amendKey(ctx, facts.Metadata, ref, func(k *key.Owned) { k.DisabledAt = mine.DisabledAt })
		if err != nil {
			return facts, fmt.Errorf("recording since when key %s is disabled: %w", ref.KeyID, err)
		}
	}
	left := mine.DisabledAt.Add(facts.Capabilities.UsageLag).Sub(a.Now())
	if !can || left > soon {
		return facts, notYet(d.Message, 0)
	}
	if err := patience.Pause(ctx, left); err != nil {
		return facts, err
	}
	again, err := s.facts(ctx, false)
	if err != nil {
		return facts, err
	}
	if d := policy.MayDestroyOrphan(again, adopt, ref); !d.OK {
		return again, notYet(d.Message, 0) // the next attempt gives back what is in use
	}
	return again, nil
}

// soon is how long an activity waits by itself for something that comes.
const soon = 5 * time.Second

// giveBack ends the claim to a key that proved to be somebody else's.
func (a *Activities) giveBack(ctx context.Context, s *site, r Rotation, facts policy.Facts, ref key.Ref) error {
	mine, claimed := facts.Metadata.Key(ref.KeyID)
	if !claimed {
		return nil
	}
	if disabler, can := s.issuer.(providers.Disabler); can && !mine.DisablingAt.IsZero() {
		if _, err := s.unchanged(ctx, facts, ref.KeyID); err != nil {
			return err
		}
		if err := disabler.Enable(ctx, ref); err != nil {
			return err
		}
	}
	if err := a.Audit.Append(ctx, a.event(ctx, r, s, audit.OrphanReleased, ref.KeyID, map[string]string{"key": ref.KeyID})); err != nil {
		return err
	}
	_, err := s.disown(ctx, ref, nil)
	return err
}

// verifyRow is how many tries in a row must end alike, spread over the time in which the issuer may still answer as before: some of
// its hosts may know of a change and others not.
const verifyRow = 3

// nextTry waits until the next try of a row.
func nextTry(ctx context.Context, within time.Duration) error {
	return patience.Pause(ctx, within/(verifyRow-1))
}

// settling is the time in which an issuer may still answer as before a change.
type settling struct {
	until time.Time
	looks int // that may be taken after that
}

// settleMargin is how many more looks an issuer gets than it says to need. Looks are counted, not time: a slow worker takes
// as many as a quick one.
const settleMargin = 20

func settle(within time.Duration, looks int) settling { return settling{time.Now().Add(within), looks} }

// over is asked after each look.
func (s *settling) over() bool {
	if time.Now().Before(s.until) {
		return false
	}
	s.looks--
	return s.looks < 0
}

// verify tries the staged key as a consumer would: the issuer's self-test and the smoke tests, several
// times in a row. It says no when the key is still refused after the issuer had time to settle. A key that
// worked is not tried again: from then on its uses are those of consumers.
func (a *Activities) verify(ctx context.Context, s *site, r Rotation) (mine key.Owned, d policy.Decision, err error) {
	m, err := s.store.Metadata(ctx)
	if err != nil {
		return mine, d, fmt.Errorf("reading metadata of the store: %w", err)
	}
	if mine, _ = m.Key(r.Incoming.KeyID); mine.VerifiedAt.IsZero() {
		refusal, err := a.refusal(ctx, s, r.Incoming)
		switch {
		case err != nil:
			return mine, d, err
		case refusal != nil:
			d = policy.Decision{Reason: policy.KeyNotWorking, Message: capText(refusal.Error())}
			refusing(ctx, d)
			return mine, d, nil
		}
		now := a.Now().UTC()
		if _, err := s.amend(ctx, func(m *key.Metadata) error {
			owned(m, r.Incoming).VerifiedAt = now
			return nil
		}); err != nil {
			return mine, d, fmt.Errorf("recording that it works: %w", err)
		}
	}
	return mine, policy.Decision{OK: true, Reason: policy.Allowed}, a.Audit.Append(ctx, a.event(ctx, r, s, audit.KeyVerified, r.Incoming.KeyID, nil))
}

// refusal is how the key was refused, nil when it works.
func (a *Activities) refusal(ctx context.Context, s *site, ref key.Ref) (refusal, err error) {
	bundle, err := s.store.Read(ctx, ref.StoreVersion)
	if err != nil {
		return nil, fmt.Errorf("reading version %s: %w", ref.StoreVersion, err)
	}
	defer bundle.Close()
	capabilities, err := s.capabilities(ctx)
	if err != nil {
		return nil, err
	}
	waiting := settle(capabilities.ConsistentWithin, settleMargin)
	for good := 0; good < verifyRow; {
		err := s.try(ctx, ref, bundle)
		if err == nil {
			if good++; good < verifyRow {
				if err := nextTry(ctx, capabilities.ConsistentWithin); err != nil {
					return nil, err
				}
			}
			continue
		}
		good = 0
		if !errors.Is(err, providers.ErrKeyRefused) {
			return nil, err
		}
		if waiting.over() {
			return err, nil
		}
		if err := patience.Pause(ctx, a.PollEvery); err != nil {
			return nil, err
		}
	}
	return nil, nil
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
