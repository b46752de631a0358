package endpoint_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/endpoint"
)

// What a peer says is in none of them.
func TestFailure(t *testing.T) {
	t.Parallel()
	const said = "ktg_Zq81mW0pLx7TRe2uA9sVfB3nKcYh5dJt"
	op := func(op string, err error) error { return &net.OpError{Op: op, Net: "tcp", Err: err} }
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"nobody listens":               {op("dial", syscall.ECONNREFUSED), "connection refused"},
		"no such name":                 {op("dial", &net.DNSError{Err: said, Name: said, IsNotFound: true}), "no address is known for its name"},
		"a resolver that is ill":       {op("dial", &net.DNSError{Err: said}), "its name could not be looked up"},
		"it was called off":            {context.Canceled, "it was cancelled"},
		"a certificate of a stranger":  {x509.UnknownAuthorityError{}, "its certificate is signed by nobody whom this host trusts"},
		"a certificate of another":     {x509.HostnameError{Certificate: &x509.Certificate{DNSNames: []string{said}}, Host: "h"}, "its certificate is for another name"},
		"a certificate of the past":    {x509.CertificateInvalidError{Reason: x509.Expired, Detail: said}, "its certificate has expired, or is not valid yet"},
		"a certificate that is broken": {x509.CertificateInvalidError{Reason: x509.NotAuthorizedToSign, Detail: said}, "its certificate is not valid"},
		"no TLS":                       {tls.RecordHeaderError{Msg: said}, "it does not speak TLS"},
		"TLS that it does not like":    {op("remote error", errors.New(said)), "it ended the TLS handshake"},
		"a proxy that refuses":         {op("proxyconnect", errors.New(said)), "the proxy does not connect to it"},
		"it hung up":                   {io.ErrUnexpectedEOF, "it ended the connection before its reply was complete"},
		"it is slow":                   {context.DeadlineExceeded, "it did not answer in time"},
		"something else":               {fmt.Errorf("malformed HTTP response %q", said), "no answer that is HTTP"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, c.want, endpoint.Failure(&url.Error{Op: "Get", URL: "https://h/" + said, Err: c.err}))
		})
	}
}

func TestFailureOfACertificateThatNobodyTrusts(t *testing.T) {
	t.Parallel()
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	resp, err := (&http.Client{Transport: &http.Transport{}}).Get(server.URL)
	if err == nil {
		require.NoError(t, resp.Body.Close())
	}
	require.Error(t, err)
	assert.Equal(t, "its certificate is signed by nobody whom this host trusts", endpoint.Failure(err))
}

func TestLength(t *testing.T) {
	t.Parallel()
	assert.Equal(t, "no body", endpoint.Length(0, 10))
	assert.Equal(t, "10 bytes that are not repeated here", endpoint.Length(10, 10))
	assert.Equal(t, "more than 10 bytes that are not repeated here", endpoint.Length(11, 10))
}
