package activities

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/patience"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
)

// verifyRow is how many tries in a row must end alike, spread over the time in which the issuer may still answer as before: some of
// its hosts may know of a change and others not.
const verifyRow = 3

// nextTry waits until the next try of a row.
func nextTry(ctx context.Context, within time.Duration) error {
	return patience.Pause(ctx, within/(verifyRow-1))
}

// settling is the time in which an issuer may still answer as before a change.
type settling struct {
	until time.Time
	looks int // that may be taken after that
}

// settleMargin is how many more looks an issuer gets than it says to need. Looks are counted, not time: a slow worker takes
// as many as a quick one.
const settleMargin = 20

func settle(within time.Duration, looks int) settling { return settling{time.Now().Add(within), looks} }

// over is asked after each look.
func (s *settling) over() bool {
	if time.Now().Before(s.until) {
		return false
	}
	s.looks--
	return s.looks < 0
}

// verify tries the staged key as a consumer would: the issuer's self-test and the smoke tests, several
// times in a row. It says no when the key is still refused after the issuer had time to settle. A key that
// worked is not tried again: from then on its uses are those of consumers.
func (a *Activities) verify(ctx context.Context, s *site, r Rotation) (mine key.Owned, d policy.Decision, err error) {
	m, err := s.store.Metadata(ctx)
	if err != nil {
		return mine, d, fmt.Errorf("reading metadata of the store: %w", err)
	}
	if mine, _ = m.Key(r.Incoming.KeyID); mine.VerifiedAt.IsZero() {
		refusal, err := a.refusal(ctx, s, r.Incoming)
		switch {
		case err != nil:
			return mine, d, err
		case refusal != nil:
			d = policy.Decision{Reason: policy.KeyNotWorking, Message: capText(refusal.Error())}
			refusing(ctx, d)
			return mine, d, nil
		}
		now := a.Now().UTC()
		if _, err := s.amend(ctx, func(m *key.Metadata) error {
			owned(m, r.Incoming).VerifiedAt = now
			return nil
		}); err != nil {
			return mine, d, fmt.Errorf("recording that it works: %w", err)
		}
	}
	return mine, policy.Decision{OK: true, Reason: policy.Allowed}, a.Audit.Append(ctx, a.event(ctx, r, s, audit.KeyVerified, r.Incoming.KeyID, nil))
}

// refusal is how the key was refused, nil when it works.
func (a *Activities) refusal(ctx context.Context, s *site, ref key.Ref) (refusal, err error) {
	bundle, err := s.read(ctx, ref, toVerify)
	if err != nil {
		return nil, fmt.Errorf("reading version %s: %w", ref.StoreVersion, err)
	}
	defer bundle.Close()
	capabilities, err := s.capabilities(ctx)
	if err != nil {
		return nil, err
	}
	waiting := settle(capabilities.ConsistentWithin, settleMargin)
	for good := 0; good < verifyRow; {
		err := s.try(ctx, ref, bundle)
		if err == nil {
			if good++; good < verifyRow {
				if err := nextTry(ctx, capabilities.ConsistentWithin); err != nil {
					return nil, err
				}
			}
			continue
		}
		good = 0
		if !errors.Is(err, providers.ErrKeyRefused) {
			return nil, err
		}
		if waiting.over() {
			return err, nil
		}
		if err := patience.Pause(ctx, a.PollEvery); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// try uses a key once in every way there is. nil means that it works everywhere, ErrKeyRefused that
// somebody refused it.
func (s *site) try(ctx context.Context, ref key.Ref, bundle secret.Bundle) error {
	if tester, ok := s.issuer.(providers.SelfTester); ok {
		if err := tester.SelfTest(ctx, bundle); err != nil {
			return fmt.Errorf("issuer self-test: %w", err)
		}
	}
	for i, check := range s.verify {
		if err := check.Check(ctx, providers.CheckInput{Key: ref, Bundle: bundle}); err != nil {
			return fmt.Errorf("smoke test %d: %w", i+1, err)
		}
	}
	return nil
}
