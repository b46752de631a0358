package policy

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/signed"
)

// Action is what a person decides.
type Action string

// The actions.
const (
	Approve  Action = "approve"
	Reject   Action = "reject"
	Extend   Action = "extend"
	Rollback Action = "rollback"
)

// Request is a decision of a person, as it arrives by update or signal.
type Request struct {
	// ID makes a repetition harmless: it gets the first verdict. One is made of the content when empty.
	ID string `json:"id,omitempty"`
	// Gate that an approve or reject is for.
	Gate inventory.Gate `json:"gate,omitempty"`
	// By is who decides, as they say; a signed one says it by its signature.
	By string `json:"by,omitempty"`
	// Reason is asked for by reject and rollback.
	Reason string `json:"reason,omitempty"`
	// Extension is how much longer the overlap shall be.
	Extension inventory.Duration `json:"extension,omitzero"`
	// Run binds an approval to the run in which the gate opened; any when empty.
	Run string `json:"run,omitempty"`
	// Evidence binds an approval to the digest of what was shown; any when empty.
	Evidence string `json:"evidence,omitempty"`
	// BreakGlass is asked for by an approval that shall pass its gate alone; a signed one alone may.
	BreakGlass bool `json:"breakGlass,omitempty"`
	// Signed is a SignedRequest with a signature. It says all: the other fields do not count beside it.
	Signed *signed.Envelope `json:"signed,omitempty"`
}

// VerdictReason says why a request was taken or not, for programs.
type VerdictReason string

// The reasons of a verdict.
const (
	Accepted        VerdictReason = "accepted"
	NotOpen         VerdictReason = "gate-not-open"
	OtherRun        VerdictReason = "other-run"
	OtherEvidence   VerdictReason = "other-evidence"
	AlreadyCounted  VerdictReason = "already-counted"
	ReasonMissing   VerdictReason = "reason-missing"
	WrongPhase      VerdictReason = "wrong-phase"
	BadExtension    VerdictReason = "bad-extension"
	NoWayBack       VerdictReason = "no-way-back"
	UnknownAction   VerdictReason = "unknown-action"
	TextTooLong     VerdictReason = "text-too-long"
	SignatureNeeded VerdictReason = "signature-needed"
	SignatureBad    VerdictReason = "signature-refused"
	OtherAction     VerdictReason = "other-action"
	OtherRotation   VerdictReason = "other-rotation"
	TooLate         VerdictReason = "expired"
	Unnamed         VerdictReason = "unnamed"
	ByRequester     VerdictReason = "requester"
	NoGlassToBreak  VerdictReason = "no-break-glass"
)

// Verdict is the answer to a request.
type Verdict struct {
	ID     string         `json:"id"`
	Action Action         `json:"action"`
	Gate   inventory.Gate `json:"gate,omitempty"`
	By     string         `json:"by,omitempty"`
	Why    string         `json:"why,omitempty"`
	// Extension is how much longer the overlap gets.
	Extension inventory.Duration `json:"extension,omitzero"`
	Accepted  bool               `json:"accepted"`
	Reason    VerdictReason      `json:"reason"`
	Message   string             `json:"message"`
	// At is when it was given: when it was signed, or else when it arrived.
	At time.Time `json:"at"`
	// Verified: By is proved by a signature. Otherwise it is what somebody claims.
	Verified bool `json:"verified,omitempty"`
	// Groups are the approver groups that the signer is in.
	Groups []string `json:"groups,omitempty"`
	// BreakGlass: it passes the gate alone. ByKey is the key then that it is signed with.
	BreakGlass bool   `json:"breakGlass,omitempty"`
	ByKey      string `json:"byKey,omitempty"`
	// Signed is the decision as it was signed, for those who verify it themselves.
	Signed *signed.Envelope `json:"signed,omitempty"`
}

// Person says who gave it, and whether that is proved, for people.
func (v Verdict) Person() string {
	switch {
	case v.BreakGlass && v.Verified:
		return v.By + " (BREAK-GLASS)"
	case v.Verified:
		return v.By
	}
	return cmp.Or(v.By, "somebody unnamed") + " (unverified)"
}

// OpenGate is a gate that waits.
type OpenGate struct {
	Gate     inventory.Gate     `json:"gate"`
	Needs    inventory.Approval `json:"needs"`
	Run      string             `json:"run"`
	Evidence string             `json:"evidence,omitempty"`
	OpenedAt time.Time          `json:"openedAt"`
	// Approvals were accepted so far.
	Approvals []Verdict `json:"approvals,omitempty"`
}

// Passed tells whether enough people approved, and none of them too long ago.
func (g OpenGate) Passed(now time.Time) bool {
	if _, broken := BrokeGlass(g.Approvals, now, g.Needs); broken {
		return true
	}
	return len(approvedBy(g.Approvals, now, g.Needs)) >= g.Needs.Count
}

// Standpoint is where a rotation stands when it judges a request.
type Standpoint struct {
	Now time.Time
	// Here is what a signed decision must be bound to, but for the gate, which Judge adds.
	Here Bound
	// Gate is the open one; nil for none.
	Gate *OpenGate
	// InOverlap: the overlap can be extended.
	InOverlap bool
	// OverlapEnds is the present end; LatestEnd cuts one that is asked for to the latest possible, before either key ends
	// by itself. Nil cuts nothing.
	OverlapEnds time.Time
	LatestEnd   func(time.Time) time.Time
	// RotateBy is that of the incoming key: no extension goes past it. Zero bounds none.
	RotateBy time.Time
	// Requester is who signed the spec; zero when nobody did. A gate with four eyes takes no approval of theirs.
	Requester signed.Signer
	// NoWayBack is why the rotation cannot be turned back; empty when it can.
	NoWayBack string
	// Disabled: the retiring key is disabled, or about to be. From then on turning back takes the trust that
	// Revoke asks for.
	Disabled bool
	Revoke   *inventory.Approval
}

// MaxText is the longest text that is taken from a person.
const MaxText = 1000

// Judge is the one place where a request of a person is judged, whichever way it came. proof is what was
// found out about a signed one, nil for an unsigned one.
func Judge(action Action, r Request, proof *Proof, s Standpoint) Verdict {
	v := Verdict{ID: r.ID, Action: action, Gate: r.Gate, By: r.By, Why: r.Reason, At: s.Now}
	no := func(reason VerdictReason, format string, args ...any) Verdict {
		v.Reason, v.Message = reason, fmt.Sprintf(format, args...)
		v.BreakGlass, v.ByKey = false, ""
		return v
	}
	if proof != nil {
		if proof.Problem != "" {
			v.By = ""
			return no(SignatureBad, "the signature is not taken: %s", proof.Problem)
		}
		said := proof.Request
		r = Request{
			ID: r.ID, Gate: said.Gate, By: proof.By.Name, Reason: said.Reason, Extension: said.Extension, Run: said.Run, Evidence: said.Evidence,
			BreakGlass: said.BreakGlass, Signed: r.Signed,
		}
		v.Gate, v.By, v.Why, v.At = r.Gate, r.By, r.Reason, said.SignedAt
		v.Verified, v.Groups, v.Signed = true, proof.Groups, r.Signed
	}
	if tooLong(r) {
		v.By, v.Why, v.ID, v.Gate = "", "", "", ""
		return no(TextTooLong, "a text is longer than %d bytes: shorten it", MaxText)
	}
	decides := action == Approve || action == Reject
	if proof != nil {
		said, here := proof.Request, s.Here
		switch {
		case s.Gate != nil && said.Gate != "":
			here.Gate, here.Evidence = s.Gate.Gate, s.Gate.Evidence
		case s.Gate == nil && decides: // which is said below
			here.Gate, here.Evidence = said.Gate, said.Evidence
		}
		if reason, why := said.mismatch(here); why != "" {
			return no(reason, "%s", why)
		}
		switch {
		case said.Action != action:
			return no(OtherAction, "it is signed to %s, and was sent to %s", said.Action, action)
		case said.SignedAt.After(s.Now.Add(clockSkew)):
			return no(TooLate, "%s", ahead(said.SignedAt, s.Now))
		}
	}
	if reason, why := misplaced(action, s); why != "" {
		return no(reason, "%s", why)
	}
	if reason, why := incomplete(action, r); why != "" {
		return no(reason, "%s", why)
	}
	switch action {
	case Approve, Reject:
		if r.Gate != s.Gate.Gate {
			return no(NotOpen, "the gate %q does not wait now; %q does", r.Gate, s.Gate.Gate)
		}
		if r.Run != "" && r.Run != s.Gate.Run {
			return no(OtherRun, "the decision is for run %s, and the gate was opened by run %s: look at the gate and decide again", r.Run, s.Gate.Run)
		}
		if r.Evidence != "" && r.Evidence != s.Gate.Evidence {
			return no(OtherEvidence, "the evidence has changed since: look at the gate and decide again")
		}
		if r.BreakGlass {
			if why := cannotBreak(*s.Gate, proof); why != "" {
				return no(NoGlassToBreak, "%s", why)
			}
			v.BreakGlass, v.ByKey = true, proof.By.Key
		}
		if !trusted(v, s.Gate.Needs) {
			return no(SignatureNeeded, "this gate takes decisions only that are signed by one of %s: use --sign", strings.Join(s.Gate.Needs.From, ", "))
		}
		if action == Reject {
			break
		}
		if s.Gate.Needs.FourEyes && proof != nil && proof.By.Same(s.Requester) {
			return no(ByRequester, "%s signed the spec, and this gate wants the approval of somebody else", v.By)
		}
		if s.Gate.Passed(s.Now) {
			return no(AlreadyCounted, "the gate has the approvals that it needs: it takes no more")
		}
		if life := s.Gate.Needs.ApprovalExpires; life > 0 && !s.Now.Before(v.At.Add(life.Std())) {
			return no(TooLate, "it was signed %s, and is worth something for %s: sign again", v.At.UTC().Format(time.RFC3339), life)
		}
		for _, have := range s.Gate.Approvals {
			if have.By == v.By && !v.BreakGlass && approvalValid(have, s.Now, s.Gate.Needs) { // by break-glass one passes alone, also who has approved
				return no(AlreadyCounted, "the approval of %s is counted already: another person must approve", v.By)
			}
		}
	case Extend:
		if end := s.OverlapEnds.Add(r.Extension.Std()); s.LatestEnd != nil && s.LatestEnd(end).Before(end) {
			return no(BadExtension, "a key ends by itself soon after %s: the overlap cannot last longer", s.LatestEnd(end).UTC().Format(time.RFC3339))
		} else if !s.RotateBy.IsZero() && end.After(s.RotateBy) {
			return no(BadExtension, "the incoming key is itself to be rotated by %s: the overlap cannot last longer", s.RotateBy.UTC().Format(time.RFC3339))
		}
	case Rollback:
		if s.Disabled && s.Revoke != nil && s.Revoke.Count > 0 && !trusted(v, *s.Revoke) {
			return no(SignatureNeeded, "the retiring key is disabled: a rollback must be signed by one of %s: use --sign", strings.Join(s.Revoke.From, ", "))
		}
	}
	v.Accepted, v.Reason, v.Extension = true, Accepted, r.Extension
	v.Message = acceptance(action, v, r, s)
	return v
}

// Misplaced judges what needs no proof of who asks: whether such a request has a place now, and says what it must. Its verdict has
// a reason when it has none; then nobody else need judge it.
func Misplaced(action Action, r Request, s Standpoint) Verdict {
	v := Verdict{ID: r.ID, Action: action, Gate: r.Gate, By: r.By, Why: r.Reason, At: s.Now}
	if v.Reason, v.Message = misplaced(action, s); v.Message != "" || r.Signed != nil { // what a signed one says, Judge reads
		return v
	}
	if tooLong(r) {
		return Verdict{Action: action, At: s.Now, Reason: TextTooLong, Message: fmt.Sprintf("a text is longer than %d bytes: shorten it", MaxText)}
	}
	v.Reason, v.Message = incomplete(action, r)
	return v
}

// misplaced is why a rotation at this standpoint takes no such request from anybody.
func misplaced(action Action, s Standpoint) (VerdictReason, string) {
	switch action {
	case Approve, Reject:
		if s.Gate == nil {
			return NotOpen, "no gate waits now: see what the rotation does with status, and decide when it asks"
		}
	case Extend:
		if !s.InOverlap {
			return WrongPhase, "only an overlap can be extended, and the rotation is not in one"
		}
	case Rollback:
		if s.NoWayBack != "" {
			return NoWayBack, "the rotation cannot be turned back: " + s.NoWayBack
		}
	default:
		return UnknownAction, fmt.Sprintf("unknown action %q", action)
	}
	return "", ""
}

// incomplete is what a request must say and does not.
func incomplete(action Action, r Request) (VerdictReason, string) {
	switch {
	case r.By == "":
		return Unnamed, fmt.Sprintf("say who decides, as %s, or with --as: an unnamed decision counts for nobody", Example(action))
	case r.Gate == "" && (action == Approve || action == Reject):
		return Unnamed, fmt.Sprintf("say which gate it is for, as %s, or with --gate", Example(action))
	case r.BreakGlass && action != Approve:
		return NoGlassToBreak, "break-glass is for approvals alone"
	case r.BreakGlass && r.Reason == "":
		return ReasonMissing, "say why: break-glass needs a reason"
	case action == Reject && r.Reason == "":
		return ReasonMissing, "say why: a rejection needs a reason"
	case action == Rollback && r.Reason == "":
		return ReasonMissing, "say why: a rollback needs a reason"
	case action == Extend && r.Extension <= 0:
		return BadExtension, "say by how much: a duration above zero, such as 2h"
	}
	return "", ""
}

// Example is how an unsigned request of an action is written.
func Example(action Action) string {
	switch action {
	case Approve:
		return `{"gate":"revoke","by":"you"}`
	case Reject:
		return `{"gate":"revoke","by":"you","reason":"why"}`
	case Extend:
		return `{"by":"you","extension":"2h"}`
	}
	return `{"by":"you","reason":"why"}`
}

func tooLong(r Request) bool {
	return max(len(r.By), len(r.Reason), len(r.ID), len(r.Gate), len(r.Run), len(r.Evidence)) > MaxText
}

func acceptance(action Action, v Verdict, r Request, s Standpoint) string {
	switch action {
	case Approve:
		if v.BreakGlass {
			return fmt.Sprintf("BREAK-GLASS: the %s gate is passed by %s alone; somebody else has to review that within %s: keyturn review rotation/CREDENTIAL", v.Gate, v.By, inventory.Duration(ReviewWithin))
		}
		have := len(approvedBy(append(s.Gate.Approvals, v), s.Now, s.Gate.Needs))
		return fmt.Sprintf("%d of %s of the %s gate", have, Counted(s.Gate.Needs.Count, "approval"), v.Gate)
	case Reject:
		if v.Gate == inventory.GateSignoff {
			return "the rotation ends as refused; nothing was changed"
		}
		return "the rotation turns back to the retiring key"
	case Extend:
		return "the overlap now ends " + s.OverlapEnds.Add(r.Extension.Std()).UTC().Format(time.RFC3339)
	}
	return "the rotation turns back to the retiring key"
}

func approvalValid(v Verdict, now time.Time, needs inventory.Approval) bool {
	return v.Accepted && v.Action == Approve && trusted(v, needs) &&
		(needs.ApprovalExpires == 0 || now.Before(v.At.Add(needs.ApprovalExpires.Std())))
}

// approvedBy are the different people whose approvals are valid now.
func approvedBy(approvals []Verdict, now time.Time, needs inventory.Approval) map[string]bool {
	people := map[string]bool{}
	for _, v := range approvals {
		if approvalValid(v, now, needs) {
			people[v.By] = true
		}
	}
	return people
}
