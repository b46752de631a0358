package workflows_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/providers/memory"
	"github.com/keyturn/keyturn/workflows"
)

// A key gets an end, at each step of a rotation and of a rollback: nobody is sent to one that has ended, none goes while the other one
// has, and no end of a rotation says what is not so.
func TestAKeyMayEndByItselfAtEachStep(t *testing.T) {
	t.Parallel()
	thin := thinned{every: 4}
	for what, course := range courses {
		steps := undisturbed(t, course)
		for name, of := range map[string]func(*outsider) key.Ref{
			"the retiring key": func(*outsider) key.Ref { return oldKey },
			"the incoming key": (*outsider).incoming,
		} {
			for _, left := range []time.Duration{2 * time.Minute, 14 * time.Minute} { // a margin before an end has 10 minutes
				for n, activity := range steps {
					if thin.out() {
						continue
					}
					t.Run(fmt.Sprintf("%s, and %s ends %s after what is before %s (%d)", what, name, left, activity.name, n+1), func(t *testing.T) {
						t.Parallel()
						o := &outsider{stage: newStage(t)}
						ends := map[string]time.Time{}
						o.plays(course, &step{at: n + 1, do: func(string) {
							if ref := of(o); !ref.IsZero() {
								at := o.clock.Load().Now().Add(left)
								o.world.SetEnd("payments-api", ref.KeyID, at)
								ends[ref.KeyID] = at
							}
						}})
						o.endedSoundly(ends)
					})
				}
			}
		}
	}
}

// endedSoundly plays the course to its end, and holds the ledger against when each key ended.
func (o *outsider) endedSoundly(ends map[string]time.Time) {
	o.t.Helper()
	report := o.played()
	ended := func(keyID string, at time.Time) bool { end, has := ends[keyID]; return has && !at.Before(end) }
	minted, promoted := o.incoming().KeyID, false
	for _, e := range o.world.Ledger()[o.from:] {
		switch e.Op {
		case memory.OpPromote:
			promoted = true
		case memory.OpDeliver:
			assert.False(o.t, ended(e.KeyID, e.At), "%s is sent to a key that has ended", e.Instance)
		case memory.OpDestroy, memory.OpDisable:
			other := map[string]string{"key-old": minted, minted: "key-old"}[e.KeyID]
			if e.KeyID == "key-old" || promoted || o.world.Using("canary") == e.KeyID {
				assert.False(o.t, ended(other, e.At), "%s %s, and the other one has ended: %s, %s", e.Op, o.named(e.KeyID), report.Outcome, report.Message)
			}
		}
	}
	works := func(keyID string) bool { return o.world.Accepts("payments-api", keyID) }
	now := o.clock.Load().Now()
	switch report.Outcome {
	case workflows.Completed:
		assert.True(o.t, ended(minted, now) || works(minted), report.Message)
	case workflows.RolledBack:
		assert.True(o.t, ended("key-old", now) || works("key-old"), report.Message)
	}
	for _, name := range fleet {
		using := o.world.Using(name)
		assert.True(o.t, works(using) || ended(using, now), "%s has a key that is neither accepted nor ended: %s, %s", name, report.Outcome, report.Message)
	}
	if o.t.Failed() {
		for _, e := range o.world.Ledger()[o.from:] {
			if e.Op != memory.OpPutMetadata && e.Op != memory.OpRequest {
				o.t.Log(e.At.Format(time.TimeOnly), e.Op, o.named(e.KeyID), e.Version, e.Instance)
			}
		}
		for _, line := range report.Timeline {
			o.t.Log(line.At.Format(time.TimeOnly), line)
		}
	}
}
