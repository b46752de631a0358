package activities_test

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/providers/memory"
)

func TestCachesArePurgedWithEachDelivery(t *testing.T) {
	t.Parallel()
	c, names := aWave(t, 2, withHook, "", nil)
	for _, name := range names {
		c.world.SetInstance(name, memory.InstanceSettings{Caches: 1000 * time.Hour})
	}
	require.True(t, c.deliver(c.wave()).Decision.OK)
	for _, name := range names {
		assert.Equal(t, c.incoming.KeyID, c.world.Using(name))
	}
	back := c.wave()
	back.Key = c.retiring
	require.True(t, c.deliver(back).Decision.OK)
	var purged []string
	for _, e := range c.world.Happened(memory.OpPurge) {
		purged = append(purged, e.Instance+" "+e.KeyID)
	}
	slices.Sort(purged)
	assert.Equal(t, []string{names[0] + " key-old", names[0] + " " + c.incoming.KeyID, names[1] + " key-old", names[1] + " " + c.incoming.KeyID}, purged)
}

func TestAPurgeThatFailsIsTheReasonOfAStraggler(t *testing.T) {
	t.Parallel()
	c, names := aWave(t, 2, withHook, "", nil)
	seen := c.endsWave(names[1:], memory.OpPurge, names[:1], make(chan struct{}))
	c.world.Befall(func(_ context.Context, call memory.Call) error {
		seen(call)
		if call.Op == memory.OpPurge && call.Instance == names[1] {
			return errors.New("the cache answers 500")
		}
		return nil
	})
	result := c.deliver(c.wave())
	require.Len(t, result.Stragglers, 1)
	assert.Contains(t, result.Decision.Message, "web/i1")
	assert.Contains(t, result.Decision.Message, "purging its caches")
	assert.Contains(t, result.Decision.Message, "the cache answers 500")
}

// revoke brings a delivered key to the end of its rotation: only the record is left.
func (c *crashCase) revoke(names []string) {
	c.t.Helper()
	c.run("DeliverWave")
	c.run("Promote")
	c.wait(2 * time.Minute)
	for _, name := range names {
		require.NoError(c.t, c.world.Request(name))
	}
	c.wait(2 * time.Hour)
	var d policy.Decision
	approved := []policy.Verdict{{Action: policy.Approve, Accepted: true, By: "ann", At: c.now()}}
	c.execute("Disable", activities.RevokeInput{Rotation: c.subject(), Approvals: approved}, &d)
	require.True(c.t, d.OK, d.Message)
	c.wait(31 * time.Minute)
	c.execute("Destroy", activities.RevokeInput{Rotation: c.subject(), Approvals: approved}, nil)
}

// recorded are the events of a type in the audit record.
func (c *crashCase) recorded(of audit.Type) []audit.Event {
	c.t.Helper()
	trail, err := audit.Read(c.auditFile)
	require.NoError(c.t, err)
	return slices.DeleteFunc(trail.Events, func(e audit.Event) bool { return e.Type != of })
}

func TestTheEndOfAKeyIsPurgedToo(t *testing.T) {
	t.Parallel()
	c, names := aWave(t, 2, withHook, "", nil)
	c.revoke(names)
	before := c.world.Purged(names[0])
	c.run("Record")
	assert.Equal(t, before+1, c.world.Purged(names[0]))
	assert.Equal(t, before+1, c.world.Purged(names[1]))
}

// One Record may end two keys: what was removed of which is in the record.
func TestThePurgeOfEachDeadKeyIsRecorded(t *testing.T) {
	t.Parallel()
	c, names := aWave(t, 2, withHook, "", nil)
	c.revoke(names)
	m := c.metadata()
	m.Keys = append(m.Keys, key.Owned{Ref: key.Ref{Principal: "payments-api", KeyID: "key-earlier"}}) // whose rotation was terminated
	_, err := c.world.Store("payments-api").PutMetadata(t.Context(), m)
	require.NoError(t, err)
	c.run("Record")
	var purged []string
	for _, e := range c.recorded(audit.CopiesPurged) {
		purged = append(purged, e.Detail["key"]+" at "+e.Detail["instance"])
	}
	slices.Sort(purged)
	assert.Equal(t, []string{"key-earlier at web/i0", "key-earlier at web/i1", "key-old at web/i0", "key-old at web/i1"}, purged)
}

// An instance whose hook fails does not keep the end of the rotation from being written. What it may keep is debt, and
// the next record purges it again.
func TestAPurgeThatFailsIsDebtOfTheRecord(t *testing.T) {
	t.Parallel()
	c, names := aWave(t, 2, withHook, "", nil)
	c.revoke(names)
	var broken atomic.Bool
	broken.Store(true)
	c.world.Befall(func(_ context.Context, call memory.Call) error {
		if call.Op == memory.OpPurge && call.Instance == names[1] && broken.Load() {
			return errors.New("connection refused")
		}
		return nil
	})
	var got activities.Recorded
	record := activities.RecordInput{Rotation: c.subject(), Outcome: "completed"}
	for range 2 { // called again it finds the same
		require.NoError(t, c.attempt("Record", record, &got, 1))
		require.Len(t, got.Debt, 1)
		assert.Equal(t, "copies-left key-old", got.Debt[0].Kind+" "+got.Debt[0].About)
		m := c.metadata()
		assert.Equal(t, got.Debt, m.Debt)
		assert.Equal(t, "completed-with-debt", m.LastRotation.Outcome)
		_, named := m.Key("key-old")
		assert.True(t, named, "the record of the dead key is kept until its copies are gone")
		mine, _ := m.Key(c.incoming.KeyID)
		assert.False(t, mine.KeptAt.IsZero())
		assert.NotContains(t, c.versions(), c.retiring.StoreVersion)
		assert.Len(t, c.recorded(audit.RotationEnded), 1)
		debts := c.recorded(audit.DebtFound)
		require.Len(t, debts, 1)
		assert.Contains(t, debts[0].Detail["why"], "purging failed at web/i1: purge: connection refused")
	}

	broken.Store(false)
	before := c.world.Purged(names[1])
	record.ID = "second-run" // of a rotation that changed nothing
	var next activities.Recorded
	require.NoError(t, c.attempt("Record", record, &next, 1))
	assert.Empty(t, next.Debt)
	assert.Equal(t, before+1, c.world.Purged(names[1]))
	_, named := c.metadata().Key("key-old")
	assert.False(t, named)
	assert.Len(t, c.recorded(audit.VersionPruned), 1, "the version went once")
}

// An instance that just starts is tried again.
func TestAPurgeOfADeadKeyIsPatient(t *testing.T) {
	t.Parallel()
	c, names := aWave(t, 2, withHook, "", nil)
	c.revoke(names)
	var tries atomic.Int32
	c.world.Befall(func(_ context.Context, call memory.Call) error {
		if call.Op == memory.OpPurge && call.Phase == memory.Before && call.Instance == names[1] && tries.Add(1) < 5 {
			return errors.New("connection refused: it starts")
		}
		return nil
	})
	var got activities.Recorded
	require.NoError(t, c.attempt("Record", activities.RecordInput{Rotation: c.subject(), Outcome: "completed"}, &got, 1))
	assert.Empty(t, got.Debt)
}

// A rollback ends a key, too: the incoming one, whose copies go with it, or are debt.
func TestTheCopiesOfADiscardedKeyArePurged(t *testing.T) {
	t.Parallel()
	for name, broken := range map[string]bool{"all instances forget it": false, "one cannot": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, names := aWave(t, 2, withHook, "", nil)
			c.run("DeliverWave")
			c.run("DeliverBack")
			before := c.world.Purged(names[0])
			c.world.Befall(func(_ context.Context, call memory.Call) error {
				if call.Op == memory.OpPurge && call.Instance == names[1] && broken {
					return errors.New("connection refused")
				}
				return nil
			})
			c.run("Discard")
			assert.Equal(t, before+1, c.world.Purged(names[0]))
			assert.Equal(t, []string{"key-old active"}, c.keys())
			c.run("Discard") // called again, it finds nothing more to do
			assert.Equal(t, before+1, c.world.Purged(names[0]))
			assert.Len(t, c.recorded(audit.KeyDiscarded), 1)

			var got activities.Recorded
			require.NoError(t, c.attempt("Record", activities.RecordInput{Rotation: c.subject(), Outcome: "rolled-back"}, &got, 1))
			m := c.metadata()
			_, named := m.Key(c.incoming.KeyID)
			assert.Equal(t, broken, named)
			assert.Equal(t, broken, m.Owes("copies-left", c.incoming.KeyID))
			assert.Equal(t, got.Debt, m.Debt)
			assert.Equal(t, "rolled-back", m.LastRotation.Outcome)
			assert.Empty(t, c.recorded(audit.VersionPruned), "its version went with the key")
		})
	}
}
