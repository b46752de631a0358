package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/charmbracelet/x/ansi"
	"github.com/creack/pty"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/api/serviceerror"

	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/workflows"
)

// The answers of a rotation that ends well.
func says(phase workflows.Phase, timeline ...string) answer {
	a := answer{at: ten, status: standing{Status: workflows.Status{Credential: "payments-api", Phase: phase, Doing: "Doing " + string(phase) + "."}}}
	for i, what := range timeline {
		a.status.Timeline = append(a.status.Timeline, workflows.Moment{At: after(float64(i)), Phase: phase, What: what})
	}
	return a
}

func ends(outcome workflows.Outcome) answer {
	a := says(workflows.PhaseEnded)
	a.status.Report = &workflows.Report{Credential: "payments-api", Outcome: outcome, Message: "It is over.", StartedAt: ten, EndedAt: after(1)}
	return a
}

func terminated() answer {
	a := says(workflows.PhaseDeliver)
	a.status.Ended = &ending{As: "terminated", At: after(1), Was: a.status.Doing, Next: "keyturn rotate payments-api"}
	a.status.Doing = a.status.Ended.message()
	return a
}

func silence(minutes float64) answer {
	return answer{at: after(minutes), err: exit(exitTimedOut, errors.New("no worker answers"))}
}

// followed is what a watch with these answers shows, and how it ends.
func followed(t *testing.T, term *terminal, answers ...answer) (string, error) {
	t.Helper()
	var out bytes.Buffer
	term.out = &out
	sent := make(chan answer)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	go func() {
		for _, a := range answers {
			select {
			case sent <- a:
			case <-ctx.Done():
				return
			}
		}
	}()
	err := follow(ctx, sent, term.view())
	return out.String(), err
}

func code(err error) int {
	var coded *exitError
	if errors.As(err, &coded) {
		return coded.code
	}
	return exitFailed
}

func TestAWatchEndsWithItsRotation(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answers []answer
		want    int
	}{
		"completed":                                  {[]answer{says("issue"), ends(workflows.Completed)}, exitDone},
		"rolled back":                                {[]answer{ends(workflows.RolledBack)}, exitRolledBack},
		"refused":                                    {[]answer{ends(workflows.Refused)}, exitRefused},
		"after a worker was away":                    {[]answer{says("issue"), silence(1), silence(9), ends(workflows.Completed)}, exitDone},
		"after the server was away":                  {[]answer{says("issue"), {at: ten, err: serviceerror.NewUnavailable("restarting")}, ends(workflows.Completed)}, exitDone},
		"after no worker had ever answered":          {[]answer{silence(1), silence(9), ends(workflows.Completed)}, exitDone},
		"not while none has answered for too long":   {[]answer{silence(1), silence(12)}, exitTimedOut},
		"not while nobody answers for too long":      {[]answer{says("issue"), silence(1), silence(11)}, exitTimedOut},
		"as failed, when it was terminated":          {[]answer{says("issue"), terminated()}, exitFailed},
		"as failed, when the namespace is forbidden": {[]answer{says("issue"), {at: ten, err: serviceerror.NewPermissionDenied("no", "no")}}, exitFailed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := followed(t, &terminal{output: "table"}, c.answers...)
			assert.Equal(t, c.want, code(err), "%v", err)
		})
	}
}

func TestLinesTellWhatIsNewOnce(t *testing.T) {
	t.Parallel()
	gone := says("deliver", "first", "third", "fourth") // the middle of a long timeline goes
	for i := range gone.status.Timeline[1:] {
		gone.status.Timeline[i+1].At = after(float64(i + 2))
	}
	out, _ := followed(t, &terminal{output: "table"}, says("deliver", "first", "second", "third"), silence(1), silence(2), gone, ends(workflows.Completed))
	for _, once := range []string{"first", "second", "third", "fourth", "Doing deliver.", "nobody answers", "answered again", "It is over."} {
		assert.Equal(t, 1, strings.Count(out, once), "%s in\n%s", once, out)
	}
	assert.NotContains(t, out, "\x1b")
}

func TestAWatchSaysThatItsRunWasTerminated(t *testing.T) {
	t.Parallel()
	out, _ := followed(t, &terminal{output: "table"}, says("deliver", "first"), terminated())
	for _, once := range []string{"payments-api: terminated", "left no report", "go on with  keyturn rotate payments-api"} {
		assert.Equal(t, 1, strings.Count(out, once), "%s in\n%s", once, out)
	}
	out, _ = followed(t, &terminal{output: "json"}, silence(1), says("deliver"), terminated())
	documents := strings.Split(strings.TrimSpace(out), "\n")
	require.Len(t, documents, 2, out)
	assert.Contains(t, documents[1], `"ended":{"as":"terminated"`)
}

func TestAQuietWatchOnlyEnds(t *testing.T) {
	t.Parallel()
	out, err := followed(t, &terminal{output: "table", quiet: true}, says("deliver", "first"), ends(workflows.RolledBack))
	assert.Empty(t, out)
	assert.Equal(t, exitRolledBack, code(err))
}

func TestProgramsGetADocumentForEachChange(t *testing.T) {
	t.Parallel()
	answers := []answer{says("issue"), says("issue"), silence(1), says("deliver", "first"), says("deliver", "first"), ends(workflows.Completed)}
	out, err := followed(t, &terminal{output: "json"}, answers...)
	assert.Equal(t, exitDone, code(err))
	var phases []workflows.Phase
	for _, line := range strings.Split(strings.TrimSuffix(out, "\n"), "\n") {
		var s workflows.Status
		require.NoError(t, json.Unmarshal([]byte(line), &s), line)
		phases = append(phases, s.Phase)
	}
	assert.Equal(t, []workflows.Phase{"issue", "deliver", "ended"}, phases)

	out, _ = followed(t, &terminal{output: "yaml"}, answers...)
	assert.Equal(t, 2, strings.Count(out, "---\n"), out)
	assert.Contains(t, out, "phase: deliver\n")
}

// seen is what came out of a terminal so far.
type seen struct {
	mu   sync.Mutex
	text strings.Builder
}

func (s *seen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *seen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// openPTY opens a pseudo-terminal: whoever sits before it, and its file.
func openPTY(t *testing.T) (ours, theirs *os.File) {
	t.Helper()
	ours, theirs, err := pty.Open()
	if err != nil {
		const how = "there is no pseudo-terminal: mount devpts at /dev/pts"
		if os.Getenv("CI") != "" {
			t.Fatal(how, ": ", err)
		}
		t.Skip(how, ": ", err)
	}
	t.Cleanup(func() { theirs.Close(); ours.Close() })
	return ours, theirs
}

func TestAPersonsTerminal(t *testing.T) {
	t.Parallel()
	ours, theirs := openPTY(t)
	var out seen
	go func() { _, _ = io.Copy(&out, ours) }()
	size := func(rows, columns uint16) {
		require.NoError(t, pty.Setsize(theirs, &pty.Winsize{Rows: rows, Cols: columns}))
	}
	// Whatever was drawn last, as lines.
	drawn := func() []string {
		all := out.String()
		if i := strings.LastIndex(all, ansi.CursorHomePosition); i >= 0 {
			all = all[i:]
		}
		return strings.Split(strings.TrimRight(strings.ReplaceAll(ansi.Strip(all), "\r", ""), "\n"), "\n")
	}
	size(40, 100)
	term := &terminal{output: "table", out: theirs, noColor: true}
	require.True(t, term.interactive())

	answers := make(chan answer)
	ended := make(chan error, 1)
	view := &screen{file: theirs}
	go func() {
		ended <- follow(t.Context(), answers, view)
		view.close()
	}()
	overlap := pictures()["overlap"]
	now := answer{at: time.Now(), status: overlap.status, learned: learned{plan: overlap.plan, spec: overlap.spec}}
	answers <- now
	shows := func(text string, rows, columns int) {
		t.Helper()
		require.Eventually(t, func() bool {
			lines := drawn()
			for _, l := range lines {
				if ansi.StringWidth(l) > columns {
					return false
				}
			}
			return len(lines) < rows && strings.Contains(strings.Join(lines, "\n"), text) && strings.HasSuffix(out.String(), ansi.ResetModeSynchronizedOutput)
		}, 2*time.Minute, 20*time.Millisecond, "%s on %d rows of %d:\n%s", text, rows, columns, fmt.Sprintf("%q", drawn()))
	}
	shows("the end of the overlap", 40, 100)
	assert.True(t, strings.HasPrefix(out.String(), ansi.SetModeAltScreenSaveCursor), "it leaves what was there alone")
	size(20, 60)
	shows("the end of the overlap", 20, 60)
	size(50, 150)
	shows("promoted key key-2026-03 to CURRENT", 50, 150)
	answers <- answer{at: time.Now(), err: exit(exitTimedOut, errors.New("no worker answers"))}
	shows("Nobody has answered since", 50, 150)
	answers <- now
	require.Eventually(t, func() bool { return !strings.Contains(strings.Join(drawn(), "\n"), "Nobody has answered") }, 2*time.Minute, 20*time.Millisecond)

	done := pictures()["done"]
	answers <- answer{at: time.Now(), status: done.status, learned: learned{plan: done.plan}}
	require.Equal(t, exitDone, code(<-ended))
	require.Eventually(t, func() bool { return strings.Contains(out.String(), "destroyed key key-2025-11") }, 2*time.Minute, 20*time.Millisecond)
	left := strings.LastIndex(out.String(), ansi.ResetModeAltScreenSaveCursor)
	require.Positive(t, left)
	assert.Contains(t, out.String()[left:], "payments-api  completed", "the last picture stays")
	assert.Contains(t, out.String()[:left], ansi.ShowCursor)
	assert.Equal(t, 1, strings.Count(out.String(), ansi.SetModeAltScreenSaveCursor))
	assert.NotContains(t, out.String(), ansi.EraseLineRight, "it takes the last letter of a row as wide as the terminal")
}

func TestWhereAPictureIsDrawn(t *testing.T) {
	_, theirs := openPTY(t)
	for _, name := range []string{"NO_COLOR", "LC_ALL", "LC_CTYPE"} {
		t.Setenv(name, "")
	}
	t.Setenv("TERM", "xterm")
	t.Setenv("LANG", "en_US.UTF-8")
	assert.Equal(t, &screen{file: theirs, colors: true}, (&terminal{output: "table", out: theirs}).view())
	assert.Equal(t, &screen{file: theirs}, (&terminal{output: "table", out: theirs, noColor: true}).view())
	assert.IsType(t, &documents{}, (&terminal{output: "json", out: theirs}).view())
	assert.IsType(t, &lines{}, (&terminal{output: "table", out: theirs, quiet: true}).view())
	file, err := os.Create(filepath.Join(t.TempDir(), "log"))
	require.NoError(t, err)
	defer file.Close()
	assert.IsType(t, &lines{}, (&terminal{output: "table", out: file}).view())
	assert.IsType(t, &lines{}, (&terminal{output: "table", out: &bytes.Buffer{}}).view())
	t.Setenv("NO_COLOR", "1")
	t.Setenv("LC_ALL", "C")
	assert.Equal(t, &screen{file: theirs, ascii: true}, (&terminal{output: "table", out: theirs}).view())
	t.Setenv("TERM", "dumb")
	assert.IsType(t, &lines{}, (&terminal{output: "table", out: theirs}).view())
}

func TestAnApproverCanCopyTheCommand(t *testing.T) {
	t.Parallel()
	d := pictures()["narrow gate"]
	d.status.Gate = &policy.OpenGate{Gate: "revoke"}
	assert.Contains(t, d.draw(d.now, d.paper), "keyturn approve payments-api --gate revoke --sign KEY\n")
}
