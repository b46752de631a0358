package activities_test

import (
	"context"
	"strings"
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

// A batch job that is not running states nothing: what counts is the copy that its next run begins with.
func TestABatchJobIsJudgedByWhatItsNextRunBeginsWith(t *testing.T) {
	t.Parallel()
	c, names := aWave(t, 2, "        longestRun: 30m\n", "", nil)
	// At noon a run begins, each hour, and lasts 20 minutes.
	for _, name := range names {
		c.world.SetInstance(name, memory.InstanceSettings{RunsEvery: time.Hour, RunsFor: 20 * time.Minute})
	}
	stated := func() map[string][]string {
		var plan policy.Plan
		c.execute("Inspect", c.subject(), &plan)
		states := map[string][]string{}
		for _, r := range plan.Refusals {
			states[string(r.Reason)] = append(states[string(r.Reason)], r.Message)
		}
		return states
	}
	assert.Empty(t, stated(), "running with the retiring key")
	c.wait(30 * time.Minute)
	assert.Empty(t, stated(), "not running")
	c.wait(30 * time.Minute)
	for _, name := range names {
		require.NoError(t, c.world.Request(name))
	}
	// A run is going on, with the retiring key, to which the next one will not begin any more.
	c.run("DeliverWave")
	assert.Equal(t, "key-old", c.world.Using(names[0]), "the run goes on with the key that it began with")
	c.run("Promote")
	var e policy.Evidence
	err := c.attempt("GatherEvidence", activities.EvidenceInput{Rotation: c.subject(), Shown: "something else"}, &e, 1)
	require.NoError(t, err)
	assert.Contains(t, e.Lacks(), "web/i0 still holds key key-old besides", "who is asked while it runs")
	// Its run is over. The next one has the incoming key, and then it is used.
	c.wait(30 * time.Minute)
	for _, s := range []time.Duration{30 * time.Minute, 4 * time.Hour} {
		c.wait(s)
		for _, name := range names {
			require.NoError(t, c.world.Request(name))
		}
	}
	c.wait(30 * time.Minute) // idle again
	require.NoError(t, c.attempt("GatherEvidence", activities.EvidenceInput{Rotation: c.subject()}, &e, 1))
	assert.True(t, e.Complete, "%v", e.Missing)
	assert.Equal(t, "what its next run begins with", e.Instances[0].Source)

	// A copy that is no key of the store is no statement.
	foreign := c.world.AddKey("payments-api", "not-ours", c.now())
	c.world.Give(names[1], foreign)
	require.NoError(t, c.attempt("GatherEvidence", activities.EvidenceInput{Rotation: c.subject(), Shown: "something else"}, &e, 1))
	assert.Contains(t, e.Lacks(), "the copy that its next run begins with is none that keyturn knows: put there, byte for byte, what its target writes")
}

// The first rotation of a key that existed before, whose value is in no store: nobody can compare the copy of a batch job,
// as nobody can match the fingerprint that others state.
func TestABatchJobMayUseAnAdoptedKeyThatNoStoreHas(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		batch string
		store bool // has the value
		want  string
	}{
		"a server states a fingerprint that nobody can match": {"", false, ""},
		"a batch job has a copy that nobody can compare":      {"        longestRun: 30m\n", false, ""},
		"one that can be compared is held to it":              {"        longestRun: 30m\n", true, "web/i0 does not state which key it uses: the copy that its next run begins with is none that keyturn knows"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := strings.ReplaceAll(waveInventory(1, c.batch, "    adopt: [key-adopted]\n"), "payments-api}", "payments-adopted}")
			k := newCaseOf(t, text, []string{"web-i0"}, nil)
			k.world.SetPrincipal("payments-adopted", memory.Strict())
			bundle := k.world.AddKey("payments-adopted", "key-adopted", k.now().Add(-time.Hour))
			k.world.Give("web-i0", bundle)
			if c.store {
				k.world.AddVersion("payments-adopted", bundle)
				k.world.Give("web-i0", k.world.AddKey("payments-api", "another", k.now()))
			}
			subject := k.subject()
			subject.Retiring = key.Ref{}
			var plan policy.Plan
			k.execute("Inspect", subject, &plan)
			require.NotNil(t, plan.Retiring)
			assert.Equal(t, "key-adopted", plan.Retiring.KeyID)
			if c.want == "" {
				assert.Empty(t, plan.Refusals)
				return
			}
			require.Len(t, plan.Refusals, 1)
			assert.Contains(t, plan.Refusals[0].Message, c.want)
		})
	}
}

// usage is an attestation by the issuer's record of uses: it tells with which key a batch job ran last.
type usage struct {
	keyID string
	at    time.Time
}

func (u usage) Attest(_ context.Context, instances []string) ([]key.Statement, error) {
	return []key.Statement{{Instance: instances[0], Keys: []string{u.keyID}, UsedAt: u.at, ObservedAt: u.at, Source: "usage"}}, nil
}

func TestABatchJobDoesNotRunWithTheKeyThatItUsedLast(t *testing.T) {
	t.Parallel()
	last := time.Date(2026, 3, 1, 11, 30, 0, 0, time.UTC)
	c, _ := aWave(t, 1, "        longestRun: 30m\n", "", func(d *providers.Descriptor) {
		d.Attestor.Open = func(providers.Environment, any, any) (providers.Attestor, error) { return usage{"key-old", last}, nil }
	})
	result := c.deliver(c.wave())
	require.True(t, result.Decision.OK, result.Decision.Message)
	c.run("Promote")
	var e policy.Evidence
	require.NoError(t, c.attempt("GatherEvidence", activities.EvidenceInput{Rotation: c.subject(), Shown: "something else"}, &e, 1))
	require.Len(t, e.Instances, 1)
	assert.Equal(t, []string{c.incoming.Fingerprint}, e.Instances[0].Keys)
	assert.NotContains(t, e.Lacks(), "still holds key key-old")
}
