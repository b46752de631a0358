package host

import (
	"context"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/interceptor"

	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/workflows"
)

// urgency marks what the activities of emergencies call as urgent, so that it goes first within the quota of an account, as the
// activities do in its queue.
type urgency struct {
	interceptor.WorkerInterceptorBase
}

// InterceptActivity implements interceptor.WorkerInterceptor.
func (*urgency) InterceptActivity(_ context.Context, next interceptor.ActivityInboundInterceptor) interceptor.ActivityInboundInterceptor {
	return &urgentActivity{interceptor.ActivityInboundInterceptorBase{Next: next}}
}

type urgentActivity struct {
	interceptor.ActivityInboundInterceptorBase
}

// ExecuteActivity implements interceptor.ActivityInboundInterceptor.
func (a *urgentActivity) ExecuteActivity(ctx context.Context, in *interceptor.ExecuteActivityInput) (any, error) {
	return a.Next.ExecuteActivity(marked(ctx, activity.GetInfo(ctx)), in)
}

// marked is the context of an activity's calls.
func marked(ctx context.Context, info activity.Info) context.Context {
	if p := info.Priority.PriorityKey; p == workflows.UrgentPriority || p == workflows.SoonPriority {
		return providers.Urgent(ctx)
	}
	return ctx
}
