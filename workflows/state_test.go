package workflows_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/workflow"
	"pgregory.net/rapid"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/providers/memory"
	"github.com/keyturn/keyturn/workflows"
)

// states are those that a run may hand over, whatever it did.
func states() *rapid.Generator[workflows.State] {
	when := rapid.Custom(func(t *rapid.T) any { return time.Unix(rapid.Int64Range(0, 1<<32).Draw(t, "at"), 0).UTC() })
	text := rapid.Custom(func(t *rapid.T) any { return rapid.StringN(0, 8, -1).Draw(t, "text") })
	body := rapid.Just[any](json.RawMessage(`{"nonce":"n"}`))
	event := rapid.Custom(func(t *rapid.T) audit.Event {
		return audit.Event{ID: rapid.String().Draw(t, "id"), Type: audit.PlanMade, Detail: map[string]string{"why": rapid.String().Draw(t, "why")}}
	})
	waiting := rapid.Custom(func(t *rapid.T) any {
		var o workflows.Outbox
		events, err := json.Marshal(rapid.SliceOfN(event, 0, 3).Draw(t, "events"))
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(events, &o))
		return o
	})
	made := rapid.MakeCustom[workflows.State](rapid.MakeConfig{
		Types: map[reflect.Type]*rapid.Generator[any]{
			reflect.TypeFor[time.Time]():          when,
			reflect.TypeFor[json.RawMessage]():    body,
			reflect.TypeFor[workflows.Outbox]():   waiting,
			reflect.TypeFor[inventory.Duration](): rapid.Custom(func(t *rapid.T) any { return minutes(rapid.IntRange(0, 1000).Draw(t, "minutes")) }),
		},
		Kinds: map[reflect.Kind]*rapid.Generator[any]{reflect.String: text},
	})
	return rapid.Custom(func(t *rapid.T) workflows.State {
		s := made.Draw(t, "state")
		s.Report.Verdicts = nil // of a run that has ended alone
		return s
	})
}

// What a run knows reaches the next one whole: there is no field that stays behind.
func TestAStateTravelsWhole(t *testing.T) {
	t.Parallel()
	for field := range reflect.TypeFor[workflows.State]().Fields() {
		assert.True(t, field.IsExported(), field.Name)
		assert.NotEmpty(t, field.Tag.Get("json"), field.Name)
		assert.NotEqual(t, "-", field.Tag.Get("json"), field.Name)
	}
	rapid.Check(t, func(t *rapid.T) {
		before := states().Draw(t, "state")
		text, err := json.Marshal(before)
		require.NoError(t, err)
		var after workflows.State
		require.NoError(t, json.Unmarshal(text, &after))
		again, err := json.Marshal(after)
		require.NoError(t, err)
		assert.JSONEq(t, string(text), string(again))
	})
}

// What a run of before handed over, which had booleans beside the facts, is read as what it says.
func TestAStateOfBeforeIsRead(t *testing.T) {
	t.Parallel()
	var s workflows.State
	require.NoError(t, json.Unmarshal([]byte(`{"at":"overlap","changed":true,"delivered":true,"promoted":true,"rollingBack":true,
		"status":{"phase":"rollback","noWayBack":"none"},"report":{"verdicts":[{"id":"longer","accepted":true}]}}`), &s))
	assert.Equal(t, 1, s.Ordinal, "so that it is known to have changed something")
	assert.True(t, s.Promoted)
	require.Len(t, s.Verdicts, 1)
	assert.Equal(t, "longer", s.Verdicts[0].ID)
	assert.Empty(t, s.Report.Verdicts)

	require.NoError(t, json.Unmarshal([]byte(`{"at":"","changed":true}`), &s))
	assert.Equal(t, 1, s.Revokes, "a rotation that settles mints nothing")
}

// filling makes a run full from the n-th time on that it looks at itself, which it does at each safe point. left is how often it
// had looked when it made way for the next one; zero when it did not.
type filling struct {
	interceptor.WorkerInterceptorBase
	fill            func()
	at, looks, left int
}

func (f *filling) InterceptWorkflow(_ workflow.Context, next interceptor.WorkflowInboundInterceptor) interceptor.WorkflowInboundInterceptor {
	return between(next, func(out interceptor.WorkflowOutboundInterceptor) interceptor.WorkflowOutboundInterceptor {
		return &fillingOutbound{WorkflowOutboundInterceptorBase: interceptor.WorkflowOutboundInterceptorBase{Next: out}, filling: f}
	})
}

type fillingOutbound struct {
	interceptor.WorkflowOutboundInterceptorBase
	filling *filling
}

func (f *fillingOutbound) GetInfo(ctx workflow.Context) *workflow.Info {
	if f.filling.looks++; f.filling.looks == f.filling.at {
		f.filling.fill()
	}
	return f.Next.GetInfo(ctx)
}

func (f *fillingOutbound) NewContinueAsNewError(ctx workflow.Context, wfn any, args ...any) error {
	f.filling.left = f.filling.looks
	return f.Next.NewContinueAsNewError(ctx, wfn, args...)
}

// A run that goes on in the next one, at whichever step that is, comes to the end that one comes to which never does.
func TestARunMayGoOnInTheNextOneAtEachStep(t *testing.T) {
	t.Parallel()
	fills := map[string]func(*stage){
		"as the server suggests": func(s *stage) { s.env.SetContinueAsNewSuggested(true) },
		"since it is overlong":   func(s *stage) { s.env.SetCurrentHistoryLength(10_000) },
	}
	for name, c := range map[string]struct {
		begin     func(*stage) workflows.RotationInput
		delivered int
	}{
		"a rotation": {func(s *stage) workflows.RotationInput { return workflows.RotationInput{Spec: s.spec()} }, len(fleet)},
		"one that ends a retired key which was left alive": {func(s *stage) workflows.RotationInput {
			retired, _ := s.owe()
			return workflows.RotationInput{Spec: s.spec(), Settle: retired.KeyID}
		}, 0},
		"one that ends a leftover key at a person's word": {func(s *stage) workflows.RotationInput {
			retired, _ := s.owe()
			return workflows.RotationInput{Spec: s.spec(), Retire: retired.KeyID, Reason: "no slot is free", RequestedBy: "ann"}
		}, 0},
	} {
		for why, fill := range fills {
			t.Run(name+", "+why, func(t *testing.T) {
				t.Parallel()
				whole := newStage(t)
				whole.coarse()
				_, err := whole.over(c.begin(whole))
				require.NoError(t, err)
				runs := 1
				for at := 1; ; runs++ {
					s := newStage(t)
					s.coarse()
					f := &filling{at: at, fill: func() { fill(s) }}
					_, err := s.over(c.begin(s), f)
					in, full := s.next(err)
					if !full {
						require.NoError(t, err)
						break // there is no safe point after that
					}
					report, err := s.over(in)
					from := fmt.Sprintf("from %s on, in phase %s", in.Carried.At, in.Carried.Status.Phase)
					require.NoError(t, err, from)
					require.Equal(t, workflows.Completed, report.Outcome, "%s: %s", from, report.Message)
					assert.Empty(t, report.Debt, from)
					assert.Zero(t, s.refused(), from)
					assert.Equal(t, []string{"new-1 active"}, s.keys(), from)
					assert.Len(t, s.world.Happened(memory.OpDeliver), c.delivered, from)
					assert.Len(t, s.versions(), 1, from)
					assert.Nil(t, s.metadata().Lease, from)
					assert.Empty(t, s.metadata().Debt, from)
					if why == "as the server suggests" { // then nothing is asked or done twice
						assert.Equal(t, whole.trail(), s.trail(), from)
					}
					at = f.left + 1
				}
				assert.Greater(t, runs, 3)
			})
		}
	}
}
