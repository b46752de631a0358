package workerconfig

import (
	"fmt"
	"slices"
	"time"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/signed"
	"github.com/keyturn/keyturn/providers"
)

// DemandsSignature tells whether specs of an environment must be signed: somebody is named who may.
func (c *Config) DemandsSignature(environment string) bool {
	return slices.ContainsFunc(c.Trust.Inventory, func(t InventoryTrust) bool { return slices.Contains(t.Environments, environment) })
}

// InventorySigners returns who may sign specs of an environment; nobody when none is named. The files are
// read anew, so that who leaves one is trusted no more from then on.
func (c *Config) InventorySigners(environment string) (signed.Signers, error) {
	var all signed.Signers
	for _, t := range c.Trust.Inventory {
		if !slices.Contains(t.Environments, environment) {
			continue
		}
		signers, err := signed.LoadSigners(t.AllowedSigners)
		if err != nil {
			return nil, err
		}
		all = append(all, signers...)
	}
	return all, nil
}

// Approvers returns who may decide as one of a group. providers.ErrDenied: this configuration does not
// know the group. Like InventorySigners it reads the file anew.
func (c *Config) Approvers(group string) (signed.Signers, error) {
	file, ok := c.Trust.Approvers[group]
	if !ok {
		return nil, fmt.Errorf("%w: group %q is not under trust.approvers of the worker configuration", providers.ErrDenied, group)
	}
	return signed.LoadSigners(file)
}

// IncidentSigners returns who may declare an incident. providers.ErrDenied: nobody may here. Like InventorySigners it reads the file
// anew.
func (c *Config) IncidentSigners() (signed.Signers, error) {
	if c.Trust.Incidents == "" {
		return nil, fmt.Errorf("%w: the worker configuration names nobody under trust.incidents", providers.ErrDenied)
	}
	return signed.LoadSigners(c.Trust.Incidents)
}

// CannotApprove says why a gate that asks for signed approvals could never be passed here; empty when it
// can, or when it takes any approval. requester signed the spec; with four eyes theirs does not count.
func (c *Config) CannotApprove(a inventory.Approval, requester signed.Signer, at time.Time) string {
	if a.Count == 0 || a.Trust == inventory.TrustAny {
		return ""
	}
	if len(a.From) == 0 {
		return "it names no group in from, so that nobody could give one"
	}
	if a.FourEyes && requester == (signed.Signer{}) {
		return "it wants four eyes, and nobody signed the spec, so that nobody knows whose the first two are"
	}
	names, people := map[string]string{}, map[string]bool{} // a key under two names is one person
	for _, group := range slices.Sorted(slices.Values(a.From)) {
		signers, err := c.Approvers(group)
		if err != nil {
			return err.Error()
		}
		for _, by := range signers.Able(signed.Decision, at) {
			if a.FourEyes && by.Same(requester) {
				continue
			}
			if _, known := names[by.Key]; !known {
				names[by.Key] = by.Name
			}
			people[names[by.Key]] = true
		}
	}
	if len(people) >= a.Count {
		return ""
	}
	others := ""
	if a.FourEyes {
		others = fmt.Sprintf(", beside %s, who signed the spec", requester.Name)
	}
	if len(people) == 1 {
		return "only one person can give one" + others
	}
	return fmt.Sprintf("only %d people can give one%s", len(people), others)
}
