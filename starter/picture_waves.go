package main

import (
	"fmt"
	"slices"

	"github.com/keyturn/keyturn/workflows"
)

// waves has a bar for each wave: how many of its instances have the incoming key.
func (d *drawing) waves() section {
	all := d.status.Waves
	begun := slices.ContainsFunc(all, func(w workflows.WaveStatus) bool { return w.State != "waiting" })
	if len(all) == 0 || d.status.Report != nil && !begun {
		return section{}
	}
	first, last := 0, len(all)
	if last > maxWaves { // those around the one that is going on
		at := slices.IndexFunc(all, func(w workflows.WaveStatus) bool { return w.State != "passed" })
		if at < 0 {
			at = last
		}
		first = min(max(0, at-2), last-maxWaves)
		last = first + maxWaves
	}
	widest := 0
	for _, w := range all {
		widest = max(widest, len(fmt.Sprint(len(w.Instances))))
	}
	rows := []string{"waves"}
	if first > 0 {
		rows = append(rows, d.in(faint, fmt.Sprintf("  %d passed before", first)))
	}
	for _, w := range all[first:last] {
		of, done, i := len(w.Instances), 0, going
		switch w.State {
		case "passed":
			done, i = of, good
		case "soaking", "held":
			done = of
		case "delivering":
			done = min(d.delivered, of)
		}
		state, count := plain(w.State), fmt.Sprint(done)
		switch w.State {
		case "failed": // by how many is in the reason
			state, count = d.in(bad, state), "?"
		case "turned-back":
			state = d.in(bad, state)
		case "held":
			state = d.in(alert, state)
		case "waiting":
			state = d.in(faint, state)
		}
		rows = append(rows, d.row("  "+plain(w.Name), d.bar(float64(done), float64(of), d.progress(), i)+fmt.Sprintf("  %*s/%-*d  %s", widest, count, widest, of, state)))
	}
	if n := len(all) - last; n > 0 {
		rows = append(rows, d.in(faint, fmt.Sprintf("  %d more to come", n)))
	}
	return section{rows}
}
