package workflows

import (
	"slices"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
)

// startWatch watches the error budget, both keys and the checks from now on, beside everything else.
func (r *rotation) startWatch() {
	if r.in.Emergency != nil { // which nothing turns back
		return
	}
	if r.Breach != nil { // a pause begins it anew at its end
		return
	}
	r.stopWatch()
	if r.rollingBack() {
		return
	}
	ctx, cancel := workflow.WithCancel(r.ctx)
	r.cancelWatch = cancel
	subject, own := r.watching(), r.watches
	workflow.Go(ctx, func(ctx workflow.Context) {
		var d policy.Decision
		err := watching(r.credential).start(ctx, r.Queue, act.Watch, subject).Get(ctx, &d)
		if ctx.Err() != nil || own != r.watches {
			return
		}
		if err != nil {
			d = policy.Decision{Reason: StepFailed, Message: "the watch itself failed: " + cause(err)}
		}
		r.breached(ctx, d)
	})
}

// watching is what a watch is told. A retiring key that is gone was told of, and that a run which ends one key finds it in some
// state is what it is for: neither is watched.
func (r *rotation) watching() *activities.Rotation {
	subject := r.subject()
	subject.KeysAlone = r.unwatched
	if r.RetiringGone || r.in.Ends() != "" {
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
	r.Breach, r.Paused = nil, time.Time{}
}

// forPeople are the decisions of a watch that turn nothing back by themselves: whether the change does harm is not known, or turning
// back would do more.
var forPeople = []policy.Reason{StepFailed, policy.BudgetBlind, policy.IncomingNotLive, policy.RetiringKeyDisabled, policy.RetiringGone}

// breached turns the rotation back, or, by policy or for want of a way back, pauses it.
func (r *rotation) breached(ctx workflow.Context, d policy.Decision) {
	r.note("watch: %s", d.Message)
	own := r.watches
	r.judging = true
	defer func() { r.judging = false }()
	if d.Reason == policy.RetiringGone {
		r.RetiringGone = true // in several looks: a pause does not wait for that
	} else if r.stillGone(ctx); ctx.Err() != nil || own != r.watches {
		return // it is not watched any more
	}
	pause := r.credential.ErrorBudget != nil && r.credential.ErrorBudget.OnBreach == inventory.BreachPause
	switch {
	case r.goesOn(d):
		return
	case pause || r.noWayBack(workflow.Now(r.ctx)) != "" || slices.Contains(forPeople, d.Reason):
		r.Breach = &d
		return
	}
	why := r.lookBack(ctx)
	switch {
	case ctx.Err() != nil || own != r.watches: // it is not watched any more
	case why != "" && r.goesOn(d):
	case why != "":
		r.note("it cannot turn back: %s", why)
		r.Breach = &d
	default:
		r.wantBack(d.Reason, "%s", d.Message)
	}
}

// goesOn tells whether a rotation goes on whatever is broken: its retiring key is gone, or it has none, so that whoever has not the
// incoming one yet is refused until it reaches them, and a pause would only keep it from them. People are told. What shows that on each
// look is watched again from the overlap on, when everybody should have the incoming key; until then the keys alone are.
func (r *rotation) goesOn(d policy.Decision) bool {
	broken := d.Reason == policy.BudgetBreached || d.Reason == policy.CheckFailing
	if !r.RetiringGone && r.Plan.Retiring != nil || !broken && d.Reason != policy.RetiringGone {
		return false
	}
	r.note("it goes on: only the incoming key is left to bring to consumers")
	r.tell(notifyAlert, "retiring-gone", "There is no key but the incoming one",
		d.Message+". Nothing leads back to another key, so that the rotation goes on: whoever has not the incoming key yet is refused until it is delivered.")
	r.unwatched = broken
	r.startWatch()
	return true
}

// pause waits until all is well again, or somebody turns the rotation back.
func (r *rotation) pause() error {
	r.pausing = true
	defer func() { r.pausing = false }()
	before := r.Status
	if r.Paused.IsZero() { // else the run before told it
		r.Paused = workflow.Now(r.ctx)
		r.tell(notifyAlert, whatPaused, "Rotation paused", r.Breach.Message)
	}
	r.Status.Doing, r.Status.Until = "Paused: "+r.Breach.Message, time.Time{}
	if err := r.enableInPause(); err != nil {
		return err
	}
	r.waitFor("error budget, checks and keys to be well again", "whoever can mend the cause"+orRollback)
	err := r.step(awaitingHealth(r.credential), act.AwaitHealth, r.watching(), nil)
	gone := isType(err, activities.TypeGone)
	if err != nil && !gone {
		return err
	}
	r.Status.Doing, r.Status.WaitsFor, r.Status.UnblockedBy = before.Doing, before.WaitsFor, before.UnblockedBy
	r.Breach, r.Paused = nil, time.Time{}
	if r.RetiringGone = r.RetiringGone || gone; gone && r.goesOn(policy.Decision{Reason: policy.RetiringGone, Message: cause(err)}) {
		return r.safePoint()
	}
	r.note("all is well again; going on")
	r.startWatch()
	return r.safePoint()
}

// enableInPause enables the key that a breach found disabled: what broke may be what misses it. It reports what it did in
// the timeline.
func (r *rotation) enableInPause() error {
	if r.Status.Phase != PhaseDisableSoak || !r.Disabled {
		return nil
	}
	return r.enable()
}
