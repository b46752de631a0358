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
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/providers"
)

// LookBack tells whether a rollback can succeed now: it tests the retiring key, too, which an issuer may take for a use of it. It
// changes nothing.
func (a *Activities) LookBack(ctx context.Context, r Rotation) (policy.Decision, error) {
	s, err := a.openWithin(r)
	if err != nil {
		return policy.Decision{}, forTemporal(err)
	}
	var facts policy.Facts
	if off := a.Now().Sub(r.AskedAt); !r.AskedAt.IsZero() && off.Abs() > clockOff {
		err = fmt.Errorf("%w: it is %s ahead, unless the process stood still", errClock, off.Round(time.Second))
	} else {
		facts, err = s.facts(ctx, false)
	}
	if err != nil {
		return policy.Decision{}, forTemporal(fmt.Errorf("looking for the way back of %q: %w", s.spec.Credential.Name, err))
	}
	look, done := glance(ctx) // whoever does not answer a test in that time has said nothing
	defer done()
	unchanging := facts
	unchanging.Capabilities.ConsistentWithin = 0 // the key is as it was for long
	if tried, err := s.tried(look, unchanging, r.Retiring.KeyID); err == nil {
		facts.Tests = tried.Tests
	}
	return policy.MayTurnBack(s.spec.Credential, facts, facts.Named(r.Retiring), facts.Named(r.Incoming)), nil
}

// RestoreLabels moves CURRENT back to the retiring key, if it was moved. Called again it finds that
// done.
func (a *Activities) RestoreLabels(ctx context.Context, r Rotation) error {
	s, err := a.openForEffect(ctx, r)
	if err != nil {
		return forTemporal(err)
	}
	defer s.release()
	if err := a.restoreLabels(ctx, s, r); err != nil {
		return forTemporal(fmt.Errorf("moving the labels of %q back: %w", s.spec.Credential.Name, err))
	}
	return nil
}

func (a *Activities) restoreLabels(ctx context.Context, s *site, r Rotation) error {
	facts, err := s.facts(ctx, false)
	if err != nil {
		return err
	}
	retiring, incoming := facts.Named(r.Retiring), facts.Named(r.Incoming)
	if incoming.IsZero() { // a run that was reset does not know what it minted
		incoming = facts.MintedBy(r.ID)
	}
	mine, _ := facts.Metadata.Key(incoming.KeyID)
	if facts, err = s.tested(ctx, facts, retiring.KeyID); err != nil {
		return err
	}
	if d := policy.MayTurnBack(s.spec.Credential, facts, retiring, incoming); !d.OK && (!mine.DeliveredAt.IsZero() || !mine.PromotedAt.IsZero()) {
		if err := s.noWayBack(ctx, facts, retiring); err != nil { // the next rotation goes on with it
			return err
		}
		return forbidden(ctx, d)
	}
	if facts.Metadata, err = a.markTurnedBack(ctx, s, incoming); err != nil {
		return err
	}
	at := slices.IndexFunc(facts.Versions, func(v policy.StoredKey) bool { return v.ID == incoming.StoreVersion })
	if at < 0 || !facts.Versions[at].Has(key.Current) && !facts.Versions[at].Has(key.Previous) {
		return nil // it was never promoted
	}
	if retiring.StoreVersion == "" {
		return fmt.Errorf("%w: the value of the retiring key is in no store", providers.ErrInvalid)
	}
	facts, d, err := s.judgeBy(ctx, facts, judgement{
		gather: func(ctx context.Context) (policy.Facts, error) { return s.facts(ctx, false) },
		may: func(f policy.Facts) policy.Decision {
			return policy.MayRestore(s.spec.Credential, f, f.Named(retiring), f.Named(incoming))
		},
		kept: func(policy.Facts) string { return retiring.KeyID },
	})
	switch {
	case err != nil:
		return err
	case !d.OK:
		return forbidden(ctx, d)
	}
	r.Retiring, r.Incoming = retiring, incoming
	// Whoever reads CURRENT has the other key from when it moves, and may keep what it read before: that it is delivered is written
	// before, so that nothing counts from an earlier delivery when the process dies, and once more when it has moved.
	if facts.Metadata, err = s.amendKey(ctx, facts.Metadata, retiring, func(mine *key.Owned) { mine.DeliveredAt = a.Now().UTC() }); err != nil {
		return fmt.Errorf("recording that it begins: %w", err)
	}
	if _, err := s.unchanged(ctx, facts, incoming.KeyID); err != nil {
		return err
	}
	if err := s.store.Promote(ctx, incoming.StoreVersion, retiring.StoreVersion); err != nil {
		return err
	}
	// Only now, when it is CURRENT no more, does the incoming key become one that may be discarded.
	now := a.Now().UTC()
	if _, err := s.amend(ctx, func(m *key.Metadata) error {
		owned(m, incoming).PromotedAt = time.Time{}
		owned(m, retiring).DeliveredAt = now
		return nil
	}); err != nil {
		return fmt.Errorf("recording it: %w", err)
	}
	return a.Audit.Append(ctx, a.event(ctx, r, s, audit.LabelsRestored, r.Retiring.KeyID, nil))
}

// markTurnedBack notes that the incoming key is turned back from, once, so that no later rotation goes on with it.
func (a *Activities) markTurnedBack(ctx context.Context, s *site, incoming key.Ref) (key.Metadata, error) {
	now := a.Now().UTC()
	m, err := s.amend(ctx, func(m *key.Metadata) error {
		mine, ours := m.Key(incoming.KeyID)
		if !ours || mine.Rotation == "" || !mine.TurnedBackAt.IsZero() {
			return errUnchanged
		}
		owned(m, incoming).TurnedBackAt = now
		return nil
	})
	if err != nil {
		return m, fmt.Errorf("recording that it turns back: %w", err)
	}
	return m, nil
}

// noWayBack takes back that a rotation turned back from its key, when a test of the one to go back to is refused: the next rotation goes
// on with it then, or consumers would be stuck between the two.
func (s *site) noWayBack(ctx context.Context, facts policy.Facts, to key.Ref) error {
	if facts.Tests[to.KeyID].Result != policy.TestRefused {
		return nil
	}
	_, err := s.amend(ctx, func(m *key.Metadata) error {
		changed := false
		for i, k := range m.Keys {
			if k.KeyID != to.KeyID && !k.TurnedBackAt.IsZero() && k.PromotedAt.IsZero() {
				m.Keys[i].TurnedBackAt, changed = time.Time{}, true
			}
		}
		if !changed {
			return errUnchanged
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("noting that nothing leads back: %w", err)
	}
	return nil
}

// Discard destroys what rotations minted and never promoted, or turned back from, each as soon as policy.MayDiscard allows it; until then it answers with a benign error that the server
// retries. It begins a rotation that finds leftovers, and ends every rollback. A refusal that waiting
// cannot mend is an answer, not an error. Called again it finds the rest.
func (a *Activities) Discard(ctx context.Context, r Rotation) (policy.Decision, error) {
	s, err := a.openForEffect(ctx, r)
	if err != nil {
		return policy.Decision{}, forTemporal(err)
	}
	defer s.release()
	d, err := a.discard(ctx, s, r)
	if err != nil {
		return policy.Decision{}, forTemporal(fmt.Errorf("discarding unwanted keys of %q: %w", s.spec.Credential.Name, err))
	}
	return d, nil
}

func (a *Activities) discard(ctx context.Context, s *site, r Rotation) (policy.Decision, error) {
	m, err := s.store.Metadata(ctx)
	if err != nil {
		return policy.Decision{}, fmt.Errorf("reading metadata of the store: %w", err)
	}
	var ours []string
	for _, k := range m.Keys {
		if !m.Owes(DebtCopiesLeft, k.KeyID) { // else it is known to be dead
			ours = append(ours, k.KeyID)
		}
	}
	facts, err := s.settled(ctx, ours...)
	if err != nil {
		return policy.Decision{}, err
	}
	if d := policy.Ambiguous(facts, s.spec.Credential.Adopt); !d.OK {
		refusing(ctx, d)
		return policy.Decision{}, fmt.Errorf("%w: %s", ErrAmbiguous, d.Message)
	}
	unwanted := unwantedKeys(s, facts)
	if len(unwanted) > 0 {
		if d, err := a.withdrawPending(ctx, s, r, facts); err != nil || !d.OK {
			return d, err
		}
	}
	var lag error
	asides := false
	for _, ref := range unwanted {
		if mine, recorded := facts.Metadata.Key(ref.KeyID); recorded && policy.Lost(mine) || !recorded && ref.StoreVersion == "" {
			asides = true
			facts, err = a.setAside(ctx, s, r, facts, ref)
			if err != nil && !isNotYet(err) {
				return policy.Decision{}, err
			}
			lag = cmp.Or(lag, err) // of all of them at once
		}
	}
	if lag != nil {
		return policy.Decision{}, lag
	}
	if asides {
		if facts, err = s.settled(ctx, ours...); err != nil { // the instances, too
			return policy.Decision{}, err
		}
	}
	facts, d, err := s.judgeBy(ctx, facts, judgement{
		gather: func(ctx context.Context) (policy.Facts, error) { return s.settled(ctx, ours...) },
		may:    func(f policy.Facts) policy.Decision { return policy.MayDiscardAll(s.spec.Credential, f, unwanted) },
		kept:   func(f policy.Facts) string { return policy.KeptBeside(s.spec.Credential, f, unwanted) },
	})
	switch {
	case err != nil:
		return policy.Decision{}, err
	case passing(d.Reason):
		kept, err := a.whileWaiting(ctx, s, facts, unwanted)
		if err == nil && kept.OK {
			err = notYet(d.Message, 0)
		}
		return kept, err
	case !d.OK:
		refusing(ctx, d)
		return d, s.noWayBack(ctx, facts, key.Ref{KeyID: policy.KeptBeside(s.spec.Credential, facts, unwanted)})
	}
	var left []string
	for _, ref := range unwanted {
		switch err := a.discardOne(ctx, s, r, facts, ref); {
		case errors.Is(err, errUnproved) && ctx.Err() == nil: // Record says what is owed, and each that follows tries it again
			logger(ctx).Warn("a key that the issuer does not list is not proved to be dead", "key", ref.KeyID, "error", err.Error())
			left = append(left, ref.KeyID)
		case err != nil:
			return policy.Decision{}, err
		}
	}
	d = policy.Decision{OK: true, Reason: policy.Allowed, Message: policy.Counted(len(unwanted)-len(left), "unwanted key") + " destroyed"}
	if len(left) > 0 { // by their values they can be tried again
		d.Reason = policy.NotProvedDead
		d.Message += fmt.Sprintf("; not proved to be dead, though the issuer does not list them: %s", strings.Join(left, ", "))
		return d, nil
	}
	return d, a.clearPending(ctx, s)
}

// whileWaiting looks after the key that consumers are left with while something keeps others from being destroyed, which may take a
// day. Where it does not work, waiting helps nobody: nothing leads back.
func (a *Activities) whileWaiting(ctx context.Context, s *site, facts policy.Facts, unwanted []key.Ref) (policy.Decision, error) {
	kept := policy.KeptBeside(s.spec.Credential, facts, unwanted)
	facts, err := s.testedNowAndThen(ctx, facts, kept)
	if err != nil {
		return policy.Decision{}, err
	}
	d := policy.StillKept(s.spec.Credential, facts, kept)
	if d.OK {
		return d, nil
	}
	refusing(ctx, d)
	return d, s.noWayBack(ctx, facts, key.Ref{KeyID: kept})
}

// withdrawPending takes PENDING from a key that is not kept, where consumers read the store by themselves: a
// canary that reads PENDING goes back to what it reads by default. The key itself lives on until Discard
// finds it unused. A version that is pruned is not missed: metadata or mint intent name its key. That it is pruned is
// recorded before, since nothing tells of it afterwards. Who reads PENDING may have read it since it was asked, so it is asked again.
func (a *Activities) withdrawPending(ctx context.Context, s *site, r Rotation, facts policy.Facts) (policy.Decision, error) {
	pending, staged := facts.Unfinished()
	if !s.pulls() || !staged ||
		pending.KeyID != "" && facts.Standings(s.spec.Credential.Adopt)[pending.KeyID] != policy.StandingIncoming {
		return policy.Decision{OK: true}, nil
	}
	facts, d, err := s.judgeBy(ctx, facts, judgement{
		gather: func(ctx context.Context) (policy.Facts, error) { return s.facts(ctx, true) },
		may:    func(f policy.Facts) policy.Decision { return policy.MayPrune(s.spec.Credential, f, pending.ID) },
		kept: func(f policy.Facts) string {
			return policy.KeptBeside(s.spec.Credential, f, []key.Ref{{KeyID: pending.KeyID}})
		},
	})
	switch {
	case err != nil:
		return d, err
	case !d.OK:
		refusing(ctx, d)
		current, _ := facts.Version(key.Current)
		return d, s.noWayBack(ctx, facts, key.Ref{KeyID: current.KeyID})
	}
	if err := a.Audit.Append(ctx, a.event(ctx, r, s, audit.PendingWithdrawn, pending.ID, nil)); err != nil {
		return d, err
	}
	if err := s.drop(ctx, facts, pending.ID); err != nil {
		return d, fmt.Errorf("taking PENDING from version %s: %w", pending.ID, err)
	}
	return d, notYet("PENDING was withdrawn; seeing who had read it", 0)
}

// passing tells whether a refusal to discard may end by itself.
func passing(r policy.Reason) bool {
	return slices.Contains([]policy.Reason{policy.RetiringNotQuiet, policy.UsageStale, policy.RetiringStillHeld, policy.InstanceNotConverged, policy.CachesNotOver, policy.DeliveryNotOver}, r)
}

// unwantedKeys are the ones to discard. A key in the metadata counts even when the issuer does not list
// it: it may be slow to, and destroying a key that is gone harms nobody.
func unwantedKeys(s *site, f policy.Facts) []key.Ref {
	current, _ := f.Version(key.Current)
	standings := f.Standings(s.spec.Credential.Adopt)
	spared := func(r key.Ref) bool { return policy.IsAlone(s.spec.Credential, f, r) }
	var refs []key.Ref
	for _, k := range f.Metadata.Keys {
		if k.KeyID != current.KeyID && k.Rotation != "" && (k.PromotedAt.IsZero() || f.TurnedBackFrom(k)) && !f.Metadata.Owes(DebtCopiesLeft, k.KeyID) {
			refs = append(refs, k.Ref)
		}
	}
	for _, k := range f.Keys {
		listed := slices.ContainsFunc(refs, func(r key.Ref) bool { return r.KeyID == k.KeyID })
		if st := standings[k.KeyID]; !listed && (st == policy.StandingIncoming || st == policy.StandingOrphan) {
			refs = append(refs, f.Ref(k))
		}
	}
	return slices.DeleteFunc(refs, spared)
}

// errUnproved: a key that consumers had is not listed by the issuer, and nothing refuses it.
var errUnproved = errors.New("not proved to be dead")

// discardOne destroys a key, then its stored version and the copies of it, then the record of it: whenever the process
// dies, the record still names what is left to do. An orphan gets one first. Copies that an instance does not remove are
// debt, and with them the record stays. What consumers had and the issuer does not list is forgotten only once it is refused, where
// anything can try it: else a key that works would be nobody's.
func (a *Activities) discardOne(ctx context.Context, s *site, r Rotation, facts policy.Facts, ref key.Ref) error {
	m, err := s.unchanged(ctx, facts, ref.KeyID)
	if err != nil {
		return err
	}
	resolved := policy.ResolvedWith(facts, ref.KeyID)
	if m, err = s.own(ctx, m, ref, r.ID); err != nil {
		return err
	}
	facts.Metadata = m
	mine, _ := m.Key(ref.KeyID)
	had := !mine.DeliveredAt.IsZero() || ref.StoreVersion != "" && s.pulls() // by consumers
	if _, live := facts.Live(ref.KeyID); live || !had {
		if err := s.destroy(ctx, facts, ref); err != nil {
			return fmt.Errorf("destroying key %s: %w", ref.KeyID, err)
		}
	} else if _, err := a.probe(ctx, s, facts, ref); err != nil { // nobody judged whether it may go: an attempt before did, or the issuer lists late
		return fmt.Errorf("%w: %w", errUnproved, err)
	}
	if ref.StoreVersion != "" {
		if err := s.prune(ctx, ref.StoreVersion); err != nil {
			return fmt.Errorf("pruning version %s: %w", ref.StoreVersion, err)
		}
	}
	if err := a.Audit.Append(ctx, a.event(ctx, r, s, audit.KeyDiscarded, ref.KeyID, map[string]string{"key": ref.KeyID})); err != nil {
		return err
	}
	left := ""
	if had {
		if left, err = a.purge(ctx, s, r, ref, time.Now().Add(purgeWithin)); err != nil {
			return err
		}
	}
	now := a.Now().UTC()
	if _, err := s.amend(ctx, func(m *key.Metadata) error {
		if left == "" {
			disown(m, ref.KeyID)
		} else {
			m.Debt = append(m.Debt, Debt{Kind: DebtCopiesLeft, About: ref.KeyID, Since: now})
		}
		resolve(m, resolved)
		return nil
	}); err != nil {
		return fmt.Errorf("recording it: %w", err)
	}
	return nil
}

// clearPending removes a PENDING version that holds no live key, since after a discard there is no mint to finish, and the mint
// intents that are resolved: another is left to whoever looks later.
func (a *Activities) clearPending(ctx context.Context, s *site) error {
	facts, err := s.facts(ctx, false)
	if err != nil {
		return err
	}
	if v, ok := facts.Unfinished(); ok && v.KeyID == "" {
		if err := s.prune(ctx, v.ID); err != nil {
			return fmt.Errorf("pruning version %s: %w", v.ID, err)
		}
	}
	resolved := policy.Resolved(facts, s.spec.Credential.Adopt)
	if len(resolved) == 0 {
		return nil
	}
	_, err = s.amend(ctx, func(m *key.Metadata) error {
		resolve(m, resolved)
		return nil
	})
	return err
}
