package http_test

import (
	"net"
	stdhttp "net/http"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/strictyaml"
	"github.com/keyturn/keyturn/providers"
	keyturnhttp "github.com/keyturn/keyturn/providers/http"
)

type problematic interface{ Problems() []strictyaml.Problem }

func TestProblems(t *testing.T) {
	t.Parallel()
	check := func(change func(*keyturnhttp.CheckConfig)) *keyturnhttp.CheckConfig {
		c := &keyturnhttp.CheckConfig{URL: "https://edge.internal/ping"}
		change(c)
		return c
	}
	at := func(u string) *keyturnhttp.CheckConfig {
		return check(func(c *keyturnhttp.CheckConfig) { c.URL = u })
	}
	with := func(h string) *keyturnhttp.CheckConfig {
		return check(func(c *keyturnhttp.CheckConfig) { c.Header = h })
	}
	for name, c := range map[string]struct {
		config      any
		field, what string
	}{
		"https":                              {at("https://edge.internal:8443/ping?x=1"), "", ""},
		"plain http to loopback":             {at("http://127.0.0.1:8081/healthz"), "", ""},
		"plain http to loopback by IPv6":     {at("http://[::1]:8081/healthz"), "", ""},
		"plain http to localhost":            {at("http://localhost/{instance}"), "", ""},
		"an instance as host":                {at("https://{instance}.internal/"), "", ""},
		"an instance as port":                {at("http://127.0.0.1:{instance}/"), "", ""},
		"no URL":                             {at(""), "url", "is missing"},
		"a relative URL":                     {at("/healthz"), "url", "not an absolute"},
		"another scheme":                     {at("ftp://edge.internal/"), "url", "not an absolute"},
		"no host":                            {at("https:///x"), "url", "not an absolute"},
		"no URL at all":                      {at("https://edge:port/"), "url", "not a URL"},
		"plain http to another host":         {at("http://edge.internal/ping"), "url", "in the clear"},
		"plain http to a lookalike":          {at("http://localhost.evil.example/"), "url", "in the clear"},
		"plain http to an instance":          {at("http://{instance}/"), "url", "in the clear"},
		"a password":                         {at("https://me:pw@edge.internal/"), "url", "user name or password"},
		"a fragment":                         {at("https://edge.internal/#x"), "url", "fragment"},
		"a key in the URL":                   {at("https://edge.internal/?key={value}"), "url", "placeholder"},
		"a window in a check":                {at("https://edge.internal/{window}"), "url", "placeholder"},
		"a stray brace":                      {at("https://edge.internal/{x"), "url", "brace"},
		"another method":                     {check(func(c *keyturnhttp.CheckConfig) { c.Method = "DELETE" }), "method", "DELETE"},
		"a long timeout":                     {check(func(c *keyturnhttp.CheckConfig) { c.Timeout = inventory.Duration(time.Hour) }), "timeout", "1h"},
		"a key in a header":                  {with("Authorization: Bearer {value}"), "", ""},
		"two fields":                         {with("Authorization: AWS4-HMAC-SHA256 {id}:{secret_key}"), "", ""},
		"a harmless header":                  {with("Accept: application/vnd.example.very-long-media-type+json"), "", ""},
		"an empty sensitive header":          {with("X-Api-Key:"), "", ""},
		"no header":                          {with("Authorization"), "header", "not a header"},
		"no header name":                     {with("a b: c"), "header", "not a header"},
		"a line break in a header":           {with("X: a\r\nY: b"), "header", "control character"},
		"a literal bearer token":             {with("Authorization: Bearer abc123"), "header", "looks like a secret"},
		"a literal API key":                  {with("x-apikey: abc123"), "header", "looks like a secret"},
		"a literal beside a key":             {with("Cookie: session=0123456789abcdef0123; k={value}"), "header", "beside the placeholder"},
		"braces that name nothing":           {with("X-Key: {}"), "header", "braces"},
		"an instance in a header":            {with("X-Instance: {instance}"), "header", "{instance}"},
		"a header of the transport":          {with("Host: other"), "header", "by itself"},
		"a bad header in the list":           {check(func(c *keyturnhttp.CheckConfig) { c.Headers = []string{"A: b", "c"} }), "headers[1]", "not a header"},
		"a header twice":                     {check(func(c *keyturnhttp.CheckConfig) { c.Headers = []string{"A: b", "a: c"} }), "headers[1]", "second time"},
		"a status that is none":              {check(func(c *keyturnhttp.CheckConfig) { c.Status = []int{200, 99} }), "status[1]", "99"},
		"a redirect as status":               {check(func(c *keyturnhttp.CheckConfig) { c.Status = []int{302} }), "status[0]", "redirect"},
		"401 is fine for a check":            {check(func(c *keyturnhttp.CheckConfig) { c.Status = []int{401} }), "", ""},
		"a refused key as success":           {check(func(c *keyturnhttp.CheckConfig) { c.Status = []int{401}; c.Header = "K: {value}" }), "status[0]", "refused"},
		"an attestation":                     {&keyturnhttp.AttestationConfig{URL: "https://a/{instance}", Pointer: "/a/b"}, "", ""},
		"an attestation without URL":         {&keyturnhttp.AttestationConfig{}, "url", "is missing"},
		"an attestation with a path":         {&keyturnhttp.AttestationConfig{URL: "https://a/", Pointer: "a.b"}, "pointer", "not a JSON pointer"},
		"a health signal":                    {&keyturnhttp.HealthConfig{URL: "https://a/?w={window}", Errors: "/e", Total: "/t"}, "", ""},
		"a health signal of an instance":     {&keyturnhttp.HealthConfig{URL: "https://{instance}/"}, "url", "placeholder"},
		"a health signal with a bad pointer": {&keyturnhttp.HealthConfig{URL: "https://a/", Total: "t"}, "total", "not a JSON pointer"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			problems := c.config.(problematic).Problems()
			if c.what == "" {
				require.Empty(t, problems)
				return
			}
			require.Len(t, problems, 1)
			assert.Equal(t, c.field, problems[0].Field)
			assert.Contains(t, problems[0].What, c.what)
			assert.NotEmpty(t, problems[0].Write)
		})
	}
}

func FuzzURL(f *testing.F) {
	for _, seed := range []string{"https://a/{instance}", "http://127.0.0.1:{instance}", "http://[::1]/?a={instance}#b", "https://u:p@h"} {
		f.Add(seed, "a")
	}
	f.Fuzz(func(t *testing.T, template, instance string) {
		c := keyturnhttp.CheckConfig{URL: template}
		if len(c.Problems()) > 0 {
			return
		}
		e := world()
		transport := new(recording)
		e.HTTP.Transport = transport
		check, err := keyturnhttp.Descriptor().Check.Open(e, nil, &c)
		require.NoError(t, err)
		if check.Check(t.Context(), providers.CheckInput{Instance: instance}) != nil {
			return
		}
		u := transport.asked
		ip := net.ParseIP(u.Hostname())
		assert.True(t, u.Scheme == "https" || u.Hostname() == "localhost" || ip != nil && ip.IsLoopback(), "in the clear: %s", u)
		assert.Nil(t, u.User)
		assert.NotContains(t, u.String(), "{instance}")
	})
}

type recording struct{ asked *url.URL }

func (r *recording) RoundTrip(req *stdhttp.Request) (*stdhttp.Response, error) {
	r.asked = req.URL
	return &stdhttp.Response{StatusCode: 200, Body: stdhttp.NoBody, Request: req}, nil
}
