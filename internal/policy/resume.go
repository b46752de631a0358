package policy

import (
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
	// PromotedAt is when the incoming key became CURRENT, and Retiring the one that was so before; both zero before that.
	// Without Retiring that one is destroyed, or there was none: what is left is the record.
	PromotedAt time.Time `json:"promotedAt,omitzero"`
	Retiring   *key.Ref  `json:"retiring,omitempty"`
	// Disabled: the retiring key is disabled.
	Disabled bool `json:"disabled,omitempty"`
}

// Promoted tells whether the incoming key is CURRENT.
func (r Resume) Promoted() bool { return !r.PromotedAt.IsZero() }

// unfinished finds the rotation to go on with; nil for none. One that turned back before its key was CURRENT is not gone on with:
// its key is discarded. Nor is one whose key is not accepted any more, or not the only one that was never CURRENT.
func unfinished(c inventory.Credential, f Facts, standings map[string]Standing) *Resume {
	var incoming, retired []key.Info
	for _, k := range f.Keys {
		switch standings[k.KeyID] {
		case StandingIncoming, StandingOrphan:
			incoming = append(incoming, k)
		case StandingRetired:
			retired = append(retired, k)
		}
	}
	current, _ := f.Version(key.Current)
	k, live := f.Live(current.KeyID)
	switch {
	case len(incoming) == 1:
		return f.unpromoted(c, incoming[0])
	case len(incoming) == 0 && live:
		return f.promoted(c, k, retired)
	}
	return nil
}

// begun is the rotation that minted a key and has no end in the record; nil for none, or when the key cannot be gone on with.
func (f Facts) begun(c inventory.Credential, k key.Info) *Resume {
	owned, _ := f.Metadata.Key(k.KeyID)
	ref := f.Ref(k)
	switch last := f.Metadata.LastRotation; {
	case owned.Rotation == "", owned.VerifiedAt.IsZero(), ref.StoreVersion == "", !owned.KeptAt.IsZero(),
		last != nil && (last.ID == owned.Rotation || !latest(owned.IssuedAt, owned.PromotedAt).After(last.At)), !f.accepted(c, k.KeyID, IncomingNotLive).OK:
		return nil
	}
	return &Resume{
		Rotation: owned.Rotation, Incoming: ref, Ends: k.ExpiresAt,
		Delivered: !owned.DeliveredAt.IsZero(), PromotedAt: owned.PromotedAt,
	}
}

func (f Facts) unpromoted(c inventory.Credential, k key.Info) *Resume {
	r := f.begun(c, k)
	pending, staged := f.Version(key.Pending)
	owned, _ := f.Metadata.Key(k.KeyID)
	if r == nil || r.Promoted() || !owned.TurnedBackAt.IsZero() || !staged || pending.ID != r.Incoming.StoreVersion {
		return nil
	}
	return r
}

// promoted also finds the one key that was CURRENT before: the one in PREVIOUS, or the only retired one.
func (f Facts) promoted(c inventory.Credential, k key.Info, retired []key.Info) *Resume {
	r := f.begun(c, k)
	switch {
	case r == nil || !r.Promoted():
		return nil
	case len(retired) == 0:
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

// goesOnWith tells whether the plan goes on with this key.
func (p Plan) goesOnWith(keyID string) bool {
	return p.Resume != nil && p.Resume.Incoming.KeyID == keyID
}

// Passed tells whether the rotation that the plan goes on with delivered to the wave: it promotes after all that it brings keys to.
func (p Plan) Passed(w Wave) bool { return p.Resume != nil && p.Resume.Promoted() && !w.ByPromotion }

// MayResume judges whether a rotation that did not end may be gone on with, with the key that it minted.
func MayResume(c inventory.Credential, f Facts, incoming key.Ref) Decision {
	if r := unfinished(c, f, f.Standings(c.Adopt)); r == nil || r.Incoming.KeyID != incoming.KeyID {
		return refuse(UnfinishedRotation, "the rotation that minted key %s cannot be gone on with any more", incoming.KeyID)
	}
	return allow("key %s is minted, stored and works", incoming.KeyID)
}
