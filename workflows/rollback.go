package workflows

import (
	"cmp"
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
	case t.outcome == Superseded, t.outcome == Refused:
		return t
	case isType(err, activities.TypeHeld) && r.at == partIssue && r.status.Incoming.IsZero(): // its first effect takes the lease
		r.changed = false
		return refused(policy.Held, "%s", cause(err))
	case !r.changed:
		return refused(t.reason, "%s; nothing was changed", t.message)
	}
	return r.rollBack(t)
}

// rollBack returns every consumer to the retiring key and destroys the incoming one. It can be run from
// any phase, since each of its steps looks at what there is to undo.
func (r *rotation) rollBack(t *turn) error {
	r.stopWatch()
	if !r.rollingBack { // else the run before began it
		r.enter(PhaseRollback, "Turning back to the retiring key: "+t.message)
		r.happened(audit.RollbackBegun, map[string]string{"reason": string(t.reason), "message": t.message})
		r.tell(notifyAlert, "rollback", "Rolling back", t.message)
	}
	r.rollingBack = true
	if r.turn == nil {
		r.turn = t
	}
	if why := r.noWayBack(); why != "" && (r.delivered || r.promoted) {
		return failed(t.reason, "%s. A rollback is impossible: %s", t.message, why)
	}
	if err := r.insist("The rollback", r.undo); err != nil {
		if errors.Is(err, errFull) {
			return err
		}
		if s := asTurn(err); s.outcome == Superseded {
			return s
		}
		return failed(t.reason, "%s. The rollback cannot go on: %s", t.message, cause(err))
	}
	for i := range r.status.Waves {
		if r.status.Waves[i].State != waveWaiting {
			r.status.Waves[i].State = waveTurnedBack
		}
	}
	return t
}

// noWayBack is why a rollback is impossible now; empty when it is possible.
func (r *rotation) noWayBack() string {
	if ends := r.plan.WayBackEnds; r.status.NoWayBack == "" && !ends.IsZero() && !workflow.Now(r.ctx).Before(ends) {
		return "the retiring key ends by itself " + r.plan.RetiringExpires.UTC().Format(time.RFC3339)
	}
	return r.status.NoWayBack
}

// onlyForward is why nobody who has the incoming key can be brought back; empty when the retiring one can be delivered again.
func (r *rotation) onlyForward() string {
	switch {
	case r.plan.Retiring == nil:
		return "there is no earlier key to go back to"
	case !r.plan.CanRollBack:
		return cmp.Or(r.plan.NoWayBack, "the value of the retiring key is in no store") // plans of before that was so do not say it
	}
	return ""
}

func (r *rotation) undo() error {
	if r.plan.Retiring != nil {
		// Asked for whatever this run remembers: one that was reset has forgotten what it did.
		if r.plan.CanDisable {
			if err := r.step(enabling, act.Enable, r.acting(), nil); err != nil {
				return err
			}
		}
		if err := r.step(restoring, act.RestoreLabels, r.acting(), nil); err != nil {
			return err
		}
		r.became(RoleRetiring, KeyCurrent)
		if !r.status.Incoming.IsZero() {
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
	if !r.status.Incoming.IsZero() {
		r.became(RoleIncoming, KeyDestroyed)
	}
	r.note("every consumer is on the retiring key; the incoming one is destroyed")
	return nil
}

// redeliver brings the retiring key back to instances, all at once.
func (r *rotation) redeliver(instances []string) error {
	if len(instances) == 0 || r.plan.Retiring == nil {
		return nil
	}
	r.waitFor("every instance to attest the retiring key again", "whoever runs these instances")
	input := activities.WaveInput{Rotation: *r.acting(), Key: r.status.Retiring, Wave: "rollback", Instances: instances}
	var result activities.WaveResult
	if err := r.step(delivering(r.credential, "rollback"), act.DeliverWave, &input, &result); err != nil {
		return err
	}
	if !result.Decision.OK {
		return fmt.Errorf("%d instances are not back on the retiring key: %s", len(result.Stragglers)+result.More, result.Decision.Message)
	}
	return nil
}

// deliveredInstances are those that may hold the incoming key: they were delivered to, or read CURRENT by
// themselves when it may have moved. Which a rotation that did not end came to is not known.
func (r *rotation) deliveredInstances() []string {
	var names []string
	for i, w := range r.plan.Waves {
		if r.plan.Resume != nil || r.status.Waves[i].State != waveWaiting || w.ByPromotion && r.promoted {
			names = append(names, w.Instances...)
		}
	}
	return names
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
