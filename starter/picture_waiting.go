package main

import (
	"cmp"
	"slices"
	"strings"

	"github.com/keyturn/keyturn/workflows"
)

// timed are the waits that end by themselves.
var timed = map[workflows.Phase]string{
	workflows.PhaseOverlap: "overlap", workflows.PhaseDeliver: "wave soak", workflows.PhaseDisableSoak: "soak",
	workflows.PhaseSignoff: "gate open", workflows.PhaseRevokeGate: "gate open",
}

// waiting says what it takes to go on, who can do that, and how much time is left.
func (d *drawing) waiting() section {
	s := d.status
	asked := d.wrapped("asked for by", s.Asked(), nil, 2)
	if s.Report != nil {
		return section{asked, nil}
	}
	failing := ""
	if s.Retrying != nil {
		failing = s.Retrying.String()
	}
	rows := slices.Concat(d.wrapped("failing", failing, bad, 3), d.wrapped("waits for", s.WaitsFor, nil, 4), d.wrapped("unblocked by", s.UnblockedBy, nil, 2))
	if !s.Until.IsZero() {
		begin, until := s.Since, timed[s.Phase]
		if slices.ContainsFunc(s.Waves, func(is workflows.WaveStatus) bool { return is.State == "held" }) {
			until = "longest hold"
			if s.Gate != nil {
				until = timed[workflows.PhaseRevokeGate]
			}
		}
		for _, w := range d.plan.Waves {
			if s.Phase == workflows.PhaseDeliver && slices.ContainsFunc(s.Waves, func(is workflows.WaveStatus) bool {
				return is.Name == w.Name && is.State == "soaking"
			}) {
				begin = s.Until.Add(-w.Soak.Std())
			}
		}
		left := "due"
		if t := s.Until.Sub(d.now); t > 0 {
			left = span(t) + " left, until " + d.clock(s.Until)
		}
		rows = append(rows, d.row(cmp.Or(until, "time"), d.bar(float64(d.now.Sub(begin)), float64(s.Until.Sub(begin)), d.progress(), going)+"  "+left))
	}
	if e := s.Evidence; e != nil && !e.Complete {
		if window := d.spec.QuietWindow.Std(); window > 0 && !e.QuietSince.IsZero() && s.Phase == workflows.PhaseEvidence {
			quiet := max(0, d.now.Sub(e.QuietSince))
			rows = append(rows, d.row("quiet", d.bar(float64(quiet), float64(window), d.progress(), going)+"  "+span(quiet)+" of "+span(window)))
		}
	}
	if len(asked) == 0 {
		return section{rows}
	}
	return section{slices.Concat(asked, rows), rows}
}

// gate shows the open gate with a mark for each approval that it needs.
func (d *drawing) gate() section {
	g := d.status.Gate
	if g == nil {
		return section{}
	}
	var by []string
	valid := g.Valid(d.now)
	for _, v := range valid {
		by = append(by, v.Person())
	}
	has, needs := min(len(valid), 20), min(max(g.Needs.Count, 0), 20)
	marks := d.in(good, strings.Repeat("■ ", has)) + d.in(alert, strings.Repeat("□ ", max(0, needs-has)))
	text := marks + g.Progress(d.now)
	if len(by) > 0 {
		text += ": " + plain(strings.Join(by, ", "))
	}
	rows := []string{d.row(plain(string(g.Gate))+" gate", text)}
	return section{append(rows, d.wrapped("approve with", g.Command(d.status.Credential), strong, 3)...)}
}
