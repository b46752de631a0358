package policy

import (
	"slices"
	"strings"
	"time"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
)

// Resume is a rotation that did not end, as metadata, issuer and store tell of it: it was terminated, reset, timed out or
// lost with its server. The next rotation goes on from there, on the same evidence and gates.
type Resume struct {
	// Rotation is its ID.
	Rotation string `json:"rotation"`
	// Incoming is the key that it minted and saw working.
	Incoming key.Ref `json:"incoming"`
	// Ends is that key's own end; zero for none.
	Ends time.Time `json:"ends,omitzero"`
	// Delivered: consumers may have the incoming key.
	Delivered bool `json:"delivered,omitempty"`
	// Moved: the incoming key is CURRENT. PromotedAt is since when, zero when that was not recorded, and Retiring the key that was so
	// before; both zero before that. Without Retiring that one is destroyed, or there was none: what is left is the record.
	Moved      bool      `json:"moved,omitempty"`
	PromotedAt time.Time `json:"promotedAt,omitzero"`
	Retiring   *key.Ref  `json:"retiring,omitempty"`
	// Disabled: the retiring key is disabled.
	Disabled bool `json:"disabled,omitempty"`
}

// Promoted tells whether the rotation promoted the incoming key, and recorded it.
func (r Resume) Promoted() bool { return !r.PromotedAt.IsZero() }

// IsCurrent tells whether the incoming key is CURRENT.
func (r Resume) IsCurrent() bool { return r.Moved || r.Promoted() }

// unfinished finds the rotation to go on with; nil for none. One that turned back before its key was CURRENT is not gone on with:
// its key is discarded, unless nothing leads back any more. Nor is one whose key is not accepted any more, or not the only one that
// was never CURRENT: then the one that consumers have goes before those that nobody had.
func unfinished(c inventory.Credential, f Facts, standings map[string]Standing) *Resume {
	var incoming, retired []key.Info
	for _, k := range f.Keys {
		switch standings[k.KeyID] {
		case StandingIncoming, StandingOrphan:
			if !Spared(c, f, f.Ref(k)) {
				incoming = append(incoming, k)
			}
		case StandingRetired:
			retired = append(retired, k)
		}
	}
	current, _ := f.Version(key.Current)
	k, live := f.Live(current.KeyID)
	if only := slices.DeleteFunc(slices.Clone(incoming), func(k key.Info) bool { return !IsAlone(c, f, f.Ref(k)) }); len(only) == 1 {
		incoming = only
	}
	switch {
	case len(incoming) == 1:
		return f.unpromoted(c, incoming[0])
	case len(incoming) == 0 && live:
		return f.promoted(c, k, retired)
	}
	return nil
}

// begun is the rotation that minted a key and has no end in the record; nil for none, or when the key cannot be gone on with. Where
// consumers have that key, and there is none to bring them back to, no end of a later rotation is one of it.
func (f Facts) begun(c inventory.Credential, k key.Info) *Resume {
	owned, _ := f.Metadata.Key(k.KeyID)
	ref := f.Ref(k)
	switch {
	case owned.Rotation == "", owned.VerifiedAt.IsZero(), ref.StoreVersion == "", !owned.KeptAt.IsZero(),
		ended(f.Metadata.LastRotation, owned) && !IsAlone(c, f, ref), !f.notExposed(k.KeyID).OK, !f.accepted(c, k.KeyID, IncomingNotLive).OK:
		return nil
	}
	return &Resume{
		Rotation: owned.Rotation, Incoming: ref, Ends: k.ExpiresAt,
		Delivered: !owned.DeliveredAt.IsZero(), PromotedAt: owned.PromotedAt,
	}
}

// ended tells whether the last rotation that came to an end is the one that has this key. One that failed, for want of a way back, is
// gone on with once its cause is mended.
func ended(last *key.LastRotation, owned key.Owned) bool {
	return last != nil && last.Outcome != key.OutcomeFailed && (last.ID == owned.Rotation || !latest(owned.IssuedAt, owned.PromotedAt).After(last.At))
}

func (f Facts) unpromoted(c inventory.Credential, k key.Info) *Resume {
	r := f.begun(c, k)
	if r == nil || r.Promoted() || !f.promotable(c, r.Incoming) || f.turnsBack(c, r.Incoming) {
		return nil
	}
	return r
}

// promotable tells whether a staged key can become CURRENT: it is PENDING, or a rollback that led nowhere took that from it: CURRENT is
// no live key, or it is one that the rotation cannot turn back to any more, and the staged key has PREVIOUS. Or a later mint took PENDING
// from it, and consumers have this key alone.
func (f Facts) promotable(c inventory.Credential, incoming key.Ref) bool {
	pending, _ := f.Version(key.Pending)
	current, _ := f.Version(key.Current)
	previous, _ := f.Version(key.Previous)
	owned, _ := f.Metadata.Key(incoming.KeyID)
	restored := previous.ID == incoming.StoreVersion && owned.PromotedAt.IsZero() && !f.turnsBack(c, incoming)
	return incoming.StoreVersion != "" && (pending.ID == incoming.StoreVersion || restored || IsAlone(c, f, incoming) || current.ID != "" && current.KeyID == "")
}

// turnsBack tells whether a rotation turned back from a key, to one that consumers can go back to still.
func (f Facts) turnsBack(c inventory.Credential, from key.Ref) bool {
	owned, _ := f.Metadata.Key(from.KeyID)
	current, _ := f.Version(key.Current)
	k, live := f.Live(current.KeyID)
	return !owned.TurnedBackAt.IsZero() && live && MayTurnBack(c, f, f.Ref(k), from).OK
}

// promoted also finds the one key that was CURRENT before: the one in PREVIOUS, or the only retired one.
func (f Facts) promoted(c inventory.Credential, k key.Info, retired []key.Info) *Resume {
	r := f.begun(c, k)
	if r == nil {
		return nil
	}
	r.Moved = true
	if len(retired) == 0 {
		return r
	}
	before := retired[0]
	previous, ok := f.Version(key.Previous)
	if was, live := f.Live(previous.KeyID); ok && live {
		before = was
	} else if len(retired) > 1 {
		return nil
	}
	ref := f.Ref(before)
	r.Retiring, r.Disabled = &ref, before.State == key.Disabled
	return r
}

// firstKeys are those that came to consumers where no key was ever CURRENT, if there are several; none else. Nothing says which of them
// is to be kept, so that none is gone on with, and none discarded.
func firstKeys(c inventory.Credential, f Facts, plan Plan, standings map[string]Standing) []key.Ref {
	var rivals []key.Ref
	for _, k := range f.Keys {
		if ref := f.Ref(k); standings[k.KeyID] == StandingIncoming && IsAlone(c, f, ref) && !Spared(c, f, ref) {
			rivals = append(rivals, ref)
		}
	}
	if plan.Resume != nil || plan.Retiring != nil || len(rivals) < 2 {
		return nil
	}
	return rivals
}

// undecided says who uses which of several first keys, and how a person decides.
func undecided(c inventory.Credential, f Facts, rivals []key.Ref) Decision {
	var ids, used []string
	for _, ref := range rivals {
		ids = append(ids, ref.KeyID)
		users := onAnyOf(f.Instances, []key.Ref{ref})
		if len(users) == 0 {
			used = append(used, "no consumer is seen to use key "+ref.KeyID)
			continue
		}
		used = append(used, uses(users)+" key "+ref.KeyID)
	}
	return refuse(UnfinishedRotation, "rotations that did not end brought consumers to keys %s, and none of them was ever CURRENT, so that nothing says which one is to be kept: "+
		"%s. All of them are left as they are. Choose one, let every consumer load it, and destroy the others at the issuer; then keyturn rotate %s goes on with it",
		strings.Join(ids, " and "), strings.Join(used, "; "), c.Name)
}

// goesOnWith tells whether the plan goes on with this key.
func (p Plan) goesOnWith(keyID string) bool {
	return p.Resume != nil && p.Resume.Incoming.KeyID == keyID
}

// Passed tells whether the rotation that the plan goes on with delivered to the wave: it promotes after all that it brings keys to.
func (p Plan) Passed(w Wave) bool { return p.Resume != nil && p.Resume.Promoted() && !w.ByPromotion }

// MayRun judges whether a rotation may run that has this ID: one that was reset to its first step, once it had ended, would go on with
// its own key as the one to retire.
func MayRun(f Facts, rotation string) Decision {
	if last := f.Metadata.LastRotation; last != nil && rotation != "" && last.ID == rotation && last.Outcome != key.OutcomeFailed {
		return refuse(RotationEnded, "this rotation ended as %s, %s, and cannot be done again: begin another one", last.Outcome, last.At.UTC().Format(time.RFC3339))
	}
	return allow("it has not ended")
}

// MayResume judges whether a rotation that did not end may be gone on with, with the key that it minted.
func MayResume(c inventory.Credential, f Facts, incoming key.Ref) Decision {
	if r := unfinished(c, f, f.Standings(c.Adopt)); r == nil || r.Incoming.KeyID != incoming.KeyID {
		return refuse(UnfinishedRotation, "the rotation that minted key %s cannot be gone on with any more", incoming.KeyID)
	}
	return allow("key %s is minted, stored and works", incoming.KeyID)
}
