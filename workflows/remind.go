package workflows

import (
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/inventory"
)

// People who are asked for something are told again each day. Who could not be told of something is told after a while that grows, as long
// as it is true; of what happened once, for a day.
const (
	remindAgain = 24 * time.Hour
	tellFor     = 24 * time.Hour
	tellAgain   = 5 * time.Minute
	tellLast    = 6 * time.Hour
)

// askFor tells people that a gate waits for them, until that is over.
func (r *rotation) askFor(gate inventory.Gate, subject, body string, over func() bool) {
	r.tellUntil(over, notifyAction, "gate-"+string(gate), subject, body)
}

// tell tells people of what happened.
func (r *rotation) tell(severity, what, subject, body string) {
	since := workflow.Now(r.ctx)
	r.tellUntil(func() bool { return workflow.Now(r.ctx).Sub(since) >= tellFor }, severity, what, subject, body)
}

// tellWhile tells people of what is so until over is called.
func (r *rotation) tellWhile(severity, what, subject, body string) (over func()) {
	is := true
	r.tellUntil(func() bool { return !is }, severity, what, subject, body)
	return func() { is = false }
}

// tellUntil tells people in the background, ever more rarely, until they were told, or it is moot, or the run ends, which waits for the first
// tries. Without a spec that can be read nobody knows whom.
func (r *rotation) tellUntil(moot func() bool, severity, what, subject, body string) {
	if r.unread || r.credential.Name == "" || r.credential.Name != r.Status.Credential {
		return
	}
	message := r.message(severity, what, subject, body)
	over := func() bool { return moot() || r.over() }
	r.background.Add(1)
	workflow.Go(r.ctx, func(ctx workflow.Context) {
		err := notifyingAtOnce.start(ctx, r.Queue, act.Notify, message).Get(ctx, nil)
		if err != nil {
			err = notifying.start(ctx, r.Queue, act.Notify, message).Get(ctx, nil)
		}
		r.background.Done()
		for pause := tellAgain; err != nil; pause = min(2*pause, tellLast) {
			if over() {
				r.notice("people could not be told of %q: %s", what, cause(err))
				return
			}
			r.notice("people could not be told of %q, and will be again: %s", what, cause(err))
			_, _ = awaitAtMost(ctx, pause, "before trying again to tell people", over)
			if over() {
				return
			}
			err = notifying.start(ctx, r.Queue, act.Notify, message).Get(ctx, nil)
		}
	})
}

// message is one to people, of now.
func (r *rotation) message(severity, what, subject, body string) activities.NotifyInput {
	return activities.NotifyInput{
		Rotation: activities.Rotation{Spec: r.in.Spec, ID: r.Status.Rotation},
		What:     what, Severity: severity, Subject: clip(subject), Body: clip(body), At: workflow.Now(r.ctx),
	}
}
