// Package strictyaml reads YAML into Go structs, strictly: a field that nobody knows, a value of another
// type, a repeated key are errors, and all errors of a file are found at once, each with its place, its
// field, what is wrong and what to write.
package strictyaml

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"github.com/keyturn/keyturn/internal/outside"
)

// Error is one error of a file.
type Error struct {
	File   string `json:"file"`
	Line   int    `json:"line"`
	Column int    `json:"column"`
	// Field is the path from the root: credentials[0].issuer.type.
	Field string `json:"field,omitempty"`
	What  string `json:"what"`
	Write string `json:"write,omitempty"`
}

func (e Error) String() string {
	text := fmt.Sprintf("%s:%d:%d: ", e.File, e.Line, e.Column)
	if e.Field != "" {
		text += e.Field + " "
	}
	text += e.What
	if e.Write != "" {
		text += "; " + e.Write
	}
	return text
}

// Errors are all errors of a file, in its order.
type Errors []Error

func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, one := range e {
		lines[i] = one.String()
	}
	return strings.Join(lines, "\n")
}

// Limits of a document. A file beyond them is no file that a person wrote.
const (
	MaxBytes = 1 << 20
	maxDepth = 32
	maxNodes = 200_000
)

// Document is one YAML document and what was found wrong with it so far.
type Document struct {
	file  string
	nodes map[string]ast.Node
	hooks map[reflect.Type]Hook
	errs  Errors
	kept  map[Error]bool // those in errs
	count int
	// forbid are the judges of all texts.
	forbid []Forbid
}

// Forbid judges a text of a document, with the path of its field: a value, the name of a field (with the
// path of its mapping), or a comment (without path). What it forbids is reported with the problem that it
// returns, and repeated in no error.
type Forbid func(path, text string) (Problem, bool)

// forbiddenText stands where a forbidden text stood.
const forbiddenText = "REDACTED"

// Hook decodes the value at a path by itself.
type Hook func(path string, into reflect.Value)

// Parse reads a document and checks its form: UTF-8, one document, no repeated keys, no anchors, aliases,
// tags or merge keys, no character that nobody sees. It returns a document even when that fails, for Err; only a
// syntax error leaves nothing to decode.
func Parse(file string, data []byte, forbid ...Forbid) *Document {
	d := &Document{file: file, nodes: map[string]ast.Node{}, hooks: map[reflect.Type]Hook{}, kept: map[Error]bool{}, forbid: forbid}
	switch {
	case len(data) > MaxBytes:
		d.add(1, 1, Problem{What: fmt.Sprintf("has more than %d bytes", MaxBytes), Write: "split the file"})
		return d
	case !utf8.Valid(data):
		line, column := invalidUTF8(data)
		d.add(line, column, Problem{What: "is not UTF-8", Write: "save the file as UTF-8"})
		return d
	case bytes.HasPrefix(data, []byte("\uFEFF")):
		data = data[len("\uFEFF"):]
	}
	data = bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n")) // or a text over several lines would have other ones
	root := d.parse(d.withoutHidden(data))
	if root != nil {
		d.walk("", root, 0)
	}
	return d
}

func (d *Document) parse(data []byte) (root ast.Node) {
	defer func() {
		// The parser is somebody else's, and the input is anybody's.
		if r := recover(); r != nil {
			d.add(1, 1, Problem{What: "cannot be parsed as YAML", Write: "check its syntax"})
			root = nil
		}
	}()
	tokens := lexer.Tokenize(string(data))
	if t := tooDeep(tokens); t != nil {
		d.add(t.Position.Line, t.Position.Column, Problem{What: fmt.Sprintf("is nested deeper than %d levels", maxDepth), Write: "flatten it"})
		return nil
	}
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	for _, t := range tokens {
		if err != nil || t.Type == token.CommentType { // nothing else looks at these
			if p, found := d.forbidden("", t.Value); found {
				d.add(t.Position.Line, t.Position.Column, p)
			}
		}
	}
	if err != nil {
		d.addSyntax(err)
		return nil
	}
	var bodies []ast.Node
	for _, doc := range file.Docs {
		if doc.Body != nil && doc.Body.Type() != ast.CommentType && doc.Body.Type() != ast.DirectiveType {
			bodies = append(bodies, doc.Body)
		}
	}
	switch len(bodies) {
	case 0:
		d.add(1, 1, Problem{What: "is empty", Write: "write a document"})
		return nil
	case 1:
		return bodies[0]
	}
	at := bodies[1].GetToken().Position
	d.add(at.Line, at.Column, Problem{What: "begins a second document", Write: "put it into a file of its own"})
	return nil
}

func (d *Document) addSyntax(err error) {
	var located interface{ GetToken() *token.Token }
	line, column := 1, 1
	if errors.As(err, &located) && located.GetToken() != nil {
		line, column = located.GetToken().Position.Line, located.GetToken().Position.Column
	}
	what := "has a syntax error"
	var detailed interface{ GetMessage() string }
	if errors.As(err, &detailed) {
		what = "has a syntax error: " + detailed.GetMessage()
	}
	d.add(line, column, Problem{What: what, Write: "mend the YAML there"})
}

// walk remembers where everything is, and refuses what a strict document does not have.
func (d *Document) walk(path string, n ast.Node, level int) {
	if d.count++; d.count > maxNodes || level > maxDepth {
		if d.count == maxNodes+1 || level == maxDepth+1 {
			d.addAt(n, path, Problem{What: "is too large or nested too deep", Write: "split the file"})
		}
		return
	}
	d.nodes[path] = n
	switch n := n.(type) {
	case *ast.MappingNode:
		d.walkMapping(path, n.Values, level)
	case *ast.MappingValueNode:
		d.walkMapping(path, []*ast.MappingValueNode{n}, level)
	case *ast.SequenceNode:
		for i, item := range n.Values {
			d.walk(fmt.Sprintf("%s[%d]", path, i), item, level+1)
		}
	case *ast.AnchorNode, *ast.AliasNode:
		d.addAt(n, path, Problem{What: "uses an anchor or alias", Write: "write the value out, or use a policy"})
	case *ast.TagNode:
		d.addAt(n, path, Problem{What: "uses a tag", Write: "write the plain value"})
	case *ast.StringNode:
		n.Value = d.checkText(path, n, n.Value)
	case *ast.LiteralNode:
		n.Value.Value = d.checkText(path, n, n.Value.Value)
	}
}

func (d *Document) walkMapping(path string, values []*ast.MappingValueNode, level int) {
	seen := map[string]*token.Position{}
	for _, v := range values {
		name, ok := keyText(v.Key)
		if !ok {
			d.addAt(v.Key, path, Problem{What: "has a key that is no plain name", Write: "write a name"})
			continue
		}
		at := v.Key.GetToken().Position
		if p, found := d.forbidden(path, name); found {
			p.Field = path
			d.add(at.Line, at.Column, p)
			if key, isText := v.Key.(*ast.StringNode); isText {
				key.Value = forbiddenText
			}
			continue
		}
		below := Entry(path, name)
		if first, twice := seen[name]; twice {
			d.add(at.Line, at.Column, Problem{Field: below, What: fmt.Sprintf("is given twice, first in line %d", first.Line), Write: "keep one of them"})
			continue
		}
		seen[name] = at
		d.checkSeen(below, v.Key, name)
		d.walk(below, v.Value, level+1)
		if _, null := v.Value.(*ast.NullNode); null {
			d.nodes[below] = v // an empty value has no place of its own
		}
	}
}

// checkText judges a text, and returns what may be known of it.
func (d *Document) checkText(path string, n ast.Node, text string) string {
	if p, found := d.forbidden(path, text); found {
		d.addAt(n, path, p)
		return forbiddenText
	}
	d.checkSeen(path, n, text)
	return text
}

func (d *Document) forbidden(path, text string) (Problem, bool) {
	for _, judge := range d.forbid {
		if p, found := judge(path, text); found {
			return p, true
		}
	}
	return Problem{}, false
}

// checkSeen refuses a text in which somebody who reads it would not see all that there is.
func (d *Document) checkSeen(path string, n ast.Node, text string) {
	if i := strings.IndexFunc(text, hidden); i >= 0 {
		r, _ := utf8.DecodeRuneInString(text[i:])
		d.addAt(n, path, hiddenProblem(r))
	}
}

// hidden tells whether a text, or an escape in it, has a character that nobody sees who reads it. A blank of another width is seen, and so is
// what joins and colours emoji.
func hidden(r rune) bool {
	const joiner, emojiStyle = '\u200d', '\ufe0f'
	if r == joiner || r == emojiStyle {
		return false
	}
	return r != '\n' && r != '\t' && outside.Hidden(r) && !unicode.Is(unicode.Zs, r) || r == utf8.RuneError
}

func hiddenProblem(r rune) Problem {
	what := "a character that nobody sees"
	switch {
	case unicode.IsControl(r):
		what = "a control character"
	case r == utf8.RuneError:
		what = "the sign of a character that was lost"
	}
	return Problem{What: fmt.Sprintf("has %s, %U", what, r), Write: "remove it"}
}

// keyText is a mapping's key as text; merge keys and complex keys are none.
func keyText(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.IntegerNode, *ast.BoolNode, *ast.FloatNode:
		return n.GetToken().Value, true
	}
	return "", false
}

// plainName is a name that stands in a path without quotes.
var plainName = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

// Entry is the path of an entry of a map or mapping. A name with other characters than letters, digits, _
// and - is quoted, so that no two paths look the same: labels["a.b"].
func Entry(path, name string) string {
	if plainName.MatchString(name) {
		return join(path, name)
	}
	return path + "[" + strconv.Quote(name) + "]"
}

func join(path, field string) string {
	switch {
	case field == "":
		return path
	case path == "" || strings.HasPrefix(field, "["):
		return path + field
	}
	return path + "." + field
}

// Report adds a problem; its Field is a path from the root. What has no place of its own is reported at
// the nearest thing above that has one.
func (d *Document) Report(p Problem) { d.keep(d.Locate(p)) }

// Locate gives a problem its place, as Report does, and adds nothing.
func (d *Document) Locate(p Problem) Error {
	for at := p.Field; ; at = parent(at) {
		if n, ok := d.nodes[at]; ok {
			return d.place(n, p.Field, p)
		}
		if at == "" {
			return d.errorAt(1, 1, p)
		}
	}
}

func parent(path string) string {
	return path[:max(0, strings.LastIndexAny(path, ".["))]
}

func (d *Document) addAt(n ast.Node, path string, p Problem) { d.keep(d.place(n, path, p)) }

func (d *Document) place(n ast.Node, path string, p Problem) Error {
	p.Field = path
	line, column := 1, 1
	if v, isPair := n.(*ast.MappingValueNode); isPair {
		n = v.Key
	}
	if m, isMap := n.(*ast.MappingNode); isMap && len(m.Values) > 0 && !m.IsFlowStyle {
		n = m.Values[0].Key
	}
	if t := n.GetToken(); t != nil && t.Position != nil {
		line, column = t.Position.Line, t.Position.Column
	}
	return d.errorAt(line, column, p)
}

func (d *Document) errorAt(line, column int, p Problem) Error {
	return Error{File: d.file, Line: line, Column: column, Field: p.Field, What: p.What, Write: p.Write}
}

func (d *Document) add(line, column int, p Problem) { d.keep(d.errorAt(line, column, p)) }

func (d *Document) keep(e Error) {
	if !d.kept[e] {
		d.kept[e] = true
		d.errs = append(d.errs, e)
	}
}

// Readable tells whether there is anything to decode: after a syntax error there is not.
func (d *Document) Readable() bool { return len(d.nodes) > 0 }

// Err returns all errors so far as Errors, nil when there are none.
func (d *Document) Err() error {
	if len(d.errs) == 0 {
		return nil
	}
	sorted := slices.Clone(d.errs)
	slices.SortStableFunc(sorted, func(a, b Error) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return sorted
}

// Text returns the string at a path.
func (d *Document) Text(path string) (string, bool) {
	switch n := d.nodes[path].(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	}
	return "", false
}

// JSON returns the value at a path as JSON with sorted keys.
func (d *Document) JSON(path string) (json.RawMessage, error) {
	return json.Marshal(plain(d.nodes[path]))
}

func plain(n ast.Node) any {
	switch n := n.(type) {
	case *ast.MappingNode:
		m := map[string]any{}
		for _, v := range n.Values {
			if name, ok := keyText(v.Key); ok {
				m[name] = plain(v.Value)
			}
		}
		return m
	case *ast.MappingValueNode:
		return plain(&ast.MappingNode{BaseNode: n.BaseNode, Values: []*ast.MappingValueNode{n}})
	case *ast.SequenceNode:
		list := make([]any, len(n.Values))
		for i, item := range n.Values {
			list[i] = plain(item)
		}
		return list
	case *ast.LiteralNode:
		return n.Value.Value
	case ast.ScalarNode:
		return n.GetValue()
	}
	return nil
}

func invalidUTF8(data []byte) (line, column int) {
	line, column = 1, 1
	for len(data) > 0 {
		r, size := utf8.DecodeRune(data)
		switch {
		case r == utf8.RuneError && size == 1:
			return line, column
		case r == '\n':
			line, column = line+1, 1
		default:
			column++
		}
		data = data[size:]
	}
	return line, column
}

// mostHidden bounds the lines whose characters that nobody sees are told of: a file that is none of text has them everywhere.
const mostHidden = 20

// withoutHidden reports the characters, in a comment too, that nobody sees who reads the file: the first one of a line. What else is
// wrong is looked for in what a reader sees, which is the file without them.
func (d *Document) withoutHidden(data []byte) []byte {
	line, column, told, last := 1, 1, 0, 0
	return bytes.Map(func(r rune) rune {
		switch {
		case r == '\n':
			line, column = line+1, 1
			return r
		case !hidden(r):
			column++
			return r
		case line != last && told < mostHidden:
			d.add(line, column, hiddenProblem(r))
			told, last = told+1, line
		}
		column++
		return -1
	}, data)
}

// tooDeep finds the token at which the nesting is too deep for a parser that recurses. Nesting by
// indentation is left to walk: each level of it costs as many bytes as there are levels above it.
func tooDeep(tokens token.Tokens) *token.Token {
	brackets, inLine, line := 0, 0, 0
	for _, t := range tokens {
		if t.Position.Line != line {
			line, inLine = t.Position.Line, 0
		}
		switch t.Type {
		case token.SequenceStartType, token.MappingStartType:
			brackets++
		case token.SequenceEndType, token.MappingEndType:
			brackets = max(0, brackets-1)
		case token.SequenceEntryType, token.MappingKeyType, token.AnchorType, token.TagType:
			inLine++
		}
		if brackets > maxDepth || inLine > maxDepth && brackets == 0 {
			return t
		}
	}
	return nil
}
