package awsaccount

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/smithy-go/middleware"
	"golang.org/x/time/rate"

	"github.com/keyturn/keyturn/providers"
)

// errQuota: the caller has less time than the quota makes it wait.
var errQuota = fmt.Errorf("%w: the account's quota in the worker configuration lets no call through in time: raise it, or wait", providers.ErrThrottled)

// Pace implements providers.Paced.
func (a *Account) Pace(perSecond float64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.quota = newQuota(perSecond)
	a.loaded = nil
}

// pace lets each attempt of a call that only looks wait for its turn, before it is signed: an attempt of the SDK's own counts like any other.
func pace(q *quota) func(*middleware.Stack) error {
	return func(stack *middleware.Stack) error {
		return stack.Finalize.Insert(middleware.FinalizeMiddlewareFunc("keyturn:Pace",
			func(ctx context.Context, in middleware.FinalizeInput, next middleware.FinalizeHandler) (out middleware.FinalizeOutput, metadata middleware.Metadata, err error) {
				if !looks.MatchString(awsmiddleware.GetOperationName(ctx)) {
					q.limit.Reserve() // it counts, and waits for nobody: between the judgement and its effect no time passes
				} else if err := q.wait(ctx); err != nil {
					return out, metadata, err
				}
				return next.HandleFinalize(ctx, in)
			}), "Retry", middleware.After)
	}
}

// inARow is how many urgent calls go before a routine one that waits, and then that one goes: nobody waits for ever.
const inARow = 4

// quota lets so many calls through in a second. Of those that wait, urgent ones go first, and each kind in its order.
type quota struct {
	limit *rate.Limiter // calls that do not wait take its tokens below zero

	mu              sync.Mutex
	urgent, routine []turn
	passed          int // urgent calls since a routine one went that waited
	timer           *time.Timer
}

// turn is closed when it comes.
type turn chan struct{}

func newQuota(perSecond float64) *quota {
	return &quota{limit: rate.NewLimiter(rate.Limit(perSecond), max(1, int(perSecond)))} // at once, what a second may have
}

// wait returns when a call may go. errQuota when the caller's time does not last so long.
func (q *quota) wait(ctx context.Context) error {
	mine, err := q.enter(ctx)
	if err != nil {
		return err
	}
	select {
	case <-mine:
		return nil
	case <-ctx.Done():
		q.leave(mine)
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return errQuota // more urgent ones came in between
	}
	return ctx.Err()
}

func (q *quota) enter(ctx context.Context) (turn, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	queue, ahead := &q.urgent, len(q.urgent)
	if !providers.IsUrgent(ctx) {
		queue, ahead = &q.routine, ahead+len(q.routine)
	}
	if ends, has := ctx.Deadline(); has && q.takes(ahead+1) > time.Until(ends) {
		return nil, errQuota
	}
	mine := make(turn)
	*queue = append(*queue, mine)
	q.next()
	return mine, nil
}

// leave gives a place back. A turn that has just come is used up.
func (q *quota) leave(mine turn) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, queue := range []*[]turn{&q.urgent, &q.routine} {
		if i := slices.Index(*queue, mine); i >= 0 {
			*queue = slices.Delete(*queue, i, i+1)
		}
	}
}

// next lets go whom the quota allows, and comes again when it allows another one.
func (q *quota) next() {
	for len(q.urgent)+len(q.routine) > 0 && q.limit.Allow() {
		close(q.first())
	}
	if len(q.urgent)+len(q.routine) == 0 {
		return
	}
	if q.timer != nil {
		q.timer.Stop()
	}
	q.timer = time.AfterFunc(q.takes(1), func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.next()
	})
}

// first takes who is next out of its queue.
func (q *quota) first() turn {
	queue := &q.urgent
	switch {
	case len(q.routine) == 0:
	case len(q.urgent) == 0 || q.passed == inARow:
		queue, q.passed = &q.routine, 0
	default:
		q.passed++
	}
	next := (*queue)[0]
	*queue = (*queue)[1:]
	return next
}

// takes is how long it is until so many may go.
func (q *quota) takes(calls int) time.Duration {
	short := max(0, float64(calls)-q.limit.Tokens())
	return time.Duration(math.Ceil(short / float64(q.limit.Limit()) * float64(time.Second)))
}
