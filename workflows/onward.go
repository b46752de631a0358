package workflows

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/policy"
)

// onward is a phase that is done again, however long that takes, when it does not come to its end and nothing leads back: to give it
// up would leave consumers apart, on two keys, and whoever rotates again where this one stood. What no waiting can change, a turn and
// whatever can be taken back end it.
func (r *rotation) onward(what string, do func() error) func() error {
	return func() error {
		return r.insist(what, func() error {
			err := do()
			switch why := r.nothingLeadsBack(err); {
			case why != "":
				return fmt.Errorf("%s. Nothing leads back: %s", cause(err), why)
			case err == nil, errors.Is(err, errFull):
				return err
			}
			return asTurn(err)
		})
	}
}

// mayPass are the reasons of turns that a phase makes by itself and that may pass.
var mayPass = []policy.Reason{policy.InstanceNotConverged, policy.CheckFailing, policy.RetiringStillHeld, StepFailed}

// nothingLeadsBack is why a phase that ended so is not turned back from, but done again; empty when it is.
func (r *rotation) nothingLeadsBack(err error) string {
	switch {
	case err == nil, errors.Is(err, errFull), r.Turn != nil, !r.delivered() && !r.Promoted,
		!slices.Contains(mayPass, asTurn(err).Reason), endsInsisting(err):
		return ""
	}
	return cmp.Or(r.noWayBack(workflow.Now(r.ctx)), r.lookBack(r.ctx))
}

// endsInsisting tells whether an activity ended with what no waiting can change.
func endsInsisting(err error) bool {
	return isType(err, activities.TypeRefused, activities.TypeSpec, activities.TypeAmbiguous, activities.TypeInvalid, activities.TypeUnsupported)
}
