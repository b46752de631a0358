package activities

import (
	"context"
	"errors"
	"fmt"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/providers"
)

// Accepted says that this worker takes a spec.
type Accepted struct {
	// Notice is what everybody who looks at the run should know: that its spec is unsigned.
	Notice string `json:"notice,omitempty"`
}

// Accept reads the spec strictly and checks that the worker configuration has what it names. It runs on
// the common queue, so that a spec whose account no worker has is refused instead of waiting for ever
// on a queue that nobody polls. It changes nothing.
func (a *Activities) Accept(_ context.Context, signed inventory.SignedSpec) (Accepted, error) {
	s, err := a.open(Rotation{Spec: signed})
	if err != nil {
		return Accepted{}, forTemporal(err)
	}
	return Accepted{Notice: fmt.Sprintf("The spec of %s is unsigned: the worker runs with --allow-unsigned.", s.spec.Credential.Name)}, nil
}

// Inspect gathers the facts and plans the rotation. It changes nothing, whatever it finds.
func (a *Activities) Inspect(ctx context.Context, r Rotation) (policy.Plan, error) {
	s, err := a.open(r)
	if err != nil {
		return policy.Plan{}, forTemporal(err)
	}
	for look := 1; ; look++ {
		facts, err := s.facts(ctx, true)
		if errors.Is(err, providers.ErrDenied) {
			facts.StoreProblem, err = capText(err.Error()), nil
		}
		if err != nil {
			return policy.Plan{}, forTemporal(fmt.Errorf("inspecting %q: %w", s.spec.Credential.Name, err))
		}
		plan := policy.Make(s.spec, facts, a.pulls, a.unverified())
		if !policy.Blips(plan.Refusals) || look == looks {
			return plan, nil
		}
		if err := wait(ctx, a.PollEvery); err != nil {
			return policy.Plan{}, err
		}
	}
}

// looks is how often Inspect looks when all that it finds against a rotation may be a blip.
const looks = 3

// pulls tells whether consumers with this target type read the store by themselves.
func (a *Activities) pulls(targetType string) bool {
	t, ok := a.Catalog.Lookup(inventory.RoleTarget, targetType)
	return ok && t.Pulls
}
