package workflows

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/outside"
	"github.com/keyturn/keyturn/internal/policy"
)

// act names the activities; its methods are never called here.
var act *activities.Activities

// The states of a wave.
const (
	waveWaiting    = "waiting"
	waveDelivering = "delivering"
	waveSoaking    = "soaking"
	waveHeld       = "held" // past its soak, for want of requests
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
	queue      string // where calls to the issuer go
	id         string
	plan       policy.Plan
	status     Status
	report     Report
	outbox     outbox
	numbered   int // events and signals so far, for their IDs
	requests   int // signals and updates of this run

	// at is the part of the rotation that is going on.
	at string
	// turn is what ends the routine way at the next safe point.
	turn *turn
	// full: the run ends at the next safe point, and the next one goes on.
	full bool
	// breach is a decision of the watch that a pause has yet to answer.
	breach *policy.Decision
	// retiringGone: the issuer accepts the retiring key no more, for good, which people were told.
	retiringGone bool

	changed, delivered, promoted, disabled, rollingBack, over bool
	// approved: the revoke gate was passed, and what it allows is not over.
	approved bool
	// holding: the spec's signature is not trusted now; resigned: another one was taken.
	holding, resigned bool
	overlapEnds       time.Time
	incomingEnds      time.Time        // by itself; zero for never
	signoffs          []policy.Verdict // that passed the sign-off gate
	// debtDisabled: the retired key was disabled before a run that settles began.
	debtDisabled bool
	cancelWatch  func()
	watches      int   // begun so far; only the last one counts
	indexed      Phase // by which the run is found
	verdicts     map[string]policy.Verdict
	remembered   int // their size, in bytes
	proved       int // signed decisions looked at since the gate opened
	unproved     []*unproved
	background   workflow.WaitGroup
	stale        bool // what is shown
}

func newRotation(ctx workflow.Context, in RotationInput) (*rotation, error) {
	info := workflow.GetInfo(ctx)
	own, _ := workflow.NewDisconnectedContext(ctx)
	r := &rotation{
		ctx: own, in: in, queue: TaskQueue, id: cmp.Or(info.FirstRunID, info.WorkflowExecution.RunID), // the test environment knows no first run

		cancelWatch: func() {}, verdicts: map[string]policy.Verdict{}, background: workflow.NewWaitGroup(ctx),
	}
	// The worker reads the spec strictly, in an activity. Here it is only followed.
	if spec, err := in.Spec.Peek(); err == nil {
		r.credential = spec.Credential
	}
	name, _ := activities.Credential(info.WorkflowExecution.ID)
	r.status = Status{Credential: name, Owner: r.credential.Owner, Rotation: r.id}
	r.report = Report{Credential: name, Rotation: r.id, StartedAt: workflow.Now(ctx)}
	workflow.Go(r.ctx, r.keepShown)
	if err := r.listen(ctx); err != nil {
		return nil, err
	}
	if in.Carried != nil {
		r.resume(*in.Carried)
		return r, nil
	}
	r.indexed = PhaseInspect
	if name, _ := workflow.GetTypedSearchAttributes(ctx).GetKeyword(AttributeCredential); name == "" { // else whoever started it has
		r.index()
	}
	if in.Reason != "" || in.RequestedBy != "" {
		r.happened(audit.RotationRequested, map[string]string{"by": in.RequestedBy, "reason": in.Reason})
	}
	return r, nil
}

// subject is what an activity is told that only looks.
func (r *rotation) subject() *activities.Rotation {
	return &activities.Rotation{Spec: r.in.Spec, ID: r.id, Retiring: r.status.Retiring, Incoming: r.status.Incoming}
}

// acting is what an activity is told that changes or records something: what has happened meanwhile goes along.
func (r *rotation) acting() *activities.Rotation {
	r.flush()
	subject := r.subject()
	subject.Events = r.outbox.along()
	return subject
}

// turn is an end of the routine way: what it ends as, and why.
type turn struct {
	outcome Outcome
	reason  policy.Reason
	message string
}

func (t *turn) Error() string { return t.message }

// turnTo bounds the message, which becomes a part of the report.
func turnTo(o Outcome, reason policy.Reason, format string, args ...any) *turn {
	return &turn{outcome: o, reason: reason, message: outside.Lines(fmt.Sprintf(format, args...), 4*outside.MaxText)}
}

func refused(reason policy.Reason, format string, args ...any) *turn {
	return turnTo(Refused, reason, format, args...)
}

func turnedBack(reason policy.Reason, format string, args ...any) *turn {
	return turnTo(RolledBack, reason, format, args...)
}

func failed(reason policy.Reason, format string, args ...any) *turn {
	return turnTo(Failed, reason, format, args...)
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

// cause is the text of what went wrong in an activity, bounded and without Temporal's wrapping.
func cause(err error) string { return clip(unwrapped(err)) }

func unwrapped(err error) string {
	var applied *temporal.ApplicationError
	var late *temporal.TimeoutError
	switch {
	case errors.As(err, &applied):
		return cmp.Or(applied.Message(), applied.Type(), "an error that says nothing")
	case errors.As(err, &late):
		text := "no answer in time"
		if late.TimeoutType() == enumspb.TIMEOUT_TYPE_HEARTBEAT {
			text = "the worker that did it fell silent"
		}
		if last := late.Unwrap(); last != nil {
			text += "; the last one: " + unwrapped(last)
		}
		return text
	}
	return cmp.Or(err.Error(), "an error that says nothing")
}

// ask executes a step that only looks, before anything is changed, until it has an answer. Where the first round of attempts has
// none, people are told once, the server asks on, and a turn ends it.
func (r *rotation) ask(o step, activity, input, output any) error {
	err := r.run(o, activity, input, output)
	if !unanswered(r.ctx, err) {
		return err
	}
	r.note("could not %s yet: %s", o.summary, cause(err))
	r.tell(notifyAlert, "unanswered", "A rotation cannot begin yet", fmt.Sprintf("It could not %s: %s. Nothing is changed, and it is tried again and again.", o.summary, cause(err)))
	before := r.status
	r.waitFor(fmt.Sprintf("an answer: it could not %s: %s", o.summary, cause(err)), "whoever can mend it; it is tried again by itself; or: rollback, which ends it")
	if err := r.step(o.unending(), activity, input, output); err != nil {
		return err
	}
	r.note("there is an answer; going on")
	r.waitFor(before.WaitsFor, before.UnblockedBy)
	return nil
}

// refusal is how a rotation ends that changed nothing yet, since a step that only looks was refused, or turned.
func refusal(err error, what string) error {
	var t *turn
	switch {
	case errors.As(err, &t), errors.Is(err, errFull):
		return err
	case isType(err, activities.TypeSpec, activities.TypeUntrusted, activities.TypeOutOfBounds):
		return refused(policy.SpecRefused, "%s: %s", what, cause(err))
	}
	return refused(policy.NotLooked, "%s: %s", what, cause(err))
}

// run executes an activity to its end, whatever turns up meanwhile.
func (r *rotation) run(o step, activity, input, output any) error {
	for {
		err := o.start(r.ctx, r.queue, activity, input).Get(r.ctx, output)
		if err == nil {
			r.acknowledge(input)
		}
		if !r.held(err) {
			return err
		}
		if err := r.hold(cause(err), input, func() error { return nil }); err != nil {
			return err
		}
	}
}

// step executes an activity between two safe points. A turn that comes meanwhile cancels it where it can
// be cancelled, and is the error once it has stopped.
func (r *rotation) step(o step, activity, input, output any) error {
	for {
		err := r.attempt(o, activity, input, output)
		if !r.held(err) {
			return err
		}
		if err := r.hold(cause(err), input, r.stop); err != nil {
			return err
		}
	}
}

func (r *rotation) attempt(o step, activity, input, output any) error {
	if err := r.safePoint(); err != nil {
		return err
	}
	ctx, cancel := workflow.WithCancel(r.ctx)
	defer cancel()
	done := o.start(ctx, r.queue, activity, input)
	if err := workflow.Await(r.ctx, func() bool { return done.IsReady() || o.cancellable && r.stop() != nil }); err != nil {
		return err
	}
	stopped := !done.IsReady()
	if stopped {
		cancel()
	}
	err := done.Get(r.ctx, output)
	if err == nil {
		r.acknowledge(input)
	}
	if t := r.turned(); t != nil {
		return t
	}
	if stopped && err != nil {
		return r.stop()
	}
	return err
}

// held tells whether an activity refused since the worker configuration does not let the spec be followed any more: its
// signature is not trusted, or it is out of bounds. Before anything was changed that ends the rotation; afterwards it waits,
// since half a rotation helps nobody.
func (r *rotation) held(err error) bool {
	return r.changed && (isType(err, activities.TypeUntrusted) || isType(err, activities.TypeOutOfBounds))
}

// isType tells whether an activity ended with an error of one of these types.
func isType(err error, types ...string) bool {
	var told *temporal.ApplicationError
	return errors.As(err, &told) && slices.Contains(types, told.Type())
}

// isFinal tells whether an activity ended with an error that asking again would not change.
func isFinal(err error) bool {
	var told *temporal.ApplicationError
	return errors.As(err, &told) && told.NonRetryable()
}

// hold waits until the worker configuration lets the spec be followed again, or somebody who is trusted signed it anew, and
// gives the input the signature that counts then.
func (r *rotation) hold(why string, input any, stop func() error) error {
	before := r.status
	r.holding = true
	defer func() { r.holding = false }()
	r.note("held: %s", why)
	r.tell(notifyAlert, "held", "Rotation held: the worker configuration does not let its spec be followed any more", why)
	r.status.Doing = "Held: " + why
	r.waitFor("a trusted signature of the spec this rotation follows, within the bounds", "whoever keeps the worker configuration; or a trusted signer, with: keyturn rotate "+r.status.Credential+" -f FILE --sign KEY")
	for trusted := false; !trusted; {
		r.resigned = false
		ctx, cancel := workflow.WithCancel(r.ctx)
		done := trusting.start(ctx, r.queue, act.AwaitTrust, r.in.Spec)
		err := workflow.Await(r.ctx, func() bool { return done.IsReady() || r.resigned || stop() != nil })
		answered := done.IsReady() // by itself; once cancelled it is ready, too
		cancel()
		switch {
		case err != nil:
			return err
		case answered:
			if err := done.Get(r.ctx, nil); err != nil {
				return err
			}
			trusted = true
		case stop() != nil:
			return stop()
		}
	}
	if in, ok := input.(interface{ Resign(inventory.SignedSpec) }); ok {
		in.Resign(r.in.Spec)
	}
	r.note("the spec may be followed again; going on")
	r.status.Doing, r.status.WaitsFor, r.status.UnblockedBy = before.Doing, before.WaitsFor, before.UnblockedBy
	r.refresh()
	return nil
}

// turned is the turn that counts now: in a rollback only that of an incident.
func (r *rotation) turned() *turn {
	if r.rollingBack {
		return r.superseded()
	}
	return r.turn
}

// superseded is the turn of an incident, if one takes the credential over.
func (r *rotation) superseded() *turn {
	if r.turn != nil && r.turn.outcome == Superseded {
		return r.turn
	}
	return nil
}

// stop is what ends the routine way at the next safe point: a turn, or the end of this run.
func (r *rotation) stop() error {
	switch t := r.turned(); {
	case t != nil:
		return t
	case r.full:
		return errFull
	}
	return nil
}

// insist does something until it is done, however long that takes, and tells people what keeps it from being done: once at
// once, and each day. Only what no waiting can change, or a turn, ends it.
func (r *rotation) insist(what string, do func() error) error {
	var told time.Time
	for pause := time.Minute; ; pause = min(2*pause, 30*time.Minute) {
		err := do()
		var t *turn
		if err == nil || errors.Is(err, errFull) || errors.As(err, &t) ||
			isType(err, activities.TypeRefused, activities.TypeSpec, activities.TypeAmbiguous, activities.TypeInvalid, activities.TypeUnsupported) {
			return err
		}
		now := workflow.Now(r.ctx)
		if told.IsZero() || now.Sub(told) >= 24*time.Hour {
			told = now
			r.note("%s is not done yet: %s", what, cause(err))
			r.tell(notifyAlert, "insists", what+" is not done yet", cause(err)+". It is tried again and again, until it is done.")
		}
		r.waitFor("the cause to be mended: "+cause(err), "whoever can mend it; it is tried again by itself")
		if err := r.wait("before trying again", func() time.Time { return now.Add(pause) }, nil); err != nil {
			return err
		}
	}
}

// safePoint is between two steps: here a turn is taken, and a pause is kept.
func (r *rotation) safePoint() error {
	r.measure()
	if err := r.stop(); err != nil {
		return err
	}
	if r.breach != nil && !r.rollingBack {
		return r.pause()
	}
	return nil
}

// wait waits until the deadline, which may move, or until done; a turn ends it. A zero deadline never
// comes.
func (r *rotation) wait(what string, deadline func() time.Time, done func() bool) error {
	if done == nil {
		done = func() bool { return false }
	}
	for {
		r.flush()
		if err := r.safePoint(); err != nil {
			return err
		}
		end := deadline()
		if done() || !end.IsZero() && !workflow.Now(r.ctx).Before(end) {
			return nil
		}
		r.until(end)
		moved := func() bool {
			return r.stop() != nil || r.breach != nil || done() || !deadline().Equal(end) || len(r.outbox.events) > 2*maxAlong || r.outbox.size > 2*maxAlongSize
		}
		var err error
		if end.IsZero() {
			err = workflow.Await(r.ctx, moved)
		} else {
			_, err = workflow.AwaitWithOptions(r.ctx, workflow.AwaitOptions{
				Timeout: end.Sub(workflow.Now(r.ctx)), TimerOptions: workflow.TimerOptions{Summary: summary(what)},
			}, moved)
		}
		if err != nil {
			return err
		}
	}
}

// startWatch watches the error budget, both keys and the checks from now on, beside everything else. Rotations that began before
// the keys were watched have no watch when they have neither budget nor check.
func (r *rotation) startWatch() {
	r.stopWatch()
	if r.rollingBack || !watched(r.credential) && workflow.GetVersion(r.ctx, "keys-watched", workflow.DefaultVersion, 1) < 1 {
		return
	}
	ctx, cancel := workflow.WithCancel(r.ctx)
	r.cancelWatch = cancel
	subject, own := r.watching(), r.watches
	workflow.Go(ctx, func(ctx workflow.Context) {
		var d policy.Decision
		err := watching(r.credential).start(ctx, r.queue, act.Watch, subject).Get(ctx, &d)
		if ctx.Err() != nil || own != r.watches {
			return
		}
		if err != nil {
			d = policy.Decision{Reason: StepFailed, Message: "the watch itself failed: " + cause(err)}
		}
		r.breached(d)
	})
}

// watching is what a watch is told. A retiring key that is gone was told of, and that a run that settles finds its key in some
// state is what it is for: neither is watched.
func (r *rotation) watching() *activities.Rotation {
	subject := r.subject()
	if r.retiringGone || r.in.Settle != "" {
		subject.Retiring = key.Ref{}
	}
	return subject
}

// stopWatch ends the watch, if there is one.
func (r *rotation) stopWatch() {
	r.ignoreWatch()
	r.cancelWatch()
}

// ignoreWatch lets the watch go on to the end of the run, when what it sees changes nothing any more.
func (r *rotation) ignoreWatch() {
	r.watches++
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

// forPeople are the decisions of a watch that turn nothing back by themselves: whether the change does harm is not known, or turning
// back would do more.
var forPeople = []policy.Reason{StepFailed, policy.BudgetBlind, policy.IncomingNotLive, policy.RetiringKeyDisabled, policy.RetiringGone}

// breached turns the rotation back, or, by policy or for want of a way back, pauses it.
func (r *rotation) breached(d policy.Decision) {
	r.note("watch: %s", d.Message)
	r.retiringGone = r.retiringGone || d.Reason == policy.RetiringGone // nothing brings it back: a pause does not wait for that
	pause := r.credential.ErrorBudget != nil && r.credential.ErrorBudget.OnBreach == inventory.BreachPause
	if pause || r.noWayBack() != "" || slices.Contains(forPeople, d.Reason) {
		r.breach = &d
		return
	}
	r.wantBack(d.Reason, "%s", d.Message)
}

// pause waits until all is well again, or somebody turns the rotation back.
func (r *rotation) pause() error {
	before := r.status
	r.tell(notifyAlert, "paused", "Rotation paused", r.breach.Message)
	r.status.Doing = "Paused: " + r.breach.Message
	if err := r.enableInPause(); err != nil {
		return err
	}
	r.waitFor("error budget, checks and keys to be well again", "whoever can mend the cause; or: rollback")
	if err := r.stepInPause(awaitingHealth(r.credential), act.AwaitHealth, r.watching()); err != nil {
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
