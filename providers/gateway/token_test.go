package gateway

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/keyturn/keyturn/internal/outside"
	"github.com/keyturn/keyturn/internal/secret"
)

var time0 = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func TestMintedTokens(t *testing.T) {
	t.Parallel()
	scanner := regexp.MustCompile(TokenPattern)
	seen := map[string]bool{}
	for range 1000 {
		id, value := mintToken()
		got, ok := ParseToken(value)
		require.True(t, ok)
		assert.Equal(t, id, got)
		assert.Equal(t, value, scanner.FindString("leaked: '"+value+"',"), "a scanner finds it in a text")
		assert.False(t, seen[id] || seen[value])
		seen[id], seen[value] = true, true
	}
}

func TestATokenIsStrongEnoughForAFingerprint(t *testing.T) {
	t.Parallel()
	_, value := mintToken()
	assert.NotEmpty(t, secret.Single(secret.New([]byte(value))).Fingerprint())
}

// The checksum is part of what scanners rely on: it must stay the same.
func TestChecksum(t *testing.T) {
	t.Parallel()
	body := "ktg_AAAAAAAAAAAAAAAA_" + strings.Repeat("A", 52)
	assert.Equal(t, "1t9YBG", checksum(body))
	assert.Equal(t, "000000", checksum(""))
}

func TestAChangedTokenIsNone(t *testing.T) {
	t.Parallel()
	_, value := mintToken()
	rapid.Check(t, func(t *rapid.T) {
		at := rapid.IntRange(0, len(value)-1).Draw(t, "at")
		c := rapid.SampledFrom([]byte("AZ27az09_-")).Draw(t, "character")
		if value[at] == c {
			return
		}
		changed := value[:at] + string(c) + value[at+1:]
		if _, ok := ParseToken(changed); ok {
			t.Fatalf("a character changed at %d went unnoticed", at)
		}
	})
}

func FuzzParseToken(f *testing.F) {
	_, value := mintToken()
	f.Add(value)
	f.Add("ktg_")
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		id, ok := ParseToken(s)
		if ok != (id != "") || ok && !strings.HasPrefix(s, tokenPrefix+id+"_") {
			t.Fatalf("%q, %t", id, ok)
		}
	})
}

func FuzzParseKeyFile(f *testing.F) {
	r := record{ID: "a", Principal: "p", State: "active", CreatedAt: time0}
	r.setValue([]byte("x"))
	whole, err := encode(keyFile{Schema: keyFileSchema, Keys: []record{r}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add([]byte(`{"schema":"keyturn/gateway-keys/v1","keys":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		parsed, err := parseKeyFile(data)
		if err != nil {
			if len(err.Error()) > 400 {
				t.Fatal("an error repeats too much of the file")
			}
			return
		}
		parsed.index().find([]byte("x"))
		again, err := encode(parsed)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseKeyFile(again); err != nil {
			t.Fatalf("what was read cannot be written and read again: %v", err)
		}
	})
}

func FuzzParseUsage(f *testing.F) {
	f.Add([]byte(`{"schema":"keyturn/gateway-usage/v1","since":"2025-01-01T00:00:00Z","lastUsed":{"a":{"at":"2026-01-02T00:00:00Z","from":"\u001b[2J\u202e"}}}`))
	f.Add([]byte(`{"schema":"keyturn/gateway-usage/v1","since":"2026-01-01T00:00:00Z","lastUsed":{"a":{"at":"2026-01-02T00:00:00Z"}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if u, err := parseUsage(data); err == nil {
			u.merge(map[string]use{"a": {At: time0}})
			_, from := u.of(record{ID: "a", CreatedAt: time0})
			assert.LessOrEqual(t, len(from), maxFrom)
			assert.Equal(t, outside.Text(from, maxFrom), from, "it may be shown")
		}
	})
}
