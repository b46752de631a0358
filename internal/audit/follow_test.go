package audit_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/audit"
)

// ship follows an audit file until nothing is new, as one process: number/ID of each event, with other rotations by name.
type ship struct {
	t    testing.TB
	path string
	file *audit.Follower
	log  *bytes.Buffer
}

func follow(t testing.TB, path string) *ship {
	s := &ship{t: t, path: path, log: new(bytes.Buffer)}
	s.begin()
	t.Cleanup(func() { _ = s.file.Close() })
	return s
}

func (s *ship) begin() {
	var err error
	s.file, err = audit.Follow(s.t.Context(), s.path, slog.New(slog.NewTextHandler(s.log, nil)))
	require.NoError(s.t, err)
}

// dies has the next process begin where this one last wrote down how far it was.
func (s *ship) dies() {
	require.NoError(s.t, s.file.Close())
	s.begin()
}

var shipped = time.Date(2026, 5, 4, 4, 0, 0, 0, time.UTC)

// next takes so many events.
func (s *ship) next(most int) (got []string) {
	for len(got) < most {
		e, some, err := s.file.Next(s.t.Context())
		require.NoError(s.t, err)
		if !some {
			break
		}
		again, _, err := s.file.Next(s.t.Context())
		require.NoError(s.t, err)
		require.Equal(s.t, e, again, "an event that was not taken stays the next one")
		s.file.Took(e, shipped)
		got = append(got, fmt.Sprintf("%s%d %s", e.Rotation, e.Number, e.ID))
	}
	return got
}

func (s *ship) all() []string { return s.next(1000) }

func (s *ship) keep() { require.NoError(s.t, s.file.Keep(shipped)) }

func of(rotation, id string) audit.Event {
	e := event(id)
	e.Rotation = rotation
	return e
}

func TestEventsAreNumberedByRotationWhateverIsRepeated(t *testing.T) {
	t.Parallel()
	f, path := open(t)
	s := follow(t, path)
	assert.Empty(t, s.all())
	later := of("x", "a")
	later.Time = later.Time.Add(time.Minute) // a retried activity
	require.NoError(t, f.Append(t.Context(), of("x", "a"), of("y", "b"), later, of("x", "c")))
	assert.Equal(t, []string{"x1 a", "y1 b", "x2 c"}, s.all())
	require.NoError(t, f.Append(t.Context(), of("y", "b"), of("y", "d"), of("", "outside of a rotation")))
	assert.Equal(t, []string{"y2 d", "1 outside of a rotation"}, s.all())
	assert.Zero(t, s.file.Waiting())
}

func TestAProcessThatDiesRepeatsNumbersAndGivesNoOtherOnes(t *testing.T) {
	t.Parallel()
	f, path := open(t)
	require.NoError(t, f.Append(t.Context(), of("x", "a"), of("x", "b"), of("x", "a"), of("x", "c"), of("x", "d")))
	s := follow(t, path)
	assert.Equal(t, []string{"x1 a"}, s.next(1))
	s.keep()
	assert.Equal(t, []string{"x2 b", "x3 c"}, s.next(2))
	before, _, err := s.file.Next(t.Context())
	require.NoError(t, err)
	s.dies()
	assert.Equal(t, []string{"x2 b", "x3 c"}, s.next(2))
	after, _, err := s.file.Next(t.Context())
	require.NoError(t, err)
	assert.Equal(t, before, after, "the name of the record, too")
	s.all()
	s.keep()
	s.dies()
	assert.Empty(t, s.all())
	assert.Empty(t, s.log)
	info, err := os.Stat(path + ".shipped")
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	excerpt, err := audit.ReadOf(path, "payments-api", "", 1<<20)
	require.NoError(t, err)
	assert.Zero(t, excerpt.Renamed, "what is noted beside the file is no renamed one")
}

func TestALineThatIsCutOffHoldsNothingUp(t *testing.T) {
	t.Parallel()
	f, path := open(t)
	s := follow(t, path)
	require.NoError(t, f.Append(t.Context(), of("x", "a"), of("x", "b")))
	whole, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, os.Truncate(path, int64(len(whole)-9)))
	assert.Equal(t, []string{"x1 a"}, s.all())
	require.NoError(t, f.Append(t.Context(), of("x", "b"), of("x", "c")))
	assert.Equal(t, []string{"x2 b", "x3 c"}, s.all())
	assert.Contains(t, s.log.String(), "is no event")
}

// rename does what logrotate does; at orders several of them.
func rename(t testing.TB, path, to string, at time.Duration) {
	require.NoError(t, os.Chtimes(path, time.Time{}, shipped.Add(at)))
	require.NoError(t, os.Rename(path, path+to))
}

func TestFilesThatWereRenamedAreShippedToTheirEnds(t *testing.T) {
	t.Parallel()
	for name, dies := range map[string]bool{"while it runs": false, "while no process does": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, path := open(t)
			require.NoError(t, f.Append(t.Context(), of("x", "before keyturn had a sink")))
			rename(t, path, ".1", -time.Hour)
			require.NoError(t, f.Append(t.Context(), of("x", "a")))
			s := follow(t, path)
			assert.Equal(t, []string{"x1 a"}, s.all())
			s.keep()
			require.NoError(t, f.Append(t.Context(), of("x", "b")))
			rename(t, path, ".2", 0)
			require.NoError(t, f.Append(t.Context(), of("x", "c")))
			rename(t, path, ".3", time.Hour)
			require.NoError(t, os.WriteFile(path, nil, 0o600)) // as with create
			if dies {
				s.dies()
			}
			assert.Equal(t, []string{"x2 b", "x3 c"}, s.all())
			s.keep()
			if dies {
				s.dies()
			}
			require.NoError(t, f.Append(t.Context(), of("x", "d")))
			assert.Equal(t, []string{"x4 d"}, s.all())
			assert.Empty(t, s.log)
		})
	}
}

func TestAFileThatIsGoneIsSaidAndTheNextOneIsShipped(t *testing.T) {
	t.Parallel()
	f, path := open(t)
	require.NoError(t, f.Append(t.Context(), of("x", "a"), of("x", "b")))
	s := follow(t, path)
	s.next(1)
	s.keep()
	require.NoError(t, os.Remove(path))
	require.NoError(t, f.Append(t.Context(), of("x", "c")))
	s.dies()
	assert.Equal(t, []string{"x2 c"}, s.all())
	assert.Contains(t, s.log.String(), "may be lost to the sink")
}

func TestAFileThatIsCutIsSaidAndReadFromItsBegin(t *testing.T) {
	t.Parallel()
	f, path := open(t)
	require.NoError(t, f.Append(t.Context(), of("x", "a"), of("x", "b")))
	s := follow(t, path)
	s.all()
	require.NoError(t, os.Truncate(path, 0))
	require.NoError(t, f.Append(t.Context(), of("x", "c")))
	assert.Equal(t, []string{"x3 c"}, s.all())
	assert.Contains(t, s.log.String(), "somebody cut it")
}

func TestOneProcessShipsAFile(t *testing.T) {
	t.Parallel()
	_, path := open(t)
	s := follow(t, path)
	waits, end := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer end()
	_, err := audit.Follow(waits, path, slog.Default())
	require.ErrorIs(t, err, context.DeadlineExceeded)
	s.dies() // and the next one has its turn
}

func TestANoteThatIsDamagedMakesAnotherRecordOfAll(t *testing.T) {
	t.Parallel()
	f, path := open(t)
	require.NoError(t, f.Append(t.Context(), of("x", "a")))
	s := follow(t, path)
	before, _, err := s.file.Next(t.Context())
	require.NoError(t, err)
	s.all()
	s.keep()
	require.NoError(t, os.WriteFile(path+".shipped", []byte("{"), 0o600))
	s.dies()
	after, _, err := s.file.Next(t.Context())
	require.NoError(t, err)
	assert.Equal(t, before.Event, after.Event)
	assert.NotEqual(t, before.Record, after.Record)
	assert.Contains(t, s.log.String(), "shipped again")
}

func TestARotationThatEndedLongAgoIsForgotten(t *testing.T) {
	t.Parallel()
	f, path := open(t)
	ended := of("x", "end")
	ended.Type = audit.RotationEnded
	require.NoError(t, f.Append(t.Context(), ended, of("y", "a")))
	s := follow(t, path)
	s.all()
	require.NoError(t, s.file.Keep(shipped.Add(61*24*time.Hour)))
	var note struct{ Rotations map[string]any }
	text, err := os.ReadFile(filepath.Join(filepath.Dir(path), filepath.Base(path)+".shipped"))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &note))
	assert.Len(t, note.Rotations, 1)
	assert.Contains(t, note.Rotations, "payments-api/y")
}

func TestAFileThatIsRenamedWhileTheSinkIsDownFromTheFirstOnIsShipped(t *testing.T) {
	t.Parallel()
	f, path := open(t)
	require.NoError(t, f.Append(t.Context(), of("x", "a")))
	s := follow(t, path)
	_, some, err := s.file.Next(t.Context())
	require.NoError(t, err)
	require.True(t, some)
	s.keep()
	rename(t, path, ".1", 0)
	require.NoError(t, f.Append(t.Context(), of("x", "b")))
	s.dies()
	assert.Equal(t, []string{"x1 a", "x2 b"}, s.all())
}

// Events outside of rotations come for as long as the credential lives: the note of them stays small, and their numbers go on.
func TestTheNoteOfMuchStaysSmall(t *testing.T) {
	t.Parallel()
	f, path := open(t)
	s := follow(t, path)
	note := func() int64 {
		s.keep()
		info, err := os.Stat(path + ".shipped")
		require.NoError(t, err)
		return info.Size()
	}
	write := func(from, to int) {
		var events []audit.Event
		for i := from; i < to; i++ {
			events = append(events, of("", fmt.Sprint(i)))
		}
		require.NoError(t, f.Append(t.Context(), events...))
	}
	write(0, 1100)
	assert.Len(t, s.next(2000), 1100)
	before := note()
	write(1100, 2000)
	all := s.next(2000)
	assert.Equal(t, "2000 1999", all[len(all)-1])
	assert.InDelta(t, before, note(), 100)
	require.NoError(t, f.Append(t.Context(), of("", "1999"), of("", "new")))
	assert.Equal(t, []string{"2001 new"}, s.all(), "what came lately is known")

	require.NoError(t, s.file.Keep(shipped)) // nothing is new
	require.NoError(t, f.Append(t.Context(), of("x", "a")))
	s.all()
	require.NoError(t, s.file.Keep(shipped.Add(15*24*time.Hour)))
	require.NoError(t, f.Append(t.Context(), of("", "2001")))
	assert.Equal(t, []string{"2002 2001"}, s.all(), "numbers go on once it is not known which events had them")
	assert.Less(t, note(), before/10)
}
