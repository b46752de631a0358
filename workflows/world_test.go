package workflows_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/secret"
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
    overlap: 1h
    quietWindow: 30m
    waveSoak: 10m
    waveTimeout: 2s
    disableSoak: 30m
    errorBudget: {ratio: 0.01, window: 5m, minTotal: 10}
    approvals: {revoke: {count: 1, trust: any, requestExpires: 3d}}
    issuer: {type: memory, account: edge, principal: payments-api}
    store: {type: memory, account: vault, path: payments-api}
    verify: [{type: memory, instance: canary}]
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
	t          *testing.T
	env        *testsuite.TestWorkflowEnvironment
	world      *memory.World
	credential inventory.Credential
	catalog    inventory.Catalog
	auditFile  string
	began      time.Time
	refused    int
	old        key.Ref
}

func newStage(t *testing.T) *stage {
	t.Helper()
	suite := quiet()
	s := &stage{t: t, env: suite.NewTestWorkflowEnvironment(), world: memory.New(), auditFile: filepath.Join(t.TempDir(), "audit.jsonl")}
	s.env.SetTestTimeout(30 * time.Second)
	s.env.SetWorkflowRunTimeout(10 * 365 * 24 * time.Hour)
	s.env.SetStartWorkflowOptions(client.StartWorkflowOptions{ID: workflows.WorkflowID("payments-api"), TaskQueue: workflows.TaskQueue})
	s.began = s.env.Now()
	s.world.Now = s.env.Now

	descriptors := []providers.Descriptor{s.world.Descriptor(), s.world.Puller()}
	s.catalog = all.Catalog(descriptors...)
	inv, err := inventory.Load("inventory.yaml", []byte(worldInventory), s.catalog)
	require.NoError(t, err)
	s.credential = inv.Credentials[0]
	config, err := workerconfig.Load("keyturn-worker.yaml", []byte(worldConfig), descriptors)
	require.NoError(t, err)
	sink, err := audit.OpenFile(s.auditFile)
	require.NoError(t, err)
	s.env.RegisterWorkflow(workflows.Rotation)
	s.env.RegisterWorkflow(workflows.Inspect)
	s.env.RegisterActivity(&activities.Activities{
		Config: func() *workerconfig.Config { return config }, Descriptors: descriptors, Catalog: s.catalog, Audit: sink,
		AllowUnsigned: true, Now: s.env.Now, PollEvery: 5 * time.Millisecond,
	})

	s.world.AddPrincipal("payments-api", memory.Principal{KnowsTokens: true, Capabilities: providers.IssuerCapabilities{
		Slots: 2, CanDisable: true, CanNarrow: true, CanExpire: true, ReportsUsage: true, UsageLag: time.Minute,
	}})
	value := s.world.AddKey("payments-api", "key-old")
	bundle := secret.Single(value)
	s.world.Seed("payments-api", bundle)
	s.old = key.Ref{Principal: "payments-api", KeyID: "key-old", StoreVersion: "v1", Fingerprint: bundle.Fingerprint()}
	for _, name := range []string{"canary", "checkout-a", "checkout-b"} {
		s.world.AddInstance(name, "payments-api", "payments-api", memory.Instance{}, bundle)
	}
	return s
}

// traffic sends requests with whatever keys the instances use, each 20 seconds of skipped time.
func (s *stage) traffic(until time.Duration) {
	for after := time.Duration(0); after < until; after += 20 * time.Second {
		s.env.RegisterDelayedCallback(func() { s.refused += s.world.Request() }, after)
	}
}

func (s *stage) at(after time.Duration, do func()) { s.env.RegisterDelayedCallback(do, after) }

func (s *stage) signal(after time.Duration, name string, req policy.Request) {
	s.at(after, func() { s.env.SignalWorkflow(name, req) })
}

// approve approves the revoke gate as soon as it is open.
func (s *stage) approve() {
	for after := time.Minute; after < 20*time.Hour; after += 5 * time.Minute {
		s.at(after, func() {
			if value, err := s.env.QueryWorkflow(workflows.StatusName); err == nil {
				var st workflows.Status
				if value.Get(&st) == nil && st.Gate != nil && len(st.Gate.Approvals) == 0 {
					s.env.SignalWorkflow(workflows.ApproveName, policy.Request{By: "ann"})
				}
			}
		})
	}
}

func (s *stage) spec() inventory.SignedSpec {
	s.t.Helper()
	spec, err := inventory.NewSpec("payments", 100, s.credential)
	require.NoError(s.t, err)
	return spec
}

func (s *stage) run() workflows.Report {
	s.t.Helper()
	s.env.ExecuteWorkflow(workflows.Rotation, workflows.RotationInput{Spec: s.spec()})
	require.True(s.t, s.env.IsWorkflowCompleted())
	var report workflows.Report
	err := s.env.GetWorkflowError()
	var ended *temporal.ApplicationError
	if errors.As(err, &ended) && ended.Type() == workflows.FailedType {
		require.NoError(s.t, ended.Details(&report))
		return report
	}
	require.NoError(s.t, err)
	require.NoError(s.t, s.env.GetWorkflowResult(&report))
	return report
}

func (s *stage) keys() []string {
	var ids []string
	for _, k := range s.world.Keys("payments-api") {
		ids = append(ids, k.KeyID+" "+string(k.State))
	}
	return ids
}

func (s *stage) versions() map[string][]providers.Label {
	list, err := s.world.Store("payments-api").Versions(context.Background())
	require.NoError(s.t, err)
	labels := map[string][]providers.Label{}
	for _, v := range list {
		labels[v.ID] = v.Labels
	}
	return labels
}

func (s *stage) metadata() providers.Metadata {
	m, err := s.world.Store("payments-api").Metadata(context.Background())
	require.NoError(s.t, err)
	return m
}

// ops are the ledger's operations on keys, in order.
func (s *stage) ops(of ...string) []string {
	var list []string
	for _, e := range s.world.Ledger() {
		for _, op := range of {
			if e.Op == op {
				list = append(list, e.Op+" "+e.Key)
			}
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
		types = append(types, e.Type)
	}
	return types
}

func TestRotationInAWorld(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.traffic(3 * time.Hour)
	s.approve()
	report := s.run()

	require.Equal(t, workflows.Completed, report.Outcome, report.Message)
	assert.Zero(t, s.refused, "no request was refused")
	assert.Equal(t, []string{"mem-payments-api-2 active"}, s.keys())
	assert.Equal(t, map[string][]providers.Label{"v2": {providers.Current}}, s.versions(), "PENDING is gone, the retired version is pruned")
	assert.Equal(t, []string{"issue mem-payments-api-2", "disable key-old", "destroy key-old"}, s.ops("issue", "disable", "enable", "destroy"))
	assert.Equal(t, []string{"charge:create"}, s.world.Scopes("payments-api", "mem-payments-api-2"), "the key got the inventory's scopes and no more")
	assert.Contains(t, report.Probe, "refused")

	m := s.metadata()
	assert.Equal(t, int64(100), m.Generation)
	assert.Nil(t, m.Intent)
	assert.Empty(t, m.Debt)
	require.NotNil(t, m.LastRotation)
	assert.Equal(t, "completed", m.LastRotation.Outcome)
	require.Len(t, m.Keys, 1)
	assert.Equal(t, m.Keys[0].IssuedAt.Add(90*24*time.Hour), m.RotateBy)
	assert.Equal(t, m.RotateBy, report.RotateBy)

	assert.Equal(t, []audit.Type{
		audit.RotationStarted, audit.PlanMade, audit.MintIntended, audit.KeyIssued, audit.KeyVerified,
		audit.KeyDelivered, audit.WavePassed, audit.KeyDelivered, audit.WavePassed, audit.KeyPromoted,
		audit.OverlapBegun, audit.EvidenceComplete, audit.GateOpened, audit.DecisionAccepted, audit.GateClosed,
		audit.KeyDisabled, audit.KeyDestroyed, audit.ProbeRefused, audit.VersionPruned, audit.RotationEnded,
	}, normalise(s.trail()))
	assert.Len(t, s.world.Notifications(), 2)
}

// normalise puts what the first activity writes about the plan behind the start that it belongs to.
func normalise(types []audit.Type) []audit.Type {
	if len(types) > 1 && types[0] == audit.PlanMade {
		types[0], types[1] = types[1], types[0]
	}
	return types
}

func TestRollbackInAWorld(t *testing.T) {
	t.Parallel()
	cases := map[string]func(*stage){
		"asked for in the canary's soak": func(s *stage) { s.signal(5*time.Minute, "rollback", policy.Request{By: "ann", Reason: "errors"}) },
		"asked for in the overlap":       func(s *stage) { s.signal(40*time.Minute, "rollback", policy.Request{By: "ann", Reason: "errors"}) },
		"the gate is rejected":           func(s *stage) { s.signal(85*time.Minute, "reject", policy.Request{By: "ann", Reason: "errors"}) },
		"asked for in the disable soak": func(s *stage) {
			s.approve()
			s.signal(105*time.Minute, "rollback", policy.Request{By: "ann", Reason: "errors"})
		},
		"the canary falls ill": func(s *stage) {
			s.at(3*time.Minute, func() { s.world.Change("canary", func(i *memory.Instance) { i.Sick = "HTTP 500" }) })
			s.at(8*time.Minute, func() { s.world.Change("canary", func(i *memory.Instance) { i.Sick = "" }) })
		},
		"the error budget is breached in the overlap": func(s *stage) {
			s.at(40*time.Minute, func() { s.world.SetHealth(1000, 2000, true) })
		},
		"a consumer never reloads": func(s *stage) {
			s.world.Change("checkout-b", func(i *memory.Instance) { i.Stubborn = true })
		},
		"the run is cancelled": func(s *stage) { s.at(40*time.Minute, s.env.CancelWorkflow) },
	}
	for name, prepare := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			s.traffic(4 * time.Hour)
			prepare(s)
			report := s.run()
			require.Equal(t, workflows.RolledBack, report.Outcome, report.Message)
			assert.Zero(t, s.refused, "no request was refused")
			assert.Equal(t, []string{"key-old active"}, s.keys())
			assert.Equal(t, map[string][]providers.Label{"v1": {providers.Current}}, s.versions())
			m := s.metadata()
			assert.Nil(t, m.Intent)
			assert.Empty(t, m.Debt)
			assert.Equal(t, "rolled-back", m.LastRotation.Outcome)
			for _, k := range m.Keys {
				assert.Equal(t, "key-old", k.KeyID)
			}
			assert.Contains(t, s.trail(), audit.RollbackBegun)
			assert.NotContains(t, s.trail(), audit.KeyDestroyed)
		})
	}
}

// Faults at every side effect: replies lost after success, throttling, trouble that passes. The end is
// the same, and no key is left over.
func TestFaultsAtEverySideEffect(t *testing.T) {
	t.Parallel()
	for _, tokens := range []bool{true, false} {
		for _, op := range []string{
			"list", "versions", "read", "metadata", "put-metadata", "capabilities", "issue", "stage", "identify", "self-test",
			"deliver", "attest", "check", "promote", "disable", "destroy", "prune", "notify", "sample",
		} {
			for name, fault := range map[string]memory.Fault{"reply lost": memory.LoseReply, "throttled": memory.Throttle, "broken": memory.Break} {
				for skip := range 3 {
					t.Run(fmt.Sprintf("%s of %s, call %d, tokens %t", name, op, skip+1, tokens), func(t *testing.T) {
						t.Parallel()
						s := newStage(t)
						s.world.AddPrincipal("payments-api", memory.Principal{KnowsTokens: tokens, Capabilities: providers.IssuerCapabilities{
							Slots: 2, CanDisable: true, CanNarrow: true, CanExpire: true, ReportsUsage: true, UsageLag: time.Minute,
						}})
						value := s.world.AddKey("payments-api", "key-old")
						bundle := secret.Single(value)
						s.world.Store("payments-api")
						s.reseed(bundle)
						s.traffic(3 * time.Hour)
						s.approve()
						s.world.Fail(op, append(make([]memory.Fault, skip), fault)...)
						report := s.run()
						require.Equal(t, workflows.Completed, report.Outcome, report.Message)
						assert.Zero(t, s.refused)
						assert.Len(t, s.keys(), 1)
						assert.Len(t, s.versions(), 1)
						assert.Nil(t, s.metadata().Intent)
						// What was minted is in use or destroyed.
						assert.Equal(t, len(s.ops("issue")), len(s.ops("destroy")), "one key in, one key out")
					})
				}
			}
		}
	}
}

// reseed begins the World anew with another first key.
func (s *stage) reseed(bundle secret.Bundle) {
	s.world.Seed("payments-api", bundle)
	require.NoError(s.t, s.world.Store("payments-api").Prune(context.Background(), "v1"))
	for _, name := range []string{"canary", "checkout-a", "checkout-b"} {
		s.world.AddInstance(name, "payments-api", "payments-api", memory.Instance{}, bundle)
	}
}

func TestRefusalsInAWorld(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		prepare func(*stage)
		want    policy.Reason
	}{
		"an unknown key at the issuer": {func(s *stage) { s.world.AddKey("payments-api", "stranger") }, policy.UnknownActiveKey},
		"an instance that cannot be reached": {func(s *stage) {
			s.world.Change("checkout-a", func(i *memory.Instance) { i.Unreachable = true })
		}, policy.ConsumerUnreachable},
		"an instance that attests nothing": {func(s *stage) {
			s.world.Change("checkout-a", func(i *memory.Instance) { i.Silent = true })
		}, policy.ConsumerNotAttesting},
		"a principal out of bounds": {func(s *stage) {
			s.credential.Issuer.Config = json.RawMessage(`{"type":"memory","account":"edge","principal":"admin"}`)
			s.world.AddPrincipal("admin", memory.Principal{})
		}, policy.SpecRefused},
		"an account that the worker does not have": {func(s *stage) {
			s.credential.Issuer.Account = "other"
			s.credential.Issuer.Config = json.RawMessage(`{"type":"memory","account":"other","principal":"payments-api"}`)
		}, policy.SpecRefused},
		"signed approvals": {func(s *stage) {
			s.credential.Approvals.Revoke.Trust, s.credential.Approvals.Revoke.From = inventory.TrustSigned, []string{"owners"}
		}, policy.TrustNotVerifiable},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			c.prepare(s)
			report := s.run()
			assert.Equal(t, workflows.Refused, report.Outcome)
			assert.Equal(t, c.want, report.Reason, report.Message)
			assert.Empty(t, s.ops("issue", "stage", "deliver", "promote", "disable", "destroy", "prune"), "nothing was changed")
			assert.Contains(t, s.trail(), audit.RotationEnded, "a refusal leaves a trace")
		})
	}
}

func TestAdoption(t *testing.T) {
	t.Parallel()
	t.Run("a key in no store is adopted, replaced and revoked", func(t *testing.T) {
		t.Parallel()
		s := newStage(t)
		s.credential.Adopt = []string{"key-old"}
		s.forgetStore()
		s.traffic(3 * time.Hour)
		s.approve()
		report := s.run()
		require.Equal(t, workflows.Completed, report.Outcome, report.Message)
		assert.Zero(t, s.refused)
		assert.Equal(t, []string{"mem-payments-api-2 active"}, s.keys())
		assert.Contains(t, report.Probe, "in no store")
	})
	t.Run("once it is replaced anywhere, a rollback is not taken", func(t *testing.T) {
		t.Parallel()
		s := newStage(t)
		s.credential.Adopt = []string{"key-old"}
		s.forgetStore()
		s.traffic(3 * time.Hour)
		s.approve()
		s.signal(40*time.Minute, "rollback", policy.Request{By: "ann", Reason: "errors"})
		report := s.run()
		assert.Equal(t, workflows.Completed, report.Outcome, report.Message)
		assert.Equal(t, policy.NoWayBack, report.Verdicts[0].Reason)
	})
}

// forgetStore makes the world one in which keyturn's store never knew the key.
func (s *stage) forgetStore() {
	s.credential.Store.Config = json.RawMessage(`{"type":"memory","account":"vault","path":"payments-empty"}`)
}

func TestIssuerThatCannotDisable(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.world.AddPrincipal("payments-api", memory.Principal{Capabilities: providers.IssuerCapabilities{Slots: 2}})
	s.reseed(secret.Single(s.world.AddKey("payments-api", "key-old")))
	s.traffic(3 * time.Hour)
	s.approve()
	report := s.run()
	require.Equal(t, workflows.Completed, report.Outcome, report.Message)
	assert.Zero(t, s.refused)
	assert.Equal(t, []string{"issue mem-payments-api-2", "destroy key-old"}, s.ops("issue", "disable", "destroy"))
}

func TestAStragglerHoldsTheRevoke(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.traffic(10 * time.Hour)
	s.approve()
	// After the promotion one instance goes back to the retiring key, as a restored snapshot would.
	var before *memory.Instance
	s.world.Change("checkout-b", func(i *memory.Instance) { copied := *i; before = &copied })
	s.at(50*time.Minute, func() { s.world.Change("checkout-b", func(i *memory.Instance) { *i = *before }) })
	s.at(4*time.Hour, func() {
		value, err := s.env.QueryWorkflow(workflows.StatusName)
		require.NoError(t, err)
		var st workflows.Status
		require.NoError(t, value.Get(&st))
		assert.Equal(t, workflows.PhaseEvidence, st.Phase)
		assert.Contains(t, st.WaitsFor, "checkout/b is not on key mem-payments-api-2")
		assert.Empty(t, s.ops("disable", "destroy"))
		var told []string
		for _, n := range s.world.Notifications() {
			told = append(told, n.Subject)
		}
		assert.Contains(t, told, "The retiring key is still needed")
		target := s.world.Target("checkout-b")
		bundle, err := s.world.Store("payments-api").ReadLabel(context.Background(), providers.Current)
		require.NoError(t, err)
		require.NoError(t, target.Deliver(context.Background(), providers.Delivery{Instance: "checkout-b", Bundle: bundle}))
	})
	report := s.run()
	require.Equal(t, workflows.Completed, report.Outcome, report.Message)
	assert.Zero(t, s.refused)
}

func TestAnInterruptedRotationIsClearedAway(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	ctx := context.Background()
	store := s.world.Store("payments-api")
	// A rotation that was terminated between mint and stage left an intent and an orphan.
	require.NoError(t, store.PutMetadata(ctx, providers.Metadata{Intent: &providers.MintIntent{
		Rotation: "terminated", Ordinal: 1, At: s.env.Now(), Known: []string{"key-old"},
	}}))
	_, err := s.world.Issuer("payments-api").Issue(ctx, providers.IssueRequest{Token: policy.Token("terminated", 1)})
	require.NoError(t, err)
	s.traffic(3 * time.Hour)
	s.approve()
	report := s.run()
	require.Equal(t, workflows.Completed, report.Outcome, report.Message)
	assert.Zero(t, s.refused)
	assert.Equal(t, []string{"mem-payments-api-3 active"}, s.keys())
}

func TestConsumersThatReadTheStore(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	for i := range s.credential.Consumers {
		target := &s.credential.Consumers[i].Target
		target.Type = "memory-label"
		target.Config = json.RawMessage(fmt.Sprintf(`{"type":"memory-label","instance":%q}`, []string{"", "checkout-{instance}"}[i]))
	}
	s.world.Change("canary", func(i *memory.Instance) { i.Pulls = providers.Pending })
	for _, name := range []string{"checkout-a", "checkout-b"} {
		s.world.Change(name, func(i *memory.Instance) { i.Pulls = providers.Current })
	}
	s.traffic(3 * time.Hour)
	s.approve()
	report := s.run()
	require.Equal(t, workflows.Completed, report.Outcome, report.Message)
	assert.Zero(t, s.refused)
	assert.Empty(t, s.ops("deliver"))
}

func TestInspectChangesNothing(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.env.SetStartWorkflowOptions(client.StartWorkflowOptions{ID: workflows.InspectID("payments-api"), TaskQueue: workflows.TaskQueue})
	s.env.ExecuteWorkflow(workflows.Inspect, workflows.InspectInput{Spec: s.spec()})
	require.NoError(t, s.env.GetWorkflowError())
	var plan policy.Plan
	require.NoError(t, s.env.GetWorkflowResult(&plan))
	assert.False(t, plan.Refused(), plan.Refusals)
	assert.Equal(t, "key-old", plan.Retiring.KeyID)
	assert.Contains(t, plan.Warnings[0], "unsigned")
	assert.Empty(t, s.world.Ledger())
	assert.Equal(t, providers.Metadata{}, s.metadata())
}

// No payload of a whole rotation has a byte of a key in it.
func TestNoSecretReachesTemporal(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.approve()
	var seen []string
	s.env.SetOnActivityCompletedListener(func(_ *activity.Info, result converter.EncodedValue, err error) {
		var text any
		if result != nil && result.HasValue() && result.Get(&text) == nil {
			seen = append(seen, fmt.Sprint(text))
		}
		if err != nil {
			seen = append(seen, err.Error())
		}
	})
	report := s.run()
	require.Equal(t, workflows.Completed, report.Outcome)
	text, err := json.Marshal(report)
	require.NoError(t, err)
	seen = append(seen, string(text))
	bundle, err := s.world.Store("payments-api").ReadLabel(context.Background(), providers.Current)
	require.NoError(t, err)
	value, _ := bundle.Field(secret.ValueField)
	for _, one := range seen {
		assert.NotContains(t, one, string(value.Reveal())[4:20])
		assert.NotContains(t, one, "mem_")
	}
	assert.Greater(t, len(seen), 10)
}
