package strictyaml_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestBracketsInTextAreNoNesting(t *testing.T) {
	t.Parallel()
	var r rule
	assert.NoError(t, read("name: a\n"+strings.Repeat("# see [1 and {2\n", 40)+"shared: \""+strings.Repeat("[", 40)+"\"\n", &r))
}

func TestANameWithADotIsNoPath(t *testing.T) {
	t.Parallel()
	var r struct {
		A map[string]rule `json:"a"`
	}
	require.NoError(t, read("a:\n  x: {name: right}\n  x.name: {name: other}\n", &r))
	assert.Equal(t, "right", r.A["x"].Name)
	assert.Equal(t, "other", r.A["x.name"].Name)
}
