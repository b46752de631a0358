package endpoint_test

import (
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/endpoint"
)

func TestJudge(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]string{
		"https://edge.internal:8443/ping?x=1": "",
		"http://127.0.0.1:8081/":              "",
		"http://127.9.9.9/":                   "",
		"http://[::1]:8081/":                  "",
		"http://localhost/":                   "",
		"":                                    "is missing",
		"edge.internal":                       "not an absolute",
		"//edge.internal/":                    "not an absolute",
		"https:edge.internal":                 "not an absolute",
		"file:///etc/passwd":                  "not an absolute",
		"https://a:b:c/":                      "not a URL",
		"https://u@edge.internal/":            "user name or password",
		"https://edge.internal/#a":            "fragment",
		"http://edge.internal/":               "in the clear",
		"http://127.0.0.1.evil.example/":      "in the clear",
		"http://localhost.evil.example/":      "in the clear",
		"http://0.0.0.0/":                     "in the clear",
		"http://2130706433/":                  "in the clear",
	} {
		t.Run(url, func(t *testing.T) {
			t.Parallel()
			what, write := endpoint.Judge(url)
			if want == "" {
				assert.Empty(t, what)
				return
			}
			assert.Contains(t, what, want)
			assert.NotEmpty(t, write)
		})
	}
}

func TestClientFollowsNothingAndKeepsNothing(t *testing.T) {
	t.Parallel()
	asked, cookies := 0, 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		cookies += len(r.Cookies())
		http.SetCookie(w, &http.Cookie{Name: "a", Value: "b"})
		http.Redirect(w, r, "/elsewhere", http.StatusFound)
	}))
	t.Cleanup(server.Close)
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	client := endpoint.Client(&http.Client{Transport: server.Client().Transport, Jar: jar})
	for range 2 {
		resp, err := client.Get(server.URL)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		assert.Equal(t, http.StatusFound, resp.StatusCode)
	}
	assert.Equal(t, 2, asked)
	assert.Zero(t, cookies)
}

func FuzzJudge(f *testing.F) {
	for _, seed := range []string{"https://edge.internal/ping", "http://[::1]:80/", "http://localhost.evil/", "https://u:p@h/#x", "http://127.0.0.1%2eevil/", "HTTPS://H", "http://0x7f.1/"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		what, write := endpoint.Judge(raw)
		if what != "" {
			assert.NotEmpty(t, write)
			assert.Less(t, len(what)+len(write), 200, "a URL may have a secret in it, and is not repeated")
			return
		}
		u, err := url.Parse(raw)
		require.NoError(t, err)
		assert.NotEmpty(t, u.Hostname())
		assert.Nil(t, u.User)
		ip := net.ParseIP(u.Hostname())
		assert.True(t, strings.EqualFold(u.Scheme, "https") || u.Hostname() == "localhost" || ip.IsLoopback(), "in the clear: %q", raw)
	})
}
