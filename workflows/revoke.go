package workflows

import (
	"errors"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
)

// revoke takes the retiring key away, on evidence and approval: reversibly first, then for good. When
// what it stands on gives way before the key is destroyed, it begins again with the evidence.
func (r *rotation) revoke() error {
	if r.plan.Retiring == nil {
		return nil
	}
	if r.disabled { // in the run before, by approvals that count for that one alone
		r.note("the retiring key is enabled again, until this run's gate is passed")
		if err := r.step(enabling, act.Enable, r.acting(), nil); err != nil {
			return err
		}
		r.disabled = false
		r.became(RoleRetiring, KeyPrevious)
	}
	for {
		evidence, err := r.evidence()
		if err != nil {
			return err
		}
		approvals, err := r.gate(inventory.GateRevoke, &evidence)
		if errors.Is(err, errGateExpired) {
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

// disableAndDestroy does what the gate allows, and tells whether the retiring key is gone; when it is not, why is in the timeline.
func (r *rotation) disableAndDestroy(approvals []policy.Verdict) (gone bool, err error) {
	r.approved = true
	defer func() { r.approved = false }()
	if r.plan.CanDisable {
		r.enter(PhaseDisable, "Disabling the retiring key; it can be enabled again.")
		var d policy.Decision
		r.disabled = true
		if err := r.step(disabling, act.Disable, &activities.RevokeInput{Rotation: *r.acting(), Approvals: approvals}, &d); err != nil {
			return false, err
		}
		if !d.OK {
			r.note("not disabled: %s", d.Message)
			return false, nil
		}
		r.became(RoleRetiring, KeyDisabled)
		r.note("disabled key %s", r.status.Retiring.KeyID)
		if enabled, err := r.soakDisabled(); err != nil || enabled {
			return false, err
		}
	} else if err := r.safePoint(); err != nil {
		return false, err
	}
	r.enter(PhaseRevoke, "Destroying the retiring key, and seeing that it is refused.")
	r.ignoreWatch()
	r.status.NoWayBack = "the retiring key is being destroyed"
	var destroyed activities.Destroyed
	if err := r.run(destroying, act.Destroy, &activities.RevokeInput{Rotation: *r.acting(), Approvals: approvals}, &destroyed); err != nil {
		// Whether the key is dead is not known: Record looks, and what lives on is debt.
		r.note("destroying key %s did not end well: %s", r.status.Retiring.KeyID, cause(err))
		return true, nil
	}
	if !destroyed.Decision.OK {
		r.note("not destroyed: %s", destroyed.Decision.Message)
		r.status.NoWayBack = r.onlyForward()
		r.startWatch()
		if err := r.step(enabling, act.Enable, r.acting(), nil); err != nil {
			return false, err
		}
		r.disabled = false
		r.became(RoleRetiring, KeyPrevious)
		return false, nil
	}
	r.report.Probe = destroyed.Probe
	r.became(RoleRetiring, KeyDestroyed)
	r.note("destroyed key %s: %s", r.status.Retiring.KeyID, destroyed.Probe)
	return true, nil
}
