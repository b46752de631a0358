package policy_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
)

func TestWhoGetsASlotFirst(t *testing.T) {
	t.Parallel()
	// Each goes before all that follow.
	line := []policy.Waiter{
		{Credential: "of an age nobody knows", Risk: inventory.RiskCritical, Since: now},
		{Credential: "overdue", Risk: inventory.RiskCritical, RotateBy: now.Add(-time.Hour), Since: now},
		{Credential: "critical", Risk: inventory.RiskCritical, RotateBy: now, Since: now},
		{Credential: "high", Risk: inventory.RiskHigh, RotateBy: now.Add(-time.Hour), Since: now},
		{Credential: "waits longer", Risk: inventory.RiskStandard, RotateBy: now, Since: now.Add(-time.Hour)},
		{Credential: "waits", Risk: inventory.RiskStandard, RotateBy: now.Add(time.Millisecond), Since: now.Add(time.Millisecond)},
		{Credential: "waits, by name", Risk: inventory.RiskStandard, RotateBy: now, Since: now},
		{Credential: "low", Risk: inventory.RiskLow, RotateBy: now.Add(-time.Hour), Since: now},
		{Credential: "of no known risk", RotateBy: now.Add(-time.Hour), Since: now},
	}
	for i, a := range line {
		for j, b := range line {
			assert.Equal(t, i < j, a.Before(b), "%s before %s", a.Credential, b.Credential)
		}
	}
}

func TestWhetherTheCalendarLetsARotationStart(t *testing.T) {
	t.Parallel()
	noon := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	closed := inventory.Schedule{At: "22:00"}
	blackout := inventory.Schedule{Blackouts: []inventory.Blackout{{From: "2026-03-01", To: "2026-03-02", Why: "launch"}}}
	both := inventory.Schedule{At: "22:00", Blackouts: blackout.Blackouts}
	for name, x := range map[string]struct {
		schedule inventory.Schedule
		start    policy.Start
		resumes  bool
		want     policy.Reason
		says     []string
	}{
		"a person begins at any time without a window":           {inventory.Schedule{}, policy.Start{}, false, policy.Allowed, nil},
		"a person begins in the window":                          {inventory.Schedule{At: "11:30"}, policy.Start{}, false, policy.Allowed, nil},
		"a person is refused outside of it, and told when":       {closed, policy.Start{}, false, policy.WindowClosed, []string{"the next one opens 2026-03-01T22:00:00Z", "keyturn rotate payments-api --now"}},
		"a person who wants it now is not":                       {closed, policy.Start{Now: true}, false, policy.Allowed, []string{"as was asked: the window is closed"}},
		"what a Schedule has begun is not, whose window closes":  {closed, policy.Start{Fired: true}, false, policy.Allowed, nil},
		"what goes on with another is not":                       {closed, policy.Start{}, true, policy.Allowed, nil},
		"a person is refused in a blackout":                      {blackout, policy.Start{}, false, policy.BlackedOut, []string{"until 2026-03-03T00:00:00Z: launch", "--now"}},
		"and is told of the window after it":                     {both, policy.Start{}, false, policy.BlackedOut, []string{"the next window opens 2026-03-03T22:00:00Z"}},
		"a person who wants it now is not refused in a blackout": {blackout, policy.Start{Now: true}, false, policy.Allowed, []string{"as was asked: a blackout lasts until"}},
		"what a Schedule has begun is refused in a blackout":     {blackout, policy.Start{Fired: true}, false, policy.BlackedOut, nil},
		"what goes on with another is refused in a blackout":     {blackout, policy.Start{}, true, policy.BlackedOut, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := credential()
			c.Schedule = x.schedule
			d := policy.MayStart(c, x.start, x.resumes, noon)
			assert.Equal(t, x.want, d.Reason, d.Message)
			assert.Equal(t, x.want == policy.Allowed, d.OK)
			for _, says := range x.says {
				assert.Contains(t, d.Message, says)
			}
		})
	}
}

func TestAPlanSaysWhatTheCalendarSays(t *testing.T) {
	t.Parallel()
	c := credential()
	c.Schedule.Blackouts = []inventory.Blackout{{From: "01-01", To: "12-31"}}
	plan := policy.Plan{MadeAt: now}
	refused := plan.Begun(c, policy.Start{})
	assert.True(t, refused.Refused())
	assert.Empty(t, refused.Warnings)
	wanted := plan.Begun(c, policy.Start{Now: true})
	assert.False(t, wanted.Refused())
	assert.Len(t, wanted.Warnings, 1, "who looks at the run sees that it begins in a blackout")
}
