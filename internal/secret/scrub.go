package secret

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"strings"
)

// scrubRun is how many bytes in a row a text must share with a secret to be taken for a part of it. A
// shorter run tells nothing that could be used.
const scrubRun = 8

// Scrub returns text without any of the bundle's values: each place that shows one, or a part of one of
// at least eight bytes, reads REDACTED. It also finds values in hexadecimal, Base64, JSON and URL
// encoding. It is for text of a peer that was given the secret, and may echo it.
func (b Bundle) Scrub(text string) string {
	covered := make([]bool, len(text))
	for _, name := range b.Names() {
		v, _ := b.Field(name)
		value := v.Reveal()
		for _, form := range writtenForms(value) {
			cover(covered, text, form)
		}
		clear(value)
	}
	var clean strings.Builder
	for i := range len(text) {
		switch {
		case !covered[i]:
			clean.WriteByte(text[i])
		case i == 0 || !covered[i-1]:
			clean.WriteString(Redacted)
		}
	}
	return clean.String()
}

// cover marks the bytes of text that belong to a run that form has, too.
func cover(covered []bool, text, form string) {
	run := min(scrubRun, len(form))
	if run == 0 {
		return
	}
	runs := make(map[string]bool, len(form))
	for i := range len(form) - run + 1 {
		runs[form[i:i+run]] = true
	}
	for i := range max(0, len(text)-run+1) {
		if runs[text[i:i+run]] {
			for j := range run {
				covered[i+j] = true
			}
		}
	}
}

// writtenForms are the ways in which a peer may write the value.
func writtenForms(value []byte) []string {
	plain := string(value)
	forms := []string{plain, url.QueryEscape(plain), hex.EncodeToString(value), strings.ToUpper(hex.EncodeToString(value))}
	if quoted, err := json.Marshal(plain); err == nil {
		forms = append(forms, string(quoted[1:len(quoted)-1]))
	}
	// In Base64 a value looks different at each of three offsets ("user:secret"); its first and last
	// characters also depend on the neighbours.
	for offset := range 3 {
		shifted := append(make([]byte, offset), value...)
		for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			encoded := encoding.EncodeToString(shifted)
			from, to := (offset*8+5)/6, len(shifted)*8/6
			if to-from >= scrubRun {
				forms = append(forms, encoded[from:to])
			}
		}
		clear(shifted)
	}
	return forms
}
