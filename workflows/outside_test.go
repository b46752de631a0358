package workflows_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/internal/temporaltest"
	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/memory"
	"github.com/keyturn/keyturn/tests/invariant"
	"github.com/keyturn/keyturn/workflows"
)

// Others act on issuer, store and consumers in the middle of a rotation, at each of its steps, and nobody tells keyturn. It may
// pause, refuse or fail then, and says so; but nobody is sent to a key that is refused, none in use is taken away, and none goes
// while there is no other that works.

// step does something right before a run asks for its n-th activity. Its run has the ID, if it is to have one.
type step struct {
	interceptor.WorkerInterceptorBase
	id    string
	at, n int
	do    func(name string)
	again int // which one is asked for again then
	asked []asked
}

// asked is an activity that a run asked for.
type asked struct {
	name string
	args []any
}

func (s *step) InterceptWorkflow(ctx workflow.Context, next interceptor.WorkflowInboundInterceptor) interceptor.WorkflowInboundInterceptor {
	return between(temporaltest.OfRun(s.id).InterceptWorkflow(ctx, next), func(out interceptor.WorkflowOutboundInterceptor) interceptor.WorkflowOutboundInterceptor {
		return &stepOutbound{WorkflowOutboundInterceptorBase: interceptor.WorkflowOutboundInterceptorBase{Next: out}, step: s}
	})
}

func (s *step) InterceptActivity(ctx context.Context, next interceptor.ActivityInboundInterceptor) interceptor.ActivityInboundInterceptor {
	return temporaltest.OfRun(s.id).InterceptActivity(ctx, next)
}

type stepOutbound struct {
	interceptor.WorkflowOutboundInterceptorBase
	step *step
}

func (s *stepOutbound) ExecuteActivity(ctx workflow.Context, name string, args ...any) workflow.Future {
	s.step.asked = append(s.step.asked, asked{name, args})
	if s.step.n++; s.step.n == s.step.at {
		if s.step.do != nil {
			s.step.do(name)
		}
		if s.step.again > 0 {
			earlier := s.step.asked[s.step.again-1]
			s.Next.ExecuteActivity(ctx, earlier.name, earlier.args...)
		}
	}
	return s.Next.ExecuteActivity(ctx, name, args...)
}

// outsider is what others do, and for how long keyturn has to do with it.
type outsider struct {
	*stage
	hands  [][2]int // the parts of the ledger that are theirs
	from   int      // how long the ledger was before
	others bool
	// mayFail: an end may be one that needs people.
	mayFail bool
}

// byHand does something that is not keyturn's doing.
func (o *outsider) byHand(do func(ctx context.Context)) {
	from := len(o.world.Ledger())
	do(context.Background())
	o.hands = append(o.hands, [2]int{from, len(o.world.Ledger())})
}

// incoming is the key that was minted last; none when zero.
func (o *outsider) incoming() (ref key.Ref) {
	for _, e := range o.world.Happened(memory.OpIssue) {
		if e.KeyID != "key-old" {
			ref = key.Ref{Principal: "payments-api", KeyID: e.KeyID}
		}
	}
	return ref
}

func (o *outsider) disable(ref key.Ref, on bool) {
	o.byHand(func(ctx context.Context) {
		issuer := o.world.Issuer("payments-api").(providers.Disabler)
		if on {
			_ = issuer.Disable(ctx, ref) // or it is not there
		} else {
			_ = issuer.Enable(ctx, ref)
		}
	})
}

func (o *outsider) destroy(ref key.Ref) {
	o.byHand(func(ctx context.Context) { _ = o.world.Issuer("payments-api").Destroy(ctx, ref) })
}

// principal changes what the issuer is like.
func (o *outsider) principal(change func(*memory.PrincipalSettings)) {
	settings := memory.Strict()
	settings.UsageLag = time.Minute
	change(&settings)
	o.world.SetPrincipal("payments-api", settings)
}

// denies has calls of some operations denied, from now on, or not any more.
func (o *outsider) denies(ops ...memory.Op) {
	o.world.Befall(func(_ context.Context, c memory.Call) error {
		if c.Phase == memory.Before && slices.Contains(ops, c.Op) {
			return providers.ErrDenied
		}
		return nil
	})
}

var oldKey = key.Ref{Principal: "payments-api", KeyID: "key-old"}

// outsiders are what others do at a step, and how it is mended half an hour later; what has no mending lasts.
var outsiders = map[string]struct{ do, mend func(*outsider) }{
	"somebody disables the retiring key": {
		func(o *outsider) { o.disable(oldKey, true) }, func(o *outsider) { o.disable(oldKey, false) }},
	"somebody disables the incoming key": {
		func(o *outsider) { o.disable(o.incoming(), true) }, func(o *outsider) { o.disable(o.incoming(), false) }},
	"somebody destroys the retiring key": {func(o *outsider) { o.destroy(oldKey) }, nil},
	"somebody destroys the incoming key": {func(o *outsider) { o.destroy(o.incoming()) }, nil},
	"somebody enables what is disabled":  {func(o *outsider) { o.disable(oldKey, false) }, nil},
	"CURRENT becomes what is no key": {func(o *outsider) {
		o.byHand(func(context.Context) {
			o.world.AddVersion("payments-api", secret.NewBundle(map[string]secret.Value{secret.ValueField: secret.New([]byte("what another owner put there"))}))
		})
	}, nil},
	"the issuer's clock goes hours ahead": {func(o *outsider) { o.principal(func(s *memory.PrincipalSettings) { s.ClockSkew = 3 * time.Hour }) }, nil},
	"the issuer's clock goes hours behind": {
		func(o *outsider) { o.principal(func(s *memory.PrincipalSettings) { s.ClockSkew = -3 * time.Hour }) }, nil},
	"nobody reports uses any more": {
		func(o *outsider) { o.principal(func(s *memory.PrincipalSettings) { s.ReportLag = 100 * time.Hour }) },
		func(o *outsider) { o.principal(func(*memory.PrincipalSettings) {}) }},
	"somebody whom nobody declared uses the retiring key": {func(o *outsider) {
		o.world.SetInstance("undeclared", memory.InstanceSettings{})
		o.use([]string{"undeclared"}, 40*time.Minute)
	}, nil},
	"an instance says nothing for forty questions": {func(o *outsider) {
		var asked atomic.Int32
		o.world.Befall(func(_ context.Context, c memory.Call) error {
			if c.Op == memory.OpAttest && c.Instance == "checkout-a" && c.Phase == memory.Before && asked.Add(1) <= 40 {
				return errors.New("no answer")
			}
			return nil
		})
	}, nil},
	"every test of a key is refused, whatever the issuer lists": {
		func(o *outsider) {
			o.world.Befall(func(_ context.Context, c memory.Call) error {
				if c.Op == memory.OpSelfTest && c.Phase == memory.Before {
					return fmt.Errorf("%w: at the edge", providers.ErrKeyRefused)
				}
				return nil
			})
		}, func(o *outsider) { o.denies() }},
	"the worker may do nothing there any more": {
		func(o *outsider) { o.configure(strings.ReplaceAll(worldConfig, `"payments-*"`, `"others-*"`)) },
		func(o *outsider) { o.configure(worldConfig) }},
	"the issuer denies what changes keys": {
		func(o *outsider) { o.denies(memory.OpIssue, memory.OpDisable, memory.OpEnable, memory.OpDestroy) }, func(o *outsider) { o.denies() }},
	"the store denies every write": {
		func(o *outsider) { o.denies(memory.OpStage, memory.OpPromote, memory.OpPrune, memory.OpPutMetadata) }, func(o *outsider) { o.denies() }},
}

// people do what those do who look at a rotation now and then: they approve, and when it stands for an hour they turn it back.
func (o *outsider) people() {
	o.every(time.Minute, 30*time.Hour, func() {
		if gate := o.status().Gate; gate != nil && len(gate.Approvals) < gate.Needs.Count {
			o.env.SignalWorkflow(workflows.ApproveName, policy.Request{Gate: gate.Gate, By: []string{"ann", "ben"}[len(gate.Approvals)]})
		}
	})
	var at string
	since := o.env.Now()
	o.every(10*time.Minute, 30*time.Hour, func() {
		status := o.status()
		now := o.env.Now()
		if place := string(status.Phase) + status.Doing; place != at {
			at, since = place, now
		}
		if now.Sub(since) >= time.Hour {
			since = now
			o.env.SignalWorkflow(workflows.RollbackName, policy.Request{By: "ann", Reason: "it does not go on"})
		}
	})
}

// courses are a rotation, and one that somebody turns back.
var courses = map[string]func(*outsider){
	"a rotation": func(*outsider) {},
	"a rollback": func(o *outsider) {
		o.at(14*time.Minute, func() { o.env.SignalWorkflow(workflows.RollbackName, policy.Request{By: "ann", Reason: "errors"}) })
	},
}

// undisturbed are the activities of a course that nobody disturbs.
func undisturbed(t *testing.T, course func(*outsider)) []asked {
	t.Helper()
	o, whole := &outsider{stage: newStage(t)}, &step{}
	o.plays(course, whole)
	o.judge()
	require.Greater(t, whole.n, 10)
	return whole.asked
}

// plays prepares a course.
func (o *outsider) plays(course func(*outsider), steps ...interceptor.WorkerInterceptor) {
	o.coarse()
	o.from = len(o.world.Ledger())
	o.anew(steps...)
	o.traffic(5 * time.Hour)
	o.people()
	course(o)
}

func TestWhateverOthersDoAtEachStep(t *testing.T) {
	t.Parallel()
	thin := thinned{every: 4}
	for what, course := range courses {
		steps := undisturbed(t, course)
		for name, other := range outsiders {
			for n, activity := range steps {
				if thin.out() {
					continue
				}
				t.Run(fmt.Sprintf("%s, %s before %s (%d)", what, name, activity.name, n+1), func(t *testing.T) {
					t.Parallel()
					o := &outsider{stage: newStage(t)}
					o.world.SetInstance("undeclared", memory.InstanceSettings{})
					held, _ := o.world.Held("canary")
					o.world.Give("undeclared", held)
					o.others = true
					o.plays(course, &step{at: n + 1, do: func(string) {
						other.do(o)
						if other.mend != nil {
							o.at(30*time.Minute, func() { other.mend(o) })
						}
					}})
					if o.judge().Outcome == workflows.Failed {
						o.mended(other.mend)
					}
				})
			}
		}
	}
}

// mended rotates again after a rotation that failed, once what others did is undone: nothing that it left is in the way of the next one.
func (o *outsider) mended(mend func(*outsider)) {
	if mend != nil {
		mend(o)
	}
	report, err := o.over(workflows.RotationInput{Spec: o.spec()}, &step{id: "second"})
	require.NoError(o.t, err)
	if report.Outcome == workflows.Refused { // CURRENT is what another owner put there, and only people know why
		assert.Contains(o.t, o.t.Name(), "CURRENT_becomes_what_is_no_key", report.Message)
		assert.Equal(o.t, policy.RetiringKeyNotLive, report.Reason, report.Message)
		return
	}
	assert.Equal(o.t, workflows.Completed, report.Outcome, report.Message)
	assert.Len(o.t, o.keys(), 1)
	for _, name := range fleet {
		assert.NoError(o.t, o.world.Request(name))
	}
}

// played is how the course ends, within three days.
func (o *outsider) played() workflows.Report {
	o.t.Helper()
	o.env.SetWorkflowRunTimeout(72 * time.Hour)
	report, err := o.execute(workflows.RotationInput{Spec: o.spec()})
	var endless *temporal.TimeoutError
	if errors.As(err, &endless) {
		status := o.status()
		require.Fail(o.t, "it does not end", "%s: it waits for %s; %v", status.Doing, status.WaitsFor, status.Timeline)
	}
	if err != nil {
		report = o.failure(err)
	}
	return report
}

// judge plays the course to its end, and holds the ledger against the invariants.
func (o *outsider) judge() workflows.Report {
	o.t.Helper()
	report := o.played()
	o.stood.Add(int64(time.Hour)) // so that all uses are told
	o.principal(func(*memory.PrincipalSettings) {})
	c := o.credential
	before := invariant.Before{
		Slots: 2, Current: "key-old", Version: o.first, Keys: []invariant.Key{{ID: "key-old", State: key.Active, Standing: invariant.Ours}},
		Instances: []invariant.Instance{{Name: "canary", Holds: "key-old"}, {Name: "checkout-a", Wave: 1, Holds: "key-old"}, {Name: "checkout-b", Wave: 1, Holds: "key-old"}},
	}
	seer := invariant.InMemory{World: o.world, Principal: "payments-api", Path: "payments-api", Before: before, From: o.from, Theirs: func(e memory.Event) bool {
		return slices.ContainsFunc(o.hands, func(h [2]int) bool { return h[0] < e.Seq && e.Seq <= h[1] })
	}}
	seen := invariant.Seen{
		Before: before, Report: &report, Others: o.others, Events: seer.Events(),
		Policy: invariant.Policy{
			Quiet: c.QuietWindow.Std(), Lag: time.Minute, Overlap: c.Overlap.Std(), WaveSoak: c.WaveSoak.Std(), DisableSoak: c.DisableSoak.Std(),
			CanDisable: true, Approvals: 1, Slack: 2 * time.Minute, MayFail: o.mayFail,
		},
	}
	seen.End = seer.End(seen.Events)
	var err error
	seen.Trail, err = audit.Read(o.auditFile)
	require.NoError(o.t, err)
	violations := invariant.Check(seen)
	for _, v := range violations {
		o.t.Error(v)
	}
	if len(violations) == 0 {
		return report
	}
	o.t.Logf("%s: %s", report.Outcome, report.Message)
	for _, e := range seen.Events {
		if e.Kind != invariant.Used && e.Kind != invariant.Refused {
			by := ""
			if e.Theirs {
				by = "by others"
			}
			o.t.Log(e.At.Format(time.TimeOnly), e.Kind, o.named(e.Key), e.Version, e.Instance, by)
		}
	}
	for _, line := range report.Timeline {
		o.t.Log(line.At.Format(time.TimeOnly), line)
	}
	return report
}

// A process that stands still at any of its looks at the store, as long as others need to act, judges again by what is so then.
func TestAProcessThatStandsStill(t *testing.T) {
	t.Parallel()
	thin := thinned{every: 4}
	looks := func(o *outsider, at int, then func()) *atomic.Int32 {
		var n atomic.Int32
		o.world.On(memory.OpMetadata, func(p memory.Phase) {
			if p == memory.Before && int(n.Add(1)) == at {
				then()
			}
		})
		return &n
	}
	for what, course := range courses {
		whole := &outsider{stage: newStage(t)}
		all := looks(whole, 0, nil)
		whole.plays(course)
		whole.judge()
		for name, do := range map[string]func(*outsider){
			"the incoming key is disabled":  func(o *outsider) { o.disable(o.incoming(), true) },
			"the retiring key is disabled":  func(o *outsider) { o.disable(oldKey, true) },
			"the incoming key is destroyed": func(o *outsider) { o.destroy(o.incoming()) },
		} {
			for at := 1; at <= int(all.Load()); at++ {
				if thin.out() {
					continue
				}
				t.Run(fmt.Sprintf("%s, at look %d, and %s", what, at, name), func(t *testing.T) {
					t.Parallel()
					o := &outsider{stage: newStage(t)}
					o.others = true
					looks(o, at, func() {
						o.stood.Add(int64(10 * time.Minute))
						do(o)
						o.at(30*time.Minute, func() { // whom it was told of enables it
							o.disable(oldKey, false)
							o.disable(o.incoming(), false)
						})
					})
					o.plays(course)
					o.judge()
				})
			}
		}
	}
}

// An activity that comes again later, from a twin that stood still or from whoever may write to the namespace, does what is right
// then, or nothing.
func TestAnActivityThatComesAgainLater(t *testing.T) {
	t.Parallel()
	thin := thinned{every: 4}
	for what, course := range courses {
		all := undisturbed(t, course)
		for later := 1; later < len(all); later++ {
			for earlier := range later {
				if thin.out() {
					continue
				}
				t.Run(fmt.Sprintf("%s, %s (%d) before %s (%d)", what, all[earlier].name, earlier+1, all[later].name, later+1), func(t *testing.T) {
					t.Parallel()
					o := &outsider{stage: newStage(t), mayFail: all[earlier].name == "Issue"} // another key may be minted, which is debt
					o.plays(course, &step{at: later + 1, again: earlier + 1})
					o.judge()
					assert.Zero(t, o.refused())
				})
			}
		}
	}
}
