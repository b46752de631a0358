package inventory

import (
	"fmt"

	"github.com/keyturn/keyturn/internal/strictyaml"
)

// checkUnique refuses two credentials with one name, on one issuer principal, or on one secret path. It keeps what each
// of them claims.
func checkUnique(inv *Inventory, catalog Catalog, r report) {
	names, claimed := map[string]string{}, map[string]string{}
	claim := func(owners map[string]string, what, field, name string, i int) {
		if first, taken := owners[what]; taken {
			r(strictyaml.Problem{Field: fmt.Sprintf("credentials[%d].%s", i, field), What: fmt.Sprintf("is the same as that of credential %q", first),
				Write: "give each credential its own"})
			return
		}
		owners[what] = name
	}
	for i, c := range inv.Credentials {
		claim(names, c.Name, "name", c.Name, i)
		claims := Claims(c, catalog)
		inv.Claims = append(inv.Claims, claims)
		for _, place := range claims {
			claim(claimed, place.String(), string(place.Role), c.Name, i)
		}
	}
}

// checkPlaces refuses consumers that share a place. What is delivered to one would be delivered to the other, in whatever
// wave that is and of whatever credential. Where it is asked which key is in use, one would speak for the other; consumers
// of two credentials may share that, since one statement may name a key of each.
func checkPlaces(inv *Inventory, catalog Catalog, r report) {
	targets := map[string]placed{}
	for i, c := range inv.Credentials {
		attestations := map[string]placed{}
		for j, consumer := range c.Consumers {
			here, own := at{report: r, path: fmt.Sprintf("credentials[%d].consumers[%d]", i, j)}, placed{credential: i, consumer: j}
			claim := func(owners map[string]placed, role Role, p Provider) {
				for _, place := range placesOf(catalog, role, p, consumer.InstanceNames()) {
					first, taken := owners[place]
					switch {
					case !taken:
						owners[place] = own
					case first != own:
						whose := inv.Credentials[first.credential]
						here.wrong(string(role), fmt.Sprintf("is the same as that of consumer %q of credential %q", clip(whose.Consumers[first.consumer].Name), clip(whose.Name)),
							"give each consumer its own")
						return
					}
				}
			}
			claim(targets, RoleTarget, consumer.Target)
			if consumer.Attestation != nil {
				claim(attestations, RoleAttestation, *consumer.Attestation)
			}
		}
	}
}

// placed is a consumer of a credential, by their places in the inventory.
type placed struct{ credential, consumer int }

// placesOf are the places that a target or an attestation means for the instances. None where they have no place of their
// own: those that read the store share it.
func placesOf(catalog Catalog, role Role, p Provider, instances []string) (places []string) {
	config, ok := configOf(catalog, role, p).(interface{ Place(instance string) string })
	if !ok {
		return nil
	}
	for _, instance := range instances {
		places = append(places, p.Type+" "+config.Place(instance))
	}
	return places
}

// Claim is what one credential alone may have: a principal of an issuer account, or a path in a store's.
type Claim struct {
	Role Role   `json:"role"`
	Type string `json:"type"`
	// Account is of the worker configuration.
	Account string `json:"account"`
	// Name is the principal, or the path.
	Name string `json:"name"`
}

// String is unique for what is claimed.
func (c Claim) String() string {
	return fmt.Sprintf("%s %s/%s/%s", c.Role, c.Type, c.Account, c.Name)
}

// Claims lists what a credential claims: each principal at its issuer, and its path in the store.
func Claims(c Credential, catalog Catalog) []Claim {
	var claims []Claim
	if config, ok := configOf(catalog, RoleIssuer, c.Issuer).(interface{ Principals() []string }); ok {
		for _, p := range config.Principals() {
			claims = append(claims, Claim{RoleIssuer, c.Issuer.Type, c.Issuer.Account, p})
		}
	}
	if config, ok := configOf(catalog, RoleStore, c.Store).(interface{ SecretPath() string }); ok {
		claims = append(claims, Claim{RoleStore, c.Store.Type, c.Store.Account, config.SecretPath()})
	}
	return claims
}

// configOf is a provider's decoded configuration, nil when it does not decode.
func configOf(catalog Catalog, role Role, p Provider) any {
	known, ok := catalog.Lookup(role, p.Type)
	if !ok {
		return nil
	}
	config := known.NewConfig()
	if p.Decode(config) != nil {
		return nil
	}
	return config
}
