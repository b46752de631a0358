package activities

import (
	"context"
	"fmt"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/policy"
)

// AwaitMissed looks once whether somebody uses the retiring key since it was disabled: whom nobody declared. While nobody
// does it answers with a benign error that the server retries after the interval. It ends with the decision that somebody
// does, that the issuer's reports do not go on (policy.UsageStale), or, allowing, where the issuer cannot tell. It changes nothing
// but the lease, which it renews.
func (a *Activities) AwaitMissed(ctx context.Context, r Rotation) (policy.Decision, error) {
	s, err := a.openWithin(r)
	if err != nil {
		return policy.Decision{}, forTemporal(err)
	}
	s.renew(ctx, r)
	d, err := a.missed(ctx, s, r)
	if err != nil {
		return policy.Decision{}, forTemporal(fmt.Errorf("watching the disabled key %s of %q: %w", r.Retiring.KeyID, s.spec.Credential.Name, err))
	}
	return d, nil
}

func (a *Activities) missed(ctx context.Context, s *site, r Rotation) (policy.Decision, error) {
	f := policy.Facts{At: a.Now()}
	var err error
	if f.Capabilities, err = s.capabilities(ctx); err != nil {
		return policy.Decision{}, err
	}
	if !f.Capabilities.ReportsUsage {
		return policy.Missed(f, r.Retiring), nil
	}
	if f.Keys, err = s.issuer.List(ctx); err != nil {
		return policy.Decision{}, fmt.Errorf("listing keys at the issuer: %w", err)
	}
	if f.Metadata, err = s.store.Metadata(ctx); err != nil {
		return policy.Decision{}, fmt.Errorf("reading metadata of the store: %w", err)
	}
	d := policy.Missed(f, r.Retiring)
	switch {
	case d.OK:
		return d, notYet(d.Message, 0)
	case d.Reason != policy.RetiringMissed:
		return d, nil
	}
	mine, _ := f.Metadata.Key(r.Retiring.KeyID)
	return d, a.Audit.Append(ctx, a.event(ctx, r, s, audit.KeyMissed, occasion(r.Retiring, mine.DisablingAt), map[string]string{"decision": d.Message}))
}
