package tests

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/history/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/workflows"
)

// sweep runs one, and returns its report.
func (s *stage) sweep() policy.SweepReport {
	s.t.Helper()
	out, code := s.starter("sweep", "--now", "-o", "json")
	require.Zero(s.t, code, out)
	var report policy.SweepReport
	require.NoError(s.t, json.Unmarshal([]byte(out), &report), out)
	return report
}

// sweepUntil sweeps until the report is as described.
func (s *stage) sweepUntil(what string, holds func(policy.SweepReport) bool) policy.SweepReport {
	s.t.Helper()
	var report policy.SweepReport
	eventually(s.t, func() bool {
		report = s.sweep()
		return holds(report)
	}, patience, 500*time.Millisecond, what)
	return report
}

// commands are those of ours that an advice names, in their order.
func commands(advice string) [][]string {
	var list [][]string
	for _, part := range strings.Split(advice, "keyturn ")[1:] {
		command, _, _ := strings.Cut(part, ";")
		list = append(list, strings.Fields(command))
	}
	return list
}

func has(r policy.SweepReport, kind policy.FindingKind, about string) bool {
	return slices.ContainsFunc(r.Findings, func(f policy.Finding) bool { return f.Kind == kind && strings.Contains(f.About+f.Message, about) })
}

// A rotation is terminated when both keys are in the world. Sweep finds what it left, opens the revoke gate again,
// and what is owed is gone after the approval.
func TestSweep(t *testing.T) {
	t.Parallel()
	s := prepare(t)
	s.rewrite(s.place.Worker, "type: gateway,", "type: gateway, scan: true,")
	s.rewrite(s.place.Worker, "principals: ["+credential+"]", "principals: ['payments-*', '"+credential+"']")
	s.flags = []string{"--allow-unsigned"}
	s.startWorker()
	out, code := s.starter("sweep")
	assert.Equal(t, 4, code, out)
	assert.Contains(t, out, "keyturn sweep --now")
	out, code = s.starter("apply", "-f", s.place.Inventory)
	require.Zero(t, code, out)
	s.sweepUntil("it is applied", func(r policy.SweepReport) bool { return r.Credentials == 1 })

	c := s.client()
	out, code = s.starter("rotate", credential)
	require.Zero(t, code, out)
	status := s.await(workflows.PhaseRevokeGate)
	require.NoError(t, c.TerminateWorkflow(t.Context(), workflows.WorkflowID(credential), "", "by somebody in a hurry"))
	s.oldKey("payments-batch", "of-nobody", time.Now().Add(-time.Hour))
	eventually(t, func() bool { return s.inventory(0)[credential].CutOff.As == "terminated" }, patience, 100*time.Millisecond, "its outcome, until another one has an end")

	report := s.sweepUntil("the debt is taken up", func(r policy.SweepReport) bool { return len(r.TakenUp) > 0 })
	assert.True(t, has(report, policy.FoundTerminated, "terminated"), report.Findings)
	assert.True(t, has(report, policy.FoundRetiredAlive, status.Retiring.KeyID), report.Findings)
	assert.True(t, has(report, policy.FoundUnmanaged, "of-nobody"), "the account is scanned for keys that nobody declared")
	for _, f := range report.Findings {
		assert.NotEmpty(t, f.Do)
		assert.False(t, f.Since.IsZero())
	}
	gate := s.await(workflows.PhaseRevokeGate)
	assert.Equal(t, status.Retiring.KeyID, gate.Retiring.KeyID)
	assert.Equal(t, status.Incoming.KeyID, gate.Incoming.KeyID)
	text, err := os.ReadFile(s.keyFile())
	require.NoError(t, err)
	assert.Contains(t, string(text), status.Retiring.KeyID, "Sweep itself destroys nothing")
	// The advice is carried out, command by command.
	ended := slices.IndexFunc(report.Findings, func(f policy.Finding) bool { return f.Kind == policy.FoundTerminated })
	advice := commands(report.Findings[ended].Do)
	require.Equal(t, [][]string{{"sweep", "--now"}, {"approve", credential, "--gate", "revoke"}, {"rotate", credential}}, advice)
	out, code = s.starter(advice[0]...)
	require.Zero(t, code, out)
	out, code = s.starter(append(advice[1], "--as", "ann")...)
	require.Zero(t, code, out)
	end := s.report()
	require.Equal(t, workflows.Completed, end.Outcome, end.Message)
	assert.Empty(t, end.Debt)
	eventually(t, func() bool {
		e := s.inventory(0)[credential]
		return e.State.LastOutcome == "completed" && !e.State.LastRotation.IsZero() && e.CutOff.As == ""
	}, patience, 100*time.Millisecond, "what was terminated has an end in the inventory")
	text, err = os.ReadFile(s.keyFile())
	require.NoError(t, err)
	assert.NotContains(t, string(text), status.Retiring.KeyID)
	s.replaysKept(c, "settled", workflows.WorkflowID(credential), "")
	out, code = s.starter(advice[2]...)
	require.Zero(t, code, out)
	s.await(workflows.PhaseRevokeGate)
	out, code = s.starter("approve", credential, "--gate", "revoke", "--as", "ann")
	require.Zero(t, code, out)
	require.Equal(t, workflows.Completed, s.report().Outcome)

	report = s.sweep()
	assert.False(t, has(report, policy.FoundRetiredAlive, ""), report.Findings)
	assert.False(t, has(report, policy.FoundTerminated, ""), report.Findings)
	assert.True(t, has(report, policy.FoundUnmanaged, "of-nobody"))
	assert.Zero(t, report.New, "what was found before is not told again")

	// The consumers fall silent.
	s.services.end(9)
	report = s.sweep()
	assert.True(t, has(report, policy.FoundSilent, "checkout"), report.Findings)
	assert.Positive(t, report.New)
	out, code = s.starter("sweep")
	assert.Zero(t, code, out)
	assert.Contains(t, out, "what to do:")
	answer, err := http.Get("http://" + s.health + "/metrics")
	require.NoError(t, err)
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	assert.Contains(t, string(body), `keyturn_findings{kind="unmanaged-key"} 1`)
	assert.Contains(t, string(body), "temporal_")

	// The sweep that its Schedule begins is the same workflow, and its history replays.
	handle := c.ScheduleClient().GetHandle(t.Context(), workflows.SweepScheduleID)
	require.NoError(t, handle.Trigger(t.Context(), client.ScheduleTriggerOptions{}))
	var id, run string
	eventually(t, func() bool {
		d, err := handle.Describe(t.Context())
		if err != nil || len(d.Info.RecentActions) == 0 || d.Info.RecentActions[0].StartWorkflowResult == nil {
			return false
		}
		id, run = d.Info.RecentActions[0].StartWorkflowResult.WorkflowID, d.Info.RecentActions[0].StartWorkflowResult.FirstExecutionRunID
		return true
	}, patience, 200*time.Millisecond)
	require.NoError(t, c.GetWorkflow(t.Context(), id, run).Get(t.Context(), &report))
	assert.Equal(t, 1, report.Credentials)
	assert.Less(t, s.replaysKept(c, "sweep", id, run), 100, "events of a sweep of one credential")
	s.replaysKept(c, "scan", workflows.ScanID+"/"+id, "")
	eventually(t, func() bool { _, code := s.doctor(); return code == 0 }, patience, time.Second, "doctor finds nothing")
	var doctor string
	eventually(t, func() bool {
		listed, err := c.ListWorkflow(t.Context(), &workflowservice.ListWorkflowExecutionsRequest{Query: "WorkflowType = 'Doctor'"})
		if err == nil && len(listed.GetExecutions()) > 0 {
			doctor = listed.GetExecutions()[0].GetExecution().GetWorkflowId()
		}
		return doctor != ""
	}, patience, 200*time.Millisecond)
	s.replaysKept(c, "doctor", doctor, "")
	audit, err := c.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: workflows.AuditID + "/" + credential, TaskQueue: workflows.TaskQueue}, workflows.Audit, workflows.AuditInput{Credential: credential})
	require.NoError(t, err)
	require.NoError(t, audit.Get(t.Context(), nil))
	s.replaysKept(c, "audit", audit.GetID(), "")
}

// A rotation by a file that was never applied is terminated when both keys are in the world. What Sweep advises is
// carried out to the letter, until nothing is left of it.
func TestSweepOfARotationThatWasNeverApplied(t *testing.T) {
	t.Parallel()
	need(t, "temporal", "pip install -r tests/requirements.txt")
	s := newStage(t)
	out, code := s.starter("rotate", credential, "-f", s.place.Inventory)
	require.Zero(t, code, out)
	retired := s.await(workflows.PhaseRevokeGate).Retiring.KeyID
	assert.False(t, has(s.sweep(), policy.FoundTerminated, ""), "it goes on as it should")
	s.temporal("workflow", "terminate", "--workflow-id", workflows.WorkflowID(credential), "--reason", "in a hurry")

	advice := func(r policy.SweepReport) [][]string {
		at := slices.IndexFunc(r.Findings, func(f policy.Finding) bool { return f.Kind == policy.FoundTerminated && f.Credential == credential })
		require.GreaterOrEqual(t, at, 0, r.Findings)
		return commands(r.Findings[at].Do)
	}
	carryOut := func(command ...string) {
		out, code := s.starter(command...)
		require.Zero(t, code, "%s\n%s", command, out)
	}
	first := advice(s.sweep())
	require.Equal(t, [][]string{{"status", credential}, {"apply", "-f", "FILE"}, {"sweep", "--now"}}, first)
	out, code = s.starter(first[0]...)
	require.Equal(t, 1, code, "it did not end well\n%s", out)
	carryOut("apply", "-f", s.place.Inventory)
	eventually(t, func() bool { return len(s.inventory(0)) == 1 }, patience, 100*time.Millisecond)
	report := s.sweep()
	assert.True(t, has(report, policy.FoundRetiredAlive, retired), report.Findings)
	then := advice(report)
	require.Equal(t, [][]string{{"sweep", "--now"}, {"approve", credential, "--gate", "revoke"}, {"rotate", credential}}, then)
	carryOut(then[0]...)
	s.await(workflows.PhaseRevokeGate)
	carryOut(append(then[1], "--as", "ann")...)
	require.Equal(t, workflows.Completed, s.report().Outcome)
	text, err := os.ReadFile(s.keyFile())
	require.NoError(t, err)
	assert.NotContains(t, string(text), retired)
	carryOut(then[2]...)
	s.await(workflows.PhaseRevokeGate)
	report = s.sweep()
	assert.False(t, has(report, policy.FoundTerminated, ""), report.Findings)
}

// temporal runs a command of Temporal's own tool.
func (s *stage) temporal(args ...string) {
	s.t.Helper()
	command := exec.Command("temporal", args...)
	command.Env = s.environment()
	out, err := command.CombinedOutput()
	require.NoError(s.t, err, "%s\n%s", args, out)
}

// replaysKept runs a history through this build's workflow code, and counts its events. make histories keeps it for the
// releases to come.
func (s *stage) replaysKept(c client.Client, name, id, run string) int {
	s.t.Helper()
	whole := historyOf(s.t, c, id, run)
	replayer := patientReplayer(s.t)
	require.NoError(s.t, replayer.ReplayWorkflowHistoryWithOptions(silent, whole, worker.ReplayWorkflowHistoryOptions{OriginalExecution: workflow.Execution{ID: id}}), id)
	if *capture != "" {
		keep(s.t, filepath.Join(*capture, "sweep", name+".json"), whole)
	}
	return len(whole.Events)
}

func historyOf(t *testing.T, c client.Client, id, run string) *history.History {
	t.Helper()
	events := c.GetWorkflowHistory(t.Context(), id, run, false, enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	var whole history.History
	for events.HasNext() {
		event, err := events.Next()
		require.NoError(t, err)
		whole.Events = append(whole.Events, event)
	}
	return &whole
}
