package inventory

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/keyturn/keyturn/internal/strictyaml"
)

// DefaultTerms are what neither a credential, nor its policy, nor the defaults of its file say. They err
// on the side of time and of people.
func DefaultTerms(r Risk) Terms {
	every := map[Risk]Duration{RiskLow: 90 * Duration(day), RiskStandard: 90 * Duration(day), RiskHigh: 30 * Duration(day), RiskCritical: 7 * Duration(day)}
	t := Terms{
		RotateEvery: every[r],
		Overlap:     hour(24), QuietWindow: hour(1), WaveSoak: minute(5), WaveTimeout: minute(15), DisableSoak: hour(24),
		Approvals: Approvals{Revoke: ptr(defaultApproval())},
	}
	if t.RotateEvery == 0 {
		t.RotateEvery = every[RiskStandard]
	}
	return t
}

func defaultApproval() Approval {
	return Approval{Count: 1, Trust: TrustSigned, RequestExpires: hour(72), ApprovalExpires: hour(24)}
}

func hour(n int) Duration   { return Duration(n) * Duration(day) / 24 }
func minute(n int) Duration { return hour(n) / 60 }

func ptr[T any](v T) *T { return &v }

// Load reads an inventory strictly and resolves each credential's terms. The error is strictyaml.Errors:
// all that is wrong, each with file, line, column and field. It changes nothing and calls nobody.
func Load(file string, data []byte, catalog Catalog) (*Inventory, error) {
	return LoadAt(file, data, catalog, time.Now())
}

// LoadAt is Load at another time than now, which decides on advice alone.
func LoadAt(file string, data []byte, catalog Catalog, now time.Time) (*Inventory, error) {
	doc := strictyaml.Parse(file, data, plaintextSecret)
	if !doc.Readable() {
		return nil, doc.Err() // all else would be said to be missing
	}
	known := providerHook(doc, catalog)
	doc.On(reflect.TypeFor[Provider](), known)
	doc.On(reflect.TypeFor[Approval](), approvalHook(doc))
	doc.On(reflect.TypeFor[*ErrorBudget](), budgetHook(doc))
	doc.On(reflect.TypeFor[WaveStep](), stepHook(doc))

	inv := &Inventory{}
	doc.Decode("", inv)
	resolve(doc, inv, catalog)
	strictyaml.Inspect(inv, doc.Report)
	check(inv, catalog, doc.Report)
	checkCadence(inv, catalog, doc.Report)
	checkSaid(doc, inv)
	if !doc.Has("credentials") || doc.IsNull("credentials") { // somebody forgot them; one that has none any more says so
		doc.Report(strictyaml.Problem{Field: "credentials", What: "is missing", Write: "declare them, or write credentials: [] for an inventory without any"})
	}
	if err := doc.Err(); err != nil {
		return nil, err
	}
	advise := func(p strictyaml.Problem) { inv.Advice = append(inv.Advice, doc.Locate(p)) }
	adviseRisk(inv, advise)
	adviseWindows(inv, advise)
	adviseIdle(doc, inv, now, advise)
	return inv, nil
}

// providerHook reads a provider's object with the configuration of its type, and keeps it as JSON.
func providerHook(doc *strictyaml.Document, catalog Catalog) strictyaml.Hook {
	return func(path string, into reflect.Value) {
		role := roleOf(path)
		typ, ok := doc.Text(path + ".type")
		if !ok {
			doc.Report(strictyaml.Problem{Field: path, What: "has no type", Write: "write type: " + strings.Join(catalog.Types(role), " or ")})
			return
		}
		found, ok := catalog.Lookup(role, typ)
		if !ok {
			doc.Report(strictyaml.Problem{Field: path + ".type", What: fmt.Sprintf("is %q, which cannot be used as %s", typ, role),
				Write: "write " + strings.Join(catalog.Types(role), " or ")})
			into.Set(reflect.ValueOf(Provider{Type: typ})) // it is not missing
			return
		}
		config, ours := found.NewConfig(), []string{"type"}
		if found.NeedsAccount {
			ours = append(ours, "account")
		}
		doc.Decode(path, config, ours...)
		strictyaml.Inspect(config, func(p strictyaml.Problem) {
			p.Field = below(path, p.Field)
			doc.Report(p)
		})
		raw, err := doc.JSON(path)
		if err != nil {
			doc.Report(strictyaml.Problem{Field: path, What: "cannot be written as JSON", Write: "use plain values"})
			return
		}
		account, _ := doc.Text(path + ".account")
		into.Set(reflect.ValueOf(Provider{Type: typ, Account: account, Config: raw}))
	}
}

// approvalHook fills in what an approval does not say: count 1, and signed.
func approvalHook(doc *strictyaml.Document) strictyaml.Hook {
	type plain Approval
	return func(path string, into reflect.Value) {
		a := plain(into.Interface().(Approval))
		if reflect.DeepEqual(a, plain{}) {
			a = plain(defaultApproval())
		}
		doc.Decode(path, &a)
		into.Set(reflect.ValueOf(Approval(a)))
	}
}

// budgetHook lays a budget over the one that was inherited; null removes that.
func budgetHook(doc *strictyaml.Document) strictyaml.Hook {
	return func(path string, into reflect.Value) {
		if doc.IsNull(path) {
			into.SetZero()
			return
		}
		b := ErrorBudget{Window: minute(5), MinTotal: 20, MaxHold: DefaultMaxHold, OnBreach: BreachRollback}
		if inherited := into.Interface().(*ErrorBudget); inherited != nil {
			b = *inherited
		}
		doc.Decode(path, &b)
		into.Set(reflect.ValueOf(&b))
	}
}

func below(path, field string) string {
	if field == "" || path == "" || strings.HasPrefix(field, "[") {
		return path + field
	}
	return path + "." + field
}

// roleOf is the role in which a path's provider is used, by the name of its field.
func roleOf(path string) Role {
	name := path[strings.LastIndex(path, ".")+1:]
	name, _, _ = strings.Cut(name, "[")
	return Role(name)
}

// resolve lays each credential over its policy, that over the defaults of the file, and those over
// DefaultTerms: the same parts of the document are read again, each over the last.
func resolve(doc *strictyaml.Document, inv *Inventory, catalog Catalog) {
	for i := range inv.Credentials {
		c := &inv.Credentials[i]
		path := fmt.Sprintf("credentials[%d]", i)
		name, policy := choosePolicy(doc, inv, *c, path)

		d := Defaults{Terms: DefaultTerms(firstRisk(c.Risk, policy.Risk))}
		if issuer, ok := catalog.Lookup(RoleIssuer, c.Issuer.Type); ok && issuer.ReportsUsage {
			d.QuietWindow = max(d.QuietWindow, Duration(issuer.UsageLag))
		}
		doc.Decode("defaults", &d)
		p := Policy{Terms: d.Terms}
		if name != "" {
			doc.Decode(strictyaml.Entry("policies", name), &p)
		}
		resolved := Credential{
			Owner: d.Owner, Environment: d.Environment, Labels: d.Labels, Notify: d.Notify, Schedule: d.Schedule, Terms: p.Terms,
		}
		doc.Decode(path, &resolved)
		resolved.Policy, resolved.Risk = name, firstRisk(resolved.Risk, p.Risk)
		*c = resolved
	}
}

func firstRisk(risks ...Risk) Risk {
	for _, r := range risks {
		if r != "" {
			return r
		}
	}
	return RiskStandard
}

// choosePolicy is the policy that the credential names, else the file's default, else the one made for
// its risk.
func choosePolicy(doc *strictyaml.Document, inv *Inventory, c Credential, path string) (string, Policy) {
	name := c.Policy
	at := path + ".policy"
	if name == "" && c.Risk == "" {
		name, at = inv.Defaults.Policy, "defaults.policy"
	}
	if name != "" {
		p, ok := inv.Policies[name]
		if !ok {
			doc.Report(strictyaml.Problem{Field: at, What: fmt.Sprintf("names policy %q, which is not there", name), Write: "write one of policies, or add it"})
		}
		return name, p
	}
	var fitting []string
	for candidate, p := range inv.Policies {
		if p.Risk != "" && p.Risk == firstRisk(c.Risk) {
			fitting = append(fitting, candidate)
		}
	}
	slices.Sort(fitting)
	switch len(fitting) {
	case 0:
		return "", Policy{}
	case 1:
		return fitting[0], inv.Policies[fitting[0]]
	}
	doc.Report(strictyaml.Problem{Field: path, What: fmt.Sprintf("has risk %s, for which there are several policies: %s", firstRisk(c.Risk), strings.Join(fitting, ", ")),
		Write: "name one with policy:"})
	return "", Policy{}
}

// ParseSpec reads the body of a spec as strictly as Load reads a file: it came through Temporal, so that
// anybody may have written it.
func ParseSpec(body []byte, catalog Catalog) (Spec, error) {
	var spec Spec
	if err := strictyaml.DecodeJSON(body, &spec); err != nil {
		return Spec{}, fmt.Errorf("parsing spec: %w", err)
	}
	var errs strictyaml.Errors
	report := func(p strictyaml.Problem) {
		errs = append(errs, strictyaml.Error{File: "spec", Line: 1, Column: 1, Field: p.Field, What: p.What, Write: p.Write})
	}
	if spec.Schema != SpecSchema {
		report(strictyaml.Problem{Field: "schema", What: fmt.Sprintf("is %q", spec.Schema), Write: "write " + SpecSchema})
	}
	// One credential alone: what others of its inventory it depends on was checked when it was read there.
	alone := &Inventory{APIVersion: APIVersion, Name: spec.Inventory, Credentials: []Credential{spec.Credential}}
	alone.Credentials[0].DependsOn = nil
	eachProvider(&spec.Credential, func(role Role, field string, p *Provider) {
		found, ok := catalog.Lookup(role, p.Type)
		if !ok {
			report(strictyaml.Problem{Field: field, What: fmt.Sprintf("has type %q, which cannot be used as %s", p.Type, role), Write: "use a known type"})
			return
		}
		fields := found.NewConfig()
		if err := p.Decode(fields); err != nil {
			report(strictyaml.Problem{Field: field, What: "is not valid: " + err.Error(), Write: "mend it in the inventory"})
			return
		}
		p.fields = fields
	})
	check(alone, catalog, report)
	if holdsSecret(body) {
		report(strictyaml.Problem{What: "has something that looks like a secret in plain text", Write: "remove it from the inventory, and treat it as exposed"})
	}
	if len(errs) > 0 {
		return Spec{}, errs
	}
	return spec, nil
}

// Decode reads the provider's own fields strictly into its configuration.
func (p Provider) Decode(config any) error {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(p.Config, &fields); err != nil {
		return fmt.Errorf("decoding %s: not an object", p.Type)
	}
	delete(fields, "type")
	delete(fields, "account")
	own, err := json.Marshal(fields)
	if err != nil {
		return err
	}
	return strictyaml.DecodeJSON(own, config)
}

// eachProvider calls f with every provider of a credential, its role and its field.
func eachProvider(c *Credential, f func(role Role, field string, p *Provider)) {
	f(RoleIssuer, "issuer", &c.Issuer)
	f(RoleStore, "store", &c.Store)
	for i := range c.Verify {
		f(RoleVerify, fmt.Sprintf("verify[%d]", i), &c.Verify[i])
	}
	for i := range c.Health {
		f(RoleHealth, fmt.Sprintf("health[%d]", i), &c.Health[i])
	}
	for i := range c.Consumers {
		at, consumer := fmt.Sprintf("consumers[%d].", i), &c.Consumers[i]
		f(RoleTarget, at+"target", &consumer.Target)
		if consumer.Check != nil {
			f(RoleCheck, at+"check", consumer.Check)
		}
		if consumer.Attestation != nil {
			f(RoleAttestation, at+"attestation", consumer.Attestation)
		}
		if consumer.Purge != nil {
			f(RolePurge, at+"purge", consumer.Purge)
		}
	}
}
