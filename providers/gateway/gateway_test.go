package gateway_test

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/atomicfile"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/internal/strictyaml"
	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/gateway"
	"github.com/keyturn/keyturn/providers/providertest"
)

// edge is a gateway: a key file, a verifier, and issuers for principals.
type edge struct {
	keyFile  string
	verifier *gateway.Verifier
}

type tester interface {
	require.TestingT
	Helper()
	Cleanup(func())
	Context() context.Context
	TempDir() string
}

func newEdge(t tester) edge {
	t.Helper()
	e := edge{keyFile: filepath.Join(t.TempDir(), "keys.json")}
	require.NoError(t, gateway.Create(t.Context(), e.keyFile))
	e.open(t)
	return e
}

func (e *edge) open(t tester) {
	t.Helper()
	v, err := gateway.OpenVerifier(e.keyFile, "")
	require.NoError(t, err)
	t.Cleanup(func() { _ = v.Close() })
	e.verifier = v
}

func (e *edge) issuer(t tester, principal string) providers.Issuer {
	t.Helper()
	i, err := gateway.Descriptor().Issuer.Open(providers.Environment{Now: time.Now}, &gateway.Account{KeyFile: e.keyFile}, &gateway.Config{Principal: principal})
	require.NoError(t, err)
	return i
}

func (e *edge) use(b secret.Bundle) error {
	if _, ok := e.verifier.Verify(plain(b)); !ok {
		return providers.ErrKeyRefused
	}
	return nil
}

func plain(b secret.Bundle) string {
	v, _ := b.Field(secret.ValueField)
	return string(v.Reveal())
}

func issue(t tester, i providers.Issuer, token string) (key.Ref, string) {
	t.Helper()
	issued, err := i.Issue(t.Context(), providers.IssueRequest{Token: token, Scopes: []string{"charge:create"}})
	require.NoError(t, err)
	t.Cleanup(issued.Bundle.Close)
	return key.Ref{Principal: issued.Key.Principal, KeyID: issued.Key.KeyID}, plain(issued.Bundle)
}

func TestConformance(t *testing.T) {
	t.Parallel()
	providertest.Issuer(t, providertest.IssuerSetup{KnowsTokens: true, DatesReports: true, Open: func(t providertest.T) providertest.IssuerWorld {
		e := newEdge(t)
		return providertest.IssuerWorld{
			Issuer: e.issuer(t, "p"), Other: e.issuer(t, "q"), Principal: "p", Use: e.use,
			Silence: func() func() {
				unlock, err := atomicfile.Lock(t.Context(), gateway.UsageFileOf(e.keyFile)+".lock")
				require.NoError(t, err)
				return unlock
			},
			Faults: providertest.Faults{Hang: func(providertest.Op) func() {
				unlock, err := atomicfile.Lock(t.Context(), e.keyFile+".lock") // as a keyturn that hangs in the middle
				require.NoError(t, err)
				return unlock
			}},
		}
	}})
}

func TestListerConformance(t *testing.T) {
	t.Parallel()
	providertest.Lister(t, providertest.ListerSetup{Open: func(t providertest.T) providertest.ListerWorld {
		e := newEdge(t)
		return providertest.ListerWorld{
			Lister: &gateway.Account{KeyFile: e.keyFile},
			Principal: func(name string, keys int) providers.Issuer {
				i := e.issuer(t, name)
				for range keys {
					_, err := i.Issue(t.Context(), providers.IssueRequest{Token: rand.Text()})
					require.NoError(t, err)
				}
				return i
			},
		}
	}})
}

func TestMorePrincipalsThanAPageHas(t *testing.T) {
	t.Parallel()
	e := newEdge(t)
	const all = 1201
	var keys []map[string]any
	for n := range all {
		keys = append(keys, map[string]any{
			"id": fmt.Sprintf("key-%04d", n), "principal": fmt.Sprintf("team-%04d", n), "state": "active", "createdAt": time.Now().UTC(),
			"salt": make([]byte, 16), "hash": make([]byte, 32),
		})
	}
	text, err := json.Marshal(map[string]any{"schema": "keyturn/gateway-keys/v1", "keys": keys})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(e.keyFile, text, 0o600))
	account, pages, seen := gateway.Account{KeyFile: e.keyFile}, 0, map[string]bool{}
	for page := ""; ; pages++ {
		names, next, err := account.Principals(t.Context(), page)
		require.NoError(t, err)
		for _, n := range names {
			seen[n] = true
		}
		if page = next; page == "" {
			break
		}
	}
	assert.Len(t, seen, all)
	assert.Equal(t, 2, pages)
}

func TestProbe(t *testing.T) {
	t.Parallel()
	e := newEdge(t)
	account := gateway.Account{KeyFile: e.keyFile}
	probed, err := account.Probe(t.Context(), providers.Environment{}, providers.ProbeInput{})
	require.NoError(t, err)
	assert.Empty(t, probed.Lacks)

	account.UsageFile = e.keyFile + ".elsewhere"
	probed, err = account.Probe(t.Context(), providers.Environment{}, providers.ProbeInput{})
	require.NoError(t, err)
	require.Len(t, probed.Lacks, 1)
	assert.Contains(t, probed.Lacks[0], "start the gateway")

	account.KeyFile = e.keyFile + ".none"
	_, err = account.Probe(t.Context(), providers.Environment{}, providers.ProbeInput{})
	require.Error(t, err)
}

func TestBothKeysAreAcceptedInTheOverlap(t *testing.T) {
	t.Parallel()
	e := newEdge(t)
	i := e.issuer(t, "payments-api")
	first, old := issue(t, i, "t1")
	second, fresh := issue(t, i, "t2")
	for value, ref := range map[string]key.Ref{old: first, fresh: second} {
		grant, ok := e.verifier.Verify(value)
		require.True(t, ok)
		assert.Equal(t, gateway.Grant{Principal: "payments-api", KeyID: ref.KeyID, Scopes: []string{"charge:create"}}, grant)
	}
}

// The next request after a change sees it, whatever was cached: many changes within one tick of the file
// system's clock, of the same size, with inodes that are used again.
func TestAChangeIsSeenByTheNextRequest(t *testing.T) {
	t.Parallel()
	e := newEdge(t)
	i := e.issuer(t, "p")
	d := i.(providers.Disabler)
	for range 60 {
		ref, value := issue(t, i, "t")
		_, ok := e.verifier.Verify(value)
		require.True(t, ok, "issued")
		require.NoError(t, d.Disable(t.Context(), ref))
		_, ok = e.verifier.Verify(value)
		require.False(t, ok, "disabled")
		require.NoError(t, d.Enable(t.Context(), ref))
		_, ok = e.verifier.Verify(value)
		require.True(t, ok, "enabled")
		require.NoError(t, i.Destroy(t.Context(), ref))
		_, ok = e.verifier.Verify(value)
		require.False(t, ok, "destroyed")
	}
}

func TestTheKeyFileHoldsNoKey(t *testing.T) {
	t.Parallel()
	e := newEdge(t)
	_, value := issue(t, e.issuer(t, "p"), "t1")
	require.NoError(t, gateway.AddKey(t.Context(), e.keyFile, gateway.ExistingKey{Principal: "p", KeyID: "old"}, secret.New([]byte("legacy-key-value-123"))))
	e.verifier.Verify(value)
	require.NoError(t, e.verifier.Close())
	for _, path := range []string{e.keyFile, gateway.UsageFileOf(e.keyFile)} {
		data, err := os.ReadFile(path)
		require.NoError(t, err)
		assert.NotContains(t, string(data), value[21:], "%s", path)
		assert.NotContains(t, string(data), "legacy-key-value-123")
		info, err := os.Stat(path)
		require.NoError(t, err)
		assert.Equal(t, os.FileMode(0o600), info.Mode())
	}
}

func TestAddKey(t *testing.T) {
	t.Parallel()
	e := newEdge(t)
	add := func(principal, id, value string) error {
		return gateway.AddKey(t.Context(), e.keyFile, gateway.ExistingKey{Principal: principal, KeyID: id, Scopes: []string{"a"}}, secret.New([]byte(value)))
	}
	require.NoError(t, add("p", "key-2024-07", "any form at all"))
	require.NoError(t, add("p", "key-2024-07", "any form at all"), "again")
	require.ErrorIs(t, add("p", "key-2024-07", "another"), providers.ErrConflict)
	require.ErrorIs(t, add("p", "another", "any form at all"), providers.ErrConflict)
	require.ErrorIs(t, add("q", "key-2024-07", "any form at all"), providers.ErrConflict)
	require.ErrorIs(t, add("p", "bad id\n", "x"), providers.ErrInvalid)
	require.ErrorIs(t, add("p", "empty", ""), providers.ErrInvalid)

	grant, ok := e.verifier.Verify("any form at all")
	require.True(t, ok)
	assert.Equal(t, gateway.Grant{Principal: "p", KeyID: "key-2024-07", Scopes: []string{"a"}}, grant)
	list, err := e.issuer(t, "p").List(t.Context())
	require.NoError(t, err)
	require.Len(t, list, 1)
	assert.Equal(t, "key-2024-07", list[0].KeyID)
	require.NoError(t, e.issuer(t, "p").Destroy(t.Context(), key.Ref{KeyID: "key-2024-07"}))
	_, ok = e.verifier.Verify("any form at all")
	assert.False(t, ok)

	_, ours := issue(t, e.issuer(t, "q"), "t")
	fresh := filepath.Join(t.TempDir(), "keys.json")
	require.ErrorIs(t, gateway.AddKey(t.Context(), fresh, gateway.ExistingKey{Principal: "q", KeyID: "wrong"}, secret.New([]byte(ours))), providers.ErrInvalid,
		"a key that says its own ID has that one")
	id, _ := gateway.ParseToken(ours)
	require.NoError(t, gateway.AddKey(t.Context(), fresh, gateway.ExistingKey{Principal: "q", KeyID: id}, secret.New([]byte(ours))))
}

func TestAKeyFileThatCannotBeTrusted(t *testing.T) {
	t.Parallel()
	whole := func(keys string) string { return `{"schema":"keyturn/gateway-keys/v1","keys":[` + keys + `]}` }
	one := `{"id":"a","principal":"p","state":"active","createdAt":"2026-01-01T00:00:00Z","salt":"AAAAAAAAAAAAAAAAAAAAAA==","hash":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}`
	for name, content := range map[string]string{
		"empty":                   "",
		"cut short":               whole(one)[:80],
		"another schema":          `{"schema":"keyturn/gateway-keys/v2","keys":[]}`,
		"an unknown field":        strings.Replace(whole(one), `"id"`, `"extra":1,"id"`, 1),
		"something after the end": whole(one) + whole(one),
		"two keys with one ID":    whole(one + "," + one),
		"no such state":           whole(strings.Replace(one, "active", "fine", 1)),
		"no principal":            whole(strings.Replace(one, `"p"`, `""`, 1)),
		"a short hash":            whole(strings.Replace(one, `"hash":"AAAA`, `"hash":"`, 1)),
		"a short salt":            whole(strings.Replace(one, `"salt":"AAAAAAAAAAAAAAAAAAAAAA==`, `"salt":"AAAA`, 1)),
		"no time":                 whole(strings.Replace(one, "2026-01-01T00:00:00Z", "0001-01-01T00:00:00Z", 1)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newEdge(t)
			i := e.issuer(t, "p")
			ref, value := issue(t, i, "t1")
			good, err := os.ReadFile(e.keyFile)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(e.keyFile, []byte(content), 0o600))

			_, ok := e.verifier.Verify(value)
			assert.False(t, ok, "it fails closed")
			require.ErrorIs(t, e.verifier.Err(), gateway.ErrMalformed)
			_, err = gateway.OpenVerifier(e.keyFile, "")
			require.ErrorIs(t, err, gateway.ErrMalformed)
			_, err = i.Issue(t.Context(), providers.IssueRequest{Token: "t2"})
			require.ErrorIs(t, err, gateway.ErrMalformed)
			require.ErrorIs(t, i.Destroy(t.Context(), ref), gateway.ErrMalformed)
			_, err = i.List(t.Context())
			require.ErrorIs(t, err, gateway.ErrMalformed)
			_, err = i.Identify(t.Context(), secret.Single(secret.New([]byte(value))))
			require.ErrorIs(t, err, gateway.ErrMalformed)
			require.NotErrorIs(t, err, providers.ErrNotFound, "nobody knows whether it is a key")
			after, err := os.ReadFile(e.keyFile)
			require.NoError(t, err)
			assert.Equal(t, content, string(after), "nothing is overwritten")

			require.NoError(t, os.WriteFile(e.keyFile, good, 0o600))
			_, ok = e.verifier.Verify(value)
			assert.True(t, ok, "and it recovers")
			assert.NoError(t, e.verifier.Err())
		})
	}
}

func TestAKeyFileThatOthersMayWriteIsNotTrusted(t *testing.T) {
	t.Parallel()
	e := newEdge(t)
	_, value := issue(t, e.issuer(t, "p"), "t1")
	for _, mode := range []os.FileMode{0o620, 0o602} {
		require.NoError(t, os.Chmod(e.keyFile, mode))
		require.NoError(t, os.Chtimes(e.keyFile, time.Now(), time.Now()))
		_, ok := e.verifier.Verify(value)
		assert.False(t, ok)
		_, err := e.issuer(t, "p").List(t.Context())
		require.ErrorIs(t, err, providers.ErrDenied)
	}
	require.NoError(t, os.Chmod(e.keyFile, 0o600))
	_, ok := e.verifier.Verify(value)
	assert.True(t, ok)
}

func TestAMissingKeyFileIsNoEmptyGateway(t *testing.T) {
	t.Parallel()
	e := edge{keyFile: filepath.Join(t.TempDir(), "keys.json")}
	i := e.issuer(t, "p")
	_, err := i.Issue(t.Context(), providers.IssueRequest{Token: "t"})
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = i.Identify(t.Context(), secret.Single(secret.New([]byte("x"))))
	require.ErrorIs(t, err, os.ErrNotExist)
	require.NotErrorIs(t, err, providers.ErrNotFound, "a missing file says nothing about keys")
	_, err = gateway.OpenVerifier(e.keyFile, "")
	require.ErrorIs(t, err, os.ErrNotExist)
	assert.NoFileExists(t, e.keyFile)
}

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
			require.NoError(t, os.WriteFile(gateway.UsageFileOf(e.keyFile), written, 0o600))
			providertest.AssertUntold(t, last(t, e, ref.KeyID).LastUsedBy, secret.Bundle{})
			text := strings.Replace(string(written), `"at":"`, `"at":"`+strings.Trim(strconv.Quote(from), `"`), 1)
			require.NoError(t, os.WriteFile(gateway.UsageFileOf(e.keyFile), []byte(text), 0o600))
			_, err = e.issuer(t, "p").List(t.Context())
			require.ErrorIs(t, err, gateway.ErrMalformed)
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
		require.NoError(t, os.WriteFile(gateway.UsageFileOf(e.keyFile), []byte(`{"schema":"keyturn/gate`), 0o600))
		_, err := e.issuer(t, "p").List(t.Context())
		require.ErrorIs(t, err, gateway.ErrMalformed, "silence is no evidence")
		damaged := time.Now()
		e.open(t)
		got := last(t, e, ref.KeyID)
		assert.False(t, got.LastUsedAt.Before(damaged))
		assert.Contains(t, got.LastUsedBy, "unknown")
		fresh, _ := issue(t, e.issuer(t, "p"), "t2")
		assert.Zero(t, last(t, e, fresh.KeyID).LastUsedAt, "a younger key is not concerned")
	})
	t.Run("a running gateway mends the file", func(t *testing.T) {
		t.Parallel()
		e := newEdge(t)
		ref, value := issue(t, e.issuer(t, "p"), "t1")
		require.NoError(t, os.WriteFile(gateway.UsageFileOf(e.keyFile), []byte("garbage"), 0o600))
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
		require.NoError(t, gateway.Create(t.Context(), e.keyFile))
		_, err := e.issuer(t, "p").List(t.Context())
		require.ErrorContains(t, err, "start the gateway")
	})
	t.Run("a destroyed key is forgotten", func(t *testing.T) {
		t.Parallel()
		e := newEdge(t)
		ref, value := issue(t, e.issuer(t, "p"), "t1")
		e.verifier.Verify(value)
		require.NoError(t, e.issuer(t, "p").Destroy(t.Context(), ref))
		require.NoError(t, e.verifier.Close())
		data, err := os.ReadFile(gateway.UsageFileOf(e.keyFile))
		require.NoError(t, err)
		assert.NotContains(t, string(data), ref.KeyID)
	})
	t.Run("uses that cannot be reported are told", func(t *testing.T) {
		t.Parallel()
		e := newEdge(t)
		_, value := issue(t, e.issuer(t, "p"), "t1")
		usage := gateway.UsageFileOf(e.keyFile)
		require.NoError(t, os.Remove(usage))
		require.NoError(t, os.Mkdir(usage, 0o700))
		_, ok := e.verifier.Verify(value)
		assert.True(t, ok, "requests pass all the same")
		require.Eventually(t, func() bool { return e.verifier.Err() != nil }, time.Minute, 20*time.Millisecond)
	})
}

func TestCreateKeepsWhatIsThere(t *testing.T) {
	t.Parallel()
	e := newEdge(t)
	_, value := issue(t, e.issuer(t, "p"), "t1")
	require.NoError(t, gateway.Create(t.Context(), e.keyFile))
	_, ok := e.verifier.Verify(value)
	assert.True(t, ok)
}

func TestProblems(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		config interface{ Problems() []strictyaml.Problem }
		want   []string
	}{
		"a plain account":            {&gateway.Account{KeyFile: "/etc/edge/keys.json"}, nil},
		"everything said":            {&gateway.Account{KeyFile: "/k", UsageFile: "/u", Slots: 3, UsageLag: inventory.Duration(time.Minute)}, nil},
		"nothing said":               {&gateway.Account{}, []string{"keyFile"}},
		"relative paths":             {&gateway.Account{KeyFile: "k", UsageFile: "../u"}, []string{"keyFile", "usageFile"}},
		"a path that is not clean":   {&gateway.Account{KeyFile: "/etc/../k"}, []string{"keyFile"}},
		"one file for two purposes":  {&gateway.Account{KeyFile: "/k", UsageFile: "/k"}, []string{"usageFile"}},
		"one slot":                   {&gateway.Account{KeyFile: "/k", Slots: 1}, []string{"slots"}},
		"slots below nothing":        {&gateway.Account{KeyFile: "/k", Slots: -1}, []string{"slots"}},
		"a lag that nobody keeps":    {&gateway.Account{KeyFile: "/k", UsageLag: inventory.Duration(time.Millisecond)}, []string{"usageLag"}},
		"a principal":                {&gateway.Config{Principal: "team/payments-api"}, nil},
		"no principal":               {&gateway.Config{}, []string{"principal"}},
		"a principal with a newline": {&gateway.Config{Principal: "a\nb"}, []string{"principal"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got []string
			for _, p := range c.config.Problems() {
				got = append(got, p.Field)
				assert.NotEmpty(t, p.What)
				assert.NotEmpty(t, p.Write)
			}
			assert.Equal(t, c.want, got)
		})
	}
}

func TestOpenRefusesWhatValidationWould(t *testing.T) {
	t.Parallel()
	_, err := gateway.Descriptor().Issuer.Open(providers.Environment{}, &gateway.Account{}, &gateway.Config{Principal: "p"})
	require.ErrorIs(t, err, providers.ErrInvalid)
}

// An interrupted write leaves the old keys, and the next one goes on.
func TestWhatACrashLeft(t *testing.T) {
	t.Parallel()
	e := newEdge(t)
	_, value := issue(t, e.issuer(t, "p"), "t1")
	half := filepath.Join(filepath.Dir(e.keyFile), ".keys.json.new")
	require.NoError(t, os.WriteFile(half, []byte(`{"schema":`), 0o600))
	_, ok := e.verifier.Verify(value)
	assert.True(t, ok)
	_, other := issue(t, e.issuer(t, "p"), "t2")
	_, ok = e.verifier.Verify(other)
	assert.True(t, ok)
	_, err := os.Stat(half)
	assert.ErrorIs(t, err, os.ErrNotExist)
}
