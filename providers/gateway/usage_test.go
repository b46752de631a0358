package gateway_test

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	embedded "github.com/keyturn/keyturn/gateway"
	"github.com/keyturn/keyturn/internal/gatewayfile"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/providertest"
)

func TestUsage(t *testing.T) {
	t.Parallel()
	last := func(t *testing.T, e edge, id string) key.Info {
		list, err := e.issuer(t, "p").List(t.Context())
		require.NoError(t, err)
		for _, k := range list {
			if k.KeyID == id {
				return k
			}
		}
		require.Fail(t, "the key is not listed")
		return key.Info{}
	}
	t.Run("it says who used the key last, by address or name", func(t *testing.T) {
		t.Parallel()
		for from, want := range map[string]string{
			"10.0.0.7": "10.0.0.7", "10.0.0.7:443": "10.0.0.7:443", "[2001:db8::7%eth0]:443": "[2001:db8::7%eth0]:443", "fe80::1": "fe80::1",
			"checkout-7d9f8b6c5d-x2k4j": "checkout-7d9f8b6c5d-x2k4j", "system:serviceaccount:payments:checkout": "system:serviceaccount:payments:checkout",
			"me@example.com": "me@example.com", "": "",
			"10.0.0.7\x1b[31m": "somebody-who-is-not-named", strings.Repeat("x.", 80) + "x": "somebody-who-is-not-named",
			"fe80::1%ktg_Zq81mW0pLx7TRe2uA9sVfB3nKcYh5dJt": "somebody-who-is-not-named", "fe80::1%\x1b[2J": "somebody-who-is-not-named",
			"two words": "somebody-who-is-not-named", "0123456789abcdef0123456789abcdef": "somebody-who-is-not-named",
		} {
			e := newEdge(t)
			ref, value := issue(t, e.issuer(t, "p"), "t1")
			_, ok := e.verifier.VerifyFrom(value, from)
			require.True(t, ok)
			require.NoError(t, e.verifier.Close())
			assert.Equal(t, want, last(t, e, ref.KeyID).LastUsedBy)
		}
	})
	t.Run("nothing of a key is in who used it, whatever it calls itself", func(t *testing.T) {
		t.Parallel()
		e := newEdge(t)
		ref, value := issue(t, e.issuer(t, "p"), "t1")
		sent := secret.Single(secret.New([]byte(value[len("ktg_")+len(ref.KeyID):])))
		secretPart := value[len(value)-24:]
		for _, from := range append(providertest.Tellings(sent), value, secretPart, secretPart[:8]+"-"+secretPart[8:16], hex.EncodeToString([]byte(secretPart[:12]))) {
			e.open(t)
			_, ok := e.verifier.VerifyFrom(value, from)
			require.True(t, ok)
			require.NoError(t, e.verifier.Close())
			by := last(t, e, ref.KeyID).LastUsedBy
			assert.Equal(t, "somebody-who-is-not-named", by)
			providertest.AssertUntold(t, by, sent)
		}
	})
	t.Run("nor is it when another gateway wrote the file", func(t *testing.T) {
		t.Parallel()
		e := newEdge(t)
		ref, _ := issue(t, e.issuer(t, "p"), "t1")
		require.NoError(t, e.verifier.Close())
		for _, from := range providertest.Tellings(secret.Bundle{}) {
			written, err := json.Marshal(map[string]any{
				"schema": "keyturn/gateway-usage/v1", "since": time.Unix(1, 0), "lastUsed": map[string]any{ref.KeyID: map[string]any{"at": time.Now(), "from": from}},
			})
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(gatewayfile.UsageFileOf(e.keyFile), written, 0o600))
			providertest.AssertUntold(t, last(t, e, ref.KeyID).LastUsedBy, secret.Bundle{})
			text := strings.Replace(string(written), `"at":"`, `"at":"`+strings.Trim(strconv.Quote(from), `"`), 1)
			require.NoError(t, os.WriteFile(gatewayfile.UsageFileOf(e.keyFile), []byte(text), 0o600))
			_, err = e.issuer(t, "p").List(t.Context())
			require.ErrorIs(t, err, embedded.ErrMalformed)
			providertest.AssertUntold(t, err.Error(), secret.Bundle{})
		}
	})
	t.Run("an attempt with a disabled key counts: somebody relies on it", func(t *testing.T) {
		t.Parallel()
		e := newEdge(t)
		ref, value := issue(t, e.issuer(t, "p"), "t1")
		require.NoError(t, e.issuer(t, "p").(providers.Disabler).Disable(t.Context(), ref))
		before := time.Now()
		_, ok := e.verifier.Verify(value)
		require.False(t, ok)
		require.NoError(t, e.verifier.Close())
		assert.WithinRange(t, last(t, e, ref.KeyID).LastUsedAt, before, time.Now())
	})
	t.Run("two gateways report into one file", func(t *testing.T) {
		t.Parallel()
		e := newEdge(t)
		other := edge{keyFile: e.keyFile}
		other.open(t)
		first, a := issue(t, e.issuer(t, "p"), "t1")
		second, b := issue(t, e.issuer(t, "p"), "t2")
		e.verifier.VerifyFrom(a, "one")
		other.verifier.VerifyFrom(b, "two")
		require.NoError(t, e.verifier.Close())
		require.NoError(t, other.verifier.Close())
		assert.Equal(t, "one", last(t, e, first.KeyID).LastUsedBy)
		assert.Equal(t, "two", last(t, e, second.KeyID).LastUsedBy)
	})
	t.Run("it survives a restart of the gateway", func(t *testing.T) {
		t.Parallel()
		e := newEdge(t)
		ref, value := issue(t, e.issuer(t, "p"), "t1")
		e.verifier.VerifyFrom(value, "before")
		require.NoError(t, e.verifier.Close())
		used := last(t, e, ref.KeyID)
		e.open(t)
		got := last(t, e, ref.KeyID)
		assert.True(t, got.ReportedAt.After(used.ReportedAt), "a gateway that begins reports at once")
		got.ReportedAt = used.ReportedAt
		assert.Equal(t, used, got)
	})
	t.Run("after damage an old key counts as used until the new record began, and no key looks quiet", func(t *testing.T) {
		t.Parallel()
		e := newEdge(t)
		ref, _ := issue(t, e.issuer(t, "p"), "t1")
		require.NoError(t, e.verifier.Close())
		assert.Zero(t, last(t, e, ref.KeyID).LastUsedAt)
		require.NoError(t, os.WriteFile(gatewayfile.UsageFileOf(e.keyFile), []byte(`{"schema":"keyturn/gate`), 0o600))
		_, err := e.issuer(t, "p").List(t.Context())
		require.ErrorIs(t, err, embedded.ErrMalformed, "silence is no evidence")
		damaged := time.Now()
		e.open(t)
		got := last(t, e, ref.KeyID)
		assert.False(t, got.LastUsedAt.Before(damaged))
		assert.Contains(t, got.LastUsedBy, "unknown")
		fresh, _ := issue(t, e.issuer(t, "p"), "t2")
		assert.Zero(t, last(t, e, fresh.KeyID).LastUsedAt, "a younger key is not concerned")
	})
	t.Run("a file that others may write is not trusted, and a gateway begins it anew", func(t *testing.T) {
		t.Parallel()
		e := newEdge(t)
		require.NoError(t, e.verifier.Close())
		require.NoError(t, os.Chmod(gatewayfile.UsageFileOf(e.keyFile), 0o602))
		_, err := e.issuer(t, "p").List(t.Context())
		require.ErrorIs(t, err, providers.ErrDenied)
		e.open(t)
		_, err = e.issuer(t, "p").List(t.Context())
		require.NoError(t, err)
	})
	t.Run("a running gateway mends the file", func(t *testing.T) {
		t.Parallel()
		e := newEdge(t)
		ref, value := issue(t, e.issuer(t, "p"), "t1")
		require.NoError(t, os.WriteFile(gatewayfile.UsageFileOf(e.keyFile), []byte("garbage"), 0o600))
		e.verifier.VerifyFrom(value, "me")
		i := e.issuer(t, "p")
		require.Eventually(t, func() bool {
			list, err := i.List(t.Context())
			return err == nil && list[0].KeyID == ref.KeyID && !list[0].LastUsedAt.IsZero()
		}, time.Minute, 20*time.Millisecond)
	})
	t.Run("without a usage file there is no list", func(t *testing.T) {
		t.Parallel()
		e := edge{keyFile: filepath.Join(t.TempDir(), "keys.json")}
		require.NoError(t, embedded.Create(t.Context(), e.keyFile))
		_, err := e.issuer(t, "p").List(t.Context())
		require.ErrorContains(t, err, "start the gateway")
	})
	t.Run("the last use of a destroyed key is told for a week, and forgotten then", func(t *testing.T) {
		t.Parallel()
		e := newEdge(t)
		ref, value := issue(t, e.issuer(t, "p"), "t1")
		e.verifier.VerifyFrom(value, "192.0.2.1:4711")
		require.NoError(t, e.issuer(t, "p").Destroy(t.Context(), ref))
		require.NoError(t, e.verifier.Close())
		began := time.Now().Add(-time.Hour)
		uses, err := e.issuer(t, "p").(providers.AuditLog).Uses(t.Context(), ref, began)
		require.NoError(t, err)
		require.Len(t, uses.List, 1)
		assert.Equal(t, "192.0.2.1", uses.List[0].Source)
		assert.Contains(t, strings.Join(uses.Unseen, " "), "does not know a destroyed key again")
		assert.Contains(t, strings.Join(uses.Unseen, " "), "The gateway's record of uses begins at")
		dead := func(string) bool { return false }
		for after, kept := range map[time.Duration]bool{6 * 24 * time.Hour: true, 8 * 24 * time.Hour: false} {
			folder := t.TempDir()
			data, err := os.ReadFile(gatewayfile.UsageFileOf(e.keyFile))
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(filepath.Join(folder, "usage"), data, 0o600))
			usage, err := gatewayfile.Report(t.Context(), filepath.Join(folder, "usage"), nil, dead, time.Now().Add(after))
			require.NoError(t, err)
			assert.Equal(t, kept, !usage.LastUsed[ref.KeyID].At.IsZero(), "after %s", after)
		}
	})
	t.Run("uses that cannot be reported are told", func(t *testing.T) {
		t.Parallel()
		e := newEdge(t)
		_, value := issue(t, e.issuer(t, "p"), "t1")
		usage := gatewayfile.UsageFileOf(e.keyFile)
		require.NoError(t, os.Remove(usage))
		require.NoError(t, os.Mkdir(usage, 0o700))
		_, ok := e.verifier.Verify(value)
		assert.True(t, ok, "requests pass all the same")
		require.Eventually(t, func() bool { return e.verifier.Err() != nil }, time.Minute, 20*time.Millisecond)
	})
}
