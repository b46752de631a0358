package providertest

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/providers"
)

// FreezerSetup is the world of a freezer.
type FreezerSetup struct {
	// Open opens a freezer whose receiver is Well, Ill, Telltale or Silent. The latest freeze that is in force, by incident and by when it
	// ends, is returned by got; the zero one for none.
	Open func(t T, peer Peer) (f providers.Freezer, got func() providers.Freeze)
	// Local: there is no receiver but this process or its disk, which are always well.
	Local bool
}

// Freezer proves that a freezer keeps the promises of providers.Freezer.
func Freezer(t *testing.T, s FreezerSetup) {
	t.Helper()
	run(t, FreezerCases(s))
}

// FreezerCases are the promises of providers.Freezer.
func FreezerCases(s FreezerSetup) []Case {
	until := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	of := func(incident string, until time.Time) providers.Freeze {
		return providers.Freeze{Incident: incident, Reason: "key in a public repository", Credentials: []string{"payments-api"}, Until: until, Override: "ask ines"}
	}
	inForce := func(t T, want providers.Freeze, got providers.Freeze) {
		t.Helper()
		assert.Equal(t, want.Incident, got.Incident)
		assert.True(t, want.Until.Equal(got.Until), "it ends at %s, not at %s", got.Until, want.Until)
	}
	cases := []Case{
		{"a freeze is in force, until it is ended", func(t T) {
			f, got := s.Open(t, Well)
			require.NoError(t, f.Freeze(t.Context(), of("incident/a", until)))
			inForce(t, of("incident/a", until), got())
			require.NoError(t, f.Unfreeze(t.Context(), "incident/a"))
			assert.Empty(t, got())
		}},
		{"one that is renewed ends later", func(t T) {
			f, got := s.Open(t, Well)
			require.NoError(t, f.Freeze(t.Context(), of("incident/a", until)))
			require.NoError(t, f.Freeze(t.Context(), of("incident/a", until)))
			require.NoError(t, f.Freeze(t.Context(), of("incident/a", until.Add(time.Hour))))
			inForce(t, of("incident/a", until.Add(time.Hour)), got())
		}},
		{"where there is none, none is ended", func(t T) {
			f, got := s.Open(t, Well)
			require.NoError(t, f.Unfreeze(t.Context(), "incident/a"))
			require.NoError(t, f.Freeze(t.Context(), of("incident/a", until)))
			require.NoError(t, f.Unfreeze(t.Context(), "incident/a"))
			require.NoError(t, f.Unfreeze(t.Context(), "incident/a"))
			assert.Empty(t, got())
		}},
		{"another incident's stays", func(t T) {
			f, got := s.Open(t, Well)
			require.NoError(t, f.Freeze(t.Context(), of("incident/a", until)))
			require.NoError(t, f.Freeze(t.Context(), of("incident/b", until)))
			require.NoError(t, f.Unfreeze(t.Context(), "incident/a"))
			inForce(t, of("incident/b", until), got())
		}},
	}
	if s.Local {
		return cases
	}
	both := func(f providers.Freezer) map[string]func(T) error {
		return map[string]func(T) error{
			"freezing":   func(t T) error { return f.Freeze(t.Context(), of("incident/a", until)) },
			"unfreezing": func(t T) error { return f.Unfreeze(t.Context(), "incident/a") },
		}
	}
	return append(cases, []Case{
		{"trouble of the receiver is an error that passes", func(t T) {
			for _, peer := range []Peer{Ill, Telltale} {
				f, _ := s.Open(t, peer)
				for what, do := range both(f) {
					err := do(t)
					require.Error(t, err, what)
					assert.False(t, final(err), "%s: trouble that passes is no reason to give up", what)
					assertFit(t, err)
				}
			}
		}},
		{"a silent receiver costs no more than the deadline", func(t T) {
			f, _ := s.Open(t, Silent)
			ctx, returned := briefly(t)
			err := f.Freeze(ctx, of("incident/a", until))
			returned()
			require.Error(t, err)
			assert.False(t, final(err))
		}},
	}...)
}
