package moto

import (
	"bytes"
	"encoding/json"
	"html"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"
)

// Proxy stands before moto, like AWS's front: it refuses inactive keys, records what is called, and has
// the network's faults.
type Proxy struct {
	// Endpoint is its URL.
	Endpoint string
	forward  *httputil.ReverseProxy
	// turn lets one call through at a time: AWS decides each one at once, where moto looks first and then writes, so that of two that mint
	// at the same time both may find the last slot free.
	turn sync.Mutex

	mu       sync.Mutex
	inactive map[string]bool
	late     int            // calls that are refused of each new key
	unknown  map[string]int // how many calls are still to be refused, by key
	calls    []Call
	hooks    map[string]*hook
	around   func(action, key string, when When) (goOn bool)
	most     map[string]int
	slots    map[string]map[string]bool
}

// Call is one that arrived.
type Call struct {
	At time.Time
	// Action is that of a policy, such as iam:CreateAccessKey.
	Action string
	// Key is the ID of the key that signed it.
	Key string
	// Status is the HTTP status that it was answered with, whether or not the answer arrived.
	Status int
	// Code is the error's, when it was one.
	Code string
}

// hook is what happens to the next calls of an action.
type hook struct {
	after int // this many pass first
	times int // then this many are hit
	fault func(w http.ResponseWriter, r *http.Request, pass func() *httptest.ResponseRecorder)
}

func newProxy(t T, address string) *Proxy {
	p := &Proxy{inactive: map[string]bool{}, unknown: map[string]int{}, hooks: map[string]*hook{}, most: map[string]int{}, slots: map[string]map[string]bool{}}
	p.forward = &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(&url.URL{Scheme: "http", Host: address})
		r.Out.Host = r.In.Host // it is signed
	}}
	p.forward.ErrorLog = log.New(io.Discard, "", 0) // of callers that have gone
	server := httptest.NewServer(p)
	t.Cleanup(server.Close)
	p.Endpoint = server.URL
	return p
}

var signedBy = regexp.MustCompile(`Credential=([^/]+)/\d+/[^/]+/([^/]+)/`)

// ServeHTTP implements http.Handler.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		return
	}
	form, _ := url.ParseQuery(string(body)) // JSON is none, and has no Action
	key, service := "", ""
	if found := signedBy.FindStringSubmatch(r.Header.Get("Authorization")); found != nil {
		key, service = found[1], found[2]
	}
	action := form.Get("Action")
	if target := r.Header.Get("X-Amz-Target"); target != "" {
		_, action, _ = strings.Cut(target, ".")
	}
	action = service + ":" + action
	r.Body = io.NopCloser(bytes.NewReader(body))
	pass := func() *httptest.ResponseRecorder {
		r.Body = io.NopCloser(bytes.NewReader(body))
		recorded := httptest.NewRecorder()
		if p.refuses(key) {
			refuse(recorded, service)
		} else {
			p.forwardAlone(recorded, r)
			recorded = asAWS(recorded, service)
		}
		p.record(Call{At: time.Now(), Action: action, Key: key, Status: recorded.Code, Code: codeOf(recorded)}, form, recorded.Body.String())
		return recorded
	}
	if h := p.hit(action); h != nil {
		h.fault(w, r, pass)
		return
	}
	p.mu.Lock()
	around := p.around
	p.mu.Unlock()
	if around == nil {
		answer(w, pass())
		return
	}
	if !around(action, key, Before) {
		panic(http.ErrAbortHandler)
	}
	recorded := pass()
	if !around(action, key, Amid) {
		panic(http.ErrAbortHandler)
	}
	answer(w, recorded)
	_ = http.NewResponseController(w).Flush()
	around(action, key, After)
}

func (p *Proxy) forwardAlone(w http.ResponseWriter, r *http.Request) {
	p.turn.Lock()
	defer p.turn.Unlock()
	p.forward.ServeHTTP(w, r)
}

func answer(w http.ResponseWriter, recorded *httptest.ResponseRecorder) {
	for name, values := range recorded.Header() {
		w.Header()[name] = values
	}
	w.WriteHeader(recorded.Code)
	_, _ = w.Write(recorded.Body.Bytes())
}

// refuse answers as AWS does to a key that it does not accept.
func refuse(w http.ResponseWriter, service string) {
	const code, message = "InvalidClientTokenId", "The security token included in the request is invalid."
	if service == "secretsmanager" {
		fail(w, service, http.StatusBadRequest, "UnrecognizedClientException", message)
		return
	}
	fail(w, service, http.StatusForbidden, code, message)
}

func fail(w http.ResponseWriter, service string, status int, code, message string) {
	if service == "secretsmanager" {
		w.Header().Set("X-Amzn-Errortype", code)
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, `{"__type":"`+code+`","message":"`+message+`"}`)
		return
	}
	w.Header().Set("Content-Type", "text/xml")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, "<ErrorResponse><Error><Type>Sender</Type><Code>"+code+"</Code><Message>"+message+"</Message></Error></ErrorResponse>")
}

var errorOf = regexp.MustCompile(`(?s)<Code>([^<]+)</Code>.*?<Message>([^<]*)</Message>`)

var anyCode = regexp.MustCompile(`<Code>([^<]+)</Code>|"__type": ?"([^"]+)"`)

func codeOf(recorded *httptest.ResponseRecorder) string {
	found := anyCode.FindStringSubmatch(recorded.Body.String())
	if recorded.Code == http.StatusOK || found == nil {
		return ""
	}
	return found[1] + found[2]
}

// asAWS gives moto's refusal of a caller, which is the same for all services, the form of the service.
func asAWS(recorded *httptest.ResponseRecorder, service string) *httptest.ResponseRecorder {
	found := errorOf.FindStringSubmatch(recorded.Body.String())
	if recorded.Code != http.StatusForbidden || found == nil {
		return recorded
	}
	formed := httptest.NewRecorder()
	switch code := found[1]; {
	case code == "InvalidClientTokenId":
		refuse(formed, service)
	case code == "AccessDenied" && service == "secretsmanager":
		fail(formed, service, http.StatusBadRequest, "AccessDeniedException", found[2])
	default:
		fail(formed, service, http.StatusForbidden, code, found[2])
	}
	return formed
}

func (p *Proxy) refuses(key string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.unknown[key] > 0 {
		p.unknown[key]--
		return true
	}
	return p.inactive[key]
}

// NewKeysAreLate lets the first calls of each key that is minted from now on be refused, as by hosts of IAM that do not know it yet.
func (p *Proxy) NewKeysAreLate(calls int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.late = calls
}

var minted = regexp.MustCompile(`<AccessKeyId>([^<]+)</AccessKeyId>`)

// record remembers a call, and what it did to keys.
func (p *Proxy) record(c Call, form url.Values, body string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls = append(p.calls, c)
	if c.Status != http.StatusOK {
		return
	}
	id, user := form.Get("AccessKeyId"), form.Get("UserName")
	switch c.Action {
	case "iam:UpdateAccessKey":
		p.inactive[id] = form.Get("Status") == "Inactive"
	case "iam:DeleteAccessKey":
		delete(p.slots[user], id)
	case "iam:CreateAccessKey":
		ids := minted.FindAllStringSubmatch(body, -1)
		p.held(user, ids)
		for _, id := range ids {
			p.unknown[id[1]] = p.late
		}
	case "iam:ListAccessKeys":
		p.slots[user] = nil
		p.held(user, minted.FindAllStringSubmatch(body, -1))
	}
}

// held notes keys of a user, and how many there were at most.
func (p *Proxy) held(user string, ids [][]string) {
	if p.slots[user] == nil {
		p.slots[user] = map[string]bool{}
	}
	for _, id := range ids {
		p.slots[user][id[1]] = true
	}
	p.most[user] = max(p.most[user], len(p.slots[user]))
}

// MostKeys is how many keys a user had at most at once.
func (p *Proxy) MostKeys(user string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.most[user]
}

// Calls are all that arrived so far, in order.
func (p *Proxy) Calls() []Call {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]Call(nil), p.calls...)
}

// Actions counts the calls by action that a key made.
func (p *Proxy) Actions(key string) map[string]int {
	counts := map[string]int{}
	for _, c := range p.Calls() {
		if c.Key == key {
			counts[c.Action]++
		}
	}
	return counts
}

// hit returns the hook that the call runs into, if any.
func (p *Proxy) hit(action string) *hook {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.hooks[action]
	switch {
	case h == nil, h.times == 0:
		return nil
	case h.after > 0:
		h.after--
		return nil
	}
	h.times--
	return h
}

func (p *Proxy) hook(action string, h *hook) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hooks[action] = h
}

// LoseReply lets calls of an action take effect, and cuts the connection instead of answering: times of
// them, after some that pass. The SDK repeats most calls twice by itself.
func (p *Proxy) LoseReply(action string, after, times int) {
	p.hook(action, &hook{after: after, times: times, fault: func(_ http.ResponseWriter, _ *http.Request, pass func() *httptest.ResponseRecorder) {
		pass()
		panic(http.ErrAbortHandler)
	}})
}

// Throttle refuses calls of an action without effect.
func (p *Proxy) Throttle(action string, after, times int) {
	p.Refuse(action, "ThrottlingException", after, times)
}

// Refuse refuses calls of an action without effect, with an error code.
func (p *Proxy) Refuse(action, code string, after, times int) {
	service, _, _ := strings.Cut(action, ":")
	p.hook(action, &hook{after: after, times: times, fault: func(w http.ResponseWriter, _ *http.Request, _ func() *httptest.ResponseRecorder) {
		fail(w, service, http.StatusBadRequest, code, "refused by the proxy")
	}})
}

// Swallow answers calls of an action as if they had taken effect, which they do not.
func (p *Proxy) Swallow(action string, after, times int) {
	p.hook(action, &hook{after: after, times: times, fault: func(w http.ResponseWriter, _ *http.Request, _ func() *httptest.ResponseRecorder) {
		_, _ = io.WriteString(w, "{}")
	}})
}

// Echo refuses calls of an action, and says back all that was sent and would have been answered.
func (p *Proxy) Echo(action string, after, times int) {
	service, _, _ := strings.Cut(action, ":")
	p.hook(action, &hook{after: after, times: times, fault: func(w http.ResponseWriter, r *http.Request, pass func() *httptest.ResponseRecorder) {
		sent, _ := io.ReadAll(r.Body)
		text, _ := json.Marshal(string(sent) + pass().Body.String() + "\x1b[31m**echo**") // a string marshals
		fail(w, service, http.StatusInternalServerError, "InternalFailure", html.EscapeString(strings.Trim(string(text), `"`)))
	}})
}

// Hang holds calls of an action until release, or until the caller is gone; they never have an effect.
func (p *Proxy) Hang(action string) (release func()) {
	done := make(chan struct{})
	p.hook(action, &hook{times: 1 << 30, fault: func(_ http.ResponseWriter, r *http.Request, _ func() *httptest.ResponseRecorder) {
		select {
		case <-done:
		case <-r.Context().Done():
		}
		panic(http.ErrAbortHandler)
	}})
	return sync.OnceFunc(func() {
		p.hook(action, nil)
		close(done)
	})
}

// When does something once, right after the next call of an action took effect and before it is answered.
func (p *Proxy) When(action string, do func()) {
	p.hook(action, &hook{times: 1, fault: func(w http.ResponseWriter, _ *http.Request, pass func() *httptest.ResponseRecorder) {
		recorded := pass()
		do()
		answer(w, recorded)
	}})
}

// When is a place in a call: before it has an effect, when it has one that the caller does not know of, and when
// the caller was answered.
type When string

// The places.
const (
	Before When = "before"
	Amid   When = "amid"
	After  When = "after"
)

// Around does something at each place of all calls that run into no fault, which wait for it. Where it returns false
// the connection is cut.
func (p *Proxy) Around(do func(action, key string, when When) (goOn bool)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.around = do
}
