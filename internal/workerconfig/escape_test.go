package workerconfig_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/providers"
)

func TestALinkToWhatDoesNotExistLeadsOutside(t *testing.T) {
	t.Parallel()
	outside, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	root := filepath.Join(outside, "keys")
	require.NoError(t, os.Mkdir(root, 0o700))
	require.NoError(t, os.Symlink(filepath.Join(outside, "not-yet"), filepath.Join(root, "key")))
	require.NoError(t, os.Symlink(filepath.Join(outside, "no-folder-yet"), filepath.Join(root, "folder")))
	c := configOf(t, strings.Replace(base, "/run/keys", root, 1))
	assert.ErrorIs(t, c.AllowFile("production", filepath.Join(root, "key")), providers.ErrDenied)
	assert.ErrorIs(t, c.AllowFile("production", filepath.Join(root, "folder", "key")), providers.ErrDenied)
}

func TestAStarStandsForNamesNotForAddresses(t *testing.T) {
	t.Parallel()
	for _, host := range []string{"*.:443", "*.1:80", "*.169.254:80"} {
		_, err := load(strings.Replace(base, "*.internal:443", host, 1))
		assert.ErrorContains(t, err, "bounds.production.hosts[0]", host)
	}
}

func TestMetadataServicesOutsideOfLinkLocalAddresses(t *testing.T) {
	t.Parallel()
	for _, host := range []string{"[fd00:ec2::254]:80", "100.100.100.200:80", "[64:ff9b::a9fe:a9fe]:80"} {
		_, err := load(strings.Replace(base, "127.0.0.1:8081", host, 1))
		assert.ErrorContains(t, err, "bounds.production.hosts[1]", host)
	}
}
