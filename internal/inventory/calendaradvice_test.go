package inventory_test

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/inventory"
)

// scheduledFile is a file with these schedules, the first of which is the defaults'.
func scheduledFile(defaults, own string) string {
	return `apiVersion: keyturn/v1
inventory: payments
defaults: {` + defaults + `}
credentials:
  - name: payments-api
    owner: payments@example.com
    purpose: charges
    environment: production
    rotateEvery: 30d
    approvals: {revoke: {count: 1, trust: any}}
    ` + own + `
    issuer: {type: gateway, account: edge, principal: payments-api}
    store: {type: file, account: vault, path: payments-api}
    noConsumers: true
`
}

// Nothing that a schedule declares is ignored: each field of it changes when a rotation begins, or is said to change nothing.
func TestEachTermOfAScheduleCounts(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	opens := func(c inventory.Credential) any { return c.Next(now) }
	terms := map[string]struct {
		counts  string // a schedule in which the field counts
		without string // the same without the field
		as      func(inventory.Credential) any
		idle    map[string]string // schedules in which it does not, and what is said of them
	}{
		"timeZone": {`{timeZone: Asia/Kolkata, at: "10:00"}`, `{at: "10:00"}`, opens,
			map[string]string{`{timeZone: Europe/Berlin}`: "credentials[0].schedule.timeZone changes nothing: the schedule has no time of day and no blackout"}},
		"days": {`{at: "10:00", days: [sat]}`, `{at: "10:00"}`, opens, map[string]string{`{days: [mon]}`: "schedule.at is missing"}},
		"at":   {`{at: "10:00"}`, `{}`, opens, map[string]string{`{at: ""}`: ""}}, // that is to say nothing
		"window": {`{at: "10:00", window: 4h}`, `{at: "10:00"}`, func(c inventory.Credential) any { return c.Schedule.Open() },
			map[string]string{`{window: 4h}`: "schedule.at is missing", `{at: "10:00", window: 0s}`: "f.yaml:11:37: credentials[0].schedule.window is zero", `{window: 0m}`: "schedule.window is zero"}},
		"jitter": {`{jitter: 2h}`, `{}`, func(c inventory.Credential) any { return c.Schedule.Jitter }, nil}, // the server spreads by it, windows or not
		"blackouts": {`{blackouts: [{from: 2026-03-01, to: 2026-03-03}]}`, `{}`, opens, map[string]string{
			`{blackouts: [{from: 2026-02-01, to: 2026-02-28}]}`:                                                                         "credentials[0].schedule.blackouts[0].to is over: the blackout ended 2026-03-01T00:00:00Z",
			`{blackouts: [{from: 2026-02-01T10:00, to: 2026-03-01T12:00}]}`:                                                             "is over",
			`{blackouts: [{from: 2026-02-01, to: 2027-01-31}, {from: 2027-02-01, to: 2028-01-31}]}`:                                     "credentials[0].schedule.blackouts let no rotation begin before 2028-02-01",
			`{blackouts: [{from: 2026-02-01, to: 2027-01-31}, {from: 2027-02-01, to: 2028-01-31}, {from: 2028-02-01, to: 2029-01-31}]}`: "let no rotation begin within two years",
			`{at: "10:00", days: [sun], blackouts: [{from: 2026-03-01T13:00, to: 2026-04-12T13:00}]}`:                                   "let no rotation begin before 2026-04-19T10:00:00Z, which is longer than the cadence of 30d",
		}},
		"paused": {`{paused: the vault moves}`, `{}`, func(c inventory.Credential) any { return c.Schedule.Paused }, nil},
	}
	read := func(defaults, own string) (*inventory.Inventory, error) {
		return inventory.LoadAt("f.yaml", []byte(scheduledFile(defaults, own)), real, now)
	}
	said := func(inv *inventory.Inventory, err error) string {
		if err != nil {
			return err.Error()
		}
		var list []string
		for _, a := range inv.Advice {
			list = append(list, a.String())
		}
		return strings.Join(list, "\n")
	}
	for field := range reflect.TypeFor[inventory.Schedule]().Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x, known := terms[name]
			require.True(t, known, "say here how it counts, and what is said where it does not")
			with, err := read("", "schedule: "+x.counts)
			require.NoError(t, err)
			assert.Empty(t, with.Advice)
			without, err := read("", "schedule: "+x.without)
			require.NoError(t, err)
			assert.NotEqual(t, x.as(without.Credentials[0]), x.as(with.Credentials[0]))
			for schedule, want := range x.idle {
				if text := said(read("", "schedule: "+schedule)); want != "" {
					assert.Contains(t, text, want, schedule)
				} else {
					assert.Empty(t, text, schedule)
				}
			}
		})
	}
	assert.Contains(t, said(read("schedule: {timeZone: Europe/Berlin}", "labels: {a: b}")), "defaults.schedule.timeZone changes nothing")
	assert.Empty(t, said(read("schedule: {timeZone: Europe/Berlin}", `schedule: {at: "10:00"}`)), "a zone of the defaults is there for whoever has a time")
	assert.Contains(t, said(read(`schedule: {at: "10:00", window: 0s}`, "labels: {a: b}")), "defaults.schedule.window is zero")
}
