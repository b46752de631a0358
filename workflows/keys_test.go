package workflows_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/workflows"
)

// lives is what a status tells of its two keys.
func lives(s workflows.Status) (list []string) {
	for _, m := range s.Keys {
		list = append(list, string(m.Key)+" "+string(m.State))
	}
	return list
}

func TestAStatusTellsWhatBecameOfBothKeys(t *testing.T) {
	t.Parallel()
	promoted := []string{"retiring current", "incoming pending", "incoming current", "retiring previous"}
	asked := func(place string, after time.Duration) func(*script) {
		return func(s *script) {
			if after > atGate {
				s.approveAt(atGate)
			}
			s.in(place, after, func() { s.ask(policy.Rollback, policy.Request{By: "ann", Reason: "errors"}, nil) })
		}
	}
	for name, c := range map[string]struct {
		prepare func(*script)
		want    []string
	}{
		"the routine way": {func(s *script) { s.approveAt(atGate) }, append(promoted[:4:4], "retiring disabled", "retiring destroyed")},
		"an issuer that cannot disable": {func(s *script) {
			s.plan.CanDisable = false
			s.approveAt(atGate)
		}, append(promoted[:4:4], "retiring destroyed")},
		"a first key": {func(s *script) { s.plan.Retiring = nil }, []string{"incoming pending", "incoming current"}},
		"a refusal": {func(s *script) {
			s.plan.Refusals = []policy.Decision{no(policy.SlotsFull)}
		}, []string{"retiring current"}},
		"a rollback before promotion":    {asked("canary soaking", inFirstSoak), []string{"retiring current", "incoming pending", "incoming destroyed"}},
		"a rollback in the overlap":      {asked("overlap", inOverlap), append(promoted[:4:4], "retiring current", "incoming pending", "incoming destroyed")},
		"a rollback in the disable soak": {asked("disable-soak", inDisableSoak), append(promoted[:4:4], "retiring disabled", "retiring current", "incoming pending", "incoming destroyed")},
		"a rollback after which the incoming key is not proved to be dead": {func(s *script) {
			s.in("overlap", inOverlap, func() { s.ask(policy.Rollback, policy.Request{By: "ann", Reason: "errors"}, nil) })
			s.answers["Discard"] = func(int) (any, error) {
				return policy.Decision{OK: true, Reason: policy.NotProvedDead, Message: "not proved to be dead: key-new"}, nil
			}
		}, append(promoted[:4:4], "retiring current", "incoming pending")},
		"a key that is not destroyed and enabled again": {func(s *script) {
			s.approveAt(atGate)
			s.approveAt(atGate + 3*time.Hour)
			s.answers["Destroy"] = func(n int) (any, error) {
				if n == 1 {
					return activities.Destroyed{Decision: no(policy.RetiringMissed)}, nil
				}
				return nil, nil
			}
		}, append(promoted[:4:4], "retiring disabled", "retiring previous", "retiring disabled", "retiring destroyed")},
		"a pause that enables the disabled key": {func(s *script) {
			s.credential.ErrorBudget = &inventory.ErrorBudget{Ratio: 0.01, Window: minutes(5), MinTotal: 1, OnBreach: inventory.BreachPause}
			breached := false
			s.answers["Watch"] = func(int) (any, error) {
				if !breached && s.has("disable with 1 approvals") {
					breached = true
					return no(policy.BudgetBreached), nil
				}
				return nil, nil
			}
			s.approveAt(atGate)
			s.approveAt(atGate + 3*time.Hour)
		}, append(promoted[:4:4], "retiring disabled", "retiring previous", "retiring disabled", "retiring destroyed")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScript(t)
			c.prepare(s)
			report := s.run()
			status := s.status()
			assert.Equal(t, c.want, lives(status), report.Message)
			for i, m := range status.Keys[1:] {
				assert.False(t, m.At.Before(status.Keys[i].At), "in their order")
			}
		})
	}
}

func TestAKeyThatIsMissedAndDisabledForeverIsToldInBounds(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.credential.DisableSoak, s.credential.Consumers[0].Check, s.plan.TellsMissed = minutes(1), nil, false
	const rounds = 30
	for n := range rounds {
		s.approveAt(atGate + time.Duration(n)*2*time.Minute)
	}
	s.answers["Destroy"] = func(n int) (any, error) {
		if n < rounds {
			return activities.Destroyed{Decision: no(policy.RetiringMissed)}, nil
		}
		return nil, nil
	}
	report := s.run()
	require.Equal(t, workflows.Completed, report.Outcome, report.Message)
	keys := lives(s.status())
	assert.Len(t, keys, 50)
	assert.Equal(t, []string{"retiring current", "incoming pending"}, keys[:2], "how it began stays")
	assert.Equal(t, "retiring destroyed", keys[49], fmt.Sprint(keys))
}
