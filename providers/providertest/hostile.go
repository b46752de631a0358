package providertest

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/secret"
)

const (
	// mostTaken is how much of a reply may be taken, with all that kernels keep between two sockets; endless
	// is how much there is of one that has no end.
	mostTaken = 24 << 20
	endless   = 96 << 20
	// longText is the length of an error text beyond reason.
	longText = 10 << 20
)

// Reply is what a peer answers that means harm.
type Reply struct {
	Name string
	// Status of an HTTP reply. A program succeeds with 200 alone.
	Status int
	// ContentType and Encoding are headers of an HTTP reply.
	ContentType, Encoding string
	// Slow: it does not end before whoever asked gives up.
	Slow bool
	// body writes the reply, until w fails or ctx ends; told is the secret that the peer was sent.
	body func(ctx context.Context, w io.Writer, told string)
}

// Write writes the body of the reply as a peer does that was sent the secrets.
func (r Reply) Write(ctx context.Context, w io.Writer, sent secret.Bundle) {
	var told []string
	for _, v := range values(sent) {
		told = append(told, string(v))
	}
	r.body(ctx, w, strings.Join(told, " "))
}

// Serve starts a server that answers each request with the reply, as one that was sent the secrets. taken
// is the most that anybody took of a body.
func (r Reply) Serve(t T, sent secret.Bundle) (address string, taken func() int64) {
	t.Helper()
	var most atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		_, _ = io.Copy(io.Discard, req.Body)
		w.Header().Set("Content-Type", r.ContentType)
		if r.Encoding != "" {
			w.Header().Set("Content-Encoding", r.Encoding)
		}
		w.WriteHeader(r.Status)
		counted := &counter{to: w}
		r.Write(req.Context(), counted, sent)
		for before := most.Load(); counted.taken > before && !most.CompareAndSwap(before, counted.taken); before = most.Load() {
		}
	}))
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	return server.URL, func() int64 {
		server.CloseClientConnections()
		server.Close() // waits for the handlers
		return most.Load()
	}
}

type counter struct {
	to    io.Writer
	taken int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.to.Write(p)
	c.taken += int64(n)
	if f, ok := c.to.(http.Flusher); ok {
		f.Flush()
	}
	return n, err
}

// Replies are the hostile ones, the same for whoever reads replies.
func Replies() []Reply {
	const text, html, xml, object = "text/plain", "text/html", "text/xml", "application/json"
	repeat := func(piece string, most int) func(context.Context, io.Writer, string) {
		return func(ctx context.Context, w io.Writer, _ string) { write(ctx, w, "", piece, most) }
	}
	after := func(begin, piece string) func(context.Context, io.Writer, string) {
		return func(ctx context.Context, w io.Writer, _ string) { write(ctx, w, begin, piece, endless) }
	}
	once := func(what string) func(context.Context, io.Writer, string) { return repeat(what, len(what)) }
	list := []Reply{
		{Name: "an endless body", ContentType: text, body: repeat(strings.Repeat("x", 32<<10), endless)},
		{Name: "an endless string of JSON", ContentType: object, body: after(`{"__type":"x","message":"`, strings.Repeat("x", 32<<10))},
		{Name: "endless text of XML", ContentType: xml, body: after(`<ErrorResponse><Error><Code>x</Code><Message>`, strings.Repeat("x", 32<<10))},
		{Name: "endless depth", ContentType: object, body: repeat(strings.Repeat("[", 32<<10), endless)},
		{Name: "endless depth of XML", ContentType: xml, body: repeat(strings.Repeat("<a>", 10<<10), endless)},
		{Name: "a bomb of gzip", ContentType: object, Encoding: "gzip", body: bomb},
		{Name: "a byte now and then", ContentType: object, Slow: true, body: drip},
		{Name: "a page of HTML", ContentType: html, body: once(`<!DOCTYPE html><html><body><script>alert(1)</script><h1>Sign in</h1></body></html>`)},
		{Name: "other types", ContentType: object, body: once(`{"key":{"a":[1,{}]},"keys":"x","ok":"yes","errors":"NaN","total":[],"SecretString":7,"Versions":{},"ARN":[],"__type":[]}`)},
		{Name: "other elements", ContentType: xml, body: once(`<ErrorResponse><Error><Error>x</Error><Code><b/></Code></Error></ErrorResponse>`)},
		{Name: "half of a reply", ContentType: object, body: once(`{"key":"fp:`)},
		{Name: "what a terminal or a page would obey", ContentType: text, body: once("\x1b]0;t\x07\x1b[2J\u009b31m\u202egnp\u2066.\r\n\x00\xff\x7f# now\n[a](https://evil.example) <img src=x onerror=alert(1)>`*_~|\n")},
		{Name: "the same in JSON", ContentType: object, body: once(`{"__type":"\u001b[2J#E\u202e","message":"\u001b[2J\u202e\u0000\r\n[a](https://evil.example)","ok":false}`)},
		{Name: "the same in XML", ContentType: xml, body: once("<ErrorResponse><Error><Code>&#x202e;&#x9b;31m</Code><Message>&#x202e;&#x9b;31m\r\n&lt;script&gt;</Message></Error></ErrorResponse>")},
		{Name: "a long text with the secret in it", ContentType: text, body: func(ctx context.Context, w io.Writer, told string) {
			write(ctx, w, "", " "+strings.Join(forms(told), " "), longText)
		}},
		{Name: "a long text of halves of the secret", ContentType: text, body: func(ctx context.Context, w io.Writer, told string) {
			var halves []string
			for _, f := range forms(told) {
				halves = append(halves, f[:len(f)/2], f[len(f)/2:])
			}
			write(ctx, w, "", "\x1b[1m"+strings.Join(halves, ".\n"), longText)
		}},
		{Name: "a secret where the text is cut", ContentType: text, body: func(ctx context.Context, w io.Writer, told string) {
			write(ctx, w, strings.Repeat("x", 1000), told, 2000)
		}},
		{Name: "the secret as code and message of an error in JSON", ContentType: object, body: func(ctx context.Context, w io.Writer, told string) {
			quoted, _ := json.Marshal(strings.Join(forms(told), " "))
			write(ctx, w, fmt.Sprintf(`{"ok":false,"__type":%s,"message":%s}`, quoted, quoted), "", 0)
		}},
		{Name: "the secret as code and message of an error in XML", ContentType: xml, body: func(ctx context.Context, w io.Writer, told string) {
			text := strings.NewReplacer("&", "&amp;", "<", "&lt;").Replace(strings.Join(forms(told), " "))
			write(ctx, w, fmt.Sprintf(`<ErrorResponse><Error><Code>%s</Code><Message>%s</Message></Error></ErrorResponse>`, text, text), "", 0)
		}},
		{Name: "nothing", ContentType: object, body: once("")},
	}
	var all []Reply
	for _, status := range []int{http.StatusOK, http.StatusForbidden, http.StatusInternalServerError} {
		for _, r := range list {
			r.Name, r.Status = fmt.Sprintf("%s, with status %d", r.Name, status), status
			all = append(all, r)
		}
	}
	return all
}

// write writes the beginning, and then pieces until there are so many bytes of them: many in one go, as each is flushed.
func write(ctx context.Context, w io.Writer, begin, piece string, most int) {
	if _, err := io.WriteString(w, begin); err != nil {
		return
	}
	if some := min(most, 32<<10); 0 < len(piece) && len(piece) < some {
		piece = strings.Repeat(piece, some/len(piece))
	}
	for n := 0; n < most && piece != "" && ctx.Err() == nil; n += len(piece) {
		if _, err := io.WriteString(w, piece); err != nil {
			return
		}
	}
}

// drip writes a byte now and then, which keeps a connection busy for ever.
func drip(ctx context.Context, w io.Writer, _ string) {
	ticks := time.NewTicker(20 * time.Millisecond)
	defer ticks.Stop()
	for {
		if _, err := io.WriteString(w, " "); err != nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-ticks.C:
		}
	}
}

// bomb writes what unpacks to a thousand times its length.
func bomb(_ context.Context, w io.Writer, _ string) { _, _ = w.Write(packed()) }

// packed is the bomb: members of a gzip stream unpack one after the other, so that one is packed for all.
var packed = sync.OnceValue(func() []byte {
	member := func(text string) []byte {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		_, _ = io.WriteString(w, text) // to memory
		_ = w.Close()
		return b.Bytes()
	}
	return append(member(`{"key":"`), bytes.Repeat(member(strings.Repeat("x", 1<<20)), 256)...)
})

// forms are the ways in which a peer may write what it was told.
func forms(told string) []string {
	plain := []byte(told)
	quoted, _ := json.Marshal(told)
	list := []string{told, hex.EncodeToString(plain), strings.ToUpper(hex.EncodeToString(plain)), url.QueryEscape(told), string(quoted)}
	for _, before := range []string{"", "u", "u:"} {
		list = append(list, base64.StdEncoding.EncodeToString([]byte(before+told)), base64.RawURLEncoding.EncodeToString([]byte(before+told)))
	}
	return list
}

// HostileSetup is the world of whoever reads replies.
type HostileSetup struct {
	// Sent are the secrets that the peer is sent; the zero one for none.
	Sent secret.Bundle
	// Open starts a peer that answers each question with the reply. ask puts one; taken is the most that the
	// peer got rid of in one reply, nil where that cannot be told.
	Open func(t T, r Reply) (ask func(ctx context.Context) error, taken func() int64)
	// Content: what a peer says that is well is read, so that none of the replies is an answer.
	Content bool
}

// Hostile proves that no reply does harm: a call ends with its context and with an error that may be shown,
// and takes of a reply what it needs, whatever more there is.
func Hostile(t *testing.T, s HostileSetup) {
	t.Helper()
	run(t, HostileCases(s))
}

// HostileCases has a case for each of the replies.
func HostileCases(s HostileSetup) []Case {
	var cases []Case
	for _, r := range Replies() {
		cases = append(cases, Case{r.Name, func(t T) {
			ask, taken := s.Open(t, r)
			deadline := 20 * time.Second
			if r.Slow {
				deadline = 300 * time.Millisecond
			}
			ctx, returned := within(t, deadline)
			err := ask(ctx)
			returned()
			if taken != nil {
				assert.LessOrEqual(t, taken(), int64(mostTaken), "what is read of a reply is bounded")
			}
			if s.Content || r.Status != http.StatusOK {
				require.Error(t, err, "it is no answer")
			}
			if err == nil {
				return
			}
			assertFit(t, err)
			assertUntold(t, err, s.Sent)
		}})
	}
	return cases
}

// assertUntold asserts that an error has no secret, nor half of one, in any form.
func assertUntold(t T, err error, sent secret.Bundle) {
	t.Helper()
	const tellsNothing = 8 // bytes of a form
	text := err.Error()
	text = text[:min(len(text), 64<<10)] // that it is too long is another finding
	for _, v := range values(sent) {
		for _, form := range forms(string(v)) {
			half := max(tellsNothing, len(form)/2)
			for from := 0; from+half <= len(form); from++ {
				if strings.Contains(text, form[from:from+half]) {
					assert.Fail(t, "an error has half of a secret, or more")
					return
				}
			}
		}
	}
}
