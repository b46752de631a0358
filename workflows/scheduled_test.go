package workflows_test

import (
	"context"
	"log/slog"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/temporaltest"
	"github.com/keyturn/keyturn/workflows"
)

// What an earlier release began around rotations ends under this one.
func TestHistoriesOfRoutineRuns(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/histories/*/routine/*.json")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		whole := golden(t, file)
		replayer := patientReplayer(t)
		replayer.RegisterWorkflow(workflows.ScheduledRotation)
		replayer.RegisterWorkflow(workflows.RotationSlot)
		replayer.RegisterWorkflow(workflows.Verify)
		replayer.RegisterWorkflow(workflows.Inspect)
		require.NoError(t, replayer.ReplayWorkflowHistory(log.NewStructuredLogger(slog.New(slog.DiscardHandler)), whole), file)
	}
}

// firing is one firing of a Schedule, whose activities and rotation answer as told.
type firing struct {
	t   *testing.T
	env *testsuite.TestWorkflowEnvironment
	// began counts the rotations, silence what had no answer.
	began   int
	silence atomic.Int32
}

func newFiring(t *testing.T) *firing {
	t.Helper()
	f := &firing{t: t, env: temporaltest.NewEnvironment()}
	f.env.SetStartWorkflowOptions(client.StartWorkflowOptions{ID: workflows.ScheduledID("payments-api"), TaskQueue: workflows.TaskQueue})
	f.env.RegisterActivity(&activities.Activities{})
	f.env.RegisterWorkflow(workflows.ScheduledRotation)
	f.env.RegisterWorkflow(workflows.RotationSlot)
	return f
}

func (f *firing) spec() inventory.SignedSpec {
	f.t.Helper()
	spec, err := inventory.NewSpec(inventory.Spec{Inventory: "payments", Generation: 100, Credential: aCredential()})
	require.NoError(f.t, err)
	return spec
}

// answers sets what activities answer; nil stands for "all is well".
func (f *firing) answers(accept, due error, decision policy.Decision) {
	f.env.OnActivity("Accept", mock.Anything, mock.Anything).Return(activities.Accepted{}, accept).Maybe()
	f.env.OnActivity("LookWhetherDue", mock.Anything, mock.Anything).Return(activities.Due{Decision: decision, NextRun: f.env.Now().Add(time.Hour)}, due).Maybe()
	f.env.OnActivity("AwaitSlot", mock.Anything, mock.Anything).Return(activities.Slot{Number: 1, Decision: yes}, nil).Maybe()
	f.env.OnActivity("Compare", mock.Anything, mock.Anything).Return(activities.Standing{Decision: yes}, nil).Maybe()
}

// rotates sets how the rotation ends.
func (f *firing) rotates(report workflows.Report, err error) {
	f.env.RegisterWorkflowWithOptions(func(ctx workflow.Context, _ workflows.RotationInput) (workflows.Report, error) {
		f.began++
		assert.Equal(f.t, workflows.WorkflowID("payments-api"), workflow.GetInfo(ctx).WorkflowExecution.ID)
		return report, workflow.Sleep(ctx, 48*time.Hour)
	}, workflow.RegisterOptions{Name: "Rotation"})
	if err != nil {
		f.env.OnWorkflow("Rotation", mock.Anything, mock.Anything).Return(report, err)
	}
}

func (f *firing) run(in workflows.RotationInput) (workflows.ScheduledReport, error) {
	f.t.Helper()
	f.env.ExecuteWorkflow(workflows.ScheduledRotation, in)
	require.True(f.t, f.env.IsWorkflowCompleted())
	var report workflows.ScheduledReport
	if err := f.env.GetWorkflowError(); err != nil {
		return report, err
	}
	require.NoError(f.t, f.env.GetWorkflowResult(&report))
	return report, nil
}

func TestAFiringBeginsTheRotationThatIsDueAndSaysHowItEnded(t *testing.T) {
	t.Parallel()
	f := newFiring(t)
	f.answers(nil, nil, yes)
	by := f.env.Now().Add(90 * 24 * time.Hour).UTC().Truncate(time.Second)
	f.rotates(workflows.Report{Outcome: workflows.Completed, Message: "done", RotateBy: by}, nil)
	report, err := f.run(workflows.RotationInput{Spec: f.spec()})
	require.NoError(t, err)
	assert.Equal(t, 1, f.began)
	assert.Equal(t, workflows.Completed, report.Outcome)
	assert.Equal(t, "payments-api", report.Credential)
	assert.Equal(t, by, report.RotateBy.UTC())
	assert.NotEmpty(t, report.Run)
}

func TestAFiringThatIsNotWantedIsSkippedWithAReason(t *testing.T) {
	t.Parallel()
	for _, reason := range []policy.Reason{policy.NotDue, policy.AlreadyRunning, policy.BlackedOut, policy.WindowClosed} {
		f := newFiring(t)
		f.answers(nil, nil, no(reason))
		f.rotates(workflows.Report{}, nil)
		report, err := f.run(workflows.RotationInput{Spec: f.spec()})
		require.NoError(t, err)
		assert.Zero(t, f.began)
		assert.Equal(t, workflows.Skipped, report.Outcome)
		assert.Equal(t, reason, report.Reason)
		assert.Contains(t, report.Message, "because of")
	}
}

func TestAFiringWhoseWindowClosesWhileItWaitsForASlotIsSkipped(t *testing.T) {
	t.Parallel()
	f := newFiring(t)
	f.env.OnActivity("AwaitSlot", mock.Anything, mock.Anything).Return(activities.Slot{Decision: no(policy.WindowClosed)}, nil)
	f.answers(nil, nil, yes)
	f.rotates(workflows.Report{}, nil)
	report, err := f.run(workflows.RotationInput{Spec: f.spec()})
	require.NoError(t, err)
	assert.Zero(t, f.began)
	assert.Equal(t, policy.WindowClosed, report.Reason)
}

// A wait for a slot may last days: what is so at its end counts.
func TestAFiringThatWaitedForASlotLooksAgain(t *testing.T) {
	t.Parallel()
	gone := temporal.NewNonRetryableApplicationError("gone", activities.TypeLeft, nil)
	for name, x := range map[string]struct {
		standing activities.Standing
		err      error
		again    policy.Decision // the second look
		outcome  workflows.Outcome
		reason   policy.Reason
		says     string
	}{
		"and rotates what still stands":                      {activities.Standing{Decision: yes}, nil, yes, workflows.Completed, "", ""},
		"and refuses what has left the inventory":            {activities.Standing{}, gone, yes, workflows.Refused, policy.LeftInventory, "payments-api is in no applied inventory"},
		"and skips what was paused":                          {activities.Standing{Decision: no(policy.RotationsPaused)}, nil, yes, workflows.Skipped, policy.RotationsPaused, "because of"},
		"and skips what a person rotated meanwhile":          {activities.Standing{Decision: yes}, nil, no(policy.NotDue), workflows.Skipped, policy.NotDue, "because of"},
		"and skips what a person rotates now":                {activities.Standing{Decision: yes}, nil, no(policy.AlreadyRunning), workflows.Skipped, policy.AlreadyRunning, "because of"},
		"and skips what the calendar does not let begin now": {activities.Standing{Decision: yes}, nil, no(policy.BlackedOut), workflows.Skipped, policy.BlackedOut, "because of"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFiring(t)
			looks := 0
			f.env.OnActivity("LookWhetherDue", mock.Anything, mock.Anything).Return(func(context.Context, activities.Rotation) (activities.Due, error) {
				if looks++; looks > 1 {
					return activities.Due{Decision: x.again}, nil
				}
				return activities.Due{Decision: yes}, nil
			})
			f.env.OnActivity("AwaitSlot", mock.Anything, mock.Anything).After(50*time.Hour).Return(activities.Slot{Number: 1, Decision: yes}, nil).Once()
			f.env.OnActivity("Compare", mock.Anything, mock.Anything).Return(x.standing, x.err)
			f.answers(nil, nil, yes)
			f.rotates(workflows.Report{Outcome: workflows.Completed}, nil)
			report, err := f.run(workflows.RotationInput{Spec: f.spec()})
			require.NoError(t, err)
			assert.Equal(t, x.outcome, report.Outcome, report.Message)
			assert.Equal(t, x.reason, report.Reason)
			assert.Contains(t, report.Message, x.says)
			began := 0
			if x.outcome == workflows.Completed {
				began = 1
				assert.Equal(t, 2, looks)
			}
			assert.Equal(t, began, f.began)
		})
	}
}

// Those who wait for a slot find each other, and nobody who has one.
func TestAFiringThatWaitsForASlotIsFoundAsThat(t *testing.T) {
	t.Parallel()
	f := newFiring(t)
	f.rotates(workflows.Report{Outcome: workflows.Completed}, nil)
	by := f.env.Now().Add(24 * time.Hour).UTC().Truncate(time.Second)
	f.env.OnActivity("LookWhetherDue", mock.Anything, mock.Anything).Return(activities.Due{Decision: yes, State: inventory.State{RotateBy: by}}, nil)
	f.env.OnActivity("AwaitSlot", mock.Anything, mock.MatchedBy(func(in activities.SlotInput) bool { return in.RotateBy.Equal(by) && !in.Since.IsZero() })).
		Return(activities.Slot{Number: 1, Decision: yes}, nil).Once()
	f.env.OnUpsertTypedSearchAttributes(mock.MatchedBy(func(found temporal.SearchAttributes) bool {
		phase, _ := found.GetKeyword(workflows.AttributePhase)
		risk, _ := found.GetKeyword(workflows.AttributeRisk)
		rotateBy, _ := found.GetTime(workflows.AttributeRotateBy)
		return phase == string(workflows.PhaseSlot) && risk == string(aCredential().Risk) && rotateBy.Equal(by)
	})).Return(nil).Once()
	f.env.OnUpsertTypedSearchAttributes(mock.MatchedBy(func(found temporal.SearchAttributes) bool {
		phase, _ := found.GetKeyword(workflows.AttributePhase)
		return phase == ""
	})).Return(nil).Twice()
	f.answers(nil, nil, yes)
	report, err := f.run(workflows.RotationInput{Spec: f.spec()})
	require.NoError(t, err)
	assert.Equal(t, workflows.Completed, report.Outcome)
	f.env.AssertExpectations(t)
}

// What was looked at a moment ago is not asked of the issuer again, whose quota others need; but a moment is not longer
// than a rotation.
func TestAFiringThatGetsASlotAtOnceLooksOnce(t *testing.T) {
	t.Parallel()
	for overlap, began := range map[time.Duration]int{time.Hour: 1, time.Second: 0} {
		f := newFiring(t)
		credential := aCredential()
		credential.Overlap = inventory.Duration(overlap)
		spec, err := inventory.NewSpec(inventory.Spec{Inventory: "payments", Generation: 100, Credential: credential})
		require.NoError(t, err)
		f.env.OnActivity("LookWhetherDue", mock.Anything, mock.Anything).Return(activities.Due{Decision: yes}, nil).Once()
		f.env.OnActivity("AwaitSlot", mock.Anything, mock.Anything).After(5*time.Second).Return(activities.Slot{Number: 1, Decision: yes}, nil)
		f.answers(nil, nil, no(policy.NotDue))
		f.rotates(workflows.Report{Outcome: workflows.Completed}, nil)
		_, err = f.run(workflows.RotationInput{Spec: spec})
		require.NoError(t, err)
		assert.Equal(t, began, f.began, "with an overlap of %s", overlap)
	}
}

// The Schedule's next firing may be far away: a spec that was applied during the wait is gone on with, as one that fires.
func TestAFiringGoesOnWithASpecThatWasAppliedMeanwhile(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		accept  error
		due     policy.Decision
		outcome workflows.Outcome
	}{
		"that is due":                {nil, yes, workflows.Completed},
		"that is not due by its own": {nil, no(policy.NotDue), workflows.Skipped},
		"that no worker trusts":      {temporal.NewNonRetryableApplicationError("not trusted", activities.TypeUntrusted, nil), yes, workflows.Refused},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFiring(t)
			newer, err := inventory.NewSpec(inventory.Spec{Inventory: "payments", Generation: 200, Credential: aCredential()})
			require.NoError(t, err)
			isNewer := mock.MatchedBy(func(s inventory.SignedSpec) bool { return s.Same(newer) })
			f.env.OnActivity("Accept", mock.Anything, isNewer).Return(activities.Accepted{}, x.accept)
			f.env.OnActivity("Compare", mock.Anything, isNewer).Return(activities.Standing{Decision: yes}, nil).Maybe()
			f.env.OnActivity("Compare", mock.Anything, mock.Anything).Return(activities.Standing{Decision: yes, Newer: newer}, nil).Once()
			f.env.OnActivity("LookWhetherDue", mock.Anything, mock.MatchedBy(func(r activities.Rotation) bool { return r.Spec.Same(newer) })).
				Return(activities.Due{Decision: x.due}, nil).Maybe()
			f.answers(nil, nil, yes)
			f.env.RegisterWorkflowWithOptions(func(_ workflow.Context, in workflows.RotationInput) (workflows.Report, error) {
				f.began++
				assert.True(t, in.Spec.Same(newer))
				if x.accept != nil {
					return workflows.Report{Outcome: workflows.Refused}, nil
				}
				return workflows.Report{Outcome: workflows.Completed}, nil
			}, workflow.RegisterOptions{Name: "Rotation"})
			report, err := f.run(workflows.RotationInput{Spec: f.spec()})
			require.NoError(t, err)
			assert.Equal(t, x.outcome, report.Outcome, report.Message)
			assert.Equal(t, x.outcome != workflows.Skipped, f.began == 1)
		})
	}
}

// What cannot be looked at is the rotation's to say. When an issuer is away, that is so of all its credentials: not all of
// them begin at once.
func TestAFiringThatCouldNotLookNeedsASlotAllTheSame(t *testing.T) {
	t.Parallel()
	f := newFiring(t)
	f.env.OnActivity("AwaitSlot", mock.Anything, mock.Anything).Return(activities.Slot{Decision: no(policy.WindowClosed)}, nil)
	f.answers(nil, temporal.NewNonRetryableApplicationError("the issuer is away", activities.TypePassing, nil), yes)
	f.rotates(workflows.Report{}, nil)
	report, err := f.run(workflows.RotationInput{Spec: f.spec()})
	require.NoError(t, err)
	assert.Zero(t, f.began)
	assert.Equal(t, policy.WindowClosed, report.Reason)
}

// Temporal, or the worker that asks it, is busy for an hour: that refuses and fails nothing.
func TestAFiringWaitsForAnAnswer(t *testing.T) {
	t.Parallel()
	for _, asked := range []string{"Resolve", "Accept", "Compare"} {
		t.Run("of "+asked, func(t *testing.T) {
			t.Parallel()
			f := newFiring(t)
			silent := func(name string) error {
				if name != asked {
					return nil
				}
				return forAnHour(&f.silence)
			}
			f.env.OnActivity("Resolve", mock.Anything, mock.Anything).Return(func(context.Context, string) (inventory.SignedSpec, error) { return f.spec(), silent("Resolve") })
			f.env.OnActivity("Accept", mock.Anything, mock.Anything).Return(func(context.Context, inventory.SignedSpec) (activities.Accepted, error) {
				return activities.Accepted{}, silent("Accept")
			})
			f.env.OnActivity("Compare", mock.Anything, mock.Anything).Return(func(context.Context, inventory.SignedSpec) (activities.Standing, error) {
				return activities.Standing{Decision: yes}, silent("Compare")
			})
			f.answers(nil, nil, yes)
			f.rotates(workflows.Report{Outcome: workflows.Completed}, nil)
			begun := f.env.Now()
			report, err := f.run(workflows.RotationInput{Credential: "payments-api"})
			require.NoError(t, err)
			assert.Equal(t, workflows.Completed, report.Outcome, report.Message)
			assert.Equal(t, 1, f.began)
			assert.Greater(t, f.env.Now().Sub(begun), 48*time.Hour+50*time.Minute, "the rotation took two days")
		})
	}
}

// A refusal is the rotation's to make: it leaves a record there, and people are told.
func TestAFiringLeavesRefusalsToTheRotation(t *testing.T) {
	t.Parallel()
	broken := temporal.NewNonRetryableApplicationError("not trusted", activities.TypeUntrusted, nil)
	for _, x := range []struct{ accept, due error }{{accept: broken}, {due: broken}} {
		f := newFiring(t)
		f.answers(x.accept, x.due, yes)
		f.rotates(workflows.Report{Outcome: workflows.Refused, Reason: policy.SpecRefused, Message: "nobody trusts it"}, nil)
		report, err := f.run(workflows.RotationInput{Spec: f.spec()})
		require.NoError(t, err)
		assert.Equal(t, 1, f.began)
		assert.Equal(t, workflows.Refused, report.Outcome)
		assert.Equal(t, "nobody trusts it", report.Message)
	}
}

func TestAFiringFailsWhenItsRotationDoes(t *testing.T) {
	t.Parallel()
	f := newFiring(t)
	f.answers(nil, nil, yes)
	report := workflows.Report{Outcome: workflows.Failed, Message: "both keys are alive"}
	f.rotates(report, temporal.NewNonRetryableApplicationError(report.Message, workflows.FailedType, nil, report))
	_, err := f.run(workflows.RotationInput{Spec: f.spec()})
	var failed *temporal.ApplicationError
	require.ErrorAs(t, err, &failed)
	assert.Equal(t, workflows.FailedType, failed.Type())
	var told workflows.ScheduledReport
	require.NoError(t, failed.Details(&told))
	assert.Equal(t, "both keys are alive", told.Message)
}

func TestAFiringByNameTakesTheSpecOfTheSchedule(t *testing.T) {
	t.Parallel()
	f := newFiring(t)
	f.env.OnActivity("Resolve", mock.Anything, "payments-api").Return(f.spec(), nil)
	f.answers(nil, nil, yes)
	f.rotates(workflows.Report{Outcome: workflows.Completed}, nil)
	report, err := f.run(workflows.RotationInput{Credential: "payments-api"})
	require.NoError(t, err)
	assert.Equal(t, 1, f.began)
	assert.Equal(t, workflows.Completed, report.Outcome)

	f = newFiring(t)
	f.env.OnActivity("Resolve", mock.Anything, "payments-api").Return(inventory.SignedSpec{}, temporal.NewNonRetryableApplicationError("gone", activities.TypeLeft, nil))
	f.rotates(workflows.Report{}, nil)
	report, err = f.run(workflows.RotationInput{Credential: "payments-api"})
	require.NoError(t, err)
	assert.Zero(t, f.began)
	assert.Equal(t, workflows.Refused, report.Outcome)
	assert.Equal(t, policy.LeftInventory, report.Reason)
	assert.Contains(t, report.Message, "left the inventory")
}

// Whoever cancels the firing does not cancel the rotation.
func TestACancelledFiringLeavesItsRotationAlone(t *testing.T) {
	t.Parallel()
	f := newFiring(t)
	f.answers(nil, nil, yes)
	cancelled := false
	f.env.RegisterWorkflowWithOptions(func(ctx workflow.Context, _ workflows.RotationInput) (workflows.Report, error) {
		f.began++
		workflow.Go(ctx, func(ctx workflow.Context) {
			ctx.Done().Receive(ctx, nil)
			cancelled = true
		})
		return workflows.Report{}, workflow.Sleep(ctx, 48*time.Hour)
	}, workflow.RegisterOptions{Name: "Rotation"})
	f.env.RegisterDelayedCallback(f.env.CancelWorkflow, time.Hour)
	_, err := f.run(workflows.RotationInput{Spec: f.spec()})
	var ended *temporal.CanceledError
	require.ErrorAs(t, err, &ended)
	assert.Equal(t, 1, f.began)
	assert.False(t, cancelled)
}

func TestARotationByNameIsThatOfTheSchedule(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.traffic(3 * time.Hour)
	s.approve()
	s.index.specs["payments-api"] = s.spec()
	s.env.ExecuteWorkflow(workflows.Rotation, workflows.RotationInput{Credential: "payments-api"})
	require.NoError(t, s.env.GetWorkflowError())
	var report workflows.Report
	require.NoError(t, s.env.GetWorkflowResult(&report))
	assert.Equal(t, workflows.Completed, report.Outcome, report.Message)
	assert.False(t, report.NextRun.IsZero())
	assert.Equal(t, report.RotateBy, s.index.states["payments-api"].RotateBy)

	s = newStage(t)
	s.env.ExecuteWorkflow(workflows.Rotation, workflows.RotationInput{Credential: "payments-api"})
	require.NoError(t, s.env.GetWorkflowError())
	require.NoError(t, s.env.GetWorkflowResult(&report))
	assert.Equal(t, workflows.Refused, report.Outcome)
	assert.Equal(t, policy.LeftInventory, report.Reason)
	assert.Equal(t, []string{"key-old active"}, s.keys())
}

// A rotation whose overlap ends in a blackout keeps the retiring key until the blackout ends: in a history
// that does not grow meanwhile.
func TestARotationWaitsForTheEndOfABlackout(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.traffic(3 * time.Hour)
	from, to := s.began.UTC().Add(10*time.Minute), s.began.UTC().Add(2*time.Hour).Truncate(time.Minute)
	s.credential.Schedule.Blackouts = []inventory.Blackout{{From: from.Format("2006-01-02T15:04"), To: to.Format("2006-01-02T15:04"), Why: "launch"}}
	s.every(10*time.Minute, 4*time.Hour, func() {
		if gate := s.status().Gate; gate != nil && len(gate.Approvals) == 0 {
			assert.False(t, s.env.Now().Before(to), "nobody is asked in a blackout")
			s.env.SignalWorkflow(workflows.ApproveName, policy.Request{Gate: "revoke", By: "ann"})
		}
	})
	s.in("evidence", 90*time.Minute, func() { assert.Contains(t, s.status().WaitsFor, "a blackout lasts until") })
	report := s.run()
	require.Equal(t, workflows.Completed, report.Outcome, report.Message)
	for _, m := range report.Timeline {
		if m.Phase == workflows.PhaseDisable {
			assert.False(t, m.At.Before(to), "%s: %s", m.At, m.What)
		}
	}
}

// index is an activities.Index in memory.
type index struct {
	specs  map[string]inventory.SignedSpec
	states map[string]inventory.State
	// busy: it does not answer for an hour.
	busy   bool
	silent atomic.Int32
}

func (i *index) Spec(_ context.Context, credential string) (inventory.SignedSpec, error) {
	if i.busy {
		if err := forAnHour(&i.silent); err != nil {
			return inventory.SignedSpec{}, err
		}
	}
	spec, ok := i.specs[credential]
	if !ok {
		return spec, activities.ErrLeft
	}
	return spec, nil
}

func (i *index) Observe(_ context.Context, _, credential string, state inventory.State) error {
	i.states[credential] = state
	return nil
}

func (i *index) Schedule(ctx context.Context, _, credential string) (activities.Scheduled, error) {
	spec, err := i.Spec(ctx, credential)
	return activities.Scheduled{Spec: spec}, err
}

func (i *index) Running(context.Context, string) (bool, error) { return false, nil }

func (i *index) TakenSlots(context.Context) ([]policy.Slot, error) { return nil, nil }

func (i *index) Waiting(context.Context) ([]policy.Waiter, error) { return nil, nil }
