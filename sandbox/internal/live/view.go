// Package live shows a rotation of the sandbox while it runs: on a terminal as one view that changes in
// place, elsewhere as a line for each thing that happens.
package live

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/keyturn/keyturn/internal/outside"
	"github.com/keyturn/keyturn/sandbox/internal/demo"
	"github.com/keyturn/keyturn/workflows"
)

// State is all that is shown, at one moment.
type State struct {
	// At is when the state was taken.
	At time.Time
	// Status is what the rotation says of itself; zero before it has begun.
	Status workflows.Status
	// Traffic is what the consumers and the gateway counted.
	Traffic demo.Snapshot
	// Say is what to know or to do now, besides.
	Say []string
	// RunURL is the run in the Web UI.
	RunURL string
	// Approve are the ways to approve, one a line, shown while a gate is open.
	Approve []string
	// Folder has the sandbox's state.
	Folder string
}

// phases are those of a rotation that goes well.
var phases = []workflows.Phase{
	workflows.PhaseInspect, workflows.PhaseIssue, workflows.PhaseDeliver, workflows.PhasePromote,
	workflows.PhaseOverlap, workflows.PhaseEvidence, workflows.PhaseRevokeGate, workflows.PhaseDisable, workflows.PhaseDisableSoak,
	workflows.PhaseRevoke, workflows.PhaseRecord,
}

// moments is how much of the timeline is shown.
const moments = 5

// line is one line of the view. Strong ones matter most, bad ones should not be. What people copy is whole,
// whatever its length.
type line struct {
	text               string
	strong, bad, whole bool
}

// View is the state as lines. Those that say what to copy are whole, all others no longer than width
// characters. Nothing in them but colours, if these are wanted, is obeyed by a terminal.
func View(s State, width int, colors bool) []string {
	var shown []string
	for _, l := range lines(s) {
		text := outside.Text(l.text, longest)
		if !l.whole {
			text = cut(text, width)
		}
		switch {
		case colors && l.bad:
			text = "\x1b[1;31m" + text + "\x1b[0m"
		case colors && l.strong:
			text = "\x1b[1m" + text + "\x1b[0m"
		}
		shown = append(shown, text)
	}
	return shown
}

func lines(s State) []line {
	var list []line
	add := func(format string, args ...any) { list = append(list, line{text: fmt.Sprintf(format, args...)}) }
	field := func(name, value string) {
		if value != "" {
			add("  %-13s %s", name, value)
		}
	}
	st := s.Status
	list = append(list, headline(st))
	switch {
	case st.Report != nil:
		add("  %s", st.Report.Message)
	case st.Phase != "":
		add("  %s", st.Doing)
	}
	for _, text := range s.Say {
		list = append(list, line{text: "  " + text, whole: true})
	}
	if st.Gate != nil {
		add("")
		list = append(list, line{text: fmt.Sprintf("The %s gate is open: %s. Approve with", st.Gate.Gate, st.Gate.Progress(time.Now())), strong: true})
		for _, way := range s.Approve {
			list = append(list, line{text: "  " + way, whole: true})
		}
	}
	add("")
	copied := func(name, value string) {
		if value != "" {
			list = append(list, line{text: fmt.Sprintf("  %-13s %s", name, value), whole: true})
		}
	}
	copied("Web UI", s.RunURL)
	field("waits for", st.WaitsFor)
	field("unblocked by", st.UnblockedBy)
	if left := st.Until.Sub(s.At).Round(time.Second); !st.Until.IsZero() && left > 0 {
		format := time.TimeOnly
		if left > 12*time.Hour {
			format = time.DateTime
		}
		field("until", fmt.Sprintf("%s (%s left)", st.Until.Local().Format(format), left))
	}
	field("retiring key", st.Retiring.KeyID)
	field("incoming key", st.Incoming.KeyID)
	field("no way back", st.NoWayBack)
	for _, n := range st.Notices {
		field("note", n)
	}
	add("")
	list = append(list, line{
		text:   fmt.Sprintf("requests sent %d, refused %d, failed %d", s.Traffic.Sent, s.Traffic.Refused, s.Traffic.Failed),
		strong: true, bad: s.Traffic.Refused+s.Traffic.Failed > 0,
	})
	for _, c := range s.Traffic.Consumers {
		list = append(list, line{text: fmt.Sprintf("  %-16s on %-33s sent %d, refused %d", c.Name, keyOf(st, c), c.Sent, c.Refused+c.Failed), bad: c.Refused+c.Failed > 0})
	}
	add("")
	for _, m := range st.Timeline[max(0, len(st.Timeline)-moments):] {
		add("  %s %s", m.At.Local().Format(time.TimeOnly), m.What)
	}
	add("")
	copied("state in", s.Folder)
	return list
}

// headline says where the rotation is.
func headline(st workflows.Status) line {
	if st.Report != nil {
		return line{text: st.Credential + ": " + string(st.Report.Outcome), strong: true, bad: st.Report.Outcome != workflows.Completed}
	}
	if st.Phase == "" {
		return line{text: demo.Credential + ": about to begin", strong: true}
	}
	text := st.Credential + ": " + string(st.Phase)
	if i := slices.Index(phases, st.Phase); i >= 0 {
		text += fmt.Sprintf(" (%d of %d)", i+1, len(phases))
	}
	return line{text: text, strong: true, bad: st.Phase == workflows.PhaseRollback || st.Phase == workflows.PhaseContain}
}

// keyOf says which key a consumer uses, and which of the two that is.
func keyOf(st workflows.Status, c demo.Counts) string {
	switch {
	case st.Incoming.Is(c.Key):
		return "incoming key " + st.Incoming.KeyID
	case st.Retiring.Is(c.Key):
		return "retiring key " + st.Retiring.KeyID
	}
	return "key " + cmp.Or(c.KeyID, c.Key)
}

// longest bounds, in bytes, what is shown of a text.
const longest = 4096

func cut(text string, width int) string {
	if runes := []rune(text); len(runes) > width {
		return string(runes[:width-1]) + "…"
	}
	return text
}
