package file

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/providers"
)

func TestProbe(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	probed, err := (&Account{Root: root}).Probe(t.Context(), providers.Environment{}, providers.ProbeInput{})
	require.NoError(t, err)
	assert.Empty(t, probed.Lacks)
	left, err := os.ReadDir(root)
	require.NoError(t, err)
	assert.Empty(t, left, "it leaves nothing behind")

	_, err = (&Account{Root: filepath.Join(root, "none")}).Probe(t.Context(), providers.Environment{}, providers.ProbeInput{})
	require.ErrorIs(t, err, os.ErrNotExist)
	if os.Geteuid() != 0 { // root may write everywhere
		require.NoError(t, os.Chmod(root, 0o500)) //nolint:gosec // it is what is tested
		probed, err = (&Account{Root: root}).Probe(t.Context(), providers.Environment{}, providers.ProbeInput{})
		require.NoError(t, err)
		assert.Len(t, probed.Lacks, 1)
	}
}
