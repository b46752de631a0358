// Package secret holds key material inside one process. Its values refuse to be printed, logged or
// marshalled, so that a secret can leave only through Reveal, at the few places that hand it to an
// issuer, a store or a consumer.
package secret

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"unicode/utf8"
)

// Redacted is what every formatting of a secret shows.
const Redacted = "REDACTED"

// ErrMarshal is returned by every marshaller of a secret.
var ErrMarshal = errors.New("a secret refuses to be marshalled")

// Value is one secret string. The zero Value is an empty secret. Copies share the same memory:
// Close on any of them zeroes it for all. A Value is not safe for concurrent use with Close.
//
// The bytes hang in a closure, since fmt, spew and debuggers' pretty printers follow pointers and
// unexported fields by reflection, but cannot look into a function.
type Value struct {
	bytes func() []byte
}

// New makes a Value of a copy of b. The caller still owns b and may zero it.
func New(b []byte) Value {
	own := slices.Clone(b)
	return Value{bytes: func() []byte { return own }}
}

// Reveal returns a copy of the secret. Call it only where the secret is handed over.
func (v Value) Reveal() []byte {
	if v.bytes == nil {
		return nil
	}
	return slices.Clone(v.bytes())
}

// Len is the length in bytes.
func (v Value) Len() int {
	if v.bytes == nil {
		return 0
	}
	return len(v.bytes())
}

// Close zeroes the memory; the Value then reads as that many zero bytes. It may be called twice.
func (v Value) Close() {
	if v.bytes != nil {
		clear(v.bytes())
	}
}

func (Value) String() string                 { return Redacted }
func (Value) GoString() string               { return Redacted }
func (Value) Format(f fmt.State, _ rune)     { _, _ = io.WriteString(f, Redacted) }
func (Value) LogValue() slog.Value           { return slog.StringValue(Redacted) }
func (Value) MarshalJSON() ([]byte, error)   { return nil, ErrMarshal }
func (Value) MarshalText() ([]byte, error)   { return nil, ErrMarshal }
func (Value) MarshalBinary() ([]byte, error) { return nil, ErrMarshal }
func (Value) GobEncode() ([]byte, error)     { return nil, ErrMarshal }
func (Value) MarshalYAML() (any, error)      { return nil, ErrMarshal }

// ValueField is the field of a bundle whose key is one string.
const ValueField = "value"

// Bundle is the secret value of a key: named fields, one called "value" for most issuers, two for an
// AWS access key. Like Value it refuses to print and marshal, names included.
type Bundle struct {
	fields func() map[string]Value
}

// NewBundle makes a Bundle of the given fields. The map is copied, the Values are shared.
func NewBundle(fields map[string]Value) Bundle {
	own := maps.Clone(fields)
	return Bundle{fields: func() map[string]Value { return own }}
}

// Single is the Bundle of a key that is one string.
func Single(v Value) Bundle { return NewBundle(map[string]Value{ValueField: v}) }

// Names lists the field names, sorted.
func (b Bundle) Names() []string {
	if b.fields == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(b.fields()))
}

// Field returns the field called name and whether there is one.
func (b Bundle) Field(name string) (Value, bool) {
	if b.fields == nil {
		return Value{}, false
	}
	v, ok := b.fields()[name]
	return v, ok
}

// With returns a Bundle that has b's fields and, where both have one, over's: how a store keeps the
// foreign fields of a secret when it stages a new key.
func (b Bundle) With(over Bundle) Bundle {
	merged := map[string]Value{}
	for _, from := range []Bundle{b, over} {
		for _, name := range from.Names() {
			merged[name], _ = from.Field(name)
		}
	}
	return NewBundle(merged)
}

// Only returns the Bundle of just the named fields; a name that b lacks is left out.
func (b Bundle) Only(names ...string) Bundle {
	some := map[string]Value{}
	for _, name := range names {
		if v, ok := b.Field(name); ok {
			some[name] = v
		}
	}
	return NewBundle(some)
}

// Encode writes the fields as a JSON object of strings. It is the one sanctioned way to serialise a
// bundle, for stores, targets and the standard input of a program. A value that is not UTF-8 is an error,
// since JSON would change it.
func (b Bundle) Encode() ([]byte, error) {
	plain := map[string]string{}
	for _, name := range b.Names() {
		v, _ := b.Field(name)
		value := v.Reveal()
		if !utf8.Valid(value) {
			return nil, fmt.Errorf("encoding bundle: field %q is not UTF-8", name)
		}
		plain[name] = string(value)
	}
	return json.Marshal(plain)
}

// Decode reads what Encode wrote.
func Decode(data []byte) (Bundle, error) {
	var plain map[string]string
	if err := json.Unmarshal(data, &plain); err != nil {
		// The decoder's message may quote the input, so it is dropped.
		return Bundle{}, errors.New("decoding bundle: not a JSON object of strings")
	}
	fields := map[string]Value{}
	for name, v := range plain {
		fields[name] = New([]byte(v))
	}
	return NewBundle(fields), nil
}

// Equal tells whether both have the same fields with the same content. It is not constant time:
// both sides are already in this process.
func (b Bundle) Equal(other Bundle) bool {
	if b.fields == nil || other.fields == nil {
		return len(b.Names()) == len(other.Names())
	}
	return maps.EqualFunc(b.fields(), other.fields(), func(x, y Value) bool { return bytes.Equal(x.Reveal(), y.Reveal()) })
}

// Close zeroes every field. It may be called twice.
func (b Bundle) Close() {
	for _, name := range b.Names() {
		v, _ := b.Field(name)
		v.Close()
	}
}

func (Bundle) String() string                 { return Redacted }
func (Bundle) GoString() string               { return Redacted }
func (Bundle) Format(f fmt.State, _ rune)     { _, _ = io.WriteString(f, Redacted) }
func (Bundle) LogValue() slog.Value           { return slog.StringValue(Redacted) }
func (Bundle) MarshalJSON() ([]byte, error)   { return nil, ErrMarshal }
func (Bundle) MarshalText() ([]byte, error)   { return nil, ErrMarshal }
func (Bundle) MarshalBinary() ([]byte, error) { return nil, ErrMarshal }
func (Bundle) GobEncode() ([]byte, error)     { return nil, ErrMarshal }
func (Bundle) MarshalYAML() (any, error)      { return nil, ErrMarshal }
