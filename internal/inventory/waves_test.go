package inventory_test

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/keyturn/keyturn/internal/inventory"
)

func TestWavesFollowEachOtherFromTheCanaryToTheRest(t *testing.T) {
	t.Parallel()
	c := inventory.Credential{Consumers: []inventory.Consumer{
		{Name: "a"}, {Name: "b", Wave: "west"}, {Name: "c", Wave: "canary"}, {Name: "d", Wave: "east"}, {Name: "e", Wave: "west"}, {Name: "f"},
	}}
	var got [][]string
	for _, w := range c.Waves(func(string) bool { return false }) {
		names := []string{w.Name}
		for _, consumer := range w.Consumers {
			names = append(names, consumer.Name)
		}
		got = append(got, names)
	}
	assert.Equal(t, [][]string{{"canary", "c"}, {"west", "b", "e"}, {"east", "d"}, {"rest", "a", "f"}}, got)
	assert.Empty(t, inventory.Credential{}.Waves(func(string) bool { return false }))
	assert.Equal(t, []string{"one"}, inventory.Consumer{Name: "one"}.InstanceNames())
	assert.Equal(t, []string{"a", "b"}, inventory.Consumer{Name: "one", Instances: []string{"a", "b"}}.InstanceNames())
}

func TestWavesLoseNoConsumer(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var c inventory.Credential
		for i, wave := range rapid.SliceOf(rapid.SampledFrom([]string{"", "canary", "one", "two", "three"})).Draw(t, "waves") {
			c.Consumers = append(c.Consumers, inventory.Consumer{Name: string(rune('a' + i)), Wave: wave})
		}
		var again []inventory.Consumer
		names := map[string]bool{}
		waves := c.Waves(func(string) bool { return false })
		for i, w := range waves {
			require.NotEmpty(t, w.Consumers)
			require.False(t, names[w.Name], "each wave once")
			names[w.Name] = true
			assert.Equal(t, i == 0, w.Name == inventory.CanaryWave || i == 0 && !hasCanary(c), "the canary is first")
			assert.True(t, w.Name != inventory.RestWave || i == len(waves)-1, "the rest is last")
			for _, consumer := range w.Consumers {
				named := consumer.Wave
				if named == "" {
					named = inventory.RestWave
				}
				assert.Equal(t, w.Name, named)
				again = append(again, consumer)
			}
			assert.True(t, slices.IsSortedFunc(w.Consumers, func(a, b inventory.Consumer) int {
				return slices.IndexFunc(c.Consumers, is(a)) - slices.IndexFunc(c.Consumers, is(b))
			}),
				"in the order of the file")
		}
		assert.ElementsMatch(t, c.Consumers, again)
	})
}

func is(a inventory.Consumer) func(inventory.Consumer) bool {
	return func(b inventory.Consumer) bool { return a.Name == b.Name }
}

func hasCanary(c inventory.Credential) bool {
	return slices.ContainsFunc(c.Consumers, func(x inventory.Consumer) bool { return x.Wave == inventory.CanaryWave })
}
