package workflows_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/providers/memory"
	"github.com/keyturn/keyturn/workflows"
)

// lost ends a run at its n-th activity, before that begins, as a run ends that somebody terminates or that is lost with its
// server: nothing of it runs any more. Its run has the ID.
type lost struct {
	interceptor.WorkerInterceptorBase
	id    string
	at, n int
}

func (l *lost) InterceptWorkflow(_ workflow.Context, next interceptor.WorkflowInboundInterceptor) interceptor.WorkflowInboundInterceptor {
	return &lostInbound{WorkflowInboundInterceptorBase: interceptor.WorkflowInboundInterceptorBase{Next: next}, lost: l}
}

type lostInbound struct {
	interceptor.WorkflowInboundInterceptorBase
	lost *lost
}

func (l *lostInbound) Init(next interceptor.WorkflowOutboundInterceptor) error {
	return l.Next.Init(&lostOutbound{WorkflowOutboundInterceptorBase: interceptor.WorkflowOutboundInterceptorBase{Next: next}, lost: l.lost})
}

type lostOutbound struct {
	interceptor.WorkflowOutboundInterceptorBase
	lost *lost
}

func (l *lostOutbound) GetInfo(ctx workflow.Context) *workflow.Info {
	info := *l.Next.GetInfo(ctx)
	info.WorkflowExecution.RunID = l.lost.id
	return &info
}

func (l *lostOutbound) ExecuteActivity(ctx workflow.Context, name string, args ...any) workflow.Future {
	if l.lost.n++; l.lost.n == l.lost.at {
		panic("the run is lost before " + name)
	}
	return l.Next.ExecuteActivity(ctx, name, args...)
}

// A rotation that is lost at any of its activities, or is reset to before its first one, is gone on with by the next run: no
// second key is minted, nobody is refused, nothing is left over.
func TestTheNextRunGoesOnFromWhereOneWasLost(t *testing.T) {
	t.Parallel()
	whole, s := &lost{id: "first"}, newStage(t)
	s.coarse()
	_, err := s.over(workflows.RotationInput{Spec: s.spec()}, whole)
	require.NoError(t, err)
	require.Greater(t, whole.n, 10)
	for how, id := range map[string]string{"terminated, and begun again": "second", "reset": "first"} {
		for at := 2; at <= whole.n; at++ { // the first one only looks
			t.Run(fmt.Sprintf("%s at activity %d", how, at), func(t *testing.T) {
				t.Parallel()
				s := newStage(t)
				s.coarse()
				_, err := s.over(workflows.RotationInput{Spec: s.spec()}, &lost{id: "first", at: at})
				require.ErrorContains(t, err, "the run is lost before ")
				report, err := s.over(workflows.RotationInput{Spec: s.spec()}, &lost{id: id})
				require.NoError(t, err)
				assert.Equal(t, workflows.Completed, report.Outcome, report.Message)
				assert.Empty(t, report.Debt)
				assert.Zero(t, s.refused(), "requests refused")
				assert.Equal(t, []string{"issue new-1"}, s.happened(memory.OpIssue))
				assert.Equal(t, []string{"new-1 active"}, s.keys())
				assert.Len(t, s.versions(), 1)
				m := s.metadata()
				assert.Nil(t, m.Lease)
				assert.Empty(t, m.Debt)
				assert.Len(t, m.Keys, 1)
				assert.False(t, m.Keys[0].KeptAt.IsZero())
			})
		}
	}
}
