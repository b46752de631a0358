package workflows_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/memory"
	"github.com/keyturn/keyturn/workflows"
)

func TestRotationInAWorld(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.traffic(3 * time.Hour)
	s.approve()
	report := s.run()

	require.Equal(t, workflows.Completed, report.Outcome, report.Message)
	assert.Zero(t, s.refused(), "no request was refused")
	assert.Equal(t, []string{"new-1 active"}, s.keys())
	assert.Len(t, s.versions(), 1, "the retired version is pruned")
	assert.Equal(t, []key.Label{key.Current}, s.versions()[report.Incoming.StoreVersion], "PENDING is gone")
	assert.Equal(t, []string{"issue new-1", "disable key-old", "destroy key-old"},
		s.happened(memory.OpIssue, memory.OpDisable, memory.OpEnable, memory.OpDestroy))
	assert.Equal(t, []string{"charge:create"}, s.world.Scopes("payments-api", report.Incoming.KeyID), "the key got the inventory's scopes and no more")
	assert.Contains(t, report.Probe, "refused")

	m := s.metadata()
	assert.Equal(t, int64(100), m.Generation)
	assert.Empty(t, m.Intents)
	assert.Empty(t, m.Debt)
	require.NotNil(t, m.LastRotation)
	assert.Equal(t, "completed", m.LastRotation.Outcome)
	require.Len(t, m.Keys, 1)
	assert.Equal(t, m.Keys[0].IssuedAt.Add(90*24*time.Hour), m.RotateBy)
	assert.Equal(t, m.RotateBy, report.RotateBy)

	assert.Equal(t, []audit.Type{
		audit.PlanMade, audit.RotationStarted, audit.MintIntended, audit.KeyIssued, audit.KeyVerified,
		audit.KeyDelivered, audit.WavePassed, audit.KeyDelivered, audit.WavePassed, audit.KeyPromoted,
		audit.OverlapBegun, audit.EvidenceComplete, audit.GateOpened, audit.DecisionAccepted, audit.GateClosed,
		audit.KeyDisabled, audit.KeyDestroyed, audit.ProbeRefused, audit.CopiesPurged, audit.CopiesPurged, audit.CopiesPurged, audit.VersionPruned, audit.RotationEnded,
	}, s.trail())
	assert.Len(t, s.world.Notifications(), 2)
}

func TestRollbackInAWorld(t *testing.T) {
	t.Parallel()
	sorry := policy.Request{By: "ann", Reason: "errors"}
	cases := map[string]func(*stage){
		"asked for in the canary's soak": func(s *stage) { s.request("canary soaking", time.Minute, "rollback", sorry) },
		"asked for in the overlap":       func(s *stage) { s.request("overlap", 10*time.Minute, "rollback", sorry) },
		"the gate is rejected": func(s *stage) {
			s.request("revoke-gate", 25*time.Minute, "reject", policy.Request{Gate: "revoke", By: "ann", Reason: "errors"})
		},
		"asked for in the disable soak": func(s *stage) {
			s.approve()
			s.request("disable-soak", 25*time.Minute, "rollback", sorry)
		},
		"the canary falls ill": func(s *stage) {
			s.in("canary soaking", 10*time.Second, func() { s.world.SetInstance("canary", memory.InstanceSettings{Unhealthy: errors.New("HTTP 500")}) })
		},
		"the error budget is breached in the overlap": func(s *stage) {
			s.world.SetInstance("undeclared", memory.InstanceSettings{})
			s.in("overlap", 10*time.Minute, func() {
				for range 200 {
					_ = s.world.Request("undeclared") // it has no key: each is refused
				}
			})
		},
		"a consumer never reloads": func(s *stage) {
			s.impatient()
			s.world.SetInstance("checkout-b", memory.InstanceSettings{NeverReloads: true})
		},
		"the run is cancelled": func(s *stage) { s.in("overlap", 10*time.Minute, s.env.CancelWorkflow) },
	}
	for name, prepare := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			s.traffic(4 * time.Hour)
			prepare(s)
			report := s.run()
			require.Equal(t, workflows.RolledBack, report.Outcome, report.Message)
			assert.Zero(t, s.refused(), "no request was refused")
			assert.Equal(t, []string{"key-old active"}, s.keys())
			assert.Equal(t, map[string][]key.Label{s.first: {key.Current}}, s.versions())
			m := s.metadata()
			assert.Empty(t, m.Intents)
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
// the same, and no key is left over. Without tokens the issuer mints a second key for a second call, as
// AWS IAM does.
func TestFaultsAtEverySideEffect(t *testing.T) {
	t.Parallel()
	faults := map[string]func(*memory.World, memory.Op){
		"reply lost": func(w *memory.World, op memory.Op) { w.LoseReply(op, 1) },
		"throttled":  func(w *memory.World, op memory.Op) { w.Throttle(op, 1) },
		"broken":     func(w *memory.World, op memory.Op) { w.Fail(op, errors.New("connection reset"), 1) },
	}
	var thin thinned
	for _, tokens := range []bool{true, false} {
		for _, op := range []memory.Op{
			memory.OpCapabilities, memory.OpList, memory.OpIssue, memory.OpIdentify, memory.OpDestroy, memory.OpDisable, memory.OpSelfTest,
			memory.OpVersions, memory.OpRead, memory.OpStage, memory.OpPromote, memory.OpPrune, memory.OpMetadata, memory.OpPutMetadata,
			memory.OpDeliver, memory.OpReach, memory.OpAttest, memory.OpCheck, memory.OpSample, memory.OpNotify,
		} {
			for name, befall := range faults {
				for _, skip := range []int{0, 2} {
					if thin.out() || tokens && !slices.Contains([]memory.Op{memory.OpIssue, memory.OpStage, memory.OpPutMetadata}, op) {
						continue // tokens change what a mint does, and nothing else
					}
					t.Run(fmt.Sprintf("%s of %s after %d calls, tokens %t", name, op, skip, tokens), func(t *testing.T) {
						t.Parallel()
						s := newStage(t)
						s.coarse()
						settings := memory.Strict()
						settings.UsageLag, settings.KnowsTokens = time.Minute, tokens
						s.world.SetPrincipal("payments-api", settings)
						s.traffic(3 * time.Hour)
						s.approve()
						s.world.Fail(op, nil, skip)
						befall(s.world, op)
						report := s.run()
						require.Equal(t, workflows.Completed, report.Outcome, report.Message)
						assert.Zero(t, s.refused())
						assert.Len(t, s.keys(), 1)
						assert.Len(t, s.versions(), 1)
						assert.Empty(t, s.metadata().Intents)
						assert.Len(t, s.happened(memory.OpIssue), len(s.happened(memory.OpDestroy)), "one key in, one key out")
					})
				}
			}
		}
	}
}

func TestRefusalsInAWorld(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		prepare func(*stage)
		want    policy.Reason
	}{
		"an unknown key at the issuer": {func(s *stage) { s.world.AddKey("payments-api", "stranger", s.began) }, policy.UnknownActiveKey},
		"an instance that cannot be reached": {func(s *stage) {
			s.world.SetInstance("checkout-a", memory.InstanceSettings{Unreachable: errors.New("no route")})
		}, policy.ConsumerUnreachable},
		"an instance that attests nothing": {func(s *stage) {
			s.world.SetInstance("checkout-a", memory.InstanceSettings{Mute: errors.New("no route")})
		}, policy.ConsumerNotAttesting},
		"a principal out of bounds": {func(s *stage) {
			s.credential.Issuer.Config = json.RawMessage(`{"type":"memory","account":"edge","principal":"admin"}`)
			s.world.SetPrincipal("admin", memory.Strict())
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
			s.listen()
			c.prepare(s)
			report := s.run()
			assert.Equal(t, workflows.Refused, report.Outcome)
			assert.Equal(t, c.want, report.Reason, report.Message)
			assert.Empty(t, s.happened(memory.OpIssue, memory.OpStage, memory.OpDeliver, memory.OpPromote, memory.OpDisable, memory.OpDestroy, memory.OpPrune, memory.OpPutMetadata), "nothing was changed")
			assert.Contains(t, s.trail(), audit.RotationEnded, "a refusal leaves a trace")
			if c.want == policy.SpecRefused {
				assert.Empty(t, s.asked(), "what is out of bounds is not even looked at")
			}
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
		assert.Zero(t, s.refused())
		assert.Equal(t, []string{"new-1 active"}, s.keys())
		assert.Contains(t, report.Probe, "in no store")
	})
	t.Run("once it is replaced anywhere, a rollback is not taken", func(t *testing.T) {
		t.Parallel()
		s := newStage(t)
		s.credential.Adopt = []string{"key-old"}
		s.forgetStore()
		s.traffic(3 * time.Hour)
		s.approve()
		s.request("overlap", 10*time.Minute, "rollback", policy.Request{By: "ann", Reason: "errors"})
		report := s.run()
		assert.Equal(t, workflows.Completed, report.Outcome, report.Message)
		assert.Equal(t, policy.NoWayBack, report.Verdicts[0].Reason)
	})
}

func TestIssuerThatCannotDisable(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.world.SetPrincipal("payments-api", memory.PrincipalSettings{Capabilities: key.Capabilities{Slots: 2, CanNarrow: true}})
	s.traffic(3 * time.Hour)
	s.approve()
	report := s.run()
	require.Equal(t, workflows.Completed, report.Outcome, report.Message)
	assert.Zero(t, s.refused())
	assert.Equal(t, []string{"issue new-1", "destroy key-old"}, s.happened(memory.OpIssue, memory.OpDisable, memory.OpDestroy))
}

func TestAStragglerHoldsTheRevoke(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.traffic(3 * time.Hour)
	s.approve()
	// After the promotion one instance goes back to the retiring key, as a restored snapshot would.
	retired, _ := s.world.Held("checkout-b")
	s.in("overlap", 10*time.Minute, func() { s.world.Give("checkout-b", retired) })
	s.in("evidence", 2*time.Hour, func() {
		st := s.status()
		assert.Contains(t, st.WaitsFor, "checkout/b is not on key")
		assert.Empty(t, s.happened(memory.OpDisable, memory.OpDestroy))
		var told []string
		for _, n := range s.world.Notifications() {
			told = append(told, n.Subject)
		}
		assert.Contains(t, told, "The retiring key is still needed")
		bundle, err := s.world.Store("payments-api").ReadLabel(context.Background(), key.Current)
		require.NoError(t, err)
		s.world.Give("checkout-b", bundle)
	})
	report := s.run()
	require.Equal(t, workflows.Completed, report.Outcome, report.Message)
	assert.Zero(t, s.refused())
}

func TestAnInterruptedRotationIsClearedAway(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	ctx := context.Background()
	store := s.world.Store("payments-api")
	// A rotation that was terminated between mint and stage left an intent and an orphan.
	_, err := store.PutMetadata(ctx, key.Metadata{Intents: []key.Intent{{
		Rotation: "terminated", Ordinal: 1, At: s.env.Now(), Within: policy.MintWithin, Known: []string{"key-old"},
	}}})
	require.NoError(t, err)
	_, err = s.world.Issuer("payments-api").Issue(ctx, providers.IssueRequest{Token: policy.Token("terminated", 1)})
	require.NoError(t, err)
	s.traffic(3 * time.Hour)
	s.approve()
	report := s.run()
	require.Equal(t, workflows.Completed, report.Outcome, report.Message)
	assert.Zero(t, s.refused())
	assert.Equal(t, []string{"new-2 active"}, s.keys())
}

// The call of a run that was terminated may still arrive: the next one mints when it is over, and knows what it made.
func TestAMintOfATerminatedRunThatIsLateIsClearedAway(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	ctx := context.Background()
	_, err := s.world.Store("payments-api").PutMetadata(ctx, key.Metadata{Intents: []key.Intent{{
		Rotation: "terminated", Ordinal: 1, Run: "terminated-run", At: s.env.Now(), Within: policy.MintWithin, Known: []string{"key-old"},
	}}})
	require.NoError(t, err)
	s.env.RegisterDelayedCallback(func() {
		_, err := s.world.Issuer("payments-api").Issue(ctx, providers.IssueRequest{Token: policy.Token("terminated", 1)})
		assert.NoError(t, err)
	}, 30*time.Second)
	s.traffic(3 * time.Hour)
	s.approve()
	report := s.run()
	require.Equal(t, workflows.Completed, report.Outcome, report.Message)
	assert.Zero(t, s.refused())
	assert.Equal(t, []string{"new-2 active"}, s.keys())
	assert.Empty(t, s.metadata().Intents)
}

func TestConsumersThatReadTheStore(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	for i := range s.credential.Consumers {
		target := &s.credential.Consumers[i].Target
		target.Type = "memory-pull"
		target.Config = json.RawMessage(fmt.Sprintf(`{"type":"memory-pull","instance":%q}`, []string{"{instance}", "checkout-{instance}"}[i]))
	}
	s.world.SetInstance("canary", memory.InstanceSettings{Store: "payments-api", Label: key.Pending})
	for _, name := range fleet[1:] {
		s.world.SetInstance(name, memory.InstanceSettings{Store: "payments-api"})
	}
	s.traffic(3 * time.Hour)
	s.approve()
	report := s.run()
	require.Equal(t, workflows.Completed, report.Outcome, report.Message)
	assert.Zero(t, s.refused())
	assert.Empty(t, s.happened(memory.OpDeliver))
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
	assert.Len(t, s.world.Ledger(), 1, "the key that was there before")
	assert.Equal(t, key.Metadata{}, s.metadata())
}

// No payload of a whole rotation has a byte of a key in it.
func TestNoSecretReachesTemporal(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.traffic(3 * time.Hour)
	s.approve()
	var seen []string
	listen := func(_ *activity.Info, result converter.EncodedValue, err error) {
		var text any
		if result != nil && result.HasValue() && result.Get(&text) == nil {
			seen = append(seen, fmt.Sprint(text))
		}
		if err != nil {
			seen = append(seen, err.Error())
		}
	}
	s.env.SetOnActivityCompletedListener(listen)
	s.env.SetOnLocalActivityCompletedListener(listen)
	asked := func(_ *activity.Info, _ context.Context, args converter.EncodedValues) {
		var text any
		if args != nil && args.HasValues() && args.Get(&text) == nil {
			seen = append(seen, fmt.Sprint(text))
		}
	}
	s.env.SetOnActivityStartedListener(asked)
	s.env.SetOnLocalActivityStartedListener(func(info *activity.Info, ctx context.Context, args []any) {
		seen = append(seen, fmt.Sprint(args...))
	})
	s.env.SetOnActivityHeartbeatListener(func(_ *activity.Info, details converter.EncodedValues) { asked(nil, nil, details) })
	report := s.run()
	require.Equal(t, workflows.Completed, report.Outcome)
	for _, shown := range []any{report, s.status()} {
		text, err := json.Marshal(shown)
		require.NoError(t, err)
		seen = append(seen, string(text))
	}
	bundle, err := s.world.Store("payments-api").ReadLabel(context.Background(), key.Current)
	require.NoError(t, err)
	value, _ := bundle.Field(secret.ValueField)
	for _, one := range seen {
		assert.NotContains(t, one, string(value.Reveal())[4:20])
		assert.NotContains(t, one, "mem_")
	}
	assert.Greater(t, len(seen), 10)
}

// What a policy that says nothing gets, but for the signatures: a day of overlap, and a day in which the key is disabled, which is
// as long as an approval counts. Whoever approved in time approved until the key is gone.
func TestDefaultTermsComeToTheirEnd(t *testing.T) {
	t.Parallel()
	long(t)
	s := newStage(t)
	s.credential.Terms = inventory.DefaultTerms(inventory.RiskStandard)
	s.credential.Approvals.Revoke.Trust = inventory.TrustAny
	s.every(10*time.Minute, 60*time.Hour, func() {
		for _, name := range fleet {
			_ = s.world.Request(name)
		}
		if gate := s.status().Gate; gate != nil && len(gate.Approvals) == 0 {
			s.env.SignalWorkflow(workflows.ApproveName, policy.Request{Gate: "revoke", By: "ann"})
		}
	})
	report := s.run()
	assert.Equal(t, workflows.Completed, report.Outcome, report.Message)
	assert.Empty(t, report.Debt)
	assert.Len(t, report.Verdicts, 1, "it was asked once")
	assert.Zero(t, s.refused())
	assert.Equal(t, []string{"issue new-1", "disable key-old", "destroy key-old"}, s.happened(memory.OpIssue, memory.OpDisable, memory.OpEnable, memory.OpDestroy))
}
