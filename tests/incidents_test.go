package tests

import (
	"flag"
	seeded "math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
)

var (
	incidents     = flag.Int("incidents", 0, "how many credentials an incident has that is struck at random: make incidents")
	incidentsSeed = flag.Uint64("incidents-seed", 1, "which moments it is struck at")
)

// disasters are the moments at which an incident over fifty credentials is struck: that of the n-th credential to come there,
// while the others are wherever they are. A worker that dies loses all that it had begun, and that is missed after twenty seconds: the
// moments are early enough for those to pass for all at once.
var disasters = []struct {
	moment   string
	temporal bool // Temporal dies, and the worker lives
}{
	{"before gateway/keys.json 4", false},         // a mint is intended, and not made
	{"before store/*/versions/*.json 9", false},   // a key is minted, and its value is nowhere else
	{"after record of key.issued 14", true},       // an emergency is about to go on
	{"before record of key.destroyed 6", false},   // an exposed key is dead, and nobody knows
	{"amid keys/*/key 12", false},                 // a consumer's file is written, and has not its name yet
	{"before record of rotation.ended 10", false}, // all is done, and the record does not say so
}

// Fifty keys are exposed at once. Whatever dies meanwhile, each of them is dead in the end and no other one, and each credential is on one
// key that works.
func TestAnIncidentOverFiftyCredentialsWhateverDies(t *testing.T) {
	t.Parallel()
	m := openMany(t, 50)
	m.strikes = func(moment string, _ int) (dies, temporal bool) {
		for _, d := range disasters {
			if d.moment == moment {
				return !d.temporal, d.temporal
			}
		}
		return false, false
	}
	m.judge(m.play())
	assert.Len(t, m.struck, len(disasters), "each of the moments came")
}

// As many credentials as one wants, up to what a declaration has room for, struck at random.
func TestAnIncidentOverManyCredentialsStruckAtRandom(t *testing.T) {
	if *incidents == 0 {
		t.Skip("run by make incidents")
	}
	m := openMany(t, *incidents)
	random := seeded.New(seeded.NewPCG(*incidentsSeed, 0)) //nolint:gosec // moments that can be had again
	// On average they are spread over the course, in which each credential has about a hundred changes.
	const each = 25 // credentials for one disaster
	most := max(*incidents/each, 2)
	next := func(after int) int { return after + 1 + random.IntN(2*100**incidents/(most+1)) }
	at, left := next(0), most
	m.strikes = func(_ string, change int) (dies, temporal bool) {
		if left == 0 || change < at {
			return false, false
		}
		at, left = next(change), left-1
		if random.IntN(5) == 0 {
			return false, true
		}
		return true, false
	}
	m.judge(m.play())
	assert.NotEmpty(t, m.struck)
}
