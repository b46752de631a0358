// Command gateway is an API gateway whose keys keyturn rotates, as small as one can be: it lets through who has a live key.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/keyturn/keyturn/gateway"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:8480", "where requests come in")
	keyFile := flag.String("keys", "keys.json", "the key file, which keyturn writes")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := serve(ctx, *listen, *keyFile)
	stop()
	if err != nil {
		log.Fatal(err)
	}
}

func serve(ctx context.Context, listen, keyFile string) error {
	keys, err := gateway.OpenVerifier(keyFile, "")
	if err != nil {
		return err
	}
	defer func() { _ = keys.Close() }() // which reports the last uses
	mux := http.NewServeMux()
	mux.HandleFunc("/charges", func(w http.ResponseWriter, r *http.Request) {
		grant, ok := keys.VerifyFrom(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), r.RemoteAddr)
		if !ok {
			http.Error(w, "no valid key", http.StatusUnauthorized)
			return
		}
		fmt.Fprintln(w, "charged as", grant.Principal)
	})
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		if err := keys.Err(); err != nil { // while it cannot tell which keys are good, another one should serve
			http.Error(w, "keys cannot be told", http.StatusServiceUnavailable)
		}
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
