// Package sentinel finds secrets in what a run leaves behind, in the forms in which bytes get written down.
package sentinel

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
)

// Form is how a secret, or a half of one, is written.
type Form string

// minHalf is how many bytes of a secret are looked for at least; shorter ones would be found by chance.
const minHalf = 8

// Forms are all in which secret may be found. A half of it counts, so that one which is cut, wrapped or padded is found
// too: none of them has the whole.
func Forms(secret string) map[Form]string {
	forms := map[Form]string{}
	middle := len(secret) / 2
	for name, half := range map[string]string{"first half": secret[:middle], "second half": secret[middle:]} {
		if len(half) < minHalf {
			panic(fmt.Sprintf("sentinel: a secret of %d bytes is too short to be looked for", len(secret)))
		}
		add := func(form, text string) { forms[Form(form+" of the "+name)] = text }
		add("raw", half)
		add("hex", hex.EncodeToString([]byte(half)))
		add("upper-case hex", strings.ToUpper(hex.EncodeToString([]byte(half))))
		add("URL-escaped", url.QueryEscape(half))
		add("path-escaped", url.PathEscape(half))
		add("JSON-escaped", escaped(half, true))
		add("JSON-escaped without HTML", escaped(half, false))
		for shift := range 3 {
			add(fmt.Sprintf("base64 at %d", shift), aligned(base64.RawStdEncoding, half, shift))
			add(fmt.Sprintf("URL base64 at %d", shift), aligned(base64.RawURLEncoding, half, shift))
		}
	}
	return forms
}

// aligned is what is the same of text in base64 whatever stands before and after it, when what stands before has a length of
// shift modulo 3.
func aligned(encoding *base64.Encoding, text string, shift int) string {
	text = text[(3-shift)%3:]   // these share a group with what stands before
	text = text[:len(text)/3*3] // and the rest with what follows
	return encoding.EncodeToString([]byte(text))
}

func escaped(text string, html bool) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(html)
	if err := e.Encode(text); err != nil {
		panic(err) // a string encodes
	}
	return strings.Trim(strings.TrimSpace(b.String()), `"`)
}

// Finding is a place where a secret is. It does not tell the secret.
type Finding struct {
	// Secret is its number among those that are looked for.
	Secret int
	Form   Form
	// At is the offset in bytes.
	At int64
}

func (f Finding) String() string {
	return fmt.Sprintf("secret %d, %s, at byte %d", f.Secret, f.Form, f.At)
}

// Search looks for secrets.
type Search struct {
	needles []needle
	longest int
}

type needle struct {
	secret int
	form   Form
	text   []byte
}

// New makes a search for secrets of at least 16 bytes each.
func New(secrets ...string) *Search {
	s := &Search{}
	for i, secret := range secrets {
		for form, text := range Forms(secret) {
			s.needles = append(s.needles, needle{i, form, []byte(text)})
			s.longest = max(s.longest, len(text))
		}
	}
	return s
}

// block is how much is read at once.
const block = 64 << 10

// In returns what is found in all that r gives, each form of each secret at most once, at its first place.
func (s *Search) In(r io.Reader) ([]Finding, error) {
	var found []Finding
	seen := make([]bool, len(s.needles))
	window := make([]byte, 0, block+s.longest)
	var begin int64 // of the window in r
	for {
		kept := len(window)
		n, err := io.ReadFull(r, window[kept:cap(window)])
		window = window[:kept+n]
		for i, needle := range s.needles {
			if at := bytes.Index(window, needle.text); at >= 0 && !seen[i] {
				seen[i] = true
				found = append(found, Finding{needle.secret, needle.form, begin + int64(at)})
			}
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return found, nil
		case err != nil:
			return found, err
		}
		// The end of this block may have the beginning of a needle.
		rest := min(len(window), s.longest)
		begin += int64(len(window) - rest)
		window = append(window[:0], window[len(window)-rest:]...)
	}
}
