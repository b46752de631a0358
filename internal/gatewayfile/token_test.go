package gatewayfile

import (
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/keyturn/keyturn/internal/secret"
)

func TestMintedTokens(t *testing.T) {
	t.Parallel()
	scanner := regexp.MustCompile(TokenPattern)
	seen := map[string]bool{}
	for range 1000 {
		id, value := Mint()
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
	_, value := Mint()
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
	_, value := Mint()
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
	_, value := Mint()
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
