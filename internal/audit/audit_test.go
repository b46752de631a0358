package audit_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gofrs/flock"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/key"
)

// appendEnv makes this test binary a second worker that appends to the file it names.
const appendEnv = "KEYTURN_AUDIT_TEST_FILE"

func TestMain(m *testing.M) {
	if path := os.Getenv(appendEnv); path != "" {
		f, err := audit.OpenFile(path)
		for i := 0; err == nil && i < perWriter; i++ {
			err = f.Append(context.Background(), event(fmt.Sprintf("%s/%d", os.Getenv("WRITER"), i)))
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

const perWriter = 25

func event(id string) audit.Event {
	return audit.Event{
		ID: id, Time: time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC), Type: audit.KeyIssued, Credential: "payments-api",
		Rotation: "r1", Run: "run1", Actor: "worker",
		Keys:   map[string]key.Ref{audit.Incoming: {Principal: "payments", KeyID: "k2", StoreVersion: "v2", Fingerprint: "fp:00"}},
		Detail: map[string]string{"why": "routine"},
	}
}

func open(t testing.TB) (*audit.File, string) {
	path := filepath.Join(t.TempDir(), "audit", "events.jsonl")
	f, err := audit.OpenFile(path)
	require.NoError(t, err)
	return f, path
}

func read(t testing.TB, path string) audit.Trail {
	trail, err := audit.Read(path)
	require.NoError(t, err)
	return trail
}

func ids(trail audit.Trail) []string {
	var got []string
	for _, e := range trail.Events {
		got = append(got, e.ID)
	}
	return got
}

func TestAppendedEventsAreReadBackWholeAndInOrder(t *testing.T) {
	t.Parallel()
	f, path := open(t)
	require.NoError(t, f.Append(t.Context(), event("a"), event("b")))
	require.NoError(t, f.Append(t.Context()))
	require.NoError(t, f.Append(t.Context(), event("c")))
	assert.Equal(t, audit.Trail{Events: []audit.Event{event("a"), event("b"), event("c")}}, read(t, path))
}

func TestARepeatedEventIsReadOnceAsItWasFirst(t *testing.T) {
	t.Parallel()
	f, path := open(t)
	again := event("a")
	again.Time, again.Run = again.Time.Add(time.Hour), "run2"
	require.NoError(t, f.Append(t.Context(), event("a"), event("b"), again))
	assert.Equal(t, []audit.Event{event("a"), event("b")}, read(t, path).Events)
}

func TestTheFileIsForItsOwnerAlone(t *testing.T) {
	t.Parallel()
	f, path := open(t)
	require.NoError(t, f.Append(t.Context(), event("a")))
	for _, p := range []string{path, path + ".lock"} {
		info, err := os.Stat(p)
		require.NoError(t, err)
		assert.Equal(t, os.FileMode(0o600), info.Mode().Perm(), p)
	}
	info, err := os.Stat(filepath.Dir(path))
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o700), info.Mode().Perm())
}

func TestAppendGoesOnAfterATornLine(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		path := filepath.Join(t.TempDir(), "events.jsonl")
		f, err := audit.OpenFile(path)
		require.NoError(rt, err)
		require.NoError(rt, f.Append(context.Background(), event("a"), event("b")))
		whole, err := os.ReadFile(path)
		require.NoError(rt, err)
		first := bytes.IndexByte(whole, '\n') + 1
		cut := rapid.IntRange(first, len(whole)).Draw(rt, "cut")
		require.NoError(rt, os.Truncate(path, int64(cut)))

		before := read(t, path)
		require.NoError(rt, f.Append(context.Background(), event("b"), event("c")))
		after := read(t, path)

		assert.Equal(rt, []string{"a", "b", "c"}, ids(after), "nothing is lost or doubled")
		torn := cut > first && cut < len(whole)-1 // with all but the line end, the event is whole
		assert.Equal(rt, torn, len(before.Damaged) == 1)
		assert.Equal(rt, torn, len(after.Damaged) == 1)
		if torn {
			assert.Contains(rt, before.Damaged[0].String(), "line 2: is cut off")
			assert.Equal(rt, 2, after.Damaged[0].Line)
		}
	})
}

func TestWorkersOnOneHostShareAFile(t *testing.T) {
	t.Parallel()
	f, path := open(t)
	var all sync.WaitGroup
	for w := range 3 {
		all.Go(func() {
			other := exec.Command(os.Args[0])
			other.Env = append(os.Environ(), appendEnv+"="+path, fmt.Sprintf("WRITER=process%d", w))
			out, err := other.CombinedOutput()
			assert.NoError(t, err, "%s", out)
		})
		all.Go(func() {
			for i := range perWriter {
				assert.NoError(t, f.Append(t.Context(), event(fmt.Sprintf("goroutine%d/%d", w, i))))
			}
		})
	}
	all.Wait()
	trail := read(t, path)
	assert.Empty(t, trail.Damaged)
	assert.Len(t, trail.Events, 6*perWriter)
	next := map[string]int{}
	for _, e := range trail.Events {
		writer, _, _ := strings.Cut(e.ID, "/")
		assert.Equal(t, fmt.Sprintf("%s/%d", writer, next[writer]), e.ID, "each writer's events are in its order")
		next[writer]++
	}
}

func TestAppendWaitsForTheLockNoLongerThanItsContext(t *testing.T) {
	t.Parallel()
	f, path := open(t)
	held := flock.New(path + ".lock")
	require.NoError(t, held.Lock())
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, f.Append(ctx, event("a")), context.DeadlineExceeded)
	require.NoError(t, held.Unlock())
	require.NoError(t, f.Append(t.Context(), event("b")))
	assert.Equal(t, []string{"b"}, ids(read(t, path)))
}

func TestARenamedFileIsFollowedByANewOne(t *testing.T) {
	t.Parallel()
	f, path := open(t)
	require.NoError(t, f.Append(t.Context(), event("a")))
	require.NoError(t, os.Rename(path, path+".1"))
	require.NoError(t, f.Append(t.Context(), event("b")))
	assert.Equal(t, []string{"a"}, ids(read(t, path+".1")))
	assert.Equal(t, []string{"b"}, ids(read(t, path)))
}

func TestOpenFileFailsWhereNothingCanBeWritten(t *testing.T) {
	t.Parallel()
	blocked := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(blocked, nil, 0o600))
	_, err := audit.OpenFile(filepath.Join(blocked, "events.jsonl"))
	require.ErrorContains(t, err, "opening audit file")
}

func TestTextFromOutsideIsBoundedAndEscaped(t *testing.T) {
	t.Parallel()
	f, path := open(t)
	e := event("id\n1")
	e.Actor = "\x1b[2Jroot"
	e.Detail = map[string]string{"why\r": "a\nb\u202e", "long": strings.Repeat("x", 1<<20)}
	e.Keys = map[string]key.Ref{"incoming": {KeyID: "k\x07", Principal: "p\n", StoreVersion: "v\n", Fingerprint: "f\n"}}
	require.NoError(t, f.Append(t.Context(), e))
	got := read(t, path).Events[0]
	assert.Equal(t, `id\n1`, got.ID)
	assert.Equal(t, `\x1b[2Jroot`, got.Actor)
	assert.Equal(t, `a\nb\u202e`, got.Detail[`why\r`])
	assert.Len(t, got.Detail["long"], 4096)
	assert.Equal(t, key.Ref{KeyID: `k\a`, Principal: `p\n`, StoreVersion: `v\n`, Fingerprint: `f\n`}, got.Keys["incoming"])
}

func TestTheLargestEventCanBeReadBack(t *testing.T) {
	t.Parallel()
	for _, character := range []string{`"`, "<", "\x01", "\u2028"} { // each grows in its own way
		roundTripLargest(t, strings.Repeat(character, 8192))
	}
}

func roundTripLargest(t *testing.T, worst string) {
	f, path := open(t)
	e := event(strings.Repeat("\x01", 512))
	e.Type, e.Credential, e.Rotation, e.Run, e.Actor = audit.Type(worst), worst, worst, worst, worst
	e.Keys, e.Detail = map[string]key.Ref{}, map[string]string{}
	for i := range 64 {
		role := fmt.Sprintf("%d%s", i, worst)
		e.Keys[role] = key.Ref{Principal: worst, KeyID: worst, StoreVersion: worst, Fingerprint: worst}
		e.Detail[role] = worst
	}
	require.NoError(t, f.Append(t.Context(), e))
	trail := read(t, path)
	assert.Empty(t, trail.Damaged)
	require.Len(t, trail.Events, 1)
	assert.Len(t, trail.Events[0].Detail, 64)
}

func TestAnEventThatNoReaderCouldUseIsRefused(t *testing.T) {
	t.Parallel()
	many := map[string]string{}
	for i := range 65 {
		many[fmt.Sprint(i)] = ""
	}
	for name, spoil := range map[string]func(*audit.Event){
		"without an ID":         func(e *audit.Event) { e.ID = "" },
		"without a type":        func(e *audit.Event) { e.Type = "" },
		"with an endless ID":    func(e *audit.Event) { e.ID = strings.Repeat("x", 513) },
		"with too many details": func(e *audit.Event) { e.Detail = many },
		"with a year beyond":    func(e *audit.Event) { e.Time = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, path := open(t)
			e := event("a")
			spoil(&e)
			require.ErrorIs(t, f.Append(t.Context(), event("before"), e), audit.ErrInvalid)
			assert.Empty(t, read(t, path).Events, "none of a batch is kept when one is refused")
		})
	}
}

func TestReadReportsDamageAndGoesOn(t *testing.T) {
	t.Parallel()
	good, err := json.Marshal(event("a"))
	require.NoError(t, err)
	for name, c := range map[string]struct {
		text string
		want []audit.Damage
	}{
		"no JSON":                {"nonsense\n", []audit.Damage{{2, "is not a JSON object of an event"}}},
		"another JSON":           {"[1]\n", []audit.Damage{{2, "is not a JSON object of an event"}}},
		"two events on one line": {string(good) + string(good) + "\n", []audit.Damage{{2, "is not a JSON object of an event"}}},
		"no ID":                  {`{"type":"key.issued"}` + "\n", []audit.Damage{{2, "has no ID or no type"}}},
		"an endless line":        {strings.Repeat("x", 3<<20) + "\n", []audit.Damage{{2, "is longer than 1048576 bytes"}}},
		"an empty line":          {"\n", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			other := strings.Replace(string(good), `"id":"a"`, `"id":"b"`, 1)
			trail, err := audit.ReadFrom(strings.NewReader(string(good) + "\n" + c.text + other + "\n"))
			require.NoError(t, err)
			assert.Equal(t, []string{"a", "b"}, ids(trail))
			assert.Equal(t, c.want, trail.Damaged)
		})
	}
}

func TestReadNeedsNoMemoryForALineThatIsNoEvent(t *testing.T) {
	const length = 64 << 20
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	trail, err := audit.ReadFrom(io.LimitReader(endless{}, length))
	runtime.ReadMemStats(&after)
	require.NoError(t, err)
	assert.Len(t, trail.Damaged, 1)
	assert.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(length/4))
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

func TestReadOfAMissingFileIsAnError(t *testing.T) {
	t.Parallel()
	_, err := audit.Read(filepath.Join(t.TempDir(), "none"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestAFileTellsWhetherItCanBeWritten(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	f, err := audit.OpenFile(path)
	require.NoError(t, err)
	require.NoError(t, f.Writable())
	require.NoError(t, os.Remove(path))
	require.NoError(t, f.Writable(), "one that was moved away is made anew")
	require.NoError(t, os.Remove(path))
	require.NoError(t, os.Mkdir(path, 0o700))
	require.ErrorContains(t, f.Writable(), "opening audit file")
}

func TestDiscardTakesEverything(t *testing.T) {
	t.Parallel()
	require.NoError(t, audit.Discard.Append(t.Context(), event("a")))
}

func TestTypesAreDistinctAndKnown(t *testing.T) {
	t.Parallel()
	seen := map[audit.Type]bool{}
	for _, typ := range audit.Types() {
		assert.Regexp(t, `^[a-z]+\.[a-z-]+$`, string(typ))
		assert.False(t, seen[typ], "%s is listed twice", typ)
		assert.True(t, typ.Known())
		seen[typ] = true
	}
	assert.False(t, audit.Type("key.invented").Known())

	source, err := os.ReadFile("event.go")
	require.NoError(t, err)
	declared := regexp.MustCompile(`(?m)^\t\w+ +Type = "`).FindAll(source, -1)
	assert.Len(t, declared, len(seen), "every constant is in the list")
}

func FuzzReadFrom(f *testing.F) {
	good, _ := json.Marshal(event("a"))
	f.Add(good)
	f.Add(append(append([]byte("{\n\n"), good...), '\n'))
	f.Add([]byte(`{"id":"x","type":"y","keys":{"a":null},"detail":null}` + "\r\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		trail, err := audit.ReadFrom(bytes.NewReader(data))
		require.NoError(t, err)
		seen := map[string]bool{}
		for _, e := range trail.Events {
			assert.NotEmpty(t, e.ID)
			assert.False(t, seen[e.ID])
			seen[e.ID] = true
		}
		assert.LessOrEqual(t, len(trail.Events)+len(trail.Damaged), bytes.Count(data, []byte("\n"))+1)
		again, err := audit.ReadFrom(bytes.NewReader(append(data, '\n')))
		require.NoError(t, err)
		assert.True(t, reflect.DeepEqual(trail.Events, again.Events), "a line end more changes no event")
	})
}
