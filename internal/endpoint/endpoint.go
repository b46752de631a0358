// Package endpoint has the rules for the addresses that keyturn itself connects to.
package endpoint

import (
	"net"
	"net/http"
	"net/url"
)

// Judge says what is wrong with the URL of a peer, and what to write instead; nothing when it is fine. A
// peer is an absolute http or https URL without user name, password and fragment; plain http only
// reaches this host.
func Judge(raw string) (what, write string) {
	const example = "an absolute URL, such as https://edge.internal/ping"
	u, err := url.Parse(raw)
	switch {
	case raw == "":
		return "is missing", example
	case err != nil:
		return "is not a URL", example
	case u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		return "is not an absolute http or https URL", example
	case u.User != nil:
		return "has a user name or password in it", "the URL without them; a secret belongs into a header"
	case u.Fragment != "":
		return "has a fragment, which is never sent", "the URL without what follows #"
	case u.Scheme == "http" && u.Hostname() != "localhost" && !net.ParseIP(u.Hostname()).IsLoopback():
		return "sends everything in the clear to another host", "https, or a loopback address"
	}
	return "", ""
}

// Client is c's transport, which knows the bounds, and nothing else of c: it follows no redirect, which
// would carry a secret on, and keeps no cookies.
func Client(c *http.Client) *http.Client {
	return &http.Client{
		Transport:     c.Transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}
