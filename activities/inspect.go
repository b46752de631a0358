package activities

import (
	"context"
	"errors"
	"fmt"

	"go.temporal.io/sdk/activity"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/patience"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/signed"
	"github.com/keyturn/keyturn/providers"
)

// Accepted says that this worker takes a spec.
type Accepted struct {
	// Signer is who signed the spec; empty for an unsigned one. SignerKey is the fingerprint of the key.
	Signer    string `json:"signer,omitempty"`
	SignerKey string `json:"signerKey,omitempty"`
	// Notice is what everybody who looks at the run should know: that its spec is unsigned.
	Notice string `json:"notice,omitempty"`
	// Quota: calls to the issuer account are bounded, and go to the account's own queue.
	Quota bool `json:"quota,omitempty"`
	// Unpromoted: of routine rotations between issue and promotion there are only so many at once.
	Unpromoted bool `json:"unpromoted,omitempty"`
}

// Accept reads the spec strictly and checks that the worker configuration has what it names, so that a spec
// whose account no worker has is refused instead of waiting for ever on a queue that nobody polls. It changes
// nothing.
func (a *Activities) Accept(ctx context.Context, spec inventory.SignedSpec) (Accepted, error) {
	s, err := a.open(Rotation{Spec: spec})
	if err == nil {
		err = a.current(s.spec)
	}
	if err != nil {
		// It runs as a local activity, of whose errors the SDK logs nothing; who runs the worker must see attempts.
		activity.GetLogger(ctx).Warn("spec not accepted", "reason", err.Error())
		return Accepted{}, forTemporal(err)
	}
	return s.accepted(), nil
}

// Recognise tells who signed the spec of a rotation that runs already: until when one may begin by it does
// not matter any more. It changes nothing.
func (a *Activities) Recognise(ctx context.Context, spec inventory.SignedSpec) (Accepted, error) {
	s, err := a.open(Rotation{Spec: spec})
	if err != nil {
		activity.GetLogger(ctx).Warn("spec not accepted", "reason", err.Error())
		return Accepted{}, forTemporal(err)
	}
	return s.accepted(), nil
}

func (s *site) accepted() Accepted {
	c := s.spec.Credential
	accepted := Accepted{
		Signer: s.signer.Name, SignerKey: s.signer.Key, Quota: s.config().Accounts[c.Issuer.Account].Quota.PerSecond > 0,
		Unpromoted: s.config().Bounds[c.Environment].MaxUnpromoted > 0,
	}
	if s.signer == (signed.Signer{}) {
		accepted.Notice = fmt.Sprintf("The spec of %s is unsigned: the worker runs with --allow-unsigned.", c.Name)
	}
	return accepted
}

// Inspect gathers the facts and plans the rotation. It changes nothing, whatever it finds.
func (a *Activities) Inspect(ctx context.Context, r Rotation) (policy.Plan, error) {
	s, err := a.open(r)
	if err != nil {
		return policy.Plan{}, forTemporal(err)
	}
	var silent []string
	for look := 1; ; look++ {
		facts, err := s.shown(ctx, true)
		if look == 1 && len(facts.Denied) == 0 {
			silent = s.silent(ctx)
		}
		facts.SilentSignals = silent
		if err == nil && len(facts.Denied) == 0 {
			facts.RightsObjections, err = s.rightsObjections(ctx)
		}
		if errors.Is(err, providers.ErrDenied) || errors.Is(err, ErrOutOfBounds) {
			facts.StoreProblem, err = capText(err.Error()), nil
		}
		if err != nil {
			return policy.Plan{}, forTemporal(fmt.Errorf("inspecting %q: %w", s.spec.Credential.Name, err))
		}
		if settle := facts.Capabilities.ConsistentWithin; look == 1 && settle > 0 && policy.CurrentEnded(facts) {
			if err := patience.Pause(ctx, settle); err != nil {
				return policy.Plan{}, err
			}
			continue
		}
		plan := policy.Make(s.spec, facts, a.pulls, s.cannotApprove)
		plan.Quota = s.config().Accounts[s.spec.Credential.Issuer.Account].Quota.PerSecond
		if len(facts.Denied) == 0 {
			plan = plan.Begun(s.spec.Credential, r.Start)
		}
		if d := policy.MayRun(facts, r.ID); !d.OK {
			plan.Refusals = append([]policy.Decision{d}, plan.Refusals...)
		}
		if !policy.Blips(plan.Refusals) || look == looks {
			for _, d := range plan.Refusals {
				refusing(ctx, d)
			}
			return plan, nil
		}
		if err := patience.Pause(ctx, a.PollEvery); err != nil {
			return policy.Plan{}, err
		}
	}
}

// silent samples each health signal that the error budget is judged by, and names those that say nothing.
func (s *site) silent(ctx context.Context) (silent []string) {
	b := s.spec.Credential.ErrorBudget
	if b == nil {
		return nil
	}
	for _, told := range s.sample(ctx, b.Window.Std()) {
		if told.err != nil {
			silent = append(silent, told.trouble())
		}
	}
	return silent
}

// looks is how often Inspect looks when all that it finds against a rotation may be a blip.
const looks = 3

// pulls tells whether consumers with this target type read the store by themselves.
func (a *Activities) pulls(targetType string) bool {
	t, ok := a.Catalog.Lookup(inventory.RoleTarget, targetType)
	return ok && t.Pulls
}
