package policy

import (
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
)

// MayDeliver judges whether a key may be brought to consumers: it is ours, the issuer accepts it, and one that
// nobody had before was seen to work.
func MayDeliver(c inventory.Credential, f Facts, wanted key.Ref) Decision {
	if d := f.notExposed(wanted.KeyID); !d.OK {
		return d
	}
	switch f.Standings(c.Adopt)[wanted.KeyID] {
	case StandingCurrent:
		if f.any(c, StandingIncoming) || !f.any(c, StandingRetired) { // the way back
			return f.notRefused(c, wanted.KeyID, IncomingNotLive)
		}
		return f.accepted(c, wanted.KeyID, IncomingNotLive)
	case StandingRetired:
		if d := wayBack(c, f); !d.OK {
			return d
		}
		return f.notRefused(c, wanted.KeyID, IncomingNotLive)
	case StandingIncoming:
		if d := verified(f, wanted); !d.OK {
			return d
		}
		return f.accepted(c, wanted.KeyID, IncomingNotLive)
	}
	return refuse(NotOurs, "key %s is not one of %s", wanted.KeyID, c.Name)
}

// StillWorks judges a key that was just delivered.
func StillWorks(f Facts, delivered key.Ref) Decision {
	if k, _ := f.Live(delivered.KeyID); k.State != key.Active || expired(k, f.At) {
		return refuse(IncomingNotLive, "key %s ended or was disabled or destroyed while it was delivered", delivered.KeyID)
	}
	return allow("key %s is active", delivered.KeyID)
}

// verified judges whether keyturn saw an incoming key work.
func verified(f Facts, incoming key.Ref) Decision {
	if owned, _ := f.Metadata.Key(incoming.KeyID); owned.VerifiedAt.IsZero() {
		return refuse(KeyNotWorking, "the incoming key %s was not seen to work", incoming.KeyID)
	}
	return allow("key %s works", incoming.KeyID)
}
