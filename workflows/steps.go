package workflows

import (
	"cmp"
	"math"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/outside"
	"github.com/keyturn/keyturn/internal/policy"
)

// step is how an activity is run: how long an attempt may take, how many may fail in a row and how they follow
// each other, and whether a turn of the rotation may cancel it. The time that it waits for a worker counts for nothing.
type step struct {
	// summary is shown in the Web UI.
	summary string
	// attempt bounds one attempt, and total how many there are, those that say "not yet" among them: as many as it has room for
	// when each ends at once. No total waits for ever.
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
	// yields: on the queue of an issuer account, rotations that run go first. afterwards: in an emergency, what ends exposed keys, of
	// others too, goes first.
	yields, afterwards bool
	// reports: that nobody answered within total is a part of the answer, so that here the time in the queue counts.
	reports bool
	// local: it runs in the worker that has the workflow task, as one event of the history instead of six.
	// Only for what takes moments. It gets the very values that it is given, so a pointer only where it takes one.
	local bool
}

// A step that changes something is retried for long, since half a change helps nobody; one that only
// looks is soon said to have no answer.
var (
	accepting  = step{summary: "read the spec", attempt: 10 * time.Second, total: 2 * time.Minute, local: true}
	resolving  = step{summary: "find the spec in the Schedule", attempt: 10 * time.Second, total: 2 * time.Minute, local: true}
	looking    = step{summary: "look whether a rotation is due", attempt: time.Minute, total: 30 * time.Minute, yields: true}
	rechecking = step{summary: "look whether it is still due", attempt: time.Minute, total: 10 * time.Minute}
	comparing  = step{summary: "compare with the Schedule", attempt: 10 * time.Second, total: 2 * time.Minute, local: true}
	lookingUp  = step{summary: "look up what issuer and store say", attempt: time.Minute, total: 3 * time.Minute, reports: true}
	inspecting = step{summary: "look at issuer, store and consumers", attempt: 2 * time.Minute, total: 10 * time.Minute}
	promoting  = step{summary: "move CURRENT to the incoming key", attempt: 2 * time.Minute, total: 30 * time.Minute}
	disabling  = step{summary: "disable the retiring key", attempt: 2 * time.Minute, total: 30 * time.Minute}
	enabling   = step{summary: "enable the retiring key again", attempt: 2 * time.Minute, total: 30 * time.Minute}
	destroying = step{summary: "destroy the retiring key and probe it", attempt: 3 * time.Minute, total: 2 * time.Second} // while it hangs, nobody who misses the key gets it back
	restoring  = step{summary: "move CURRENT back to the retiring key", attempt: 2 * time.Minute, total: 30 * time.Minute}
	recording  = step{summary: "clean up and write the record", attempt: 2 * time.Minute, total: time.Hour, afterwards: true}
	// In an emergency a worker that died is soon followed by another one.
	assessing       = step{summary: "look at the exposed keys", attempt: 20 * time.Second, total: 10 * time.Minute, changesNothing: true}
	seeing          = step{summary: "look whether exposed keys are dead", attempt: 2 * time.Minute, total: 10 * time.Minute, changesNothing: true} // twice, as an issuer may tell late
	containing      = step{summary: "destroy an exposed key and probe it", attempt: 3 * time.Minute, total: 30 * time.Minute}
	reviewingMisuse = step{summary: "ask who used the exposed keys", attempt: 3 * time.Minute, total: 4 * time.Minute, changesNothing: true, reports: true, afterwards: true}
	declaring       = step{summary: "verify the declaration", attempt: 10 * time.Second, total: 2 * time.Minute, local: true}
	freezing        = step{summary: "tell the hooks that freeze deployments", attempt: 20 * time.Second, total: time.Minute}
	reviewing       = step{summary: "write the review into the audit record", attempt: 30 * time.Second, total: 2 * time.Minute}
	announcing      = step{summary: "tell people of the incident", attempt: 30 * time.Second, total: 5 * time.Minute}
	following       = step{summary: "ask the rotation that runs whether it has heard", attempt: 30 * time.Second, total: time.Minute}
	// Whoever asks for a rollback waits for it.
	lookingBack = step{summary: "look whether there is a way back", attempt: 20 * time.Second, total: 30 * time.Second, local: true}
	proving     = step{summary: "verify signed decisions", attempt: 10 * time.Second, total: 2 * time.Minute, local: true}
	logging     = step{summary: "write the audit record", attempt: 30 * time.Second, total: 10 * time.Minute, common: true}
	// It writes into the store, so that whoever holds it may not take long.
	reviewingGlass = step{summary: "record the review of a break-glass approval", attempt: time.Minute, total: 10 * time.Minute}
	notifying      = step{summary: "tell people", attempt: 30 * time.Second, total: 5 * time.Minute, common: true}
	asking         = step{summary: "read the worker configuration", attempt: 10 * time.Second, total: 2 * time.Minute, local: true}
	listing        = step{summary: "list the credentials that are applied", attempt: 2 * time.Minute, total: 10 * time.Minute, common: true, changesNothing: true}
	surveying      = step{summary: "look at credentials", attempt: 5 * time.Minute, total: 15 * time.Minute, beat: 90 * time.Second, changesNothing: true, reports: true}
	scanning       = step{summary: "list keys of an account", attempt: 10 * time.Minute, total: 30 * time.Minute, beat: 90 * time.Second, changesNothing: true, reports: true}
	// A receiver that answers is told at once; one that does not is for notifying.
	notifyingAtOnce = step{summary: "tell people", attempt: 3 * time.Second, total: time.Second, local: true}
)

// awaitingSlot is asked again as often as the activity says.
var awaitingSlot = step{summary: "wait for a slot", attempt: 30 * time.Second, every: 10 * time.Second, cancellable: true, changesNothing: true, common: true}

// trusting waits for the configuration of a worker to change, so it need not look often.
var trusting = step{summary: "wait until the spec is trusted", attempt: 10 * time.Second, every: 30 * time.Second, cancellable: true, changesNothing: true, common: true}

// summary bounds one with a name in it: Temporal refuses the command of a longer one.
func summary(s string) string { return outside.Text(s, 200) }

// sleep lets time pass, under a name that a person understands.
func sleep(ctx workflow.Context, d time.Duration, what string) error {
	return workflow.NewTimerWithOptions(ctx, d, workflow.TimerOptions{Summary: what}).Get(ctx, nil)
}

// awaitAtMost waits until done, at most for so long, under a name that a person understands. It tells whether it was done in time.
func awaitAtMost(ctx workflow.Context, d time.Duration, what string, done func() bool) (bool, error) {
	return workflow.AwaitWithOptions(ctx, workflow.AwaitOptions{Timeout: d, TimerOptions: workflow.TimerOptions{Summary: what}}, done)
}

// issuing waits for the key of an interrupted mint to be known as unused, which is never longer than the quiet window.
func issuing(c inventory.Credential) step {
	return step{summary: "mint a key, store it as PENDING and try it", attempt: 4 * time.Minute, total: 30*time.Minute + c.QuietWindow.Std(), cancellable: true}
}

func delivering(c inventory.Credential, wave string) step {
	return step{
		summary: summary("deliver to wave " + wave), attempt: policy.LongestDelivery(c), total: c.WaveTimeout.Std() + 10*time.Minute,
		beat: 30 * time.Second, cancellable: true,
	}
}

// watching is on the common queue: it asks an issuer in one of many looks, and in an account whose quota is used up it must see the error
// budget all the same.
func watching(c inventory.Credential) step {
	return step{summary: "watch error budget, keys and checks", attempt: 2 * time.Minute, every: c.LookEvery(), cancellable: true, changesNothing: true, common: true}
}

// awaitingHealth asks the issuer in each look: when a health signal that thousands rely on fails, all of them are paused at once.
func awaitingHealth(c inventory.Credential) step {
	return step{summary: "wait until all is well", attempt: 2 * time.Minute, every: c.LookEvery(), cancellable: true, changesNothing: true}
}

// counting asks the health signals at the end of a soak; whoever does not answer at once has said nothing.
var counting = step{summary: "count the requests of the soak", attempt: 20 * time.Second, total: 30 * time.Second, local: true}

func awaitingTraffic(c inventory.Credential) step {
	return step{summary: "wait for the requests that the error budget needs", attempt: 2 * time.Minute, every: c.LookEvery(), cancellable: true, changesNothing: true, common: true}
}

func gathering(c inventory.Credential) step {
	return step{summary: "gather the evidence", attempt: 2 * time.Minute, every: c.LookEvery(), cancellable: true, changesNothing: true}
}

// discarding waits for a key to be quiet and forgotten, so it may take as long as that, and a day for stragglers.
func discarding(c inventory.Credential) step {
	lasts := (c.QuietWindow + c.LongestCache() + c.LongestBatch()).Std() + policy.LongestDelivery(c)
	return step{summary: "destroy unwanted keys", attempt: 2 * time.Minute, total: lasts + 24*time.Hour, every: c.LookEvery()}
}

// urgent is a step of an emergency: a worker that died in it is missed soon.
func (s step) urgent() step {
	s.beat = 20 * time.Second
	return s
}

// unending is a step that only looks, asked again by the server until there is an answer that asking would not change.
func (s step) unending() step {
	s.total, s.local, s.cancellable, s.changesNothing = 0, false, true, true
	return s
}

// attempts is how many there may be.
func (s step) attempts() int32 {
	if s.total == 0 {
		return math.MaxInt32 // as good as unlimited: zero would say that too, but Temporal's test environment takes it for ten
	}
	n, pause := int32(1), cmp.Or(s.every, firstPause)
	for at := pause; at < s.total; at += pause {
		n++
		if s.every == 0 {
			pause = min(2*pause, longestPause)
		}
	}
	return n
}

// Attempts that fail follow each other at intervals that double, from the one to the other.
const (
	firstPause   = time.Second
	longestPause = time.Minute
)

// unanswered tells whether a step that only looks ended without an answer that asking again would not change: nobody answered in
// time, or Temporal, a worker or an issuer was busy or away.
func unanswered(err error) bool {
	return err != nil && !isFinal(err) && !temporal.IsCanceledError(err)
}

// start begins the activity; queue is where calls to the issuer go. One that takes no input gets nil.
func (s step) start(ctx workflow.Context, queue string, activity, input any) workflow.Future {
	retry := temporal.RetryPolicy{InitialInterval: firstPause, BackoffCoefficient: 2, MaximumInterval: longestPause, MaximumAttempts: s.attempts()}
	if s.every > 0 {
		retry.InitialInterval, retry.BackoffCoefficient, retry.MaximumInterval = s.every, 1, s.every
	}
	var args []any
	if input != nil {
		args = []any{input}
	}
	if s.local {
		return workflow.ExecuteLocalActivity(workflow.WithLocalActivityOptions(ctx, workflow.LocalActivityOptions{
			Summary: s.summary, StartToCloseTimeout: s.attempt, RetryPolicy: &retry,
		}), activity, args...)
	}
	if s.common {
		queue = TaskQueue
	}
	options := workflow.ActivityOptions{
		TaskQueue: queue, Summary: s.summary, StartToCloseTimeout: s.attempt,
		HeartbeatTimeout: s.beat, RetryPolicy: &retry, WaitForCancellation: !s.changesNothing,
	}
	options.Priority = s.priority(workflow.GetActivityOptions(ctx).Priority)
	if s.reports {
		options.ScheduleToCloseTimeout = s.total
	}
	return workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, options), activity, args...)
}

// priority is that of the activity, in a run of this one.
func (s step) priority(p temporal.Priority) temporal.Priority {
	switch {
	case s.yields:
		p.PriorityKey = 4 // Temporal's own is 3 of 1 to 5
	case s.afterwards && p.PriorityKey == UrgentPriority:
		p.PriorityKey = SoonPriority
	}
	return p
}
