package activities_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/policy"
)

// endedRun is a rotation that ended so.
type endedRun struct {
	activities.Runs
	status enumspb.WorkflowExecutionStatus
	at     time.Time
	first  string
}

func (r endedRun) DescribeWorkflowExecution(context.Context, string, string) (*workflowservice.DescribeWorkflowExecutionResponse, error) {
	return &workflowservice.DescribeWorkflowExecutionResponse{WorkflowExecutionInfo: &workflowpb.WorkflowExecutionInfo{
		Execution: &commonpb.WorkflowExecution{WorkflowId: "rotation/payments-api", RunId: "the-run"}, FirstRunId: r.first,
		Status: r.status, CloseTime: timestamppb.New(r.at), Type: &commonpb.WorkflowType{Name: "Rotation"},
	}}, nil
}

// deafSink takes no event.
type deafSink struct{}

func (deafSink) Append(context.Context, ...audit.Event) error {
	return errors.New("no space left on device")
}

// Temporal ends a run before anything was issued, or when all was done: nothing of it is in issuer and store, and the run itself can
// put nothing on record.
func TestSweepPutsOnRecordWhatWasCutOff(t *testing.T) {
	t.Parallel()
	sweep := func(c *crashCase) (out activities.Swept) {
		c.execute("Sweep", activities.SweepInput{Entries: []activities.Entry{{Named: c.named()}}}, &out)
		return out
	}
	for name, status := range map[string]enumspb.WorkflowExecutionStatus{
		"terminated": enumspb.WORKFLOW_EXECUTION_STATUS_TERMINATED, "timedout": enumspb.WORKFLOW_EXECUTION_STATUS_TIMED_OUT,
		"canceled": enumspb.WORKFLOW_EXECUTION_STATUS_CANCELED,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCase(t)
			c.do.Runs = endedRun{status: status, at: c.now().Add(-time.Hour), first: "the-first"}
			c.do.Audit = deafSink{}
			require.NotEmpty(t, sweep(c).Findings, "a record that takes nothing keeps no sweep from what it looks for")
			sink, err := audit.OpenFile(c.auditFile)
			require.NoError(t, err)
			c.do.Audit = sink
			require.NotEmpty(t, sweep(c).Findings)
			sweep(c)
			events := c.recorded(audit.RotationCutOff)
			require.Len(t, events, 1)
			assert.Equal(t, "seen/the-run/rotation.cut-off", events[0].ID, "the same, whoever tells of it")
			assert.Equal(t, "the-first", events[0].Rotation)
			assert.Equal(t, name, events[0].Detail["status"])
			assert.Equal(t, c.now().Add(-time.Hour).Format(time.RFC3339), events[0].Detail["ended"])
			assert.Contains(t, events[0].Detail["left"], "key-old (current, active)")
		})
	}
	t.Run("not one that ended as it should", func(t *testing.T) {
		t.Parallel()
		c := newCase(t)
		c.do.Runs = endedRun{status: enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED, at: c.now()}
		assert.NotContains(t, kindsOf(sweep(c).Findings), policy.FoundTerminated)
		assert.Empty(t, c.recorded(audit.RotationCutOff))
	})
	t.Run("nor one whose end is on record", func(t *testing.T) {
		t.Parallel()
		c := newCase(t)
		for _, step := range forward {
			c.run(step)
		}
		c.do.Runs = endedRun{status: enumspb.WORKFLOW_EXECUTION_STATUS_TERMINATED, at: c.now(), first: c.subject().ID}
		sweep(c)
		assert.Empty(t, c.recorded(audit.RotationCutOff))
	})
}

func kindsOf(findings []policy.Finding) (kinds []policy.FindingKind) {
	for _, f := range findings {
		kinds = append(kinds, f.Kind)
	}
	return kinds
}
