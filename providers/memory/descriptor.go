package memory

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/strictyaml"
	"github.com/keyturn/keyturn/providers"
)

// Descriptor describes the type memory, in every role, of this World.
func (w *World) Descriptor() providers.Descriptor {
	return providers.Descriptor{
		Type:    "memory",
		Summary: "a world in one process, for tests",
		Account: func() any { return &Account{world: w} },
		Issuer: providers.Make(func(_ providers.Environment, c *IssuerConfig) (providers.Issuer, error) {
			return w.Issuer(c.Principal), nil
		}),
		Capabilities: Strict().Capabilities,
		Store: providers.Make(func(_ providers.Environment, c *StoreConfig) (providers.Store, error) {
			return w.Store(c.SecretPath()), nil
		}),
		Target: w.target(),
		Attestor: providers.Make(func(_ providers.Environment, c *InstanceConfig) (providers.Attestor, error) {
			return attestor{w, c.name}, nil
		}),
		Check: providers.Make(func(_ providers.Environment, c *InstanceConfig) (providers.Check, error) {
			return check{w, c.name}, nil
		}),
		Health: providers.Make(func(_ providers.Environment, c *HealthConfig) (providers.HealthSignal, error) {
			return health{w, c.Instances}, nil
		}),
		Purge: providers.Make(func(_ providers.Environment, c *InstanceConfig) (providers.Purger, error) {
			return purger{w, c.name}, nil
		}),
		Notifier: providers.Make(func(providers.Environment, *NotifierConfig) (providers.Notifier, error) {
			return notifier{w}, nil
		}),
		Freezer: providers.Make(func(providers.Environment, *FreezerConfig) (providers.Freezer, error) {
			return freezer{w}, nil
		}),
	}
}

// PullDescriptor describes the type memory-pull: the target of consumers that read the store by
// themselves. See InstanceSettings.Store.
func (w *World) PullDescriptor() providers.Descriptor {
	return providers.Descriptor{
		Type:    "memory-pull",
		Summary: "consumers of a world in one process that pull their key, for tests",
		Target:  w.target(),
		Pulls:   true,
	}
}

func (w *World) target() *providers.Maker[providers.Target] {
	return providers.Make(func(_ providers.Environment, c *InstanceConfig) (providers.Target, error) {
		return target{w, c.name}, nil
	})
}

// Issuer opens the issuer of a principal. It is a providers.Disabler when the principal's settings say so
// at that moment.
func (w *World) Issuer(principal string) providers.Issuer {
	i := issuer{w, principal}
	w.mu.Lock()
	defer w.mu.Unlock()
	if p := w.principals[principal]; p != nil && p.settings.CanDisable {
		return disabling{i}
	}
	return i
}

// Store opens the store of a secret.
func (w *World) Store(path string) providers.Store { return secretStore{w, path} }

// Account has nothing to say: the World is the account.
type Account struct{ world *World }

var (
	_ providers.Lister = (*Account)(nil)
	_ providers.Prober = (*Account)(nil)
)

// pageOfPrincipals is how many principals a page has: few, so that tests see several pages.
const pageOfPrincipals = 3

// Principals implements providers.Lister.
func (a *Account) Principals(ctx context.Context, page string) (names []string, next string, err error) {
	err = a.world.do(ctx, OpPrincipals, func(time.Time) error {
		names = slices.Sorted(maps.Keys(a.world.principals))
		begin, found := slices.BinarySearch(names, page)
		if found {
			begin++ // page is the last name of the page before
		}
		names = names[begin:]
		if len(names) > pageOfPrincipals {
			names = names[:pageOfPrincipals]
			next = names[pageOfPrincipals-1]
		}
		return nil
	})
	return names, next, err
}

// Keys implements providers.Lister.
func (a *Account) Keys(ctx context.Context, principal string) ([]key.Info, error) {
	keys, err := a.world.Issuer(principal).List(ctx)
	if errors.Is(err, providers.ErrNotFound) {
		return nil, nil
	}
	return keys, err
}

// Probe implements providers.Prober.
func (a *Account) Probe(ctx context.Context, _ providers.Environment, _ providers.ProbeInput) (probed providers.Probed, err error) {
	err = a.world.do(ctx, OpProbe, func(time.Time) error {
		probed = providers.Probed{As: "the process itself", Lacks: slices.Clone(a.world.lacks)}
		return nil
	})
	return probed, err
}

// IssuerConfig is the issuer's part of a credential.
type IssuerConfig struct {
	// Principal is whose keys are meant; see World.SetPrincipal.
	Principal string `json:"principal"`
}

// Principals implements providers.IssuerConfig.
func (c *IssuerConfig) Principals() []string { return []string{c.Principal} }

// Problems tells what is wrong with the configuration.
func (c *IssuerConfig) Problems() []strictyaml.Problem {
	if c.Principal != "" {
		return nil
	}
	return []strictyaml.Problem{{Field: "principal", What: "is missing", Write: "whose key it is"}}
}

// StoreConfig is the store's part of a credential.
type StoreConfig struct {
	// Path names the secret.
	Path string `json:"path"`
}

// SecretPath implements providers.StoreConfig.
func (c *StoreConfig) SecretPath() string { return c.Path }

// Problems tells what is wrong with the configuration.
func (c *StoreConfig) Problems() []strictyaml.Problem {
	if c.Path != "" {
		return nil
	}
	return []strictyaml.Problem{{Field: "path", What: "is missing", Write: "the name of the secret"}}
}

// InstanceConfig names the instance of the World that a target, attestation or check is for.
type InstanceConfig struct {
	// Instance is its name; {instance} in it stands for the instance, and is all of it by default.
	Instance string `json:"instance,omitempty"`
}

func (c *InstanceConfig) name(instance string) string {
	if c.Instance == "" {
		return instance
	}
	return strings.ReplaceAll(c.Instance, "{instance}", instance)
}

// HealthConfig says whose requests count.
type HealthConfig struct {
	// Instances are names of instances of the World; all when empty.
	Instances []string `json:"instances,omitempty"`
}

// NotifierConfig has nothing to say.
type NotifierConfig struct{}

// FreezerConfig has nothing to say.
type FreezerConfig struct{}
