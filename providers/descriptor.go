package providers

import (
	"net/http"
	"time"

	"github.com/keyturn/keyturn/internal/key"
)

// Descriptor is what is known of a provider type without calling it: enough for validation offline,
// and the constructors for the worker. A type fills the roles that it plays.
type Descriptor struct {
	Type string
	// Summary is one line for provider list.
	Summary string
	// Account makes a pointer to the zero value of the account's part of the worker configuration, nil
	// when the type needs no account. It may be a Lister and a Prober: CanList and CanProbe tell.
	Account func() any

	Issuer   *IssuerType
	Store    *StoreType
	Target   *TargetType
	Attestor *AttestorType
	Check    *CheckType
	Health   *HealthType
	Purge    *PurgeType
	Notifier *NotifierType
}

// CanList tells whether accounts of the type can be scanned.
func (d Descriptor) CanList() bool { return accountIs[Lister](d) }

// CanProbe tells whether accounts of the type can be tried without changing anything.
func (d Descriptor) CanProbe() bool { return accountIs[Prober](d) }

func accountIs[T any](d Descriptor) bool {
	if d.Account == nil {
		return false
	}
	_, is := d.Account().(T)
	return is
}

// Configs are pointers to structs with json tags; strictyaml reads them, refuses unknown fields, and
// asks those with a method Problems() []strictyaml.Problem what is wrong. {instance} in their strings
// stands for the instance.

// IssuerType makes issuers.
type IssuerType struct {
	Config       func() IssuerConfig
	Capabilities key.Capabilities
	Open         func(e Environment, account any, c IssuerConfig) (Issuer, error)
}

// IssuerConfig is an issuer's part of a credential.
type IssuerConfig interface {
	// Principals whose keys are meant: one, or two that alternate.
	Principals() []string
}

// StoreType makes stores.
type StoreType struct {
	Config func() StoreConfig
	Open   func(e Environment, account any, c StoreConfig) (Store, error)
}

// StoreConfig is a store's part of a credential.
type StoreConfig interface {
	// SecretPath names the secret within the account.
	SecretPath() string
}

// TargetType makes targets.
type TargetType struct {
	Config func() any
	// Pulls: the consumer reads the store by itself; promotion delivers, and a canary reads PENDING.
	Pulls bool
	Open  func(e Environment, account any, c any) (Target, error)
}

// AttestorType makes attestors.
type AttestorType struct {
	Config func() any
	// ByUsage: it tells from the issuer's record of uses which key is in use, and so can speak for a
	// credential that has one instance only.
	ByUsage bool
	Open    func(e Environment, account any, c any) (Attestor, error)
}

// CheckType makes checks.
type CheckType struct {
	Config func() any
	Open   func(e Environment, account any, c any) (Check, error)
}

// HealthType makes health signals.
type HealthType struct {
	Config func() any
	Open   func(e Environment, account any, c any) (HealthSignal, error)
}

// PurgeType makes purge hooks.
type PurgeType struct {
	Config func() any
	Open   func(e Environment, account any, c any) (Purger, error)
}

// NotifierType makes notifiers, from the worker configuration alone.
type NotifierType struct {
	Config func() any
	Open   func(e Environment, c any) (Notifier, error)
}

// Environment is what the worker gives a provider: the bounds of its configuration, in the shape of
// the only doors to the outside.
type Environment struct {
	// HTTP follows no redirect, reaches only allowed hosts and has no time-out of its own.
	HTTP *http.Client
	// AllowFile returns ErrDenied for a path outside the allowed roots. It is asked right before use.
	AllowFile func(path string) error
	// Program returns the command line of a named program, ErrDenied for a name that is not configured.
	Program func(name string) ([]string, error)
	// Now is the clock.
	Now func() time.Time
}
