package consumer

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// Format is how a key file is written.
type Format string

// The formats, as the targets of keyturn write them.
const (
	// Plain: the key and nothing else, but a line end.
	Plain Format = "plain"
	// JSON: an object of strings, one for each field.
	JSON Format = "json"
	// Env: lines of NAME=value, as systemd and container engines read them. Values may stand in single
	// or double quotes.
	Env Format = "env"
)

// ErrNoKey: the file is empty, or a field of the key is missing in it or empty.
var ErrNoKey = errors.New("there is no key in it")

const valueField = "value"

// parse finds the key's fields. Its errors have nothing of the content.
func (o Options) parse(content string) (map[string]string, error) {
	found := map[string]string{}
	switch o.Format {
	case Plain:
		found[o.Fields[0]] = strings.TrimSuffix(strings.TrimSuffix(content, "\n"), "\r")
	case JSON:
		var object map[string]any
		if json.Unmarshal([]byte(content), &object) != nil {
			return nil, errors.New("it is not a JSON object")
		}
		for _, name := range o.Fields {
			found[name], _ = object[name].(string)
		}
	case Env:
		variables := parseEnv(content)
		for _, name := range o.Fields {
			variable := o.Variables[name]
			if variable == "" {
				variable = name
			}
			found[name] = variables[variable]
		}
	}
	for _, name := range o.Fields {
		if found[name] == "" {
			return nil, fmt.Errorf("%w: the field %q is missing or empty", ErrNoKey, name)
		}
	}
	return found, nil
}

// parseEnv reads lines of NAME=value. The last of a name counts.
func parseEnv(content string) map[string]string {
	variables := map[string]string{}
	for line := range strings.Lines(content) {
		line = strings.TrimSpace(line)
		name, value, ok := strings.Cut(strings.TrimPrefix(line, "export "), "=")
		if ok && !strings.HasPrefix(line, "#") {
			variables[strings.TrimSpace(name)] = unquote(strings.TrimSpace(value))
		}
	}
	return variables
}

// unquote takes the quotes off: nothing is special within single ones, a backslash is within double
// ones.
func unquote(value string) string {
	if len(value) < 2 || value[0] != value[len(value)-1] {
		return value
	}
	inner := value[1 : len(value)-1]
	switch value[0] {
	case '\'':
		return inner
	case '"':
		var plain strings.Builder
		for i := 0; i < len(inner); i++ {
			if inner[i] == '\\' && i+1 < len(inner) && strings.IndexByte("\\\"$`", inner[i+1]) >= 0 {
				i++
			}
			plain.WriteByte(inner[i])
		}
		return plain.String()
	}
	return value
}
