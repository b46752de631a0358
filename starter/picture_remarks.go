package main

import (
	"fmt"
	"strings"

	"github.com/charmbracelet/x/ansi"

	"github.com/keyturn/keyturn/workflows"
)

// remarks are the evidence, why there is no way back, notices, and what the report adds.
func (d *drawing) remarks() section {
	s := d.status
	var rows []string
	if s.Evidence != nil && s.Report == nil && s.Gate == nil && s.Phase != workflows.PhaseEvidence { // else it is said above
		rows = append(rows, d.wrapped("evidence", s.Evidence.Describe(), nil, 3)...)
	}
	rows = append(rows, d.wrapped("no way back", s.NoWayBack, alert, 2)...)
	add := func(label, value string) {
		if ansi.StringWidth(label) < d.label {
			rows = append(rows, d.wrapped(label, value, nil, 4)...)
		} else {
			rows = append(rows, d.wrapped("because", value+" ("+label+")", nil, 4)...)
		}
	}
	if s.Report != nil {
		for _, row := range reportRows(*s.Report) {
			label := plain(row[0])
			if label == "took" || len(s.Keys) > 0 && strings.HasSuffix(label, " key") {
				continue // said above
			}
			add(label, row[1])
		}
	}
	if s.Ended != nil {
		for _, row := range s.Ended.rows() {
			add(plain(row[0]), row[1])
		}
	}
	for n, notice := range s.Notices {
		if n == maxNotices {
			rows = append(rows, d.row("", fmt.Sprintf("and %d more notes", len(s.Notices)-n)))
			break
		}
		rows = append(rows, d.wrapped("note", notice, nil, 2)...)
	}
	if s.Ended != nil {
		return section{rows}
	}
	return section{rows, rows[:min(len(rows), 2)]}
}

// timeline has what happened last.
func (d *drawing) timeline() section {
	all := d.status.Timeline
	if len(all) == 0 {
		return section{}
	}
	var rows []string
	for _, m := range all[max(0, len(all)-maxMoments):] {
		at := d.clock(m.At)
		if !d.today(m.At.In(d.zone)) {
			at = m.At.In(d.zone).Format("01-02 15:04")
		}
		rows = append(rows, d.row("  "+at, d.in(faint, d.pad(plain(string(m.Phase)), len("disable-soak")+2))+plain(m.What)))
	}
	last := func(n int) []string { return append([]string{"timeline"}, rows[max(0, len(rows)-n):]...) }
	return section{last(maxMoments), last(5), last(3), last(1), nil}
}
