// Package awsiam is the issuer of AWS access keys, those of IAM users. A user has two at most, which is
// what makes the overlap; a key has all of its user's rights, so that these are checked instead of given.
package awsiam

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/keyturn/keyturn/internal/awsaccount"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/strictyaml"
	"github.com/keyturn/keyturn/providers"
)

const (
	// slots is IAM's quota of access keys of a user; inactive ones count.
	slots = 2
	// usageLag is how late IAM may report a use. AWS publishes no figure: its console said for years that
	// activity appears within four hours.
	usageLag = 4*time.Hour + 15*time.Minute
	// consistentWithin is how long IAM may answer as before a change: new keys were seen to be refused for
	// so long. A double on this host answers at once.
	consistentWithin     = 15 * time.Second
	consistentOnThisHost = 2 * time.Second
)

// Names of the fields that IAM's own API and credential_process give the two halves of a key.
const (
	defaultKeyIDField  = "AccessKeyId"
	defaultSecretField = "SecretAccessKey"
)

// Descriptor describes the type awsiam: issuer, and attestation by usage.
func Descriptor() providers.Descriptor {
	best := capabilities(&Account{}, Config{})
	best.UsageLag = 0 // an account on this host may say so
	return providers.Descriptor{
		Type:    "awsiam",
		Summary: "mints access keys of AWS IAM users",
		Account: func() any { return new(Account) },
		Issuer: providers.MakeWithAccount(func(_ providers.Environment, account *Account, c *Config) (providers.Issuer, error) {
			return &issuer{account: account, config: *c}, nil
		}),
		Capabilities: best,
		Attestor: providers.MakeWithAccount(func(e providers.Environment, account *Account, c *AttestationConfig) (providers.Attestor, error) {
			return &attestor{issuer: issuer{account: account, config: Config{Principal: c.Principal}}, now: e.Now}, nil
		}),
		AttestsByUsage: true,
	}
}

// Account is an AWS account.
type Account struct {
	awsaccount.Account
	// UsageLag is how late IAM may report the use of a key; 4h15m by default. Only an account whose endpoint
	// is on this host may say less.
	UsageLag inventory.Duration `json:"usageLag,omitzero"`
	// ReviewRegions are those whose event history a misuse review reads, beside that of Region and of the global services.
	ReviewRegions []string `json:"reviewRegions,omitempty"`
}

// Problems tells what is wrong with the account.
func (a *Account) Problems() []strictyaml.Problem {
	list := a.Account.Problems()
	for i, region := range a.ReviewRegions {
		if !regionForm.MatchString(region) {
			list = append(list, strictyaml.Problem{Field: fmt.Sprintf("reviewRegions[%d]", i), What: "is no region", Write: "a name such as eu-central-1"})
		}
	}
	if a.UsageLag != 0 && a.UsageLag.Std() < usageLag && !a.OnThisHost("IAM") {
		list = append(list, strictyaml.Problem{
			Field: "usageLag", What: fmt.Sprintf("is %s, and IAM may report a use later than that", a.UsageLag),
			Write: fmt.Sprintf("at least %s, or nothing", inventory.Duration(usageLag)),
		})
	}
	return list
}

// Config is the issuer's part of a credential.
type Config struct {
	// Principal is the IAM user's name, without path.
	Principal string `json:"principal"`
	// Fields are the names under which the bundle, and so the secret's JSON, has the two halves of a key.
	Fields FieldNames `json:"fields,omitzero"`
}

// FieldNames name the two halves of a key.
type FieldNames struct {
	// ID is AccessKeyId by default.
	ID string `json:"id,omitempty"`
	// Key is SecretAccessKey by default.
	Key string `json:"key,omitempty"`
}

func (c Config) keyID() string {
	if c.Fields.ID == "" {
		return defaultKeyIDField
	}
	return c.Fields.ID
}

func (c Config) secretKey() string {
	if c.Fields.Key == "" {
		return defaultSecretField
	}
	return c.Fields.Key
}

// Principals implements providers.IssuerConfig.
func (c *Config) Principals() []string { return []string{c.Principal} }

// userForm is IAM's form of a user name.
var userForm = regexp.MustCompile(`^[A-Za-z0-9_+=,.@-]{1,64}$`)

// Problems tells what is wrong with the configuration.
func (c *Config) Problems() []strictyaml.Problem {
	list := userProblems(c.Principal)
	if c.keyID() == c.secretKey() {
		list = append(list, strictyaml.Problem{Field: "fields", What: "gives both halves of a key the same name", Write: "two names"})
	}
	return list
}

func userProblems(user string) []strictyaml.Problem {
	switch {
	case strings.EqualFold(user, "root") || user == "<root_account>":
		return []strictyaml.Problem{{Field: "principal", What: "is the root of the account, whose keys must not be", Write: "the name of an IAM user; and destroy the keys of root"}}
	case !userForm.MatchString(user):
		return []strictyaml.Problem{{Field: "principal", What: "is no name of an IAM user", Write: "the name alone, such as payments-api, not the ARN"}}
	}
	return nil
}

// AttestationConfig says whose uses attest. IAM tells when each key was last used, not by whom: so it can
// speak for a credential that has one instance.
type AttestationConfig struct {
	// Principal is the IAM user's name.
	Principal string `json:"principal"`
}

// Principals are those whose uses are asked for.
func (c *AttestationConfig) Principals() []string { return []string{c.Principal} }

// Problems tells what is wrong with the configuration.
func (c *AttestationConfig) Problems() []strictyaml.Problem { return userProblems(c.Principal) }

func capabilities(a *Account, c Config) key.Capabilities {
	can := key.Capabilities{ // not ReportsRefusals, which AWS does not document
		Slots: slots, CanDisable: true, ReportsUsage: true, UsageLag: usageLag,
		Fields: []string{c.keyID(), c.secretKey()}, ConsistentWithin: consistentWithin,
	}
	if a.UsageLag != 0 {
		can.UsageLag = a.UsageLag.Std()
	}
	if a.OnThisHost("IAM") {
		can.ConsistentWithin = consistentOnThisHost
	}
	return can
}
