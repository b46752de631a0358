package gateway_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"

	"github.com/keyturn/keyturn/gateway"
	"github.com/keyturn/keyturn/internal/secret"
	issuer "github.com/keyturn/keyturn/providers/gateway"
)

// A gateway that lets requests with a live key through, and is healthy while it can tell.
func Example() {
	if err := serve(); err != nil {
		log.Print(err)
	}
	// Output:
	// with the key: 200
	// with another: 401
	// healthy: 200
}

func serve() error {
	folder, err := os.MkdirTemp("", "keyturn-example")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(folder) }()
	keyFile := filepath.Join(folder, "keys.json")
	if err := gateway.Create(context.Background(), keyFile); err != nil { // once, when the gateway is set up
		return err
	}
	// In production keyturn issues the keys.
	if err := issuer.AddKey(context.Background(), keyFile, issuer.ExistingKey{Principal: "payments-api", KeyID: "key-2024-07"}, secret.New([]byte("a-key"))); err != nil {
		return err
	}

	keys, err := gateway.OpenVerifier(keyFile, "")
	if err != nil {
		return err
	}
	defer func() { _ = keys.Close() }()

	mux := http.NewServeMux()
	mux.HandleFunc("/charges", func(w http.ResponseWriter, r *http.Request) {
		grant, ok := keys.VerifyFrom(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), r.RemoteAddr)
		if !ok {
			http.Error(w, "no valid key", http.StatusUnauthorized)
			return
		}
		fmt.Fprintln(w, "hello", grant.Principal)
	})
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		if err := keys.Err(); err != nil { // while it cannot tell, another one should serve
			http.Error(w, "keys cannot be told", http.StatusServiceUnavailable)
		}
	})
	server := httptest.NewServer(mux)
	defer server.Close()

	for _, ask := range []struct{ what, path, value string }{
		{"with the key", "/charges", "a-key"}, {"with another", "/charges", "guessed"}, {"healthy", "/healthz", ""},
	} {
		request, err := http.NewRequest(http.MethodGet, server.URL+ask.path, nil)
		if err != nil {
			return err
		}
		request.Header.Set("Authorization", "Bearer "+ask.value)
		answer, err := http.DefaultClient.Do(request)
		if err != nil {
			return err
		}
		answer.Body.Close()
		fmt.Printf("%s: %d\n", ask.what, answer.StatusCode)
	}
	return nil
}
