package workflows_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/providers/memory"
	"github.com/keyturn/keyturn/workflows"
)

// growing tells a run how long its history is, about as a server would, and suggests to continue as new when that is enough.
// A workflow task counts for what comes in, and what follows of it at once goes with it.
type growing struct {
	interceptor.WorkerInterceptorBase
	stage          *stage
	events, enough int
}

func (g *growing) grows(by int) {
	g.events += by
	g.stage.env.SetCurrentHistoryLength(g.events)
	g.stage.env.SetContinueAsNewSuggested(g.events >= g.enough)
}

func (g *growing) InterceptWorkflow(_ workflow.Context, next interceptor.WorkflowInboundInterceptor) interceptor.WorkflowInboundInterceptor {
	return &growingInbound{growing: g, inbound: between(next, func(out interceptor.WorkflowOutboundInterceptor) interceptor.WorkflowOutboundInterceptor {
		return &growingOutbound{WorkflowOutboundInterceptorBase: interceptor.WorkflowOutboundInterceptorBase{Next: out}, growing: g}
	})}
}

type growingInbound struct {
	*inbound
	growing *growing
}

func (g *growingInbound) HandleSignal(ctx workflow.Context, in *interceptor.HandleSignalInput) error {
	g.growing.grows(4)
	return g.Next.HandleSignal(ctx, in)
}

func (g *growingInbound) ExecuteUpdate(ctx workflow.Context, in *interceptor.UpdateInput) (any, error) {
	g.growing.grows(5)
	return g.Next.ExecuteUpdate(ctx, in)
}

type growingOutbound struct {
	interceptor.WorkflowOutboundInterceptorBase
	growing *growing
}

func (g *growingOutbound) ExecuteActivity(ctx workflow.Context, name string, args ...any) workflow.Future {
	g.growing.grows(6)
	return g.Next.ExecuteActivity(ctx, name, args...)
}

func (g *growingOutbound) ExecuteLocalActivity(ctx workflow.Context, name string, args ...any) workflow.Future {
	g.growing.grows(1)
	return g.Next.ExecuteLocalActivity(ctx, name, args...)
}

func (g *growingOutbound) AwaitWithOptions(ctx workflow.Context, options workflow.AwaitOptions, condition func() bool) (bool, error) {
	g.growing.grows(5) // with the timer's cancellation
	return g.Next.AwaitWithOptions(ctx, options, condition)
}

func (g *growingOutbound) UpsertTypedSearchAttributes(ctx workflow.Context, attributes ...temporal.SearchAttributeUpdate) error {
	g.growing.grows(1)
	return g.Next.UpsertTypedSearchAttributes(ctx, attributes...)
}

// An overlap that is extended 300 times, while a consumer falls ill again and again, takes several runs. No history and no input
// grows without end, every decision counts once, nothing that was recorded is lost or doubled, and nobody is told anything twice.
// Its days are hours here: what it costs is the looks of the watch.
func TestAnOverlapWithoutEndComesToItsEnd(t *testing.T) {
	t.Parallel()
	long(t)
	const (
		extends  = 300
		enough   = 1000 // events, for the server's 4,096
		each     = 6 * time.Minute
		illEvery = 10 // extends
	)
	s := newStage(t)
	s.credential.Overlap, s.credential.WaveSoak = minutes(60), minutes(5)
	s.credential.ErrorBudget.OnBreach = inventory.BreachPause
	verdicts := map[string]policy.Verdict{}
	asked, ill, sick := 0, 0, false
	heal := func() {
		sick = false
		s.world.SetInstance("canary", memory.InstanceSettings{})
	}
	decide := func(id string, verdict func(policy.Verdict)) {
		req := policy.Request{ID: id, By: "ann", Extension: inventory.Duration(each)}
		s.env.UpdateWorkflow(workflows.ExtendName, fmt.Sprint(id, "/", asked), &testsuite.TestUpdateCallback{
			OnAccept: func() {}, OnReject: func(err error) { assert.NoError(t, err, id) },
			OnComplete: func(result any, err error) {
				if assert.NoError(t, err) {
					verdict(result.(policy.Verdict))
				}
			},
		}, req)
	}
	extend := func() {
		if s.status().Phase != workflows.PhaseOverlap {
			return
		}
		if asked++; asked > extends {
			if asked == extends+1 { // what was decided first, in the first run
				until := s.status().Until
				decide("longer-1", func(v policy.Verdict) {
					assert.Equal(t, verdicts["longer-1"], v)
					assert.Equal(t, until, s.status().Until, "it is not extended again")
				})
			}
			return
		}
		if asked%illEvery == 0 {
			ill, sick = ill+1, true
			s.world.SetInstance("canary", memory.InstanceSettings{Unhealthy: errors.New("HTTP 500")})
			s.at(5*time.Minute, heal)
		}
		id := fmt.Sprint("longer-", asked)
		decide(id, func(v policy.Verdict) { verdicts[id] = v })
	}

	var report workflows.Report
	var largest, longest, runs int
	in, full := workflows.RotationInput{Spec: s.spec()}, true
	for full {
		g := &growing{stage: s, enough: enough}
		s.anew(g)
		if sick { // as the run before ended
			s.at(5*time.Minute, heal)
		}
		s.every(time.Minute, 200*time.Hour, func() {
			for _, name := range fleet {
				_ = s.world.Request(name)
			}
		})
		s.every(each, 200*time.Hour, extend)
		s.every(5*time.Minute, 200*time.Hour, func() {
			if gate := s.status().Gate; gate != nil && len(gate.Approvals) == 0 {
				s.env.SignalWorkflow(workflows.ApproveName, policy.Request{Gate: "revoke", By: "bob"})
			}
		})
		text, err := json.Marshal(in)
		require.NoError(t, err)
		report, err = s.execute(in)
		runs, largest, longest = runs+1, max(largest, len(text)), max(longest, g.events)
		if in, full = s.next(err); !full {
			require.NoError(t, err)
		}
		require.Less(t, runs, 20)
	}

	assert.Equal(t, workflows.Completed, report.Outcome, report.Message)
	assert.Empty(t, report.Debt)
	assert.Zero(t, s.refused())
	assert.Equal(t, []string{"issue new-1", "disable key-old", "destroy key-old"}, s.happened(memory.OpIssue, memory.OpDisable, memory.OpEnable, memory.OpDestroy))
	assert.Greater(t, runs, 3)
	assert.Less(t, longest, enough+100, "events of a run")
	assert.Less(t, largest, 256<<10, "the input of a run, in bytes")
	assert.LessOrEqual(t, len(report.Verdicts), 200)

	require.Len(t, verdicts, extends)
	for id, v := range verdicts {
		assert.True(t, v.Accepted, "%s: %s", id, v.Message)
	}
	recorded := map[audit.Type]int{}
	for _, typ := range s.trail() {
		recorded[typ]++
	}
	assert.Equal(t, extends, recorded[audit.OverlapExtended])
	assert.Equal(t, extends+1, recorded[audit.DecisionAccepted], "the extends and the approval")
	assert.Equal(t, 1, recorded[audit.OverlapBegun])
	assert.Equal(t, 1, recorded[audit.GateOpened])
	assert.Equal(t, ill, recorded[audit.BudgetBreached])
	told := map[string]int{}
	for _, n := range s.world.Notifications() {
		told[n.Subject]++
	}
	assert.Equal(t, ill, told["Rotation paused"])
	assert.Equal(t, 1, told["Approval needed: revoke gate"])
}
