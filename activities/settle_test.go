package activities_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/memory"
)

// An issuer that answers as before for some time after a change. The simulation found these.

// isSlow makes the issuer answer late from now on. Time passes with each look at it, and the activity, whose patience is in
// real time, has some for a second look.
func (c *crashCase) isSlow() {
	c.do.PollEvery = time.Second
	settings := memory.Strict()
	settings.KnowsTokens, settings.UsageLag, settings.ConsistentWithin = false, time.Minute, 20*time.Millisecond
	c.wait(time.Second)
	c.world.SetPrincipal("payments-api", settings)
	c.world.On(memory.OpList, func(p memory.Phase) {
		if p == memory.After {
			c.wait(30 * time.Millisecond)
		}
	})
}

// shown is the state in which the issuer shows the retiring key at this moment.
func (c *crashCase) shown() key.State {
	list, err := c.world.Issuer("payments-api").List(context.Background())
	require.NoError(c.t, err)
	for _, k := range list {
		if k.KeyID == c.retiring.KeyID {
			return k.State
		}
	}
	return ""
}

func TestAChangeOfAKeyIsAwaited(t *testing.T) {
	t.Parallel()
	c := reached(t, "Issue", "DeliverWave", "Promote")
	c.passOverlap()
	c.isSlow()
	approvals := []policy.Verdict{{Action: policy.Approve, Accepted: true, By: "ann", At: c.now()}}
	var d policy.Decision
	require.NoError(t, c.attempt("Disable", activities.RevokeInput{Rotation: c.subject(), Approvals: approvals}, &d, 5))
	require.True(t, d.OK, d.Message)
	assert.Equal(t, key.Disabled, c.shown(), "else it would not be destroyed after a short soak")

	require.NoError(t, c.attempt("Enable", c.subject(), nil, 5))
	assert.Equal(t, key.Active, c.shown(), "else consumers would be given a key that is refused")
}

// While the issuer took its time to show what became of a disabling that was cut off, the key became somebody else's: it is left
// as they have it.
func TestEnablingIsJudgedAgainOnceTheIssuerHasShownTheKey(t *testing.T) {
	t.Parallel()
	for name, others := range map[string]bool{"others have it": true, "nobody else": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := reached(t, "Issue", "DeliverWave", "Promote", "Disable")
			m := c.metadata()
			at := slices.IndexFunc(m.Keys, func(k key.Owned) bool { return k.KeyID == c.retiring.KeyID })
			m.Keys[at].DisabledAt = time.Time{} // whoever disabled it died before that was written
			store := c.world.Store("payments-api")
			_, err := store.PutMetadata(t.Context(), m)
			require.NoError(t, err)
			var shown atomic.Bool
			c.world.On(memory.OpPutMetadata, func(p memory.Phase) {
				if p != memory.After || shown.Swap(true) {
					return
				}
				c.wait(6 * time.Second) // since it was judged
				if others {
					m := c.metadata()
					m.Keys = slices.Delete(m.Keys, at, at+1)
					_, err := store.PutMetadata(context.Background(), m)
					assert.NoError(t, err)
					assert.NoError(t, store.Prune(context.Background(), c.retiring.StoreVersion))
				}
			})
			err = c.attempt("Enable", c.subject(), nil, 1)
			if others {
				require.ErrorContains(t, err, "is no current or retired key of payments-api")
				assert.Equal(t, key.Disabled, c.shown())
				return
			}
			require.NoError(t, err)
			assert.Equal(t, key.Active, c.shown())
		})
	}
}

func TestADestroyedKeyThatIsStillListedIsGone(t *testing.T) {
	t.Parallel()
	c := reached(t, "Issue", "DeliverWave", "Promote", "Disable")
	c.wait(31 * time.Minute)
	c.isSlow()
	var once sync.Once
	c.world.On(memory.OpSelfTest, func(p memory.Phase) {
		if p == memory.Before {
			once.Do(func() { panic("the process dies") }) // while it probes
		}
	})
	var destroyed activities.Destroyed
	c.execute("Destroy", activities.RevokeInput{
		Rotation: c.subject(), Approvals: []policy.Verdict{{Action: policy.Approve, Accepted: true, By: "ann", At: c.now()}},
	}, &destroyed)
	assert.True(t, destroyed.Decision.OK, destroyed.Decision.Message)
}

func TestDebtIsWhatTheIssuerStillHasAfterItSettled(t *testing.T) {
	t.Parallel()
	record := func(c *crashCase) (r activities.Recorded) {
		c.execute("Record", activities.RecordInput{Rotation: c.subject(), Outcome: "completed"}, &r)
		return r
	}
	c := reached(t, "Issue", "DeliverWave", "Promote", "Disable")
	c.wait(31 * time.Minute)
	c.isSlow()
	require.NoError(t, c.world.Issuer("payments-api").Destroy(context.Background(), c.retiring))
	assert.Empty(t, record(c).Debt, "it was only listed late")
	assert.Equal(t, "completed", c.metadata().LastRotation.Outcome)

	c = reached(t, "Issue", "DeliverWave", "Promote", "Disable")
	assert.Len(t, record(c).Debt, 1)
	assert.Equal(t, "completed-with-debt", c.metadata().LastRotation.Outcome, "report and record end alike")
}

func TestTheEndOfAnOrphanIsRecordedWheneverTheProcessDies(t *testing.T) {
	t.Parallel()
	for name, step := range map[string]struct {
		activity string
		want     audit.Type
	}{
		"the next attempt destroys it": {"Issue", audit.OrphanDestroyed},
		"a rollback destroys it":       {"Discard", audit.KeyDiscarded},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCase(t)
			for _, op := range []memory.Op{memory.OpIssue, memory.OpDisable, memory.OpDestroy} {
				var once sync.Once
				c.world.On(op, func(p memory.Phase) {
					if p == memory.After {
						once.Do(func() { panic("the process dies") })
					}
				})
			}
			require.Error(t, c.attempt("Issue", activities.IssueInput{Rotation: c.subject(), Ordinal: 1}, nil, 1))
			if step.activity == "Issue" {
				c.executeOverLag("Issue", activities.IssueInput{Rotation: c.subject(), Ordinal: 1}, nil)
			} else {
				c.executeOverLag("Discard", c.subject(), nil)
			}
			c.auditHas(audit.OrphanDisabled, step.want)
		})
	}
}

// A key that was destroyed and is not seen to be refused is owed: the record keeps what it can be tried with, and each later
// one tries it again.
func TestAKeyThatIsNotProvedDeadIsDebt(t *testing.T) {
	t.Parallel()
	c := newCase(t)
	for _, step := range []string{"Issue", "DeliverWave", "Promote", "Disable"} {
		c.run(step)
	}
	c.wait(31 * time.Minute)
	var ails atomic.Bool
	c.world.Befall(func(_ context.Context, call memory.Call) error {
		if call.Op == memory.OpDestroy {
			ails.Store(true) // from then on
		}
		if ails.Load() && call.Op == memory.OpSelfTest && call.Phase == memory.Before {
			return errors.New("500 Internal Server Error")
		}
		return nil
	})
	approvals := []policy.Verdict{{Action: policy.Approve, Accepted: true, By: "ann", At: c.now()}}
	require.Error(t, c.attempt("Destroy", activities.RevokeInput{Rotation: c.subject(), Approvals: approvals}, nil, 2))
	assert.NotContains(t, strings.Join(c.keys(), " "), "key-old")

	record := func() (r activities.Recorded) {
		c.execute("Record", activities.RecordInput{Rotation: c.subject(), Outcome: "completed"}, &r)
		return r
	}
	for range 2 { // the same again
		r := record()
		assert.Equal(t, "completed-with-debt", r.Outcome)
		require.Len(t, r.Debt, 1)
		assert.Equal(t, activities.DebtNotProved, r.Debt[0].Kind)
		assert.Equal(t, "key-old", r.Debt[0].About)
		assert.Contains(t, strings.Join(r.Left, "\n"), "key-old was destroyed and is not proved to be refused")
		assert.Contains(t, c.versions(), c.retiring.StoreVersion, "it can be tried again")
	}
	ails.Store(false)
	r := record()
	assert.Equal(t, "completed", r.Outcome)
	assert.Empty(t, r.Debt)
	assert.NotContains(t, c.versions(), c.retiring.StoreVersion)
}

// Whether a key is quiet is told by who reports its uses, whatever their clock says.
func TestAKeyInUseIsNotDisabledByAClockThatIsBehind(t *testing.T) {
	t.Parallel()
	c := newCase(t)
	settings := memory.Strict()
	settings.ClockSkew = -8 * time.Hour
	c.world.SetPrincipal("payments-api", settings)
	inUse, _ := c.world.Held("canary")
	for _, step := range []string{"Issue", "DeliverWave", "Promote"} {
		c.run(step)
	}
	c.wait(10 * time.Hour)
	c.use()
	require.NoError(t, c.world.Use(inUse, "night-batch"), "the retiring key is accepted still")
	c.wait(time.Second)
	disable := func() (d policy.Decision) {
		approvals := []policy.Verdict{{Action: policy.Approve, Accepted: true, By: "ann", At: c.now()}}
		c.execute("Disable", activities.RevokeInput{Rotation: c.subject(), Approvals: approvals}, &d)
		return d
	}
	d := disable()
	assert.Equal(t, policy.RetiringNotQuiet, d.Reason, d.Message)
	assert.Contains(t, d.Message, "night-batch")
	c.wait(time.Hour)
	d = disable()
	assert.True(t, d.OK, d.Message)
	c.wait(time.Minute)
	require.ErrorIs(t, c.world.Use(inUse, "night-batch"), providers.ErrKeyRefused)
	c.wait(31 * time.Minute)
	var destroyed activities.Destroyed
	c.execute("Destroy", activities.RevokeInput{Rotation: c.subject()}, &destroyed)
	assert.Equal(t, policy.RetiringMissed, destroyed.Decision.Reason, destroyed.Decision.Message)
}
