package workflows

import (
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/policy"
)

// People who are asked for something are told again each day, and, when they could not be told, after a while that grows.
const (
	remindAgain = 24 * time.Hour
	tellAgain   = 5 * time.Minute
	tellLast    = 6 * time.Hour
)

// askFor tells people that a gate waits for them, until they were told, and reminds them as long as it waits. The run's end does not wait for
// that.
func (r *rotation) askFor(open *policy.OpenGate, subject, body string) {
	what := "gate-" + string(open.Gate)
	if workflow.GetVersion(r.ctx, namedDecisions, workflow.DefaultVersion, 1) < 1 {
		r.tell(notifyAction, what, subject, body)
		return
	}
	decided := func() bool { return r.Status.Gate != open }
	workflow.Go(r.ctx, func(ctx workflow.Context) {
		message := r.message(notifyAction, what, subject, body)
		send := notifyingAtOnce
		for pause := tellAgain; !decided(); send = notifying {
			err := send.start(ctx, r.Queue, act.Notify, message).Get(ctx, nil)
			switch {
			case err == nil:
				_, _ = workflow.AwaitWithTimeout(ctx, remindAgain, decided)
				message, pause = r.message(notifyAction, what, "Still: "+subject, body), tellAgain
			case send.local: // the receiver did not answer at once
			default:
				r.notice("people could not be told of %q, and will be again: %s", what, cause(err))
				_, _ = workflow.AwaitWithTimeout(ctx, pause, decided)
				pause = min(2*pause, tellLast)
			}
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
