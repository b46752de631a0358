package workflows_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/memory"
	"github.com/keyturn/keyturn/workflows"
)

// What an earlier release began to look after things ends under this one.
func TestHistoriesOfSweeps(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/histories/*/sweep/*.json")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		whole := golden(t, file)
		replayer := patientReplayer(t)
		for _, w := range []any{workflows.Rotation, workflows.Sweep, workflows.Scan, workflows.Doctor, workflows.Audit} {
			replayer.RegisterWorkflow(w)
		}
		id := whole.Events[0].GetWorkflowExecutionStartedEventAttributes().GetWorkflowId()
		require.NoError(t, replayer.ReplayWorkflowHistoryWithOptions(log.NewStructuredLogger(slog.New(slog.DiscardHandler)), whole,
			worker.ReplayWorkflowHistoryOptions{OriginalExecution: workflow.Execution{ID: id}}), file)
	}
}

// owe makes the World one in which a rotation promoted another key and left the retired one alive.
func (s *stage) owe() (retired, current key.Ref) {
	s.t.Helper()
	ctx := context.Background()
	old, _ := s.world.Held("canary")
	issued, err := s.world.Issuer("payments-api").Issue(ctx, providers.IssueRequest{Token: policy.Token("earlier", 1)})
	require.NoError(s.t, err)
	store := s.world.Store("payments-api")
	version, err := store.Stage(ctx, policy.Token("earlier", 1), issued.Bundle)
	require.NoError(s.t, err)
	require.NoError(s.t, store.Promote(ctx, s.first, version))
	retired = key.Ref{Principal: "payments-api", KeyID: "key-old", StoreVersion: s.first, Fingerprint: old.Fingerprint()}
	current = key.Ref{Principal: "payments-api", KeyID: issued.Key.KeyID, StoreVersion: version, Fingerprint: issued.Bundle.Fingerprint()}
	for _, name := range fleet {
		s.world.Give(name, issued.Bundle)
	}
	at := s.env.Now()
	_, err = store.PutMetadata(ctx, key.Metadata{
		Generation: 99, Keys: []key.Owned{
			{Ref: retired, Rotation: "before", PromotedAt: at.Add(-90 * 24 * time.Hour)},
			{Ref: current, Rotation: "earlier", IssuedAt: at, DeliveredAt: at, PromotedAt: at},
		},
		LastRotation: &key.LastRotation{ID: "earlier", Outcome: "completed-with-debt", At: at},
		Debt:         []key.Debt{{Kind: "retired-key-alive", About: "key-old", Since: at}},
	})
	require.NoError(s.t, err)
	return retired, current
}

// settles runs what Sweep begins for a retired key.
func (s *stage) settles(keyID string) workflows.Report {
	s.t.Helper()
	s.index.specs["payments-api"] = s.spec()
	s.env.ExecuteWorkflow(workflows.Rotation, workflows.RotationInput{Credential: "payments-api", Settle: keyID, RequestedBy: "sweep"})
	s.allFell()
	require.NoError(s.t, s.env.GetWorkflowError())
	var report workflows.Report
	require.NoError(s.t, s.env.GetWorkflowResult(&report))
	return report
}

func TestARetiredKeyIsTakenUpAgain(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	retired, current := s.owe()
	s.traffic(5 * time.Hour)
	s.approve()
	report := s.settles(retired.KeyID)
	require.Equal(t, workflows.Completed, report.Outcome, report.Message)
	assert.Equal(t, retired.KeyID, report.Retiring.KeyID)
	assert.Equal(t, current.KeyID, report.Incoming.KeyID)
	assert.Equal(t, []string{"new-1 active"}, s.keys())
	assert.Equal(t, []string{"issue new-1", "disable key-old", "destroy key-old"}, s.happened(memory.OpIssue, memory.OpDisable, memory.OpEnable, memory.OpDestroy, memory.OpDeliver))
	assert.Zero(t, s.refused(), "no request was refused")
	assert.Len(t, s.versions(), 1, "the retired version is pruned")
	m := s.metadata()
	assert.Empty(t, m.Debt)
	assert.Equal(t, "earlier", m.LastRotation.ID, "the last rotation is still that one")
	assert.Equal(t, "completed", m.LastRotation.Outcome, "and it owes nothing any more")
	assert.Equal(t, []string{"ann"}, []string{report.Verdicts[0].By})
	for _, kind := range []audit.Type{audit.PlanMade, audit.EvidenceComplete, audit.GateOpened, audit.KeyDisabled, audit.KeyDestroyed, audit.RotationEnded} {
		assert.Contains(t, s.trail(), kind)
	}
}

// A rotation that was terminated has recorded no end; the run that ends its retired key does, for the inventory to show.
func TestTheEndOfARotationThatWasCutOffIsRecorded(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	retired, _ := s.owe()
	m := s.metadata()
	promoted := m.Keys[1].PromotedAt
	m.LastRotation, m.Debt = &key.LastRotation{ID: "before", Outcome: "completed", At: promoted.Add(-90 * 24 * time.Hour)}, nil
	_, err := s.world.Store("payments-api").PutMetadata(context.Background(), m)
	require.NoError(t, err)
	s.traffic(5 * time.Hour)
	s.approve()
	report := s.settles(retired.KeyID)
	require.Equal(t, workflows.Completed, report.Outcome, report.Message)
	last := s.metadata().LastRotation
	assert.Equal(t, "earlier", last.ID)
	assert.Equal(t, "completed", last.Outcome)
	assert.True(t, last.At.After(promoted))
	assert.Equal(t, "completed", s.index.states["payments-api"].LastOutcome)
}

func TestARetiredKeyThatIsLeft(t *testing.T) {
	t.Parallel()
	both := []string{"key-old active", "new-1 active"}
	for name, c := range map[string]struct {
		prepare func(*stage)
		keys    []string
		outcome workflows.Outcome
		happens []string
	}{
		"somebody says no": {func(s *stage) {
			s.request("revoke-gate", time.Hour, "reject", policy.Request{Gate: "revoke", By: "ann", Reason: "a batch needs it in April"})
		}, both, workflows.Refused, nil},
		"nobody decides": {func(*stage) {}, both, workflows.Refused, nil},
		"it is asked for when it is disabled": {func(s *stage) {
			s.approve()
			s.every(time.Minute, 4*time.Hour, func() {
				if len(s.happened(memory.OpDisable)) > 0 && len(s.happened(memory.OpEnable)) == 0 {
					s.env.SignalWorkflow("rollback", policy.Request{By: "ann", Reason: "errors"})
				}
			})
		}, both, workflows.RolledBack, []string{"disable key-old", "enable key-old"}},
		"the run is cancelled": {func(s *stage) { s.in("revoke-gate", time.Hour, s.env.CancelWorkflow) }, both, workflows.Refused, nil},
		"it is gone when the run begins": {func(s *stage) {
			require.NoError(s.t, s.world.Issuer("payments-api").Destroy(context.Background(), key.Ref{KeyID: "key-old"}))
		}, []string{"new-1 active"}, workflows.Refused, []string{"destroy key-old"}},
		"it is in use: the run waits, and ends with a rollback": {func(s *stage) {
			old, err := s.world.Store("payments-api").Read(context.Background(), s.first)
			require.NoError(s.t, err)
			s.world.Give("checkout-a", old)
			s.request("evidence", 2*time.Hour, "rollback", policy.Request{By: "ann", Reason: "it is needed"})
		}, both, workflows.Refused, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			retired, current := s.owe()
			c.prepare(s)
			s.traffic(5 * time.Hour)
			report := s.settles(retired.KeyID)
			assert.Equal(t, c.outcome, report.Outcome, report.Message)
			assert.Equal(t, c.keys, s.keys())
			assert.Equal(t, c.happens, s.happened(memory.OpDisable, memory.OpEnable, memory.OpDestroy, memory.OpDeliver))
			assert.Equal(t, []key.Label{key.Current}, s.versions()[current.StoreVersion], "CURRENT stays where it is")
			assert.Equal(t, "completed-with-debt", s.metadata().LastRotation.Outcome)
		})
	}
}

// Nothing written to the namespace makes such a run take away a key that is not a retired one of ours.
func TestOnlyARetiredKeyIsTakenUp(t *testing.T) {
	t.Parallel()
	for name, of := range map[string]func(s *stage) string{
		"the current key": func(s *stage) string { _, current := s.owe(); return current.KeyID },
		"a stranger's": func(s *stage) string {
			s.owe()
			s.world.AddKey("payments-api", "stranger", s.began)
			return "stranger"
		},
		"the only key that there is": func(*stage) string { return "key-old" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			keyID := of(s)
			s.approve()
			report := s.settles(keyID)
			assert.Equal(t, workflows.Refused, report.Outcome)
			assert.Equal(t, policy.NotOurs, report.Reason, report.Message)
			assert.Empty(t, s.happened(memory.OpDisable, memory.OpDestroy, memory.OpDeliver))
		})
	}
}

// swept runs a sweep. What it begins is only noted: a Rotation of the stage's own.
func (s *stage) swept(in workflows.SweepInput, started *[]workflows.RotationInput) policy.SweepReport {
	s.t.Helper()
	s.env.RegisterWorkflow(workflows.Scan)
	s.env.RegisterWorkflow(workflows.Sweep)
	s.env.OnWorkflow(workflows.Rotation, mock.Anything, mock.Anything).Return(func(_ workflow.Context, in workflows.RotationInput) (workflows.Report, error) {
		if started != nil {
			*started = append(*started, in)
		}
		return workflows.Report{}, nil
	})
	s.env.SetStartWorkflowOptions(client.StartWorkflowOptions{ID: workflows.SweepID, TaskQueue: workflows.TaskQueue})
	s.env.ExecuteWorkflow(workflows.Sweep, in)
	require.NoError(s.t, s.env.GetWorkflowError())
	var report policy.SweepReport
	require.NoError(s.t, s.env.GetWorkflowResult(&report))
	return report
}

func kinds(r policy.SweepReport) []policy.FindingKind {
	list := []policy.FindingKind{}
	for _, f := range r.Findings {
		list = append(list, f.Kind)
	}
	return list
}

func TestSweepOfAWorldThatIsWell(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.applied = []inventory.SignedSpec{s.spec()}
	ledger := len(s.world.Ledger())
	report := s.swept(workflows.SweepInput{}, nil)
	assert.Empty(t, report.Findings)
	assert.Equal(t, 1, report.Credentials)
	assert.False(t, report.EndedAt.IsZero())
	assert.Len(t, s.world.Ledger(), ledger, "it changes nothing, and tells nobody of nothing")
	require.Len(t, report.Notes, 1)
	assert.Contains(t, report.Notes[0], "set scan: true", "what it does not look at it says")
}

func TestSweepTakesDebtUp(t *testing.T) {
	t.Parallel()
	sweepAt := func(prepare func(s *stage), in workflows.SweepInput) (policy.SweepReport, []workflows.RotationInput, *stage) {
		s := newStage(t)
		s.owe()
		s.applied = []inventory.SignedSpec{s.spec()}
		s.env.SetStartTime(s.env.Now().Add(5 * time.Minute)) // after keyturn's own tries
		for _, name := range fleet {
			require.NoError(t, s.world.Request(name))
		}
		s.env.SetStartTime(s.env.Now().Add(3 * time.Hour)) // overlap and quiet window are over
		prepare(s)
		ledger := len(s.world.Happened(memory.OpDisable, memory.OpDestroy, memory.OpPutMetadata))
		var started []workflows.RotationInput
		report := s.swept(in, &started)
		assert.Len(t, s.world.Happened(memory.OpDisable, memory.OpDestroy, memory.OpPutMetadata), ledger, "Sweep itself changes nothing")
		return report, started, s
	}
	closed := func(s *stage, ago time.Duration) {
		s.runs = map[string]*workflowservice.DescribeWorkflowExecutionResponse{workflows.WorkflowID("payments-api"): {
			WorkflowExecutionInfo: &workflowpb.WorkflowExecutionInfo{
				Status: enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED, CloseTime: timestamppb.New(s.env.Now().Add(-ago)),
			},
		}}
	}
	report, started, s := sweepAt(func(*stage) {}, workflows.SweepInput{})
	assert.Equal(t, []policy.FindingKind{policy.FoundRetiredAlive}, kinds(report))
	assert.Equal(t, []string{"payments-api"}, report.TakenUp)
	assert.Equal(t, []workflows.RotationInput{{Credential: "payments-api", Settle: "key-old", Reason: "a retired key was left alive", RequestedBy: "sweep"}}, started)
	require.Len(t, s.world.Notifications(), 1)
	told := s.world.Notifications()[0]
	assert.Equal(t, "dev.keyturn.sweep.found", told.Type)
	assert.Contains(t, told.Body, "key-old is still alive")
	assert.Contains(t, told.Body, "What to do:")

	_, started, _ = sweepAt(func(s *stage) { closed(s, time.Hour) }, workflows.SweepInput{})
	assert.Empty(t, started, "who said no an hour ago is not asked again")
	_, started, _ = sweepAt(func(s *stage) { closed(s, 25*time.Hour) }, workflows.SweepInput{})
	assert.Len(t, started, 1, "but on the next day")
	_, started, _ = sweepAt(func(s *stage) { closed(s, time.Hour) }, workflows.SweepInput{Now: true})
	assert.Len(t, started, 1, "or when somebody asks for it")
	report, started, _ = sweepAt(func(s *stage) {
		old, err := s.world.Store("payments-api").Read(context.Background(), s.first)
		require.NoError(t, err)
		require.NoError(t, s.world.Use(old, "a forgotten batch"))
		s.env.SetStartTime(s.env.Now().Add(2 * time.Minute)) // it is reported by then
	}, workflows.SweepInput{})
	assert.Empty(t, started)
	assert.Contains(t, report.Findings[0].Do, "must be quiet", "it says what is missing")
}

func TestSweepTellsWhatIsNewAndRemindsOnceAWeek(t *testing.T) {
	t.Parallel()
	var before policy.SweepReport
	for n, want := range []struct{ fresh, told int }{{1, 1}, {0, 0}, {0, 1}} {
		s := newStage(t)
		s.applied = []inventory.SignedSpec{s.spec()}
		s.world.AddKey("payments-api", "stranger", s.began)
		s.latest = before
		report := s.swept(workflows.SweepInput{}, nil)
		assert.Equal(t, []policy.FindingKind{policy.FoundUnmanaged}, kinds(report))
		assert.Equal(t, want.fresh, report.New)
		require.Len(t, s.world.Notifications(), want.told, "sweep %d", n)
		before = report
		if n == 1 { // the third one comes a week later
			before.StartedAt = before.StartedAt.Add(-time.Hour)
			before.Findings[0].Since = before.StartedAt.Add(time.Minute - policy.RemindEvery)
		}
		for _, m := range s.world.Notifications() {
			assert.Equal(t, want.fresh == 0, strings.Contains(m.Body, "unmanaged-key payments-api of payments@example.com, since "), m.Body)
		}
	}
}

// What people could not be told of counts as new in the next sweep.
func TestSweepTellsAgainWhatNobodyHeard(t *testing.T) {
	t.Parallel()
	var before policy.SweepReport
	for _, c := range []struct {
		fails  int // of the calls of the notifier
		new    int
		told   int
		says   string
		known  int
		reason string
	}{
		{1000, 1, 0, "the next sweep tells them", 0, "the receiver is down for longer than it is tried"},
		{0, 1, 1, "", 1, "it is back"},
		{0, 0, 0, "", 1, "it has been told"},
	} {
		s := newStage(t)
		s.applied = []inventory.SignedSpec{s.spec()}
		s.world.AddKey("payments-api", "stranger", s.began)
		s.latest = before
		if c.fails > 0 {
			s.world.Fail(memory.OpNotify, errors.New("connection refused"), c.fails)
		}
		report := s.swept(workflows.SweepInput{}, nil)
		assert.Equal(t, c.new, report.New, c.reason)
		assert.Len(t, report.Known, c.known, c.reason)
		assert.Contains(t, fmt.Sprint(report.Notes), c.says, c.reason)
		require.Len(t, s.world.Notifications(), c.told, c.reason)
		for _, m := range s.world.Notifications() {
			assert.Contains(t, m.Body, "unmanaged-key payments-api of payments@example.com: ", "each line says whose it is")
		}
		before = report
	}
}

// A rotation whose credential is not applied is looked at, too.
func TestSweepFindsRotationsOfWhatIsNotApplied(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.applied = []inventory.SignedSpec{s.spec()}
	run := func(status enumspb.WorkflowExecutionStatus) *workflowservice.DescribeWorkflowExecutionResponse {
		return &workflowservice.DescribeWorkflowExecutionResponse{WorkflowExecutionInfo: &workflowpb.WorkflowExecutionInfo{
			Status: status, StartTime: timestamppb.New(s.env.Now().Add(-2 * time.Hour)), CloseTime: timestamppb.New(s.env.Now().Add(-time.Hour)),
		}}
	}
	s.runs = map[string]*workflowservice.DescribeWorkflowExecutionResponse{
		"rotation/forgotten":      run(enumspb.WORKFLOW_EXECUTION_STATUS_TERMINATED),
		"rotation/in-time":        run(enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING),
		"rotation/rotated-since":  run(enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED),
		"rotation/$(not a name)":  run(enumspb.WORKFLOW_EXECUTION_STATUS_TERMINATED),
		"something/else":          run(enumspb.WORKFLOW_EXECUTION_STATUS_TERMINATED),
		"rotation/payments-api-2": run(enumspb.WORKFLOW_EXECUTION_STATUS_FAILED),
	}
	report := s.swept(workflows.SweepInput{}, nil)
	require.Equal(t, []policy.FindingKind{policy.FoundFailed, policy.FoundTerminated}, kinds(report))
	assert.Equal(t, "payments-api-2", report.Findings[0].Credential)
	assert.Equal(t, "forgotten", report.Findings[1].Credential)
	assert.Contains(t, report.Findings[1].Message, "terminated in the middle")
	assert.Contains(t, report.Findings[1].Message, "it is not applied")
	assert.Contains(t, report.Findings[1].Do, "keyturn apply -f FILE; ")
	assert.Equal(t, 1, report.Credentials)
}

func TestSweepFindsWhatTheWorldHides(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		prepare func(*stage)
		want    []policy.FindingKind
		says    string
	}{
		"a spec out of the bounds of every worker": {func(s *stage) {
			s.credential.Environment = "production"
		}, []policy.FindingKind{policy.FoundSpecRefused}, "production"},
		"an account that no worker has": {func(s *stage) {
			s.credential.Issuer.Account = "other"
			s.credential.Issuer.Config = json.RawMessage(`{"type":"memory","account":"other","principal":"payments-api"}`)
		}, []policy.FindingKind{policy.FoundSpecRefused}, "no account"},
		"a store that does not answer": {func(s *stage) { s.world.Fail(memory.OpMetadata, errors.New("connection reset"), 3) }, []policy.FindingKind{policy.FoundNotLooked}, "connection reset"},
		"an instance on a key of its own": {func(s *stage) {
			s.world.Give("checkout-b", s.world.AddKey("payments-api", "stranger", s.began))
		}, []policy.FindingKind{policy.FoundDrift, policy.FoundUnmanaged}, "checkout/b (states"},
		"an instance that is gone": {func(s *stage) {
			s.world.SetInstance("checkout-b", memory.InstanceSettings{Mute: errors.New("no route")})
		}, []policy.FindingKind{policy.FoundSilent}, "no route"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			c.prepare(s)
			s.applied = []inventory.SignedSpec{s.spec()}
			report := s.swept(workflows.SweepInput{}, nil)
			assert.Equal(t, c.want, kinds(report))
			assert.Contains(t, report.Findings[0].Message, c.says)
			assert.Contains(t, workflows.SweepMarkdown(report), "what to do")
		})
	}
}

// A rotation that was terminated is found, told and recorded, also where nobody can look at its credential.
func TestSweepFindsTheRunOfACredentialThatItCannotLookAt(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(*stage){
		"a spec that no worker takes":  func(s *stage) { s.credential.Environment = "production" },
		"a store that does not answer": func(s *stage) { s.world.Fail(memory.OpMetadata, errors.New("connection reset"), 3) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			prepare(s)
			s.applied = []inventory.SignedSpec{s.spec()}
			s.runs = map[string]*workflowservice.DescribeWorkflowExecutionResponse{"rotation/payments-api": {WorkflowExecutionInfo: &workflowpb.WorkflowExecutionInfo{
				Execution: &commonpb.WorkflowExecution{RunId: "gone"}, FirstRunId: "gone", Status: enumspb.WORKFLOW_EXECUTION_STATUS_TERMINATED,
				StartTime: timestamppb.New(s.env.Now().Add(-2 * time.Hour)), CloseTime: timestamppb.New(s.env.Now().Add(-time.Hour)),
			}}}
			report := s.swept(workflows.SweepInput{}, nil)
			assert.Contains(t, kinds(report), policy.FoundTerminated)
			assert.Len(t, report.Findings, 2)
			require.Len(t, s.world.Notifications(), 1)
			assert.Contains(t, s.world.Notifications()[0].Body, "rotation-terminated payments-api of payments@example.com: ")
			assert.Contains(t, s.trail(), audit.RotationCutOff)
		})
	}
}

// Thousands of credentials are swept by several runs, one after the other, each with a history that is bounded.
func TestSweepOfThousands(t *testing.T) {
	t.Parallel()
	long(t)
	s := newStage(t)
	for n := range 2500 {
		s.credential.Name = fmt.Sprintf("c-%04d", n)
		s.credential.Issuer.Config = json.RawMessage(fmt.Sprintf(`{"type":"memory","account":"edge","principal":"payments-%04d"}`, n))
		s.applied = append(s.applied, s.spec())
	}
	s.env.RegisterWorkflow(workflows.Sweep)
	var asked atomic.Int64 // activities run at once
	s.env.OnActivity(act.Sweep, mock.Anything, mock.Anything).Return(func(_ context.Context, in activities.SweepInput) (activities.Swept, error) {
		asked.Add(1)
		out := activities.Swept{Credentials: len(in.Entries)}
		for _, e := range in.Entries {
			out.Findings = append(out.Findings, policy.Finding{ID: e.Credential, Kind: policy.FoundOverdue, Credential: e.Credential})
		}
		return out, nil
	})
	s.env.ExecuteWorkflow(workflows.Sweep, workflows.SweepInput{})
	var again *workflow.ContinueAsNewError
	require.ErrorAs(t, s.env.GetWorkflowError(), &again)
	assert.EqualValues(t, 100, asked.Load())
	var next workflows.SweepInput
	require.NoError(t, converter.GetDefaultDataConverter().FromPayloads(again.Input, &next))
	assert.Equal(t, "c-1999", next.After.Credential)
	assert.Equal(t, 2000, next.Report.Total())
	assert.Len(t, next.Report.Findings, 500)

	rest := newStage(t)
	rest.applied = s.applied
	rest.env.OnActivity(act.Sweep, mock.Anything, mock.Anything).Return(func(_ context.Context, in activities.SweepInput) (activities.Swept, error) {
		return activities.Swept{Credentials: len(in.Entries)}, nil
	})
	report := rest.swept(next, nil)
	assert.Equal(t, 2500, report.Credentials)
	assert.Equal(t, 2000, report.Total())
}
