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

// ImportInput asks for a key that is in use to become the credential's, on the worker's host.
type ImportInput struct {
	Spec inventory.SignedSpec
	// Run names this run of the program: the lease is its own.
	Run string
	// KeyID is what the key is called at an issuer that does not know it yet; the only one that the spec adopts when empty.
	KeyID string
	// Unattested goes on though consumers do not attest the key.
	Unattested bool
	// By is who imports, where nobody signed the spec.
	By string
	// Read asks for the key, of these fields. It is called once the spec is accepted, and before anything is changed.
	Read func(fields []string) (secret.Bundle, error)
}

// Imported is a key that was imported.
type Imported struct {
	Credential string  `json:"credential"`
	Key        key.Ref `json:"key"`
	// Made names the files that the issuer needed and had not.
	Made []string `json:"made,omitempty"`
	// Unattested says which consumers do not attest the key, and why.
	Unattested []string `json:"unattested,omitempty"`
	// Untested: nothing can test a key, so that the issuer's list was the answer.
	Untested bool `json:"untested,omitempty"`
}

// Import brings a key that is in use into issuer and store, where it becomes CURRENT, so that the first rotation can turn back to
// it. It is no activity, since a key must not pass through Temporal: a program of the worker's host calls it. It acts
// under the lease that a rotation would have, as key.LeaseOfImport, and goes the one way of every effect.
//
// It may be called again after the process died at any moment, with the same key: what is done already is found so. What it
// refuses changes nothing but the lease, which it gives back, files that Prepare made, and that the issuer accepts a key which somebody is
// seen to use.
func Import(ctx context.Context, a *Activities, in ImportInput) (Imported, error) {
	ctx = ByProgram(ctx, key.LeaseOfImport, in.Run)
	r := Rotation{Spec: in.Spec}
	s, err := a.openImport(r)
	if err != nil {
		return Imported{}, err
	}
	name := s.spec.Credential.Name
	fields, err := s.ownFields(ctx)
	if err != nil {
		return Imported{}, fmt.Errorf("importing the key of %q: %w", name, err)
	}
	bundle, err := in.Read(fields)
	if err != nil {
		return Imported{}, fmt.Errorf("reading the key of %q: %w", name, err)
	}
	defer bundle.Close()
	if err := s.fits(bundle); err != nil {
		return Imported{}, fmt.Errorf("importing the key of %q: nothing was changed: %w", name, err)
	}
	s.acknowledge = func(ctx context.Context, _ any) error { return s.stillHeld(ctx, r) }
	if err := a.hold(ctx, s, r, false); err != nil {
		return Imported{}, err
	}
	defer s.release()
	imported, err := a.bringIn(ctx, s, in, bundle)
	if err = errors.Join(err, s.giveLeaseBack(ctx)); err != nil {
		return Imported{}, fmt.Errorf("importing the key of %q: %w", name, err)
	}
	return imported, nil
}

// openImport opens the credential for whoever imports its key.
func (a *Activities) openImport(r Rotation) (*site, error) {
	s, err := a.openWithin(r)
	if err != nil {
		return nil, err
	}
	s.workflow = key.LeaseOfImport
	return s, a.current(s.spec)
}

// stillHeld is what an import, which has no heartbeat, asks before each write: whether it has the lease. It renews it, too.
func (s *site) stillHeld(ctx context.Context, r Rotation) error {
	s.renew(ctx, r)
	m, err := s.store.Metadata(ctx)
	if err != nil {
		return fmt.Errorf("reading metadata of the store: %w", err)
	}
	return s.fenced(m)
}

// giveBackWithin bounds the last write of an import that was cancelled.
const giveBackWithin = 30 * time.Second

// giveLeaseBack ends an import, cancelled or not. One that has lost the lease has none to give.
func (s *site) giveLeaseBack(ctx context.Context) error {
	ctx, done := context.WithTimeout(context.WithoutCancel(ctx), giveBackWithin)
	defer done()
	_, err := s.amend(ctx, func(m *key.Metadata) error {
		m.Lease, m.Ended = nil, s.lease.Run
		return nil
	})
	switch {
	case errors.Is(err, ErrHeld):
		return nil
	case err != nil:
		return fmt.Errorf("giving the lease back, without which no rotation begins for %s: %w", key.LeaseTerm, err)
	}
	return nil
}

// bringIn does each step that is not done yet: to the issuer, to the store, to CURRENT, to the record.
func (a *Activities) bringIn(ctx context.Context, s *site, in ImportInput, bundle secret.Bundle) (Imported, error) {
	imported := Imported{Credential: s.spec.Credential.Name, Untested: !s.testable()}
	importer, can := s.issuer.(providers.Importer)
	if can {
		var err error
		if imported.Made, err = importer.Prepare(ctx); err != nil {
			return imported, err
		}
	}
	wanted := policy.Importing{CanImport: can, Unattested: in.Unattested}
	step := judgement{
		gather: func(ctx context.Context) (facts policy.Facts, err error) {
			facts, wanted.Key, wanted.Known, err = s.factsOfImport(ctx, in, bundle)
			return facts, err
		},
		may:  func(f policy.Facts) policy.Decision { return policy.MayImport(s.spec.Credential, f, wanted) },
		kept: func(policy.Facts) string { return wanted.Key.KeyID },
	}
	facts, err := step.gather(ctx)
	if err != nil {
		return imported, err
	}
	if d := step.may(facts); !d.OK {
		return imported, fmt.Errorf("%w: %s", ErrRefused, d.Message)
	}
	admitted := !wanted.Known
	if admitted || wanted.Key.StoreVersion == "" {
		if err := a.Audit.Append(ctx, a.ofImport(s, in, audit.ImportBegun, wanted.Key, in.Run, nil)); err != nil {
			return imported, err
		}
	}
	if admitted {
		if facts, err = s.admit(ctx, step, facts, importer, wanted.Key.KeyID, bundle); err != nil {
			return imported, err
		}
	}
	if wanted.Key.StoreVersion == "" {
		if err := s.stageImported(ctx, facts, wanted.Key, bundle); err != nil {
			return imported, err
		}
	}
	facts, d, err := s.judge(ctx, step)
	if err != nil {
		return imported, err
	}
	if !d.OK {
		now, err := "the issuer has the key, and it is CURRENT, as before", error(nil)
		if current, _ := facts.Version(key.Current); current.ID != wanted.Key.StoreVersion {
			now, err = a.turnImportBack(ctx, s, in, step, facts, wanted.Key, admitted, d.Message)
		}
		return imported, errors.Join(fmt.Errorf("%w: %s; %s: mend that, and import it again", ErrRefused, d.Message, now), err)
	}
	for _, missing := range policy.Unattested(facts.Instances, wanted.Key) {
		imported.Unattested = append(imported.Unattested, missing.Message)
	}
	imported.Key = wanted.Key
	return imported, a.makeCurrent(ctx, s, in, facts, imported)
}

// admit has the issuer take the key, and waits until it lists it.
func (s *site) admit(ctx context.Context, step judgement, judged policy.Facts, importer providers.Importer, keyID string, bundle secret.Bundle) (policy.Facts, error) {
	if _, err := s.unchanged(ctx, judged, keyID); err != nil {
		return judged, err
	}
	info, err := importer.Import(ctx, providers.ImportRequest{KeyID: keyID, Scopes: s.spec.Credential.Scopes}, bundle)
	if err != nil {
		return judged, err
	}
	for waiting := settle(judged.Capabilities.ConsistentWithin, settleMargin); ; {
		facts, err := step.gather(ctx)
		if err != nil {
			return facts, err
		}
		if _, listed := facts.Live(info.KeyID); listed {
			return facts, nil
		}
		if waiting.over() {
			return facts, fmt.Errorf("%w: the issuer took key %s and does not list it; import it again", providers.ErrNotFound, info.KeyID)
		}
		if err := patience.Pause(ctx, askedAgain); err != nil {
			return facts, err
		}
	}
}

// stageImported stores the key as PENDING. The same key has the same token each time, so that it gets one version.
func (s *site) stageImported(ctx context.Context, judged policy.Facts, ref key.Ref, bundle secret.Bundle) error {
	if _, err := s.unchanged(ctx, judged, ref.KeyID); err != nil {
		return err
	}
	own, err := s.ownFields(ctx)
	if err != nil {
		return err
	}
	if _, err := s.store.Stage(ctx, policy.Token(key.LeaseOfImport+"/"+s.secret()+"/"+ref.KeyID, 1), bundle.Only(own...)); err != nil {
		return fmt.Errorf("staging key %s: %w", ref.KeyID, err)
	}
	return nil
}

// turnImportBack removes the key from the store, and from an issuer that took it in this import, where nobody is seen to use it: a value
// that was mistaken is accepted no longer. It says what is true then.
func (a *Activities) turnImportBack(ctx context.Context, s *site, in ImportInput, step judgement, judged policy.Facts, ref key.Ref, admitted bool, why string) (now string, err error) {
	now = "the issuer has the key, and it is not CURRENT"
	if err := s.unstage(ctx, judged, ref); err != nil || !admitted {
		return now, err
	}
	facts, err := step.gather(ctx)
	if err != nil {
		return now, err
	}
	if d := policy.MayWithdraw(facts, ref); !d.OK {
		return now + ", since " + d.Message, nil
	}
	if err := s.destroy(ctx, facts, ref); err != nil {
		return now, fmt.Errorf("withdrawing key %s: %w", ref.KeyID, err)
	}
	detail := map[string]string{"key": ref.KeyID, "why": "it was imported, and nobody was seen to use it: " + why}
	return "neither issuer nor store has it", a.Audit.Append(ctx, a.ofImport(s, in, audit.KeyDiscarded, ref, in.Run, detail))
}

// ofImport is an event of an import; which tells it from others of its kind and key.
func (a *Activities) ofImport(s *site, in ImportInput, kind audit.Type, ref key.Ref, which string, detail map[string]string) audit.Event {
	return audit.Event{
		ID: strings.Join([]string{"import", s.secret(), ref.KeyID, string(kind), which}, "/"), Time: a.Now().UTC(), Type: kind,
		Credential: s.spec.Credential.Name, Run: in.Run, Actor: cmp.Or(s.signer.Name, in.By, "import"),
		Keys: map[string]key.Ref{audit.Imported: ref}, Detail: detail,
	}
}

// unstage removes what an import staged and did not make CURRENT: another value may follow it, where this one was mistaken.
func (s *site) unstage(ctx context.Context, judged policy.Facts, ref key.Ref) error {
	if err := s.drop(ctx, judged, ref.StoreVersion); err != nil {
		return fmt.Errorf("removing version %s: %w", ref.StoreVersion, err)
	}
	_, err := s.disown(ctx, ref, nil)
	return err
}

// makeCurrent moves CURRENT to the key, and writes that down.
func (a *Activities) makeCurrent(ctx context.Context, s *site, in ImportInput, judged policy.Facts, imported Imported) error {
	ref, now := imported.Key, a.Now().UTC()
	if current, _ := judged.Version(key.Current); current.ID != ref.StoreVersion {
		if _, err := s.unchanged(ctx, judged, ref.KeyID); err != nil {
			return err
		}
		if err := s.store.Promote(ctx, "", ref.StoreVersion); err != nil {
			return fmt.Errorf("making key %s CURRENT: %w", ref.KeyID, err)
		}
	}
	attested := len(imported.Unattested) == 0
	if _, err := s.amend(ctx, func(m *key.Metadata) error {
		mine := owned(m, ref)
		mine.Ref = ref
		if mine.PromotedAt.IsZero() {
			mine.PromotedAt = now
		}
		if attested && mine.AttestedAt.IsZero() {
			mine.AttestedAt, mine.AttestedReport = now, judged.Reported()
		}
		m.Inventory, m.Environment = s.spec.Inventory, s.spec.Credential.Environment
		return nil
	}); err != nil {
		return fmt.Errorf("recording key %s, which is CURRENT: %w", ref.KeyID, err)
	}
	return a.Audit.Append(ctx, a.ofImport(s, in, audit.KeyImported, ref, fmt.Sprint("attested=", attested),
		map[string]string{"unattested": strings.Join(imported.Unattested, "; "), "made": strings.Join(imported.Made, ", ")}))
}

// factsOfImport are those that an import is judged by: what every effect is, and which instances attest the key that the bundle is.
// Key names that as far as issuer, store and input know it; identified: the issuer does, by its value.
func (s *site) factsOfImport(ctx context.Context, in ImportInput, bundle secret.Bundle) (facts policy.Facts, ref key.Ref, identified bool, err error) {
	if facts, err = s.facts(ctx, false); err != nil {
		return facts, ref, false, err
	}
	keyID, fingerprint, err := s.identify(ctx, bundle)
	if err != nil {
		return facts, ref, false, fmt.Errorf("asking the issuer which key it is: %w", err)
	}
	if keyID != "" && in.KeyID != "" && keyID != in.KeyID {
		return facts, ref, false, fmt.Errorf("%w: the issuer knows it as key %s, not %s", providers.ErrConflict, keyID, in.KeyID)
	}
	ref = key.Ref{KeyID: cmp.Or(keyID, in.KeyID), Fingerprint: fingerprint}
	if adopt := s.spec.Credential.Adopt; ref.KeyID == "" && len(adopt) == 1 {
		ref.KeyID = adopt[0]
	}
	if len(s.principals) == 1 {
		ref.Principal = s.principals[0]
	}
	if ref.StoreVersion, err = s.versionOf(ctx, facts, bundle); err != nil {
		return facts, ref, false, err
	}
	named := append(slices.Clone(facts.Keys), key.Info{KeyID: ref.KeyID})
	instances := s.instances(ctx, s.consumers, look{attest: true, keys: named, known: []known{{ref, bundle}}})
	if s.stillJudged(facts) != nil { // they took their time
		if facts, err = s.facts(ctx, false); err != nil {
			return facts, ref, false, err
		}
	}
	facts.Instances = facts.Believe(instances)
	return facts, ref, keyID != "", nil
}

// versionOf is the version in CURRENT or PENDING whose key is the bundle; empty for none.
func (s *site) versionOf(ctx context.Context, facts policy.Facts, bundle secret.Bundle) (string, error) {
	own, err := s.ownFields(ctx)
	if err != nil {
		return "", err
	}
	for _, v := range facts.Versions {
		if v.Empty || !v.Has(key.Current) && !v.Has(key.Pending) {
			continue
		}
		stored, err := s.read(ctx, key.Ref{StoreVersion: v.ID}, toCompare)
		if err != nil {
			return "", fmt.Errorf("reading version %s: %w", v.ID, err)
		}
		same := stored.Only(own...).Equal(bundle.Only(own...))
		stored.Close()
		if same {
			return v.ID, nil
		}
	}
	return "", nil
}
