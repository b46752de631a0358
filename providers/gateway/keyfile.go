package gateway

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"github.com/keyturn/keyturn/internal/atomicfile"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/outside"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
)

const (
	keyFileSchema = "keyturn/gateway-keys/v1"
	// maxFileSize bounds what is read into memory: some hundred thousand keys.
	maxFileSize = 64 << 20
	saltLength  = 16
	lockSuffix  = ".lock"
)

// ErrMalformed is wrapped when a key or usage file cannot be trusted to be what it should be. Nothing is
// overwritten then, and every key is refused.
var ErrMalformed = errors.New("malformed file")

var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@/:-]{0,127}$`)

// keyFile is the content of the key file: every live key, oldest first. A destroyed key is not in it.
type keyFile struct {
	Schema string   `json:"schema"`
	Keys   []record `json:"keys"`
}

// record is one key. It holds nothing from which the key could be made: the hash is of at least 260
// random bits. An imported key may be weaker, so each has a salt of its own.
type record struct {
	ID        string    `json:"id"`
	Principal string    `json:"principal"`
	Scopes    []string  `json:"scopes,omitempty"`
	State     key.State `json:"state"`
	CreatedAt time.Time `json:"createdAt"`
	ExpiresAt time.Time `json:"expiresAt,omitzero"`
	Token     string    `json:"token,omitempty"`
	// Imported keys have any form: they are found by trying each, not by the ID in their value.
	Imported bool   `json:"imported,omitempty"`
	Salt     []byte `json:"salt"`
	Hash     []byte `json:"hash"`
}

func (r *record) setValue(value []byte) {
	r.Salt = make([]byte, saltLength)
	_, _ = rand.Read(r.Salt) // never fails
	r.Hash = hash(r.Salt, value)
}

// holds tells whether value is this key, in a time that tells nothing of the hash.
func (r *record) holds(value []byte) bool {
	return subtle.ConstantTimeCompare(r.Hash, hash(r.Salt, value)) == 1
}

func (r *record) expired(now time.Time) bool {
	return !r.ExpiresAt.IsZero() && !now.Before(r.ExpiresAt)
}

// accepted tells whether the gateway lets the key through.
func (r *record) accepted(now time.Time) bool { return r.State == key.Active && !r.expired(now) }

func hash(salt, value []byte) []byte {
	h := sha256.New()
	h.Write(salt)
	h.Write(value)
	return h.Sum(nil)
}

// index finds the key of a value. It holds until the file's keys change.
type index struct {
	minted   map[string]*record
	imported []*record
}

func (f *keyFile) index() index {
	x := index{minted: make(map[string]*record, len(f.Keys))}
	for i := range f.Keys {
		if r := &f.Keys[i]; r.Imported {
			x.imported = append(x.imported, r)
		} else {
			x.minted[r.ID] = r
		}
	}
	return x
}

// find returns the record of a value, nil for none.
func (x index) find(value []byte) *record {
	if id, ours := ParseToken(string(value)); ours {
		if r := x.minted[id]; r != nil && r.holds(value) {
			return r
		}
		return nil
	}
	for _, r := range x.imported {
		if r.holds(value) {
			return r
		}
	}
	return nil
}

// owned returns the index of a principal's key; -1 when it has none of that ID.
func (f *keyFile) owned(principal, id string) int {
	return slices.IndexFunc(f.Keys, func(r record) bool { return r.ID == id && r.Principal == principal })
}

// parseKeyFile reads and checks the whole: a file that is wrong anywhere is trusted nowhere.
func parseKeyFile(data []byte) (*keyFile, error) {
	f := new(keyFile)
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(f); err != nil {
		return nil, fmt.Errorf("%w: %s", ErrMalformed, outside.Text(err.Error(), 200))
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: there is something after the object", ErrMalformed)
	}
	if f.Schema != keyFileSchema {
		return nil, fmt.Errorf("%w: its schema is not %q", ErrMalformed, keyFileSchema)
	}
	ids, tokens := map[string]bool{}, map[string]bool{}
	for i, r := range f.Keys {
		what := r.wrong()
		switch {
		case what != "":
		case ids[r.ID]:
			what = "its ID is that of another key"
		case r.Token != "" && tokens[r.Token]:
			what = "its token is that of another key"
		}
		if what != "" {
			return nil, fmt.Errorf("%w: key %d: %s", ErrMalformed, i+1, what)
		}
		ids[r.ID], tokens[r.Token] = true, true
	}
	return f, nil
}

func (r *record) wrong() string {
	switch {
	case !nameForm.MatchString(r.ID):
		return "it has no proper ID"
	case !nameForm.MatchString(r.Principal):
		return "it has no proper principal"
	case r.State != key.Active && r.State != key.Disabled:
		return "its state is neither active nor disabled"
	case r.CreatedAt.IsZero():
		return "it does not say when it was created"
	case len(r.Salt) != saltLength:
		return fmt.Sprintf("its salt does not have %d bytes", saltLength)
	case len(r.Hash) != sha256.Size:
		return fmt.Sprintf("its hash does not have %d bytes", sha256.Size)
	}
	return ""
}

// readKeyFile reads the key file at path.
func readKeyFile(path string) (*keyFile, error) {
	file, err := openTrusted(path)
	if err != nil {
		return nil, fmt.Errorf("reading key file %q: %w", path, err)
	}
	defer func() { _ = file.Close() }()
	f, err := decodeKeyFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading key file %q: %w", path, err)
	}
	return f, nil
}

func decodeKeyFile(file io.Reader) (*keyFile, error) {
	data, err := readAll(file)
	if err != nil {
		return nil, err
	}
	return parseKeyFile(data)
}

// openTrusted opens a file that nobody but its owner can have written. Whoever can write the key file
// can let themselves in.
func openTrusted(path string) (*os.File, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err // not providers.ErrNotFound: that a file is missing says nothing about keys
	}
	info, err := file.Stat()
	switch {
	case err != nil:
	case !info.Mode().IsRegular():
		err = fmt.Errorf("%w: it is no file", ErrMalformed)
	case info.Mode().Perm()&0o022 != 0:
		err = fmt.Errorf("%w: others may write it (mode %04o); nothing in it is trusted until `chmod 600`", providers.ErrDenied, info.Mode().Perm())
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// change reads the key file, lets edit alter it, and replaces it atomically, all under its lock. An error
// of edit changes nothing; errUnchanged does so without being one.
func change(ctx context.Context, path string, edit func(*keyFile) error) error {
	return locked(ctx, path, func() error {
		f, err := readKeyFile(path)
		if err != nil {
			return err
		}
		switch err := edit(f); {
		case errors.Is(err, errUnchanged):
			return nil
		case err != nil:
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		return writeJSON(path, f)
	})
}

var errUnchanged = errors.New("unchanged")

func locked(ctx context.Context, path string, act func() error) error {
	unlock, err := atomicfile.Lock(ctx, path+lockSuffix)
	if err != nil {
		return err
	}
	defer unlock()
	return act()
}

func writeJSON(path string, content any) error {
	data, err := encode(content)
	if err != nil {
		return fmt.Errorf("writing %q: %w", path, err)
	}
	return writeFile(path, data)
}

func encode(content any) ([]byte, error) {
	data, err := json.MarshalIndent(content, "", "  ")
	return append(data, '\n'), err
}

// writeFile replaces a file whose lock is held.
func writeFile(path string, data []byte) error {
	dir, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("writing %q: %w", path, err)
	}
	defer func() { _ = dir.Close() }()
	if err := atomicfile.Write(dir, filepath.Base(path), data, 0o600, nil); err != nil {
		return fmt.Errorf("writing %q: %w", path, err)
	}
	return nil
}

// Create makes an empty key file where there is none yet. One that exists is left as it is. The gateway's
// operator calls it once; the issuer never does, since a wrong path must not look like a gateway without
// keys.
func Create(ctx context.Context, path string) error {
	return locked(ctx, path, func() error {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return writeJSON(path, keyFile{Schema: keyFileSchema, Keys: []record{}})
	})
}

// ExistingKey is a key that the gateway accepted before keyturn.
type ExistingKey struct {
	Principal string
	// KeyID is any name; for a key in the form of ParseToken it is the one in the key.
	KeyID  string
	Scopes []string
	// CreatedAt is now when zero, ExpiresAt never.
	CreatedAt, ExpiresAt time.Time
}

// AddKey registers a key that exists already, in whatever form, and makes the key file when it is
// missing. Slots do not bound it. Again with the same value is not an error; providers.ErrConflict when
// the ID has another value or principal, or the value another ID.
func AddKey(ctx context.Context, path string, k ExistingKey, value secret.Value) error {
	if err := addKey(ctx, path, k, value); err != nil {
		return fmt.Errorf("adding key %q: %w", outside.Text(k.KeyID, 128), err)
	}
	return nil
}

func addKey(ctx context.Context, path string, k ExistingKey, value secret.Value) error {
	plain := value.Reveal()
	defer clear(plain)
	id, ours := ParseToken(string(plain))
	switch {
	case len(plain) == 0:
		return fmt.Errorf("%w: it is empty", providers.ErrInvalid)
	case ours && id != k.KeyID:
		return fmt.Errorf("%w: the key says that its ID is %q", providers.ErrInvalid, id)
	}
	r := record{
		ID: k.KeyID, Principal: k.Principal, Scopes: k.Scopes, State: key.Active,
		CreatedAt: k.CreatedAt.UTC(), ExpiresAt: k.ExpiresAt.UTC(), Imported: !ours,
	}
	if r.CreatedAt.IsZero() {
		r.CreatedAt = time.Now().UTC()
	}
	r.setValue(plain)
	if what := r.wrong(); what != "" {
		return fmt.Errorf("%w: %s", providers.ErrInvalid, what)
	}
	if err := Create(ctx, path); err != nil {
		return err
	}
	return change(ctx, path, func(f *keyFile) error {
		taken := slices.IndexFunc(f.Keys, func(r record) bool { return r.ID == k.KeyID })
		known := f.index().find(plain)
		switch {
		case taken < 0 && known == nil:
			f.Keys = append(f.Keys, r)
			return nil
		case known != nil && known.ID == k.KeyID && known.Principal == k.Principal:
			return errUnchanged
		case known != nil:
			return fmt.Errorf("%w: the value is that of key %q of %q", providers.ErrConflict, known.ID, known.Principal)
		}
		return fmt.Errorf("%w: the ID is that of another key, of %q", providers.ErrConflict, f.Keys[taken].Principal)
	})
}
