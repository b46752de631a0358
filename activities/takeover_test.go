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
	"go.temporal.io/api/serviceerror"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/converter"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/incident"
	"github.com/keyturn/keyturn/internal/temporaltest"
)

// aRun is the one rotation that Temporal has.
type aRun struct {
	activities.Runs
	running bool
	of      string // its workflow type
	actsBy  string // whose emergency it says that it is
	// follows are the incidents of which it says that it has heard; silence is why it says nothing.
	follows []string
	silence error
	ended   []string // why it was ended, each time
	dies    func()   // as it is ended
}

func (r *aRun) DescribeWorkflowExecution(context.Context, string, string) (*workflowservice.DescribeWorkflowExecutionResponse, error) {
	status := enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED
	if r.running {
		status = enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING
	}
	return &workflowservice.DescribeWorkflowExecutionResponse{WorkflowExecutionInfo: &workflowpb.WorkflowExecutionInfo{
		Execution: &commonpb.WorkflowExecution{WorkflowId: "rotation/payments-api", RunId: "the-run"}, Status: status, Type: &commonpb.WorkflowType{Name: r.of},
	}}, nil
}

func (r *aRun) QueryWorkflow(context.Context, string, string, string, ...any) (converter.EncodedValue, error) {
	return temporaltest.Answer{Of: map[string]any{"incidents": r.follows, "actsBy": r.actsBy}}, r.silence
}

func (r *aRun) TerminateWorkflow(_ context.Context, _, run, why string, _ ...any) error {
	if !r.running || run != "the-run" {
		return serviceerror.NewNotFound("no such run")
	}
	r.ended, r.running = append(r.ended, why), false
	if r.dies != nil {
		r.dies()
	}
	return nil
}

// asks is what Follow answers about the rotation.
func (c *crashCase) asks(end, late bool) (is activities.Takeover, err error) {
	c.t.Helper()
	in := activities.TakeoverInput{DeclarationInput: activities.DeclarationInput{Emergency: *c.emergency, Credential: "payments-api"}, Incident: incident.ID("leak"), End: end, Late: late}
	return is, c.attempt("Follow", in, &is, 2)
}

// A rotation that says that it has heard is left alone, whatever is asked for; one that does not is ended when that is asked for.
func TestARotationThatDoesNotAnswerAnIncidentIsEnded(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		run   aRun
		end   bool
		late  bool
		want  activities.Takeover
		ended int
	}{
		"none runs":                           {aRun{}, true, true, activities.TakeoverGone, 0},
		"it has heard":                        {aRun{running: true, of: "Rotation", follows: []string{incident.ID("leak")}}, true, false, activities.TakeoverHeard, 0},
		"it has heard, and that was long ago": {aRun{running: true, of: "Rotation", follows: []string{incident.ID("leak")}}, false, true, activities.TakeoverEnded, 1},
		"it is the emergency":                 {aRun{running: true, of: "EmergencyRotation", follows: []string{incident.ID("leak")}, actsBy: incident.ID("leak")}, true, true, activities.TakeoverActs, 0},
		"it is that of another incident with the same keys": {aRun{running: true, of: "EmergencyRotation", follows: []string{incident.ID("leak")}, actsBy: incident.ID("slow")}, false, false, activities.TakeoverHeard, 0},
		"and the deadline of this one has passed":           {aRun{running: true, of: "EmergencyRotation", follows: []string{incident.ID("leak")}, actsBy: incident.ID("slow")}, false, true, activities.TakeoverEnded, 1},
		"it does not answer":                                {aRun{running: true, silence: errors.New("nobody polls")}, false, true, activities.TakeoverSilent, 0},
		"it does not answer for too long":                   {aRun{running: true, silence: errors.New("nobody polls")}, true, false, activities.TakeoverEnded, 1},
		"it follows another incident":                       {aRun{running: true, follows: []string{incident.ID("other")}}, true, false, activities.TakeoverEnded, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCase(t)
			c.declare("key-old")
			c.do.Runs = &x.run
			is, err := c.asks(x.end, x.late)
			require.NoError(t, err)
			assert.Equal(t, x.want, is)
			assert.Len(t, x.run.ended, x.ended)
			assert.Len(t, c.recorded(audit.RotationTerminated), x.ended)
		})
	}
}

// Whenever the process dies, the end of the run is in the record once.
func TestDeathWhileARotationIsEnded(t *testing.T) {
	t.Parallel()
	c := newCase(t)
	c.declare("key-old")
	run := &aRun{running: true, silence: errors.New("nobody polls"), dies: func() { panic("the process dies") }}
	c.do.Runs = run
	is, err := c.asks(true, false)
	require.NoError(t, err)
	assert.Equal(t, activities.TakeoverGone, is)
	require.Len(t, run.ended, 1)
	assert.Contains(t, run.ended[0], incident.ID("leak"))
	assert.Len(t, c.recorded(audit.RotationTerminated), 1)
}

// By a declaration that proves nothing no run is ended.
func TestWhoeverHasNoDeclarationEndsNoRotation(t *testing.T) {
	t.Parallel()
	for name, bend := range map[string]func(*crashCase){
		"nobody signed it":         func(c *crashCase) { c.emergency.Declaration.Signature = "" },
		"of another credential":    func(c *crashCase) { c.declareFor("payments-other", "key-old") },
		"one that is too old":      func(c *crashCase) { c.wait(25 * time.Hour) },
		"one that is yet to begin": func(c *crashCase) { c.wait(-time.Hour) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCase(t)
			c.declare("key-old")
			bend(c)
			run := &aRun{running: true, silence: errors.New("nobody polls")}
			c.do.Runs = run
			_, err := c.asks(true, false)
			assert.Equal(t, activities.TypeDeclaration, (&signedCase{crashCase: c}).refusal(err).Type())
			assert.Empty(t, run.ended)
			assert.Empty(t, c.recorded(audit.RotationTerminated))
		})
	}
}
