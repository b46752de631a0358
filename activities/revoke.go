package activities

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/providers"
)

// EvidenceInput asks for the evidence against the retiring key.
type EvidenceInput struct {
	Rotation
	// Shown is what was said to be missing last time: only other evidence is told at once.
	Shown string `json:"shown,omitempty"`
}

// GatherEvidence returns when the evidence is complete, or lacks something else than was shown before.
// Until then it answers with a benign error that the server retries. It changes nothing.
func (a *Activities) GatherEvidence(ctx context.Context, in EvidenceInput) (policy.Evidence, error) {
	s, err := a.open(in.Rotation)
	if err != nil {
		return policy.Evidence{}, forTemporal(err)
	}
	facts, err := s.facts(ctx, true)
	if err != nil {
		return policy.Evidence{}, forTemporal(fmt.Errorf("gathering evidence for %q: %w", s.spec.Credential.Name, err))
	}
	e := policy.Gather(s.spec.Credential, facts, in.Retiring, in.Incoming)
	if !e.Complete && e.Lacks() == in.Shown {
		return policy.Evidence{}, notYet(e.Missing[0].Message, 0)
	}
	events := in.told(s.spec.Credential.Name)
	if e.Complete {
		events = append(events, a.event(ctx, in.Rotation, s, audit.EvidenceComplete, e.Digest, map[string]string{"evidence": e.Describe()}))
	}
	return e, forTemporal(a.Audit.Append(ctx, events...))
}

// RevokeInput carries the approvals that disabling and destroying need.
type RevokeInput struct {
	Rotation
	Approvals []policy.Verdict `json:"approvals,omitempty"`
}

// Disable makes the issuer refuse the retiring key, reversibly, after judging by itself, from facts
// gathered now, that it may. Called again it finds that done. A refusal is an answer, not an error.
func (a *Activities) Disable(ctx context.Context, in RevokeInput) (policy.Decision, error) {
	s, err := a.openForEffect(ctx, in.Rotation)
	if err != nil {
		return policy.Decision{}, forTemporal(err)
	}
	d, err := a.disable(ctx, s, in)
	if err != nil {
		return policy.Decision{}, forTemporal(fmt.Errorf("disabling key %s of %q: %w", in.Retiring.KeyID, s.spec.Credential.Name, err))
	}
	return d, nil
}

func (a *Activities) disable(ctx context.Context, s *site, in RevokeInput) (policy.Decision, error) {
	facts, err := s.facts(ctx, true)
	if err != nil {
		return policy.Decision{}, err
	}
	d := policy.MayDisable(s.spec.Credential, facts, in.Retiring, in.Incoming, in.Approvals)
	disabler, can := s.issuer.(providers.Disabler)
	if !d.OK || !can {
		return d, nil
	}
	before, live := facts.Live(in.Retiring.KeyID)
	if !live {
		return d, nil
	}
	// The soak counts from a time that is written after the effect, and an older one is wiped before it:
	// whenever the process dies, the soak can only seem shorter than it was, never longer.
	m := facts.Metadata
	mine := owned(&m, in.Retiring)
	if before.State == key.Active && !mine.DisabledAt.IsZero() {
		mine.DisabledAt = time.Time{}
		if err := s.store.PutMetadata(ctx, m); err != nil {
			return d, fmt.Errorf("clearing the time of an earlier disabling: %w", err)
		}
	}
	if err := disabler.Disable(ctx, in.Retiring); err != nil {
		return d, err
	}
	if mine.DisabledAt.IsZero() {
		mine.DisabledAt = a.Now().UTC()
		if err := s.store.PutMetadata(ctx, m); err != nil {
			return d, fmt.Errorf("recording it: %w", err)
		}
	}
	return d, a.Audit.Append(ctx, a.event(ctx, in.Rotation, s, audit.KeyDisabled, occasion(in.Retiring, mine.DisabledAt), nil))
}

// Enable takes Disable back, if it was done: the first step of a rollback. A key that was never
// disabled is left as it is.
func (a *Activities) Enable(ctx context.Context, r Rotation) error {
	s, err := a.openForEffect(ctx, r)
	if err != nil {
		return forTemporal(err)
	}
	if err := a.enable(ctx, s, r); err != nil {
		return forTemporal(fmt.Errorf("enabling key %s of %q again: %w", r.Retiring.KeyID, s.spec.Credential.Name, err))
	}
	return nil
}

func (a *Activities) enable(ctx context.Context, s *site, r Rotation) error {
	disabler, can := s.issuer.(providers.Disabler)
	if !can {
		return nil
	}
	facts, err := s.facts(ctx, false)
	if err != nil {
		return err
	}
	m := facts.Metadata
	mine, recorded := m.Key(r.Retiring.KeyID)
	if k, _ := facts.Live(r.Retiring.KeyID); k.State == key.Active && mine.DisabledAt.IsZero() {
		return nil
	}
	if err := disabler.Enable(ctx, r.Retiring); err != nil {
		return err
	}
	// The event comes before the mark is cleared: it is named by the mark, and a repetition without mark
	// would not know that anything happened.
	if err := a.Audit.Append(ctx, a.event(ctx, r, s, audit.KeyEnabled, occasion(r.Retiring, mine.DisabledAt), nil)); err != nil {
		return err
	}
	if recorded && !mine.DisabledAt.IsZero() {
		owned(&m, r.Retiring).DisabledAt = time.Time{}
		if err := s.store.PutMetadata(ctx, m); err != nil {
			return fmt.Errorf("recording it: %w", err)
		}
	}
	return nil
}

// occasion tells one disabling of a key from a later one, in the IDs of their events.
func occasion(ref key.Ref, disabledAt time.Time) string {
	return ref.KeyID + "/" + disabledAt.UTC().Format(time.RFC3339Nano)
}

// Destroyed is the end of a key.
type Destroyed struct {
	Decision policy.Decision `json:"decision"`
	// Probe says how it was seen that the key is refused now.
	Probe string `json:"probe,omitempty"`
}

// Destroy revokes the retiring key for good, after judging by itself that it may, and then proves with
// the key itself that it is refused. Called again it finds the key gone and probes again. A refusal is
// an answer, not an error.
func (a *Activities) Destroy(ctx context.Context, in RevokeInput) (Destroyed, error) {
	s, err := a.openForEffect(ctx, in.Rotation)
	if err != nil {
		return Destroyed{}, forTemporal(err)
	}
	d, err := a.destroy(ctx, s, in)
	if err != nil {
		return Destroyed{}, forTemporal(fmt.Errorf("destroying key %s of %q: %w", in.Retiring.KeyID, s.spec.Credential.Name, err))
	}
	return d, nil
}

func (a *Activities) destroy(ctx context.Context, s *site, in RevokeInput) (Destroyed, error) {
	facts, err := s.facts(ctx, true)
	if err != nil {
		return Destroyed{}, err
	}
	d := policy.MayRevoke(s.spec.Credential, facts, in.Retiring, in.Incoming, in.Approvals)
	if d.Reason == policy.SoakNotOver {
		return Destroyed{}, notYet(d.Message, time.Second) // the timer of the workflow ran a little ahead
	}
	if !d.OK {
		return Destroyed{Decision: d}, nil
	}
	if err := s.issuer.Destroy(ctx, in.Retiring); err != nil {
		return Destroyed{}, err
	}
	if err := a.Audit.Append(ctx, a.event(ctx, in.Rotation, s, audit.KeyDestroyed, in.Retiring.KeyID, map[string]string{"decision": d.Message})); err != nil {
		return Destroyed{}, err
	}
	probe, err := a.probe(ctx, s, facts, in.Retiring)
	if err != nil {
		return Destroyed{}, err
	}
	m, err := s.store.Metadata(ctx)
	if err != nil {
		return Destroyed{}, fmt.Errorf("reading metadata of the store: %w", err)
	}
	disown(&m, in.Retiring.KeyID)
	if err := s.store.PutMetadata(ctx, m); err != nil {
		return Destroyed{}, fmt.Errorf("recording it: %w", err)
	}
	return Destroyed{Decision: d, Probe: probe},
		a.Audit.Append(ctx, a.event(ctx, in.Rotation, s, audit.ProbeRefused, in.Retiring.KeyID, map[string]string{"probe": probe}))
}

// probe uses the destroyed key until everybody refuses it: an issuer may accept it for some seconds.
// It fails when somebody still accepts it after that.
func (a *Activities) probe(ctx context.Context, s *site, facts policy.Facts, ref key.Ref) (string, error) {
	bundle, err := s.store.Read(ctx, ref.StoreVersion)
	if ref.StoreVersion == "" || errors.Is(err, providers.ErrNotFound) {
		return "the issuer does not list it any more; its value is in no store, so that nobody could try it", nil
	}
	if err != nil {
		return "", fmt.Errorf("reading version %s to probe the key: %w", ref.StoreVersion, err)
	}
	defer bundle.Close()
	tests := len(s.verify)
	tester, canTest := s.issuer.(providers.SelfTester)
	if !canTest && tests == 0 {
		return "the issuer does not list it any more; there is no smoke test to try it with", nil
	}
	patience := time.Now().Add(facts.Capabilities.ConsistentWithin + settleMargin*a.PollEvery)
	for {
		accepted := ""
		if canTest {
			if err := tester.SelfTest(ctx, bundle); !errors.Is(err, providers.ErrKeyRefused) {
				accepted = fmt.Sprintf("the issuer's self-test answered %v", err)
			}
		}
		for i, check := range s.verify {
			if err := check.Check(ctx, providers.CheckInput{Key: ref, Bundle: bundle}); !errors.Is(err, providers.ErrKeyRefused) {
				accepted = fmt.Sprintf("smoke test %d answered %v", i+1, err)
			}
		}
		if accepted == "" {
			return fmt.Sprintf("refused by the issuer's self-test (%t) and by %d smoke tests", canTest, tests), nil
		}
		if time.Now().After(patience) {
			return "", fmt.Errorf("the key is destroyed and not refused: %s", accepted)
		}
		if err := wait(ctx, a.PollEvery); err != nil {
			return "", err
		}
	}
}
