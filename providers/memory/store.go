package memory

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
)

// store is one secret.
type store struct {
	last     int
	versions []*version
	labels   map[key.Label]*version
	metadata key.Metadata
}

type version struct {
	key.Version
	staged secret.Bundle // what Stage was given
	whole  secret.Bundle // with foreign fields
}

// storeAt returns the secret at a path, and makes it. The World is locked.
func (w *World) storeAt(path string) *store {
	s := w.stores[path]
	if s == nil {
		s = &store{labels: map[key.Label]*version{}}
		w.stores[path] = s
	}
	return s
}

// AddVersion puts a version into a store that existed before keyturn, and gives it CURRENT. Fields that
// are no part of a key are foreign. It returns the version's ID.
func (w *World) AddVersion(path string, b secret.Bundle) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	s, now := w.storeAt(path), w.now().UTC()
	v := s.add("", b, b, now)
	s.label(key.Current, v, now)
	return v.ID
}

// Foreign changes the fields of every version as another owner of the secret would.
func (w *World) Foreign(path string, fields secret.Bundle) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, v := range w.storeAt(path).versions {
		v.whole = v.whole.With(copied(fields))
	}
}

func (s *store) add(token string, staged, whole secret.Bundle, now time.Time) *version {
	s.last++
	v := &version{
		Version: key.Version{ID: fmt.Sprintf("v%d", s.last), Token: token, CreatedAt: now},
		staged:  copied(staged), whole: copied(whole),
	}
	s.versions = append(s.versions, v)
	return v
}

func (s *store) find(id string) *version {
	for _, v := range s.versions {
		if v.ID == id {
			return v
		}
	}
	return nil
}

func (s *store) label(l key.Label, v *version, now time.Time) {
	s.labels[l], v.LabelledAt = v, now
}

func (s *store) unlabel(l key.Label, v *version) {
	if s.labels[l] == v {
		delete(s.labels, l)
	}
}

func (s *store) labelsOf(v *version) []key.Label {
	labels := slices.Collect(maps.Keys(s.labels))
	labels = slices.DeleteFunc(labels, func(l key.Label) bool { return s.labels[l] != v })
	slices.Sort(labels)
	return labels
}

// secretStore serves one secret.
type secretStore struct {
	w    *World
	path string
}

var _ providers.Store = secretStore{}

func (s secretStore) do(ctx context.Context, op Op, effect func(st *store, now time.Time) error) error {
	return s.w.do(ctx, op, func(now time.Time) error { return effect(s.w.storeAt(s.path), now) })
}

// Versions implements providers.Store.
func (s secretStore) Versions(ctx context.Context) (list []key.Version, err error) {
	err = s.do(ctx, OpVersions, func(st *store, _ time.Time) error {
		for _, v := range st.versions {
			told := v.Version
			told.Labels = st.labelsOf(v)
			list = append(list, told)
		}
		return nil
	})
	return list, err
}

// Read implements providers.Store.
func (s secretStore) Read(ctx context.Context, id string) (b secret.Bundle, err error) {
	err = s.do(ctx, OpRead, func(st *store, _ time.Time) error {
		v := st.find(id)
		if v == nil {
			return fmt.Errorf("%w: version %q", providers.ErrNotFound, id)
		}
		b = copied(v.whole)
		return nil
	})
	return b, err
}

// ReadLabel implements providers.Store.
func (s secretStore) ReadLabel(ctx context.Context, l key.Label) (b secret.Bundle, err error) {
	err = s.do(ctx, OpReadLabel, func(st *store, _ time.Time) error {
		b, err = st.byLabel(l)
		return err
	})
	return b, err
}

func (s *store) byLabel(l key.Label) (secret.Bundle, error) {
	if l == "" {
		l = key.Current
	}
	v := s.labels[l]
	if v == nil {
		return secret.Bundle{}, fmt.Errorf("%w: no version bears %s", providers.ErrNotFound, l)
	}
	return copied(v.whole), nil
}

// Stage implements providers.Store.
func (s secretStore) Stage(ctx context.Context, token string, b secret.Bundle) (id string, err error) {
	err = s.do(ctx, OpStage, func(st *store, now time.Time) error {
		v, err := st.stage(token, b, now)
		if err != nil {
			return err
		}
		id = v.ID
		if v.LabelledAt.Equal(now) {
			s.w.note(now, Event{Op: OpStage, Path: s.path, Version: id, Token: token})
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	return id, nil
}

func (s *store) stage(token string, b secret.Bundle, now time.Time) (*version, error) {
	if token == "" || len(b.Names()) == 0 {
		return nil, fmt.Errorf("%w: token or bundle is empty", providers.ErrInvalid)
	}
	for _, v := range s.versions {
		switch {
		case v.Token != token:
		case !v.staged.Equal(b):
			return nil, fmt.Errorf("%w: the token was used for another bundle", providers.ErrConflict)
		default:
			if len(s.labelsOf(v)) == 0 {
				s.label(key.Pending, v, now)
			}
			return v, nil
		}
	}
	whole := b
	if current := s.labels[key.Current]; current != nil {
		whole = current.whole.With(b)
	}
	v := s.add(token, b, whole, now)
	s.label(key.Pending, v, now)
	return v, nil
}

// Promote implements providers.Store.
func (s secretStore) Promote(ctx context.Context, from, to string) error {
	return s.do(ctx, OpPromote, func(st *store, now time.Time) error {
		next, current := st.find(to), ""
		if v := st.labels[key.Current]; v != nil {
			current = v.ID
		}
		switch {
		case next == nil:
			return fmt.Errorf("%w: version %q", providers.ErrNotFound, to)
		case current == to:
			return nil
		case current != from:
			return fmt.Errorf("%w: CURRENT is on %q, not on %q", providers.ErrConflict, current, from)
		}
		st.unlabel(key.Pending, next)
		st.unlabel(key.Previous, next)
		st.label(key.Current, next, now)
		if before := st.find(from); before != nil {
			st.label(key.Previous, before, now)
		}
		s.w.note(now, Event{Op: OpPromote, Path: s.path, Version: to, From: from})
		return nil
	})
}

// Prune implements providers.Store.
func (s secretStore) Prune(ctx context.Context, id string) error {
	return s.do(ctx, OpPrune, func(st *store, now time.Time) error {
		v := st.find(id)
		switch {
		case v == nil:
			return nil
		case st.labels[key.Current] == v:
			return fmt.Errorf("%w: version %s is CURRENT", providers.ErrDenied, id)
		}
		st.versions = slices.DeleteFunc(st.versions, func(other *version) bool { return other == v })
		for _, l := range st.labelsOf(v) {
			st.unlabel(l, v)
		}
		s.w.note(now, Event{Op: OpPrune, Path: s.path, Version: id})
		return nil
	})
}

// Metadata implements providers.Store.
func (s secretStore) Metadata(ctx context.Context) (m key.Metadata, err error) {
	err = s.do(ctx, OpMetadata, func(st *store, _ time.Time) error {
		m, err = independent(st.metadata)
		return err
	})
	return m, err
}

// PutMetadata implements providers.Store.
func (s secretStore) PutMetadata(ctx context.Context, m key.Metadata) (now key.Revision, err error) {
	err = s.do(ctx, OpPutMetadata, func(st *store, at time.Time) error {
		kept, err := providers.Replaced(st.metadata, m)
		if err != nil {
			return err
		}
		now = kept.Revision
		st.metadata, err = independent(kept)
		s.w.note(at, Event{Op: OpPutMetadata, Path: s.path})
		return err
	})
	if err != nil {
		return "", err
	}
	return now, nil
}

// independent returns a copy that shares nothing, as if it had gone over the wire.
func independent(m key.Metadata) (c key.Metadata, err error) {
	data, err := json.Marshal(m)
	if err != nil {
		return c, err
	}
	c.Revision = m.Revision
	return c, json.Unmarshal(data, &c)
}
