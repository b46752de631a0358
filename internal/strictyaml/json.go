package strictyaml

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
)

// DecodeJSON reads one JSON value strictly into what into points to: an unknown or repeated field, a name
// in other case, another type, trailing data, or a problem that the value has with itself is an error. So
// no two readers of the same bytes see different things, as they can with encoding/json alone.
func DecodeJSON(raw []byte, into any) error {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return fmt.Errorf("decoding JSON: %w", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errors.New("decoding JSON: there is more than one value")
	}
	names := names{decoder: json.NewDecoder(bytes.NewReader(raw))}
	names.value("", reflect.TypeOf(into).Elem())
	problems := names.problems
	Inspect(into, func(p Problem) { problems = append(problems, fmt.Errorf("%s %s; %s", p.Field, p.What, p.Write)) })
	return errors.Join(problems...)
}

// names walks through a value that is known to be JSON of a type, and finds names that encoding/json lets
// pass: repeated ones, and those that differ from a field's name in case.
type names struct {
	decoder  *json.Decoder
	problems []error
}

// value walks through the next value. t is nil where names are free.
func (w *names) value(path string, t reflect.Type) {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	token, _ := w.decoder.Token() // it was decoded before: it is JSON
	switch token {
	case json.Delim('['):
		if t != nil && t.Kind() == reflect.Slice {
			t = t.Elem()
		} else {
			t = nil
		}
		for i := 0; w.decoder.More(); i++ {
			w.value(fmt.Sprintf("%s[%d]", path, i), t)
		}
		_, _ = w.decoder.Token()
	case json.Delim('{'):
		w.object(path, t)
		_, _ = w.decoder.Token()
	}
}

func (w *names) object(path string, t reflect.Type) {
	of := func(string) reflect.Type { return nil }
	switch {
	case t == nil || reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()):
	case t.Kind() == reflect.Map:
		of = func(string) reflect.Type { return t.Elem() }
	case t.Kind() == reflect.Struct:
		fields := fieldsOf(t)
		of = func(name string) reflect.Type {
			if f, known := fields[name]; known {
				return t.FieldByIndex(f).Type
			}
			w.problems = append(w.problems, fmt.Errorf("%s is not a known field; %s", join(path, name), suggest(name, slices.Sorted(maps.Keys(fields)))))
			return nil
		}
	}
	seen := map[string]bool{}
	for w.decoder.More() {
		token, _ := w.decoder.Token()
		name, _ := token.(string)
		if seen[name] {
			w.problems = append(w.problems, fmt.Errorf("%s is given twice; keep one of the two", join(path, name)))
		}
		seen[name] = true
		w.value(join(path, name), of(name))
	}
}
