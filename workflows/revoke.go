package workflows

import (
	"errors"
	"fmt"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
)

// revoke takes the retiring key away, on evidence and approval: reversibly first, then for good. When
// what it stands on gives way before the key is destroyed, it begins again with the evidence.
func (r *rotation) revoke() error {
	if r.Plan.Retiring == nil { // the credential's first key
		return nil
	}
	if err := r.enableUntilApproved(); err != nil {
		return err
	}
	for {
		evidence, err := r.evidence()
		if err != nil {
			return err
		}
		approvals, err := r.gate(inventory.GateRevoke, &evidence)
		if errors.Is(err, errGateExpired) { // what people would decide on now is new evidence
			continue
		}
		if err != nil {
			return err
		}
		if gone, err := r.disableAndDestroy(approvals); err != nil || gone {
			return err
		}
	}
}

// enableUntilApproved enables a key that the run before has disabled: what was approved counted for that one alone.
func (r *rotation) enableUntilApproved() error {
	if !r.Disabled {
		return nil
	}
	r.note("the retiring key is enabled again, until this run's gate is passed")
	return r.enable()
}

// enable enables the retiring key again.
func (r *rotation) enable() error {
	var d policy.Decision
	if err := r.step(enabling, act.Enable, r.acting(), &d); err != nil {
		return err
	}
	r.Disabled = false
	if d.Reason == policy.RetiringKeyDisabled {
		r.note("%s", d.Message)
		return nil
	}
	r.enabled()
	r.note("enabled key %s again", r.Status.Retiring.KeyID)
	return nil
}

// disableAndDestroy does what the gate allows, and tells whether the retiring key is gone; when it is not, why is in the timeline.
func (r *rotation) disableAndDestroy(approvals []policy.Verdict) (gone bool, err error) {
	r.Revokes++
	r.approved = true
	defer func() { r.approved = false }()
	if r.Plan.CanDisable {
		r.enter(PhaseDisable, "Disabling the retiring key; it can be enabled again.")
		var d policy.Decision
		r.Disabled = true // it may be, whatever is heard of the step
		if err := r.step(disabling, act.Disable, &activities.RevokeInput{Rotation: *r.acting(), Approvals: approvals}, &d); err != nil {
			return false, err
		}
		if !d.OK {
			r.note("not disabled: %s", d.Message)
			return false, nil
		}
		if d.Reason == policy.KeyGone { // others destroyed it: what is left is to prove that, and to clean up
			r.Disabled = false
			r.note("%s", d.Message)
			return r.destroy(&activities.RevokeInput{Rotation: *r.acting(), Approvals: approvals})
		}
		r.became(RoleRetiring, KeyDisabled)
		r.note("disabled key %s", r.Status.Retiring.KeyID)
		if enabled, err := r.soakDisabled(r.credential.DisableSoak.Std(), "the soak after disabling"); err != nil || enabled {
			return false, err
		}
	}
	return r.destroy(&activities.RevokeInput{Rotation: *r.acting(), Approvals: approvals})
}

// Destroying a key is tried for so long, and so often at least, since nobody may be there to try it; again after a pause that
// doubles from the first one on.
const (
	destroyingLasts = 2 * time.Hour
	destroyingTries = 6
	firstTry        = time.Minute
)

// destroy destroys the retiring key, and tells whether that is behind it. Between two tries, as long as the key lives, the
// rotation can turn back, and a disabled key is watched as in its soak.
func (r *rotation) destroy(input *activities.RevokeInput) (gone bool, err error) {
	until := workflow.Now(r.ctx).Add(destroyingLasts)
	for try, pause := 1, firstTry; ; try, pause = try+1, min(2*pause, 30*time.Minute) {
		if !r.RetiringGone {
			if err := r.safePoint(); err != nil { // the last moment at which it can turn back
				return false, err
			}
		} else if err := r.overtaken(); err != nil {
			return false, err
		}
		destroyed, err := r.tryToDestroy(input)
		switch {
		case err != nil && !r.held(err) && (isFinal(err) || try >= destroyingTries && !workflow.Now(r.ctx).Before(until)):
			// Whether the key is dead is not known: Record looks, and what lives on is debt.
			r.note("destroying key %s did not end well: %s", r.Status.Retiring.KeyID, cause(err))
			return true, nil
		case err != nil:
			if enabled, err := r.betweenTries(err, pause, input); err != nil || enabled {
				return false, err
			}
			continue
		case !destroyed.Decision.OK:
			r.note("not destroyed: %s", destroyed.Decision.Message)
			r.enter(PhaseEvidence, "Enabling the retiring key again, since it may not be destroyed.")
			r.startWatch()
			return false, r.enable()
		}
		r.Report.Probe = destroyed.Probe
		r.became(RoleRetiring, KeyDestroyed)
		r.note("destroyed key %s: %s", r.Status.Retiring.KeyID, destroyed.Probe)
		return true, nil
	}
}

// overtaken is the turn of an incident where a rotation cannot turn back any more: to prove that a key is dead, which may take hours, holds
// up no emergency.
func (r *rotation) overtaken() error {
	if t := r.superseded(); t != nil {
		return t
	}
	return nil
}

// tryToDestroy tries it for moments, in which it cannot turn back: a try may have destroyed the key, or be about to.
func (r *rotation) tryToDestroy(input *activities.RevokeInput) (activities.Destroyed, error) {
	r.enter(PhaseRevoke, "Destroying the retiring key, and seeing that it is refused.")
	r.ignoreWatch() // what it sees leads back to a key that is being destroyed
	var destroyed activities.Destroyed
	err := destroying.start(r.ctx, r.Queue, act.Destroy, input).Get(r.ctx, &destroyed)
	if err == nil {
		r.acknowledge(input)
	}
	return destroyed, err
}

// betweenTries waits for the next try. It tells whether the key was enabled meanwhile, so that the evidence must be gathered anew.
func (r *rotation) betweenTries(failed error, pause time.Duration, input *activities.RevokeInput) (enabled bool, err error) {
	why := cause(failed)
	r.note("key %s is not seen destroyed yet: %s", r.Status.Retiring.KeyID, why)
	var back policy.Decision
	looked := lookingBack.start(r.ctx, r.Queue, act.LookBack, r.asked()).Get(r.ctx, &back) == nil
	if looked {
		r.RetiringGone = back.Reason == policy.RetiringGone
	}
	if r.RetiringGone { // what is left is to prove it
		if r.held(failed) {
			return false, r.hold(why, input, r.overtaken)
		}
		_, err := awaitAtMost(r.ctx, pause, "before trying again to prove the key dead", func() bool { return r.overtaken() != nil })
		return false, err
	}
	disabled := r.Plan.CanDisable && r.Disabled // else others destroyed it, or nobody can disable it
	r.enter(map[bool]Phase{true: PhaseDisableSoak, false: PhaseEvidence}[disabled], "The retiring key is not seen destroyed yet.")
	if pause == firstTry {
		lives := "until it is destroyed, a rollback is possible"
		switch none := r.standpoint().NoWayBack; {
		case none != "":
			lives = "nothing leads back to it: " + none
		case !looked:
			lives = "whether it lives could not be looked up, and a rollback is possible if it does"
		}
		r.tell(notifyAlert, "not-destroyed", "The retiring key is not seen destroyed yet", fmt.Sprintf("%s. It is tried again and again; %s.", why, lives))
	}
	r.startWatch()
	switch {
	case r.held(failed):
		return false, r.hold(why, input, r.stop)
	case disabled:
		return r.soakDisabled(pause, "the cause to be mended: "+why)
	}
	next := workflow.Now(r.ctx).Add(pause)
	return false, r.wait("before trying again", func() time.Time { return next }, nil)
}
