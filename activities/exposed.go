package activities

import (
	"context"
	"errors"
	"fmt"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
)

// ExposedInput asks how the exposed keys of a credential stand.
type ExposedInput struct {
	Credential string `json:"credential"`
	// Spec is that of a credential that no Schedule has; any other one is found.
	Spec inventory.SignedSpec `json:"spec,omitzero"`
	// Incident is the one whose emergency is to end them.
	Incident string   `json:"incident"`
	Keys     []string `json:"keys"`
}

// ExposedKeys is how exposed keys stand. One that is in neither list the issuer does not have, and nobody knows that it ever did.
type ExposedKeys struct {
	Alive []string `json:"alive,omitempty"`
	// Dead are those that were the credential's, as its records say.
	Dead []string `json:"dead,omitempty"`
	// Held: the emergency of the incident holds the credential; its end is not recorded.
	Held bool `json:"held,omitempty"`
}

// LookAtExposed tells which exposed keys of a credential are dead: by what issuer and store say at that moment, whatever was told of them.
// It changes nothing, so that it needs no declaration. ErrSpec for the spec of another credential, or one that is too old.
func (a *Activities) LookAtExposed(ctx context.Context, in ExposedInput) (ExposedKeys, error) {
	seen, err := a.lookAtExposed(ctx, in)
	if err != nil {
		return ExposedKeys{}, forTemporal(fmt.Errorf("looking at the exposed keys of %q: %w", in.Credential, err))
	}
	return seen, nil
}

func (a *Activities) lookAtExposed(ctx context.Context, in ExposedInput) (seen ExposedKeys, err error) {
	if len(in.Spec.Body) == 0 {
		if in.Spec, err = a.specOf(ctx, in.Credential); err != nil {
			return seen, err
		}
	}
	s, err := a.openWithin(Rotation{Spec: in.Spec})
	if err != nil {
		return seen, err
	}
	if name := s.spec.Credential.Name; name != in.Credential {
		return seen, fmt.Errorf("%w: it is that of %q", ErrSpec, name)
	}
	facts, err := s.settledKeys(ctx, false, in.Keys...)
	if err != nil {
		return seen, err
	}
	// One that is older than the key may name another issuer, which has never had it.
	if d := policy.Governs(s.spec, facts.Metadata); !d.OK || facts.Metadata.Generation > s.spec.Generation {
		return seen, fmt.Errorf("%w: it is older than the one by which keys were issued, or does not govern them", ErrSpec)
	}
	for _, id := range in.Keys {
		if _, live := facts.Live(id); live {
			seen.Alive = append(seen.Alive, id)
		} else if facts.Ended(id) {
			seen.Dead = append(seen.Dead, id)
		}
	}
	seen.Held = facts.Metadata.Incident != nil && facts.Metadata.Incident.ID == in.Incident
	return seen, nil
}

// specOf is the spec of a credential as its Schedule has it, or else the run that rotated it last: whoever writes to the namespace may have
// written either.
func (a *Activities) specOf(ctx context.Context, credential string) (spec inventory.SignedSpec, err error) {
	spec, left := a.resolve(ctx, credential)
	if !errors.Is(left, ErrLeft) || a.Runs == nil {
		return spec, left
	}
	ctx, done := context.WithTimeout(ctx, askedFor)
	defer done()
	value, err := a.Runs.QueryWorkflow(ctx, WorkflowID(credential), "", "spec")
	if err != nil {
		return spec, errors.Join(left, fmt.Errorf("asking the run that rotated it last for its spec: %w", err))
	}
	if value.Get(&spec) != nil {
		return spec, left
	}
	return spec, nil
}
