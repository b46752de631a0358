package inventory

import "time"

// Role is what a provider is used for in a credential.
type Role string

// The roles, as the fields are called.
const (
	RoleIssuer      Role = "issuer"
	RoleStore       Role = "store"
	RoleTarget      Role = "target"
	RoleAttestation Role = "attestation"
	RoleCheck       Role = "check"
	RoleVerify      Role = "verify"
	RoleHealth      Role = "health"
	RolePurge       Role = "purge"
)

// Catalog tells validation which provider types there are. Package providers/all implements it; this
// package must not know providers, since workflows know this package.
type Catalog interface {
	// Types lists the types that can play a role, sorted.
	Types(role Role) []string
	// Lookup returns what is known of a type in a role.
	Lookup(role Role, name string) (ProviderType, bool)
}

// ProviderType is what validation may know of a provider type.
type ProviderType struct {
	// NeedsAccount: the field account is required; otherwise it is refused.
	NeedsAccount bool
	// NewConfig makes a pointer to the zero value of the type's fields in a credential. An issuer's has
	// Principals() []string, a store's SecretPath() string. A target's and an attestation's may have
	// Place(instance string) string: where an instance is written to or asked, equal for what is the same.
	NewConfig func() any
	// UsageLag is the least lag with which any account of an issuer type reports usage.
	UsageLag time.Duration
	// ReportsUsage: the issuer type can say when a key was last used.
	ReportsUsage bool
	// CanExpire: the issuer type's keys may have an end.
	CanExpire bool
	// ByUsage: an attestation from the issuer's record of uses. Its configuration has Principals() []string.
	ByUsage bool
	// Pulls: a target whose consumer reads the store by itself.
	Pulls bool
}
