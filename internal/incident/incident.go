// Package incident is the declaration of an incident: what a person signs who may when keys are exposed. Activities act on nothing
// but what it lists.
package incident

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/signed"
)

// Schema is the version of the body that this package reads.
const Schema = "keyturn/incident/v1"

// Bounds of a declaration.
const (
	// MaxValid is for how long one may be good for a first effect, and Skew by how much clocks may differ about that.
	MaxValid = time.Hour
	Skew     = 5 * time.Minute
	// DefaultDeadline is what a declaration says when nobody says another one.
	DefaultDeadline = inventory.Duration(15 * time.Minute)
	maxDeadline     = inventory.Duration(7 * 24 * time.Hour)
	// lasts is for how long after its deadline an incident may see to what it began.
	lasts = 24 * time.Hour
	// MaxCredentials is how many one is of: it goes along with the emergency of each. An incident of more has several, MaxParts at most.
	MaxCredentials = 100
	MaxParts       = 20
	maxKeys        = 20 // of one credential
	maxReason      = 1000
)

// Declaration is what is signed.
type Declaration struct {
	Schema string `json:"schema"`
	// Namespace is the one that it is for, Incident the workflow ID of the incident, as ID makes it.
	Namespace string `json:"namespace"`
	Incident  string `json:"incident"`
	Reason    string `json:"reason"`
	// Drill: no key leaked. It ends those of credentials that are there for drills, and no others.
	Drill bool `json:"drill,omitempty"`
	// Deadline is how long after the incident's begin the exposed keys are destroyed, whoever still uses them; zero: at once, before
	// there are others.
	Deadline inventory.Duration `json:"revokeDeadline"`
	// Exposed are the keys that are destroyed, exactly these, by credential.
	Exposed map[string][]string `json:"exposed"`
	Nonce   string              `json:"nonce"`
	// SignedAt and Expires: by then the first effect for a credential must have been done by it; for that credential it holds to the end.
	SignedAt time.Time `json:"signedAt"`
	Expires  time.Time `json:"expires"`
}

// DrillLabel is what a credential is labelled with that is there for drills, with the value "true".
const DrillLabel = "drill"

// prefix begins the workflow ID of each incident.
const prefix = "incident/"

// ID is the workflow ID of an incident.
func ID(slug string) string { return prefix + slug }

var slugForm = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{0,62}$`)

// IsID tells whether this is the workflow ID of an incident.
func IsID(id string) bool {
	slug, named := strings.CutPrefix(id, prefix)
	return named && slugForm.MatchString(slug)
}

// Keys are those of a credential that are exposed; none when it is not concerned.
func (d Declaration) Keys(credential string) []string { return d.Exposed[credential] }

// Sign makes a declaration one that counts.
func (d Declaration) Sign(with ssh.Signer) (signed.Envelope, error) {
	d.Schema = Schema
	if err := d.Validate(); err != nil {
		return signed.Envelope{}, err
	}
	return signed.Sign(signed.Incident, d, with)
}

// Parse reads what signed.Envelope.Open returned, strictly.
func Parse(body []byte) (Declaration, error) {
	var d Declaration
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&d); err != nil {
		return d, fmt.Errorf("reading declaration: %w", err)
	}
	return d, d.Validate()
}

// Peek reads a declaration without proof of anything: enough to follow and show it, not to act on it.
func Peek(e signed.Envelope) (d Declaration, err error) {
	err = json.Unmarshal(e.Body, &d)
	return d, err
}

// Digest names a declaration, however its JSON is written.
func Digest(e signed.Envelope) (string, error) {
	canonical, err := signed.Canonical(e.Body)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(canonical)
	return hex.EncodeToString(sum[:]), nil
}

// Validate tells all that is wrong with a declaration at once.
func (d Declaration) Validate() error {
	var wrong []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			wrong = append(wrong, fmt.Errorf("declaration: "+format, args...))
		}
	}
	check(d.Schema == Schema, "its schema is %q, not %s", d.Schema, Schema)
	check(IsID(d.Incident), "its incident is %q, not %s and a name of small letters, digits, dots and hyphens", d.Incident, prefix)
	check(strings.TrimSpace(d.Reason) != "" && len(d.Reason) <= maxReason, "it gives no reason, or one of more than %d bytes", maxReason)
	check(d.Deadline >= 0 && d.Deadline <= maxDeadline, "its revokeDeadline is %s: write 0s to %s", d.Deadline, maxDeadline)
	check(len(d.Exposed) > 0 && len(d.Exposed) <= MaxCredentials, "it has %d credentials: name 1 to %d", len(d.Exposed), MaxCredentials)
	for credential, keys := range d.Exposed {
		check(credential != "" && len(keys) > 0 && len(keys) <= maxKeys, "credential %q has %d exposed keys: name 1 to %d", credential, len(keys), maxKeys)
		for _, id := range keys {
			check(id != "", "credential %q has an exposed key without ID", credential)
		}
	}
	check(d.Nonce != "" && len(d.Nonce) <= 64, "its nonce is empty or longer than 64 bytes")
	check(!d.SignedAt.IsZero() && d.Expires.After(d.SignedAt) && d.Expires.Sub(d.SignedAt) <= MaxValid,
		"it is signed %s and good until %s: at most %s", d.SignedAt.Format(time.RFC3339), d.Expires.Format(time.RFC3339), MaxValid)
	return errors.Join(wrong...)
}

// Good tells why a first effect may not be done by a declaration at that time; nil when it may.
func (d Declaration) Good(at time.Time) error {
	switch {
	case at.Add(Skew).Before(d.SignedAt):
		return fmt.Errorf("declaration: it is signed at %s, which is to come", d.SignedAt.UTC().Format(time.RFC3339))
	case at.After(d.Expires.Add(Skew)):
		return fmt.Errorf("declaration: it was good until %s: sign another one", d.Expires.UTC().Format(time.RFC3339))
	}
	return nil
}

// Lasts tells why an incident may not see to what it began any more, such as a freeze of deployments or a run that does not answer; nil
// when it may. Of keys it says nothing: that does Good, and after the first effect the store's metadata.
func (d Declaration) Lasts(at time.Time) error {
	switch end := d.SignedAt.Add(d.Deadline.Std() + lasts); {
	case at.Add(Skew).Before(d.SignedAt):
		return fmt.Errorf("declaration: it is signed at %s, which is to come", d.SignedAt.UTC().Format(time.RFC3339))
	case at.After(end):
		return fmt.Errorf("declaration: its incident was to be over by %s: sign another one", end.UTC().Format(time.RFC3339))
	}
	return nil
}

// Begun is when an incident began that says so: by none of its declaration's times can that be too early or too late.
func (d Declaration) Begun(since time.Time) time.Time {
	latest := d.Expires.Add(Skew)
	switch {
	case since.Before(d.SignedAt):
		return d.SignedAt
	case since.After(latest):
		return latest
	}
	return since
}
