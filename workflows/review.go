package workflows

import (
	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/activities"
)

// ReviewInput is somebody's review of an incident.
type ReviewInput = activities.ReviewInput

// Reviewed is a review that counts.
type Reviewed = activities.Reviewed

// Review records that somebody reviewed an incident who did not declare it. Its workflow ID is incident.ReviewID of the incident's.
func Review(ctx workflow.Context, in ReviewInput) (Reviewed, error) {
	var reviewed Reviewed
	if err := reviewing.start(ctx, TaskQueue, act.RecordReview, in).Get(ctx, &reviewed); err != nil {
		return reviewed, err
	}
	workflow.SetCurrentDetails(ctx, "**"+text(reviewed.Incident)+"** is reviewed by "+text(reviewed.By)+": "+text(reviewed.Comment))
	return reviewed, nil
}
