package workflows

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
)

// act names the activities; its methods are never called here.
var act *activities.Activities

// The states of a wave.
const (
	waveWaiting    = "waiting"
	waveDelivering = "delivering"
	waveSoaking    = "soaking"
	wavePassed     = "passed"
	waveFailed     = "failed"
	waveTurnedBack = "turned-back"
)

// rotation is the state of one run.
type rotation struct {
	// ctx is disconnected from a cancellation of the run, which is taken as a request to roll back.
	ctx        workflow.Context
	in         RotationInput
	credential inventory.Credential
	id         string
	plan       policy.Plan
	status     Status
	report     Report
	events     []audit.Event
	numbered   int // events and signals so far, for their IDs

	// turn is what ends the routine way at the next safe point.
	turn *turn
	// breach is a decision of the watch that a pause has yet to answer.
	breach *policy.Decision

	changed, delivered, disabled, rollingBack, over bool
	overlapEnds                                     time.Time
	cancelWatch                                     func()
	verdicts                                        map[string]policy.Verdict
	background                                      workflow.WaitGroup
}

func newRotation(ctx workflow.Context, in RotationInput) (*rotation, error) {
	info := workflow.GetInfo(ctx)
	own, _ := workflow.NewDisconnectedContext(ctx)
	r := &rotation{
		ctx: own, in: in, id: cmp.Or(info.FirstRunID, info.WorkflowExecution.RunID), // the test environment knows no first run

		cancelWatch: func() {}, verdicts: map[string]policy.Verdict{}, background: workflow.NewWaitGroup(ctx),
	}
	// The worker reads the spec strictly, in an activity. Here it is only followed.
	if spec, err := in.Spec.Peek(); err == nil {
		r.credential = spec.Credential
	}
	name, _ := activities.Credential(info.WorkflowExecution.ID)
	r.status = Status{Credential: name, Owner: r.credential.Owner, Rotation: r.id}
	r.report = Report{Credential: name, Rotation: r.id, StartedAt: workflow.Now(ctx)}
	if err := r.listen(ctx); err != nil {
		return nil, err
	}
	r.index()
	if in.Reason != "" || in.RequestedBy != "" {
		r.happened(audit.RotationRequested, map[string]string{"by": in.RequestedBy, "reason": in.Reason})
	}
	return r, nil
}

// subject is what an activity is told that only looks.
func (r *rotation) subject() activities.Rotation {
	return activities.Rotation{Spec: r.in.Spec, ID: r.id, Retiring: r.status.Retiring, Incoming: r.status.Incoming}
}

// acting is what an activity is told that changes or records something: what has happened meanwhile goes
// along, once.
func (r *rotation) acting() activities.Rotation {
	subject := r.subject()
	subject.Events = r.takeEvents()
	return subject
}

func (r *rotation) takeEvents() []audit.Event {
	events := r.events
	r.events = nil
	return events
}

// happened adds an event that no activity sees by itself to the audit record.
func (r *rotation) happened(t audit.Type, detail map[string]string) {
	r.numbered++
	r.events = append(r.events, audit.Event{
		ID:   fmt.Sprintf("%s/%s/%d", r.id, t, r.numbered),
		Time: workflow.Now(r.ctx).UTC(), Type: t, Credential: r.status.Credential, Rotation: r.id,
		Run: workflow.GetInfo(r.ctx).WorkflowExecution.RunID, Actor: "workflow", Detail: detail,
	})
}

// turn is an end of the routine way: what it ends as, and why.
type turn struct {
	outcome Outcome
	reason  policy.Reason
	message string
}

func (t *turn) Error() string { return t.message }

func refused(reason policy.Reason, format string, args ...any) *turn {
	return &turn{outcome: Refused, reason: reason, message: fmt.Sprintf(format, args...)}
}

func turnedBack(reason policy.Reason, format string, args ...any) *turn {
	return &turn{outcome: RolledBack, reason: reason, message: fmt.Sprintf(format, args...)}
}

func failed(reason policy.Reason, format string, args ...any) *turn {
	return &turn{outcome: Failed, reason: reason, message: fmt.Sprintf(format, args...)}
}

// StepFailed is the reason of a turn that trouble of an activity made.
const StepFailed policy.Reason = "step-failed"

// asTurn takes any other error for trouble that did not pass.
func asTurn(err error) *turn {
	var t *turn
	if errors.As(err, &t) {
		return t
	}
	return turnedBack(StepFailed, "%s", cause(err))
}

// cause is the text of what went wrong in an activity, without Temporal's wrapping.
func cause(err error) string {
	var applied *temporal.ApplicationError
	var late *temporal.TimeoutError
	switch {
	case errors.As(err, &applied):
		return applied.Message()
	case errors.As(err, &late):
		text := "no answer in time"
		if last := late.Unwrap(); last != nil {
			text += "; the last one: " + cause(last)
		}
		return text
	}
	return err.Error()
}

// run executes an activity to its end, whatever turns up meanwhile.
func (r *rotation) run(o step, activity, input, output any) error {
	return workflow.ExecuteActivity(o.context(r.ctx, r.credential), activity, input).Get(r.ctx, output)
}

// step executes an activity between two safe points. A turn that comes meanwhile cancels it where it can
// be cancelled, and is the error once it has stopped.
func (r *rotation) step(o step, activity, input, output any) error {
	if err := r.safePoint(); err != nil {
		return err
	}
	ctx, cancel := workflow.WithCancel(r.ctx)
	defer cancel()
	done := workflow.ExecuteActivity(o.context(ctx, r.credential), activity, input)
	if err := workflow.Await(r.ctx, func() bool { return done.IsReady() || o.cancellable && r.turned() != nil }); err != nil {
		return err
	}
	if !done.IsReady() {
		cancel()
	}
	err := done.Get(r.ctx, output)
	if t := r.turned(); t != nil {
		return t
	}
	return err
}

// turned is the turn that counts now: in a rollback only that of an incident.
func (r *rotation) turned() *turn {
	if r.turn != nil && r.rollingBack && r.turn.outcome != Superseded {
		return nil
	}
	return r.turn
}

// safePoint is between two steps: here a turn is taken, and a pause is kept.
func (r *rotation) safePoint() error {
	if t := r.turned(); t != nil {
		return t
	}
	if r.breach != nil && !r.rollingBack {
		return r.pause()
	}
	return nil
}

// wait waits until the deadline, which may move, or until done; a turn ends it. A zero deadline never
// comes.
func (r *rotation) wait(summary string, deadline func() time.Time, done func() bool) error {
	if done == nil {
		done = func() bool { return false }
	}
	for {
		if err := r.safePoint(); err != nil {
			return err
		}
		end := deadline()
		if done() || !end.IsZero() && !workflow.Now(r.ctx).Before(end) {
			return nil
		}
		r.until(end)
		moved := func() bool {
			return r.turned() != nil || r.breach != nil || done() || !deadline().Equal(end)
		}
		var err error
		if end.IsZero() {
			err = workflow.Await(r.ctx, moved)
		} else {
			_, err = workflow.AwaitWithOptions(r.ctx, workflow.AwaitOptions{
				Timeout: end.Sub(workflow.Now(r.ctx)), TimerOptions: workflow.TimerOptions{Summary: summary},
			}, moved)
		}
		if err != nil {
			return err
		}
	}
}

// startWatch watches the error budget and the checks from now on, beside everything else.
func (r *rotation) startWatch() {
	r.breach = nil
	if !watched(r.credential) || r.rollingBack {
		return
	}
	ctx, cancel := workflow.WithCancel(r.ctx)
	r.cancelWatch = cancel
	subject := r.subject()
	workflow.Go(ctx, func(ctx workflow.Context) {
		var d policy.Decision
		err := workflow.ExecuteActivity(watching(r.credential).context(ctx, r.credential), act.Watch, subject).Get(ctx, &d)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			d = policy.Decision{Reason: StepFailed, Message: "the watch itself failed: " + cause(err)}
		}
		r.breached(d)
	})
}

// stopWatch ends the watch, if there is one.
func (r *rotation) stopWatch() {
	r.cancelWatch()
	r.breach = nil
}

func watched(c inventory.Credential) bool {
	if c.ErrorBudget != nil {
		return true
	}
	for _, consumer := range c.Consumers {
		if consumer.Check != nil {
			return true
		}
	}
	return false
}

// breached turns the rotation back, or, by policy or for want of a way back, pauses it.
func (r *rotation) breached(d policy.Decision) {
	r.note("watch: %s", d.Message)
	pause := r.credential.ErrorBudget != nil && r.credential.ErrorBudget.OnBreach == inventory.BreachPause
	if pause || r.status.NoWayBack != "" || d.Reason == StepFailed {
		r.breach = &d
		return
	}
	if r.turn == nil {
		r.turn = turnedBack(d.Reason, "%s", d.Message)
	}
}

// pause waits until all is well again, or somebody turns the rotation back.
func (r *rotation) pause() error {
	before := r.status
	r.tell(notifyAlert, "paused", "Rotation paused", r.breach.Message)
	r.status.Doing = "Paused: " + r.breach.Message
	r.waitFor("the error budget and the checks to hold again", "whoever can mend the cause; or: rollback")
	if err := r.stepInPause(awaitingHealth(r.credential), act.AwaitHealth, r.subject()); err != nil {
		return err
	}
	r.note("all is well again; going on")
	r.status.Doing, r.status.WaitsFor, r.status.UnblockedBy = before.Doing, before.WaitsFor, before.UnblockedBy
	r.startWatch()
	return r.safePoint()
}

// stepInPause is step without its first safe point, which a pause is part of.
func (r *rotation) stepInPause(o step, activity, input any) error {
	breach := r.breach
	r.breach = nil
	err := r.step(o, activity, input, nil)
	if err != nil {
		r.breach = breach
	}
	return err
}

func describeDebt(debt []activities.Debt) string {
	var parts []string
	for _, d := range debt {
		parts = append(parts, d.Kind+" "+d.About)
	}
	return strings.Join(parts, ", ")
}
