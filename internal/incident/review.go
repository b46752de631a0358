package incident

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/keyturn/keyturn/internal/signed"
)

// ReviewSchema is the version of a review's body that this package reads.
const ReviewSchema = "keyturn/review/v1"

// Review is what somebody signs who has looked at what an incident did afterwards, and did not declare it.
type Review struct {
	Schema    string `json:"schema"`
	Namespace string `json:"namespace"`
	Incident  string `json:"incident"`
	// Declarations are the digests of what the incident acted by, sorted.
	Declarations []string  `json:"declarations"`
	Comment      string    `json:"comment"`
	SignedAt     time.Time `json:"signedAt"`
}

// Digests names several declarations, sorted.
func Digests(declarations []signed.Envelope) ([]string, error) {
	var all []string
	for _, e := range declarations {
		digest, err := Digest(e)
		if err != nil {
			return nil, err
		}
		all = append(all, digest)
	}
	slices.Sort(all)
	return all, nil
}

// ReviewID is the workflow ID of an incident's review.
func ReviewID(incident string) string { return "review/" + strings.TrimPrefix(incident, prefix) }

// Sign makes a review one that counts.
func (r Review) Sign(with ssh.Signer) (signed.Envelope, error) {
	r.Schema = ReviewSchema
	if err := r.Validate(); err != nil {
		return signed.Envelope{}, err
	}
	return signed.Sign(signed.Review, r, with)
}

// ParseReview reads what signed.Envelope.Open returned, strictly.
func ParseReview(body []byte) (Review, error) {
	var r Review
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&r); err != nil {
		return r, fmt.Errorf("reading review: %w", err)
	}
	return r, r.Validate()
}

// Validate tells all that is wrong with a review at once.
func (r Review) Validate() error {
	var wrong []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			wrong = append(wrong, fmt.Errorf("review: "+format, args...))
		}
	}
	check(r.Schema == ReviewSchema, "its schema is %q, not %s", r.Schema, ReviewSchema)
	check(IsID(r.Incident), "its incident is %q, not %s and a name", r.Incident, prefix)
	check(len(r.Declarations) > 0, "it names no declaration")
	check(strings.TrimSpace(r.Comment) != "" && len(r.Comment) <= maxReason, "it gives no comment, or one of more than %d bytes", maxReason)
	check(!r.SignedAt.IsZero(), "it does not say when it is signed")
	return errors.Join(wrong...)
}
