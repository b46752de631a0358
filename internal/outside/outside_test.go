package outside_test

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"pgregory.net/rapid"

	"github.com/keyturn/keyturn/internal/outside"
)

func TestText(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		in    string
		limit int
		want  string
	}{
		"plain text stays as it is":                  {"key was rejected: čeština ok", 100, "key was rejected: čeština ok"},
		"a line break cannot forge a log line":       {"a\nlevel=INFO\r", 100, `a\nlevel=INFO\r`},
		"an escape sequence does not reach terminal": {"\x1b[31mred", 100, `\x1b[31mred`},
		"text direction cannot be turned":            {"a\u202eb", 100, `a\u202eb`},
		"a zero-width character is shown":            {"a\u200bb", 100, `a\u200bb`},
		"what is printed as nothing is shown":        {"a\u3164\u2800\ufe0fb", 100, `a\u3164\u2800\ufe0fb`},
		"invalid UTF-8 is written out":               {"a\xffb", 100, `a\xffb`},
		"a replacement character is text":            {"a\ufffdb", 100, "a\ufffdb"},
		"exactly the limit is not cut":               {"abcdef", 6, "abcdef"},
		"longer text is cut within the limit":        {"abcdefg", 6, "abc…"},
		"a character is not cut in two":              {"aéééé", 6, "aé…"},
		"an escape is not cut in two":                {"a\x1b\x1b", 7, "a…"},
		"no room is no text":                         {"abc", 2, ""},
		"quotes stay":                                {`{"error":"bad"}`, 100, `{"error":"bad"}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, c.want, outside.Text(c.in, c.limit))
		})
	}
}

func TestLinesKeepTheirEnds(t *testing.T) {
	t.Parallel()
	assert.Equal(t, "a\nb\\r\n\\x1bc", outside.Lines("a\nb\r\n\x1bc", 100))
	assert.Equal(t, "a\n…", outside.Lines("a\nbcdefg", 5))
}

func TestLinesBecomeOne(t *testing.T) {
	t.Parallel()
	assert.Equal(t, `spec:1:1: a is wrong; spec:2:1: b is\tnot`, outside.Line("spec:1:1: a is wrong\nspec:2:1: b is\tnot\n", 100))
	assert.Equal(t, "a; b…", outside.Line("a\nbcdefgh", 7))
}

func TestANameIsCutAtACharacter(t *testing.T) {
	t.Parallel()
	assert.Equal(t, "short", outside.Cut("short", 5))
	assert.Equal(t, "ééé", outside.Cut("éééé", 7))
	assert.Empty(t, outside.Cut("é", 1))
}

func FuzzText(f *testing.F) {
	for _, seed := range []string{"plain", "a\nlevel=INFO\r", "\x1b[31mred\x9b\u009b", "\u202eturned\u200b", "caf\xc3", "\ufffd", "é…"} {
		f.Add([]byte(seed), 6)
	}
	f.Fuzz(func(t *testing.T, in []byte, limit int) { fitsAndStays(t, string(in), limit%100) })
}

func TestTextAlwaysFitsAndStays(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		fitsAndStays(t, string(rapid.SliceOf(rapid.Byte()).Draw(t, "in")), rapid.IntRange(0, 64).Draw(t, "limit"))
	})
}

func fitsAndStays(t assert.TestingT, in string, limit int) {
	for kept, shown := range map[string]string{"": outside.Text(in, limit), "\n": outside.Lines(in, limit)} {
		assert.LessOrEqual(t, len(shown), max(0, limit))
		assert.True(t, utf8.ValidString(shown))
		assert.Equal(t, -1, strings.IndexFunc(shown, func(r rune) bool { return !unicode.IsPrint(r) && !strings.ContainsRune(kept, r) }))
	}
	once := outside.Text(in, limit)
	assert.Equal(t, once, outside.Text(once, limit), "a second time changes nothing")
}
