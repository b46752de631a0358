package inventory

import (
	"fmt"
	"regexp"
	"slices"

	"github.com/keyturn/keyturn/internal/strictyaml"
)

// Data is a kind of data that raises the risk of a key that reaches it.
type Data string

// The kinds of data.
const (
	DataPersonal Data = "personal"
	DataPayment  Data = "payment"
	DataHealth   Data = "health"
	DataSecrets  Data = "secrets"
)

var kindsOfData = []Data{DataPersonal, DataPayment, DataHealth, DataSecrets}

// What scopes are called that give everything, or everything of a kind.
var (
	everything = regexp.MustCompile(`(?i)^(\*|\*[:./]\*|(.*[:._/-])?(admin|administrator|administratoraccess|root|superuser|owner))$`)
	broad      = regexp.MustCompile(`(?i)(\*|fullaccess$|full[_-]access$|poweruseraccess$|[:._/-]all$)`)
)

// LeastRisk is what scopes and data ask for, and why; RiskLow when they ask for nothing.
func LeastRisk(c Credential) (least Risk, why string) {
	least = RiskLow
	raise := func(to Risk, because string) {
		if slices.Index(Risks, to) > slices.Index(Risks, least) {
			least, why = to, because
		}
	}
	for _, s := range c.Scopes {
		if everything.MatchString(s) {
			raise(RiskCritical, fmt.Sprintf("scope %q gives everything", clip(s)))
		} else if broad.MatchString(s) {
			raise(RiskHigh, fmt.Sprintf("scope %q is broad", clip(s)))
		}
	}
	for _, d := range c.Data {
		if d == DataSecrets {
			raise(RiskCritical, "it reaches other secrets")
		} else {
			raise(RiskHigh, fmt.Sprintf("it reaches %s data", d))
		}
	}
	return least, why
}

// adviseRisk says where a risk is lower than scopes and data ask for.
func adviseRisk(inv *Inventory, advise report) {
	for i, c := range inv.Credentials {
		least, why := LeastRisk(c)
		if slices.Index(Risks, c.Risk) < slices.Index(Risks, least) {
			advise(strictyaml.Problem{
				Field: fmt.Sprintf("credentials[%d].risk", i), What: fmt.Sprintf("is %s, and %s", c.Risk, why),
				Write: fmt.Sprintf("write %s, which is rotated every %s by default, or narrow the key", least, DefaultTerms(least).RotateEvery),
			})
		}
	}
}

func checkData(a at, data []Data) {
	for i, d := range data {
		if !slices.Contains(kindsOfData, d) || slices.Contains(data[:i], d) {
			a.wrong(fmt.Sprintf("data[%d]", i), fmt.Sprintf("is %q, which is no kind of data or there twice", clip(string(d))), "write personal, payment, health or secrets")
		}
	}
}
