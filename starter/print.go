package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/outside"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/workflows"
)

// plain is text from outside as a terminal may have it, on one line.
func plain(s string) string { return outside.Line(s, outside.MaxText) }

// show prints a result: for programs as JSON or YAML of the same shape, for people by the function.
func (t *terminal) show(result any, table func(io.Writer)) error {
	switch t.output {
	case "json", "yaml":
		text, err := json.MarshalIndent(withLists(result), "", "  ")
		if err == nil && t.output == "yaml" {
			text, err = yaml.JSONToYAML(text)
		}
		if err != nil {
			return fmt.Errorf("writing output: %w", err)
		}
		_, err = fmt.Fprintln(t.out, strings.TrimRight(string(text), "\n"))
		return err
	}
	if !t.quiet {
		table(t.out)
	}
	return nil
}

// fail prints an error, for programs structured and on the standard output.
func (t *terminal) fail(text string, code int) {
	if t.output == "json" || t.output == "yaml" {
		line, _ := json.Marshal(map[string]any{"error": text, "exit": code})
		if t.output == "yaml" {
			line, _ = yaml.JSONToYAML(line)
		}
		fmt.Fprintln(t.out, strings.TrimRight(string(line), "\n"))
		return
	}
	for _, line := range strings.Split(text, "\n") {
		fmt.Fprintln(t.err, "keyturn: "+outside.Text(line, 4*outside.MaxText))
	}
}

// advise tells people of what is no error and worth a thought.
func (t *terminal) advise(text string) {
	if t.output == "table" && !t.quiet {
		fmt.Fprintln(t.err, "advice: "+outside.Text(text, 4*outside.MaxText))
	}
}

// warn tells at once of what keeps a command from its end: for programs as a line of JSON, on the standard error.
func (t *terminal) warn(text string) {
	switch text = outside.Text(text, 4*outside.MaxText); {
	case t.quiet:
	case t.output == "table":
		fmt.Fprintln(t.err, "warning: "+text)
	default:
		line, _ := json.Marshal(map[string]string{"warning": text})
		fmt.Fprintln(t.err, string(line))
	}
}

// bold marks what matters most, on a person's terminal.
func (t *terminal) bold(s string) string {
	if !t.colored() {
		return s
	}
	return "\x1b[1m" + s + "\x1b[0m"
}

// columns prints rows with aligned columns; the cells' text may come from outside.
func columns(w io.Writer, rows ...[]string) {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		cells := make([]string, len(row))
		for i, cell := range row {
			cells[i] = plain(cell)
		}
		fmt.Fprintln(table, strings.Join(cells, "\t"))
	}
	_ = table.Flush()
}

func clock(at time.Time) string {
	if at.IsZero() {
		return ""
	}
	return at.Local().Format("2006-01-02 15:04:05 MST")
}

func keyName(k key.Ref) string {
	if k.IsZero() {
		return "none"
	}
	return k.KeyID + " of " + k.Principal
}

func (t *terminal) printPlan(w io.Writer, p policy.Plan) {
	if p.Refused() {
		fmt.Fprintf(w, "%s  A rotation of %s would be refused; nothing was changed.\n\n", t.bold("REFUSED"), plain(p.Credential))
		for _, d := range p.Refusals {
			fmt.Fprintf(w, "  - %s (%s)\n", plain(d.Message), plain(string(d.Reason)))
		}
		fmt.Fprintln(w)
	} else {
		fmt.Fprintf(w, "%s  A rotation of %s may begin; nothing was changed by looking.\n\n", t.bold("ALLOWED"), plain(p.Credential))
	}
	if len(p.Steps) == 0 {
		return // it was refused before anything was looked at
	}
	retiring := "none: this would be the first key"
	if p.Retiring != nil {
		retiring = keyName(*p.Retiring)
	}
	columns(w, []string{"retiring key", retiring}, []string{"takes", p.Takes.String() + ", and the time for approvals"})
	fmt.Fprintln(w)
	rows := [][]string{{"PHASE", "WHAT", "UNDO"}}
	for _, s := range p.Steps {
		undo := s.Undo
		if undo == "" {
			undo = "no way back after this"
		}
		rows = append(rows, []string{s.Phase, s.What, undo})
	}
	columns(w, rows...)
	for _, warning := range p.Warnings {
		fmt.Fprintf(w, "\nnote: %s", plain(warning))
	}
	if len(p.Warnings) > 0 {
		fmt.Fprintln(w)
	}
}

func (t *terminal) printStatus(w io.Writer, s standing) {
	fmt.Fprintf(w, "%s  %s\n", t.bold(plain(s.Credential+": "+string(s.Phase))), plain(s.Doing))
	rows := [][]string{{"since", clock(s.Since)}}
	add := func(name, value string) {
		if value != "" {
			rows = append(rows, []string{name, value})
		}
	}
	if s.Retrying != nil {
		add("failing", s.Retrying.String())
	}
	add("ends", s.onlyEnds())
	add("asked for by", s.Asked())
	add("waits for", s.WaitsFor)
	add("unblocked by", s.UnblockedBy)
	if !s.Until.IsZero() {
		add("until", fmt.Sprintf("%s (%s)", clock(s.Until), remaining(s.Until)))
	}
	add("takes", s.Takes)
	if !s.Soonest.IsZero() {
		add("eta", clock(s.Soonest)+" at the earliest")
	}
	if !s.Retiring.IsZero() {
		add("retiring key", keyName(s.Retiring))
	}
	if !s.Incoming.IsZero() {
		add("incoming key", keyName(s.Incoming))
	}
	for _, wave := range s.Waves {
		add("wave "+wave.Name, wave.Progress()+": "+strings.Join(wave.Instances, ", "))
		for _, one := range wave.Missing() {
			add("", one)
		}
	}
	add("error budget", s.Budget)
	add("last look", s.Watch)
	if s.Evidence != nil {
		add("evidence", s.Evidence.Describe())
	}
	if s.Gate != nil {
		add("gate", fmt.Sprintf("%s: %s", s.Gate.Gate, s.Gate.Progress(time.Now())))
		add("approve with", s.Gate.Command(s.Credential))
		add("or by signal", s.Gate.Signal())
	}
	add("turn back with", s.TurnBack)
	add("no way back", s.NoWayBack)
	for _, n := range s.Notices {
		add("note", n)
	}
	columns(w, rows...)
	if len(s.Timeline) > 0 {
		fmt.Fprintln(w)
		printTimeline(w, s.Timeline)
	}
}

func printTimeline(w io.Writer, timeline []workflows.Moment) {
	var rows [][]string
	for _, m := range timeline {
		rows = append(rows, []string{m.At.Local().Format(time.TimeOnly), string(m.Phase), m.What})
	}
	columns(w, rows...)
}

func remaining(until time.Time) string {
	left := time.Until(until).Round(time.Second)
	if left <= 0 {
		return "due"
	}
	return left.String() + " left"
}

// printReported shows a rotation that has ended: its report, and what the status alone has.
func (t *terminal) printReported(w io.Writer, s standing) {
	t.printReport(w, *s.Report)
	rows := [][]string{{"ended", clock(s.Report.EndedAt)}}
	if ends := s.onlyEnds(); ends != "" {
		rows = append(rows, []string{"was to end", ends})
	}
	if by := s.Asked(); by != "" {
		rows = append(rows, []string{"asked for by", by})
	}
	for _, wave := range s.Waves {
		rows = append(rows, []string{"wave " + wave.Name, wave.Progress() + ": " + strings.Join(wave.Instances, ", ")})
		for _, one := range wave.Missing() {
			rows = append(rows, []string{"", one})
		}
	}
	if s.Evidence != nil {
		rows = append(rows, []string{"evidence", s.Evidence.Describe()})
	}
	for _, n := range s.Notices {
		rows = append(rows, []string{"note", n})
	}
	columns(w, rows...)
	if n := len(s.Timeline); n > 0 {
		fmt.Fprintln(w)
		printTimeline(w, withoutMessage(s.Timeline, *s.Report))
	}
}

// withoutMessage is a timeline whose last line does not repeat the report's message.
func withoutMessage(timeline []workflows.Moment, r workflows.Report) []workflows.Moment {
	timeline = slices.Clone(timeline)
	last := &timeline[len(timeline)-1]
	if strings.HasPrefix(last.What, string(r.Outcome)+": ") {
		last.What = string(r.Outcome)
	}
	return timeline
}

func (t *terminal) printReport(w io.Writer, r workflows.Report) {
	fmt.Fprintf(w, "%s  %s\n", t.bold(plain(r.Credential+": "+string(r.Outcome))), outside.Line(r.Message, 4*outside.MaxText))
	columns(w, reportRows(r)...)
}

// reportRows are the names and values of a report, beside its message.
func reportRows(r workflows.Report) [][]string {
	rows := [][]string{{"took", r.EndedAt.Sub(r.StartedAt).Round(time.Second).String()}}
	if !r.Retiring.IsZero() {
		rows = append(rows, []string{"retiring key", keyName(r.Retiring)})
	}
	if !r.Incoming.IsZero() {
		rows = append(rows, []string{"incoming key", keyName(r.Incoming)})
	}
	if r.Probe != "" {
		rows = append(rows, []string{"probe", r.Probe})
	}
	if !r.RotateBy.IsZero() {
		rows = append(rows, []string{"rotate by", clock(r.RotateBy)})
	}
	if !r.NextRun.IsZero() {
		rows = append(rows, []string{"next run", clock(r.NextRun)})
	}
	for _, d := range r.Debt {
		rows = append(rows, []string{"debt", d.Kind + " " + d.About + ", since " + clock(d.Since)})
	}
	used := workflows.IncidentStatus{Credentials: []workflows.IncidentMember{{Credential: r.Credential, Misuse: r.Misuse}}}
	for _, line := range used.MisuseLines() {
		rows = append(rows, []string{"misuse", line})
	}
	for _, open := range r.Open {
		rows = append(rows, []string{"left open", open})
	}
	for _, d := range r.Refusals {
		said := d.Message
		if len(r.Refusals) == 1 && strings.HasPrefix(r.Message, said) {
			said = "as said above"
		}
		rows = append(rows, []string{string(d.Reason), said})
	}
	return rows
}
