// Package activities has the side effects of a rotation. It is the only bridge from workflows to
// providers. An activity trusts nothing of its input but what it can prove: it reads the spec strictly,
// holds it against the worker's own configuration, and gathers the facts that it acts on by itself.
//
// Each activity may be retried, killed at any moment and run again. What happens then is written down,
// effect by effect, in the table of crash_test.go.
package activities

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/outside"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/workerconfig"
	"github.com/keyturn/keyturn/providers"
)

// Activities has what the activities need. It is safe for concurrent use.
type Activities struct {
	// Config returns the worker configuration in force.
	Config func() *workerconfig.Config
	// Descriptors are the provider types.
	Descriptors []providers.Descriptor
	// Catalog is the same, as specs are validated by.
	Catalog inventory.Catalog
	// Audit keeps the events beside Temporal's history.
	Audit audit.Sink
	// ShippingTrouble is why events wait that the audit sink should have; empty while none do, nil without a sink.
	ShippingTrouble func() string
	// Applied are the credentials that are applied, and Runs the runs of their rotations; both nil in a process
	// that is not connected.
	Applied Applied
	Runs    Runs
	// Swept returns the report of the last sweep that ended, and whether there is one; nil where nobody sweeps.
	Swept func(ctx context.Context) (policy.SweepReport, bool, error)
	// Worker is the identity of this worker, Build that of its code.
	Worker, Build string
	// Namespace is the Temporal namespace that the worker serves: signatures are bound to it.
	Namespace string
	// AllowUnsigned: unsigned specs are accepted for environments for which nobody is trusted to sign.
	AllowUnsigned bool
	// Now is the clock.
	Now func() time.Time
	// Ahead tells, as an attempt begins, by how much that clock is ahead of Temporal's: AheadOfTemporal, in a worker; nil where no
	// server is. A worker whose clock is wrong changes nothing: others judge by the times that it writes, and it by theirs.
	Ahead func(ctx context.Context) time.Duration
	// Index is Temporal's index of the credentials; without one, nothing is found by name.
	Index Index
	// Acknowledge is asked before each write whether the activity's attempt still counts, with the details of its heartbeat:
	// Acknowledged, in a worker; nil where no server is.
	Acknowledge func(ctx context.Context, details any) error
	// Tell tells the run how far a delivery is that takes long: Tell, in a worker; nil where no server is.
	Tell func(ctx context.Context, p Progress) error
	// PollEvery is how long an activity waits before it asks an instance or an issuer again.
	PollEvery time.Duration

	mutexes mutexes
	slots   slots
	// unpromoted are those of routine rotations between issue and promotion.
	unpromoted slots
	specs      specs
	standings  standings
	cutOffs    cutOffs
}

// Index is what activities know of Temporal itself: the credentials' Schedules, and what runs.
type Index interface {
	// Spec is the one that a credential's Schedule has, signed or not; ErrLeft, and ErrSpec when it has none.
	Spec(ctx context.Context, credential string) (inventory.SignedSpec, error)
	// Observe gives the Schedule of a credential a copy of what is true of it. One without a Schedule has none.
	Observe(ctx context.Context, inventory, credential string, state inventory.State) error
	// Running tells whether a rotation or an emergency of a credential runs.
	Running(ctx context.Context, credential string) (bool, error)
	// Schedule is what a credential's Schedule in an inventory says now, not a moment ago. ErrLeft.
	Schedule(ctx context.Context, inventory, credential string) (Scheduled, error)
	// TakenSlots lists the slots of routine rotations that are taken; some may be so since a moment ago only.
	TakenSlots(ctx context.Context) ([]policy.Slot, error)
	// Waiting lists the routine rotations that wait for a slot; some may not any more, since a moment ago.
	Waiting(ctx context.Context) ([]policy.Waiter, error)
}

// mutexes let one activity at a time of this process act on a secret. Temporal sees to that for the steps of
// one rotation; an attempt that outlives its time-out, or a workflow that means harm, does not ask Temporal.
type mutexes struct{ held sync.Map }

// lock waits for its turn, or for the end of the context.
func (m *mutexes) lock(ctx context.Context, name string) (unlock func(), err error) {
	made, _ := m.held.LoadOrStore(name, make(chan struct{}, 1))
	turn := made.(chan struct{})
	select {
	case turn <- struct{}{}:
		return func() { <-turn }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Rotation is what every activity gets: which rotation it acts for, and on which keys.
type Rotation struct {
	Spec inventory.SignedSpec `json:"spec"`
	// ID is the rotation ID, the idempotency token of the rotation.
	ID       string  `json:"id"`
	Retiring key.Ref `json:"retiring,omitzero"`
	Incoming key.Ref `json:"incoming,omitzero"`
	// AskedAt is when a local activity was asked for, by Temporal's clock: of its own begin the SDK knows the worker's alone.
	AskedAt time.Time `json:"askedAt,omitzero"`
	// Emergency is by what a rotation acts whose credential has exposed keys; nil for a routine one.
	Emergency *Emergency `json:"emergency,omitempty"`
	// Start is how the rotation was begun, as Inspect, Issue and LookWhetherDue are told.
	Start policy.Start `json:"start,omitzero"`
	// KeysAlone has a watch look at nothing else.
	KeysAlone bool `json:"keysAlone,omitempty"`
	// Events are what the workflow saw since the last activity that changed something: gates, decisions,
	// turns. They enter the audit record before the activity acts, so that the record is in causal order.
	Events []audit.Event `json:"events,omitempty"`
}

// Resign gives the rotation another signature of its spec.
func (r *Rotation) Resign(s inventory.SignedSpec) { r.Spec = s }

// Along returns the events that go along.
func (r *Rotation) Along() []audit.Event { return r.Events }

// told are events that a workflow hands over, as the record keeps them: what a history says is never taken for what a worker
// saw. They have an actor and IDs of their own, no time to come, and none is of a type that only a worker makes.
func told(ctx context.Context, events []audit.Event, credential string, now time.Time) []audit.Event {
	kept := make([]audit.Event, 0, len(events))
	for _, e := range events {
		if !e.Type.Told() {
			logger(ctx).Warn("a workflow cannot have seen that; not recorded", "type", outside.Text(string(e.Type), outside.MaxText))
			continue
		}
		e.ID = "told/" + e.ID
		e.Actor, e.Credential, e.Run = "workflow", credential, acting(ctx).run
		if e.Time.After(now) {
			e.Time = now.UTC()
		}
		kept = append(kept, e)
	}
	return kept
}

// WorkflowID is the ID of a credential's rotation, and its mutex.
func WorkflowID(credential string) string { return "rotation/" + credential }

// Credential is the name in a rotation's workflow ID.
func Credential(workflowID string) (string, bool) { return strings.CutPrefix(workflowID, "rotation/") }

// event makes an audit event of the activity. Its ID depends on what happened, not on the attempt, so that a repetition is
// recognised; nothing that a workflow tells can have it.
func (a *Activities) event(ctx context.Context, r Rotation, s *site, t audit.Type, about string, detail map[string]string) audit.Event {
	id := "seen/" + r.ID + "/" + string(t)
	if about != "" {
		id += "/" + about
	}
	keys := map[string]key.Ref{}
	if !r.Retiring.IsZero() {
		keys["retiring"] = r.Retiring
	}
	if !r.Incoming.IsZero() {
		keys["incoming"] = r.Incoming
	}
	return audit.Event{
		ID: id, Time: a.Now().UTC(), Type: t, Credential: s.spec.Credential.Name,
		Rotation: r.ID, Run: acting(ctx).run,
		Actor: "worker", Keys: keys, Detail: detail,
	}
}
