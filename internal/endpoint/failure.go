package endpoint

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
)

// Failure says in words of ours why a request got no complete reply. The words of the error itself may be those of the peer
// or of a proxy: what they sent instead of HTTP, or the names in a certificate.
func Failure(err error) string {
	var unknown x509.UnknownAuthorityError
	var misnamed x509.HostnameError
	var invalid x509.CertificateInvalidError
	var plain tls.RecordHeaderError
	var name *net.DNSError
	var errno syscall.Errno
	var lost *net.OpError
	var waiting net.Error
	switch {
	case errors.Is(err, context.Canceled):
		return "it was cancelled"
	case errors.As(err, &name) && name.IsNotFound:
		return "no address is known for its name"
	case errors.As(err, &name):
		return "its name could not be looked up"
	case errors.As(err, &errno):
		return errno.Error()
	case errors.As(err, &unknown):
		return "its certificate is signed by nobody whom this host trusts"
	case errors.As(err, &misnamed):
		return "its certificate is for another name"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "its certificate has expired, or is not valid yet"
	case errors.As(err, &invalid):
		return "its certificate is not valid"
	case errors.As(err, &plain):
		return "it does not speak TLS"
	case errors.As(err, &lost) && lost.Op == "remote error":
		return "it ended the TLS handshake"
	case errors.As(err, &lost) && lost.Op == "proxyconnect":
		return "the proxy does not connect to it"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "it ended the connection before its reply was complete"
	case errors.As(err, &waiting) && waiting.Timeout():
		return "it did not answer in time"
	}
	return "no answer that is HTTP"
}

// Length is how much a peer said, in place of what: read is what was read of its reply, of which most is looked at.
func Length(read, most int) string {
	switch {
	case read == 0:
		return "no body"
	case read > most:
		return fmt.Sprintf("more than %d bytes that are not repeated here", most)
	}
	return fmt.Sprintf("%d bytes that are not repeated here", read)
}
