package activities

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
)

// ErrSuperseded: Temporal does not wait for this attempt any more: it timed out, another one follows it, or its run has ended.
// Nobody hears of it.
var ErrSuperseded = errors.New("this attempt does not count any more")

// Acknowledged asks Temporal whether the activity's attempt still counts, by a heartbeat with these details, and waits for the
// answer: what the SDK's own heartbeats tell may be as old as their time-out. An answer that took a second or more is
// asked for again, since the process may have stood still after it was given. ErrSuperseded when the attempt does not
// count; any other error when nobody answers, which lets no write be either.
//
// Between answer and write moments remain in which the process may stop: no client of Temporal can close them.
func Acknowledged(ctx context.Context, details any) error {
	var told []any
	var before converter.RawValue // which the heartbeat would wipe
	switch {
	case details != nil:
		told = append(told, details)
	case activity.HasHeartbeatDetails(ctx) && activity.GetHeartbeatDetails(ctx, &before) == nil:
		told = append(told, before)
	}
	for {
		asked := time.Now()
		err := activity.GetClient(ctx).RecordActivityHeartbeat(ctx, activity.GetInfo(ctx).TaskToken, told...)
		if err := counts(ctx, err); err != nil {
			return err
		}
		if time.Since(asked) < time.Second {
			return nil
		}
	}
}

// counts tells what an answer to a heartbeat means.
func counts(ctx context.Context, err error) error {
	var gone *serviceerror.NotFound
	var cancelled *temporal.CanceledError
	switch {
	case ctx.Err() != nil: // then nobody was asked
		return ctx.Err()
	case err == nil, errors.Is(err, activity.ErrActivityPaused): // of a paused activity the attempt that runs ends by itself
		return nil
	case errors.As(err, &cancelled):
		return context.Canceled
	case errors.As(err, &gone), errors.Is(err, activity.ErrActivityReset):
		return fmt.Errorf("%w: %w", ErrSuperseded, err)
	}
	return fmt.Errorf("asking Temporal whether the attempt still counts: %w", err)
}
