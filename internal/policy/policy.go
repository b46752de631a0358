// Package policy judges: from facts that were gathered beforehand to a decision with a reason. Its
// functions are pure. They neither ask nor change anything, so that the same facts always give the
// same answer, in an activity, in a test and in the dry run.
package policy

import "fmt"

// Reason names why something was decided, for programs. Reasons are stable.
type Reason string

// Reasons to go on.
const (
	Allowed Reason = "allowed"
)

// Reasons of MayIssue: a rotation with one of them is refused before anything is changed.
const (
	SpecRefused          Reason = "spec-refused"
	SlotsFull            Reason = "slots-full"
	UnknownActiveKey     Reason = "unknown-active-key"
	AmbiguousOrphan      Reason = "ambiguous-orphan"
	AmbiguousRetiringKey Reason = "ambiguous-retiring-key"
	RetiringKeyNotLive   Reason = "retiring-key-not-live"
	RetiringKeyDisabled  Reason = "retiring-key-disabled"
	AdoptedKeyMissing    Reason = "adopted-key-missing"
	StoreRefused         Reason = "store-refused"
	StaleSpec            Reason = "stale-spec"
	ConsumerUnreachable  Reason = "consumer-unreachable"
	ConsumerUnhealthy    Reason = "consumer-unhealthy"
	ConsumerNotAttesting Reason = "consumer-not-attesting"
	ConsumerOnOtherKey   Reason = "consumer-on-other-key"
	QuietBelowLag        Reason = "quiet-window-below-lag"
	TrustNotVerifiable   Reason = "trust-not-verifiable"
	CannotExpire         Reason = "cannot-expire"
	UnfinishedRotation   Reason = "unfinished-rotation"
)

// Reasons to wait, or to turn back, once a key was issued.
const (
	InstanceNotConverged Reason = "instance-not-converged"
	PendingMoved         Reason = "pending-moved"
	CurrentMoved         Reason = "current-moved"
	OverlapNotOver       Reason = "overlap-not-over"
	RetiringStillHeld    Reason = "retiring-still-held"
	IncomingNotUsed      Reason = "incoming-not-used"
	RetiringNotQuiet     Reason = "retiring-not-quiet"
	IncomingNotLive      Reason = "incoming-not-live"
	ApprovalsMissing     Reason = "approvals-missing"
	NotOurs              Reason = "not-ours"
	NotDisabled          Reason = "not-disabled"
	SoakNotOver          Reason = "soak-not-over"
	BudgetBreached       Reason = "budget-breached"
	CheckFailing         Reason = "check-failing"
	BudgetNoData         Reason = "budget-no-data"
	BudgetTooLittle      Reason = "budget-too-little-traffic"
)

// Decision is an answer: whether, why for programs, and why for people.
type Decision struct {
	OK      bool   `json:"ok"`
	Reason  Reason `json:"reason"`
	Message string `json:"message"`
}

func allow(format string, args ...any) Decision {
	return Decision{OK: true, Reason: Allowed, Message: fmt.Sprintf(format, args...)}
}

func refuse(reason Reason, format string, args ...any) Decision {
	return Decision{Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// count says how many there are of something: "1 approval", "2 approvals".
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
