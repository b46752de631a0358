// Package all lists the provider types. A new one is a package beside this one and a line here.
package all

import (
	"slices"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/awsiam"
	"github.com/keyturn/keyturn/providers/awssecretsmanager"
	"github.com/keyturn/keyturn/providers/exec"
	"github.com/keyturn/keyturn/providers/file"
	"github.com/keyturn/keyturn/providers/gateway"
	"github.com/keyturn/keyturn/providers/http"
	"github.com/keyturn/keyturn/providers/log"
	"github.com/keyturn/keyturn/providers/stdout"
	"github.com/keyturn/keyturn/providers/webhook"
)

// Descriptors lists the types in the order in which people meet them. Extra ones follow: tests add
// memory, which means nothing outside its process.
func Descriptors(extra ...providers.Descriptor) []providers.Descriptor {
	return append([]providers.Descriptor{
		gateway.Descriptor(),
		file.Descriptor(),
		awsiam.Descriptor(),
		awssecretsmanager.Descriptor(),
		http.Descriptor(),
		exec.Descriptor(),
		log.Descriptor(),
		webhook.Descriptor(),
		stdout.Descriptor(),
	}, extra...)
}

// Find returns the descriptor of a type.
func Find(descriptors []providers.Descriptor, name string) (providers.Descriptor, bool) {
	i := slices.IndexFunc(descriptors, func(d providers.Descriptor) bool { return d.Type == name })
	if i < 0 {
		return providers.Descriptor{}, false
	}
	return descriptors[i], true
}

// Roles lists the roles of a credential that a type can play, in the order of an inventory. Being a
// notifier is none of them: notifiers are named in the worker configuration.
func Roles(d providers.Descriptor) []inventory.Role {
	var roles []inventory.Role
	for _, role := range []inventory.Role{
		inventory.RoleIssuer, inventory.RoleStore, inventory.RoleTarget, inventory.RoleAttestation,
		inventory.RoleCheck, inventory.RoleVerify, inventory.RoleHealth, inventory.RolePurge,
	} {
		if newConfig(d, role) != nil {
			roles = append(roles, role)
		}
	}
	return roles
}

// Catalog is what validation may know of the types.
func Catalog(descriptors ...providers.Descriptor) inventory.Catalog { return catalog(descriptors) }

type catalog []providers.Descriptor

// Types implements inventory.Catalog.
func (c catalog) Types(role inventory.Role) []string {
	var names []string
	for _, d := range c {
		if newConfig(d, role) != nil {
			names = append(names, d.Type)
		}
	}
	slices.Sort(names)
	return names
}

// Lookup implements inventory.Catalog.
func (c catalog) Lookup(role inventory.Role, name string) (inventory.ProviderType, bool) {
	d, _ := Find(c, name)
	config := newConfig(d, role)
	if config == nil {
		return inventory.ProviderType{}, false
	}
	known := inventory.ProviderType{NewConfig: config, NeedsAccount: needsAccount(d, role)}
	switch role {
	case inventory.RoleIssuer:
		can := d.Capabilities
		known.ReportsUsage, known.UsageLag, known.CanExpire = can.ReportsUsage, can.UsageLag, can.CanExpire
	case inventory.RoleAttestation:
		known.ByUsage = d.AttestsByUsage
	case inventory.RoleTarget:
		known.Pulls = d.Pulls
	}
	return known, true
}

// newConfig makes a type's fields in a role; nil when it does not play the role.
func newConfig(d providers.Descriptor, role inventory.Role) func() any {
	return map[inventory.Role]func() any{
		inventory.RoleIssuer:      d.Issuer.NewConfig(),
		inventory.RoleStore:       d.Store.NewConfig(),
		inventory.RoleTarget:      d.Target.NewConfig(),
		inventory.RoleAttestation: d.Attestor.NewConfig(),
		inventory.RoleCheck:       d.Check.NewConfig(),
		inventory.RoleVerify:      d.Check.NewConfig(),
		inventory.RoleHealth:      d.Health.NewConfig(),
		inventory.RolePurge:       d.Purge.NewConfig(),
	}[role]
}

// needsAccount: issuers and stores always have an account, since quotas and bounds hang on it, and so does
// who asks the issuer for uses. Another role has one when the account is for nothing else.
func needsAccount(d providers.Descriptor, role inventory.Role) bool {
	if role == inventory.RoleIssuer || role == inventory.RoleStore || role == inventory.RoleAttestation && d.AttestsByUsage {
		return true
	}
	return d.Account != nil && d.Issuer == nil && d.Store == nil
}
