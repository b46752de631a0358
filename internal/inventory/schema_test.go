package inventory_test

import (
	"encoding/json"
	"flag"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/invopop/jsonschema"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/inventory"
)

var update = flag.Bool("update", false, "write docs/inventory.schema.json, docs/fields.md and comments.json anew")

const schemaFile = "../../docs/inventory.schema.json"

// TestSchemaIsUpToDate compares both generated files with the source. After a change of a type or of a
// comment: go test ./internal/inventory -run 'Schema|Fields' -update
func TestSchemaIsUpToDate(t *testing.T) {
	schema, used := schemaOfSource(t)
	comments, err := json.MarshalIndent(used, "", "  ")
	require.NoError(t, err)
	for file, want := range map[string][]byte{schemaFile: schema, "comments.json": comments} {
		want = append(want, '\n')
		if *update {
			require.NoError(t, os.WriteFile(file, want, 0o644))
			continue
		}
		got, err := os.ReadFile(file)
		require.NoError(t, err)
		require.Equal(t, string(want), string(got), "%s is out of date: run go test ./internal/inventory -run 'Schema|Fields' -update", file)
	}
	if !*update {
		embedded, err := inventory.Schema(real)
		require.NoError(t, err)
		assert.Equal(t, string(schema), string(embedded), "a program has the same one as the file")
	}
}

// schemaOfSource makes the schema from the source, and tells which comments it used.
func schemaOfSource(t *testing.T) (schema []byte, used map[string]string) {
	t.Helper()
	source := &jsonschema.Reflector{}
	for _, folder := range []string{".", "../../providers"} {
		require.NoError(t, source.AddGoComments("github.com/keyturn/keyturn/internal/inventory", folder, jsonschema.WithFullComment()))
	}
	used = map[string]string{}
	schema, err := inventory.SchemaWith(real, func(typ reflect.Type, field string) string {
		key := inventory.CommentKey(typ, field)
		text := strings.Join(strings.Fields(source.CommentMap[key]), " ")
		if text != "" {
			used[key] = text
		}
		return text
	})
	require.NoError(t, err)
	return schema, used
}

func TestSchemaDescribesEveryFieldOfAnInventory(t *testing.T) {
	t.Parallel()
	data, err := inventory.Schema(real)
	require.NoError(t, err)
	var schema map[string]any
	require.NoError(t, json.Unmarshal(data, &schema))
	count := 0
	var walk func(path string, s map[string]any)
	walk = func(path string, s map[string]any) {
		if items, ok := s["items"].(map[string]any); ok {
			walk(path+"[]", items)
		}
		for _, branch := range list(s["allOf"]) {
			walk(path+"/"+branch["if"].(map[string]any)["properties"].(map[string]any)["type"].(map[string]any)["const"].(string), branch["then"].(map[string]any))
		}
		properties, _ := s["properties"].(map[string]any)
		for name, below := range properties {
			field, ok := below.(map[string]any)
			if !ok {
				continue // type, which was described already
			}
			count++
			assert.NotEmpty(t, field["description"], "%s.%s has a comment", path, name)
			walk(path+"."+name, field)
		}
	}
	walk("", schema)
	assert.Greater(t, count, 60)
}

func list(v any) []map[string]any {
	var all []map[string]any
	items, _ := v.([]any)
	for _, item := range items {
		all = append(all, item.(map[string]any))
	}
	return all
}
