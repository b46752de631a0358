package tests

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/namespace"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/workerconfig"
	"github.com/keyturn/keyturn/workflows"
)

// nextRotation is what a later release may make of Rotation: one more wait, for those that begin with it.
func nextRotation(ctx workflow.Context, in workflows.RotationInput) (workflows.Report, error) {
	if workflow.GetVersion(ctx, "wait-first", workflow.DefaultVersion, 1) >= 1 {
		if err := workflow.Sleep(ctx, time.Millisecond); err != nil {
			return workflows.Report{}, err
		}
	}
	return workflows.Rotation(ctx, in)
}

// nextBuild starts a worker of the next build on the same world.
func (f *field) nextBuild(t *testing.T) {
	t.Helper()
	w := worker.New(f.client, workflows.TaskQueue, worker.Options{DeploymentOptions: worker.DeploymentOptions{
		UseVersioning:             true,
		Version:                   worker.WorkerDeploymentVersion{DeploymentName: namespace.Deployment, BuildID: "next"},
		DefaultVersioningBehavior: workflow.VersioningBehaviorAutoUpgrade,
	}})
	w.RegisterWorkflowWithOptions(nextRotation, workflow.RegisterOptions{Name: "Rotation"})
	w.RegisterActivity(&activities.Activities{
		Config: func() *workerconfig.Config { return f.config }, Descriptors: f.descriptors, Catalog: f.catalog, Audit: audit.Discard,
		Namespace: f.namespace, AllowUnsigned: true, Now: time.Now, PollEvery: 100 * time.Millisecond,
	})
	require.NoError(t, w.Start())
	t.Cleanup(w.Stop)
}

// A rotation that was begun by one build is in its overlap when the next one takes over, which has a step more.
// It ends under the next build, without the step; one that begins then has it.
func TestARotationEndsUnderTheNextBuild(t *testing.T) {
	t.Parallel()
	f := newField(t, sharedServer(t))
	s := &stage{t: t, folder: t.TempDir(), home: f.home}
	begin := func(name string, overlap time.Duration) *rotating {
		spec := f.plant(t, name, func(c *inventory.Credential) {
			c.Overlap = inventory.Duration(overlap)
			c.Approvals.Revoke = &inventory.Approval{Count: 1, Trust: inventory.TrustAny, ApprovalExpires: inventory.Duration(time.Hour)}
		})
		_, err := f.rotate(t.Context(), name, spec)
		require.NoError(t, err)
		return &rotating{field: f, t: t, name: name, id: workflows.WorkflowID(name)}
	}
	ends := func(r *rotating, timers int) {
		t.Helper()
		var report workflows.Report
		require.NoError(t, f.client.GetWorkflow(t.Context(), r.id, "").Get(t.Context(), &report))
		require.Equal(t, workflows.Completed, report.Outcome, report.Message)
		found := 0
		for _, e := range r.history(r.id, "").Events {
			if timer := e.GetTimerStartedEventAttributes(); timer != nil && timer.StartToFireTimeout.AsDuration() == time.Millisecond {
				found++
			}
		}
		require.Equal(t, timers, found, "steps that only the next build has")
	}
	before := begin("bench-before", 30*time.Second)
	before.await(workflows.PhaseOverlap)
	f.nextBuild(t)
	out, code := s.starter("setup", "--build-id", "next")
	require.Zero(t, code, out)
	f.worker.Stop()

	before.ask(policy.Extend, policy.Request{By: "ann", Extension: inventory.Duration(time.Second)})
	before.approve()
	ends(before, 0)
	after := begin("bench-after", time.Second)
	after.approve()
	ends(after, 1)
}
