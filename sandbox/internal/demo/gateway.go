// Package demo is the world that the sandbox rotates a key in: a gateway that checks keys, and three
// consumers that call it all the time with the key from their own files. It counts every request, so
// that "no request was refused" is a number.
package demo

import (
	"cmp"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/keyturn/keyturn/internal/outside"
)

// Verify tells which key a value is, "" for none, and whether the gateway accepts it from the caller.
type Verify func(value, caller string) (keyID string, accepted bool)

// keyIDHeader tells the caller which key it used.
const keyIDHeader = "X-Key-ID"

// Gateway accepts requests that bear a valid key, and counts all of them.
type Gateway struct {
	verify Verify
	now    func() time.Time

	mu     sync.Mutex
	ledger map[account]*Entry
}

type account struct{ keyID, caller string }

// Entry is what the gateway saw of one caller with one key.
type Entry struct {
	// KeyID is empty for a value that is no key, and for none at all.
	KeyID string `json:"keyID,omitempty"`
	// Caller is what the caller says of itself. keyturn's own probes are "keyturn".
	Caller   string    `json:"caller"`
	Accepted int       `json:"accepted"`
	Refused  int       `json:"refused"`
	First    time.Time `json:"first"`
	Last     time.Time `json:"last"`
}

// NewGateway makes a gateway that asks verify for each request.
func NewGateway(verify Verify) *Gateway {
	return &Gateway{verify: verify, now: time.Now, ledger: map[account]*Entry{}}
}

// Handler serves /ping: 200 with a valid key in "Authorization: Bearer" or "X-API-Key", else 401.
func (g *Gateway) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/ping", func(w http.ResponseWriter, r *http.Request) {
		keyID, accepted := g.verify(presented(r), r.UserAgent())
		g.count(keyID, r.UserAgent(), accepted)
		if keyID != "" {
			w.Header().Set(keyIDHeader, keyID)
		}
		if !accepted {
			w.Header().Set("WWW-Authenticate", `Bearer realm="demo"`)
			http.Error(w, "no valid key", http.StatusUnauthorized)
			return
		}
		_, _ = w.Write([]byte("pong\n"))
	})
	return mux
}

// presented is the key that a request bears.
func presented(r *http.Request) string {
	scheme, value, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if strings.EqualFold(scheme, "Bearer") {
		return strings.TrimSpace(value)
	}
	return r.Header.Get("X-API-Key")
}

func (g *Gateway) count(keyID, caller string, accepted bool) {
	const longest = 100 // a caller may say anything
	caller = outside.Cut(caller, longest)
	g.mu.Lock()
	defer g.mu.Unlock()
	at := g.now().UTC()
	e := g.ledger[account{keyID, caller}]
	if e == nil {
		e = &Entry{KeyID: keyID, Caller: caller, First: at}
		g.ledger[account{keyID, caller}] = e
	}
	e.Last = at
	if accepted {
		e.Accepted++
	} else {
		e.Refused++
	}
}

// Ledger is everything that the gateway saw, by the time at which it first saw it.
func (g *Gateway) Ledger() []Entry {
	g.mu.Lock()
	defer g.mu.Unlock()
	var entries []Entry
	for e := range maps.Values(g.ledger) {
		entries = append(entries, *e)
	}
	slices.SortFunc(entries, func(a, b Entry) int {
		return cmp.Or(a.First.Compare(b.First), cmp.Compare(a.KeyID, b.KeyID), cmp.Compare(a.Caller, b.Caller))
	})
	return entries
}
