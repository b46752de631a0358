package strictyaml_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/strictyaml"
)

func TestDecodeJSON(t *testing.T) {
	t.Parallel()
	var r rule
	require.NoError(t, strictyaml.DecodeJSON([]byte(`{"name":"a","labels":{"x":"1","X":"2"},"rules":[{"name":"b"}],"shared":"s","wait":"5s"}`), &r))
	assert.Equal(t, "s", r.Shared)
	assert.Equal(t, map[string]string{"x": "1", "X": "2"}, r.Labels, "names of a map are free")
	for name, c := range map[string]struct{ text, want string }{
		"an unknown field":                         {`{"name":"a","nmae":"b"}`, "nmae"},
		"an unknown field deep inside":             {`{"rules":[{"below":{"nmae":"b"}}]}`, "nmae"},
		"a repeated field, of which one is hidden": {`{"name":"a","name":"b"}`, "name is given twice"},
		"a repeated field deep inside":             {`{"rules":[{"name":"a"},{"name":"a","name":"b"}]}`, "rules[1].name is given twice"},
		"a repeated name of a map":                 {`{"labels":{"a":"b","a":"c"}}`, "labels.a is given twice"},
		"a name in other case":                     {`{"Name":"a"}`, "Name is not a known field; did you mean name?"},
		"a name in other case deep inside":         {`{"below":{"NAME":"a"}}`, "below.NAME is not a known field"},
		"another type":                             {`{"name":1}`, "name"},
		"a second value":                           {`{} {}`, "more than one value"},
		"text after the value":                     {`{} x`, "more than one value"},
		"no value":                                 {``, "EOF"},
		"half a value":                             {`{"name":`, "EOF"},
		"a problem of the value":                   {`{"below":{"name":"bad"}}`, "below.name is bad; write good"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			assert.ErrorContains(t, strictyaml.DecodeJSON([]byte(c.text), &rule{}), c.want)
		})
	}
}

func FuzzDecodeJSON(f *testing.F) {
	for _, seed := range []string{`{"name":"a","name":"b"}`, `{"rules":[{"below":{"wait":"1s"}}],"list":["x",null]}`, `{"Name":[`, `null`, `{"labels":{"a":"b"}}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var r rule
		if strictyaml.DecodeJSON(data, &r) != nil {
			return
		}
		again, err := json.Marshal(r)
		require.NoError(t, err)
		var plain rule
		require.NoError(t, json.Unmarshal(data, &plain), "what is taken strictly is taken loosely, too")
		loosely, err := json.Marshal(plain)
		require.NoError(t, err)
		assert.JSONEq(t, string(loosely), string(again), "and means the same")
	})
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"name: a\nlist: [x, {y: z}]", "a: &b *b", "? x\n: - - y", "---\n...\n---", "k: |\n  text", "{a: b, a: c}", "<<: {name: x}", "%YAML 1.2\n---\na"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var r rule
		d := strictyaml.Parse("f", data)
		d.Decode("", &r)
		strictyaml.Inspect(&r, d.Report)
		if d.Err() == nil {
			_, err := d.JSON("")
			assert.NoError(t, err)
		}
	})
}
