package awsaccount

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/providers"
)

// turns is a quota of one call in a second, which is used up, and who went, in this order.
type turns struct {
	*quota
	went []string
}

func newTurns() *turns {
	q := &turns{quota: newQuota(1)}
	q.limit.Reserve()
	return q
}

// waits begins to wait, after whoever began before.
func (q *turns) waits(ctx context.Context, name string) {
	go func() {
		if err := q.wait(ctx); err != nil {
			name += ": " + strings.TrimPrefix(err.Error(), "throttled: ")
		}
		q.mu.Lock()
		defer q.mu.Unlock()
		q.went = append(q.went, name)
	}()
	synctest.Wait()
}

func (q *turns) after(seconds int) string {
	<-time.After(time.Duration(seconds) * time.Second) // by the clock of the bubble
	synctest.Wait()
	q.mu.Lock()
	defer q.mu.Unlock()
	return strings.Join(q.went, " ")
}

func TestAnEmergencysCallGoesBeforeRoutineOnesThatWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newTurns()
		q.waits(t.Context(), "r1")
		q.waits(t.Context(), "r2")
		q.waits(providers.Urgent(t.Context()), "u1")
		q.waits(providers.Urgent(t.Context()), "u2")
		assert.Equal(t, "u1", q.after(1))
		assert.Equal(t, "u1 u2", q.after(1))
		assert.Equal(t, "u1 u2 r1 r2", q.after(2), "each kind in its order, one a second")
	})
}

func TestRoutineCallsGoNowAndThenHoweverManyEmergenciesThereAre(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newTurns()
		q.waits(t.Context(), "r1")
		q.waits(t.Context(), "r2")
		for i := range 10 {
			q.waits(providers.Urgent(t.Context()), fmt.Sprint("u", i))
		}
		assert.Equal(t, "u0 u1 u2 u3 r1 u4 u5 u6 u7 r2 u8 u9", q.after(12))
	})
}

func TestWhoGivesUpWaitingGivesItsPlaceBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newTurns()
		ctx, cancel := context.WithCancel(t.Context())
		q.waits(ctx, "r1")
		q.waits(providers.Urgent(ctx), "u1")
		q.waits(t.Context(), "r2")
		cancel()
		synctest.Wait()
		said := q.after(1)
		assert.Contains(t, said, "r1: context canceled")
		assert.Contains(t, said, "u1: context canceled")
		assert.True(t, strings.HasSuffix(said, " r2"), "the next one goes at the first turn: %s", said)
	})
}

func TestOneThatIsOvertakenUntilItsTimeEndsIsThrottled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newTurns()
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		q.waits(ctx, "r1")
		q.waits(providers.Urgent(t.Context()), "u1")
		q.waits(providers.Urgent(t.Context()), "u2")
		said := q.after(3)
		assert.Contains(t, said, "r1: the account's quota in the worker configuration lets no call through in time")
		assert.True(t, strings.HasPrefix(said, "u1 ") && strings.HasSuffix(said, " u2"), said)
		late, end := context.WithTimeout(t.Context(), time.Second/2)
		defer end()
		q.limit.Reserve()
		require.ErrorIs(t, q.wait(late), providers.ErrThrottled, "who cannot have a turn in time is told at once")
		require.NoError(t, late.Err())
	})
}

func TestCallsThatWaitForNobodyCount(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newTurns()
		q.limit.Reserve() // an effect, and another one
		q.limit.Reserve()
		q.waits(providers.Urgent(t.Context()), "u1")
		assert.Empty(t, q.after(2))
		assert.Equal(t, "u1", q.after(1))
	})
}
