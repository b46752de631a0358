// Package audit has the typed events that a rotation leaves behind, and the file that keeps them beside
// Temporal's history. An event is made where the thing happens, by whoever made it happen.
package audit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/outside"
)

// Type says what happened. Types are stable: programs filter by them.
type Type string

// The types, in the order of a rotation. Each constant says when its event is made; "about" is in Detail.
const (
	// RotationRequested: somebody asked for a rotation, with a reason.
	RotationRequested Type = "rotation.requested"
	// RotationStarted: the plan was allowed and the rotation acts from here on.
	RotationStarted Type = "rotation.started"
	// PlanMade: facts were gathered and judged.
	PlanMade Type = "plan.made"
	// PlanRefused: policy refused; nothing was changed.
	PlanRefused Type = "plan.refused"

	// GateOpened, GateClosed: a point that waits for approvals, sign-off or revoke.
	GateOpened Type = "gate.opened"
	GateClosed Type = "gate.closed"
	// DecisionAccepted, DecisionRejected: the verdict on what a person decided or asked for.
	DecisionAccepted Type = "decision.accepted"
	DecisionRejected Type = "decision.rejected"

	// MintIntended: the intent to mint is written now; a key that nobody can account for may follow.
	MintIntended Type = "mint.intended"
	// OrphanDestroyed: a key that an earlier attempt minted and lost was destroyed.
	OrphanDestroyed Type = "orphan.destroyed"
	// OrphanDisabled: such a key is disabled until it is known that nobody used it; OrphanReleased: somebody did.
	OrphanDisabled Type = "orphan.disabled"
	OrphanReleased Type = "orphan.released"
	// KeyIssued: the incoming key exists and is staged.
	KeyIssued Type = "key.issued"
	// ImportBegun: a key that is in use is brought to issuer and store from now on.
	ImportBegun Type = "import.begun"
	// KeyImported: a key that was in use before keyturn is CURRENT, and seen to work; who does not attest it is said.
	KeyImported Type = "key.imported"
	// KeyVerified: the incoming key was seen to work.
	KeyVerified Type = "key.verified"
	// KeyDelivered: instances were given a key.
	KeyDelivered Type = "key.delivered"
	// WavePassed, WaveFailed: whether a wave runs on the key, healthy, attested and within its budget.
	WavePassed Type = "wave.passed"
	WaveFailed Type = "wave.failed"
	// KeyPromoted: CURRENT is the incoming key.
	KeyPromoted Type = "key.promoted"

	// OverlapBegun, OverlapExtended: the time in which both keys are accepted.
	OverlapBegun    Type = "overlap.begun"
	OverlapExtended Type = "overlap.extended"
	// EvidenceComplete, EvidenceMissing: whether the retiring key may go, and for whom it may not.
	EvidenceComplete Type = "evidence.complete"
	EvidenceMissing  Type = "evidence.missing"
	// KeyDisabled, KeyEnabled: the reversible half of revoking, and its way back.
	KeyDisabled Type = "key.disabled"
	KeyEnabled  Type = "key.enabled"
	// KeyDestroyed: the retiring key was revoked for good.
	KeyDestroyed Type = "key.destroyed"
	// ProbeRefused, ProbeAccepted: whether the destroyed key was refused, as it must be.
	ProbeRefused  Type = "probe.refused"
	ProbeAccepted Type = "probe.accepted"
	// CopiesPurged: an instance's cached copies of a dead key were removed.
	CopiesPurged Type = "copies.purged"
	// PendingWithdrawn: a version with PENDING is removed now, since its key is not kept and consumers may read it.
	PendingWithdrawn Type = "pending.withdrawn"
	// VersionPruned: a stored version was removed.
	VersionPruned Type = "version.pruned"

	// ValueRead: an activity is about to read a value from the store, and for what. It may read it again in the same attempt.
	ValueRead Type = "value.read"

	// KeyMissed: somebody used the retiring key after it was disabled.
	KeyMissed Type = "key.missed"
	// BudgetBreached: a health signal or check says that the change does harm, or what the watch found lets nobody tell.
	BudgetBreached Type = "budget.breached"
	// RollbackBegun: the rotation turned back, and why.
	RollbackBegun Type = "rollback.begun"
	// LabelsRestored: CURRENT is the retiring key again.
	LabelsRestored Type = "labels.restored"
	// KeyDiscarded: the incoming key of a rolled-back rotation was destroyed, or a key that an import brought and that was refused then.
	KeyDiscarded Type = "key.discarded"

	// EmergencyBegun: the first effect for a credential by the declaration of an incident, which somebody signed who may.
	EmergencyBegun Type = "emergency.begun"
	// DeploymentsFrozen: hooks were asked to keep others from deploying while an incident goes on; DeploymentsThawed: to let them again.
	DeploymentsFrozen Type = "deployments.frozen"
	DeploymentsThawed Type = "deployments.thawed"
	// MisuseReviewed: it was asked who used the exposed keys, and what is known of that; unusual uses come first.
	MisuseReviewed Type = "misuse.reviewed"
	// TakenOver: an incident stopped the rotation.
	TakenOver Type = "rotation.taken-over"
	// RotationTerminated: an incident has a run ended now that does not answer it; its emergency goes on from what is true.
	RotationTerminated Type = "rotation.terminated"
	// RotationCutOff: a sweep found that Temporal had ended the run before its end was recorded.
	RotationCutOff Type = "rotation.cut-off"
	// IncidentReviewed: somebody signed that they looked at what an incident did, and did not declare it.
	IncidentReviewed Type = "incident.reviewed"
	// GlassBroken: something is about to be done on the approval of one person, by break-glass.
	GlassBroken Type = "glass.broken"
	// GlassReviewed: somebody else signed that they looked at what was done so.
	GlassReviewed Type = "glass.reviewed"
	// DebtFound: the run ends and still owes something.
	DebtFound Type = "debt.found"
	// RotationEnded: the outcome.
	RotationEnded Type = "rotation.ended"
)

var types = []Type{
	RotationRequested, RotationStarted, PlanMade, PlanRefused, GateOpened, GateClosed, DecisionAccepted, DecisionRejected,
	MintIntended, OrphanDestroyed, OrphanDisabled, OrphanReleased, KeyIssued, ImportBegun, KeyImported, KeyVerified, KeyDelivered, WavePassed, WaveFailed, KeyPromoted,
	OverlapBegun, OverlapExtended, EvidenceComplete, EvidenceMissing, KeyDisabled, KeyMissed, KeyEnabled, KeyDestroyed,
	ProbeRefused, ProbeAccepted, CopiesPurged, PendingWithdrawn, VersionPruned, ValueRead, BudgetBreached, RollbackBegun, LabelsRestored, KeyDiscarded,
	EmergencyBegun, DeploymentsFrozen, DeploymentsThawed, MisuseReviewed, TakenOver, RotationTerminated, RotationCutOff, IncidentReviewed, GlassBroken, GlassReviewed, DebtFound, RotationEnded,
}

// told are the types that a workflow makes: of what people decide, what it waits for, and what it turns to. All others are
// of what a worker has seen.
var told = []Type{
	RotationRequested, PlanMade, PlanRefused, GateOpened, GateClosed, DecisionAccepted, DecisionRejected,
	OverlapBegun, OverlapExtended, EvidenceMissing, RollbackBegun, TakenOver, RotationEnded,
}

// Told tells whether a workflow may say that such a thing happened.
func (t Type) Told() bool { return slices.Contains(told, t) }

// Types lists the types that this version makes.
func Types() []Type { return slices.Clone(types) }

// Known tells whether this version makes events of the type. A record may hold others, of a newer one.
func (t Type) Known() bool { return slices.Contains(types, t) }

// The names under which Event.Keys has the keys of a rotation, the one that was imported, and the one whose value was read.
const (
	Retiring = "retiring"
	Incoming = "incoming"
	Imported = "imported"
	ReadKey  = "read"
)

// Event is one thing that happened. It can hold no secret, only names of keys.
type Event struct {
	// ID is the same for each repetition of the same happening: a retried activity appends it again, and
	// readers keep the first. It is never empty.
	ID   string    `json:"id"`
	Time time.Time `json:"time"`
	Type Type      `json:"type"`
	// Credential is its name in the inventory, Rotation the rotation ID, Run the workflow run that
	// acted. Rotation and Run are empty for an event outside a rotation.
	Credential string `json:"credential"`
	Rotation   string `json:"rotation,omitempty"`
	Run        string `json:"run,omitempty"`
	// Actor is who made it happen: worker, workflow, or a person as far as known.
	Actor string `json:"actor,omitempty"`
	// Keys are the keys that it is about, by their role in the rotation.
	Keys map[string]key.Ref `json:"keys,omitempty"`
	// Detail is what only this type has, by name. Text from outside is bounded and escaped by the sink.
	Detail map[string]string `json:"detail,omitempty"`
}

// Sink keeps events. It is safe for concurrent use.
type Sink interface {
	// Append keeps the events, in their order, and returns once they would survive a crash of the host.
	// After an error some of them may be kept: call it again with the same events, whose IDs let
	// readers see each once. ErrInvalid for an event that no sink takes. No events is no error.
	Append(ctx context.Context, events ...Event) error
}

// ErrInvalid: the event has no ID or no type, or is too large. Final.
var ErrInvalid = errors.New("invalid audit event")

// Discard is the Sink of a worker whose configuration names no audit file. It keeps nothing.
var Discard Sink = discard{}

type discard struct{}

func (discard) Append(context.Context, ...Event) error { return nil }

// Bounds of an event's texts, in bytes, and of the entries of its maps.
const (
	maxName    = 512
	maxDetail  = 4 * outside.MaxText
	maxEntries = 64
	// maxEscaped is how many bytes one may become when it is written out, as "\x1b".
	maxEscaped = 4
)

// fit returns e with every text bounded and escaped, since parts of it come from consumers, issuers and
// people, and end on somebody's terminal.
func (e Event) fit() (Event, error) {
	if e.ID == "" || e.Type == "" {
		return Event{}, fmt.Errorf("%w: it needs an ID and a type", ErrInvalid)
	}
	if len(e.ID) > maxName || len(e.Keys) > maxEntries || len(e.Detail) > maxEntries {
		return Event{}, fmt.Errorf("%w: its ID is over %d bytes, or it has over %d keys or details", ErrInvalid, maxName, maxEntries)
	}
	// An ID is never cut: two that differ must stay two.
	e.ID, e.Type = outside.Text(e.ID, maxEscaped*maxName), Type(name(string(e.Type)))
	e.Credential, e.Rotation, e.Run, e.Actor = name(e.Credential), name(e.Rotation), name(e.Run), name(e.Actor)
	keys := make(map[string]key.Ref, len(e.Keys))
	for role, k := range e.Keys {
		keys[name(role)] = key.Ref{
			Principal: name(k.Principal), KeyID: name(k.KeyID), StoreVersion: name(k.StoreVersion), Fingerprint: name(k.Fingerprint),
		}
	}
	detail := make(map[string]string, len(e.Detail))
	for field, text := range e.Detail {
		detail[name(field)] = outside.Text(text, maxDetail)
	}
	e.Keys, e.Detail = keys, detail
	return e, nil
}

func name(s string) string { return outside.Text(s, maxName) }
