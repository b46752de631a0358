package workflows_test

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/keyturn/keyturn/providers/memory"
	"github.com/keyturn/keyturn/workflows"
)

// In a long overlap nothing changes: it is watched each few minutes, the keys too, and whoever falls ill in it still turns it
// back. Whoever has an error budget is watched as often as its window needs.
func TestALongOverlapIsWatchedMoreRarely(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		budget          bool
		atLeast, atMost int32 // looks in an hour
	}{
		"by checks and keys":     {atLeast: 11, atMost: 13},               // each five minutes
		"by an error budget too": {budget: true, atLeast: 55, atMost: 61}, // each minute, a fifth of its window
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			s.credential.Overlap, s.credential.WaveSoak, s.credential.DisableSoak = minutes(20*60), minutes(10), minutes(10)
			if !c.budget {
				s.credential.ErrorBudget, s.credential.Health = nil, nil
			}
			var looks, asked atomic.Int32
			count := func(of *atomic.Int32) func(memory.Phase) {
				return func(at memory.Phase) {
					if at == memory.Before {
						of.Add(1)
					}
				}
			}
			s.world.On(memory.OpCheck, count(&looks))
			s.world.On(memory.OpList, count(&asked))
			s.traffic(12 * time.Hour)
			s.in("overlap", 30*time.Minute, func() { looks.Store(0) })
			s.in("overlap", time.Hour, func() {
				assert.Greater(t, looks.Load(), int32(30*len(fleet)), "soon after the promotion it is watched each half minute, or more often")
			})
			s.in("overlap", 9*time.Hour, func() { looks.Store(0); asked.Store(0) })
			s.in("overlap", 10*time.Hour, func() {
				each := looks.Load() / int32(len(fleet))
				assert.LessOrEqual(t, each, c.atMost)
				assert.GreaterOrEqual(t, each, c.atLeast)
				assert.GreaterOrEqual(t, asked.Load(), int32(10), "the keys are asked about each six minutes at least")
				s.world.SetInstance("canary", memory.InstanceSettings{Unhealthy: errors.New("HTTP 500")})
			})
			report := s.run()
			assert.Equal(t, workflows.RolledBack, report.Outcome)
			assert.Less(t, s.env.Now().Sub(s.began), 10*time.Hour+15*time.Minute, "who is ill is looked at again soon")
			assert.Zero(t, s.refused())
		})
	}
}

// However long a wave was held, the soak of the next one is not over before the watch has looked.
func TestASoakAfterALongHoldIsWatched(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.credential.ErrorBudget.Window, s.credential.ErrorBudget.MaxHold = minutes(30), minutes(24*60)
	s.in("canary held", 10*time.Hour, func() { s.traffic(3 * time.Hour) })
	ill := false
	s.every(10*time.Second, 12*time.Hour, func() {
		if !ill && s.where() == "rest soaking" {
			ill = true
			s.world.SetInstance("checkout-a", memory.InstanceSettings{Unhealthy: errors.New("HTTP 500")})
		}
	})
	report := s.run()
	assert.Equal(t, workflows.RolledBack, report.Outcome, report.Message)
	assert.True(t, ill)
	assert.Empty(t, s.happened(memory.OpPromote))
}
