package connection_test

import (
	"context"
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"google.golang.org/grpc/codes"

	"github.com/keyturn/keyturn/internal/connection"
)

// listening is somebody who does this with each connection.
func listening(t *testing.T, does func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() { does(conn); _ = conn.Close() }()
		}
	}()
	return l.Addr().String()
}

// web is a web server, which speaks TLS and HTTP/2 when it is told so.
func web(t *testing.T, status int, http2 bool, start func(*httptest.Server)) string {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
	s.EnableHTTP2, s.Config.ErrorLog = http2, log.New(io.Discard, "", 0)
	start(s)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// nobody is where nobody listens.
const nobody = "127.0.0.1:1"

// Who cannot connect is told what is there, and what to do, in no words of the network's.
func TestWhyTemporalIsNotFound(t *testing.T) {
	trusting, strict := &tls.Config{InsecureSkipVerify: true}, &tls.Config{}
	plain, secure := (*httptest.Server).Start, (*httptest.Server).StartTLS
	for name, c := range map[string]struct {
		address string
		with    *tls.Config
		says    string
		code    codes.Code
		// patience is how long an answer is waited for.
		patience time.Duration
	}{
		"nobody listens":                       {nobody, nil, "the connection is refused, since nobody listens there; start Temporal, or say where", codes.Unavailable, time.Minute},
		"nobody listens, with TLS":             {nobody, strict, "the connection is refused", codes.Unavailable, time.Minute},
		"the host is unknown":                  {"no-such-host.invalid:7233", nil, "no such host is known; say where", codes.Unavailable, time.Minute},
		"the address has no port":              {"127.0.0.1", nil, "the address is no host:port, such as localhost:7233", codes.Unavailable, time.Minute},
		"each connection is ended":             {listening(t, func(c net.Conn) { _ = c.Close() }), nil, "ends the connection, as no Temporal server does that is up", codes.Unavailable, time.Minute},
		"each connection is ended, with TLS":   {listening(t, func(c net.Conn) { _ = c.Close() }), strict, "TLS handshake: it refuses the handshake, ends it, or does not answer", codes.Unavailable, time.Minute},
		"nothing is said":                      {listening(t, func(net.Conn) { <-t.Context().Done() }), nil, "it takes the connection and says nothing; see whether Temporal is up", codes.DeadlineExceeded, 200 * time.Millisecond},
		"a web server":                         {web(t, 200, false, plain), nil, "what answers there is no Temporal server; say where", codes.Unavailable, time.Minute},
		"a web server, called with TLS":        {web(t, 200, false, plain), strict, "TLS handshake: it does not speak TLS; turn that off with TEMPORAL_TLS=false", codes.Unavailable, time.Minute},
		"a server with TLS, called without":    {web(t, 200, true, secure), nil, "it speaks TLS, and was called without; turn it on with tls in the profile, or TEMPORAL_TLS=true", codes.Unavailable, time.Minute},
		"a server whom nobody trusts":          {web(t, 200, true, secure), strict, "nobody whom this machine trusts signed its certificate; name its authority with TEMPORAL_TLS_SERVER_CA_CERT_PATH", codes.Unavailable, time.Minute},
		"a web server with TLS":                {web(t, 404, true, secure), trusting, "does not answer as Temporal does: it is another server", codes.Unimplemented, time.Minute},
		"a web server with TLS that says fine": {web(t, 200, true, secure), trusting, "does not answer as Temporal does: it is another server", codes.Unknown, time.Minute},
		"a web server with TLS without HTTP/2": {web(t, 200, false, secure), trusting, "TLS handshake: it refuses the handshake", codes.Unavailable, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			_, err := connection.Dial(ctx, client.Options{HostPort: c.address, ConnectionOptions: client.ConnectionOptions{TLS: c.with, GetSystemInfoTimeout: c.patience}})
			require.ErrorContains(t, err, "connecting to Temporal at "+c.address+": ")
			assert.ErrorContains(t, err, c.says)
			for _, theirs := range []string{"transport", "desc", "rpc", "dial tcp", "http2", "tls:", "x509", "failed reaching server", "content-type"} {
				assert.NotContains(t, err.Error(), theirs)
			}
			assert.NotContains(t, err.Error(), "\n")
			assert.Equal(t, c.code, serviceerror.ToStatus(err).Code(), "programs know the kind of it as before")
		})
	}
}

func TestWhatIsWrongWithTheOptionsIsSaidAsItIs(t *testing.T) {
	t.Parallel()
	_, err := connection.Dial(t.Context(), client.Options{HostPort: nobody, ConnectionOptions: client.ConnectionOptions{TLS: &tls.Config{}, TLSDisabled: true}})
	assert.ErrorContains(t, err, "TLSDisabled")
}
