package inventory_test

import (
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/invopop/jsonschema"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/inventory"
)

const fieldsFile = "../../docs/fields.md"

// TestFieldsPageIsUpToDate compares the page with what the types, their comments and their defaults say. After a change of
// one of them: go test ./internal/inventory -run 'Schema|Fields' -update
func TestFieldsPageIsUpToDate(t *testing.T) {
	data, _ := schemaOfSource(t)
	var root jsonschema.Schema
	require.NoError(t, json.Unmarshal(data, &root))
	want := fieldsPage(t, &root)
	if *update {
		require.NoError(t, os.WriteFile(fieldsFile, []byte(want), 0o644))
		return
	}
	got, err := os.ReadFile(fieldsFile)
	require.NoError(t, err)
	require.Equal(t, want, string(got), "%s is out of date: run go test ./internal/inventory -run 'Schema|Fields' -update", fieldsFile)
}

// page is written section by section.
type page struct {
	strings.Builder
	defaults map[string]string
}

func fieldsPage(t *testing.T, root *jsonschema.Schema) string {
	t.Helper()
	p := &page{defaults: defaultsOfTerms(t)}
	p.WriteString(`# Fields of an inventory

Written by a test from the types, their comments and their defaults; ` + "`keyturn schema`" + ` prints the same for editors. Any other field is an error.
A duration is written as 90d, 12h, 10m or 30s. How the fields are used together stands in [inventory.md](inventory.md).
`)
	defaults, policies, credentials := property(root, "defaults"), property(root, "policies"), property(root, "credentials")
	credential := credentials.Items
	consumer := property(credential, "consumers").Items
	var terms []string
	for i := range reflect.TypeFor[inventory.Terms]().NumField() {
		name, _, _ := strings.Cut(reflect.TypeFor[inventory.Terms]().Field(i).Tag.Get("json"), ",")
		terms = append(terms, name)
	}
	others := func(name string) bool { return !slices.Contains(terms, name) }

	p.section("The file", root, nil)
	p.section("defaults", defaults, others)
	p.section("policies: each by its name", policies.AdditionalProperties, others)
	p.section("credentials", credential, others)
	p.section("Terms: in defaults, in a policy, and in a credential", credential, func(name string) bool { return !others(name) })
	p.section("errorBudget", property(credential, "errorBudget"), nil)
	p.section("approvals", property(credential, "approvals"), nil)
	p.section("approvals.signoff and approvals.revoke", property(property(credential, "approvals"), "revoke"), nil)
	p.section("schedule", property(credential, "schedule"), nil)
	p.section("schedule.blackouts", property(property(credential, "schedule"), "blackouts").Items, nil)
	p.section("consumers", consumer, nil)
	for _, role := range []struct {
		name string
		of   *jsonschema.Schema
	}{
		{"issuer", property(credential, "issuer")}, {"store", property(credential, "store")},
		{"verify", property(credential, "verify").Items}, {"health", property(credential, "health").Items},
		{"target", property(consumer, "target")}, {"check", property(consumer, "check")}, {"attestation", property(consumer, "attestation")},
	} {
		for _, branch := range role.of.AllOf {
			name, ok := property(branch.If, "type").Const.(string)
			require.True(t, ok)
			p.section(fmt.Sprintf("%s of type %s", role.name, name), branch.Then, func(name string) bool { return name != "type" })
		}
	}
	return p.String()
}

// defaultsOfTerms are those of a credential whose risk is standard.
func defaultsOfTerms(t *testing.T) map[string]string {
	t.Helper()
	terms := inventory.DefaultTerms(inventory.RiskStandard)
	data, err := json.Marshal(terms)
	require.NoError(t, err)
	var values map[string]any
	require.NoError(t, json.Unmarshal(data, &values))
	defaults := map[string]string{}
	for name, value := range values {
		if text, ok := value.(string); ok {
			defaults[name] = text
		}
	}
	var every []string
	for _, risk := range inventory.Risks {
		every = append(every, fmt.Sprintf("%s for %s", inventory.DefaultTerms(risk).RotateEvery, risk))
	}
	defaults["rotateEvery"] = strings.Join(every, ", ")
	defaults["approvals"] = fmt.Sprintf("revoke: %d, %s", terms.Approvals.Revoke.Count, terms.Approvals.Revoke.Trust)
	return defaults
}

func property(s *jsonschema.Schema, name string) *jsonschema.Schema {
	found, _ := s.Properties.Get(name)
	return found
}

func (p *page) section(title string, s *jsonschema.Schema, only func(string) bool) {
	fmt.Fprintf(p, "\n## %s\n\n", title)
	var rows []string
	for field := s.Properties.Oldest(); field != nil; field = field.Next() {
		if only != nil && !only(field.Key) {
			continue
		}
		must := ""
		if slices.Contains(s.Required, field.Key) {
			must = ", required"
		} else if len(s.AnyOf) > 0 && slices.Contains(s.AnyOf[0].Required, field.Key) {
			must = ", required without " + s.AnyOf[1].Required[0]
		}
		text := meaning(field.Value.Description)
		if d := p.defaults[field.Key]; d != "" {
			text += " Default: " + d + "."
		}
		rows = append(rows, fmt.Sprintf("| `%s` | %s%s | %s |", field.Key, kind(field.Value), must, strings.ReplaceAll(text, "|", "\\|")))
	}
	if len(rows) == 0 {
		p.WriteString("No field of its own.\n")
		return
	}
	p.WriteString("| field | type | meaning |\n|---|---|---|\n" + strings.Join(rows, "\n") + "\n")
}

// named is how the comment of a Go field begins.
var named = regexp.MustCompile(`^[A-Z]\w* (?:is|are) `)

func meaning(comment string) string {
	text := named.ReplaceAllString(comment, "")
	if text == "" {
		return ""
	}
	return strings.ToUpper(text[:1]) + text[1:]
}

func kind(s *jsonschema.Schema) string {
	bounds := ""
	if s.Minimum != "" && s.Maximum != "" {
		bounds = fmt.Sprintf(", %s to %s", s.Minimum, s.Maximum)
	}
	switch {
	case s.Const != nil:
		return fmt.Sprintf("`%v`", s.Const)
	case len(s.Enum) > 0:
		var values []string
		for _, v := range s.Enum {
			values = append(values, fmt.Sprintf("`%v`", v))
		}
		return strings.Join(values, ", ")
	case slices.Contains(s.Examples, any("90d")):
		return "duration"
	case slices.Contains(s.Examples, any("10%")):
		return "shares and numbers"
	case s.Type == "array" && s.Items != nil:
		return "list of " + kind(s.Items)
	case s.Type == "object" && s.AdditionalProperties != nil && s.AdditionalProperties.Type != "":
		return "map to " + kind(s.AdditionalProperties)
	}
	return s.Type + bounds
}
