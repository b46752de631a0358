package main

import (
	"slices"
	"strings"
	"time"

	"github.com/charmbracelet/x/ansi"

	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/workflows"
)

// headline says which rotation it is, and what is going on.
func (d *drawing) headline() section {
	s := d.status
	state, i, since := string(s.Phase), going, d.started()
	switch {
	case s.Report != nil:
		state = string(s.Report.Outcome)
		i = map[workflows.Outcome]ink{workflows.Completed: good, workflows.CompletedWithDebt: alert, workflows.Superseded: alert}[s.Report.Outcome]
		if i == nil {
			i = bad
		}
	case s.Ended != nil:
		state, i = s.Ended.As, bad
	case s.Phase == workflows.PhaseRollback || s.Phase == workflows.PhaseContain:
		i = bad
	}
	head := d.in(strong, plain(s.Credential)) + "  " + d.in(i, plain(state))
	switch {
	case s.Report != nil:
		head += "  in " + span(s.Report.EndedAt.Sub(s.Report.StartedAt))
	case s.Ended != nil:
	case !since.IsZero():
		head += "  for " + span(d.now.Sub(s.Since)) + ", " + span(d.now.Sub(since)) + " in all"
	}
	owner := plain(s.Owner)
	if gap := d.width - ansi.StringWidth(head) - ansi.StringWidth(owner); owner != "" && gap >= 2 {
		head += strings.Repeat(" ", gap) + d.in(faint, owner)
	}
	rows := []string{head}
	switch {
	case d.silent != "" && d.heard.IsZero():
		rows = append(rows, d.wrapped("", "Nobody has answered yet: "+d.silent+".", bad, 3)...)
	case d.silent != "":
		rows = append(rows, d.wrapped("", "Nobody has answered since "+d.clock(d.heard)+": "+d.silent+". This is how it was then.", bad, 3)...)
	}
	doing := s.Doing
	if s.Report != nil {
		doing = s.Report.Message
	}
	most := 4
	if s.Ended != nil {
		most = 12 // all that is to be done is in it
	}
	return section{append(rows, d.wrapped("", doing, nil, most)...)}
}

// started is when the run began, as far as it tells.
func (d *drawing) started() time.Time {
	s := d.status
	switch {
	case s.Report != nil && !s.Report.StartedAt.IsZero():
		return s.Report.StartedAt
	case len(s.Timeline) > 0 && (len(s.Keys) == 0 || s.Timeline[0].At.Before(s.Keys[0].At)):
		return s.Timeline[0].At
	case len(s.Keys) > 0:
		return s.Keys[0].At
	}
	return s.Since
}

// course are the phases that the rotation has before it.
func course(p policy.Plan) []workflows.Phase {
	end := []workflows.Phase{workflows.PhaseRevoke, workflows.PhaseRecord}
	if p.CanDisable {
		end = slices.Concat([]workflows.Phase{workflows.PhaseDisable, workflows.PhaseDisableSoak}, end)
	}
	switch {
	case len(p.Steps) == 0 && p.Retiring != nil: // it settles what an earlier one left
		return slices.Concat([]workflows.Phase{workflows.PhaseInspect, workflows.PhaseEvidence, workflows.PhaseRevokeGate}, end)
	case len(p.Steps) == 0:
		return []workflows.Phase{
			workflows.PhaseInspect, workflows.PhaseIssue, workflows.PhaseDeliver, workflows.PhasePromote, workflows.PhaseOverlap,
			workflows.PhaseEvidence, workflows.PhaseRevokeGate, workflows.PhaseDisable, workflows.PhaseDisableSoak, workflows.PhaseRevoke, workflows.PhaseRecord,
		}
	}
	phases := []workflows.Phase{workflows.PhaseInspect}
	for _, s := range p.Steps {
		phase := workflows.Phase(s.Phase)
		if phase != phases[len(phases)-1] { // it may come twice: before the promotion and after it
			phases = append(phases, phase)
		}
		switch phase {
		case workflows.PhaseOverlap:
			phases = append(phases, workflows.PhaseEvidence)
		case workflows.PhaseDisable:
			phases = append(phases, workflows.PhaseDisableSoak)
		}
	}
	return phases
}

// phases are those of the rotation, with what is done, and the present one.
func (d *drawing) phases() section {
	s := d.status
	all := course(d.plan)
	came := func(to workflows.Phase) bool {
		return s.Phase == to || slices.ContainsFunc(s.Timeline, func(m workflows.Moment) bool { return m.Phase == to })
	}
	if came(workflows.PhaseContain) { // an emergency, whatever was before it
		all = []workflows.Phase{workflows.PhaseContain, workflows.PhaseRecord}
	}
	furthest := 0
	ahead := func(p workflows.Phase) int { // the next one of that name
		if n := slices.Index(all[furthest:], p); n >= 0 {
			return furthest + n
		}
		return slices.Index(all, p)
	}
	for _, m := range s.Timeline {
		if m.Phase != workflows.PhaseRecord { // it comes after every end
			furthest = max(furthest, ahead(m.Phase))
		}
	}
	at := ahead(s.Phase)
	turned := came(workflows.PhaseRollback) && !came(workflows.PhaseContain)
	ended := s.Report != nil
	switch {
	case turned:
		all = append(slices.Clone(all[:furthest+1]), workflows.PhaseRollback, workflows.PhaseRecord)
		at = map[workflows.Phase]int{workflows.PhaseRollback: furthest + 1, workflows.PhaseRecord: furthest + 2, workflows.PhaseEnded: furthest + 3}[s.Phase]
	case ended && (s.Report.Outcome == workflows.Completed || s.Report.Outcome == workflows.CompletedWithDebt):
		at = len(all)
	case ended:
		at = furthest
	}
	var rows []string
	line, width := "", 0
	for n, phase := range all {
		mark, i, what := "○ ", faint, plain(string(phase))
		switch {
		case turned && n == furthest, ended && !turned && n == at:
			mark, i = "✗ ", bad
		case n < at:
			mark, i = "✓ ", good
		case n == at:
			mark, i, what = "▶ ", strong, strings.ToUpper(what)
		}
		if wide := ansi.StringWidth(mark + what); width > 0 && width+2+wide > d.width {
			rows = append(rows, line)
			line, width = "", 0
		}
		if width > 0 {
			line, width = line+"  ", width+2
		}
		line, width = line+d.in(i, mark+what), width+ansi.StringWidth(mark+what)
	}
	return section{append(rows, line)}
}
