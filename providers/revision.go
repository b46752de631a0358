package providers

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
)

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

// Over is what a store keeps, under its lock, when this metadata is put where other is kept: ErrConflict when that is not
// what it was read as, and the kept one when it is this, already written.
func (m Metadata) Over(kept Metadata) (Metadata, error) {
	next, err := m.Next()
	switch {
	case err != nil:
		return kept, err
	case kept.Revision == next:
		return kept, nil
	case kept.Revision != m.Revision:
		return kept, m.Conflict()
	}
	m.Revision = next
	return m, nil
}

// Conflict is why this metadata cannot be written any more.
func (m Metadata) Conflict() error {
	return fmt.Errorf("%w: the metadata was written since revision %q was read", ErrConflict, m.Revision)
}
