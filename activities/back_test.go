package activities_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
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

// A rotation turned back, and only then a test of the key to go back to is refused: the next one goes on with the key that works.
func TestWhatTurnedBackToAKeyThatIsRefusedIsGoneOnWith(t *testing.T) {
	t.Parallel()
	c := reached(t, "Issue", "DeliverWave")
	c.run("RestoreLabels")
	minted, _ := c.metadata().Key(c.incoming.KeyID)
	require.False(t, minted.TurnedBackAt.IsZero())
	var plan policy.Plan
	c.execute("Inspect", c.subject(), &plan)
	require.Nil(t, plan.Resume)

	c.world.Fail(memory.OpSelfTest, fmt.Errorf("%w: at the edge", providers.ErrKeyRefused), 1000)
	back := activities.WaveInput{Rotation: c.subject(), Key: c.retiring, Wave: "all"}
	require.ErrorContains(t, c.attempt("DeliverWave", back, nil, 1), "a test of it is refused")
	c.everybodyHolds(c.incoming)
	c.execute("Record", activities.RecordInput{Rotation: c.subject(), Outcome: "failed"}, nil)

	c.world.Fail(memory.OpSelfTest, nil, 0)
	c.execute("Inspect", c.subject(), &plan)
	require.NotNil(t, plan.Resume, plan.Refusals)
	assert.Equal(t, c.incoming.KeyID, plan.Resume.Incoming.KeyID)
}

// A key that consumers had, and that the issuer does not list, is not destroyed: nobody judged whether they have another one. Nor is
// it forgotten while it works: its value and the record of it stay until it is refused.
func TestADeliveredKeyThatIsNotListedIsNotDiscarded(t *testing.T) {
	t.Parallel()
	c := reached(t, "Issue", "DeliverWave")
	for _, step := range []string{"RestoreLabels", "DeliverBack"} {
		c.run(step)
	}
	unlisted := &unlisting{keyID: c.incoming.KeyID}
	c.do.Descriptors = []providers.Descriptor{c.world.Descriptor()}
	mint := c.do.Descriptors[0].Issuer.Open
	c.do.Descriptors[0].Issuer.Open = func(e providers.Environment, account, config any) (providers.Issuer, error) {
		whole, err := mint(e, account, config)
		unlisted.Issuer, unlisted.Disabler, unlisted.SelfTester = whole, whole.(providers.Disabler), whole.(providers.SelfTester)
		return unlisted, err
	}
	c.run("Discard") // it waits for nothing that may never come: what is not proved is for the record, and for who looks next
	assert.Contains(t, c.keys(), c.incoming.KeyID+" active")
	assert.Contains(t, c.versions(), c.incoming.StoreVersion)
	_, ours := c.metadata().Key(c.incoming.KeyID)
	assert.True(t, ours, "else nobody would ever end it")
	c.everybodyHolds(c.retiring)

	unlisted.keyID = "" // the issuer was late
	c.run("Discard")
	c.run("RecordBack")
	assert.Equal(t, []string{"key-old active"}, c.keys())
}

// Whoever destroyed such a key beside keyturn did what was to be done: it is refused, and cleaned up after.
func TestADeliveredKeyThatIsGoneIsCleanedUpAfter(t *testing.T) {
	t.Parallel()
	c := reached(t, "Issue", "DeliverWave", "RestoreLabels", "DeliverBack")
	require.NoError(t, c.world.Issuer("payments-api").Destroy(t.Context(), c.incoming))
	c.run("Discard")
	assert.NotContains(t, c.versions(), c.incoming.StoreVersion)
	_, ours := c.metadata().Key(c.incoming.KeyID)
	assert.False(t, ours)
}

// The key that consumers are to be left with is looked after while somebody keeps the other one from being discarded: where it does not
// work, the wait is over, and the next rotation goes on with the key that does.
func TestAWaitToDiscardLooksAfterTheKeyThatIsKept(t *testing.T) {
	t.Parallel()
	refused := fmt.Errorf("%w: at the edge", providers.ErrKeyRefused)
	for name, x := range map[string]struct {
		back   bool // everybody is back on the key that is kept, and the other one not quiet yet
		befall func(c *crashCase)
		want   policy.Reason // none while it waits
	}{
		"all is well":                    {befall: func(*crashCase) {}},
		"it is refused once":             {befall: func(c *crashCase) { c.world.Fail(memory.OpSelfTest, refused, 1) }},
		"nobody knows whether it works":  {befall: func(c *crashCase) { c.world.Fail(memory.OpSelfTest, errors.New("503"), 1000) }},
		"it is refused":                  {befall: func(c *crashCase) { c.world.Fail(memory.OpSelfTest, refused, 1000) }, want: policy.RetiringKeyNotLive},
		"it is refused, and all have it": {back: true, befall: func(c *crashCase) { c.world.Fail(memory.OpSelfTest, refused, 1000) }, want: policy.RetiringKeyNotLive},
		"somebody disables it by hand": {befall: func(c *crashCase) {
			require.NoError(c.t, c.world.Issuer("payments-api").(providers.Disabler).Disable(c.t.Context(), c.retiring))
		}, want: policy.RetiringKeyNotLive},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := reached(t, "Issue", "DeliverWave", "RestoreLabels")
			if x.back {
				c.run("DeliverBack")
			}
			c.wait(time.Minute)
			c.isNotYet(c.attempt("Discard", c.subject(), nil, 1))
			x.befall(c)
			c.wait(10 * time.Minute)
			var d policy.Decision
			err := c.attempt("Discard", c.subject(), &d, 1)
			if x.want == "" {
				c.isNotYet(err)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, x.want, d.Reason, d.Message)
			assert.Contains(t, c.keys(), c.incoming.KeyID+" active")
			c.isGoneOnWith()
		})
	}
}

// A test may hide the uses of consumers: however often a wait looks, it tests the key that is kept no more often than they can be seen.
func TestAWaitToDiscardTestsRarely(t *testing.T) {
	t.Parallel()
	c := reached(t, "Issue", "DeliverWave", "RestoreLabels")
	c.wait(time.Minute)
	tests := 0
	c.world.On(memory.OpSelfTest, func(at memory.Phase) {
		if at == memory.Before {
			tests++
		}
	})
	for range 60 {
		c.isNotYet(c.attempt("Discard", c.subject(), nil, 1))
		c.wait(30 * time.Second)
	}
	assert.GreaterOrEqual(t, tests, 3, "in half an hour")
	assert.LessOrEqual(t, tests, 6)
}

// Who reads CURRENT has the retiring key from when it moved: that it is delivered again is written before, whenever the process dies.
func TestAMovingBackIsMarkedBeforeItIsMade(t *testing.T) {
	t.Parallel()
	for name, phase := range map[string]memory.Phase{"it dies before it moved": memory.Before, "it dies when it has moved": memory.After} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := reached(t, "Issue", "DeliverWave", "Promote")
			c.wait(20 * time.Hour)
			from := c.now()
			c.dies(death{op: memory.OpPromote, call: 1, phase: phase})
			require.Error(t, c.attempt("RestoreLabels", c.subject(), nil, 1))
			require.True(t, c.died.Load())
			kept, _ := c.metadata().Key(c.retiring.KeyID)
			assert.False(t, kept.DeliveredAt.Before(from), "%s", kept.DeliveredAt)

			c.wait(time.Minute)
			c.run("RestoreLabels")
			kept, _ = c.metadata().Key(c.retiring.KeyID)
			assert.Equal(t, c.now(), kept.DeliveredAt, "when it was seen to have moved")
			for _, step := range []string{"DeliverBack", "Discard", "RecordBack"} {
				c.run(step)
			}
			assert.Equal(t, []string{"key-old active"}, c.keys())
		})
	}
}

// Where nothing leads back, RestoreLabels moves nothing and takes back that the rotation turned back: the next one goes on with the key
// that works, which stays CURRENT.
func TestLabelsAreNotMovedBackToAKeyThatIsRefused(t *testing.T) {
	t.Parallel()
	for name, mark := range map[string]bool{"it had not turned back yet": false, "an attempt before had noted that it turns back": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := reached(t, "Issue", "DeliverWave")
			if mark {
				c.run("RestoreLabels")
				minted, _ := c.metadata().Key(c.incoming.KeyID)
				require.False(t, minted.TurnedBackAt.IsZero())
			}
			c.wait(time.Minute)
			c.world.Fail(memory.OpSelfTest, fmt.Errorf("%w: at the edge", providers.ErrKeyRefused), 1000)
			moved := len(c.world.Happened(memory.OpPromote))
			err := c.attempt("RestoreLabels", c.subject(), nil, 1)
			require.True(t, isType(err, activities.TypeRefused), "%v", err)
			assert.Len(t, c.world.Happened(memory.OpPromote), moved)
			minted, _ := c.metadata().Key(c.incoming.KeyID)
			assert.Zero(t, minted.TurnedBackAt)
			c.isGoneOnWith()
		})
	}
}

// Somebody disabled the key, and a rotation took that over. It was missed, and left so. When people approve anew, a soak of its own
// begins: the user who is long gone is not missed again.
func TestADisablingThatIsApprovedAnewIsWatchedAnew(t *testing.T) {
	t.Parallel()
	c := reached(t, "Issue", "DeliverWave", "Promote")
	c.passOverlap()
	disabler := c.world.Issuer("payments-api").(providers.Disabler)
	require.NoError(t, disabler.Disable(context.Background(), c.retiring))
	c.run("Disable")
	first, _ := c.metadata().Key(c.retiring.KeyID)
	c.wait(2 * time.Hour)
	approvals := []policy.Verdict{{Action: policy.Approve, Accepted: true, Verified: true, ID: "anew", By: "ann", At: c.now()}}
	c.execute("Disable", activities.RevokeInput{Rotation: c.subject(), Approvals: approvals}, nil)
	again, _ := c.metadata().Key(c.retiring.KeyID)
	assert.True(t, first.DisabledAt.Before(again.DisabledAt), "%s, then %s", first.DisabledAt, again.DisabledAt)
	var d activities.Destroyed
	err := c.attempt("Destroy", activities.RevokeInput{Rotation: c.subject(), Approvals: approvals}, &d, 1)
	c.isNotYet(err)
}

// A moving back of CURRENT is a delivery to whoever reads it: the key that they had is not destroyed before it was quiet since.
func TestWhoReadsCurrentIsBackWhenItMoved(t *testing.T) {
	t.Parallel()
	c := reached(t, "Issue", "DeliverWave", "Promote")
	c.wait(20 * time.Hour)
	c.run("RestoreLabels")
	kept, _ := c.metadata().Key(c.retiring.KeyID)
	assert.Equal(t, c.now(), kept.DeliveredAt)
}

// A rollback whose key to go back to ends after CURRENT has moved leads to no dead end: the next rotation goes on with the other key.
func TestAKeyThatEndsAfterTheRollbackIsNotTheLastOne(t *testing.T) {
	t.Parallel()
	c := reached(t, "Issue", "DeliverWave", "Promote", "RestoreLabels")
	require.NoError(t, c.world.Issuer("payments-api").(providers.Disabler).Disable(t.Context(), c.retiring)) // by hand
	c.wait(time.Minute)
	c.byRun = "the-next-run"
	var plan policy.Plan
	c.execute("Inspect", activities.Rotation{Spec: c.spec, ID: "the-next-rotation"}, &plan)
	require.NotNil(t, plan.Resume, "%v", plan.Refusals)
	assert.Equal(t, c.incoming.KeyID, plan.Resume.Incoming.KeyID)
}

// What was reported while keyturn had the key disabled says nothing of a later disabling by hand.
func TestADisablingByHandHasAReportOfItsOwn(t *testing.T) {
	t.Parallel()
	c := reached(t, "Issue", "DeliverWave", "Promote", "Disable", "Enable")
	enabled, _ := c.metadata().Key("key-old")
	assert.Zero(t, enabled.DisablingReport)
	c.wait(time.Hour)
	require.NoError(t, c.world.Issuer("payments-api").(providers.Disabler).Disable(t.Context(), c.retiring))
	c.run("Disable")
	byHand, _ := c.metadata().Key("key-old")
	list, err := c.world.Issuer("payments-api").List(t.Context())
	require.NoError(t, err)
	at := slices.IndexFunc(list, func(k key.Info) bool { return k.KeyID == "key-old" })
	assert.True(t, byHand.DisablingAt.IsZero())
	assert.False(t, byHand.DisablingReport.After(list[at].ReportedAt))
}

// isGoneOnWith sees that the rotation, once it has failed, is gone on with by the next one, with its key.
func (c *crashCase) isGoneOnWith() {
	c.t.Helper()
	c.execute("Record", activities.RecordInput{Rotation: c.subject(), Outcome: "failed"}, nil)
	c.byRun = "the-next-run"
	var plan policy.Plan
	c.execute("Inspect", activities.Rotation{Spec: c.spec, ID: "the-next-rotation"}, &plan)
	require.NotNil(c.t, plan.Resume, plan.Refusals)
	assert.Equal(c.t, c.incoming.KeyID, plan.Resume.Incoming.KeyID)
}
