package providers

import (
	"fmt"

	"github.com/keyturn/keyturn/internal/key"
)

// Replaced is what a store keeps, under its lock, when metadata is put where other is kept: ErrConflict when that is not
// what it was read as, and the kept one when it is this, already written.
func Replaced(kept, m key.Metadata) (key.Metadata, error) {
	next, err := m.Next()
	switch {
	case err != nil:
		return kept, err
	case kept.Revision == next:
		return kept, nil
	case kept.Revision != m.Revision:
		return kept, Stale(m)
	}
	m.Revision = next
	return m, nil
}

// Stale is why metadata cannot be written any more.
func Stale(m key.Metadata) error {
	return fmt.Errorf("%w: the metadata was written since revision %q was read", ErrConflict, m.Revision)
}
