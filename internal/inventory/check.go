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
	if len(inv.Credentials) == 0 {
		root.wrong("credentials", "has no entry", "declare at least one credential")
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

func checkTerms(a at, c Credential, catalog Catalog) {
	for _, d := range []struct {
		field string
		value Duration
	}{
		{"rotateEvery", c.RotateEvery}, {"overlap", c.Overlap}, {"quietWindow", c.QuietWindow}, {"waveSoak", c.WaveSoak},
		{"waveTimeout", c.WaveTimeout}, {"disableSoak", c.DisableSoak}, {"expires", c.Expires},
	} {
		a.within(d.field, d.value, 0, maxTerm)
	}
	if c.RotateEvery <= 0 {
		a.wrong("rotateEvery", "is zero", "write how often the key shall be rotated, such as 90d")
	}
	if c.WaveTimeout <= 0 {
		a.wrong("waveTimeout", "is zero", "write how long a wave may take to converge, such as 15m")
	}
	checkSteps(a, c)
	both := c.Overlap + c.LongestCache() // the overlap begins when the caches have run out
	if c.RotateEvery > 0 && both >= c.RotateEvery {
		caches := ""
		if both > c.Overlap {
			caches = fmt.Sprintf(" and begins %s late for the caches", c.LongestCache())
		}
		a.wrong("overlap", fmt.Sprintf("is %s%s, not shorter than the cadence of %s", c.Overlap, caches, c.RotateEvery), "write a shorter overlap, or rotate less often")
	}
	if c.QuietWindow > c.Overlap {
		a.wrong("quietWindow", fmt.Sprintf("is %s, longer than the overlap of %s", c.QuietWindow, c.Overlap), "write a shorter quietWindow or a longer overlap")
	}
	if c.Expires > 0 && c.Expires <= both {
		a.wrong("expires", fmt.Sprintf("is %s, not longer than the overlap of %s: a key would end before its successor is in use", c.Expires, both), "write a longer life")
	}
	if c.Expires > 0 && c.Expires > both && c.Expires < c.RotateEvery {
		a.wrong("expires", fmt.Sprintf("is %s, shorter than the cadence of %s: a key would end before it is rotated", c.Expires, c.RotateEvery), "write a longer life, or rotate more often")
	}
	if issuer, ok := catalog.Lookup(RoleIssuer, c.Issuer.Type); ok {
		if issuer.ReportsUsage && c.QuietWindow.Std() < issuer.UsageLag {
			a.wrong("quietWindow", fmt.Sprintf("is %s, below the %s with which issuer type %s reports usage at best", c.QuietWindow, Duration(issuer.UsageLag), c.Issuer.Type),
				"write at least "+Duration(issuer.UsageLag).String())
		}
		if c.Expires > 0 && !issuer.CanExpire {
			a.wrong("expires", fmt.Sprintf("is set, and keys of issuer type %s cannot expire", c.Issuer.Type), "remove it")
		}
	}
	if b := c.ErrorBudget; b != nil {
		checkBudget(a, *b, len(c.Health))
	}
	for _, g := range []Gate{GateSignoff, GateRevoke} {
		if approval := c.Approvals.For(g); approval != nil {
			checkApproval(at{report: a.report, path: below(a.path, "approvals."+string(g))}, *approval)
		}
	}
}

func checkBudget(a at, b ErrorBudget, signals int) {
	if signals == 0 {
		a.wrong("errorBudget", "has no health signal to judge by", "declare one under health, or remove the budget")
	}
	if b.Ratio < 0 || b.Ratio > 1 {
		a.wrong("errorBudget.ratio", fmt.Sprintf("is %g", b.Ratio), "write a ratio from 0 to 1, such as 0.01")
	}
	a.within("errorBudget.window", b.Window, Duration(day)/24/60/60, 7*Duration(day))
	if b.MinTotal < 0 {
		a.wrong("errorBudget.minTotal", "is negative", "write the least number of requests for which a ratio means anything")
	}
	a.within("errorBudget.maxHold", b.MaxHold, Duration(day)/24/60/60, 90*Duration(day))
	if b.OnBreach != BreachRollback && b.OnBreach != BreachPause {
		a.wrong("errorBudget.onBreach", fmt.Sprintf("is %q", b.OnBreach), "write rollback or pause")
	}
}

func checkApproval(a at, approval Approval) {
	if approval.Count < 0 || approval.Count > 20 {
		a.wrong("count", fmt.Sprintf("is %d", approval.Count), "write how many people must approve, 0 to 20")
	}
	if approval.Trust != TrustSigned && approval.Trust != TrustAny {
		a.wrong("trust", fmt.Sprintf("is %q", approval.Trust), "write signed or any")
	}
	if approval.Trust == TrustSigned && approval.Count > 0 && len(approval.From) == 0 {
		a.wrong("from", "is missing, and signed approvals come from groups", "name groups of the worker configuration")
	}
	if approval.FourEyes && approval.Trust != TrustSigned {
		a.wrong("fourEyes", "is set, and the trust is "+string(approval.Trust)+": whoever approves may give any name", "write trust: signed, or remove it")
	}
	checkNames(a, "from", approval.From)
	a.within("requestExpires", approval.RequestExpires, 0, 90*Duration(day))
	a.within("approvalExpires", approval.ApprovalExpires, 0, 90*Duration(day))
}

// within refuses a duration beyond its bounds.
func (a at) within(field string, value, least, most Duration) {
	if value < least || value > most {
		a.wrong(field, "is "+value.String(), fmt.Sprintf("write a duration from %s to %s", least, most))
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

func checkConsumers(a at, c Credential, catalog Catalog) {
	if len(c.Consumers) == 0 && !c.NoConsumers {
		a.wrong("consumers", "is missing", "declare who uses the key, or write noConsumers: true")
	}
	if len(c.Consumers) > 0 && c.NoConsumers {
		a.wrong("noConsumers", "is set, and there are consumers", "remove one of the two")
	}
	names, canaries := map[string]bool{}, 0
	for i, consumer := range c.Consumers {
		here := at{report: a.report, path: fmt.Sprintf("%s.consumers[%d]", a.path, i)}
		if a.path == "" {
			here.path = fmt.Sprintf("consumers[%d]", i)
		}
		if names[consumer.Name] {
			here.wrong("name", fmt.Sprintf("is %q, like another consumer's", clip(consumer.Name)), "give each its own name")
		}
		names[consumer.Name] = true
		if consumer.Wave == CanaryWave {
			canaries++
		}
		checkConsumer(here, consumer, catalog)
		checkFreshness(here, c, consumer)
	}
	if len(c.Consumers) > 1 && canaries == len(c.Consumers) {
		a.wrong("consumers", "are all in the canary wave: a canary that is the whole fleet protects nobody", "leave most of them out of it")
	}
}

func checkConsumer(a at, consumer Consumer, catalog Catalog) {
	if !IsName(consumer.Name) {
		a.wrong("name", "is no name", nameRule)
	}
	if consumer.Wave != "" && !IsName(consumer.Wave) {
		a.wrong("wave", "is no name", nameRule)
	}
	if consumer.Wave == RestWave {
		a.wrong("wave", "is rest, which is the wave of those that name none", "leave it out")
	}
	switch consumer.Surface {
	case "", SurfaceServer:
	case SurfaceClient, SurfaceFrontend:
		a.wrong("surface", fmt.Sprintf("is %s: such a place can keep no secret", consumer.Surface), "let a server of yours hold the key, and give clients short-lived tokens of it")
	default:
		a.wrong("surface", fmt.Sprintf("is %q", clip(string(consumer.Surface))), "write server")
	}
	if consumer.Check == nil && !consumer.IsBatch() {
		a.wrong("check", "is missing", "say how to tell that an instance is well")
	}
	if consumer.Attestation == nil && !consumer.IsBatch() {
		a.wrong("attestation", "is missing", "say how an instance states which key it uses")
	}
	seen := map[string]bool{}
	for i, name := range consumer.Instances {
		field := fmt.Sprintf("instances[%d]", i)
		if !instanceForm.MatchString(name) || len(name) > maxKeyword || strings.Contains(name, "..") {
			a.wrong(field, "is no name", "write letters, digits, dots, hyphens and underscores")
		}
		if seen[name] {
			a.wrong(field, "is there twice", "remove it")
		}
		seen[name] = true
	}
	if len(consumer.Instances) > 1 {
		if known, ok := catalog.Lookup(RoleTarget, consumer.Target.Type); ok && !known.Pulls && !strings.Contains(string(consumer.Target.Config), "{instance}") {
			a.wrong("target", "is the same for all instances", "write {instance} where they differ")
		}
		if consumer.Attestation != nil && strings.Contains(string(consumer.Attestation.Config), `"url"`) && !strings.Contains(string(consumer.Attestation.Config), "{instance}") {
			a.wrong("attestation", "is the same for all instances: one cannot speak for the others", "write {instance} where they differ")
		}
	}
}

// checkUsage refuses attestations by the issuer's usage that cannot speak for their consumer: the issuer
// tells when a key was used, not by whom.
func checkUsage(a at, c Credential, catalog Catalog) {
	instances := 0
	for _, consumer := range c.Consumers {
		instances += len(consumer.InstanceNames())
	}
	for i, consumer := range c.Consumers {
		if consumer.Attestation == nil {
			continue
		}
		known, ok := catalog.Lookup(RoleAttestation, consumer.Attestation.Type)
		if !ok || !known.ByUsage {
			continue
		}
		here := at{report: a.report, path: below(a.path, fmt.Sprintf("consumers[%d]", i))}
		if instances != 1 {
			here.wrong("attestation", fmt.Sprintf("is the issuer's record of uses, which does not tell %d instances apart", instances),
				"let each instance attest for itself, by http or exec")
		}
		if consumer.Replicas > 1 {
			here.wrong("replicas", "is given, and the issuer's record of uses does not tell them apart", "let the replicas attest for themselves, by http or exec")
		}
		own, _ := configOf(catalog, RoleIssuer, c.Issuer).(interface{ Principals() []string })
		of, _ := configOf(catalog, RoleAttestation, *consumer.Attestation).(interface{ Principals() []string })
		if consumer.Attestation.Type != c.Issuer.Type || consumer.Attestation.Account != c.Issuer.Account ||
			own != nil && of != nil && !slices.Equal(own.Principals(), of.Principals()) {
			here.wrong("attestation", "is the record of uses of another issuer than the credential's", "write the issuer's type, account and principal")
		}
	}
}

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
