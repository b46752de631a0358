package consumer_test

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"

	"github.com/keyturn/keyturn/consumer"
)

// A service that calls an API with a key from a file, and attests which one.
func Example() {
	if err := service(); err != nil {
		log.Print(err)
	}
	// Output:
	// attests its fingerprint: true
	// tells the key: false
}

func service() error {
	folder, err := os.MkdirTemp("", "keyturn-example")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(folder) }()
	path := filepath.Join(folder, "payments-api") // in production, keyturn writes it
	if err := os.WriteFile(path, []byte("ktg_Zq81mW0pLx7TRe2uA9sVfB3nKcYh5dJt"), 0o600); err != nil {
		return err
	}

	keys, err := consumer.Open(path, consumer.Options{OnError: func(err error) { log.Print(err) }})
	if err != nil {
		return err
	}
	defer func() { _ = keys.Close() }()

	mux := http.NewServeMux()
	mux.Handle("/keyturn", keys.Handler())
	server := httptest.NewServer(mux) // in production, on a loopback address
	defer server.Close()

	resp, err := http.Get(server.URL + "/keyturn")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	statement, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	fmt.Println("attests its fingerprint:", strings.Contains(string(statement), keys.Fingerprint()))
	fmt.Println("tells the key:", strings.Contains(string(statement), keys.Key()))
	return nil
}
