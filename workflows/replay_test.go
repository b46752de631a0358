package workflows_test

import (
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/api/history/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/internal/host"
	"github.com/keyturn/keyturn/workflows"
)

// patientReplayer takes no slow machine for a deadlock.
func patientReplayer(t *testing.T) worker.WorkflowReplayer {
	t.Helper()
	replayer, err := worker.NewWorkflowReplayerWithOptions(worker.WorkflowReplayerOptions{DisableDeadlockDetection: true})
	require.NoError(t, err)
	return replayer
}

// replay runs a history through a workflow, under the name of Rotation.
func replay(t *testing.T, rotation any, whole *history.History) error {
	t.Helper()
	replayer := patientReplayer(t)
	replayer.RegisterWorkflowWithOptions(rotation, workflow.RegisterOptions{Name: "Rotation"})
	id := whole.Events[0].GetWorkflowExecutionStartedEventAttributes().GetWorkflowId()
	return replayer.ReplayWorkflowHistoryWithOptions(log.NewStructuredLogger(slog.New(slog.DiscardHandler)), whole, worker.ReplayWorkflowHistoryOptions{OriginalExecution: workflow.Execution{ID: id}})
}

func golden(t *testing.T, file string) *history.History {
	t.Helper()
	text, err := os.Open(file)
	require.NoError(t, err)
	defer text.Close()
	whole, err := client.HistoryFromJSON(text, client.HistoryJSONOptions{})
	require.NoError(t, err)
	return whole
}

// A rotation that an earlier release began ends under this one.
func TestHistoriesOfEveryRelease(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/histories/*/*.json")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			require.NoError(t, replay(t, workflows.Rotation, golden(t, file)))
		})
	}
}

// In the Timeline of the Web UI, whatever a run waits for says what that is: timers, activities and local ones.
func TestWhatARunWaitsForHasAName(t *testing.T) {
	t.Parallel()
	var files []string
	require.NoError(t, filepath.WalkDir("testdata/histories", func(file string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			files = append(files, file)
		}
		return err
	}))
	require.NotEmpty(t, files)
	byTheSDK := []string{"AwaitWithTimeout", "AwaitWithOptions", "Sleep"}
	for _, file := range files {
		for _, e := range golden(t, file).Events {
			waits := e.GetTimerStartedEventAttributes() != nil || e.GetActivityTaskScheduledEventAttributes() != nil || e.GetMarkerRecordedEventAttributes().GetMarkerName() == "LocalActivity"
			if !waits {
				continue
			}
			var name string
			require.NoError(t, converter.GetDefaultDataConverter().FromPayload(e.GetUserMetadata().GetSummary(), &name), "%s: event %d has no summary", file, e.GetEventId())
			assert.NotContains(t, byTheSDK, name, "%s: event %d", file, e.GetEventId())
		}
	}
}

// registered are the names of the workflows that a worker runs.
type registered struct {
	worker.WorkflowRegistry
	names []string
}

func (r *registered) RegisterWorkflow(w any) {
	name := runtime.FuncForPC(reflect.ValueOf(w).Pointer()).Name()
	r.names = append(r.names, name[strings.LastIndexByte(name, '.')+1:])
}

// make histories keeps one of every workflow.
func TestEachReleaseHasHistoriesOfEveryWorkflow(t *testing.T) {
	t.Parallel()
	// Those of before: a workflow that is new from now on is a name here, of each release that did not have it.
	lacks := map[string][]string{}
	var all registered
	host.Register(&all)
	require.Contains(t, all.names, "Rotation")
	releases, err := os.ReadDir("testdata/histories")
	require.NoError(t, err)
	for _, release := range releases {
		has := map[string]bool{}
		require.NoError(t, filepath.WalkDir(filepath.Join("testdata/histories", release.Name()), func(file string, e fs.DirEntry, err error) error {
			if err == nil && !e.IsDir() {
				has[golden(t, file).Events[0].GetWorkflowExecutionStartedEventAttributes().GetWorkflowType().GetName()] = true
			}
			return err
		}))
		missing := slices.DeleteFunc(slices.Clone(all.names), func(name string) bool { return has[name] })
		assert.ElementsMatch(t, lacks[release.Name()], missing, "histories that %s lacks", release.Name())
	}
}

// What CONTRIBUTING says of changes to a workflow, enacted on a history that is there.
func TestWhatAChangeDoesToARotationThatRuns(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]struct {
		next  func(workflow.Context, workflows.RotationInput) (workflows.Report, error)
		bears bool
	}{
		"one more timer before everything": {func(ctx workflow.Context, in workflows.RotationInput) (workflows.Report, error) {
			_ = workflow.Sleep(ctx, time.Minute)
			return workflows.Rotation(ctx, in)
		}, false},
		"one more timer behind GetVersion": {func(ctx workflow.Context, in workflows.RotationInput) (workflows.Report, error) {
			if workflow.GetVersion(ctx, "wait-first", workflow.DefaultVersion, 1) == 1 {
				_ = workflow.Sleep(ctx, time.Minute)
			}
			return workflows.Rotation(ctx, in)
		}, true},
		"one more search attribute at the end": {func(ctx workflow.Context, in workflows.RotationInput) (workflows.Report, error) {
			report, err := workflows.Rotation(ctx, in)
			_ = workflow.UpsertTypedSearchAttributes(ctx, workflows.AttributeRisk.ValueSet("none"))
			return report, err
		}, false},
		"another way": {func(ctx workflow.Context, in workflows.RotationInput) (workflows.Report, error) {
			return workflows.Rotation(ctx, workflows.RotationInput{})
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := replay(t, change.next, golden(t, "testdata/histories/v0/completed.json"))
			if change.bears {
				assert.NoError(t, err)
			} else {
				assert.ErrorContains(t, err, "TMPRL1100", "the SDK's rule of nondeterminism")
			}
		})
	}
}

// So does an emergency, an incident, and a review of one.
func TestEmergenciesOfEveryRelease(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/histories/*/emergency/*.json")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			whole := golden(t, file)
			replayer := patientReplayer(t)
			for _, w := range []any{workflows.EmergencyRotation, workflows.Incident, workflows.Review} {
				replayer.RegisterWorkflow(w)
			}
			id := whole.Events[0].GetWorkflowExecutionStartedEventAttributes().GetWorkflowId()
			require.NoError(t, replayer.ReplayWorkflowHistoryWithOptions(log.NewStructuredLogger(slog.New(slog.DiscardHandler)), whole,
				worker.ReplayWorkflowHistoryOptions{OriginalExecution: workflow.Execution{ID: id}}))
		})
	}
}
