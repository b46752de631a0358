package workerconfig_test

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/workerconfig"
	"github.com/keyturn/keyturn/providers/all"
)

// The example configuration loads, and allows what the example inventory asks for.
func TestTheExamplesFitEachOther(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../../keyturn-worker.example.yaml")
	require.NoError(t, err)
	config, err := workerconfig.Load("keyturn-worker.example.yaml", data, all.Descriptors())
	require.NoError(t, err)
	text, err := os.ReadFile("../../inventory.example.yaml")
	require.NoError(t, err)
	inv, err := inventory.Load("inventory.example.yaml", text, all.Catalog(all.Descriptors()...))
	require.NoError(t, err)
	for _, c := range inv.Credentials {
		require.Contains(t, config.Accounts, c.Issuer.Account)
		require.Contains(t, config.Accounts, c.Store.Account)
		require.NoError(t, config.AllowPrincipal(c.Environment, principalOf(t, c)))
		require.Empty(t, config.CheckSpec(inventory.Spec{Credential: c}), c.Name)
	}
}

func principalOf(t *testing.T, c inventory.Credential) string {
	t.Helper()
	d, ok := all.Find(all.Descriptors(), c.Issuer.Type)
	require.True(t, ok)
	config := d.Issuer.Config()
	require.NoError(t, c.Issuer.Decode(config))
	return config.Principals()[0]
}
