package secret_test

import (
	"bytes"
	"encoding"
	"encoding/gob"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/keyturn/keyturn/internal/secret"
)

const plain = "ktg_AAAABBBBCCCCDDDD_correct-horse-battery-staple"

// holder has secrets where a careless print would find them.
type holder struct {
	Exported secret.Value
	hidden   secret.Value
	bundle   secret.Bundle
	pointer  *secret.Value
	list     []secret.Value
	byName   map[string]secret.Bundle
	any      any
}

func newHolder() holder {
	v := secret.New([]byte(plain))
	b := secret.NewBundle(map[string]secret.Value{"field-of-the-key": v})
	return holder{v, v, b, &v, []secret.Value{v}, map[string]secret.Bundle{"entry": b}, v}
}

// everyShape is every way in which a secret may be handed to a printer or marshaller.
func everyShape() map[string]any {
	v := secret.New([]byte(plain))
	h := newHolder()
	return map[string]any{
		"a value": v, "a pointer to a value": &v, "a bundle": h.bundle, "a pointer to a bundle": &h.bundle,
		"a struct": h, "a pointer to a struct": &h, "a list": []secret.Value{v}, "a map": map[string]secret.Value{"entry": v},
		"an error that wraps one": fmt.Errorf("the key is %v", v),
	}
}

// listener is a testing.T that keeps what it is told.
type listener struct{ said strings.Builder }

func (l *listener) Errorf(format string, args ...any) { fmt.Fprintf(&l.said, format, args...) }

// dumped is what spew shows, which follows pointers and unexported fields and calls no methods: testify
// prints what differs with it.
func dumped(shape any) string {
	var l listener
	assert.Equal(&l, struct{ Shape any }{}, struct{ Shape any }{shape})
	return l.said.String()
}

func TestDumpedShowsUnexportedFields(t *testing.T) {
	t.Parallel()
	assert.Contains(t, dumped(struct{ hidden *struct{ text string } }{&struct{ text string }{plain}}), plain, "so that its silence about secrets means something")
}

// leaks tells whether text shows the secret, in one of the forms of fmt's verbs too.
func leaks(text string) bool {
	for _, form := range []string{plain, "correct-horse", "636f7272656374", "636F7272656374", "99 111 114 114 101 99 116", "0x63, 0x6f", "field-of-the-key"} {
		if strings.Contains(text, form) {
			return true
		}
	}
	return false
}

func TestNoVerbPrintsASecret(t *testing.T) {
	t.Parallel()
	for name, shape := range everyShape() {
		for _, verb := range "vTtbcdoOqxXUeEfFgGsp" {
			for _, flag := range []string{"", "+", "#", "-", " ", "0", "20", ".3", "# "} {
				got := fmt.Sprintf("%"+flag+string(verb), shape)
				assert.False(t, leaks(got), "%s printed with %%%s%c: %s", name, flag, verb, got)
			}
		}
		for how, got := range map[string]string{
			"print": fmt.Sprint(shape), "println": fmt.Sprintln(shape), "spew": dumped(shape),
		} {
			assert.False(t, leaks(got), "%s by %s: %s", name, how, got)
		}
	}
	assert.Equal(t, "REDACTED", fmt.Sprint(secret.New([]byte(plain))))
	assert.Equal(t, "REDACTED", fmt.Sprintf("%#v", newHolder().bundle))
	assert.Equal(t, "REDACTED", fmt.Sprintf("%x", newHolder().Exported))
	assert.Equal(t, "REDACTED", secret.Value{}.String(), "an empty one looks like any other")
}

func TestNoLoggerPrintsASecret(t *testing.T) {
	t.Parallel()
	for name, shape := range everyShape() {
		var out bytes.Buffer
		for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
			slog.New(h).With("with", shape).WithGroup("group").Info("said", "key", shape, slog.Any("any", shape))
		}
		assert.False(t, leaks(out.String()), "%s: %s", name, out.String())
	}
	var out bytes.Buffer
	slog.New(slog.NewTextHandler(&out, nil)).Info("said", "key", secret.New([]byte(plain)), "bundle", newHolder().bundle)
	assert.Contains(t, out.String(), "key=REDACTED bundle=REDACTED")
}

func TestEveryMarshallerIsRefused(t *testing.T) {
	t.Parallel()
	v, b := secret.New([]byte(plain)), newHolder().bundle
	for name, shape := range map[string]any{
		"a value": v, "a pointer to a value": &v, "a bundle": b, "a field": struct{ Key secret.Value }{v},
		"a list": []secret.Bundle{b}, "an entry of a map": map[string]secret.Value{"entry": v},
	} {
		for how, marshal := range map[string]func(any) ([]byte, error){
			"json": json.Marshal, "yaml": yaml.Marshal,
			"gob": func(v any) ([]byte, error) { var out bytes.Buffer; return out.Bytes(), gob.NewEncoder(&out).Encode(v) },
		} {
			data, err := marshal(shape)
			require.Error(t, err, "%s as %s", name, how)
			assert.True(t, errors.Is(err, secret.ErrMarshal) || strings.Contains(err.Error(), secret.ErrMarshal.Error()), "%s as %s: %v", name, how, err)
			assert.False(t, leaks(string(data)) || leaks(err.Error()), "%s as %s", name, how)
		}
	}
	for name, m := range map[string]any{"a value": v, "a bundle": b} {
		text, err := m.(encoding.TextMarshaler).MarshalText()
		assert.ErrorIs(t, err, secret.ErrMarshal, name)
		assert.Empty(t, text, name)
		binary, err := m.(encoding.BinaryMarshaler).MarshalBinary()
		assert.ErrorIs(t, err, secret.ErrMarshal, name)
		assert.Empty(t, binary, name)
		_, err = xml.Marshal(m) // by MarshalText
		assert.ErrorIs(t, err, secret.ErrMarshal, name)
	}
}

func TestCloseZeroesTheMemoryOfEveryCopy(t *testing.T) {
	t.Parallel()
	v := secret.New([]byte(plain))
	copied := v
	b := secret.Single(v)
	kept := b.With(secret.NewBundle(nil))
	b.Close()
	for name, bytes := range map[string][]byte{"the value": v.Reveal(), "its copy": copied.Reveal(), "a bundle made of it": reveal(t, kept)} {
		assert.Equal(t, make([]byte, len(plain)), bytes, name)
	}
	assert.NotPanics(t, b.Close, "a second time")
	assert.NotPanics(t, func() { secret.Value{}.Close(); secret.Bundle{}.Close() }, "an empty one")
}

func TestTheCallersBytesStayTheCallers(t *testing.T) {
	t.Parallel()
	given := []byte(plain)
	v := secret.New(given)
	clear(given)
	assert.Equal(t, plain, string(v.Reveal()), "clearing what was given does not clear the secret")
	clear(v.Reveal())
	assert.Equal(t, plain, string(v.Reveal()), "nor does clearing what was revealed")
}

func reveal(t require.TestingT, b secret.Bundle) []byte {
	v, ok := b.Field(secret.ValueField)
	require.True(t, ok)
	return v.Reveal()
}

func TestBundle(t *testing.T) {
	t.Parallel()
	bundle := func(fields ...string) secret.Bundle {
		m := map[string]secret.Value{}
		for i := 0; i < len(fields); i += 2 {
			m[fields[i]] = secret.New([]byte(fields[i+1]))
		}
		return secret.NewBundle(m)
	}
	stored, key := bundle("id", "1", "host", "db"), bundle("id", "2", "value", "new")
	assert.True(t, stored.With(key).Equal(bundle("host", "db", "id", "2", "value", "new")), "foreign fields are kept, the key's own win")
	assert.True(t, stored.With(key).Only("id", "value", "missing").Equal(key), "only the named fields")
	assert.Equal(t, []string{"host", "id"}, stored.Names())
	assert.False(t, stored.Equal(bundle("id", "1")), "a field less")
	assert.False(t, stored.Equal(bundle("id", "1", "host", "other")), "another content")
	assert.True(t, secret.Bundle{}.Equal(secret.NewBundle(nil)))
	_, ok := secret.Bundle{}.Field("value")
	assert.False(t, ok)
}

func TestDecodeDoesNotRepeatItsInput(t *testing.T) {
	t.Parallel()
	for _, input := range []string{plain, `{"value":"` + plain, `["` + plain + `"]`, `{"value":{"a":"` + plain + `"}}`} {
		_, err := secret.Decode([]byte(input))
		require.Error(t, err)
		assert.False(t, leaks(err.Error()), err.Error())
	}
	_, err := secret.Single(secret.New([]byte{0xff})).Encode()
	assert.ErrorContains(t, err, "not UTF-8", "JSON would change it")
}

func TestEncodeAndDecodeAreInverse(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		fields := map[string]secret.Value{}
		for name, value := range rapid.MapOf(rapid.String(), rapid.String()).Draw(t, "fields") {
			fields[name] = secret.New([]byte(value))
		}
		b := secret.NewBundle(fields)
		data, err := b.Encode()
		if err != nil {
			return // a value that is not UTF-8
		}
		got, err := secret.Decode(data)
		require.NoError(t, err)
		assert.True(t, b.Equal(got))
	})
}
