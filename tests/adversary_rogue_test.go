package tests

import (
	"context"
	"encoding/json"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/host"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/namespace"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/signed"
	"github.com/keyturn/keyturn/workflows"
)

// answer is what an activity of the honest worker answered to a rogue workflow.
type answer struct{ Result, Error string }

// rogue starts a workflow worker of mallory's. try runs one activity of the honest worker's queue by a workflow of hers.
type rogue struct {
	worker.Worker
	try func(id, activity string, input any) answer
}

func (s *trustingStage) rogue(mallory client.Client, queue string) rogue {
	s.t.Helper()
	type attempt struct {
		Activity string
		Input    any
	}
	evil := worker.New(mallory, "evil", worker.Options{})
	evil.RegisterWorkflowWithOptions(func(ctx workflow.Context, a attempt) (answer, error) {
		ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
			TaskQueue: queue, StartToCloseTimeout: patience, HeartbeatTimeout: time.Minute,
			RetryPolicy: &temporal.RetryPolicy{MaximumAttempts: 1},
		})
		var got any
		err := workflow.ExecuteActivity(ctx, a.Activity, a.Input).Get(ctx, &got)
		text, _ := json.Marshal(got)
		result := answer{Result: string(text)}
		if err != nil {
			result.Error = err.Error()
		}
		return result, nil
	}, workflow.RegisterOptions{Name: "Rogue"})
	require.NoError(s.t, evil.Start())
	s.t.Cleanup(evil.Stop)
	return rogue{evil, func(id, name string, input any) answer {
		s.t.Helper()
		run, err := mallory.ExecuteWorkflow(s.t.Context(), client.StartWorkflowOptions{ID: id, TaskQueue: "evil"}, "Rogue", attempt{name, input})
		require.NoError(s.t, err)
		var got answer
		require.NoError(s.t, run.Get(s.t.Context(), &got))
		return got
	}}
}

// A rogue workflow worker runs a workflow of its own under the rotation's ID, with the signed spec, and
// schedules the honest worker's activities in an order and on keys of its choice.
func TestAdversaryWithARogueWorkflow(t *testing.T) {
	t.Parallel()
	s := newTrustingStage(t, "--overlap", "10m")
	mallory := s.client()
	s.rotate()
	status := s.await(workflows.PhaseOverlap)
	spec := s.captured(mallory)
	rotation := workflows.WorkflowID(credential)
	require.NoError(t, mallory.TerminateWorkflow(t.Context(), rotation, "", "out of the way"))
	before := s.gatewayKeys()
	require.Len(t, before, 2)

	rogue := s.rogue(mallory, workflows.AccountQueue("edge"))
	subject := activities.Rotation{Spec: spec, ID: status.Rotation, Retiring: status.Retiring, Incoming: status.Incoming}
	swapped := subject
	swapped.Retiring, swapped.Incoming = swapped.Incoming, swapped.Retiring
	lies := []policy.Verdict{{Action: policy.Approve, Accepted: true, By: "olga", Verified: true, Groups: []string{"owners"}, At: time.Now()}}
	foreign := subject
	foreign.Spec = s.spec(s.mallory, func(spec *inventory.Spec) {
		spec.Credential.Consumers[0].Target.Config = json.RawMessage(`{"type":"file","path":"` + filepath.Join(s.folder, "stolen") + `"}`)
	})
	earlier := subject
	earlier.Spec = s.spec(s.ann, func(spec *inventory.Spec) { spec.Generation -= 3_600_000 })
	live := activities.WaveInput{Rotation: foreign, Key: status.Incoming, Wave: "x"}
	minimal := swapped
	minimal.Retiring.Fingerprint, minimal.Incoming.Fingerprint = "", status.Incoming.Fingerprint
	for _, attack := range []struct {
		name, id, activity string
		input              any
		// says is in the answer and in the worker's log. What there is nothing to do for has no reason.
		says string
	}{
		{"disable on approvals that nobody signed", rotation, "Disable", activities.RevokeInput{Rotation: subject, Approvals: lies}, "overlap"},
		{"destroy at once", rotation, "Destroy", activities.RevokeInput{Rotation: subject, Approvals: lies}, "not-disabled"},
		{"disable the key in use", rotation, "Disable", activities.RevokeInput{Rotation: swapped, Approvals: lies}, "not-ours"},
		{"destroy the key in use", rotation, "Destroy", activities.RevokeInput{Rotation: minimal, Approvals: lies}, "not-ours"},
		{"discard the key in use", rotation, "Discard", swapped, "0 unwanted keys destroyed"},
		{"a way back that is none", rotation, "RestoreLabels", swapped, "minted by a rotation"},
		{"deliver to her own file", rotation, "DeliverWave", live, "not trusted"},
		{"issue by an older spec", rotation, "Issue", activities.IssueInput{Rotation: earlier, Ordinal: 1}, "generation"},
		{"issue once more", rotation, "Issue", activities.IssueInput{Rotation: subject, Ordinal: 2}, "slots"},
		{"disable from another workflow", "rotation/payments-apis", "Disable", activities.RevokeInput{Rotation: subject, Approvals: lies}, "is not its rotation"},
		{"issue from another workflow", "evil", "Issue", activities.IssueInput{Rotation: subject, Ordinal: 2}, "is not its rotation"},
		{"deliver a key of nobody", rotation, "DeliverWave", activities.WaveInput{Rotation: subject, Key: key.Ref{KeyID: "stranger", StoreVersion: status.Incoming.StoreVersion}, Wave: "x"}, "not one of"},
		{"a text of her own to everybody", "rotation/another", "Notify", activities.NotifyInput{Rotation: subject, Message: activities.Message{What: "gate", Severity: "alert", Subject: "click here", At: time.Now()}}, "is not its rotation"},
		{"prune the value that consumers go back to", rotation, "Record",
			activities.RecordInput{Rotation: activities.Rotation{Spec: spec, ID: "x", Retiring: key.Ref{KeyID: "dead", StoreVersion: status.Retiring.StoreVersion}}, Outcome: "completed"}, ""},
	} {
		mark := len(s.log())
		got := rogue.try(attack.id, attack.activity, attack.input)
		assert.Contains(t, got.Error+got.Result, attack.says, attack.name)
		if attack.activity != "Discard" {
			assert.NotContains(t, got.Result, `"ok":true`, "%s: %s", attack.name, got.Result)
		}
		assert.Equal(t, before, s.gatewayKeys(), attack.name)
		if attack.says != "" && attack.activity != "Discard" {
			s.logged(mark, attack.says)
		}
	}
	s.harmless()
	for _, c := range s.now().Consumers {
		assert.True(t, status.Incoming.Is(c.Key), "%s still uses the key that it was given", c.Name)
	}
	versions, err := filepath.Glob(filepath.Join(s.folder, "demo", "store", "*"))
	require.NoError(t, err)
	assert.NotEmpty(t, versions)

	// The attacker is gone. The rotation was cut in its overlap: both keys live, and the next one goes on with them, whatever end was
	// recorded for it.
	rogue.Stop()
	s.worker.end(syscall.SIGTERM)
	s.rewrite(s.place.Inventory, "overlap: 10m", "overlap: 5s")
	s.startWorker()
	s.honestly(workflows.Completed)
}

// liar answers every activity as if all had gone well, and does nothing.
type liar struct{ incoming key.Ref }

func (l *liar) Issue(context.Context, activities.IssueInput) (activities.Issued, error) {
	return activities.Issued{Key: l.incoming, Decision: policy.Decision{OK: true, Reason: policy.Allowed}}, nil
}

func (l *liar) DeliverWave(context.Context, activities.WaveInput) (activities.WaveResult, error) {
	return activities.WaveResult{Decision: policy.Decision{OK: true, Reason: policy.Allowed, Message: "all delivered"}}, nil
}

func (l *liar) Promote(context.Context, activities.Rotation) (policy.Decision, error) {
	return policy.Decision{OK: true, Reason: policy.Allowed}, nil
}

func (l *liar) Watch(context.Context, activities.Rotation) (policy.Decision, error) {
	return policy.Decision{}, temporal.NewApplicationErrorWithOptions("fine", activities.TypeNotYet, temporal.ApplicationErrorOptions{Category: temporal.ApplicationErrorCategoryBenign})
}

func (l *liar) GatherEvidence(context.Context, activities.EvidenceInput) (policy.Evidence, error) {
	return policy.Evidence{Complete: true, GatheredAt: time.Now(), Digest: "lie"}, nil
}

func (l *liar) Prove(_ context.Context, in activities.ProveInput) ([]policy.Proof, error) {
	proofs := make([]policy.Proof, 0, len(in.Decisions))
	for _, d := range in.Decisions {
		r, err := policy.ParseRequest(d.Body)
		proof := policy.Proof{Request: r, By: signed.Signer{Name: "olga"}, Groups: []string{"owners"}}
		if err != nil {
			proof.Problem = err.Error()
		}
		proofs = append(proofs, proof)
	}
	return proofs, nil
}

func (l *liar) Disable(context.Context, activities.RevokeInput) (policy.Decision, error) {
	return policy.Decision{OK: true, Reason: policy.Allowed}, nil
}

func (l *liar) Destroy(context.Context, activities.RevokeInput) (activities.Destroyed, error) {
	return activities.Destroyed{Decision: policy.Decision{OK: true, Reason: policy.Allowed}, Probe: "refused by everybody"}, nil
}

func (l *liar) Record(_ context.Context, in activities.RecordInput) (activities.Recorded, error) {
	return activities.Recorded{Outcome: in.Outcome}, nil
}

func (l *liar) Log(context.Context, []json.RawMessage) error { return nil }

func (l *liar) Notify(context.Context, activities.NotifyInput) error { return nil }

func (l *liar) AwaitTrust(context.Context, inventory.SignedSpec) error { return nil }

func (l *liar) HadTraffic(context.Context, activities.TrafficInput) (policy.Decision, error) {
	return policy.Decision{OK: true}, nil
}

func (l *liar) AwaitTraffic(context.Context, activities.Rotation) error { return nil }

func (l *liar) AwaitHealth(context.Context, activities.Rotation) error { return nil }

func (l *liar) Enable(context.Context, activities.Rotation) error { return nil }

func (l *liar) RestoreLabels(context.Context, activities.Rotation) error { return nil }

func (l *liar) Discard(context.Context, activities.Rotation) (policy.Decision, error) {
	return policy.Decision{OK: true}, nil
}

// lie starts a worker of mallory's that takes the place of the honest one: the same build, all queues.
func (s *trustingStage) lie(c client.Client, l liar) (stop func()) {
	s.t.Helper()
	return s.lieOn(c, l, workflows.TaskQueue, workflows.AccountQueue("edge"))
}

func (s *trustingStage) lieOn(c client.Client, l liar, queues ...string) (stop func()) {
	s.t.Helper()
	options := worker.Options{DeploymentOptions: worker.DeploymentOptions{
		UseVersioning: true, Version: worker.WorkerDeploymentVersion{DeploymentName: namespace.Deployment, BuildID: "test"},
		DefaultVersioningBehavior: workflow.VersioningBehaviorAutoUpgrade,
	}}
	var workers []worker.Worker
	for _, queue := range queues {
		w := worker.New(c, queue, options)
		host.Register(w)
		w.RegisterActivityWithOptions(&l, activity.RegisterOptions{SkipInvalidStructFunctions: true})
		require.NoError(s.t, w.Start())
		workers = append(workers, w)
	}
	return func() {
		for _, w := range workers {
			w.Stop()
		}
	}
}

// A rogue activity worker takes the tasks of a rotation and answers with lies: from the overlap on, it says
// that all is proved, approved, disabled and destroyed.
func TestAdversaryWithARogueActivityWorker(t *testing.T) {
	t.Parallel()
	s := newTrustingStage(t, "--overlap", "10s")
	mallory := s.client()
	s.rotate()
	status := s.await(workflows.PhaseOverlap)
	before := s.gatewayKeys()
	s.worker.end(syscall.SIGKILL)
	stop := s.lie(mallory, liar{incoming: status.Incoming})
	s.await(workflows.PhaseRevokeGate)
	out, code := s.starter("approve", credential, "--gate", "revoke", "--sign", s.mallory.file, "--yes")
	require.Zero(t, code, "the lying worker says that olga signed: %s", out)
	report := s.report()
	assert.Equal(t, workflows.Completed, report.Outcome, "what a history says is for display")
	stop()
	assert.Equal(t, before, s.gatewayKeys(), "and nothing was disabled or destroyed")
	s.harmless()

	// The attacker is gone, and the lies are seen through: the next run goes on from what issuer and store say.
	s.startWorker()
	s.honestly(workflows.Completed)
	after := s.gatewayKeys()
	assert.NotContains(t, after, "made-by-hand-in-2024")
	assert.Equal(t, map[string]string{status.Incoming.KeyID: "active"}, after)
}

// The lies of a rogue activity worker while the honest one runs beside it: it says that keys were issued and
// delivered that nobody has.
func TestAdversaryWhoSaysThatKeysWereDelivered(t *testing.T) {
	t.Parallel()
	s := newTrustingStage(t)
	mallory := s.client()
	s.worker.end(syscall.SIGTERM)
	stop := s.lie(mallory, liar{incoming: key.Ref{Principal: credential, KeyID: "made-up", StoreVersion: "none", Fingerprint: "fp:00000000000000000000000000000000"}})
	s.startWorker()
	s.rotate() // which worker gets which task is chance; whatever it is, it harms nobody
	s.awaitThat("it ends, or waits", func(now workflows.Status) bool {
		return now.Report != nil || now.Phase == workflows.PhaseRevokeGate || now.Phase == workflows.PhaseEvidence
	})
	stop()
	s.harmless()
	assert.Equal(t, "active", s.gatewayKeys()["made-by-hand-in-2024"])
	if err := mallory.TerminateWorkflow(t.Context(), workflows.WorkflowID(credential), "", "begin anew"); err != nil {
		assert.ErrorContains(t, err, "completed")
	}
	s.rewrite(s.place.Worker, "quota: 50/s}", "quota: 50/s, slots: 4}")
	s.worker.end(syscall.SIGTERM)
	s.startWorker()
	s.rotate()
	s.await(workflows.PhaseRevokeGate)
	s.approve()
	report := s.report()
	assert.Contains(t, []workflows.Outcome{workflows.Completed, workflows.CompletedWithDebt}, report.Outcome, report.Message)
	s.harmless()
}

// The sign-off is skipped by a rogue workflow, made up by it, and by a rogue worker that says of mallory's signature that it
// is olga's: no key is minted.
func TestAdversaryWithoutSignOff(t *testing.T) {
	t.Parallel()
	s := newTrustingStage(t)
	s.rewrite(s.place.Inventory, "revoke: {count: 1, trust: signed, from: [owners]}", "signoff: {count: 1, trust: signed, from: [owners]}\n      revoke: {count: 1, trust: signed, from: [owners]}")
	mallory, rotation := s.client(), workflows.WorkflowID(credential)
	before := s.gatewayKeys()
	rogue := s.rogue(mallory, workflows.AccountQueue("edge"))
	subject := activities.Rotation{Spec: s.spec(s.ann, asDeclared), ID: "made-up", Retiring: key.Ref{Principal: credential, KeyID: "made-by-hand-in-2024"}}
	for name, approvals := range map[string][]policy.Verdict{
		"none":             nil,
		"one that says so": {{Action: policy.Approve, Gate: inventory.GateSignoff, Accepted: true, By: "olga", Verified: true, Groups: []string{"owners"}, At: time.Now()}},
	} {
		mark := len(s.log())
		got := rogue.try(rotation, "Issue", activities.IssueInput{Rotation: subject, Ordinal: 1, Approvals: approvals})
		assert.Contains(t, got.Error, "0 of 1 approval of the signoff gate", name)
		s.logged(mark, "approvals-missing")
		assert.Equal(t, before, s.gatewayKeys(), name)
	}
	rogue.Stop()

	s.rotate()
	s.await(workflows.PhaseSignoff)
	s.worker.end(syscall.SIGTERM)
	stop := s.lieOn(mallory, liar{}, workflows.TaskQueue)
	out, code := s.starter("approve", credential, "--gate", "signoff", "--sign", s.mallory.file, "--yes")
	require.Zero(t, code, "the lying worker says that olga signed: %s", out)
	s.await(workflows.PhaseIssue)
	stop()
	s.startWorker()
	report := s.report()
	assert.NotContains(t, []workflows.Outcome{workflows.Completed, workflows.CompletedWithDebt}, report.Outcome)
	assert.Contains(t, report.Message, "0 of 1 approval of the signoff gate")
	s.logged(0, "approvals-missing")
	assert.Equal(t, before, s.gatewayKeys(), "nothing was minted")
	s.harmless()

	s.rotate()
	s.await(workflows.PhaseSignoff)
	out, code = s.starter("approve", credential, "--gate", "signoff", "--sign", s.olga.file, "--yes")
	require.Zero(t, code, out)
	s.await(workflows.PhaseRevokeGate)
	s.approve()
	report = s.report()
	require.Equal(t, workflows.Completed, report.Outcome, report.Message)
	s.harmless()
}
