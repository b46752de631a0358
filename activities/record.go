package activities

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/providers"
)

// Debt is what a finished run still owes.
type Debt = providers.Debt

// The kinds of debt.
const (
	DebtRetiredAlive  = "retired-key-alive"
	DebtIncomingAlive = "incoming-key-alive"
	DebtVersionLeft   = "version-left"
)

// RecordInput is how a rotation ended.
type RecordInput struct {
	Rotation
	Outcome string `json:"outcome"`
	Message string `json:"message"`
}

// Recorded is what the record says of the credential now.
type Recorded struct {
	RotateBy time.Time        `json:"rotateBy,omitzero"`
	Debt     []providers.Debt `json:"debt,omitempty"`
}

// Record cleans up after a rotation and writes its end into the store's metadata and the audit record.
// Debt is what it finds at issuer and store, not what the run believes. Called again it finds the same.
func (a *Activities) Record(ctx context.Context, in RecordInput) (Recorded, error) {
	s, err := a.openForEffect(ctx, in.Rotation)
	if err != nil {
		return Recorded{}, forTemporal(err)
	}
	r, err := a.conclude(ctx, s, in)
	if err != nil {
		return Recorded{}, forTemporal(fmt.Errorf("recording the rotation of %q: %w", s.spec.Credential.Name, err))
	}
	return r, nil
}

func (a *Activities) conclude(ctx context.Context, s *site, in RecordInput) (Recorded, error) {
	facts, err := s.facts(ctx, false)
	if err != nil {
		return Recorded{}, err
	}
	if _, alive := facts.Live(in.Retiring.KeyID); !alive && !in.Retiring.IsZero() {
		if err := a.cleanUp(ctx, s, in); err != nil {
			return Recorded{}, err
		}
		if facts, err = s.facts(ctx, false); err != nil {
			return Recorded{}, err
		}
	}
	m := facts.Metadata
	m.Debt = debt(facts, s.spec.Credential.Adopt, m.Debt, a.Now())
	if current, ok := facts.Version(providers.Current); ok {
		if mine, ok := m.Key(current.KeyID); ok && !mine.IssuedAt.IsZero() {
			m.RotateBy = mine.IssuedAt.Add(s.spec.Credential.RotateEvery.Std()).UTC()
		}
	}
	if m.LastRotation == nil || m.LastRotation.ID != in.ID || m.LastRotation.Outcome != in.Outcome {
		m.LastRotation = &providers.LastRotation{ID: in.ID, Outcome: in.Outcome, At: a.Now().UTC()}
	}
	if err := s.store.PutMetadata(ctx, m); err != nil {
		return Recorded{}, err
	}
	for _, d := range m.Debt {
		found := a.event(ctx, in.Rotation, s, audit.DebtFound, d.Kind+"/"+d.About, map[string]string{"kind": d.Kind, "about": d.About})
		if err := a.Audit.Append(ctx, found); err != nil {
			return Recorded{}, err
		}
	}
	end := a.event(ctx, in.Rotation, s, audit.RotationEnded, in.Outcome, map[string]string{"outcome": in.Outcome, "message": in.Message})
	return Recorded{RotateBy: m.RotateBy, Debt: m.Debt}, a.Audit.Append(ctx, end)
}

// cleanUp removes what is left of a destroyed key: copies at consumers, and its stored version.
func (a *Activities) cleanUp(ctx context.Context, s *site, in RecordInput) error {
	for _, c := range s.consumers {
		purger, can := c.target.(providers.Purger)
		if !can {
			continue
		}
		for _, name := range c.InstanceNames() {
			err := purger.Purge(ctx, name, in.Retiring)
			if errors.Is(err, providers.ErrUnsupported) {
				continue // it keeps none that keyturn could reach
			}
			if err != nil {
				return fmt.Errorf("purging copies at %s: %w", policy.InstanceName(c.Name, name), err)
			}
			purged := a.event(ctx, in.Rotation, s, audit.CopiesPurged, policy.InstanceName(c.Name, name), nil)
			if err := a.Audit.Append(ctx, purged); err != nil {
				return err
			}
		}
	}
	if in.Retiring.StoreVersion == "" {
		return nil
	}
	if err := s.store.Prune(ctx, in.Retiring.StoreVersion); err != nil && !errors.Is(err, providers.ErrNotFound) {
		return fmt.Errorf("pruning version %s: %w", in.Retiring.StoreVersion, err)
	}
	return a.Audit.Append(ctx, a.event(ctx, in.Rotation, s, audit.VersionPruned, in.Retiring.StoreVersion, nil))
}

// debt lists what is still owed, keeping the time since when.
func debt(f policy.Facts, adopt []string, before []providers.Debt, now time.Time) []providers.Debt {
	var owes []providers.Debt
	add := func(kind, about string) {
		since := now.UTC()
		for _, d := range before {
			if d.Kind == kind && d.About == about {
				since = d.Since
			}
		}
		owes = append(owes, providers.Debt{Kind: kind, About: about, Since: since})
	}
	standings := f.Standings(adopt)
	for _, k := range f.Keys {
		switch standings[k.KeyID] {
		case policy.StandingRetired:
			add(DebtRetiredAlive, k.KeyID)
		case policy.StandingIncoming, policy.StandingOrphan:
			add(DebtIncomingAlive, k.KeyID)
		}
	}
	if v, ok := f.Version(providers.Pending); ok {
		add(DebtVersionLeft, v.ID)
	}
	return owes
}

// Log writes events of the workflow itself into the audit record: gates, decisions, turns. It needs no
// provider, so that a refused spec leaves a trace too.
func (a *Activities) Log(ctx context.Context, events []audit.Event) error {
	name, ok := Credential(activity.GetInfo(ctx).WorkflowExecution.ID)
	if !ok {
		return forTemporal(fmt.Errorf("logging events: %w: not in a rotation", ErrSpec))
	}
	for i := range events {
		events[i].Credential = name
		events[i].Run = activity.GetInfo(ctx).WorkflowExecution.RunID
	}
	return forTemporal(a.Audit.Append(ctx, events...))
}

// NotifyInput is a message to people.
type NotifyInput struct {
	Rotation
	// What happened, in one word; with the rotation it makes the message's ID.
	What     string    `json:"what"`
	Severity string    `json:"severity"`
	Subject  string    `json:"subject"`
	Body     string    `json:"body"`
	At       time.Time `json:"at"`
}

// Notify tells the notifiers that the spec names, or all of them. One that fails does not keep the
// others from hearing; it is tried again, with the same ID.
func (a *Activities) Notify(ctx context.Context, in NotifyInput) error {
	s, err := a.open(in.Rotation)
	if err != nil {
		return forTemporal(err)
	}
	message := providers.Notification{
		ID: in.ID + "/" + in.What + "/" + in.At.UTC().Format(time.RFC3339), Type: "dev.keyturn.rotation." + in.What,
		Severity: providers.Severity(in.Severity), Subject: in.Subject, Body: in.Body, At: in.At,
		Credential: s.spec.Credential.Name, Owner: s.spec.Credential.Owner,
	}
	var failed []error
	for _, n := range s.config.Notify {
		wanted := s.spec.Credential.Notify
		if len(wanted) > 0 && !slices.Contains(wanted, n.Name) {
			continue
		}
		i := slices.IndexFunc(a.Descriptors, func(d providers.Descriptor) bool { return d.Type == n.Type && d.Notifier != nil })
		if i < 0 {
			failed = append(failed, fmt.Errorf("notifier type %q: %w", n.Type, providers.ErrUnsupported))
			continue
		}
		notifier, err := a.Descriptors[i].Notifier.Open(s.config.NotifierEnvironment(), n.Settings)
		if err == nil {
			err = notifier.Notify(ctx, message)
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("notifier %s %s: %w", n.Type, n.Name, err))
		}
	}
	return forTemporal(errors.Join(failed...))
}
