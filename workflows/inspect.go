package workflows

import (
	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/policy"
)

// Inspect is the dry run: the plan that a rotation would follow now, and its refusals. It changes
// nothing.
func Inspect(ctx workflow.Context, in InspectInput) (policy.Plan, error) {
	signed, err := resolve(ctx, in.Spec, in.Credential)
	if err != nil {
		return policy.Plan{}, err
	}
	spec, err := signed.Peek()
	if err != nil {
		return policy.Plan{}, err
	}
	var accepted activities.Accepted
	if err := accepting.start(ctx, TaskQueue, act.Accept, signed).Get(ctx, &accepted); err != nil {
		return policy.Plan{}, err
	}
	var plan policy.Plan
	subject := activities.Rotation{Spec: signed, ID: workflow.GetInfo(ctx).FirstRunID, Start: policy.Start{Now: in.Now}}
	look := inspecting
	look.reports = true // to whoever asked for the plan
	err = look.start(ctx, issuerQueue(spec.Credential, accepted), act.Inspect, subject).Get(ctx, &plan)
	if accepted.Notice != "" {
		plan.Warnings = append([]string{accepted.Notice}, plan.Warnings...)
	}
	return plan, err
}
