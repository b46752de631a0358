package secret_test

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"pgregory.net/rapid"

	"github.com/keyturn/keyturn/internal/secret"
)

func TestShownIn(t *testing.T) {
	t.Parallel()
	const key = `ktg_Zq81/mW+0pLx"7TRe2uA9`
	b := secret.NewBundle(map[string]secret.Value{
		"value": secret.New([]byte(key)),
		"id":    secret.New([]byte("a~c")),
		"empty": secret.New(nil),
	})
	for name, c := range map[string]struct {
		text string
		want bool
	}{
		"text without the key":                    {"no such key, ktg_ or other", false},
		"no text":                                 {"", false},
		"the key as it is":                        {"bad key " + key + ".", true},
		"a key cut off at the end":                {"bad key " + key[:12], true},
		"a key without its beginning":             {key[9:] + " is bad", true},
		"a key of another with the same prefix":   {"ktg_Zq8", false},
		"a short value as a whole":                {"xa~cx", true},
		"a part of a short value":                 {"a~", false},
		"in a URL":                                {"/?k=" + url.QueryEscape(key), true},
		"in a URL within JSON within a page":      {"{&quot;k&quot;:&quot;" + strings.ReplaceAll(each(key, "%%%02x"), "%", `\u0025`) + "&quot;}", true},
		"in JSON, each character escaped":         {each(key, `\u%04x`), true},
		"in JavaScript, each in braces":           {each(key, `\u{%x}`), true},
		"in Go, each byte escaped":                {each(key, `\x%02x`), true},
		"in HTML, by decimal numbers":             {each(key, "&#%d;"), true},
		"in HTML, by hexadecimal numbers":         {each(key, "&#x%X;"), true},
		"in upper-case hexadecimal":               {strings.ToUpper(hex.EncodeToString([]byte(key))), true},
		"in hexadecimal with colons":              {each(key, "%02x:"), true},
		"in quoted pieces":                        {each(key, "'%c' + "), true},
		"in lines":                                {each(key, "%c\r\n"), true},
		"in lines, of which the ends are written": {each(key, `%c\r\n`), true},
		"in Base64 of a longer text, in lines":    {each(base64.StdEncoding.EncodeToString([]byte("user:"+key+"\n")), "%c\n"), true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, c.want, b.ShownIn(c.text))
		})
	}
	assert.False(t, secret.Bundle{}.ShownIn("anything"))
}

// each writes the characters of a text one by one.
func each(text, format string) string {
	var b strings.Builder
	for i := range len(text) {
		fmt.Fprintf(&b, format, text[i])
	}
	return b.String()
}

// writers are the ways in which a peer may write a part of a secret.
var writers = map[string]func(part string) string{
	"plain":             func(part string) string { return part },
	"JSON":              func(part string) string { return each(part, `\u%04X`) },
	"HTML":              func(part string) string { return each(part, "&#%d;") },
	"URL":               func(part string) string { return each(part, "%%%02X") },
	"hexadecimal":       func(part string) string { return hex.EncodeToString([]byte(part)) },
	"upper hexadecimal": func(part string) string { return strings.ToUpper(hex.EncodeToString([]byte(part))) },
}

// No run of eight bytes escapes, however it is written, split, and surrounded.
func TestShownInFindsEachRun(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.StringMatching(`[A-Za-z0-9]{8,60}`).Draw(t, "key")
		from := rapid.IntRange(0, len(key)-8).Draw(t, "from")
		part := key[from:rapid.IntRange(from+8, len(key)).Draw(t, "to")]
		between := rapid.SampledFrom([]string{"", " ", "\n", `"`, "'", "-", "\" +\n\"", "\u200b"}).Draw(t, "between")
		around := rapid.StringMatching(`[ -~]{0,20}`).Draw(t, "around")
		for name, write := range writers {
			written := write(part)
			if strings.HasSuffix(name, "hexadecimal") || name == "plain" {
				written = each(written, "%c"+strings.ReplaceAll(between, "%", "%%"))
			}
			// What stands before may swallow the first character: a backslash does, or an open "&#1".
			text := around + " " + written + " " + around
			assert.True(t, secret.Single(secret.New([]byte(key))).ShownIn(text), "%s: %q", name, text)
		}
	})
}

func TestShownInFindsBase64AtEveryOffset(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.SliceOfN(rapid.Byte(), 24, 64).Draw(t, "key")
		before := rapid.SliceOfN(rapid.Byte(), 0, 8).Draw(t, "before")
		after := rapid.SliceOfN(rapid.Byte(), 0, 8).Draw(t, "after")
		encoding := rapid.SampledFrom([]*base64.Encoding{
			base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding,
		}).Draw(t, "encoding")
		encoded := encoding.EncodeToString(append(append(append([]byte{}, before...), key...), after...))
		if letters := strings.Map(func(r rune) rune {
			if strings.ContainsRune("+/-_=", r) {
				return -1
			}
			return r
		}, encoded); len(letters) < len(encoded)-8 {
			return // a key of hardly anything but + and /
		}
		assert.True(t, secret.Single(secret.New(key)).ShownIn(encoded), "%q", encoded)
	})
}

func TestShownInTakesNoOtherSecretForThisOne(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.StringMatching(`[a-m]{16,40}`).Draw(t, "key")
		other := rapid.StringMatching(`[n-z \n"\\-]{16,40}`).Draw(t, "other")
		assert.False(t, secret.Single(secret.New([]byte(key))).ShownIn(other))
	})
}
