// Package gatewayfile has the two files that keyturn and gateways share. The key file is written by the issuer and read by
// gateways, the usage file is written by gateways and read by the issuer. docs/gateway.md has their formats.
//
// Package gateway, which gateways embed, is built on it, so it needs the standard library and file locks alone.
package gatewayfile

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"time"

	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/outside"
)

const (
	keysSchema = "keyturn/gateway-keys/v1"
	saltLength = 16
)

// NameForm is the form of key IDs and principals.
var NameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@/:-]{0,127}$`)

// KeyFile is the content of the key file: every live key, oldest first. A destroyed key is not in it.
type KeyFile struct {
	Schema string   `json:"schema"`
	Keys   []Record `json:"keys"`
}

// Record is one key. It holds nothing from which the key could be made: the hash is of at least 260
// random bits. An imported key may be weaker, so each has a salt of its own.
type Record struct {
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

// SetValue makes r the record of this value.
func (r *Record) SetValue(value []byte) {
	r.Salt = make([]byte, saltLength)
	_, _ = rand.Read(r.Salt) // never fails
	r.Hash = hash(r.Salt, value)
}

// holds tells whether value is this key, in a time that tells nothing of the hash.
func (r *Record) holds(value []byte) bool {
	return subtle.ConstantTimeCompare(r.Hash, hash(r.Salt, value)) == 1
}

func hash(salt, value []byte) []byte {
	h := sha256.New()
	h.Write(salt)
	h.Write(value)
	return h.Sum(nil)
}

// Expired tells whether the key's end has come.
func (r *Record) Expired(now time.Time) bool {
	return !r.ExpiresAt.IsZero() && !now.Before(r.ExpiresAt)
}

// Accepted tells whether a gateway lets the key through.
func (r *Record) Accepted(now time.Time) bool { return r.State == key.Active && !r.Expired(now) }

// Wrong says what is wrong with the record; empty when nothing is.
func (r *Record) Wrong() string {
	switch {
	case !NameForm.MatchString(r.ID):
		return "it has no proper ID"
	case !NameForm.MatchString(r.Principal):
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

// Owned returns the index of a principal's key; -1 when it has none of that ID.
func (f *KeyFile) Owned(principal, id string) int {
	return slices.IndexFunc(f.Keys, func(r Record) bool { return r.ID == id && r.Principal == principal })
}

// Index finds the key of a value. It holds until the keys change.
type Index struct {
	minted   map[string]*Record
	imported []*Record
}

// Index makes the index of all keys.
func (f *KeyFile) Index() Index {
	x := Index{minted: make(map[string]*Record, len(f.Keys))}
	for i := range f.Keys {
		if r := &f.Keys[i]; r.Imported {
			x.imported = append(x.imported, r)
		} else {
			x.minted[r.ID] = r
		}
	}
	return x
}

// Find returns the record of a value, nil for none.
func (x Index) Find(value []byte) *Record {
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

// IDs are those of all keys.
func (x Index) IDs() map[string]bool {
	ids := make(map[string]bool, len(x.minted)+len(x.imported))
	for id := range x.minted {
		ids[id] = true
	}
	for _, r := range x.imported {
		ids[r.ID] = true
	}
	return ids
}

// ReadKeys reads the key file at path.
func ReadKeys(path string) (*KeyFile, error) {
	file, err := Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading key file %q: %w", path, err)
	}
	defer func() { _ = file.Close() }()
	f, err := DecodeKeys(file)
	if err != nil {
		return nil, fmt.Errorf("reading key file %q: %w", path, err)
	}
	return f, nil
}

// DecodeKeys reads and checks the whole: a file that is wrong anywhere is trusted nowhere.
func DecodeKeys(file io.Reader) (*KeyFile, error) {
	data, err := readAll(file)
	if err != nil {
		return nil, err
	}
	return parseKeys(data)
}

func parseKeys(data []byte) (*KeyFile, error) {
	f := new(KeyFile)
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(f); err != nil {
		return nil, fmt.Errorf("%w: %s", ErrMalformed, outside.Text(err.Error(), 200))
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: there is something after the object", ErrMalformed)
	}
	if f.Schema != keysSchema {
		return nil, fmt.Errorf("%w: its schema is not %q", ErrMalformed, keysSchema)
	}
	ids, tokens := map[string]bool{}, map[string]bool{}
	for i, r := range f.Keys {
		what := r.Wrong()
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
