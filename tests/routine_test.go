package tests

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/api/common/v1"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/history/v1"
	"go.temporal.io/api/serviceerror"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/schedule"
	"github.com/keyturn/keyturn/workflows"
)

// listedEntry is a line of keyturn inventory, as programs get it.
type listedEntry struct {
	Credential, Owner, Purpose, Environment, Risk, Issuer, Phase, Signer, Problem string
	KeyAge                                                                        string
	Overdue, Paused                                                               bool
	NextRun                                                                       time.Time
	State                                                                         struct {
		KeyID, LastOutcome     string
		RotateBy, LastRotation time.Time
	}
	CutOff struct{ As string }
	Drift  []string
}

// inventory runs the command, which must end with this code.
func (s *stage) inventory(code int, args ...string) map[string]listedEntry {
	s.t.Helper()
	out, got := s.starter(append([]string{"inventory", "-o", "json"}, args...)...)
	require.Equal(s.t, code, got, out)
	var list []listedEntry
	require.NoError(s.t, json.Unmarshal([]byte(out), &list), out)
	entries := map[string]listedEntry{}
	for _, e := range list {
		entries[e.Credential] = e
	}
	return entries
}

// fire starts what the Schedule of a credential would, by name, and waits for its end.
func (s *stage) fire(c client.Client, name string) workflows.ScheduledReport {
	s.t.Helper()
	run, err := c.ExecuteWorkflow(s.t.Context(), client.StartWorkflowOptions{
		ID: workflows.ScheduledID(name) + "-by-hand", TaskQueue: workflows.TaskQueue,
	}, workflows.ScheduledName, workflows.RotationInput{Credential: name})
	require.NoError(s.t, err)
	var report workflows.ScheduledReport
	require.NoError(s.t, run.Get(s.t.Context(), &report))
	return report
}

// replaysRun runs a history through this build's workflow code. make histories keeps it for the releases to come.
func (s *stage) replaysRun(c client.Client, name, id, run string) {
	s.t.Helper()
	events := c.GetWorkflowHistory(s.t.Context(), id, run, false, enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	var whole history.History
	for events.HasNext() {
		event, err := events.Next()
		require.NoError(s.t, err)
		whole.Events = append(whole.Events, event)
	}
	replayer := patientReplayer(s.t)
	require.NoError(s.t, replayer.ReplayWorkflowHistoryWithOptions(silent, &whole, worker.ReplayWorkflowHistoryOptions{
		OriginalExecution: workflow.Execution{ID: id, RunID: run},
	}), id)
	if *capture != "" {
		keep(s.t, filepath.Join(*capture, "routine", name+".json"), &whole)
	}
}

// dueStage is a stage whose key is old, and shall be rotated every five minutes: it is due.
func dueStage(s *stage) *stage {
	s.t.Helper()
	s.prepared()
	s.flags = []string{"--allow-unsigned"}
	s.rewrite(s.place.Inventory, "rotateEvery: 90d", "rotateEvery: 5m")
	file := filepath.Join(filepath.Dir(s.place.Audit), "gateway", "keys.json")
	text, err := os.ReadFile(file)
	require.NoError(s.t, err)
	old := regexp.MustCompile(`"createdAt": *"[^"]*"`).ReplaceAll(text, []byte(`"createdAt": "2024-07-01T00:00:00Z"`))
	require.NotEqual(s.t, string(text), string(old))
	require.NoError(s.t, os.WriteFile(file+".old", old, 0o600))
	require.NoError(s.t, os.Rename(file+".old", file))
	s.startWorker()
	return s
}

// A key is rotated under traffic because its time has come, and for no other reason.
func TestAScheduleRotatesAKeyWhenItIsDue(t *testing.T) {
	t.Parallel()
	s := dueStage(onSharedServer(t))
	schedules, c := s.schedules()
	s.apply(0, "-f", s.place.Inventory)

	// Nobody begins it by hand: it is due, since the key was made long ago, and the first moment comes.
	status := s.await(workflows.PhaseRevokeGate)
	fired := s.fire(c, credential)
	assert.Equal(t, workflows.Skipped, fired.Outcome)
	assert.Equal(t, policy.AlreadyRunning, fired.Reason)
	eventually(t, func() bool { return s.inventory(0)[credential].Phase == string(workflows.PhaseRevokeGate) }, patience, 100*time.Millisecond)

	// Another spec is applied meanwhile. The rotation keeps its own; the next run follows the new one.
	s.rewrite(s.place.Inventory, "rotateEvery: 5m", "rotateEvery: 20m")
	assert.Contains(t, s.apply(0, "-f", s.place.Inventory).Changes[0].Notes, "a rotation is running: it keeps the spec it began with")
	out, code := s.starter("approve", credential, "--gate", "revoke", "--as", "ann")
	require.Zero(t, code, out)
	report := s.report()
	require.Equal(t, workflows.Completed, report.Outcome, report.Message)

	// The next run follows from the new key, and is visible.
	described, err := schedules.Describe(t.Context(), "sandbox", credential)
	require.NoError(t, err)
	assert.Equal(t, status.Incoming.KeyID, described.State.KeyID)
	assert.WithinDuration(t, report.RotateBy.Add(15*time.Minute), described.State.RotateBy, time.Second)
	require.NotEmpty(t, described.NextRuns)
	due := described.State.RotateBy.Add(-2 * time.Minute)
	assert.False(t, described.NextRuns[0].Before(due), "%s is before %s", described.NextRuns[0], due)
	fired = s.fire(c, credential)
	assert.Equal(t, workflows.Skipped, fired.Outcome)
	assert.Equal(t, policy.NotDue, fired.Reason, fired.Message)

	var e listedEntry
	eventually(t, func() bool { e = s.inventory(0)[credential]; return e.State.LastOutcome != "" && e.Phase == "" }, patience, 100*time.Millisecond)
	assert.Equal(t, "completed", e.State.LastOutcome)
	assert.Equal(t, "gateway/edge/payments-api", e.Issuer)
	assert.NotEmpty(t, e.KeyAge)
	assert.False(t, e.Overdue)
	assert.Empty(t, s.inventory(0, "--verify")[credential].Drift)
	assert.Empty(t, s.inventory(0, "--overdue"))
	assert.Len(t, s.inventory(0, "--expiring", "1h", "--owner", e.Owner, "--where", "team=payments"), 1)
	assert.Empty(t, s.inventory(0, "--where", "team!=payments"))
	assert.Len(t, s.inventory(0, "--where", "KeyturnRisk = 'standard' AND KeyturnOutcome = 'completed'"), 1)
	out, code = s.starter("inventory", "--overdue")
	assert.Zero(t, code, out)
	assert.Contains(t, out, "No credential that is applied matches.")
	out, code = s.starter("inventory", "--where", "team in (payments)")
	assert.Equal(t, 2, code, out)
	assert.Contains(t, out, "write labels such as team=payments, or a query")
	out, code = s.starter("inventory", "--where", "KeyturnRisk=standard")
	assert.Equal(t, 2, code, out)
	assert.Contains(t, out, "KeyturnRisk is no label")
	out, code = s.starter("inventory", "-o", "csv")
	require.Zero(t, code, out)
	rows, err := csv.NewReader(strings.NewReader(out)).ReadAll()
	require.NoError(t, err)
	require.Len(t, rows, 2)
	assert.Equal(t, "name", rows[0][0])
	assert.Equal(t, credential, rows[1][0])
	out, code = s.starter("inventory")
	require.Zero(t, code, out)
	assert.Contains(t, out, "LAST ROTATION")

	// What was applied can be planned without its file.
	out, code = s.starter("plan", credential)
	assert.Zero(t, code, out)
	assert.Contains(t, out, "ALLOWED")
	out, code = s.starter("rotate", "nobody")
	assert.Equal(t, 4, code, out)
	assert.Contains(t, out, "no applied inventory has")

	// Each kind of run replays under this build.
	var ended []*workflowpb.WorkflowExecutionInfo
	kinds := map[string]int{}
	eventually(t, func() bool {
		answer, err := c.ListWorkflow(t.Context(), &workflowservice.ListWorkflowExecutionsRequest{
			Query: "WorkflowType IN ('ScheduledRotation', 'RotationSlot', 'Verify', 'Inspect') AND ExecutionStatus != 'Running'",
		})
		ended = answer.GetExecutions()
		clear(kinds)
		for _, e := range ended {
			kinds[e.GetType().GetName()] = 0
		}
		return err == nil && len(kinds) == 4
	}, patience, 200*time.Millisecond)
	for _, e := range ended {
		kinds[e.GetType().GetName()]++
		s.replaysRun(c, fmt.Sprintf("%s-%d", e.GetType().GetName(), kinds[e.GetType().GetName()]), e.GetExecution().GetWorkflowId(), e.GetExecution().GetRunId())
	}

	// Once it has left the inventory, no name leads to it.
	require.NoError(t, schedules.Delete(t.Context(), "sandbox", credential))
	eventually(t, func() bool { return len(s.inventory(0)) == 0 }, patience, 100*time.Millisecond)
	fired = s.fire(c, credential)
	assert.Equal(t, workflows.Refused, fired.Outcome)
	assert.Equal(t, policy.LeftInventory, fired.Reason)
	s.nobodyRefused()
}

// Nobody has looked at a credential that is paused since it was applied: that is said, and --verify looks.
func TestWhatNobodyLookedAtIsNotSaidToBeInTime(t *testing.T) {
	t.Parallel()
	s := dueStage(onSharedServer(t))
	s.rewrite(s.place.Inventory, "policy: demo\n", "policy: demo\n    schedule: {paused: the vault is moving}\n")
	s.apply(0, "-f", s.place.Inventory)
	out, code := s.starter("inventory")
	require.Zero(t, code, out)
	assert.Contains(t, out, "unknown")
	out, code = s.starter("inventory", "--overdue")
	assert.Zero(t, code, out)
	assert.Contains(t, out, "1 of the credentials have not been looked at")
	found := s.inventory(1, "--overdue", "--verify") // 1: the index differed
	assert.True(t, found[credential].Overdue)
	eventually(t, func() bool { return s.inventory(0, "--overdue")[credential].Overdue }, patience, 100*time.Millisecond)
}

// openStage is a stage whose worker's bounds let it make the first keys of credentials of any name.
func openStage(s *stage, limits string) *stage {
	s.t.Helper()
	s.prepared()
	s.flags = []string{"--allow-unsigned"}
	s.rewrite(s.place.Worker, "principals: ["+credential+"]", `principals: ["*"]`)
	s.rewrite(s.place.Worker, "storePaths: ["+credential+"]", `storePaths: ["*"]`)
	s.rewrite(s.place.Worker, "audit:", limits+"audit:")
	return s
}

// What the last rotation did is known when Temporal has forgotten the rotation.
func TestTheLastRotationOutlivesItsHistory(t *testing.T) {
	t.Parallel()
	s := openStage(onSharedServer(t), "")
	s.startWorker()
	_, c := s.schedules()
	file := s.file("one.yaml", declared("one", []string{"a"}, func(string) string { return "    schedule: {paused: only by hand}\n" }))
	s.apply(0, "-f", file)
	eventually(t, func() bool { return len(s.inventory(0)) == 1 }, patience, 100*time.Millisecond)
	out, code := s.starter("rotate", "a", "--wait", "-o", "json")
	require.Zero(t, code, out)
	var report workflows.Report
	require.NoError(t, json.Unmarshal([]byte(out), &report), out)
	require.Equal(t, workflows.Completed, report.Outcome)

	_, err := c.WorkflowService().DeleteWorkflowExecution(t.Context(), &workflowservice.DeleteWorkflowExecutionRequest{
		Namespace: s.namespace, WorkflowExecution: &common.WorkflowExecution{WorkflowId: workflows.WorkflowID("a")},
	})
	require.NoError(t, err)
	eventually(t, func() bool {
		_, err := c.DescribeWorkflowExecution(t.Context(), workflows.WorkflowID("a"), "")
		var gone *serviceerror.NotFound
		return errors.As(err, &gone)
	}, patience, 200*time.Millisecond, "Temporal deletes the history")
	e := s.inventory(0)["a"]
	assert.Equal(t, "completed", e.State.LastOutcome)
	assert.WithinDuration(t, report.EndedAt, e.State.LastRotation, patience)
	assert.Equal(t, report.Incoming.KeyID, e.State.KeyID)
	assert.True(t, e.Paused)
	assert.True(t, e.NextRun.IsZero())
	assert.Empty(t, s.inventory(0, "--verify")["a"].Drift)

	// The index is a copy: what somebody made of it shows against the store, and is mended.
	schedules, _ := s.schedules()
	require.NoError(t, schedules.Update(t.Context(), "one", "a", func(content *schedule.Content) (bool, error) {
		content.State.LastOutcome, content.State.KeyID = "rolled-back", "another"
		return true, nil
	}))
	eventually(t, func() bool { return s.inventory(0)["a"].State.KeyID == "another" }, patience, 100*time.Millisecond)
	assert.Contains(t, fmt.Sprint(s.inventory(1, "--verify")["a"].Drift), "the index says another")
	eventually(t, func() bool { return s.inventory(0)["a"].State.KeyID == report.Incoming.KeyID }, patience, 100*time.Millisecond)
}

// While all slots are taken, three wait. One leaves the inventory; of the others the critical one is applied last, and goes first.
func TestWhoWaitsForASlot(t *testing.T) {
	t.Parallel()
	s := openStage(onSharedServer(t), "maxRotations: 1\n")
	_, c := s.schedules()
	_, err := c.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: workflows.SlotID(policy.Slot{Number: 1}), TaskQueue: workflows.TaskQueue}, workflows.RotationSlot)
	require.NoError(t, err)
	s.startWorker()
	waiting := func(n int) {
		t.Helper()
		eventually(t, func() bool {
			answer, err := c.CountWorkflow(t.Context(), &workflowservice.CountWorkflowExecutionsRequest{
				Query: "WorkflowType = 'ScheduledRotation' AND KeyturnPhase = 'slot' AND ExecutionStatus = 'Running'",
			})
			return err == nil && int(answer.GetCount()) == n
		}, patience, 200*time.Millisecond)
	}
	terms := func(name string) string {
		return "    rotateEvery: 20m\n    overlap: 1m\n    quietWindow: 1s\n    disableSoak: 0s\n    risk: " + name + "\n"
	}
	s.apply(0, "-f", s.file("many.yaml", declared("many", []string{"low", "standard"}, terms)))
	waiting(2)
	s.apply(0, "-f", s.file("many.yaml", declared("many", []string{"critical", "low", "standard"}, terms)))
	waiting(3)
	s.apply(0, "-f", s.file("many.yaml", declared("many", []string{"critical", "low"}, terms)), "--prune", "--yes")
	require.NoError(t, c.CancelWorkflow(t.Context(), workflows.SlotID(policy.Slot{Number: 1}), ""))

	ended := map[string]workflows.ScheduledReport{}
	eventually(t, func() bool {
		answer, err := c.ListWorkflow(t.Context(), &workflowservice.ListWorkflowExecutionsRequest{
			Query: "WorkflowType = 'ScheduledRotation' AND ExecutionStatus = 'Completed'",
		})
		if err != nil {
			return false
		}
		for _, e := range answer.GetExecutions() {
			var report workflows.ScheduledReport
			require.NoError(t, c.GetWorkflow(t.Context(), e.GetExecution().GetWorkflowId(), e.GetExecution().GetRunId()).Get(t.Context(), &report))
			if _, there := ended[report.Credential]; !there {
				ended[report.Credential] = report
				s.replaysRun(c, "ScheduledRotation-that-waited-"+report.Credential, e.GetExecution().GetWorkflowId(), e.GetExecution().GetRunId())
			}
		}
		return len(ended) == 3
	}, patience, 500*time.Millisecond)
	assert.Equal(t, workflows.Completed, ended["critical"].Outcome)
	assert.Equal(t, workflows.Completed, ended["low"].Outcome)
	assert.Equal(t, workflows.Refused, ended["standard"].Outcome)
	assert.Equal(t, policy.LeftInventory, ended["standard"].Reason, ended["standard"].Message)

	began := func(name string) time.Time {
		described, err := c.DescribeWorkflowExecution(t.Context(), workflows.WorkflowID(name), "")
		require.NoError(t, err)
		return described.GetWorkflowExecutionInfo().GetStartTime().AsTime()
	}
	assert.True(t, began("critical").Before(began("low")))
	_, err = c.DescribeWorkflowExecution(t.Context(), workflows.WorkflowID("standard"), "")
	var none *serviceerror.NotFound
	assert.ErrorAs(t, err, &none, "no rotation of it was begun, so that no key was minted")
}

// A worker that is killed while a rotation waits, and Temporal restarted: the Schedule's run goes on, and so does whoever watches it.
func TestAScheduledRotationSurvivesRestarts(t *testing.T) {
	t.Parallel()
	s := dueStage(onOwnServer(t))
	_, c := s.schedules()
	s.apply(0, "-f", s.place.Inventory)
	s.await(workflows.PhaseRevokeGate)
	watch := s.start("starter", s.connection(), "status", credential, "--watch")
	watch.prints(string(workflows.PhaseRevokeGate))
	s.worker.end(syscall.SIGKILL)
	s.server.end(syscall.SIGKILL)
	watch.prints("nobody answers")
	s.startServer()
	s.startWorker()
	watch.prints("answered again")
	eventually(t, func() bool {
		_, code := s.starter("approve", credential, "--gate", "revoke", "--as", "ann")
		return code == 0
	}, patience, 500*time.Millisecond)
	assert.Equal(t, workflows.Completed, s.report().Outcome)
	watch.prints("completed")
	eventually(t, watch.ended, patience, 10*time.Millisecond)
	eventually(t, func() bool {
		answer, err := c.ListWorkflow(t.Context(), &workflowservice.ListWorkflowExecutionsRequest{
			Query: "WorkflowType = 'ScheduledRotation' AND KeyturnOutcome = 'completed' AND ExecutionStatus = 'Completed'",
		})
		return err == nil && len(answer.GetExecutions()) == 1
	}, patience, 200*time.Millisecond)
	eventually(t, func() bool {
		answer, err := c.CountWorkflow(t.Context(), &workflowservice.CountWorkflowExecutionsRequest{Query: "WorkflowType = 'RotationSlot' AND ExecutionStatus = 'Running'"})
		return err == nil && answer.GetCount() == 0
	}, patience, 200*time.Millisecond, "its slot is free again")
	s.nobodyRefused()
}

// The commands of the page are run, in their order, beside ours.
func TestTheTemporalCLIBesideApply(t *testing.T) {
	t.Parallel()
	need(t, "temporal", "pip install -r tests/requirements.txt")
	text, err := os.ReadFile("../docs/inventory.md")
	require.NoError(t, err)
	s := newStage(t)
	schedules, c := s.schedules()
	s.apply(0, "-f", s.place.Inventory) // its key was made a moment ago
	eventually(t, func() bool { return len(s.inventory(0)) == 1 }, patience, 100*time.Millisecond)
	ran := 0
	for section := range strings.SplitSeq(string(text), "```sh\n") {
		block, _, _ := strings.Cut(section, "```\n")
		for command := range strings.Lines(block) {
			if !strings.HasPrefix(command, "temporal ") {
				continue
			}
			run := exec.Command("sh", "-c", command)
			run.Env = s.environment()
			out, err := run.CombinedOutput()
			require.NoError(t, err, "%s\n%s", command, out)
			ran++
			switch {
			case strings.Contains(command, "schedule describe"):
				assert.Contains(t, string(out), "ScheduledRotation")
			case strings.Contains(command, "--pause"):
				described, err := schedules.Describe(t.Context(), "sandbox", credential)
				require.NoError(t, err)
				assert.True(t, described.Paused)
				eventually(t, func() bool { return s.inventory(0)[credential].Paused }, patience, 100*time.Millisecond)
				s.rewrite(s.place.Inventory, "rotateEvery: 90d", "rotateEvery: 80d")
				assert.Contains(t, fmt.Sprint(s.apply(0, "-f", s.place.Inventory).Changes[0].Notes), "it stays paused, as somebody made it: the vault is moving")
			case strings.Contains(command, "schedule trigger"):
				eventually(t, func() bool {
					return len(s.runs(c, "WorkflowType = 'ScheduledRotation' AND KeyturnOutcome = 'skipped' AND ExecutionStatus = 'Completed'")) == 1
				}, patience, 100*time.Millisecond, "it fires, though no rotation is due")
			case strings.Contains(command, "workflow execute"):
				assert.Contains(t, string(out), "not-due")
			case strings.Contains(command, "workflow list"):
				assert.Contains(t, string(out), workflows.ScheduledID(credential))
			case strings.Contains(command, "schedule delete"):
				eventually(t, func() bool { return len(s.inventory(0)) == 0 }, patience, 100*time.Millisecond)
				assert.Equal(t, "create", s.apply(0, "-f", s.place.Inventory).actions()[credential])
			}
		}
	}
	assert.Equal(t, 8, ran)
	described, err := schedules.Describe(t.Context(), "sandbox", credential)
	require.NoError(t, err)
	assert.False(t, described.Paused)
	assert.Equal(t, "80d", described.Spec.Credential.RotateEvery.String())
}

// garbage makes a Schedule as somebody would who does not know what belongs into one.
func garbage(t *testing.T, c client.Client, name string) client.ScheduleHandle {
	t.Helper()
	handle, err := c.ScheduleClient().Create(t.Context(), client.ScheduleOptions{
		ID: schedule.ID("sandbox", name), Paused: true, Spec: client.ScheduleSpec{Intervals: []client.ScheduleIntervalSpec{{Every: time.Hour}}},
		Action:                &client.ScheduleWorkflowAction{ID: "by-hand", Workflow: workflows.ScheduledName, TaskQueue: workflows.TaskQueue, Args: []any{"nonsense"}},
		TypedSearchAttributes: temporal.NewSearchAttributes(workflows.AttributeCredential.ValueSet(name)),
	})
	require.NoError(t, err)
	return handle
}

// One Schedule that cannot be read is told of, and keeps nobody else from anything.
func TestAScheduleThatCannotBeRead(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	schedules, c := s.schedules()
	garbage(t, c, "by-hand")
	garbage(t, c, "it's `mine`")
	eventually(t, func() bool { return len(s.inventory(0)) == 2 }, patience, 100*time.Millisecond)
	done := s.apply(0, "-f", s.place.Inventory)
	assert.Equal(t, map[string]string{credential: "create", "by-hand": "leave", "it's `mine`": "leave"}, done.actions())
	assert.Contains(t, fmt.Sprint(done.Changes), "its Schedule cannot be read")
	eventually(t, func() bool { return len(s.inventory(0)) == 3 }, patience, 100*time.Millisecond)
	assert.Contains(t, s.inventory(0)["by-hand"].Problem, "its Schedule cannot be read")
	assert.Empty(t, s.inventory(0)[credential].Problem)
	out, code := s.starter("inventory")
	assert.Zero(t, code, out)
	assert.Contains(t, out, "note: by-hand: its Schedule cannot be read")

	seen, scanned := s.scan()
	assert.NotEmpty(t, seen)
	assert.Contains(t, fmt.Sprint(scanned.Notes), "by-hand of inventory sandbox could not be looked at")
	report := s.sweep()
	assert.Equal(t, 3, report.Credentials)
	for name, id := range map[string]string{"by-hand": "'keyturn/sandbox/by-hand'", "it's `mine`": `'keyturn/sandbox/it'\''s ` + "`mine`'"} {
		at := slices.IndexFunc(report.Findings, func(f policy.Finding) bool { return f.Credential == name })
		require.GreaterOrEqual(t, at, 0, report)
		assert.Equal(t, policy.FoundSpecRefused, report.Findings[at].Kind)
		assert.Contains(t, report.Findings[at].Do, "temporal schedule delete --schedule-id "+id)
	}

	// A file that declares it writes over it; a pause that somebody made stays.
	files := []string{"-f", s.place.Inventory, "-f", s.file("by-hand.yaml", declared("sandbox", []string{"by-hand"}, nothingMore))}
	done = s.apply(0, append(files, "--dry-run")...)
	assert.Equal(t, "change", done.actions()["by-hand"])
	assert.Contains(t, fmt.Sprint(done.Changes), "it is written over")
	s.apply(0, files...)
	described, err := schedules.Describe(t.Context(), "sandbox", "by-hand")
	require.NoError(t, err)
	assert.Equal(t, "charges", described.Purpose)
	assert.True(t, described.Paused)
	assert.Equal(t, "keep", s.apply(0, files...).actions()["by-hand"])
	done = s.apply(0, append(files, "--prune", "--yes")...)
	assert.Equal(t, "remove", done.actions()["it's `mine`"])
}

// A Schedule that somebody wrote to keeps its index, which says that nothing has changed. Sweep tells, and what it advises
// helps.
func TestAScheduleThatSomebodyWroteTo(t *testing.T) {
	t.Parallel()
	need(t, "temporal", "pip install -r tests/requirements.txt")
	s := newStage(t)
	schedules, _ := s.schedules()
	s.apply(0, "-f", s.place.Inventory)
	eventually(t, func() bool { return len(s.inventory(0)) == 1 }, patience, 100*time.Millisecond)
	honest, err := schedules.Describe(t.Context(), "sandbox", credential)
	require.NoError(t, err)
	spec, err := json.Marshal(workflows.RotationInput{Spec: honest.Signed})
	require.NoError(t, err)
	for _, action := range [][]string{
		{"--type", workflows.ScheduledName, "--task-queue", workflows.TaskQueue, "--input", `"nonsense"`},
		{"--type", "SomethingElse", "--task-queue", workflows.TaskQueue, "--input", string(spec)},
		{"--type", workflows.ScheduledName, "--task-queue", "elsewhere", "--input", string(spec)},
	} {
		s.temporal(append([]string{"schedule", "update", "--schedule-id", schedule.ID("sandbox", credential), "--workflow-id", "by-hand", "--interval", "1h"}, action...)...)
		eventually(t, func() bool {
			_, err := schedules.Describe(t.Context(), "sandbox", credential)
			return errors.Is(err, schedule.ErrUnreadable)
		}, patience, 100*time.Millisecond)
		assert.Equal(t, "keep", s.apply(0, "-f", s.place.Inventory).actions()[credential])
		report := s.sweep()
		at := slices.IndexFunc(report.Findings, func(f policy.Finding) bool { return f.Kind == policy.FoundSpecRefused })
		require.GreaterOrEqual(t, at, 0, report.Findings)
		advice := commands(report.Findings[at].Do)
		require.Len(t, advice, 1)
		advice[0][slices.Index(advice[0], "FILE")] = s.place.Inventory
		out, code := s.starter(advice[0]...)
		require.Zero(t, code, out)
		assert.Contains(t, out, "it is written over")
		now, err := schedules.Describe(t.Context(), "sandbox", credential)
		require.NoError(t, err)
		assert.Equal(t, honest.Digest, now.Digest)
		assert.False(t, has(s.sweep(), policy.FoundSpecRefused, ""))
	}
}

// Who may write to the namespace may change a Schedule to anything, and the index with it. That rotates nothing.
func TestAdversaryWithSchedules(t *testing.T) {
	t.Parallel()
	s := newTrustingStage(t)
	schedules, c := s.schedules()
	before := s.gatewayKeys()
	s.apply(0, "-f", s.place.Inventory, "--sign", s.ann.file)
	eventually(t, func() bool { return len(s.inventory(0)) == 1 }, patience, 100*time.Millisecond)
	honest, err := schedules.Describe(t.Context(), "sandbox", credential)
	require.NoError(t, err)

	aged := func(spec *inventory.Spec) { spec.Credential.RotateEvery = inventory.Duration(time.Hour) }
	forged := s.spec(s.mallory, aged)
	unsigned := forged
	unsigned.Signature = ""
	changed := honest.Signed
	changed.Body = forged.Body
	for name, spec := range map[string]inventory.SignedSpec{"signed by mallory": forged, "unsigned": unsigned, "changed after it was signed": changed} {
		require.NoError(t, schedules.Update(t.Context(), "sandbox", credential, func(content *schedule.Content) (bool, error) {
			content.Signed, content.State = spec, inventory.State{RotateBy: time.Now().Add(-time.Hour)}
			return true, nil
		}), name)
		fired := s.fire(c, credential)
		assert.Equal(t, workflows.Refused, fired.Outcome, "%s: %s", name, fired.Message)
		assert.Equal(t, policy.SpecRefused, fired.Reason, name)
		assert.Equal(t, before, s.gatewayKeys(), name)
	}

	// The honest inventory is one apply away, and its own plan holds.
	assert.Equal(t, "change", s.apply(0, "-f", s.place.Inventory, "--sign", s.ann.file).actions()[credential])
	out, code := s.starter("plan", credential)
	assert.Zero(t, code, out)
	eventually(t, func() bool { return s.now().Sent > 100 }, patience, 100*time.Millisecond, "consumers have gone on for a while")
	s.nobodyRefused()
}
