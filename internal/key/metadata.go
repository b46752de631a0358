package key

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// Metadata is the truth about a credential that outlives Temporal's retention. Only the activities of
// its one live rotation write it.
type Metadata struct {
	// Revision is what this was read as. It goes with the value and with nothing else, so that a change of what was read
	// once is never written over what somebody wrote since.
	Revision Revision `json:"-"`
	// Lease says who may act on the credential; nil when nobody holds one.
	Lease *Lease `json:"lease,omitempty"`
	// Ended is the run that gave the lease back last. What is left of it takes none any more.
	Ended string `json:"ended,omitempty"`
	// Incident is the one whose emergency holds the credential; nil when none does.
	Incident *Incident `json:"incident,omitempty"`
	// Inventory and Environment are those of the specs that govern the credential, from the first key that was
	// issued by one; empty before. No other inventory's or environment's specs act on it.
	Inventory   string `json:"inventory,omitempty"`
	Environment string `json:"environment,omitempty"`
	// Generation is the highest spec generation that a key was issued with.
	Generation int64 `json:"generation,omitempty"`
	// Intents are of the mints that are not resolved: each is written before its mint, and goes when it is known what became of
	// that. Several are there when mints were interrupted.
	Intents []Intent `json:"intents,omitempty"`
	// Keys are the keys that are ours: live ones, and dead ones of which something is left to clean up.
	Keys []Owned `json:"keys,omitempty"`
	// Exposed are the keys that incidents declared exposed, and by which one each was, until they are gone: whatever else becomes of one,
	// nobody is sent to it again, and it is enabled for nobody.
	Exposed map[string]string `json:"exposed,omitempty"`
	// LastRotation is how the last one ended.
	LastRotation *LastRotation `json:"lastRotation,omitempty"`
	// RotateBy is when the cryptoperiod of the current key ends.
	RotateBy time.Time `json:"rotateBy,omitzero"`
	// Debt is what finished runs still owe.
	Debt []Debt `json:"debt,omitempty"`
	// BrokenGlass are the approvals by break-glass that something was done on and that nobody has reviewed.
	BrokenGlass []BrokenGlass `json:"brokenGlass,omitempty"`
	// GlassReviewed are the latest ones that somebody has.
	GlassReviewed []GlassReview `json:"glassReviewed,omitempty"`
}

// BrokenGlass is an approval that passed a gate alone where more or others were asked for.
type BrokenGlass struct {
	// ID is the nonce of the approval.
	ID       string `json:"id"`
	Rotation string `json:"rotation"`
	Gate     string `json:"gate"`
	// By and ByKey are whose signature it was.
	By     string `json:"by"`
	ByKey  string `json:"byKey"`
	Reason string `json:"reason"`
	// At is when something was first done on it.
	At time.Time `json:"at"`
}

// GlassReview is an approval by break-glass, and whose signature reviewed it.
type GlassReview struct {
	BrokenGlass
	ReviewedBy    string `json:"reviewedBy"`
	ReviewedByKey string `json:"reviewedByKey"`
}

// Key returns the owned key with this ID.
func (m Metadata) Key(keyID string) (Owned, bool) {
	for _, k := range m.Keys {
		if k.KeyID == keyID {
			return k, true
		}
	}
	return Owned{}, false
}

// Owes tells whether a finished run owes this.
func (m Metadata) Owes(kind, about string) bool {
	for _, d := range m.Debt {
		if d.Kind == kind && d.About == about {
			return true
		}
	}
	return false
}

// Incident is by which declaration an emergency acts.
type Incident struct {
	// ID is the workflow ID of the incident, Digest names the declaration: by it, the emergency goes on to its end.
	ID     string    `json:"id"`
	Digest string    `json:"digest"`
	At     time.Time `json:"at"`
	// Ending are the exposed keys without a record of ours that it began to destroy.
	Ending []string `json:"ending,omitempty"`
	// Disabling are those that it began to disable, since nobody may destroy them.
	Disabling []string `json:"disabling,omitempty"`
}

// LeaseTerm is how long a lease is held that nobody renews.
const LeaseTerm = time.Hour

// Lease is held by one run. It has no time of its own: each renewal is a revision of its own, and whoever wants the lease
// must see one revision for the whole term, by their own clock.
type Lease struct {
	Namespace string `json:"namespace"`
	// Workflow is the ID of the holder's workflow, or LeaseOfImport.
	Workflow string        `json:"workflow"`
	Rotation string        `json:"rotation,omitempty"`
	Run      string        `json:"run,omitempty"`
	Term     time.Duration `json:"term"`
}

// LeaseOfImport is in place of a workflow's ID where a person imports a key on the worker's host.
const LeaseOfImport = "import"

// Intent proves after a crash which key is an orphan of ours: one of Principal that is not in Known, that no store version
// holds, and that was made with the mint's token or within the time of its call. That call makes one key at most.
type Intent struct {
	Rotation string `json:"rotation"`
	Ordinal  int    `json:"ordinal"`
	// Run is the one that mints.
	Run string `json:"run,omitempty"`
	// Principal is empty where the issuer has one.
	Principal string    `json:"principal,omitempty"`
	At        time.Time `json:"at"`
	// Within is how long after At the call may still make a key: the longest issue attempt of who wrote this.
	Within time.Duration `json:"within"`
	// Known are the key IDs that the issuer had before the mint.
	Known []string `json:"known,omitempty"`
}

// Is tells whether two intents are of the same call.
func (i Intent) Is(other Intent) bool {
	return i.Rotation == other.Rotation && i.Ordinal == other.Ordinal && i.Run == other.Run && i.At.Equal(other.At)
}

// Owned is a key that keyturn minted or adopted.
type Owned struct {
	Ref
	IssuedAt time.Time `json:"issuedAt,omitzero"`
	// Rotation is the one that minted it; empty for an adopted key.
	Rotation string `json:"rotation,omitempty"`
	// VerifiedAt is when keyturn saw it work, and last used it itself, before it was delivered to anybody; zero for
	// an adopted key.
	VerifiedAt time.Time `json:"verifiedAt,omitzero"`
	// TestedUntil is until when keyturn's latest test of it, after that, may have been a use; UsedAt is the latest use that none of
	// its tests made, as the issuer reported it before a test could hide it.
	TestedUntil time.Time `json:"testedUntil,omitzero"`
	UsedAt      time.Time `json:"usedAt,omitzero"`
	// DeliveredAt is when its latest delivery began, its promotion to those who read the store included.
	DeliveredAt time.Time `json:"deliveredAt,omitzero"`
	// Delivering are the attempts that deliver it and have not ended, as far as is known, and since when each does.
	Delivering map[string]time.Time `json:"delivering,omitempty"`
	// AttestedAt is when the last wave that it was delivered to was seen to attest it.
	AttestedAt time.Time `json:"attestedAt,omitzero"`
	// AttestedReport is as of when the issuer reported uses then, by its own clock; zero where a report has no time.
	AttestedReport time.Time `json:"attestedReport,omitzero"`
	// TurnedBackAt is when a rotation turned back from it: none goes on with it while it leads back to another key.
	TurnedBackAt time.Time `json:"turnedBackAt,omitzero"`
	// PromotedAt is when it became CURRENT, by keyturn's doing.
	PromotedAt time.Time `json:"promotedAt,omitzero"`
	// KeptAt is when a rotation ended with it in CURRENT, after its overlap: from then on nothing leads back from it.
	KeptAt time.Time `json:"keptAt,omitzero"`
	// DisablingAt is when keyturn last began to disable it; zero once that was taken back, and for a key that
	// somebody else had disabled.
	DisablingAt time.Time `json:"disablingAt,omitzero"`
	// DisablingReport is as of when the issuer reported uses then, by its own clock; zero where a report has no time.
	DisablingReport time.Time `json:"disablingReport,omitzero"`
	// DisabledAt is when keyturn had disabled it, or found it so; DisablingRun is the run that did, DisablingEvidence the digest of
	// what it found then, and Approvals are the nonces of the approvals that it began to do so on. They count until the key is
	// destroyed, for this run alone.
	DisabledAt        time.Time `json:"disabledAt,omitzero"`
	DisablingRun      string    `json:"disablingRun,omitempty"`
	DisablingEvidence string    `json:"disablingEvidence,omitempty"`
	Approvals         []string  `json:"approvals,omitempty"`
	// ProbedAt is when it was destroyed and seen to be refused.
	ProbedAt time.Time `json:"probedAt,omitzero"`
	// Spent are approvals of a disabling that was taken back: they never count again.
	Spent []string `json:"spent,omitempty"`
}

// BeingDisabled tells whether keyturn began to disable the key, and has not written that it ended.
func (k Owned) BeingDisabled() bool { return !k.DisablingAt.IsZero() && k.DisabledAt.IsZero() }

// OutcomeFailed is the outcome of a rotation that could not go on, and left a person something to mend.
const OutcomeFailed = "failed"

// LastRotation is the outcome of a finished run.
type LastRotation struct {
	ID      string    `json:"id"`
	Outcome string    `json:"outcome"`
	At      time.Time `json:"at"`
	// Ended are the keys whose records went with it: they are dead, and nobody takes one for a key that never was.
	Ended []string `json:"ended,omitempty"`
}

// HasEnded tells whether it saw a key dead.
func (l *LastRotation) HasEnded(keyID string) bool {
	return l != nil && slices.Contains(l.Ended, keyID)
}

// Debt is something that a finished run still owes.
type Debt struct {
	// Kind is retired-key-alive, incoming-key-alive, version-left, copies-left, not-proved-dead or not-looked-at.
	Kind string `json:"kind"`
	// About names the key, instance or version.
	About string    `json:"about"`
	Since time.Time `json:"since"`
}

// Revision names one writing of a credential's metadata; empty when there is none yet. None comes twice.
type Revision string

// Next is the revision that this metadata is once it is written. It is made of what is written and what that replaces: so
// each writing has one of its own, and one that is repeated is known again.
func (m Metadata) Next() (Revision, error) {
	content, err := json.Marshal(m)
	if err != nil {
		return "", fmt.Errorf("encoding metadata: %w", err)
	}
	sum := sha256.Sum256(append([]byte(m.Revision+"\n"), content...))
	return Revision(hex.EncodeToString(sum[:16])), nil
}

// ActedAt is when a rotation last did something with a key that is on record; zero for never.
func (m Metadata) ActedAt() (last time.Time) {
	for _, k := range m.Keys {
		for _, at := range []time.Time{k.IssuedAt, k.DeliveredAt, k.AttestedAt, k.PromotedAt, k.TurnedBackAt, k.DisablingAt, k.DisabledAt} {
			if at.After(last) {
				last = at
			}
		}
	}
	return last
}
