package policy

import (
	"time"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
)

// MayTurnBack judges whether a rollback can succeed now, once consumers may have the incoming key: the retiring one is accepted, or
// keyturn disabled it and enables it first. It is the verdict on who asks for one; each step of the rollback judges for itself.
func MayTurnBack(c inventory.Credential, f Facts, retiring, incoming key.Ref) Decision {
	k, live := f.Live(retiring.KeyID)
	if !live {
		return refuse(RetiringGone, "key %s does not exist any more", retiring.KeyID)
	}
	if d := f.notExposed(retiring.KeyID); !d.OK {
		return d
	}
	if from, _ := f.Metadata.Key(incoming.KeyID); !from.KeptAt.IsZero() {
		return kept(from)
	}
	if retiring.StoreVersion == "" {
		return refuse(RetiringKeyNotLive, "the value of key %s is in no store", retiring.KeyID)
	}
	switch f.Standings(c.Adopt)[retiring.KeyID] {
	case StandingCurrent, StandingRetired:
	default:
		return refuse(RetiringKeyNotLive, "key %s is no current or retired key of %s any more", retiring.KeyID, c.Name)
	}
	if expired(k, f.At) {
		return refuse(RetiringGone, "key %s has ended", retiring.KeyID)
	}
	if owned, _ := f.Metadata.Key(retiring.KeyID); k.State == key.Disabled && !owned.DisablingAt.IsZero() {
		return f.lasts(c, k, RetiringKeyNotLive)
	}
	return f.notRefused(c, retiring.KeyID, RetiringKeyNotLive)
}

// MayRestore judges whether CURRENT may move back to the retiring key: it is ours and active, and the
// incoming one was minted by keyturn, promoted later and is not kept yet, so that this really is the way back.
func MayRestore(c inventory.Credential, f Facts, retiring, incoming key.Ref) Decision {
	if d := MayDeliver(c, f, retiring); !d.OK {
		return d
	}
	from, ok := f.Metadata.Key(incoming.KeyID)
	if !from.KeptAt.IsZero() {
		return kept(from)
	}
	if !ok || from.Rotation == "" {
		return refuse(NotOurs, "key %s was not minted by a rotation", incoming.KeyID)
	}
	to, ok := f.Metadata.Key(retiring.KeyID)
	if ok && to.Rotation != "" && (to.PromotedAt.IsZero() || !from.PromotedAt.IsZero() && !to.PromotedAt.Before(from.PromotedAt)) {
		return refuse(CurrentMoved, "key %s was not CURRENT before key %s", retiring.KeyID, incoming.KeyID)
	}
	return allow("key %s was CURRENT before", retiring.KeyID)
}

// Kept tells whether the way back from the key in CURRENT is over: it is ours, and its overlap has passed, or no
// earlier key is left. Record writes that down, at the end of a rotation.
func Kept(c inventory.Credential, f Facts) bool {
	current := f.currentKeyID(c.Adopt)
	owned, ours := f.Metadata.Key(current)
	if !ours || owned.PromotedAt.IsZero() {
		return false
	}
	return !f.any(c, StandingRetired) || !f.At.Before(overlapEnd(c, owned))
}

// any tells whether a key of this standing is alive: an earlier one beside that in CURRENT, or one that is to follow it.
func (f Facts) any(c inventory.Credential, standing Standing) bool {
	for _, s := range f.Standings(c.Adopt) {
		if s == standing {
			return true
		}
	}
	return false
}

// wayBack judges whether there is a way back from the key in CURRENT.
func wayBack(c inventory.Credential, f Facts) Decision {
	if owned, _ := f.Metadata.Key(f.currentKeyID(c.Adopt)); !owned.KeptAt.IsZero() {
		return kept(owned)
	}
	return allow("there is a way back")
}

func kept(current key.Owned) Decision {
	return refuse(WayBackOver, "the rotation to key %s ended %s: nothing leads back from it", current.KeyID, current.KeptAt.UTC().Format(time.RFC3339))
}

// MayEnable judges whether a key may be enabled again: it is ours, and was in use before. What keyturn disabled it may
// always enable, also when nothing leads back to the key: somebody misses it; but never one that is exposed.
func MayEnable(c inventory.Credential, f Facts, retiring key.Ref) Decision {
	if d := f.notExposed(retiring.KeyID); !d.OK {
		return d
	}
	switch f.Standings(c.Adopt)[retiring.KeyID] {
	case StandingCurrent:
		return allow("key %s is the current one of %s", retiring.KeyID, c.Name)
	case StandingRetired:
		if owned, _ := f.Metadata.Key(retiring.KeyID); !owned.DisablingAt.IsZero() {
			return allow("keyturn disabled key %s", retiring.KeyID)
		}
		return wayBack(c, f)
	case StandingIncoming: // of an approved end that gave way
		if owned, _ := f.Metadata.Key(retiring.KeyID); !owned.DisablingAt.IsZero() && !Lost(owned) {
			return allow("keyturn disabled key %s", retiring.KeyID)
		}
	}
	return refuse(NotOurs, "key %s is no current or retired key of %s", retiring.KeyID, c.Name)
}
