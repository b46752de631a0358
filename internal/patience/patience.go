// Package patience waits: for a time, and for a Temporal server that has no time for a call right now.
package patience

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"go.temporal.io/api/serviceerror"
)

// How often, and for how long, a call is repeated: the server limits what is asked of it, and a workflow-backed
// Schedule takes one question at a time, and none while it does not run yet. An answer that broke off, as a proxy's may, is
// asked for some more times.
const (
	busy    = 60
	broken  = 5
	tooLong = 2 * time.Minute
)

// Call repeats a call, which must do the same twice as once, while the server is busy.
func Call[T any](ctx context.Context, call func() (T, error)) (T, error) {
	begun := time.Now()
	for tried := 1; ; tried++ {
		answer, err := call()
		if !isBusy(err) && (tried >= broken || !isBroken(err)) || tried == busy || ctx.Err() != nil || time.Since(begun) > tooLong {
			return answer, err
		}
		longest := min(50*tried, 1000)
		if waited := Pause(ctx, time.Duration(10+rand.IntN(longest))*time.Millisecond); waited != nil { //nolint:gosec // only spreads
			return answer, err
		}
	}
}

func isBroken(err error) bool {
	var internal *serviceerror.Internal
	return errors.As(err, &internal)
}

func isBusy(err error) bool {
	var exhausted *serviceerror.ResourceExhausted
	var unavailable *serviceerror.Unavailable
	var late *serviceerror.DeadlineExceeded
	var dropped *serviceerror.Canceled          // by the server: the caller would have ended the context, too
	var notReady *serviceerror.WorkflowNotReady // that of the server's own, which keeps the deployment, after a failed task
	var several *serviceerror.MultiOperationExecution
	if errors.As(err, &notReady) || errors.As(err, &several) && slices.ContainsFunc(several.OperationErrors(), isBusy) {
		return true
	}
	return errors.As(err, &exhausted) || errors.As(err, &unavailable) || errors.As(err, &late) || errors.As(err, &dropped) || errors.Is(err, context.DeadlineExceeded)
}

// Pause waits, and fails when ctx ends first.
func Pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
