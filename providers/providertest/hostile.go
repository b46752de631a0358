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
	// Answers: beside the secrets it has what an attestation, a health signal or a program is asked for.
	Answers bool
	// body writes the reply, until w fails or ctx ends; told are the secrets that the peer knows.
	body func(ctx context.Context, w io.Writer, told string)
}

// held are the keys of the credential that each peer has, whatever it is sent: the retiring and the incoming one.
var held = secret.NewBundle(map[string]secret.Value{
	"retiring": secret.New([]byte("rtg_Hk4WcX8zPq1nVb6TgYd3Jm9sRf2LuA7e")),
	"incoming": secret.New([]byte("inc_Qw7Mz2/KxT5rNv+9LpBj4HsDy8GcUa3f")),
})

// Write writes the body of the reply as a peer does that has keys of the credential and was sent the secrets.
func (r Reply) Write(ctx context.Context, w io.Writer, sent secret.Bundle) {
	r.body(ctx, w, known(sent))
}

// known are all secrets of a peer that was sent some, in one line.
func known(sent secret.Bundle) string {
	var told []string
	for _, v := range append(values(sent), values(held)...) {
		told = append(told, string(v))
	}
	return strings.Join(told, " ")
}

// Serve starts a server that answers each request with the reply, as one that was sent the secrets. taken
// is the most that anybody took of a body.
func (r Reply) Serve(t T, sent secret.Bundle) (address string, taken func() int64) {
	t.Helper()
	var most atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		_, _ = io.Copy(io.Discard, req.Body)
		w.Header().Set("Content-Type", r.ContentType)
		w.Header().Set("X-Amzn-Requestid", known(sent))
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
		{Name: "other keys of the credential alone", ContentType: object, body: func(ctx context.Context, w io.Writer, _ string) {
			others := quoted(known(secret.Bundle{}))
			write(ctx, w, fmt.Sprintf(`{"ok":false,"__type":%s,"reason":%s,"message":%s}`, others, others, others), "", 0)
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
	return append(all, telling()...)
}

// telling are replies that repeat the secrets, in each way to write them: as JSON and as XML has an error's code, reason and
// message, and beside an answer.
func telling() []Reply {
	const failed = `{"ok":false,"__type":TOLD,"reason":TOLD,"message":TOLD}`
	var all []Reply
	for _, as := range writings {
		add := func(name string, status int, format string) {
			body := func(ctx context.Context, w io.Writer, told string) {
				text := quoted(as.write(told))
				if strings.HasPrefix(format, "<") {
					text = strings.NewReplacer("&", "&amp;", "<", "&lt;").Replace(as.write(told))
				}
				write(ctx, w, strings.ReplaceAll(format, "TOLD", text), "", 0)
			}
			all = append(all, Reply{Name: fmt.Sprintf("%s, %s, with status %d", name, as.name, status), Status: status, ContentType: "application/octet-stream", body: body})
		}
		add("the secret as code, reason and message in JSON", http.StatusOK, failed)
		add("the secret as code, reason and message in JSON", http.StatusForbidden, failed)
		add("the secret as code and message in XML", http.StatusForbidden,
			`<ErrorResponse><Error><Code>TOLD</Code><Message>TOLD</Message></Error><RequestId>TOLD</RequestId></ErrorResponse>`)
		add("an answer with the secret beside it", http.StatusOK,
			`{"ok":true,"key":"`+harmless+`","keys":["`+harmless+`"],"errors":1,"total":2,"message":TOLD,"reason":TOLD,TOLD:1}`)
		all[len(all)-1].Answers = true
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

// harmless is a statement that tells nothing.
const harmless = "fp:00112233445566778899aabbccddeeff"

func quoted(text string) string {
	quoted, _ := json.Marshal(text) // a string can always be
	return string(quoted)
}

// writings are the ways in which a peer may write what it knows.
var writings = []struct {
	name  string
	write func(told string) string
}{
	{"as it is", func(told string) string { return told }},
	{"escaped as in JSON", func(told string) string { return each(told, `\u%04x`) }},
	{"escaped as in HTML", func(told string) string { return each(told, "&#%d;") }},
	{"escaped as in a URL", func(told string) string { return each(told, "%%%02X") }},
	{"quoted", quoted},
	{"in hexadecimal", func(told string) string { return hex.EncodeToString([]byte(told)) }},
	{"in upper-case hexadecimal", func(told string) string { return strings.ToUpper(hex.EncodeToString([]byte(told))) }},
	{"in Base64", func(told string) string { return base64.StdEncoding.EncodeToString([]byte("u:" + told)) }},
	{"in Base64 for URLs", func(told string) string { return base64.RawURLEncoding.EncodeToString([]byte("u" + told)) }},
	{"in pieces between spaces", func(told string) string { return pieces(told, " ") }},
	{"in pieces between lines", func(told string) string { return pieces(told, "\r\n") }},
	{"in pieces between quotes", func(told string) string { return pieces(told, `" + "`) }},
	{"in pieces between hyphens", func(told string) string { return pieces(told, "-") }},
}

// Tellings are texts of a peer that repeats all secrets that it knows, one for each way to write them.
func Tellings(sent secret.Bundle) []string { return forms(known(sent)) }

func forms(told string) []string {
	var list []string
	for _, as := range writings {
		list = append(list, as.write(told))
	}
	return list
}

// each writes the bytes of a text one by one.
func each(text, format string) string {
	var b strings.Builder
	for i := range len(text) {
		fmt.Fprintf(&b, format, text[i])
	}
	return b.String()
}

// pieces writes a text in pieces that are too short to be looked for.
func pieces(text, between string) string {
	const length = 5
	var b strings.Builder
	for ; len(text) > length; text = text[length:] {
		b.WriteString(text[:length] + between)
	}
	return b.String() + text
}

// HostileSetup is the world of whoever reads replies.
type HostileSetup struct {
	// Sent are the secrets that the peer is sent; the zero one for none.
	Sent secret.Bundle
	// Open starts a peer that answers each question with the reply. ask puts one, and returns whatever is told of
	// the answer beside the error; taken is the most that the peer got rid of in one reply, nil where that cannot be told.
	Open func(t T, r Reply) (ask func(ctx context.Context) (told any, err error), taken func() int64)
	// Content: what a peer says that is well is read, so that none of the replies is an answer, but one that Answers.
	Content bool
}

// Hostile proves that no reply does harm: a call ends with its context, and takes of a reply what it needs, whatever more
// there is; what it tells of it may be shown, and has nothing of the secrets that the peer knows: of those that it was
// sent, and of other keys of the credential.
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
			told, err := ask(ctx)
			returned()
			if taken != nil {
				assert.LessOrEqual(t, taken(), int64(mostTaken), "what is read of a reply is bounded")
			}
			AssertUntold(t, fmt.Sprintf("%+v", told), s.Sent)
			if s.Content && !r.Answers || r.Status != http.StatusOK {
				require.Error(t, err, "it is no answer")
			}
			if err == nil {
				return
			}
			assertFit(t, err)
			AssertUntold(t, err.Error(), s.Sent)
		}})
	}
	return cases
}

// AssertUntold asserts that a text shows nothing of the secrets of a peer that was sent some, in any form.
func AssertUntold(t T, text string, sent secret.Bundle) {
	t.Helper()
	text = text[:min(len(text), 64<<10)] // that it is too long is another finding
	assert.False(t, sent.ShownIn(text) || held.ShownIn(text), "a part of a secret is shown")
}
