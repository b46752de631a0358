package activities

import (
	"context"
	"fmt"
	"sync"

	"go.temporal.io/sdk/activity"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/secret"
)

// purpose is what a stored value is read for.
type purpose string

const (
	toDeliver  purpose = "delivery"       // to consumers
	toTest     purpose = "test"           // whether it is accepted, before an effect
	toVerify   purpose = "verification"   // that an incoming key works
	toProbe    purpose = "probe"          // that a destroyed one is refused
	toIdentify purpose = "identification" // which key it is, of a version that is not on record
	toCompare  purpose = "comparison"     // with what a consumer has, or another version
)

// reads are those of one attempt that are on record.
type reads struct {
	record func(ctx context.Context, id string, of key.Ref, detail map[string]string) error
	told   sync.Map
}

// read reads the value of a key that the store has. It is on record before: once for each attempt, version and purpose, however often
// an attempt that watches looks again.
func (s *site) read(ctx context.Context, ref key.Ref, why purpose) (secret.Bundle, error) {
	if err := s.reads.tell(ctx, ref, ref.StoreVersion, why); err != nil {
		return secret.Bundle{}, err
	}
	return s.store.Read(ctx, ref.StoreVersion) //nolint:forbidigo // it is on record
}

// readLabel is read for what the store gives under a label; the empty one is what it gives to who names none.
func (s *site) readLabel(ctx context.Context, label key.Label, why purpose) (secret.Bundle, error) {
	if err := s.reads.tell(ctx, key.Ref{}, "label "+string(label), why); err != nil {
		return secret.Bundle{}, err
	}
	return s.store.ReadLabel(ctx, label) //nolint:forbidigo // it is on record
}

func (r *reads) tell(ctx context.Context, of key.Ref, version string, why purpose) error {
	about := string(why) + "/" + version
	if _, told := r.told.Load(about); told {
		return nil
	}
	detail := map[string]string{"for": string(why), "version": version, "activity": "import"}
	if activity.IsActivity(ctx) {
		detail["activity"] = activity.GetInfo(ctx).ActivityType.Name
	}
	if of.KeyID != "" {
		detail["key"] = of.KeyID
	}
	if err := r.record(ctx, acting(ctx).String()+"/"+about, of, detail); err != nil {
		return fmt.Errorf("recording that version %s of the store is read: %w", version, err)
	}
	r.told.Store(about, true)
	return nil
}

// recordRead makes the record of what is read for a rotation, or outside of one.
func (a *Activities) recordRead(r Rotation, s *site) func(context.Context, string, key.Ref, map[string]string) error {
	return func(ctx context.Context, id string, of key.Ref, detail map[string]string) error {
		e := a.event(ctx, r, s, audit.ValueRead, id, detail)
		e.Keys = nil
		if !of.IsZero() {
			e.Keys = map[string]key.Ref{audit.ReadKey: of}
		}
		return a.Audit.Append(ctx, e)
	}
}
