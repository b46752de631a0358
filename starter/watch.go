package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/charmbracelet/x/ansi"
	"github.com/goccy/go-yaml"
	"go.temporal.io/sdk/client"
	"golang.org/x/term"

	"github.com/keyturn/keyturn/workflows"
)

// How often a watched rotation is asked, and its picture drawn again when it or the terminal has changed; and how long
// nobody may answer before a watch that nobody looks at gives up.
const (
	watchEvery   = time.Second
	drawEvery    = 200 * time.Millisecond
	watchPatient = 10 * time.Minute
)

// watch shows the rotation until it ends: as a picture on a terminal, else what is new, line by line or in documents.
func (t *terminal) watch(ctx context.Context, c client.Client, credential string) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	view := t.view()
	defer view.close()
	answers := make(chan answer)
	go ask(ctx, c, credential, answers)
	return follow(ctx, answers, view)
}

// follow shows what the answers bring until the rotation ends, and how it did. While nobody answers it goes on.
func follow(ctx context.Context, answers <-chan answer, v view) error {
	again := time.NewTicker(drawEvery)
	defer again.Stop()
	var p picture
	var begun time.Time
	for {
		select {
		case <-ctx.Done():
			return exit(exitFailed, nil) // whoever looked has seen enough
		case a := <-answers:
			if begun.IsZero() {
				begun = a.at
			}
			switch since := latest(begun, p.heard); {
			case a.err == nil:
				p.take(a)
			case !passes(a.err), !v.forPeople() && a.at.Sub(since) > watchPatient:
				return a.err
			case p.heard.IsZero():
				p.status, p.silent = a.status, a.err.Error()
			default:
				p.silent = a.err.Error()
			}
			if err := v.changed(p); err != nil {
				return err
			}
			switch s := p.status; {
			case s.Report != nil:
				return exit(outcomeCode(s.Report.Outcome), nil)
			case s.Ended != nil:
				return exit(exitFailed, nil)
			}
		case <-again.C:
			if !begun.IsZero() {
				v.redraw(p)
			}
		}
	}
}

// passes tells whether an error may pass while the watch goes on: no worker answers, or no server.
func passes(err error) bool {
	var coded *exitError
	if errors.As(err, &coded) {
		return coded.code == exitTimedOut
	}
	return trouble(err) != ""
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// answer is what was found by asking once.
type answer struct {
	learned
	at     time.Time
	status standing
	err    error
}

// ask sends answers until the context ends.
func ask(ctx context.Context, c client.Client, credential string, answers chan<- answer) {
	var a answer
	for {
		a.err = a.again(ctx, c, credential)
		a.at = time.Now()
		select {
		case <-ctx.Done():
			return
		case answers <- a:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(watchEvery):
		}
	}
}

// again asks for the status, and for what a picture shows beside it. Of that, what cannot be had is not drawn.
func (a *answer) again(ctx context.Context, c client.Client, credential string) (err error) {
	a.status, err = status(ctx, c, credential, untold)
	a.pending = a.status.pending
	if said := trouble(err); said != "" {
		return exit(exitTimedOut, errors.New(said))
	}
	if err != nil || a.status.over() {
		a.status.lookAfterTheEnd(ctx, c, func(string) {}) // a failure is in what is told of the end
		return err
	}
	beside, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	id := workflows.WorkflowID(credential)
	if a.plan.MadeAt.IsZero() && a.status.Phase != workflows.PhaseInspect {
		if value, err := c.QueryWorkflow(beside, id, "", workflows.PlanName); err == nil {
			_ = value.Get(&a.plan)
		}
	}
	if a.spec.Name == "" {
		a.follows = specOf(beside, c, credential)
		if spec, err := a.follows.Peek(); err == nil {
			a.spec = spec.Credential
		}
	}
	a.status.sayKept(beside, c, a.follows)
	return nil
}

// view is where a watch shows what it sees.
type view interface {
	// forPeople tells whether somebody looks at it, who may have patience.
	forPeople() bool
	// changed shows what an answer brought; redraw shows what time and the terminal changed.
	changed(p picture) error
	redraw(p picture)
	close()
}

// view is the one for this output.
func (t *terminal) view() view {
	f, ok := t.out.(*os.File)
	switch {
	case t.output != "table":
		return &documents{terminal: t}
	case t.quiet:
		return &lines{out: io.Discard, terminal: t}
	case ok && t.interactive() && os.Getenv("TERM") != "dumb":
		return &screen{file: f, colors: t.colored(), ascii: !unicodeLocale(os.Getenv)}
	}
	return &lines{out: t.out, terminal: t}
}

// documents is a view for programs: a document for each change.
type documents struct {
	*terminal
	last []byte
}

func (*documents) forPeople() bool { return false }
func (*documents) redraw(picture)  {}
func (*documents) close()          {}

func (v *documents) changed(p picture) error {
	if p.heard.IsZero() {
		return nil
	}
	text, err := json.Marshal(withLists(p.status))
	if err != nil || bytes.Equal(text, v.last) {
		return err
	}
	first := v.last == nil
	v.last = bytes.Clone(text)
	if v.output == "yaml" {
		if text, err = yaml.JSONToYAML(text); err != nil {
			return fmt.Errorf("writing output: %w", err)
		}
		if !first {
			text = append([]byte("---\n"), text...)
		}
	}
	_, err = fmt.Fprintln(v.out, strings.TrimRight(string(text), "\n"))
	return err
}

// lines is a view for logs: a line for whatever is new.
type lines struct {
	*terminal
	out    io.Writer
	last   standing
	silent bool
}

func (*lines) forPeople() bool { return false }
func (*lines) redraw(picture)  {}
func (*lines) close()          {}

func (v *lines) changed(p picture) error {
	s := p.status
	switch silent := p.silent != ""; {
	case silent && !v.silent:
		columns(v.out, []string{clock(time.Now()), "nobody answers", p.silent})
	case v.silent && !silent:
		columns(v.out, []string{clock(time.Now()), "answered again"})
	}
	v.silent = p.silent != ""
	if s.Ended != nil {
		fmt.Fprintln(v.out)
		v.printEnded(v.out, s)
		return nil
	}
	if r := s.Retrying; r != nil && (v.last.Retrying == nil || r.Failure != v.last.Retrying.Failure) {
		columns(v.out, []string{clock(time.Now()), "failing", r.String()})
	}
	if s.Phase != v.last.Phase || s.WaitsFor != v.last.WaitsFor {
		columns(v.out, []string{clock(time.Now()), string(s.Phase), s.Doing, s.WaitsFor})
	}
	for _, m := range s.Timeline[known(v.last.Timeline, s.Timeline):] {
		columns(v.out, []string{clock(m.At), string(m.Phase), m.What})
	}
	if s.Report != nil {
		fmt.Fprintln(v.out)
		v.printReport(v.out, *s.Report)
	}
	v.last = s
	return nil
}

// known is how much of a timeline was in an earlier one, whose middle may have gone since.
func known(before, now []workflows.Moment) int {
	if len(before) == 0 {
		return 0
	}
	for i, m := range slices.Backward(now) {
		if last := before[len(before)-1]; m.At.Equal(last.At) && m.Phase == last.Phase && m.What == last.What {
			return i + 1
		}
	}
	return 0
}

// screen is a view for people: a picture that has the terminal for itself until the watch ends. The last one stays.
type screen struct {
	file          *os.File
	colors, ascii bool
	open          bool
	drawn         string
}

func (*screen) forPeople() bool { return true }

func (v *screen) changed(p picture) error {
	if !p.status.over() {
		v.redraw(p)
		return nil
	}
	v.close()
	on := v.paper()
	on.height = 0
	_, err := fmt.Fprint(v.file, p.draw(time.Now(), on))
	return err
}

func (v *screen) redraw(p picture) {
	var b strings.Builder
	if !v.open {
		v.open = true
		b.WriteString(ansi.SetModeAltScreenSaveCursor + ansi.HideCursor + ansi.ResetModeAutoWrap)
	}
	on := v.paper()
	text := p.draw(time.Now(), on)
	if drawn := fmt.Sprint(on, text); drawn != v.drawn {
		v.drawn = drawn
		b.WriteString(ansi.SetModeSynchronizedOutput + ansi.CursorHomePosition)
		for _, row := range strings.SplitAfter(text, "\n") {
			b.WriteString(ansi.EraseEntireLine + row) // before it is written: a row that fills the line ends on its last cell
		}
		b.WriteString(ansi.EraseScreenBelow + ansi.ResetModeSynchronizedOutput)
	}
	fmt.Fprint(v.file, b.String()) // at once, so that nothing flickers
}

func (v *screen) close() {
	if v.open {
		v.open = false
		fmt.Fprint(v.file, ansi.SetModeAutoWrap+ansi.ShowCursor+ansi.ResetModeAltScreenSaveCursor)
	}
}

// paper is the terminal as it is now. Its last row stays empty, so that nothing scrolls.
func (v *screen) paper() paper {
	width, height, err := term.GetSize(int(v.file.Fd()))
	if err != nil || width < 1 || height < 2 {
		width, height = 80, 24
	}
	return paper{width: width, height: height - 1, colors: v.colors, ascii: v.ascii, zone: time.Local}
}

// unicodeLocale tells whether the terminal shows more than ASCII, as the locale says. Where none is said, it does.
func unicodeLocale(env func(string) string) bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if locale := strings.ToLower(env(name)); locale != "" {
			return strings.Contains(locale, "utf-8") || strings.Contains(locale, "utf8")
		}
	}
	return true
}
