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
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
)

// EvidenceInput asks for the evidence against the retiring key.
type EvidenceInput struct {
	Rotation
	// Shown is what was said to be missing last time: only other evidence is told at once.
	Shown string `json:"shown,omitempty"`
	// Late is when the same evidence is told again, since people should know; never when zero.
	Late time.Time `json:"late,omitzero"`
}

// GatherEvidence returns when the evidence is complete, lacks something else than was shown before, or is late.
// Until then it answers with a benign error that the server retries. It changes nothing but the lease, which it renews.
func (a *Activities) GatherEvidence(ctx context.Context, in EvidenceInput) (policy.Evidence, error) {
	s, err := a.openWithin(in.Rotation)
	if err != nil {
		return policy.Evidence{}, forTemporal(err)
	}
	s.renew(ctx, in.Rotation)
	facts, err := s.facts(ctx, true)
	if err != nil {
		return policy.Evidence{}, forTemporal(fmt.Errorf("gathering evidence for %q: %w", s.spec.Credential.Name, err))
	}
	e := policy.Gather(s.spec.Credential, facts, facts.Named(in.Retiring), facts.Named(in.Incoming))
	late := !in.Late.IsZero() && !a.Now().Before(in.Late) && e.Late()
	if !e.Complete && e.Lacks() == in.Shown && !late {
		return policy.Evidence{}, notYet(e.Missing[0].Message, 0)
	}
	events := told(ctx, in.Events, s.spec.Credential.Name, a.Now())
	if e.Complete {
		events = append(events, a.event(ctx, in.Rotation, s, audit.EvidenceComplete, e.Digest, map[string]string{"evidence": e.Describe(), "digest": e.Digest}))
	}
	return e, forTemporal(a.Audit.Append(ctx, events...))
}

// RevokeInput carries the approvals that disabling and destroying need.
type RevokeInput struct {
	Rotation
	Approvals []policy.Verdict `json:"approvals,omitempty"`
}

// Disable makes the issuer refuse the retiring key, reversibly, after judging by itself, from facts
// gathered now, that it may. Called again it finds that done, or takes it back when it may not any more. A refusal is an
// answer, not an error.
func (a *Activities) Disable(ctx context.Context, in RevokeInput) (policy.Decision, error) {
	s, err := a.openForEffect(ctx, in.Rotation)
	if err != nil {
		return policy.Decision{}, forTemporal(err)
	}
	defer s.release()
	d, err := a.disable(ctx, s, in)
	if err != nil {
		return policy.Decision{}, forTemporal(fmt.Errorf("disabling key %s of %q: %w", in.Retiring.KeyID, s.spec.Credential.Name, err))
	}
	return d, nil
}

func (a *Activities) disable(ctx context.Context, s *site, in RevokeInput) (policy.Decision, error) {
	approvals, left := a.approvals(ctx, s, inventory.GateRevoke, in.Rotation, in.Approvals)
	facts, d, err := s.judge(ctx, judgement{
		gather: func(ctx context.Context) (policy.Facts, error) { return s.settled(ctx, in.Retiring.KeyID) },
		may: func(f policy.Facts) policy.Decision {
			return policy.MayDisable(s.spec.Credential, f, f.Named(in.Retiring), f.Named(in.Incoming), approvals)
		},
		kept: func(policy.Facts) string { return in.Incoming.KeyID },
	})
	if err != nil {
		return policy.Decision{}, err
	}
	in.Retiring, in.Incoming = facts.Named(in.Retiring), facts.Named(in.Incoming)
	if !d.OK {
		refusing(ctx, d, left...)
		// An attempt before this one may have disabled it, when all was well still: whoever uses it is not left refused.
		_, err := a.enable(ctx, s, in.Rotation)
		return d, err
	}
	disabler, can := s.issuer.(providers.Disabler)
	if !can {
		return d, nil
	}
	before, live := facts.Live(in.Retiring.KeyID)
	if !live {
		return d, nil
	}
	// That it is keyturn who disables, and on which approvals, is written before the effect, so that Enable knows
	// whose doing it was, and that they are used up; the time from which the soak counts after it and its event, and an
	// older one is wiped before: whenever the process dies, the soak can only seem shorter than it was, never longer.
	if err := a.noteBreakGlass(ctx, s, in.Rotation, inventory.GateRevoke, d); err != nil {
		return d, err
	}
	begun, run := a.Now().UTC(), acting(ctx).run
	evidence := policy.Gather(s.spec.Credential, facts, in.Retiring, in.Incoming).Digest
	m, err := s.amend(ctx, func(m *key.Metadata) error {
		if err := asJudged(facts.Metadata, *m, in.Retiring.KeyID); err != nil {
			return err
		}
		mine := owned(m, in.Retiring)
		switch ownDoing := mine.DisablingRun == run; {
		case before.State != key.Active && ownDoing && len(policy.Union(slices.Clone(mine.Approvals), nonces(approvals))) == len(mine.Approvals):
			return errUnchanged
		case before.State != key.Active && ownDoing: // it was refused to be destroyed, and people approved anew
			mine.DisabledAt = time.Time{}
		case before.State != key.Active: // by another run, or by somebody else: from now on it counts for this one, with a soak of its own
			mine.Spent, mine.Approvals, mine.DisabledAt = append(mine.Spent, mine.Approvals...), nil, time.Time{}
			if mine.DisablingAt.IsZero() { // what was reported of an earlier disabling of ours says nothing of theirs
				mine.DisablingReport = before.ReportedAt
			}
		case !mine.BeingDisabled() || !ownDoing: // else it is finished, on the approvals that it was begun on
			mine.Spent, mine.Approvals = append(mine.Spent, mine.Approvals...), nil
			mine.DisablingAt, mine.DisablingReport, mine.DisabledAt = begun, before.ReportedAt, time.Time{}
		}
		mine.DisablingRun, mine.DisablingEvidence, mine.Approvals = run, evidence, policy.Union(mine.Approvals, nonces(approvals))
		return nil
	})
	if err != nil {
		return d, fmt.Errorf("recording that it begins: %w", err)
	}
	mine, _ := m.Key(in.Retiring.KeyID)
	if err := s.counts(ctx); err != nil {
		return d, err
	}
	if err := s.stillJudged(facts); err != nil {
		return d, err
	}
	if err := disabler.Disable(ctx, in.Retiring); err != nil {
		return d, err
	}
	// Destroying looks for a disabled key, and might come before the issuer shows it.
	if err := a.awaitState(ctx, s, in.Retiring, key.Disabled, facts.Capabilities.ConsistentWithin); err != nil {
		return d, err
	}
	if !mine.DisabledAt.IsZero() {
		return d, nil
	}
	return d, a.markDisabled(ctx, s, in.Rotation, mine, approvals)
}

// markDisabled records that keyturn disabled the retiring key, which it began then, and notes it in its metadata: one that
// has the note is in the record.
func (a *Activities) markDisabled(ctx context.Context, s *site, r Rotation, disabling key.Owned, approvals []policy.Verdict) error {
	begun, on := disabling.DisablingAt, onApprovals(approvals, map[string]string{"evidence": disabling.DisablingEvidence})
	if err := a.Audit.Append(ctx, a.event(ctx, r, s, audit.KeyDisabled, occasion(r.Retiring, begun), on)); err != nil {
		return err
	}
	now := a.Now().UTC()
	_, err := s.amend(ctx, func(m *key.Metadata) error {
		mine := owned(m, r.Retiring)
		if !mine.DisablingAt.Equal(begun) {
			return notYet("another worker has just enabled key "+r.Retiring.KeyID+"; looking again", 0)
		}
		mine.DisabledAt, mine.Approvals = now, policy.Union(mine.Approvals, nonces(approvals))
		return nil
	})
	if err != nil {
		return fmt.Errorf("noting that it is disabled: %w", err)
	}
	return nil
}

// Enable takes Disable back, if it was done: the first step of a rollback. A key that keyturn did not
// disable is left as it is, which the decision tells.
func (a *Activities) Enable(ctx context.Context, r Rotation) (policy.Decision, error) {
	s, err := a.openForEffect(ctx, r)
	if err != nil {
		return policy.Decision{}, forTemporal(err)
	}
	defer s.release()
	left, err := a.enable(ctx, s, r)
	if err != nil {
		return policy.Decision{}, forTemporal(fmt.Errorf("enabling key %s of %q again: %w", r.Retiring.KeyID, s.spec.Credential.Name, err))
	}
	if left != "" {
		return policy.Decision{Reason: policy.RetiringKeyDisabled, Message: left}, nil
	}
	return policy.Decision{OK: true, Reason: policy.Allowed, Message: fmt.Sprintf("key %s is not disabled any more", r.Retiring.KeyID)}, nil
}

// enable tells why the key is left disabled: somebody else did that, or it is exposed. Empty when it is not.
func (a *Activities) enable(ctx context.Context, s *site, r Rotation) (left string, err error) {
	disabler, can := s.issuer.(providers.Disabler)
	if !can {
		return "", nil
	}
	facts, err := s.facts(ctx, false)
	if err != nil {
		return "", err
	}
	r.Retiring = facts.Named(r.Retiring)
	mine, _ := facts.Metadata.Key(r.Retiring.KeyID)
	k, _ := facts.Live(r.Retiring.KeyID)
	may := policy.MayEnable(s.spec.Credential, facts, r.Retiring)
	switch {
	case may.Reason == policy.KeyExposed:
		return may.Message, nil
	case k.State == key.Disabled && mine.DisablingAt.IsZero():
		return fmt.Sprintf("key %s was not disabled by keyturn, and is left disabled", k.KeyID), nil
	case mine.DisablingAt.IsZero():
		return "", nil
	}
	return "", a.takeBack(ctx, s, r, disabler, facts, mine)
}

// takeBack enables what keyturn disabled.
func (a *Activities) takeBack(ctx context.Context, s *site, r Rotation, disabler providers.Disabler, facts policy.Facts, mine key.Owned) (err error) {
	if d := policy.MayEnable(s.spec.Credential, facts, r.Retiring); !d.OK {
		return forbidden(ctx, d)
	}
	if _, err := s.unchanged(ctx, facts, r.Retiring.KeyID); err != nil {
		return err
	}
	was := true
	if mine.BeingDisabled() { // and whoever did it died: whether it came to that, the issuer shows
		if was, err = a.shows(ctx, s, r.Retiring, key.Disabled, settle(facts.Capabilities.ConsistentWithin, 0)); err != nil {
			return err
		}
		if was {
			if err := a.markDisabled(ctx, s, r, mine, nil); err != nil {
				return err
			}
		}
	}
	if s.stillJudged(facts) != nil { // the issuer took its time to show it
		if facts, err = s.facts(ctx, false); err != nil {
			return err
		}
		if d := policy.MayEnable(s.spec.Credential, facts, r.Retiring); !d.OK {
			return forbidden(ctx, d)
		}
	}
	if err := s.counts(ctx); err != nil {
		return err
	}
	if err := disabler.Enable(ctx, r.Retiring); err != nil {
		return err
	}
	// Whoever gets the key next must not get one that is still refused.
	if err := a.awaitState(ctx, s, r.Retiring, key.Active, facts.Capabilities.ConsistentWithin); err != nil {
		return err
	}
	// The event comes before the mark is cleared: it is named by the mark, and a repetition without mark
	// would not know that anything happened.
	if was {
		if err := a.Audit.Append(ctx, a.event(ctx, r, s, audit.KeyEnabled, occasion(r.Retiring, mine.DisablingAt), nil)); err != nil {
			return err
		}
	}
	if _, err := s.amend(ctx, func(m *key.Metadata) error {
		cleared := owned(m, r.Retiring)
		if !cleared.DisablingAt.Equal(mine.DisablingAt) {
			return errUnchanged // it was disabled anew
		}
		cleared.DisablingAt, cleared.DisablingReport, cleared.DisabledAt = time.Time{}, time.Time{}, time.Time{}
		cleared.Spent, cleared.Approvals = append(cleared.Spent, cleared.Approvals...), nil
		return nil
	}); err != nil {
		return fmt.Errorf("recording it: %w", err)
	}
	return nil
}

// awaitState waits until the issuer shows a key as it was changed: it may answer as before for some time.
func (a *Activities) awaitState(ctx context.Context, s *site, ref key.Ref, want key.State, within time.Duration) error {
	shown, err := a.shows(ctx, s, ref, want, settle(within, settleMargin))
	if err == nil && !shown {
		err = fmt.Errorf("the issuer does not show key %s as %s", ref.KeyID, want)
	}
	return err
}

// shows tells whether the issuer shows a key in a state, now or before it has settled.
func (a *Activities) shows(ctx context.Context, s *site, ref key.Ref, want key.State, waiting settling) (bool, error) {
	for {
		keys, err := s.issuer.List(ctx)
		if err != nil {
			return false, fmt.Errorf("listing keys at the issuer: %w", err)
		}
		if slices.ContainsFunc(keys, func(k key.Info) bool { return k.KeyID == ref.KeyID && k.State == want }) {
			return true, nil
		}
		if waiting.over() {
			return false, nil
		}
		if err := patience.Pause(ctx, a.PollEvery); err != nil {
			return false, err
		}
	}
}

// onApprovals adds to what an event says who approved, by this worker's own proof, as far as anybody had to.
func onApprovals(approvals []policy.Verdict, detail map[string]string) map[string]string {
	var who []string
	for _, v := range approvals {
		who = append(who, v.Person())
	}
	if len(who) > 0 {
		detail["approved"] = strings.Join(who, ", ")
	}
	return detail
}

// nonces name the approvals that are used up by disabling.
func nonces(approvals []policy.Verdict) []string {
	var ids []string
	for _, v := range approvals {
		if v.Verified {
			ids = append(ids, v.ID)
		}
	}
	return ids
}

// refusing leaves a trace in the worker's own log of what it would not do: a history may not tell.
func refusing(ctx context.Context, d policy.Decision, more ...string) {
	logger(ctx).Warn("refused", "reason", string(d.Reason), "message", d.Message, "more", strings.Join(more, "; "))
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
// the key itself that it is refused. Called again it finds the key gone and probes again. The record of the key
// stays until Record has cleaned up after it. A refusal is an answer, not an error.
func (a *Activities) Destroy(ctx context.Context, in RevokeInput) (Destroyed, error) {
	s, err := a.openForEffect(ctx, in.Rotation)
	if err != nil {
		return Destroyed{}, forTemporal(err)
	}
	defer s.release()
	d, err := a.destroy(ctx, s, in)
	if err != nil {
		return Destroyed{}, forTemporal(fmt.Errorf("destroying key %s of %q: %w", in.Retiring.KeyID, s.spec.Credential.Name, err))
	}
	return d, nil
}

func (a *Activities) destroy(ctx context.Context, s *site, in RevokeInput) (Destroyed, error) {
	approvals, left := a.approvals(ctx, s, inventory.GateRevoke, in.Rotation, in.Approvals)
	facts, d, err := s.judge(ctx, judgement{
		gather: func(ctx context.Context) (policy.Facts, error) { return s.settled(ctx, in.Retiring.KeyID) },
		may: func(f policy.Facts) policy.Decision {
			return policy.MayRevoke(s.spec.Credential, f, f.Named(in.Retiring), f.Named(in.Incoming), acting(ctx).run, approvals)
		},
		kept: func(policy.Facts) string { return in.Incoming.KeyID },
	})
	if err != nil {
		return Destroyed{}, err
	}
	in.Retiring, in.Incoming = facts.Named(in.Retiring), facts.Named(in.Incoming)
	if d.Reason == policy.SoakNotOver {
		return Destroyed{}, notYet(d.Message, 0) // the timer of the workflow ran ahead of this clock
	}
	if !d.OK {
		refusing(ctx, d, left...)
		return Destroyed{Decision: d}, nil
	}
	_, live := facts.Live(in.Retiring.KeyID)
	if _, ours := facts.Metadata.Key(in.Retiring.KeyID); !live && !ours {
		return Destroyed{Decision: d}, nil // of a key that is nowhere nothing is recorded
	}
	if live { // what is not listed has an end that nobody judged: the probe tells whether it has
		if err := a.noteBreakGlass(ctx, s, in.Rotation, inventory.GateRevoke, d); err != nil {
			return Destroyed{}, err
		}
		if err := s.destroy(ctx, facts, in.Retiring); err != nil {
			return Destroyed{}, err
		}
	}
	return a.dead(ctx, s, in.Rotation, facts, in.Retiring, onApprovals(approvals, map[string]string{"decision": d.Message}), d)
}

// dead records that a key is destroyed, and proves that it is refused.
func (a *Activities) dead(ctx context.Context, s *site, r Rotation, facts policy.Facts, ref key.Ref, why map[string]string, d policy.Decision) (Destroyed, error) {
	why["key"] = ref.KeyID
	if err := a.Audit.Append(ctx, a.event(ctx, r, s, audit.KeyDestroyed, ref.KeyID, why)); err != nil {
		return Destroyed{}, err
	}
	probe, err := a.probe(ctx, s, facts, ref)
	if err != nil {
		return Destroyed{}, err
	}
	if _, err := s.mark(ctx, ref, func(mine *key.Owned) { mine.ProbedAt = a.Now().UTC() }); err != nil {
		return Destroyed{}, err
	}
	return Destroyed{Decision: d, Probe: probe},
		a.Audit.Append(ctx, a.event(ctx, r, s, audit.ProbeRefused, ref.KeyID, map[string]string{"key": ref.KeyID, "probe": probe}))
}

// probe uses the destroyed key until everybody refuses it: an issuer may accept it for some seconds.
// It fails when somebody still accepts it after that.
func (a *Activities) probe(ctx context.Context, s *site, facts policy.Facts, ref key.Ref) (string, error) {
	bundle, err := secret.Bundle{}, providers.ErrNotFound
	if ref.StoreVersion != "" {
		bundle, err = s.read(ctx, ref, toProbe)
	}
	if errors.Is(err, providers.ErrNotFound) {
		return "the issuer does not list it any more; its value is in no store, so that nobody could try it", nil
	}
	if err != nil {
		return "", fmt.Errorf("reading version %s to probe the key: %w", ref.StoreVersion, err)
	}
	defer bundle.Close()
	if !s.testable() {
		return "the issuer does not list it any more; there is no smoke test to try it with", nil
	}
	within := facts.Capabilities.ConsistentWithin
	waiting := settle(within, settleMargin)
	for refused := 0; refused < verifyRow; {
		accepted := s.acceptedBy(ctx, ref, bundle)
		if accepted == "" {
			if refused++; refused < verifyRow {
				if err := nextTry(ctx, within); err != nil {
					return "", err
				}
			}
			continue
		}
		refused = 0
		if waiting.over() {
			return "", fmt.Errorf("the key is destroyed and not refused: %s", accepted)
		}
		if err := patience.Pause(ctx, a.PollEvery); err != nil {
			return "", err
		}
	}
	_, canTest := s.issuer.(providers.SelfTester)
	return fmt.Sprintf("refused by the issuer's self-test (%t) and by %d smoke tests", canTest, len(s.verify)), nil
}

// acceptedBy says who does not refuse a key; empty when everybody does.
func (s *site) acceptedBy(ctx context.Context, ref key.Ref, bundle secret.Bundle) (accepted string) {
	if tester, can := s.issuer.(providers.SelfTester); can {
		if err := tester.SelfTest(ctx, bundle); !errors.Is(err, providers.ErrKeyRefused) {
			accepted = fmt.Sprintf("the issuer's self-test answered %v", err)
		}
	}
	for i, check := range s.verify {
		if err := check.Check(ctx, providers.CheckInput{Key: ref, Bundle: bundle}); !errors.Is(err, providers.ErrKeyRefused) {
			accepted = fmt.Sprintf("smoke test %d answered %v", i+1, err)
		}
	}
	return accepted
}
