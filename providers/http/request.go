package http

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	stdhttp "net/http"
	"net/url"
	"strings"
	"time"

	"github.com/keyturn/keyturn/internal/endpoint"
	"github.com/keyturn/keyturn/providers"
)

// maxReply bounds what is read of a reply.
const maxReply = 64 << 10

// byteOrderMark is what some peers begin a text of UTF-8 with.
const byteOrderMark = "\uFEFF"

// request is one question to a peer. Of what the peer says, nothing goes into an error: a key may be in it, the one that was
// sent or one of its own.
type request struct {
	method  string
	url     string
	header  stdhttp.Header
	timeout time.Duration
}

// reply is a peer's answer.
type reply struct {
	status int
	body   []byte
}

// ask sends the request, and reads the reply as far as keep says: a check whose peer is well has no use
// for the body. The whole of it ends with the time-out or with ctx, whichever is first.
func (r request) ask(ctx context.Context, client *stdhttp.Client, keep func(status int) bool) (reply, error) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	req, err := stdhttp.NewRequestWithContext(ctx, r.method, r.url, nil)
	if err != nil {
		return reply{}, fmt.Errorf("asking %s: %w: not a request", r.name(), providers.ErrInvalid)
	}
	req.Header = r.header.Clone()
	if req.Header == nil {
		req.Header = stdhttp.Header{}
	}
	req.Header.Set("User-Agent", "keyturn")
	for _, name := range []string{"Cache-Control", "Pragma"} { // what somebody keeps beside the peer is not the present
		if req.Header.Get(name) == "" {
			req.Header.Set(name, "no-cache")
		}
	}
	resp, err := client.Do(req)
	if err != nil {
		return reply{}, r.failed(err)
	}
	defer resp.Body.Close()
	got := reply{status: resp.StatusCode}
	if age := resp.Header.Get("Age"); resp.StatusCode/100 == 2 && strings.Trim(age, "0 ") != "" {
		return got, fmt.Errorf("asking %s: a cache answers, with a copy that has an Age; write a URL that no cache is in front of, or have it not keep this one", r.name())
	}
	if !keep(resp.StatusCode) {
		return got, nil
	}
	got.body, err = io.ReadAll(io.LimitReader(resp.Body, maxReply+1))
	if err != nil && resp.StatusCode/100 == 2 {
		return got, r.failed(err)
	}
	return got, nil // of a refusal, what was read is enough
}

// name is how a peer is called in errors and statements: its URL without the query.
func (r request) name() string {
	u, err := url.Parse(r.url)
	if err != nil {
		return "the peer"
	}
	u.RawQuery, u.User = "", nil
	return u.String()
}

// failed is the error of a request that got no complete reply.
func (r request) failed(err error) error {
	if unwrapped := (*url.Error)(nil); errors.As(err, &unwrapped) {
		err = unwrapped.Err // its text has the whole URL
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("asking %s: no complete reply within %s: %w", r.name(), r.timeout, context.DeadlineExceeded)
	}
	text := endpoint.Failure(err)
	if errors.Is(err, providers.ErrDenied) {
		text = err.Error() // it was out of bounds, and was not sent
	}
	return fmt.Errorf("asking %s: %w", r.name(), &worded{text: text, err: err})
}

// worded is an error in words of ours; the error itself is kept for errors.Is.
type worded struct {
	text string
	err  error
}

func (w *worded) Error() string        { return w.text }
func (w *worded) Is(target error) bool { return errors.Is(w.err, target) }

// refused is the error of a reply with a status that is not wanted.
func (r request) refused(got reply) error {
	status := fmt.Sprintf("%d %s", got.status, stdhttp.StatusText(got.status))
	if got.status/100 == 3 {
		return fmt.Errorf("asking %s: it answers %s, and redirects are never followed: write the URL that it leads to", r.name(), status)
	}
	return fmt.Errorf("asking %s: it answers %s, with %s", r.name(), status, endpoint.Length(len(got.body), maxReply))
}

// document reads a reply of JSON.
func (r request) document(got reply) (any, error) {
	if len(got.body) > maxReply {
		return nil, fmt.Errorf("asking %s: the reply is longer than %d bytes", r.name(), maxReply)
	}
	decoder := json.NewDecoder(bytes.NewReader(bytes.TrimPrefix(got.body, []byte(byteOrderMark))))
	decoder.UseNumber()
	var document any
	if err := decoder.Decode(&document); err != nil {
		return nil, fmt.Errorf("asking %s: the reply is not JSON", r.name())
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("asking %s: the reply is more than one JSON value", r.name())
	}
	return document, nil
}

func always(int) bool { return true }
