package activities

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/patience"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/secret"
)

// WaveInput asks to bring a key to some instances.
type WaveInput struct {
	Rotation
	// Key is the incoming one, or in a rollback the retiring one.
	Key key.Ref `json:"key"`
	// Wave names the wave, for people.
	Wave string `json:"wave"`
	// Instances are "consumer" or "consumer/instance"; all of the credential when empty.
	Instances []string `json:"instances,omitempty"`
}

// WaveResult is how far a wave came.
type WaveResult struct {
	Decision policy.Decision `json:"decision"`
	// Stragglers are instances that did not converge, maxStragglers at most; More is how many there are besides.
	Stragglers []policy.Instance `json:"stragglers,omitempty"`
	More       int               `json:"more,omitempty"`
	// Signals are the first readings of the health signals, from which the soak of a wave that converged counts requests: with
	// them, it ends when there were enough.
	Signals []policy.Readings `json:"signals,omitempty"`
}

// maxStragglers bounds what a result tells of instances: a fleet that is down must fit into a history.
const maxStragglers = 25

// DeliverWave brings the key to the instances of a wave, a bounded number of them at once, has each forget what it
// cached, and waits until each attests the key and, but in a rollback, passes its check. One bad instance does not
// hide the others. Instances that pull are only waited for. An attempt that follows another one delivers to those alone
// that had not converged, and looks at all. The instances have the spec's waveTimeout, of time that attempts spend on
// them: none passes while no worker does. Not to have converged by then is an answer, not an error.
func (a *Activities) DeliverWave(ctx context.Context, in WaveInput) (WaveResult, error) {
	s, err := a.openForEffect(ctx, in.Rotation)
	if err != nil {
		return WaveResult{}, forTemporal(err)
	}
	defer s.release()
	result, err := a.deliverWave(ctx, s, in)
	if err != nil {
		return WaveResult{}, forTemporal(fmt.Errorf("delivering key %s of %q to wave %s: %w", in.Key.KeyID, s.spec.Credential.Name, in.Wave, err))
	}
	if result.Decision.OK && in.Key.KeyID == in.Incoming.KeyID {
		result.Signals = s.baseline(ctx)
	}
	return result, nil
}

func (a *Activities) deliverWave(ctx context.Context, s *site, in WaveInput) (WaveResult, error) {
	facts, d, err := s.judge(ctx, s.delivering(in.Key))
	switch {
	case err != nil:
		return WaveResult{}, err
	case !d.OK:
		return WaveResult{}, errors.Join(forbidden(ctx, d), s.noWayBack(ctx, facts, in.Key))
	}
	in.Key, in.Retiring, in.Incoming = facts.Named(in.Key), facts.Named(in.Retiring), facts.Named(in.Incoming)
	bundle, err := s.read(ctx, in.Key, toDeliver)
	if err != nil {
		return WaveResult{}, fmt.Errorf("reading version %s: %w", in.Key.StoreVersion, err)
	}
	defer bundle.Close()
	if facts.Metadata, err = a.deliveryBegins(ctx, s, in.Key); err != nil {
		return WaveResult{}, err
	}
	begun := a.event(ctx, in.Rotation, s, audit.KeyDelivered, in.occasion(ctx), map[string]string{"wave": in.Wave, "key": in.Key.KeyID, "instances": strings.Join(in.Instances, ", ")})
	if err := a.Audit.Append(ctx, begun); err != nil {
		return WaveResult{}, err
	}
	if current, _ := facts.Version(key.Current); current.ID == in.Key.StoreVersion {
		if _, err := a.withdrawPending(ctx, s, in.Rotation, facts); err != nil {
			return WaveResult{}, err
		}
	}
	seen, err := a.convergeAll(ctx, s, facts, in, bundle, left(ctx))
	if err := a.deliveryEnds(ctx, s, in.Key, err); err != nil {
		return WaveResult{}, err
	}
	reported, d, err := a.takenBack(ctx, s, in)
	if err != nil || !d.OK {
		return stragglers(d, seen), err
	}
	return a.judgeWave(ctx, s, in, seen, reported)
}

// delivering judges by which key is to reach consumers.
func (s *site) delivering(ref key.Ref) judgement {
	return judgement{
		gather: func(ctx context.Context) (policy.Facts, error) { return s.facts(ctx, false) },
		may:    func(f policy.Facts) policy.Decision { return policy.MayDeliver(s.spec.Credential, f, ref) },
		kept:   func(policy.Facts) string { return ref.KeyID },
	}
}

// takenBack sees that the delivered key still works at the issuer: another worker may have destroyed it at the same
// moment, as one that nobody had. Then the instances get the key in CURRENT again, and the answer is no. reported is as of when
// the issuer reported uses.
func (a *Activities) takenBack(ctx context.Context, s *site, in WaveInput) (reported time.Time, d policy.Decision, err error) {
	if err := s.within(); err != nil {
		return reported, d, err
	}
	facts, err := s.facts(ctx, false)
	if err != nil {
		return reported, d, err
	}
	if k, _ := facts.Live(in.Key.KeyID); k.State != key.Active && facts.Capabilities.ConsistentWithin > 0 {
		if err := patience.Pause(ctx, facts.Capabilities.ConsistentWithin); err != nil {
			return reported, d, err
		}
		if facts, err = s.facts(ctx, false); err != nil {
			return reported, d, err
		}
	}
	d = policy.StillWorks(facts, in.Key)
	if d.OK {
		return facts.Reported(), d, nil
	}
	refusing(ctx, d)
	current, _ := facts.Version(key.Current)
	k, live := facts.Live(current.KeyID)
	if !live || !policy.MayDeliver(s.spec.Credential, facts, facts.Ref(k)).OK {
		return facts.Reported(), d, nil
	}
	back := in
	back.Key, back.Retiring = facts.Ref(k), facts.Ref(k)
	stored := back.Key
	stored.StoreVersion = current.ID
	bundle, err := s.read(ctx, stored, toDeliver)
	if err != nil {
		return reported, d, fmt.Errorf("reading version %s: %w", current.ID, err)
	}
	defer bundle.Close()
	if facts.Metadata, err = a.deliveryBegins(ctx, s, back.Key); err != nil {
		return reported, d, err
	}
	_, err = a.convergeAll(ctx, s, facts, back, bundle, cursor{})
	if err := a.deliveryEnds(ctx, s, back.Key, err); err != nil {
		return reported, d, err
	}
	return reported, d, a.Audit.Append(ctx, a.event(ctx, in.Rotation, s, audit.KeyDelivered, back.occasion(ctx),
		map[string]string{"wave": in.Wave, "key": back.Key.KeyID, "decision": d.Message, "instances": strings.Join(in.Instances, ", ")}))
}

func (a *Activities) judgeWave(ctx context.Context, s *site, in WaveInput, seen []policy.Instance, reported time.Time) (WaveResult, error) {
	result := stragglers(in.judge(seen), slices.DeleteFunc(slices.Clone(seen), in.converged))
	if n := len(result.Stragglers) + result.More - 1; n > 0 && !result.Decision.OK {
		result.Decision.Message = fmt.Sprintf("%s (and %d more of %d instances)", result.Decision.Message, n, len(seen))
	}
	outcome := audit.WaveFailed
	if result.Decision.OK {
		outcome = audit.WavePassed
		if _, err := s.mark(ctx, in.Key, func(mine *key.Owned) {
			mine.AttestedAt, mine.AttestedReport = a.Now().UTC(), reported
		}); err != nil {
			return WaveResult{}, err
		}
	}
	return result, a.Audit.Append(ctx, a.event(ctx, in.Rotation, s, outcome, in.occasion(ctx),
		map[string]string{"wave": in.Wave, "key": in.Key.KeyID, "decision": result.Decision.Message}))
}

// occasion tells one delivery of a key to a wave from another one, in the IDs of their events: a rollback may deliver twice.
func (in WaveInput) occasion(ctx context.Context) string {
	who := acting(ctx)
	return strings.Join([]string{in.Wave, in.Key.KeyID, who.run, who.activity}, "/")
}

// stragglers is the result of a wave with these instances, cut to what a history takes.
func stragglers(d policy.Decision, all []policy.Instance) WaveResult {
	kept := all[:min(len(all), maxStragglers)]
	return WaveResult{Decision: d, Stragglers: kept, More: len(all) - len(kept)}
}

// converged tells whether an instance is where it shall be.
func (in WaveInput) converged(i policy.Instance) bool { return in.judge([]policy.Instance{i}).OK }

// judge tells whether instances are where they shall be: on the incoming key and well, or, in a rollback,
// on the retiring key, well or not.
func (in WaveInput) judge(instances []policy.Instance) policy.Decision {
	if in.Key.KeyID == in.Retiring.KeyID || in.Emergency != nil { // whether it is well or not
		return policy.IsBack(instances, in.Key)
	}
	return policy.MayDeliverNext(instances, in.Key)
}

// deliveryBegins notes in the metadata that a key is about to reach consumers: from then on it is destroyed only after it was
// quiet, and after this attempt has ended or could last no longer. Each delivery counts anew.
func (a *Activities) deliveryBegins(ctx context.Context, s *site, ref key.Ref) (key.Metadata, error) {
	return s.mark(ctx, ref, func(mine *key.Owned) {
		now := a.Now().UTC()
		mine.DeliveredAt, mine.Delivering = now, maps.Clone(mine.Delivering)
		maps.DeleteFunc(mine.Delivering, func(_ string, since time.Time) bool { return !policy.MayStillDeliver(s.spec.Credential, since, now) })
		if mine.Delivering == nil {
			mine.Delivering = map[string]time.Time{}
		}
		mine.Delivering[attempt(ctx)] = now
		s.testOver(mine)
	})
}

// deliveryEnds notes that this attempt writes no more, and returns how it ended. One that was cancelled, which Temporal acknowledges
// no more, takes back its own mark all the same; one that does not count writes nothing.
func (a *Activities) deliveryEnds(ctx context.Context, s *site, ref key.Ref, ended error) error {
	whatever := *s
	switch {
	case errors.Is(ended, ErrSuperseded):
		return ended
	case ended != nil:
		whatever.acknowledge = nil
	}
	ctx, done := context.WithTimeout(context.WithoutCancel(ctx), heartbeatEvery)
	defer done()
	_, err := whatever.amend(ctx, func(m *key.Metadata) error {
		if mine, ours := m.Key(ref.KeyID); !ours || mine.Delivering[attempt(ctx)].IsZero() {
			return errUnchanged
		}
		mine := owned(m, ref)
		mine.Delivering = maps.Clone(mine.Delivering)
		delete(mine.Delivering, attempt(ctx))
		return nil
	})
	if err != nil && ended == nil {
		return fmt.Errorf("noting that the delivery of key %s ended: %w", ref.KeyID, err)
	}
	return ended
}

// attempt names the attempt that acts.
func attempt(ctx context.Context) string { return acting(ctx).String() }

// mark notes something in the metadata's record of a key.
func (s *site) mark(ctx context.Context, ref key.Ref, note func(*key.Owned)) (key.Metadata, error) {
	m, err := s.amend(ctx, func(m *key.Metadata) error {
		note(owned(m, ref))
		return nil
	})
	if err != nil {
		return m, fmt.Errorf("noting it in the record of key %s: %w", ref.KeyID, err)
	}
	return m, nil
}

// Promote moves CURRENT to the incoming key by compare-and-swap, once every instance that is delivered
// to attests it. Called again it finds that done. A refusal is an answer, not an error.
func (a *Activities) Promote(ctx context.Context, r Rotation) (policy.Decision, error) {
	s, err := a.openForEffect(ctx, r)
	if err != nil {
		return policy.Decision{}, forTemporal(err)
	}
	defer s.release()
	defer s.beating(ctx)()
	d, err := a.promote(ctx, s, r)
	if err != nil {
		return policy.Decision{}, forTemporal(fmt.Errorf("promoting key %s of %q: %w", r.Incoming.KeyID, s.spec.Credential.Name, err))
	}
	return d, nil
}

func (a *Activities) promote(ctx context.Context, s *site, r Rotation) (policy.Decision, error) {
	facts, d, err := s.judge(ctx, judgement{
		gather: func(ctx context.Context) (policy.Facts, error) { return s.facts(ctx, true) },
		may: func(f policy.Facts) policy.Decision {
			if s.declared != nil {
				return policy.MayPromoteAtOnce(s.spec.Credential, f, f.Named(r.Retiring), f.Named(r.Incoming))
			}
			return policy.MayPromote(s.spec.Credential, f, f.Named(r.Retiring), f.Named(r.Incoming))
		},
		kept: func(policy.Facts) string { return r.Incoming.KeyID },
	})
	if err != nil {
		return policy.Decision{}, err
	}
	if !d.OK {
		refusing(ctx, d)
		return d, nil
	}
	r.Retiring, r.Incoming = facts.Named(r.Retiring), facts.Named(r.Incoming)
	r.Retiring.StoreVersion = policy.PromotesFrom(facts, r.Retiring)
	if changed, err := s.membersChanged(ctx, r.Retiring.StoreVersion, r.Incoming.StoreVersion); err != nil {
		return d, err
	} else if changed && r.Retiring.StoreVersion != r.Incoming.StoreVersion {
		d = policy.Decision{Reason: policy.CurrentMoved, Message: "other members of the secret were changed since the incoming key was staged, and promoting would lose that: rotate again"}
		refusing(ctx, d)
		return d, nil
	}
	if current, _ := facts.Version(key.Current); current.ID != r.Incoming.StoreVersion {
		if err := a.promotionBegins(ctx, s, facts, r); err != nil {
			return d, err
		}
	}
	if err := s.stillJudged(facts); err != nil {
		return d, err
	}
	if err := s.store.Promote(ctx, r.Retiring.StoreVersion, r.Incoming.StoreVersion); err != nil {
		return d, err
	}
	now := a.Now().UTC()
	if _, err := s.amend(ctx, func(m *key.Metadata) error {
		mine := owned(m, r.Incoming)
		if !mine.PromotedAt.IsZero() {
			return errUnchanged
		}
		mine.PromotedAt = now
		if len(s.consumers) == 0 { // no wave will: those whom nobody declared have it from now on
			mine.AttestedAt, mine.AttestedReport = now, facts.Reported()
		}
		return nil
	}); err != nil {
		return d, fmt.Errorf("recording the promotion: %w", err)
	}
	return d, a.Audit.Append(ctx, a.event(ctx, r, s, audit.KeyPromoted, r.Incoming.KeyID, nil))
}

// promotionBegins writes, before CURRENT moves, what must be true afterwards whenever the process dies: that the
// retiring key was CURRENT, so that it is never taken for one that nobody kept (an adopted one becomes ours on record
// thereby); and that since when the incoming one is CURRENT is not known, so that the overlap can only seem longer.
func (a *Activities) promotionBegins(ctx context.Context, s *site, facts policy.Facts, r Rotation) error {
	now, current := a.Now().UTC(), key.Ref{}
	if v, _ := facts.Version(key.Current); facts.Standings(s.spec.Credential.Adopt)[r.Retiring.KeyID] == policy.StandingCurrent ||
		v.ID != "" && v.ID == r.Retiring.StoreVersion { // somebody may have destroyed it meanwhile: its version is to be cleaned up all the same
		current = r.Retiring
	}
	_, err := s.amend(ctx, func(m *key.Metadata) error {
		mine := owned(m, r.Incoming)
		mine.PromotedAt = time.Time{}
		s.testOver(mine)
		if s.pulls() || len(s.consumers) == 0 { // promoting delivers to them, or to whom nobody declared
			mine.DeliveredAt = now
		}
		if !current.IsZero() {
			if before := owned(m, current); before.PromotedAt.IsZero() {
				before.PromotedAt = cmp.Or(before.DeliveredAt, before.IssuedAt, now) // since when is not known any more
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("recording that the promotion begins: %w", err)
	}
	return nil
}

// membersChanged tells whether CURRENT has other foreign fields than the staged version was made with. Once
// CURRENT is the staged version itself, nothing is left to compare.
func (s *site) membersChanged(ctx context.Context, current, staged string) (bool, error) {
	if current == "" || current == staged {
		return false, nil
	}
	versions, err := s.store.Versions(ctx)
	if err != nil {
		return false, fmt.Errorf("listing versions of the store: %w", err)
	}
	at := slices.IndexFunc(versions, func(v key.Version) bool { return v.ID == current })
	if at < 0 || !versions[at].Has(key.Current) {
		return false, nil
	}
	before, err := s.foreign(ctx, current)
	if err != nil {
		return false, err
	}
	defer before.Close()
	after, err := s.foreign(ctx, staged)
	if err != nil {
		return false, err
	}
	defer after.Close()
	return !before.Equal(after), nil
}

// foreign is what a version has besides the key.
func (s *site) foreign(ctx context.Context, version string) (secret.Bundle, error) {
	whole, err := s.read(ctx, key.Ref{StoreVersion: version}, toCompare)
	if err != nil {
		return secret.Bundle{}, fmt.Errorf("reading version %s: %w", version, err)
	}
	own, err := s.ownFields(ctx)
	if err != nil {
		return secret.Bundle{}, err
	}
	names := slices.DeleteFunc(whole.Names(), func(name string) bool { return slices.Contains(own, name) })
	return whole.Only(names...), nil
}
