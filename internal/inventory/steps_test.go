package inventory_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/keyturn/keyturn/internal/inventory"
)

func none(string) bool { return false }

// pulling is the target type of consumers that read the store by themselves.
const pulling = "pulling"

func pulls(t string) bool { return t == pulling }

// members are the instances of each wave, in the order of the waves.
func members(waves []inventory.Wave) (names []string, of map[string][]string) {
	of = map[string][]string{}
	for _, w := range waves {
		names = append(names, w.Name)
		for _, c := range w.Consumers {
			for _, i := range c.InstanceNames() {
				of[w.Name] = append(of[w.Name], c.Name+"/"+i)
			}
		}
	}
	return names, of
}

func fleetOf(n int) inventory.Consumer {
	c := inventory.Consumer{Name: "web"}
	for i := range n {
		c.Instances = append(c.Instances, fmt.Sprintf("host-%d", i))
	}
	return c
}

func TestStepsPartTheRest(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		steps []inventory.WaveStep
		all   int
		want  map[string]int
	}{
		"no steps are one wave":                            {nil, 200, map[string]int{"rest": 200}},
		"shares count all who have the key by their end":   {[]inventory.WaveStep{"1%", "10%", "50%"}, 200, map[string]int{"rest-1%": 2, "rest-10%": 18, "rest-50%": 80, "rest": 100}},
		"shares are rounded up":                            {[]inventory.WaveStep{"1%", "10%"}, 101, map[string]int{"rest-1%": 2, "rest-10%": 9, "rest": 90}},
		"numbers come before shares":                       {[]inventory.WaveStep{"1", "5", "50%"}, 200, map[string]int{"rest-1": 1, "rest-5": 4, "rest-50%": 95, "rest": 100}},
		"each step has an instance as long as one is left": {[]inventory.WaveStep{"1%", "10%", "50%"}, 2, map[string]int{"rest-1%": 1, "rest-10%": 1}},
		"a step of all leaves no rest":                     {[]inventory.WaveStep{"5"}, 3, map[string]int{"rest-5": 3}},
		"one instance":                                     {[]inventory.WaveStep{"1%", "50%"}, 1, map[string]int{"rest-1%": 1}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			credential := inventory.Credential{Name: "x", Consumers: []inventory.Consumer{fleetOf(c.all)}, Terms: inventory.Terms{WaveSteps: c.steps}}
			names, of := members(credential.Waves(none))
			got := map[string]int{}
			for _, name := range names {
				got[name] = len(of[name])
			}
			assert.Equal(t, c.want, got)
		})
	}
}

func TestStepsFollowTheCanaryAndTheNamedWaves(t *testing.T) {
	t.Parallel()
	c := inventory.Credential{Name: "x", Terms: inventory.Terms{WaveSteps: []inventory.WaveStep{"1"}}, Consumers: []inventory.Consumer{
		fleetOf(3), {Name: "first", Wave: "canary"}, {Name: "east", Wave: "east"}, {Name: "own", Target: inventory.Provider{Type: pulling}},
	}}
	names, of := members(c.Waves(pulls))
	assert.Equal(t, []string{"canary", "east", "rest-1", "rest"}, names)
	assert.Len(t, of["rest-1"], 1)
	assert.Len(t, of["rest"], 3)
	assert.Contains(t, of["rest"], "own/own", "who reads the store by itself is in no step")
}

// drawn is a credential with steps that the check lets pass.
func drawn(t *rapid.T) inventory.Credential {
	c := inventory.Credential{Name: rapid.StringMatching(`[a-z]{1,8}`).Draw(t, "name")}
	steps := rapid.SliceOfNDistinct(rapid.IntRange(1, 99), 0, 6, rapid.ID[int]).Draw(t, "shares")
	slices.Sort(steps)
	for _, n := range steps {
		c.WaveSteps = append(c.WaveSteps, inventory.WaveStep(fmt.Sprintf("%d%%", n)))
	}
	for i := range rapid.IntRange(1, 4).Draw(t, "consumers") {
		consumer := inventory.Consumer{Name: fmt.Sprintf("c%d", i), Wave: rapid.SampledFrom([]string{"", "", "", "canary", "east"}).Draw(t, "wave")}
		if rapid.Bool().Draw(t, "pulls") && i > 1 {
			consumer.Target.Type = pulling
		}
		for j := range rapid.IntRange(0, 60).Draw(t, "instances") {
			consumer.Instances = append(consumer.Instances, fmt.Sprintf("i%d", j))
		}
		c.Consumers = append(c.Consumers, consumer)
	}
	return c
}

func TestStepsLoseNobodyAndRepeatNobody(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		c := drawn(t)
		waves := c.Waves(pulls)
		var all, want []string
		names, of := members(waves)
		for _, name := range names {
			require.NotEmpty(t, of[name], "no wave is empty")
			all = append(all, of[name]...)
		}
		_, whole := members([]inventory.Wave{{Name: "all", Consumers: c.Consumers}})
		want = whole["all"]
		assert.ElementsMatch(t, want, all, "each instance is in one wave")
		assert.Len(t, slices.Compact(slices.Sorted(slices.Values(names))), len(names), "each wave once")
		again := c.Waves(pulls)
		assert.Equal(t, waves, again, "the same credential has the same waves")
		shuffled := c
		shuffled.Consumers = slices.Clone(c.Consumers)
		slices.Reverse(shuffled.Consumers)
		_, other := members(shuffled.Waves(pulls))
		for name := range of {
			if strings.HasPrefix(name, "rest") {
				assert.ElementsMatch(t, of[name], other[name], "the order of the file parts nobody from its step")
			}
		}
	})
}

// An instance more moves at most one other over the end of each step, and that into an earlier or a later one next to it.
func TestAnInstanceMoreMovesFewOthers(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		c := drawn(t)
		c.Consumers = append(c.Consumers, fleetOf(rapid.IntRange(1, 80).Draw(t, "fleet")))
		more := c
		more.Consumers = slices.Clone(c.Consumers)
		last := &more.Consumers[len(more.Consumers)-1]
		last.Instances = append(slices.Clone(last.Instances), "another")
		before, after := ranks(c), ranks(more)
		crossed := map[int]int{}
		for name, was := range before {
			is := after[name]
			for end := min(was, is); end < max(was, is); end++ {
				crossed[end]++
			}
		}
		for end, n := range crossed {
			assert.LessOrEqual(t, n, 1, "over the end of step %d", end)
		}
	})
}

// ranks number the steps by their names, whether or not there is anybody in them.
func ranks(c inventory.Credential) map[string]int {
	at := map[string]int{}
	_, of := members(c.Waves(pulls))
	for name, list := range of {
		step := slices.IndexFunc(c.WaveSteps, func(s inventory.WaveStep) bool { return name == "rest-"+string(s) })
		if step < 0 {
			step = len(c.WaveSteps)
		}
		if strings.HasPrefix(name, "rest") {
			for _, i := range list {
				at[i] = step
			}
		}
	}
	return at
}

func TestWavesAndFreshnessAreChecked(t *testing.T) {
	t.Parallel()
	policy := func(text string) string {
		return strings.Replace(base, "    policy: normal\n", "    policy: normal\n    "+text+"\n", 1)
	}
	canary := func(text string) string {
		return strings.Replace(base, "        wave: canary\n", "        wave: canary\n        "+text+"\n", 1)
	}
	for name, c := range map[string]struct{ text, want string }{
		"shares":                                {policy("waveSteps: [1%, 10%, 50%]"), ""},
		"numbers, then shares":                  {policy(`waveSteps: [1, "5", 50%]`), ""},
		"no share":                              {policy("waveSteps: [0%]"), "credentials[0].waveSteps[0] is \"0%\": write a share"},
		"all of them":                           {policy("waveSteps: [100%]"), "waveSteps[0] is \"100%\""},
		"a half":                                {policy("waveSteps: [0.5%]"), "waveSteps[0]"},
		"a number that is none":                 {policy("waveSteps: [0]"), "waveSteps[0] is \"0\""},
		"a number below zero":                   {policy("waveSteps: [-1]"), "waveSteps[0]"},
		"a fraction":                            {policy("waveSteps: [1.5]"), "waveSteps[0]"},
		"a mapping":                             {policy("waveSteps: [{a: 1}]"), "waveSteps[0] is no step"},
		"a share that does not rise":            {policy("waveSteps: [10%, 10%]"), "waveSteps[1] is 10%, not more"},
		"a share that falls":                    {policy("waveSteps: [50%, 10%]"), "waveSteps[1] is 10%, not more"},
		"a number after a share":                {policy("waveSteps: [10%, 500]"), "waveSteps[1] is the number 500 after a share"},
		"too many":                              {policy("waveSteps: [1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21]"), "waveSteps has 21 steps"},
		"a step that is called like a wave":     {strings.Replace(policy("waveSteps: [5]"), "wave: canary", "wave: rest-5", 1), "makes a wave rest-5"},
		"as many at once as may be":             {policy("waveParallel: 256"), ""},
		"too many at once":                      {policy("waveParallel: 257"), "waveParallel is 257"},
		"fewer than none at once":               {policy("waveParallel: -1"), "waveParallel is -1"},
		"a cache":                               {canary("cacheTTL: 1h"), ""},
		"a cache below zero":                    {canary("cacheTTL: -1h"), "cacheTTL is"},
		"a run within the overlap":              {canary("longestRun: 24h"), ""},
		"a run beyond the overlap":              {canary("longestRun: 25h"), "credentials[0].consumers[0].longestRun is 1d1h, longer than the overlap of 1d"},
		"a batch job without check":             {strings.Replace(canary("longestRun: 1h"), `        check: {type: http, url: "http://127.0.0.1:8081/healthz"}`+"\n", "", 1), ""},
		"another without check":                 {strings.Replace(base, `        check: {type: http, url: "http://127.0.0.1:8081/healthz"}`+"\n", "", 1), "check is missing"},
		"a hook by http":                        {canary(`purge: {type: http, url: "http://127.0.0.1:8081/purge"}`), ""},
		"a hook by exec":                        {canary(`purge: {type: exec, program: purge-it}`), ""},
		"a hook of a type that cannot purge":    {canary(`purge: {type: file, path: /x}`), `purge.type is "file", which cannot be used as purge`},
		"a hook that asks in the clear":         {canary(`purge: {type: http, url: "http://edge.internal/purge"}`), "purge.url"},
		"replicas":                              {canary("replicas: 3"), ""},
		"more replicas than anybody asks":       {canary("replicas: 21"), "replicas is 21"},
		"a cache that outlives an expiring key": {policy("rotateEvery: 30h\n    disableSoak: 1h\n    expires: 30h"), ""},
		"a key that ends before it is rotated":  {policy("expires: 30h"), "expires is 1d6h, shorter than the cadence of 90d"},
		"a cache as long as the cadence":        {canary("cacheTTL: 90d"), "late for the caches, not shorter than the cadence of"},
		"a cache beyond an expiring key":        {strings.Replace(policy("expires: 30h"), "        wave: canary\n", "        wave: canary\n        cacheTTL: 6h\n", 1), "expires is 1d6h, not longer than the overlap of 1d6h"},
		"a hook for one of several replicas":    {canary("replicas: 3\n        purge: {type: exec, program: it}"), "purge goes to one address, and purges one of the 3 processes behind it: write the cacheTTL"},
		"a hook, and a cache of the others":     {canary("replicas: 3\n        cacheTTL: 1h\n        purge: {type: exec, program: it}"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inv, err := load(c.text)
			if c.want != "" {
				require.Error(t, err)
				assert.Contains(t, strings.ReplaceAll(err.Error(), "; write", ": write"), c.want)
				return
			}
			require.NoError(t, err)
			// The same credential, as it travels, is read again.
			spec, err := inventory.NewSpec(inventory.Spec{Inventory: inv.Name, Generation: 1, Credential: inv.Credentials[0]})
			require.NoError(t, err)
			parsed, err := inventory.ParseSpec(spec.Body, real)
			require.NoError(t, err)
			assert.JSONEq(t, asJSON(t, inv.Credentials[0].Waves(none)), asJSON(t, parsed.Credential.Waves(none)))
		})
	}
}

func TestASpecBeforeStepsIsReadAsBefore(t *testing.T) {
	t.Parallel()
	body := string(spec(t, base).Body)
	for _, field := range []string{"waveSteps", "waveParallel", "cacheTTL", "longestRun", "replicas", "purge"} {
		assert.NotContains(t, body, field, "what nobody said is not in the spec, so that its signature stays")
	}
	parsed, err := inventory.ParseSpec([]byte(body), real)
	require.NoError(t, err)
	assert.Equal(t, 16, parsed.Credential.Parallel())
}
