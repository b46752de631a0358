package all_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/all"
)

func names(descriptors []providers.Descriptor) []string {
	var list []string
	for _, d := range descriptors {
		list = append(list, d.Type)
	}
	return list
}

func TestDescriptorsListsWhatAProductionWorkerMayUse(t *testing.T) {
	t.Parallel()
	assert.Equal(t, []string{"gateway", "file", "awsiam", "awssecretsmanager", "http", "exec", "log", "webhook", "stdout"}, names(all.Descriptors()))
	assert.Equal(t, []string{"gateway", "file", "awsiam", "awssecretsmanager", "http", "exec", "log", "webhook", "stdout", "mine"}, names(all.Descriptors(providers.Descriptor{Type: "mine"})))
}

func TestEveryDescriptorIsCoherent(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, d := range all.Descriptors() {
		t.Run(d.Type, func(t *testing.T) {
			assert.False(t, seen[d.Type], "the name is taken")
			seen[d.Type] = true
			assert.Empty(t, faults(d, docs(t, d.Type)))
		})
	}
}

// faults lists what is wrong with a descriptor, whose struct types are documented in docs.
func faults(d providers.Descriptor, docs map[string]string) []string {
	var list []string
	fault := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	if d.Type == "" || strings.ToLower(d.Type) != d.Type || strings.ContainsAny(d.Type, " ._/") {
		fault("the type %q is no name for an inventory", d.Type)
	}
	if d.Summary == "" || strings.ContainsAny(d.Summary, "\n\r") || strings.HasSuffix(d.Summary, ".") || len(d.Summary) > 100 {
		fault("the summary %q is not one short line", d.Summary)
	}
	if d.Account != nil {
		list = append(list, configFaults("account", d.Account(), docs)...)
	}
	if d.Issuer != nil {
		list = append(list, capabilityFaults(d.Capabilities)...)
		if made, is := d.Issuer.Config().(providers.IssuerConfig); !is {
			fault("issuer: %T names no principals", made)
		}
	}
	if d.Store != nil {
		if made, is := d.Store.Config().(providers.StoreConfig); !is {
			fault("store: %T names no path", made)
		}
	}
	plays := 0
	for _, r := range []role{
		roleOf("issuer", d.Issuer), roleOf("store", d.Store), roleOf("target", d.Target), roleOf("attestor", d.Attestor),
		roleOf("check", d.Check), roleOf("health", d.Health), roleOf("purge", d.Purge), roleOf("notifier", d.Notifier), roleOf("freezer", d.Freezer), roleOf("collector", d.Collector),
	} {
		if !r.played {
			continue
		}
		plays++
		list = append(list, configFaults(r.name, r.config(), docs)...)
		if !r.opens {
			fault("%s cannot be opened", r.name)
		}
	}
	if plays == 0 {
		fault("it plays no role")
	}
	return list
}

// role is what a descriptor says of one.
type role struct {
	name          string
	played, opens bool
	config        func() any
}

func roleOf[T any](name string, m *providers.Maker[T]) role {
	if m == nil {
		return role{name: name}
	}
	return role{name: name, played: true, opens: m.Open != nil, config: m.Config}
}

func configFaults(role string, made any, docs map[string]string) []string {
	typ := reflect.TypeOf(made)
	if made == nil || typ.Kind() != reflect.Pointer || typ.Elem().Kind() != reflect.Struct || reflect.ValueOf(made).IsNil() {
		return []string{role + ": the configuration is not a pointer to a struct"}
	}
	if !reflect.ValueOf(made).Elem().IsZero() {
		return []string{role + ": the configuration is not the zero one"}
	}
	return structFaults(role, typ.Elem(), docs)
}

func structFaults(role string, typ reflect.Type, docs map[string]string) []string {
	var list []string
	if docs[typ.Name()] == "" {
		list = append(list, fmt.Sprintf("%s: %s has no comment", role, typ.Name()))
	}
	for i := range typ.NumField() {
		f := typ.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.PkgPath != "" || name == "-":
			continue
		case f.Anonymous:
			list = append(list, structFaults(role, f.Type, docs)...)
			continue
		case name == "" || strings.ToLower(name[:1]) != name[:1] || strings.ContainsAny(name, "_-"):
			list = append(list, fmt.Sprintf("%s: field %s has no name for YAML", role, f.Name))
		case name == "type" || name == "account":
			list = append(list, fmt.Sprintf("%s: field %s takes a name that every provider has", role, f.Name))
		}
		if docs[typ.Name()+"."+f.Name] == "" {
			list = append(list, fmt.Sprintf("%s: field %s has no comment", role, f.Name))
		}
	}
	return list
}

func capabilityFaults(c key.Capabilities) []string {
	var list []string
	if c.Slots < 0 || c.Slots == 1 {
		list = append(list, "issuer: with one slot no rotation can be without downtime")
	}
	if c.UsageLag < 0 || c.ConsistentWithin < 0 || c.UsageLag > 0 && !c.ReportsUsage {
		list = append(list, "issuer: a lag that cannot be")
	}
	if c.ReportsRefusals && !c.CanDisable {
		list = append(list, "issuer: no key is disabled that somebody could be refused with")
	}
	return list
}

// docs collects the comments of a provider package's struct types and their fields, as "Type" and
// "Type.Field". A package is called like its type.
func docs(t *testing.T, name string) map[string]string {
	files, err := filepath.Glob(filepath.Join("..", name, "*.go"))
	require.NoError(t, err)
	if strings.HasPrefix(name, "aws") { // they have their account in common
		files = append([]string{"../../internal/awsaccount/awsaccount.go"}, files...)
	}
	found := map[string]string{}
	for _, path := range files {
		positions := token.NewFileSet()
		file, err := parser.ParseFile(positions, path, nil, parser.ParseComments)
		require.NoError(t, err)
		ast.Inspect(file, func(n ast.Node) bool {
			decl, ok := n.(*ast.GenDecl)
			if !ok {
				return true
			}
			for _, spec := range decl.Specs {
				typ, ok := spec.(*ast.TypeSpec)
				if !ok {
					continue
				}
				found[typ.Name.Name] = decl.Doc.Text() + typ.Doc.Text()
				if s, ok := typ.Type.(*ast.StructType); ok {
					comment, end := "", 0
					for _, f := range s.Fields.List {
						// One comment may stand for the fields that follow without an empty line.
						own := f.Doc.Text() + f.Comment.Text()
						if own != "" || positions.Position(f.Pos()).Line > end+1 {
							comment = own
						}
						end = positions.Position(f.End()).Line
						for _, id := range f.Names {
							found[typ.Name.Name+"."+id.Name] = comment
						}
					}
				}
			}
			return true
		})
	}
	return found
}

func TestFaultsAreFound(t *testing.T) {
	t.Parallel()
	type Good struct {
		URL string `json:"url"`
	}
	type Bare struct{ URL string }
	type Taken struct {
		Type string `json:"type"`
	}
	good := func() any { return new(Good) }
	open := func(providers.Environment, any, any) (providers.Check, error) { return nil, nil }
	documented := map[string]string{"Good": "x", "Good.URL": "x", "Bare": "x", "Bare.URL": "x", "Taken": "x", "Taken.Type": "x"}
	make := func(config func() any) providers.Descriptor {
		return providers.Descriptor{Type: "x", Summary: "asks", Check: &providers.Maker[providers.Check]{Config: config, Open: open}}
	}
	for name, c := range map[string]struct {
		descriptor providers.Descriptor
		docs       map[string]string
		want       string
	}{
		"nothing is wrong":        {make(good), documented, ""},
		"no type":                 {func() providers.Descriptor { d := make(good); d.Type = ""; return d }(), documented, "no name"},
		"no summary":              {func() providers.Descriptor { d := make(good); d.Summary = ""; return d }(), documented, "not one short line"},
		"two lines of summary":    {func() providers.Descriptor { d := make(good); d.Summary = "a\nb"; return d }(), documented, "not one short line"},
		"no role":                 {providers.Descriptor{Type: "x", Summary: "asks"}, documented, "no role"},
		"an issuer of nobody":     {providers.Descriptor{Type: "x", Summary: "mints", Issuer: &providers.Maker[providers.Issuer]{Config: good}}, documented, "names no principals"},
		"a store of nothing":      {providers.Descriptor{Type: "x", Summary: "keeps", Store: &providers.Maker[providers.Store]{Config: good}}, documented, "names no path"},
		"no constructor":          {providers.Descriptor{Type: "x", Summary: "asks", Check: &providers.Maker[providers.Check]{Config: good}}, documented, "cannot be opened"},
		"no configuration":        {make(func() any { return nil }), documented, "not a pointer to a struct"},
		"a nil configuration":     {make(func() any { return (*Good)(nil) }), documented, "not a pointer to a struct"},
		"a struct, not a pointer": {make(func() any { return Good{} }), documented, "not a pointer to a struct"},
		"defaults in it":          {make(func() any { return &Good{URL: "x"} }), documented, "not the zero one"},
		"no name for YAML":        {make(func() any { return new(Bare) }), documented, "no name for YAML"},
		"a name that is taken":    {make(func() any { return new(Taken) }), documented, "that every provider has"},
		"no comment":              {make(good), map[string]string{"Good": "x"}, "URL has no comment"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := faults(c.descriptor, c.docs)
			if c.want == "" {
				assert.Empty(t, got)
				return
			}
			require.NotEmpty(t, got)
			assert.Contains(t, strings.Join(got, "\n"), c.want)
		})
	}
}

func TestFind(t *testing.T) {
	t.Parallel()
	d, ok := all.Find(all.Descriptors(), "http")
	assert.True(t, ok)
	assert.Equal(t, "http", d.Type)
	_, ok = all.Find(all.Descriptors(), "memory")
	assert.False(t, ok)
}

func TestRoles(t *testing.T) {
	t.Parallel()
	want := map[string][]inventory.Role{
		"gateway":           {inventory.RoleIssuer},
		"file":              {inventory.RoleStore, inventory.RoleTarget},
		"awsiam":            {inventory.RoleIssuer, inventory.RoleAttestation},
		"awssecretsmanager": {inventory.RoleStore, inventory.RoleTarget},
		"http":              {inventory.RoleAttestation, inventory.RoleCheck, inventory.RoleVerify, inventory.RoleHealth, inventory.RolePurge},
		"exec":              {inventory.RoleAttestation, inventory.RoleCheck, inventory.RoleVerify, inventory.RolePurge},
		"log":               nil,
		"webhook":           nil,
	}
	for _, d := range all.Descriptors() {
		assert.Equal(t, want[d.Type], all.Roles(d), d.Type)
	}
}

// issuerConfig is an issuer's part of a credential.
type issuerConfig struct{}

func (*issuerConfig) Principals() []string { return nil }

func TestCatalog(t *testing.T) {
	t.Parallel()
	account := func() any { return new(struct{}) }
	config := func() any { return new(struct{}) }
	c := all.Catalog(
		providers.Descriptor{
			Type: "minter", Issuer: &providers.Maker[providers.Issuer]{Config: func() any { return new(issuerConfig) }},
			Capabilities: key.Capabilities{ReportsUsage: true, UsageLag: time.Hour, CanExpire: true, Fields: []string{secret.ValueField}},
			Check:        &providers.Maker[providers.Check]{Config: config},
		},
		providers.Descriptor{Type: "host", Account: account, Target: &providers.Maker[providers.Target]{Config: config}, Pulls: true},
		providers.Descriptor{Type: "asker", Check: &providers.Maker[providers.Check]{Config: config}},
	)
	assert.Equal(t, []string{"asker", "minter"}, c.Types(inventory.RoleCheck))
	assert.Equal(t, []string{"asker", "minter"}, c.Types(inventory.RoleVerify))
	assert.Empty(t, c.Types(inventory.RoleStore))
	assert.Empty(t, c.Types("invented"))

	minter, ok := c.Lookup(inventory.RoleIssuer, "minter")
	require.True(t, ok)
	assert.True(t, minter.NeedsAccount, "an issuer always has an account")
	assert.True(t, minter.ReportsUsage)
	assert.True(t, minter.CanExpire)
	assert.Equal(t, time.Hour, minter.UsageLag)
	assert.Implements(t, (*providers.IssuerConfig)(nil), minter.NewConfig())

	host, ok := c.Lookup(inventory.RoleTarget, "host")
	require.True(t, ok)
	assert.True(t, host.NeedsAccount, "the account is for nothing else")
	assert.True(t, host.Pulls)

	asker, ok := c.Lookup(inventory.RoleVerify, "asker")
	require.True(t, ok)
	assert.False(t, asker.NeedsAccount)
	assert.NotNil(t, asker.NewConfig())

	for role, name := range map[inventory.Role]string{inventory.RoleStore: "minter", inventory.RoleCheck: "invented", "invented": "asker"} {
		_, ok := c.Lookup(role, name)
		assert.False(t, ok, "%s as %s", name, role)
	}
}
