package gatewayfile

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/keyturn/keyturn/internal/outside"
)

var time0 = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func FuzzParseKeys(f *testing.F) {
	r := Record{ID: "a", Principal: "p", State: "active", CreatedAt: time0}
	r.SetValue([]byte("x"))
	whole, err := encode(KeyFile{Schema: keysSchema, Keys: []Record{r}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add([]byte(`{"schema":"keyturn/gateway-keys/v1","keys":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		parsed, err := parseKeys(data)
		if err != nil {
			if len(err.Error()) > 400 {
				t.Fatal("an error repeats too much of the file")
			}
			return
		}
		parsed.Index().Find([]byte("x"))
		again, err := encode(parsed)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseKeys(again); err != nil {
			t.Fatalf("what was read cannot be written and read again: %v", err)
		}
	})
}

func FuzzParseUsage(f *testing.F) {
	f.Add([]byte(`{"schema":"keyturn/gateway-usage/v1","since":"2025-01-01T00:00:00Z","lastUsed":{"a":{"at":"2026-01-02T00:00:00Z","from":"\u001b[2J\u202e"}}}`))
	f.Add([]byte(`{"schema":"keyturn/gateway-usage/v1","since":"2026-01-01T00:00:00Z","lastUsed":{"a":{"at":"2026-01-02T00:00:00Z"}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if u, err := parseUsage(data); err == nil {
			u.merge(map[string]Use{"a": {At: time0}})
			_, from := u.Of(Record{ID: "a", CreatedAt: time0})
			assert.LessOrEqual(t, len(from), maxFrom)
			assert.Equal(t, outside.Text(from, maxFrom), from, "it may be shown")
		}
	})
}
