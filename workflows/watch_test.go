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
		atLeast, atMost int32 // looks in half an hour
	}{
		"by checks and keys":     {atLeast: 8, atMost: 10},                // each three minutes, a hundredth of it
		"by an error budget too": {budget: true, atLeast: 28, atMost: 30}, // each minute, a fifth of its window
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			s.credential.Overlap = minutes(300)
			if !c.budget {
				s.credential.ErrorBudget, s.credential.Health = nil, nil
			}
			var looks, asked atomic.Int32
			s.world.On(memory.OpCheck, func(at memory.Phase) {
				if at == memory.Before {
					looks.Add(1)
				}
			})
			s.world.On(memory.OpList, func(at memory.Phase) {
				if at == memory.Before {
					asked.Add(1)
				}
			})
			s.traffic(4 * time.Hour)
			s.in("overlap", time.Hour, func() { looks.Store(0); asked.Store(0) })
			s.in("overlap", 90*time.Minute, func() {
				each := looks.Load() / int32(len(fleet))
				assert.LessOrEqual(t, each, c.atMost)
				assert.GreaterOrEqual(t, each, c.atLeast)
				assert.GreaterOrEqual(t, asked.Load(), int32(4), "the keys are asked about each six minutes")
				s.world.SetInstance("canary", memory.InstanceSettings{Unhealthy: errors.New("HTTP 500")})
			})
			s.in("overlap", 92*time.Minute, func() {})
			report := s.run()
			assert.Equal(t, workflows.RolledBack, report.Outcome)
			assert.Less(t, s.env.Now().Sub(s.began), 110*time.Minute, "three looks at who is ill, and some minutes to turn back")
			assert.Zero(t, s.refused())
		})
	}
}
