package sentinel_test

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/keyturn/keyturn/tests/sentinel"
)

// secret has what the escapes change.
const secret = `wJalrXUtnFEMI/K7MDENG+bPxRfiCY<"EXAMPLE"KEY&`

// written are ways in which programs write bytes down, with something before and after.
var written = map[string]func(before, secret, after string) string{
	"as it is":                    func(b, s, a string) string { return b + s + a },
	"the first half alone":        func(b, s, a string) string { return b + s[:len(s)/2] + a },
	"the second half alone":       func(b, s, a string) string { return b + s[len(s)/2:] + a },
	"in base64":                   func(b, s, a string) string { return base64.StdEncoding.EncodeToString([]byte(b + s + a)) },
	"in base64 for URLs":          func(b, s, a string) string { return base64.RawURLEncoding.EncodeToString([]byte(b + s + a)) },
	"in hex":                      func(b, s, a string) string { return hex.EncodeToString([]byte(b + s + a)) },
	"in upper-case hex":           func(b, s, a string) string { return fmt.Sprintf("%X", b+s+a) },
	"in a query":                  func(b, s, a string) string { return url.Values{"key": {b + s + a}}.Encode() },
	"in a path":                   func(b, s, a string) string { return "/" + url.PathEscape(b+s+a) },
	"in JSON":                     func(b, s, a string) string { return marshal(b + s + a) },
	"in base64 of one half":       func(b, s, a string) string { return base64.StdEncoding.EncodeToString([]byte(b + s[:len(s)/2] + a)) },
	"in base64 in the JSON of it": func(b, s, a string) string { return marshal(map[string][]byte{"data": []byte(b + s + a)}) },
}

func marshal(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(text)
}

func TestEachWayIsFoundWhereverItStands(t *testing.T) {
	search := sentinel.New("another-secret-that-is-not-there", secret)
	for name, write := range written {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				text := rapid.StringN(0, 40, -1)
				got := strings.Repeat(".", rapid.IntRange(0, 3).Draw(t, "far")*(64<<10-30)) + write(text.Draw(t, "before"), secret, text.Draw(t, "after"))
				found, err := search.In(iotest.HalfReader(strings.NewReader(got)))
				require.NoError(t, err)
				require.NotEmpty(t, found)
				for _, f := range found {
					require.Equal(t, 1, f.Secret)
					require.NotContains(t, f.String(), secret[:8])
				}
			})
		})
	}
}

func TestNothingIsFoundWhereNothingIs(t *testing.T) {
	search := sentinel.New(secret)
	rapid.Check(t, func(t *rapid.T) {
		found, err := search.In(strings.NewReader(rapid.String().Draw(t, "text") + secret[:7]))
		require.NoError(t, err)
		require.Empty(t, found)
	})
}

func TestTheFirstPlaceIsTold(t *testing.T) {
	found, err := sentinel.New(secret).In(strings.NewReader(strings.Repeat(".", 3<<20) + secret))
	require.NoError(t, err)
	assert.Contains(t, found, sentinel.Finding{Form: "raw of the first half", At: 3 << 20})
}

func TestAShortSecretIsNotLookedFor(t *testing.T) {
	assert.Panics(t, func() { sentinel.New("password") })
}
