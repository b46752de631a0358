package activities

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/strictyaml"
	"github.com/keyturn/keyturn/internal/workerconfig"
	"github.com/keyturn/keyturn/providers/all"
)

// Kept is, for tests, the spec of a body as it is shared now, and whether it is kept.
func Kept(a *Activities, body []byte) (inventory.Spec, bool) {
	none := errors.New("it is not kept")
	spec, err := a.specs.get(body, func([]byte) (inventory.Spec, error) { return inventory.Spec{}, none })
	return spec, err == nil
}

func TestASpecIsParsedOnceForEachBody(t *testing.T) {
	t.Parallel()
	var kept specs
	parsed := 0
	get := func(body string) (inventory.Spec, error) {
		return kept.get([]byte(body), func(body []byte) (inventory.Spec, error) {
			parsed++
			if string(body) == "bad" {
				return inventory.Spec{}, errors.New("no spec")
			}
			return inventory.Spec{Inventory: string(body)}, nil
		})
	}
	for _, c := range []struct {
		body   string
		parsed int
	}{{"a", 1}, {"a", 1}, {"b", 2}, {"a", 2}, {"b", 2}, {"bad", 3}, {"bad", 4}} {
		spec, err := get(c.body)
		assert.Equal(t, c.body == "bad", err != nil)
		assert.Equal(t, c.parsed, parsed)
		if err == nil {
			assert.Equal(t, c.body, spec.Inventory)
		}
	}
}

func TestKeptSpecsAreBounded(t *testing.T) {
	t.Parallel()
	var kept specs
	parse := func([]byte) (inventory.Spec, error) { return inventory.Spec{}, nil }
	_, err := kept.get([]byte(strings.Repeat("y", maxSpec+1)), parse)
	require.NoError(t, err)
	assert.Empty(t, kept.kept, "one that is too large is not kept")
	for i := range 100 {
		_, err := kept.get([]byte(fmt.Sprintf("%d%s", i, strings.Repeat("y", maxSpec-3))), parse)
		require.NoError(t, err)
		assert.LessOrEqual(t, kept.size, maxSpecs)
	}
	sum := 0
	for _, k := range kept.kept {
		sum += k.size
	}
	assert.Equal(t, sum, kept.size)
	assert.GreaterOrEqual(t, len(kept.kept), maxSpecs/maxSpec-1, "and no more than needed are dropped")
}

// BenchmarkSpec compares a look that finds its spec parsed with one that does not.
func BenchmarkSpec(b *testing.B) {
	text, err := os.ReadFile("../inventory.example.yaml")
	require.NoError(b, err)
	catalog := all.Catalog(all.Descriptors()...)
	inv, err := inventory.Load("inventory.example.yaml", text, catalog)
	require.NoError(b, err)
	spec, err := inventory.NewSpec(inventory.Spec{Inventory: inv.Name, Generation: 100, Credential: inv.Credentials[0]})
	require.NoError(b, err)
	whole, err := os.ReadFile("../keyturn-worker.example.yaml")
	require.NoError(b, err)
	withoutSigners := regexp.MustCompile(`(?m)^trust:\n(?:(?: .*)?\n)+`).ReplaceAll(whole, nil) // whose files are nowhere
	config, err := workerconfig.Load("keyturn-worker.example.yaml", withoutSigners, all.Descriptors())
	require.NoError(b, err)
	a := &Activities{
		Config: func() *workerconfig.Config { return config }, Descriptors: all.Descriptors(), Catalog: catalog, AllowUnsigned: true, Now: time.Now,
	}
	each := func(b *testing.B, before func()) float64 {
		for b.Loop() {
			before()
			_, _, err := a.spec(spec)
			require.NoError(b, err)
		}
		return b.Elapsed().Seconds() / float64(b.N)
	}
	var anew float64
	b.Run("parsed anew", func(b *testing.B) { anew = each(b, func() { a.specs = specs{} }) })
	b.Run("found", func(b *testing.B) { b.ReportMetric(anew/each(b, func() {}), "times-as-quick") })
	b.Run("with all that it names opened", func(b *testing.B) {
		for b.Loop() {
			_, err := a.open(Rotation{Spec: spec})
			require.NoError(b, err)
		}
		b.ReportMetric(anew/(b.Elapsed().Seconds()/float64(b.N)), "times-as-quick")
	})
}

func TestWhatIsWrongWithASpecIsSaidOnOneLine(t *testing.T) {
	t.Parallel()
	err := forTemporal(fmt.Errorf("reading spec: %w: %w", ErrSpec, strictyaml.Errors{{File: "spec", Line: 1, Column: 2, What: "a is wrong"}, {File: "spec", Line: 3, Column: 4, What: "b is wrong"}}))
	assert.Contains(t, err.Error(), "spec:1:2: a is wrong; spec:3:4: b is wrong")
	assert.NotContains(t, err.Error(), "\n")
}
