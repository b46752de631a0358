package tests

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/workflows"
)

// due is how many keys come due at once: make due plays two hundred.
var due = flag.Int("due", 40, "how many keys come due at once")

// Many keys of two inventories come due while no worker runs, most of them while Temporal is down as well. What
// follows is no herd: so many rotations at once and no more, so many calls to the issuer in a second and no more, and each
// key is rotated once, though some have two firings that want to. All of it is taken from what Temporal, the audit record and
// the gateway have written down.
func TestManyDueAtOnce(t *testing.T) {
	t.Parallel()
	const (
		twice = 10
		quota = 25 // calls a second
	)
	many := *due
	most := many / 6 // as many rotations at once
	s := openStage(onOwnServer(t), fmt.Sprintf("maxRotations: %d\n", most))
	s.rewrite(s.place.Worker, "quota: 50/s", fmt.Sprintf("quota: %d/s", quota))
	s.rewrite(s.place.Worker, "minApprovals: 1", "minApprovals: 0")
	var names []string
	for n := range many {
		name := fmt.Sprintf("key%03d", n)
		names = append(names, name)
		s.oldKey(name, "old-"+name, time.Date(2024, 7, 1, 0, 0, 0, 0, time.UTC))
	}
	for inventory, of := range map[string][]string{"payments": names[:many/2], "billing": names[many/2:]} {
		text := declared(inventory, of, func(name string) string { // each fires twice a minute, until it is rotated
			return "    adopt: [old-" + name + "]\n    rotateEvery: 20m\n    overlap: 2s\n    quietWindow: 1s\n    disableSoak: 0s\n"
		})
		s.file("inventories/"+inventory+".yaml", strings.ReplaceAll(text, "count: 1, trust: any", "count: 0"))
	}
	s.apply(0, "-f", filepath.Join(s.folder, "inventories"))
	applied := time.Now()
	s.server.end(syscall.SIGKILL)
	<-time.After(time.Until(applied.Add(30 * time.Second))) // by then each should have fired
	s.startServer()
	_, c := s.schedules()
	for _, name := range names[:twice] { // as somebody may who cannot wait, and as a Schedule does that its server forgot
		_, err := c.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: workflows.ScheduledID(name) + "-by-hand", TaskQueue: workflows.TaskQueue},
			workflows.ScheduledName, workflows.RotationInput{Credential: name})
		require.NoError(t, err)
	}
	const firings = "WorkflowType = 'ScheduledRotation'"
	eventually(t, func() bool {
		fired := map[string]bool{}
		for _, r := range s.runs(c, firings) {
			if id := r.GetExecution().GetWorkflowId(); !strings.HasSuffix(id, "-by-hand") {
				fired[scheduledFor(id)] = true
			}
		}
		return len(fired) == many
	}, patience, 500*time.Millisecond)
	s.startWorker()
	begin := time.Now()
	eventually(t, func() bool {
		answer, err := c.CountWorkflow(t.Context(), &workflowservice.CountWorkflowExecutionsRequest{Query: firings + " AND ExecutionStatus = 'Running'"})
		return err == nil && answer.GetCount() == 0
	}, 4*patience, 500*time.Millisecond)
	took := time.Since(begin)

	// Each key was rotated once.
	rotations := s.runs(c, "WorkflowType = 'Rotation'")
	var ran []spell
	rotated := map[string]string{}
	for _, r := range rotations {
		name := strings.TrimPrefix(r.GetExecution().GetWorkflowId(), workflows.WorkflowID(""))
		assert.Empty(t, rotated[name], "%s is rotated again", name)
		rotated[name] = r.GetExecution().GetRunId()
		var report workflows.Report
		require.NoError(t, c.GetWorkflow(t.Context(), r.GetExecution().GetWorkflowId(), r.GetExecution().GetRunId()).Get(t.Context(), &report))
		assert.Equal(t, workflows.Completed, report.Outcome, "%s: %s", name, report.Message)
		ran = append(ran, spell{r.GetStartTime().AsTime(), r.GetCloseTime().AsTime()})
	}
	assert.Len(t, rotated, many)

	// A firing that did not rotate says why.
	fired := s.runs(c, firings)
	completed, skipped := map[string]string{}, map[policy.Reason]int{}
	for _, r := range fired {
		id := r.GetExecution().GetWorkflowId()
		var report workflows.ScheduledReport
		require.NoError(t, c.GetWorkflow(t.Context(), id, r.GetExecution().GetRunId()).Get(t.Context(), &report), id)
		if report.Outcome == workflows.Completed {
			completed[scheduledFor(id)] = report.Run
			continue
		}
		assert.Equal(t, workflows.Skipped, report.Outcome, "%s: %s", id, report.Message)
		assert.Contains(t, []policy.Reason{policy.NotDue, policy.AlreadyRunning}, report.Reason, "%s: %s", id, report.Message)
		skipped[report.Reason]++
	}
	assert.Equal(t, rotated, completed)

	// So many at once.
	peak := atOnce(ran)
	assert.LessOrEqual(t, peak, most)
	assert.Greater(t, peak, most/2, "and not one by one")

	// What was done to keys is on record once.
	trail, err := audit.Read(s.place.Audit)
	require.NoError(t, err)
	happened := map[audit.Type]int{}
	for _, e := range trail.Events {
		happened[e.Type]++
	}
	for _, once := range []audit.Type{audit.RotationStarted, audit.KeyIssued, audit.KeyDestroyed, audit.ProbeRefused, audit.RotationEnded} {
		assert.Equal(t, many, happened[once], once)
	}

	// What the gateway accepts now.
	file, err := os.ReadFile(s.keyFile())
	require.NoError(t, err)
	var gateway struct {
		Keys []struct{ ID, Principal, State string }
	}
	require.NoError(t, json.Unmarshal(file, &gateway))
	live := map[string]int{}
	for _, k := range gateway.Keys {
		if strings.HasPrefix(k.Principal, "key") {
			assert.Equal(t, "active", k.State, k.Principal)
			assert.NotEqual(t, "old-"+k.Principal, k.ID)
			live[k.Principal]++
		}
	}
	assert.Len(t, live, many)
	for name, n := range live {
		assert.Equal(t, 1, n, name)
	}

	// What people see. The index is updated after a rotation has ended.
	eventually(t, func() bool {
		done := 0
		for _, e := range s.inventory(0) {
			if e.State.LastOutcome == "completed" && e.Phase == "" && e.NextRun.After(e.State.LastRotation.Add(5*time.Minute)) {
				done++
			}
		}
		return done == many
	}, patience, 500*time.Millisecond)

	// The calls, from the first that was asked for on: those of each second, after a second's worth at once.
	asked, calls := s.callsOn(c, workflows.AccountQueue("edge"), slices.Concat(rotations, fired))
	made, over := 0, []string{}
	for _, call := range calls {
		made += call.attempts
		if after := call.at.Sub(asked); float64(made) > quota*(1+after.Seconds()) {
			over = append(over, fmt.Sprintf("%d calls within %s", made, after))
		}
	}
	assert.Empty(t, over)
	assert.Greater(t, made, 8*many, "these are all calls of rotations")
	t.Logf("%d firings: %d rotations, %d at once, and skipped %v; %d calls; %s from the worker's start on", len(fired), len(rotations), peak, skipped, made, took.Round(time.Second))
}

// What a firing saw before it waited for a slot does not count after it; and one that could see nothing needs a slot, too. What it begins
// waits for a slot of those that are not promoted yet, and changes nothing before that.
func TestAFiringAndItsSlot(t *testing.T) {
	t.Parallel()
	s := openStage(onSharedServer(t), "maxRotations: 1\n")
	s.rewrite(s.place.Worker, "minApprovals: 1", "minApprovals: 0\n    maxUnpromoted: 1")
	s.startWorker()
	text := declared("one", []string{"wanted", "stranger"}, func(string) string {
		return "    overlap: 1s\n    quietWindow: 1s\n    disableSoak: 0s\n" // its Schedule fires once a day
	})
	before, stranger, _ := strings.Cut(strings.ReplaceAll(text, "count: 1, trust: any", "count: 0"), "- name: stranger")
	s.apply(0, "-f", s.file("one.yaml", before+"- name: stranger"+strings.Replace(stranger, "environment: sandbox", "environment: unbounded", 1)))
	eventually(t, func() bool { return len(s.inventory(0)) == 2 }, patience, 100*time.Millisecond)
	_, c := s.schedules()
	begin := func(id, kind string, input ...any) client.WorkflowRun {
		run, err := c.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: id, TaskQueue: workflows.TaskQueue}, kind, input...)
		require.NoError(t, err)
		return run
	}

	waits := func(id string) {
		eventually(t, func() bool {
			described, err := c.DescribeWorkflowExecution(t.Context(), id, "")
			return err == nil && slices.ContainsFunc(described.GetPendingActivities(), func(a *workflow.PendingActivityInfo) bool {
				return a.GetActivityType().GetName() == "AwaitSlot" && a.GetLastFailure() != nil
			})
		}, patience, 50*time.Millisecond)
	}

	// Two want the slot that somebody has; the one that has it second is too late.
	unpromoted := begin(workflows.SlotID(policy.Slot{Environment: "sandbox", Number: 1, Unpromoted: true}), "RotationSlot")
	other := begin(workflows.SlotID(policy.Slot{Number: 1}), "RotationSlot")
	var firings []client.WorkflowRun
	for n := range 2 {
		firing := begin(fmt.Sprintf("%s-%d", workflows.ScheduledID("wanted"), n), workflows.ScheduledName, workflows.RotationInput{Credential: "wanted"})
		waits(firing.GetID())
		firings = append(firings, firing)
	}
	require.NoError(t, c.CancelWorkflow(t.Context(), other.GetID(), ""))
	waits(workflows.WorkflowID("wanted"))
	trail, err := audit.Read(s.place.Audit)
	require.NoError(t, err)
	assert.False(t, slices.ContainsFunc(trail.Events, func(e audit.Event) bool { return e.Type == audit.MintIntended }))
	require.NoError(t, c.CancelWorkflow(t.Context(), unpromoted.GetID(), ""))
	ended := map[workflows.Outcome]policy.Reason{}
	for n, firing := range firings {
		var report workflows.ScheduledReport
		require.NoError(t, firing.Get(t.Context(), &report))
		ended[report.Outcome] = report.Reason
		s.replaysRun(c, fmt.Sprintf("ScheduledRotation-waited-%d", n), firing.GetID(), firing.GetRunID())
	}
	assert.Equal(t, map[workflows.Outcome]policy.Reason{workflows.Completed: policy.Allowed, workflows.Skipped: policy.NotDue}, ended)
	assert.Len(t, s.runs(c, "WorkflowType = 'Rotation'"), 1)

	fired := s.fire(c, "stranger")
	assert.Equal(t, workflows.Refused, fired.Outcome)
	assert.Contains(t, fired.Message, "unbounded")
	id := workflows.ScheduledID("stranger") + "-by-hand"
	s.replaysRun(c, "ScheduledRotation-not-looked-at", id, "")
	eventually(t, func() bool {
		return slices.ContainsFunc(s.runs(c, "WorkflowType = 'RotationSlot'"), func(r *workflow.WorkflowExecutionInfo) bool {
			return r.GetParentExecution().GetWorkflowId() == id
		})
	}, patience, 50*time.Millisecond, "it had a slot")
}

// scheduledFor is the credential in the ID of a firing.
func scheduledFor(id string) string {
	name, _, _ := strings.Cut(strings.TrimPrefix(id, workflows.ScheduledID("")), "-")
	return name
}

// spell is how long something lasted, by who recorded it.
type spell struct{ from, to time.Time }

// atOnce is how many there were at the fullest moment. One that ends as another begins is not beside it.
func atOnce(spells []spell) int {
	type edge struct {
		at   time.Time
		more int
	}
	var edges []edge
	for _, s := range spells {
		edges = append(edges, edge{s.from, 1}, edge{s.to, -1})
	}
	slices.SortFunc(edges, func(a, b edge) int {
		if n := a.at.Compare(b.at); n != 0 {
			return n
		}
		return a.more - b.more
	})
	running, most := 0, 0
	for _, e := range edges {
		running += e.more
		most = max(most, running)
	}
	return most
}

// runs lists what visibility has.
func (s *stage) runs(c client.Client, query string) []*workflow.WorkflowExecutionInfo {
	s.t.Helper()
	var list []*workflow.WorkflowExecutionInfo
	var page []byte
	for {
		answer, err := c.ListWorkflow(s.t.Context(), &workflowservice.ListWorkflowExecutionsRequest{Query: query, NextPageToken: page})
		require.NoError(s.t, err)
		list = append(list, answer.GetExecutions()...)
		if page = answer.GetNextPageToken(); len(page) == 0 {
			return list
		}
	}
}

// call is an activity that began: a history has the last attempt of each, and how many there were.
type call struct {
	at       time.Time
	attempts int
}

// callsOn are the activities of a queue that these runs had, in their order; asked is when the first was scheduled.
func (s *stage) callsOn(c client.Client, queue string, runs []*workflow.WorkflowExecutionInfo) (asked time.Time, calls []call) {
	s.t.Helper()
	for _, r := range runs {
		scheduled := map[int64]bool{}
		events := c.GetWorkflowHistory(s.t.Context(), r.GetExecution().GetWorkflowId(), r.GetExecution().GetRunId(), false, enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
		for events.HasNext() {
			e, err := events.Next()
			require.NoError(s.t, err)
			at := e.GetEventTime().AsTime()
			if a := e.GetActivityTaskScheduledEventAttributes(); a.GetTaskQueue().GetName() == queue {
				scheduled[e.GetEventId()] = true
				if asked.IsZero() || at.Before(asked) {
					asked = at
				}
			}
			if a := e.GetActivityTaskStartedEventAttributes(); scheduled[a.GetScheduledEventId()] {
				calls = append(calls, call{at, int(a.GetAttempt())})
			}
		}
	}
	slices.SortFunc(calls, func(a, b call) int { return a.at.Compare(b.at) })
	return asked, calls
}
