package activities_test

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/workerconfig"
	"github.com/keyturn/keyturn/providers/memory"
)

// bounds gives the worker others, with the same trust.
func (c *signedCase) bounds(with string) {
	c.t.Helper()
	config, err := workerconfig.Load("keyturn-worker.yaml", []byte(strings.Replace(caseConfig+c.trusts(), "bounds: {test: {", with, 1)), c.do.Descriptors)
	require.NoError(c.t, err)
	c.do.Config = func() *workerconfig.Config { return config }
}

// Bounds that are narrowed while an activity runs stop it: what it may not look at any more is not taken for gone.
func TestBoundsThatNarrowStopEveryEffect(t *testing.T) {
	t.Parallel()
	for activity := range newSignedCase(t).acting() {
		t.Run(activity, func(t *testing.T) {
			t.Parallel()
			c := readyFor(t, activity)
			var inForce atomic.Pointer[workerconfig.Config]
			wide := c.do.Config()
			c.bounds("bounds: {test: {minOverlap: 48h, ")
			narrow := c.do.Config()
			c.do.Config = inForce.Load
			c.world.On(memory.OpMetadata, func(p memory.Phase) {
				if p == memory.After {
					inForce.Store(narrow)
				}
			})
			ledger, known := len(c.world.Ledger()), c.metadata()
			inForce.Store(wide)
			err := c.attempt(activity, c.acting()[activity], nil, 1)
			assert.Equal(t, activities.TypeOutOfBounds, c.refusal(err).Type(), "%v", err)
			assert.Len(t, c.world.Ledger(), ledger, "nothing was changed")
			assert.Equal(t, known, c.metadata())
		})
	}
}

// A workflow names no time at all: it is the signed spec's.
func TestAWaveLastsNoLongerThanTheSpecSays(t *testing.T) {
	t.Parallel()
	c := newSignedCase(t)
	c.sign(c.ann, func(s *inventory.Spec) { s.Credential.WaveTimeout = inventory.Duration(50 * time.Millisecond) })
	c.run("Issue")
	c.world.SetInstance("checkout-a", memory.InstanceSettings{NeverReloads: true})
	var result activities.WaveResult
	in := activities.WaveInput{Rotation: c.subject(), Key: c.incoming, Wave: "all"}
	require.NoError(t, c.attempt("DeliverWave", in, &result, 1), "else Temporal ends it")
	assert.Equal(t, policy.InstanceNotConverged, result.Decision.Reason)
}

// A wave that began within the bounds does not go on beyond those that came meanwhile.
func TestBoundsThatChangeDuringAWaveCount(t *testing.T) {
	t.Parallel()
	c := newSignedCase(t)
	c.run("Issue")
	var inForce atomic.Pointer[workerconfig.Config]
	inForce.Store(c.do.Config())
	c.bounds(`bounds: {test: {minOverlap: 48h, `)
	narrow := c.do.Config()
	c.do.Config = inForce.Load
	c.world.On(memory.OpRead, func(p memory.Phase) {
		if p == memory.After {
			inForce.Store(narrow)
		}
	})
	require.ErrorContains(t, c.attempt("DeliverWave", activities.WaveInput{Rotation: c.subject(), Key: c.incoming, Wave: "all"}, nil, 1),
		"bounds.test.minOverlap")
	assert.Empty(t, c.world.Happened(memory.OpDeliver))
	c.everybodyHolds(c.retiring)
}
