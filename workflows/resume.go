package workflows

import (
	"slices"

	"github.com/keyturn/keyturn/internal/policy"
)

// takeUp goes on with a rotation that did not end. What it did is what Inspect has found; each step that follows judges by
// facts of its own.
func (r *rotation) takeUp(u policy.Resume) {
	if !u.IsCurrent() {
		r.note("going on with rotation %s, which did not end: its key %s is minted, stored as PENDING and works", u.Rotation, u.Incoming.KeyID)
		return
	}
	r.note("going on with rotation %s, which did not end: its key %s is CURRENT", u.Rotation, u.Incoming.KeyID)
	r.Promoted, r.Disabled = true, u.Disabled
	if u.Promoted() { // else the overlap begins when it is recorded
		r.OverlapEnds = r.lastOverlapEnd(u.PromotedAt.Add((r.credential.LongestCache() + r.credential.Overlap).Std()))
	}
	if u.Retiring != nil {
		r.became(RoleRetiring, map[bool]KeyState{false: KeyPrevious, true: KeyDisabled}[u.Disabled])
	}
	for i, w := range r.Plan.Waves {
		if r.Plan.Passed(w) {
			r.Status.Waves[i].State, r.Status.Waves[i].Attested = wavePassed, len(w.Instances)
		}
	}
}

// didBefore tells whether the rotation that this one goes on with has done a part: all up to promotion, once that is on record. Only
// that the key is this one's now is left of issuing. Nobody is asked again to sign off a key that is CURRENT.
func (r *rotation) didBefore(part string) bool {
	u := r.Plan.Resume
	return u != nil && (u.Promoted() && slices.Contains([]string{partDeliver, partPromote}, part) || u.IsCurrent() && part == partSignoff)
}

// issuing says what the run does to have an incoming key.
func (r *rotation) issuing() string {
	if u := r.Plan.Resume; u != nil {
		return "Going on with key " + u.Incoming.KeyID + " of a rotation that did not end."
	}
	return "Minting the incoming key, storing it as PENDING, and seeing that it works."
}
