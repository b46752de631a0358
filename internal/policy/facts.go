package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keyturn/keyturn/internal/key"
)

// Facts are what Inspect found at one moment.
type Facts struct {
	At time.Time
	// LookedFor is how long before that the issuer was asked for its keys and their uses.
	LookedFor    time.Duration
	Capabilities key.Capabilities
	// Keys are all the principal has at the issuer, oldest first.
	Keys []key.Info
	// Versions are all that the store has, oldest first.
	Versions []StoredKey
	Metadata key.Metadata
	// Held is by whom the credential is held, who is not its rotation in this namespace; empty when nobody else holds it.
	Held string
	// Instances of all consumers, in the order of the spec.
	Instances []Instance
	// Tests are what tests of keys said just now, by key ID. Of a key without one the issuer's list is the answer.
	Tests map[string]Test
	// Untestable: nothing can test a key of this credential.
	Untestable bool
	// Denied are the bounds of the worker configuration that the spec breaks. With any, nothing else was
	// gathered: what is out of bounds is not even looked at.
	Denied []string
	// RightsObjections are what the issuer has against the rights of the principal, for people.
	RightsObjections []string
	// SilentSignals are the health signals that say nothing now, and why.
	SilentSignals []string
	// StoreProblem is why the store cannot be used; empty when it can.
	StoreProblem string
}

// StoredKey is a version of the store and the key that its value is.
type StoredKey struct {
	key.Version
	// KeyID is empty for a value that is no live key of the principal.
	KeyID       string
	Fingerprint string
	// Empty: the version bears PENDING, and has no value. Whoever made it did not end: nothing is staged in it.
	Empty bool
}

// Instance is what was seen of one instance of a consumer.
type Instance struct {
	Consumer string `json:"consumer"`
	Instance string `json:"instance"`
	Wave     string `json:"wave"`
	// Pulls: the instance reads the store by itself.
	Pulls bool `json:"pulls,omitempty"`
	// Unreachable is why its target cannot be delivered to.
	Unreachable string `json:"unreachable,omitempty"`
	// ChangesRights is what a delivery would change for whoever may read its copy now.
	ChangesRights string `json:"changesRights,omitempty"`
	// Unhealthy is why its check fails.
	Unhealthy string `json:"unhealthy,omitempty"`
	// Statement is its attestation; nil when it made none.
	Statement *key.Statement `json:"statement,omitempty"`
	// NotAttesting is why there is no statement.
	NotAttesting string `json:"notAttesting,omitempty"`
}

// Name is "consumer" or "consumer/instance".
func (i Instance) Name() string { return InstanceName(i.Consumer, i.Instance) }

// InstanceName is how messages call an instance.
func InstanceName(consumer, instance string) string {
	if consumer == instance {
		return consumer
	}
	return consumer + "/" + instance
}

// Version returns the version that bears a label.
func (f Facts) Version(l key.Label) (StoredKey, bool) {
	for _, v := range f.Versions {
		if v.Has(l) {
			return v, true
		}
	}
	return StoredKey{}, false
}

// Unfinished returns the version that bears PENDING of a rotation that did not promote it. One that is CURRENT as well was
// promoted, and its label is merely not taken yet.
func (f Facts) Unfinished() (StoredKey, bool) {
	v, pending := f.Version(key.Pending)
	return v, pending && !v.Has(key.Current)
}

// Live returns the issuer's record of a key.
func (f Facts) Live(keyID string) (key.Info, bool) {
	i := slices.IndexFunc(f.Keys, func(k key.Info) bool { return k.KeyID == keyID })
	if i < 0 {
		return key.Info{}, false
	}
	return f.Keys[i], true
}

// Ref names a live key with all that is known of it.
func (f Facts) Ref(k key.Info) key.Ref {
	ref := key.Ref{Principal: k.Principal, KeyID: k.KeyID}
	for _, v := range f.Versions {
		if v.KeyID == k.KeyID {
			ref.StoreVersion, ref.Fingerprint = v.ID, v.Fingerprint
		}
	}
	return ref
}

// MintedBy is the key that a rotation minted, by the record; zero for none.
func (f Facts) MintedBy(rotation string) key.Ref {
	for _, owned := range f.Metadata.Keys {
		if owned.Rotation == rotation {
			return f.Named(owned.Ref)
		}
	}
	return key.Ref{}
}

// Named returns what is true of a key that somebody names: of its fields only the key ID is believed, and
// of a key that is dead the version, where that holds no live key.
func (f Facts) Named(ref key.Ref) key.Ref {
	if k, live := f.Live(ref.KeyID); live {
		return f.Ref(k)
	}
	for _, v := range f.Versions {
		if v.ID == ref.StoreVersion && v.KeyID == "" {
			return key.Ref{Principal: ref.Principal, KeyID: ref.KeyID, StoreVersion: v.ID, Fingerprint: v.Fingerprint}
		}
	}
	return key.Ref{Principal: ref.Principal, KeyID: ref.KeyID}
}

// Standing says what a key of the principal is to us.
type Standing string

// The standings of a key.
const (
	// StandingCurrent is the key that consumers use: the retiring one of the next rotation.
	StandingCurrent Standing = "current"
	// StandingRetired is an own key that was CURRENT once and is still alive.
	StandingRetired Standing = "retired"
	// StandingIncoming is an own key that never became CURRENT.
	StandingIncoming Standing = "incoming"
	// StandingOrphan is a key that a mint intent proves to be ours, and that no store holds.
	StandingOrphan Standing = "orphan"
	// StandingUnproved is a key that an interrupted mint may have made, and that is not proved to be its orphan. It is never
	// touched, and no key is minted beside it.
	StandingUnproved Standing = "unproved"
	// StandingUnknown is a key that is not ours.
	StandingUnknown Standing = "unknown"
)

// Standings judges each live key. A key is ours when it is in the store's versions or metadata, when
// the spec adopts it, or when a mint intent proves it; any other is unknown, and never touched.
func (f Facts) Standings(adopt []string) map[string]Standing {
	orphans := f.Orphans(adopt)
	currentID := f.currentKeyID(adopt)
	standings := map[string]Standing{}
	for _, k := range f.Keys {
		owned, inMetadata := f.Metadata.Key(k.KeyID)
		stored := slices.IndexFunc(f.Versions, func(v StoredKey) bool { return v.KeyID == k.KeyID })
		switch {
		case k.KeyID == currentID:
			standings[k.KeyID] = StandingCurrent
		case slices.Contains(orphans, k.KeyID):
			standings[k.KeyID] = StandingOrphan
		case inMetadata && owned.Rotation != "" && (owned.PromotedAt.IsZero() || f.TurnedBackFrom(owned)):
			standings[k.KeyID] = StandingIncoming
		case stored >= 0 && f.Versions[stored].Has(key.Pending) && !f.Versions[stored].Has(key.Previous):
			standings[k.KeyID] = StandingIncoming
		case inMetadata || stored >= 0 || slices.Contains(adopt, k.KeyID):
			standings[k.KeyID] = StandingRetired
		case !f.unproved(adopt, k).OK:
			standings[k.KeyID] = StandingUnproved
		default:
			standings[k.KeyID] = StandingUnknown
		}
	}
	return standings
}

// TurnedBackFrom tells whether a key is not CURRENT any more since its rotation turned back, though that was not recorded to its end:
// CURRENT is the one of before again.
func (f Facts) TurnedBackFrom(owned key.Owned) bool {
	current, _ := f.Version(key.Current)
	to, _ := f.Metadata.Key(current.KeyID)
	return !owned.TurnedBackAt.IsZero() && !to.PromotedAt.IsZero() && to.PromotedAt.Before(owned.PromotedAt)
}

// currentKeyID is the key in CURRENT; with no CURRENT, the one adopted key that is active.
func (f Facts) currentKeyID(adopt []string) string {
	if v, ok := f.Version(key.Current); ok {
		return v.KeyID
	}
	only := ""
	for _, k := range f.Keys {
		if k.State == key.Active && slices.Contains(adopt, k.KeyID) {
			if only != "" {
				return ""
			}
			only = k.KeyID
		}
	}
	return only
}

// Believe leaves out of instances the statements from the issuer's record of uses that prove nothing: the key was
// last used before it was delivered, by keyturn, which tries each key, or by nobody who was meant to.
func (f Facts) Believe(instances []Instance) []Instance {
	believed := slices.Clone(instances)
	for i := range believed {
		st := believed[i].Statement
		if st == nil || st.UsedAt.IsZero() {
			continue
		}
		for _, keyID := range st.Keys {
			if !f.usedByConsumers(keyID, st.UsedAt) {
				believed[i].Statement = nil
				believed[i].NotAttesting = message("no use of key %s since its delivery is reported yet", keyID)
			}
		}
	}
	return believed
}

// usedByConsumers tells whether consumers have used a key since it was delivered, when the issuer tells of a use at this time.
// keyturn uses it itself, until VerifiedAt and in each test: what was seen of others before a test is noted.
func (f Facts) usedByConsumers(keyID string, at time.Time) bool {
	owned, ours := f.Metadata.Key(keyID)
	switch {
	case at.IsZero():
		return false
	case !ours:
		return true
	case owned.Rotation != "" && owned.DeliveredAt.IsZero() && owned.PromotedAt.IsZero():
		return false // nobody else has it
	}
	since := owned.DeliveredAt
	if tested := latest(owned.VerifiedAt, owned.TestedUntil); !tested.IsZero() {
		// The two clocks differ, and who reports late may round as coarsely.
		since = latest(since, tested.Add(clockGrain+min(f.Capabilities.UsageLag, time.Minute)))
	}
	return at.After(since) || owned.UsedAt.After(owned.DeliveredAt)
}

// SeenUsed is when a key was last used by others than keyturn, as far as these facts tell: to be noted before a test of it hides
// that. It is what was noted before where they tell of no later use.
func (f Facts) SeenUsed(keyID string) time.Time {
	k, _ := f.Live(keyID)
	owned, _ := f.Metadata.Key(keyID)
	if f.usedByConsumers(keyID, k.LastUsedAt) {
		return latest(owned.UsedAt, k.LastUsedAt)
	}
	return owned.UsedAt
}

// clockGrain is how coarse an issuer's creation time may be: IAM cuts it to the second.
const clockGrain = 2 * time.Second

// Describe names the issuer's keys, with how each stands.
func (f Facts) Describe(adopt []string) string {
	standings := f.Standings(adopt)
	var list []string
	for _, k := range f.Keys {
		list = append(list, fmt.Sprintf("%s (%s, %s)", k.KeyID, standings[k.KeyID], k.State))
	}
	return strings.Join(list, ", ")
}
