package activities

import (
	"context"
	"fmt"
	"log/slog"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/log"
)

// actor is who acts: an attempt of an activity, or a program that stands outside Temporal.
type actor struct {
	workflow, run string
	activity      string // within the run
	attempt       int32
}

type actorKey struct{}

// ByProgram is the context of a program that acts on a credential by itself, under the same lease as its rotations: this is the
// workflow and the run that the lease, the mint intents and the audit record name. No effect needs more of Temporal than that.
func ByProgram(ctx context.Context, workflow, run string) context.Context {
	return context.WithValue(ctx, actorKey{}, actor{workflow: workflow, run: run, attempt: 1})
}

// acting is who acts in this context.
func acting(ctx context.Context) actor {
	if who, outside := ctx.Value(actorKey{}).(actor); outside {
		return who
	}
	info := activity.GetInfo(ctx)
	return actor{info.WorkflowExecution.ID, info.WorkflowExecution.RunID, info.ActivityID, info.Attempt}
}

func (a actor) String() string { return fmt.Sprintf("%s/%s/%d", a.run, a.activity, a.attempt) }

// logger is the worker's log, or that of the program.
func logger(ctx context.Context) log.Logger {
	if activity.IsActivity(ctx) {
		return activity.GetLogger(ctx)
	}
	return log.NewStructuredLogger(slog.Default())
}
