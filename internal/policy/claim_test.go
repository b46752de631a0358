package policy_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/policy"
)

func TestWhatTwoInventoriesHaveIsFound(t *testing.T) {
	t.Parallel()
	claim := func(inventory, credential, account string, principals ...string) policy.Claim {
		return policy.Claim{Inventory: inventory, Credential: credential, Account: account, Principals: principals}
	}
	for name, x := range map[string]struct {
		claims      []policy.Claim
		about, says string // "": nothing
	}{
		"nothing of two credentials":                    {[]policy.Claim{claim("a", "x", "edge", "x"), claim("b", "y", "edge", "y")}, "", ""},
		"nothing of one principal's name at two places": {[]policy.Claim{claim("a", "x", "edge", "p"), claim("b", "y", "west", "p")}, "", ""},
		"nothing of a Schedule that is listed twice":    {[]policy.Claim{claim("a", "x", "edge", "x"), claim("a", "x", "edge", "x")}, "", ""},
		"a credential, once, though it has a principal": {[]policy.Claim{claim("b", "x", "edge", "x"), claim("a", "x", "edge", "x")}, "inventory", "inventories a and b have it"},
		"a principal of two credentials": {[]policy.Claim{claim("a", "x", "edge", "p", "q"), claim("b", "y", "edge", "q")},
			"q at account edge", "a/x and b/y have principal q at account edge"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			found := policy.ClaimedTwice(x.claims)
			if x.says == "" {
				assert.Empty(t, found)
				return
			}
			require.Len(t, found, 1)
			assert.Equal(t, policy.FoundClaimedTwice, found[0].Kind)
			assert.Equal(t, "x", found[0].Credential)
			assert.Equal(t, x.about, found[0].About)
			assert.Contains(t, found[0].Message, x.says)
			assert.Contains(t, found[0].Do, "--prune")
		})
	}
}
