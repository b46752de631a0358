package simulation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/mock"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/incident"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/temporaltest"
	"github.com/keyturn/keyturn/internal/workerconfig"
	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/all"
	"github.com/keyturn/keyturn/providers/memory"
	"github.com/keyturn/keyturn/tests/invariant"
	"github.com/keyturn/keyturn/workflows"
)

// plant is a bug that is put into keyturn, or between keyturn and its world. None when zero.
type plant struct {
	// told is the credential as keyturn is told it.
	told func(*script)
	// types changes what keyturn is given to reach the world.
	types func(*memory.World, *providers.Descriptor)
	// activity wraps every activity: it may change the input, and how it is called.
	activity func(name string, in []any, call func([]any) (any, error)) (any, error)
	// audit wraps the sink.
	audit func(audit.Sink) audit.Sink
}

// play is a script that is played: the world, a Temporal test environment with skipped time, and the ledgers.
// It runs in a synctest bubble, so that waiting takes no time.
type play struct {
	script script
	plant  plant
	env    *testsuite.TestWorkflowEnvironment
	world  *memory.World
	record *record

	mu       sync.Mutex
	calls    map[string]int
	befell   map[string]bool // what was reached, for the count of rare states
	attempts map[string]int32
	canceled map[string]context.CancelFunc // by activity ID; nil once it is cancelled
	stalled  map[string]time.Duration      // by activity ID: how long its attempts got no answer
	ticking  atomic.Bool
	running  atomic.Int32 // attempts
	over     atomic.Bool
	intruded atomic.Bool
	gates    map[time.Time]bool // whether people decided on them, by when they were opened
	wakes    int                // how often somebody undeclared was refused
	acted    map[int]bool       // which acts that wait for a phase are done
	stuck    string             // what the run waited for when it was given up
	before   invariant.Before
	seer     invariant.InMemory

	clock, moved, latest time.Time // see now
}

// record is the audit record in memory, which keeps what a file would.
type record struct {
	mu     sync.Mutex
	seen   map[string]bool
	events []audit.Event
	befall func(context.Context, memory.Call) error
}

func (r *record) Append(ctx context.Context, events ...audit.Event) error {
	if len(events) == 0 {
		return nil
	}
	if err := r.befall(ctx, memory.Call{Op: opAudit, Phase: memory.Before}); err != nil {
		return err
	}
	r.mu.Lock()
	for _, e := range events {
		if !r.seen[e.ID] {
			r.seen[e.ID] = true
			r.events = append(r.events, e)
		}
	}
	r.mu.Unlock()
	return r.befall(ctx, memory.Call{Op: opAudit, Phase: memory.After})
}

// The clock moves by these while activities run. They are odd, so that two things seldom fall on one moment.
const (
	tick    = 700_000_003 * time.Nanosecond
	traffic = 30_000_000_007 * time.Nanosecond
	poll    = time.Second
)

// perform plays a script, and returns what was seen.
func perform(s script, p plant) (*play, invariant.Seen, error) {
	pl := &play{
		script: s, plant: p, record: &record{seen: map[string]bool{}}, calls: map[string]int{}, befell: map[string]bool{}, attempts: map[string]int32{},
		canceled: map[string]context.CancelFunc{}, stalled: map[string]time.Duration{}, gates: map[time.Time]bool{}, acted: map[int]bool{},
	}
	if err := pl.set(); err != nil {
		return pl, invariant.Seen{}, err
	}
	report, err := pl.rotate()
	if err != nil {
		return pl, invariant.Seen{}, err
	}
	return pl, pl.seen(report), nil
}

// set builds the world and the environment.
func (p *play) set() error {
	p.env = temporaltest.NewEnvironment(&attendant{play: p})
	p.env.SetStartWorkflowOptions(client.StartWorkflowOptions{ID: workflows.WorkflowID("payments-api"), TaskQueue: workflows.TaskQueue})
	p.env.SetOnActivityCanceledListener(func(info *activity.Info) { p.cancel(info.ActivityID) })
	p.world = memory.NewWorld(p.now)
	p.record.befall = p.befall

	descriptors := []providers.Descriptor{p.world.Descriptor(), p.world.PullDescriptor()}
	if p.plant.types != nil {
		for i := range descriptors {
			p.plant.types(p.world, &descriptors[i])
		}
	}
	catalog := all.Catalog(descriptors...)
	told := p.script
	if p.plant.told != nil {
		p.plant.told(&told)
	}
	inv, err := inventory.Load("inventory.yaml", []byte(inventoryOf(told)), catalog)
	if err != nil {
		return err
	}
	config, err := workerconfig.Load("keyturn-worker.yaml", []byte(workerConfig), descriptors)
	if err != nil {
		return err
	}
	var sink audit.Sink = p.record
	if p.plant.audit != nil {
		sink = p.plant.audit(sink)
	}
	p.env.RegisterActivity(&activities.Activities{
		Config: func() *workerconfig.Config { return config }, Descriptors: descriptors, Catalog: catalog, Audit: sink,
		AllowUnsigned: true, Now: p.now, PollEvery: poll,
	})
	spec, err := inventory.NewSpec(inventory.Spec{Inventory: "payments", Generation: 100, Credential: inv.Credentials[0]})
	if err != nil {
		return err
	}
	p.env.RegisterWorkflowWithOptions(p.rotation(spec), workflow.RegisterOptions{Name: "rotation"})
	var act *activities.Activities
	p.env.OnActivity(act.ProveDeclaration, mock.Anything, mock.Anything).Return(activities.Declared{
		By: "ines", Declaration: incident.Declaration{Incident: "incident/leak", Reason: "a leak"},
	}, nil)
	if err := p.populate(); err != nil {
		return err
	}
	p.seer = invariant.InMemory{World: p.world, Principal: principal, Path: p.script.path(), Before: p.before, From: len(p.world.Ledger())}
	p.world.Befall(p.befall)
	return nil
}

// rotation is the workflow, and after it some time in which what was cancelled comes to rest.
func (p *play) rotation(spec inventory.SignedSpec) func(workflow.Context) (workflows.Report, error) {
	return func(ctx workflow.Context) (workflows.Report, error) {
		var report workflows.Report
		var err error
		ended := false
		workflow.Go(ctx, func(ctx workflow.Context) {
			report, err = workflows.Rotation(ctx, workflows.RotationInput{Spec: spec})
			if workflow.IsContinueAsNewError(err) { // what its emergency does is none of the rotation's
				report, err = p.handedOver(err)
			}
			ended = true
		})
		own, _ := workflow.NewDisconnectedContext(ctx)
		_ = workflow.Await(own, func() bool { return ended || p.stuck != "" })
		p.over.Store(true)
		_ = workflow.Sleep(own, time.Hour)
		return report, err
	}
}

// handedOver is how a rotation stands that becomes an emergency.
func (p *play) handedOver(err error) (workflows.Report, error) {
	var next *workflow.ContinueAsNewError
	if !errors.As(err, &next) || next.WorkflowType.Name != "EmergencyRotation" {
		return workflows.Report{}, err
	}
	var in workflows.RotationInput
	if err := converter.GetDefaultDataConverter().FromPayloads(next.Input, &in); err != nil {
		return workflows.Report{}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.befell["taken over"] = true
	report := in.Carried.Report
	report.Outcome, report.Reason, report.Message = workflows.Superseded, workflows.Exposed, "taken over by incident/leak"
	report.Timeline = in.Carried.Status.Timeline
	return report, nil
}

func (p *play) populate() error {
	s := p.script
	ctx := context.Background()
	settings := memory.PrincipalSettings{
		KnowsTokens: s.tokens,
		Capabilities: key.Capabilities{
			Slots: s.slots, CanDisable: s.canDisable, CanNarrow: true, ReportsUsage: s.reportsUsage, ReportsRefusals: s.reportsUsage, UsageLag: s.lag, ConsistentWithin: s.consistentWithin,
		},
	}
	p.world.SetPrincipal(principal, memory.Strict())
	long := p.env.Now().Add(-time.Hour)
	bundle := p.world.AddKey(principal, first, long)
	p.before = invariant.Before{Slots: s.slots, Current: first, Keys: []invariant.Key{{ID: first, State: key.Active, Standing: invariant.Ours}}}
	if s.adopted {
		p.before.Keys[0].Standing = invariant.Adopted
	} else {
		p.before.Version = p.world.AddVersion(principal, bundle)
	}
	if s.stranger != "" {
		p.world.AddKey(principal, "stranger", long)
		state := key.Active
		if s.stranger == "disabled" {
			state = key.Disabled
			if err := p.world.Issuer(principal).(providers.Disabler).Disable(ctx, key.Ref{KeyID: "stranger"}); err != nil {
				return err
			}
		}
		p.before.Keys = append(p.before.Keys, invariant.Key{ID: "stranger", State: state, Standing: invariant.Stranger})
	}
	p.world.SetPrincipal(principal, settings)
	waves := s.waves()
	for _, c := range s.consumers {
		for _, i := range c.instances {
			name := c.instance(i)
			settings := memory.InstanceSettings{
				Caches: c.cacheTTL, ReloadAfter: s.reload[name], NeverReloads: name == s.never, KeepsCopies: len(name)%2 == 0}
			declared := invariant.Instance{Name: name, Wave: waves[name], Holds: first, Batch: c.longestRun > 0}
			if c.purge {
				settings.Caches = 1000 * time.Hour
			}
			if c.longestRun > 0 {
				settings.RunsEvery, settings.RunsFor = 3*c.longestRun, c.longestRun
			}
			if c.pulls {
				settings.Store, settings.KeepsCopies = s.path(), false
				if c.wave == "canary" {
					settings.Label = key.Pending
				} else {
					declared.Wave, declared.Follows = len(s.consumers)+len(s.steps), true // all of them follow the promotion at once
				}
			}
			p.world.SetInstance(name, settings)
			p.world.Give(name, bundle)
			p.before.Instances = append(p.before.Instances, declared)
			p.outages(name, settings)
		}
	}
	p.world.SetInstance("undeclared", memory.InstanceSettings{})
	p.world.Give("undeclared", bundle)
	p.world.SetInstance("broken", memory.InstanceSettings{}) // it has no key: each request is refused
	if s.leftover {
		store := p.world.Store(s.path())
		if _, err := store.PutMetadata(ctx, key.Metadata{Intents: []key.Intent{{
			Rotation: "terminated", Ordinal: 1, At: p.env.Now(), Within: policy.MintWithin, Known: p.known(),
		}}}); err != nil {
			return err
		}
		issued, err := p.world.Issuer(principal).Issue(ctx, providers.IssueRequest{Token: policy.Token("terminated", 1)})
		if err != nil && !errors.Is(err, providers.ErrSlotsFull) {
			return err
		}
		if err == nil {
			p.before.Keys = append(p.before.Keys, invariant.Key{ID: issued.Key.KeyID, State: key.Active, Standing: invariant.Ours})
		}
	}
	return nil
}

func (p *play) known() (ids []string) {
	for _, k := range p.before.Keys {
		ids = append(ids, k.ID)
	}
	return ids
}

// now is the environment's clock, which stands still while an activity waits, and what has passed in the bubble
// since it last moved.
func (p *play) now() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	if told := p.env.Now(); told.After(p.clock) {
		p.clock, p.moved = told, time.Now()
	}
	now := p.clock.Add(time.Since(p.moved))
	if now.After(p.latest) {
		p.latest = now
	}
	return p.latest
}

// keepTime lets the environment's clock follow while activities wait.
func (p *play) keepTime() {
	if !p.ticking.Swap(true) {
		p.env.RegisterDelayedCallback(func() {
			p.ticking.Store(false)
			p.now()
			if p.running.Load() > 0 {
				p.keepTime()
			}
		}, tick)
	}
}

// rotate runs the rotation to its end.
func (p *play) rotate() (report *workflows.Report, err error) {
	p.env.RegisterDelayedCallback(func() { p.flow(p.env.Now()) }, traffic)
	for _, a := range p.script.acts {
		if a.in != "" {
			continue
		}
		p.env.RegisterDelayedCallback(func() {
			if !p.over.Load() {
				p.act(a)
			}
		}, a.after)
	}
	p.env.ExecuteWorkflow("rotation")
	if p.stuck != "" {
		var st workflows.Status
		if json.Unmarshal([]byte(p.stuck), &st) == nil && st.Phase == workflows.PhaseRollback {
			return &workflows.Report{Outcome: workflows.Failed, Message: "the rollback did not end, and waits for " + st.WaitsFor, Timeline: st.Timeline}, nil
		}
		return nil, fmt.Errorf("the run did not end: %s", p.stuck)
	}
	var r workflows.Report
	failure := p.env.GetWorkflowError()
	var ended *temporal.ApplicationError
	switch {
	case errors.As(failure, &ended) && ended.Type() == workflows.FailedType:
		return &r, ended.Details(&r)
	case failure != nil:
		return nil, failure
	}
	return &r, p.env.GetWorkflowResult(&r)
}

// seen is what the ledgers tell at the end.
func (p *play) seen(report *workflows.Report) invariant.Seen {
	s := p.script
	seen := invariant.Seen{Before: p.seer.Before, Report: report, Trail: audit.Trail{Events: p.record.events}}
	seen.Policy = invariant.Policy{
		Lag: s.lag, Overlap: s.overlap, WaveSoak: s.waveSoak, DisableSoak: s.disableSoak, CanDisable: s.canDisable, Approvals: s.approvals,
		Slack: 2 * time.Minute, MayFail: p.mayFail(),
	}
	// One in six requests or more is refused, which the error budget shows within its window.
	seen.Policy.Noticed = budgetWindow + watched
	if s.reportsUsage {
		// The use of the disabled key shows at the next look, of which one may hang.
		seen.Policy.Quiet, seen.Policy.Noticed = s.quiet, watched+time.Minute
	}
	seen.Events = p.seer.Events()
	seen.End = p.seer.End(seen.Events)
	return seen
}

// mayFail tells whether the world has trouble that no rollback outlasts.
func (p *play) mayFail() bool { return p.script.adopted }

// ledger is all that happened, for people.
func (p *play) ledger() (lines []string) {
	for _, e := range p.world.Ledger() {
		lines = append(lines, e.At.Format(time.RFC3339Nano)+" "+line(e))
	}
	return lines
}

// course is what happened to each part of the world, in its order: to issuer and store, and to each instance. It is the
// same whenever a seed is played.
func (p *play) course() map[string][]string {
	parts := map[string][]string{}
	for _, e := range p.world.Ledger() {
		if e.Op != memory.OpNotify { // people are told beside everything else
			parts[e.Instance] = append(parts[e.Instance], line(e))
		}
	}
	return parts
}

func line(e memory.Event) string {
	return strings.Join(strings.Fields(fmt.Sprintf("%s %s %s %s %s", e.Op, e.KeyID, e.Version, e.From, e.Instance)), " ")
}
