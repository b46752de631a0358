package main

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/host"
)

func TestHealthAsksTheWorkerOnThisHost(t *testing.T) {
	t.Parallel()
	at := func(handler http.Handler) string {
		server := httptest.NewServer(handler)
		t.Cleanup(server.Close)
		return strings.TrimPrefix(server.URL, "http://")
	}
	one := http.NewServeMux()
	one.HandleFunc("GET /readyz", func(http.ResponseWriter, *http.Request) {})
	said := make(chan string, 1)
	stop, err := serveHealth(t.Context(), "127.0.0.1:0", new(atomic.Pointer[host.Host]), http.NotFoundHandler(), slog.New(slog.NewTextHandler(firstLine(said), nil)))
	require.NoError(t, err)
	t.Cleanup(stop)
	_, starting, _ := strings.Cut(strings.TrimSpace(<-said), "address=")
	isReady := at(one)
	for name, c := range map[string]struct {
		address string
		code    int
		says    string
	}{
		"one that is ready":              {isReady, exitDone, "ready\n"},
		"one that has just started":      {starting, exitFailed, "is not ready (status 503): it does not poll"},
		"what is no worker":              {at(http.NotFoundHandler()), exitFailed, "is not ready (status 404)"},
		"an address where nobody is":     {"127.0.0.1:1", exitFailed, "does it run, with this --health-address?"},
		"an address that is none":        {"127.0.0.1:1/x", exitUsage, "write HOST:PORT"},
		"a port on any of its own":       {isReady[strings.Index(isReady, ":"):], exitDone, "ready\n"},
		"an address that was left empty": {"", exitUsage, "write HOST:PORT"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			assert.Equal(t, c.code, run(t.Context(), []string{"health", "--health-address", c.address}, &out, &out), out.String())
			assert.Contains(t, out.String(), c.says)
		})
	}
}

// firstLine hands over what is written first.
type firstLine chan string

func (f firstLine) Write(p []byte) (int, error) {
	select {
	case f <- string(p):
	default:
	}
	return len(p), nil
}
