package activities

import (
	"context"
	"errors"
	"fmt"

	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/providers"
)

// amendTries is how often a change of the metadata is tried, while others write it at the same time.
const amendTries = 5

// errUnchanged ends a change of the metadata that finds all as it should be: nothing is written then.
var errUnchanged = errors.New("unchanged")

// amend changes the metadata in the store, and returns it as it is then. It is read anew and changed anew when somebody else
// wrote meanwhile, so that change must touch only what it is about, and have no effect besides but events. An error of change ends
// it, and nothing is written.
func (s *site) amend(ctx context.Context, change func(*key.Metadata) error) (m key.Metadata, err error) {
	for range amendTries {
		if m, err = s.store.Metadata(ctx); err != nil {
			return m, fmt.Errorf("reading metadata of the store: %w", err)
		}
		if err = s.fenced(m); err != nil {
			return m, err
		}
		switch err = change(&m); {
		case errors.Is(err, errUnchanged):
			return m, nil
		case err != nil:
			return m, err
		}
		if err = s.counts(ctx); err != nil {
			return m, err
		}
		if m, err = s.put(ctx, m); !errors.Is(err, providers.ErrConflict) {
			return m, err
		}
	}
	return m, err
}

// amendKey changes the record of a key that still is as it was judged.
func (s *site) amendKey(ctx context.Context, judged key.Metadata, ref key.Ref, change func(*key.Owned)) (key.Metadata, error) {
	return s.amend(ctx, func(m *key.Metadata) error {
		if err := asJudged(judged, *m, ref.KeyID); err != nil {
			return err
		}
		change(owned(m, ref))
		return nil
	})
}

// put writes metadata over the revision that it was read as. What was judged by it is judged anew, by another attempt, when
// somebody else wrote since.
func (s *site) put(ctx context.Context, m key.Metadata) (key.Metadata, error) {
	now, err := s.store.PutMetadata(ctx, m)
	if errors.Is(err, providers.ErrConflict) {
		return m, fmt.Errorf("%w: %w", errWritten, err)
	}
	if err != nil {
		return m, err
	}
	m.Revision = now
	return m, nil
}

// unchanged is asked right before an effect. It reads the metadata once more, and answers "not yet" when its record of a key is
// not the one that was judged: activities of one worker take turns, those of two do not. What was judged must still hold.
func (s *site) unchanged(ctx context.Context, judged policy.Facts, keyID string) (key.Metadata, error) {
	m, err := s.store.Metadata(ctx)
	if err != nil {
		return m, fmt.Errorf("reading metadata of the store: %w", err)
	}
	if err := s.fenced(m); err != nil {
		return m, err
	}
	if err := s.counts(ctx); err != nil {
		return m, err
	}
	if err := asJudged(judged.Metadata, m, keyID); err != nil {
		return m, err
	}
	return m, s.stillJudged(judged)
}

// asJudged answers "not yet" when the record of a key is not the one that was judged.
func asJudged(judged, m key.Metadata, keyID string) error {
	before, had := judged.Key(keyID)
	now, has := m.Key(keyID)
	if had != has || !sameRecord(before, now) {
		return notYet("another worker has just acted on key "+keyID+"; looking again", 0)
	}
	return nil
}
