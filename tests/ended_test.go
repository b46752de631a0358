package tests

import (
	"context"
	"flag"
	"regexp"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/namespace"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/workflows"
)

var endings = flag.Bool("endings", false, "end a rotation in each of its phases: make endings")

// A run that Temporal ended is said to be so by status, and the next rotation goes on from what it left.
func TestTheNextRotationTakesUpWhatTemporalEnded(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		// at is the activity that is begun when the run is terminated, in the phase in which it is; one that is timed is ended by
		// its time-out, and one that failed, by a build that errs.
		at            string
		in            workflows.Phase
		timed, failed bool
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
		"failed before it looked":           {at: "Inspect", failed: true},
		"failed as it issues":               {at: "Issue", failed: true},
		"failed as it delivers":             {at: "DeliverWave", failed: true},
		"failed in a soak":                  {at: "Watch", failed: true},
		"failed as it promotes":             {at: "Promote", failed: true},
		"failed in the overlap":             {in: workflows.PhaseOverlap, failed: true},
		"failed as it gathers evidence":     {at: "GatherEvidence", failed: true},
		"failed at the revoke gate":         {in: workflows.PhaseRevokeGate, failed: true},
		"failed as it disables":             {at: "Disable", failed: true},
		"failed in the soak after that":     {in: workflows.PhaseDisableSoak, failed: true},
		"failed as it destroys":             {at: "Destroy", failed: true},
		"failed as it records":              {at: "Record", failed: true},
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
			switch {
			case c.timed:
				as = "timed-out"
				s.timesOut()
			case c.failed:
				as = "failed"
				s.comesTo(c.at, c.in)
				s.failsByItsBuild()
			default:
				s.comesTo(c.at, c.in)
				s.terminates(workflows.WorkflowID(credential))
			}

			keys := regexp.MustCompile(`(retiring|incoming) key +\S+ of \S+: `)
			eventually(t, func() bool { // a busy machine may take longer than a question waits
				out, code = s.starter("status", credential)
				return keys.MatchString(out)
			}, patience, 100*time.Millisecond, "what is true of the keys is told")
			assert.Equal(t, 1, code, out)
			assert.Contains(t, out, credential+": "+as)
			assert.Contains(t, out, "keyturn rotate "+credential)
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

// An incident takes a rotation over and is ended itself, with its emergency: the next rotation goes on from what both left.
func TestTheNextRotationTakesUpWhatAnIncidentTookOver(t *testing.T) {
	t.Parallel()
	if !*endings {
		t.Skip("run by make endings")
	}
	for name, c := range map[string]struct {
		at   string
		in   workflows.Phase
		ends bool // the exposed key is being ended when the emergency is terminated
	}{
		"superseded as it delivers":                           {at: "DeliverWave"},
		"superseded in a soak":                                {at: "Watch"},
		"superseded as it promotes":                           {at: "Promote"},
		"superseded in the overlap":                           {in: workflows.PhaseOverlap},
		"superseded in the overlap, and the exposed key ends": {in: workflows.PhaseOverlap, ends: true},
		"superseded at the revoke gate":                       {in: workflows.PhaseRevokeGate},
		"superseded in the soak after disabling":              {in: workflows.PhaseDisableSoak},
		"superseded in that soak, and the exposed key ends":   {in: workflows.PhaseDisableSoak, ends: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := alarmed(t)
			s.apply(0, "-f", s.place.Inventory, "--sign", s.ann.file)
			s.comesTo(c.at, c.in)
			before := s.awaitThat("both keys are known", func(now workflows.Status) bool { return now.Incoming.KeyID != "" })
			out, code := s.starter("emergency", credential, "-f", s.place.Inventory, "--reason", "a leak", "--name", "leak", "--sign", s.ann.file, "--yes",
				"--key", credential+"="+before.Retiring.KeyID)
			require.Zero(t, code, out)
			s.becomesTheEmergency(c.ends)
			s.terminates("incident/leak")
			s.terminates(workflows.WorkflowID(credential))

			out, code = s.starter("status", credential)
			assert.Equal(t, 1, code, out)
			assert.Contains(t, out, credential+": terminated")
			s.approves()
			out, code = s.starter("rotate", credential, "--wait", "--timeout", "4m")
			require.Zero(t, code, out)
			assert.NotContains(t, s.gatewayKeys(), before.Retiring.KeyID, "the exposed key is dead")
			s.nobodyRefused()
		})
	}
}

// becomesTheEmergency waits until the rotation has become the emergency, and, where that is asked for, ends the exposed key.
func (s *stage) becomesTheEmergency(ends bool) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	eventually(s.t, func() bool {
		described, err := s.client().DescribeWorkflowExecution(ctx, workflows.WorkflowID(credential), "")
		return err == nil && described.GetWorkflowExecutionInfo().GetType().GetName() == "EmergencyRotation"
	}, patience, 10*time.Millisecond, "the incident takes over")
	if ends {
		s.begins(ctx, "Contain")
	}
}

// terminates ends a workflow.
func (s *stage) terminates(id string) {
	s.t.Helper()
	require.NoError(s.t, s.client().TerminateWorkflow(s.t.Context(), id, "", "by somebody in a hurry"))
}

// failsByItsBuild has the rotation fail, by a worker of its build that errs, and then starts the right one again.
func (s *stage) failsByItsBuild() {
	s.t.Helper()
	s.worker.end(syscall.SIGKILL)
	c := s.client()
	broken := worker.New(c, workflows.TaskQueue, worker.Options{
		WorkflowPanicPolicy: worker.FailWorkflow, DisableRegistrationAliasing: true, LocalActivityWorkerOnly: true,
		DeploymentOptions: worker.DeploymentOptions{
			UseVersioning: true, Version: worker.WorkerDeploymentVersion{DeploymentName: namespace.Deployment, BuildID: "test"},
			DefaultVersioningBehavior: workflow.VersioningBehaviorAutoUpgrade,
		},
	})
	broken.RegisterWorkflowWithOptions(func(workflow.Context, any) error { panic("this build is broken") }, workflow.RegisterOptions{Name: "Rotation"})
	require.NoError(s.t, broken.Start())
	id := workflows.WorkflowID(credential)
	require.NoError(s.t, c.SignalWorkflow(s.t.Context(), id, "", "nudge", nil))
	require.Error(s.t, c.GetWorkflow(s.t.Context(), id, "").Get(s.t.Context(), nil))
	broken.Stop()
	s.startWorker()
}

// comesTo begins a rotation, and waits until an activity is begun, or for a phase.
func (s *stage) comesTo(activity string, phase workflows.Phase) {
	s.t.Helper()
	out, code := s.starter("rotate", credential)
	require.Zero(s.t, code, out)
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
