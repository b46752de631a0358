package inventory

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A moment is what clocks on the wall show, or it is none.
func FuzzMoment(f *testing.F) {
	for _, seed := range []string{"2026-12-20", "2026-12-20T18:00", "12-20", "12-20T18:00", "02-29", "02-29T12:00", "2026-03-29T02:30", "03-29T02:30", "2011-12-30", "2026-13-01", "9999-12-31T24:00", "T", ""} {
		f.Add(seed, 2027, 0)
		f.Add(seed, 2028, 1)
		f.Add(seed, 2011, 2)
	}
	f.Fuzz(func(t *testing.T, text string, year, where int) {
		zones := []string{"Europe/Berlin", "UTC", "Pacific/Apia", "America/St_Johns"}
		zone, err := time.LoadLocation(zones[uint(where)%uint(len(zones))])
		require.NoError(t, err)
		year = 1970 + int(uint(year)%200)
		m, err := parseMoment(text, year, zone)
		if err != nil {
			assert.Less(t, len(err.Error()), 300, "an error repeats little of a text")
			return
		}
		at := m.at.In(zone)
		if m.yearly {
			assert.Equal(t, year, at.Year())
		}
		switch {
		case strings.HasPrefix(text, "02-29") && at.Month() == time.March: // this year has no such day
			assert.Equal(t, time.Date(year, 3, 1, 0, 0, 0, 0, zone), at)
		case m.isDate:
			assert.InDelta(t, 0, at.Sub(wall(t, time.DateOnly, text, m, year)).Hours(), 48, "a zone may skip a day")
		default:
			assert.Equal(t, wall(t, "2006-01-02T15:04", text, m, year).Format(time.DateTime), at.Format(time.DateTime))
		}
	})
}

func wall(t *testing.T, layout, text string, m moment, year int) time.Time {
	t.Helper()
	if m.yearly {
		text = time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC).Format("2006-") + text
	}
	at, err := time.Parse(layout, text)
	require.NoError(t, err)
	return at
}
