package demo

import (
	"encoding/json"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/providers"
)

func folder(t *testing.T) Folder {
	t.Helper()
	// A name that YAML and templates could trip over.
	f, err := MakeFolder(filepath.Join(t.TempDir(), `a "b": #c`))
	require.NoError(t, err)
	return f
}

func run(t *testing.T, o Options) *Services {
	t.Helper()
	s, err := Start(t.Context(), o)
	require.NoError(t, err)
	t.Cleanup(s.Stop)
	return s
}

func get(t *testing.T, url string, into any) {
	t.Helper()
	resp, err := http.Get(url)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, http.StatusOK, resp.StatusCode, url)
	require.NoError(t, json.NewDecoder(resp.Body).Decode(into), url)
}

func TestServicesSendTrafficThatIsAccepted(t *testing.T) {
	t.Parallel()
	s := run(t, Options{Folder: folder(t), Every: DefaultEvery / 10})
	eventually(t, func() bool { return s.Snapshot().Sent > 30 })
	var seen Snapshot
	get(t, s.Place().Snapshot, &seen)
	assert.Positive(t, seen.Sent)
	s.Stop()

	got := s.Snapshot()
	assert.Zero(t, got.Refused)
	assert.Zero(t, got.Failed)
	accepted, ledger := 0, 0
	for i, c := range got.Consumers {
		assert.Equal(t, Instances[i], c.Name)
		assert.Equal(t, FirstKeyID, c.KeyID)
		assert.Equal(t, got.Consumers[0].Key, c.Key)
		assert.Positive(t, c.Accepted, c.Name)
		accepted += c.Accepted
	}
	for _, e := range got.Ledger {
		assert.Equal(t, FirstKeyID, e.KeyID)
		assert.Contains(t, Instances, e.Caller)
		ledger += e.Accepted
	}
	assert.Equal(t, got.Sent, accepted)
	assert.Equal(t, got.Sent, ledger, "the gateway counted what the consumers counted")
	assert.Equal(t, got.Sent, s.Snapshot().Sent, "nothing is sent after Stop")
}

// TestServicesRotatedByHand does what a rotation does, through the providers that the two files name.
func TestServicesRotatedByHand(t *testing.T) {
	t.Parallel()
	f := folder(t)
	s := run(t, Options{Folder: f, Every: DefaultEvery / 10, Stuck: []string{"checkout-b"}})
	w, err := open(f)
	require.NoError(t, err)
	ctx := t.Context()
	listed, err := w.issuer.List(ctx)
	require.NoError(t, err)
	require.Len(t, listed, 1)
	issued, err := w.issuer.Issue(ctx, providers.IssueRequest{Token: "t"})
	require.NoError(t, err)
	for _, to := range w.targets {
		for _, instance := range to.consumer.InstanceNames() {
			require.NoError(t, to.Deliver(ctx, providers.Delivery{Instance: instance, Key: key.Ref{KeyID: issued.Key.KeyID}, Bundle: issued.Bundle}))
		}
	}
	on := func(name, keyID string) func() bool {
		return func() bool {
			for _, c := range s.Snapshot().Consumers {
				if c.Name == name {
					return c.KeyID == keyID
				}
			}
			return false
		}
	}
	eventually(t, on("checkout-canary", issued.Key.KeyID))
	eventually(t, on("checkout-a", issued.Key.KeyID))
	assert.True(t, on("checkout-b", FirstKeyID)(), "it is stuck")
	var attested struct{ Key string }
	get(t, s.Place().Consumers+"/checkout-a/keyturn", &attested)
	assert.Equal(t, issued.Bundle.Fingerprint(), attested.Key)
	assert.Zero(t, s.Snapshot().Refused)

	require.NoError(t, w.issuer.Destroy(ctx, key.Ref{Principal: Credential, KeyID: FirstKeyID}))
	eventually(t, func() bool { return s.Snapshot().Refused > 2 })
	for _, c := range s.Snapshot().Consumers {
		assert.Equal(t, c.Name == "checkout-b", c.Refused > 0, c.Name)
	}
	var stats struct{ Errors, Total int }
	get(t, s.Place().Consumers+"/checkout-b/stats", &stats)
	assert.Positive(t, stats.Errors)

	require.NoError(t, w.issuer.(providers.Disabler).Disable(ctx, key.Ref{Principal: Credential, KeyID: issued.Key.KeyID}))
	eventually(t, func() bool {
		for _, e := range s.Snapshot().Ledger {
			if e.KeyID == issued.Key.KeyID && e.Refused > 0 {
				return true
			}
		}
		return false
	})
}

func TestSeedKeepsWhatThereIs(t *testing.T) {
	t.Parallel()
	f := folder(t)
	s := run(t, Options{Folder: f})
	first := s.Snapshot().Consumers[0].Key
	s.Stop()
	// A rotation is under way: the canary has another key already.
	require.NoError(t, os.WriteFile(f.KeysOf("checkout-canary"), []byte(secondKey), 0o600))

	s = run(t, Options{Folder: f, Windows: Windows{Overlap: inventory.Duration(90e9)}})
	now := s.Snapshot().Consumers
	assert.NotEqual(t, first, now[0].Key)
	assert.Equal(t, first, now[1].Key)
	w, err := open(f)
	require.NoError(t, err)
	assert.Equal(t, "1m30s", w.credential.Overlap.String(), "the files are written again")
	assert.Equal(t, DefaultWindows.Quiet, w.credential.QuietWindow)
	listed, err := w.issuer.List(t.Context())
	require.NoError(t, err)
	assert.Len(t, listed, 1)
}

func TestStateIsForItsOwnerAloneAndHasNoKeyInTheClear(t *testing.T) {
	t.Parallel()
	f := folder(t)
	run(t, Options{Folder: f}).Stop()
	plain, err := os.ReadFile(f.KeysOf("checkout-a"))
	require.NoError(t, err)
	value := strings.TrimSpace(string(plain))
	require.NoError(t, filepath.WalkDir(string(f), func(path string, d fs.DirEntry, err error) error {
		require.NoError(t, err)
		info, err := d.Info()
		require.NoError(t, err)
		if info.Mode()&fs.ModeSymlink != 0 {
			return nil
		}
		assert.Zero(t, info.Mode().Perm()&0o077, "%s has mode %s", path, info.Mode())
		if d.IsDir() || strings.HasPrefix(path, f.Keys()) || strings.HasPrefix(path, f.Store()) {
			return nil
		}
		content, err := os.ReadFile(path)
		require.NoError(t, err)
		assert.NotContains(t, string(content), value, path)
		return nil
	}))
}

func TestStartRefuses(t *testing.T) {
	t.Parallel()
	taken, err := listen(0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = taken.Close() })
	port := taken.Addr().(*net.TCPAddr).Port
	for name, c := range map[string]struct {
		options Options
		says    string
	}{
		"an instance that does not exist":   {Options{Stuck: []string{"checkout-c"}}, "checkout-c"},
		"a taken port of the gateway":       {Options{GatewayPort: port}, "in use"},
		"a taken port of the consumers":     {Options{ConsumersPort: port}, "in use"},
		"windows that no rotation can keep": {Options{Windows: Windows{Quiet: inventory.Duration(time.Hour)}}, "quietWindow"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.options.Folder = folder(t)
			_, err := Start(t.Context(), c.options)
			require.ErrorContains(t, err, c.says)
		})
	}
}

func TestSeedGoesOnWhereItWasKilled(t *testing.T) {
	t.Parallel()
	f := folder(t)
	s := run(t, Options{Folder: f})
	first := s.Snapshot().Consumers[0].Key
	s.Stop()
	// Killed after the store had the key, and before anybody else did.
	require.NoError(t, os.Remove(f.GatewayKeys()))
	for _, name := range Instances {
		require.NoError(t, os.Remove(f.KeysOf(name)))
	}

	s = run(t, Options{Folder: f})
	eventually(t, func() bool { return s.Snapshot().Sent > 3 })
	s.Stop()
	got := s.Snapshot()
	assert.Equal(t, first, got.Consumers[0].Key)
	assert.Zero(t, got.Refused+got.Failed)
}
