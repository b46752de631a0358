package http_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	stdhttp "net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
	keyturnhttp "github.com/keyturn/keyturn/providers/http"
	"github.com/keyturn/keyturn/providers/providertest"
)

const apiKey = `ktg_Zq81mW0pLx7TRe2uA9sVfB3nKcYh5dJt`

func bundle() secret.Bundle { return secret.Single(secret.New([]byte(apiKey))) }

// world is an environment whose only host is whatever a test starts.
func world() providers.Environment {
	return providers.Environment{HTTP: &stdhttp.Client{Transport: transport{&stdhttp.Transport{}}}, Now: time.Now}
}

// transport calls the func() that the context of a request has under head{}, when the head of the reply is there.
type transport struct{ stdhttp.RoundTripper }

type head struct{}

func (t transport) RoundTrip(r *stdhttp.Request) (*stdhttp.Response, error) {
	resp, err := t.RoundTripper.RoundTrip(r)
	if arrived, ok := r.Context().Value(head{}).(func()); ok && err == nil {
		arrived()
	}
	return resp, err
}

// patient is the time-out of a test that is not about it.
func patient(configured inventory.Duration) inventory.Duration {
	return cmp.Or(configured, inventory.Duration(time.Minute))
}

// serve starts a server that ends with the test, also when a handler waits for its client.
func serve(t interface{ Cleanup(func()) }, handler stdhttp.HandlerFunc) string {
	server := httptest.NewServer(handler)
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	return server.URL
}

// behave answers as a peer that is not well does. It tells whether it did.
func behave(peer providertest.Peer, w stdhttp.ResponseWriter, r *stdhttp.Request) bool {
	switch peer {
	case providertest.Ill:
		w.WriteHeader(stdhttp.StatusInternalServerError)
	case providertest.Telltale:
		w.WriteHeader(stdhttp.StatusBadGateway)
		for range 200 {
			fmt.Fprintf(w, "\x1b[31mbad\r\n%s %s\n%q", r.Header.Get("Authorization"), r.URL, r.Header)
		}
	case providertest.Refusing:
		w.WriteHeader(stdhttp.StatusUnauthorized)
		fmt.Fprintf(w, "no such key: %s", r.Header.Get("Authorization"))
	case providertest.Silent:
		<-r.Context().Done()
	default:
		return false
	}
	return true
}

func openCheck(t require.TestingT, c keyturnhttp.CheckConfig) providers.Check {
	c.Timeout = patient(c.Timeout)
	require.Empty(t, c.Problems())
	check, err := keyturnhttp.Descriptor().Check.Open(world(), nil, &c)
	require.NoError(t, err)
	return check
}

func TestSmokeTestConforms(t *testing.T) {
	t.Parallel()
	providertest.Check(t, providertest.CheckSetup{Open: func(t providertest.T, peer providertest.Peer) (providers.Check, providers.CheckInput) {
		base := serve(t, func(w stdhttp.ResponseWriter, r *stdhttp.Request) {
			if !behave(peer, w, r) && r.Header.Get("Authorization") != "Bearer "+apiKey {
				w.WriteHeader(stdhttp.StatusForbidden)
			}
		})
		return openCheck(t, keyturnhttp.CheckConfig{URL: base + "/ping", Header: "Authorization: Bearer {value}"}), providers.CheckInput{Bundle: bundle()}
	}})
}

func TestHealthCheckConforms(t *testing.T) {
	t.Parallel()
	providertest.Check(t, providertest.CheckSetup{Keyless: true, Open: func(t providertest.T, peer providertest.Peer) (providers.Check, providers.CheckInput) {
		base := serve(t, func(w stdhttp.ResponseWriter, r *stdhttp.Request) {
			if !behave(peer, w, r) && r.URL.Path != "/a/healthz" {
				w.WriteHeader(stdhttp.StatusNotFound)
			}
		})
		return openCheck(t, keyturnhttp.CheckConfig{URL: base + "/{instance}/healthz"}), providers.CheckInput{Instance: "a"}
	}})
}

func openPurger(t require.TestingT, c keyturnhttp.PurgeConfig) providers.Purger {
	c.Timeout = patient(c.Timeout)
	require.Empty(t, c.Problems())
	p, err := keyturnhttp.Descriptor().Purge.Open(world(), nil, &c)
	require.NoError(t, err)
	return p
}

func TestPurgeConforms(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"", stdhttp.MethodDelete, "PURGE"} {
		t.Run("by "+method, func(t *testing.T) {
			t.Parallel()
			providertest.Purger(t, providertest.PurgerSetup{Open: func(t providertest.T, peer providertest.Peer) providertest.PurgerWorld {
				purged := map[string]*atomic.Int32{"a": {}, "b": {}}
				base := serve(t, func(w stdhttp.ResponseWriter, r *stdhttp.Request) {
					name := strings.TrimPrefix(r.URL.Path, "/")
					count, ok := purged[name]
					switch {
					case !ok || r.Method != cmp.Or(method, stdhttp.MethodPost):
						w.WriteHeader(stdhttp.StatusNotFound)
					case name == "a" && behave(peer, w, r):
					default:
						count.Add(1)
						w.WriteHeader(stdhttp.StatusNoContent)
					}
				})
				return providertest.PurgerWorld{
					Purger: openPurger(t, keyturnhttp.PurgeConfig{URL: base + "/{instance}", Method: method}),
					Purged: func(instance string) int { return int(purged[instance].Load()) },
				}
			}})
		})
	}
	assert.NotEmpty(t, (&keyturnhttp.PurgeConfig{URL: "https://edge.internal/", Method: "GET"}).Problems(), "what only reads purges nothing")
	assert.NotEmpty(t, (&keyturnhttp.PurgeConfig{URL: "http://edge.internal/"}).Problems())
}

func TestCheckStatus(t *testing.T) {
	t.Parallel()
	const keyed = "Authorization: Bearer {value}"
	for name, c := range map[string]struct {
		header  string
		want    []int
		answers int
		problem string
		refused bool
	}{
		"200 is well":                                     {answers: 200},
		"204 is well":                                     {answers: 204},
		"203 is another's word":                           {answers: 203, problem: "203 Non-Authoritative Information"},
		"206 is not the whole":                            {answers: 206, problem: "206 Partial Content"},
		"a listed 206 is well":                            {want: []int{206}, answers: 206},
		"404 is not":                                      {answers: 404, problem: "404 Not Found"},
		"only what is listed is well":                     {want: []int{201}, answers: 200, problem: "200 OK"},
		"a listed 404 is well":                            {want: []int{404}, answers: 404},
		"401 refuses the key that was sent":               {header: keyed, answers: 401, problem: "401", refused: true},
		"403 refuses the key that was sent":               {header: keyed, answers: 403, problem: "403", refused: true},
		"401 without a key is a plain failure":            {answers: 401, problem: "401"},
		"401 with another header is, too":                 {header: "Accept: text/plain", answers: 401, problem: "401"},
		"400 with a key says nothing of the key":          {header: keyed, answers: 400, problem: "400"},
		"a redirect is not followed, and the error says ": {header: keyed, answers: 302, problem: "redirects are never followed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			asked := 0
			base := serve(t, func(w stdhttp.ResponseWriter, r *stdhttp.Request) {
				asked++
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(c.answers)
			})
			check := openCheck(t, keyturnhttp.CheckConfig{URL: base, Header: c.header, Status: c.want})
			err := check.Check(t.Context(), providers.CheckInput{Bundle: bundle()})
			if c.problem == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, c.problem)
			}
			assert.Equal(t, c.refused, errors.Is(err, providers.ErrKeyRefused))
			assert.Equal(t, 1, asked)
		})
	}
}

func TestCheckSendsWhatIsConfigured(t *testing.T) {
	t.Parallel()
	var got *stdhttp.Request
	base := serve(t, func(_ stdhttp.ResponseWriter, r *stdhttp.Request) { got = r })
	for _, method := range []string{"GET", "HEAD", "POST"} {
		check := openCheck(t, keyturnhttp.CheckConfig{
			URL: base + "/v1/{instance}/ping?x=1", Method: method, Header: "Authorization: Signed {id}:{secret}",
			Headers: []string{"Accept:application/json", "X-Api-Key: {id}"},
		})
		two := secret.NewBundle(map[string]secret.Value{"id": secret.New([]byte("AKIA1")), "secret": secret.New([]byte("s3cr3t"))})
		require.NoError(t, check.Check(t.Context(), providers.CheckInput{Instance: "a.b-1", Bundle: two}))
		assert.Equal(t, method, got.Method)
		assert.Equal(t, "/v1/a.b-1/ping?x=1", got.URL.String())
		assert.Equal(t, "Signed AKIA1:s3cr3t", got.Header.Get("Authorization"))
		assert.Equal(t, "application/json", got.Header.Get("Accept"))
		assert.Equal(t, "AKIA1", got.Header.Get("X-Api-Key"))
		assert.Equal(t, "keyturn", got.Header.Get("User-Agent"))
		assert.Equal(t, "no-cache", got.Header.Get("Cache-Control"))
	}
}

func TestCheckNeverAsksWithHalfAKey(t *testing.T) {
	t.Parallel()
	for name, b := range map[string]secret.Bundle{
		"no key":                              {},
		"a key without the field":             secret.NewBundle(map[string]secret.Value{"other": secret.New([]byte(apiKey))}),
		"a key that ends with a blank":        secret.Single(secret.New([]byte(apiKey + " "))),
		"a key that would add another header": secret.Single(secret.New([]byte(apiKey + "\r\nX-Admin: yes"))),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			base := serve(t, func(stdhttp.ResponseWriter, *stdhttp.Request) { t.Error("the peer was asked") })
			err := openCheck(t, keyturnhttp.CheckConfig{URL: base, Header: "X-Key: {value}"}).Check(t.Context(), providers.CheckInput{Bundle: b})
			require.ErrorIs(t, err, providers.ErrInvalid)
			assert.NotContains(t, err.Error(), apiKey)
		})
	}
}

// What a cache kept of a peer is not how the peer is now: it could attest a key of yesterday.
func TestACopyIsNoAnswer(t *testing.T) {
	t.Parallel()
	for age, copied := range map[string]bool{"": false, "0": false, "1": true, "600": true, "x": true} {
		base := serve(t, func(w stdhttp.ResponseWriter, r *stdhttp.Request) {
			if age != "" {
				w.Header().Set("Age", age)
			}
			_, _ = w.Write([]byte(`{"key":"k1","errors":0,"total":1}`))
		})
		for _, err := range []error{
			openCheck(t, keyturnhttp.CheckConfig{URL: base}).Check(t.Context(), providers.CheckInput{}),
			second(openAttestor(t, keyturnhttp.AttestationConfig{URL: base}).Attest(t.Context(), []string{"a"})),
			second(openHealth(t, keyturnhttp.HealthConfig{URL: base}).Sample(t.Context(), time.Minute)),
		} {
			if copied {
				assert.ErrorContains(t, err, "a cache answers", age)
			} else {
				assert.NoError(t, err, age)
			}
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestASlowReplyEndsWithItsTimeout(t *testing.T) {
	t.Parallel()
	base := serve(t, func(w stdhttp.ResponseWriter, r *stdhttp.Request) {
		if r.URL.Path == "/ill" {
			w.WriteHeader(stdhttp.StatusInternalServerError)
		}
		ticks := time.NewTicker(5 * time.Millisecond)
		defer ticks.Stop()
		for { // a byte now and then keeps the connection busy for ever
			select {
			case <-r.Context().Done():
				return
			case <-ticks.C:
				_, _ = w.Write([]byte("."))
				w.(stdhttp.Flusher).Flush()
			}
		}
	})
	timeout := inventory.Duration(100 * time.Millisecond)
	_, err := openAttestor(t, keyturnhttp.AttestationConfig{URL: base, Timeout: timeout}).Attest(t.Context(), []string{"a"})
	require.ErrorContains(t, err, "no complete reply within 100ms")
	_, err = openHealth(t, keyturnhttp.HealthConfig{URL: base, Timeout: timeout}).Sample(t.Context(), time.Minute)
	require.ErrorContains(t, err, "no complete reply within 100ms")
	// Of a refusal the status is enough, if it came in time.
	require.Error(t, openCheck(t, keyturnhttp.CheckConfig{URL: base + "/ill", Timeout: timeout}).Check(t.Context(), providers.CheckInput{}))
}

func TestARefusalIsToldWhateverBecomesOfItsBody(t *testing.T) {
	t.Parallel()
	base := serve(t, func(w stdhttp.ResponseWriter, r *stdhttp.Request) {
		w.WriteHeader(stdhttp.StatusInternalServerError)
		w.(stdhttp.Flusher).Flush()
		<-r.Context().Done()
	})
	for name, ask := range map[string]func(ctx context.Context) error{
		"a check": func(ctx context.Context) error {
			return openCheck(t, keyturnhttp.CheckConfig{URL: base}).Check(ctx, providers.CheckInput{})
		},
		"an attestation": func(ctx context.Context) error {
			_, err := openAttestor(t, keyturnhttp.AttestationConfig{URL: base}).Attest(ctx, []string{"a"})
			return err
		},
		"a health signal": func(ctx context.Context) error {
			_, err := openHealth(t, keyturnhttp.HealthConfig{URL: base}).Sample(ctx, time.Minute)
			return err
		},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		require.ErrorContains(t, ask(context.WithValue(ctx, head{}, func() { cancel() })), "500", name)
	}
}

func TestAReplyWithoutEndIsNotReadToItsEnd(t *testing.T) {
	t.Parallel()
	base := serve(t, func(w stdhttp.ResponseWriter, r *stdhttp.Request) {
		for r.Context().Err() == nil {
			_, _ = w.Write([]byte(strings.Repeat(" ", 4096)))
		}
	})
	_, err := openAttestor(t, keyturnhttp.AttestationConfig{URL: base}).Attest(t.Context(), []string{"a"})
	require.ErrorContains(t, err, "longer than 65536 bytes")
	_, err = openHealth(t, keyturnhttp.HealthConfig{URL: base}).Sample(t.Context(), time.Minute)
	require.ErrorContains(t, err, "longer than 65536 bytes")
	require.NoError(t, openCheck(t, keyturnhttp.CheckConfig{URL: base}).Check(t.Context(), providers.CheckInput{}), "a check needs no body")
}

func TestAPeerThatSpeaksNoHTTPIsQuotedWithCare(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			buffer := make([]byte, 4096)
			_, _ = conn.Read(buffer)
			fmt.Fprintf(conn, "\x1b[31m%s\n\n", apiKey)
			conn.Close()
		}
	}()
	for who, ask := range map[string]func(url string) error{
		"that was sent the key": func(url string) error {
			return openCheck(t, keyturnhttp.CheckConfig{URL: url, Header: "Authorization: Bearer {value}"}).Check(t.Context(), providers.CheckInput{Bundle: bundle()})
		},
		"that has a key of its own": func(url string) error {
			return openCheck(t, keyturnhttp.CheckConfig{URL: url}).Check(t.Context(), providers.CheckInput{Instance: "a"})
		},
	} {
		err := ask("http://" + listener.Addr().String())
		require.Error(t, err, who)
		assert.NotContains(t, err.Error(), apiKey[:12], who)
		assert.NotContains(t, err.Error(), "\x1b", who)
	}
}

// A consumer may put its key into whatever it answers, in whatever form.
func TestAConsumersWordsAreNotRepeated(t *testing.T) {
	t.Parallel()
	base := serve(t, func(w stdhttp.ResponseWriter, _ *stdhttp.Request) {
		w.WriteHeader(stdhttp.StatusInternalServerError)
		fmt.Fprintf(w, "cannot log in with %s, that is %x", apiKey, apiKey)
	})
	_, attested := openAttestor(t, keyturnhttp.AttestationConfig{URL: base}).Attest(t.Context(), []string{"a"})
	for _, err := range []error{openCheck(t, keyturnhttp.CheckConfig{URL: base}).Check(t.Context(), providers.CheckInput{Instance: "a"}), attested} {
		require.ErrorContains(t, err, "500 Internal Server Error, with 137 bytes that are not repeated here")
		assert.NotContains(t, err.Error(), "log in")
	}
}

func TestTheBoundsOfTheWorkerShowThrough(t *testing.T) {
	t.Parallel()
	e := world()
	e.HTTP.Transport = denying{}
	c := keyturnhttp.CheckConfig{URL: "https://elsewhere.example/?token=in-the-query"}
	check, err := keyturnhttp.Descriptor().Check.Open(e, nil, &c)
	require.NoError(t, err)
	err = check.Check(t.Context(), providers.CheckInput{})
	require.ErrorIs(t, err, providers.ErrDenied)
	assert.NotContains(t, err.Error(), "in-the-query")
}

type denying struct{}

func (denying) RoundTrip(*stdhttp.Request) (*stdhttp.Response, error) {
	return nil, fmt.Errorf("host is not allowed: %w", providers.ErrDenied)
}
