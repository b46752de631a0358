// Package webhook tells people through an HTTP endpoint, which gets each notification as a CloudEvent
// (https://cloudevents.io, version 1.0, structured mode, JSON).
package webhook

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/keyturn/keyturn/internal/endpoint"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/internal/strictyaml"
	"github.com/keyturn/keyturn/providers"
)

const (
	contentType    = "application/cloudevents+json"
	specVersion    = "1.0"
	defaultSource  = "keyturn"
	defaultTimeout = inventory.Duration(10 * time.Second)
	longestTimeout = inventory.Duration(time.Minute)
	// maxReply bounds what is read of a reply that is not 2xx, maxToken what is read of a token file.
	maxReply = 64 << 10
	maxToken = 8 << 10
)

// Descriptor describes the type webhook: notifier and freezer.
func Descriptor() providers.Descriptor {
	return providers.Descriptor{
		Type:    "webhook",
		Summary: "posts notifications, freezes of deployments and audit events to a URL as CloudEvents",
		Notifier: providers.Make(func(e providers.Environment, c *Config) (providers.Notifier, error) {
			return &notifier{client: endpoint.Client(e.HTTP), config: *c}, nil
		}),
		Freezer: providers.Make(func(e providers.Environment, c *Config) (providers.Freezer, error) {
			return &freezer{client: endpoint.Client(e.HTTP), config: *c}, nil
		}),
		Collector: providers.Make(func(e providers.Environment, c *Config) (providers.Collector, error) {
			return &collector{client: endpoint.Client(e.HTTP), config: *c}, nil
		}),
	}
}

// Config says where notifications, or audit events, go.
type Config struct {
	// URL gets a POST for each of them. Only a loopback address may be plain http.
	URL string `json:"url"`
	// Source is the event's source, which tells several keyturns apart; "keyturn" when empty.
	Source string `json:"source,omitempty"`
	// TokenFile is the absolute path of a file that only its owner may read (mode 0600). Its content is
	// sent as bearer token, read anew for each notification.
	TokenFile string `json:"tokenFile,omitempty"`
	// Timeout bounds a request; 10s when empty, 1m at most.
	Timeout inventory.Duration `json:"timeout,omitzero"`
}

// Problems implements the question of package strictyaml.
func (c *Config) Problems() []strictyaml.Problem {
	var problems []strictyaml.Problem
	add := func(field, what, write string) {
		problems = append(problems, strictyaml.Problem{Field: field, What: what, Write: write})
	}
	if what, write := endpoint.Judge(c.URL); what != "" {
		add("url", what, write)
	}
	if _, err := url.Parse(c.Source); err != nil || strings.ContainsAny(c.Source, " \t\r\n") {
		add("source", "is not a URI reference", "a name or a URL, such as keyturn or https://keyturn.internal/prod")
	}
	if c.TokenFile != "" && !filepath.IsAbs(c.TokenFile) {
		add("tokenFile", "is not an absolute path", "the whole path, such as /etc/keyturn/webhook.token")
	}
	if c.Timeout < 0 || c.Timeout > longestTimeout {
		add("timeout", fmt.Sprintf("is %s, and a request may take at most %s", c.Timeout, longestTimeout), "10s")
	}
	return problems
}

// event is a CloudEvent. Its source and ID together are the same for each repetition.
type event struct {
	SpecVersion     string    `json:"specversion"`
	ID              string    `json:"id"`
	Source          string    `json:"source"`
	Type            string    `json:"type"`
	Subject         string    `json:"subject,omitempty"`
	Time            time.Time `json:"time"`
	DataContentType string    `json:"datacontenttype"`
	Data            any       `json:"data"`
}

type data struct {
	Severity   providers.Severity `json:"severity"`
	Credential string             `json:"credential"`
	Owner      string             `json:"owner"`
	Subject    string             `json:"subject"`
	Body       string             `json:"body"`
	Data       map[string]string  `json:"data,omitempty"`
}

type notifier struct {
	client *http.Client
	config Config
}

// Notify implements providers.Notifier. It follows no redirect. ErrThrottled for 429, ErrInvalid for
// the other 4xx but 408; anything else but 2xx is passing trouble.
func (n *notifier) Notify(ctx context.Context, message providers.Notification) error {
	if err := n.post(ctx, notified(message)); err != nil {
		return fmt.Errorf("notifying by webhook: %w", err)
	}
	return nil
}

func (n *notifier) post(ctx context.Context, e event) error {
	e.SpecVersion, e.Source, e.DataContentType = specVersion, cmp.Or(n.config.Source, defaultSource), "application/json"
	body, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("%w: the event cannot be written as JSON: %w", providers.ErrInvalid, err)
	}
	token, err := n.token()
	if err != nil {
		return err
	}
	defer token.Close()

	timeout := n.config.Timeout.Std()
	if timeout <= 0 {
		timeout = defaultTimeout.Std()
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, n.config.URL, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("%w: its URL is none", providers.ErrInvalid)
	}
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("User-Agent", "keyturn")
	if token.Len() > 0 {
		req.Header.Set("Authorization", "Bearer "+string(token.Reveal()))
	}
	resp, err := n.client.Do(req)
	if err != nil {
		return failed(err)
	}
	defer resp.Body.Close()
	return providers.Later(judge(resp), retryAfter(resp.Header, time.Now()))
}

// retryAfter is after how long a receiver wants the next try: seconds, or a date (RFC 9110). Zero where it does not say.
func retryAfter(header http.Header, now time.Time) time.Duration {
	said := header.Get("Retry-After")
	if seconds, err := strconv.ParseUint(said, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second //nolint:gosec // 31 bits
	}
	if at, err := http.ParseTime(said); err == nil {
		return at.Sub(now)
	}
	return 0
}

// notified is a notification as a CloudEvent.
func notified(message providers.Notification) event {
	return event{
		ID: message.ID, Type: message.Type, Subject: message.Credential, Time: message.At,
		Data: data{
			Severity: message.Severity, Credential: message.Credential, Owner: message.Owner,
			Subject: message.Subject, Body: message.Body, Data: message.Data,
		},
	}
}

// token reads the token file; the zero value when none is configured. A file that others may read is
// refused, since its token is no secret.
func (n *notifier) token() (secret.Value, error) {
	if n.config.TokenFile == "" {
		return secret.Value{}, nil
	}
	file, err := os.Open(n.config.TokenFile)
	if err != nil {
		return secret.Value{}, fmt.Errorf("reading token file: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return secret.Value{}, fmt.Errorf("reading token file: %w", err)
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 {
		return secret.Value{}, fmt.Errorf("reading token file %q: %w: its mode is %s: chmod 600 it, and if others read it, replace the token",
			n.config.TokenFile, providers.ErrDenied, info.Mode())
	}
	content, err := io.ReadAll(io.LimitReader(file, maxToken+1))
	defer clear(content)
	token := bytes.TrimSpace(content)
	switch {
	case err != nil:
		return secret.Value{}, fmt.Errorf("reading token file: %w", err)
	case len(token) == 0 || len(content) > maxToken || bytes.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r == 0x7f }):
		return secret.Value{}, fmt.Errorf("reading token file %q: %w: it must hold one token and nothing else", n.config.TokenFile, providers.ErrInvalid)
	}
	return secret.New(token), nil
}

// failed is the error of a request without reply. The URL is left out: a webhook's often is its secret.
func failed(err error) error {
	for _, cause := range []error{context.DeadlineExceeded, context.Canceled, providers.ErrDenied} {
		if errors.Is(err, cause) {
			return fmt.Errorf("no reply: %w", cause)
		}
	}
	return fmt.Errorf("no reply: %s", endpoint.Failure(err))
}

// judge tells what a reply means. What the receiver says is not repeated: its token may be in it, or a key.
func judge(resp *http.Response) error {
	status := fmt.Sprintf("%d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
	length := func() string {
		read, _ := io.Copy(io.Discard, io.LimitReader(resp.Body, maxReply+1)) // what was read is enough
		return endpoint.Length(int(read), maxReply)
	}
	switch code := resp.StatusCode; {
	case code/100 == 2:
		return nil
	case code/100 == 3:
		return fmt.Errorf("it answers %s, and redirects are never followed: write the URL that it leads to", status)
	case code == http.StatusTooManyRequests:
		return fmt.Errorf("%w: it answers %s, with %s", providers.ErrThrottled, status, length())
	case code/100 == 4 && code != http.StatusRequestTimeout:
		return fmt.Errorf("%w: it answers %s, with %s", providers.ErrInvalid, status, length())
	}
	return fmt.Errorf("it answers %s, with %s", status, length())
}
