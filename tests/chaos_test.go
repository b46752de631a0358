package tests

import (
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/moto"
	"github.com/keyturn/keyturn/tests/trace"
	"github.com/keyturn/keyturn/workflows"
)

var (
	chaos     = flag.String("chaos", "", "all: each strike at each moment; ci: a sample")
	chaosSeed = flag.Uint64("chaos-seed", 1, "which sample")
	// update writes the lists of moments anew.
	update = flag.Bool("update-moments", false, "write testdata/moments from undisturbed courses")
)

// course is a rotation and the world in which it goes.
type course struct {
	// name is also that of the list of its moments in testdata/moments.
	name string
	aws  bool
	// turn is the phase in which the rotation is turned back; empty for one that goes through.
	turn workflows.Phase
}

var courses = []course{
	{"gateway-rotation", false, ""},
	{"gateway-rollback-in-the-overlap", false, workflows.PhaseOverlap},
	{"gateway-rollback-in-the-disable-soak", false, workflows.PhaseDisableSoak},
	{"aws-rotation", true, ""},
	{"aws-rollback-in-the-overlap", true, workflows.PhaseOverlap},
	{"aws-rollback-in-the-disable-soak", true, workflows.PhaseDisableSoak},
}

// windows leave people the time to turn back.
func (c course) windows() []string {
	overlap, soak := "4s", "4s"
	switch c.turn {
	case workflows.PhaseOverlap:
		overlap = "2m"
	case workflows.PhaseDisableSoak:
		soak = "2m"
	}
	return []string{"--every", "200ms", "--wave-soak", "1s", "--quiet-window", "3s", "--overlap", overlap, "--disable-soak", soak}
}

func (c course) list() string { return filepath.Join("testdata", "moments", c.name+".txt") }

// moments are those of an undisturbed course, from where it is turned back on.
func (c course) moments(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(c.list())
	require.NoError(t, err)
	return slices.Collect(strings.SplitSeq(strings.TrimSpace(string(text)), "\n"))
}

// strike is what happens at a moment, while the worker that is there, and whoever else changes something, waits.
type strike struct {
	name string
	// workers is how many there are; temporal tells whether the server is the victim's own.
	workers  int
	temporal bool
	// calls: it is about calls of AWS alone.
	calls bool
	// do answers whether the worker goes on.
	do func(v *victim, w *process) (goOn bool)
}

// What follows each of them before, amid and after a side effect is the same: the rotation ends as it would have, nobody
// is refused, no key is left over, and no invariant is broken.
//
// Dies before: nothing was changed, and the next attempt does it. Amid: a file is written and has not its name yet, so
// that the next attempt removes it; a call of AWS took effect and nobody knows, so that the next attempt finds it. After:
// the next attempt finds it done.
var strikes = []strike{
	{"worker dies", 1, false, false, func(v *victim, w *process) bool {
		v.revive = true
		_ = w.cmd.Process.Kill()
		return false
	}},
	{"one of two workers dies", 2, false, false, func(_ *victim, w *process) bool {
		_ = w.cmd.Process.Kill()
		return false
	}},
	{"Temporal dies", 1, true, false, func(v *victim, _ *process) bool {
		_ = v.server.cmd.Process.Kill()
		<-v.server.done
		if err := v.serve(); err != nil { // the tracer's goroutine is not the test's
			v.t.Error(err)
		}
		return true
	}},
	{"connection to Temporal is cut", 1, false, false, func(v *victim, _ *process) bool {
		v.cable.cut(3 * time.Second)
		return true
	}},
	{"connection to AWS is cut", 1, false, true, func(*victim, *process) bool { return false }},
}

// row is one strike at one moment of one course.
type row struct {
	course
	strike
	moment string
}

func (r row) String() string { return r.course.name + "/" + r.strike.name + "/" + r.moment }

// rows is the whole matrix.
func rows(t *testing.T) (list []row) {
	t.Helper()
	for _, c := range courses {
		for _, s := range strikes {
			for _, m := range c.moments(t) {
				call := strings.Contains(m, "iam:") || strings.Contains(m, "secretsmanager:")
				if s.calls && (!call || strings.HasPrefix(m, string(moto.After))) {
					continue
				}
				list = append(list, row{c, s, m})
			}
		}
	}
	return list
}

// What CI plays: so many of the worker's deaths on the gateway, evenly over the course, and so many of the rest by chance.
const deaths, sampled = 8, 4

// chosen are the rows to play.
func chosen(t *testing.T) []row {
	t.Helper()
	all := rows(t)
	switch *chaos {
	case "all":
		return all
	case "ci":
		var died, rest []row
		for _, r := range all {
			if !r.aws && r.strike.name == strikes[0].name {
				died = append(died, r)
			} else {
				rest = append(rest, r)
			}
		}
		var some []row
		for n := range deaths {
			some = append(some, died[n*len(died)/deaths])
		}
		random := rand.New(rand.NewPCG(*chaosSeed, 0)) //nolint:gosec // a sample that can be repeated
		random.Shuffle(len(rest), func(i, j int) { rest[i], rest[j] = rest[j], rest[i] })
		return append(some, rest[:sampled]...)
	}
	require.Fail(t, "-chaos is all or ci")
	return nil
}

// needChaos skips where nobody asked for it.
func needChaos(t *testing.T) {
	t.Helper()
	if *chaos == "" {
		t.Skip("it takes long, and all of the machine: make chaos")
	}
	if !trace.Possible {
		t.Skip("programs can be traced on Linux only")
	}
}

// TestMoments holds the lists of moments against what a course that nobody disturbs goes through, so that no side effect is
// forgotten.
func TestMoments(t *testing.T) {
	needChaos(t)
	for _, c := range courses {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			v := newVictim(t, row{course: c, strike: strike{workers: 1}})
			v.play()
			if *update {
				require.NoError(t, os.MkdirAll(filepath.Dir(c.list()), 0o750))
				require.NoError(t, os.WriteFile(c.list(), []byte(strings.Join(v.moments, "\n")+"\n"), 0o600))
			}
			assert.ElementsMatch(t, c.moments(t), v.moments, "make moments UPDATE=1 writes the lists anew")
		})
	}
}

// TestChaos plays the matrix. A row that fails is played alone by its name: make chaos ROW='gateway-rotation/worker dies/before …'.
func TestChaos(t *testing.T) {
	needChaos(t)
	for _, r := range chosen(t) {
		t.Run(r.String(), func(t *testing.T) {
			t.Parallel()
			v := newVictim(t, r)
			v.play()
			assert.True(t, v.struck, "the moment never came; there were: %s", strings.Join(v.moments, ", "))
		})
	}
}

// within is how long a row may take: each attempt that dies is waited for, up to its time-out.
const within = 15 * time.Minute
