package workflows_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/workflows"
)

// busy is what a server says that has no time.
func busy() error { return temporal.NewApplicationError("the server is busy", activities.TypePassing) }

// forAnHour is no answer, as often as a step that only looks is asked in about an hour.
func forAnHour(asked *atomic.Int32) error {
	if asked.Add(1) <= 70 {
		return busy()
	}
	return nil
}

// Nobody could look for an hour. That refuses nothing: the rotation waits, says for what, tells people once, and goes on.
func TestARotationWaitsForAnAnswer(t *testing.T) {
	t.Parallel()
	for _, asked := range []string{"Accept", "Inspect"} {
		t.Run("of "+asked, func(t *testing.T) {
			t.Parallel()
			s := newScript(t)
			var silence atomic.Int32
			s.answers[asked] = func(int) (any, error) { return nil, forAnHour(&silence) }
			s.in("inspect", 30*time.Minute, func() {
				st := s.status()
				assert.Contains(t, st.WaitsFor, "the server is busy")
				assert.Contains(t, st.UnblockedBy, "it is tried again by itself")
				assert.Equal(t, []string{"unanswered"}, s.told())
			})
			s.approveAt(atGate + 80*time.Minute)
			report := s.run()
			assert.Equal(t, workflows.Completed, report.Outcome, report.Message)
			assert.Equal(t, routine, s.asked)
			assert.Equal(t, []string{"unanswered", "gate-revoke", "ended"}, s.told())
		})
	}
}

func TestARotationThatWaitsForAnAnswerCanBeEnded(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		end     func(*script)
		outcome workflows.Outcome
		says    string
	}{
		"by a rollback": {func(s *script) {
			s.env.SignalWorkflow(workflows.RollbackName, policy.Request{By: "ann", Reason: "enough"})
		}, workflows.Refused, "nothing was changed"},
		"by a cancel":    {func(s *script) { s.env.CancelWorkflow() }, workflows.Refused, "nothing was changed"},
		"by an incident": {func(s *script) { s.compromised() }, workflows.Superseded, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScript(t)
			s.answers["Inspect"] = func(int) (any, error) { return nil, busy() }
			s.in("inspect", 3*time.Hour, func() { x.end(s) })
			if x.outcome == workflows.Superseded {
				s.handsOver()
				assert.Empty(t, s.asked)
				return
			}
			report := s.run()
			assert.Equal(t, x.outcome, report.Outcome)
			assert.Contains(t, report.Message, x.says)
			assert.NotEqual(t, policy.SpecRefused, report.Reason)
			assert.Empty(t, s.asked)
		})
	}
}

// What asking again would not change ends it at once, for the reason that it says.
func TestARefusalOfALookHasItsReason(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		asked, says string
		reason      policy.Reason
	}{
		"a spec that nobody trusts":    {"Accept", activities.TypeUntrusted, policy.SpecRefused},
		"bounds":                       {"Inspect", activities.TypeOutOfBounds, policy.SpecRefused},
		"an issuer that denies a look": {"Inspect", activities.TypeDenied, policy.NotLooked},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScript(t)
			s.answers[x.asked] = func(int) (any, error) { return nil, temporal.NewNonRetryableApplicationError("no", x.says, nil) }
			report := s.run()
			assert.Equal(t, workflows.Refused, report.Outcome)
			assert.Equal(t, x.reason, report.Reason)
			assert.Equal(t, 1, s.called(x.asked))
		})
	}
}

// The server that has the specs does not answer for an hour.
func TestARotationByNameWaitsForItsSpec(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.traffic(6 * time.Hour)
	s.approve()
	s.index.specs["payments-api"], s.index.busy = s.spec(), true
	s.env.ExecuteWorkflow(workflows.Rotation, workflows.RotationInput{Credential: "payments-api"})
	require.NoError(t, s.env.GetWorkflowError())
	var report workflows.Report
	require.NoError(t, s.env.GetWorkflowResult(&report))
	assert.Equal(t, workflows.Completed, report.Outcome, report.Message)
	assert.Greater(t, report.EndedAt.Sub(report.StartedAt), 50*time.Minute)
}

// No worker takes the wave for much longer than it may last, and the first attempt fails then: absence is no failure.
func TestAWaveThatWaitedForAWorkerPasses(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.queued = time.Hour
	s.answers["DeliverWave"] = func(n int) (any, error) {
		if n == 1 {
			return nil, busy()
		}
		return nil, nil
	}
	s.approveAt(3*s.queued + atGate)
	report := s.run()
	assert.Equal(t, workflows.Completed, report.Outcome, report.Message)
}

// What fails again and again is given up in the end, and says why whatever it said.
func TestFailuresInARowAreBounded(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		err  error
		says string
	}{
		"a failure that says why":      {busy(), "the server is busy"},
		"a failure that says nothing":  {temporal.NewApplicationError("", activities.TypePassing), activities.TypePassing},
		"a failure that is of no type": {temporal.NewApplicationError("", ""), "an error that says nothing"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScript(t)
			s.answers["Promote"] = func(int) (any, error) { return nil, x.err }
			report := s.run()
			assert.Equal(t, workflows.RolledBack, report.Outcome)
			assert.Contains(t, report.Message, x.says)
			assert.Equal(t, 35, s.called("Promote"), "as many as half an hour has room for")
		})
	}
}
