package workflows_test

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/workflows"
)

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

// In a pause each look asks the issuer, and all that rely on a signal which fails pause at once: the account's quota counts for these
// looks. A watch, most of whose looks ask no issuer, waits for no quota.
func TestAPauseLooksWithinTheQuotaOfTheIssuer(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.credential.ErrorBudget = &inventory.ErrorBudget{Ratio: 0.01, Window: minutes(5), MinTotal: 1, OnBreach: inventory.BreachPause}
	s.answers["Accept"] = func(int) (any, error) { return activities.Accepted{Quota: true}, nil }
	s.answers["Watch"] = func(n int) (any, error) {
		if n == 2 {
			return no(policy.BudgetBreached), nil
		}
		return nil, nil
	}
	queues := map[string]string{}
	s.started = append(s.started, func(info *activity.Info, _ converter.EncodedValues) { queues[info.ActivityType.Name] = info.TaskQueue })
	s.approveAt(atGate)
	assert.Equal(t, workflows.Completed, s.run().Outcome)
	assert.NotEqual(t, workflows.TaskQueue, queues["Inspect"])
	assert.Equal(t, queues["Inspect"], queues["AwaitHealth"])
	assert.Equal(t, workflows.TaskQueue, queues["Watch"])
}

// What nobody knows the harm of, and what turning back would make worse, is for people: it turns nothing back.
func TestAPauseForPeople(t *testing.T) {
	t.Parallel()
	for _, reason := range []policy.Reason{policy.BudgetBlind, policy.IncomingNotLive, policy.RetiringKeyDisabled} {
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
		})
	}
}

// While the retiring key is gone, only the incoming one is left: a rotation brings it to whoever is refused, instead of waiting until all
// is well, which it never is.
func TestARotationWhoseRetiringKeyIsGoneGoesOn(t *testing.T) {
	t.Parallel()
	gone := no(policy.RetiringGone)
	for name, c := range map[string]struct {
		watch    []policy.Reason // one after the other
		lookBack policy.Decision
		paused   int
		told     int
	}{
		"as its watch finds":                             {[]policy.Reason{policy.RetiringGone}, yes, 0, 1},
		"and the budget is breached":                     {[]policy.Reason{policy.RetiringGone, policy.BudgetBreached}, gone, 0, 2},
		"and a check fails, also in the overlap":         {[]policy.Reason{policy.RetiringGone, policy.CheckFailing, policy.CheckFailing}, gone, 0, 3},
		"as a pause for a breach finds in several looks": {[]policy.Reason{policy.BudgetBreached}, gone, 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScript(t)
			s.credential.ErrorBudget = &inventory.ErrorBudget{Ratio: 0.01, Window: minutes(5), MinTotal: 1, OnBreach: inventory.BreachRollback}
			s.answers["LookBack"] = func(int) (any, error) { return c.lookBack, nil }
			s.answers["Watch"] = func(n int) (any, error) {
				if n <= len(c.watch) {
					return no(c.watch[n-1]), nil
				}
				return nil, nil
			}
			s.answers["AwaitHealth"] = func(int) (any, error) {
				return nil, temporal.NewNonRetryableApplicationError("the retiring key is gone", activities.TypeGone, nil)
			}
			s.approveAt(atGate)
			report := s.run()
			assert.Equal(t, workflows.Completed, report.Outcome, report.Message)
			assert.Equal(t, c.paused, s.called("AwaitHealth"))
			told := slices.DeleteFunc(s.notes, func(n activities.NotifyInput) bool { return n.What != "retiring-gone" })
			assert.Len(t, told, c.told, "at once, and once it is watched again")
			assert.Empty(t, s.watched[len(s.watched)-1], "what is gone is watched no more")
		})
	}
}

// That the retiring key was gone is no more than what was seen once: a breach asks again, and turns back, or pauses, when it is there.
func TestARetiringKeyThatIsThereAfterAllIsGoneBackTo(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		breach inventory.OnBreach
		want   workflows.Outcome
	}{
		"the rotation turns back": {inventory.BreachRollback, workflows.RolledBack},
		"or pauses":               {inventory.BreachPause, workflows.Completed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScript(t)
			s.credential.ErrorBudget = &inventory.ErrorBudget{Ratio: 0.01, Window: minutes(5), MinTotal: 1, OnBreach: c.breach}
			found := []policy.Reason{policy.RetiringGone, policy.BudgetBreached}
			s.answers["Watch"] = func(n int) (any, error) {
				if n <= len(found) {
					return no(found[n-1]), nil
				}
				return nil, nil
			}
			s.approveAt(atGate)
			report := s.run()
			assert.Equal(t, c.want, report.Outcome, report.Message)
			assert.Equal(t, c.breach == inventory.BreachPause, s.called("AwaitHealth") == 1)
		})
	}
}

// In a pause that the policy asks for, too: it would last for ever.
func TestAPauseEndsWhenTheRetiringKeyIsGone(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.credential.ErrorBudget = &inventory.ErrorBudget{Ratio: 0.01, Window: minutes(5), MinTotal: 1, OnBreach: inventory.BreachPause}
	s.answers["Watch"] = func(n int) (any, error) {
		if n == 1 {
			return no(policy.BudgetBreached), nil
		}
		return nil, nil
	}
	s.answers["AwaitHealth"] = func(int) (any, error) {
		return nil, temporal.NewNonRetryableApplicationError("the retiring key is gone: key key-old does not exist any more", activities.TypeGone, nil)
	}
	s.approveAt(atGate)
	report := s.run()
	assert.Equal(t, workflows.Completed, report.Outcome, report.Message)
	assert.Equal(t, 1, s.called("AwaitHealth"))
	assert.Contains(t, s.told(), "retiring-gone")
	assert.Empty(t, s.watched[len(s.watched)-1], "what is gone is watched no more")
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
