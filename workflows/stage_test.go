package workflows_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/temporaltest"
	"github.com/keyturn/keyturn/internal/workerconfig"
	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/all"
	"github.com/keyturn/keyturn/providers/memory"
	"github.com/keyturn/keyturn/workflows"
)

// These tests run whole rotations, workflow and activities, on the providers in memory, with skipped
// time and traffic that flows all the while. What counts is the ledger of the World.

const worldInventory = `
apiVersion: keyturn/v1
inventory: payments
credentials:
  - name: payments-api
    owner: payments@example.com
    purpose: charges
    environment: test
    labels: {team: payments}
    scopes: [charge:create]
    rotateEvery: 90d
    overlap: 16m
    quietWindow: 5m
    waveSoak: 2m
    waveTimeout: 10m
    disableSoak: 6m
    errorBudget: {ratio: 0.01, window: 5m, minTotal: 10}
    approvals: {revoke: {count: 1, trust: any, requestExpires: 3d}}
    issuer: {type: memory, account: edge, principal: payments-api}
    store: {type: memory, account: vault, path: payments-api}
    verify: [{type: memory}]
    health: [{type: memory}]
    consumers:
      - {name: canary, wave: canary, target: {type: memory}, check: {type: memory}, attestation: {type: memory}}
      - name: checkout
        instances: [a, b]
        target: {type: memory, instance: "checkout-{instance}"}
        check: {type: memory, instance: "checkout-{instance}"}
        attestation: {type: memory, instance: "checkout-{instance}"}
`

const worldConfig = `
apiVersion: keyturn/worker/v1
accounts: {edge: {type: memory}, vault: {type: memory}}
bounds: {test: {principals: ["payments-*"], storePaths: ["payments-*"]}}
notify: [{type: memory}]
`

// stage is a World with a credential in it, and a Temporal test environment that rotates it.
type stage struct {
	timed
	do         *activities.Activities
	world      *memory.World
	credential inventory.Credential
	catalog    inventory.Catalog
	auditFile  string
	index      *index
	began      time.Time
	looking    sync.Mutex // guards looked
	looked     []memory.Op
	latest     policy.SweepReport
	applied    []inventory.SignedSpec // by which the credentials are applied
	runs       map[string]*workflowservice.DescribeWorkflowExecutionResponse
	// query and terminate are what a run answers, and how one is ended.
	query     func(id string) (converter.EncodedValue, error)
	terminate func(id string) error
	first     string // the store's version of the key that existed before
	// clock is the environment whose time it is; activities of an earlier one may still read it.
	clock atomic.Pointer[testsuite.TestWorkflowEnvironment]
	// stood is for how long the process stood still, in nanoseconds.
	stood atomic.Int64
	// config is that of the worker.
	config atomic.Pointer[workerconfig.Config]
}

func newStage(t *testing.T) *stage {
	t.Helper()
	s := &stage{timed: timed{t: t, env: temporaltest.NewEnvironment()}, auditFile: filepath.Join(t.TempDir(), "audit.jsonl")}
	s.index = &index{specs: map[string]inventory.SignedSpec{}, states: map[string]inventory.State{}}
	s.clock.Store(s.env)
	s.began = s.env.Now()
	now := func() time.Time { return s.clock.Load().Now().Add(time.Duration(s.stood.Load())) }
	s.world = memory.NewWorld(now)

	descriptors := []providers.Descriptor{s.world.Descriptor(), s.world.PullDescriptor()}
	s.catalog = all.Catalog(descriptors...)
	inv, err := inventory.Load("inventory.yaml", []byte(worldInventory), s.catalog)
	require.NoError(t, err)
	s.credential = inv.Credentials[0]
	s.configure(worldConfig)
	sink, err := audit.OpenFile(s.auditFile)
	require.NoError(t, err)
	s.do = &activities.Activities{
		Config: s.config.Load, Descriptors: descriptors, Catalog: s.catalog, Audit: sink,
		AllowUnsigned: true, Now: now, PollEvery: 5 * time.Millisecond, Index: s.index, Applied: s, Runs: s,
		Swept: func(context.Context) (policy.SweepReport, bool, error) { return s.latest, true, nil },
	}
	s.prepare()

	settings := memory.Strict()
	settings.UsageLag = time.Minute
	s.populate(settings)
	return s
}

// configure gives the worker another configuration.
func (s *stage) configure(text string) {
	s.t.Helper()
	config, err := workerconfig.Load("keyturn-worker.yaml", []byte(text), []providers.Descriptor{s.world.Descriptor(), s.world.PullDescriptor()})
	require.NoError(s.t, err)
	s.config.Store(config)
}

// prepare has the environment run what a worker does.
func (s *stage) prepare() {
	s.env.SetStartWorkflowOptions(client.StartWorkflowOptions{ID: workflows.WorkflowID("payments-api"), TaskQueue: workflows.TaskQueue})
	s.env.RegisterWorkflow(workflows.Rotation)
	s.env.RegisterWorkflow(workflows.Inspect)
	s.env.RegisterActivity(s.do)
}

// populate gives the World its principal, with a key that existed before keyturn, and the consumers that
// use it.
func (s *stage) populate(settings memory.PrincipalSettings) {
	s.world.SetPrincipal("payments-api", settings)
	bundle := s.world.AddKey("payments-api", "key-old", s.began.Add(-time.Hour))
	require.NoError(s.t, s.world.Use(bundle, "checkout")) // else the issuer would tell of no use
	s.first = s.world.AddVersion("payments-api", bundle)
	for _, name := range fleet {
		s.world.SetInstance(name, memory.InstanceSettings{})
		s.world.Give(name, bundle)
	}
}

// fleet are the declared instances.
var fleet = []string{"canary", "checkout-a", "checkout-b"}

// traffic sends requests with whatever keys the instances use, until then.
func (s *stage) traffic(until time.Duration) { s.use(fleet, until) }

// use sends a request of each, three times a minute.
func (s *stage) use(names []string, until time.Duration) {
	s.every(20*time.Second, until, func() {
		for _, name := range names {
			_ = s.world.Request(name) // the World counts what is refused
		}
	})
}

// request is what a person signals when the run is at that place.
func (s *stage) request(place string, after time.Duration, name string, req policy.Request) {
	s.in(place, after, func() { s.env.SignalWorkflow(name, req) })
}

// approve approves each revoke gate within a minute.
func (s *stage) approve() {
	s.every(time.Minute, 20*time.Hour, func() {
		if gate := s.status().Gate; gate != nil && len(gate.Approvals) < gate.Needs.Count {
			s.env.SignalWorkflow(workflows.ApproveName, policy.Request{Gate: gate.Gate, By: []string{"ann", "ben"}[len(gate.Approvals)]}) // two, where no use is told
		}
	})
}

// coarse is for a case that is played a hundred times and is about no wait: the waits are as short as one can be that is watched
// each 30 seconds, which is what a run costs.
func (s *stage) coarse() {
	s.credential.WaveSoak, s.credential.Overlap, s.credential.DisableSoak = minutes(5), minutes(6), minutes(5)
}

// impatient is for a case in which somebody never converges: giving up takes that long of real time, and others must have
// converged by then.
func (s *stage) impatient() {
	s.credential.WaveTimeout = inventory.Duration(10 * time.Second)
	s.do.PollEvery = 200 * time.Millisecond
}

func (s *stage) spec() inventory.SignedSpec {
	s.t.Helper()
	spec, err := inventory.NewSpec(inventory.Spec{Inventory: "payments", Generation: 100, Credential: s.credential})
	require.NoError(s.t, err)
	return spec
}

func (s *stage) run() workflows.Report {
	s.t.Helper()
	s.env.ExecuteWorkflow(workflows.Rotation, workflows.RotationInput{Spec: s.spec()})
	require.True(s.t, s.env.IsWorkflowCompleted())
	s.allFell()
	if err := s.env.GetWorkflowError(); err != nil {
		return s.failure(err)
	}
	var report workflows.Report
	require.NoError(s.t, s.env.GetWorkflowResult(&report))
	return report
}

// failure is the report of a run that ended as failed.
func (s *stage) failure(err error) (report workflows.Report) {
	s.t.Helper()
	var ended *temporal.ApplicationError
	if !errors.As(err, &ended) || ended.Type() != workflows.FailedType {
		require.NoError(s.t, err)
	}
	require.NoError(s.t, ended.Details(&report))
	return report
}

// over runs a rotation over the World as it is, with traffic and somebody who approves. One that has not ended has no report.
func (s *stage) over(in workflows.RotationInput, interceptors ...interceptor.WorkerInterceptor) (workflows.Report, error) {
	s.anew(interceptors...)
	s.traffic(3 * time.Hour)
	s.approve()
	return s.execute(in)
}

// anew gives the World another environment, for another run.
func (s *stage) anew(interceptors ...interceptor.WorkerInterceptor) {
	now := s.env.Now()
	s.env = temporaltest.NewEnvironment(interceptors...)
	s.env.SetStartTime(now)
	s.clock.Store(s.env)
	s.prepare()
}

func (s *stage) execute(in workflows.RotationInput) (report workflows.Report, err error) {
	s.t.Helper()
	s.env.ExecuteWorkflow(workflows.Rotation, in)
	require.True(s.t, s.env.IsWorkflowCompleted())
	if err = s.env.GetWorkflowError(); err == nil {
		err = s.env.GetWorkflowResult(&report)
	}
	return report, err
}

// next is what a run that was full hands to the next one.
func (s *stage) next(err error) (in workflows.RotationInput, full bool) {
	s.t.Helper()
	var next *workflow.ContinueAsNewError
	if !errors.As(err, &next) {
		return in, false
	}
	require.NoError(s.t, converter.GetDefaultDataConverter().FromPayloads(next.Input, &in))
	return in, true
}

// refused is how many requests of declared instances the issuer refused.
func (s *stage) refused() (n int) {
	for _, name := range fleet {
		_, refused := s.world.Requests(name)
		n += refused
	}
	return n
}

// keys are those that the issuer has, in the order of their making.
func (s *stage) keys() []string {
	list, err := s.world.Issuer("payments-api").List(context.Background())
	require.NoError(s.t, err)
	var ids []string
	for _, k := range list {
		ids = append(ids, s.named(k.KeyID)+" "+string(k.State))
	}
	return ids
}

// named calls the keys that were minted new-1, new-2 and so on.
func (s *stage) named(keyID string) string {
	n := 0
	for _, e := range s.world.Happened(memory.OpIssue) {
		if e.KeyID != "key-old" && e.KeyID != "stranger" {
			n++
			if e.KeyID == keyID {
				return fmt.Sprintf("new-%d", n)
			}
		}
	}
	return keyID
}

func (s *stage) versions() map[string][]key.Label {
	list, err := s.world.Store("payments-api").Versions(context.Background())
	require.NoError(s.t, err)
	labels := map[string][]key.Label{}
	for _, v := range list {
		labels[v.ID] = v.Labels
	}
	return labels
}

func (s *stage) metadata() key.Metadata {
	m, err := s.world.Store("payments-api").Metadata(context.Background())
	require.NoError(s.t, err)
	return m
}

// happened are the World's events of some kinds, in order.
func (s *stage) happened(of ...memory.Op) []string {
	var list []string
	for _, e := range s.world.Happened(of...) {
		if e.Op != memory.OpIssue || e.KeyID != "key-old" && e.KeyID != "stranger" {
			list = append(list, string(e.Op)+" "+s.named(e.KeyID))
		}
	}
	return list
}

func (s *stage) trail() []audit.Type {
	s.t.Helper()
	trail, err := audit.Read(s.auditFile)
	require.NoError(s.t, err)
	var types []audit.Type
	for _, e := range trail.Events {
		if e.Type != audit.ValueRead { // each attempt says what it reads
			types = append(types, e.Type)
		}
	}
	return types
}

// listen notes whatever is asked of issuer, store and consumers from now on.
func (s *stage) listen() {
	for _, op := range []memory.Op{memory.OpList, memory.OpCapabilities, memory.OpVersions, memory.OpRead, memory.OpMetadata, memory.OpAttest, memory.OpCheck, memory.OpReach} {
		s.world.On(op, func(memory.Phase) {
			s.looking.Lock()
			defer s.looking.Unlock()
			s.looked = append(s.looked, op)
		})
	}
}

// asked is what was asked of issuer, store and consumers.
func (s *stage) asked() []memory.Op {
	s.looking.Lock()
	defer s.looking.Unlock()
	return s.looked
}

// forgetStore makes the world one in which keyturn's store never knew the key.
func (s *stage) forgetStore() {
	s.credential.Store.Config = json.RawMessage(`{"type":"memory","account":"vault","path":"payments-empty"}`)
}
