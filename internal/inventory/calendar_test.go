package inventory_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/keyturn/keyturn/internal/inventory"
)

const day = 24 * time.Hour

func at(t testing.TB, text string) time.Time {
	t.Helper()
	moment, err := time.Parse(time.RFC3339, text)
	require.NoError(t, err)
	return moment
}

func scheduled(every time.Duration, s inventory.Schedule) inventory.Credential {
	return inventory.Credential{Name: "payments-api", Terms: inventory.Terms{RotateEvery: inventory.Duration(every)}, Schedule: s}
}

func TestWhenAWindowIsOpen(t *testing.T) {
	t.Parallel()
	berlin := inventory.Schedule{TimeZone: "Europe/Berlin", At: "22:30", Window: inventory.Duration(3 * time.Hour), Days: []inventory.Day{"fri"}}
	newYork, london := inventory.Schedule{TimeZone: "America/New_York", At: "01:30"}, inventory.Schedule{TimeZone: "Europe/London", At: "01:30"}
	for name, x := range map[string]struct {
		schedule inventory.Schedule
		at       string
		open     bool
	}{
		"without a time of day always":          {inventory.Schedule{}, "2026-03-01T03:00:00Z", true},
		"at the minute it opens":                {berlin, "2026-03-06T21:30:00Z", true},
		"a minute before":                       {berlin, "2026-03-06T21:29:00Z", false},
		"after midnight, of the day before":     {berlin, "2026-03-07T00:29:00Z", true},
		"at the minute it closes":               {berlin, "2026-03-07T00:30:00Z", false},
		"on another day":                        {berlin, "2026-03-05T21:30:00Z", false},
		"in summer an hour earlier":             {berlin, "2026-06-05T20:30:00Z", true},
		"in summer not as in winter":            {berlin, "2026-06-05T23:30:00Z", false},
		"an hour when nothing is said":          {inventory.Schedule{At: "10:00"}, "2026-03-06T10:59:00Z", true},
		"not longer":                            {inventory.Schedule{At: "10:00"}, "2026-03-06T11:00:00Z", false},
		"the jitter and an hour":                {inventory.Schedule{At: "10:00", Jitter: inventory.Duration(2 * time.Hour)}, "2026-03-06T12:59:00Z", true},
		"where clocks show it twice, at first":  {newYork, "2026-11-01T05:30:00Z", true},
		"as in another zone":                    {london, "2026-10-25T00:30:00Z", true},
		"but not an hour before":                {newYork, "2026-11-01T04:30:00Z", false},
		"and not when its hour has passed":      {newYork, "2026-11-01T06:30:00Z", false},
		"as in another":                         {london, "2026-10-25T01:30:00Z", false},
		"when clocks are set back, by the wall": {inventory.Schedule{At: "03:30", TimeZone: "Europe/Berlin"}, "2026-10-25T02:30:00Z", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, x.open, x.schedule.InWindow(at(t, x.at)))
		})
	}
}

func TestAWindowThatTheClocksShowTwiceOpensOnce(t *testing.T) {
	t.Parallel()
	for zone, x := range map[string]struct{ before, first, second, next string }{
		"America/New_York": {"2026-10-31T05:30:00Z", "2026-11-01T05:30:00Z", "2026-11-01T06:30:00Z", "2026-11-02T06:30:00Z"},
		"Europe/London":    {"2026-10-24T00:30:00Z", "2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-26T01:30:00Z"},
	} {
		t.Run(zone, func(t *testing.T) {
			t.Parallel()
			c := scheduled(90*day, inventory.Schedule{TimeZone: zone, At: "01:30", Window: inventory.Duration(4 * time.Hour)})
			assert.Equal(t, at(t, x.first), c.Next(at(t, x.before).Add(time.Second)).UTC())
			assert.Equal(t, at(t, x.next), c.Next(at(t, x.first).Add(time.Second)).UTC())
			for moment, repeats := range map[string]bool{x.before: false, x.first: false, x.second: true, x.next: false} {
				assert.Equal(t, repeats, c.Schedule.Repeats(at(t, moment)), moment)
			}
			assert.False(t, c.Schedule.Repeats(at(t, x.second).Add(time.Hour)))
			assert.True(t, c.Schedule.InWindow(at(t, x.second)), "who waited for a slot may still begin")
			assert.False(t, inventory.Schedule{TimeZone: zone}.Repeats(at(t, x.second)), "without windows each firing stands for itself")
		})
	}
}

func TestHowLongABlackoutLasts(t *testing.T) {
	t.Parallel()
	s := inventory.Schedule{TimeZone: "Europe/Berlin", Blackouts: []inventory.Blackout{
		{From: "12-20", To: "01-05", Why: "turn of the year"},
		{From: "2026-11-27T18:00", To: "2026-11-30T08:00", Why: "sale"},
		{From: "2027-01-06", To: "2027-01-07"},
		{From: "02-27", To: "02-29"},
	}}
	for name, x := range map[string]struct{ at, until, why string }{
		"before":                               {"2026-11-27T16:59:00Z", "", ""},
		"from its minute on":                   {"2026-11-27T17:00:00Z", "2026-11-30T07:00:00Z", "sale"},
		"not at its end":                       {"2026-11-30T07:00:00Z", "", ""},
		"over the turn, and what follows":      {"2026-12-24T12:00:00Z", "2027-01-07T23:00:00Z", "turn of the year"},
		"to a day that the year does not have": {"2026-02-27T12:00:00Z", "2026-02-28T23:00:00Z", ""},
		"and in the year that has it":          {"2028-02-29T12:00:00Z", "2028-02-29T23:00:00Z", ""},
		"each year":                            {"2030-01-02T12:00:00Z", "2030-01-05T23:00:00Z", "turn of the year"},
		"its last day whole":                   {"2030-01-05T22:59:00Z", "2030-01-05T23:00:00Z", "turn of the year"},
		"the day after not":                    {"2030-01-05T23:00:00Z", "", ""},
		"its first day from local midnight on": {"2029-12-19T23:00:00Z", "2030-01-05T23:00:00Z", "turn of the year"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			until, why, blackedOut := s.Blackout(at(t, x.at))
			assert.Equal(t, x.until != "", blackedOut)
			if blackedOut {
				assert.Equal(t, at(t, x.until), until.UTC())
				assert.Equal(t, x.why, why)
			}
		})
	}
}

func TestWhenARotationIsDueAndBegins(t *testing.T) {
	t.Parallel()
	by := at(t, "2026-06-30T12:00:00Z") // a Tuesday
	daily := scheduled(90*day, inventory.Schedule{At: "10:00", TimeZone: "Europe/Berlin"})
	weekly := scheduled(40*day, inventory.Schedule{At: "10:00", Days: []inventory.Day{"mon"}})
	for name, x := range map[string]struct {
		credential inventory.Credential
		expires    time.Time
		due, next  string
	}{
		"a tenth of the cadence before":        {daily, time.Time{}, "2026-06-21T12:00:00Z", "2026-06-22T08:00:00Z"},
		"at least two windows before":          {weekly, time.Time{}, "2026-06-16T12:00:00Z", "2026-06-22T10:00:00Z"},
		"so that a short cadence has two days": {scheduled(7*day, inventory.Schedule{At: "10:00"}), time.Time{}, "2026-06-28T12:00:00Z", "2026-06-29T10:00:00Z"},
		"half of the cadence at most":          {scheduled(7*day, inventory.Schedule{At: "10:00", Days: []inventory.Day{"mon"}}), time.Time{}, "2026-06-27T00:00:00Z", "2026-06-29T10:00:00Z"},
		"never later than before its own end":  {daily, at(t, "2026-06-10T12:00:00Z"), "2026-06-01T12:00:00Z", "2026-06-02T08:00:00Z"},
		"a blackout is passed over": {scheduled(90*day, inventory.Schedule{At: "10:00", Blackouts: []inventory.Blackout{{From: "2026-06-20", To: "2026-06-25"}}}),
			time.Time{}, "2026-06-21T12:00:00Z", "2026-06-26T10:00:00Z"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			due := x.credential.Due(by, x.expires)
			assert.Equal(t, at(t, x.due), due.UTC())
			assert.Equal(t, at(t, x.next), x.credential.Next(due).UTC())
		})
	}
	assert.True(t, daily.Due(time.Time{}, time.Time{}).IsZero(), "of a key of unknown age nobody knows")
}

// Whatever the calendar: where Next leads, a window is open and no blackout is, and credentials without
// windows are spread.
func TestNextIsAlwaysAMomentAtWhichARotationMayBegin(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := inventory.Schedule{TimeZone: rapid.SampledFrom([]string{"", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Pacific/Apia"}).Draw(t, "zone")}
		if rapid.Bool().Draw(t, "windows") {
			s.At = fmt.Sprintf("%02d:%02d", rapid.IntRange(4, 23).Draw(t, "hour"), rapid.IntRange(0, 59).Draw(t, "minute"))
			s.Days = rapid.SliceOfNDistinct(rapid.SampledFrom(inventory.Days), 0, 7, rapid.ID[inventory.Day]).Draw(t, "days")
		}
		if rapid.Bool().Draw(t, "blackout") {
			s.Blackouts = []inventory.Blackout{{From: "12-20", To: "01-05"}, {From: "2026-05-01T08:00", To: "2026-05-03T09:30"}}
		}
		c := scheduled(time.Duration(rapid.IntRange(1, 400).Draw(t, "days"))*day, s)
		after := time.Unix(rapid.Int64Range(1760000000, 1900000000).Draw(t, "after"), 0).UTC()
		next := c.Next(after)
		require.False(t, next.IsZero())
		assert.False(t, next.Before(after))
		assert.True(t, s.InWindow(next))
		_, _, blackedOut := s.Blackout(next)
		assert.False(t, blackedOut)
		assert.Equal(t, next, c.Next(next), "and it is its own next")
		if len(s.Blackouts) == 0 && s.At == "" {
			assert.LessOrEqual(t, next.Sub(after), c.CheckEvery())
		}
	})
	moments := map[time.Duration]bool{}
	for n := range 50 {
		c := scheduled(90*day, inventory.Schedule{})
		c.Name = fmt.Sprint("key-", n)
		moments[c.Offset()] = true
	}
	assert.Greater(t, len(moments), 45)
}

func TestSchedulesThatNoCalendarHas(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct{ schedule, want string }{
		"a zone that nobody knows":       {"{timeZone: Mars/Base}", `:10:26: credentials[0].schedule.timeZone is "Mars/Base", which is no IANA time zone`},
		"the zone of the machine":        {"{timeZone: Local}", `no IANA time zone`},
		"no time of day":                 {`{at: "25:00"}`, `:10:20: credentials[0].schedule.at is "25:00"`},
		"a day that is none":             {`{at: "10:00", days: [mon, monday]}`, `:10:41: credentials[0].schedule.days[1] is "monday"`},
		"days without a time":            {"{days: [mon]}", `schedule.at is missing`},
		"a time that a change skips":     {`{timeZone: Europe/Berlin, at: "02:30"}`, `schedule.at is 02:30, which does not exist on 2026-03-29 in Europe/Berlin: the clocks are set forward`},
		"in another zone":                {`{timeZone: America/New_York, at: "02:30"}`, `schedule.at is 02:30, which does not exist on 2026-03-08 in America/New_York`},
		"at another time of day":         {`{timeZone: Europe/London, at: "01:30"}`, `schedule.at is 01:30, which does not exist on 2026-03-29 in Europe/London`},
		"a blackout at such a time":      {`{timeZone: Europe/Berlin, blackouts: [{from: "2026-03-29T02:30", to: 2026-04-01}]}`, `schedule.blackouts[0].from is 2026-03-29T02:30, a time that does not exist in Europe/Berlin`},
		"a yearly one that a year skips": {`{timeZone: Europe/Berlin, blackouts: [{from: "03-29T02:30", to: 04-10}]}`, `schedule.blackouts[0].from is 03-29T02:30, a time that does not exist in Europe/Berlin: the clocks are set forward in 2026`},
		"a date that no month has":       {"{blackouts: [{from: 2026-02-30, to: 2026-03-01}]}", `schedule.blackouts[0].from is "2026-02-30", which is no date`},
		"an end before the begin":        {"{blackouts: [{from: 2026-03-02, to: 2026-03-01}]}", `schedule.blackouts[0].to is 2026-03-01, before from`},
		"an end of another kind":         {"{blackouts: [{from: 12-20, to: 2026-01-05}]}", `names a year and from does not`},
		"a year and more":                {"{blackouts: [{from: 2026-03-02, to: 2027-06-01}]}", `is more than a year after from`},
		"all year":                       {"{blackouts: [{from: 01-01, to: 12-31}]}", `schedule never lets a rotation begin`},
		"all its days":                   {`{at: "10:00", blackouts: [{from: 01-01, to: 06-30}, {from: 07-01, to: 12-31}]}`, `schedule never lets a rotation begin`},
		"a jitter past the window":       {`{at: "10:00", window: 1h, jitter: 2h}`, `schedule.jitter is 2h, longer than the window of 1h`},
		"windows rarer than the cadence": {`{at: "10:00", days: [mon]}`, `leaves 7d between two windows, longer than the cadence of 5d`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := inventory.Load("f.yaml", []byte(`apiVersion: keyturn/v1
inventory: payments
credentials:
  - name: payments-api
    owner: payments@example.com
    purpose: charges
    environment: production
    rotateEvery: 5d
    approvals: {revoke: {count: 1, trust: any}}
    schedule: `+x.schedule+`
    issuer: {type: gateway, account: edge, principal: payments-api}
    store: {type: file, account: vault, path: payments-api}
    noConsumers: true
`), real)
			require.ErrorContains(t, err, x.want)
		})
	}
}

func TestRiskThatScopesAndDataAskFor(t *testing.T) {
	t.Parallel()
	const standard = "risk: standard"
	for name, x := range map[string]struct{ risk, more, want string }{
		"narrow scopes ask for nothing":  {standard, "scopes: [charge:create, charge:read]", ""},
		"a wildcard is broad":            {standard, "scopes: [\"charge:*\"]", `f.yaml:10:11: credentials[0].risk is standard, and scope "charge:*" is broad; write high, which is rotated every 30d by default, or narrow the key`},
		"as is a managed policy":         {standard, "scopes: [AmazonS3FullAccess]", "is broad; write high"},
		"administrators have everything": {standard, "scopes: [AdministratorAccess]", "gives everything; write critical, which is rotated every 7d"},
		"and so has a star":              {standard, "scopes: [\"*\"]", "gives everything; write critical"},
		"personal data is high":          {standard, "data: [personal]", "it reaches personal data; write high"},
		"other secrets are critical":     {standard, "data: [personal, secrets]", "it reaches other secrets; write critical"},
		"a policy's risk counts":         {"policy: high", "data: [personal]", ""},
		"windows in time":                {standard, "schedule: {at: \"10:00\", days: [sun]}", ""},
		"windows that are rare":          {standard + "\n    rotateEvery: 7d", "schedule: {at: \"10:00\", days: [sun]}", "credentials[0].schedule.at leaves 7d between two windows, and a key is rotated 3d12h before its rotate-by at the earliest: it will be overdue at times"},
		"a risk that nobody says does":   {"policy: none", "data: [personal]", "credentials[0].risk is standard, and it reaches personal data"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inv, err := inventory.Load("f.yaml", []byte(`apiVersion: keyturn/v1
inventory: payments
policies: {high: {risk: high}, none: {}}
credentials:
  - name: payments-api
    owner: payments@example.com
    purpose: charges
    environment: production
    approvals: {revoke: {count: 1, trust: any}}
    `+x.risk+`
    `+x.more+`
    issuer: {type: gateway, account: edge, principal: payments-api}
    store: {type: file, account: vault, path: payments-api}
    noConsumers: true
`), real)
			require.NoError(t, err)
			if x.want == "" {
				assert.Empty(t, inv.Advice)
				return
			}
			require.Len(t, inv.Advice, 1)
			assert.Contains(t, inv.Advice[0].String(), x.want)
		})
	}
}

// The clocks skip 02:30 of the last Sunday of March, which is the 29th in 2026 and the 28th in 2027.
func TestABlackoutOfEveryYearIsOneOfEveryYear(t *testing.T) {
	t.Parallel()
	for name, day := range map[string]string{"begins": "03-29T02:30", "ends": "03-28T02:30"} {
		s := inventory.Schedule{TimeZone: "Europe/Berlin", Blackouts: []inventory.Blackout{{From: day, To: "04-10T08:00"}}}
		if name == "ends" {
			s.Blackouts = []inventory.Blackout{{From: "03-20T08:00", To: day}}
		}
		inside := map[string]time.Month{"begins": time.April, "ends": time.March}[name]
		for year := 2026; year < 2060; year++ {
			at := time.Date(year, inside, map[string]int{"begins": 5, "ends": 25}[name], 12, 0, 0, 0, time.UTC)
			_, _, in := s.Blackout(at)
			assert.True(t, in, "%s %d", name, year)
		}
	}
	// The moment of the skip is 01:00 UTC.
	s := inventory.Schedule{TimeZone: "Europe/Berlin", Blackouts: []inventory.Blackout{{From: "03-29T02:30", To: "04-10T08:00"}}}
	_, _, before := s.Blackout(time.Date(2026, 3, 29, 0, 59, 0, 0, time.UTC))
	_, _, after := s.Blackout(time.Date(2026, 3, 29, 1, 0, 0, 0, time.UTC))
	assert.Equal(t, []bool{false, true}, []bool{before, after})
}
