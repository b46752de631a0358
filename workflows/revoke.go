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
	if err := r.step(enabling, act.Enable, r.acting(), nil); err != nil {
		return err
	}
	r.Disabled = false
	r.became(RoleRetiring, KeyPrevious)
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
		r.became(RoleRetiring, KeyDisabled)
		r.note("disabled key %s", r.Status.Retiring.KeyID)
		if enabled, err := r.soakDisabled(); err != nil || enabled {
			return false, err
		}
	} else if err := r.safePoint(); err != nil { // the last moment at which it can turn back
		return false, err
	}
	r.enter(PhaseRevoke, "Destroying the retiring key, and seeing that it is refused.")
	r.ignoreWatch() // what it sees leads back to a key that is being destroyed
	var destroyed activities.Destroyed
	if err := r.run(destroying, act.Destroy, &activities.RevokeInput{Rotation: *r.acting(), Approvals: approvals}, &destroyed); err != nil {
		// Whether the key is dead is not known: Record looks, and what lives on is debt.
		r.note("destroying key %s did not end well: %s", r.Status.Retiring.KeyID, cause(err))
		return true, nil
	}
	if !destroyed.Decision.OK {
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
