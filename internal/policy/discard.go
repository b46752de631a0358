package policy

import (
	"slices"
	"time"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
)

// NotProvedDead is the reason of a discard by which a key may live on that the issuer does not list: nothing has seen it refused.
const NotProvedDead = Reason(FoundNotProved)

// MayDiscard judges whether a key that was minted and never kept may be destroyed, without asking
// anybody: it never became CURRENT, or was turned back from; the key that consumers shall use is live and
// CURRENT, every instance attests that one, and this one is quiet. It is the end of every rollback.
func MayDiscard(c inventory.Credential, f Facts, unwanted key.Ref) Decision {
	for _, i := range f.Instances {
		if i.Statement != nil && i.Statement.Holds(unwanted) {
			return refuse(RetiringStillHeld, "%s still holds key %s", i.Name(), unwanted.KeyID)
		}
	}
	k, live := f.Live(unwanted.KeyID)
	if !live {
		return allow("key %s does not exist any more", unwanted.KeyID)
	}
	switch standing := f.Standings(c.Adopt)[unwanted.KeyID]; standing {
	case StandingOrphan, StandingIncoming:
		if owned, recorded := f.Metadata.Key(unwanted.KeyID); standing == StandingOrphan || recorded && Lost(owned) {
			if d := MayDestroyOrphan(f, c.Adopt, unwanted); !d.OK {
				return d
			}
		}
	default:
		return refuse(NotOurs, "key %s is %s, not an unwanted key of %s", unwanted.KeyID, standing, c.Name)
	}
	owned, _ := f.Metadata.Key(unwanted.KeyID)
	had := owned.DeliveredAt // by the last one who got it
	if f.readsPending() {
		had = latest(had, owned.IssuedAt, k.CreatedAt)
	}
	if owned.DeliveredAt.IsZero() && !f.readsPending() {
		return allow("key %s was never delivered", unwanted.KeyID)
	}
	kept := f.keptBeside(c, unwanted)
	if kept == "" {
		return refuse(NothingKept, "key %s was delivered, and there is no other that consumers could go back to", unwanted.KeyID)
	}
	if d := f.accepted(c, kept, RetiringKeyNotLive); !d.OK {
		return d
	}
	current, _ := f.Live(kept)
	for _, d := range converged(f.Instances, unwanted, f.Ref(current)) {
		return d
	}
	if d := f.notDelivering(c, unwanted.KeyID); !d.OK {
		return d
	}
	back, _ := f.Metadata.Key(kept)
	if d := forgotten(c, f, unwanted, latest(had, back.DeliveredAt)); !d.OK {
		return d
	}
	// That no use is reported proves nothing yet: it may have been used since it was delivered, and until everybody was back.
	if d := f.quiet(c, k, latest(had, back.DeliveredAt, back.AttestedAt), back); !d.OK {
		return d
	}
	return allow("no instance holds key %s any more", unwanted.KeyID)
}

// MayDiscardAll is MayDiscard of each of them.
func MayDiscardAll(c inventory.Credential, f Facts, unwanted []key.Ref) Decision {
	for _, ref := range unwanted {
		if d := MayDiscard(c, f, ref); !d.OK {
			return d
		}
	}
	return allow("%s may be destroyed", Counted(len(unwanted), "unwanted key"))
}

// Spared tells whether a key that a rotation which did not end brought to consumers is neither gone on with nor discarded: it is
// refused, and there is no other that they could go back to, so that what helps is to bring them another one. The rotation after
// that one discards it.
func Spared(c inventory.Credential, f Facts, minted key.Ref) bool {
	return IsAlone(c, f, minted) && !f.notRefused(c, minted.KeyID, IncomingNotLive).OK
}

// IsAlone tells whether consumers were brought to a key beside which there is no other that they could go back to: nothing discards it.
func IsAlone(c inventory.Credential, f Facts, minted key.Ref) bool {
	owned, _ := f.Metadata.Key(minted.KeyID)
	return !owned.DeliveredAt.IsZero() && f.keptBeside(c, minted) == ""
}

// keptBeside is the key that consumers are left with when another one is discarded: the one in CURRENT, or, when somebody has
// put there what is no key, the last one of ours that was CURRENT before. Empty when there is none, or none but an exposed one.
func (f Facts) keptBeside(c inventory.Credential, unwanted key.Ref) string {
	if current := f.currentKeyID(c.Adopt); current != "" && f.notExposed(current).OK {
		return current
	}
	standings, kept := f.Standings(c.Adopt), ""
	for _, k := range f.Keys { // oldest first
		if k.KeyID != unwanted.KeyID && standings[k.KeyID] == StandingRetired && f.notExposed(k.KeyID).OK {
			kept = k.KeyID
		}
	}
	return kept
}

// KeptBeside is the key that consumers are left with when others are discarded; empty when none of these ever reached one, or
// there is none.
func KeptBeside(c inventory.Credential, f Facts, unwanted []key.Ref) string {
	for _, ref := range unwanted {
		if mine, _ := f.Metadata.Key(ref.KeyID); f.readsPending() || !mine.DeliveredAt.IsZero() {
			return f.keptBeside(c, ref)
		}
	}
	return ""
}

// StillKept judges the key that consumers are left with, empty for none, while something else keeps others from being destroyed: that
// nobody could test it holds nothing.
func StillKept(c inventory.Credential, f Facts, kept string) Decision {
	if kept == "" {
		return allow("consumers had none of them")
	}
	if d := f.notExposed(kept); !d.OK {
		return d
	}
	return f.notRefused(c, kept, RetiringKeyNotLive)
}

// readsPending tells whether somebody who reads PENDING needs no delivery to have the incoming key.
func (f Facts) readsPending() bool {
	return slices.ContainsFunc(f.Instances, func(i Instance) bool { return i.Pulls && i.Wave == inventory.CanaryWave })
}

// LongestDelivery is how long one attempt to deliver to a wave may take.
func LongestDelivery(c inventory.Credential) time.Duration { return c.WaveTimeout.Std() + time.Minute }

// notDelivering judges whether no attempt may write a key to consumers any more.
func (f Facts) notDelivering(c inventory.Credential, keyID string) Decision {
	owned, _ := f.Metadata.Key(keyID)
	for _, since := range owned.Delivering {
		if MayStillDeliver(c, since, f.At) {
			return refuse(DeliveryNotOver, "an attempt to deliver key %s, of which it is not known that it ended, may last until %s", keyID,
				since.Add(LongestDelivery(c)).UTC().Format(time.RFC3339))
		}
	}
	return allow("nobody delivers key %s", keyID)
}

// MayStillDeliver tells whether an attempt to deliver that began then, and of which it is not known that it ended, may write still.
func MayStillDeliver(c inventory.Credential, since, now time.Time) bool {
	return now.Before(since.Add(LongestDelivery(c)))
}
