package main

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/charmbracelet/x/ansi"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/outside"
	"github.com/keyturn/keyturn/internal/policy"
)

// picture is what a watch knows of a rotation.
type picture struct {
	status standing
	// plan is what the rotation does, spec what it follows; zero while they are not known.
	plan policy.Plan
	spec inventory.Credential
	// errors are the readings of the error budget, oldest first.
	errors []reading
	// delivered is how many instances of the wave that is delivered to have the incoming key.
	delivered int
	// heard is when somebody answered last, zero when nobody did yet; silent why nobody does now, empty while somebody does.
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
	lines := strings.Split(ansi.Wrap(outside.Line(text, 4*outside.MaxText), d.width-indent, ""), "\n")
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
