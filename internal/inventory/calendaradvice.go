package inventory

import (
	"fmt"
	"time"

	"github.com/keyturn/keyturn/internal/strictyaml"
)

// scheduleField is where the file says a field of a credential's schedule: in the credential, or else in the defaults; ok is false
// where it does not.
func scheduleField(doc *strictyaml.Document, credential int, field string) (path string, ok bool) {
	for _, path := range []string{fmt.Sprintf("credentials[%d].schedule.%s", credential, field), "defaults.schedule." + field} {
		if _, ok := doc.Text(path); ok {
			return path, true
		}
	}
	return "", false
}

// checkSaid refuses what a file says and a Schedule cannot tell from nothing said.
func checkSaid(doc *strictyaml.Document, inv *Inventory) {
	told := map[string]bool{}
	for i := range inv.Credentials {
		path, said := scheduleField(doc, i, "window")
		text, _ := doc.Text(path)
		if length, err := ParseDuration(text); said && err == nil && length == 0 && !told[path] {
			told[path] = true
			doc.Report(strictyaml.Problem{Field: path, What: "is zero, and a window that never opens lets no rotation begin", Write: "write how long it stays open, or leave it out for the jitter and an hour"})
		}
	}
}

// adviseWindows says where windows are so rare that a key is overdue before the next one opens.
func adviseWindows(inv *Inventory, advise report) {
	for i, c := range inv.Credentials {
		if gap := c.Schedule.gap(); c.Schedule.At != "" && c.RotateEvery > 0 && gap > c.Lead() {
			advise(strictyaml.Problem{
				Field: fmt.Sprintf("credentials[%d].schedule.at", i),
				What:  fmt.Sprintf("leaves %s between two windows, and a key is rotated %s before its rotate-by at the earliest: it will be overdue at times", Duration(gap), Duration(c.Lead())),
				Write: "open more windows, or rotate less often",
			})
		}
	}
}

// adviseIdle says which terms of a schedule change nothing, or not any more, and where blackouts leave no time in which a rotation
// is due. What the defaults say is told once, and a zone of theirs only where no credential has a time to read in it.
func adviseIdle(doc *strictyaml.Document, inv *Inventory, now time.Time, advise report) {
	told := map[string]bool{}
	once := func(field, what, write string) {
		if !told[field] {
			told[field] = true
			advise(strictyaml.Problem{Field: field, What: what, Write: write})
		}
	}
	used := map[string]bool{}
	for i, c := range inv.Credentials {
		if path, said := scheduleField(doc, i, "timeZone"); said && (c.Schedule.At != "" || len(c.Schedule.Blackouts) > 0) {
			used[path] = true
		}
	}
	for i, c := range inv.Credentials {
		s := c.Schedule
		if path, said := scheduleField(doc, i, "timeZone"); said && !used[path] {
			once(path, "changes nothing: the schedule has no time of day and no blackout", "write at, the time of day at which a window opens, or remove it")
		}
		for j, b := range s.Blackouts {
			if ended, over := b.ended(now, s.Location()); over {
				path, _ := scheduleField(doc, i, fmt.Sprintf("blackouts[%d].to", j))
				once(path, fmt.Sprintf("is over: the blackout ended %s", ended.Format(time.RFC3339)), "remove it")
			}
		}
		switch next := c.Next(now); {
		case next.IsZero():
			once(fmt.Sprintf("credentials[%d].schedule.blackouts", i), "let no rotation begin within two years", "leave some of the time open, or pause the credential with paused")
		case next.Sub(now) > c.RotateEvery.Std():
			once(fmt.Sprintf("credentials[%d].schedule.blackouts", i), fmt.Sprintf("let no rotation begin before %s, which is longer than the cadence of %s: the key will be overdue", next.Format(time.RFC3339), c.RotateEvery),
				"leave some of the time open, or pause the credential with paused")
		}
	}
}

// ended is when a blackout ended that does not come again; over is false for any other.
func (b Blackout) ended(now time.Time, zone *time.Location) (at time.Time, over bool) {
	end, err := parseMoment(b.To, lastYear, zone)
	if err != nil || end.yearly {
		return at, false
	}
	if at = end.at; end.isDate {
		at = at.AddDate(0, 0, 1)
	}
	return at, !at.After(now)
}
