package activities

import (
	"fmt"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/workerconfig"
	"github.com/keyturn/keyturn/providers"
)

// opener makes the providers that a spec names, and collects what is wrong with it.
type opener struct {
	descriptors []providers.Descriptor
	config      *workerconfig.Config
	environment providers.Environment
	programs    []string // that the spec names
	problems    []error
}

func (o *opener) fail(p inventory.Provider, role inventory.Role, err error) {
	o.problems = append(o.problems, fmt.Errorf("%s of type %q: %w", role, p.Type, err))
}

func (o *opener) find(p inventory.Provider) providers.Descriptor {
	for _, d := range o.descriptors {
		if d.Type == p.Type {
			return d
		}
	}
	return providers.Descriptor{}
}

// opened makes the provider that a type is in a role, and gives the configuration that it was made of; zero values of what
// is a problem.
func opened[T any](o *opener, d providers.Descriptor, maker *providers.Maker[T], p inventory.Provider, role inventory.Role) (made T, config any) {
	if maker == nil {
		o.fail(p, role, providers.ErrUnsupported)
		return made, nil
	}
	config = p.Fields()
	if c, runs := config.(interface{ Programs() []string }); runs { // for the bounds, which name those that may run
		o.programs = append(o.programs, c.Programs()...)
	}
	var settings any
	if p.Account != "" || role == inventory.RoleIssuer || role == inventory.RoleStore { // others may do without one
		account, known := o.config.Accounts[p.Account]
		if !known || account.Type != d.Type {
			o.fail(p, role, fmt.Errorf("the worker configuration has no account %q of this type", p.Account))
			return made, nil
		}
		settings = account.Settings
	}
	made, err := maker.Open(o.environment, settings, config)
	if err != nil {
		o.fail(p, role, err)
	}
	return made, config
}

func (o *opener) issuer(p inventory.Provider) (issuer providers.Issuer, principals []string) {
	d := o.find(p)
	issuer, config := opened(o, d, d.Issuer, p, inventory.RoleIssuer)
	if c, is := config.(providers.IssuerConfig); is {
		principals = c.Principals()
	}
	return issuer, principals
}

func (o *opener) store(p inventory.Provider) (store providers.Store, path string) {
	d := o.find(p)
	store, config := opened(o, d, d.Store, p, inventory.RoleStore)
	if c, is := config.(providers.StoreConfig); is {
		path = c.SecretPath()
	}
	return store, path
}

// pulls tells whether the consumers of a target type read the store by themselves.
func (o *opener) pulls(targetType string) bool {
	return o.find(inventory.Provider{Type: targetType}).Pulls
}

func (o *opener) check(p inventory.Provider) providers.Check {
	d := o.find(p)
	check, _ := opened(o, d, d.Check, p, inventory.RoleCheck)
	return check
}

func (o *opener) health(p inventory.Provider) providers.HealthSignal {
	d := o.find(p)
	signal, _ := opened(o, d, d.Health, p, inventory.RoleHealth)
	return signal
}

func (o *opener) consumer(declared inventory.Consumer) consumer {
	c := consumer{Consumer: declared, waves: map[string]string{}, pulls: o.pulls(declared.Target.Type)}
	d := o.find(declared.Target)
	c.target, _ = opened(o, d, d.Target, declared.Target, inventory.RoleTarget)
	if declared.Check != nil {
		c.check = o.check(*declared.Check)
	}
	if p := declared.Attestation; p != nil {
		d := o.find(*p)
		c.attestor, _ = opened(o, d, d.Attestor, *p, inventory.RoleAttestation)
	}
	if p := declared.Purge; p != nil {
		d := o.find(*p)
		c.purger, _ = opened(o, d, d.Purge, *p, inventory.RolePurge)
	}
	return c
}
