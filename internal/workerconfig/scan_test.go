package workerconfig_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestScanAndRetention(t *testing.T) {
	t.Parallel()
	c := configOf(t, strings.Replace(strings.Replace(base, "quota: 50/s", "quota: 50/s, scan: true", 1), "audit.jsonl,", "audit.jsonl, retention: 400d,", 1))
	assert.True(t, c.Accounts["edge"].Scan)
	assert.False(t, c.Accounts["vault-dir"].Scan)
	assert.Equal(t, 400*24*time.Hour, c.Audit.Retention.Std())

	_, err := load(strings.Replace(base, "root: /var/lib/keyturn/store", "root: /var/lib/keyturn/store, scan: true", 1))
	require.ErrorContains(t, err, "accounts.vault-dir.scan")
	require.ErrorContains(t, err, "cannot list all their keys")
	_, err = load(strings.Replace(base, "quota: 50/s", "scan: perhaps", 1))
	require.ErrorContains(t, err, "accounts.edge.scan")
}

func TestOnlyWhatTheBoundsAllowIsLookedAt(t *testing.T) {
	t.Parallel()
	two := strings.Replace(base, "programs:", "  staging: {accounts: [vault-dir], principals: [\"payments-*\", batch], storePaths: [\"payments/**\", other]}\nprograms:", 1)
	c := configOf(t, strings.Replace(two, "  production:", "  production:\n    accounts: [edge]", 1))
	assert.Equal(t, []string{"production", "staging"}, c.EnvironmentsOf("payments-api"))
	assert.Equal(t, []string{"staging"}, c.EnvironmentsOf("batch"))
	assert.Empty(t, c.EnvironmentsOf("admin"))
	principals, paths := c.AllBounds()
	assert.Equal(t, []string{"batch", "payments-*"}, principals)
	assert.Equal(t, []string{"other", "payments/**"}, paths)
}
