package policy

import (
	"slices"
	"time"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
)

// Exposure is how the keys of a credential stand when some of them are exposed.
type Exposure struct {
	// Current is the key that consumers are sent to; zero when there is none.
	Current key.Ref `json:"current,omitzero"`
	// CurrentExposed: it is one of the exposed, and another one must take its place.
	CurrentExposed bool `json:"currentExposed,omitempty"`
	// Incoming is an own key that can: it works, and is not exposed. Zero when one must be minted. Rotation is the one that minted it.
	Incoming key.Ref `json:"incoming,omitzero"`
	Rotation string  `json:"rotation,omitempty"`
	// Frees is the exposed key that must end before another one can be issued, since all slots are taken: first of all one that
	// consumers are not sent to. Zero when there is a slot, or none is needed.
	Frees key.Ref `json:"frees,omitzero"`
	// Alive are the exposed keys that the issuer still has, Stored the IDs of all others that it has whose value is in the store.
	Alive  []key.Ref `json:"alive,omitempty"`
	Stored []string  `json:"stored,omitempty"`
}

// Expose tells how the keys of a credential stand when those are exposed that an incident declared so, to the emergency with that
// rotation ID. Those that earlier incidents declared are no better to send consumers to, but it ends none of them.
func Expose(c inventory.Credential, f Facts, exposed []string, rotation string) Exposure {
	var x Exposure
	unfit := func(keyID string) bool { return slices.Contains(exposed, keyID) || !f.notExposed(keyID).OK }
	if k, live := f.Live(f.currentKeyID(c.Adopt)); live {
		x.Current, x.CurrentExposed = f.Ref(k), unfit(k.KeyID)
	} else if v, ok := f.Version(key.Current); ok {
		x.Current, x.CurrentExposed = key.Ref{StoreVersion: v.ID}, true // whoever reads it gets a key that is dead
	}
	for keyID, standing := range f.Standings(c.Adopt) {
		k, _ := f.Live(keyID)
		owned, _ := f.Metadata.Key(keyID)
		ref := f.Ref(k)
		usable := standing == StandingIncoming && k.State == key.Active && !owned.VerifiedAt.IsZero() && ref.StoreVersion != ""
		if usable && !unfit(keyID) && (owned.Rotation == rotation || MayResume(c, f, ref).OK) {
			x.Incoming, x.Rotation = ref, owned.Rotation
		}
	}
	for _, k := range f.Keys {
		if f.Ref(k).StoreVersion != "" && !unfit(k.KeyID) {
			x.Stored = append(x.Stored, k.KeyID)
		}
		if slices.Contains(exposed, k.KeyID) {
			x.Alive = append(x.Alive, f.Ref(k))
		}
	}
	if x.CurrentExposed && x.Incoming.IsZero() && f.full(c, exposed, rotation) {
		for _, k := range x.Alive {
			if x.Frees.IsZero() || x.Frees.KeyID == x.Current.KeyID {
				x.Frees = k
			}
		}
	}
	return x
}

// full tells whether no other key can be issued before one ends. What an interrupted mint left is not counted: issuing goes on with that
// of the same rotation, and clears the rest away. A key that another rotation left is: nobody takes that away in an emergency.
func (f Facts) full(c inventory.Credential, exposed []string, rotation string) bool {
	standings, kept := f.Standings(c.Adopt), 0
	for _, k := range f.Keys {
		owned, ours := f.Metadata.Key(k.KeyID)
		mint := standings[k.KeyID] == StandingOrphan || standings[k.KeyID] == StandingUnproved || ours && Lost(owned) ||
			standings[k.KeyID] == StandingIncoming && (!ours || owned.Rotation == rotation && owned.VerifiedAt.IsZero())
		if !mint || slices.Contains(exposed, k.KeyID) {
			kept++
		}
	}
	return f.Capabilities.Slots > 0 && kept >= f.Capabilities.Slots
}

// MayContain judges whether one of the exposed keys may be destroyed: as soon as every instance is on the key in CURRENT, and on no
// other, and that one works; whoever still uses it, once the incident's deadline has passed, or where no other key can be issued before
// this one frees its slot.
func MayContain(c inventory.Credential, f Facts, exposed key.Ref, all []string, rotation string, late bool) Decision {
	k, live := f.Live(exposed.KeyID)
	current, _ := f.Version(key.Current)
	switch {
	case !live && !f.known(exposed.KeyID) && f.Ended(exposed.KeyID):
		return Decision{OK: true, Reason: KeyGone, Message: message("key %s was ended by the last rotation, %s", exposed.KeyID, f.Metadata.LastRotation.At.UTC().Format(time.RFC3339))}
	case !live && !f.known(exposed.KeyID):
		return Decision{OK: true, Reason: KeyAbsent, Message: message("the issuer has no key %s: it was ended before, or its ID is mistyped", exposed.KeyID)}
	case !live:
		return Decision{OK: true, Reason: KeyGone, Message: message("key %s does not exist any more", exposed.KeyID)}
	case late:
		return allow("the incident's deadline has passed: key %s is destroyed, whoever still uses it", k.KeyID)
	case Expose(c, f, all, rotation).Frees.KeyID == exposed.KeyID:
		return allow("%s, and no other key can be issued before one is free: key %s is destroyed, whoever still uses it", takenSlots(f.Capabilities.Slots, "the issuer"), k.KeyID)
	case current.KeyID == exposed.KeyID || current.KeyID == "":
		return refuse(CurrentMoved, "consumers have no other key than the exposed one %s yet", exposed.KeyID)
	}
	if d := f.accepted(c, current.KeyID, IncomingNotLive); !d.OK {
		return d
	}
	if d := f.notDelivering(c, exposed.KeyID); !d.OK {
		return d
	}
	if no := converged(f.Instances, exposed, key.Ref{KeyID: current.KeyID, StoreVersion: current.ID, Fingerprint: current.Fingerprint}); len(no) > 0 {
		return no[0]
	}
	return allow("every instance is on key %s, and none on the exposed one %s", current.KeyID, exposed.KeyID)
}

// Ended tells whether a key is dead that was one of the credential's: the issuer does not have it, and there is a record of it, or of its end.
func (f Facts) Ended(keyID string) bool {
	_, live := f.Live(keyID)
	return !live && (f.known(keyID) || f.Metadata.LastRotation.HasEnded(keyID))
}

// known tells whether there is a record of a key, or of its end by an emergency.
func (f Facts) known(keyID string) bool {
	_, ours := f.Metadata.Key(keyID)
	return ours || f.Metadata.Incident != nil && slices.Contains(f.Metadata.Incident.Ending, keyID)
}

// MayPromoteAtOnce is MayPromote where the retiring key is exposed: it waits for no instance, and takes a key that a rollback had taken
// CURRENT from.
func MayPromoteAtOnce(c inventory.Credential, f Facts, retiring, incoming key.Ref) Decision {
	return mayPromote(c, f, retiring, incoming, incoming.StoreVersion != "", nil)
}

// notExposed refuses a key that an incident declared exposed, for whatever sends consumers to it or lets them use it.
func (f Facts) notExposed(keyID string) Decision {
	if by, exposed := f.Metadata.Exposed[keyID]; exposed {
		return refuse(KeyExposed, "key %s is exposed, by %s: nobody is sent to it, and it is enabled for nobody", keyID, by)
	}
	return allow("key %s is not known to be exposed", keyID)
}
