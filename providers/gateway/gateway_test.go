package gateway_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	embedded "github.com/keyturn/keyturn/gateway"
	"github.com/keyturn/keyturn/internal/atomicfile"
	"github.com/keyturn/keyturn/internal/gatewayfile"
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
	verifier *embedded.Verifier
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
	require.NoError(t, embedded.Create(t.Context(), e.keyFile))
	e.open(t)
	return e
}

func (e *edge) open(t tester) {
	t.Helper()
	v, err := embedded.OpenVerifier(e.keyFile, "")
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
	providertest.Issuer(t, edgeSetup())
	t.Run("of what is told of uses", func(t *testing.T) { providertest.AuditLog(t, edgeSetup()) })
}

func edgeSetup() providertest.IssuerSetup {
	return providertest.IssuerSetup{KnowsTokens: true, DatesReports: true, Open: func(t providertest.T) providertest.IssuerWorld {
		e := newEdge(t)
		return providertest.IssuerWorld{
			Issuer: e.issuer(t, "p"), Other: e.issuer(t, "q"), Principal: "p", Use: e.use,
			Silence: func() func() {
				unlock, err := atomicfile.Lock(t.Context(), gatewayfile.UsageFileOf(e.keyFile)+".lock")
				require.NoError(t, err)
				return unlock
			},
			Faults: providertest.Faults{Hang: func(providertest.Op) func() {
				unlock, err := atomicfile.Lock(t.Context(), e.keyFile+".lock") // as a keyturn that hangs in the middle
				require.NoError(t, err)
				return unlock
			}},
		}
	}}
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
		assert.Equal(t, embedded.Grant{Principal: "payments-api", KeyID: ref.KeyID, Scopes: []string{"charge:create"}}, grant)
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
	for _, path := range []string{e.keyFile, gatewayfile.UsageFileOf(e.keyFile)} {
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
	assert.Equal(t, embedded.Grant{Principal: "p", KeyID: "key-2024-07", Scopes: []string{"a"}}, grant)
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
	id, _ := embedded.ParseToken(ours)
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
			require.ErrorIs(t, e.verifier.Err(), embedded.ErrMalformed)
			_, err = embedded.OpenVerifier(e.keyFile, "")
			require.ErrorIs(t, err, embedded.ErrMalformed)
			_, err = i.Issue(t.Context(), providers.IssueRequest{Token: "t2"})
			require.ErrorIs(t, err, embedded.ErrMalformed)
			require.ErrorIs(t, i.Destroy(t.Context(), ref), embedded.ErrMalformed)
			_, err = i.List(t.Context())
			require.ErrorIs(t, err, embedded.ErrMalformed)
			_, err = i.Identify(t.Context(), secret.Single(secret.New([]byte(value))))
			require.ErrorIs(t, err, embedded.ErrMalformed)
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
	_, err = embedded.OpenVerifier(e.keyFile, "")
	require.ErrorIs(t, err, os.ErrNotExist)
	assert.NoFileExists(t, e.keyFile)
}

func TestCreateKeepsWhatIsThere(t *testing.T) {
	t.Parallel()
	e := newEdge(t)
	_, value := issue(t, e.issuer(t, "p"), "t1")
	require.NoError(t, embedded.Create(t.Context(), e.keyFile))
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
