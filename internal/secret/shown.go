package secret

import (
	"encoding/base64"
	"encoding/hex"
	"html"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

const (
	// tellingRun is how many bytes in a row a text must share with a secret to show a part of it. A shorter run tells
	// nothing that could be used.
	tellingRun = 8
	// escapedWithin is how many escapes within one another are undone: JSON in a page, in a URL.
	escapedWithin = 4
)

// ShownIn tells whether a text of others shows one of the bundle's values, or a part of one of at least eight bytes: as it
// is, escaped as in JSON, HTML or a URL, in hexadecimal or Base64, whole or with other characters between its pieces. A
// shorter value counts as a whole. A text that shows one is dropped, not mended.
func (b Bundle) ShownIn(text string) bool {
	readings := readings(text)
	for _, name := range b.Names() {
		v, _ := b.Field(name)
		value := v.Reveal()
		shown := slices.ContainsFunc(readings, func(reading string) bool { return shows(reading, value) })
		clear(value)
		if shown {
			return true
		}
	}
	return false
}

func shows(text string, value []byte) bool {
	if shareRun(text, string(value), min(tellingRun, len(value))) {
		return true
	}
	folded := fold(text)
	return slices.ContainsFunc(forms(value), func(form string) bool { return shareRun(folded, fold(form), tellingRun) })
}

// shareRun tells whether a run of so many bytes stands in both; one of none does not.
func shareRun(text, form string, run int) bool {
	for i := 0; run > 0 && i+run <= len(form); i++ {
		if strings.Contains(text, form[i:i+run]) {
			return true
		}
	}
	return false
}

// forms are the ways in which a value is written that no unescaping leads back from.
func forms(value []byte) []string {
	all := []string{string(value), hex.EncodeToString(value)}
	// In Base64 a value looks different at each of three offsets ("user:secret"); its first and last characters also
	// depend on the neighbours.
	for offset := range 3 {
		shifted := append(make([]byte, offset), value...)
		encoded := base64.RawStdEncoding.EncodeToString(shifted)
		if from, to := (offset*8+5)/6, len(shifted)*8/6; from < to {
			all = append(all, encoded[from:to])
		}
		clear(shifted)
	}
	return all
}

// fold keeps letters and digits, in lower case: whatever stands between the pieces of a secret is gone, and the alphabets of
// Base64 are one.
func fold(s string) string {
	var b strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case 'A' <= c && c <= 'Z':
			b.WriteByte(c - 'A' + 'a')
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
			b.WriteByte(c)
		}
	}
	return b.String()
}

// escaped is a character as JSON, Go, JavaScript or a URL write it.
var escaped = regexp.MustCompile(`\\u[0-9A-Fa-f]{4}|\\u\{[0-9A-Fa-f]{1,6}\}|\\U[0-9A-Fa-f]{8}|\\x[0-9A-Fa-f]{2}|%[0-9A-Fa-f]{2}|\\["'\\/abfnrtv]`)

// readings are the text as it is, and as it reads after each undoing of what is escaped.
func readings(text string) []string {
	all := []string{text}
	for range escapedWithin {
		read := html.UnescapeString(escaped.ReplaceAllStringFunc(text, unescape))
		if read == text {
			break
		}
		text = read
		all = append(all, text)
	}
	return all
}

func unescape(s string) string {
	digits := strings.Trim(s[1:], "uUx{}")
	code, err := strconv.ParseInt(digits, 16, 32)
	switch {
	case strings.ContainsAny(s[1:], `"'\/`):
		return s[1:]
	case len(s) == 2:
		return " " // a line's end or the like
	case err != nil:
		return s
	case (s[0] == '%' || s[1] == 'x') && code < 0x100:
		return string([]byte{byte(code & 0xff)})
	}
	return string(rune(code))
}
