package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/netip"
	"regexp"
	"time"

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
	return last.At, sender(last.From) // whoever wrote the file
}

// notNamed is who used a key whose name is not kept: it has not the form of one, or has a part of the key in it.
const notNamed = "somebody-who-is-not-named"

// senderForm is the form of a name of who uses a key: words of letters and digits, with signs between them. A key would be
// a longer word.
var senderForm = regexp.MustCompile(`^[A-Za-z0-9]{1,24}([._:@-]{1,2}[A-Za-z0-9]{1,24})*$`)

// sender is what is kept of who used a key, an address or a name: it goes into evidence and messages.
func sender(from string) string {
	if from == "" || len(from) <= maxFrom && (senderForm.MatchString(from) || isAddress(from)) {
		return from
	}
	return notNamed
}

// isAddress tells whether a text is an IP address, with or without a port. A zone may be any text, so it has the form of an
// interface's name.
func isAddress(s string) bool {
	address, err := netip.ParseAddr(s)
	if withPort, other := netip.ParseAddrPort(s); other == nil {
		address, err = withPort.Addr(), nil
	}
	return err == nil && (address.Zone() == "" || len(address.Zone()) <= 15 && senderForm.MatchString(address.Zone()))
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
		return nil, fmt.Errorf("%w: it is not JSON of the form that gateways write", ErrMalformed) // the decoder quotes what it reads
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
