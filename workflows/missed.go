package workflows

import (
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
)

func watchingDisabled(c inventory.Credential) step {
	return step{summary: "watch whether the disabled key is missed", attempt: time.Minute, every: c.LookEvery(), cancellable: true, changesNothing: true}
}

// soakDisabled watches the disabled key for some time. It tells whether the key was enabled again, since somebody missed it,
// who is refused until then, or since a breach paused the rotation: the evidence must be gathered anew.
func (r *rotation) soakDisabled(lasts time.Duration, waitsFor string) (enabled bool, err error) {
	r.enter(PhaseDisableSoak, "The retiring key is disabled; watching whether anybody misses it.")
	end := workflow.Now(r.ctx).Add(lasts)
	r.waitFor(waitsFor, "time"+orRollback)
	var seen policy.Decision
	stop := r.watchDisabled(&seen)
	missed := func() bool { return seen.Reason == policy.RetiringMissed }
	err = r.wait("soak after disabling", func() time.Time { return end }, func() bool { return missed() || !r.Disabled })
	if err == nil {
		err = r.safePoint() // a breach may have come with the end
	}
	if err == nil && r.Disabled && !missed() {
		return false, nil // the watch goes on to the end of the run: to cancel it would add to the history
	}
	stop()
	if err != nil || !r.Disabled {
		return !r.Disabled, err
	}
	r.note("watch: %s", seen.Message)
	r.tell(notifyAlert, "missed", "The retiring key is still needed", seen.Message+". If keyturn disabled it, it is enabled again, and stays so until it was quiet.")
	return true, r.enable()
}

// watchDisabled sets the decision once somebody misses the disabled key, until it is stopped.
func (r *rotation) watchDisabled(seen *policy.Decision) (stop func()) {
	if !r.Plan.TellsMissed {
		return func() {}
	}
	r.unwatchDisabled() // that of an earlier soak
	ctx, cancel := workflow.WithCancel(r.ctx)
	r.unwatchDisabled = cancel
	workflow.Go(ctx, func(ctx workflow.Context) {
		for told := false; ; {
			var d policy.Decision
			err := watchingDisabled(r.credential).start(ctx, r.Queue, act.AwaitMissed, r.subject()).Get(ctx, &d)
			if err == nil && d.Reason == policy.RetiringMissed && ctx.Err() == nil {
				*seen = d
				r.enableMissed(ctx)
			}
			blind := ""
			switch {
			case err != nil:
				blind = cause(err)
			case d.Reason == policy.UsageStale:
				blind = d.Message
			}
			if blind == "" || ctx.Err() != nil || r.Status.Phase != PhaseDisableSoak {
				return
			}
			if !told {
				told = true
				r.note("not watching whether the disabled key is missed: %s", blind)
				defer r.tellWhile("unwatched", "Nobody watches the disabled key",
					"Whether somebody misses it is not known: "+blind+". It is looked at again each 10 minutes, and once before the key is destroyed.")()
			}
			if sleep(ctx, missedAgain, "before looking again who misses the disabled key") != nil {
				return
			}
		}
	})
	return cancel
}

// missedAgain is how long after it failed for good the watch of a disabled key begins again.
const missedAgain = 10 * time.Minute

// enableMissed enables the key at once, also while the rotation is paused, but never one that an incident has exposed. What
// follows of it the soak does, with this step again; it ends now, and this must not.
func (r *rotation) enableMissed(ctx workflow.Context) {
	if r.Status.Phase != PhaseDisableSoak || r.Turn != nil && r.Turn.Outcome == Superseded {
		return
	}
	r.background.Add(1)
	defer r.background.Done()
	own, _ := workflow.NewDisconnectedContext(ctx)
	var d policy.Decision
	switch err := enabling.start(own, r.Queue, act.Enable, r.subject()).Get(own, &d); {
	case err != nil:
		r.note("the missed key is not enabled yet: %s", cause(err))
	case d.Reason != policy.RetiringKeyDisabled:
		r.enabled()
	}
}
