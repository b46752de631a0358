package workflows

import (
	"slices"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/inventory"
)

// People who are asked for something are told again each day. Who could not be told of something is told after a while that grows, as long
// as it is true; of what happened once, for a day. The next run goes on with what happened and with a pause; what else is so, it finds and
// tells by itself.
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

// tell tells people of what happened, in the next run, too.
func (r *rotation) tell(severity, what, subject, body string) {
	r.tellOn(r.message(severity, what, subject, body))
}

// tellWhile alerts people of what is so until over is called.
func (r *rotation) tellWhile(what, subject, body string) (over func()) {
	is := true
	r.tellUntil(func() bool { return !is }, notifyAlert, what, subject, body)
	return func() { is = false }
}

// tellUntil tells people of what is so until it is moot.
func (r *rotation) tellUntil(moot func() bool, severity, what, subject, body string) {
	r.send(r.message(severity, what, subject, body), moot, false)
}

// tellOn tells people of what happened in this run, or in the one before, which could not tell them.
func (r *rotation) tellOn(m activities.Message) {
	moot := func() bool { return workflow.Now(r.ctx).Sub(m.At) >= tellFor }
	if m.What == whatPaused {
		moot = func() bool { return !r.Paused.Equal(m.At) || r.turned() != nil }
	}
	r.send(m, moot, true)
}

// whatPaused is the message of a pause, of the moment when that began.
const whatPaused = "paused"

// send tells people in the background, ever more rarely, until they were told, or it is moot, or the run ends, which waits for the first
// tries. What is carried is told by the next run, too, while they were not. Without a spec that can be read nobody knows whom.
func (r *rotation) send(m activities.Message, moot func() bool, carried bool) {
	if r.unread || r.credential.Name == "" || r.credential.Name != r.Status.Credential {
		return
	}
	input := activities.NotifyInput{
		Rotation: activities.Rotation{Spec: r.in.Spec, ID: r.Status.Rotation},
		Message:  m,
	}
	over := func() bool { return moot() || r.over() }
	r.background.Add(1)
	workflow.Go(r.ctx, func(ctx workflow.Context) {
		err := notifyingAtOnce.start(ctx, r.Queue, act.Notify, input).Get(ctx, nil)
		if err != nil {
			err = notifying.start(ctx, r.Queue, act.Notify, input).Get(ctx, nil)
		}
		r.background.Done()
		if err == nil {
			return
		}
		if carried {
			r.unheard(m)
		}
		for pause := tellAgain; err != nil && !over(); pause = min(2*pause, tellLast) {
			r.notice("people could not be told of %q, and will be again: %s", m.What, cause(err))
			_, _ = awaitAtMost(ctx, pause, "before trying again to tell people", over)
			if !over() {
				err = notifying.start(ctx, r.Queue, act.Notify, input).Get(ctx, nil)
			}
		}
		r.Unheard = slices.DeleteFunc(r.Unheard, func(other activities.Message) bool { return other == m })
		if err != nil && r.over() {
			r.notice("people could not be told of %q: %s", m.What, cause(err))
		}
	})
}

// maxUnheard bounds what the next run tells.
const maxUnheard = 20

func (r *rotation) unheard(m activities.Message) {
	r.Unheard = append(r.Unheard, m)
	r.Unheard = r.Unheard[max(0, len(r.Unheard)-maxUnheard):]
}

// message is one to people, of now.
func (r *rotation) message(severity, what, subject, body string) activities.Message {
	return activities.Message{What: what, Severity: severity, Subject: clip(subject), Body: clip(body), At: workflow.Now(r.ctx)}
}
