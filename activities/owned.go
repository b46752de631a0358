package activities

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/keyturn/keyturn/internal/key"
)

// sameRecord compares two records of a key as stores keep them.
func sameRecord(a, b key.Owned) bool {
	textA, errA := json.Marshal(a)
	textB, errB := json.Marshal(b)
	return errA == nil && errB == nil && bytes.Equal(textA, textB)
}

// owned returns the metadata's record of a key, or a new one.
func owned(m *key.Metadata, ref key.Ref) *key.Owned {
	for i := range m.Keys {
		if m.Keys[i].KeyID == ref.KeyID {
			return &m.Keys[i]
		}
	}
	m.Keys = append(m.Keys, key.Owned{Ref: ref})
	return &m.Keys[len(m.Keys)-1]
}

// own writes a key into the metadata as one that a rotation minted, unless it was there when that was judged.
func (s *site) own(ctx context.Context, judged key.Metadata, ref key.Ref, rotation string) (key.Metadata, error) {
	if _, ours := judged.Key(ref.KeyID); ours {
		return judged, nil
	}
	m, err := s.amendKey(ctx, judged, ref, func(mine *key.Owned) { mine.Rotation = rotation })
	if err != nil {
		return m, fmt.Errorf("recording key %s: %w", ref.KeyID, err)
	}
	return m, nil
}

// disown removes the record of a key that is ours no more, and the intents that are resolved with it.
func (s *site) disown(ctx context.Context, ref key.Ref, resolved []key.Intent) (key.Metadata, error) {
	return s.amend(ctx, func(m *key.Metadata) error {
		disown(m, ref.KeyID)
		resolve(m, resolved)
		return nil
	})
}

// resolve removes mint intents of which it is known what became.
func resolve(m *key.Metadata, resolved []key.Intent) {
	m.Intents = slices.DeleteFunc(m.Intents, func(i key.Intent) bool { return slices.ContainsFunc(resolved, i.Is) })
}

// disown removes a destroyed key from the metadata.
func disown(m *key.Metadata, keyID string) {
	m.Keys = slices.DeleteFunc(m.Keys, func(k key.Owned) bool { return k.KeyID == keyID })
}
