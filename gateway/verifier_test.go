package gateway

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/gatewayfile"
	"github.com/keyturn/keyturn/internal/key"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

const keyValue = "legacy-key-value-123"

// desk is a key file with one key, which verifiers with clocks of their own report the uses of.
type desk struct{ keyFile, usageFile string }

func newDesk(t *testing.T) desk {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keys.json")
	require.NoError(t, Create(t.Context(), path))
	imported := gatewayfile.Record{ID: "k", Principal: "p", State: key.Active, CreatedAt: noon, Imported: true}
	imported.SetValue([]byte(keyValue))
	require.NoError(t, gatewayfile.ChangeKeys(t.Context(), path, func(f *gatewayfile.KeyFile) error {
		f.Keys = append(f.Keys, imported)
		return nil
	}))
	return desk{keyFile: path, usageFile: gatewayfile.UsageFileOf(path)}
}

// verifier makes one that reports only when flush is called.
func (d desk) verifier(t *testing.T, at time.Time) (v *Verifier, clock *time.Time) {
	t.Helper()
	clock = &at
	v = &Verifier{keyFile: d.keyFile, usageFile: d.usageFile, now: func() time.Time { return *clock }, uses: map[string]gatewayfile.Use{}}
	t.Cleanup(func() { v.keys.Load().close() })
	require.NoError(t, v.flush())
	return v, clock
}

func (d desk) usage(t *testing.T) *gatewayfile.Usage {
	t.Helper()
	u, err := gatewayfile.ReadUsage(d.usageFile)
	require.NoError(t, err)
	return u
}

func TestAReportSaysAsOfWhenItIs(t *testing.T) {
	t.Parallel()
	t.Run("when nothing was used, too", func(t *testing.T) {
		t.Parallel()
		d := newDesk(t)
		v, clock := d.verifier(t, noon)
		assert.Equal(t, noon, d.usage(t).AsOf)
		*clock = noon.Add(time.Second)
		require.NoError(t, v.flush())
		assert.Equal(t, *clock, d.usage(t).AsOf)
	})
	t.Run("of what was used after a report, by a gateway whose clock is behind, no earlier time than the report's is told", func(t *testing.T) {
		t.Parallel()
		d := newDesk(t)
		d.verifier(t, noon.Add(time.Hour))
		behind, _ := d.verifier(t, noon)
		_, ok := behind.Verify(keyValue)
		require.True(t, ok)
		require.NoError(t, behind.flush())
		u := d.usage(t)
		assert.Equal(t, noon.Add(time.Hour), u.AsOf)
		assert.Equal(t, u.AsOf, u.LastUsed["k"].At)
	})
	t.Run("and gets no older when the clock is set back", func(t *testing.T) {
		t.Parallel()
		d := newDesk(t)
		v, clock := d.verifier(t, noon)
		*clock = noon.Add(-time.Hour)
		v.Verify(keyValue)
		require.NoError(t, os.Remove(d.usageFile))
		require.NoError(t, v.flush())
		u := d.usage(t)
		assert.Equal(t, noon, u.AsOf)
		assert.Equal(t, noon, u.LastUsed["k"].At)
	})
	t.Run("by a file that does not say so, it is as old as the last that the file knows", func(t *testing.T) {
		t.Parallel()
		d := newDesk(t)
		require.NoError(t, os.WriteFile(d.usageFile, []byte(`{"schema":"keyturn/gateway-usage/v1","since":"2026-01-01T10:00:00Z",
			"lastUsed":{"k":{"at":"2026-01-01T12:00:00Z"},"j":{"at":"2026-01-01T11:00:00Z"}}}`), 0o600))
		assert.Equal(t, noon, d.usage(t).AsOf)
	})
}

func TestAMalformedKeyFileIsReadOnceUntilItChanges(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	v, _ := d.verifier(t, noon)
	good, err := os.ReadFile(d.keyFile)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(d.keyFile, good[:len(good)/2], 0o600))

	read := v.current()
	require.ErrorIs(t, read.err, ErrMalformed)
	_, ok := v.Verify(keyValue)
	assert.False(t, ok)
	assert.Same(t, read, v.current())

	require.NoError(t, os.WriteFile(d.keyFile, good[:len(good)/3], 0o600))
	again := v.current()
	require.ErrorIs(t, again.err, ErrMalformed)
	assert.NotSame(t, read, again)

	require.NoError(t, os.Chmod(d.keyFile, 0o620))
	require.NoError(t, os.WriteFile(d.keyFile, good, 0o600))
	require.ErrorIs(t, v.current().err, ErrOthersMayWrite)
	require.NoError(t, os.Chmod(d.keyFile, 0o600))
	_, ok = v.Verify(keyValue)
	assert.True(t, ok, "a file that may not be trusted is tried each time, since a change of its mode does not show")
}
