package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/keyturn/keyturn/consumer"
)

// requestTimeout is when a request counts as failed.
const requestTimeout = 30 * time.Second

// Consumer is one instance of a service that uses the key: it makes requests all the time, and follows the
// place where its key is.
type Consumer struct {
	name   string
	every  time.Duration
	source source

	stop context.CancelFunc
	done chan struct{}

	mu     sync.Mutex
	counts Counts
}

// source is where a consumer has its key from, and what it does with it.
type source interface {
	// use makes one request with the key in use now. It returns the HTTP status, 0 for no answer, and what
	// the key is called by whoever answered.
	use(ctx context.Context) (status int, keyID string)
	// key is what the consumer states of its key.
	key() string
	// attest serves the statement.
	attest(w http.ResponseWriter, r *http.Request)
	close()
}

// Counts are a consumer's requests. Every request that was sent is in just one of the others, but for
// one that is under way.
type Counts struct {
	// Name of the instance; Key is what it states of the key in use, KeyID what was told of the
	// key of the last request.
	Name  string `json:"name"`
	Key   string `json:"key"`
	KeyID string `json:"keyID,omitempty"`

	Sent     int `json:"sent"`
	Accepted int `json:"accepted"`
	// Refused are those that the gateway answered with 401 or 403.
	Refused int `json:"refused"`
	// Failed are those that got another answer, or none.
	Failed int `json:"failed"`
}

// ConsumerOptions say how a consumer behaves.
type ConsumerOptions struct {
	// Name of the instance, sent with each request.
	Name string
	// KeyFile is what it reads its key from; it must exist.
	KeyFile string
	// Gateway is the URL that it calls.
	Gateway string
	// Every is the time between two requests.
	Every time.Duration
	// Stuck: it never reads its key file again.
	Stuck bool
}

// NewConsumer begins to follow the key file, but sends nothing before Run.
func NewConsumer(o ConsumerOptions) (*Consumer, error) {
	reload := 100 * time.Millisecond
	if o.Stuck {
		reload = never
	}
	keys, err := consumer.Open(o.KeyFile, consumer.Options{Interval: reload})
	if err != nil {
		return nil, fmt.Errorf("starting consumer %s: %w", o.Name, err)
	}
	return newConsumer(o.Name, o.Every, &keyFile{
		name: o.Name, gateway: o.Gateway, keys: keys,
		client: &http.Client{Timeout: requestTimeout, Transport: http.DefaultTransport.(*http.Transport).Clone()},
	}), nil
}

// never is longer than anything here runs.
const never = 365 * 24 * time.Hour

func newConsumer(name string, every time.Duration, from source) *Consumer {
	return &Consumer{name: name, every: every, source: from, done: make(chan struct{})}
}

// keyFile is a source that calls the gateway with the key in a file.
type keyFile struct {
	name, gateway string
	keys          *consumer.File
	client        *http.Client
}

func (f *keyFile) key() string { return f.keys.Fingerprint() }

func (f *keyFile) attest(w http.ResponseWriter, r *http.Request) { f.keys.Handler().ServeHTTP(w, r) }

func (f *keyFile) close() {
	_ = f.keys.Close()
	f.client.CloseIdleConnections()
}

func (f *keyFile) use(ctx context.Context) (status int, keyID string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.gateway, nil)
	if err != nil {
		return 0, ""
	}
	req.Header.Set("Authorization", "Bearer "+f.keys.Key())
	req.Header.Set("User-Agent", f.name)
	resp, err := f.client.Do(req)
	if err != nil {
		return 0, ""
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<10)) // so that the connection is used again
	return resp.StatusCode, resp.Header.Get(keyIDHeader)
}

// Run sends requests until ctx ends or Close, from another goroutine. Call it once.
func (c *Consumer) Run(ctx context.Context) {
	ctx, c.stop = context.WithCancel(ctx)
	go func() {
		defer close(c.done)
		ticker := time.NewTicker(c.every)
		defer ticker.Stop()
		for {
			c.send(ctx)
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
		}
	}()
}

// Close ends the requests; the one under way is answered first.
func (c *Consumer) Close() {
	if c.stop != nil {
		c.stop()
		<-c.done
	}
	c.source.close()
}

// send makes one request with the key in use now.
func (c *Consumer) send(ctx context.Context) {
	c.mu.Lock()
	c.counts.Sent++
	c.mu.Unlock()
	// A request that was sent is waited for, also when the consumer is to end.
	status, keyID := c.source.use(context.WithoutCancel(ctx))
	c.mu.Lock()
	defer c.mu.Unlock()
	switch status {
	case http.StatusOK:
		c.counts.Accepted++
	case http.StatusUnauthorized, http.StatusForbidden:
		c.counts.Refused++
	default:
		c.counts.Failed++
	}
	if keyID != "" {
		c.counts.KeyID = keyID
	}
}

// Counts are the requests so far.
func (c *Consumer) Counts() Counts {
	c.mu.Lock()
	defer c.mu.Unlock()
	counts := c.counts
	counts.Name, counts.Key = c.name, c.source.key()
	return counts
}

// Handler serves what keyturn asks of a consumer: /healthz, the attestation at /keyturn, and /stats with
// errors and total since the start.
func (c *Consumer) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	mux.HandleFunc("/keyturn", c.source.attest)
	mux.HandleFunc("/stats", func(w http.ResponseWriter, _ *http.Request) {
		n := c.Counts()
		reply(w, map[string]int{"errors": n.Refused + n.Failed, "total": n.Accepted + n.Refused + n.Failed})
	})
	return mux
}

func reply(w http.ResponseWriter, what any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(what) // the client is gone
}
