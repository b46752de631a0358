package temporaltest

import (
	"cmp"
	"context"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/workflow"
)

// OfRun gives the run of an environment, and its activities, this ID: those of all environments have the same one otherwise, as
// they have when it is empty.
func OfRun(id string) interceptor.WorkerInterceptor { return &ofRun{id: id} }

type ofRun struct {
	interceptor.WorkerInterceptorBase
	id string
}

func (r *ofRun) InterceptWorkflow(_ workflow.Context, next interceptor.WorkflowInboundInterceptor) interceptor.WorkflowInboundInterceptor {
	return &runInbound{interceptor.WorkflowInboundInterceptorBase{Next: next}, r.id}
}

type runInbound struct {
	interceptor.WorkflowInboundInterceptorBase
	id string
}

func (r *runInbound) Init(out interceptor.WorkflowOutboundInterceptor) error {
	return r.Next.Init(&runOutbound{interceptor.WorkflowOutboundInterceptorBase{Next: out}, r.id})
}

type runOutbound struct {
	interceptor.WorkflowOutboundInterceptorBase
	id string
}

func (r *runOutbound) GetInfo(ctx workflow.Context) *workflow.Info {
	info := *r.Next.GetInfo(ctx)
	info.WorkflowExecution.RunID = cmp.Or(r.id, info.WorkflowExecution.RunID)
	return &info
}

func (r *ofRun) InterceptActivity(_ context.Context, next interceptor.ActivityInboundInterceptor) interceptor.ActivityInboundInterceptor {
	return &activityInbound{interceptor.ActivityInboundInterceptorBase{Next: next}, r.id}
}

type activityInbound struct {
	interceptor.ActivityInboundInterceptorBase
	id string
}

func (a *activityInbound) Init(out interceptor.ActivityOutboundInterceptor) error {
	return a.Next.Init(&activityOutbound{interceptor.ActivityOutboundInterceptorBase{Next: out}, a.id})
}

type activityOutbound struct {
	interceptor.ActivityOutboundInterceptorBase
	id string
}

func (a *activityOutbound) GetInfo(ctx context.Context) activity.Info {
	info := a.Next.GetInfo(ctx)
	info.WorkflowExecution.RunID = cmp.Or(a.id, info.WorkflowExecution.RunID)
	return info
}
