package tests

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/schedule"
	"github.com/keyturn/keyturn/providers/all"
)

// schedules are those of the stage's namespace.
func (s *stage) schedules() (*schedule.Schedules, client.Client) {
	s.t.Helper()
	c := s.client()
	return schedule.New(c, s.namespace, all.Catalog(all.Descriptors()...)), c
}

// declared is an inventory's text with credentials of these names; each has more lines from the function.
func declared(name string, names []string, more func(name string) string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: keyturn/v1\ninventory: %s\ncredentials:\n", name)
	for _, n := range names {
		fmt.Fprintf(&b, `  - name: %s
    owner: payments@example.com
    purpose: charges
    environment: sandbox
    labels: {team: payments}
    approvals: {revoke: {count: 1, trust: any}}
    issuer: {type: gateway, account: edge, principal: %[1]s}
    store: {type: file, account: vault-dir, path: %[1]s}
    noConsumers: true
%s`, n, more(n))
	}
	return b.String()
}

func nothingMore(string) string { return "" }

// specs are those of an inventory's text, for the stage's namespace.
func (s *stage) specs(t *testing.T, text string) []inventory.SignedSpec {
	t.Helper()
	inv, err := inventory.Load("inventory.yaml", []byte(text), all.Catalog(all.Descriptors()...))
	require.NoError(t, err)
	var specs []inventory.SignedSpec
	for i, c := range inv.Credentials {
		spec, err := inventory.NewSpec(inventory.Spec{Namespace: s.namespace, Inventory: inv.Name, Generation: time.Now().UnixMilli() + int64(i), Credential: c})
		require.NoError(t, err)
		specs = append(specs, spec)
	}
	return specs
}

func TestASchedulesIndexSaysWhatItsSpecAndTheStoreSay(t *testing.T) {
	t.Parallel()
	s := onSharedServer(t)
	schedules, c := s.schedules()
	ann := newPerson(t, s.folder, "ann")
	spec := s.specs(t, declared("payments", []string{"a-key"}, nothingMore))[0]
	signed, err := spec.Sign(ann.key)
	require.NoError(t, err)
	require.NoError(t, schedules.Create(t.Context(), schedule.Content{Signed: signed}))
	require.ErrorIs(t, schedules.Create(t.Context(), schedule.Content{Signed: signed}), schedule.ErrExists)

	plain, err := c.ScheduleClient().GetHandle(t.Context(), schedule.ID("payments", "a-key")).Describe(t.Context())
	require.NoError(t, err)
	assert.Equal(t, enums.SCHEDULE_OVERLAP_POLICY_SKIP, plain.Schedule.Policy.Overlap)
	assert.Equal(t, time.Hour, plain.Schedule.Policy.CatchupWindow)
	issued := time.Now().Add(-80 * 24 * time.Hour).UTC().Truncate(time.Second)
	state := inventory.State{
		KeyID: "k1", KeyIssuedAt: issued, RotateBy: issued.Add(90 * 24 * time.Hour), LastOutcome: "completed", LastRotation: issued.Add(time.Hour), Debt: 1,
	}
	require.NoError(t, schedules.Observe(t.Context(), "payments", "a-key", state))
	require.NoError(t, schedules.Observe(t.Context(), "payments", "a-key", state), "again")

	described, err := schedules.Find(t.Context(), "a-key")
	require.NoError(t, err)
	assert.Equal(t, signed.Signature, described.Signed.Signature)
	require.NotEmpty(t, described.NextRuns)
	due := state.RotateBy.Add(-9 * 24 * time.Hour)
	assert.False(t, described.NextRuns[0].Before(due), "the next run follows from the rotate-by")
	assert.Less(t, described.NextRuns[0].Sub(due), 24*time.Hour)
	assert.Equal(t, described.Spec.Credential.Next(due), described.NextRuns[0].UTC(), "and is where the calendar of the inventory has it")

	var entries []schedule.Entry
	eventually(t, func() bool {
		entries, err = schedules.List(t.Context(), "payments", "KeyturnOwner = 'payments@example.com'")
		return err == nil && len(entries) == 1 && entries[0].State == state
	}, patience, 50*time.Millisecond)
	e := entries[0]
	assert.Equal(t, "a-key", e.Credential)
	assert.Equal(t, "charges", e.Purpose)
	assert.Equal(t, map[string]string{"team": "payments"}, e.Labels)
	assert.Equal(t, "gateway/edge/a-key", e.Issuer())
	assert.Equal(t, inventory.RiskStandard, e.Risk)
	assert.Equal(t, "90d", e.RotateEvery.String())
	assert.True(t, strings.HasPrefix(e.Signer, "SHA256:"))
	assert.Equal(t, described.Digest, e.Digest)

	none, err := schedules.List(t.Context(), "others", "")
	require.NoError(t, err)
	assert.Empty(t, none)
	_, err = schedules.Find(t.Context(), "nobody")
	require.ErrorIs(t, err, schedule.ErrNotFound)

	other := s.specs(t, declared("payments", []string{"a-key"}, func(string) string { return "    scopes: [charge:create]\n    schedule: {jitter: 10m}\n" }))[0]
	require.ErrorIs(t, schedules.Declare(t.Context(), other, 1), schedule.ErrOvertaken)
	require.NoError(t, schedules.Declare(t.Context(), other, described.Generation))
	plain, err = c.ScheduleClient().GetHandle(t.Context(), schedule.ID("payments", "a-key")).Describe(t.Context())
	require.NoError(t, err)
	assert.Equal(t, 10*time.Minute, plain.Schedule.Spec.Jitter)
	assert.Equal(t, time.Hour, plain.Schedule.Policy.CatchupWindow)
	eventually(t, func() bool {
		entries, err = schedules.List(t.Context(), "payments", "")
		return err == nil && len(entries) == 1 && entries[0].Signer == ""
	}, patience, 50*time.Millisecond)
	assert.Equal(t, []string{"charge:create"}, entries[0].Scopes, "also where the server keeps the first memo")
	assert.Equal(t, state, entries[0].State)

	require.NoError(t, schedules.Delete(t.Context(), "payments", "a-key"))
	require.NoError(t, schedules.Delete(t.Context(), "payments", "a-key"), "again")
	_, err = schedules.Describe(t.Context(), "payments", "a-key")
	require.ErrorIs(t, err, schedule.ErrNotFound)
}

// Somebody pauses while others write: whatever the order, the pause stays, and no write is lost.
func TestAStaleWriterDoesNotUnpause(t *testing.T) {
	t.Parallel()
	s := onSharedServer(t)
	schedules, c := s.schedules()
	spec := s.specs(t, declared("payments", []string{"a-key"}, nothingMore))[0]
	require.NoError(t, schedules.Create(t.Context(), schedule.Content{Signed: spec}))
	handle := c.ScheduleClient().GetHandle(t.Context(), schedule.ID("payments", "a-key"))

	overtaken := false
	require.NoError(t, schedules.Update(t.Context(), "payments", "a-key", func(content *schedule.Content) (bool, error) {
		if !overtaken {
			overtaken = true
			require.NoError(t, handle.Pause(t.Context(), client.SchedulePauseOptions{Note: "vault is moving"}))
		}
		content.State.KeyID = "k1"
		return true, nil
	}))
	described, err := schedules.Describe(t.Context(), "payments", "a-key")
	require.NoError(t, err)
	assert.True(t, described.Paused)
	assert.Equal(t, "vault is moving", described.Note)
	assert.Equal(t, "k1", described.State.KeyID)
	require.NoError(t, schedules.Unpause(t.Context(), "payments", "a-key", ""))

	var writers sync.WaitGroup
	for n := range 4 {
		writers.Go(func() {
			err := schedules.Update(context.WithoutCancel(t.Context()), "payments", "a-key", func(content *schedule.Content) (bool, error) {
				content.State.Debt |= 1 << (4 * n)
				return true, nil
			})
			assert.NoError(t, err)
		})
	}
	writers.Go(func() {
		assert.NoError(t, handle.Pause(context.WithoutCancel(t.Context()), client.SchedulePauseOptions{Note: "again"}))
	})
	writers.Wait()
	described, err = schedules.Describe(t.Context(), "payments", "a-key")
	require.NoError(t, err)
	assert.True(t, described.Paused)
	assert.Equal(t, "again", described.Note)
	assert.Equal(t, 0x1111, described.State.Debt, "no write is lost")
}

// What a Schedule does, over years with changes of the clocks and blackouts, is what the inventory's calendar
// says: asked of the server itself.
func TestTheServersCalendarIsTheInventorys(t *testing.T) {
	t.Parallel()
	s := onSharedServer(t)
	schedules, c := s.schedules()
	calendars := map[string]struct {
		schedule string
		// fires are some of the moments, around the changes of the clocks.
		fires []string
	}{
		"any-time": {},
		"berlin": {schedule: `{timeZone: Europe/Berlin, at: "10:00"}`, fires: []string{
			"2026-03-28T09:00:00Z", "2026-03-29T08:00:00Z", "2026-10-24T08:00:00Z", "2026-10-25T09:00:00Z",
		}},
		"new-york": {schedule: `{timeZone: America/New_York, at: "01:30", days: [sat, sun]}`, fires: []string{ // there twice on a day of each year
			"2026-03-07T06:30:00Z", "2026-03-08T06:30:00Z", "2026-03-14T05:30:00Z", "2026-10-31T05:30:00Z", "2026-11-01T05:30:00Z", "2026-11-07T06:30:00Z",
		}},
		"samoa":        {schedule: `{timeZone: Pacific/Apia, at: "23:30", days: [mon, fri], blackouts: [{from: 12-20, to: 01-05}, {from: 02-27, to: 02-29}]}`},
		"kolkata":      {schedule: `{timeZone: Asia/Kolkata, at: "08:15", blackouts: [{from: 2026-03-28T09:00, to: 2026-04-02T08:00}, {from: 2026-10-24, to: 2026-10-26}]}`},
		"without":      {schedule: `{timeZone: Europe/Berlin, blackouts: [{from: 03-28, to: 03-30}]}`},
		"in-half-days": {schedule: `{timeZone: Europe/Berlin, at: "22:00", blackouts: [{from: 2026-05-01T12:00, to: 2026-05-03T12:00}]}`},
	}
	for name, calendar := range calendars {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			spec := s.specs(t, declared("payments", []string{name}, func(string) string {
				if calendar.schedule == "" {
					return ""
				}
				return "    schedule: " + calendar.schedule + "\n"
			}))[0]
			require.NoError(t, schedules.Create(t.Context(), schedule.Content{Signed: spec}))
			described, err := schedules.Describe(t.Context(), "payments", name)
			require.NoError(t, err)
			from, to := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2028, 3, 15, 0, 0, 0, 0, time.UTC)
			var fires []time.Time
			for begin := from; begin.Before(to); begin = begin.AddDate(0, 3, 0) { // the server answers 1,000 at most
				end := begin.AddDate(0, 3, 0).Add(-time.Second)
				if end.After(to) {
					end = to
				}
				answer, err := c.WorkflowService().ListScheduleMatchingTimes(t.Context(), &workflowservice.ListScheduleMatchingTimesRequest{
					Namespace: s.namespace, ScheduleId: schedule.ID("payments", name), StartTime: timestamppb.New(begin), EndTime: timestamppb.New(end),
				})
				require.NoError(t, err)
				for _, at := range answer.GetStartTime() {
					fires = append(fires, at.AsTime())
				}
			}
			require.NotEmpty(t, fires)
			credential := described.Spec.Credential
			var ours []time.Time
			for at := credential.Next(from); !at.After(to); at = credential.Next(at.Add(time.Second)) {
				ours = append(ours, at.UTC())
			}
			// A wall clock that is set back shows a time twice; the server may fire at both, we count one.
			last := time.Time{}
			for _, at := range fires {
				if at.Sub(last) != time.Hour {
					assert.Contains(t, ours, at, "the server fires, and the calendar does not say so")
				}
				last = at
			}
			assert.Empty(t, without(ours, fires), "the calendar says so, and the server does not fire")
			for _, text := range calendar.fires {
				at, err := time.Parse(time.RFC3339, text)
				require.NoError(t, err)
				assert.Contains(t, fires, at)
			}
		})
	}
}

// without are those of want that are not in have.
func without(want, have []time.Time) []time.Time {
	there := map[int64]bool{}
	for _, at := range have {
		there[at.Unix()] = true
	}
	var lacks []time.Time
	for _, at := range want {
		if !there[at.Unix()] {
			lacks = append(lacks, at)
		}
	}
	return lacks
}
