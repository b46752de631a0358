package secret_test

import (
	"encoding/base64"
	"encoding/hex"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"pgregory.net/rapid"

	"github.com/keyturn/keyturn/internal/secret"
)

func TestScrub(t *testing.T) {
	t.Parallel()
	const key = `ktg_Zq81/mW+0pLx"7TRe2uA9`
	b := secret.NewBundle(map[string]secret.Value{
		"value": secret.New([]byte(key)),
		"id":    secret.New([]byte("abc")),
		"empty": secret.New(nil),
	})
	for name, c := range map[string]struct{ text, want string }{
		"text without the key is kept":     {"no such key, ktg_ or other", "no such key, ktg_ or other"},
		"the key as it is":                 {"bad key " + key + ".", "bad key REDACTED."},
		"every time":                       {key + "," + key, "REDACTED,REDACTED"},
		"a key cut off at the end":         {"bad key " + key[:12], "bad key REDACTED"},
		"a key without its beginning":      {key[9:] + " is bad", "REDACTED is bad"},
		"a short value only as a whole":    {"abcd ab", "REDACTEDd ab"},
		"in a URL":                         {"/?k=" + url.QueryEscape(key), "/?k=REDACTED"},
		"in JSON":                          {`{"k":"ktg_Zq81/mW+0pLx\"7TRe2uA9"}`, `{"k":"REDACTED"}`},
		"in hexadecimal":                   {hex.EncodeToString([]byte(key)), "REDACTED"},
		"in upper-case hexadecimal":        {strings.ToUpper(hex.EncodeToString([]byte(key))), "REDACTED"},
		"a key of another with one prefix": {"ktg_Zq8", "ktg_Zq8"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, c.want, b.Scrub(c.text))
		})
	}
}

func TestScrubFindsBase64AtEveryOffset(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.SliceOfN(rapid.Byte(), 24, 64).Draw(t, "key")
		before := rapid.SliceOfN(rapid.Byte(), 0, 8).Draw(t, "before")
		after := rapid.SliceOfN(rapid.Byte(), 0, 8).Draw(t, "after")
		encoding := rapid.SampledFrom([]*base64.Encoding{base64.StdEncoding, base64.URLEncoding, base64.RawURLEncoding}).Draw(t, "encoding")
		whole := append(append(append([]byte{}, before...), key...), after...)

		got := secret.Single(secret.New(key)).Scrub(encoding.EncodeToString(whole))

		assert.Contains(t, got, secret.Redacted)
		left := len(strings.ReplaceAll(got, secret.Redacted, ""))
		assert.LessOrEqual(t, left, (len(before)+len(after))*4/3+10, "only the neighbours are left of %q", got)
	})
}

func TestScrubLeavesNoRunOfTheSecret(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.StringMatching(`[a-z0-9]{8,40}`).Draw(t, "key")
		from := rapid.IntRange(0, len(key)-8).Draw(t, "from")
		to := rapid.IntRange(from+8, len(key)).Draw(t, "to")
		// None of these can be taken for more of the key.
		around := rapid.SampledFrom([]string{"", " ", `"`, "_KTG_"}).Draw(t, "around")

		got := secret.Single(secret.New([]byte(key))).Scrub(around + key[from:to] + around)

		assert.Equal(t, around+secret.Redacted+around, got)
	})
}
