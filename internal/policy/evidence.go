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
	// Unseen: the issuer tells of no use of the retiring key, so that its silence proves less. The revoke gate wants one approval more.
	Unseen bool `json:"unseen,omitempty"`
	// NeverHad: the retiring key never came to a consumer, so that it needs no quiet.
	NeverHad bool `json:"neverHad,omitempty"`
	// Untested: nothing tests a key of this credential, so that whether the incoming one works is what the issuer's list says.
	Untested bool `json:"untested,omitempty"`
	// Unheard: the issuer does not tell who is refused with a disabled key.
	Unheard bool `json:"unheard,omitempty"`
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
		if !slices.Contains([]Reason{RetiringNotQuiet, UsageStale, OverlapNotOver}, d.Reason) { // these tell times that pass
			text += d.Message + "\n"
		}
	}
	return text
}

// Late tells whether what the evidence lacks is worth telling people again: not that a blackout lasts.
func (e Evidence) Late() bool {
	return slices.ContainsFunc(e.Missing, func(d Decision) bool { return d.Reason != BlackedOut })
}

// Gather judges whether the retiring key may be disabled: every instance attests the incoming key and
// none holds the retiring one, the incoming key was used since they have it, the retiring one has been quiet, the
// overlap has passed by the store's own record of the promotion, and there is no blackout.
func Gather(c inventory.Credential, f Facts, retiring, incoming key.Ref) Evidence {
	return gather(c, f, retiring, incoming, blackout(c, f.At))
}

// gather is Gather with decisions that come besides.
func gather(c inventory.Credential, f Facts, retiring, incoming key.Ref, besides ...Decision) Evidence {
	e := Evidence{GatheredAt: f.At, Unseen: f.unseen(c, retiring.KeyID), Untested: f.Untestable, Unheard: f.Capabilities.CanDisable && !f.Capabilities.ReportsRefusals}
	if f.Standings(c.Adopt)[retiring.KeyID] == StandingIncoming {
		return f.unkept(c, e, retiring, besides)
	}
	miss := func(r Reason, format string, args ...any) { e.Missing = append(e.Missing, refuse(r, format, args...)) }

	e.Missing = append(e.Missing, named(converged(f.Instances, retiring, incoming))...)
	if d := f.notExposed(incoming.KeyID); !d.OK && f.notExposed(retiring.KeyID).OK { // else it would be all that is left
		besides = append(besides, d)
	}
	for _, d := range append(besides, f.accepted(c, incoming.KeyID, IncomingNotLive)) {
		if !d.OK {
			e.Missing = append(e.Missing, d)
		}
	}
	e.Instances = f.stated()
	retiringKey, _ := f.Live(retiring.KeyID)
	retiringKey.KeyID = retiring.KeyID // also of one that is gone
	incomingKey, _ := f.Live(incoming.KeyID)
	if current, ok := f.Version(key.Current); !ok || current.KeyID != incoming.KeyID {
		miss(CurrentMoved, "the store's CURRENT is not the incoming key %s", incoming.KeyID)
	}
	owned, _ := f.Metadata.Key(incoming.KeyID)
	away, _ := f.Metadata.Key(retiring.KeyID)
	e.QuietSince = freshFrom(c, latest(owned.PromotedAt, owned.AttestedAt, away.DeliveredAt))
	if owned.PromotedAt.IsZero() {
		miss(CurrentMoved, "the store has no record that %s was promoted", incoming.KeyID)
	} else if over := OverlapEnds(c, overlapEnd(c, owned), retiringKey.ExpiresAt, incomingKey.ExpiresAt); f.At.Before(over) {
		miss(OverlapNotOver, "the overlap lasts until %s", over.UTC().Format(time.RFC3339))
	}
	if d := f.notDelivering(c, retiring.KeyID); !d.OK {
		e.Missing = append(e.Missing, d)
	}
	if f.Capabilities.ReportsUsage {
		e.IncomingUsedAt, e.RetiringUsedAt = incomingKey.LastUsedAt, retiringKey.LastUsedAt
		if len(f.Instances) > 0 && !f.usedByConsumers(incoming.KeyID, incomingKey.LastUsedAt) {
			miss(IncomingNotUsed, "the incoming key %s was not used yet since it was delivered (last used %s)", incoming.KeyID, ago(incomingKey.LastUsedAt))
		}
		e.QuietSince = latest(e.QuietSince, retiringKey.LastUsedAt)
	}
	if !expired(retiringKey, f.At) {
		had := freshFrom(c, latest(owned.PromotedAt, owned.AttestedAt, away.DeliveredAt))
		if d := f.quiet(c, retiringKey, had, owned); !d.OK {
			e.Missing = append(e.Missing, d)
		}
	}
	e.Complete = len(e.Missing) == 0
	e.Digest = digest(e)
	return e
}

// unkept is the evidence against a key that never became CURRENT, or was turned back from: what lets a rollback destroy it.
func (f Facts) unkept(c inventory.Credential, e Evidence, unwanted key.Ref, besides []Decision) Evidence {
	for _, d := range append(besides, MayDiscard(c, f, unwanted)) {
		if !d.OK {
			e.Missing = append(e.Missing, d)
		}
	}
	k, _ := f.Live(unwanted.KeyID)
	away, _ := f.Metadata.Key(unwanted.KeyID)
	back, _ := f.Metadata.Key(f.keptBeside(c, unwanted))
	e.NeverHad = f.neverHad(c, unwanted.KeyID)
	e.QuietSince = latest(k.LastUsedAt, away.DeliveredAt, back.DeliveredAt, back.AttestedAt)
	e.Instances, e.RetiringUsedAt = f.stated(), k.LastUsedAt
	e.Complete = len(e.Missing) == 0
	e.Digest = digest(e)
	return e
}

// stated is what instances attest, by their names.
func (f Facts) stated() []key.Statement {
	var list []key.Statement
	for _, i := range f.Instances {
		if i.Statement != nil {
			named := *i.Statement
			named.Instance = i.Name()
			list = append(list, named)
		}
	}
	return list
}

// neverHad tells whether a key of a rotation never came to a consumer: it was neither delivered nor promoted, and nobody reads PENDING.
func (f Facts) neverHad(c inventory.Credential, keyID string) bool {
	owned, _ := f.Metadata.Key(keyID)
	return f.Standings(c.Adopt)[keyID] == StandingIncoming && owned.DeliveredAt.IsZero() && owned.PromotedAt.IsZero() && !f.readsPending()
}

// unseen tells whether the issuer tells of no use of a key: it never reports uses, or none is recorded. Of a key that nobody ever had
// that proves no less.
func (f Facts) unseen(c inventory.Credential, keyID string) bool {
	if f.neverHad(c, keyID) {
		return false
	}
	k, live := f.Live(keyID)
	return !f.Capabilities.ReportsUsage || live && k.LastUsedAt.IsZero()
}

// Needs is what a gate asks for, nil for nothing: what the spec says, and at the revoke gate one approval more when the issuer tells of
// no use of the retiring key. A spec that asks nobody is asked by nobody then, too: the plan says so.
func Needs(c inventory.Credential, gate inventory.Gate, unseen bool) *inventory.Approval {
	needs := c.Approvals.For(gate)
	if needs == nil || needs.Count == 0 || !unseen || gate != inventory.GateRevoke {
		return needs
	}
	more := *needs
	more.Count++
	return &more
}

// quietWindow is how long a key must be without a reported use. What the issuer reports now is true up to its
// lag ago: so the lag comes on top of the window that shall be proved.
func quietWindow(c inventory.Credential, f Facts) time.Duration {
	return c.QuietWindow.Std() + f.Capabilities.UsageLag
}

func latest(times ...time.Time) time.Time {
	return slices.MaxFunc(times, time.Time.Compare)
}

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
		case i.Statement.Split:
			no = append(no, refuse(InstanceNotConverged, "the replicas of %s do not all use key %s: asked again and again, it states %v", i.Name(), to.KeyID, i.Statement.Keys))
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
	return allow("%s on key %s, and well", Counted(len(wave), "instance"), to.KeyID)
}

// IsBack judges a rollback's delivery: every instance attests the retiring key again. One that is not
// well does not hold it, since that may be why it turns back.
func IsBack(wave []Instance, to key.Ref) Decision {
	for _, d := range converged(wave, key.Ref{}, to) {
		return d
	}
	return allow("%s on key %s again", Counted(len(wave), "instance"), to.KeyID)
}

// MayPromote judges whether CURRENT may move to the incoming key: it is live, staged and works, the retiring
// one still has CURRENT, and every instance that is delivered to attests the incoming key.
func MayPromote(c inventory.Credential, f Facts, retiring, incoming key.Ref) Decision {
	pushed := slices.DeleteFunc(slices.Clone(f.Instances), func(i Instance) bool {
		return i.Pulls && i.Wave != inventory.CanaryWave
	})
	return mayPromote(c, f, retiring, incoming, f.promotable(c, incoming), pushed)
}

// mayPromote waits for these instances; stored tells whether the incoming key is stored as it must be.
func mayPromote(c inventory.Credential, f Facts, retiring, incoming key.Ref, stored bool, instances []Instance) Decision {
	current, _ := f.Version(key.Current)
	if incoming.KeyID != "" && current.KeyID == incoming.KeyID {
		return allow("CURRENT is the incoming key already")
	}
	if d := f.notExposed(incoming.KeyID); !d.OK {
		return d
	}
	if d := f.accepted(c, incoming.KeyID, IncomingNotLive); !d.OK {
		return d
	}
	if d := verified(f, incoming); !d.OK {
		return d
	}
	if !stored {
		return refuse(PendingMoved, "the store's PENDING is not version %s, where the incoming key was staged", incoming.StoreVersion)
	}
	if current.ID != PromotesFrom(f, retiring) {
		return refuse(CurrentMoved, "the store's CURRENT moved since the rotation began: somebody else changes this secret")
	}
	for _, d := range converged(instances, key.Ref{}, incoming) {
		return d
	}
	return allow("every delivered instance attests key %s", incoming.KeyID)
}

// PromotesFrom is the version that CURRENT moves away from when the incoming key is promoted: the retiring key's; where the rotation has
// none since the issuer knows no key in CURRENT any more, that. Empty for none.
func PromotesFrom(f Facts, retiring key.Ref) string {
	if current, _ := f.Version(key.Current); retiring.IsZero() && current.KeyID == "" {
		return current.ID
	}
	return retiring.StoreVersion
}

// MayDisable judges the retiring key from facts gathered right before, and the approvals. It is I3.
func MayDisable(c inventory.Credential, f Facts, retiring, incoming key.Ref, approvals []Verdict) Decision {
	switch f.Standings(c.Adopt)[retiring.KeyID] {
	case StandingRetired, StandingIncoming:
	case "":
		return Decision{OK: true, Reason: KeyGone, Message: message("key %s does not exist any more", retiring.KeyID)}
	default:
		return refuse(NotOurs, "key %s is no leftover key of %s", retiring.KeyID, c.Name)
	}
	if e := Gather(c, f, retiring, incoming); !e.Complete {
		return e.Missing[0]
	}
	may := approved(c, f, retiring, approvals, true)
	switch {
	case !may.OK:
	case f.neverHad(c, retiring.KeyID):
		may.Message = message("no consumer ever had key %s, and %s", retiring.KeyID, may.Message)
	default:
		may.Message = message("every instance is on %s, the retiring key %s is quiet, and %s", incoming.KeyID, retiring.KeyID, may.Message)
	}
	return may
}

// MayMint judges the approvals of the sign-off gate, right before a key is minted.
func MayMint(c inventory.Credential, f Facts, approvals []Verdict) Decision {
	return passed(inventory.GateSignoff, c.Approvals.Signoff, f, approvals)
}

// passed judges whether enough people approved a gate, and none of them too long ago.
func passed(gate inventory.Gate, needs *inventory.Approval, f Facts, approvals []Verdict) Decision {
	if needs == nil || needs.Count == 0 {
		return allow("nobody is asked")
	}
	if by, broken := BrokeGlass(approvals, f.At, *needs); broken {
		d := allow("the %s gate is passed, by break-glass of %s alone", gate, by.By)
		d.Broke = &by
		return d
	}
	if n := len(approvedBy(approvals, f.At, *needs)); n < needs.Count {
		return refuse(ApprovalsMissing, "%d of %s of the %s gate are valid now", n, Counted(needs.Count, "approval"), gate)
	}
	return allow("the %s gate is passed", gate)
}

// approved judges the approvals of the revoke gate. One that an earlier disabling used up, and that was
// taken back, does not count again. At destroying, those hold that the key was disabled on, which may have grown old, and no use may
// be told of a key that is disabled: what was asked for when it was disabled holds.
func approved(c inventory.Credential, f Facts, retiring key.Ref, approvals []Verdict, young bool) Decision {
	needs := Needs(c, inventory.GateRevoke, young && f.unseen(c, retiring.KeyID))
	if needs != nil && !young {
		ageless := *needs
		ageless.ApprovalExpires = 0
		needs = &ageless
	}
	owned, _ := f.Metadata.Key(retiring.KeyID)
	spent := owned.Spent
	if k, live := f.Live(retiring.KeyID); live && k.State == key.Active && !owned.BeingDisabled() {
		spent = append(slices.Clone(spent), owned.Approvals...) // somebody else took that disabling back
	}
	fresh := slices.DeleteFunc(slices.Clone(approvals), func(v Verdict) bool {
		return slices.Contains(spent, v.ID) || !young && v.Verified && !slices.Contains(owned.Approvals, v.ID)
	})
	return passed(inventory.GateRevoke, needs, f, fresh)
}

// MayRevoke judges whether the retiring key may be destroyed: all that disabling needs, and, where the
// issuer can disable, that this run disabled it, and that it is so for the soak. A blackout holds no destroying: nobody uses the key.
func MayRevoke(c inventory.Credential, f Facts, retiring, incoming key.Ref, run string, approvals []Verdict) Decision {
	k, live := f.Live(retiring.KeyID)
	if !live {
		return allow("key %s does not exist any more", retiring.KeyID)
	}
	if !f.Capabilities.CanDisable {
		return MayDisable(c, f, retiring, incoming, approvals)
	}
	if st := f.Standings(c.Adopt)[retiring.KeyID]; st != StandingRetired && st != StandingIncoming {
		return refuse(NotOurs, "key %s is no leftover key of %s", retiring.KeyID, c.Name)
	}
	owned, _ := f.Metadata.Key(retiring.KeyID)
	if k.State != key.Disabled || owned.DisabledAt.IsZero() {
		return refuse(NotDisabled, "key %s is not disabled", retiring.KeyID)
	}
	if owned.DisablingRun != run {
		return refuse(NotDisabled, "key %s was disabled by another run, on approvals that do not count for this one", retiring.KeyID)
	}
	if over := owned.DisabledAt.Add(c.DisableSoak.Std()); f.At.Before(over) {
		return refuse(SoakNotOver, "key %s is disabled since %s, and is watched until %s", retiring.KeyID,
			owned.DisabledAt.UTC().Format(time.RFC3339), over.UTC().Format(time.RFC3339))
	}
	if d := Missed(f, retiring); !d.OK {
		return d
	}
	if e := gather(c, f, retiring, incoming); !e.Complete {
		return e.Missing[0]
	}
	may := approved(c, f, retiring, approvals, false)
	if may.OK {
		may.Message = message("key %s was disabled for %s and nobody missed it, and %s", retiring.KeyID, c.DisableSoak, may.Message)
	}
	return may
}

// Describe is the evidence in one sentence, for the gate.
func (e Evidence) Describe() string {
	if !e.Complete {
		return fmt.Sprintf("incomplete: %s", e.Missing[0].Message)
	}
	text := fmt.Sprintf("%s on the incoming key, none on the retiring one, which is quiet since %s",
		Counted(len(e.Instances), "instance"), e.QuietSince.UTC().Format(time.RFC3339))
	if e.NeverHad {
		text = "no consumer was ever sent to the retiring key, and none states it"
	}
	if e.Unseen {
		text += " as far as attestations tell: the issuer tells of no use of it, so one approval more is asked for"
	}
	if e.Unheard {
		text += "; the issuer does not tell who is refused with a disabled key, so that nobody is seen to miss it in the soak"
	}
	if e.Untested {
		text += "; nothing tests whether the incoming key works: the issuer lists it as active"
	}
	return text
}
