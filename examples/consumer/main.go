// Command consumer is a service that calls a gateway with a key that keyturn rotates: it follows its key file, and tells keyturn
// how it is, which key it uses, and how many of its requests failed.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"log"
	"net/http"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/keyturn/keyturn/consumer"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:8481", "where keyturn asks")
	keyFile := flag.String("key-file", "payments-api", "the file with the key, which keyturn delivers")
	gateway := flag.String("gateway", "http://127.0.0.1:8480/charges", "what is called with the key")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *listen, *keyFile, *gateway)
	stop()
	if err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, listen, keyFile, gateway string) error {
	key, err := consumer.Open(keyFile, consumer.Options{OnChange: func() { log.Print("another key is in use") }, OnError: func(err error) { log.Print(err) }})
	if err != nil {
		return err
	}
	defer func() { _ = key.Close() }()
	var total, failed atomic.Int64
	go func() {
		for range time.Tick(100 * time.Millisecond) {
			if !charge(gateway, key.Key()) {
				failed.Add(1)
			}
			total.Add(1)
		}
	}()

	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(http.ResponseWriter, *http.Request) {})
	mux.Handle("/keyturn", key.Handler()) // the attestation
	mux.HandleFunc("/stats", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]int64{"errors": failed.Load(), "total": total.Load()})
	})
	server := &http.Server{Addr: listen, Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() {
		<-ctx.Done()
		_ = server.Close()
	}()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// charge makes one request, and tells whether it was answered well. The key is asked for anew each time.
func charge(gateway, key string) bool {
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, gateway, nil)
	if err != nil {
		return false
	}
	req.Header.Set("Authorization", "Bearer "+key)
	client := http.Client{Timeout: 10 * time.Second}
	resp, err := client.Do(req)
	if err != nil {
		return false
	}
	defer func() { _ = resp.Body.Close() }()
	return resp.StatusCode == http.StatusOK
}
