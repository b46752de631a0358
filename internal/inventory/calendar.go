package inventory

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
	_ "time/tzdata" // the same zones on every machine, also where none are installed
)

// Day is a day of the week.
type Day string

// Days are the days of the week, Sunday first, as time.Weekday counts them.
var Days = []Day{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

// windowMargin is how long a window stays open that says nothing of it, beyond its jitter: as long as a
// Schedule catches up with what an outage made it miss.
const windowMargin = Duration(time.Hour)

// zones keeps what was loaded, since that reads a file each time.
var zones sync.Map

// Location is the zone of the schedule's times; UTC for one that is not known.
func (s Schedule) Location() *time.Location {
	if known, ok := zones.Load(s.TimeZone); ok {
		return known.(*time.Location)
	}
	zone, err := time.LoadLocation(s.TimeZone)
	if err != nil {
		return time.UTC
	}
	zones.Store(s.TimeZone, zone)
	return zone
}

// Open is how long a window stays open.
func (s Schedule) Open() time.Duration {
	return cmp.Or(s.Window, s.Jitter+windowMargin).Std()
}

// On tells whether there is a window on a day of the week.
func (s Schedule) On(day time.Weekday) bool {
	return len(s.Days) == 0 || slices.Contains(s.Days, Days[day])
}

// clock reads At.
func (s Schedule) clock() (hour, minute int) {
	at, err := time.Parse("15:04", s.At)
	if err != nil {
		return 0, 0
	}
	return at.Hour(), at.Minute()
}

// opening is when the window of a day opens; ok is false on a day without. Where the clocks are set back over it, that is the first time
// that they show it.
func (s Schedule) opening(year int, month time.Month, day int, zone *time.Location) (at time.Time, ok bool) {
	hour, minute := s.clock()
	at = time.Date(year, month, day, hour, minute, 0, 0, zone)
	return at.Add(-setBack(at)), s.On(at.Weekday())
}

// setBack is how long before a moment the clocks of its zone have shown the same time already; zero where they have not.
func setBack(at time.Time) time.Duration {
	begun, _ := at.ZoneBounds()
	if begun.IsZero() {
		return 0
	}
	_, is := at.Zone()
	_, was := begun.Add(-time.Second).Zone()
	if by := time.Duration(was-is) * time.Second; at.Sub(begun) < by {
		return by
	}
	return 0
}

// Repeats tells whether a firing of the Schedule is a window's second one: the clocks were set back over its opening, and the server fires each
// time that they show it.
func (s Schedule) Repeats(firing time.Time) bool {
	local := firing.In(s.Location())
	hour, minute := s.clock()
	return s.At != "" && local.Hour() == hour && local.Minute() == minute && setBack(local) > 0
}

// InWindow tells whether a window is open; it always is for a schedule that says no time of day.
func (s Schedule) InWindow(at time.Time) bool {
	if s.At == "" {
		return true
	}
	zone := s.Location()
	local := at.In(zone)
	for back := 0; time.Duration(back)*day <= s.Open()+day; back++ {
		opens, ok := s.opening(local.Year(), local.Month(), local.Day()-back, zone)
		if ok && !at.Before(opens) && at.Before(opens.Add(s.Open())) {
			return true
		}
	}
	return false
}

// Blackout tells whether a moment lies in a blackout, until when that lasts together with those that follow
// without a gap, and why.
func (s Schedule) Blackout(at time.Time) (until time.Time, why string, blackedOut bool) {
	until = at
	zone := s.Location()
	for extended := true; extended && until.Sub(at) < 2*366*day; {
		extended = false
		for _, b := range s.Blackouts {
			from, to, ok := b.around(until, zone)
			if ok && !until.Before(from) && until.Before(to) {
				until, extended = to, true
				if !blackedOut {
					why, blackedOut = b.Why, true
				}
			}
		}
	}
	return until, why, blackedOut
}

// Next is the first moment, not before the given one, at which a routine rotation may begin, the jitter not
// counted; zero when there is none within two years.
func (c Credential) Next(after time.Time) time.Time {
	if c.Schedule.At == "" {
		every, offset := c.CheckEvery(), c.Offset()
		for at := after; at.Sub(after) < 2*366*day; {
			// As Temporal counts intervals: from 1970.
			if passed := at.Sub(time.Unix(0, 0).Add(offset)) % every; passed > 0 {
				at = at.Add(every - passed)
			}
			until, _, blackedOut := c.Schedule.Blackout(at)
			if !blackedOut {
				return at
			}
			at = until
		}
		return time.Time{}
	}
	zone := c.Schedule.Location()
	local := after.In(zone)
	for ahead := range 2 * 366 {
		at, ok := c.Schedule.opening(local.Year(), local.Month(), local.Day()+ahead, zone)
		if _, _, blackedOut := c.Schedule.Blackout(at); ok && !blackedOut && !at.Before(after) {
			return at
		}
	}
	return time.Time{}
}

// CheckEvery is how often a credential without windows may begin: a fortieth of its cadence, a day at most.
func (c Credential) CheckEvery() time.Duration {
	return min(max((c.RotateEvery.Std()/40).Truncate(time.Second), time.Second), day)
}

// Offset is the credential's own moment in the interval of CheckEvery: it spreads those without windows.
func (c Credential) Offset() time.Duration {
	h := fnv.New32a()
	_, _ = h.Write([]byte(c.Name))
	return time.Duration(h.Sum32()) * time.Second % c.CheckEvery()
}

// gap is the longest time between two windows, blackouts not counted.
func (s Schedule) gap() time.Duration {
	longest, since := 0, 0
	for n := range 14 { // two weeks, so that the gap over a weekend counts
		if since++; s.On(time.Weekday(n % 7)) {
			longest, since = max(longest, since), 0
		}
	}
	return time.Duration(longest) * day
}

// Lead is how long before its rotate-by a routine rotation is due: a tenth of the cadence, and at least two
// windows, so that one that fails can be tried again before the key is overdue; half the cadence at most.
func (c Credential) Lead() time.Duration {
	lead := c.RotateEvery.Std() / 10
	if c.Schedule.At != "" {
		lead = max(lead, 2*c.Schedule.gap())
	}
	return min(lead, c.RotateEvery.Std()/2)
}

// Due is when a routine rotation is due for a key with this rotate-by and, unless zero, this end.
func (c Credential) Due(rotateBy, expires time.Time) time.Time {
	if !expires.IsZero() && (rotateBy.IsZero() || expires.Before(rotateBy)) {
		rotateBy = expires
	}
	if rotateBy.IsZero() {
		return time.Time{}
	}
	return rotateBy.Add(-c.Lead())
}

var (
	clockForm  = regexp.MustCompile(`^([01]\d|2[0-3]):[0-5]\d$`)
	yearlyForm = regexp.MustCompile(`^\d\d-\d\d(T\d\d:\d\d)?$`)
)

// moment is one end of a blackout.
type moment struct {
	at             time.Time
	yearly, isDate bool
}

// parseMoment reads one end of a blackout, in a year when it names none. The wall clock of a zone skips some
// times: such a time is no moment. One of every year is the moment of the skip then, so that no year is without its
// blackout.
func parseMoment(text string, year int, zone *time.Location) (moment, error) {
	m := moment{yearly: yearlyForm.MatchString(text), isDate: !strings.Contains(text, "T")}
	whole := text
	if m.yearly {
		whole = fmt.Sprintf("%04d-%s", year, text)
		if march := time.Date(year, 2, 29, 0, 0, 0, 0, zone); strings.HasPrefix(text, "02-29") && march.Day() == 1 {
			m.at, m.isDate = march, false // a day that this year does not have ends, or begins, as March does
			return m, nil
		}
	}
	layout := "2006-01-02T15:04"
	if m.isDate {
		layout = time.DateOnly
	}
	wall, err := time.Parse(layout, whole)
	if err != nil {
		return m, fmt.Errorf("is %q, which is no date and no local time", clip(text))
	}
	m.at = time.Date(wall.Year(), wall.Month(), wall.Day(), wall.Hour(), wall.Minute(), 0, 0, zone)
	switch {
	case m.isDate || m.exists(wall):
	case m.yearly:
		m.at = m.skip(wall)
	default:
		return m, skipped(text, zone)
	}
	return m, nil
}

func skipped(text string, zone *time.Location) error {
	return fmt.Errorf("is %s, a time that does not exist in %s: the clocks are set forward", text, zone)
}

// skip is when the clocks are set forward over the wall time, which time.Date has moved to either side of it.
func (m moment) skip(wall time.Time) time.Time {
	begun, ends := m.at.ZoneBounds()
	if m.at.Hour()*60+m.at.Minute() < wall.Hour()*60+wall.Minute() {
		return ends
	}
	return begun
}

// checkMoment reads one end of a blackout, and refuses one of every year that some year does not have.
func checkMoment(text string, zone *time.Location) (moment, error) {
	m, err := parseMoment(text, lastYear, zone)
	if err != nil || !m.yearly || m.isDate || strings.HasPrefix(text, "02-29") {
		return m, err
	}
	for year := firstYear; year < firstYear+calendarCycle; year++ {
		wall, err := time.Parse("2006-01-02T15:04", fmt.Sprintf("%04d-%s", year, text))
		if in, _ := parseMoment(text, year, zone); err == nil && !in.exists(wall) {
			return m, fmt.Errorf("%w in %d", skipped(text, zone), year)
		}
	}
	return m, nil
}

// calendarCycle is after how many years the days of the week come back to their dates.
const calendarCycle = 28

func (m moment) exists(wall time.Time) bool {
	return m.at.Hour() == wall.Hour() && m.at.Minute() == wall.Minute()
}

// around is the blackout's occurrence that a moment may lie in; ok is false for one that cannot be read.
func (b Blackout) around(at time.Time, zone *time.Location) (from, to time.Time, ok bool) {
	year := at.In(zone).Year()
	for _, y := range []int{year - 1, year, year + 1} {
		begin, err := parseMoment(b.From, y, zone)
		if err != nil {
			continue
		}
		end, err := parseMoment(b.To, y, zone)
		if err != nil {
			continue
		}
		if begin.yearly && end.at.Before(begin.at) { // over the turn of the year
			if end, err = parseMoment(b.To, y+1, zone); err != nil {
				continue
			}
		}
		from, to = begin.at, end.at
		if end.isDate {
			to = to.AddDate(0, 0, 1)
		}
		if !at.Before(from) && at.Before(to) {
			return from, to, true
		}
	}
	return from, to, false
}

// The years whose clock changes a time of day is held against.
const firstYear, lastYear = 2026, 2028

// checkSchedule refuses what no calendar has, and a schedule that never lets a rotation begin.
func checkSchedule(a at, c Credential) {
	s := c.Schedule
	a.path = below(a.path, "schedule")
	if s.TimeZone != "" {
		if _, err := time.LoadLocation(s.TimeZone); err != nil || s.TimeZone == "Local" {
			a.wrong("timeZone", fmt.Sprintf("is %q, which is no IANA time zone", clip(s.TimeZone)), "write one such as Europe/Berlin")
			return // no time means anything now
		}
	}
	for i, d := range s.Days {
		if !slices.Contains(Days, d) || slices.Contains(s.Days[:i], d) {
			a.wrong(fmt.Sprintf("days[%d]", i), fmt.Sprintf("is %q, which is no day of the week or there twice", clip(string(d))), "write mon, tue, wed, thu, fri, sat or sun")
		}
	}
	for _, d := range []struct {
		field string
		value Duration
	}{{"jitter", s.Jitter}, {"window", s.Window}} {
		a.within(d.field, d.value, 0, 7*Duration(day))
	}
	sound := checkBlackouts(a, s)
	if s.At == "" {
		if len(s.Days) > 0 || s.Window != 0 {
			a.wrong("at", "is missing, and there are days or a window", "write the time of day at which the window opens, as HH:MM")
		}
	} else {
		sound = checkWindow(a, c) && sound
	}
	if sound && c.RotateEvery > 0 && c.yearlyOnly().Next(time.Date(firstYear, 1, 1, 0, 0, 0, 0, time.UTC)).IsZero() {
		a.wrong("", "never lets a rotation begin: every window lies in a blackout", "leave some of the year open")
	}
	if len(s.Paused) > maxKeyword || strings.ContainsAny(s.Paused, "\n\t") {
		a.wrong("paused", fmt.Sprintf("is longer than %d bytes or has more than one line", maxKeyword), "say in one line why")
	}
}

func checkWindow(a at, c Credential) bool {
	s := c.Schedule
	if !clockForm.MatchString(s.At) {
		a.wrong("at", fmt.Sprintf("is %q", clip(s.At)), "write a time of day as HH:MM")
		return false
	}
	if s.Window != 0 && s.Jitter > s.Window {
		a.wrong("jitter", fmt.Sprintf("is %s, longer than the window of %s", s.Jitter, s.Window), "write a shorter jitter or a longer window")
	}
	if c.RotateEvery > 0 && s.gap() > c.RotateEvery.Std() {
		a.wrong("at", fmt.Sprintf("leaves %s between two windows, longer than the cadence of %s", Duration(s.gap()), c.RotateEvery),
			"open more windows, or rotate less often")
	}
	zone := s.Location()
	hour, minute := s.clock()
	for d := time.Date(firstYear, 1, 1, hour, minute, 0, 0, time.UTC); d.Year() < lastYear; d = d.AddDate(0, 0, 1) {
		opens, ok := s.opening(d.Year(), d.Month(), d.Day(), zone)
		if ok && !(moment{at: opens}).exists(d) {
			a.wrong("at", fmt.Sprintf("is %s, which does not exist on %s in %s: the clocks are set forward", s.At, d.Format(time.DateOnly), zone),
				"write another time of day")
			return false
		}
	}
	return true
}

func checkBlackouts(a at, s Schedule) (sound bool) {
	sound = true
	for i, b := range s.Blackouts {
		here := at{report: a.report, path: below(a.path, fmt.Sprintf("blackouts[%d]", i))}
		wrong := func(field, what, write string) {
			here.wrong(field, what, write)
			sound = false
		}
		from, err := checkMoment(b.From, s.Location())
		if err != nil {
			wrong("from", err.Error(), "write a date such as 2026-12-20, or a local time such as 2026-12-20T18:00")
		}
		to, toErr := checkMoment(b.To, s.Location())
		if toErr != nil {
			wrong("to", toErr.Error(), "write a date such as 2027-01-05, or a local time such as 2027-01-05T08:00")
		}
		if len(b.Why) > maxKeyword || strings.ContainsAny(b.Why, "\n\t") {
			wrong("why", fmt.Sprintf("is longer than %d bytes or has more than one line", maxKeyword), "say in one line why")
		}
		switch {
		case err != nil || toErr != nil:
		case from.yearly != to.yearly:
			wrong("to", "names a year and from does not, or the other way round", "write both with a year, or both without")
		case !from.yearly && (to.at.Before(from.at) || !to.isDate && to.at.Equal(from.at)):
			wrong("to", fmt.Sprintf("is %s, before from", b.To), "write the end after the begin")
		case !from.yearly && to.at.Sub(from.at) > 366*day:
			wrong("to", "is more than a year after from", "pause the credential instead, with paused")
		}
	}
	return sound
}

// yearlyOnly leaves out the blackouts that pass for good.
func (c Credential) yearlyOnly() Credential {
	var kept []Blackout
	for _, b := range c.Schedule.Blackouts {
		if yearlyForm.MatchString(b.From) {
			kept = append(kept, b)
		}
	}
	c.Schedule.Blackouts = kept
	return c
}

// DaysOff are the days of a blackout on which no window can open; yearly tells that they are of every year.
func (s Schedule) DaysOff(b Blackout) (days []time.Time, yearly bool) {
	zone := s.Location()
	begin, err := parseMoment(b.From, lastYear, zone)
	if err != nil {
		return nil, false
	}
	end, err := parseMoment(b.To, lastYear, zone)
	if err == nil && begin.yearly && end.at.Before(begin.at) {
		end, err = parseMoment(b.To, lastYear+1, zone)
	}
	if err != nil {
		return nil, false
	}
	hour, minute := s.clock()
	for ahead := range 367 {
		midnight := time.Date(begin.at.Year(), begin.at.Month(), begin.at.Day()+ahead, 0, 0, 0, 0, zone)
		if midnight.After(end.at) {
			break
		}
		first, last := midnight, midnight.AddDate(0, 0, 1).Add(-time.Minute)
		if s.At != "" {
			first = time.Date(midnight.Year(), midnight.Month(), midnight.Day(), hour, minute, 0, 0, zone)
			last = first
		}
		if b.covers(first, zone) && b.covers(last, zone) {
			days = append(days, midnight)
		}
	}
	return days, begin.yearly
}

func (b Blackout) covers(at time.Time, zone *time.Location) bool {
	_, _, in := b.around(at, zone)
	return in
}
