package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/charmbracelet/x/ansi"
	"github.com/guptarohit/asciigraph"
)

// health draws the ratio of errors over time against the budget.
func (d *drawing) health() section {
	b := d.spec.ErrorBudget
	if b == nil || len(d.errors) == 0 {
		return section{}
	}
	last := d.errors[len(d.errors)-1]
	percent := func(r float64) string { return fmt.Sprintf("%.2f%%", 100*r) }
	i, text := good, fmt.Sprintf("%s of %.0f requests, budget %s in %s", percent(last.ratio()), last.total, percent(b.Ratio), b.Window)
	switch {
	case last.total < float64(b.MinTotal):
		i, text = alert, fmt.Sprintf("%.0f of %.0f requests; a ratio needs %d in %s", last.errors, last.total, b.MinTotal, b.Window)
	case last.ratio() > b.Ratio:
		i, text = bad, text+": breached"
	}
	rows := []string{d.row("errors", d.in(i, text))}
	if len(d.errors) < 2 {
		return section{rows}
	}
	// The budget has a row of its own: the highest, or the lowest but one when there was more. What is above them all is
	// drawn in the highest.
	peak := slices.MaxFunc(d.errors, func(a, b reading) int { return cmp.Compare(a.ratio(), b.ratio()) }).ratio()
	top := b.Ratio
	switch {
	case b.Ratio < 1e-9: // none, or one that no chart can show
		top = max(peak, 0.01)
	case peak > b.Ratio:
		top = chartHeight * b.Ratio
	}
	ratios, budget := make([]float64, len(d.errors)), make([]float64, len(d.errors))
	for n, r := range d.errors {
		ratios[n], budget[n] = min(r.ratio(), top), b.Ratio
	}
	dashed := asciigraph.DefaultCharSet
	dashed.Horizontal, dashed.StartCap, dashed.EndCap = "╌", "╌", "╌"
	options := []asciigraph.Option{
		asciigraph.Height(chartHeight), asciigraph.Width(max(10, min(d.width, 120)-d.label-2)),
		asciigraph.LowerBound(0), asciigraph.UpperBound(top),
		asciigraph.SeriesChars(dashed, asciigraph.DefaultCharSet),
		asciigraph.YAxisValueFormatter(func(v float64) string {
			if peak > top && v >= top-top/(2*chartHeight) {
				return "≥" + percent(top)
			}
			return percent(max(v, 0))
		}),
	}
	if d.colors {
		options = append(options, asciigraph.SeriesColors(asciigraph.Red, asciigraph.Green), asciigraph.ColorAbove(asciigraph.Red, b.Ratio))
	}
	chart := strings.Split(asciigraph.PlotMany([][]float64{budget, ratios}, options...), "\n")
	axis := ansi.StringWidth(chart[0][:max(0, strings.IndexAny(chart[0], "┤┼"))])
	for _, row := range chart { // its numbers stand among the labels
		rows = append(rows, strings.Repeat(" ", max(0, d.label-1-axis))+row)
	}
	return section{rows, rows[:1]}
}
