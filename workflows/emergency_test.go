package workflows_test

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/workflow"
	"golang.org/x/crypto/ssh"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/incident"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/temporaltest"
	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/memory"
	"github.com/keyturn/keyturn/workflows"
)

// crisis is a stage whose worker trusts one person to declare incidents.
type crisis struct {
	*stage
	ines ssh.Signer
	// told are the ends that emergencies told incidents of.
	told []workflows.EmergencyNews
}

func newCrisis(t *testing.T) *crisis {
	t.Helper()
	c := &crisis{stage: newStage(t)}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	c.ines, err = ssh.NewSignerFromKey(private)
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "incidents")
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, "ines %s", ssh.MarshalAuthorizedKey(c.ines.PublicKey())), 0o600))
	c.configure(worldConfig + fmt.Sprintf("freeze: [{type: memory}]\ntrust: {incidents: %q}\n", file))
	c.hears()
	c.query = func(string) (converter.EncodedValue, error) {
		return temporaltest.Answer{Of: map[string]any{"incidents": []string{incident.ID("leak")}}}, nil
	}
	return c
}

// hears has the environment take what emergencies tell incidents.
func (c *crisis) hears() {
	c.env.RegisterWorkflow(workflows.EmergencyRotation)
	c.env.OnSignalExternalWorkflow(mock.Anything, mock.Anything, mock.Anything, workflows.NewsName, mock.Anything).Return(
		func(_, _, _, _ string, told any) error {
			if news := told.(workflows.EmergencyNews); news.Report.Outcome != "" {
				c.told = append(c.told, news)
			}
			return nil
		})
}

// declared is a declaration that these keys are exposed, signed by one who may, but for how it was changed.
func (c *crisis) declared(keys []string, change ...func(*incident.Declaration)) *workflows.Emergency {
	c.t.Helper()
	now := c.env.Now().UTC()
	d := incident.Declaration{
		Incident: incident.ID("leak"), Reason: "key in a public repository", Deadline: incident.DefaultDeadline,
		Exposed: map[string][]string{"payments-api": keys}, Nonce: "n1", SignedAt: now, Expires: now.Add(time.Hour),
	}
	for _, one := range change {
		one(&d)
	}
	signed, err := d.Sign(c.ines)
	require.NoError(c.t, err)
	return &workflows.Emergency{Emergency: activities.Emergency{Declaration: signed, Since: now}, Incidents: []string{d.Incident}}
}

// emergency runs the emergency of the credential, with traffic.
func (c *crisis) emergency(in workflows.RotationInput) (workflows.Report, error) {
	c.t.Helper()
	c.env.ExecuteWorkflow(workflows.EmergencyRotation, in)
	require.True(c.t, c.env.IsWorkflowCompleted())
	var report workflows.Report
	err := c.env.GetWorkflowError()
	if err == nil {
		err = c.env.GetWorkflowResult(&report)
	}
	return report, err
}

// An exposed key is dead within moments, and nobody is refused who has another one by then.
func TestAnEmergency(t *testing.T) {
	t.Parallel()
	c := newCrisis(t)
	c.traffic(time.Hour)
	calls, contained := 0, false
	c.env.SetOnActivityStartedListener(func(info *activity.Info, _ context.Context, _ converter.EncodedValues) {
		if !info.IsLocalActivity && !contained && info.ActivityType.Name != "Notify" && info.ActivityType.Name != "Log" { // those are on the common queue
			calls++
			contained = info.ActivityType.Name == "Contain"
		}
	})
	report, err := c.emergency(workflows.RotationInput{Spec: c.spec(), Emergency: c.declared([]string{"key-old"})})
	require.NoError(t, err)
	assert.Equal(t, workflows.Completed, report.Outcome, report.Message)
	assert.Equal(t, workflows.LeastCalls(1), calls)
	assert.Equal(t, []string{"new-1 active"}, c.keys())
	assert.Equal(t, []string{"issue new-1", "promote ", "destroy key-old"}, c.happened(memory.OpIssue, memory.OpPromote, memory.OpDestroy))
	require.Len(t, report.Contained, 1)
	assert.Less(t, report.Contained[0].At.Sub(c.began), 5*time.Minute)
	assert.Contains(t, report.Contained[0].Probe, "refused by the issuer's self-test")
	assert.Zero(t, c.refused())
	require.Len(t, c.told, 1)
	assert.Equal(t, "payments-api", c.told[0].Credential)
	assert.Nil(t, c.metadata().Incident, "the declaration is used up")
}

// A worker that dies in an emergency is missed within moments, whatever it was doing.
func TestAWorkerThatDiesInAnEmergencyIsMissedSoon(t *testing.T) {
	t.Parallel()
	c := newCrisis(t)
	c.traffic(time.Hour)
	missed := map[string]time.Duration{}
	c.env.SetOnActivityStartedListener(func(info *activity.Info, _ context.Context, _ converter.EncodedValues) {
		missed[info.ActivityType.Name] = cmp.Or(info.HeartbeatTimeout, info.Deadline.Sub(info.StartedTime).Round(time.Second))
	})
	_, err := c.emergency(workflows.RotationInput{Spec: c.spec(), Emergency: c.declared([]string{"key-old"})})
	require.NoError(t, err)
	for _, name := range []string{"AssessExposure", "Issue", "DeliverWave", "Promote", "Contain", "Record"} {
		assert.NotZero(t, missed[name], name)
		assert.LessOrEqual(t, missed[name], 20*time.Second, name)
	}
}

// Without a deadline the exposed key is dead at once, before there is another one; whoever used it gets that as soon as it is there. A
// rollback, and a cancellation, lead nowhere.
func TestAnEmergencyThatRevokesFirst(t *testing.T) {
	t.Parallel()
	c := newCrisis(t)
	c.at(0, func() {
		c.env.SignalWorkflow(workflows.RollbackName, policy.Request{By: "ann", Reason: "stop"})
		c.env.CancelWorkflow()
	})
	report, err := c.emergency(workflows.RotationInput{Spec: c.spec(), Emergency: c.declared([]string{"key-old"}, func(d *incident.Declaration) { d.Deadline = 0 })})
	require.NoError(t, err)
	assert.Equal(t, workflows.Completed, report.Outcome, report.Message)
	assert.Equal(t, []string{"destroy key-old", "issue new-1", "promote "}, c.happened(memory.OpIssue, memory.OpPromote, memory.OpDestroy))
	assert.Equal(t, []string{"new-1 active"}, c.keys())
	for _, name := range fleet {
		assert.NoError(t, c.world.Request(name))
	}
	for _, v := range report.Verdicts {
		assert.False(t, v.Accepted, v.Message)
	}
}

// Where all slots are taken, what is exposed ends first, and no unrelated key: of two exposed ones that which consumers are not sent to.
func TestAnEmergencyWithAllSlotsTaken(t *testing.T) {
	t.Parallel()
	t.Run("by a key of somebody else's", func(t *testing.T) {
		t.Parallel()
		c := newCrisis(t)
		c.world.AddKey("payments-api", "stranger", c.began)
		report, err := c.emergency(workflows.RotationInput{Spec: c.spec(), Emergency: c.declared([]string{"key-old"})})
		require.NoError(t, err)
		assert.Equal(t, []string{"destroy key-old", "issue new-1", "promote "}, c.happened(memory.OpIssue, memory.OpPromote, memory.OpDestroy))
		assert.Equal(t, []string{"stranger active", "new-1 active"}, c.keys())
		assert.Less(t, report.Contained[0].At.Sub(c.began), time.Minute)
		assert.Len(t, report.Contained, 1, "it is said once")
		for _, name := range fleet {
			assert.NoError(t, c.world.Request(name))
		}
	})
	t.Run("by both keys of a rotation in its overlap", func(t *testing.T) {
		t.Parallel()
		c := newCrisis(t)
		c.traffic(2 * time.Hour)
		c.in("overlap", 10*time.Minute, func() {
			var now workflows.Status
			value, err := c.env.QueryWorkflow(workflows.StatusName)
			require.NoError(t, err)
			require.NoError(t, value.Get(&now))
			c.env.SignalWorkflow(workflows.CompromisedName, workflows.Compromised{Incident: incident.ID("leak"), Emergency: c.declared([]string{now.Retiring.KeyID, now.Incoming.KeyID})})
		})
		_, err := c.execute(workflows.RotationInput{Spec: c.spec()})
		c.allFell()
		next, goesOn := c.next(err)
		require.True(t, goesOn, "%v", err)
		since := c.env.Now()
		c.anew()
		c.hears()
		c.traffic(time.Hour)
		report, err := c.emergency(next)
		require.NoError(t, err)
		assert.Equal(t, workflows.Completed, report.Outcome, report.Message)
		assert.Equal(t, []string{"destroy key-old", "issue new-2", "promote ", "destroy new-1"}, c.happened(memory.OpIssue, memory.OpPromote, memory.OpDestroy)[2:])
		assert.Equal(t, []string{"new-2 active"}, c.keys())
		require.Len(t, report.Contained, 2)
		assert.Less(t, report.Contained[1].At.Sub(since), 5*time.Minute)
		assert.Zero(t, c.refused())
	})
}

// Whoever holds the credential without renewing that is waited for, and then the exposed key ends: an emergency does not give up.
func TestAnEmergencyThatAnotherRunHolds(t *testing.T) {
	t.Parallel()
	c := newCrisis(t)
	m := c.metadata()
	m.Lease = &key.Lease{Namespace: "another", Workflow: workflows.WorkflowID("payments-api"), Rotation: "r", Run: "r", Term: key.LeaseTerm}
	_, err := c.world.Store("payments-api").PutMetadata(t.Context(), m)
	require.NoError(t, err)
	report, err := c.emergency(workflows.RotationInput{Spec: c.spec(), Emergency: c.declared([]string{"key-old"})})
	require.NoError(t, err)
	assert.Equal(t, workflows.Completed, report.Outcome, report.Message)
	require.Len(t, report.Contained, 1)
	assert.WithinDuration(t, c.began.Add(key.LeaseTerm), report.Contained[0].At, 5*time.Minute)
	assert.Equal(t, []string{"new-1 active"}, c.keys())
}

// A key that nobody knows is not said to be dead.
func TestAnExposedKeyThatNobodyKnows(t *testing.T) {
	t.Parallel()
	c := newCrisis(t)
	c.traffic(time.Hour)
	report, err := c.emergency(workflows.RotationInput{Spec: c.spec(), Emergency: c.declared([]string{"key-odl"})})
	require.NoError(t, err)
	assert.Equal(t, "The issuer has no key key-odl: ended before, or mistyped. Consumers are sent to key-old.", report.Message)
	require.Len(t, report.Contained, 1)
	assert.True(t, report.Contained[0].Absent)
	assert.True(t, slices.ContainsFunc(c.world.Notifications(), func(n providers.Notification) bool {
		return n.Subject == "NOT CONTAINED: an exposed key of payments-api is not known"
	}))
	assert.Equal(t, []string{"key-old active"}, c.keys())
	assert.Zero(t, c.refused())
}

// A routine rotation becomes the emergency wherever it is: what it did is gone on with.
func TestARoutineRotationIsTakenOver(t *testing.T) {
	t.Parallel()
	for place, at := range map[string]time.Duration{
		"canary soaking": time.Minute, "rest soaking": 3 * time.Minute, "overlap": 10 * time.Minute, "revoke-gate": 40 * time.Minute,
		"disable-soak": 25 * time.Minute, "rollback": 12 * time.Minute,
	} {
		t.Run(place, func(t *testing.T) {
			t.Parallel()
			c := newCrisis(t)
			c.traffic(2 * time.Hour)
			switch place {
			case "disable-soak":
				c.approve()
			case "rollback":
				c.at(10*time.Minute, func() { c.env.SignalWorkflow(workflows.RollbackName, policy.Request{By: "ann", Reason: "errors"}) })
			}
			c.in(place, at, func() {
				c.env.SignalWorkflow(workflows.CompromisedName, workflows.Compromised{Incident: incident.ID("leak"), Emergency: c.declared([]string{"key-old"})})
			})
			_, err := c.execute(workflows.RotationInput{Spec: c.spec()})
			c.allFell()
			next, goesOn := c.next(err)
			require.True(t, goesOn, "%v", err)
			var again *workflow.ContinueAsNewError
			require.ErrorAs(t, err, &again)
			assert.Equal(t, "EmergencyRotation", again.WorkflowType.Name)
			assert.Equal(t, workflows.EmergencyQueue, again.TaskQueueName)
			since := c.env.Now()
			c.anew()
			c.hears()
			c.traffic(time.Hour)
			report, err := c.emergency(next)
			require.NoError(t, err)
			assert.Equal(t, workflows.Completed, report.Outcome, report.Message)
			assert.Equal(t, []string{"new-1 active"}, c.keys(), "no second key was minted")
			require.Len(t, report.Contained, 1)
			assert.Less(t, report.Contained[0].At.Sub(since), 5*time.Minute, "%v", report.Timeline)
			assert.Zero(t, c.refused())
		})
	}
}

// A declaration that comes while the retiring key is being destroyed is followed as soon as that try is over: what is done is gone on
// with, whichever of the two keys is exposed.
func TestARoutineRotationIsTakenOverWhileItDestroys(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		incoming bool      // is exposed, and not the retiring key
		fails    memory.Op // until it is taken over
		want     []string
	}{
		"the retiring key is exposed":                             {want: []string{"new-1 active"}},
		"the incoming key is exposed":                             {incoming: true, want: []string{"new-2 active"}},
		"nobody answers who destroys":                             {fails: memory.OpDestroy, want: []string{"new-1 active"}},
		"that it is dead is not proved":                           {fails: memory.OpSelfTest, want: []string{"new-1 active"}},
		"that it is dead is not proved, and the other is exposed": {incoming: true, fails: memory.OpSelfTest, want: []string{"new-2 active"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCrisis(t)
			c.traffic(2 * time.Hour)
			c.approve()
			var at time.Time
			var trouble atomic.Bool
			trouble.Store(true)
			proved := make(chan struct{}) // the declaration, before the key is destroyed: else the rotation may be at its record by then
			c.world.Befall(func(_ context.Context, call memory.Call) error {
				if call.Op == memory.OpDestroy {
					<-proved
				}
				if call.Op == x.fails && trouble.Load() && (call.Op == memory.OpDestroy || len(c.world.Happened(memory.OpDestroy)) > 0) {
					return errors.New("503")
				}
				return nil
			})
			c.env.SetOnActivityStartedListener(func(info *activity.Info, _ context.Context, _ converter.EncodedValues) {
				if info.ActivityType.Name != "Destroy" || !at.IsZero() {
					return
				}
				at = c.env.Now()
				exposed := "key-old"
				if x.incoming {
					exposed = c.status().Incoming.KeyID
				}
				c.env.SignalWorkflow(workflows.CompromisedName, workflows.Compromised{Incident: incident.ID("leak"), Emergency: c.declared([]string{exposed})})
			})
			done := sync.OnceFunc(func() { close(proved) })
			c.env.SetOnLocalActivityCompletedListener(func(*activity.Info, converter.EncodedValue, error) { // in tests they have no name
				if !at.IsZero() {
					done()
				}
			})
			_, err := c.execute(workflows.RotationInput{Spec: c.spec()})
			require.False(t, at.IsZero())
			next, goesOn := c.next(err)
			require.True(t, goesOn, "%v", err)
			since := c.env.Now()
			trouble.Store(false)
			assert.Less(t, since.Sub(at), time.Minute)
			c.anew()
			c.hears()
			c.traffic(time.Hour)
			report, err := c.emergency(next)
			require.NoError(t, err)
			assert.Equal(t, workflows.Completed, report.Outcome, report.Message)
			assert.Equal(t, x.want, c.keys())
			assert.Zero(t, c.refused())
		})
	}
}

// At the deadline, what is exposed ends whoever uses it; who is not on another key is said.
func TestTheDeadlineFiresWhateverConsumersDo(t *testing.T) {
	t.Parallel()
	c := newCrisis(t)
	c.do.PollEvery = 200 * time.Millisecond
	c.credential.WaveTimeout = inventory.Duration(3 * time.Second) // of real time, each time
	c.world.Befall(func(_ context.Context, call memory.Call) error {
		if call.Op == memory.OpDeliver && call.Instance == "checkout-b" {
			return errors.New("no route to host")
		}
		return nil
	})
	c.traffic(time.Hour)
	_, err := c.emergency(workflows.RotationInput{Spec: c.spec(), Emergency: c.declared([]string{"key-old"}, func(d *incident.Declaration) {
		d.Deadline = inventory.Duration(20 * time.Second)
	})})
	require.Error(t, err)
	report := c.failure(err)
	assert.Equal(t, workflows.Failed, report.Outcome)
	assert.Contains(t, report.Message, "Dead: key-old.")
	assert.Contains(t, report.Message, "checkout/b")
	require.Len(t, report.Contained, 1)
	assert.WithinDuration(t, c.began.Add(20*time.Second), report.Contained[0].At, 15*time.Second)
	assert.Equal(t, []string{"new-1 active"}, c.keys())
}

// CURRENT moves before the wave is waited for: at the deadline, with a wave that lasts as long, everybody but who cannot be reached has
// the other key.
func TestOneThatCannotBeReachedHoldsUpNobodyElse(t *testing.T) {
	t.Parallel()
	c := newCrisis(t)
	c.world.Befall(func(_ context.Context, call memory.Call) error {
		if call.Op == memory.OpDeliver && call.Instance == "checkout-b" {
			return errors.New("no route to host")
		}
		return nil
	})
	c.do.PollEvery = 200 * time.Millisecond
	c.credential.WaveTimeout = inventory.Duration(3 * time.Second) // of real time
	_, err := c.emergency(workflows.RotationInput{Spec: c.spec(), Emergency: c.declared([]string{"key-old"}, func(d *incident.Declaration) {
		d.Deadline = inventory.Duration(2 * time.Second)
	})})
	report := c.failure(err)
	require.Len(t, report.Contained, 1, report.Message)
	assert.Equal(t, []string{"issue new-1", "promote ", "destroy key-old"}, c.happened(memory.OpIssue, memory.OpPromote, memory.OpDestroy))
}

// A declaration that proves nothing moves nothing: no key is minted, none is destroyed, and a rotation that runs goes on.
func TestADeclarationThatProvesNothing(t *testing.T) {
	t.Parallel()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	mallory, err := ssh.NewSignerFromKey(private)
	require.NoError(t, err)
	for name, x := range map[string]struct {
		emergency func(c *crisis) *workflows.Emergency
		says      string
	}{
		"by somebody whom nobody trusts": {func(c *crisis) *workflows.Emergency { c.ines = mallory; return c.declared([]string{"key-old"}) }, "the signer is not trusted"},
		"of another credential": {func(c *crisis) *workflows.Emergency {
			return c.declared(nil, func(d *incident.Declaration) { d.Exposed = map[string][]string{"payments-other": {"key-old"}} })
		}, "it lists no exposed key of"},
		"of another namespace": {func(c *crisis) *workflows.Emergency {
			return c.declared([]string{"key-old"}, func(d *incident.Declaration) { d.Namespace = "staging" })
		}, "it is signed for namespace"},
		"of yesterday": {func(c *crisis) *workflows.Emergency {
			return c.declared([]string{"key-old"}, func(d *incident.Declaration) {
				d.SignedAt, d.Expires = d.SignedAt.Add(-24*time.Hour), d.Expires.Add(-24*time.Hour)
			})
		}, "it was good until"},
		"with another key written into it": {func(c *crisis) *workflows.Emergency {
			e := c.declared([]string{"key-new"})
			e.Declaration.Body = []byte(strings.Replace(string(e.Declaration.Body), "key-new", "key-old", 1))
			return e
		}, "the signature does not hold"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCrisis(t)
			_, err := c.emergency(workflows.RotationInput{Spec: c.spec(), Emergency: x.emergency(c)})
			require.Error(t, err)
			report := c.failure(err)
			assert.Contains(t, report.Message, x.says)
			assert.Equal(t, []string{"key-old active"}, c.keys())
			assert.Len(t, c.world.Happened(memory.OpIssue), 1, "none but the one from before")

			c = newCrisis(t)
			c.traffic(2 * time.Hour)
			c.approve()
			c.in("overlap", 10*time.Minute, func() {
				c.env.SignalWorkflow(workflows.CompromisedName, workflows.Compromised{Incident: incident.ID("leak"), Emergency: x.emergency(c)})
			})
			report, err = c.execute(workflows.RotationInput{Spec: c.spec()})
			require.NoError(t, err)
			assert.Equal(t, workflows.Completed, report.Outcome, report.Message)
		})
	}
}

// An incident begins the emergency of each credential, and says how it ended.
func TestAnIncident(t *testing.T) {
	t.Parallel()
	c := newCrisis(t)
	e := c.declared([]string{"key-old"})
	c.env = temporaltest.NewEnvironment()
	c.clock.Store(c.env)
	c.env.RegisterActivity(c.do)
	c.env.RegisterWorkflow(workflows.Incident)
	c.hears()
	c.traffic(time.Hour)
	c.incident(e, "leak")
	assert.Equal(t, []string{"new-1 active"}, c.keys())
	var status workflows.IncidentStatus
	require.NoError(t, c.env.GetWorkflowResult(&status))
	assert.Equal(t, workflows.Contained, status.Outcome, status.Message)
	assert.Equal(t, "ines", status.DeclaredBy)
	require.Len(t, status.Credentials, 1)
	assert.Equal(t, string(workflows.Contained), status.Credentials[0].State)
	assert.Less(t, status.ContainedAt.Sub(status.Since), 5*time.Minute)
	assert.Contains(t, status.Markdown(), "payments-api")
}

// An incident whose declaration is of another one, or proves nothing, touches nothing.
func TestAnIncidentWithoutAuthority(t *testing.T) {
	t.Parallel()
	c := newCrisis(t)
	c.incident(c.declared([]string{"key-old"}), "another")
	var status workflows.IncidentStatus
	require.NoError(t, c.env.GetWorkflowResult(&status))
	assert.Equal(t, workflows.Refused, status.Outcome)
	assert.Contains(t, status.Message, "Nothing was touched")
	assert.Equal(t, []string{"key-old active"}, c.keys())
}

func (c *crisis) incident(e *workflows.Emergency, slug string) {
	c.t.Helper()
	c.env.SetStartWorkflowOptions(client.StartWorkflowOptions{ID: incident.ID(slug), TaskQueue: workflows.EmergencyQueue})
	c.env.ExecuteWorkflow(workflows.Incident, workflows.IncidentInput{
		Declaration: e.Declaration, Specs: map[string]inventory.SignedSpec{"payments-api": c.spec()}, RequestedBy: "ines",
	})
	require.True(c.t, c.env.IsWorkflowCompleted())
	require.NoError(c.t, c.env.GetWorkflowError())
}
