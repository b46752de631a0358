package tests

import (
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/workflows"
)

// The routine rotation, and what it costs.
func awsRoutine(t *testing.T) {
	s := newAWSStage(t, "--wave-soak", "5s", "--every", "250ms")
	retiring := s.key("AWSCURRENT")
	out, code := s.starter("plan", credential, "-f", s.place.Inventory)
	require.Zero(t, code, out)
	assert.Contains(t, out, retiring.ID)
	planned := s.aws.Actions(s.identity.ID)
	s.rotate()

	s.awaitThat("the canary is delivered to", func(now workflows.Status) bool { return now.Phase == workflows.PhaseDeliver && !now.Until.IsZero() })
	status := s.status()
	if status.Phase == workflows.PhaseDeliver && status.Waves[1].State == "waiting" {
		pending := s.key("AWSPENDING")
		assert.NotEqual(t, retiring.ID, pending.ID)
		assert.Equal(t, retiring.ID, s.key("AWSCURRENT").ID, "a default read yields the retiring key until promotion")
	}
	status = s.await(workflows.PhaseOverlap)
	overlap := s.aws.Actions(s.identity.ID)
	assert.Equal(t, map[string][]string{status.Incoming.StoreVersion: {"AWSCURRENT"}, status.Retiring.StoreVersion: {"AWSPREVIOUS"}}, s.aws.Stages(secretName))
	assert.Equal(t, retiring.ID, s.key("AWSPREVIOUS").ID)
	require.NoError(t, s.use(retiring), "both keys are accepted")
	s.await(workflows.PhaseRevokeGate)
	evident := s.aws.Actions(s.identity.ID)
	s.approve()
	s.awaitThat("the retiring key is disabled", func(now workflows.Status) bool { // or was: the soak is short
		return slices.ContainsFunc(now.Keys, func(m workflows.KeyMoment) bool {
			return m.Key == workflows.RoleRetiring && m.State == workflows.KeyDisabled
		})
	})
	require.ErrorContains(t, s.use(retiring), "InvalidClientTokenId", "an inactive key is refused")
	s.rotated(retiring)
	s.costs(less(s.aws.Actions(s.identity.ID), planned), less(evident, overlap))
	s.replays()
}

func less(after, before map[string]int) map[string]int {
	made := map[string]int{}
	for action, n := range after {
		if n > before[action] {
			made[action] = n - before[action]
		}
	}
	return made
}

// priced are the rows of the page that say what a rotation, and an hour of its overlap, cost.
var priced = regexp.MustCompile("(?m)^\\| `([A-Za-z]+)` \\| ([0-9]+) \\| ([0-9]+) \\|$")

// costs holds the calls of a rotation, and those of a piece of its overlap, against what the page says.
func (s *awsStage) costs(rotation, overlap map[string]int) {
	s.t.Helper()
	page, err := os.ReadFile("../docs/aws.md")
	require.NoError(s.t, err)
	most, hourly := map[string]int{}, map[string]int{}
	for _, row := range priced.FindAllStringSubmatch(string(page), -1) {
		most[row[1]], _ = strconv.Atoi(row[2])
		hourly[row[1]], _ = strconv.Atoi(row[3])
	}
	s.t.Logf("a rotation made %v, the end of its overlap %v", rotation, overlap)
	for action, n := range rotation {
		_, name, _ := strings.Cut(action, ":")
		assert.LessOrEqual(s.t, n, most[name], "docs/aws.md says how often a rotation calls %s", action)
		delete(most, name)
	}
	assert.Empty(s.t, most, "docs/aws.md says how often a rotation calls what it does not call")

	// How many looks there are depends on the machine, what one costs does not. One may be half over when the piece begins.
	looks := overlap["iam:ListAccessKeys"]
	perLook := hourly["GetAccessKeyLastUsed"] / hourly["ListAccessKeys"]
	assert.LessOrEqual(s.t, overlap["iam:GetAccessKeyLastUsed"], perLook*(looks+1))
	assert.Zero(s.t, overlap["secretsmanager:GetSecretValue"], "no value is read to look")
}
