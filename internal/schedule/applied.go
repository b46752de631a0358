package schedule

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/inventory"
)

// Schedules are what activities know of what is applied.
var _ activities.Applied = (*Schedules)(nil)

// Entries lists the credentials that are applied.
func (s *Schedules) Entries(ctx context.Context) ([]activities.Entry, error) {
	listed, err := s.List(ctx, "", "")
	if err != nil {
		return nil, err
	}
	entries := make([]activities.Entry, 0, len(listed))
	for _, l := range listed {
		e := activities.Entry{Named: activities.Named{Inventory: l.Inventory, Credential: l.Credential}, RotateEvery: l.RotateEvery}
		for _, c := range l.Claims {
			if c.Role == inventory.RoleIssuer {
				e.Account, e.Principals = c.Account, append(e.Principals, c.Name)
			}
		}
		if l.Paused {
			e.Paused = cmp.Or(l.Note, "its Schedule is paused")
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// SpecIn is the spec that a credential's Schedule of an inventory has. activities.ErrLeft, activities.ErrSpec.
func (s *Schedules) SpecIn(ctx context.Context, c activities.Named) (inventory.SignedSpec, error) {
	found, err := s.Describe(ctx, c.Inventory, c.Credential)
	return found.Signed, forActivities(c.Credential, err)
}

// forActivities says in the words of activities why there is no spec.
func forActivities(credential string, err error) error {
	switch {
	case errors.Is(err, ErrNotFound):
		return fmt.Errorf("finding the spec of %q: %w", credential, activities.ErrLeft)
	case errors.Is(err, ErrUnreadable):
		return fmt.Errorf("finding the spec of %q: %w: %w", credential, activities.ErrSpec, err)
	}
	return err
}
