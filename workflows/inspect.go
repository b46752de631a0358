package workflows

import (
	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/policy"
)

// Inspect is the dry run: the plan that a rotation would follow now, and its refusals. It changes
// nothing.
func Inspect(ctx workflow.Context, in InspectInput) (policy.Plan, error) {
	spec, err := in.Spec.Peek()
	if err != nil {
		return policy.Plan{}, err
	}
	var accepted activities.Accepted
	if err := workflow.ExecuteActivity(accepting.context(ctx, spec.Credential), act.Accept, in.Spec).Get(ctx, &accepted); err != nil {
		return policy.Plan{}, err
	}
	var plan policy.Plan
	subject := activities.Rotation{Spec: in.Spec, ID: workflow.GetInfo(ctx).FirstRunID}
	err = workflow.ExecuteActivity(inspecting.context(ctx, spec.Credential), act.Inspect, subject).Get(ctx, &plan)
	if accepted.Notice != "" {
		plan.Warnings = append([]string{accepted.Notice}, plan.Warnings...)
	}
	return plan, err
}
