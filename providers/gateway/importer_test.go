package gateway_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	embedded "github.com/keyturn/keyturn/gateway"
	"github.com/keyturn/keyturn/internal/gatewayfile"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
)

// The gateway need not run yet: an import makes both files, and the gateway goes on from there.
func TestAnImportMakesMissingFiles(t *testing.T) {
	t.Parallel()
	e := edge{keyFile: filepath.Join(t.TempDir(), "keys.json")}
	i := e.issuer(t, "p").(providers.Importer)
	for _, want := range [][]string{{gatewayfile.UsageFileOf(e.keyFile), e.keyFile}, nil} {
		made, err := i.Prepare(t.Context())
		require.NoError(t, err)
		assert.Equal(t, want, made)
	}
	for _, path := range []string{e.keyFile, gatewayfile.UsageFileOf(e.keyFile)} {
		info, err := os.Stat(path)
		require.NoError(t, err)
		assert.Equal(t, os.FileMode(0o600), info.Mode())
	}
	info, err := i.Import(t.Context(), providers.ImportRequest{KeyID: "key-2024", Scopes: []string{"a"}}, secret.Single(secret.New([]byte("existed-before"))))
	require.NoError(t, err)
	list, err := e.issuer(t, "p").List(t.Context())
	require.NoError(t, err)
	require.Len(t, list, 1)
	assert.Equal(t, info.KeyID, list[0].KeyID)
	assert.Equal(t, key.Active, list[0].State)

	e.open(t)
	grant, ok := e.verifier.Verify("existed-before")
	require.True(t, ok)
	assert.Equal(t, embedded.Grant{Principal: "p", KeyID: "key-2024", Scopes: []string{"a"}}, grant)
}

// A file that was cut short between the two is made by the next call; one that exists is nobody's to make.
func TestAnImportLeavesFilesThatExist(t *testing.T) {
	t.Parallel()
	e := newEdge(t)
	require.NoError(t, e.verifier.Close())
	usage := gatewayfile.UsageFileOf(e.keyFile)
	i := e.issuer(t, "p")
	require.NoError(t, os.Remove(usage))
	made, err := i.(providers.Importer).Prepare(t.Context())
	require.NoError(t, err)
	assert.Empty(t, made)
	assert.NoFileExists(t, usage, "a gateway that does not report is not made to look as if it did")

	require.NoError(t, os.Remove(e.keyFile))
	e.keyFile = filepath.Join(t.TempDir(), "keys.json")
	_, err = e.issuer(t, "p").(providers.Importer).Prepare(t.Context())
	require.NoError(t, err)
	require.NoError(t, os.Remove(e.keyFile)) // as if it had been cut short before the key file
	made, err = e.issuer(t, "p").(providers.Importer).Prepare(t.Context())
	require.NoError(t, err)
	assert.Equal(t, []string{e.keyFile}, made)
}

func TestAKeyThatSaysItsIDNeedsNoOther(t *testing.T) {
	t.Parallel()
	e := newEdge(t)
	id, value := gatewayfile.Mint()
	info, err := e.issuer(t, "p").(providers.Importer).Import(t.Context(), providers.ImportRequest{}, secret.Single(secret.New([]byte(value))))
	require.NoError(t, err)
	assert.Equal(t, id, info.KeyID)
	_, err = e.issuer(t, "q").(providers.Importer).Import(t.Context(), providers.ImportRequest{}, secret.Single(secret.New([]byte("some other form"))))
	require.ErrorIs(t, err, providers.ErrInvalid)
}
