package activities_test

import (
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

// interleave runs something once, between the n-th write of the metadata and the reading that it came from.
func (c *crashCase) interleave(nth int32, do func()) {
	c.t.Helper()
	var writes atomic.Int32
	c.world.On(memory.OpPutMetadata, func(p memory.Phase) {
		if p == memory.Before && writes.Add(1) == nth {
			do()
		}
	})
	c.t.Cleanup(func() { assert.GreaterOrEqual(c.t, writes.Load(), nth, "the moment came") })
}

// stranger writes what no activity writes into the metadata, and sees it later.
func (c *crashCase) stranger() {
	m := c.metadata()
	m.Keys = append(m.Keys, key.Owned{Ref: key.Ref{Principal: "payments-api", KeyID: "of-the-other"}, VerifiedAt: c.now()})
	_, err := c.world.Store("payments-api").PutMetadata(c.t.Context(), m)
	assert.NoError(c.t, err)
}

// Whatever an activity writes of its own, it writes over what is there at that moment: nothing that another one wrote
// after it looked is lost.
func TestNoWriteOfTheMetadataLosesAnother(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		before []string
		step   string
		write  int32 // of the step
		shows  func(m key.Metadata, incoming key.Ref) bool
	}{
		"the mint intent": {nil, "Issue", 1, func(m key.Metadata, k key.Ref) bool { return m.Inventory == "payments" }},
		"the record of a mint": {nil, "Issue", 2, func(m key.Metadata, k key.Ref) bool {
			mine, ours := m.Key(k.KeyID)
			return ours && len(m.Intents) == 0 && m.Generation == 100 && !mine.IssuedAt.IsZero()
		}},
		"that a key works": {nil, "Issue", 3, func(m key.Metadata, k key.Ref) bool {
			mine, _ := m.Key(k.KeyID)
			return !mine.VerifiedAt.IsZero()
		}},
		"a delivery": {[]string{"Issue"}, "DeliverWave", 1, func(m key.Metadata, k key.Ref) bool {
			mine, _ := m.Key(k.KeyID)
			return !mine.DeliveredAt.IsZero()
		}},
		"that a promotion begins": {[]string{"Issue", "DeliverWave"}, "Promote", 1, func(m key.Metadata, _ key.Ref) bool {
			before, _ := m.Key("key-old")
			return !before.PromotedAt.IsZero()
		}},
		"a promotion": {[]string{"Issue", "DeliverWave"}, "Promote", 2, func(m key.Metadata, k key.Ref) bool {
			mine, _ := m.Key(k.KeyID)
			return !mine.PromotedAt.IsZero()
		}},
		"that disabling begins": {[]string{"Issue", "DeliverWave", "Promote"}, "Disable", 1, func(m key.Metadata, _ key.Ref) bool {
			gone, _ := m.Key("key-old")
			return !gone.DisablingAt.IsZero()
		}},
		"that a key is disabled": {[]string{"Issue", "DeliverWave", "Promote"}, "Disable", 2, func(m key.Metadata, _ key.Ref) bool {
			gone, _ := m.Key("key-old")
			return !gone.DisabledAt.IsZero()
		}},
		"that a key is enabled": {[]string{"Issue", "DeliverWave", "Promote", "Disable"}, "Enable", 1, func(m key.Metadata, _ key.Ref) bool {
			back, _ := m.Key("key-old")
			return back.DisablingAt.IsZero()
		}},
		"the way back of CURRENT": {[]string{"Issue", "DeliverWave", "Promote"}, "RestoreLabels", 1, func(m key.Metadata, k key.Ref) bool {
			mine, _ := m.Key(k.KeyID)
			return mine.PromotedAt.IsZero()
		}},
		"the end of a discarded key": {[]string{"Issue"}, "Discard", 1, func(m key.Metadata, k key.Ref) bool {
			_, ours := m.Key(k.KeyID)
			return !ours
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := reached(t, x.before...)
			c.interleave(x.write, c.stranger)
			c.run(x.step)
			m := c.metadata()
			theirs, kept := m.Key("of-the-other")
			assert.True(t, kept, "what somebody else wrote is there")
			assert.False(t, theirs.VerifiedAt.IsZero())
			assert.True(t, x.shows(m, c.incoming), "and what the activity wrote")
		})
	}
}

// The record follows from all facts: when somebody wrote since it looked, it looks again.
func TestTheRecordIsOfWhatIsThereAtLast(t *testing.T) {
	t.Parallel()
	c := reached(t, "Issue", "DeliverWave", "Promote", "Disable", "Destroy")
	c.interleave(1, c.stranger)
	c.run("Record")
	m := c.metadata()
	assert.Nil(t, m.Lease, "it is given back")
	require.NotNil(t, m.LastRotation)
	assert.Equal(t, "completed", m.LastRotation.Outcome)
	_, left := m.Key("of-the-other")
	assert.False(t, left, "and it was judged, too: its key is gone")
}

// Two workers run activities of one rotation at the same time, each between the other's reading and writing.
func TestTwoWorkersLoseNothingOfEachOther(t *testing.T) {
	t.Parallel()
	c := reached(t, "Issue")
	second := c.other()
	c.interleave(1, func() { // the first worker is about to write that it delivers
		c.by(second, func() {
			c.wait(time.Second)
			back := c.wave()
			back.Key = c.retiring
			assert.NoError(t, c.attempt("DeliverWave", back, nil, 1))
		})
	})
	require.NoError(t, c.attempt("DeliverWave", c.wave(), nil, 1))
	incoming, _ := c.metadata().Key(c.incoming.KeyID)
	retiring, recorded := c.metadata().Key(c.retiring.KeyID)
	assert.False(t, incoming.DeliveredAt.IsZero())
	assert.True(t, recorded)
	assert.False(t, retiring.DeliveredAt.IsZero(), "and the second one's delivery is on record")
}

// Two inventories with the same principal and path: the first to write its intent has the credential.
func TestOfTwoInventoriesOneGetsTheCredential(t *testing.T) {
	t.Parallel()
	c := newCase(t)
	c.interleave(1, func() {
		_, err := c.world.Store("payments-api").PutMetadata(t.Context(), key.Metadata{Inventory: "payroll", Environment: "test"})
		assert.NoError(t, err)
	})
	err := c.attempt("Issue", activities.IssueInput{Rotation: c.subject(), Ordinal: 1}, nil, 1)
	require.ErrorContains(t, err, "payroll")
	assert.Equal(t, []string{"key-old active"}, c.keys())
	assert.Equal(t, "payroll", c.metadata().Inventory)
}

// Who loses each time ends with a conflict, which another attempt gets over.
func TestAWriteThatAlwaysLosesIsTriedAgain(t *testing.T) {
	t.Parallel()
	c := reached(t, "Issue")
	var writes atomic.Int32
	var nested atomic.Bool
	c.world.On(memory.OpPutMetadata, func(p memory.Phase) {
		if p == memory.Before && writes.Load() < 7 && nested.CompareAndSwap(false, true) {
			writes.Add(1)
			c.stranger()
			nested.Store(false)
		}
	})
	c.run("DeliverWave")
	assert.Equal(t, int32(7), writes.Load(), "more often than one attempt tries")
	mine, _ := c.metadata().Key(c.incoming.KeyID)
	assert.False(t, mine.DeliveredAt.IsZero())
}

// What was judged of a key is judged anew when its record was written since.
func TestAKeyIsNotDisabledOnARecordThatIsPast(t *testing.T) {
	t.Parallel()
	c := reached(t, "Issue", "DeliverWave", "Promote")
	c.interleave(2, func() { // the first write notes the test
		m := c.metadata()
		for i := range m.Keys {
			if m.Keys[i].KeyID == c.retiring.KeyID {
				m.Keys[i].DeliveredAt = c.now() // another worker sends somebody back to it
			}
		}
		_, err := c.world.Store("payments-api").PutMetadata(t.Context(), m)
		assert.NoError(t, err)
	})
	c.passOverlap()
	err := c.attempt("Disable", activities.RevokeInput{
		Rotation: c.subject(), Approvals: []policy.Verdict{{Action: policy.Approve, Accepted: true, By: "ann", At: c.now()}},
	}, nil, 1)
	require.ErrorContains(t, err, "another worker has just acted on key key-old")
	assert.Contains(t, c.keys(), "key-old active")
}
