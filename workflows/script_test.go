package workflows_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
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
	"github.com/keyturn/keyturn/internal/signed"
	"github.com/keyturn/keyturn/internal/temporaltest"
	"github.com/keyturn/keyturn/workflows"
)

// These tests hold the orchestration alone: each activity answers what the case says, and what counts is
// which activities follow. That the activities do what they say is tested with real providers.

var (
	retiring = key.Ref{Principal: "payments-api", KeyID: "key-old", StoreVersion: "v1", Fingerprint: "fp:old"}
	incoming = key.Ref{Principal: "payments-api", KeyID: "key-new", StoreVersion: "v2", Fingerprint: "fp:new"}
	yes      = policy.Decision{OK: true, Reason: policy.Allowed, Message: "yes"}
)

func no(r policy.Reason) policy.Decision {
	return policy.Decision{Reason: r, Message: "because of " + string(r)}
}

func minutes(n int) inventory.Duration { return inventory.Duration(time.Duration(n) * time.Minute) }

func aCredential() inventory.Credential {
	return inventory.Credential{
		Name: "payments-api", Owner: "payments@example.com", Purpose: "charges", Environment: "test",
		Labels: map[string]string{"team": "payments"},
		Terms: inventory.Terms{
			RotateEvery: minutes(100000), Overlap: minutes(60), QuietWindow: minutes(30), WaveSoak: minutes(10),
			WaveTimeout: minutes(5), DisableSoak: minutes(30),
			Approvals: inventory.Approvals{Revoke: &inventory.Approval{Count: 1, Trust: inventory.TrustAny, RequestExpires: minutes(120)}},
		},
		Issuer: inventory.Provider{Type: "memory", Account: "edge"},
		Consumers: []inventory.Consumer{
			{Name: "canary", Wave: "canary", Check: &inventory.Provider{Type: "memory"}},
			{Name: "checkout", Instances: []string{"a", "b"}},
		},
	}
}

func aPlan() policy.Plan {
	return policy.Plan{
		Credential: "payments-api", Retiring: &retiring, CanDisable: true, TellsMissed: true, CanRollBack: true,
		Waves: []policy.Wave{
			{Name: "canary", Instances: []string{"canary"}, Soak: minutes(10)},
			{Name: "rest", Instances: []string{"checkout/a", "checkout/b"}, Soak: minutes(10)},
		},
	}
}

// script is a rotation whose activities answer as told, in the order in which they were asked.
type script struct {
	timed
	credential inventory.Credential
	plan       policy.Plan
	mu         sync.Mutex // guards what activities, which run at once, change
	// asked are the activities that changed something, with what tells two of a kind apart.
	asked []string
	notes []activities.NotifyInput
	// answers replace the answer of an activity: for its n-th call, from 1.
	answers map[string]func(n int) (any, error)
	calls   map[string]int
	began   time.Time
	// requests counts updates, for their IDs; atTheDoor are those that were refused before they entered the history.
	requests, atTheDoor int
	// watched is, for each look of a watch, the retiring key that it was told of.
	watched []string
	// disabled: an earlier run has disabled the retiring key.
	disabled bool
	// queued is how long a delivery waits for a worker.
	queued time.Duration
	// slotsBegun is what was said by each request for a slot: whether there is an incoming key.
	slotsBegun []bool
	looks      time.Duration // how long it takes to look whether there is a way back
	// started is done as an activity begins, by the test environment, which alone may send updates.
	started []func(info *activity.Info, args converter.EncodedValues)
}

// when does something as an activity begins, each time.
func (s *script) when(name string, do func()) {
	s.started = append(s.started, func(info *activity.Info, _ converter.EncodedValues) {
		if info.ActivityType.Name == name {
			do()
		}
	})
}

var act *activities.Activities

func newScript(t *testing.T) *script {
	t.Helper()
	s := &script{
		timed: timed{t: t, env: temporaltest.NewEnvironment()}, credential: aCredential(), plan: aPlan(),
		answers: map[string]func(int) (any, error){}, calls: map[string]int{},
	}
	s.env.SetStartWorkflowOptions(client.StartWorkflowOptions{ID: workflows.WorkflowID("payments-api"), TaskQueue: workflows.TaskQueue})
	s.began = s.env.Now()
	s.env.RegisterActivity(&activities.Activities{})
	s.env.RegisterWorkflow(workflows.Rotation)
	s.mocks()
	s.env.SetOnActivityStartedListener(func(info *activity.Info, _ context.Context, args converter.EncodedValues) {
		for _, do := range s.started {
			do(info, args)
		}
	})
	return s
}

// called is how often an activity was asked. A watch may be asked beside the test, also when the run has ended.
func (s *script) called(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[name]
}

// asks tells whether something was asked, while activities go on.
func (s *script) asks(what func(string) bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.asked, what)
}

func (s *script) has(what string) bool { return s.asks(func(done string) bool { return done == what }) }

// answer is the n-th answer of an activity: the scripted one, or the usual one.
func answer[T any](s *script, name string, usual T) (T, error) {
	s.mu.Lock()
	s.calls[name]++
	call := s.calls[name]
	s.mu.Unlock()
	if scripted, ok := s.answers[name]; ok {
		value, err := scripted(call)
		if err != nil || value == nil {
			return usual, err
		}
		return value.(T), nil
	}
	return usual, nil
}

func (s *script) did(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, fmt.Sprintf(format, args...))
}

func (s *script) mocks() {
	anything := mock.Anything
	s.env.OnActivity(act.Accept, anything, anything).Return(func(_ context.Context, _ inventory.SignedSpec) (activities.Accepted, error) {
		return answer(s, "Accept", activities.Accepted{Notice: "The spec is unsigned."})
	})
	s.env.OnActivity(act.ProveDeclaration, anything, anything).Return(func(_ context.Context, _ activities.DeclarationInput) (activities.Declared, error) {
		return answer(s, "ProveDeclaration", activities.Declared{By: "ines", Declaration: incident.Declaration{Incident: "incident/leak", Reason: "key on a paste site"}})
	})
	s.env.OnActivity(act.Inspect, anything, anything).Return(func(_ context.Context, _ activities.Rotation) (policy.Plan, error) {
		return answer(s, "Inspect", s.plan)
	})
	s.env.OnActivity(act.Issue, anything, anything).Return(func(_ context.Context, in activities.IssueInput) (activities.Issued, error) {
		s.did("issue %d", in.Ordinal)
		return answer(s, "Issue", activities.Issued{Key: incoming, Decision: yes})
	})
	s.env.OnActivity(act.DeliverWave, anything, anything).AfterFn(func() time.Duration { return s.queued }).Return(func(_ context.Context, in activities.WaveInput) (activities.WaveResult, error) {
		s.did("deliver %s to %v", in.Key.KeyID, in.Instances)
		return answer(s, "DeliverWave", activities.WaveResult{Decision: yes})
	})
	s.env.OnActivity(act.Promote, anything, anything).Return(func(_ context.Context, _ activities.Rotation) (policy.Decision, error) {
		s.did("promote")
		return answer(s, "Promote", yes)
	})
	s.env.OnActivity(act.Watch, anything, anything).Return(func(_ context.Context, in activities.Rotation) (policy.Decision, error) {
		s.mu.Lock()
		s.watched = append(s.watched, in.Retiring.KeyID)
		s.mu.Unlock()
		return answerOrWait(s, "Watch")
	})
	s.env.OnActivity(act.LookBack, anything, anything).AfterFn(func() time.Duration { return s.looks }).Return(func(_ context.Context, _ activities.Rotation) (policy.Decision, error) {
		return answer(s, "LookBack", yes)
	})
	s.env.OnActivity(act.AwaitMissed, anything, anything).Return(func(_ context.Context, _ activities.Rotation) (policy.Decision, error) {
		return answerOrWait(s, "AwaitMissed")
	})
	s.env.OnActivity(act.AwaitHealth, anything, anything).Return(func(_ context.Context, _ activities.Rotation) error {
		s.did("await health")
		_, err := answer(s, "AwaitHealth", true)
		return err
	})
	s.env.OnActivity(act.HadTraffic, anything, anything).Return(func(context.Context, activities.TrafficInput) (policy.Decision, error) {
		return answer(s, "HadTraffic", yes)
	})
	s.env.OnActivity(act.AwaitTraffic, anything, anything).Return(func(context.Context, activities.Rotation) error {
		_, err := answer(s, "AwaitTraffic", true)
		return err
	})
	s.env.OnActivity(act.AwaitTrust, anything, anything).Return(func(_ context.Context, spec inventory.SignedSpec) error {
		if spec.Signature == "bob's" {
			return nil
		}
		_, err := answer(s, "AwaitTrust", true)
		return err
	})
	s.env.OnActivity(act.Recognise, anything, anything).Return(func(_ context.Context, spec inventory.SignedSpec) (activities.Accepted, error) {
		if spec.Signature != "bob's" {
			return activities.Accepted{}, temporal.NewNonRetryableApplicationError("the signer is not trusted", activities.TypeUntrusted, nil)
		}
		return activities.Accepted{Signer: "bob"}, nil
	})
	s.env.OnActivity(act.GatherEvidence, anything, anything).Return(func(_ context.Context, _ activities.EvidenceInput) (policy.Evidence, error) {
		s.did("gather")
		return answer(s, "GatherEvidence", policy.Evidence{Complete: true, Digest: "digest"})
	})
	s.env.OnActivity(act.Disable, anything, anything).Return(func(_ context.Context, in activities.RevokeInput) (policy.Decision, error) {
		s.did("disable with %d approvals", len(in.Approvals))
		return answer(s, "Disable", yes)
	})
	s.env.OnActivity(act.Destroy, anything, anything).Return(func(_ context.Context, in activities.RevokeInput) (activities.Destroyed, error) {
		s.did("destroy with %d approvals", len(in.Approvals))
		return answer(s, "Destroy", activities.Destroyed{Decision: yes, Probe: "refused"})
	})
	s.env.OnActivity(act.Enable, anything, anything).Return(func(context.Context, activities.Rotation) (policy.Decision, error) {
		if s.disabled || s.asks(func(done string) bool { return strings.HasPrefix(done, "disable") }) { // otherwise it only looks
			s.did("enable")
		}
		return answer(s, "Enable", yes)
	})
	s.env.OnActivity(act.RestoreLabels, anything, anything).Return(func(_ context.Context, _ activities.Rotation) error {
		s.did("restore labels")
		_, err := answer(s, "RestoreLabels", true)
		return err
	})
	s.env.OnActivity(act.Discard, anything, anything).Return(func(_ context.Context, _ activities.Rotation) (policy.Decision, error) {
		s.did("discard")
		return answer(s, "Discard", yes)
	})
	s.env.OnActivity(act.Record, anything, anything).Return(func(_ context.Context, in activities.RecordInput) (activities.Recorded, error) {
		s.did("record %s", in.Outcome)
		return answer(s, "Record", activities.Recorded{Outcome: in.Outcome})
	})
	s.env.OnActivity(act.Log, anything, anything).Return(func(context.Context, []audit.Event) error {
		_, err := answer(s, "Log", true)
		return err
	})
	s.env.OnActivity(act.Notify, anything, anything).Return(func(_ context.Context, in activities.NotifyInput) error {
		if _, err := answer(s, "Notify", true); err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.notes = append(s.notes, in)
		return nil
	})
}

// answerOrWait is a watch: "not yet", but for what the case says.
func answerOrWait(s *script, name string) (policy.Decision, error) {
	none := policy.Decision{}
	d, err := answer(s, name, none)
	if err == nil && d == none {
		return none, temporal.NewApplicationErrorWithOptions("still watching", activities.TypeNotYet,
			temporal.ApplicationErrorOptions{Category: temporal.ApplicationErrorCategoryBenign})
	}
	return d, err
}

// ask sends a request as an update and hands over the verdict, also of one that was refused at the door.
func (s *script) ask(action policy.Action, req policy.Request, verdict func(policy.Verdict)) {
	s.t.Helper()
	s.requests++
	id := fmt.Sprintf("%s-%d", action, s.requests)
	s.env.UpdateWorkflow(string(action), id, &testsuite.TestUpdateCallback{
		OnAccept: func() {},
		OnReject: func(err error) {
			v := s.refused(err)
			if verdict != nil {
				verdict(v)
			}
		},
		OnComplete: func(result any, err error) {
			require.NoError(s.t, err)
			if verdict != nil {
				verdict(result.(policy.Verdict))
			}
		},
	}, req)
}

// refused is the verdict of an update that was refused at the door.
func (s *script) refused(err error) (v policy.Verdict) {
	s.t.Helper()
	var refused *temporal.ApplicationError
	require.ErrorAs(s.t, err, &refused)
	require.NoError(s.t, refused.Details(&v))
	s.atTheDoor++
	return v
}

// approveAt approves the gate that waits then.
func (s *script) approveAt(after time.Duration) {
	s.at(after, func() {
		if gate := s.status().Gate; assert.NotNil(s.t, gate, "after %s", after) {
			s.ask(policy.Approve, policy.Request{Gate: gate.Gate, By: "ann"}, nil)
		}
	})
}

// body is that of the rotation's spec.
func (s *script) body() json.RawMessage {
	s.t.Helper()
	body, err := json.Marshal(inventory.Spec{Schema: inventory.SpecSchema, Inventory: "payments", Generation: 1, Credential: s.credential})
	require.NoError(s.t, err)
	return body
}

func (s *script) run() workflows.Report {
	s.t.Helper()
	s.executes()
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

func (s *script) executes() {
	s.t.Helper()
	body := s.body()
	s.env.ExecuteWorkflow(workflows.Rotation, workflows.RotationInput{Spec: inventory.SignedSpec{Envelope: signed.Envelope{Body: body}}, Reason: "test", RequestedBy: "ann"})
	require.True(s.t, s.env.IsWorkflowCompleted())
	s.allFell()
}

// compromised has an incident tell the rotation that keys are exposed, by a declaration that holds.
func (s *script) compromised() {
	s.env.SignalWorkflow(workflows.CompromisedName, workflows.Compromised{
		Incident: "incident/leak", Reason: "key on a paste site", Emergency: &workflows.Emergency{Incidents: []string{"incident/leak"}},
	})
}

// handsOver runs the rotation, which becomes an emergency, and returns what that begins with.
func (s *script) handsOver() (in workflows.RotationInput) {
	s.t.Helper()
	s.executes()
	var next *workflow.ContinueAsNewError
	require.ErrorAs(s.t, s.env.GetWorkflowError(), &next)
	assert.Equal(s.t, "EmergencyRotation", next.WorkflowType.Name)
	require.NoError(s.t, converter.GetDefaultDataConverter().FromPayloads(next.Input, &in))
	require.NotNil(s.t, in.Emergency)
	assert.Equal(s.t, []string{"incident/leak"}, in.Emergency.Incidents)
	return in
}

// The routine way, up to the wait that each name says.
var routine = []string{
	"issue 1", "deliver key-new to [canary]", "deliver key-new to [checkout/a checkout/b]", "promote",
	"gather", "disable with 1 approvals", "destroy with 1 approvals", "record completed",
}

// When the waits of the routine way are: soaks of 10 min each, an overlap of 60, then the gate.
const (
	inFirstSoak   = 5 * time.Minute
	inOverlap     = 40 * time.Minute
	atGate        = 90 * time.Minute
	inDisableSoak = 110 * time.Minute
)

// told is what people were told of.
func (s *script) told() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var told []string
	for _, n := range s.notes {
		told = append(told, n.What)
	}
	return told
}
