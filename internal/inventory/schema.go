package inventory

import (
	"encoding/json"
	"reflect"

	"github.com/invopop/jsonschema"
)

// Schema is the JSON Schema of an inventory, for editors: generated from the types of this package and
// from the configurations of the provider types. It is looser than Load, which has the last word.
func Schema(catalog Catalog) ([]byte, error) {
	r := jsonschema.Reflector{DoNotReference: true, RequiredFromJSONSchemaTags: true, Mapper: scalar}
	s := r.Reflect(&Inventory{})
	s.ID, s.Title = "", "keyturn inventory"
	credential := items(property(s, "credentials"))
	consumer := items(property(credential, "consumers"))
	for _, place := range []struct {
		in   *jsonschema.Schema
		role Role
		list bool
	}{
		{credential, RoleIssuer, false}, {credential, RoleStore, false}, {credential, RoleVerify, true}, {credential, RoleHealth, true},
		{consumer, RoleTarget, false}, {consumer, RoleCheck, false}, {consumer, RoleAttestation, false},
	} {
		provider := providerSchema(catalog, place.role)
		if place.list {
			provider = &jsonschema.Schema{Type: "array", Items: provider}
		}
		place.in.Properties.Set(string(place.role), provider)
	}
	s.Required = []string{"apiVersion", "inventory", "credentials"}
	credential.Required = []string{"name", "purpose", "issuer", "store"}
	consumer.Required = []string{"name", "target", "check", "attestation"}
	return json.MarshalIndent(s, "", "  ")
}

// scalar describes the types that are written as text.
func scalar(t reflect.Type) *jsonschema.Schema {
	enum := func(values ...any) *jsonschema.Schema { return &jsonschema.Schema{Type: "string", Enum: values} }
	switch t {
	case reflect.TypeFor[Duration]():
		return &jsonschema.Schema{Type: "string", Pattern: durationForm.String(), Description: "A time span, such as 90d, 12h or 1d12h30m."}
	case reflect.TypeFor[Risk]():
		return enum(RiskLow, RiskStandard, RiskHigh, RiskCritical)
	case reflect.TypeFor[Trust]():
		return enum(TrustSigned, TrustAny)
	case reflect.TypeFor[OnBreach]():
		return enum(BreachRollback, BreachPause)
	case reflect.TypeFor[Surface]():
		return enum(SurfaceServer)
	case reflect.TypeFor[Provider]():
		return &jsonschema.Schema{Type: "object"} // replaced by its role's
	}
	return nil
}

// providerSchema describes the objects that can play a role: by type, with the fields of that type alone.
func providerSchema(catalog Catalog, role Role) *jsonschema.Schema {
	var kinds []*jsonschema.Schema
	for _, name := range catalog.Types(role) {
		known, _ := catalog.Lookup(role, name)
		r := jsonschema.Reflector{DoNotReference: true, RequiredFromJSONSchemaTags: true, Mapper: scalar}
		kind := r.Reflect(known.NewConfig())
		kind.ID, kind.Version = "", ""
		kind.Properties.Set("type", &jsonschema.Schema{Const: name})
		kind.Required = append(kind.Required, "type")
		if known.NeedsAccount {
			kind.Properties.Set("account", &jsonschema.Schema{Type: "string", Description: "An account of the worker configuration."})
			kind.Required = append(kind.Required, "account")
		}
		kinds = append(kinds, kind)
	}
	return &jsonschema.Schema{OneOf: kinds}
}

func property(s *jsonschema.Schema, name string) *jsonschema.Schema {
	found, ok := s.Properties.Get(name)
	if !ok {
		panic("the schema has no property " + name) // the types of this package have it
	}
	return found
}

func items(s *jsonschema.Schema) *jsonschema.Schema { return s.Items }
