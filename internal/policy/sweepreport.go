package policy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"
)

// SweepReport is the result of a sweep.
type SweepReport struct {
	StartedAt time.Time `json:"startedAt"`
	EndedAt   time.Time `json:"endedAt,omitzero"`
	// Credentials is how many were looked at.
	Credentials int `json:"credentials"`
	// Counts are by kind, whether or not all are listed.
	Counts map[FindingKind]int `json:"counts"`
	// Findings are listed up to a bound, those that need somebody soonest first.
	Findings []Finding `json:"findings"`
	// New counts those that the sweep before did not find, Again those that people are reminded of.
	New   int `json:"new"`
	Again int `json:"again,omitempty"`
	// TakenUp are the credentials whose revoke gate was opened again.
	TakenUp []string `json:"takenUp,omitempty"`
	Notes   []string `json:"notes,omitempty"`
	// Known are the IDs of all findings, for the sweep that follows.
	Known []string `json:"known,omitempty"`
	// Steps are those that failed when this sweep looked, with the attempt, for the sweep that follows.
	Steps map[string]int `json:"steps,omitempty"`
}

// Bounds of a report, so that it stays well below what Temporal lets pass.
const (
	mostFindings = 500
	mostKnown    = 20_000
	mostSteps    = 1000
)

// Saw adds steps that failed.
func (r *SweepReport) Saw(steps map[string]int) {
	ids := slices.Sorted(maps.Keys(steps)) //workflowcheck:ignore // in one order, so that a replay keeps the same ones of too many
	for _, id := range ids {
		if r.Steps == nil {
			r.Steps = map[string]int{}
		}
		if len(r.Steps) < mostSteps {
			r.Steps[id] = steps[id]
		}
	}
}

// Add adds findings to the report.
func (r *SweepReport) Add(list ...Finding) {
	if r.Counts == nil {
		r.Counts = map[FindingKind]int{}
	}
	for _, f := range list {
		r.Counts[f.Kind]++
		if len(r.Known) < mostKnown {
			r.Known = append(r.Known, f.ID)
		}
	}
	r.Findings = append(r.Findings, list...)
	slices.SortStableFunc(r.Findings, func(a, b Finding) int {
		return cmp.Or(slices.Index(FindingKinds, a.Kind)-slices.Index(FindingKinds, b.Kind), cmp.Compare(a.Credential, b.Credential), cmp.Compare(a.About, b.About))
	})
	r.Findings = r.Findings[:min(len(r.Findings), mostFindings)]
}

// Summary counts what was found, and where.
func (r SweepReport) Summary() string {
	return fmt.Sprintf("%s at %s, %d new", Counted(r.Total(), "finding"), Counted(r.Credentials, "credential"), r.New)
}

// Total counts the findings.
func (r SweepReport) Total() int {
	n := 0
	for _, kind := range FindingKinds {
		n += r.Counts[kind]
	}
	return n
}

// RemindEvery is how often people are told again of a finding that is there still.
const RemindEvery = 7 * 24 * time.Hour

// Since compares with the sweep before: it dates the findings, counts the new ones, and returns those of them that
// are listed, with the ones of which people are to be reminded.
func (r *SweepReport) Since(before SweepReport) []Finding {
	known, since := map[string]bool{}, map[string]time.Time{}
	for _, id := range before.Known {
		known[id] = true
	}
	for _, f := range before.Findings {
		since[f.ID] = f.Since
	}
	r.New, r.Again = 0, 0
	for _, id := range r.Known {
		if !known[id] {
			r.New++
		}
	}
	var fresh []Finding
	for i := range r.Findings {
		f := &r.Findings[i]
		f.Since = since[f.ID]
		if f.Since.IsZero() {
			f.Since = r.StartedAt
		}
		switch {
		case !known[f.ID]:
			fresh = append(fresh, *f)
		case f.stoodFor(before.StartedAt)/RemindEvery < f.stoodFor(r.StartedAt)/RemindEvery:
			fresh = append(fresh, *f)
			r.Again++
		}
	}
	return fresh
}

// stoodFor is how long before a moment it was found first.
func (f Finding) stoodFor(at time.Time) time.Duration { return max(at.Sub(f.Since), 0) }

// Old tells whether it was found first so long ago that people have been told before.
func (f Finding) Old(now time.Time) bool { return !f.Since.IsZero() && f.stoodFor(now) >= RemindEvery }

// Untold leaves out of what the next sweep takes for known the new findings that nobody was told of: told are the IDs
// of those that somebody was.
func (r *SweepReport) Untold(before SweepReport, told []string) {
	known := map[string]bool{}
	for _, id := range slices.Concat(before.Known, told) {
		known[id] = true
	}
	r.Known = slices.DeleteFunc(r.Known, func(id string) bool { return !known[id] })
}
