package workflows_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/workflows"
)

// handed are the events of a script that came with activities which ended well, so that a record has them.
type handed struct {
	mu      sync.Mutex
	came    map[string][]audit.Event // with an activity that goes on
	events  []audit.Event
	largest int // input, in bytes
}

func (s *script) handed() *handed {
	h := &handed{came: map[string][]audit.Event{}}
	s.started = append(s.started, func(info *activity.Info, args converter.EncodedValues) {
		h.mu.Lock()
		defer h.mu.Unlock()
		var raw json.RawMessage
		if args == nil || args.Get(&raw) != nil {
			return
		}
		h.largest = max(h.largest, len(raw))
		var in struct{ Events []audit.Event }
		if info.ActivityType.Name == "Log" {
			require.NoError(s.t, json.Unmarshal(raw, &in.Events))
		} else {
			_ = json.Unmarshal(raw, &in) // others have none
		}
		h.came[info.ActivityID] = in.Events
	})
	s.env.SetOnActivityCompletedListener(func(info *activity.Info, _ converter.EncodedValue, err error) {
		h.mu.Lock()
		defer h.mu.Unlock()
		if err == nil {
			h.events = append(h.events, h.came[info.ActivityID]...)
		}
	})
	return h
}

func (h *handed) has(of audit.Type) (found bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.events {
		found = found || e.Type == of
	}
	return found
}

// by are the decisions, by their IDs.
func (h *handed) by(id string) (times int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	seen := map[string]bool{}
	for _, e := range h.events {
		if e.Detail["id"] == id && !seen[e.ID] {
			seen[e.ID] = true
			times++
		}
	}
	return times
}

func TestNothingThatHappenedIsLost(t *testing.T) {
	t.Parallel()
	sorry := policy.Request{ID: "sorry", By: "ann", Reason: "errors"}
	notYet := temporal.NewApplicationErrorWithOptions("not yet", activities.TypeNotYet, temporal.ApplicationErrorOptions{Category: temporal.ApplicationErrorCategoryBenign})
	t.Run("what went along with evidence that was never complete, when it is turned back", func(t *testing.T) {
		t.Parallel()
		s := newScript(t)
		h := s.handed()
		s.in("overlap", inOverlap, func() { s.ask(policy.Extend, policy.Request{ID: "longer", By: "ann", Extension: minutes(30)}, nil) })
		s.answers["GatherEvidence"] = func(int) (any, error) { return nil, notYet }
		s.in("evidence", 120*time.Minute, func() { s.ask(policy.Rollback, sorry, nil) })
		assert.Equal(t, workflows.RolledBack, s.run().Outcome)
		assert.True(t, h.has(audit.OverlapBegun))
		assert.True(t, h.has(audit.OverlapExtended))
		assert.Equal(t, 1, h.by("longer"))
	})
	t.Run("a decision that comes while the end is written", func(t *testing.T) {
		t.Parallel()
		s := newScript(t)
		h := s.handed()
		s.approveAt(atGate)
		s.answers["Record"] = func(int) (any, error) {
			s.env.SignalWorkflow(workflows.RollbackName, policy.Request{By: "ann", ID: "late", Reason: "late"})
			return nil, nil
		}
		assert.Equal(t, workflows.Completed, s.run().Outcome)
		assert.Equal(t, 1, h.by("late"))
	})
	t.Run("an end that the audit record does not take at first", func(t *testing.T) {
		t.Parallel()
		s := newScript(t)
		h := s.handed()
		s.plan.Refusals = []policy.Decision{no(policy.SlotsFull)}
		s.answers["Log"] = func(n int) (any, error) {
			if n < 40 { // the attempts of more than one activity
				return nil, temporal.NewApplicationError("no space left on device", activities.TypePassing)
			}
			return nil, nil
		}
		assert.Equal(t, workflows.Refused, s.run().Outcome)
		assert.True(t, h.has(audit.RotationEnded))
		assert.Contains(t, s.told(), "unrecorded")
	})
}

// Nobody makes a run too large for Temporal by what they write: no input, and no report.
func TestAFloodOfWordsFitsIntoEveryMessage(t *testing.T) {
	t.Parallel()
	many := 900
	if raced {
		many = 90
	}
	flood := func(s *script) {
		for i := range many { // each of these takes six bytes in JSON
			s.env.SignalWorkflow(workflows.ApproveName, policy.Request{Gate: "revoke", ID: fmt.Sprint("flood/", i), By: strings.Repeat("<", 999), Reason: strings.Repeat(">", 999)})
		}
	}
	for name, c := range map[string]struct {
		play func(*script)
		want workflows.Outcome
	}{
		"while it is inspected, and then refused": {func(s *script) {
			s.answers["Inspect"] = func(int) (any, error) {
				flood(s)
				return policy.Plan{Refusals: []policy.Decision{no(policy.SlotsFull)}}, nil
			}
		}, workflows.Refused},
		"in the overlap": {func(s *script) {
			s.in("overlap", inOverlap, func() { flood(s) })
			s.approveAt(atGate)
		}, workflows.Completed},
		"in the overlap, while the audit record takes nothing for an hour": {func(s *script) {
			full := false
			s.in("overlap", inOverlap, func() { full = true; flood(s) })
			s.at(atGate, func() { full = false })
			s.answers["Log"] = func(int) (any, error) {
				if full {
					return nil, temporal.NewApplicationError("no space left on device", activities.TypePassing)
				}
				return nil, nil
			}
			s.in("revoke-gate", 4*time.Hour, func() { s.ask(policy.Approve, policy.Request{Gate: "revoke", By: "ann"}, nil) })
		}, workflows.Completed},
		"at the gate, as one person of two": {func(s *script) {
			s.credential.Approvals.Revoke.Count = 2
			s.in("revoke-gate", atGate, func() { flood(s) })
			s.approveAt(atGate + 10*time.Minute)
		}, workflows.Completed},
		"at the gate, as many people at once": {func(s *script) {
			s.in("revoke-gate", atGate, func() {
				for i := range many {
					s.env.SignalWorkflow(workflows.ApproveName, policy.Request{Gate: "revoke", ID: fmt.Sprint("flood/", i), By: fmt.Sprint(i, strings.Repeat("<", 990)), Reason: strings.Repeat(">", 999)})
				}
			})
		}, workflows.Completed},
		"at the end": {func(s *script) {
			s.approveAt(atGate)
			s.answers["Record"] = func(int) (any, error) { flood(s); return nil, nil }
		}, workflows.Completed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScript(t)
			s.credential.Approvals.Revoke.RequestExpires = 0
			h := s.handed()
			c.play(s)
			report := s.run()
			assert.Equal(t, c.want, report.Outcome, report.Message)
			text, err := json.Marshal(report)
			require.NoError(t, err)
			assert.Less(t, len(text), 600<<10, "the report")
			assert.Less(t, h.largest, 600<<10, "the largest input")
			for i := range many {
				require.Equal(t, 1, h.by(fmt.Sprint("flood/", i)), i)
			}
		})
	}
}
