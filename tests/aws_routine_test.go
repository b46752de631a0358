package tests

import (
	"net/http"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/workflows"
)

// The routine rotation. IAM does not know the new key at first, and nobody is sent to it before it does.
func awsRoutine(t *testing.T) {
	s := newAWSStage(t, "--wave-soak", "5s", "--every", "250ms")
	retiring := s.key("AWSCURRENT")
	out, code := s.starter("plan", credential, "-f", s.place.Inventory)
	require.Zero(t, code, out)
	assert.Contains(t, out, retiring.ID)
	s.aws.NewKeysAreLate(2)
	s.rotate()

	s.awaitThat("the canary is delivered to", func(now workflows.Status) bool { return now.Phase == workflows.PhaseDeliver && !now.Until.IsZero() })
	status := s.status()
	if status.Phase == workflows.PhaseDeliver && status.Waves[1].State == "waiting" {
		pending := s.key("AWSPENDING")
		assert.NotEqual(t, retiring.ID, pending.ID)
		assert.Equal(t, retiring.ID, s.key("AWSCURRENT").ID, "a default read yields the retiring key until promotion")
	}
	status = s.await(workflows.PhaseOverlap)
	assert.Equal(t, map[string][]string{status.Incoming.StoreVersion: {"AWSCURRENT"}, status.Retiring.StoreVersion: {"AWSPREVIOUS"}}, s.aws.Stages(secretName))
	assert.Equal(t, retiring.ID, s.key("AWSPREVIOUS").ID)
	require.NoError(t, s.use(retiring), "both keys are accepted")
	s.approve()
	s.awaitThat("the retiring key is disabled", func(now workflows.Status) bool { // or was: the soak is short
		return slices.ContainsFunc(now.Keys, func(m workflows.KeyMoment) bool {
			return m.Key == workflows.RoleRetiring && m.State == workflows.KeyDisabled
		})
	})
	require.ErrorContains(t, s.use(retiring), "InvalidClientTokenId", "an inactive key is refused")
	s.rotated(retiring)
	current, refused := s.key("AWSCURRENT").ID, 0
	for _, c := range s.aws.Calls() {
		if c.Key == current && c.Status != http.StatusOK {
			refused++
		}
	}
	assert.Equal(t, 2, refused, "keyturn itself tried the new key until it worked")
	s.replays()
}
