package tests

import (
	"context"
	"flag"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/workflows"
)

var endings = flag.Bool("endings", false, "end a rotation in each of its phases: make endings")

// A run that Temporal ended is said to be so by status, and the next rotation goes on from what it left.
func TestTheNextRotationTakesUpWhatTemporalEnded(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		// at is the activity that is begun when the run is terminated, in the phase in which it is; one that is timed is ended by
		// its time-out.
		at    string
		in    workflows.Phase
		timed bool
		// always: it is played in CI, too.
		always bool
	}{
		"terminated before it looked":       {at: "Inspect"},
		"terminated as it issues":           {at: "Issue"},
		"terminated as it delivers":         {at: "DeliverWave", always: true},
		"terminated in a soak":              {at: "Watch"},
		"terminated as it promotes":         {at: "Promote"},
		"terminated in the overlap":         {in: workflows.PhaseOverlap},
		"terminated as it gathers evidence": {at: "GatherEvidence"},
		"terminated at the revoke gate":     {in: workflows.PhaseRevokeGate},
		"terminated as it disables":         {at: "Disable"},
		"terminated in the soak after that": {in: workflows.PhaseDisableSoak},
		"terminated as it destroys":         {at: "Destroy"},
		"terminated as it records":          {at: "Record"},
		"timed out":                         {timed: true, always: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if !c.always && !*endings {
				t.Skip("run by make endings")
			}
			s := newStage(t)
			out, code := s.starter("apply", "-f", s.place.Inventory)
			require.Zero(t, code, out)
			as := "terminated"
			if c.timed {
				as = "timed-out"
				s.timesOut()
			} else {
				out, code = s.starter("rotate", credential)
				require.Zero(t, code, out)
				s.terminatedAt(c.at, c.in)
			}

			out, code = s.starter("status", credential)
			assert.Equal(t, 1, code, out)
			assert.Contains(t, out, credential+": "+as)
			assert.Contains(t, out, "keyturn rotate "+credential)
			assert.Regexp(t, `(retiring|incoming) key +\S+ of \S+: `, out, "what is true of the keys")
			watched, code := s.starter("status", credential, "--watch")
			assert.Equal(t, 1, code, watched)
			assert.Contains(t, watched, credential+": "+as)

			s.approves()
			out, code = s.starter("rotate", credential, "--wait", "--timeout", "4m")
			require.Zero(t, code, out)
			s.nobodyRefused()
		})
	}
}

// terminatedAt terminates the rotation as soon as an activity is begun, or in a phase.
func (s *stage) terminatedAt(activity string, phase workflows.Phase) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	if phase != workflows.PhaseRevokeGate {
		s.approves()
	}
	if activity == "" {
		s.await(phase)
	} else {
		s.begins(ctx, activity)
	}
	require.NoError(s.t, s.client().TerminateWorkflow(ctx, workflows.WorkflowID(credential), "", "by somebody in a hurry"))
}

// begins waits until the rotation begins an activity.
func (s *stage) begins(ctx context.Context, activity string) {
	s.t.Helper()
	events := s.client().GetWorkflowHistory(ctx, workflows.WorkflowID(credential), "", true, enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	for events.HasNext() {
		event, err := events.Next()
		require.NoError(s.t, err)
		if event.GetActivityTaskScheduledEventAttributes().GetActivityType().GetName() == activity {
			return
		}
	}
	require.Fail(s.t, "the rotation ended before "+activity)
}

// timesOut has a rotation begun that Temporal gives less time than it needs, and waits for its end.
func (s *stage) timesOut() {
	s.t.Helper()
	run, err := s.client().ExecuteWorkflow(s.t.Context(), client.StartWorkflowOptions{
		ID: workflows.WorkflowID(credential), TaskQueue: workflows.TaskQueue, WorkflowExecutionTimeout: 4 * time.Second,
	}, workflows.Rotation, workflows.RotationInput{Credential: credential})
	require.NoError(s.t, err)
	require.Error(s.t, run.Get(s.t.Context(), nil))
}

// approves has somebody approve the revoke gate of the rotation whenever it is open, to the end of the test.
func (s *stage) approves() {
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	s.t.Cleanup(func() { stop(); <-done })
	c := s.client()
	go func() {
		defer close(done)
		look := time.NewTicker(100 * time.Millisecond)
		defer look.Stop()
		for ctx.Err() == nil {
			select {
			case <-look.C:
			case <-ctx.Done():
			}
			var status workflows.Status
			answer, err := c.QueryWorkflow(ctx, workflows.WorkflowID(credential), "", workflows.StatusName)
			if err == nil && answer.Get(&status) == nil && status.Report == nil && status.Gate != nil && len(status.Gate.Approvals) == 0 {
				_ = c.SignalWorkflow(ctx, workflows.WorkflowID(credential), "", workflows.ApproveName, policy.Request{By: "ann", Gate: inventory.GateRevoke}) // or it has just ended
			}
		}
	}()
}
