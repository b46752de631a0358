package main

import (
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/sdk/converter"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/workflows"
)

func sample(minutes, errors, total float64) key.Sample {
	return key.Sample{At: after(minutes), Errors: errors, Total: total}
}

func TestReadingsAreWhatTheBudgetWasJudgedBy(t *testing.T) {
	t.Parallel()
	counted := policy.Readings{sample(0, 90, 100), sample(1, 91, 200), sample(2, 95, 300)}
	windowed := key.Sample{At: after(1), Errors: 3, Total: 10, Window: time.Minute}
	for name, c := range map[string]struct {
		known   []reading
		signals []policy.Readings
		want    []reading
	}{
		"nothing without signals":                           {nil, nil, nil},
		"a baseline alone says nothing":                     {nil, []policy.Readings{counted[:1]}, nil},
		"what came before the baseline is not counted":      {nil, []policy.Readings{counted}, []reading{{after(1), 1, 100}, {after(2), 5, 200}}},
		"what is known is not told again":                   {[]reading{{at: after(1)}}, []policy.Readings{counted}, []reading{{after(2), 5, 200}}},
		"signals are added up":                              {nil, []policy.Readings{counted[:2], {sample(0, 0, 0), sample(1, 2, 50)}}, []reading{{after(1), 3, 150}}},
		"a source that counts its window needs no baseline": {nil, []policy.Readings{{windowed}}, []reading{{after(1), 3, 10}}},
		"a counter that restarted counts from zero":         {nil, []policy.Readings{{sample(0, 5, 1000), sample(1, 1, 20)}}, []reading{{after(1), 1, 20}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, c.want, readingsAfter(c.known, c.signals))
			if n := len(c.want); n > 0 && c.known == nil { // the last one is the policy's own
				d := policy.BudgetHolds(budget(0), c.signals)
				assert.Contains(t, d.Message, number(c.want[n-1].errors)+" of "+number(c.want[n-1].total)+" requests failed")
			}
		})
	}
}

// pending is an activity that runs, with what it left in its heartbeat.
func pending(t *testing.T, activity string, minutes float64, left any) *workflowpb.PendingActivityInfo {
	t.Helper()
	details, err := converter.GetDefaultDataConverter().ToPayloads(left)
	require.NoError(t, err)
	return &workflowpb.PendingActivityInfo{
		ActivityType: &commonpb.ActivityType{Name: activity}, HeartbeatDetails: details, LastHeartbeatTime: timestamppb.New(after(minutes)),
	}
}

func TestWhatHeartbeatsTell(t *testing.T) {
	t.Parallel()
	signals := []policy.Readings{{sample(0, 0, 0), sample(1, 1, 100)}}
	watch := map[string]any{"signals": signals, "failing": map[string]int{"checkout/a": 1}}
	delivery := map[string]any{"key": "key-2026-03", "of": "digest", "done": []byte{0b111, 0b1}}
	status := workflows.Status{Phase: workflows.PhaseDeliver, Incoming: key.Ref{KeyID: "key-2026-03"}}
	for name, c := range map[string]struct {
		pending   []*workflowpb.PendingActivityInfo
		delivered int
		errors    []reading
	}{
		"nothing runs":                    {nil, 0, nil},
		"a watch and a delivery":          {[]*workflowpb.PendingActivityInfo{pending(t, "Watch", 1, watch), pending(t, "DeliverWave", 1, delivery)}, 4, []reading{{after(1), 1, 100}}},
		"a pause reads on":                {[]*workflowpb.PendingActivityInfo{pending(t, "AwaitHealth", 1, watch)}, 0, []reading{{after(1), 1, 100}}},
		"a watch that has not looked yet": {[]*workflowpb.PendingActivityInfo{{ActivityType: &commonpb.ActivityType{Name: "Watch"}}}, 0, nil},
		"a delivery of another key":       {[]*workflowpb.PendingActivityInfo{pending(t, "DeliverWave", 1, map[string]any{"key": "key-2025-11", "done": []byte{7}})}, 0, nil},
		"the watch that is newer counts": {[]*workflowpb.PendingActivityInfo{
			pending(t, "Watch", 2, map[string]any{"signals": []policy.Readings{{sample(1, 0, 0), sample(2, 0, 7)}}}), pending(t, "Watch", 1, watch),
		}, 0, []reading{{after(2), 0, 7}}},
		"heartbeats of other versions say nothing": {[]*workflowpb.PendingActivityInfo{
			pending(t, "Watch", 1, "gathering"), pending(t, "DeliverWave", 1, []int{1}), pending(t, "Watch", 2, map[string]any{"signals": "none"}),
		}, 0, nil},
		"of another activity, too": {[]*workflowpb.PendingActivityInfo{pending(t, "Sweep", 1, watch)}, 0, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var p picture
			p.take(answer{status: standing{Status: status}, learned: learned{pending: c.pending}})
			assert.Equal(t, c.delivered, p.delivered)
			require.Len(t, p.errors, len(c.errors))
			for i, want := range c.errors {
				got := p.errors[i]
				assert.True(t, want.at.Equal(got.at))
				assert.Equal(t, [2]float64{want.errors, want.total}, [2]float64{got.errors, got.total})
			}
		})
	}
}

func TestAWatchOfWeeksKeepsABoundedNumberOfReadings(t *testing.T) {
	t.Parallel()
	var p picture
	for n := range 3 * maxReadings {
		from := float64(n)
		p.take(answer{learned: learned{pending: []*workflowpb.PendingActivityInfo{
			pending(t, "Watch", from, map[string]any{"signals": []policy.Readings{{sample(from, 0, 0), sample(from+0.5, 0, from)}}}),
		}}})
	}
	assert.Len(t, p.errors, maxReadings)
	assert.InDelta(t, 3*maxReadings-1, p.errors[maxReadings-1].total, 0, "the last ones")
}

func budget(ratio float64) inventory.ErrorBudget {
	return inventory.ErrorBudget{Ratio: ratio, Window: inventory.Duration(5 * time.Minute)}
}

func number(f float64) string { return strconv.FormatFloat(f, 'f', 0, 64) }
