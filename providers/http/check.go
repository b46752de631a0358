package http

import (
	"context"
	"fmt"
	stdhttp "net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/keyturn/keyturn/internal/endpoint"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/internal/strictyaml"
	"github.com/keyturn/keyturn/providers"
)

// CheckConfig is a health check of an instance, or, with a key in a header, a smoke test of a key.
type CheckConfig struct {
	// URL is asked. {instance} in it stands for the instance.
	URL string `json:"url"`
	// Method is GET (default), HEAD or POST. A POST has no body.
	Method string `json:"method,omitempty"`
	// Header is sent: "Name: text". {value} and other names of the key's fields in braces stand for the
	// key.
	Header string `json:"header,omitempty"`
	// Headers are further headers of the same form.
	Headers []string `json:"headers,omitempty"`
	// Status lists the statuses of a peer that is well; when empty, any 2xx but 203 and 206, which are not the peer's own word, or not
	// the whole of it.
	Status []int `json:"status,omitempty"`
	// Timeout bounds the request; 5s when empty, 1m at most.
	Timeout inventory.Duration `json:"timeout,omitzero"`
}

// header is one header with its place in the configuration.
type header struct {
	field, name, text string
	malformed         bool
}

func (c CheckConfig) headers() []header {
	parse := func(field, line string) header {
		name, text, ok := strings.Cut(line, ":")
		return header{field: field, name: strings.TrimSpace(name), text: strings.TrimSpace(text), malformed: !ok}
	}
	var all []header
	if c.Header != "" {
		all = append(all, parse("header", c.Header))
	}
	for i, line := range c.Headers {
		all = append(all, parse(fmt.Sprintf("headers[%d]", i), line))
	}
	return all
}

var (
	headerName = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")
	// fieldName is the name of a bundle's field in braces.
	fieldName = regexp.MustCompile(`\{([A-Za-z][A-Za-z0-9_.-]*)\}`)
	// secretName is a header that usually carries a secret.
	secretName = regexp.MustCompile(`(?i)auth|api-?key|token|secret|cookie|passw|credential|signature`)
	// keyLike is a run of characters longer than the name of any authentication scheme.
	keyLike = regexp.MustCompile(`[A-Za-z0-9+/_=.~-]{17,}`)
	// ownHeaders are set by the transport.
	ownHeaders = []string{"host", "content-length", "transfer-encoding", "connection", "te", "trailer", "upgrade", "proxy-connection", "user-agent"}
)

// Problems implements the question of package strictyaml.
func (c *CheckConfig) Problems() []strictyaml.Problem {
	problems := append(problemsOfURL(c.URL, instancePlaceholder), problemsOfTimeout(c.Timeout)...)
	add := func(field, what, write string) {
		problems = append(problems, strictyaml.Problem{Field: field, What: what, Write: write})
	}
	if !slices.Contains([]string{"", stdhttp.MethodGet, stdhttp.MethodHead, stdhttp.MethodPost}, c.Method) {
		add("method", fmt.Sprintf("is %q", c.Method), "GET, HEAD or POST")
	}
	sends := false
	seen := map[string]bool{}
	for _, h := range c.headers() {
		if what, write := h.judge(); what != "" {
			add(h.field, what, write)
		}
		if seen[strings.ToLower(h.name)] {
			add(h.field, "names a header for the second time", "each header once")
		}
		seen[strings.ToLower(h.name)] = true
		sends = sends || fieldName.MatchString(h.text)
	}
	for i, status := range c.Status {
		field := fmt.Sprintf("status[%d]", i)
		switch {
		case status < 200 || status > 599:
			add(field, fmt.Sprintf("is %d, which no reply ends with", status), "a status from 200 to 599")
		case status/100 == 3:
			add(field, fmt.Sprintf("is %d, a redirect, and redirects are never followed", status), "the URL that it leads to, and its status")
		case sends && (status == stdhttp.StatusUnauthorized || status == stdhttp.StatusForbidden):
			add(field, fmt.Sprintf("is %d, which says that the key was refused", status), "the status for a key that works")
		}
	}
	return problems
}

// judge says what is wrong with a header, and what to write.
func (h header) judge() (what, write string) {
	literal := fieldName.ReplaceAllString(h.text, "")
	switch {
	case h.malformed || !headerName.MatchString(h.name):
		return "is not a header", `"Name: text", such as "Authorization: Bearer {value}"`
	case slices.Contains(ownHeaders, strings.ToLower(h.name)):
		return fmt.Sprintf("sets %s, which keyturn sets by itself", h.name), "another header"
	case !sendable(h.text):
		return "has a control character in it", "printable text"
	case strings.Contains(h.text, instancePlaceholder):
		return "has {instance}, which stands for the instance in the URL only", "the header without it"
	case strings.ContainsAny(literal, "{}"):
		return "has braces that name no field of a key", "{value}, or the name of another field"
	case secretName.MatchString(h.name) && literal == h.text && h.text != "":
		return "looks like a secret in the file", "{value} where the key belongs"
	case keyLike.MatchString(literal) && secretName.MatchString(h.name):
		return "looks like it has a secret beside the placeholder", "{value} where the key belongs"
	}
	return "", ""
}

// sendable tells whether a header can carry the text.
func sendable(text string) bool {
	return strings.IndexFunc(text, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) < 0
}

type check struct {
	client *stdhttp.Client
	config CheckConfig
}

func openCheck(e providers.Environment, c CheckConfig) *check {
	return &check{client: endpoint.Client(e.HTTP), config: c}
}

// Check implements providers.Check. A 401 or 403 is a refused key only when a key was sent.
func (c *check) Check(ctx context.Context, in providers.CheckInput) error {
	target, err := expandURL(c.config.URL, in.Instance)
	if err != nil {
		return fmt.Errorf("checking: %w", err)
	}
	filled, sends, err := c.fill(in.Bundle)
	if err != nil {
		return fmt.Errorf("checking: %w", err)
	}
	r := request{method: c.config.Method, url: target, header: filled, timeout: timeoutOf(c.config.Timeout)}
	got, err := r.ask(ctx, c.client, func(status int) bool { return !c.wants(status) })
	switch {
	case err != nil:
		return fmt.Errorf("checking: %w", err)
	case c.wants(got.status):
		return nil
	case sends && (got.status == stdhttp.StatusUnauthorized || got.status == stdhttp.StatusForbidden):
		return fmt.Errorf("checking: %w: %w", providers.ErrKeyRefused, r.refused(got))
	}
	return fmt.Errorf("checking: %w", r.refused(got))
}

func (c *check) wants(status int) bool {
	if len(c.config.Status) == 0 {
		return status/100 == 2 && status != stdhttp.StatusNonAuthoritativeInfo && status != stdhttp.StatusPartialContent
	}
	return slices.Contains(c.config.Status, status)
}

// Fits implements providers.Fitter.
func (c *check) Fits(b secret.Bundle) error {
	_, _, err := c.fill(b)
	return err
}

// fill puts the key into the headers, and tells whether there is one in them.
func (c *check) fill(b secret.Bundle) (filled stdhttp.Header, sends bool, err error) {
	filled = stdhttp.Header{}
	for _, h := range c.config.headers() {
		text := fieldName.ReplaceAllStringFunc(h.text, func(placeholder string) string {
			name := strings.Trim(placeholder, "{}")
			v, ok := b.Field(name)
			value := string(v.Reveal())
			switch {
			case !ok && err == nil:
				err = fmt.Errorf("%w: the header %s wants the field %q, and the key that is checked has none of that name", providers.ErrInvalid, h.name, name)
			case !sendable(value) && err == nil:
				err = fmt.Errorf("%w: the field %q has a control character, and no header can carry it", providers.ErrInvalid, name)
			case strings.Trim(value, " \t") != value && err == nil:
				err = fmt.Errorf("%w: the field %q begins or ends with a blank, which is cut off in a header", providers.ErrInvalid, name)
			}
			sends = true
			return value
		})
		filled.Set(h.name, text)
	}
	return filled, sends, err
}
