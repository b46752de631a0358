package live

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/sandbox/internal/demo"
	"github.com/keyturn/keyturn/workflows"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.Local)

// overlap is a rotation in its overlap: the canary and a have the incoming key, b has yet to read it.
func overlap() State {
	return State{
		At: noon,
		Status: workflows.Status{
			Credential: "payments-api", Phase: workflows.PhaseOverlap, Doing: "Both keys are accepted.",
			WaitsFor: "the end of the overlap", UnblockedBy: "time; or: extend, rollback", Until: noon.Add(5 * time.Second),
			Retiring: key.Ref{KeyID: "k1", Fingerprint: "fp:1"}, Incoming: key.Ref{KeyID: "k2", Fingerprint: "fp:2"},
			Timeline: []workflows.Moment{
				{At: noon, What: "one"}, {At: noon, What: "two"}, {At: noon, What: "three"}, {At: noon, What: "four"}, {At: noon, What: "five"}, {At: noon, What: "six"},
			},
		},
		Traffic: demo.Snapshot{Sent: 1234, Consumers: []demo.Counts{
			{Name: "checkout-canary", Key: "fp:2", KeyID: "k2", Sent: 400},
			{Name: "checkout-a", Key: "fp:2", KeyID: "k1", Sent: 417},
			{Name: "checkout-b", Key: "fp:1", KeyID: "k1", Sent: 417},
		}},
		RunURL: "http://127.0.0.1:8233/run", Approve: []string{"keyturn approve payments-api --gate revoke"}, Folder: "/tmp/sandbox",
	}
}

// gate is the same at its revoke gate.
func gate() State {
	s := overlap()
	s.Status.Phase, s.Status.Doing = workflows.PhaseRevokeGate, "Waiting for approval."
	s.Status.WaitsFor, s.Status.UnblockedBy, s.Status.Until = "1 approvals of the revoke gate", "anybody; or reject", time.Time{}
	s.Status.Gate = &policy.OpenGate{Gate: inventory.GateRevoke, Needs: inventory.Approval{Count: 1}}
	return s
}

func ended(o workflows.Outcome) State {
	s := overlap()
	s.Status.Phase, s.Status.Doing = workflows.PhaseEnded, "It is over."
	s.Status.WaitsFor, s.Status.UnblockedBy, s.Status.Until = "", "", time.Time{}
	s.Status.Report = &workflows.Report{Outcome: o, Message: "It is over."}
	return s
}

func TestViewInTheOverlap(t *testing.T) {
	t.Parallel()
	assert.Equal(t, strings.TrimPrefix(`
payments-api: overlap (5 of 11)
  Both keys are accepted.

  Web UI        http://127.0.0.1:8233/run
  waits for     the end of the overlap
  unblocked by  time; or: extend, rollback
  until         12:00:05 (5s left)
  retiring key  k1
  incoming key  k2

requests sent 1234, refused 0, failed 0
  checkout-canary  on incoming key k2                   sent 400, refused 0
  checkout-a       on incoming key k2                   sent 417, refused 0
  checkout-b       on retiring key k1                   sent 417, refused 0

  12:00:00 two
  12:00:00 three
  12:00:00 four
  12:00:00 five
  12:00:00 six

  state in      /tmp/sandbox`, "\n"), strings.Join(View(overlap(), 100, false), "\n"))
}

func TestViewShows(t *testing.T) {
	t.Parallel()
	lost := overlap()
	lost.Traffic.Refused, lost.Traffic.Consumers[2].Refused = 3, 3
	before := State{At: noon, Traffic: demo.Snapshot{Consumers: []demo.Counts{{Name: "checkout-a", Key: "fp:1"}}}}
	turning := overlap()
	turning.Status.Phase = workflows.PhaseRollback
	hostile := overlap()
	hostile.Status.WaitsFor = "x\x1b[2J\r\ny"
	far := gate()
	far.Status.Until = noon.Add(72 * time.Hour)
	const red, bold = "\x1b[1;31m", "\x1b[1m"
	for name, c := range map[string]struct {
		state State
		has   []string
		lacks []string
	}{
		"how to approve at the gate":           {gate(), []string{"revoke gate is open: 0 of 1 approved", "keyturn approve payments-api --gate revoke"}, nil},
		"nothing of approving before the gate": {overlap(), nil, []string{"keyturn approve"}},
		"lost requests in red":                 {lost, []string{red + "requests sent 1234, refused 3", red + "  checkout-b"}, []string{red + "  checkout-a"}},
		"a good end":                           {ended(workflows.Completed), []string{bold + "payments-api: completed", "It is over."}, []string{red}},
		"a bad end in red":                     {ended(workflows.Failed), []string{red + "payments-api: failed"}, nil},
		"a rollback in red, and in no order":   {turning, []string{red + "payments-api: rollback\x1b"}, nil},
		"what it is before the rotation":       {before, []string{"payments-api: about to begin", "on key fp:1"}, []string{"waits for"}},
		"the date of what is far off":          {far, []string{"2026-01-05 12:00:00 (72h0m0s left)"}, nil},
		"text from outside written out":        {hostile, []string{`x\x1b[2J\r\ny`}, []string{"\x1b[2J"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := strings.Join(View(c.state, 120, true), "\n")
			for _, has := range c.has {
				assert.Contains(t, text, has)
			}
			for _, lacks := range c.lacks {
				assert.NotContains(t, text, lacks)
			}
		})
	}
}

func TestViewFitsTheTerminal(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := gate()
		s.Status.Doing = rapid.String().Draw(t, "doing")
		s.Status.Notices = []string{rapid.String().Draw(t, "notice")}
		width := rapid.IntRange(1, 200).Draw(t, "width")
		whole := []string{"  " + s.Approve[0], "  Web UI        " + s.RunURL, "  state in      " + s.Folder}
		for _, l := range View(s, width, false) {
			assert.True(t, utf8.RuneCountInString(l) <= width || slices.Contains(whole, l), "%q is wider than %d", l, width)
			assert.NotContains(t, l, "\n")
			assert.NotContains(t, l, "\x1b")
		}
	})
}

func TestChanges(t *testing.T) {
	t.Parallel()
	with := func(change func(*State)) State { s := overlap(); change(&s); return s }
	for name, c := range map[string]struct {
		before, now State
		want        []string
	}{
		"nothing when nothing happened": {overlap(), overlap(), nil},
		"nothing when only counts grew": {overlap(), with(func(s *State) {
			s.Traffic.Sent, s.Traffic.Consumers[0].Sent = 9999, 9999
		}), nil},
		"nothing when a wait counts down": {
			with(func(s *State) { s.Status.WaitsFor = "quiet for 3s more" }), with(func(s *State) { s.Status.WaitsFor = "quiet for 2s more" }), nil,
		},
		"everything at the beginning": {State{}, overlap(), []string{
			"12:00:00 overlap: Both keys are accepted.",
			"12:00:00 see it in the Web UI: http://127.0.0.1:8233/run",
			"12:00:00 overlap: waits for the end of the overlap; unblocked by time; or: extend, rollback",
			"12:00:00 checkout-canary is on incoming key k2",
			"12:00:00 checkout-a is on incoming key k2",
			"12:00:00 checkout-b is on retiring key k1",
		}},
		"a gate that opens": {overlap(), gate(), []string{
			"12:00:00 revoke-gate: Waiting for approval.",
			"12:00:00 revoke-gate: waits for 1 approvals of the revoke gate; unblocked by anybody; or reject",
			"12:00:00 revoke-gate: approve with keyturn approve payments-api --gate revoke",
		}},
		"a consumer that changes its key": {overlap(), with(func(s *State) { s.Traffic.Consumers[2].Key = "fp:2" }), []string{
			"12:00:00 checkout-b is on incoming key k2",
		}},
		"requests that were lost": {overlap(), with(func(s *State) { s.Traffic.Refused, s.Traffic.Failed = 2, 1 }), []string{
			"12:00:00 REQUESTS WERE LOST: 2 refused, 1 failed, of 1234",
		}},
		"a notice": {overlap(), with(func(s *State) { s.Status.Notices = []string{"a\nb"} }), []string{`12:00:00 note: a\nb`}},
		"the end": {overlap(), ended(workflows.Completed), []string{
			"12:00:00 completed: It is over.", "12:00:00 requests sent 1234, refused 0, failed 0",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, c.want, Changes(c.before, c.now))
		})
	}
}

func TestScreenWithoutTerminalPrintsChanges(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	s := NewScreen(&out)
	s.Draw(overlap())
	s.Draw(overlap())
	first := out.Len()
	s.Draw(gate())
	assert.Equal(t, 6, strings.Count(out.String()[:first], "\n"))
	assert.Equal(t, 3, strings.Count(out.String()[first:], "\n"))
	assert.NotContains(t, out.String(), "\x1b")

	file, err := os.Create(t.TempDir() + "/out")
	require.NoError(t, err)
	defer file.Close()
	assert.Nil(t, NewScreen(file).size, "a file is no terminal")
}

func TestScreenDrawsBesideWhatTheTerminalShowed(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	const width = 30 // so that the links are wrapped
	height := 60
	s := &Screen{out: &out, size: func() (int, int) { return width, height }}
	term := &terminal{width: width}
	obey := func() {
		term.obey(out.String())
		out.Reset()
	}
	want := func(state State) []string {
		alone := &terminal{width: width}
		alone.obey(strings.Join(View(state, width, false), "\n") + "\n")
		return alone.rows
	}
	s.Print("before")
	for _, state := range []State{gate(), overlap(), gate()} {
		s.Draw(state)
		obey()
		assert.Equal(t, want(state), term.alternate, "nothing of another view is left")
		assert.Equal(t, []string{"before"}, term.rows)
	}
	assert.Contains(t, strings.Join(term.alternate, ""), gate().RunURL)

	height = 10
	s.Draw(overlap())
	obey()
	assert.Less(t, len(term.alternate), height, "a low terminal shows the beginning, and does not scroll")
	assert.Equal(t, want(overlap())[:len(term.alternate)], term.alternate)

	for range 2 {
		s.Leave()
	}
	s.Print("after")
	obey()
	assert.Nil(t, term.alternate)
	assert.Equal(t, append(append([]string{"before"}, want(overlap())...), "after"), term.rows)
}

// On a terminal of the usual size all that matters is shown: where to look and how to approve, whatever else there is.
func TestALowTerminalShowsLinkAndApproval(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	s := &Screen{out: &out, size: func() (int, int) { return 80, 24 }}
	state := gate()
	state.Say = []string{"The rotation has ended."}
	state.Approve = []string{strings.Repeat("the Web UI ", 15), strings.Repeat("the CLI ", 15)}
	for range 20 {
		state.Status.Notices = append(state.Status.Notices, "something that everybody should know")
	}
	s.Draw(state)
	for _, text := range append(state.Approve, state.RunURL, state.Say[0]) {
		assert.Contains(t, out.String(), text)
	}
}

// terminal obeys what a screen writes.
type terminal struct {
	width int
	rows  []string
	// alternate is its other screen, nil while that is not shown.
	alternate []string
}

func (x *terminal) obey(text string) {
	rows := &x.rows
	if x.alternate != nil {
		rows = &x.alternate
	}
	for text != "" {
		if rest, ok := strings.CutPrefix(text, enterAlternate); ok {
			x.alternate, rows, text = []string{}, &x.alternate, rest
			continue
		}
		if rest, ok := strings.CutPrefix(text, leaveAlternate); ok {
			x.alternate, rows, text = nil, &x.rows, rest
			continue
		}
		if rest, ok := strings.CutPrefix(text, clear); ok {
			*rows, text = []string{}, rest
			continue
		}
		l, rest, _ := strings.Cut(text, "\n")
		row := []rune(l)
		for len(row) > x.width {
			*rows = append(*rows, string(row[:x.width]))
			row = row[x.width:]
		}
		*rows, text = append(*rows, string(row)), rest
	}
}
