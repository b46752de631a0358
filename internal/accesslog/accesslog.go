// Package accesslog reads who used a key from an access log of JSON lines, such as nginx, Envoy or an own gateway write them. A log
// may be huge, damaged, or written by somebody who means harm: what is read is bounded in bytes and time, a line that makes no sense
// is counted, and of texts only what cannot be a key is kept.
package accesslog

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/keyturn/keyturn/internal/gatewayfile"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/outside"
	"github.com/keyturn/keyturn/internal/strictyaml"
)

// Log is a log, and where in each line what stands: JSON pointers (RFC 6901), such as /request/headers/key_id.
type Log struct {
	Path string `json:"path"`
	// KeyID is the ID of the key that was used, as the issuer names it: never the key. At is when: RFC 3339, or seconds or
	// milliseconds since 1970.
	KeyID string `json:"keyID"`
	At    string `json:"at"`
	// Action is what was asked for: of a path what follows "?" is left out. Source is from where, Principal as whom.
	Action    string `json:"action,omitempty"`
	Source    string `json:"source,omitempty"`
	Principal string `json:"principal,omitempty"`
	Region    string `json:"region,omitempty"`
	// Error is why it was refused, or a status: one below 400, 0, false, "", "-" and null are none.
	Error string `json:"error,omitempty"`
}

// Problems tells what is wrong with the configuration.
func (l *Log) Problems() []strictyaml.Problem {
	var list []strictyaml.Problem
	if !filepath.IsAbs(l.Path) || filepath.Clean(l.Path) != l.Path {
		list = append(list, strictyaml.Problem{Field: "path", What: fmt.Sprintf("is %q", l.Path), Write: "write an absolute, clean path"})
	}
	for _, p := range []struct {
		field, pointer string
		needed         bool
	}{
		{"keyID", l.KeyID, true},
		{"at", l.At, true},
		{"action", l.Action, false},
		{"source", l.Source, false},
		{"principal", l.Principal, false},
		{"region", l.Region, false},
		{"error", l.Error, false},
	} {
		switch {
		case p.pointer == "" && p.needed:
			list = append(list, strictyaml.Problem{Field: p.field, What: "is missing", Write: "write where it stands in a line, such as /request/" + p.field})
		case p.pointer != "" && !pointerForm.MatchString(p.pointer):
			list = append(list, strictyaml.Problem{Field: p.field, What: fmt.Sprintf("is %q, which is no JSON pointer", p.pointer), Write: "write /name, or /outer/name"})
		}
	}
	return list
}

// pointerForm is that of RFC 6901, but for the whole line.
var pointerForm = regexp.MustCompile(`^(/([^/~]|~[01])*)+$`)

// Bounds of a reading.
const (
	maxRead = 512 << 20 // of the end of a log
	maxLine = 64 << 10
	// tried is how many lines are read in full, whether the key is in them or not: so that it is noticed when none can be.
	tried = 1000
)

// readings bounds how many logs the process reads at once: a large incident asks for hundreds of keys, and its workers have more to do.
var readings = make(chan struct{}, 2)

// Read tells who used a key since then, by the log. Only that it cannot be read at all is an error; reading ends with the context, and
// what was not read is said.
func (l *Log) Read(ctx context.Context, keyID string, since time.Time) (key.Uses, error) {
	uses := key.Uses{Teller: l.Path}
	if err := ctx.Err(); err != nil {
		return uses, err
	}
	select {
	case readings <- struct{}{}:
		defer func() { <-readings }()
	case <-ctx.Done():
		return uses, ctx.Err()
	}
	file, err := os.OpenFile(l.Path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe would keep us waiting
	if err != nil {
		return uses, fmt.Errorf("reading access log: %w", err)
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	switch {
	case err != nil:
		return uses, fmt.Errorf("reading access log: %w", err)
	case !info.Mode().IsRegular():
		return uses, fmt.Errorf("reading access log %s: it is no file", l.Path)
	}
	skipped := info.Size() - maxRead
	if skipped > 0 {
		if _, err := file.Seek(skipped, io.SeekStart); err != nil {
			return uses, fmt.Errorf("reading access log: %w", err)
		}
	}
	r := l.scan(ctx, io.LimitReader(file, maxRead), keyID, since, skipped > 0)
	uses.List, uses.Omitted = r.tally.List()
	say := func(format string, args ...any) {
		uses.Unseen = append(uses.Unseen, fmt.Sprintf(l.Path+": "+format, args...))
	}
	if skipped > 0 {
		say("only the last %d MiB were read.", maxRead>>20)
	}
	if r.err != nil {
		say("it was not read to its end: %s.", r.why())
	}
	switch {
	case r.unreadable == 1:
		say("1 line could not be read.")
	case r.unreadable > 1:
		say("Lines that could not be read: %d.", r.unreadable)
	}
	if begins := r.begins; begins.IsZero() || begins.After(since) {
		what := "it has no line with a time, as far as was seen."
		if !begins.IsZero() {
			what = "it begins at " + begins.UTC().Format(time.RFC3339) + ": what was rotated away was not read."
		}
		say("%s", what)
	}
	return uses, nil
}

// reading is what was seen of a log.
type reading struct {
	tally      key.Tally
	unreadable int
	begins     time.Time // the first time that was seen
	err        error     // why it ended before the end
}

func (r *reading) why() string {
	if errors.Is(r.err, context.Canceled) || errors.Is(r.err, context.DeadlineExceeded) {
		return "time was up"
	}
	return "the disk did not give it"
}

// plainID is an ID that JSON writes as it is, so that a line without it is about another key.
var plainID = regexp.MustCompile(`^[A-Za-z0-9._:=@-]+$`)

// scan reads line by line; inside begins in the middle of one.
func (l *Log) scan(ctx context.Context, from io.Reader, keyID string, since time.Time, inside bool) (r reading) {
	lines := bufio.NewReaderSize(from, maxLine)
	plain, want := plainID.MatchString(keyID), []byte(keyID)
	for n := 0; ; n++ {
		if n%1000 == 0 && ctx.Err() != nil {
			r.err = ctx.Err()
			return r
		}
		line, long, err := nextLine(lines)
		if err != nil && len(line) == 0 {
			if !errors.Is(err, io.EOF) {
				r.err = err
			}
			return r
		}
		switch {
		case inside && n == 0, len(bytes.TrimSpace(line)) == 0:
		case long:
			r.unreadable++
		case n < tried || !plain || bytes.Contains(line, want):
			l.count(&r, line, keyID, since)
		}
	}
}

// nextLine returns a line, or the begin of one that is too long. At the end there is an error, with a last line or without.
func nextLine(lines *bufio.Reader) (line []byte, long bool, err error) {
	line, err = lines.ReadSlice('\n')
	if !errors.Is(err, bufio.ErrBufferFull) {
		return line, false, err
	}
	for errors.Is(err, bufio.ErrBufferFull) {
		_, err = lines.ReadSlice('\n')
	}
	return []byte("…"), true, err
}

// count counts a line, when it is of the key.
func (l *Log) count(r *reading, line []byte, keyID string, since time.Time) {
	var whole any
	if json.Unmarshal(bytes.TrimPrefix(line, []byte("\uFEFF")), &whole) != nil {
		r.unreadable++
		return
	}
	at, timed := moment(find(whole, l.At))
	if timed && (r.begins.IsZero() || at.Before(r.begins)) {
		r.begins = at
	}
	if id, is := find(whole, l.KeyID).(string); !is || id != keyID {
		return
	}
	if !timed {
		r.unreadable++
		return
	}
	if at.Before(since) {
		return
	}
	named := func(pointer string) string { return Name(text(find(whole, pointer))) }
	r.tally.Add(key.Use{
		KeyID: keyID, Action: Shown(text(find(whole, l.Action))), Principal: named(l.Principal), Source: named(l.Source), Region: named(l.Region), Error: refusal(find(whole, l.Error)),
	}, at)
}

// find is the value that a pointer points to; nil where there is none.
func find(whole any, pointer string) any {
	if pointer == "" {
		return nil
	}
	for _, name := range strings.Split(pointer[1:], "/") {
		name = strings.ReplaceAll(strings.ReplaceAll(name, "~1", "/"), "~0", "~")
		switch in := whole.(type) {
		case map[string]any:
			whole = in[name]
		case []any:
			n, err := strconv.Atoi(name)
			if err != nil || n < 0 || n >= len(in) {
				return nil
			}
			whole = in[n]
		default:
			return nil
		}
	}
	return whole
}

// moment reads a time. One that no log has is none.
func moment(v any) (time.Time, bool) {
	var seconds float64
	switch v := v.(type) {
	case float64:
		seconds = v
	case string:
		if at, err := time.Parse(time.RFC3339Nano, v); err == nil {
			return at.UTC(), sensible(at)
		}
		parsed, err := strconv.ParseFloat(v, 64)
		if err != nil {
			return time.Time{}, false
		}
		seconds = parsed
	default:
		return time.Time{}, false
	}
	if math.IsNaN(seconds) || seconds < 0 || seconds > 1e14 {
		return time.Time{}, false
	}
	if seconds > 1e11 { // as seconds that is in 5138
		seconds /= 1000
	}
	at := time.UnixMilli(int64(math.Round(seconds * 1000))).UTC()
	return at, sensible(at)
}

// sensible is a time that JSON can tell again.
func sensible(at time.Time) bool { return at.Year() >= 1970 && at.Year() < 5139 }

func text(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	case bool:
		return strconv.FormatBool(v)
	}
	return ""
}

// refusal is why a use was refused; empty when it was not.
func refusal(v any) string {
	said := text(v)
	if status, err := strconv.ParseFloat(said, 64); err == nil && status < 400 {
		return ""
	}
	if said == "-" || said == "false" {
		return ""
	}
	return Shown(said)
}

// Bounds of what is kept of a text.
const (
	maxShown = 128
	maxWords = 8
)

// wordForm is a part of a path, an operation or a reason that is no part of a key: words of letters, a version, a small number.
var wordForm = regexp.MustCompile(`^(` + word + `([._:-]` + word + `){0,2}|v?[0-9]{1,3}(\.[0-9]{1,2})?)$`)

// word is of one case, or of several words that begin with a capital each: letters of a key are mixed.
const word = `([a-z]{2,16}|[A-Z]{2,16}|[a-z]{0,12}([A-Z][a-z]{2,12}|[A-Z]{2,5}){1,6}(V[0-9]{1,2})?)`

// nameForm is that of who uses a key, or of a region: small words, with a number at the end of one.
var nameForm = regexp.MustCompile(`^[A-Z]?[a-z]{1,16}[0-9]{0,3}([._@-]([A-Z]?[a-z]{1,16}[0-9]{0,3}|[0-9]{1,3})){0,5}$`)

// Name is what is kept of a name that a log has, or an address: a key that somebody logs in its place has another form.
func Name(s string) string {
	if s == "" || nameForm.MatchString(s) && len(s) <= maxShown || gatewayfile.IsAddress(s) {
		return s
	}
	return gatewayfile.NotNamed
}

// Shown is what is kept of a text that anybody wrote: what follows "?" or "#" goes, since keys are sent there, and so does each part
// that has not the form of a word: it may be a key, or a piece of one.
func Shown(s string) string {
	if at := strings.IndexAny(s, "?#"); at >= 0 {
		s = s[:at]
	}
	s = s[:min(len(s), 16*maxShown)]
	kept := 0
	s = parts.ReplaceAllStringFunc(s, func(part string) string {
		if kept < maxWords && wordForm.MatchString(part) {
			kept++
			return part
		}
		return hidden
	})
	return strings.TrimSpace(outside.Text(many.ReplaceAllString(s, hidden), maxShown))
}

var (
	parts = regexp.MustCompile(`[^/ ]+`)
	many  = regexp.MustCompile(`…([/ ]+…)+`)
)

// hidden stands for what is not kept.
const hidden = "…"
