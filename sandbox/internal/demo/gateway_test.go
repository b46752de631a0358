package demo

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A caller may call itself anything, at any length.
func TestACallerIsNamedInWholeCharacters(t *testing.T) {
	t.Parallel()
	g := NewGateway(fakeKeys)
	g.count("k1", "a"+strings.Repeat("é", 60), true)
	assert.Equal(t, "a"+strings.Repeat("é", 49), g.Ledger()[0].Caller)
}

func TestGatewayAsksForAKey(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		header, value string
		status        int
		keyID         string
	}{
		"a bearer token":                  {"Authorization", "Bearer good", http.StatusOK, "k1"},
		"a bearer token in other letters": {"Authorization", "bearer  good ", http.StatusOK, "k1"},
		"an API key":                      {"X-API-Key", "good", http.StatusOK, "k1"},
		"a disabled key":                  {"X-API-Key", "disabled", http.StatusUnauthorized, "k2"},
		"a value that is no key":          {"Authorization", "Bearer bad", http.StatusUnauthorized, ""},
		"another scheme":                  {"Authorization", "Basic good", http.StatusUnauthorized, ""},
		"no key":                          {"Accept", "*/*", http.StatusUnauthorized, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := NewGateway(fakeKeys)
			r := httptest.NewRequest(http.MethodGet, "/ping", nil)
			r.Header.Set(c.header, c.value)
			r.Header.Set("User-Agent", "checkout-a")
			w := httptest.NewRecorder()
			g.Handler().ServeHTTP(w, r)
			assert.Equal(t, c.status, w.Code)
			assert.Equal(t, c.keyID, w.Header().Get(keyIDHeader))

			accepted := 0
			if c.status == http.StatusOK {
				accepted = 1
			}
			require.Len(t, g.Ledger(), 1)
			e := g.Ledger()[0]
			assert.Equal(t, Entry{KeyID: c.keyID, Caller: "checkout-a", Accepted: accepted, Refused: 1 - accepted, First: e.First, Last: e.Last}, e)
		})
	}
}

// fakeKeys knows the key k1, which is good, and k2, which is disabled.
func fakeKeys(value, _ string) (string, bool) {
	switch value {
	case "good":
		return "k1", true
	case "disabled":
		return "k2", false
	}
	return "", false
}

func TestLedgerIsKeptByKeyAndCaller(t *testing.T) {
	t.Parallel()
	g := NewGateway(fakeKeys)
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	g.now = func() time.Time { now = now.Add(time.Second); return now }
	ask := func(caller, key string) {
		r := httptest.NewRequest(http.MethodGet, "/ping", nil)
		r.Header.Set("X-API-Key", key)
		r.Header.Set("User-Agent", caller)
		g.Handler().ServeHTTP(httptest.NewRecorder(), r)
	}
	ask("a", "good")
	ask("b", "good")
	ask("a", "disabled")
	ask("a", "good")
	ask(strings.Repeat("x", 1000), "bad")

	second := func(n int) time.Time { return time.Date(2026, 1, 2, 3, 4, 5+n, 0, time.UTC) }
	assert.Equal(t, []Entry{
		{KeyID: "k1", Caller: "a", Accepted: 2, First: second(1), Last: second(4)},
		{KeyID: "k1", Caller: "b", Accepted: 1, First: second(2), Last: second(2)},
		{KeyID: "k2", Caller: "a", Refused: 1, First: second(3), Last: second(3)},
		{Caller: strings.Repeat("x", 100), Refused: 1, First: second(5), Last: second(5)},
	}, g.Ledger())
}
