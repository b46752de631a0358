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

// prepare reads a provider's own fields into config and finds the account's settings.
func (o *opener) prepare(d providers.Descriptor, p inventory.Provider, role inventory.Role, config any) (settings any, ok bool) {
	if err := p.Decode(config); err != nil {
		o.fail(p, role, err)
		return nil, false
	}
	if c, runs := config.(interface{ Programs() []string }); runs { // for the bounds, which name those that may run
		o.programs = append(o.programs, c.Programs()...)
	}
	if p.Account == "" && role != inventory.RoleIssuer && role != inventory.RoleStore { // others may do without one
		return nil, true
	}
	account, known := o.config.Accounts[p.Account]
	if !known || account.Type != d.Type {
		o.fail(p, role, fmt.Errorf("the worker configuration has no account %q of this type", p.Account))
		return nil, false
	}
	return account.Settings, true
}

func (o *opener) issuer(p inventory.Provider) (providers.Issuer, []string) {
	d := o.find(p)
	if d.Issuer == nil {
		o.fail(p, inventory.RoleIssuer, providers.ErrUnsupported)
		return nil, nil
	}
	config := d.Issuer.Config()
	settings, ok := o.prepare(d, p, inventory.RoleIssuer, config)
	if !ok {
		return nil, nil
	}
	issuer, err := d.Issuer.Open(o.environment, settings, config)
	if err != nil {
		o.fail(p, inventory.RoleIssuer, err)
	}
	return issuer, config.Principals()
}

func (o *opener) store(p inventory.Provider) (providers.Store, string) {
	d := o.find(p)
	if d.Store == nil {
		o.fail(p, inventory.RoleStore, providers.ErrUnsupported)
		return nil, ""
	}
	config := d.Store.Config()
	settings, ok := o.prepare(d, p, inventory.RoleStore, config)
	if !ok {
		return nil, ""
	}
	store, err := d.Store.Open(o.environment, settings, config)
	if err != nil {
		o.fail(p, inventory.RoleStore, err)
	}
	return store, config.SecretPath()
}

// pulls tells whether the consumers of a target type read the store by themselves.
func (o *opener) pulls(targetType string) bool {
	d := o.find(inventory.Provider{Type: targetType})
	return d.Target != nil && d.Target.Pulls
}

func (o *opener) consumer(declared inventory.Consumer) consumer {
	c := consumer{Consumer: declared, waves: map[string]string{}}
	c.target, c.pulls = o.target(declared.Target)
	if declared.Check != nil {
		c.check = o.check(*declared.Check)
	}
	if declared.Attestation != nil {
		c.attestor = o.attestor(*declared.Attestation)
	}
	if declared.Purge != nil {
		c.purger = o.purger(*declared.Purge)
	}
	return c
}

func (o *opener) target(p inventory.Provider) (providers.Target, bool) {
	d := o.find(p)
	if d.Target == nil {
		o.fail(p, inventory.RoleTarget, providers.ErrUnsupported)
		return nil, false
	}
	return openSimple(o, d, p, inventory.RoleTarget, d.Target.Config, d.Target.Open), d.Target.Pulls
}

func (o *opener) attestor(p inventory.Provider) providers.Attestor {
	d := o.find(p)
	if d.Attestor == nil {
		o.fail(p, inventory.RoleAttestation, providers.ErrUnsupported)
		return nil
	}
	return openSimple(o, d, p, inventory.RoleAttestation, d.Attestor.Config, d.Attestor.Open)
}

func (o *opener) check(p inventory.Provider) providers.Check {
	d := o.find(p)
	if d.Check == nil {
		o.fail(p, inventory.RoleCheck, providers.ErrUnsupported)
		return nil
	}
	return openSimple(o, d, p, inventory.RoleCheck, d.Check.Config, d.Check.Open)
}

func (o *opener) healthSignal(p inventory.Provider) providers.HealthSignal {
	d := o.find(p)
	if d.Health == nil {
		o.fail(p, inventory.RoleHealth, providers.ErrUnsupported)
		return nil
	}
	return openSimple(o, d, p, inventory.RoleHealth, d.Health.Config, d.Health.Open)
}

func (o *opener) purger(p inventory.Provider) providers.Purger {
	d := o.find(p)
	if d.Purge == nil {
		o.fail(p, inventory.RolePurge, providers.ErrUnsupported)
		return nil
	}
	return openSimple(o, d, p, inventory.RolePurge, d.Purge.Config, d.Purge.Open)
}

func openSimple[T any](o *opener, d providers.Descriptor, p inventory.Provider, role inventory.Role, newConfig func() any,
	open func(providers.Environment, any, any) (T, error)) T {
	var none T
	config := newConfig()
	settings, ok := o.prepare(d, p, role, config)
	if !ok {
		return none
	}
	opened, err := open(o.environment, settings, config)
	if err != nil {
		o.fail(p, role, err)
	}
	return opened
}
