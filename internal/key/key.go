// Package key has the plain data about issued keys: how they are named outside issuer, store and consumer, what is observed
// of them, what an issuer can do, a store's versions, and the metadata that outlives a run. Nothing in it can hold a secret,
// so that workflows and package policy may know it.
package key

import "time"

// Ref names a key without telling it. It is all that travels through Temporal.
type Ref struct {
	// Principal is whose key it is at the issuer: a user, a service account, a gateway client.
	Principal string `json:"principal"`
	// KeyID is the issuer's name for the key.
	KeyID string `json:"keyID"`
	// StoreVersion is the store's version that holds the value; empty when no store has it.
	StoreVersion string `json:"storeVersion,omitempty"`
	// Fingerprint is secret.Bundle.Fingerprint; empty for a weak secret or one in no store.
	Fingerprint string `json:"fingerprint,omitempty"`
}

// Is tells whether a statement's text (a fingerprint or a key ID) means this key.
func (r Ref) Is(statement string) bool {
	return statement != "" && (statement == r.KeyID || statement == r.Fingerprint)
}

// IsZero tells whether r names no key.
func (r Ref) IsZero() bool { return r == Ref{} }

// State is what the issuer says of a key.
type State string

// The states of a key. A destroyed key is not listed at all.
const (
	Active   State = "active"
	Disabled State = "disabled"
)

// Info is what an issuer tells about one of its keys. Zero times mean "none" or "not told".
type Info struct {
	Principal  string    `json:"principal"`
	KeyID      string    `json:"keyID"`
	State      State     `json:"state"`
	CreatedAt  time.Time `json:"createdAt"`
	ExpiresAt  time.Time `json:"expiresAt,omitzero"`
	LastUsedAt time.Time `json:"lastUsedAt,omitzero"`
	// LastUsedBy says who used it last, where the issuer knows: a service, an address.
	LastUsedBy string `json:"lastUsedBy,omitempty"`
	// ReportedAt is as of when the issuer tells LastUsedAt, by the same clock, which may be another than ours. One that
	// stands still is that of a stale report. Zero: the report has no time of its own.
	ReportedAt time.Time `json:"reportedAt,omitzero"`
	// Token is the issue token the key was minted with, where the issuer remembers it.
	Token string `json:"token,omitempty"`
}

// Statement is an attestation: which keys one instance says, or is seen, to use now.
type Statement struct {
	Instance string `json:"instance"`
	// Keys are fingerprints or key IDs. During a reload an instance may hold two.
	Keys       []string  `json:"keys"`
	ObservedAt time.Time `json:"observedAt"`
	// Source says who states it: "http://…", "issuer usage", a program's name.
	Source string `json:"source"`
	// UsedAt is when the key was last used, in a statement that is made from the issuer's record of uses; else zero.
	UsedAt time.Time `json:"usedAt,omitzero"`
	// Split: the instance was asked several times and did not always state the same, since its replicas differ. Keys
	// are all that were stated.
	Split bool `json:"split,omitempty"`
}

// Holds tells whether the instance states that it uses the key.
func (s Statement) Holds(r Ref) bool {
	for _, k := range s.Keys {
		if r.Is(k) {
			return true
		}
	}
	return false
}

// Sample is one reading of a health signal. Errors and Total either count since the source started
// (Window zero) or over the Window that ends At.
type Sample struct {
	Errors float64       `json:"errors"`
	Total  float64       `json:"total"`
	At     time.Time     `json:"at"`
	Window time.Duration `json:"window,omitempty"`
}
