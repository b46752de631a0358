package strictyaml_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/strictyaml"
)

// rule is a value with all kinds of fields.
type rule struct {
	Name   string            `json:"name"`
	Count  int               `json:"count,omitempty"`
	Ratio  float64           `json:"ratio,omitempty"`
	On     bool              `json:"on,omitempty"`
	Wait   span              `json:"wait,omitempty"`
	Labels map[string]string `json:"labels,omitempty"`
	List   []string          `json:"list,omitempty"`
	Below  *rule             `json:"below,omitempty"`
	Empty  struct{}          `json:"empty,omitzero"`
	Rules  []rule            `json:"rules,omitempty"`
	common
	hidden string
	Skip   string `json:"-"`
}

type common struct {
	Shared string `json:"shared,omitempty"`
}

// Problems wants a name that is not "bad".
func (r *rule) Problems() []strictyaml.Problem {
	if r.Name == "bad" {
		return []strictyaml.Problem{{Field: "name", What: "is bad", Write: "write good"}, {Field: "list[0]", What: "is missing", Write: "write one"}}
	}
	return nil
}

type span time.Duration

func (s *span) UnmarshalText(text []byte) error {
	d, err := time.ParseDuration(string(text))
	if err != nil || d < time.Second {
		return fmt.Errorf("no span: %q; write seconds, such as 5s; never less", text)
	}
	*s = span(d)
	return nil
}

func read(text string, into any) error {
	d := strictyaml.Parse("rule.yaml", []byte(text))
	d.Decode("", into)
	strictyaml.Inspect(into, d.Report)
	return d.Err()
}

func TestEveryKindOfFieldIsRead(t *testing.T) {
	t.Parallel()
	var r rule
	require.NoError(t, read(`
name: "yes"   # quoted: a text
count: -3
ratio: 0.5
on: true
wait: 5s
labels: {a: b, "x.y": z}
list:
  - one
  - |
    two
    lines
below: {name: inner, count: 7}
rules: [{name: r0}, {name: r1, shared: s}]
shared: outer
`, &r))
	assert.Equal(t, rule{
		Name: "yes", Count: -3, Ratio: 0.5, On: true, Wait: span(5 * time.Second), Labels: map[string]string{"a": "b", "x.y": "z"},
		List: []string{"one", "two\nlines\n"}, Below: &rule{Name: "inner", Count: 7},
		Rules: []rule{{Name: "r0"}, {Name: "r1", common: common{Shared: "s"}}}, common: common{Shared: "outer"},
	}, r)
	assert.Empty(t, r.hidden)
}

func TestWhatIsRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ text, want string }{
		"an unknown field":                      {"name: a\ncuont: 1", "rule.yaml:2:1: cuont is not a known field; did you mean count?"},
		"an unknown field like no other":        {"zzzzzzzz: 1", "rule.yaml:1:1: zzzzzzzz is not a known field; known are below, count, empty, labels, list, name, on, ratio, rules, shared, wait"},
		"a field where there is none":           {"empty: {more: 1}", "rule.yaml:1:9: empty.more is not a known field; there is nothing to say here: remove it"},
		"an unknown field deep inside":          {"rules:\n  - name: a\n  - below:\n      nmae: b", "rule.yaml:4:7: rules[1].below.nmae is not a known field; did you mean name?"},
		"a field without json name":             {"Skip: a", "rule.yaml:1:1: Skip is not a known field"},
		"a name in other case":                  {"Name: a", "rule.yaml:1:1: Name is not a known field; did you mean name?"},
		"a repeated key":                        {"name: a\ncount: 1\nname: b", "rule.yaml:3:1: name is given twice, first in line 1"},
		"a repeated key in a flow mapping":      {"labels: {a: b, a: c}", "rule.yaml:1:16: labels.a is given twice, first in line 1"},
		"yes for a truth value":                 {"on: yes", "rule.yaml:1:5: on is text; write true or false"},
		"a number for a text":                   {"name: 12", "rule.yaml:1:7: name is a number; write text; put it in quotes if it is meant as text"},
		"a truth value for a text":              {"labels: {a: true}", "rule.yaml:1:13: labels.a is a truth value; write text"},
		"1.0 for a whole number":                {"count: 1.0", "rule.yaml:1:8: count is a number; write a whole number in decimal"},
		"a text for a whole number":             {`count: "1"`, "rule.yaml:1:8: count is text; write a whole number"},
		"an octal number":                       {"count: 010", "rule.yaml:1:8: count is a number; write a whole number in decimal"},
		"a hexadecimal number":                  {"count: 0x10", "count is a number; write a whole number in decimal"},
		"a number with underscores":             {"count: 1_000", "count is a number; write a whole number in decimal"},
		"a whole number too large":              {"count: 9223372036854775808", "count is a number; write a whole number"},
		"infinity":                              {"ratio: .inf", "ratio is a number; write a decimal number"},
		"not a number":                          {"ratio: .nan", "ratio is a number; write a decimal number"},
		"a list for a text":                     {"name: [a]", "rule.yaml:1:7: name is a list; write text"},
		"a text for a list":                     {"list: a", "rule.yaml:1:7: list is text; write a list"},
		"a list for a mapping":                  {"below: [a]", "rule.yaml:1:8: below is a list; write a mapping"},
		"a mapping for a text":                  {"name:\n  a: b", "name is a mapping; write text"},
		"nothing for a text":                    {"name:\ncount: 1", "rule.yaml:1:6: name is empty; write text"},
		"nothing for a mapping":                 {"below:", "rule.yaml:1:8: below is empty; write a mapping"},
		"a number for a type that reads text":   {"wait: 10", "rule.yaml:1:7: wait is a number; write text"},
		"a text that its type refuses":          {`wait: "a; b"`, `rule.yaml:1:7: wait is no span: "a; b"; write seconds, such as 5s; never less`},
		"a problem of the value":                {"rules: [{name: bad}]", "rule.yaml:1:16: rules[0].name is bad; write good"},
		"a problem of what is not there":        {"count: 1\nbelow:\n  name: bad", "rule.yaml:3:3: below.list[0] is missing; write one"},
		"an anchor":                             {"list: &x [a]", "list uses an anchor or alias"},
		"an alias":                              {"name: &x a\nshared: *x", "rule.yaml:2:9: shared uses an anchor or alias"},
		"a merge key":                           {"below: {name: a}\nrules:\n  - <<: {name: b}", "rule.yaml:3:5: rules[0] has a key that is no plain name"},
		"a custom tag":                          {"name: !secret a", "name uses a tag"},
		"a standard tag":                        {"name: !!str 1", "name uses a tag"},
		"a complex key":                         {"? [a]\n: b", "rule.yaml:2:1: has a syntax error: found an invalid key"},
		"two documents":                         {"name: a\n---\nname: b", "rule.yaml:3:5: begins a second document"},
		"no document":                           {"", "rule.yaml:1:1: is empty"},
		"only comments":                         {"# nothing\n", "rule.yaml:1:1: is empty"},
		"a document that is a list":             {"- a", "is a list; write a mapping"},
		"a document that is a text":             {"hello", "is text; write a mapping"},
		"an error of syntax":                    {"name: a\nlist: [a, b\ncount: 1", "rule.yaml:3:1: has a syntax error"},
		"a string without end":                  {"name: \"a\n", "rule.yaml:1:7: has a syntax error"},
		"bytes that are not UTF-8":              {"name: a\nshared: b\xff", "rule.yaml:2:10: is not UTF-8"},
		"a control character":                   {"name: a\nshared: b\x07", "rule.yaml:2:10: has a control character"},
		"a control character written as escape": {`name: "a\u0007"`, "rule.yaml:1:7: name has a control character"},
		"a direction that turns":                {"name: \"a\u202eb\"", "rule.yaml:1:9: has a character that nobody sees, U+202E; remove it"},
		"one written as escape":                 {`name: "a\u202eb"`, "rule.yaml:1:7: name has a character that nobody sees, U+202E"},
		"one in a comment":                      {"name: a # \u2066b\u2069", "rule.yaml:1:11: has a character that nobody sees, U+2066"},
		"a separator of lines":                  {`name: "a\u2028b"`, "rule.yaml:1:7: name has a character that nobody sees, U+2028"},
		"a filler":                              {"shared: \"a\u3164b\"", "has a character that nobody sees, U+3164"},
		"a return alone":                        {"name: a\rshared: b", "rule.yaml:1:8: has a control character, U+000D"},
		"an escape of C1 in a name":             {`labels: {"a\u0085": b}`, "has a control character"},
		"brackets deeper than any rule":         {"name: " + strings.Repeat("[", 40) + strings.Repeat("]", 40), "is nested deeper than 32 levels"},
		"a hundred thousand brackets":           {strings.Repeat("[", 100_000), "is nested deeper than 32 levels"},
		"a hundred thousand dashes":             {strings.Repeat("- ", 100_000), "is nested deeper than 32 levels"},
		"indentation deeper than any rule":      {nested(40), "is too large or nested too deep"},
		"a mebibyte and a byte":                 {"# " + strings.Repeat("x", strictyaml.MaxBytes-1), "has more than 1048576 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := read(c.text, &rule{})
			require.Error(t, err)
			assert.Contains(t, err.Error(), c.want)
		})
	}
}

func nested(levels int) string {
	var b strings.Builder
	for i := range levels {
		b.WriteString(strings.Repeat(" ", i) + "below:\n")
	}
	return b.String() + strings.Repeat(" ", levels) + "name: a\n"
}

// What nobody sees keeps nobody from being told of all else.
func TestAHiddenCharacterHidesNoOtherError(t *testing.T) {
	t.Parallel()
	var r rule
	err := read("na\u200bme: bad # \u2066b\u2069\ncuont: 1\nshared: \"a\x07b\"\ncount: x", &r)
	var found strictyaml.Errors
	require.ErrorAs(t, err, &found)
	var told []string
	for _, e := range found {
		told = append(told, e.String())
	}
	assert.Equal(t, []string{
		"rule.yaml:1:1: list[0] is missing; write one",
		"rule.yaml:1:3: has a character that nobody sees, U+200B; remove it",
		"rule.yaml:1:7: name is bad; write good",
		"rule.yaml:2:1: cuont is not a known field; did you mean count?",
		"rule.yaml:3:11: has a control character, U+0007; remove it",
		"rule.yaml:4:8: count is text; write a whole number in decimal",
	}, told)
	require.ErrorAs(t, read("name: a\n"+strings.Repeat("# \x07\n", 100_000), &r), &found)
	assert.Len(t, found, 20, "a file that is no text is told of in bounds")
}

func TestWhatIsFine(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"a byte order mark":                "\uFEFFname: a",
		"lines that end like on Windows":   "name: a\r\ncount: 1\r\n",
		"a marker before the one document": "---\nname: a\n",
		"a marker after it":                "name: a\n...\n",
		"no end of line at the end":        "name: a",
		"text in any script":               "name: a\nshared: Schlüssel 鍵 🔑",
		"a directive":                      "%YAML 1.2\n---\nname: a\n",
		"emoji":                            "name: a # \u26a0\ufe0f ask first \U0001f469\u200d\U0001f4bb",
		"a wide blank":                     "name: a\nshared: \u9375\u3000\u9375\u00a0x",
		"a mebibyte":                       "name: a #" + strings.Repeat("x", strictyaml.MaxBytes-9),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var r rule
			require.NoError(t, read(text, &r))
			assert.Equal(t, "a", r.Name)
		})
	}
}

func TestATextOverSeveralLinesIsTheSameOnEachSystem(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"name: \"two\n  lines\"\n", "name: 'two\n  lines'\n", "name: |\n  two\n  lines\n", "name: >-\n  two\n  lines\n", "name: two\n  lines\n"} {
		var unix, windows rule
		require.NoError(t, read(text, &unix))
		require.NoError(t, read(strings.ReplaceAll(text, "\n", "\r\n"), &windows))
		assert.Equal(t, unix.Name, windows.Name, "%q", text)
	}
}

func TestAllErrorsComeAtOnceInTheOrderOfTheFile(t *testing.T) {
	t.Parallel()
	err := read("on: yes\nname: bad\ncuont: 1\nrules:\n  - count: x\n  - wait: 1ns\nname: b\n", &rule{})
	var all strictyaml.Errors
	require.True(t, errors.As(err, &all))
	var fields []string
	for i, e := range all {
		fields = append(fields, e.Field)
		assert.Equal(t, "rule.yaml", e.File)
		assert.NotEmpty(t, e.What)
		if i > 0 {
			assert.GreaterOrEqual(t, e.Line*1000+e.Column, all[i-1].Line*1000+all[i-1].Column)
		}
	}
	assert.ElementsMatch(t, []string{"on", "list[0]", "name", "cuont", "rules[0].count", "rules[1].wait", "name"}, fields)
	assert.Len(t, strings.Split(err.Error(), "\n"), len(all), "one line each")
}

func TestNoErrorComesTwice(t *testing.T) {
	t.Parallel()
	d := strictyaml.Parse("rule.yaml", []byte("count: x"))
	for range 3 {
		d.Decode("", &rule{})
		d.Report(strictyaml.Problem{Field: "count", What: "is odd"})
	}
	assert.Len(t, strings.Split(d.Err().Error(), "\n"), 2)
}

func TestErrorsForPrograms(t *testing.T) {
	t.Parallel()
	data, err := json.Marshal(read("count: x", &rule{}))
	require.NoError(t, err)
	assert.JSONEq(t, `[{"file":"rule.yaml","line":1,"column":8,"field":"count","what":"is text","write":"write a whole number in decimal"}]`, string(data))
}

func TestDecodingOverAValueOverridesWhatIsThere(t *testing.T) {
	t.Parallel()
	base := &rule{Name: "below", Count: 1, List: []string{"kept"}}
	r := rule{Name: "kept", Count: 1, On: true, Labels: map[string]string{"a": "kept", "b": "old"}, List: []string{"x", "y"}, Below: base}
	labels := r.Labels
	require.NoError(t, read("count: 2\non: false\nlabels: {b: new}\nlist: [z]\nbelow: {count: 9}", &r))
	assert.Equal(t, "kept", r.Name)
	assert.Equal(t, 2, r.Count)
	assert.False(t, r.On, "false is said, not missing")
	assert.Equal(t, map[string]string{"a": "kept", "b": "new"}, r.Labels, "maps are merged")
	assert.Equal(t, []string{"z"}, r.List, "lists are replaced")
	assert.Equal(t, &rule{Name: "below", Count: 9, List: []string{"kept"}}, r.Below)
	assert.Equal(t, 1, base.Count, "what is shared with others is copied first")
	assert.Equal(t, "old", labels["b"])
}
