package providertest

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/providers"
)

// PurgerSetup is the world of a purge hook.
type PurgerSetup struct {
	// Open makes the instances "a" and "b", of which a answers like the peer, Well, Ill, Telltale or Silent, and b is well.
	Open func(t T, peer Peer) PurgerWorld
}

// PurgerWorld is a purge hook, and what can be seen of it.
type PurgerWorld struct {
	Purger providers.Purger
	// Purged is how often an instance that is well was made to forget what it cached.
	Purged func(instance string) int
}

// Purger proves that a purge hook keeps the promises of providers.Purger.
func Purger(t *testing.T, s PurgerSetup) {
	t.Helper()
	run(t, PurgerCases(s))
}

// PurgerCases are the promises of providers.Purger, of a hook.
func PurgerCases(s PurgerSetup) []Case {
	gone := key.Ref{Principal: "p", KeyID: "k1"}
	return []Case{
		{"an instance forgets, and no other one does", func(t T) {
			w := s.Open(t, Well)
			require.NoError(t, w.Purger.Purge(t.Context(), "a", gone))
			assert.Equal(t, 1, w.Purged("a"))
			assert.Zero(t, w.Purged("b"))
		}},
		{"it may be called again, and when there is nothing to forget", func(t T) {
			w := s.Open(t, Well)
			for range 3 {
				require.NoError(t, w.Purger.Purge(t.Context(), "a", gone))
			}
			assert.Equal(t, 3, w.Purged("a"))
		}},
		{"a key that is not known means all that is cached", func(t T) {
			w := s.Open(t, Well)
			require.NoError(t, w.Purger.Purge(t.Context(), "a", key.Ref{}))
			assert.Equal(t, 1, w.Purged("a"))
		}},
		{"an instance that does not purge is an error that tells no key", func(t T) {
			for _, peer := range []Peer{Ill, Telltale} {
				w := s.Open(t, peer)
				err := w.Purger.Purge(t.Context(), "a", gone)
				require.Error(t, err)
				assertFit(t, err)
				require.NoError(t, w.Purger.Purge(t.Context(), "b", gone))
			}
		}},
		{"an instance that does not exist is an error", func(t T) {
			w := s.Open(t, Well)
			for _, instance := range []string{"nobody-knows-it", "../a"} {
				err := w.Purger.Purge(t.Context(), instance, gone)
				require.Error(t, err, "instance %q", instance)
				assertFit(t, err)
			}
		}},
		{"a silent instance ends with the deadline", func(t T) {
			w := s.Open(t, Silent)
			ctx, returned := briefly(t)
			err := w.Purger.Purge(ctx, "a", gone)
			returned()
			require.Error(t, err)
		}},
		{"a cancelled purge ends", func(t T) {
			w := s.Open(t, Silent)
			ctx, returned := cancelledHalfway(t)
			err := w.Purger.Purge(ctx, "a", gone)
			returned()
			require.Error(t, err)
		}},
		{"purges run at the same time", func(t T) {
			w := s.Open(t, Well)
			var all sync.WaitGroup
			for range 8 {
				all.Go(func() { assert.NoError(t, w.Purger.Purge(t.Context(), "a", gone)) })
			}
			all.Wait()
			assert.Equal(t, 8, w.Purged("a"))
		}},
	}
}
