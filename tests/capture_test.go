package tests

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/history/v1"
	"go.temporal.io/api/temporalproto"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
	"golang.org/x/sync/errgroup"

	"github.com/keyturn/keyturn/internal/incident"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/signed"
	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/memory"
	"github.com/keyturn/keyturn/workflows"
)

// capture is where make histories keeps the histories of a release; without it they are only made and replayed.
var capture = flag.String("capture", "", "folder that the histories are written to")

// rotating is one rotation on a field.
type rotating struct {
	*field
	t    *testing.T
	name string
	id   string
	run  client.WorkflowRun
}

func (r *rotating) status() (status workflows.Status) {
	if value, err := r.client.QueryWorkflow(r.t.Context(), r.id, "", workflows.StatusName); err == nil {
		_ = value.Get(&status)
	}
	return status
}

func (r *rotating) await(phase workflows.Phase) {
	r.t.Helper()
	r.awaitThat(string(phase), func(s workflows.Status) bool { return s.Phase == phase })
}

func (r *rotating) awaitThat(what string, holds func(workflows.Status) bool) {
	r.t.Helper()
	var status workflows.Status
	comes(func() bool {
		status = r.status()
		return holds(status) || status.Report != nil // an ended one changes no more
	}, patience, 100*time.Millisecond)
	if !holds(status) {
		require.Fail(r.t, what, "but it stands so: %+v", status)
	}
}

func (r *rotating) ask(action policy.Action, request any) {
	r.t.Helper()
	verdict := r.judged(action, request)
	require.True(r.t, verdict.Accepted, "%s: %s", action, verdict.Message)
}

// judged is what the rotation says of a request.
func (r *rotating) judged(action policy.Action, request any) (verdict policy.Verdict) {
	r.t.Helper()
	handle, err := r.client.UpdateWorkflow(r.t.Context(), client.UpdateWorkflowOptions{
		WorkflowID: r.id, UpdateName: string(action), WaitForStage: client.WorkflowUpdateStageCompleted, Args: []any{request},
	})
	require.NoError(r.t, err)
	require.NoError(r.t, handle.Get(r.t.Context(), &verdict))
	return verdict
}

// approve has as many people approve the revoke gate as it asks for.
func (r *rotating) approve() {
	r.t.Helper()
	r.await(workflows.PhaseRevokeGate)
	for _, by := range r.approvers() {
		r.ask(policy.Approve, policy.Request{Gate: inventory.GateRevoke, By: by})
	}
}

// approvers are as many people as the open gate asks for: one more than the policy says, where the issuer tells of no use.
func (r *rotating) approvers() []string {
	r.t.Helper()
	r.awaitThat("an open gate", func(s workflows.Status) bool { return s.Gate != nil })
	return []string{"ann", "ben"}[:r.status().Gate.Needs.Count]
}

// used awaits the revoke gate, once the key was used by others than keyturn.
func (r *rotating) used() {
	r.t.Helper()
	r.awaitThat("the gate, once the key was used by others than keyturn", func(s workflows.Status) bool {
		for _, instance := range []string{"canary", "a", "b"} {
			require.NoError(r.t, r.world.Request(r.name+"-"+instance))
		}
		return s.Phase == workflows.PhaseRevokeGate
	})
}

// toldUses makes the issuer one that tells who used what.
func toldUses(r *rotating) { r.world.SetPrincipal(r.name, memory.Strict()) }

func (r *rotating) rollback() {
	r.t.Helper()
	r.ask(policy.Rollback, policy.Request{By: "ann", Reason: "errors at checkout"})
}

// lives are the ways that a rotation may go. Each leaves a history that later releases must be able to go on with.
var lives = map[string]struct {
	change func(*inventory.Credential)
	// before is done to the world, then while the rotation runs.
	before func(*rotating)
	then   func(*rotating)
	want   workflows.Outcome
	// alone: what is done to the world would meet other rotations, too.
	alone bool
}{
	"completed": {nil, nil, (*rotating).approve, workflows.Completed, false},
	"completed, approved by signal": {nil, nil, func(r *rotating) {
		r.await(workflows.PhaseRevokeGate)
		for _, by := range r.approvers() {
			require.NoError(r.t, r.client.SignalWorkflow(r.t.Context(), r.id, "", workflows.ApproveName, policy.Request{Gate: inventory.GateRevoke, By: by}))
		}
	}, workflows.Completed, false},
	"completed without a gate": {func(c *inventory.Credential) { c.Approvals = inventory.Approvals{} }, nil, nil, workflows.Completed, false},
	"signed off": {func(c *inventory.Credential) {
		c.Approvals.Signoff = &inventory.Approval{Count: 1, Trust: inventory.TrustAny, ApprovalExpires: inventory.Duration(time.Hour)}
	}, nil, func(r *rotating) {
		r.await(workflows.PhaseSignoff)
		r.ask(policy.Approve, policy.Request{Gate: inventory.GateSignoff, By: "ann"})
		r.approve()
	}, workflows.Completed, false},
	"extended": {func(c *inventory.Credential) { c.Overlap = inventory.Duration(10 * time.Second) }, nil, func(r *rotating) {
		r.await(workflows.PhaseOverlap)
		r.ask(policy.Extend, policy.Request{By: "ann", Extension: inventory.Duration(time.Second)})
		r.approve()
	}, workflows.Completed, false},
	"a gate that expired": {func(c *inventory.Credential) {
		c.Approvals.Revoke.RequestExpires = inventory.Duration(2 * time.Second)
	}, toldUses, func(r *rotating) {
		r.used()
		r.awaitThat("the gate opened again", func(s workflows.Status) bool {
			return s.Gate != nil && len(s.Timeline) > 0 && s.Gate.OpenedAt.Sub(s.Timeline[0].At) > 2*time.Second
		})
		// It may just be closed again.
		eventually(r.t, func() bool {
			return r.judged(policy.Approve, policy.Request{Gate: inventory.GateRevoke, By: "ann"}).Accepted
		}, patience, 20*time.Millisecond)
	}, workflows.Completed, false},
	"evidence that lacked something": {func(c *inventory.Credential) { c.Overlap = inventory.Duration(time.Second) }, toldUses, func(r *rotating) {
		r.awaitThat("evidence is awaited", func(s workflows.Status) bool { return s.Phase == workflows.PhaseEvidence && s.WaitsFor != "" })
		r.used()
		r.approve()
	}, workflows.Completed, false},
	"enabled again as the disabled key was missed": {func(c *inventory.Credential) {
		c.Overlap, c.DisableSoak = inventory.Duration(time.Second), inventory.Duration(20*time.Second)
	}, func(r *rotating) {
		toldUses(r)
		first, _ := r.world.Held(r.name + "-a")
		r.world.SetInstance(r.name+"-undeclared", memory.InstanceSettings{})
		r.world.Give(r.name+"-undeclared", first)
	}, func(r *rotating) {
		gate := func() { r.used(); r.approve() }
		gate()
		r.await(workflows.PhaseDisableSoak)
		eventually(r.t, func() bool { return r.world.Request(r.name+"-undeclared") == nil }, patience, 100*time.Millisecond, "it is enabled again")
		gate()
	}, workflows.Completed, false},
	"waves by steps": {func(c *inventory.Credential) {
		c.WaveSteps, c.WaveParallel = []inventory.WaveStep{"1%", "50%"}, 2
		c.Consumers[0].Wave = ""
	}, nil, (*rotating).approve, workflows.Completed, false},
	"refused": {nil, func(r *rotating) { r.world.AddKey(r.name, r.name+"-stranger", time.Now().Add(-time.Hour)) }, nil, workflows.Refused, false},
	"rejected at sign-off": {func(c *inventory.Credential) {
		c.Approvals.Signoff = &inventory.Approval{Count: 1, Trust: inventory.TrustAny, ApprovalExpires: inventory.Duration(time.Hour)}
	}, nil, func(r *rotating) {
		r.await(workflows.PhaseSignoff)
		r.ask(policy.Reject, policy.Request{Gate: inventory.GateSignoff, By: "ann", Reason: "not this week"})
	}, workflows.Refused, false},
	"rejected at the revoke gate": {nil, nil, func(r *rotating) {
		r.await(workflows.PhaseRevokeGate)
		r.ask(policy.Reject, policy.Request{Gate: inventory.GateRevoke, By: "ann", Reason: "batch job tonight"})
	}, workflows.RolledBack, false},
	"rolled back in issue": {nil, func(r *rotating) { r.world.Fail(memory.OpIssue, providers.ErrDenied, 1) }, nil, workflows.RolledBack, true},
	"rolled back as the canary did not converge": {func(c *inventory.Credential) { c.WaveTimeout = inventory.Duration(5 * time.Second) }, func(r *rotating) {
		r.world.SetInstance(r.name+"-canary", memory.InstanceSettings{NeverReloads: true})
	}, nil, workflows.RolledBack, false},
	"rolled back in promote": {nil, func(r *rotating) { r.world.Fail(memory.OpPromote, providers.ErrDenied, 1) }, nil, workflows.RolledBack, true},
	"rolled back while evidence lacked something": {nil, toldUses, func(r *rotating) { // and nobody uses it
		r.awaitThat("evidence is awaited", func(s workflows.Status) bool { return s.Phase == workflows.PhaseEvidence && s.WaitsFor != "" })
		r.rollback()
	}, workflows.RolledBack, false},
	"rolled back in disable": {nil, func(r *rotating) { r.world.Fail(memory.OpDisable, providers.ErrDenied, 1) }, (*rotating).approve, workflows.RolledBack, true},
	"completed with debt":    {nil, func(r *rotating) { r.world.Fail(memory.OpDestroy, providers.ErrDenied, 1) }, (*rotating).approve, workflows.CompletedWithDebt, true},
	"rolled back in a soak": {func(c *inventory.Credential) { c.WaveSoak = inventory.Duration(time.Hour) }, nil, func(r *rotating) {
		r.awaitThat("a soak", func(s workflows.Status) bool { return s.Phase == workflows.PhaseDeliver && !s.Until.IsZero() })
		r.rollback()
	}, workflows.RolledBack, false},
	"rolled back in the overlap": {func(c *inventory.Credential) { c.Overlap = inventory.Duration(time.Hour) }, nil, func(r *rotating) {
		r.await(workflows.PhaseOverlap)
		r.rollback()
	}, workflows.RolledBack, false},
	"rolled back in the disable soak": {func(c *inventory.Credential) { c.DisableSoak = inventory.Duration(time.Hour) }, nil, func(r *rotating) {
		r.approve()
		r.await(workflows.PhaseDisableSoak)
		r.rollback()
	}, workflows.RolledBack, false},
	"cancelled": {func(c *inventory.Credential) { c.Overlap = inventory.Duration(time.Hour) }, nil, func(r *rotating) {
		r.await(workflows.PhaseOverlap)
		require.NoError(r.t, r.client.CancelWorkflow(r.t.Context(), r.id, ""))
	}, workflows.RolledBack, false},
	"turned back by a broken error budget": {func(c *inventory.Credential) {
		c.Overlap = inventory.Duration(time.Hour)
		budgeted(c, inventory.BreachRollback)
	}, probed, func(r *rotating) {
		r.await(workflows.PhaseOverlap)
		r.failsUntil("it turns back", func(s workflows.Status) bool {
			return s.Phase == workflows.PhaseRollback || s.Phase == workflows.PhaseEnded
		})
	}, workflows.RolledBack, false},
	"paused by a broken error budget": {func(c *inventory.Credential) { budgeted(c, inventory.BreachPause) }, probed, func(r *rotating) {
		r.await(workflows.PhaseRevokeGate)
		paused := func(s workflows.Status) bool { return strings.HasPrefix(s.Doing, "Paused") }
		r.failsUntil("it pauses", paused)
		r.awaitThat("it goes on", func(s workflows.Status) bool { return s.Phase == workflows.PhaseRevokeGate && !paused(s) })
		r.approve()
	}, workflows.Completed, false},
	"paused in the disable soak": {func(c *inventory.Credential) {
		budgeted(c, inventory.BreachPause)
		c.DisableSoak = inventory.Duration(time.Minute)
	}, probed, func(r *rotating) {
		r.approve()
		r.await(workflows.PhaseDisableSoak)
		paused := func(s workflows.Status) bool { return strings.HasPrefix(s.Doing, "Paused") }
		r.failsUntil("it pauses", paused)
		r.awaitThat("evidence and approvals anew", func(s workflows.Status) bool { return s.Phase == workflows.PhaseRevokeGate && !paused(s) })
		r.ask(policy.Rollback, policy.Request{By: "ann", Reason: "errors at checkout"})
	}, workflows.RolledBack, false},
	"held for want of requests, and let go on": {func(c *inventory.Credential) {
		budgeted(c, inventory.BreachRollback)
		c.ErrorBudget.MinTotal, c.ErrorBudget.MaxHold = 1000, inventory.Duration(time.Second)
	}, probed, func(r *rotating) {
		for _, wave := range []string{"canary", "rest"} { // each wants its own approval
			r.awaitThat("the gate of the hold of "+wave, func(s workflows.Status) bool {
				return s.Gate != nil && s.Gate.Gate == inventory.GateHold && s.Gate.Evidence == "wave "+wave
			})
			r.ask(policy.Approve, policy.Request{Gate: inventory.GateHold, By: "ann"})
		}
		r.approve()
	}, workflows.Completed, false},
	"failed, as nothing leads back from what people rejected": {func(*inventory.Credential) {}, nil, func(r *rotating) {
		r.await(workflows.PhaseRevokeGate)
		require.NoError(r.t, r.world.Issuer(r.name).Destroy(r.t.Context(), key.Ref{Principal: r.name, KeyID: r.name + "-key-old"}))
		r.ask(policy.Reject, policy.Request{Gate: inventory.GateRevoke, By: "ann", Reason: "not today"})
	}, workflows.Failed, false},
}

// budgeted gives a credential an error budget, for the requests of its probe.
func budgeted(c *inventory.Credential, onBreach inventory.OnBreach) {
	c.ErrorBudget = &inventory.ErrorBudget{Ratio: 0.01, Window: inventory.Duration(time.Minute), MaxHold: inventory.Duration(24 * time.Hour), OnBreach: onBreach}
	c.Health = []inventory.Provider{{Type: "memory", Config: json.RawMessage(fmt.Sprintf(`{"type":"memory","instances":[%q]}`, c.Name+"-probe"))}}
}

// probed adds an instance that has no key, so that each of its requests fails.
func probed(r *rotating) { r.world.SetInstance(r.name+"-probe", memory.InstanceSettings{}) }

// failsUntil lets the probe's requests fail until the rotation stands as described.
func (r *rotating) failsUntil(what string, holds func(workflows.Status) bool) {
	r.t.Helper()
	r.awaitThat(what, func(s workflows.Status) bool {
		if holds(s) {
			return true
		}
		require.Error(r.t, r.world.Request(r.name+"-probe"))
		return false
	})
}

// TestLives makes a history of each way that a rotation may go, and replays it.
func TestLives(t *testing.T) {
	t.Parallel()
	f := newField(t, sharedServer(t))
	for what, life := range lives {
		t.Run(what, func(t *testing.T) {
			if !life.alone {
				t.Parallel()
			}
			r := f.begins(t, what, life.change, life.before)
			if life.then != nil {
				life.then(r)
			}
			report := r.report()
			require.Equal(t, life.want, report.Outcome, report.Message)
			r.keeps(what, "")
		})
	}
}

// TestLivesOfMoreThanOneRun makes histories of rotations that continue as new, and replays them.
func TestLivesOfMoreThanOneRun(t *testing.T) {
	t.Parallel()
	f := newField(t, ownServer(t, "--suggest-continue-as-new", "40"))
	for what, life := range map[string]struct {
		turns bool
		want  workflows.Outcome
	}{"continued as new": {false, workflows.Completed}, "continued as new and rolled back": {true, workflows.RolledBack}} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			r := f.begins(t, what, func(c *inventory.Credential) { c.Overlap = inventory.Duration(5 * time.Second) }, nil)
			first := r.run.GetRunID() // later it is the last one's
			if life.turns {
				r.await(workflows.PhaseOverlap)
				r.rollback()
			} else {
				r.approve()
			}
			report := r.report()
			require.Equal(t, life.want, report.Outcome, report.Message)
			assert.NotEqual(t, first, r.latest(), "it went on in another run")
			assert.Equal(t, first, report.Rotation, "it is the same rotation")
			r.keeps(what, first)
			r.keeps(what+" in its last run", "")
		})
	}
}

// TestLivesOfAHeldRotation makes the history of one that waits, since who signed its spec is trusted no more, and goes on
// once somebody else has signed it.
func TestLivesOfAHeldRotation(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	signers := filepath.Join(folder, "signers")
	ann, bob := newPerson(t, folder, "ann"), newPerson(t, folder, "bob")
	trust(t, signers, ann)
	f := newFieldWith(t, sharedServer(t), fmt.Sprintf("trust: {inventory: [{environments: [test], allowedSigners: %q}]}\n", signers))
	const what = "held, and its spec signed anew"
	r := f.begins(t, what, func(c *inventory.Credential) { c.Overlap = inventory.Duration(3 * time.Second) }, nil, ann)
	r.await(workflows.PhaseOverlap)
	trust(t, signers, bob)
	r.awaitThat("it is held", func(s workflows.Status) bool { return strings.HasPrefix(s.Doing, "Held") })
	var spec inventory.SignedSpec
	value, err := r.client.QueryWorkflow(t.Context(), r.id, "", workflows.SpecName)
	require.NoError(t, err)
	require.NoError(t, value.Get(&spec))
	spec, err = spec.Sign(bob.key)
	require.NoError(t, err)
	r.ask(workflows.Resign, spec)
	r.approve()
	report := r.report()
	require.Equal(t, workflows.Completed, report.Outcome, report.Message)
	r.keeps(what, "")
}

// TestLivesOfAnEmergency makes the histories of an incident, of a rotation that it takes over, of the emergency that this becomes, and of
// one that begins by itself.
func TestLivesOfAnEmergency(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	signers, ines, omar := filepath.Join(folder, "signers"), newPerson(t, folder, "ines"), newPerson(t, folder, "omar")
	trust(t, signers, ines, omar)
	f := newFieldWith(t, sharedServer(t), fmt.Sprintf("trust: {incidents: %q}\n", signers))
	r := f.begins(t, "taken over", func(c *inventory.Credential) { c.Overlap = inventory.Duration(time.Hour) }, nil)
	first := r.run.GetRunID()
	r.await(workflows.PhaseOverlap)
	const alone = "bench-exposed"
	spec := f.plant(t, alone, nil)
	now := time.Now().UTC()
	d := incident.Declaration{
		Namespace: f.namespace, Incident: incident.ID("lives"), Reason: "key in a public repository", Deadline: incident.DefaultDeadline,
		Exposed: map[string][]string{r.name: {r.name + "-key-old"}, alone: {alone + "-key-old"}}, Nonce: "n1", SignedAt: now, Expires: now.Add(time.Hour),
	}
	declaration, err := d.Sign(ines.key)
	require.NoError(t, err)
	run, err := f.client.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: d.Incident, TaskQueue: workflows.EmergencyQueue},
		workflows.Incident, workflows.IncidentInput{Declaration: declaration, Specs: map[string]inventory.SignedSpec{alone: spec}})
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var status workflows.IncidentStatus
	require.NoError(t, run.Get(ctx, &status))
	require.Equal(t, workflows.Contained, status.Outcome, status.Message)
	report := r.report()
	require.Equal(t, workflows.Completed, report.Outcome, report.Message)
	r.keeps("taken over", first)
	r.keepsOf(r.id, "", "emergency/taken-over")
	r.keepsOf(workflows.WorkflowID(alone), "", "emergency/alone")
	r.keepsOf(run.GetID(), run.GetRunID(), "emergency/incident")

	declarations := []signed.Envelope{declaration}
	digests, err := incident.Digests(declarations)
	require.NoError(t, err)
	review, err := incident.Review{Namespace: f.namespace, Incident: d.Incident, Declarations: digests, Comment: "right key, right time", SignedAt: time.Now().UTC()}.Sign(omar.key)
	require.NoError(t, err)
	run, err = f.client.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: incident.ReviewID(d.Incident), TaskQueue: workflows.TaskQueue},
		workflows.Review, workflows.ReviewInput{Declarations: declarations, Review: review})
	require.NoError(t, err)
	var reviewed workflows.Reviewed
	require.NoError(t, run.Get(ctx, &reviewed))
	r.keepsOf(run.GetID(), run.GetRunID(), "emergency/review")

	const later = "bench-unsigned"
	spec = f.plant(t, later, func(c *inventory.Credential) { c.Overlap = inventory.Duration(time.Hour) })
	d.Incident, d.Exposed, d.Nonce = incident.ID("unsigned"), map[string][]string{later: {later + "-key-old"}}, "n2"
	run, err = f.client.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: d.Incident, TaskQueue: workflows.EmergencyQueue},
		workflows.Incident, workflows.IncidentInput{Credentials: []string{later}, Reason: d.Reason, Specs: map[string]inventory.SignedSpec{later: spec}})
	require.NoError(t, err)
	declaration, err = d.Sign(ines.key)
	require.NoError(t, err)
	eventually(t, func() bool { // refused as long as it does not wait
		handle, err := f.client.UpdateWorkflow(ctx, client.UpdateWorkflowOptions{
			WorkflowID: d.Incident, UpdateName: workflows.ConfirmName, WaitForStage: client.WorkflowUpdateStageCompleted, Args: []any{workflows.Confirmation{Declaration: declaration}},
		})
		return err == nil && handle.Get(ctx, nil) == nil
	}, patience, 100*time.Millisecond)
	require.NoError(t, run.Get(ctx, &status))
	require.Equal(t, workflows.Contained, status.Outcome, status.Message)
	r.keepsOf(run.GetID(), run.GetRunID(), "emergency/confirmed")
}

// TestLivesOfAFlood makes the histories of a rotation whose gate is closed by more requests than a run takes, and opened
// again by the next run. They are requests that cannot be read, which say nothing in the audit record.
func TestLivesOfAFlood(t *testing.T) {
	t.Parallel()
	const requests, senders = 1800, 12 // as many as a run takes
	f := newField(t, sharedServer(t))
	const what = "flooded at a gate"
	r := f.begins(t, what, nil, nil)
	first := r.run.GetRunID()
	r.await(workflows.PhaseRevokeGate)
	var group errgroup.Group
	for range senders {
		group.Go(func() error {
			for range requests / senders {
				if err := r.client.SignalWorkflow(t.Context(), r.id, "", workflows.ExtendName, 0); err != nil {
					return err
				}
			}
			return nil
		})
	}
	require.NoError(t, group.Wait())
	r.awaitThat("the gate is open again in another run", func(s workflows.Status) bool { return s.Gate != nil && s.Gate.Run != first })
	r.approve()
	report := r.report()
	require.Equal(t, workflows.Completed, report.Outcome, report.Message)
	assert.Equal(t, first, report.Rotation, "it is the same rotation")
	r.keeps(what, first)
	r.keeps(what+" in its last run", "")
}

// begins starts a rotation whose revoke gate takes anybody's approval. Its spec is unsigned, or signed by who is named.
func (f *field) begins(t *testing.T, what string, change func(*inventory.Credential), before func(*rotating), signers ...person) *rotating {
	t.Helper()
	name := "bench-" + nameOf(what)
	spec := f.plant(t, name, func(c *inventory.Credential) {
		c.Approvals.Revoke = &inventory.Approval{Count: 1, Trust: inventory.TrustAny, RequestExpires: inventory.Duration(time.Hour), ApprovalExpires: inventory.Duration(time.Hour)}
		if change != nil {
			change(c)
		}
	})
	for _, by := range signers {
		known, err := spec.Peek()
		require.NoError(t, err)
		known.Namespace = f.namespace
		spec, err = inventory.NewSpec(known)
		require.NoError(t, err)
		spec, err = spec.Sign(by.key)
		require.NoError(t, err)
	}
	r := &rotating{field: f, t: t, name: name, id: workflows.WorkflowID(name)}
	if before != nil {
		before(r)
	}
	var err error
	r.run, err = f.rotate(t.Context(), name, spec)
	require.NoError(t, err)
	return r
}

// report waits for the end of the rotation's last run.
func (r *rotating) report() (report workflows.Report) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	err := r.run.Get(ctx, &report)
	var ended *temporal.ApplicationError
	if errors.As(err, &ended) && ended.Type() == workflows.FailedType {
		err = ended.Details(&report)
	}
	require.NoError(r.t, err)
	return report
}

// latest is the ID of the last run.
func (r *rotating) latest() string {
	r.t.Helper()
	described, err := r.client.DescribeWorkflowExecution(r.t.Context(), r.id, "")
	require.NoError(r.t, err)
	return described.GetWorkflowExecutionInfo().GetExecution().GetRunId()
}

// keeps replays the history of a run of the rotation, the last one when empty, and keeps it where that was asked for.
func (r *rotating) keeps(what, run string) {
	r.t.Helper()
	r.keepsOf(r.id, run, nameOf(what))
}

// keepsOf does so with any workflow, in a file of this name.
func (r *rotating) keepsOf(id, run, name string) {
	r.t.Helper()
	whole := r.history(id, run)
	replayer := patientReplayer(r.t)
	require.NoError(r.t, replayer.ReplayWorkflowHistoryWithOptions(silent, whole, worker.ReplayWorkflowHistoryOptions{OriginalExecution: workflow.Execution{ID: id}}))
	if *capture != "" {
		keep(r.t, filepath.Join(*capture, name+".json"), whole)
	}
}

func (r *rotating) history(id, run string) *history.History {
	r.t.Helper()
	var whole history.History
	events := r.client.GetWorkflowHistory(r.t.Context(), id, run, false, enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	for events.HasNext() {
		event, err := events.Next()
		require.NoError(r.t, err)
		whole.Events = append(whole.Events, event)
	}
	return &whole
}

// keep writes a history as the temporal CLI does. One that is there is of a release and stays as it is.
func keep(t *testing.T, file string, whole *history.History) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755)) //nolint:gosec // test data
	text, err := temporalproto.CustomJSONMarshalOptions{Indent: " "}.Marshal(whole)
	require.NoError(t, err)
	out, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644) //nolint:gosec // as above
	require.NoError(t, err, "histories of a release are never written again")
	_, err = out.Write(text)
	require.NoError(t, cmp.Or(err, out.Close()))
}

// nameOf is a text as part of a name.
func nameOf(text string) string {
	var name []rune
	for _, c := range text {
		switch {
		case c == ' ':
			name = append(name, '-')
		case c >= 'a' && c <= 'z' || c == '-':
			name = append(name, c)
		}
	}
	return string(name)
}
