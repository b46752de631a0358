package main

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/charmbracelet/x/ansi"
	"github.com/guptarohit/asciigraph"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/outside"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/workflows"
)

// picture is what a watch knows of a rotation.
type picture struct {
	status workflows.Status
	// plan is what the rotation does, spec what it follows; zero while they are not known.
	plan policy.Plan
	spec inventory.Credential
	// errors are the readings of the error budget, oldest first.
	errors []reading
	// delivered is how many instances of the wave that is delivered to have the incoming key.
	delivered int
	// heard is when somebody answered last, silent why nobody does now; empty while somebody does.
	heard  time.Time
	silent string
}

// paper is what a picture is drawn on.
type paper struct {
	// width and height bound it; a height of zero does not.
	width, height int
	// ascii: the terminal shows nothing else. colors: it shows colours.
	ascii, colors bool
	zone          *time.Location
}

// ink is how a piece of the picture is drawn when there are colours.
type ink ansi.Style

var (
	strong = ink(ansi.NewStyle(ansi.AttrBold))
	faint  = ink(ansi.NewStyle(ansi.AttrFaint))
	good   = ink(ansi.NewStyle(ansi.AttrGreenForegroundColor))
	going  = ink(ansi.NewStyle(ansi.AttrCyanForegroundColor))
	alert  = ink(ansi.NewStyle(ansi.AttrYellowForegroundColor))
	bad    = ink(ansi.NewStyle(ansi.AttrBold, ansi.AttrRedForegroundColor))
)

// drawing is a picture that is being drawn.
type drawing struct {
	picture
	paper
	now time.Time
	// label is how wide the column of labels is.
	label int
}

// section is rows of the picture that belong together, in variants: the fullest first, and shorter ones for low paper.
type section [][]string

func (s section) rows() []string {
	if len(s) == 0 {
		return nil
	}
	return s[0]
}

// Bounds of what is drawn.
const (
	widest       = 200
	narrowest    = 40
	maxMoments   = 8 // of the timeline
	maxWaves     = 8
	maxNotices   = 6
	chartHeight  = 3
	progressBar  = 32
	widestLabels = 28
)

// draw is the picture as text, each line no wider than the paper, with nothing in it but colours that a terminal obeys.
func (p picture) draw(now time.Time, on paper) string {
	on.width = min(max(on.width, narrowest), widest)
	d := &drawing{picture: p, paper: on, now: now, label: len("unblocked by")}
	for _, w := range p.status.Waves {
		d.label = max(d.label, min(ansi.StringWidth(plain(w.Name))+2, widestLabels, on.width/3))
	}
	d.label += 2
	rows := d.fit(d.headline(), d.phases(), d.waiting(), d.gate(), d.waves(), d.keys(), d.health(), d.remarks(), d.timeline())
	for i, row := range rows {
		more := "…"
		if on.ascii {
			row, more = toASCII(row), toASCII(more)
		}
		rows[i] = strings.TrimRight(ansi.Truncate(row, on.width, more), " ")
	}
	return strings.Join(rows, "\n") + "\n"
}

// fit puts the sections together, an empty line between them. On low paper the shorter variants are taken, those of the last
// sections first, then there are no empty lines; what is too much even so is cut.
func (d *drawing) fit(sections ...section) []string {
	for airy := true; ; {
		var rows []string
		for _, s := range sections {
			if airy && len(s.rows()) > 0 && len(rows) > 0 {
				rows = append(rows, "")
			}
			rows = append(rows, s.rows()...)
		}
		if d.height == 0 || len(rows) <= d.height {
			return rows
		}
		shorter, most := -1, 2
		for i, s := range sections {
			if len(s) >= most {
				shorter, most = i, len(s)
			}
		}
		switch {
		case shorter >= 0:
			sections[shorter] = sections[shorter][1:]
		case airy:
			airy = false
		default:
			return append(rows[:d.height-1], "…")
		}
	}
}

// in draws text with an ink.
func (d *drawing) in(i ink, text string) string {
	if !d.colors || text == "" {
		return text
	}
	return ansi.Style(i).Styled(text)
}

// row is a label and what belongs to it.
func (d *drawing) row(label, value string) string { return d.pad(label, d.label) + value }

// pad fills or cuts a text to a width. It may have colours in it.
func (d *drawing) pad(text string, width int) string {
	text = ansi.Truncate(text, width-1, "…")
	return text + strings.Repeat(" ", max(0, width-ansi.StringWidth(text)))
}

// wrapped is a label and a text from outside on at most so many rows.
func (d *drawing) wrapped(label, text string, i ink, most int) []string {
	if text == "" {
		return nil
	}
	indent := d.label
	if label == "" {
		indent = 0
	}
	lines := strings.Split(ansi.Wrap(outside.Text(text, 4*outside.MaxText), d.width-indent, ""), "\n")
	if len(lines) > most {
		lines = lines[:most]
		lines[most-1] = ansi.Truncate(lines[most-1], d.width-indent-1, "") + "…"
	}
	for n, line := range lines {
		lines[n] = d.in(i, line)
		switch {
		case label != "" && n == 0:
			lines[n] = d.row(label, lines[n])
		case label != "":
			lines[n] = d.row("", lines[n])
		}
	}
	return lines
}

// clock is a time of today, or with its date.
func (d *drawing) clock(at time.Time) string {
	if at = at.In(d.zone); d.today(at) {
		return at.Format(time.TimeOnly)
	}
	return at.Format("2006-01-02 15:04")
}

func (d *drawing) today(at time.Time) bool {
	return at.Format(time.DateOnly) == d.now.In(d.zone).Format(time.DateOnly)
}

// span is a length of time in the two units that matter.
func span(t time.Duration) string {
	t = t.Round(time.Second)
	days, hours, minutes, seconds := int(t.Hours())/24, int(t.Hours())%24, int(t.Minutes())%60, int(t.Seconds())%60
	switch {
	case days > 0:
		return fmt.Sprintf("%dd%02dh", days, hours)
	case hours > 0:
		return fmt.Sprintf("%dh%02dm", hours, minutes)
	case minutes > 0:
		return fmt.Sprintf("%dm%02ds", minutes, seconds)
	}
	return fmt.Sprintf("%ds", seconds)
}

// bar shows a part of a whole.
func (d *drawing) bar(part, whole float64, width int, i ink) string {
	full := 0
	if whole > 0 {
		full = int(math.Round(min(max(part/whole, 0), 1) * float64(width)))
	}
	return d.in(i, strings.Repeat("█", full)) + d.in(faint, strings.Repeat("░", width-full))
}

// progress is how wide bars are on this paper.
func (d *drawing) progress() int {
	const beside = len("  59d23h left, until 2006-01-02 15:04")
	return max(8, min(progressBar, d.width-d.label-beside))
}

// headline says which rotation it is, and what is going on.
func (d *drawing) headline() section {
	s := d.status
	state, i, since := string(s.Phase), going, d.started()
	if s.Report != nil {
		state = string(s.Report.Outcome)
		i = map[workflows.Outcome]ink{workflows.Completed: good, workflows.CompletedWithDebt: alert, workflows.Superseded: alert}[s.Report.Outcome]
		if i == nil {
			i = bad
		}
	} else if s.Phase == workflows.PhaseRollback {
		i = bad
	}
	head := d.in(strong, plain(s.Credential)) + "  " + d.in(i, plain(state))
	switch {
	case s.Report != nil:
		head += "  in " + span(s.Report.EndedAt.Sub(s.Report.StartedAt))
	case !since.IsZero():
		head += "  for " + span(d.now.Sub(s.Since)) + ", " + span(d.now.Sub(since)) + " in all"
	}
	owner := plain(s.Owner)
	if gap := d.width - ansi.StringWidth(head) - ansi.StringWidth(owner); owner != "" && gap >= 2 {
		head += strings.Repeat(" ", gap) + d.in(faint, owner)
	}
	rows := []string{head}
	if d.silent != "" {
		rows = append(rows, d.wrapped("", "Nobody has answered since "+d.clock(d.heard)+": "+d.silent+". This is how it was then.", bad, 3)...)
	}
	doing := s.Doing
	if s.Report != nil {
		doing = s.Report.Message
	}
	return section{append(rows, d.wrapped("", doing, nil, 4)...)}
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
	turned := s.Phase == workflows.PhaseRollback || slices.ContainsFunc(s.Timeline, func(m workflows.Moment) bool { return m.Phase == workflows.PhaseRollback })
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

// timed are the waits that end by themselves.
var timed = map[workflows.Phase]string{
	workflows.PhaseOverlap: "overlap", workflows.PhaseDeliver: "wave soak", workflows.PhaseDisableSoak: "soak",
	workflows.PhaseSignoff: "gate open", workflows.PhaseRevokeGate: "gate open",
}

// waiting says what it takes to go on, who can do that, and how much time is left.
func (d *drawing) waiting() section {
	s := d.status
	if s.Report != nil {
		return section{}
	}
	rows := slices.Concat(d.wrapped("waits for", s.WaitsFor, nil, 4), d.wrapped("unblocked by", s.UnblockedBy, nil, 2))
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
	return section{rows}
}

// gate shows the open gate with a mark for each approval that it needs.
func (d *drawing) gate() section {
	g := d.status.Gate
	if g == nil {
		return section{}
	}
	var by []string
	for _, v := range g.Approvals {
		by = append(by, v.Person())
	}
	has, needs := min(len(g.Approvals), 20), min(max(g.Needs.Count, 0), 20)
	marks := d.in(good, strings.Repeat("■ ", has)) + d.in(alert, strings.Repeat("□ ", max(0, needs-has)))
	text := fmt.Sprintf("%s%d of %d approvals", marks, len(g.Approvals), g.Needs.Count)
	if len(by) > 0 {
		text += ": " + plain(strings.Join(by, ", "))
	}
	rows := []string{d.row(plain(string(g.Gate))+" gate", text)}
	return section{append(rows, d.wrapped("approve with", fmt.Sprintf("keyturn approve %s --gate %s", d.status.Credential, g.Gate), strong, 3)...)}
}

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

// stroke is how a key's line is drawn while it is in a state.
type stroke struct {
	line string
	ink  ink
}

var strokes = map[workflows.KeyState]stroke{
	workflows.KeyPending:   {"┄", alert},
	workflows.KeyCurrent:   {"━", good},
	workflows.KeyPrevious:  {"─", going},
	workflows.KeyDisabled:  {"╌", alert},
	workflows.KeyDestroyed: {"×", bad},
}

// legend is the order in which strokes are explained.
var legend = []workflows.KeyState{workflows.KeyPending, workflows.KeyCurrent, workflows.KeyPrevious, workflows.KeyDisabled, workflows.KeyDestroyed}

// keys draws the lines of the two keys' lives, below each other on one scale of time, which ends now or when the wait that
// is going on will.
func (d *drawing) keys() section {
	s := d.status
	if len(s.Keys) == 0 {
		return section{slices.Concat(d.wrapped("retiring key", nameOf(s.Retiring), nil, 1), d.wrapped("incoming key", nameOf(s.Incoming), nil, 1))}
	}
	names := map[workflows.KeyRole]string{workflows.RoleRetiring: plain(s.Retiring.KeyID), workflows.RoleIncoming: plain(s.Incoming.KeyID)}
	tail := 0 // what stands behind a line
	for _, name := range names {
		tail = max(tail, ansi.StringWidth(name))
	}
	const state = len("destroyed")
	tail = min(tail, (d.width-d.label)/3)
	wide := max(4, d.width-d.label-tail-state-4)
	begin, now, end := d.started(), d.now, d.now
	if s.Report != nil {
		now, end = s.Report.EndedAt, s.Report.EndedAt
	} else if s.Until.After(now) && s.Gate == nil { // what a gate waits for may come at any time
		end = s.Until
	}
	if first := s.Keys[0].At; first.Before(begin) {
		begin = first
	}
	at := scale(s.Keys, begin, end, wide)
	present := at(now)

	rows := []string{d.row("keys", d.ruler(begin, now, end, present, wide))}
	used := map[workflows.KeyState]bool{}
	for _, role := range []workflows.KeyRole{workflows.RoleRetiring, workflows.RoleIncoming} {
		var is workflows.KeyState
		line, from := "", 0
		to := func(column int) {
			if n := column - from; n > 0 {
				line, from, used[is] = line+d.in(strokes[is].ink, strings.Repeat(cmp.Or(strokes[is].line, " "), n)), column, true
			}
		}
		for _, m := range s.Keys {
			if m.Key == role {
				to(at(m.At))
				is = m.State
			}
		}
		switch ink := strokes[is].ink; is {
		case "":
			continue
		case workflows.KeyDestroyed:
			line += d.in(ink, strokes[is].line) + strings.Repeat(" ", max(0, wide-1-from))
			used[is] = true
		default:
			to(present)
			line += d.in(ink, "▶") + d.in(faint, strings.Repeat("·", max(0, wide-1-present)))
		}
		rows = append(rows, d.row("  "+string(role), line+"  "+d.in(strokes[is].ink, d.pad(plain(string(is)), state+1))+" "+ansi.Truncate(names[role], tail, "…")))
	}
	var explained []string
	for _, st := range legend {
		if used[st] {
			explained = append(explained, d.in(strokes[st].ink, strokes[st].line)+" "+string(st))
		}
	}
	rows = append(rows, d.row("", d.in(faint, strings.Join(explained, "  "))))
	return section{rows}
}

func nameOf(k key.Ref) string {
	if k.IsZero() {
		return ""
	}
	return keyName(k)
}

// scale tells the column of a time. Changes that are close to each other get columns of their own while there are any.
func scale(keys []workflows.KeyMoment, begin, end time.Time, wide int) func(time.Time) int {
	linear := func(t time.Time) int {
		if !end.After(begin) || !t.After(begin) {
			return 0
		}
		return min(int(float64(wide-1)*float64(t.Sub(begin))/float64(end.Sub(begin))), wide-1)
	}
	columns := map[time.Time]int{}
	next := 0
	for _, m := range slices.SortedStableFunc(slices.Values(keys), func(a, b workflows.KeyMoment) int { return a.At.Compare(b.At) }) {
		if _, known := columns[m.At]; !known {
			columns[m.At] = min(max(linear(m.At), next), wide-1)
			next = columns[m.At] + 2
		}
	}
	return func(t time.Time) int {
		if c, known := columns[t]; known {
			return c
		}
		c := linear(t)
		for at, column := range columns { // never before what happened earlier
			if !at.After(t) {
				c = max(c, min(column+1, wide-1))
			}
		}
		return c
	}
}

// ruler has the times of the lines below it.
func (d *drawing) ruler(begin, now, end time.Time, present, wide int) string {
	left, right := d.clock(begin), d.clock(end)
	middle := "now " + d.clock(now)
	if d.status.Report != nil {
		middle = "ended " + d.clock(now)
	}
	middle += "▼"
	line := []rune(strings.Repeat(" ", wide))
	put := func(text string, from int) bool {
		runes := []rune(text)
		if from < 0 || from+len(runes) > len(line) || strings.TrimSpace(string(line[max(0, from-2):min(len(line), from+len(runes)+2)])) != "" {
			return false
		}
		copy(line[from:], runes)
		return true
	}
	// The mark of now stands over it, its time before or behind it.
	if !put(middle, present+1-len([]rune(middle))) {
		put("▼"+strings.TrimSuffix(middle, "▼"), present)
	}
	put(left, 0)
	if end.After(now) {
		put(right, wide-len([]rune(right)))
	}
	return d.in(faint, strings.TrimRight(string(line), " "))
}

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

// remarks are the evidence, why there is no way back, notices, and what the report adds.
func (d *drawing) remarks() section {
	s := d.status
	var rows []string
	if s.Evidence != nil && s.Report == nil && s.Gate == nil && s.Phase != workflows.PhaseEvidence { // else it is said above
		rows = append(rows, d.wrapped("evidence", s.Evidence.Describe(), nil, 3)...)
	}
	rows = append(rows, d.wrapped("no way back", s.NoWayBack, alert, 2)...)
	if s.Report != nil {
		for _, row := range reportRows(*s.Report) {
			switch label := plain(row[0]); {
			case label == "took", len(s.Keys) > 0 && strings.HasSuffix(label, " key"): // said above
			case ansi.StringWidth(label) < d.label:
				rows = append(rows, d.wrapped(label, row[1], nil, 4)...)
			default:
				rows = append(rows, d.wrapped("because", row[1]+" ("+label+")", nil, 4)...)
			}
		}
	}
	for n, notice := range s.Notices {
		if n == maxNotices {
			rows = append(rows, d.row("", fmt.Sprintf("and %d more notes", len(s.Notices)-n)))
			break
		}
		rows = append(rows, d.wrapped("note", notice, nil, 2)...)
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

// inASCII is how the picture is drawn where nothing else is shown; whatever else comes from outside is a question mark.
var inASCII = map[rune]rune{
	'█': '#', '░': '.', '✓': '+', '✗': 'x', '▶': '>', '○': 'o', '■': '#', '□': '_', '…': '~', '≥': '>', '▼': 'v', '·': '.', '│': '|',
	'━': '=', '─': '-', '┄': ':', '╌': '~', '×': 'x', '┤': '|', '┼': '+', '╭': '.', '╮': '.', '╰': '\'', '╯': '\'', '╴': '-', '╶': '-',
}

func toASCII(row string) string {
	return strings.Map(func(r rune) rune {
		if drawn, known := inASCII[r]; known {
			return drawn
		}
		if r > 0x7e {
			return '?'
		}
		return r
	}, row)
}
