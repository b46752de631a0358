// Package activities has the side effects of a rotation. It is the only bridge from workflows to
// providers. An activity trusts nothing of its input but what it can prove: it reads the spec strictly,
// holds it against the worker's own configuration, and gathers the facts that it acts on by itself.
//
// Each activity may be retried, killed at any moment and run again. What happens then is written down,
// effect by effect, in the table of crash_test.go.
package activities

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
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
	// AllowUnsigned: specs and approvals are accepted without signature.
	AllowUnsigned bool
	// Now is the clock.
	Now func() time.Time
	// PollEvery is how long an activity waits before it asks an instance or an issuer again.
	PollEvery time.Duration
}

// Rotation is what every activity gets: which rotation it acts for, and on which keys.
type Rotation struct {
	Spec inventory.SignedSpec `json:"spec"`
	// ID is the rotation ID, the idempotency token of the rotation.
	ID       string  `json:"id"`
	Retiring key.Ref `json:"retiring,omitzero"`
	Incoming key.Ref `json:"incoming,omitzero"`
	// Events are what the workflow saw since the last activity that changed something: gates, decisions,
	// turns. They enter the audit record before the activity acts, so that the record is in causal order.
	Events []audit.Event `json:"events,omitempty"`
}

// told are the events that the workflow hands over, under the names that the activity knows to be right.
func (r Rotation) told(credential string) []audit.Event {
	events := slices.Clone(r.Events)
	for i := range events {
		events[i].Credential, events[i].Rotation = credential, r.ID
	}
	return events
}

// WorkflowID is the ID of a credential's rotation, and its mutex.
func WorkflowID(credential string) string { return "rotation/" + credential }

// Credential is the name in a rotation's workflow ID.
func Credential(workflowID string) (string, bool) { return strings.CutPrefix(workflowID, "rotation/") }

// spec reads the spec strictly. A signed one is refused until signatures can be verified: an unverified
// signature must not look like a verified one.
func (a *Activities) spec(signed inventory.SignedSpec) (inventory.Spec, error) {
	if signed.Signature != "" {
		return inventory.Spec{}, fmt.Errorf("reading spec: %w: it is signed, and this worker cannot verify signatures", ErrSpec)
	}
	if !a.AllowUnsigned {
		return inventory.Spec{}, fmt.Errorf("reading spec: %w: it is unsigned, and the worker runs without --allow-unsigned", ErrSpec)
	}
	spec, err := inventory.ParseSpec(signed, a.Catalog)
	if err != nil {
		return inventory.Spec{}, fmt.Errorf("reading spec: %w: %w", ErrSpec, err)
	}
	return spec, nil
}

// unverified says why signatures cannot be verified; empty when they can.
func (a *Activities) unverified() string {
	return "this worker cannot verify signatures: say trust: any, or wait for a version that can"
}

// openForEffect opens the credential for an activity that changes something. Such an activity must run
// in the credential's own rotation, whose workflow ID is the mutex, and within the configured bounds.
func (a *Activities) openForEffect(ctx context.Context, r Rotation) (*site, error) {
	s, err := a.open(r)
	if err != nil {
		return nil, err
	}
	if id := activity.GetInfo(ctx).WorkflowExecution.ID; id != WorkflowID(s.spec.Credential.Name) {
		return nil, fmt.Errorf("acting on %q: %w: workflow %q is not its rotation", s.spec.Credential.Name, ErrSpec, id)
	}
	if denied := s.denied(); len(denied) > 0 {
		return nil, fmt.Errorf("acting on %q: %w: %s", s.spec.Credential.Name, providers.ErrDenied, strings.Join(denied, "; "))
	}
	return s, a.Audit.Append(ctx, r.told(s.spec.Credential.Name)...)
}

// event makes an audit event of the activity. Its ID depends on what happened, not on the attempt, so
// that a repetition is recognised.
func (a *Activities) event(ctx context.Context, r Rotation, s *site, t audit.Type, about string, detail map[string]string) audit.Event {
	id := r.ID + "/" + string(t)
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
		Rotation: r.ID, Run: activity.GetInfo(ctx).WorkflowExecution.RunID,
		Actor: "worker", Keys: keys, Detail: detail,
	}
}

// wait sleeps for d or until the context ends.
func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
