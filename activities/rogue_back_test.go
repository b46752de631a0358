package activities_test

import (
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/providers/memory"
)

// Activities of one worker take turns, those of two do not: what was judged is looked at again before a key is gone.
func TestAKeyThatAnotherWorkerDeliversIsNotDestroyed(t *testing.T) {
	t.Parallel()
	c := reached(t, "Issue")
	second := c.other()
	var looks atomic.Int32
	c.world.On(memory.OpMetadata, func(p memory.Phase) {
		if p == memory.Before && looks.Add(1) == 4 { // the facts are gathered, and allow it
			c.by(second, func() {
				var delivered activities.WaveResult
				assert.NoError(t, c.attempt("DeliverWave", c.wave(), &delivered, 1))
				assert.True(t, delivered.Decision.OK, delivered.Decision.Message)
			})
		}
	})
	c.executeToNotYet("Discard", c.subject())
	assert.Contains(t, c.keys(), c.incoming.KeyID+" active")
	c.everybodyHolds(c.incoming)
	c.use()
}

// The other way round: the key dies while it is on its way.
func TestInstancesThatWereGivenADeadKeyGetCurrentAgain(t *testing.T) {
	t.Parallel()
	c := reached(t, "Issue")
	var once sync.Once
	c.world.On(memory.OpDeliver, func(p memory.Phase) {
		if p == memory.After {
			once.Do(func() { assert.NoError(t, c.world.Issuer("payments-api").Destroy(t.Context(), c.incoming)) })
		}
	})
	in := activities.WaveInput{Rotation: c.subject(), Key: c.incoming, Wave: "all"}
	var result activities.WaveResult
	c.execute("DeliverWave", in, &result)
	assert.Equal(t, policy.IncomingNotLive, result.Decision.Reason, result.Decision.Message)
	c.everybodyHolds(c.retiring)
	c.use()
}

// cut runs an activity that moves CURRENT, and the process dies before it can write so.
func (c *crashCase) cut(activity string, r activities.Rotation) {
	c.t.Helper()
	var once sync.Once
	c.world.On(memory.OpPromote, func(p memory.Phase) {
		if p == memory.After {
			once.Do(func() { c.world.Fail(memory.OpPutMetadata, os.ErrDeadlineExceeded, 1) })
		}
	})
	require.ErrorContains(c.t, c.attempt(activity, r, nil, 1), "recording")
}

// A key that was CURRENT for weeks is never one that nobody kept, even if no promotion could ever be written.
func TestAKeyThatWasCurrentIsNotDiscarded(t *testing.T) {
	t.Parallel()
	c := newSignedCase(t)
	settings := memory.Strict()
	settings.KnowsTokens, settings.UsageLag, settings.Slots = false, time.Minute, 3
	c.world.SetPrincipal("payments-api", settings)
	c.run("Issue")
	c.run("DeliverWave")
	c.cut("Promote", c.subject())
	c.passOverlap()
	c.wait(30 * 24 * time.Hour)
	c.use()

	second := c.subject()
	second.ID, second.Retiring, second.Incoming = "second-run", c.incoming, key.Ref{}
	var issued activities.Issued
	c.execute("Issue", activities.IssueInput{Rotation: second, Ordinal: 1}, &issued)
	second.Incoming = issued.Key
	c.execute("DeliverWave", activities.WaveInput{Rotation: second, Key: issued.Key, Wave: "all"}, nil)
	c.cut("Promote", second)
	c.use()
	c.wait(2 * time.Hour)
	var d policy.Decision
	c.execute("Discard", second, &d)
	assert.Contains(t, d.Message, "0 unwanted keys")
	assert.Len(t, c.keys(), 3)
}

// After a way back that was cut off, too, the overlap counts from the promotion that holds.
func TestAPromotionAfterACutOffWayBackCountsAnew(t *testing.T) {
	t.Parallel()
	c := inOverlap(t)
	c.cut("RestoreLabels", c.subject())
	c.run("DeliverBack")
	// Somebody stages the very same key again.
	store := c.world.Store("payments-api")
	_, err := store.Stage(t.Context(), "by hand", must(store.Read(t.Context(), c.incoming.StoreVersion)))
	require.NoError(t, err)
	c.run("DeliverWave")
	c.cut("Promote", c.subject())
	c.run("Promote")
	mine, _ := c.metadata().Key(c.incoming.KeyID)
	assert.Equal(t, c.now(), mine.PromotedAt)
	c.use()
	c.wait(31 * time.Minute)
	var e policy.Evidence
	c.execute("GatherEvidence", activities.EvidenceInput{Rotation: c.subject()}, &e)
	require.NotEmpty(t, e.Missing)
	assert.Equal(t, policy.OverlapNotOver, e.Missing[0].Reason)
}

// A rotation is turned back until it has ended, not weeks later: that would destroy a key in use without asking.
func TestNothingLeadsBackFromARotationThatEnded(t *testing.T) {
	t.Parallel()
	c := inOverlap(t)
	c.execute("Record", activities.RecordInput{Rotation: c.subject(), Outcome: "completed"}, nil)
	c.wait(60 * 24 * time.Hour)
	c.use()
	r := c.subject()
	r.ID, c.byRun = "rogue", "rogue-run"
	require.ErrorContains(t, c.attempt("RestoreLabels", r, nil, 1), "nothing leads back")
	require.ErrorContains(t, c.attempt("DeliverWave", activities.WaveInput{Rotation: r, Key: c.retiring, Wave: "x"}, nil, 1), "nothing leads back")
	c.wait(2 * time.Hour)
	var d policy.Decision
	c.execute("Discard", r, &d)
	assert.Contains(t, d.Message, "0 unwanted keys")
	assert.ElementsMatch(t, []string{"key-old active", c.incoming.KeyID + " active"}, c.keys())
	c.everybodyHolds(c.incoming)
}

// Whoever says early that it ended does not take the way back away.
func TestARotationInItsOverlapCanBeTurnedBackWhateverIsSaid(t *testing.T) {
	t.Parallel()
	c := newSignedCase(t)
	for _, step := range []string{"Issue", "DeliverWave", "Promote"} {
		c.run(step)
	}
	c.wait(59 * time.Minute)
	c.byRun = "rogue-run"
	c.run("Record")
	c.byRun = ""
	for _, step := range []string{"RestoreLabels", "DeliverBack", "Discard", "RecordBack"} {
		c.run(step)
	}
	assert.Equal(t, []string{"key-old active"}, c.keys())
}
