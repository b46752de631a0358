package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/signed"
	"golang.org/x/crypto/ssh"
)

// ReviewWithin is how soon somebody else has to have looked at an approval by break-glass: after that no routine rotation begins.
const ReviewWithin = 24 * time.Hour

// BrokeGlass is the approval that passes a gate alone, when nothing else does: one by break-glass which is valid now. Whatever is done on
// it is to be noted first, since it is owed a review.
func BrokeGlass(approvals []Verdict, now time.Time, needs inventory.Approval) (Verdict, bool) {
	if needs.Trust == inventory.TrustAny { // nothing there proves whose it is
		return Verdict{}, false
	}
	var broken *Verdict
	ordinary := 0
	people := map[string]bool{}
	for i, v := range approvals {
		switch {
		case !approvalValid(v, now, needs):
		case v.BreakGlass && broken == nil:
			broken = &approvals[i]
		case !v.BreakGlass && !people[v.By]:
			people[v.By] = true
			ordinary++
		}
	}
	if broken == nil || ordinary >= needs.Count {
		return Verdict{}, false
	}
	return *broken, true
}

// cannotBreak is why an approval by break-glass does not pass a gate; empty when it does. The gate hold guards no effect that could note it.
func cannotBreak(g OpenGate, proof *Proof) string {
	switch {
	case proof == nil:
		return "break-glass takes a signature: use --sign"
	case g.Needs.Trust == inventory.TrustAny:
		return "this gate takes any approval: there is nothing to break"
	case g.Gate == inventory.GateHold:
		return "the gate hold takes no break-glass: approve it as it asks"
	case !proof.MayBreakGlass:
		return notNamed(proof.By.Name)
	}
	return ""
}

func notNamed(who string) string {
	return fmt.Sprintf("%s is in no group that trust.breakGlass of the worker configuration names for this environment", who)
}

// ReviewsOverdue are the approvals by break-glass that somebody had to have reviewed by now.
func ReviewsOverdue(m key.Metadata, now time.Time) []key.BrokenGlass {
	var overdue []key.BrokenGlass
	for _, b := range m.BrokenGlass {
		if !now.Before(b.At.Add(ReviewWithin)) {
			overdue = append(overdue, b)
		}
	}
	return overdue
}

// unreviewed says of which approvals by break-glass nobody has signed a review.
func unreviewed(list []key.BrokenGlass) string {
	var said []string
	for _, b := range list {
		said = append(said, fmt.Sprintf("%s passed the %s gate alone %s (%s)", b.By, b.Gate, b.At.UTC().Format(time.RFC3339), b.Reason))
	}
	return strings.Join(said, "; ") + ", and nobody has reviewed that"
}

// HowToReview is the command by which a review is signed.
func HowToReview(credential string) string {
	return fmt.Sprintf("keyturn review rotation/%s --sign KEY --comment WHAT-YOU-FOUND, by another approver", credential)
}

// ReviewedAtOnce is how many approvals by break-glass one review may name, and how many reviewed ones a store remembers, so that a review
// that is repeated finds itself, and no approval of a run that goes on is asked for again.
const ReviewedAtOnce = 20

// GlassReviewSchema is the version of GlassReview's JSON.
const GlassReviewSchema = "keyturn/break-glass-review/v1"

// GlassReview is what somebody signs who has looked at approvals by break-glass of a credential, and broke none of them.
type GlassReview struct {
	Schema     string `json:"schema"`
	Namespace  string `json:"namespace"`
	Credential string `json:"credential"`
	// Of are the IDs of the approvals.
	Of       []string  `json:"of"`
	Comment  string    `json:"comment"`
	SignedAt time.Time `json:"signedAt"`
}

// Sign makes a review one that counts.
func (r GlassReview) Sign(with ssh.Signer) (signed.Envelope, error) {
	r.Schema = GlassReviewSchema
	if err := r.validate(); err != nil {
		return signed.Envelope{}, err
	}
	return signed.Sign(signed.Review, r, with)
}

// ParseGlassReview reads what signed.Envelope.Open returned, strictly.
func ParseGlassReview(body []byte) (r GlassReview, err error) {
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&r); err != nil {
		return r, fmt.Errorf("reading review: %w", err)
	}
	return r, r.validate()
}

func (r GlassReview) validate() error {
	var wrong []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			wrong = append(wrong, fmt.Errorf("review: "+format, args...))
		}
	}
	check(r.Schema == GlassReviewSchema, "its schema is %q, not %s", r.Schema, GlassReviewSchema)
	check(r.Credential != "", "it names no credential")
	check(len(r.Of) > 0 && len(r.Of) <= ReviewedAtOnce, "it names no approval, or more than %d", ReviewedAtOnce)
	check(strings.TrimSpace(r.Comment) != "" && len(r.Comment) <= MaxText, "it gives no comment, or one of more than %d bytes", MaxText)
	check(!r.SignedAt.IsZero(), "it does not say when it is signed")
	return errors.Join(wrong...)
}
