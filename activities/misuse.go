package activities

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/outside"
	"github.com/keyturn/keyturn/internal/patience"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/providers"
)

// MisuseInput asks who used the exposed keys of a credential.
type MisuseInput struct {
	Rotation
	// ExposedSince is since when somebody else may have had the keys; zero when nobody knows.
	ExposedSince time.Time `json:"exposedSince,omitzero"`
	// Dead says when each exposed key was seen dead.
	Dead map[string]time.Time `json:"dead,omitempty"`
}

const (
	// asksBack is how far back it is asked at most: no issuer remembers for longer than CloudTrail.
	asksBack = 90 * 24 * time.Hour
	// usualFor is the time before the exposure that tells what is usual.
	usualFor = 14 * 24 * time.Hour
	// asksAgain is how often a source is asked that has passing trouble, and after which pause.
	asksAgain  = 3
	asksPauses = 2 * time.Second
)

// ReviewMisuse tells who used the keys that a signed declaration lists for this credential, as issuer and access logs know it, unusual uses
// first. It changes nothing but the audit record, which has what it found. A source without an answer is a part of the answer: what nobody told
// must not look like what nobody did. Called again it looks again. ErrDeclaration.
func (a *Activities) ReviewMisuse(ctx context.Context, in MisuseInput) (policy.Misuse, error) {
	m, err := a.review(ctx, in)
	if err != nil {
		return policy.Misuse{}, forTemporal(err)
	}
	return m, nil
}

func (a *Activities) review(ctx context.Context, in MisuseInput) (policy.Misuse, error) {
	s, err := a.openWithin(in.Rotation)
	if err != nil {
		return policy.Misuse{}, err
	}
	name := s.spec.Credential.Name
	if in.Emergency == nil {
		return policy.Misuse{}, fmt.Errorf("%w: there is none", ErrDeclaration)
	}
	d, _, err := a.declaration(*in.Emergency)
	if err != nil {
		return policy.Misuse{}, err
	}
	keys := d.Keys(name)
	if len(keys) == 0 {
		return policy.Misuse{}, fmt.Errorf("%w: it lists no exposed key of %q", ErrDeclaration, name)
	}
	told := policy.Told{From: a.Now().Add(-asksBack).UTC(), Since: in.ExposedSince, Dead: in.Dead}
	if from := told.Since.Add(-usualFor); !told.Since.IsZero() && from.After(told.From) {
		told.From = from.UTC()
	}
	told.Uses, told.Unseen = a.askWhoUsed(ctx, s, keys, told.From)
	m := policy.ReviewUses(s.spec.Credential, told)
	return m, a.Audit.Append(ctx, a.event(ctx, in.Rotation, s, audit.MisuseReviewed, d.Incident, detailOf(m)))
}

// teller is one who may know who used a key.
type teller struct {
	name string
	ask  func(ctx context.Context, keyID string, since time.Time) (key.Uses, error)
}

// tellers are the issuer, where it remembers uses, and the access logs of the worker configuration.
func (a *Activities) tellers(s *site) (list []teller, unseen []string) {
	if log, can := s.issuer.(providers.AuditLog); can {
		list = append(list, teller{"the issuer", func(ctx context.Context, keyID string, since time.Time) (key.Uses, error) {
			return log.Uses(ctx, key.Ref{Principal: s.principals[0], KeyID: keyID}, since)
		}})
	} else {
		unseen = append(unseen, "This type of issuer does not tell who used a key.")
	}
	for _, log := range a.Config().AccessLogs {
		list = append(list, teller{log.Path, log.Read})
	}
	return list, unseen
}

// askWhoUsed asks all who may know at once, of each key.
func (a *Activities) askWhoUsed(ctx context.Context, s *site, keys []string, since time.Time) (uses []key.Uses, unseen []string) {
	ctx, done := glance(ctx)
	defer done()
	tellers, unseen := a.tellers(s)
	answers := make([]key.Uses, len(tellers)*len(keys))
	var mu sync.Mutex
	run := fanOut{atOnce: 4} // logs are large, and issuers have quotas
	for n, t := range tellers {
		for k, keyID := range keys {
			run.do(func() {
				told, err := insist(ctx, func() (key.Uses, error) { return t.ask(ctx, keyID, since) })
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					unseen = append(unseen, fmt.Sprintf("%s did not tell who used %s: %s", t.name, keyID, capText(cutShort(ctx, err).Error())))
					return
				}
				answers[n*len(keys)+k] = told
			})
		}
	}
	run.wait()
	slices.Sort(unseen)
	return slices.DeleteFunc(answers, func(u key.Uses) bool { return u.Teller == "" }), unseen
}

// insist asks again after passing trouble, a few times.
func insist[T any](ctx context.Context, ask func() (T, error)) (answer T, err error) {
	for n := 1; ; n++ {
		answer, err = ask()
		if err == nil || n == asksAgain || ctx.Err() != nil || errors.Is(err, providers.ErrDenied) || errors.Is(err, providers.ErrInvalid) || errors.Is(err, providers.ErrUnsupported) {
			return answer, err
		}
		if patience.Pause(ctx, asksPauses) != nil {
			return answer, err
		}
	}
}

// detailOf is a review as the audit record has it.
func detailOf(m policy.Misuse) map[string]string {
	detail := map[string]string{"unusual": fmt.Sprint(m.Unusual), "omitted": fmt.Sprint(m.Omitted), "from": m.From.UTC().Format(time.RFC3339)}
	if !m.Since.IsZero() {
		detail["exposedSince"] = m.Since.UTC().Format(time.RFC3339)
	}
	for n, u := range m.Uses {
		detail[fmt.Sprintf("use %02d", n+1)] = outside.Text(u.String(), outside.MaxText)
	}
	for n, what := range m.Unseen {
		detail[fmt.Sprintf("unseen %02d", n+1)] = what
	}
	return detail
}
