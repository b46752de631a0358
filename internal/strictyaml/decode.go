package strictyaml

import (
	"encoding"
	"fmt"
	"maps"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// On lets a hook decode all values of a type.
func (d *Document) On(t reflect.Type, h Hook) { d.hooks[t] = h }

// Decode reads the value at a path ("" for all) into what into points to. Fields are named by their json
// tags; fields of embedded structs belong to the struct around. It sets only what the document has, so
// that decoding over a filled value overrides it. Names in ignore are not unknown there.
func (d *Document) Decode(path string, into any, ignore ...string) {
	if n, ok := d.nodes[path]; ok {
		d.decode(path, n, reflect.ValueOf(into).Elem(), ignore)
	}
}

// IsNull tells whether the document says at the path that there is nothing, by the word null. A field without any value is a mistake.
func (d *Document) IsNull(path string) bool {
	n := d.nodes[path]
	if pair, ok := n.(*ast.MappingValueNode); ok {
		n = pair.Value
	}
	null, ok := n.(*ast.NullNode)
	return ok && null.Token.Type == token.NullType
}

// Has tells whether the document has something at the path.
func (d *Document) Has(path string) bool {
	_, ok := d.nodes[path]
	return ok
}

func (d *Document) decode(path string, n ast.Node, v reflect.Value, ignore []string) {
	if hook, ok := d.hooks[v.Type()]; ok {
		hook(path, v)
		return
	}
	switch n.(type) {
	case *ast.AnchorNode, *ast.AliasNode, *ast.TagNode:
		return // reported already
	}
	if text, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		s, isText := d.Text(path)
		if !isText {
			d.wrong(path, n, "text, such as "+example(v))
			return
		}
		if err := text.UnmarshalText([]byte(s)); err != nil {
			what, write := err.Error(), ""
			if i := strings.LastIndex(what, "; write "); i >= 0 { // the last: what is quoted before may have one, too
				what, write = what[:i], what[i+len("; "):]
			}
			d.addAt(n, path, Problem{What: "is " + what, Write: write})
		}
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		fresh := reflect.New(v.Type().Elem())
		if !v.IsNil() {
			fresh.Elem().Set(v.Elem()) // what is shared with a policy must not change with it
		}
		d.decode(path, n, fresh.Elem(), nil)
		v.Set(fresh)
	case reflect.Struct:
		d.decodeStruct(path, n, v, ignore)
	case reflect.Map:
		d.decodeMap(path, n, v)
	case reflect.Slice:
		list, ok := n.(*ast.SequenceNode)
		if !ok {
			d.wrong(path, n, "a list")
			return
		}
		items := reflect.MakeSlice(v.Type(), len(list.Values), len(list.Values))
		for i, item := range list.Values {
			d.decode(fmt.Sprintf("%s[%d]", path, i), item, items.Index(i), nil)
		}
		v.Set(items)
	default:
		d.decodeScalar(path, n, v)
	}
}

func (d *Document) decodeStruct(path string, n ast.Node, v reflect.Value, ignore []string) {
	values, ok := pairs(n)
	if !ok {
		d.wrong(path, n, "a mapping")
		return
	}
	fields := fieldsOf(v.Type())
	done := map[string]bool{}
	for _, pair := range values {
		name, ok := keyText(pair.Key)
		if !ok || done[name] || slices.Contains(ignore, name) {
			continue
		}
		done[name] = true
		field, ok := fields[name]
		if !ok {
			d.addAt(pair.Key, Entry(path, name), Problem{What: "is not a known field", Write: suggest(name, slices.Sorted(maps.Keys(fields)))})
			continue
		}
		d.decode(Entry(path, name), pair.Value, v.FieldByIndex(field), nil)
	}
}

// known has what fieldsOf has found: thousands of entries are of few types.
var known sync.Map

// fieldsOf tells where the fields of a struct are, by their json names, those of embedded structs included.
func fieldsOf(t reflect.Type) map[string][]int {
	if fields, ok := known.Load(t); ok {
		return fields.(map[string][]int)
	}
	fields := map[string][]int{}
	for i := range t.NumField() {
		field := t.Field(i)
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		switch {
		case name == "-":
		case field.Anonymous && name == "":
			for name, below := range fieldsOf(field.Type) {
				fields[name] = append([]int{i}, below...)
			}
		case field.IsExported() && name != "":
			fields[name] = []int{i}
		}
	}
	known.Store(t, fields)
	return fields
}

func (d *Document) decodeMap(path string, n ast.Node, v reflect.Value) {
	values, ok := pairs(n)
	if !ok {
		d.wrong(path, n, "a mapping")
		return
	}
	m := reflect.MakeMap(v.Type())
	if !v.IsNil() {
		for _, k := range v.MapKeys() {
			m.SetMapIndex(k, v.MapIndex(k))
		}
	}
	for _, pair := range values {
		name, ok := keyText(pair.Key)
		if !ok {
			continue
		}
		item := reflect.New(v.Type().Elem()).Elem()
		d.decode(Entry(path, name), pair.Value, item, nil)
		m.SetMapIndex(reflect.ValueOf(name).Convert(v.Type().Key()), item)
	}
	v.Set(m)
}

func pairs(n ast.Node) ([]*ast.MappingValueNode, bool) {
	switch n := n.(type) {
	case *ast.MappingNode:
		return n.Values, true
	case *ast.MappingValueNode:
		if _, empty := n.Value.(*ast.NullNode); empty {
			return nil, false
		}
		return []*ast.MappingValueNode{n}, true
	}
	return nil, false
}

func (d *Document) decodeScalar(path string, n ast.Node, v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		s, ok := d.Text(path)
		if !ok {
			d.wrong(path, n, "text; put it in quotes if it is meant as text")
			return
		}
		v.SetString(s)
	case reflect.Bool:
		b, ok := n.(*ast.BoolNode)
		if !ok {
			d.wrong(path, n, "true or false")
			return
		}
		v.SetBool(b.Value)
	case reflect.Int, reflect.Int64:
		i, ok := integer(n)
		if !ok || v.OverflowInt(i) {
			d.wrong(path, n, "a whole number in decimal")
			return
		}
		v.SetInt(i)
	case reflect.Float64:
		f, ok := float(n)
		if !ok {
			d.wrong(path, n, "a decimal number")
			return
		}
		v.SetFloat(f)
	default:
		d.wrong(path, n, "something else")
	}
}

// decimal is how JSON writes numbers. YAML knows more ways, which people read differently than programs:
// 010, 0x10, 1_000, .5.
var decimal = regexp.MustCompile(`^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$`)

func integer(n ast.Node) (int64, bool) {
	i, ok := n.(*ast.IntegerNode)
	if !ok || !decimal.MatchString(i.Token.Value) {
		return 0, false
	}
	switch value := i.Value.(type) {
	case int64:
		return value, true
	case uint64:
		return int64(value), value <= math.MaxInt64 //nolint:gosec // judged in the same line
	}
	return 0, false
}

func float(n ast.Node) (float64, bool) {
	if f, ok := n.(*ast.FloatNode); ok {
		return f.Value, decimal.MatchString(f.Token.Value) && !math.IsNaN(f.Value) && !math.IsInf(f.Value, 0)
	}
	i, ok := integer(n)
	return float64(i), ok
}

func (d *Document) wrong(path string, n ast.Node, want string) {
	d.addAt(n, path, Problem{What: "is " + kind(n), Write: "write " + want})
}

func kind(n ast.Node) string {
	if v, ok := n.(*ast.MappingValueNode); ok {
		if _, empty := v.Value.(*ast.NullNode); empty {
			return "empty"
		}
	}
	switch n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.StringNode, *ast.LiteralNode:
		return "text"
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return "a number"
	case *ast.BoolNode:
		return "a truth value"
	case *ast.NullNode:
		return "empty"
	}
	return "of another type"
}

func example(v reflect.Value) string {
	if strings.HasSuffix(v.Type().Name(), "Duration") {
		return "90d or 12h"
	}
	return "50/s"
}

// suggest names the known word that is nearest, or all of them.
func suggest(name string, known []string) string {
	best, distance := "", 3
	for _, k := range known {
		if n := editDistance(strings.ToLower(name), strings.ToLower(k)); n < distance {
			best, distance = k, n
		}
	}
	if best != "" {
		return fmt.Sprintf("did you mean %s?", best)
	}
	if len(known) == 0 {
		return "there is nothing to say here: remove it"
	}
	return "known are " + strings.Join(known, ", ")
}

// editDistance is Levenshtein's.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// Inspect asks every value below v that has a method Problems, and hands each problem over with its path
// from v.
func Inspect(v any, report func(Problem)) { inspect("", reflect.ValueOf(v), report) }

func inspect(path string, v reflect.Value, report func(Problem)) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			inspect(path, v.Elem(), report)
		}
		return
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return // raw bytes, such as json.RawMessage
		}
		for i := range v.Len() {
			inspect(fmt.Sprintf("%s[%d]", path, i), v.Index(i), report)
		}
	case reflect.Map:
		for _, k := range v.MapKeys() {
			if k.Kind() == reflect.String {
				inspect(Entry(path, k.String()), v.MapIndex(k), report)
			}
		}
	case reflect.Struct:
		for i := range v.NumField() {
			field := v.Type().Field(i)
			name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			if field.IsExported() && name != "-" {
				inspect(join(path, name), v.Field(i), report)
			}
		}
	}
	asked := v
	if v.CanAddr() {
		asked = v.Addr()
	} else if v.IsValid() && v.Kind() == reflect.Struct {
		asked = reflect.New(v.Type())
		asked.Elem().Set(v)
	}
	if !asked.IsValid() || !asked.CanInterface() {
		return
	}
	if has, ok := asked.Interface().(interface{ Problems() []Problem }); ok {
		for _, p := range has.Problems() {
			p.Field = join(path, p.Field)
			report(p)
		}
	}
}
