package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/signed"
	"github.com/keyturn/keyturn/internal/strictyaml"
)

// RequestSchema is the version of SignedRequest's JSON.
const RequestSchema = "keyturn/decision/v1"

// Bound is what a decision is worth for, and for nothing else.
type Bound struct {
	// Namespace, Workflow and Run are Temporal's: an approval dies with the run in which its gate opened,
	// by a reset too.
	Namespace string `json:"namespace"`
	Workflow  string `json:"workflow"`
	Run       string `json:"run"`
	// Rotation is the rotation ID.
	Rotation string `json:"rotation"`
	// Gate and Evidence are the open gate and the digest of what it shows; empty for a decision that is for
	// no gate.
	Gate     inventory.Gate `json:"gate,omitempty"`
	Evidence string         `json:"evidence,omitempty"`
	// Retiring and Incoming are key IDs.
	Retiring string `json:"retiring,omitempty"`
	Incoming string `json:"incoming,omitempty"`
}

// SignedRequest is the body of a signed decision.
type SignedRequest struct {
	Schema string `json:"schema"`
	Action Action `json:"action"`
	Bound
	Reason    string             `json:"reason,omitempty"`
	Extension inventory.Duration `json:"extension,omitzero"`
	// BreakGlass: the approval passes the gate alone.
	BreakGlass bool `json:"breakGlass,omitempty"`
	// Nonce makes the decision one of its own: it counts once.
	Nonce    string    `json:"nonce"`
	SignedAt time.Time `json:"signedAt"`
}

// ParseRequest reads what signed.Envelope.Open returned.
func ParseRequest(body []byte) (SignedRequest, error) {
	var r SignedRequest
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&r); err != nil {
		return r, fmt.Errorf("reading decision: %w", err)
	}
	switch {
	case r.Schema != RequestSchema:
		return r, fmt.Errorf("reading decision: its schema is %q, not %s", r.Schema, RequestSchema)
	case r.Nonce == "" || len(r.Nonce) > 64:
		return r, fmt.Errorf("reading decision: its nonce is empty or longer than 64 bytes")
	case r.SignedAt.IsZero():
		return r, fmt.Errorf("reading decision: it does not say when it was signed")
	}
	return r, nil
}

// ReadRequest reads a request as somebody wrote it by hand. A name that is misspelt, or there twice, is an error: nothing is assumed in
// its place.
func ReadRequest(text []byte) (r Request, err error) {
	if text = bytes.TrimSpace(text); !bytes.HasPrefix(text, []byte("{")) {
		return r, errors.New("it is no JSON object")
	}
	err = strictyaml.DecodeJSON(text, &r)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return Request{}, errors.New("the JSON ends in the middle of something")
	}
	if err != nil {
		return Request{}, errors.New(strings.TrimPrefix(strings.TrimPrefix(err.Error(), "decoding JSON: "), "json: "))
	}
	return r, nil
}

// Nonce is that of a signed request, as its body says, which nobody has proved; empty for an unsigned one.
func (r Request) Nonce() string {
	if r.Signed == nil {
		return ""
	}
	var said SignedRequest
	if json.Unmarshal(r.Signed.Body, &said) != nil {
		return ""
	}
	return said.Nonce
}

// Proof is what a worker found out about a signed decision, with the signers that its own configuration
// names.
type Proof struct {
	Request SignedRequest `json:"request"`
	By      signed.Signer `json:"by"`
	// Groups are the approver groups of the spec that the signer is in.
	Groups []string `json:"groups,omitempty"`
	// MayBreakGlass: the worker configuration names one of the signer's groups under trust.breakGlass.
	MayBreakGlass bool `json:"mayBreakGlass,omitempty"`
	// Problem is why nothing is proved; empty when all is.
	Problem string `json:"problem,omitempty"`
}

// clockSkew is how far ahead the clock of a signer may be.
const clockSkew = 5 * time.Minute

// ahead says that something was signed in the future, and by whose clock.
func ahead(signed, now time.Time) string {
	return fmt.Sprintf("it is signed at %s, which is %s ahead: set right the clock of whoever signed it, and sign again",
		signed.UTC().Format(time.RFC3339), inventory.Duration(signed.Sub(now).Round(time.Second)))
}

// mismatch says how a decision is bound to something else than here; empty when it fits.
func (b Bound) mismatch(here Bound) (VerdictReason, string) {
	for _, c := range []struct {
		what, signed, here string
		reason             VerdictReason
	}{
		{"namespace", b.Namespace, here.Namespace, OtherRotation},
		{"workflow", b.Workflow, here.Workflow, OtherRotation},
		{"rotation", b.Rotation, here.Rotation, OtherRotation},
		{"run", b.Run, here.Run, OtherRun},
		{"gate", string(b.Gate), string(here.Gate), NotOpen},
		{"retiring key", b.Retiring, here.Retiring, OtherRotation},
		{"incoming key", b.Incoming, here.Incoming, OtherRotation},
		{"evidence", b.Evidence, here.Evidence, OtherEvidence},
	} {
		if c.signed != c.here {
			return c.reason, fmt.Sprintf("it is signed for %s %q, and here it is %q: look again and decide again", c.what, c.signed, c.here)
		}
	}
	return "", ""
}

// Binds judges a proved decision for the place where it shall count: an activity that is about to disable
// or destroy. It returns the approval that it is, or why it is none. The evidence that its signer saw is
// not compared: the activity has gathered its own.
func (p Proof) Binds(here Bound, now time.Time) (Verdict, string) {
	r := p.Request
	here.Evidence = r.Evidence
	v := Verdict{ID: r.Nonce, Action: r.Action, Gate: r.Gate, By: p.By.Name, Verified: true, Groups: p.Groups, At: r.SignedAt, Accepted: true, Reason: Accepted}
	if p.Problem != "" {
		return v, p.Problem
	}
	if r.Action != Approve {
		return v, fmt.Sprintf("it is no approval but %q", r.Action)
	}
	if _, why := r.mismatch(here); why != "" {
		return v, why
	}
	if r.SignedAt.After(now.Add(clockSkew)) {
		return v, ahead(r.SignedAt, now)
	}
	if r.BreakGlass {
		if !p.MayBreakGlass {
			return v, notNamed(p.By.Name)
		}
		v.BreakGlass, v.ByKey, v.Why = true, p.By.Key, r.Reason
	}
	return v, ""
}

// trusted tells whether a verdict has the trust that an approval asks for.
func trusted(v Verdict, needs inventory.Approval) bool {
	return needs.Trust == inventory.TrustAny || v.Verified && v.BreakGlass ||
		v.Verified && slices.ContainsFunc(v.Groups, func(g string) bool { return slices.Contains(needs.From, g) })
}
