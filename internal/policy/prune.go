package policy

import (
	"slices"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
)

// MayPrune judges whether a version of the store may be dropped: it is not CURRENT, and no key is lost with it but one that is dead,
// or that was minted and is not kept. Whoever reads PENDING is sent back to CURRENT by it, so that the key there must be accepted.
func MayPrune(c inventory.Credential, f Facts, version string) Decision {
	at := slices.IndexFunc(f.Versions, func(v StoredKey) bool { return v.ID == version })
	if at < 0 {
		return allow("version %s does not exist any more", version)
	}
	v := f.Versions[at]
	_, live := f.Live(v.KeyID)
	standing := f.Standings(c.Adopt)[v.KeyID]
	switch {
	case v.Has(key.Current):
		return refuse(CurrentMoved, "version %s is CURRENT", version)
	case !live:
		return allow("version %s holds no live key", version)
	case standing != StandingIncoming && standing != StandingOrphan:
		return refuse(NotOurs, "version %s holds key %s, which is %s", version, v.KeyID, standing)
	case v.Has(key.Pending) && f.readsPending():
		kept := f.keptBeside(c, key.Ref{KeyID: v.KeyID})
		if kept == "" {
			return refuse(NothingKept, "who reads PENDING has key %s of version %s, and there is no other to go back to", v.KeyID, version)
		}
		return f.accepted(c, kept, RetiringKeyNotLive)
	}
	return allow("key %s of version %s is not kept", v.KeyID, version)
}
