package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/providers"
)

// Evidence is why the retiring key may be revoked, or why not yet. It is one value, shown to approvers
// and recorded; Digest names it.
type Evidence struct {
	Complete bool `json:"complete"`
	// Missing says what is not proved yet, for people; none when Complete.
	Missing []Decision `json:"missing,omitempty"`
	// Instances are who attested what.
	Instances []key.Statement `json:"instances,omitempty"`
	// IncomingUsedAt and RetiringUsedAt are the issuer's last-used; zero for never, or not told.
	IncomingUsedAt time.Time `json:"incomingUsedAt,omitzero"`
	RetiringUsedAt time.Time `json:"retiringUsedAt,omitzero"`
	// QuietSince is the later of the promotion and the retiring key's last use.
	QuietSince time.Time `json:"quietSince,omitzero"`
	GatheredAt time.Time `json:"gatheredAt"`
	Digest     string    `json:"digest"`
}

// Lacks tells what the evidence lacks in a form that changes only when that changes: not with each
// second that passes.
func (e Evidence) Lacks() string {
	text := ""
	for _, d := range e.Missing {
		text += string(d.Reason) + "\n"
		if d.Reason != RetiringNotQuiet && d.Reason != OverlapNotOver {
			text += d.Message + "\n"
		}
	}
	return text
}

// Gather judges whether the retiring key may be disabled: every instance attests the incoming key and
// none holds the retiring one, the incoming key was used, the retiring one has been quiet, and the
// overlap has passed by the store's own record of the promotion.
func Gather(c inventory.Credential, f Facts, retiring, incoming key.Ref) Evidence {
	e := Evidence{GatheredAt: f.At}
	miss := func(r Reason, format string, args ...any) { e.Missing = append(e.Missing, refuse(r, format, args...)) }

	e.Missing = append(e.Missing, converged(f.Instances, retiring, incoming)...)
	for _, i := range f.Instances {
		if i.Statement != nil {
			named := *i.Statement
			named.Instance = i.Name()
			e.Instances = append(e.Instances, named)
		}
	}
	retiringKey, _ := f.Live(retiring.KeyID)
	incomingKey, live := f.Live(incoming.KeyID)
	if !live || incomingKey.State != key.Active {
		miss(IncomingNotLive, "the incoming key %s is not active at the issuer", incoming.KeyID)
	}
	if current, ok := f.Version(providers.Current); !ok || current.KeyID != incoming.KeyID {
		miss(CurrentMoved, "the store's CURRENT is not the incoming key %s", incoming.KeyID)
	}
	owned, _ := f.Metadata.Key(incoming.KeyID)
	e.QuietSince = owned.PromotedAt
	if owned.PromotedAt.IsZero() {
		miss(CurrentMoved, "the store has no record that %s was promoted", incoming.KeyID)
	} else if over := owned.PromotedAt.Add(c.Overlap.Std()); f.At.Before(over) && !expired(retiringKey, f.At) {
		miss(OverlapNotOver, "the overlap lasts until %s", over.UTC().Format(time.RFC3339))
	}
	if f.Capabilities.ReportsUsage && !expired(retiringKey, f.At) {
		e.IncomingUsedAt, e.RetiringUsedAt = incomingKey.LastUsedAt, retiringKey.LastUsedAt
		if incomingKey.LastUsedAt.IsZero() && len(f.Instances) > 0 {
			miss(IncomingNotUsed, "the incoming key %s was not used yet", incoming.KeyID)
		}
		if retiringKey.LastUsedAt.After(e.QuietSince) {
			e.QuietSince = retiringKey.LastUsedAt
		}
		window := max(c.QuietWindow.Std(), f.Capabilities.UsageLag)
		if quiet := e.QuietSince.Add(window); f.At.Before(quiet) {
			by := ""
			if retiringKey.LastUsedBy != "" {
				by = ", by " + retiringKey.LastUsedBy
			}
			miss(RetiringNotQuiet, "the retiring key %s must be quiet for %s, so until %s at least (last used %s%s)",
				retiring.KeyID, inventory.Duration(window), quiet.UTC().Format(time.RFC3339), ago(retiringKey.LastUsedAt), by)
		}
	}
	e.Complete = len(e.Missing) == 0
	e.Digest = digest(e)
	return e
}

// expired: a key that the issuer no longer accepts needs no quiet window and no overlap.
func expired(k key.Info, at time.Time) bool { return !k.ExpiresAt.IsZero() && !at.Before(k.ExpiresAt) }

func ago(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.UTC().Format(time.RFC3339)
}

// converged lists the instances that do not attest the key alone.
func converged(instances []Instance, away, to key.Ref) []Decision {
	var no []Decision
	for _, i := range instances {
		switch {
		case i.Statement == nil:
			no = append(no, refuse(InstanceNotConverged, "%s does not state which key it uses: %s", i.Name(), i.NotAttesting))
		case !i.Statement.Holds(to):
			no = append(no, refuse(InstanceNotConverged, "%s is not on key %s: it states %v", i.Name(), to.KeyID, i.Statement.Keys))
		case !away.IsZero() && i.Statement.Holds(away):
			no = append(no, refuse(RetiringStillHeld, "%s still holds key %s besides", i.Name(), away.KeyID))
		}
	}
	return no
}

func digest(e Evidence) string {
	e.Digest = ""
	text, err := json.Marshal(e)
	if err != nil {
		panic(err) // plain data of ours: marshalling it cannot fail
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// MayDeliverNext judges a delivered wave: only when every instance of it has converged and passes its
// check does the next one follow.
func MayDeliverNext(wave []Instance, to key.Ref) Decision {
	for _, d := range converged(wave, key.Ref{}, to) {
		return d
	}
	for _, i := range wave {
		if i.Unhealthy != "" {
			return refuse(CheckFailing, "%s fails its check: %s", i.Name(), i.Unhealthy)
		}
	}
	return allow("%s on key %s, and well", count(len(wave), "instance"), to.KeyID)
}

// IsBack judges a rollback's delivery: every instance attests the retiring key again. One that is not
// well does not hold it, since that may be why it turns back.
func IsBack(wave []Instance, to key.Ref) Decision {
	for _, d := range converged(wave, key.Ref{}, to) {
		return d
	}
	return allow("%s on key %s again", count(len(wave), "instance"), to.KeyID)
}

// MayPromote judges whether CURRENT may move to the incoming key: it is live and staged, the retiring
// one still has CURRENT, and every instance that is delivered to attests the incoming key.
func MayPromote(f Facts, retiring, incoming key.Ref) Decision {
	current, hasCurrent := f.Version(providers.Current)
	if hasCurrent && current.KeyID == incoming.KeyID {
		return allow("CURRENT is the incoming key already")
	}
	if k, live := f.Live(incoming.KeyID); !live || k.State != key.Active {
		return refuse(IncomingNotLive, "the incoming key %s is not active at the issuer", incoming.KeyID)
	}
	if pending, ok := f.Version(providers.Pending); !ok || pending.ID != incoming.StoreVersion {
		return refuse(PendingMoved, "the store's PENDING is not version %s, where the incoming key was staged", incoming.StoreVersion)
	}
	if hasCurrent != (retiring.StoreVersion != "") || hasCurrent && current.ID != retiring.StoreVersion {
		return refuse(CurrentMoved, "the store's CURRENT moved since the rotation began: somebody else changes this secret")
	}
	pushed := slices.DeleteFunc(slices.Clone(f.Instances), func(i Instance) bool {
		return i.Pulls && i.Wave != inventory.CanaryWave
	})
	for _, d := range converged(pushed, key.Ref{}, incoming) {
		return d
	}
	return allow("every delivered instance attests key %s", incoming.KeyID)
}

// MayDisable judges the retiring key from facts gathered right before, and the approvals. It is I3.
func MayDisable(c inventory.Credential, f Facts, retiring, incoming key.Ref, approvals []Verdict) Decision {
	switch f.Standings(c.Adopt)[retiring.KeyID] {
	case StandingRetired:
	case "":
		return allow("key %s does not exist any more", retiring.KeyID)
	default:
		return refuse(NotOurs, "key %s is not a retired key of %s", retiring.KeyID, c.Name)
	}
	if e := Gather(c, f, retiring, incoming); !e.Complete {
		return e.Missing[0]
	}
	if gate := c.Approvals.Revoke; gate != nil && len(approvedBy(approvals, f.At, *gate)) < gate.Count {
		return refuse(ApprovalsMissing, "%d of %d approvals of the revoke gate are valid now", len(approvedBy(approvals, f.At, *gate)), gate.Count)
	}
	return allow("every instance is on %s, the retiring key %s is quiet, and the revoke gate is passed", incoming.KeyID, retiring.KeyID)
}

// MayRevoke judges whether the retiring key may be destroyed: all that disabling needs, and, where the
// issuer can disable, that it is disabled and was so for the soak.
func MayRevoke(c inventory.Credential, f Facts, retiring, incoming key.Ref, approvals []Verdict) Decision {
	k, live := f.Live(retiring.KeyID)
	if !live {
		return allow("key %s does not exist any more", retiring.KeyID)
	}
	if !f.Capabilities.CanDisable {
		return MayDisable(c, f, retiring, incoming, approvals)
	}
	if f.Standings(c.Adopt)[retiring.KeyID] != StandingRetired {
		return refuse(NotOurs, "key %s is not a retired key of %s", retiring.KeyID, c.Name)
	}
	owned, _ := f.Metadata.Key(retiring.KeyID)
	if k.State != key.Disabled || owned.DisabledAt.IsZero() {
		return refuse(NotDisabled, "key %s is not disabled", retiring.KeyID)
	}
	if over := owned.DisabledAt.Add(c.DisableSoak.Std()); f.At.Before(over) {
		return refuse(SoakNotOver, "key %s is disabled since %s, and is watched until %s", retiring.KeyID,
			owned.DisabledAt.UTC().Format(time.RFC3339), over.UTC().Format(time.RFC3339))
	}
	for _, d := range converged(f.Instances, retiring, incoming) {
		return d
	}
	return allow("key %s was disabled for %s and nobody missed it", retiring.KeyID, c.DisableSoak)
}

// MayDiscard judges whether a key that was minted and never kept may be destroyed, without asking
// anybody: it was minted by this rotation, or by one that did not end, the key that consumers shall use is live and CURRENT, every instance attests
// that one, and this one is quiet. It is the end of every rollback.
func MayDiscard(c inventory.Credential, f Facts, unwanted key.Ref, rotation string) Decision {
	k, live := f.Live(unwanted.KeyID)
	if !live {
		return allow("key %s does not exist any more", unwanted.KeyID)
	}
	standings := f.Standings(c.Adopt)
	switch standings[unwanted.KeyID] {
	case StandingOrphan, StandingIncoming:
	case StandingRetired: // promoted, and turned back from
		if owned, ok := f.Metadata.Key(unwanted.KeyID); !ok || owned.Rotation != rotation {
			return refuse(NotOurs, "key %s was not minted by this rotation", unwanted.KeyID)
		}
	default:
		return refuse(NotOurs, "key %s is %s, not an unwanted key of %s", unwanted.KeyID, standings[unwanted.KeyID], c.Name)
	}
	for _, i := range f.Instances {
		if i.Statement != nil && i.Statement.Holds(unwanted) {
			return refuse(RetiringStillHeld, "%s still holds key %s", i.Name(), unwanted.KeyID)
		}
	}
	if owned, ok := f.Metadata.Key(unwanted.KeyID); !ok || owned.DeliveredAt.IsZero() {
		return allow("key %s was never delivered", unwanted.KeyID)
	}
	if kept := f.currentKeyID(c.Adopt); kept != "" {
		current, ok := f.Live(kept)
		if !ok || current.State != key.Active {
			return refuse(RetiringKeyNotLive, "the key to be kept, %s, is not active at the issuer", kept)
		}
		for _, d := range converged(f.Instances, unwanted, f.Ref(current)) {
			return d
		}
	}
	if f.Capabilities.ReportsUsage {
		window := max(c.QuietWindow.Std(), f.Capabilities.UsageLag)
		if quiet := k.LastUsedAt.Add(window); !k.LastUsedAt.IsZero() && f.At.Before(quiet) {
			return refuse(RetiringNotQuiet, "the incoming key %s must be quiet for %s, so until %s at least",
				unwanted.KeyID, inventory.Duration(window), quiet.UTC().Format(time.RFC3339))
		}
	}
	return allow("no instance holds key %s any more", unwanted.KeyID)
}

// Describe is the evidence in one sentence, for the gate.
func (e Evidence) Describe() string {
	if !e.Complete {
		return fmt.Sprintf("incomplete: %s", e.Missing[0].Message)
	}
	return fmt.Sprintf("%s on the incoming key, none on the retiring one, which is quiet since %s",
		count(len(e.Instances), "instance"), e.QuietSince.UTC().Format(time.RFC3339))
}
