package workerconfig_test

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/workerconfig"
	"github.com/keyturn/keyturn/providers"
)

// withHost is a configuration whose only host is that of the URL.
func withHost(t *testing.T, hosts ...string) *workerconfig.Config {
	t.Helper()
	return configOf(t, strings.Replace(base, `["*.internal:443", "127.0.0.1:8081"]`, `["`+strings.Join(hosts, `", "`)+`"]`, 1))
}

func get(t *testing.T, client *http.Client, url string) (*http.Response, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	require.NoError(t, err)
	resp, err := client.Do(req)
	if err == nil {
		t.Cleanup(func() { resp.Body.Close() })
	}
	return resp, err
}

func hostOf(url string) string {
	_, host, _ := strings.Cut(url, "//")
	return host
}

func TestTheClientReachesOnlyAllowedHosts(t *testing.T) {
	t.Parallel()
	allowed := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }))
	defer allowed.Close()
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("another host was reached") }))
	defer other.Close()
	client := withHost(t, hostOf(allowed.URL)).Environment("production").HTTP

	resp, err := get(t, client, allowed.URL)
	require.NoError(t, err)
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	assert.Equal(t, "hello", string(body))

	_, err = get(t, client, other.URL)
	denied(t, err, "bounds.production.hosts", "another port")
	_, err = get(t, withHost(t, hostOf(allowed.URL)).Environment("staging").HTTP, allowed.URL)
	require.ErrorIs(t, err, providers.ErrDenied, "another environment")
}

func TestTheClientFollowsNoRedirect(t *testing.T) {
	t.Parallel()
	followed := false
	var server *httptest.Server
	server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		followed = followed || r.URL.Path == "/next"
		http.Redirect(w, r, server.URL+"/next", http.StatusFound)
	}))
	defer server.Close()
	resp, err := get(t, withHost(t, hostOf(server.URL)).Environment("production").HTTP, server.URL)
	require.NoError(t, err)
	assert.Equal(t, http.StatusFound, resp.StatusCode)
	assert.False(t, followed)
}

func TestTheClientUsesNoProxy(t *testing.T) {
	proxy := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the proxy was asked") }))
	defer proxy.Close()
	t.Setenv("HTTP_PROXY", proxy.URL)
	t.Setenv("HTTPS_PROXY", proxy.URL)
	transport, ok := withHost(t, hostOf(proxy.URL)).Environment("production").HTTP.Transport.(*http.Transport)
	require.True(t, ok)
	assert.Nil(t, transport.Proxy, "not even for addresses for which Go would use none")
}

func TestTheClientVerifiesCertificates(t *testing.T) {
	t.Parallel()
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // it complains of the refused handshake
	server.StartTLS()
	defer server.Close()
	_, err := get(t, withHost(t, hostOf(server.URL)).Environment("production").HTTP, server.URL)
	assert.ErrorContains(t, err, "certificate")
}

func TestANameThatLeadsToAnAddressOfNoHostReachesNobody(t *testing.T) {
	t.Parallel()
	// The bound cannot name such an address, so these were put there by hand: as a name that resolves to it.
	c := withHost(t, "127.0.0.1:1")
	for name, address := range map[string]string{
		"the metadata service": "169.254.169.254:80", "the same in IPv6": "[::ffff:169.254.169.254]:80", "a link-local address": "[fe80::1]:80",
		"any address": "0.0.0.0:80", "any address of IPv6": "[::]:80", "a multicast address": "224.0.0.1:80",
	} {
		b := c.Bounds["production"]
		b.Hosts = []string{address}
		c.Bounds["production"] = b
		transport := c.Environment("production").HTTP.Transport.(*http.Transport)
		conn, err := transport.DialContext(t.Context(), "tcp", address)
		require.ErrorIs(t, err, providers.ErrDenied, name)
		assert.Nil(t, conn, name)
		assert.ErrorContains(t, err, "link-local, multicast or unspecified")
	}
}

func TestANameIsLookedUpOnceAndItsAddressDialled(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	_, port, err := net.SplitHostPort(hostOf(server.URL))
	require.NoError(t, err)
	resp, err := get(t, withHost(t, "localhost:"+port).Environment("production").HTTP, "http://localhost:"+port)
	require.NoError(t, err, "another address of the name is tried when one refuses")
	assert.Equal(t, http.StatusNotFound, resp.StatusCode)
}

func TestNotifiersReachTheHostsThatTheConfigurationNames(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	environment := configOf(t, base).NotifierEnvironment()
	_, err := get(t, environment.HTTP, server.URL)
	require.NoError(t, err)
	transport := environment.HTTP.Transport.(*http.Transport)
	_, err = transport.DialContext(t.Context(), "tcp", "169.254.169.254:80")
	require.ErrorIs(t, err, providers.ErrDenied)
	assert.ErrorIs(t, environment.AllowFile("/run/keys/a"), providers.ErrDenied)
}

func TestTheOtherDoors(t *testing.T) {
	t.Parallel()
	e := configOf(t, base).Environment("production")
	command, err := e.Program("reload-checkout")
	require.NoError(t, err)
	assert.Equal(t, []string{"/usr/local/bin/reload-checkout", "--now"}, command)
	command[0] = "/bin/sh"
	again, err := e.Program("reload-checkout")
	require.NoError(t, err)
	assert.Equal(t, "/usr/local/bin/reload-checkout", again[0], "a caller cannot change the configuration")
	_, err = e.Program("/bin/sh")
	denied(t, err, `program "/bin/sh" is not under programs`, "")
	assert.ErrorIs(t, e.AllowFile("/etc/passwd"), providers.ErrDenied)
	assert.WithinDuration(t, time.Now(), e.Now(), time.Minute)
}
