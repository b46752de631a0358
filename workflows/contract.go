// Package workflows orchestrates rotations. Its code is deterministic: it reads no clock, file or
// variable of its own, and whatever touches the world is an activity. What is judged is judged in
// activities and in package policy; a workflow only follows.
package workflows

import (
	"cmp"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/signed"
)

// TaskQueue is where workflow tasks and most activities go.
const TaskQueue = "keyturn"

// AccountQueue is where the calls to an issuer account go, so that its quota holds over all workers.
func AccountQueue(account string) string { return TaskQueue + "-account-" + account }

// issuerQueue is where a rotation's calls to its issuer go. Without a quota that is the common queue, on which the
// worker that runs the workflow may begin them at once.
func issuerQueue(c inventory.Credential, a activities.Accepted) string {
	if a.Quota {
		return AccountQueue(c.Issuer.Account)
	}
	return TaskQueue
}

// LeastCalls is how many activities an emergency has on its issuer's queue, at least, before so many exposed keys are dead: it looks, issues,
// promotes and delivers, and destroys each.
func LeastCalls(exposed int) int { return 4 + exposed }

// Names of updates and signals that carry a policy.Request, one for each action.
const (
	ApproveName  = string(policy.Approve)
	RejectName   = string(policy.Reject)
	ExtendName   = string(policy.Extend)
	RollbackName = string(policy.Rollback)
)

// ResignName is the update that carries an inventory.SignedSpec for a held rotation.
const ResignName = string(Resign)

// CompromisedName is the signal by which an incident takes over.
const CompromisedName = "compromised"

// Compromised tells a rotation that keys are exposed.
type Compromised struct {
	// Incident is the workflow ID of the incident.
	Incident string `json:"incident"`
	Reason   string `json:"reason"`
	// Emergency is by what the rotation becomes the emergency of its credential; without one it goes on.
	Emergency *Emergency `json:"emergency,omitempty"`
}

// Emergency is what a rotation acts by whose credential has exposed keys, and who wants to hear of its end.
type Emergency struct {
	activities.Emergency
	// Incidents are their workflow IDs.
	Incidents []string `json:"incidents"`
	// ExposedSince is since when somebody else may have had the keys, as who began the incident says; zero when they do not know.
	ExposedSince time.Time `json:"exposedSince,omitzero"`
}

// EmergencyQueue is where the workflow tasks of incidents and their emergencies go.
const EmergencyQueue = TaskQueue + "-emergency"

// UrgentPriority is that of what emergencies do until keys are dead, and SoonPriority that of what they do afterwards: of 1 to 5, where
// Temporal's own is 3.
const (
	UrgentPriority = 1
	SoonPriority   = 2
)

// UnfreezeName is the signal that has an incident let deployments go on: an Unfreeze.
const UnfreezeName = "unfreeze"

// Unfreeze says who wants deployments to go on.
type Unfreeze struct {
	By string `json:"by"`
}

// NewsName is the signal by which an emergency tells its incidents that the exposed keys are dead, and that it has ended: an EmergencyNews.
const NewsName = "emergency-news"

// EmergencyNews is how the emergency of one credential stands. Its report has an outcome once that has ended.
type EmergencyNews struct {
	Credential string `json:"credential"`
	Report     Report `json:"report"`
}

// DeclarationsName is the query that returns by what an incident acts: each a signed.Envelope, none when nobody signed.
const DeclarationsName = "declarations"

// StatusName is the query that returns a Status, PlanName the one that returns the policy.Plan, SpecName
// the one that returns the inventory.SignedSpec.
const (
	StatusName = "status"
	PlanName   = "plan"
	SpecName   = "spec"
)

// RotationInput begins a rotation: of a spec by value, or of a credential by name, whose spec is then the one
// that its Schedule has.
type RotationInput struct {
	// Spec is what to rotate, by value.
	Spec inventory.SignedSpec `json:"spec,omitzero"`
	// Credential is what to rotate, by name.
	Credential string `json:"credential,omitempty"`
	// Settle is a retired key of the credential that was left alive: the run mints no other, but ends that one. It is
	// what Sweep begins.
	Settle string `json:"settle,omitempty"`
	// Retire is a leftover key of the credential that a person wants ended, as Settle is one that Sweep wants ended: the run does nothing else.
	// What may be named policy.MayRetire judges, on the facts of that moment.
	Retire string `json:"retire,omitempty"`
	// Review is a review of approvals by break-glass, which the run records. It rotates nothing.
	Review *signed.Envelope `json:"review,omitempty"`
	// Now begins it outside of the credential's windows and in a blackout, too. A blackout keeps the retiring key alive all the
	// same.
	Now bool `json:"now,omitempty"`
	// Emergency makes it one: of an EmergencyRotation alone.
	Emergency *Emergency `json:"emergency,omitempty"`
	// Reason and RequestedBy are for the record.
	Reason      string `json:"reason,omitempty"`
	RequestedBy string `json:"requestedBy,omitempty"`
	// Carried is set by a run that goes on in this one.
	Carried *State `json:"carried,omitempty"`

	unknown string // what it has that this build does not know
}

// Ends is the one key that the run is to end, at a person's word or at Sweep's; empty for a rotation.
func (in RotationInput) Ends() string { return cmp.Or(in.Retire, in.Settle) }

// InspectInput begins a dry run, of a spec by value or of a credential by name.
type InspectInput struct {
	Spec       inventory.SignedSpec `json:"spec,omitzero"`
	Credential string               `json:"credential,omitempty"`
	// Now asks what a rotation would do that begins whatever the calendar says.
	Now bool `json:"now,omitempty"`
}

// Phase is where a rotation is.
type Phase string

// The phases, in their order. A rollback comes after any of them up to the disable soak.
const (
	PhaseInspect     Phase = "inspect"
	PhaseSignoff     Phase = "signoff"
	PhaseIssue       Phase = "issue"
	PhaseDeliver     Phase = "deliver"
	PhasePromote     Phase = "promote"
	PhaseOverlap     Phase = "overlap"
	PhaseEvidence    Phase = "evidence"
	PhaseRevokeGate  Phase = "revoke-gate"
	PhaseDisable     Phase = "disable"
	PhaseDisableSoak Phase = "disable-soak"
	PhaseRevoke      Phase = "revoke"
	PhaseRollback    Phase = "rollback"
	PhaseContain     Phase = "contain"
	PhaseRecord      Phase = "record"
	PhaseEnded       Phase = "ended"
)

// PhaseHoldGate is not a phase by itself, but by which a rotation is found that waits in PhaseDeliver for people to let it go on
// without an error budget.
const PhaseHoldGate Phase = "hold-gate"

// PhaseSlot is the one phase of a ScheduledRotation: it waits for a slot.
const PhaseSlot Phase = "slot"

// Outcome is how a rotation ended.
type Outcome string

// The outcomes.
const (
	Completed         Outcome = "completed"
	CompletedWithDebt Outcome = "completed-with-debt"
	RolledBack        Outcome = "rolled-back"
	Refused           Outcome = "refused"
	Superseded        Outcome = "superseded"
	Failed            Outcome = "failed"
	// Skipped is what becomes of a ScheduledRotation that begins none.
	Skipped Outcome = "skipped"
)

// FailedType is the type of the application error that a failed rotation ends with; its details are the
// Report.
const FailedType = "RotationFailed"

// Status is where a rotation stands, for people and programs.
type Status struct {
	Credential string `json:"credential"`
	Owner      string `json:"owner,omitempty"`
	// Generation is that of the spec by which the run goes to its end, whatever is applied meanwhile: milliseconds since 1970. Zero while none is known.
	Generation int64 `json:"generation,omitempty"`
	// RequestedBy is who asked for the run, and Reason why, as they say.
	RequestedBy string `json:"requestedBy,omitempty"`
	Reason      string `json:"reason,omitempty"`
	Rotation    string `json:"rotation"`
	// Ends is the one key that the run is to end: it mints and delivers nothing. Empty for a rotation.
	Ends  string `json:"ends,omitempty"`
	Phase Phase  `json:"phase"`
	// Since is when the phase began.
	Since time.Time `json:"since"`
	// Doing says what is going on, WaitsFor what it takes to go on, and UnblockedBy who can do that.
	Doing       string `json:"doing"`
	WaitsFor    string `json:"waitsFor,omitempty"`
	UnblockedBy string `json:"unblockedBy,omitempty"`
	// Until is when a timed wait ends.
	Until time.Time `json:"until,omitzero"`
	// Takes is how long that takes which is going on, where no timer ends it, Soonest before when the rotation cannot end; empty where
	// nobody knows.
	Takes   string    `json:"takes,omitempty"`
	Soonest time.Time `json:"soonest,omitzero"`
	// Budget is how many requests may fail, and what becomes of the rotation when more do.
	Budget   string  `json:"budget,omitempty"`
	Retiring key.Ref `json:"retiring,omitzero"`
	Incoming key.Ref `json:"incoming,omitzero"`
	// Keys is what became of the two keys so far.
	Keys     []KeyMoment      `json:"keys,omitempty"`
	Waves    []WaveStatus     `json:"waves,omitempty"`
	Gate     *policy.OpenGate `json:"gate,omitempty"`
	Evidence *policy.Evidence `json:"evidence,omitempty"`
	// Incidents are those whose emergency the run is, or becomes at its next safe point.
	Incidents []string `json:"incidents,omitempty"`
	// ActsBy is the one by whose declaration, and at whose deadline, an emergency acts.
	ActsBy string `json:"actsBy,omitempty"`
	// NoWayBack is why a rollback is impossible now; empty when it is possible.
	NoWayBack string `json:"noWayBack,omitempty"`
	// OnlyForward is why nobody who has the incoming key can be brought back, said before anybody has it; empty when the retiring one
	// can be delivered again, and while no plan is known.
	OnlyForward string `json:"onlyForward,omitempty"`
	// TurnBack is the command that turns the run back; empty when nobody would be granted that now.
	TurnBack string `json:"turnBack,omitempty"`
	// Notices are what everybody who looks at the run should know.
	Notices []string `json:"notices,omitempty"`
	// Timeline is what happened so far.
	Timeline []Moment `json:"timeline,omitempty"`
	// Report is set once the run has ended.
	Report *Report `json:"report,omitempty"`
}

// WaveStatus is how far a wave is.
type WaveStatus struct {
	Name      string   `json:"name"`
	Instances []string `json:"instances"`
	// State is waiting, delivering, soaking, held, passed, failed or turned-back.
	State string `json:"state"`
	// Attested is how many instances were seen to attest the incoming key, and well, when that was last known: while the wave is
	// delivered to, at SeenAt, which is zero until a delivery that takes long has told.
	Attested int       `json:"attested,omitempty"`
	SeenAt   time.Time `json:"seenAt,omitzero"`
	// Behind says of some that were not why, More is how many there are besides.
	Behind []string `json:"behind,omitempty"`
	More   int      `json:"more,omitempty"`
	// Budget is what was counted against the error budget when the wave had soaked.
	Budget string `json:"budget,omitempty"`
}

// KeyMoment is when one of the two keys became something else.
type KeyMoment struct {
	At    time.Time `json:"at"`
	Key   KeyRole   `json:"key"`
	State KeyState  `json:"state"`
}

// KeyRole is which of the two keys of a rotation one is.
type KeyRole string

// The roles.
const (
	RoleRetiring KeyRole = "retiring"
	RoleIncoming KeyRole = "incoming"
)

// KeyState is what a key is: the label of its value in the store while it works, and then what the issuer made of it.
type KeyState string

// The states.
const (
	KeyPending   KeyState = "pending"
	KeyCurrent   KeyState = "current"
	KeyPrevious  KeyState = "previous"
	KeyDisabled  KeyState = "disabled"
	KeyDestroyed KeyState = "destroyed"
)

// Moment is one line of a timeline.
type Moment struct {
	At    time.Time `json:"at"`
	Phase Phase     `json:"phase"`
	What  string    `json:"what"`
}

// Report is the result of a rotation. For an outcome of failed it is in the error's details.
type Report struct {
	Credential string  `json:"credential"`
	Rotation   string  `json:"rotation"`
	Outcome    Outcome `json:"outcome"`
	// Reason is for programs, Message for people: what happened, what is true now, what to do next.
	Reason   policy.Reason `json:"reason,omitempty"`
	Message  string        `json:"message"`
	Retiring key.Ref       `json:"retiring,omitzero"`
	Incoming key.Ref       `json:"incoming,omitzero"`
	// Refusals are all reasons of a refused plan.
	Refusals []policy.Decision `json:"refusals,omitempty"`
	// Verdicts are the decisions of people, in their order.
	Verdicts []policy.Verdict `json:"verdicts,omitempty"`
	// EvidenceDigest names the evidence that the retiring key was revoked on.
	EvidenceDigest string    `json:"evidenceDigest,omitempty"`
	Probe          string    `json:"probe,omitempty"`
	RotateBy       time.Time `json:"rotateBy,omitzero"`
	// NextRun is when the next routine rotation is due to begin.
	NextRun time.Time         `json:"nextRun,omitzero"`
	Debt    []activities.Debt `json:"debt,omitempty"`
	// Incident is the one by whose declaration an emergency acted.
	Incident string `json:"incident,omitempty"`
	// Unconfirmed: the declaration was refused before an emergency did anything by it.
	Unconfirmed bool `json:"unconfirmed,omitempty"`
	// Contained are the exposed keys that an emergency saw dead, and when.
	Contained []ContainedKey `json:"contained,omitempty"`
	// Misuse is what is known of who used the exposed keys; nil when nobody looked.
	Misuse *policy.Misuse `json:"misuse,omitempty"`
	// Open is what a superseded run leaves for the emergency to finish.
	Open      []string  `json:"open,omitempty"`
	StartedAt time.Time `json:"startedAt"`
	EndedAt   time.Time `json:"endedAt"`
	Timeline  []Moment  `json:"timeline"`
}

// ContainedKey is an exposed key that is dead.
type ContainedKey struct {
	KeyID string    `json:"keyId"`
	At    time.Time `json:"at"`
	// Probe says how it was seen that the key is refused now.
	Probe string `json:"probe,omitempty"`
	// Absent: the issuer has no such key, and nobody knows of one: it was ended before, or its ID is mistyped.
	Absent bool `json:"absent,omitempty"`
}

// ScheduledReport is the result of a ScheduledRotation.
type ScheduledReport struct {
	Credential string `json:"credential"`
	// Outcome is that of the rotation, or skipped.
	Outcome Outcome `json:"outcome"`
	// Reason is for programs, Message for people.
	Reason  policy.Reason `json:"reason,omitempty"`
	Message string        `json:"message"`
	// Run is the rotation's first run; empty when none was begun.
	Run      string    `json:"run,omitempty"`
	RotateBy time.Time `json:"rotateBy,omitzero"`
	NextRun  time.Time `json:"nextRun,omitzero"`
}

// SlotID is the ID of a slot: one of those that routine rotations need, so that only so many run at once.
func SlotID(s policy.Slot) string {
	prefix := slotPrefix
	if s.Unpromoted {
		prefix = unpromotedPrefix
	}
	return prefix + path.Join(s.Environment, strconv.Itoa(s.Number))
}

// SlotOf is the slot with an ID; ok is false for what is none.
func SlotOf(id string) (s policy.Slot, ok bool) {
	rest, ok := strings.CutPrefix(id, slotPrefix)
	if !ok {
		rest, ok = strings.CutPrefix(id, unpromotedPrefix)
		s.Unpromoted = ok
	}
	number := rest
	if environment, own, split := strings.Cut(rest, "/"); split {
		s.Environment, number = environment, own
	}
	var err error
	s.Number, err = strconv.Atoi(number)
	return s, ok && err == nil
}

const (
	slotPrefix       = "slot/"
	unpromotedPrefix = "unpromoted/"
)

// WorkflowID is the ID of a credential's rotation: one at a time.
func WorkflowID(credential string) string { return activities.WorkflowID(credential) }

// ScheduledID is the ID of what a credential's Schedule starts; Temporal adds the time to it.
func ScheduledID(credential string) string { return "scheduled/" + credential }

// ScheduledName is the workflow type that Schedules start, with a RotationInput.
const ScheduledName = "ScheduledRotation"

// InspectID is the ID of a credential's dry run.
func InspectID(credential string) string { return "inspect/" + credential }
