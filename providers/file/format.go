package file

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
)

// Format is how a key is written into a file.
type Format string

// The formats. Package consumer reads each.
const (
	// Plain: the one field and nothing else, no line end either.
	Plain Format = "plain"
	// JSON: an object of strings, one for each field.
	JSON Format = "json"
	// Env: lines of NAME=value, as systemd, shells and container engines read them. A value is put in
	// double quotes only when it has to be, since container engines take quotes for a part of it.
	Env Format = "env"
)

// Reader is who reads an env file.
type Reader string

// The readers. Shell and systemd take quotes off, and backslashes within them; docker (run --env-file) takes what
// follows the equals sign as it is.
const (
	Shell   Reader = "shell"
	Systemd Reader = "systemd"
	Docker  Reader = "docker"
)

var (
	variableForm = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	bareForm     = regexp.MustCompile(`^[A-Za-z0-9_./:@%+,=-]+$`)
	envQuotes    = strings.NewReplacer(`\`, `\\`, `"`, `\"`, `$`, `\$`, "`", "\\`")
)

// render writes the bundle as the configuration says. The caller clears the result, with an error, too.
func (c *TargetConfig) render(b secret.Bundle) ([]byte, error) {
	switch c.Format {
	case JSON:
		fields := c.Fields
		if len(fields) == 0 {
			fields = b.Names()
		}
		for _, name := range fields {
			if _, err := field(b, name); err != nil {
				return nil, err
			}
		}
		data, err := b.Only(fields...).Encode()
		return append(data, '\n'), err
	case Env:
		var lines bytes.Buffer
		for _, name := range slices.Sorted(maps.Keys(c.Variables)) {
			value, err := field(b, name)
			if err != nil {
				return nil, err
			}
			err = writeEnv(&lines, c.Variables[name], value, c.Reader)
			clear(value)
			if err != nil {
				return lines.Bytes(), fmt.Errorf("field %q: %w", name, err)
			}
		}
		return lines.Bytes(), nil
	}
	name := cmp.Or(c.Field, secret.ValueField)
	return field(b, name)
}

// changed tells what of a new key a reader of the file would get otherwise than it is. Keys that consumers have already are written all the
// same: somebody may have to go back to one.
func (c *TargetConfig) changed(b secret.Bundle) error {
	switch c.Format {
	case JSON:
		return nil
	case Env:
		for _, name := range slices.Sorted(maps.Keys(c.Variables)) {
			v, _ := b.Field(name)
			text := string(v.Reveal())
			if c.Reader == "" && !bareForm.MatchString(text) || c.Reader == Docker && strings.TrimSpace(text) != text {
				return fmt.Errorf("%w: the field %q has characters that readers of environment files take differently; write reader: shell or systemd, or format: json", providers.ErrInvalid, name)
			}
		}
		return nil
	}
	name := cmp.Or(c.Field, secret.ValueField)
	v, _ := b.Field(name)
	if text := string(v.Reveal()); strings.TrimRight(text, "\r\n") != text {
		return fmt.Errorf("%w: the field %q ends with the end of a line, which readers of a plain file drop; the issuer has to mint it without, or write format: json", providers.ErrInvalid, name)
	}
	return nil
}

func field(b secret.Bundle, name string) ([]byte, error) {
	v, ok := b.Field(name)
	if !ok || v.Len() == 0 {
		return nil, fmt.Errorf("%w: the key has no field %q, or an empty one", providers.ErrInvalid, name)
	}
	return v.Reveal(), nil
}

func writeEnv(lines *bytes.Buffer, variable string, value []byte, reader Reader) error {
	if !utf8.Valid(value) || bytes.ContainsFunc(value, unicode.IsControl) {
		return fmt.Errorf("%w: it has characters that no line of an environment file can hold", providers.ErrInvalid)
	}
	text := string(value)
	if reader != Docker && !bareForm.MatchString(text) {
		text = `"` + envQuotes.Replace(text) + `"`
	}
	lines.WriteString(variable + "=" + text + "\n")
	return nil
}
