// Package policy judges: from facts that were gathered beforehand to a decision with a reason. Its
// functions are pure. They neither ask nor change anything, so that the same facts always give the
// same answer, in an activity, in a test and in the dry run.
package policy

import (
	"fmt"
	"slices"

	"github.com/keyturn/keyturn/internal/outside"
)

// Reason names why something was decided, for programs. Reasons are stable.
type Reason string

// Reasons to go on.
const (
	Allowed Reason = "allowed"
	// KeyGone: there is nothing to do any more.
	KeyGone Reason = "key-gone"
	// KeyAbsent: likewise, and nobody knows that there ever was such a key.
	KeyAbsent Reason = "key-absent"
)

// Reasons of MayIssue: a rotation with one of them is refused before anything is changed.
const (
	SpecRefused          Reason = "spec-refused"
	SlotsFull            Reason = "slots-full"
	UnknownActiveKey     Reason = "unknown-active-key"
	AmbiguousOrphan      Reason = "ambiguous-orphan"
	OrphanUnplaced       Reason = "orphan-unplaced"
	AmbiguousRetiringKey Reason = "ambiguous-retiring-key"
	RetiringKeyNotLive   Reason = "retiring-key-not-live"
	RetiringKeyDisabled  Reason = "retiring-key-disabled"
	AdoptedKeyMissing    Reason = "adopted-key-missing"
	StoreRefused         Reason = "store-refused"
	StaleSpec            Reason = "stale-spec"
	OtherOwner           Reason = "other-inventory"
	ConsumerUnreachable  Reason = "consumer-unreachable"
	ConsumerUnhealthy    Reason = "consumer-unhealthy"
	ConsumerNotAttesting Reason = "consumer-not-attesting"
	ConsumerOnOtherKey   Reason = "consumer-on-other-key"
	QuietBelowLag        Reason = "quiet-window-below-lag"
	WaveBelowLag         Reason = "wave-timeout-below-lag"
	TrustNotVerifiable   Reason = "trust-not-verifiable"
	CannotExpire         Reason = "cannot-expire"
	RightsRefused        Reason = "rights-refused"
	UnfinishedRotation   Reason = "unfinished-rotation"
	RotationEnded        Reason = "rotation-ended"
	OverlapTooShort      Reason = "overlap-too-short"
	SignoffNeeded        Reason = "signoff-needed"
	Held                 Reason = "held"
	// KeyCurrent is of MayRetire alone: consumers use the key.
	KeyCurrent Reason = "key-current"
	// CurrentIsAnother and NotAtIssuer are of MayImport alone.
	CurrentIsAnother Reason = "current-is-another"
	NotAtIssuer      Reason = "not-at-issuer"
	// NotLooked: issuer, store, consumers or Temporal gave no answer to judge by.
	NotLooked Reason = "not-looked"
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
	UsageStale           Reason = "usage-stale"
	KeyNotWorking        Reason = "key-not-working"
	IncomingNotLive      Reason = "incoming-not-live"
	KeyNotTested         Reason = "key-not-tested"
	ApprovalsMissing     Reason = "approvals-missing"
	NotOurs              Reason = "not-ours"
	OrphanNotQuiet       Reason = "orphan-not-quiet"
	OrphanInUse          Reason = "orphan-in-use"
	NotDisabled          Reason = "not-disabled"
	SoakNotOver          Reason = "soak-not-over"
	CachesNotOver        Reason = "caches-not-over"
	DeliveryNotOver      Reason = "delivery-not-over"
	RetiringMissed       Reason = "retiring-missed"
	WayBackOver          Reason = "way-back-over"
	NothingKept          Reason = "nothing-kept"
	KeyExposed           Reason = "key-exposed"
	NotDestroyed         Reason = "not-destroyed"
	ReviewOverdue        Reason = "review-overdue"
	BudgetBreached       Reason = "budget-breached"
	CheckFailing         Reason = "check-failing"
	BudgetNoData         Reason = "budget-no-data"
	BudgetTooLittle      Reason = "budget-too-little-traffic"
	BudgetBlind          Reason = "budget-blind"
	RetiringGone         Reason = "retiring-gone"
)

// Decision is an answer: whether, why for programs, and why for people.
type Decision struct {
	OK      bool   `json:"ok"`
	Reason  Reason `json:"reason"`
	Message string `json:"message"`
	// Broke is the approval by break-glass that this stands on alone; nil for none. It is owed a review, which is noted before the effect.
	Broke *Verdict `json:"-"`
}

func allow(format string, args ...any) Decision {
	return Decision{OK: true, Reason: Allowed, Message: message(format, args...)}
}

func refuse(reason Reason, format string, args ...any) Decision {
	return Decision{Reason: reason, Message: message(format, args...)}
}

// message is for people. Parts of it come from issuers, stores and consumers.
func message(format string, args ...any) string {
	return outside.Lines(fmt.Sprintf(format, args...), 4*outside.MaxText)
}

// maxNamed bounds the instances whose trouble is told: a fleet that is down must fit into a history.
const maxNamed = 25

// named cuts a list of what is wrong with instances, and says how many more there are.
func named(wrong []Decision) []Decision {
	more := len(wrong) - maxNamed
	if more <= 0 {
		return wrong
	}
	return append(slices.Clone(wrong[:maxNamed]), refuse(wrong[maxNamed].Reason, "and %d more", more))
}

// Counted says how many there are of something: "1 approval", "2 approvals".
func Counted(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// takenSlots says that no more keys fit beside those that somebody has.
func takenSlots(slots int, whose string) string {
	if slots == 1 {
		return "the one key slot of " + whose + " is taken"
	}
	return fmt.Sprintf("all %d key slots of %s are taken", slots, whose)
}

// Union is a list with what another one has beside it.
func Union(list, more []string) []string {
	for _, one := range more {
		if !slices.Contains(list, one) {
			list = append(list, one)
		}
	}
	return list
}
