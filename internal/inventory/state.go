package inventory

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"
)

// State is what is true of a credential, as its issuer and store say. The store keeps the truth; the
// credential's Schedule has a copy, as an index.
type State struct {
	// KeyID is the key in CURRENT, KeyIssuedAt when it was made, KeyExpires its own end; zero where that is
	// not known or there is none.
	KeyID       string    `json:"keyID,omitempty"`
	KeyIssuedAt time.Time `json:"keyIssuedAt,omitzero"`
	KeyExpires  time.Time `json:"keyExpires,omitzero"`
	// RotateBy is when its cryptoperiod ends.
	RotateBy time.Time `json:"rotateBy,omitzero"`
	// LastOutcome is how the last rotation that changed something ended, LastRotation when.
	LastOutcome  string    `json:"lastOutcome,omitempty"`
	LastRotation time.Time `json:"lastRotation,omitzero"`
	// Debt counts what finished rotations still owe.
	Debt int `json:"debt,omitempty"`
}

// Digest names what a spec says, whoever signed it and when: the same for two specs that differ in nothing
// but generation and not-after. It is 128 bits, in hex.
func (s Spec) Digest() (string, error) {
	s.Generation, s.NotAfter = 0, time.Time{}
	packed, err := NewSpec(s)
	if err != nil {
		return "", fmt.Errorf("digesting spec of %q: %w", s.Credential.Name, err)
	}
	sum := sha256.Sum256(packed.Body)
	return hex.EncodeToString(sum[:16]), nil
}
