package http_test

import (
	"encoding/json"
	"fmt"
	stdhttp "net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/consumer"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/providers"
	keyturnhttp "github.com/keyturn/keyturn/providers/http"
	"github.com/keyturn/keyturn/providers/providertest"
)

func TestAttestationConforms(t *testing.T) {
	t.Parallel()
	providertest.Attestor(t, providertest.AttestorSetup{Open: func(t providertest.T, instances map[string]providertest.Instance, now func() time.Time) providers.Attestor {
		base := serve(t, func(w stdhttp.ResponseWriter, r *stdhttp.Request) {
			instance, ok := instances[strings.TrimPrefix(r.URL.Path, "/")]
			switch {
			case !ok:
				w.WriteHeader(stdhttp.StatusNotFound)
			case behave(instance.Peer, w, r):
			case len(instance.Keys) == 1:
				_ = json.NewEncoder(w).Encode(map[string]any{"key": instance.Keys[0].Fingerprint()})
			default:
				var both []string
				for _, k := range instance.Keys {
					both = append(both, k.Fingerprint())
				}
				_ = json.NewEncoder(w).Encode(map[string]any{"key": both})
			}
		})
		return openAttestorAt(t, now, keyturnhttp.AttestationConfig{URL: base + "/{instance}"})
	}})
}

func openAttestor(t require.TestingT, c keyturnhttp.AttestationConfig) providers.Attestor {
	return openAttestorAt(t, time.Now, c)
}

func openAttestorAt(t require.TestingT, now func() time.Time, c keyturnhttp.AttestationConfig) providers.Attestor {
	c.Timeout = patient(c.Timeout)
	require.Empty(t, c.Problems())
	e := world()
	e.Now = now
	a, err := keyturnhttp.Descriptor().Attestor.Open(e, nil, &c)
	require.NoError(t, err)
	return a
}

func TestAttestationReplies(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		pointer, reply string
		status         int
		want           []string
		problem        string
	}{
		"a fingerprint":              {reply: `{"key":"fp:0011"}`, want: []string{"fp:0011"}},
		"a list":                     {reply: `{"key":["fp:0011","k2"]}`, want: []string{"fp:0011", "k2"}},
		"deep within":                {pointer: "/a/0/b~1c", reply: `{"a":[{"b/c":"k1"}]}`, want: []string{"k1"}},
		"nothing there":              {reply: `{"other":"k1"}`, problem: "nothing at /key"},
		"an empty list":              {reply: `{"key":[]}`, problem: "states 0 keys"},
		"too long a list":            {reply: `{"key":["1","2","3","4","5","6","7","8","9"]}`, problem: "states 9 keys"},
		"an empty string":            {reply: `{"key":""}`, problem: "neither a fingerprint nor a key ID"},
		"a number":                   {reply: `{"key":7}`, problem: "neither a fingerprint nor a key ID"},
		"null":                       {reply: `{"key":null}`, problem: "neither a fingerprint nor a key ID"},
		"a string nothing is called": {reply: `{"key":"a\nb"}`, problem: "neither a fingerprint nor a key ID"},
		"an endless string":          {reply: `{"key":"` + strings.Repeat("x", 300) + `"}`, problem: "neither a fingerprint nor a key ID"},
		"no JSON":                    {reply: `<html>`, problem: "not JSON"},
		"JSON and more":              {reply: `{"key":"k1"}{"key":"k2"}`, problem: "more than one JSON value"},
		"an endless reply":           {reply: `{"key":"k1","x":"` + strings.Repeat("x", 64<<10) + `"}`, problem: "longer than 65536 bytes"},
		"a redirect":                 {status: 302, problem: "redirects are never followed"},
		"another's word":             {status: 203, reply: `{"key":"k1"}`, problem: "203 Non-Authoritative Information"},
		"a part":                     {status: 206, reply: `{"key":"k1"}`, problem: "206 Partial Content"},
		"with a byte order mark":     {reply: "\uFEFF" + `{"key":"k1"}`, want: []string{"k1"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			base := serve(t, func(w stdhttp.ResponseWriter, r *stdhttp.Request) {
				assert.Equal(t, "no-cache", r.Header.Get("Cache-Control"))
				if c.status != 0 {
					w.Header().Set("Location", "/")
					w.WriteHeader(c.status)
				}
				_, _ = w.Write([]byte(c.reply))
			})
			a := openAttestor(t, keyturnhttp.AttestationConfig{URL: base + "/k?q=1", Pointer: c.pointer})
			got, err := a.Attest(t.Context(), []string{"a"})
			if c.problem != "" {
				require.ErrorContains(t, err, c.problem)
				assert.Empty(t, got)
				return
			}
			require.NoError(t, err)
			require.Len(t, got, 1)
			assert.Equal(t, c.want, got[0].Keys)
			assert.Equal(t, base+"/k", got[0].Source)
		})
	}
}

func TestTheHandlerOfPackageConsumerIsUnderstood(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "key")
	require.NoError(t, os.WriteFile(path, []byte(apiKey), 0o600))
	keys, err := consumer.Open(path, consumer.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, keys.Close()) })
	base := serve(t, keys.Handler().ServeHTTP)
	got, err := openAttestor(t, keyturnhttp.AttestationConfig{URL: base + "/keyturn"}).Attest(t.Context(), []string{"a"})
	require.NoError(t, err)
	require.Len(t, got, 1)
	assert.True(t, got[0].Holds(key.Ref{Fingerprint: bundle().Fingerprint()}))
}

func TestManyFailedAttestationsMakeABoundedError(t *testing.T) {
	t.Parallel()
	base := serve(t, func(w stdhttp.ResponseWriter, r *stdhttp.Request) { behave(providertest.Telltale, w, r) })
	var names []string
	for i := range 100 {
		names = append(names, fmt.Sprintf("i%d", i))
	}
	_, err := openAttestor(t, keyturnhttp.AttestationConfig{URL: base + "/{instance}"}).Attest(t.Context(), names)
	require.ErrorContains(t, err, "attesting i0: ")
	require.ErrorContains(t, err, "92 more instances gave no statement")
	assert.Less(t, len(err.Error()), 4096)
}

func TestAnInstanceCannotChooseTheHost(t *testing.T) {
	t.Parallel()
	for _, instance := range []string{"", "a@evil.example", "a/b", "..", "a?b", "a#b", "a b", "a\n", "-a", "evil.example:80"} {
		a := openAttestor(t, keyturnhttp.AttestationConfig{URL: "https://{instance}.internal/key"})
		_, err := a.Attest(t.Context(), []string{instance})
		require.ErrorIs(t, err, providers.ErrInvalid, instance)
	}
	a := openAttestor(t, keyturnhttp.AttestationConfig{URL: "http://127.0.0.{instance}/key"})
	_, err := a.Attest(t.Context(), []string{"1.evil.example"})
	require.ErrorIs(t, err, providers.ErrInvalid, "in the clear to another host")
}
