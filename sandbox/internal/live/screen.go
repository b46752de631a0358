package live

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/keyturn/keyturn/internal/outside"
)

// Screen shows states one after the other: on a terminal on its alternate screen, so that what was there before comes back. It is for one
// goroutine.
type Screen struct {
	out io.Writer
	// size of the terminal; nil when the output is none.
	size   func() (width, height int)
	colors bool
	// alternate: the terminal shows that screen.
	alternate bool
	last      State
}

// What a terminal obeys.
const (
	enterAlternate = "\x1b[?1049h"
	leaveAlternate = "\x1b[?1049l"
	clear          = "\x1b[H\x1b[J"
)

// NewScreen shows states on out, in place when that is a terminal.
func NewScreen(out io.Writer) *Screen {
	s := &Screen{out: out}
	f, ok := out.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) || os.Getenv("TERM") == "dumb" {
		return s
	}
	s.colors = os.Getenv("NO_COLOR") == ""
	s.size = func() (int, int) {
		width, height, err := term.GetSize(int(f.Fd()))
		if err != nil || width < 1 || height < 2 {
			return 80, 24
		}
		return width, height
	}
	return s
}

// Draw shows the state instead of the last one. What cannot be written is lost: the view is for people.
func (s *Screen) Draw(now State) {
	before := s.last
	s.last = now
	if s.size == nil {
		for _, text := range Changes(before, now) {
			fmt.Fprintln(s.out, text)
		}
		return
	}
	var b strings.Builder
	if !s.alternate {
		b.WriteString(enterAlternate)
		s.alternate = true
	}
	b.WriteString(clear)
	width, height := s.size()
	drawn := 0
	for _, text := range View(now, width, s.colors) {
		if drawn += rows(text, width); drawn >= height {
			break // a view that scrolled would lose its beginning, which matters most
		}
		b.WriteString(text + "\n")
	}
	fmt.Fprint(s.out, b.String()) // at once, so that nothing flickers
}

// Leave gives the terminal back, with the last view on it. Nothing of that is lost, however low the terminal is.
func (s *Screen) Leave() {
	if !s.alternate {
		return
	}
	s.alternate = false
	width, _ := s.size()
	fmt.Fprint(s.out, leaveAlternate+strings.Join(View(s.last, width, s.colors), "\n")+"\n")
}

// rows is how many a line takes that the terminal wraps. Lines with colours never are.
func rows(text string, width int) int {
	if strings.HasPrefix(text, "\x1b") {
		return 1
	}
	return max(1, (utf8.RuneCountInString(text)+width-1)/width)
}

// Print writes lines that stay.
func (s *Screen) Print(text ...string) {
	s.Leave()
	for _, l := range text {
		fmt.Fprintln(s.out, l)
	}
}

// Changes tells what is new in a state, a line for each thing, with the time. Counts that grow are not
// new, but refused requests are.
func Changes(before, now State) []string {
	var list []string
	add := func(format string, args ...any) {
		list = append(list, now.At.Local().Format(time.TimeOnly)+" "+outside.Text(fmt.Sprintf(format, args...), outside.MaxText))
	}
	was, is := before.Status, now.Status
	if is.Phase != was.Phase && is.Report == nil || is.Doing != was.Doing && is.Report == nil {
		add("%s: %s", is.Phase, is.Doing)
	}
	if before.RunURL != now.RunURL && now.RunURL != "" {
		add("see it in the Web UI: %s", now.RunURL)
	}
	if !slices.Equal(before.Say, now.Say) {
		for _, text := range now.Say {
			add("%s", text)
		}
	}
	if is.WaitsFor != "" && (is.Phase != was.Phase || shape(is.WaitsFor) != shape(was.WaitsFor)) {
		add("%s: waits for %s; unblocked by %s", is.Phase, is.WaitsFor, is.UnblockedBy)
	}
	if is.Gate != nil && was.Gate == nil {
		for _, way := range now.Approve {
			add("%s: approve with %s", is.Phase, way)
		}
	}
	known := map[string]string{}
	for _, c := range before.Traffic.Consumers {
		known[c.Name] = c.Key
	}
	for _, c := range now.Traffic.Consumers {
		if known[c.Name] != c.Key {
			add("%s is on %s", c.Name, keyOf(is, c))
		}
	}
	if lost, had := now.Traffic.Refused+now.Traffic.Failed, before.Traffic.Refused+before.Traffic.Failed; lost > had {
		add("REQUESTS WERE LOST: %d refused, %d failed, of %d", now.Traffic.Refused, now.Traffic.Failed, now.Traffic.Sent)
	}
	for _, n := range is.Notices[min(len(was.Notices), len(is.Notices)):] {
		add("note: %s", n)
	}
	if is.Report != nil && was.Report == nil {
		add("%s: %s", is.Report.Outcome, is.Report.Message)
		add("requests sent %d, refused %d, failed %d", now.Traffic.Sent, now.Traffic.Refused, now.Traffic.Failed)
	}
	return list
}

// shape is a text without its numbers: one that only counts down is the same text.
func shape(text string) string {
	return strings.Map(func(r rune) rune {
		if '0' <= r && r <= '9' {
			return -1
		}
		return r
	}, text)
}
