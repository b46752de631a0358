package activities

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/patience"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/providers"
)

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
