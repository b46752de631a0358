package policy

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
)

// Claim is what a Schedule says that a credential of an inventory has.
type Claim struct {
	Inventory, Credential string
	// Account and Principals are those of its issuer.
	Account    string
	Principals []string
}

// ClaimedTwice finds the credentials and the principals that two inventories have: apply refuses the second one, unless both were applied
// at the same moment.
func ClaimedTwice(claims []Claim) (list []Finding) {
	inventories, credentials := map[string][]string{}, map[string][]string{}
	for _, c := range claims {
		inventories[c.Credential] = append(inventories[c.Credential], c.Inventory)
		for _, principal := range c.Principals {
			at := principal + " at account " + c.Account
			credentials[at] = append(credentials[at], c.Inventory+"/"+c.Credential)
		}
	}
	const leave = "leave it to one of them: take it out of the file of the other one, and apply that: keyturn apply -f FILE --prune"
	for _, name := range slices.Sorted(maps.Keys(inventories)) {
		if in := distinct(inventories[name]); len(in) > 1 {
			list = append(list, Finding{
				ID: findingID(FoundClaimedTwice, append(in, name)...), Kind: FoundClaimedTwice, Credential: name, About: "inventory",
				Message: fmt.Sprintf("inventories %s have it, and no command that names it knows which one is meant", strings.Join(in, " and ")), Do: leave,
			})
		}
	}
	for _, principal := range slices.Sorted(maps.Keys(credentials)) {
		in := distinct(credentials[principal])
		if slices.ContainsFunc(in, func(other string) bool { return path.Base(other) != path.Base(in[0]) }) { // else its credential is told of
			list = append(list, Finding{
				ID: findingID(FoundClaimedTwice, append(in, principal)...), Kind: FoundClaimedTwice, Credential: path.Base(in[0]), About: principal,
				Message: fmt.Sprintf("%s have principal %s: each of them takes the keys of the other for unknown ones", strings.Join(in, " and "), principal), Do: leave,
			})
		}
	}
	return list
}

func distinct(list []string) []string { return slices.Compact(slices.Sorted(slices.Values(list))) }
