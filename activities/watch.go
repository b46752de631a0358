package activities

import (
	"context"
	"fmt"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/policy"
)

// watchState is what a watch carries from attempt to attempt, in its heartbeat: the server keeps it
// across retries, restarts and kills.
type watchState struct {
	// Signals are the readings of each health signal, the first one the baseline.
	Signals []policy.Readings `json:"signals,omitempty"`
	// Failing counts, for each instance, the checks in a row that failed.
	Failing map[string]int `json:"failing,omitempty"`
}

// remembered is what the last attempt left. A state that does not decode was written by another version: a new
// baseline is taken.
func remembered(ctx context.Context) (st watchState) {
	if activity.HasHeartbeatDetails(ctx) {
		_ = activity.GetHeartbeatDetails(ctx, &st)
	}
	return st
}

// remember leaves the state to the next attempt. Where there is nothing to remember the server is not bothered.
func (st watchState) remember(ctx context.Context) {
	if len(st.Signals) > 0 || len(st.Failing) > 0 || activity.HasHeartbeatDetails(ctx) {
		activity.RecordHeartbeat(ctx, st)
	}
}

// failuresInARow is how often a check must fail before it counts: a blip turns nothing back.
const failuresInARow = 3

// Watch looks once at the error budget and at every instance's check. While both hold it answers with a
// benign error that the server retries after the interval: a watch of weeks adds nothing to the history
// and holds no worker. It ends with the decision that turned it, a breach. It changes nothing but the lease, which it renews.
func (a *Activities) Watch(ctx context.Context, r Rotation) (policy.Decision, error) {
	s, err := a.openWithin(r)
	if err != nil {
		return policy.Decision{}, forTemporal(err)
	}
	s.renew(ctx, r)
	st := remembered(ctx)
	c := s.spec.Credential
	budget := policy.Decision{OK: true, Message: "no error budget"}
	if c.ErrorBudget != nil {
		a.sample(ctx, s, &st)
		budget = policy.BudgetHolds(*c.ErrorBudget, st.Signals)
	}
	failing := s.failing(ctx, &st)
	if ctx.Err() != nil {
		return policy.Decision{}, notYet("the worker stops; another goes on watching", 0)
	}
	st.remember(ctx)
	for _, d := range []policy.Decision{budget, failing} {
		if d.Reason == policy.BudgetBreached || d.Reason == policy.CheckFailing {
			about := string(d.Reason) + "/" + a.Now().UTC().Format(time.RFC3339)
			return d, forTemporal(a.Audit.Append(ctx, a.event(ctx, r, s, audit.BudgetBreached, about, map[string]string{"decision": d.Message})))
		}
	}
	return policy.Decision{}, notYet("still watching: "+budget.Message, 0)
}

func (a *Activities) sample(ctx context.Context, s *site, st *watchState) {
	window := s.spec.Credential.ErrorBudget.Window.Std()
	if len(st.Signals) != len(s.health) {
		st.Signals = make([]policy.Readings, len(s.health))
	}
	for i, signal := range s.health {
		if reading, err := signal.Sample(ctx, window); err == nil {
			st.Signals[i] = st.Signals[i].Add(reading, window)
		}
	}
}

// failing counts failed checks, and tells of the first instance that failed too many in a row.
func (s *site) failing(ctx context.Context, st *watchState) policy.Decision {
	before := st.Failing
	st.Failing = map[string]int{}
	verdict := policy.Decision{OK: true, Reason: policy.Allowed}
	for _, i := range s.instances(ctx, s.consumers, look{}) {
		if i.Unhealthy == "" {
			continue
		}
		count := before[i.Name()] + 1
		st.Failing[i.Name()] = count
		if count >= failuresInARow && verdict.OK {
			verdict = policy.Decision{Reason: policy.CheckFailing, Message: fmt.Sprintf("%s failed its check %d times in a row: %s", i.Name(), count, i.Unhealthy)}
		}
	}
	return verdict
}

// AwaitHealth answers, like Watch, "not yet" until the error budget holds over a whole window and every
// check passes: the way out of a pause.
func (a *Activities) AwaitHealth(ctx context.Context, r Rotation) error {
	s, err := a.openWithin(r)
	if err != nil {
		return forTemporal(err)
	}
	s.renew(ctx, r)
	st := remembered(ctx)
	c := s.spec.Credential
	budget := policy.Decision{OK: true}
	if c.ErrorBudget != nil {
		a.sample(ctx, s, &st)
		budget = policy.BudgetHolds(*c.ErrorBudget, st.Signals)
	}
	s.failing(ctx, &st)
	if ctx.Err() != nil {
		return notYet("the worker stops; another goes on waiting", 0)
	}
	st.remember(ctx)
	switch {
	case len(st.Failing) > 0:
		return notYet(fmt.Sprintf("%d instances fail their checks", len(st.Failing)), 0)
	case budget.OK || budget.Reason == policy.BudgetTooLittle:
		return nil
	}
	return notYet(budget.Message, 0)
}
