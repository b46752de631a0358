package workflows

import (
	"math"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/internal/inventory"
)

// step is how an activity is run: how long an attempt and all of them together may take, how they follow
// each other, and whether a turn of the rotation may cancel it.
type step struct {
	// summary is shown in the Web UI.
	summary string
	// attempt bounds one attempt, total all of them; no total waits for ever.
	attempt, total time.Duration
	// beat is the heartbeat time-out of those that can last.
	beat time.Duration
	// every is a steady interval, for waits. Otherwise attempts follow at 1 s, growing to a minute.
	every time.Duration
	// cancellable: a turn does not wait for it to end well. Its last attempt is still waited for, unless
	// it changes nothing.
	cancellable, changesNothing bool
	// common: it runs on the common queue, not on that of the issuer account.
	common bool
}

// A step that changes something is retried for long, since half a change helps nobody; one that only
// looks is given up soon.
var (
	accepting  = step{summary: "read the spec", attempt: 10 * time.Second, total: 2 * time.Minute, common: true}
	inspecting = step{summary: "look at issuer, store and consumers", attempt: time.Minute, total: 10 * time.Minute}
	issuing    = step{summary: "mint a key and store it as PENDING", attempt: 2 * time.Minute, total: 30 * time.Minute}
	verifying  = step{summary: "try the incoming key", attempt: 2 * time.Minute, total: 15 * time.Minute, cancellable: true}
	promoting  = step{summary: "move CURRENT to the incoming key", attempt: time.Minute, total: 30 * time.Minute}
	disabling  = step{summary: "disable the retiring key", attempt: 2 * time.Minute, total: 30 * time.Minute}
	enabling   = step{summary: "enable the retiring key again", attempt: 2 * time.Minute, total: 6 * time.Hour}
	destroying = step{summary: "destroy the retiring key and probe it", attempt: 3 * time.Minute, total: 2 * time.Hour}
	restoring  = step{summary: "move CURRENT back to the retiring key", attempt: time.Minute, total: 6 * time.Hour}
	recording  = step{summary: "clean up and write the record", attempt: 2 * time.Minute, total: time.Hour}
	logging    = step{summary: "write the audit record", attempt: 30 * time.Second, total: 10 * time.Minute, common: true}
	notifying  = step{summary: "tell people", attempt: 30 * time.Second, total: 5 * time.Minute, common: true}
)

func delivering(c inventory.Credential, wave string) step {
	return step{
		summary: "deliver to wave " + wave, attempt: c.WaveTimeout.Std() + time.Minute, total: c.WaveTimeout.Std() + 10*time.Minute,
		beat: 30 * time.Second, cancellable: true,
	}
}

func watching(c inventory.Credential) step {
	return step{summary: "watch error budget and checks", attempt: time.Minute, every: interval(c), cancellable: true, changesNothing: true, common: true}
}

func awaitingHealth(c inventory.Credential) step {
	return step{summary: "wait until all is well", attempt: time.Minute, every: interval(c), cancellable: true, changesNothing: true, common: true}
}

func gathering(c inventory.Credential) step {
	return step{summary: "gather the evidence", attempt: 2 * time.Minute, every: interval(c), cancellable: true, changesNothing: true}
}

// discarding waits for a key to be quiet, so it may take as long as that, and a day for stragglers.
func discarding(c inventory.Credential) step {
	return step{summary: "destroy unwanted keys", attempt: 2 * time.Minute, total: c.QuietWindow.Std() + 24*time.Hour, every: interval(c)}
}

// interval is how often something is looked at while waiting: ten times in the shortest wait of the
// credential, but not more often than each second, nor less than each 30.
func interval(c inventory.Credential) time.Duration {
	shortest := 5 * time.Minute
	for _, d := range []inventory.Duration{c.WaveSoak, c.Overlap, c.QuietWindow, c.DisableSoak} {
		if d > 0 {
			shortest = min(shortest, d.Std())
		}
	}
	return min(max(shortest/10, time.Second), 30*time.Second)
}

func (s step) context(ctx workflow.Context, c inventory.Credential) workflow.Context {
	retry := temporal.RetryPolicy{InitialInterval: time.Second, BackoffCoefficient: 2, MaximumInterval: time.Minute}
	if s.every > 0 {
		retry = temporal.RetryPolicy{InitialInterval: s.every, BackoffCoefficient: 1, MaximumInterval: s.every}
	}
	// As good as unlimited. Zero would say that too, but Temporal's test environment takes it for ten.
	retry.MaximumAttempts = math.MaxInt32
	queue := AccountQueue(c.Issuer.Account)
	if s.common {
		queue = TaskQueue
	}
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		TaskQueue: queue, Summary: s.summary, StartToCloseTimeout: s.attempt, ScheduleToCloseTimeout: s.total,
		HeartbeatTimeout: s.beat, RetryPolicy: &retry, WaitForCancellation: !s.changesNothing,
	})
}
