package activities_test

import (
	"cmp"
	"context"
	"errors"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/signed"
	"github.com/keyturn/keyturn/internal/temporaltest"
	"github.com/keyturn/keyturn/internal/workerconfig"
	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/all"
	"github.com/keyturn/keyturn/providers/memory"
)

const caseInventory = `
apiVersion: keyturn/v1
inventory: payments
credentials:
  - name: payments-api
    owner: payments@example.com
    purpose: charges
    environment: test
    overlap: 1h
    quietWindow: 30m
    waveTimeout: 1h
    disableSoak: 30m
    approvals: {revoke: {count: 1, trust: any}}
    issuer: {type: memory, account: edge, principal: payments-api}
    store: {type: memory, account: vault, path: payments-api}
    verify: [{type: memory}]
    consumers:
      - {name: canary, wave: canary, target: {type: memory}, check: {type: memory}, attestation: {type: memory}}
      - name: checkout
        instances: [a, b]
        target: {type: memory, instance: "checkout-{instance}"}
        check: {type: memory, instance: "checkout-{instance}"}
        attestation: {type: memory, instance: "checkout-{instance}"}
`

const caseConfig = `
apiVersion: keyturn/worker/v1
accounts: {edge: {type: memory}, vault: {type: memory}}
bounds: {test: {principals: ["payments-*"], storePaths: ["payments-*"]}}
notify: [{type: memory}]
`

var fleet = []string{"canary", "checkout-a", "checkout-b"}

// patience ends what hangs, on a real clock. A wave lasts longer: it is over when all have converged, or when the clock of
// the case says so.
const (
	patience  = 4 * time.Minute
	wavesLast = time.Hour
)

// crashCase is a World with one credential, and its activities, run one by one as Temporal would.
type crashCase struct {
	t         *testing.T
	world     *memory.World
	clock     atomic.Int64
	do        *activities.Activities
	index     *index
	spec      inventory.SignedSpec
	auditFile string
	retiring  key.Ref
	incoming  key.Ref
	died      atomic.Bool
	mostKeys  int
	lasts     time.Duration                 // of an attempt; patience when zero
	heartbeat func(converter.EncodedValues) // hears what each heartbeat keeps; nobody when nil
	byRun     string                        // whose activities are run; always the same when empty
	workflow  string                        // the workflow that they are of; that of the rotation when empty
	emergency *activities.Emergency         // by what the activities act; nil in a routine rotation
}

func (c *crashCase) now() time.Time { return time.Unix(0, c.clock.Load()).UTC() }

func (c *crashCase) wait(d time.Duration) { c.clock.Add(int64(d)) }

func newCase(t *testing.T) *crashCase {
	t.Helper()
	return newCaseOf(t, caseInventory, fleet, nil)
}

// newCaseOf makes a case of another inventory with these instances; bend changes what keyturn reaches the World through.
func newCaseOf(t *testing.T, text string, names []string, bend func(*providers.Descriptor)) *crashCase {
	t.Helper()
	c := caseWithoutKey(t, text, names, bend)
	bundle := c.world.AddKey("payments-api", "key-old", c.now().Add(-time.Hour))
	c.retiring = key.Ref{Principal: "payments-api", KeyID: "key-old", StoreVersion: c.world.AddVersion("payments-api", bundle), Fingerprint: bundle.Fingerprint()}
	for _, name := range names {
		c.world.Give(name, bundle)
	}
	require.NoError(t, c.world.Use(bundle, "checkout")) // else the issuer would tell of no use
	return c
}

// caseWithoutKey is a case whose issuer and store have no key yet.
func caseWithoutKey(t *testing.T, text string, names []string, bend func(*providers.Descriptor)) *crashCase {
	t.Helper()
	c := &crashCase{t: t, auditFile: filepath.Join(t.TempDir(), "audit.jsonl")}
	c.clock.Store(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).UnixNano())
	c.world = memory.NewWorld(c.now)
	descriptors := []providers.Descriptor{c.world.Descriptor()}
	onlyOnRecord(c, &descriptors[0])
	if bend != nil {
		bend(&descriptors[0])
	}
	catalog := all.Catalog(descriptors...)
	inv, err := inventory.Load("inventory.yaml", []byte(text), catalog)
	require.NoError(t, err)
	c.spec, err = inventory.NewSpec(inventory.Spec{Inventory: inv.Name, Generation: 100, Credential: inv.Credentials[0]})
	require.NoError(t, err)
	config, err := workerconfig.Load("keyturn-worker.yaml", []byte(caseConfig), descriptors)
	require.NoError(t, err)
	sink, err := audit.OpenFile(c.auditFile)
	require.NoError(t, err)
	c.do = &activities.Activities{
		Config: func() *workerconfig.Config { return config }, Descriptors: descriptors, Catalog: catalog, Audit: sink,
		AllowUnsigned: true, Now: c.now, PollEvery: 2 * time.Millisecond,
	}
	c.index = &index{specs: map[string]inventory.SignedSpec{"payments-api": c.spec}, states: map[string]inventory.State{}}
	c.do.Index = c.index

	c.do.Applied = c
	t.Cleanup(func() {
		if shared, ok := activities.Kept(c.do, c.spec.Body); ok {
			fresh, err := inventory.ParseSpec(c.spec.Body, catalog)
			require.NoError(t, err)
			assert.Equal(t, fresh, shared, "nobody wrote to the spec that all share")
		}
	})

	// The issuer knows no tokens, as AWS IAM does not: each call mints a key.
	settings := memory.Strict()
	settings.KnowsTokens, settings.UsageLag = false, time.Minute
	c.world.SetPrincipal("payments-api", settings)
	for _, name := range names {
		c.world.SetInstance(name, memory.InstanceSettings{})
	}
	return c
}

func (c *crashCase) subject() activities.Rotation {
	return activities.Rotation{Spec: c.spec, ID: "first-run", Retiring: c.retiring, Incoming: c.incoming, Emergency: c.emergency}
}

// run runs one activity of the rotation, as the workflow would at that point.
func (c *crashCase) run(step string) {
	c.t.Helper()
	approvals := []policy.Verdict{{Action: policy.Approve, Accepted: true, By: "ann", At: c.now()}}
	revoke := activities.RevokeInput{Rotation: c.subject(), Approvals: approvals}
	wave := activities.WaveInput{Rotation: c.subject(), Key: c.incoming, Wave: "all"}
	var d policy.Decision
	var destroyed activities.Destroyed
	var delivered activities.WaveResult
	var issued activities.Issued
	switch step {
	case "Accept", "Recognise", "AwaitTrust", "Compare":
		c.execute(step, c.spec, nil)
	case "Resolve":
		c.execute(step, "payments-api", nil)
	case "AwaitSlot":
		c.execute(step, activities.SlotInput{Spec: c.spec}, nil)
	case "LookWhetherDue", "LookUp", "LookBack", "Inspect", "Enable", "RestoreLabels", "AwaitHealth", "AwaitTraffic":
		c.execute(step, c.subject(), nil)
	case "HadTraffic":
		c.execute(step, activities.TrafficInput{Rotation: c.subject()}, nil)
	case "Watch":
		c.use()
		c.executeToNotYet(step, c.subject())
	case "AwaitMissed":
		c.executeToNotYet(step, c.subject())
	case "Issue":
		c.executeOverLag(step, activities.IssueInput{Rotation: c.subject(), Ordinal: 1}, &issued)
		require.True(c.t, issued.Decision.OK, issued.Decision.Message)
		c.incoming = issued.Key
	case "DeliverWave":
		c.execute(step, wave, &delivered)
		require.True(c.t, delivered.Decision.OK, delivered.Decision.Message)
	case "DeliverBack":
		wave.Key = c.retiring
		c.execute("DeliverWave", wave, &delivered)
		require.True(c.t, delivered.Decision.OK, delivered.Decision.Message)
	case "Promote":
		c.execute(step, c.subject(), &d)
		require.True(c.t, d.OK, d.Message)
	case "GatherEvidence":
		c.passOverlap()
		var e policy.Evidence
		c.execute(step, activities.EvidenceInput{Rotation: c.subject()}, &e)
		require.True(c.t, e.Complete, "%v", e.Missing)
	case "Notify":
		c.execute(step, activities.NotifyInput{Rotation: c.subject(), Message: activities.Message{What: "gate", Severity: "action", At: c.now()}}, nil)
	case "Prove":
		c.execute(step, activities.ProveInput{Spec: c.spec, Decisions: []signed.Envelope{{}}}, nil)
	case "Accounts", "LatestSweep", "SweepAstray", "SweepSigners", "Diagnose":
		c.execute(step, nil, nil)
	case "ReadAudit":
		c.execute(step, activities.AuditInput{Credential: "payments-api"}, nil)
	case "ListApplied":
		c.execute(step, activities.ListAppliedInput{Limit: 10}, nil)
	case "ScanAccount":
		c.execute(step, activities.ScanAccountInput{Account: "edge"}, nil)
	case "Survey":
		c.execute(step, activities.SurveyInput{Named: []activities.Named{c.named()}}, nil)
	case "Sweep":
		c.execute(step, activities.SweepInput{Entries: []activities.Entry{{Named: c.named()}}}, nil)
	case "InspectDebt":
		c.execute(step, activities.DebtInput{Rotation: c.subject(), Asked: true}, nil)
	case "Announce":
		c.execute(step, activities.AnnounceInput{Sweep: "run", At: c.now(), Findings: []policy.Finding{{Kind: policy.FoundOverdue}}, All: 1}, nil)
	case "Log":
		c.execute(step, []audit.Event{{ID: "e1", Type: audit.GateOpened, Time: c.now()}}, nil)
	case "Disable":
		c.passOverlap()
		revoke.Approvals[0].At = c.now()
		c.execute(step, revoke, &d)
		require.True(c.t, d.OK, d.Message)
	case "Destroy":
		c.wait(31 * time.Minute)
		c.execute(step, revoke, &destroyed)
		require.True(c.t, destroyed.Decision.OK, destroyed.Decision.Message)
	case "ProveDeclaration":
		c.execute(step, activities.DeclarationInput{Emergency: *c.emergency, Credential: "payments-api"}, nil)
	case "RecordReview":
		err := c.attempt(step, activities.ReviewInput{Declarations: []signed.Envelope{c.emergency.Declaration}}, nil, 1)
		require.ErrorContains(c.t, err, "not signed")
	case "ReviewBreakGlass":
		require.ErrorContains(c.t, c.attempt(step, activities.GlassReviewInput{Rotation: c.subject()}, nil, 1), "review refused")
	case "TellOfIncident":
		c.execute(step, activities.NewsInput{Emergency: *c.emergency, News: activities.NewsBegun, At: c.now()}, nil)
		require.NotEmpty(c.t, c.world.Notifications())
	case "Freeze", "Unfreeze":
		var frozen activities.Frozen
		c.execute(step, activities.FreezeInput{Emergency: *c.emergency, Until: c.now().Add(time.Minute)}, &frozen)
		require.Equal(c.t, activities.Frozen{Done: []string{"memory (1 of 1)"}}, frozen)
		require.Equal(c.t, step == "Freeze", len(c.world.Freezes()) == 1)
	case "Follow":
		is, err := c.asks(true, false)
		require.NoError(c.t, err)
		require.Equal(c.t, activities.TakeoverGone, is)
	case "ReviewMisuse":
		var m policy.Misuse
		c.execute(step, activities.MisuseInput{Rotation: c.subject(), Dead: map[string]time.Time{"key-old": c.now()}}, &m)
		require.Equal(c.t, []string{"the issuer's record"}, m.Tellers)
	case "LookAtExposed":
		var seen activities.ExposedKeys
		c.execute(step, activities.ExposedInput{Credential: "payments-api", Spec: c.spec, Keys: []string{"key-old"}}, &seen)
		require.Equal(c.t, activities.ExposedKeys{Alive: []string{"key-old"}}, seen)
	case "AssessExposure":
		c.execute(step, c.subject(), nil)
	case "Contain":
		c.execute(step, activities.ContainInput{Rotation: c.subject(), Key: c.retiring}, &destroyed)
		require.True(c.t, destroyed.Decision.OK, destroyed.Decision.Message)
	case "Discard":
		c.wait(31 * time.Minute)
		c.execute(step, c.subject(), &d)
		require.True(c.t, d.OK, d.Message)
	case "Record":
		c.execute(step, activities.RecordInput{Rotation: c.subject(), Outcome: "completed"}, nil)
	case "RecordBack":
		c.execute("Record", activities.RecordInput{Rotation: c.subject(), Outcome: "rolled-back"}, nil)
	default:
		require.Fail(c.t, "no such step", step)
	}
}

// use lets every instance use the key that it holds.
func (c *crashCase) use() {
	for _, name := range fleet {
		require.NoError(c.t, c.world.Request(name), "no request is refused")
	}
	c.mostKeys = max(c.mostKeys, len(c.keys()))
}

// passOverlap lets the keys be used, well after keyturn tried them, and the overlap and the quiet window pass.
func (c *crashCase) passOverlap() {
	c.wait(2 * time.Minute)
	c.use()
	c.wait(2 * time.Hour)
}

// execute runs an activity in the credential's rotation. An attempt that dies is followed by another.
func (c *crashCase) execute(name string, input, output any) {
	c.t.Helper()
	require.NoError(c.t, c.attempt(name, input, output, 5), name)
	c.mostKeys = max(c.mostKeys, len(c.keys()))
}

// executeOverLag is execute for an activity that may wait until the issuer has told of uses.
func (c *crashCase) executeOverLag(name string, input, output any) {
	c.t.Helper()
	err := c.attempt(name, input, output, 5)
	var notYet *temporal.ApplicationError
	if errors.As(err, &notYet) && notYet.Type() == activities.TypeNotYet {
		c.wait(2 * time.Minute)
		c.execute(name, input, output)
		return
	}
	require.NoError(c.t, err, name)
	c.mostKeys = max(c.mostKeys, len(c.keys()))
}

// executeToNotYet runs an activity whose good answer is that it goes on.
func (c *crashCase) executeToNotYet(name string, input any) {
	c.t.Helper()
	c.isNotYet(c.attempt(name, input, nil, 3))
}

func (c *crashCase) isNotYet(err error) {
	c.t.Helper()
	var notYet *temporal.ApplicationError
	require.ErrorAs(c.t, err, &notYet)
	require.Equal(c.t, activities.TypeNotYet, notYet.Type(), "%v", err)
}

func (c *crashCase) attempt(name string, input, output any, attempts int32) error {
	c.t.Helper()
	return c.attemptOf("payments-api", name, input, output, attempts)
}

// attemptOf runs an activity in the rotation of a credential of this name.
func (c *crashCase) attemptOf(credential, name string, input, output any, attempts int32) error {
	c.t.Helper()
	env := temporaltest.NewEnvironment(temporaltest.OfRun(c.byRun))
	env.SetStartWorkflowOptions(client.StartWorkflowOptions{ID: cmp.Or(c.workflow, activities.WorkflowID(credential))})
	env.RegisterActivity(c.do)
	if c.heartbeat != nil {
		env.SetOnActivityHeartbeatListener(func(_ *activity.Info, details converter.EncodedValues) { c.heartbeat(details) })
	}
	env.ExecuteWorkflow(func(ctx workflow.Context) (any, error) {
		ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
			StartToCloseTimeout: cmp.Or(c.lasts, patience), HeartbeatTimeout: patience,
			RetryPolicy: &temporal.RetryPolicy{InitialInterval: time.Second, MaximumAttempts: attempts},
		})
		var result any
		var args []any
		if input != nil {
			args = []any{input}
		}
		err := workflow.ExecuteActivity(ctx, name, args...).Get(ctx, &result)
		return result, err
	})
	if err := env.GetWorkflowError(); err != nil {
		return err
	}
	if output == nil {
		return nil
	}
	return env.GetWorkflowResult(output)
}

func (c *crashCase) keys() []string {
	list, err := c.world.Issuer("payments-api").List(context.Background())
	require.NoError(c.t, err)
	var ids []string
	for _, k := range list {
		ids = append(ids, k.KeyID+" "+string(k.State))
	}
	return ids
}

func (c *crashCase) versions() map[string][]key.Label {
	list, err := c.world.Store("payments-api").Versions(context.Background())
	require.NoError(c.t, err)
	labels := map[string][]key.Label{}
	for _, v := range list {
		labels[v.ID] = v.Labels
	}
	return labels
}

func (c *crashCase) metadata() key.Metadata {
	m, err := c.world.Store("payments-api").Metadata(context.Background())
	require.NoError(c.t, err)
	return m
}

func (c *crashCase) named() activities.Named {
	return activities.Named{Inventory: "payments", Credential: "payments-api"}
}

// Entries implements activities.Applied.
func (c *crashCase) Entries(context.Context) ([]activities.Entry, error) {
	return []activities.Entry{{Named: c.named(), Account: "edge", Principals: []string{"payments-api"}}}, nil
}

// SpecIn implements activities.Applied.
func (c *crashCase) SpecIn(context.Context, activities.Named) (inventory.SignedSpec, error) {
	return c.spec, nil
}
