package activities_test

import (
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/memory"
)

// writes changes the record of the retiring key as another worker does.
func (c *crashCase) writes(change func(m *key.Metadata, mine *key.Owned)) {
	m := c.metadata()
	at := slices.IndexFunc(m.Keys, func(k key.Owned) bool { return k.KeyID == c.retiring.KeyID })
	change(&m, &m.Keys[at])
	_, err := c.world.Store("payments-api").PutMetadata(c.t.Context(), m)
	assert.NoError(c.t, err)
}

// takenBack is the record of a disabling that was taken back.
func takenBack(_ *key.Metadata, mine *key.Owned) {
	mine.DisablingAt, mine.DisablingReport, mine.DisabledAt = time.Time{}, time.Time{}, time.Time{}
	mine.Spent, mine.Approvals = append(mine.Spent, mine.Approvals...), nil
}

// What another worker did with the key, since an attempt looked at it, holds the enabling: the disabling that is there now may be
// somebody else's, or another run's.
func TestAKeyIsNotEnabledOnARecordThatIsPast(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		write func(m *key.Metadata, mine *key.Owned)
		says  string
	}{
		"another worker enabled it, and somebody disabled it by hand since": {takenBack, "another worker has just acted on key"},
		"it was disabled anew": {func(_ *key.Metadata, mine *key.Owned) { mine.DisablingAt = mine.DisablingAt.Add(time.Minute) }, "another worker has just acted on key"},
		"another run has taken over": {func(m *key.Metadata, _ *key.Owned) {
			next := *m.Lease
			next.Run = "next-run"
			m.Lease = &next
		}, `run "next-run" of rotation/payments-api has taken over`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := reached(t, "Issue", "DeliverWave", "Promote", "Disable")
			var once sync.Once
			c.world.On(memory.OpVersions, func(p memory.Phase) {
				if p == memory.After { // the facts are read
					once.Do(func() { c.writes(x.write) })
				}
			})
			require.ErrorContains(t, c.attempt("Enable", c.subject(), nil, 1), x.says)
			assert.Empty(t, c.world.Happened(memory.OpEnable))
			assert.Contains(t, c.keys(), "key-old disabled")
		})
	}
}

// A key that another worker enables while it is being disabled is not noted as disabled: a soak that nobody began would count for
// whoever disables it later.
func TestAKeyThatIsEnabledMeanwhileIsNotNotedAsDisabled(t *testing.T) {
	t.Parallel()
	approved := func(c *crashCase) activities.RevokeInput {
		return activities.RevokeInput{Rotation: c.subject(), Approvals: []policy.Verdict{{Action: policy.Approve, Accepted: true, By: "ann", At: c.now()}}}
	}
	t.Run("by a rollback, right after it was disabled", func(t *testing.T) {
		t.Parallel()
		c := reached(t, "Issue", "DeliverWave", "Promote")
		c.passOverlap()
		second := c.other()
		c.interleave(3, func() { c.by(second, func() { assert.NoError(t, c.attempt("Enable", c.subject(), nil, 1)) }) }) // the first two note the test, and that it begins
		require.ErrorContains(t, c.attempt("Disable", approved(c), nil, 1), "another worker has just enabled key key-old")
		assert.Contains(t, c.keys(), "key-old active")
		mine, _ := c.metadata().Key("key-old")
		assert.Zero(t, mine.DisabledAt)
	})
	t.Run("by who also found that a process died with it", func(t *testing.T) {
		t.Parallel()
		c := reached(t, "Issue", "DeliverWave", "Promote")
		c.passOverlap()
		var once sync.Once
		c.world.On(memory.OpDisable, func(p memory.Phase) {
			if p == memory.After {
				once.Do(func() { c.world.Fail(memory.OpPutMetadata, os.ErrDeadlineExceeded, 1) })
			}
		})
		require.Error(t, c.attempt("Disable", approved(c), nil, 1))
		c.interleave(1, func() { c.writes(takenBack) })
		require.ErrorContains(t, c.attempt("Enable", c.subject(), nil, 1), "another worker has just enabled key key-old")
		mine, _ := c.metadata().Key("key-old")
		assert.Zero(t, mine.DisabledAt)
	})
}

// A key that is disabled anew while an enabling is recorded is keyturn's doing still: else nobody would ever enable it.
func TestAKeyThatIsDisabledAnewMeanwhileIsNotForgotten(t *testing.T) {
	t.Parallel()
	c := reached(t, "Issue", "DeliverWave", "Promote", "Disable")
	again := c.now().Add(time.Minute).UTC()
	c.interleave(1, func() {
		assert.NoError(t, c.world.Issuer("payments-api").(providers.Disabler).Disable(t.Context(), c.retiring))
		c.writes(func(_ *key.Metadata, mine *key.Owned) { mine.DisablingAt, mine.DisabledAt = again, again })
	})
	require.NoError(t, c.attempt("Enable", c.subject(), nil, 1))
	mine, _ := c.metadata().Key("key-old")
	assert.True(t, mine.DisablingAt.Equal(again), "%s", mine.DisablingAt)
	var d policy.Decision
	c.execute("Enable", c.subject(), &d)
	assert.True(t, d.OK, d.Message)
	assert.Contains(t, c.keys(), "key-old active")
}
