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

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/audit"
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
	s.env.OnActivity(act.Enable, anything, anything).Return(func(context.Context, activities.Rotation) error {
		if s.disabled || s.asks(func(done string) bool { return strings.HasPrefix(done, "disable") }) { // otherwise it only looks
			s.did("enable")
		}
		_, err := answer(s, "Enable", true)
		return err
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
		return answer(s, "Record", activities.Recorded{})
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
		assert.NotNil(s.t, s.status().Gate, "after %s", after)
		s.ask(policy.Approve, policy.Request{By: "ann"}, nil)
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
	body := s.body()
	s.env.ExecuteWorkflow(workflows.Rotation, workflows.RotationInput{Spec: inventory.SignedSpec{Envelope: signed.Envelope{Body: body}}, Reason: "test", RequestedBy: "ann"})
	require.True(s.t, s.env.IsWorkflowCompleted())
	s.allFell()
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

func TestRoutineRotation(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.approveAt(atGate)
	s.in("overlap", inOverlap, func() {
		st := s.status()
		assert.Equal(t, "the end of the overlap", st.WaitsFor)
		assert.Equal(t, "time; or: extend, rollback", st.UnblockedBy)
		assert.Contains(t, st.Notices, "The spec is unsigned.")
	})
	s.in("revoke-gate", atGate-time.Minute, func() {
		st := s.status()
		require.NotNil(t, st.Gate)
		assert.Equal(t, "digest", st.Gate.Evidence)
		assert.Contains(t, st.UnblockedBy, "with approve")
	})
	report := s.run()
	assert.Equal(t, workflows.Completed, report.Outcome, report.Message)
	assert.Equal(t, routine, s.asked)
	assert.Equal(t, "refused", report.Probe)
	assert.Equal(t, "digest", report.EvidenceDigest)
	assert.Equal(t, workflows.PhaseEnded, s.status().Phase)
	assert.Equal(t, []string{"gate-revoke", "ended"}, s.told())
}

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

func TestRefusals(t *testing.T) {
	t.Parallel()
	cases := map[string]func(*script){
		"a spec that the worker does not take": func(s *script) {
			s.answers["Accept"] = func(int) (any, error) {
				return nil, temporal.NewNonRetryableApplicationError("no", activities.TypeSpec, nil)
			}
		},
		"facts that cannot be gathered": func(s *script) {
			s.answers["Inspect"] = func(int) (any, error) {
				return nil, temporal.NewNonRetryableApplicationError("no", activities.TypeDenied, nil)
			}
		},
		"a plan with refusals": func(s *script) { s.plan.Refusals = []policy.Decision{no(policy.SlotsFull)} },
		"a sign-off that is rejected": func(s *script) {
			s.credential.Approvals.Signoff = &inventory.Approval{Count: 1, Trust: inventory.TrustAny}
			s.in("signoff", time.Minute, func() { s.ask(policy.Reject, policy.Request{By: "ann", Reason: "not today"}, nil) })
		},
		"a rollback before anything was changed": func(s *script) {
			s.credential.Approvals.Signoff = &inventory.Approval{Count: 1, Trust: inventory.TrustAny}
			s.in("signoff", time.Minute, func() { s.ask(policy.Rollback, policy.Request{By: "ann", Reason: "not today"}, nil) })
		},
		"a workflow ID of another credential": func(s *script) {
			s.env.SetStartWorkflowOptions(client.StartWorkflowOptions{ID: workflows.WorkflowID("other"), TaskQueue: workflows.TaskQueue})
		},
	}
	for name, prepare := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScript(t)
			prepare(s)
			report := s.run()
			assert.Equal(t, workflows.Refused, report.Outcome, report.Message)
			assert.NotEmpty(t, report.Message)
			assert.Empty(t, s.asked, "nothing is changed")
		})
	}
}

func TestSignoffComesBeforeAnythingIsChanged(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.credential.Approvals.Signoff = &inventory.Approval{Count: 2, Trust: inventory.TrustAny, RequestExpires: minutes(60)}
	s.in("signoff", time.Minute, func() { s.ask(policy.Approve, policy.Request{By: "ann"}, nil) })
	s.in("signoff", 2*time.Minute, func() {
		s.ask(policy.Approve, policy.Request{By: "ann"}, func(v policy.Verdict) { assert.Equal(t, policy.AlreadyCounted, v.Reason) })
		assert.Empty(t, s.asked)
	})
	s.in("signoff", 3*time.Minute, func() { s.ask(policy.Approve, policy.Request{By: "bob"}, nil) })
	s.approveAt(atGate + 5*time.Minute)
	assert.Equal(t, workflows.Completed, s.run().Outcome)
	assert.Equal(t, routine, s.asked)
}

// Signed decisions are verified together, and no more than a hundred for each opening of a gate: a flood
// costs neither history nor the gate.
func TestAFloodOfSignedDecisionsIsBounded(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	var asked, calls int
	s.env.OnActivity(act.Prove, mock.Anything, mock.Anything).Return(func(_ context.Context, in activities.ProveInput) ([]policy.Proof, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		calls++
		asked += len(in.Decisions)
		proofs := make([]policy.Proof, len(in.Decisions))
		for i := range proofs {
			proofs[i].Problem = "the signer is not trusted"
		}
		return proofs, nil
	})
	flood := signed.Envelope{Body: json.RawMessage(`{}`), Signature: "mallory's"}
	s.in("revoke-gate", atGate-time.Minute, func() {
		for range 150 {
			s.ask(policy.Approve, policy.Request{Signed: &flood}, func(v policy.Verdict) { assert.False(t, v.Accepted) })
		}
	})
	s.approveAt(atGate)
	require.Equal(t, workflows.Completed, s.run().Outcome, "the gate still opens for others")
	s.mu.Lock()
	defer s.mu.Unlock()
	assert.Equal(t, 100, asked)
	assert.LessOrEqual(t, calls, 5)
}

// A signer who stops being trusted ends nothing that has begun: the rotation waits, with both keys alive,
// until its spec is trusted again.
func TestASpecThatIsNotTrustedAnyMoreHoldsTheRotation(t *testing.T) {
	t.Parallel()
	untrusted := temporal.NewNonRetryableApplicationError("the signer is not trusted", activities.TypeUntrusted, nil)
	held := func(t *testing.T) *script {
		t.Helper()
		s := newScript(t)
		s.answers["Promote"] = func(n int) (any, error) {
			if n == 1 {
				return nil, untrusted
			}
			return nil, nil
		}
		s.answers["AwaitTrust"] = func(n int) (any, error) {
			if n < 200 { // each 30 seconds
				return nil, temporal.NewApplicationErrorWithOptions("not yet", activities.TypeNotYet, temporal.ApplicationErrorOptions{Category: temporal.ApplicationErrorCategoryBenign})
			}
			return nil, nil
		}
		s.in("promote", 40*time.Minute, func() {
			st := s.status()
			assert.Contains(t, st.Doing, "Held: the signer is not trusted")
			assert.Contains(t, st.UnblockedBy, "rotate payments-api -f FILE --sign KEY")
			assert.Contains(t, s.told(), "held")
		})
		return s
	}
	resign := func(s *script, signature, body string, want policy.VerdictReason) {
		s.requests++
		s.env.UpdateWorkflow(workflows.ResignName, fmt.Sprint("resign-", s.requests), &testsuite.TestUpdateCallback{
			OnAccept: func() {}, OnReject: func(err error) { assert.Equal(s.t, want, s.refused(err).Reason) },
			OnComplete: func(result any, err error) {
				require.NoError(s.t, err)
				assert.Equal(s.t, want, result.(policy.Verdict).Reason)
			},
		}, inventory.SignedSpec{Envelope: signed.Envelope{Body: json.RawMessage(body), Signature: signature}})
	}
	t.Run("until the worker trusts its signer again", func(t *testing.T) {
		t.Parallel()
		s := held(t)
		s.approveAt(300 * time.Minute)
		require.Equal(t, workflows.Completed, s.run().Outcome)
	})
	t.Run("until somebody who is trusted signs it anew", func(t *testing.T) {
		t.Parallel()
		s := held(t)
		body := string(s.body())
		s.in("promote", 41*time.Minute, func() { resign(s, "mallory's", body, policy.SignatureBad) })
		s.in("promote", 42*time.Minute, func() { resign(s, "bob's", `{"another":"spec"}`, policy.OtherRotation) })
		s.in("promote", 43*time.Minute, func() { resign(s, "bob's", body, policy.Accepted) })
		s.in("overlap", 44*time.Minute, func() { resign(s, "bob's", body, policy.WrongPhase) })
		s.approveAt(200 * time.Minute)
		require.Equal(t, workflows.Completed, s.run().Outcome)
	})
	t.Run("or until somebody turns it back, once it is trusted", func(t *testing.T) {
		t.Parallel()
		s := held(t)
		s.in("promote", 41*time.Minute, func() { s.ask(policy.Rollback, policy.Request{By: "ann", Reason: "enough"}, nil) })
		require.Equal(t, workflows.RolledBack, s.run().Outcome)
	})
}

// What a rotation that did not end left behind is taken back first: its key from whoever uses it, then the
// key itself.
func TestTakingBackWhatDidNotEnd(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.plan.TakeBack = []string{"checkout/a"}
	s.plan.Discard = []key.Ref{{KeyID: "key-left"}}
	s.approveAt(100 * time.Minute)
	require.Equal(t, workflows.Completed, s.run().Outcome)
	assert.Equal(t, []string{"deliver key-old to [checkout/a]", "discard", "issue 1"}, s.asked[:3])
}

// A rollback from every phase undoes what was done up to there, and only that.
func TestRollbackFromEveryPhase(t *testing.T) {
	t.Parallel()
	fails := func(name string, call int) func(*script) {
		return func(s *script) {
			s.answers[name] = func(n int) (any, error) {
				if n == call {
					return nil, temporal.NewNonRetryableApplicationError(name+" is denied", activities.TypeDenied, nil)
				}
				return nil, nil
			}
		}
	}
	asked := func(place string, after time.Duration) func(*script) {
		return func(s *script) {
			if after > atGate {
				s.approveAt(atGate)
			}
			s.in(place, after, func() { s.ask(policy.Rollback, policy.Request{By: "ann", Reason: "errors"}, nil) })
		}
	}
	canaryBack := []string{"restore labels", "deliver key-old to [canary]", "discard", "record rolled-back"}
	allBack := []string{"restore labels", "deliver key-old to [canary checkout/a checkout/b]", "discard", "record rolled-back"}
	cases := map[string]struct {
		prepare func(*script)
		done    int // how much of the routine way
		undone  []string
	}{
		"issuing fails": {fails("Issue", 1), 1, []string{"restore labels", "discard", "record rolled-back"}},
		"the incoming key does not work": {func(s *script) {
			s.answers["Issue"] = func(int) (any, error) {
				return activities.Issued{Key: incoming, Decision: no(policy.KeyNotWorking)}, nil
			}
		}, 1, []string{"restore labels", "discard", "record rolled-back"}},
		"the canary does not converge": {func(s *script) {
			s.answers["DeliverWave"] = func(n int) (any, error) {
				if n == 1 {
					return activities.WaveResult{Decision: no(policy.InstanceNotConverged)}, nil
				}
				return nil, nil
			}
		}, 2, canaryBack},
		"somebody asks in the canary's soak": {asked("canary soaking", inFirstSoak), 2, canaryBack},
		"the watch breaches in the canary's soak": {func(s *script) {
			s.answers["Watch"] = func(n int) (any, error) {
				if n == 3 {
					return no(policy.BudgetBreached), nil
				}
				return nil, nil
			}
		}, 2, canaryBack},
		"delivering the rest fails": {fails("DeliverWave", 2), 3, allBack},
		"promoting fails":           {fails("Promote", 1), 4, allBack},
		"promoting is refused": {func(s *script) {
			s.answers["Promote"] = func(int) (any, error) { return no(policy.CurrentMoved), nil }
		}, 4, allBack},
		"somebody asks in the overlap": {asked("overlap", inOverlap), 4, allBack},
		"somebody cancels the run in the overlap": {func(s *script) {
			s.in("overlap", inOverlap, s.env.CancelWorkflow)
		}, 4, allBack},
		"somebody rejects the revoke gate": {func(s *script) {
			s.in("revoke-gate", atGate, func() { s.ask(policy.Reject, policy.Request{By: "ann", Reason: "batch job tonight"}, nil) })
		}, 5, allBack},
		"disabling fails": {func(s *script) { s.approveAt(atGate); fails("Disable", 1)(s) }, 6,
			append([]string{"enable"}, allBack...)},
		"somebody asks in the disable soak": {asked("disable-soak", inDisableSoak), 6, append([]string{"enable"}, allBack...)},
		"the watch breaches in the disable soak": {func(s *script) {
			s.approveAt(atGate)
			s.answers["Watch"] = func(int) (any, error) {
				if s.env.Now().Sub(s.began) > inDisableSoak {
					return no(policy.CheckFailing), nil
				}
				return nil, nil
			}
		}, 6, append([]string{"enable"}, allBack...)},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScript(t)
			c.prepare(s)
			report := s.run()
			assert.Equal(t, workflows.RolledBack, report.Outcome, report.Message)
			assert.Equal(t, append(append([]string{}, routine[:c.done]...), c.undone...), s.asked)
			assert.NotEmpty(t, report.Message)
		})
	}
}

func TestAfterTheKeyIsDestroyed(t *testing.T) {
	t.Parallel()
	t.Run("a rollback is not taken while it is being destroyed", func(t *testing.T) {
		t.Parallel()
		s := newScript(t)
		s.approveAt(atGate)
		asked := false
		s.answers["Destroy"] = func(n int) (any, error) {
			if n == 1 {
				return nil, errors.New("the reply was lost")
			}
			return nil, nil
		}
		s.in("revoke", atGate+30*time.Minute+500*time.Millisecond, func() {
			s.ask(policy.Rollback, policy.Request{By: "ann", Reason: "errors"}, func(v policy.Verdict) {
				asked = true
				assert.Equal(t, policy.NoWayBack, v.Reason)
			})
		})
		assert.Equal(t, workflows.Completed, s.run().Outcome)
		assert.True(t, asked)
	})
	t.Run("what Destroy does not manage is debt", func(t *testing.T) {
		t.Parallel()
		s := newScript(t)
		s.approveAt(atGate)
		s.answers["Destroy"] = func(int) (any, error) {
			return nil, temporal.NewNonRetryableApplicationError("denied", activities.TypeDenied, nil)
		}
		s.answers["Record"] = func(int) (any, error) {
			return activities.Recorded{Debt: []activities.Debt{{Kind: activities.DebtRetiredAlive, About: "key-old"}}}, nil
		}
		report := s.run()
		assert.Equal(t, workflows.CompletedWithDebt, report.Outcome)
		assert.Contains(t, report.Message, "key-old")
		assert.Len(t, report.Debt, 1)
	})
}

func TestEvidenceIsAwaited(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	lacking := policy.Evidence{Missing: []policy.Decision{{Reason: policy.InstanceNotConverged, Message: "checkout/b is not on key key-new"}}}
	s.answers["GatherEvidence"] = func(n int) (any, error) {
		switch {
		case n == 1:
			return lacking, nil
		case n < 60:
			return nil, temporal.NewApplicationErrorWithOptions("not yet", activities.TypeNotYet, temporal.ApplicationErrorOptions{Category: temporal.ApplicationErrorCategoryBenign})
		}
		return nil, nil
	}
	s.in("evidence", 81*time.Minute, func() {
		assert.Contains(t, s.status().WaitsFor, "checkout/b")
	})
	s.approveAt(200 * time.Minute)
	assert.Equal(t, workflows.Completed, s.run().Outcome)
}

// Evidence that is late is told once, and is waited for without end.
func TestLateEvidenceIsTold(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	missing := policy.Evidence{Missing: []policy.Decision{{Reason: policy.RetiringStillHeld, Message: "checkout/b still holds it"}}}
	s.answers["GatherEvidence"] = func(n int) (any, error) {
		if n <= 2 { // the second time since it is late
			return missing, nil
		}
		return nil, nil
	}
	s.approveAt(atGate)
	assert.Equal(t, workflows.Completed, s.run().Outcome)
	assert.Equal(t, []string{"reminder", "gate-revoke", "ended"}, s.told())
}

// A receiver that is down is told when it is back.
func TestPeopleAreToldLater(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.answers["Notify"] = func(n int) (any, error) {
		if n <= 3 {
			return nil, errors.New("the webhook does not answer")
		}
		return nil, nil
	}
	s.approveAt(atGate)
	report := s.run()
	assert.Equal(t, workflows.Completed, report.Outcome)
	assert.Equal(t, []string{"gate-revoke", "ended"}, s.told())
	assert.Empty(t, s.status().Notices[1:], "nothing was lost")
}

func TestRevokeIsJudgedAgain(t *testing.T) {
	t.Parallel()
	t.Run("when Disable refuses, the evidence is gathered and approved anew", func(t *testing.T) {
		t.Parallel()
		s := newScript(t)
		s.answers["Disable"] = func(n int) (any, error) {
			if n == 1 {
				return no(policy.RetiringNotQuiet), nil
			}
			return nil, nil
		}
		s.approveAt(atGate)
		s.approveAt(atGate + 10*time.Minute)
		assert.Equal(t, workflows.Completed, s.run().Outcome)
		assert.Equal(t, []string{"gather", "disable with 1 approvals", "gather", "disable with 1 approvals", "destroy with 1 approvals"}, s.asked[4:9])
	})
	t.Run("when Destroy refuses, the key is enabled again first", func(t *testing.T) {
		t.Parallel()
		s := newScript(t)
		s.answers["Destroy"] = func(n int) (any, error) {
			if n == 1 {
				return activities.Destroyed{Decision: no(policy.RetiringStillHeld)}, nil
			}
			return nil, nil
		}
		s.approveAt(atGate)
		s.approveAt(atGate + 45*time.Minute)
		assert.Equal(t, workflows.Completed, s.run().Outcome)
		assert.Equal(t, []string{"destroy with 1 approvals", "enable", "gather", "disable with 1 approvals", "destroy with 1 approvals"}, s.asked[6:11])
	})
	t.Run("a gate whose request expires asks again", func(t *testing.T) {
		t.Parallel()
		s := newScript(t)
		s.approveAt(atGate + 150*time.Minute)
		assert.Equal(t, workflows.Completed, s.run().Outcome)
		assert.Equal(t, []string{"gather", "gather", "disable with 1 approvals"}, s.asked[4:7])
	})
}

func TestRequests(t *testing.T) {
	t.Parallel()
	t.Run("an approval before its gate is not taken, and is not kept for it", func(t *testing.T) {
		t.Parallel()
		s := newScript(t)
		s.in("overlap", inOverlap, func() {
			s.ask(policy.Approve, policy.Request{Gate: "revoke", By: "ann"}, func(v policy.Verdict) { assert.Equal(t, policy.NotOpen, v.Reason) })
		})
		s.in("revoke-gate", atGate, func() { assert.Empty(t, s.status().Gate.Approvals) })
		s.approveAt(atGate + time.Minute)
		assert.Equal(t, workflows.Completed, s.run().Outcome)
	})
	t.Run("a signal approves as an update does", func(t *testing.T) {
		t.Parallel()
		s := newScript(t)
		s.in("revoke-gate", atGate, func() { s.env.SignalWorkflow(workflows.ApproveName, policy.Request{Gate: "revoke", By: "ann"}) })
		report := s.run()
		assert.Equal(t, workflows.Completed, report.Outcome)
		assert.Equal(t, routine, s.asked)
		require.Len(t, report.Verdicts, 1)
		assert.True(t, report.Verdicts[0].Accepted)
	})
	t.Run("a signal that cannot be read is reported, not lost", func(t *testing.T) {
		t.Parallel()
		s := newScript(t)
		s.in("overlap", inOverlap, func() { s.env.SignalWorkflow(workflows.ApproveName, 42) })
		s.in("revoke-gate", atGate, func() {
			assert.Contains(t, fmt.Sprint(s.status().Notices), `a signal "approve" could not be read`)
		})
		s.approveAt(atGate)
		assert.Equal(t, workflows.Completed, s.run().Outcome)
	})
	t.Run("a repeated decision gets its first verdict and counts once", func(t *testing.T) {
		t.Parallel()
		s := newScript(t)
		s.credential.Approvals.Revoke.Count = 2
		var first policy.Verdict
		s.in("revoke-gate", atGate, func() {
			s.ask(policy.Approve, policy.Request{ID: "d1", By: "ann"}, func(v policy.Verdict) { first = v })
		})
		s.in("revoke-gate", atGate+time.Minute, func() {
			s.ask(policy.Approve, policy.Request{ID: "d1", By: "bob"}, func(v policy.Verdict) { assert.Equal(t, first, v) })
		})
		s.in("revoke-gate", atGate+2*time.Minute, func() { assert.Len(t, s.status().Gate.Approvals, 1) })
		s.in("revoke-gate", atGate+3*time.Minute, func() { s.ask(policy.Approve, policy.Request{ID: "d2", By: "bob"}, nil) })
		assert.Equal(t, workflows.Completed, s.run().Outcome)
	})
	t.Run("an extension lengthens the overlap", func(t *testing.T) {
		t.Parallel()
		s := newScript(t)
		s.in("overlap", inOverlap, func() {
			s.ask(policy.Extend, policy.Request{By: "ann", Extension: minutes(120)}, func(v policy.Verdict) { assert.True(t, v.Accepted, v.Message) })
		})
		s.in("overlap", 190*time.Minute, func() {})
		s.approveAt(210 * time.Minute)
		assert.Equal(t, workflows.Completed, s.run().Outcome)
	})
	t.Run("an overlap never passes the retiring key's expiry", func(t *testing.T) {
		t.Parallel()
		s := newScript(t)
		s.plan.RetiringExpires = s.env.Now().Add(30 * time.Minute)
		s.in("revoke-gate", inOverlap, func() {})
		s.approveAt(inOverlap + time.Minute)
		assert.Equal(t, workflows.Completed, s.run().Outcome)
	})
	t.Run("nor that of the incoming one, and ends before it", func(t *testing.T) {
		t.Parallel()
		s := newScript(t)
		ends := s.env.Now().Add(inOverlap + time.Minute + s.credential.WaveTimeout.Std())
		s.answers["Issue"] = func(int) (any, error) {
			return activities.Issued{Key: incoming, Ends: ends, Decision: policy.Decision{OK: true}}, nil
		}
		s.in("overlap", inOverlap, func() {
			s.ask(policy.Extend, policy.Request{By: "ann", Extension: minutes(1)}, func(v policy.Verdict) { assert.Equal(t, policy.BadExtension, v.Reason) })
		})
		s.in("revoke-gate", inOverlap+2*time.Minute, func() {})
		s.approveAt(inOverlap + 3*time.Minute)
		assert.Equal(t, workflows.Completed, s.run().Outcome)
	})
	t.Run("there is no way back to a key that ends", func(t *testing.T) {
		t.Parallel()
		s := newScript(t)
		s.plan.RetiringExpires = s.env.Now().Add(30 * time.Hour)
		s.plan.WayBackEnds = s.env.Now().Add(inOverlap)
		s.in("overlap", inOverlap+time.Minute, func() {
			s.ask(policy.Rollback, policy.Request{By: "ann", Reason: "late"}, func(v policy.Verdict) {
				assert.Equal(t, policy.NoWayBack, v.Reason)
				assert.Contains(t, v.Message, "the retiring key ends by itself")
			})
		})
		s.approveAt(atGate)
		assert.Equal(t, workflows.Completed, s.run().Outcome)
	})
	t.Run("requests that arrive with the end are answered", func(t *testing.T) {
		t.Parallel()
		s := newScript(t)
		s.approveAt(atGate)
		answered := 0
		s.when("Record", func() {
			for i := range 5 {
				s.ask(policy.Rollback, policy.Request{ID: fmt.Sprint(i), Reason: "late"}, func(v policy.Verdict) {
					answered++
					assert.Equal(t, policy.NoWayBack, v.Reason)
				})
				s.env.SignalWorkflow(workflows.RollbackName, policy.Request{ID: fmt.Sprint("s", i), Reason: "late"})
			}
		})
		report := s.run()
		assert.Equal(t, workflows.Completed, report.Outcome)
		assert.Equal(t, 5, answered)
		assert.Len(t, report.Verdicts, 6, "one approval and five signals")
		assert.Equal(t, 5, s.atTheDoor, "the updates are in no history")
	})
	t.Run("what has no place now is refused at the door", func(t *testing.T) {
		t.Parallel()
		s := newScript(t)
		reasons := map[string]policy.VerdictReason{}
		refused := func(what string, action policy.Action, req policy.Request) {
			s.ask(action, req, func(v policy.Verdict) { reasons[what] = v.Reason })
		}
		s.in("canary soaking", inFirstSoak, func() {
			refused("no gate is open", policy.Approve, policy.Request{By: "ann"})
			refused("there is no overlap yet", policy.Extend, policy.Request{By: "ann", Extension: minutes(1)})
			refused("no reason", policy.Rollback, policy.Request{By: "ann"})
			refused("a text is too long", policy.Rollback, policy.Request{By: "ann", Reason: strings.Repeat("x", 1001)})
			refused("signed, and no gate is open", policy.Approve, policy.Request{Signed: &signed.Envelope{Body: json.RawMessage(`{"nonce":"n"}`)}})
		})
		s.in("overlap", inOverlap, func() { refused("by nothing", policy.Extend, policy.Request{By: "ann"}) })
		s.in("revoke-gate", atGate, func() {
			refused("for another run", policy.Approve, policy.Request{By: "ann", Run: "another"}) // only the content says so
		})
		s.approveAt(atGate + time.Minute)
		report := s.run()
		assert.Equal(t, workflows.Completed, report.Outcome)
		assert.Equal(t, map[string]policy.VerdictReason{
			"no gate is open": policy.NotOpen, "there is no overlap yet": policy.WrongPhase, "no reason": policy.ReasonMissing,
			"a text is too long": policy.TextTooLong, "signed, and no gate is open": policy.NotOpen, "by nothing": policy.BadExtension,
			"for another run": policy.OtherRun,
		}, reasons)
		assert.Equal(t, 6, s.atTheDoor)
		assert.Len(t, report.Verdicts, 2, "what was refused for its content, and the approval")
	})
	t.Run("a decision that has its verdict gets it also when it has no place any more", func(t *testing.T) {
		t.Parallel()
		s := newScript(t)
		longer := policy.Request{ID: "longer", By: "ann", Extension: minutes(10)}
		s.in("overlap", inOverlap, func() { s.ask(policy.Extend, longer, func(v policy.Verdict) { assert.True(t, v.Accepted) }) })
		s.in("revoke-gate", atGate+10*time.Minute, func() { s.ask(policy.Extend, longer, func(v policy.Verdict) { assert.True(t, v.Accepted, v.Message) }) })
		s.approveAt(atGate + 11*time.Minute)
		assert.Equal(t, workflows.Completed, s.run().Outcome)
		assert.Zero(t, s.atTheDoor)
	})
	t.Run("an extension counts once, also when it is sent again after hundreds of refusals", func(t *testing.T) {
		t.Parallel()
		s := newScript(t)
		longer := policy.Request{ID: "longer", By: "ann", Extension: minutes(30)}
		s.in("overlap", inOverlap, func() {
			for i := range 300 {
				s.env.SignalWorkflow(workflows.ApproveName, policy.Request{ID: fmt.Sprint(i), By: "bot"})
			}
		})
		var first time.Time
		s.in("overlap", inOverlap+time.Minute, func() { s.ask(policy.Extend, longer, nil) })
		s.in("overlap", inOverlap+2*time.Minute, func() { first = s.status().Until; s.ask(policy.Extend, longer, nil) })
		s.in("overlap", inOverlap+3*time.Minute, func() { assert.Equal(t, first, s.status().Until) })
		s.approveAt(atGate + 30*time.Minute)
		assert.LessOrEqual(t, len(s.run().Verdicts), 200)
	})
	t.Run("a gate that has what it needs takes no more", func(t *testing.T) {
		t.Parallel()
		s := newScript(t)
		s.in("revoke-gate", atGate, func() {
			for i := range 50 {
				s.env.SignalWorkflow(workflows.ApproveName, policy.Request{ID: fmt.Sprint(i), By: fmt.Sprint("ann", i)})
			}
		})
		assert.Equal(t, workflows.Completed, s.run().Outcome)
		assert.True(t, s.has("disable with 1 approvals"), s.asked)
	})
	t.Run("a cancel that is not taken leaves a notice", func(t *testing.T) {
		t.Parallel()
		s := newScript(t)
		s.plan.CanRollBack = false
		s.in("overlap", inOverlap, s.env.CancelWorkflow)
		s.in("overlap", inOverlap+time.Minute, func() {
			assert.Contains(t, fmt.Sprint(s.status().Notices), "the run was cancelled, which was not taken: the rotation cannot be turned back")
		})
		s.approveAt(atGate)
		assert.Equal(t, workflows.Completed, s.run().Outcome)
	})
}

func TestPauseOnBreach(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.credential.ErrorBudget = &inventory.ErrorBudget{Ratio: 0.01, Window: minutes(5), MinTotal: 1, OnBreach: inventory.BreachPause}
	s.answers["Watch"] = func(n int) (any, error) {
		if n == 2 {
			return no(policy.BudgetBreached), nil
		}
		return nil, nil
	}
	s.approveAt(atGate)
	assert.Equal(t, workflows.Completed, s.run().Outcome)
	assert.Contains(t, s.asked, "await health")
}

// What nobody knows the harm of, and what turning back would make worse, is for people: it turns nothing back.
func TestAPauseForPeople(t *testing.T) {
	t.Parallel()
	for _, reason := range []policy.Reason{policy.BudgetBlind, policy.IncomingNotLive, policy.RetiringKeyDisabled, policy.RetiringGone} {
		t.Run(string(reason), func(t *testing.T) {
			t.Parallel()
			s := newScript(t)
			s.credential.ErrorBudget = &inventory.ErrorBudget{Ratio: 0.01, Window: minutes(5), MinTotal: 1, OnBreach: inventory.BreachRollback}
			told := false
			s.answers["Watch"] = func(int) (any, error) {
				if !told && s.has("promote") {
					told = true
					return no(reason), nil
				}
				return nil, nil
			}
			s.approveAt(atGate)
			report := s.run()
			assert.Equal(t, workflows.Completed, report.Outcome, report.Message)
			assert.True(t, s.has("await health"))
			paused := slices.IndexFunc(s.notes, func(n activities.NotifyInput) bool { return n.What == "paused" })
			require.GreaterOrEqual(t, paused, 0)
			assert.Equal(t, "because of "+string(reason), s.notes[paused].Body)
			last := s.watched[len(s.watched)-1]
			assert.Equal(t, reason == policy.RetiringGone, last == "", "what is gone for good is told once")
		})
	}
}

func TestARotationWithoutBudgetAndChecksIsWatchedToo(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.credential.Consumers[0].Check = nil
	s.approveAt(atGate)
	assert.Equal(t, workflows.Completed, s.run().Outcome)
	assert.Positive(t, s.called("Watch"))
}

// What breaks while the key is disabled may be what misses it: it is enabled before anything else, and whoever approved
// decides anew, on evidence gathered anew.
func TestAPauseInTheDisableSoakEnablesTheKey(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]workflows.Outcome{
		"all is well again, and the key is disabled on new approvals": workflows.Completed,
		"somebody turns it back while it is paused":                   workflows.RolledBack,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScript(t)
			s.credential.ErrorBudget = &inventory.ErrorBudget{Ratio: 0.01, Window: minutes(5), MinTotal: 1, OnBreach: inventory.BreachPause}
			breached := false
			s.answers["Watch"] = func(int) (any, error) {
				if !breached && s.has("disable with 1 approvals") {
					breached = true
					return no(policy.BudgetBreached), nil
				}
				return nil, nil
			}
			healthy := false
			s.answers["AwaitHealth"] = func(int) (any, error) {
				if end == workflows.RolledBack && !healthy {
					healthy = true
					s.ask(policy.Rollback, policy.Request{By: "ann", Reason: "errors at checkout"}, nil)
				}
				return nil, nil
			}
			s.approveAt(atGate)
			s.approveAt(atGate + 3*time.Hour)
			report := s.run()
			require.Equal(t, end, report.Outcome, report.Message)
			disabled := slices.Index(s.asked, "disable with 1 approvals")
			assert.Equal(t, []string{"enable", "await health"}, s.asked[disabled+1:disabled+3])
			if end == workflows.Completed {
				again := slices.Index(s.asked[disabled+1:], "disable with 1 approvals")
				require.Positive(t, again)
				assert.Contains(t, s.asked[disabled+1:disabled+1+again], "gather")
			} else {
				assert.NotContains(t, s.asked, "destroy with 1 approvals")
			}
		})
	}
}

func TestCompromised(t *testing.T) {
	t.Parallel()
	signal := func(s *script) {
		s.env.SignalWorkflow(workflows.CompromisedName, workflows.Compromised{Incident: "incident/leak", Reason: "key on a paste site"})
	}
	t.Run("it stops in the overlap, changes nothing more, and says what is left open", func(t *testing.T) {
		t.Parallel()
		s := newScript(t)
		s.in("overlap", inOverlap, func() { signal(s) })
		report := s.run()
		assert.Equal(t, workflows.Superseded, report.Outcome)
		assert.Equal(t, routine[:4], s.asked)
		assert.Contains(t, report.Open, "incoming key key-new is issued, in store version v2")
	})
	t.Run("nobody turns it back after that", func(t *testing.T) {
		t.Parallel()
		s := newScript(t)
		s.in("revoke-gate", atGate, func() {
			signal(s)
			s.ask(policy.Rollback, policy.Request{Reason: "errors"}, nil)
			s.ask(policy.Reject, policy.Request{By: "ann", Gate: "revoke", Reason: "errors"}, nil)
		})
		report := s.run()
		assert.Equal(t, workflows.Superseded, report.Outcome)
		assert.NotContains(t, s.asked, "restore labels")
	})
	t.Run("it stops a rollback before the exposed key is brought back", func(t *testing.T) {
		t.Parallel()
		s := newScript(t)
		s.in("overlap", inOverlap, func() { s.ask(policy.Rollback, policy.Request{Reason: "errors"}, nil); signal(s) })
		report := s.run()
		assert.Equal(t, workflows.Superseded, report.Outcome)
		assert.NotContains(t, s.asked, "restore labels")
	})
}

// A rollback goes on until it is done: nobody has to begin it again, and who can mend the cause is told.
func TestARollbackGoesOnUntilItIsDone(t *testing.T) {
	t.Parallel()
	for name, fails := range map[string]struct {
		step   string
		answer func() (any, error)
	}{
		"a host that cannot be written": {"DeliverWave", func() (any, error) {
			return activities.WaveResult{Decision: no(policy.InstanceNotConverged), Stragglers: []policy.Instance{{Consumer: "canary"}}}, nil
		}},
		"a store that denies": {"RestoreLabels", func() (any, error) {
			return nil, temporal.NewNonRetryableApplicationError("access denied", activities.TypeDenied, nil)
		}},
		"an issuer that denies": {"Discard", func() (any, error) {
			return nil, temporal.NewNonRetryableApplicationError("access denied", activities.TypeDenied, nil)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScript(t)
			s.in("overlap", inOverlap, func() { s.ask(policy.Rollback, policy.Request{By: "ann", Reason: "errors"}, nil) })
			mended := inOverlap + 80*time.Hour
			begun := s.env.Now()
			s.answers[fails.step] = func(int) (any, error) {
				if at := s.env.Now().Sub(begun); at >= inOverlap && at < mended {
					return fails.answer()
				}
				return nil, nil
			}
			report := s.run()
			assert.Equal(t, workflows.RolledBack, report.Outcome, report.Message)
			assert.Contains(t, s.asked, "discard")
			told := 0
			for _, n := range s.notes {
				if n.What == "insists" {
					told++
				}
			}
			assert.Equal(t, 4, told, "at once, and each day")
		})
	}
}

// What no waiting changes is for people; what is true then is what the record finds.
func TestARollbackThatCannotGoOn(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.in("overlap", inOverlap, func() { s.ask(policy.Rollback, policy.Request{By: "ann", Reason: "errors"}, nil) })
	s.answers["RestoreLabels"] = func(int) (any, error) {
		return nil, temporal.NewNonRetryableApplicationError("refused: key key-old is not active at the issuer", activities.TypeRefused, nil)
	}
	s.answers["Record"] = func(int) (any, error) {
		return activities.Recorded{Outcome: "failed", Debt: []activities.Debt{{Kind: activities.DebtRetiredAlive, About: "key-old"}}}, nil
	}
	report := s.run()
	assert.Equal(t, workflows.Failed, report.Outcome)
	assert.Contains(t, report.Message, "key key-old is not active at the issuer")
	assert.Contains(t, report.Message, "still owed: retired-key-alive key-old")
	assert.NotContains(t, s.asked, "discard")
}

func TestFirstKeyHasNothingToRevoke(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.plan.Retiring = nil
	report := s.run()
	assert.Equal(t, workflows.Completed, report.Outcome)
	assert.Equal(t, append(append([]string{}, routine[:4]...), "record completed"), s.asked)
}

func TestConsumersThatPullFollowThePromotion(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.plan.Waves[1].ByPromotion = true
	s.in("overlap", inOverlap, func() { s.ask(policy.Rollback, policy.Request{Reason: "errors"}, nil) })
	assert.Equal(t, workflows.RolledBack, s.run().Outcome)
	assert.Equal(t, []string{
		"issue 1", "deliver key-new to [canary]", "promote", "deliver key-new to [checkout/a checkout/b]",
		"restore labels", "deliver key-old to [canary checkout/a checkout/b]", "discard", "record rolled-back",
	}, s.asked, "those who pull are back once the labels are")
}
