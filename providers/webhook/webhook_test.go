package webhook_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/providertest"
	"github.com/keyturn/keyturn/providers/webhook"
)

const token = "whk_9fQ2mW0pLx7TRe2uA9sVfB3nKcYh5dJt"

func open(t require.TestingT, c webhook.Config) providers.Notifier {
	c.Timeout = inventory.Duration(time.Minute) // on a busy machine an answer takes its time
	require.Empty(t, c.Problems())
	n, err := webhook.Descriptor().Notifier.Open(providers.Environment{HTTP: &http.Client{Transport: &http.Transport{}}}, nil, &c)
	require.NoError(t, err)
	return n
}

func serve(t interface{ Cleanup(func()) }, handler http.HandlerFunc) string {
	server := httptest.NewServer(handler)
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	return server.URL
}

func tokenFile(t interface{ TempDir() string }, content string, mode os.FileMode) string {
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		panic(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		panic(err)
	}
	return path
}

func message() providers.Notification {
	return providers.Notification{
		ID: "r-1/gate.opened", Type: "dev.keyturn.gate.opened", Severity: providers.Action, Credential: "payments-api", Owner: "payments@example.com",
		Subject: "waits", Body: "approve <it>", At: time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC), Data: map[string]string{"gate": "revoke"},
	}
}

func TestNotifierConforms(t *testing.T) {
	t.Parallel()
	providertest.Notifier(t, providertest.NotifierSetup{Open: func(t providertest.T, peer providertest.Peer) (providers.Notifier, func() []providers.Notification) {
		var mu sync.Mutex
		var all []providers.Notification
		base := serve(t, func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			switch peer {
			case providertest.Ill:
				w.WriteHeader(http.StatusServiceUnavailable)
			case providertest.Telltale:
				w.WriteHeader(http.StatusBadGateway)
				fmt.Fprint(w, strings.Repeat(fmt.Sprintf("\x1b[31m%s\r\n%s", body, r.Header), 100))
			case providertest.Refusing:
				w.WriteHeader(http.StatusBadRequest)
			case providertest.Throttling:
				w.WriteHeader(http.StatusTooManyRequests)
			case providertest.Silent:
				<-r.Context().Done()
			case providertest.Well:
				mu.Lock()
				defer mu.Unlock()
				all = append(all, understand(t, body))
			}
		})
		return open(t, webhook.Config{URL: base}), func() []providers.Notification {
			mu.Lock()
			defer mu.Unlock()
			return all
		}
	}})
}

// understand reads a CloudEvent as a receiver would.
func understand(t assert.TestingT, body []byte) providers.Notification {
	var e struct {
		ID, Type string
		Time     time.Time
		Data     providers.Notification
	}
	assert.NoError(t, json.Unmarshal(body, &e))
	e.Data.ID, e.Data.Type, e.Data.At = e.ID, e.Type, e.Time
	return e.Data
}

func TestWhatIsPostedIsACloudEvent(t *testing.T) {
	t.Parallel()
	var got *http.Request
	var body []byte
	base := serve(t, func(w http.ResponseWriter, r *http.Request) {
		got = r
		body, _ = io.ReadAll(r.Body)
		w.WriteHeader(http.StatusAccepted)
	})
	n := open(t, webhook.Config{URL: base + "/hook?x=1", TokenFile: tokenFile(t, token+"\n", 0o600)})
	require.NoError(t, n.Notify(t.Context(), message()))
	assert.Equal(t, "POST", got.Method)
	assert.Equal(t, "/hook?x=1", got.URL.String())
	assert.Equal(t, "application/cloudevents+json", got.Header.Get("Content-Type"))
	assert.Equal(t, "Bearer "+token, got.Header.Get("Authorization"))
	assert.JSONEq(t, `{
		"specversion": "1.0", "id": "r-1/gate.opened", "source": "keyturn", "type": "dev.keyturn.gate.opened",
		"subject": "payments-api", "time": "2026-05-04T03:02:01Z", "datacontenttype": "application/json",
		"data": {"severity": "action", "credential": "payments-api", "owner": "payments@example.com",
			"subject": "waits", "body": "approve <it>", "data": {"gate": "revoke"}}
	}`, string(body))

	n = open(t, webhook.Config{URL: base, Source: "https://keyturn.internal/prod"})
	require.NoError(t, n.Notify(t.Context(), message()))
	assert.Contains(t, string(body), `"source":"https://keyturn.internal/prod"`)
	assert.Empty(t, got.Header.Get("Authorization"))
}

func TestStatusTellsWhetherToTryAgain(t *testing.T) {
	t.Parallel()
	finals := []error{providers.ErrInvalid, providers.ErrDenied, providers.ErrThrottled}
	for status, want := range map[int]error{
		301: nil, 400: providers.ErrInvalid, 401: providers.ErrInvalid, 404: providers.ErrInvalid, 408: nil,
		410: providers.ErrInvalid, 429: providers.ErrThrottled, 500: nil, 503: nil,
	} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			t.Parallel()
			asked := 0
			base := serve(t, func(w http.ResponseWriter, r *http.Request) {
				asked++
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(status)
				fmt.Fprint(w, "sorry ", r.Header.Get("Authorization"))
			})
			n := open(t, webhook.Config{URL: base, TokenFile: tokenFile(t, token, 0o600)})
			err := n.Notify(t.Context(), message())
			require.ErrorContains(t, err, fmt.Sprint(status))
			assert.NotContains(t, err.Error(), token)
			for _, sentinel := range finals {
				assert.Equal(t, errors.Is(want, sentinel), errors.Is(err, sentinel), "%v", sentinel)
			}
			assert.Equal(t, 1, asked, "a redirect is not followed, and nothing is sent twice")
		})
	}
}

func TestAReceiverSaysWhenToComeAgain(t *testing.T) {
	t.Parallel()
	for said, want := range map[string]time.Duration{"": 0, "120": 2 * time.Minute, "-1": 0, "soon": 0, "Fri, 31 Dec 1999 23:59:59 GMT": 0} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", said)
			w.WriteHeader(http.StatusServiceUnavailable)
		}))
		t.Cleanup(server.Close)
		err := open(t, webhook.Config{URL: server.URL}).Notify(t.Context(), providers.Notification{ID: "1"})
		require.Error(t, err)
		assert.Equal(t, want, providers.After(err), said)
	}
}

func TestTokenFile(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		path func(t *testing.T) string
		want error
	}{
		"for its owner alone":       {func(t *testing.T) string { return tokenFile(t, token, 0o400) }, nil},
		"readable by the group":     {func(t *testing.T) string { return tokenFile(t, token, 0o640) }, providers.ErrDenied},
		"readable by others":        {func(t *testing.T) string { return tokenFile(t, token, 0o604) }, providers.ErrDenied},
		"missing":                   {func(t *testing.T) string { return filepath.Join(t.TempDir(), "none") }, os.ErrNotExist},
		"a folder":                  {func(t *testing.T) string { return t.TempDir() }, providers.ErrDenied},
		"empty":                     {func(t *testing.T) string { return tokenFile(t, "\n", 0o600) }, providers.ErrInvalid},
		"two lines":                 {func(t *testing.T) string { return tokenFile(t, token+"\nX-Admin: 1", 0o600) }, providers.ErrInvalid},
		"longer than any token is ": {func(t *testing.T) string { return tokenFile(t, strings.Repeat("x", 9<<10), 0o600) }, providers.ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			asked := false
			base := serve(t, func(_ http.ResponseWriter, r *http.Request) { asked = r.Header.Get("Authorization") == "Bearer "+token })
			err := open(t, webhook.Config{URL: base, TokenFile: c.path(t)}).Notify(t.Context(), message())
			if c.want == nil {
				require.NoError(t, err)
				assert.True(t, asked)
				return
			}
			require.ErrorIs(t, err, c.want)
			assert.NotContains(t, err.Error(), token)
			assert.False(t, asked)
		})
	}
}

func TestATokenThatIsReplacedIsUsedAtOnce(t *testing.T) {
	t.Parallel()
	var got string
	base := serve(t, func(_ http.ResponseWriter, r *http.Request) { got = r.Header.Get("Authorization") })
	path := tokenFile(t, token, 0o600)
	n := open(t, webhook.Config{URL: base, TokenFile: path})
	require.NoError(t, n.Notify(t.Context(), message()))
	require.NoError(t, os.WriteFile(path, []byte("whk_second"), 0o600))
	require.NoError(t, n.Notify(t.Context(), message()))
	assert.Equal(t, "Bearer whk_second", got)
}

func TestAnErrorDoesNotTellTheURL(t *testing.T) {
	t.Parallel()
	err := open(t, webhook.Config{URL: "http://127.0.0.1:1/services/T000/B000/secret-path"}).Notify(t.Context(), message())
	require.Error(t, err)
	assert.NotContains(t, err.Error(), "secret-path")
}

func TestTheBoundsOfTheWorkerShowThrough(t *testing.T) {
	t.Parallel()
	e := providers.Environment{HTTP: &http.Client{Transport: denying{}}}
	n, err := webhook.Descriptor().Notifier.Open(e, nil, &webhook.Config{URL: "https://elsewhere.example/"})
	require.NoError(t, err)
	require.ErrorIs(t, n.Notify(t.Context(), message()), providers.ErrDenied)
}

type denying struct{}

func (denying) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, fmt.Errorf("host is not allowed: %w", providers.ErrDenied)
}

func TestProblems(t *testing.T) {
	t.Parallel()
	const fine = "https://hooks.internal/keyturn"
	for name, c := range map[string]struct {
		config webhook.Config
		field  string
	}{
		"https":                    {webhook.Config{URL: fine, Source: "keyturn/eu", TokenFile: "/etc/token", Timeout: inventory.Duration(time.Second)}, ""},
		"plain http to loopback":   {webhook.Config{URL: "http://127.0.0.1:9000/"}, ""},
		"plain http to localhost":  {webhook.Config{URL: "http://localhost:9000/"}, ""},
		"plain http to elsewhere":  {webhook.Config{URL: "http://hooks.internal/"}, "url"},
		"no URL":                   {webhook.Config{}, "url"},
		"a relative URL":           {webhook.Config{URL: "/hook"}, "url"},
		"no URL at all":            {webhook.Config{URL: "https://a:b:c/"}, "url"},
		"a password in it":         {webhook.Config{URL: "https://me:pw@hooks.internal/"}, "url"},
		"a source with spaces":     {webhook.Config{URL: fine, Source: "my keyturn"}, "source"},
		"a source that is no URI":  {webhook.Config{URL: fine, Source: "%zz"}, "source"},
		"a relative token file":    {webhook.Config{URL: fine, TokenFile: "token"}, "tokenFile"},
		"a timeout without end":    {webhook.Config{URL: fine, Timeout: inventory.Duration(time.Hour)}, "timeout"},
		"a timeout before the now": {webhook.Config{URL: fine, Timeout: -1}, "timeout"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			problems := c.config.Problems()
			if c.field == "" {
				require.Empty(t, problems)
				return
			}
			require.Len(t, problems, 1)
			assert.Equal(t, c.field, problems[0].Field)
			assert.NotEmpty(t, problems[0].Write)
		})
	}
}
