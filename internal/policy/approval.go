package policy

import (
	"fmt"
	"time"

	"github.com/keyturn/keyturn/internal/inventory"
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
	// Gate that an approve or reject is for; the open one when empty.
	Gate inventory.Gate `json:"gate,omitempty"`
	// By is who decides, as they say.
	By string `json:"by,omitempty"`
	// Reason is asked for by reject and rollback.
	Reason string `json:"reason,omitempty"`
	// Extension is how much longer the overlap shall be.
	Extension inventory.Duration `json:"extension,omitzero"`
	// Run binds an approval to the run in which the gate opened; any when empty.
	Run string `json:"run,omitempty"`
	// Evidence binds an approval to the digest of what was shown; any when empty.
	Evidence string `json:"evidence,omitempty"`
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
	EndedMeanwhile  VerdictReason = "ended"
	SignatureNeeded VerdictReason = "signature-needed"
)

// Verdict is the answer to a request.
type Verdict struct {
	ID       string         `json:"id"`
	Action   Action         `json:"action"`
	Gate     inventory.Gate `json:"gate,omitempty"`
	By       string         `json:"by,omitempty"`
	Why      string         `json:"why,omitempty"`
	Accepted bool           `json:"accepted"`
	Reason   VerdictReason  `json:"reason"`
	Message  string         `json:"message"`
	At       time.Time      `json:"at"`
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
	return len(approvedBy(g.Approvals, now, g.Needs)) >= g.Needs.Count
}

// Standpoint is where a rotation stands when it judges a request.
type Standpoint struct {
	Now time.Time
	Run string
	// Gate is the open one; nil for none.
	Gate *OpenGate
	// InOverlap: the overlap can be extended.
	InOverlap bool
	// OverlapEnds is the present end, LatestEnd the latest possible: the retiring key's own end.
	OverlapEnds time.Time
	LatestEnd   time.Time
	// NoWayBack is why the rotation cannot be turned back; empty when it can.
	NoWayBack string
}

// MaxText is the longest text that is taken from a person.
const MaxText = 1000

// Judge is the one place where a request of a person is judged, whichever way it came.
func Judge(action Action, r Request, s Standpoint) Verdict {
	v := Verdict{ID: r.ID, Action: action, Gate: r.Gate, By: r.By, Why: r.Reason, At: s.Now}
	no := func(reason VerdictReason, format string, args ...any) Verdict {
		v.Reason, v.Message = reason, fmt.Sprintf(format, args...)
		return v
	}
	if len(r.By) > MaxText || len(r.Reason) > MaxText || len(r.ID) > MaxText {
		v.By, v.Why, v.ID = "", "", ""
		return no(TextTooLong, "a text is longer than %d bytes: shorten it", MaxText)
	}
	switch action {
	case Approve, Reject:
		if s.Gate == nil {
			return no(NotOpen, "no gate waits now: see what the rotation does with status, and decide when it asks")
		}
		if r.Gate == "" {
			v.Gate = s.Gate.Gate
		} else if r.Gate != s.Gate.Gate {
			return no(NotOpen, "the gate %q does not wait now; %q does", r.Gate, s.Gate.Gate)
		}
		if r.Run != "" && r.Run != s.Gate.Run {
			return no(OtherRun, "the decision is for run %s, and the gate was opened by run %s: look at the gate and decide again", r.Run, s.Gate.Run)
		}
		if r.Evidence != "" && r.Evidence != s.Gate.Evidence {
			return no(OtherEvidence, "the evidence has changed since: look at the gate and decide again")
		}
		if s.Gate.Needs.Trust != inventory.TrustAny {
			return no(SignatureNeeded, "this gate takes signed decisions only")
		}
		if action == Reject {
			if r.Reason == "" {
				return no(ReasonMissing, "say why: a rejection needs a reason")
			}
			break
		}
		for _, have := range s.Gate.Approvals {
			if person(have) == person(v) && approvalValid(have, s.Now, s.Gate.Needs) {
				return no(AlreadyCounted, "the approval of %s is counted already: another person must approve", person(v))
			}
		}
	case Extend:
		if !s.InOverlap {
			return no(WrongPhase, "only an overlap can be extended, and the rotation is not in one")
		}
		if r.Extension <= 0 {
			return no(BadExtension, "say by how much: a duration above zero, such as 2h")
		}
		if end := s.OverlapEnds.Add(r.Extension.Std()); !s.LatestEnd.IsZero() && end.After(s.LatestEnd) {
			return no(BadExtension, "the retiring key expires %s, before the extended overlap would end", s.LatestEnd.UTC().Format(time.RFC3339))
		}
	case Rollback:
		if s.NoWayBack != "" {
			return no(NoWayBack, "the rotation cannot be turned back: %s", s.NoWayBack)
		}
		if r.Reason == "" {
			return no(ReasonMissing, "say why: a rollback needs a reason")
		}
	default:
		return no(UnknownAction, "unknown action %q", action)
	}
	v.Accepted, v.Reason = true, Accepted
	v.Message = acceptance(action, v, r, s)
	return v
}

func acceptance(action Action, v Verdict, r Request, s Standpoint) string {
	switch action {
	case Approve:
		have := len(approvedBy(append(s.Gate.Approvals, v), s.Now, s.Gate.Needs))
		return fmt.Sprintf("%d of %s of the %s gate", have, count(s.Gate.Needs.Count, "approval"), v.Gate)
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

// person is who a verdict counts for; all who do not say who they are count as one.
func person(v Verdict) string {
	if v.By == "" {
		return "somebody unnamed"
	}
	return v.By
}

func approvalValid(v Verdict, now time.Time, needs inventory.Approval) bool {
	return v.Accepted && v.Action == Approve &&
		(needs.ApprovalExpires == 0 || now.Before(v.At.Add(needs.ApprovalExpires.Std())))
}

// approvedBy are the different people whose approvals are valid now.
func approvedBy(approvals []Verdict, now time.Time, needs inventory.Approval) map[string]bool {
	people := map[string]bool{}
	for _, v := range approvals {
		if approvalValid(v, now, needs) {
			people[person(v)] = true
		}
	}
	return people
}
