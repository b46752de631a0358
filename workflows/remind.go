package workflows

import (
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/inventory"
)

// People who are asked for something are told again each day, and, when they could not be told, after a while that grows.
const (
	remindAgain = 24 * time.Hour
	tellAgain   = 5 * time.Minute
	tellLast    = 6 * time.Hour
)

// askFor tells people that a gate waits for them, until they were told or that is over. The run's end does not wait for it.
func (r *rotation) askFor(gate inventory.Gate, subject, body string, over func() bool) {
	r.tellUntil(over, notifyAction, "gate-"+string(gate), subject, body)
}

// tellUntil tells people of what they have to act on, ever more rarely, until they were told or it is over.
func (r *rotation) tellUntil(over func() bool, severity, what, subject, body string) {
	message := r.message(severity, what, subject, body)
	workflow.Go(r.ctx, func(ctx workflow.Context) {
		if notifyingAtOnce.start(ctx, r.Queue, act.Notify, message).Get(ctx, nil) == nil {
			return
		}
		for pause := tellAgain; !over(); pause = min(2*pause, tellLast) {
			err := notifying.start(ctx, r.Queue, act.Notify, message).Get(ctx, nil)
			if err == nil {
				return
			}
			r.notice("people could not be told of %q, and will be again: %s", message.What, cause(err))
			_, _ = awaitAtMost(ctx, pause, "before trying again to tell people", over)
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
