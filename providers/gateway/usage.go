package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"time"

	"github.com/keyturn/keyturn/internal/outside"
	"github.com/keyturn/keyturn/providers"
)

const usageSchema = "keyturn/gateway-usage/v1"

// sinceUnknown is who used a key last whose record was lost.
const sinceUnknown = "unknown: the record of uses begins only then"

// usageFile is the content of the usage file.
type usageFile struct {
	Schema string `json:"schema"`
	// Since is when the record began. Uses before it may be missing: a damaged file begins a new record.
	Since time.Time `json:"since"`
	// AsOf is when a gateway reported last, with uses or without; where none says so, the latest time in the file.
	AsOf time.Time `json:"asOf"`
	// LastUsed is the last use of each key, by key ID.
	LastUsed map[string]use `json:"lastUsed"`
}

// use is an attempt with the right secret, also of a disabled key: somebody still relies on it.
type use struct {
	At   time.Time `json:"at"`
	From string    `json:"from,omitempty"`
}

// of tells when a key was used last, at the latest: a key older than the record may have been used until
// the record began.
func (u *usageFile) of(r record) (time.Time, string) {
	last := u.LastUsed[r.ID]
	if r.CreatedAt.Before(u.Since) && last.At.Before(u.Since) {
		return u.Since, sinceUnknown
	}
	return last.At, outside.Text(last.From, maxFrom) // whoever wrote the file
}

// readUsage reads the usage file. It fails for a missing one, too: silence is no evidence.
func readUsage(path string) (*usageFile, error) {
	data, err := readTrusted(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading usage file %q: there is none; start the gateway, or correct the account's usageFile", path)
	}
	if err != nil {
		return nil, fmt.Errorf("reading usage file %q: %w", path, err)
	}
	u, err := parseUsage(data)
	if err != nil {
		return nil, fmt.Errorf("reading usage file %q: %w", path, err)
	}
	return u, nil
}

func readTrusted(path string) ([]byte, error) {
	file, err := openTrusted(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	return readAll(file)
}

func readAll(file io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(file, maxFileSize+1))
	if err == nil && len(data) > maxFileSize {
		err = fmt.Errorf("%w: it is larger than %d bytes", ErrMalformed, maxFileSize)
	}
	return data, err
}

func parseUsage(data []byte) (*usageFile, error) {
	u := new(usageFile)
	if err := json.Unmarshal(data, u); err != nil {
		return nil, fmt.Errorf("%w: %s", ErrMalformed, outside.Text(err.Error(), 200))
	}
	if u.Schema != usageSchema || u.Since.IsZero() {
		return nil, fmt.Errorf("%w: it lacks its schema or its beginning", ErrMalformed)
	}
	u.AsOf = latest(u.AsOf, u.Since)
	for _, last := range u.LastUsed {
		u.AsOf = latest(u.AsOf, last.At)
	}
	return u, nil
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// merge adds uses to the record: of each key the latest stays.
func (u *usageFile) merge(uses map[string]use) {
	if u.LastUsed == nil {
		u.LastUsed = map[string]use{}
	}
	for id, more := range uses {
		if more.At.After(u.LastUsed[id].At) {
			u.LastUsed[id] = more
		}
	}
}

// report brings uses until now into the usage file, where other gateways report, too, and forgets the keys that do
// not live any more. It returns what the file says then. A missing or damaged file begins a new record now.
func report(ctx context.Context, path string, uses map[string]use, live func(keyID string) bool, now time.Time) (*usageFile, error) {
	var u *usageFile
	err := locked(ctx, path, func() error {
		data, err := readTrusted(path)
		if err == nil {
			u, err = parseUsage(data)
		}
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, ErrMalformed), errors.Is(err, providers.ErrDenied):
			u = &usageFile{Schema: usageSchema, Since: now}
		case err != nil:
			return err
		}
		u.merge(uses)
		u.AsOf = latest(u.AsOf, now)
		maps.DeleteFunc(u.LastUsed, func(id string, _ use) bool { return !live(id) })
		return writeJSON(path, u)
	})
	if err != nil {
		return nil, fmt.Errorf("reporting usage in %q: %w", path, err)
	}
	return u, nil
}
