package workflows

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/policy"
)

// ask executes a step that only looks, before anything is changed, until it has an answer. Where the first round of attempts has
// none, people are told once, the server asks on, and a turn ends it.
func (r *rotation) ask(o step, activity, input, output any) error {
	err := r.run(o, activity, input, output)
	if !unanswered(err) {
		return err
	}
	r.note("could not %s yet: %s", o.summary, cause(err))
	defer r.tellWhile("unanswered", "A rotation cannot begin yet", fmt.Sprintf("It could not %s: %s. Nothing is changed, and it is tried again and again.", o.summary, cause(err)))()
	before := r.Status
	r.waitFor(fmt.Sprintf("an answer: it could not %s: %s", o.summary, cause(err)), "whoever can mend it; it is tried again by itself"+orRollback+", which ends it")
	if err := r.step(o.unending(), activity, input, output); err != nil {
		return err
	}
	r.note("there is an answer; going on")
	r.waitFor(before.WaitsFor, before.UnblockedBy)
	return nil
}

// refusal is how a rotation ends that changed nothing yet, since a step that only looks was refused, or turned.
func refusal(err error, what string) error {
	var t *Turn
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
		err := o.start(r.ctx, r.Queue, activity, input).Get(r.ctx, output)
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
	done := o.start(ctx, r.Queue, activity, input)
	ends := func() bool { return (o.cancellable || r.takeover != nil) && r.stop() != nil } // an emergency waits for nobody
	if err := workflow.Await(r.ctx, func() bool { return done.IsReady() || ends() }); err != nil {
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
	return r.changed() && (isType(err, activities.TypeUntrusted) || isType(err, activities.TypeOutOfBounds))
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
