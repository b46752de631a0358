package workflows

import (
	"fmt"

	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/policy"
)

// awaitUnpromoted waits, before anything is changed, for one of the slots of those whose incoming key is not promoted yet, where the worker
// configuration bounds them: whatever is wrong with all new keys is wrong with so many. A person's rotation waits for nobody. A run that
// goes on in the next one gives its slot back, and waits for another.
func (r *rotation) awaitUnpromoted() error {
	if !r.Bounded || r.Promoted || r.leave != nil || workflow.GetInfo(r.ctx).ParentWorkflowExecution == nil {
		return nil
	}
	doing := r.Status.Doing
	r.waitFor("others to be promoted: only so many may be between issue and promotion at once", "time"+orRollback)
	input := activities.SlotInput{Spec: r.in.Spec, Unpromoted: true, Begun: r.Plan.Resume != nil || !r.Status.Incoming.IsZero()}
	for {
		var slot activities.Slot
		if err := r.step(awaitingSlot, act.AwaitSlot, input, &slot); err != nil {
			return err
		}
		if !slot.Decision.OK {
			return refused(slot.Decision.Reason, "it waited for a slot of those that are not promoted yet, and nothing was changed: %s", slot.Decision.Message)
		}
		if slot.Number == 0 {
			return nil
		}
		ctx, leave := workflow.WithCancel(r.ctx)
		taken, err := takeSlot(ctx, policy.Slot{Environment: slot.Environment, Number: slot.Number, Unpromoted: true}, r.Status.Credential)
		if err != nil {
			return fmt.Errorf("taking slot %d of those that are not promoted yet: %w", slot.Number, err)
		}
		if taken {
			r.leave = leave
			r.enter(r.Status.Phase, doing)
			return nil
		}
		input.Lost = slot.Number
	}
}

// leaveUnpromoted gives the slot back. A run that Temporal ends gives it back, too.
func (r *rotation) leaveUnpromoted() {
	if r.leave != nil {
		r.leave()
		r.leave = nil
	}
}
