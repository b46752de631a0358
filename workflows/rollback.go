package workflows

import (
	"errors"
	"fmt"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/policy"
)

// turnBack does what a turn asks for, and returns how the rotation ends.
func (r *rotation) turnBack(err error) error {
	if errors.Is(err, errFull) {
		return err
	}
	t := asTurn(err)
	switch {
	case t.Outcome == Superseded, t.Outcome == Refused:
		return t
	case isType(err, activities.TypeHeld) && r.At == partIssue && r.Status.Incoming.IsZero(): // its first effect takes the lease
		r.Ordinal = 0
		return refused(policy.Held, "%s", cause(err))
	case !r.changed():
		return refused(t.Reason, "%s; nothing was changed", t.Message)
	}
	return r.rollBack(t)
}

// lookBackFor is why a rollback that is asked for cannot succeed now, looked up at issuer and store: what the run remembers may be past.
// Empty when it can, for any other request, and when nobody can tell. A flood of requests is answered by one look a minute.
func (r *rotation) lookBackFor(ctx workflow.Context, action policy.Action) string {
	if action != policy.Rollback {
		return ""
	}
	return r.lookBack(ctx)
}

func (r *rotation) lookBack(ctx workflow.Context) string {
	now := workflow.Now(ctx)
	switch {
	case !r.delivered() && !r.Promoted || r.Plan.Retiring == nil || r.standpoint().NoWayBack != "": // it needs none, or has none
		return ""
	case now.Before(r.lookedBack.Add(time.Minute)):
		return r.onlyOn
	}
	var d policy.Decision
	if err := lookingBack.start(ctx, r.Queue, act.LookBack, r.asked()).Get(ctx, &d); err != nil {
		workflow.GetLogger(ctx).Warn("whether there is a way back is not known", "error", cause(err))
		return ""
	}
	r.lookedBack, r.onlyOn = now, ""
	if !d.OK {
		r.onlyOn = d.Message
	}
	return r.onlyOn
}

// asked is what a look back is told.
func (r *rotation) asked() activities.Rotation {
	subject := *r.subject()
	subject.AskedAt = workflow.Now(r.ctx)
	return subject
}

// stillGone looks whether the retiring key is gone, as the watch saw it once; when nobody can tell, it is.
func (r *rotation) stillGone(ctx workflow.Context) bool {
	if !r.RetiringGone || r.Plan.Retiring == nil {
		return r.RetiringGone
	}
	var d policy.Decision
	if lookingBack.start(ctx, r.Queue, act.LookBack, r.asked()).Get(ctx, &d) == nil {
		r.RetiringGone = d.Reason == policy.RetiringGone
	}
	return r.RetiringGone
}

// rollBack returns every consumer to the retiring key and destroys the incoming one. It can be run from
// any phase, since each of its steps looks at what there is to undo.
func (r *rotation) rollBack(t *Turn) error {
	r.stopWatch()
	if !r.rollingBack() { // else the run before began it
		r.enter(PhaseRollback, "Turning back to the retiring key: "+t.Message)
		r.happened(audit.RollbackBegun, map[string]string{"reason": string(t.Reason), "message": t.Message})
		r.tell(notifyAlert, "rollback", "Rolling back", t.Message)
	}
	if r.Turn == nil {
		r.Turn = t
	}
	if why := r.noWayBack(workflow.Now(r.ctx)); why != "" && (r.delivered() || r.Promoted) {
		return failed(t.Reason, "%s. A rollback is impossible: %s", t.Message, why)
	}
	if err := r.insist("The rollback", r.undo); err != nil {
		if errors.Is(err, errFull) {
			return err
		}
		if s := asTurn(err); s.Outcome == Superseded {
			return s
		}
		return failed(t.Reason, "%s. The rollback cannot go on: %s", t.Message, cause(err))
	}
	for i := range r.Status.Waves {
		if r.Status.Waves[i].State != waveWaiting {
			r.Status.Waves[i].State = waveTurnedBack
		}
	}
	return t
}

func (r *rotation) undo() error {
	if r.Plan.Retiring != nil {
		// Asked for whatever this run remembers: one that was reset has forgotten what it did.
		if r.Plan.CanDisable {
			if err := r.step(enabling, act.Enable, r.acting(), nil); err != nil {
				return err
			}
			r.Disabled = false
		}
		if err := r.step(restoring, act.RestoreLabels, r.acting(), nil); err != nil {
			return err
		}
		r.became(RoleRetiring, KeyCurrent)
		if !r.Status.Incoming.IsZero() {
			r.became(RoleIncoming, KeyPending)
		}
	}
	if err := r.redeliver(r.deliveredInstances()); err != nil {
		return err
	}
	var d policy.Decision
	r.waitFor("the incoming key to be quiet before it is destroyed", "time")
	if err := r.step(discarding(r.credential), act.Discard, r.acting(), &d); err != nil {
		return err
	}
	if !d.OK {
		return failed(d.Reason, "%s", d.Message)
	}
	if !r.Status.Incoming.IsZero() && d.Reason == policy.Allowed { // else it says which key is not proved to be dead
		r.became(RoleIncoming, KeyDestroyed)
	}
	back := "every consumer is on the retiring key"
	if r.Plan.Retiring == nil {
		back = "there was no key to go back to"
	}
	r.note("%s; %s", back, d.Message)
	return nil
}

// redeliver brings the retiring key back to instances, all at once.
func (r *rotation) redeliver(instances []string) error {
	if len(instances) == 0 || r.Plan.Retiring == nil {
		return nil
	}
	r.waitFor("every instance to attest the retiring key again", "whoever runs these instances")
	input := activities.WaveInput{Rotation: *r.acting(), Key: r.Status.Retiring, Wave: activities.WaveBack, Instances: instances}
	var result activities.WaveResult
	if err := r.step(delivering(r.credential, activities.WaveBack), act.DeliverWave, &input, &result); err != nil {
		return err
	}
	if !result.Decision.OK {
		return fmt.Errorf("not back on the retiring key: %s: %s", policy.Counted(len(result.Stragglers)+result.More, "instance"), result.Decision.Message)
	}
	return nil
}

// insist does something until it is done, however long that takes, and tells people what keeps it from being done: once at
// once, and each day. Only what no waiting can change, or a turn, ends it.
func (r *rotation) insist(what string, do func() error) error {
	var told time.Time
	settled := func() {}
	defer func() { settled() }()
	for pause := time.Minute; ; pause = min(2*pause, 30*time.Minute) {
		err := do()
		var t *Turn
		if err == nil || errors.Is(err, errFull) || errors.As(err, &t) || endsInsisting(err) {
			return err
		}
		now := workflow.Now(r.ctx)
		if told.IsZero() || now.Sub(told) >= 24*time.Hour {
			told = now
			r.note("%s is not done yet: %s", what, cause(err))
			settled()
			settled = r.tellWhile("insists", what+" is not done yet", cause(err)+". It is tried again and again, until it is done.")
		}
		r.waitFor("the cause to be mended: "+cause(err), "whoever can mend it; it is tried again by itself")
		if err := r.wait("before trying again", func() time.Time { return now.Add(pause) }, nil); err != nil {
			return err
		}
	}
}
