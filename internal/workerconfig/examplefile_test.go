package workerconfig_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/keyturn/keyturn/internal/workerconfig"
	"github.com/keyturn/keyturn/providers/all"
)

// The example configuration is taken by the worker's own loader, once the files of signers that it names are there: none else.
func TestTheWorkerLoadsTheExample(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../keyturn-worker.example.yaml")
	require.NoError(t, err)
	folder := t.TempDir()
	file := filepath.Join(folder, "keyturn-worker.yaml")
	require.NoError(t, os.WriteFile(file, []byte(strings.ReplaceAll(string(text), "/etc/keyturn/", folder+"/")), 0o600))
	names := []string{"inventory_signers", "payments_signers", "security_signers", "incident_signers"}
	_, err = workerconfig.LoadFile(file, all.Descriptors())
	require.Error(t, err)
	for _, name := range names {
		assert.ErrorContains(t, err, name, "all that is missing is said at once")
		public, _, err := ed25519.GenerateKey(rand.Reader)
		require.NoError(t, err)
		key, err := ssh.NewPublicKey(public)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(folder, name), append([]byte(name+"@example.com "), ssh.MarshalAuthorizedKey(key)...), 0o600))
	}
	config, err := workerconfig.LoadFile(file, all.Descriptors())
	require.NoError(t, err)
	signers, err := config.InventorySigners("production")
	require.NoError(t, err)
	assert.Len(t, signers, 1)
}
