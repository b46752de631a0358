package inventory

import (
	"fmt"
	"maps"
	"net/mail"
	"regexp"
	"slices"
	"strings"

	"github.com/keyturn/keyturn/internal/strictyaml"
)

// Bounds of what ends up in search attributes: longer values end a workflow.
const (
	maxName       = 63
	maxKeyword    = 255
	maxLabelBytes = 2000
	maxText       = 1000
)

var (
	nameForm     = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]*[a-z0-9])?$`)
	labelForm    = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?$`)
	instanceForm = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$`)
)

type report = func(strictyaml.Problem)

// at reports problems of one credential.
type at struct {
	report report
	path   string
}

func (a at) wrong(field, what, write string) {
	a.report(strictyaml.Problem{Field: below(a.path, field), What: what, Write: write})
}

// IsName tells whether credentials, inventories and the like may have a name.
func IsName(s string) bool {
	return len(s) <= maxName && nameForm.MatchString(s) && !strings.Contains(s, "..")
}

const nameRule = "write up to 63 lower-case letters, digits, dots, hyphens and underscores, beginning and ending with a letter or digit"

// check judges what types alone cannot say, within each credential and among them.
func check(inv *Inventory, catalog Catalog, r report) {
	root := at{report: r}
	if inv.APIVersion != APIVersion {
		root.wrong("apiVersion", fmt.Sprintf("is %q", inv.APIVersion), "write "+APIVersion)
	}
	if !IsName(inv.Name) {
		root.wrong("inventory", "is no name", nameRule)
	}
	for _, name := range slices.Sorted(maps.Keys(inv.Policies)) {
		if !IsName(name) {
			root.wrong("policies", fmt.Sprintf("has a policy %q, which is no name", clip(name)), nameRule)
		}
		if risk := inv.Policies[name].Risk; risk != "" {
			checkRisk(at{report: r, path: strictyaml.Entry("policies", name)}, risk)
		}
	}
	for i, c := range inv.Credentials {
		checkCredential(at{report: r, path: fmt.Sprintf("credentials[%d]", i)}, c, catalog)
	}
	checkUnique(inv, catalog, r)
	checkPlaces(inv, catalog, r)
	checkDependencies(inv, r)
}

func checkRisk(a at, r Risk) {
	if !slices.Contains(Risks, r) {
		a.wrong("risk", fmt.Sprintf("is %q", r), "write low, standard, high or critical")
	}
}

func checkCredential(a at, c Credential, catalog Catalog) {
	if !IsName(c.Name) {
		a.wrong("name", "is no name", nameRule)
	}
	if c.Purpose == "" {
		a.wrong("purpose", "is missing", "say what the key is for")
	}
	for field, text := range map[string]string{"owner": c.Owner, "environment": c.Environment} {
		switch {
		case text == "":
			a.wrong(field, "is missing", "write it, or give it under defaults")
		case len(text) > maxKeyword:
			a.wrong(field, fmt.Sprintf("is longer than %d bytes", maxKeyword), "shorten it")
		case field == "environment" && !IsName(text):
			a.wrong(field, "is no name", nameRule)
		case strings.ContainsAny(text, "\n\t"):
			a.wrong(field, "has more than one line or a tab", "write one line")
		}
	}
	checkNames(a, "notify", c.Notify)
	if strings.Contains(c.Owner, "@") {
		if _, err := mail.ParseAddress(c.Owner); err != nil {
			a.wrong("owner", "is no mail address", "write an address, or the name of a team")
		}
	}
	if len(c.Purpose) > maxText {
		a.wrong("purpose", fmt.Sprintf("is longer than %d bytes", maxText), "shorten it")
	}
	checkRisk(a, c.Risk)
	checkLabels(a, c.Labels)
	checkScopes(a, c)
	checkData(a, c.Data)
	checkTerms(a, c, catalog)
	checkSchedule(a, c)
	checkProviders(a, c, catalog)
	checkConsumers(a, c, catalog)
	checkUsage(a, c, catalog)
	checkSize(a, c)
}

func checkNames(a at, field string, names []string) {
	for i, name := range names {
		if !IsName(name) || slices.Contains(names[:i], name) {
			a.wrong(fmt.Sprintf("%s[%d]", field, i), "is no name or there twice", nameRule)
		}
	}
}

func checkLabels(a at, labels map[string]string) {
	total := 0
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		v := labels[k]
		total += len(k) + len(v) + 8
		if !labelForm.MatchString(k) || v != "" && !labelForm.MatchString(v) {
			a.wrong("labels", fmt.Sprintf("has %q: %q", clip(k), clip(v)), "write letters, digits, dots, slashes, hyphens and underscores")
		}
		if len(k)+len(v)+1 > maxKeyword {
			a.wrong("labels", fmt.Sprintf("has a label %q longer than %d bytes", clip(k), maxKeyword), "shorten it: it has to fit a search attribute")
		}
	}
	if total > maxLabelBytes {
		a.wrong("labels", fmt.Sprintf("are %d bytes together, more than the %d that a search attribute takes", total, maxLabelBytes), "shorten or remove some")
	}
}

func checkScopes(a at, c Credential) {
	seen := map[string]bool{}
	for i, s := range c.Scopes {
		switch {
		case s == "":
			a.wrong(fmt.Sprintf("scopes[%d]", i), "is empty", "name a scope, or remove it")
		case seen[s]:
			a.wrong(fmt.Sprintf("scopes[%d]", i), "is there twice", "remove it")
		}
		seen[s] = true
	}
	adopted := map[string]bool{}
	for i, k := range c.Adopt {
		if k == "" || adopted[k] || len(k) > maxKeyword {
			a.wrong(fmt.Sprintf("adopt[%d]", i), "is empty, too long or there twice", "name a key of the issuer by its ID, once")
		}
		adopted[k] = true
	}
}

func checkProviders(a at, c Credential, catalog Catalog) {
	eachProvider(&c, func(role Role, field string, p *Provider) {
		known, ok := catalog.Lookup(role, p.Type)
		switch {
		case p.Type == "" && (role == RoleIssuer || role == RoleStore || role == RoleTarget):
			a.wrong(field, "is missing", "declare one; types are "+strings.Join(catalog.Types(role), ", "))
		case !ok:
		case known.NeedsAccount && p.Account == "":
			a.wrong(field+".account", "is missing", "name an account of the worker configuration")
		case known.NeedsAccount && !IsName(p.Account):
			a.wrong(field+".account", "is no name", nameRule)
		case !known.NeedsAccount && p.Account != "":
			a.wrong(field+".account", fmt.Sprintf("is given, and type %s has no account", p.Type), "remove it")
		}
	})
}

// checkDependencies refuses dependsOn that names nobody, itself, or comes back to itself.
func checkDependencies(inv *Inventory, r report) {
	index := map[string]int{}
	for i, c := range inv.Credentials {
		index[c.Name] = i
	}
	for i, c := range inv.Credentials {
		for j, name := range c.DependsOn {
			field := fmt.Sprintf("credentials[%d].dependsOn[%d]", i, j)
			if name == c.Name {
				r(strictyaml.Problem{Field: field, What: "is the credential itself", Write: "remove it"})
			} else if _, ok := index[name]; !ok {
				r(strictyaml.Problem{Field: field, What: fmt.Sprintf("names %q, which is not in this inventory", clip(name)), Write: "name a credential of this inventory"})
			}
		}
	}
	done, onPath := map[string]bool{}, map[string]bool{}
	var path []string
	var visit func(name string)
	visit = func(name string) {
		if onPath[name] {
			k := slices.Index(path, name)
			if cycle := append(slices.Clone(path[k:]), name); len(cycle) > 2 { // itself is reported already
				r(strictyaml.Problem{Field: fmt.Sprintf("credentials[%d].dependsOn", index[name]), What: "is a cycle: " + strings.Join(cycle, " -> "), Write: "break it"})
			}
			return
		}
		i, ok := index[name]
		if !ok || done[name] {
			return
		}
		path, onPath[name] = append(path, name), true
		for _, next := range inv.Credentials[i].DependsOn {
			visit(next)
		}
		path, onPath[name] = path[:len(path)-1], false
		done[name] = true
	}
	for _, c := range inv.Credentials {
		visit(c.Name)
	}
}
