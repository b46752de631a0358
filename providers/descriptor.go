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
	// when the type needs no account. It may be a Lister, which CanList tells, and a Prober.
	Account func() any

	// Issuer's fields are an IssuerConfig, Store's a StoreConfig.
	Issuer   *Maker[Issuer]
	Store    *Maker[Store]
	Target   *Maker[Target]
	Attestor *Maker[Attestor]
	Check    *Maker[Check]
	Health   *Maker[HealthSignal]
	Purge    *Maker[Purger]
	Notifier *Maker[Notifier] // of the worker configuration, without an account
	Freezer  *Maker[Freezer]  // likewise
	// Collector is likewise.
	Collector *Maker[Collector]

	// Capabilities are the issuer's at their best: those of an account may be less.
	Capabilities key.Capabilities
	// Pulls: consumers of the target read the store by themselves; promotion delivers, and a canary reads PENDING.
	Pulls bool
	// AttestsByUsage: the attestor tells from the issuer's record of uses which key is in use, and so can speak for a
	// credential that has one instance only.
	AttestsByUsage bool
}

// CanList tells whether accounts of the type can be scanned.
func (d Descriptor) CanList() bool {
	if d.Account == nil {
		return false
	}
	_, is := d.Account().(Lister)
	return is
}

// Maker makes the providers of one role.
type Maker[T any] struct {
	// Config makes a pointer to the zero value of a struct with json tags: the provider's own fields in that role. strictyaml
	// reads them, refuses unknown ones, and asks a struct with a method Problems() []strictyaml.Problem what is wrong.
	// {instance} in their strings stands for the instance.
	Config func() any
	// Open makes a provider of what Descriptor.Account and Config made, filled in. It calls nothing outside: it costs no
	// more than its memory.
	Open func(e Environment, account, config any) (T, error)
}

// NewConfig is Config; nil for a role that is not played.
func (m *Maker[T]) NewConfig() func() any {
	if m == nil {
		return nil
	}
	return m.Config
}

// Make describes how providers of a role are made of their fields alone.
func Make[T, C any](open func(e Environment, config *C) (T, error)) *Maker[T] {
	return &Maker[T]{
		Config: func() any { return new(C) },
		Open: func(e Environment, _, config any) (T, error) {
			return open(e, config.(*C))
		},
	}
}

// MakeWithAccount is Make for a role that has an account.
func MakeWithAccount[T, A, C any](open func(e Environment, account *A, config *C) (T, error)) *Maker[T] {
	return &Maker[T]{
		Config: func() any { return new(C) },
		Open: func(e Environment, account, config any) (T, error) {
			return open(e, account.(*A), config.(*C))
		},
	}
}

// IssuerConfig is an issuer's part of a credential.
type IssuerConfig interface {
	// Principals whose keys are meant: one, or two that alternate.
	Principals() []string
}

// StoreConfig is a store's part of a credential.
type StoreConfig interface {
	// SecretPath names the secret within the account.
	SecretPath() string
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
