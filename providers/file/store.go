package file

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/keyturn/keyturn/internal/atomicfile"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/internal/strictyaml"
	"github.com/keyturn/keyturn/providers"
)

// The layout of a secret's folder, <root>/<path>:
//
//	state.json        versions, labels and metadata; the truth
//	versions/v1.json  the fields of a version, one JSON object of strings
//	current           a link to the version with CURRENT: what a consumer reads who reads by default
//	lock              held by whoever changes something
//
// Files have mode 0600, folders 0700. A change writes the value of a new version, then the state, then
// the link, and removes values that the state does not know last. Cut short anywhere, it leaves the old
// state or the new one; the next change first brings link and values after it.
const (
	stateName    = "state.json"
	versionsName = "versions"
	currentName  = "current"
	lockName     = "lock"

	// maxFileSize bounds what is read into memory.
	maxFileSize = 4 << 20
)

// store keeps one secret. All its truth is in the files: two stores, in two processes, are one.
type store struct {
	root, path string
	now        func() time.Time
	// wrote is called after each step of a change. Tests crash there.
	wrote func(step string) error
}

func openStore(e providers.Environment, a Account, c StoreConfig) (*store, error) {
	for _, p := range slices.Concat(a.Problems(), c.Problems()) {
		return nil, fmt.Errorf("opening file store: %w: %s", providers.ErrInvalid, problemText(p))
	}
	s := &store{root: a.Root, path: c.Path, now: e.Now, wrote: func(string) error { return nil }}
	if s.now == nil {
		s.now = time.Now
	}
	return s, nil
}

func problemText(p strictyaml.Problem) string { return p.Field + " " + p.What + "; write " + p.Write }

// Versions implements providers.Store.
func (s *store) Versions(ctx context.Context) ([]key.Version, error) {
	_, st, done, err := s.look(ctx)
	if err != nil {
		return nil, s.failed("listing versions", err)
	}
	defer done()
	list := make([]key.Version, 0, len(st.Versions))
	for _, v := range st.Versions {
		list = append(list, key.Version{
			ID: v.ID, Labels: st.labelsOf(v.ID), Token: v.Token, CreatedAt: v.CreatedAt, LabelledAt: v.LabelledAt,
		})
	}
	return list, nil
}

// Read implements providers.Store.
func (s *store) Read(ctx context.Context, id string) (secret.Bundle, error) {
	dir, st, done, err := s.look(ctx)
	if err != nil {
		return secret.Bundle{}, s.failed("reading version", err)
	}
	defer done()
	b, err := s.readVersion(dir, st, id)
	if err != nil {
		return secret.Bundle{}, s.failed("reading version", err)
	}
	return b, nil
}

// ReadLabel implements providers.Store. A default read goes by the link, as a consumer's does.
func (s *store) ReadLabel(ctx context.Context, l key.Label) (secret.Bundle, error) {
	dir, st, done, err := s.look(ctx)
	if err != nil {
		return secret.Bundle{}, s.failed("reading", err)
	}
	defer done()
	id, labelled := st.Labels[l]
	b, err := secret.Bundle{}, fmt.Errorf("%w: no version bears the label", providers.ErrNotFound)
	switch {
	case l == "" && dir != nil:
		b, err = readBundle(dir, currentName)
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%w: there is no CURRENT version", providers.ErrNotFound)
		}
	case labelled:
		b, err = s.readVersion(dir, st, id)
	}
	if err != nil {
		return secret.Bundle{}, s.failed(fmt.Sprintf("reading label %q", l), err)
	}
	return b, nil
}

// Stage implements providers.Store.
func (s *store) Stage(ctx context.Context, token string, b secret.Bundle) (string, error) {
	var id string
	err := s.change(ctx, func(dir *os.Root, st *state) (err error) {
		id, err = s.stage(dir, st, token, b)
		return err
	})
	if err != nil {
		return "", s.failed("staging", err)
	}
	return id, nil
}

func (s *store) stage(dir *os.Root, st *state, token string, b secret.Bundle) (string, error) {
	if token == "" || len(b.Names()) == 0 {
		return "", fmt.Errorf("%w: token or bundle is empty", providers.ErrInvalid)
	}
	now := s.now().UTC()
	if staged, again := st.byToken(token); again {
		before, err := s.readVersion(dir, st, staged.ID)
		if err != nil {
			return "", err
		}
		defer before.Close()
		switch own := before.Only(staged.Fields...); {
		case !own.Equal(b):
			return "", fmt.Errorf("%w: the token was used for another bundle, version %s", providers.ErrConflict, staged.ID)
		case len(st.labelsOf(staged.ID)) > 0:
			return staged.ID, errUnchanged
		}
		st.label(key.Pending, staged.ID, now) // another stage took it away
		return staged.ID, nil
	}
	whole := b
	if id, ok := st.Labels[key.Current]; ok {
		current, err := s.readVersion(dir, st, id)
		if err != nil {
			return "", err
		}
		defer current.Close()
		whole = current.With(b)
	}
	v := st.add(token, b.Names(), now)
	return v.ID, s.writeVersion(dir, v.ID, whole)
}

// Promote implements providers.Store.
func (s *store) Promote(ctx context.Context, from, to string) error {
	err := s.change(ctx, func(_ *os.Root, st *state) error { return st.promote(from, to, s.now().UTC()) })
	if err != nil {
		return s.failed("promoting", err)
	}
	return nil
}

// Prune implements providers.Store.
func (s *store) Prune(ctx context.Context, id string) error {
	err := s.change(ctx, func(_ *os.Root, st *state) error { return st.prune(id) })
	if err != nil {
		return s.failed("pruning", err)
	}
	return nil
}

// Metadata implements providers.Store.
func (s *store) Metadata(ctx context.Context) (key.Metadata, error) {
	_, st, done, err := s.look(ctx)
	if err != nil {
		return key.Metadata{}, s.failed("reading metadata", err)
	}
	defer done()
	m, err := st.metadata()
	if err != nil {
		return key.Metadata{}, s.failed("reading metadata", err)
	}
	return m, nil
}

// PutMetadata implements providers.Store.
func (s *store) PutMetadata(ctx context.Context, m key.Metadata) (now key.Revision, err error) {
	err = s.change(ctx, func(_ *os.Root, st *state) (err error) {
		now, err = st.put(m)
		return err
	})
	if err != nil {
		return "", s.failed("writing metadata", err)
	}
	return now, nil
}

func (s *store) failed(doing string, err error) error {
	return fmt.Errorf("%s of secret %q: %w", doing, s.path, err)
}

// look opens the secret's folder and reads its state, without the lock: the state is one file. A secret
// that does not exist has an empty state and no folder. The caller calls done.
func (s *store) look(ctx context.Context) (dir *os.Root, st *state, done func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, nil, err
	}
	root, err := s.openRoot()
	if err != nil {
		return nil, nil, nil, err
	}
	defer func() { _ = root.Close() }()
	dir, err = root.OpenRoot(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, newState(), func() {}, nil
	}
	if err != nil {
		return nil, nil, nil, err
	}
	if st, err = readState(dir); err != nil {
		return nil, nil, nil, errors.Join(err, dir.Close())
	}
	return dir, st, func() { _ = dir.Close() }, nil
}

// change lets edit alter the state under the lock, and brings everything after it.
func (s *store) change(ctx context.Context, edit func(dir *os.Root, st *state) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	dir, err := s.makeFolder()
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	unlock, err := atomicfile.Lock(ctx, filepath.Join(s.root, s.path, lockName))
	if err != nil {
		return err
	}
	defer unlock()
	st, err := readState(dir)
	if err != nil {
		return err
	}
	if err := s.settle(dir, st); err != nil {
		return err
	}
	switch err := edit(dir, st); {
	case errors.Is(err, errUnchanged):
		return nil
	case err != nil:
		return err
	}
	data, err := json.MarshalIndent(st, "", "  ")
	if err != nil {
		return err
	}
	if err := atomicfile.Write(dir, stateName, append(data, '\n'), 0o600, nil); err != nil {
		return err
	}
	if err := s.wrote("state"); err != nil {
		return err
	}
	return s.settle(dir, st)
}

// settle makes the link and the values agree with the state. It finds most often that they do.
func (s *store) settle(dir *os.Root, st *state) error {
	if id, ok := st.Labels[key.Current]; ok {
		want := versionFile(id)
		if have, err := dir.Readlink(currentName); err != nil || have != want {
			if err := atomicfile.Symlink(dir, want, currentName); err != nil {
				return err
			}
			if err := s.wrote("link"); err != nil {
				return err
			}
		}
	}
	values, err := dir.OpenRoot(versionsName)
	if err != nil {
		return err
	}
	defer func() { _ = values.Close() }()
	entries, err := fs.ReadDir(values.FS(), ".")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if st.has(strings.TrimSuffix(e.Name(), ".json")) {
			continue
		}
		if err := atomicfile.Remove(values, e.Name()); err != nil {
			return err
		}
		if err := errors.Join(atomicfile.Sync(values), s.wrote("removal")); err != nil {
			return err
		}
	}
	return nil
}
