package inventory

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"reflect"

	"github.com/invopop/jsonschema"
)

// comments are the doc comments of the types and fields that a schema describes, by their full names. The
// test of this package writes them: a program does not have its own source.
//
//go:embed comments.json
var comments []byte

// Schema is the JSON Schema of an inventory, for editors: generated from the types of this package, from
// the configurations of the provider types, and from their doc comments. It is looser than Load, which has
// the last word: what it refuses, Load refuses too.
func Schema(catalog Catalog) ([]byte, error) {
	known := map[string]string{}
	if err := json.Unmarshal(comments, &known); err != nil {
		return nil, fmt.Errorf("reading comments: %w", err)
	}
	return schemaWith(catalog, func(t reflect.Type, field string) string { return known[commentKey(t, field)] })
}

// commentKey is the full name of a type, or of a field of it.
func commentKey(t reflect.Type, field string) string {
	key := t.PkgPath() + "." + t.Name()
	if field != "" {
		key += "." + field
	}
	return key
}

func schemaWith(catalog Catalog, comment func(t reflect.Type, field string) string) ([]byte, error) {
	r := &jsonschema.Reflector{DoNotReference: true, RequiredFromJSONSchemaTags: true, Mapper: scalar, LookupComment: comment}
	s := r.Reflect(&Inventory{})
	s.ID, s.Title = "", "keyturn inventory"
	propertyOf(s, "apiVersion").Const = APIVersion
	s.Required = []string{"apiVersion", "inventory", "credentials"}
	propertyOf(s, "inventory").Pattern = nameForm.String()

	credential := propertyOf(s, "credentials").Items
	credential.Required = []string{"name", "purpose", "issuer", "store"}
	propertyOf(credential, "name").Pattern = nameForm.String()
	consumer := propertyOf(credential, "consumers").Items
	consumer.Required = []string{"name", "target"}
	consumer.AnyOf = []*jsonschema.Schema{{Required: []string{"check", "attestation"}}, {Required: []string{"longestRun"}}}
	propertyOf(consumer, "name").Pattern = nameForm.String()

	for _, terms := range []*jsonschema.Schema{credential, propertyOf(s, "defaults"), propertyOf(s, "policies").AdditionalProperties} {
		budget := propertyOf(terms, "errorBudget")
		budget.Type, budget.OneOf = "", []*jsonschema.Schema{{Type: "object"}, {Type: "null"}}
	}

	for _, role := range []Role{RoleIssuer, RoleStore} {
		provider(r, catalog, role, propertyOf(credential, string(role)))
	}
	for _, role := range []Role{RoleVerify, RoleHealth} {
		provider(r, catalog, role, propertyOf(credential, string(role)).Items)
	}
	for _, role := range []Role{RoleTarget, RoleCheck, RoleAttestation, RolePurge} {
		provider(r, catalog, role, propertyOf(consumer, string(role)))
	}
	return json.MarshalIndent(s, "", "  ")
}

// scalar describes the types of this package that are not written as Go has them.
func scalar(t reflect.Type) *jsonschema.Schema {
	var values []any
	switch t {
	case reflect.TypeFor[Duration]():
		return &jsonschema.Schema{Type: "string", Pattern: durationForm.String(), Examples: []any{"90d", "12h", "10m"}}
	case reflect.TypeFor[WaveStep]():
		return &jsonschema.Schema{Pattern: stepForm.String(), Examples: []any{"10%", 5}}
	case reflect.TypeFor[Provider]():
		return &jsonschema.Schema{Type: "object"} // provider says the rest, by role
	case reflect.TypeFor[Risk]():
		for _, r := range Risks {
			values = append(values, r)
		}
	case reflect.TypeFor[Data]():
		for _, d := range kindsOfData {
			values = append(values, d)
		}
	case reflect.TypeFor[Day]():
		for _, d := range Days {
			values = append(values, d)
		}
	case reflect.TypeFor[Trust]():
		values = []any{TrustSigned, TrustAny}
	case reflect.TypeFor[OnBreach]():
		values = []any{BreachRollback, BreachPause}
	case reflect.TypeFor[Surface]():
		values = []any{SurfaceServer}
	}
	if values == nil {
		return nil
	}
	return &jsonschema.Schema{Type: "string", Enum: values}
}

// provider describes the objects that can play a role: each type has its own fields and no other.
func provider(r *jsonschema.Reflector, catalog Catalog, role Role, s *jsonschema.Schema) {
	s.Required = []string{"type"}
	typ := &jsonschema.Schema{Type: "string", Description: "Who plays the role of " + string(role) + "."}
	s.Properties = jsonschema.NewProperties()
	s.Properties.Set("type", typ)
	for _, name := range catalog.Types(role) {
		typ.Enum = append(typ.Enum, name)
		known, _ := catalog.Lookup(role, name)
		kind := r.Reflect(known.NewConfig())
		kind.ID, kind.Version, kind.Type = "", "", ""
		kind.Properties.Set("type", jsonschema.TrueSchema)
		if known.NeedsAccount {
			kind.Properties.Set("account", &jsonschema.Schema{Type: "string", Description: "The name of an account of the worker configuration."})
			kind.Required = append(kind.Required, "account")
		}
		only := jsonschema.NewProperties()
		only.Set("type", &jsonschema.Schema{Const: name})
		s.AllOf = append(s.AllOf, &jsonschema.Schema{If: &jsonschema.Schema{Properties: only}, Then: kind})
	}
}

// propertyOf is the schema of a property, which the types of this package are known to have.
func propertyOf(s *jsonschema.Schema, property string) *jsonschema.Schema {
	found, ok := s.Properties.Get(property)
	if !ok {
		panic("inventory: the schema has no property " + property)
	}
	return found
}
