// Package workflows orchestrates rotations. Its code is deterministic: it reads no clock, file or
// variable of its own, and whatever touches the world is an activity. What is judged is judged in
// activities and in package policy; a workflow only follows.
package workflows

import (
	"time"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
)

// TaskQueue is where workflow tasks and most activities go.
const TaskQueue = "keyturn"

// AccountQueue is where the calls to an issuer account go, so that its quota holds over all workers.
func AccountQueue(account string) string { return TaskQueue + "-account-" + account }

// Names of updates and signals that carry a policy.Request, one for each action.
const (
	ApproveName  = string(policy.Approve)
	RejectName   = string(policy.Reject)
	ExtendName   = string(policy.Extend)
	RollbackName = string(policy.Rollback)
)

// CompromisedName is the signal by which an incident takes over.
const CompromisedName = "compromised"

// Compromised tells a rotation that keys are exposed.
type Compromised struct {
	// Incident is the workflow ID of the incident.
	Incident string `json:"incident"`
	Reason   string `json:"reason"`
}

// StatusName is the query that returns a Status, PlanName the one that returns the policy.Plan.
const (
	StatusName = "status"
	PlanName   = "plan"
)

// RotationInput begins a rotation.
type RotationInput struct {
	// Spec is what to rotate, by value.
	Spec inventory.SignedSpec `json:"spec"`
	// Reason and RequestedBy are for the record.
	Reason      string `json:"reason,omitempty"`
	RequestedBy string `json:"requestedBy,omitempty"`
}

// InspectInput begins a dry run.
type InspectInput struct {
	Spec inventory.SignedSpec `json:"spec"`
}

// Phase is where a rotation is.
type Phase string

// The phases, in their order. A rollback comes after any of them up to the disable soak.
const (
	PhaseInspect     Phase = "inspect"
	PhaseSignoff     Phase = "signoff"
	PhaseIssue       Phase = "issue"
	PhaseVerify      Phase = "verify"
	PhaseDeliver     Phase = "deliver"
	PhasePromote     Phase = "promote"
	PhaseOverlap     Phase = "overlap"
	PhaseEvidence    Phase = "evidence"
	PhaseRevokeGate  Phase = "revoke-gate"
	PhaseDisable     Phase = "disable"
	PhaseDisableSoak Phase = "disable-soak"
	PhaseRevoke      Phase = "revoke"
	PhaseRollback    Phase = "rollback"
	PhaseRecord      Phase = "record"
	PhaseEnded       Phase = "ended"
)

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
)

// FailedType is the type of the application error that a failed rotation ends with; its details are the
// Report.
const FailedType = "RotationFailed"

// Status is where a rotation stands, for people and programs.
type Status struct {
	Credential string `json:"credential"`
	Owner      string `json:"owner,omitempty"`
	Rotation   string `json:"rotation"`
	Phase      Phase  `json:"phase"`
	// Since is when the phase began.
	Since time.Time `json:"since"`
	// Doing says what is going on, WaitsFor what it takes to go on, and UnblockedBy who can do that.
	Doing       string `json:"doing"`
	WaitsFor    string `json:"waitsFor,omitempty"`
	UnblockedBy string `json:"unblockedBy,omitempty"`
	// Until is when a timed wait ends.
	Until    time.Time        `json:"until,omitzero"`
	Retiring key.Ref          `json:"retiring,omitzero"`
	Incoming key.Ref          `json:"incoming,omitzero"`
	Waves    []WaveStatus     `json:"waves,omitempty"`
	Gate     *policy.OpenGate `json:"gate,omitempty"`
	Evidence *policy.Evidence `json:"evidence,omitempty"`
	// NoWayBack is why a rollback is impossible now; empty when it is possible.
	NoWayBack string `json:"noWayBack,omitempty"`
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
	// State is waiting, delivering, soaking, passed, failed or turned-back.
	State string `json:"state"`
}

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
	EvidenceDigest string            `json:"evidenceDigest,omitempty"`
	Probe          string            `json:"probe,omitempty"`
	RotateBy       time.Time         `json:"rotateBy,omitzero"`
	Debt           []activities.Debt `json:"debt,omitempty"`
	// Open is what a superseded run leaves for the emergency to finish.
	Open      []string  `json:"open,omitempty"`
	StartedAt time.Time `json:"startedAt"`
	EndedAt   time.Time `json:"endedAt"`
	Timeline  []Moment  `json:"timeline"`
}

// WorkflowID is the ID of a credential's rotation: one at a time.
func WorkflowID(credential string) string { return activities.WorkflowID(credential) }

// InspectID is the ID of a credential's dry run.
func InspectID(credential string) string { return "inspect/" + credential }
