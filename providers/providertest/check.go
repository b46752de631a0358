package providertest

import (
	"context"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
)

// CheckSetup is the world of a check.
type CheckSetup struct {
	// Open starts a peer that is Well, Ill, Telltale, Refusing or Silent, and opens the check for it. The
	// input is what the check is called with; its bundle is the key that is sent, or the zero one.
	Open func(t T, peer Peer) (providers.Check, providers.CheckInput)
	// Keyless: the check sends no key, so that a peer cannot refuse one.
	Keyless bool
}

// Check proves that a check keeps the promises of providers.Check.
func Check(t *testing.T, s CheckSetup) {
	t.Helper()
	run(t, CheckCases(s))
}

// CheckCases are the promises of providers.Check.
func CheckCases(s CheckSetup) []Case {
	call := func(t T, ctx context.Context, peer Peer) error {
		check, in := s.Open(t, peer)
		return check.Check(ctx, in)
	}
	return []Case{
		{"a peer that is well passes, each time", func(t T) {
			check, in := s.Open(t, Well)
			for range 3 {
				require.NoError(t, check.Check(t.Context(), in))
			}
		}},
		{"a peer that is ill fails, and not for its key", func(t T) {
			err := call(t, t.Context(), Ill)
			require.Error(t, err)
			require.NotErrorIs(t, err, providers.ErrKeyRefused)
			assertFit(t, err)
		}},
		{"a refused key is told from other trouble", func(t T) {
			err := call(t, t.Context(), Refusing)
			require.Error(t, err)
			if s.Keyless {
				require.NotErrorIs(t, err, providers.ErrKeyRefused, "no key was sent")
			} else {
				require.ErrorIs(t, err, providers.ErrKeyRefused)
			}
			assertFit(t, err)
		}},
		{"an error never tells the key, whatever the peer says", func(t T) {
			for _, peer := range []Peer{Telltale, Ill, Refusing} {
				check, in := s.Open(t, peer)
				err := check.Check(t.Context(), in)
				require.Error(t, err)
				assertFit(t, err, values(in.Bundle)...)
			}
		}},
		{"a peer that is silent fails with the deadline, and not for its key", func(t T) {
			check, in := s.Open(t, Silent)
			ctx, returned := briefly(t)
			err := check.Check(ctx, in)
			returned()
			require.Error(t, err)
			require.NotErrorIs(t, err, providers.ErrKeyRefused)
		}},
		{"a cancelled check ends", func(t T) {
			check, in := s.Open(t, Silent)
			ctx, returned := cancelledHalfway(t)
			err := check.Check(ctx, in)
			returned()
			require.Error(t, err)
			require.NotErrorIs(t, err, providers.ErrKeyRefused)
		}},
		{"a check leaves the key as it was", func(t T) {
			check, in := s.Open(t, Well)
			before := values(in.Bundle)
			require.NoError(t, check.Check(t.Context(), in))
			assert.True(t, equal(before, values(in.Bundle)), "the caller closes the bundle, nobody else")
		}},
		{"checks run at the same time", func(t T) {
			check, in := s.Open(t, Well)
			var all sync.WaitGroup
			for range 8 {
				all.Go(func() { assert.NoError(t, check.Check(t.Context(), in)) })
			}
			all.Wait()
		}},
	}
}

// values are the secrets of a bundle. They are never printed.
func values(b secret.Bundle) [][]byte {
	var all [][]byte
	for _, name := range b.Names() {
		v, _ := b.Field(name)
		all = append(all, v.Reveal())
	}
	return all
}

func equal(a, b [][]byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if string(a[i]) != string(b[i]) {
			return false
		}
	}
	return true
}
