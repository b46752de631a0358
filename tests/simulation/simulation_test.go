// Package simulation plays rotations by seed: the same workflows and activities as in production, on the providers in
// memory, with skipped time and a schedule of faults, and judges each by package invariant.
package simulation

import (
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/tests/invariant"
	"github.com/keyturn/keyturn/workflows"
)

var (
	seeds   = flag.Int("seeds", 200, "how many seeds to play; from 2000 on they must reach all rare states")
	oneSeed = flag.Uint64("seed", 0, "play this seed alone")
)

// result is how one seed went.
type result struct {
	problems []string
	// violations are the problems that the checker found.
	violations []invariant.Violation
	reached    map[string]bool
	ledger     []string
	course     map[string][]string
	outcome    workflows.Outcome
}

// simulate plays a script in a bubble of its own.
func simulate(t *testing.T, s script, p plant) (r result) {
	synctest.Test(t, func(*testing.T) {
		defer func() {
			if v := recover(); v != nil {
				r.problems = append(r.problems, fmt.Sprint("panic: ", v))
			}
		}()
		pl, seen, err := perform(s, p)
		r.ledger, r.course = pl.ledger(), pl.course()
		if err != nil {
			r.problems = append(r.problems, err.Error())
			return
		}
		r.violations = invariant.Check(seen)
		for _, v := range r.violations {
			r.problems = append(r.problems, v.String())
		}
		r.outcome = seen.Report.Outcome
		r.reached = pl.befell
		note(r.reached, seen)
	})
	return r
}

// note adds what the end tells of the states that were reached.
func note(reached map[string]bool, seen invariant.Seen) {
	reached["ended as "+string(seen.Report.Outcome)] = true
	before := workflows.PhaseInspect
	for _, m := range seen.Report.Timeline {
		if m.Phase == workflows.PhaseRollback {
			reached["rolled back in "+string(before)] = true
			break
		}
		before = m.Phase
	}
	for _, e := range seen.Trail.Events {
		what := string(e.Type)
		switch e.Type {
		case audit.GateClosed:
			what += " " + e.Detail["why"]
			if len(what) > 40 {
				what = string(e.Type) + " turned"
			}
		case audit.DecisionAccepted, audit.DecisionRejected:
			what += " " + e.Detail["action"]
		}
		reached[what] = true
	}
	for _, d := range seen.Report.Debt {
		reached["debt "+d.Kind] = true
	}
}

// rare are the states that the seeds must reach, so that nobody takes silence for safety.
var rare = []string{
	"ended as completed", "ended as failed", "ended as refused", "ended as rolled-back", "ended as superseded",
	"rolled back in issue", "rolled back in deliver", "rolled back in promote", "rolled back in overlap", "rolled back in evidence",
	"rolled back in revoke-gate", "rolled back in disable-soak",
	"second attempt of Inspect", "second attempt of Issue", "second attempt of DeliverWave", "second attempt of Promote",
	"second attempt of GatherEvidence", "second attempt of Disable", "second attempt of Enable", "second attempt of Destroy",
	"second attempt of RestoreLabels", "second attempt of Discard", "second attempt of Record", "second attempt of Notify", "second attempt of Watch",
	"dies before put-metadata in Issue", "dies after put-metadata in Issue", "dies after issue in Issue", "dies before stage in Issue", "dies after stage in Issue",
	"dies after promote in Promote", "dies after disable in Disable", "dies after destroy in Destroy", "dies after destroy in Discard",
	"dies before audit in Destroy", "loses the reply of issue in Issue", "loses the reply of promote in Promote", "loses the reply of destroy in Destroy",
	"hangs in promote in Promote", "hangs in deliver in DeliverWave", "is throttled at disable in Disable", "fails at promote in RestoreLabels",
	"orphan.destroyed", "key.enabled", "labels.restored", "budget.breached", "wave.failed", "overlap.extended", "taken over", "debt.found", "debt copies-left",
	"gate.closed expired", "gate.closed passed", "gate.closed turned", "decision.accepted reject", "decision.rejected approve", "decision.rejected rollback",
}

func TestSimulation(t *testing.T) {
	t.Parallel()
	if *oneSeed > 0 {
		// One seed is looked at, so that all of it is told.
		s := write(*oneSeed)
		r := simulate(t, s, plant{})
		t.Logf("%s%s\n%s", s, r.outcome, strings.Join(r.ledger, "\n"))
		for _, p := range r.problems {
			t.Error(p)
		}
		return
	}
	n := *seeds
	var mu sync.Mutex
	reached := map[string]int{}
	t.Run("seeds", func(t *testing.T) {
		const each = 50
		for from := 1; from <= n; from += each {
			t.Run(fmt.Sprintf("from %d", from), func(t *testing.T) {
				t.Parallel()
				for seed := from; seed < from+each && seed <= n; seed++ {
					s := write(uint64(seed))
					r := simulate(t, s, plant{})
					mu.Lock()
					for what := range r.reached {
						reached[what]++
					}
					mu.Unlock()
					if len(r.problems) > 0 {
						t.Errorf("%s  replay with: make simulate SEED=%d\n%s", s, seed, strings.Join(r.problems, "\n"))
					}
				}
			})
		}
	})
	for _, what := range slices.Sorted(maps.Keys(reached)) {
		t.Logf("%5d  %s", reached[what], what)
	}
	if n < 2000 {
		return
	}
	for _, what := range rare {
		assert.Positive(t, reached[what], "no seed reached: %s", what)
	}
}

// The same seed gives the same schedule, and the same course of events.
func TestASeedIsRepeated(t *testing.T) {
	t.Parallel()
	for seed := uint64(1); seed <= 12; seed++ {
		schedule := write(seed).String()
		assert.Equal(t, schedule, write(seed).String())
		once, again := simulate(t, write(seed), plant{}), simulate(t, write(seed), plant{})
		assert.Equal(t, once.course, again.course, "seed %d", seed)
		assert.Equal(t, once.outcome, again.outcome, "seed %d", seed)
	}
}
