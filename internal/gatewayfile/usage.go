package gatewayfile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"regexp"
	"time"
)

const (
	usageSchema = "keyturn/gateway-usage/v1"
	// UsageLag is within which time a gateway reports a use, or that there was none.
	UsageLag = time.Second
	// NotNamed is who used a key whose name is not kept: it has not the form of one, or has a part of the key in it.
	NotNamed = "somebody-who-is-not-named"
	// sinceUnknown is who used a key last whose record was lost.
	sinceUnknown = "unknown: the record of uses begins only then"
	// remembers is for how long the last use of a key is kept that lives no more: who asks after an incident asks then.
	remembers = 7 * 24 * time.Hour
	// maxFrom bounds what is kept of who used a key.
	maxFrom = 128
)

// UsageFileOf is the usage file of a key file, where no other is named.
func UsageFileOf(keyFile string) string { return keyFile + ".usage" }

// Usage is the content of the usage file.
type Usage struct {
	Schema string `json:"schema"`
	// Since is when the record began. Uses before it may be missing: a damaged file begins a new record.
	Since time.Time `json:"since"`
	// AsOf is when a gateway reported last, with uses or without; where none says so, the latest time in the file.
	AsOf time.Time `json:"asOf"`
	// LastUsed is the last use of each key, by key ID.
	LastUsed map[string]Use `json:"lastUsed"`
}

// Use is an attempt with the right secret, also of a disabled key: somebody still relies on it.
type Use struct {
	At   time.Time `json:"at"`
	From string    `json:"from,omitempty"`
}

// Of tells when a key was used last, at the latest: a key older than the record may have been used until
// the record began.
func (u *Usage) Of(r Record) (at time.Time, by string) {
	last := u.LastUsed[r.ID]
	if r.CreatedAt.Before(u.Since) && last.At.Before(u.Since) {
		return u.Since, sinceUnknown
	}
	return last.At, Sender(last.From) // whoever wrote the file
}

// senderForm is the form of a name of who uses a key: words of letters and digits, with signs between them. A key would be
// a longer word.
var senderForm = regexp.MustCompile(`^[A-Za-z0-9]{1,24}([._:@-]{1,2}[A-Za-z0-9]{1,24})*$`)

// Sender is what is kept of who used a key, an address or a name: it goes into evidence and messages.
func Sender(from string) string {
	if from == "" || len(from) <= maxFrom && (senderForm.MatchString(from) || IsAddress(from)) {
		return from
	}
	return NotNamed
}

// IsAddress tells whether a text is an IP address, with or without a port. A zone may be any text, so it has the form of an
// interface's name.
func IsAddress(s string) bool {
	address, err := netip.ParseAddr(s)
	if withPort, other := netip.ParseAddrPort(s); other == nil {
		address, err = withPort.Addr(), nil
	}
	return err == nil && (address.Zone() == "" || len(address.Zone()) <= 15 && senderForm.MatchString(address.Zone()))
}

// ReadUsage reads the usage file. It fails for a missing one, too: silence is no evidence.
func ReadUsage(path string) (*Usage, error) {
	u, err := readUsage(path)
	if err != nil {
		return nil, fmt.Errorf("reading usage file %q: %w", path, err)
	}
	return u, nil
}

func readUsage(path string) (*Usage, error) {
	file, err := Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	data, err := readAll(file)
	if err != nil {
		return nil, err
	}
	return parseUsage(data)
}

func parseUsage(data []byte) (*Usage, error) {
	u := new(Usage)
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

// Report brings uses until now into the usage file, where other gateways report, too, and forgets the keys that do
// not live any more and were not used for a week. It returns what the file says then. A missing or damaged file begins a new record now.
func Report(ctx context.Context, path string, uses map[string]Use, lives func(keyID string) bool, now time.Time) (*Usage, error) {
	var u *Usage
	err := locked(ctx, path, func() (err error) {
		u, err = readUsage(path)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, ErrMalformed), errors.Is(err, ErrOthersMayWrite):
			u = &Usage{Schema: usageSchema, Since: now}
		case err != nil:
			return err
		}
		u.merge(uses)
		u.AsOf = latest(u.AsOf, now)
		maps.DeleteFunc(u.LastUsed, func(id string, last Use) bool { return !lives(id) && now.Sub(last.At) > remembers })
		return write(path, u)
	})
	if err != nil {
		return nil, fmt.Errorf("reporting usage in %q: %w", path, err)
	}
	return u, nil
}

// merge adds uses to the record: of each key the latest stays.
func (u *Usage) merge(uses map[string]Use) {
	if u.LastUsed == nil {
		u.LastUsed = map[string]Use{}
	}
	for id, more := range uses {
		if more.At.After(u.LastUsed[id].At) {
			u.LastUsed[id] = more
		}
	}
}
