package activities

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
)

// beside is what the secret has beside the key, and a version of the next key will have, too; nothing where nobody asks for it.
func (s *site) beside(ctx context.Context, facts policy.Facts) (secret.Bundle, error) {
	current, stored := facts.Version(key.Current)
	if !stored || !s.asksWhatFits() {
		return secret.Bundle{}, nil
	}
	b, err := s.foreign(ctx, current.ID)
	if errors.Is(err, providers.ErrNotFound) { // it has no value
		return secret.Bundle{}, nil
	}
	return b, err
}

// asksWhatFits tells whether a consumer or a test may not take every key.
func (s *site) asksWhatFits() bool {
	can := func(carries any) bool { _, is := carries.(providers.Fitter); return is }
	return slices.ContainsFunc(s.verify, func(c providers.Check) bool { return can(c) }) ||
		slices.ContainsFunc(s.consumers, func(c consumer) bool { return can(c.target) })
}

// fits tells whether all consumers, and the tests of the key, would get it as it was minted.
func (s *site) fits(b secret.Bundle) error {
	var wrong []error
	judge := func(who string, carries any) {
		if fitter, can := carries.(providers.Fitter); can {
			if err := fitter.Fits(b); err != nil {
				wrong = append(wrong, fmt.Errorf("%s: %w", who, err))
			}
		}
	}
	for i, check := range s.verify {
		judge(fmt.Sprintf("verify[%d]", i), check)
	}
	for _, c := range s.consumers {
		judge("consumer "+c.Name, c.target)
	}
	return errors.Join(wrong...)
}
