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
const requestTimeout = 5 * time.Second

// Consumer is one instance of a service that uses the key: it calls the gateway all the time, and follows
// its key file.
type Consumer struct {
	name    string
	gateway string
	every   time.Duration
	keys    *consumer.File
	client  *http.Client

	stop context.CancelFunc
	done chan struct{}

	mu     sync.Mutex
	counts Counts
}

// Counts are a consumer's requests. Every request that was sent is in just one of the others, but for
// one that is under way.
type Counts struct {
	// Name of the instance; Key is the fingerprint of the key in use, KeyID what the gateway called the
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
		reload = 365 * 24 * time.Hour
	}
	keys, err := consumer.Open(o.KeyFile, consumer.Options{Interval: reload})
	if err != nil {
		return nil, fmt.Errorf("starting consumer %s: %w", o.Name, err)
	}
	return &Consumer{
		name: o.Name, gateway: o.Gateway, every: o.Every, keys: keys,
		client: &http.Client{Timeout: requestTimeout, Transport: http.DefaultTransport.(*http.Transport).Clone()},
		done:   make(chan struct{}),
	}, nil
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
	_ = c.keys.Close()
	c.client.CloseIdleConnections()
}

// send makes one request with the key in use now.
func (c *Consumer) send(ctx context.Context) {
	c.mu.Lock()
	c.counts.Sent++
	c.mu.Unlock()
	status, keyID := c.ask(ctx, c.keys.Key())
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

// ask returns the status of the answer, 0 for none.
func (c *Consumer) ask(ctx context.Context, key string) (status int, keyID string) {
	// A request that was sent is waited for, also when the consumer is to end.
	req, err := http.NewRequestWithContext(context.WithoutCancel(ctx), http.MethodGet, c.gateway, nil)
	if err != nil {
		return 0, ""
	}
	req.Header.Set("Authorization", "Bearer "+key)
	req.Header.Set("User-Agent", c.name)
	resp, err := c.client.Do(req)
	if err != nil {
		return 0, ""
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<10)) // so that the connection is used again
	return resp.StatusCode, resp.Header.Get(keyIDHeader)
}

// Counts are the requests so far.
func (c *Consumer) Counts() Counts {
	c.mu.Lock()
	defer c.mu.Unlock()
	counts := c.counts
	counts.Name, counts.Key = c.name, c.keys.Fingerprint()
	return counts
}

// Handler serves what keyturn asks of a consumer: /healthz, the attestation at /keyturn, and /stats with
// errors and total since the start.
func (c *Consumer) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	mux.Handle("/keyturn", c.keys.Handler())
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
