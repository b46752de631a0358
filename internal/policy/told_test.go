package policy_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"slices"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Whoever is woken by a reason finds what is true and what to do in docs/operations.md.
func TestEachReasonIsExplainedToWhoeverIsOnCall(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/operations.md")
	require.NoError(t, err)
	file, err := parser.ParseFile(token.NewFileSet(), "policy.go", nil, 0)
	require.NoError(t, err)
	elsewhere := []string{"Allowed", "KeyGone", "KeyAbsent", "CurrentIsAnother", "NotAtIssuer"} // of what goes on, and of import
	seen := 0
	ast.Inspect(file, func(n ast.Node) bool {
		spec, is := n.(*ast.ValueSpec)
		if !is || len(spec.Values) != 1 || slices.Contains(elsewhere, spec.Names[0].Name) {
			return true
		}
		if value, is := spec.Values[0].(*ast.BasicLit); is && value.Kind == token.STRING {
			reason, err := strconv.Unquote(value.Value)
			require.NoError(t, err)
			seen++
			assert.Contains(t, string(page), "`"+reason+"`")
		}
		return true
	})
	assert.Greater(t, seen, 50)
}
