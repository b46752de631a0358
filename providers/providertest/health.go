package providertest

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/providers"
)

// Source is what a health signal reads.
type Source struct {
	// Peer is Well, Ill, Telltale or Silent.
	Peer Peer
	// Errors and Total are what it counted. NoData: it has nothing to say.
	Errors, Total float64
	NoData        bool
}

// HealthSetup is the world of a health signal.
type HealthSetup struct {
	// Open opens a signal whose source is, at each moment, what now returns.
	Open func(t T, now func() Source) providers.HealthSignal
	// Windowed: it counts over the window that is asked for. Otherwise it counts from its start on.
	Windowed bool
}

// HealthSignal proves that a health signal keeps the promises of providers.HealthSignal.
func HealthSignal(t *testing.T, s HealthSetup) {
	t.Helper()
	run(t, HealthSignalCases(s))
}

// HealthSignalCases are the promises of providers.HealthSignal.
func HealthSignalCases(s HealthSetup) []Case {
	const window = 5 * time.Minute
	open := func(t T, source Source) providers.HealthSignal {
		return s.Open(t, func() Source { return source })
	}
	return []Case{
		{"it counts anew each time", func(t T) {
			source := Source{Peer: Well, Errors: 3, Total: 1000}
			h := s.Open(t, func() Source { return source })
			for range 2 {
				got, err := h.Sample(t.Context(), window)
				require.NoError(t, err)
				assert.False(t, got.At.IsZero(), "a sample says when")
				want := key.Sample{Errors: source.Errors, Total: source.Total, At: got.At}
				if s.Windowed {
					want.Window = window
				}
				assert.Equal(t, want, got)
				source.Errors, source.Total = 7, 2500
			}
		}},
		{"zero is data", func(t T) {
			got, err := open(t, Source{Peer: Well}).Sample(t.Context(), window)
			require.NoError(t, err)
			assert.Zero(t, got.Errors)
			assert.Zero(t, got.Total)
		}},
		{"nothing to say is neither good nor bad", func(t T) {
			_, err := open(t, Source{Peer: Well, NoData: true}).Sample(t.Context(), window)
			require.ErrorIs(t, err, providers.ErrNoData)
		}},
		{"counters below zero are no evidence", func(t T) {
			for _, source := range []Source{{Peer: Well, Errors: -1, Total: 10}, {Peer: Well, Errors: 1, Total: -10}} {
				_, err := open(t, source).Sample(t.Context(), window)
				require.Error(t, err)
				require.NotErrorIs(t, err, providers.ErrNoData, "a broken source must not look like a quiet one")
			}
		}},
		{"a source in trouble is an error, not silence", func(t T) {
			for _, peer := range []Peer{Ill, Telltale} {
				_, err := open(t, Source{Peer: peer}).Sample(t.Context(), window)
				require.Error(t, err)
				require.NotErrorIs(t, err, providers.ErrNoData)
				assertFit(t, err)
			}
		}},
		{"a silent source costs no more than the deadline", func(t T) {
			h := open(t, Source{Peer: Silent})
			ctx, returned := briefly(t)
			_, err := h.Sample(ctx, window)
			returned()
			require.Error(t, err)
			require.NotErrorIs(t, err, providers.ErrNoData)
		}},
		{"a cancelled sample ends", func(t T) {
			h := open(t, Source{Peer: Silent})
			ctx, returned := cancelledHalfway(t)
			_, err := h.Sample(ctx, window)
			returned()
			require.Error(t, err)
			require.NotErrorIs(t, err, providers.ErrNoData)
		}},
	}
}
