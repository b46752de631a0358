package inventory_test

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/keyturn/keyturn/internal/inventory"
)

func TestParseDuration(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	for text, want := range map[string]time.Duration{
		"90d": 90 * day, "12h": 12 * time.Hour, "1d12h": 36 * time.Hour, "0s": 0, "0d": 0, "1.5h": 90 * time.Minute, "250ms": 250 * time.Millisecond,
		"1d2h3m4s5ms": day + 2*time.Hour + 3*time.Minute + 4*time.Second + 5*time.Millisecond, "3650d": 3650 * day,
	} {
		got, err := inventory.ParseDuration(text)
		require.NoError(t, err, text)
		assert.Equal(t, want, got.Std(), text)
	}
	for name, text := range map[string]string{
		"nothing": "", "no unit": "90", "zero without unit": "0", "a unit alone": "d", "a sign": "-1h", "a plus": "+1h", "space before": " 1h", "space within": "1d 12h",
		"a unit that is none": "1w", "half a day": "1.5d", "days after hours": "12h1d", "days twice": "1d1d", "microseconds": "1us", "a comma": "1,5h",
		"a line after it": "1h\n", "longer than a key lives": "3651d", "too long with hours": "3650d1h", "too long in hours": "87601h", "too long for 64 bits": "106752d", "far too long": "99999999999999999999d", "hours that overflow": "9999999999h", "an exponent": "1e3h",
	} {
		_, err := inventory.ParseDuration(text)
		assert.ErrorIs(t, err, inventory.ErrDuration, name)
	}
	_, err := inventory.ParseDuration(strings.Repeat("é", 500))
	assert.Less(t, len(err.Error()), 400, "what is wrong is not repeated at length")
}

func TestDurationSaysItselfInTheShortestForm(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{"48h": "2d", "90m": "1h30m", "0d": "0s", "86400s": "1d", "1.5s": "1.5s", "36h": "1d12h", "1000ms": "1s"} {
		d, err := inventory.ParseDuration(text)
		require.NoError(t, err)
		assert.Equal(t, want, d.String())
	}
}

func TestEveryDurationReadsBackAsItself(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		d := inventory.Duration(rapid.Int64Range(0, (3650*24*time.Hour).Milliseconds()).Draw(t, "ms") * int64(time.Millisecond))
		again, err := inventory.ParseDuration(d.String())
		require.NoError(t, err, d.String())
		assert.Equal(t, d, again)
		text, err := d.MarshalText()
		require.NoError(t, err)
		var decoded inventory.Duration
		require.NoError(t, decoded.UnmarshalText(text))
		assert.Equal(t, d, decoded)
	})
}

func FuzzParseDuration(f *testing.F) {
	for _, seed := range []string{"90d", "1d12h", "1.5h", "0s", "106751d23h", "106752d", "1h1h", "3ms", "-1h", "1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		d, err := inventory.ParseDuration(text)
		if err != nil {
			assert.ErrorIs(t, err, inventory.ErrDuration)
			return
		}
		assert.GreaterOrEqual(t, d, inventory.Duration(0))
		again, err := inventory.ParseDuration(d.String())
		require.NoError(t, err, "%q is %q", text, d)
		assert.Equal(t, d, again)
	})
}

func TestADurationThatIsNoneIsToldInWholeCharacters(t *testing.T) {
	t.Parallel()
	_, err := inventory.ParseDuration("a" + strings.Repeat("é", 40))
	require.ErrorIs(t, err, inventory.ErrDuration)
	assert.True(t, utf8.ValidString(err.Error()))
	assert.NotContains(t, err.Error(), `\x`, "half a character is written so")
}
