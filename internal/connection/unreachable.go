package connection

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"google.golang.org/grpc/codes"
)

// unreachable is a Temporal that does not answer where it was looked for, in words that do not come from the network. What it wraps
// tells programs the kind of it.
type unreachable struct {
	address, why string
	err          error
}

func (u *unreachable) Error() string {
	return fmt.Sprintf("connecting to Temporal at %s: %s", u.address, u.why)
}

func (u *unreachable) Unwrap() error { return u.err }

// elsewhere is what to do when somebody else, or nobody, is there.
const elsewhere = "say where Temporal is with --address or TEMPORAL_ADDRESS"

// explainWithin is how long it may take to see why nobody answers.
const explainWithin = 5 * time.Second

// explain gives the error of who could not connect to Temporal its words. What Temporal answered, and what is wrong with the options,
// is left as it is.
func explain(ctx context.Context, o client.Options, err error) error {
	code := serviceerror.ToStatus(err).Code()
	if code == codes.Unknown && strings.HasPrefix(err.Error(), "failed reaching server") { // what a web server says to gRPC has no type
		code = codes.Unimplemented
	}
	switch code {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Unimplemented, codes.Internal:
	case codes.Unauthenticated, codes.PermissionDenied:
		return fmt.Errorf("connecting to Temporal at %s: it does not take who calls: %w; see TEMPORAL_API_KEY, or the API key and the certificate of the profile", o.HostPort, err)
	default:
		return fmt.Errorf("connecting to Temporal at %s: %w; %s", o.HostPort, err, elsewhere)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), explainWithin)
	defer cancel()
	return &unreachable{o.HostPort, why(ctx, o, code), err}
}

// why looks for itself, one step of the connection after the other: gRPC tells its reasons in texts alone.
func why(ctx context.Context, o client.Options, code codes.Code) string {
	if _, _, err := net.SplitHostPort(o.HostPort); err != nil {
		return "the address is no host:port, such as localhost:7233; " + elsewhere
	}
	proxy, err := http.ProxyFromEnvironment(&http.Request{URL: &url.URL{Scheme: "https", Host: o.HostPort}})
	if proxy != nil || err != nil {
		return "nobody answers through the proxy that HTTPS_PROXY names; put the host into NO_PROXY when no proxy leads there, or " + elsewhere
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", o.HostPort)
	if err != nil {
		return undialed(err)
	}
	defer func() { _ = conn.Close() }()
	config := o.ConnectionOptions.TLS.Clone()
	switch key := o.Credentials != nil && !o.ConnectionOptions.TLSDisabled; {
	case code == codes.DeadlineExceeded:
		return "it takes the connection and says nothing; see whether Temporal is up, or " + elsewhere
	case config == nil && !key:
		return speaking(ctx, conn)
	case config == nil: // an API key turns TLS on
		config = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	config.NextProtos = []string{"h2"}
	if config.ServerName == "" {
		config.ServerName, _, _ = net.SplitHostPort(o.HostPort)
	}
	if err := tls.Client(conn, config).HandshakeContext(ctx); err != nil {
		return unshaken(err)
	}
	return "it speaks TLS, and does not answer as Temporal does: it is another server, or does not take this client's certificate (tls of the profile, TEMPORAL_TLS_CLIENT_CERT_PATH); " + elsewhere
}

// undialed says why there is no connection.
func undialed(err error) string {
	var name *net.DNSError
	var network net.Error
	switch {
	case errors.As(err, &name) && name.IsNotFound:
		return "no such host is known; " + elsewhere
	case errors.Is(err, syscall.ECONNREFUSED):
		return "the connection is refused, since nobody listens there; start Temporal, or " + elsewhere
	case errors.As(err, &network) && network.Timeout():
		return "the connection timed out; see that no firewall is in between, or " + elsewhere
	}
	return "no connection can be made; see that there is a way from this machine, or " + elsewhere
}

// speaking says who is there, where a connection without TLS was no use: somebody who speaks TLS may be Temporal.
func speaking(ctx context.Context, conn net.Conn) string {
	var other tls.RecordHeaderError
	err := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}).HandshakeContext(ctx) //nolint:gosec // nothing is sent: it is seen who is there
	switch {
	case err == nil:
		return "it speaks TLS, and was called without; turn it on with tls in the profile, or TEMPORAL_TLS=true"
	case errors.As(err, &other):
		return "what answers there is no Temporal server; " + elsewhere
	}
	return "what listens there ends the connection, as no Temporal server does that is up; " + elsewhere
}

// unshaken says why there is no TLS.
func unshaken(err error) string {
	var other tls.RecordHeaderError
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	said := "it refuses the handshake, ends it, or does not answer: it is no Temporal server, or takes no client without a certificate (tls of the profile, TEMPORAL_TLS_CLIENT_CERT_PATH)"
	switch {
	case errors.As(err, &other):
		said = "it does not speak TLS; turn that off with TEMPORAL_TLS=false or in the profile, or " + elsewhere
	case errors.As(err, &unknown):
		said = "nobody whom this machine trusts signed its certificate; name its authority with TEMPORAL_TLS_SERVER_CA_CERT_PATH or in the profile"
	case errors.As(err, &name):
		said = "its certificate is for another name; say which with TEMPORAL_TLS_SERVER_NAME or in the profile"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		said = "its certificate is not valid now: it has expired, or begins later; see to the certificate, and to the clock of this machine"
	case errors.As(err, &invalid):
		said = "its certificate is not valid for a server; see to the certificate"
	}
	return "TLS handshake: " + said
}
