package file_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/file"
	"github.com/keyturn/keyturn/providers/providertest"
)

func openLock(t require.TestingT, path string) providers.Freezer {
	c := &file.LockConfig{Path: path}
	require.Empty(t, c.Problems())
	f, err := file.Descriptor().Freezer.Open(providers.Environment{}, nil, c)
	require.NoError(t, err)
	return f
}

func held(t require.TestingT, path string) (f providers.Freeze) {
	text, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		return f
	}
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &f))
	return f
}

func TestFreezerConforms(t *testing.T) {
	t.Parallel()
	providertest.Freezer(t, providertest.FreezerSetup{Local: true, Open: func(t providertest.T, _ providertest.Peer) (providers.Freezer, func() providers.Freeze) {
		path := filepath.Join(t.TempDir(), "frozen")
		return openLock(t, path), func() providers.Freeze { return held(t, path) }
	}})
}

// Those who deploy are other users: they can read the file, and what else is in the folder stays.
func TestTheLockFile(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	path := filepath.Join(folder, "frozen")
	f := openLock(t, path)
	freeze := providers.Freeze{Incident: "incident/a", Reason: "leak", Credentials: []string{"payments-api"}, Until: time.Now().Add(time.Hour).UTC().Truncate(time.Second), Override: "ask ines"}
	require.NoError(t, f.Freeze(t.Context(), freeze))
	info, err := os.Stat(path)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o644), info.Mode().Perm())
	assert.Equal(t, freeze, held(t, path))

	require.NoError(t, os.WriteFile(path, []byte("held by hand"), 0o600))
	require.Error(t, f.Unfreeze(t.Context(), "incident/a"))
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, "held by hand", string(text), "what is not keyturn's stays")

	require.NoError(t, os.Chmod(folder, 0o777)) //nolint:gosec // that is the point
	require.ErrorIs(t, f.Freeze(t.Context(), freeze), providers.ErrDenied)
	for _, wrong := range []string{"", "relative", "/", "/a/../b"} {
		assert.NotEmpty(t, (&file.LockConfig{Path: wrong}).Problems(), wrong)
	}
}
