// Package gateway issues keys for API gateways that check them against a file: it is the issuer of type gateway, which
// writes the key file and reads the usage file. What a gateway embeds is the package of the same name at the top level;
// docs/gateway.md describes both files.
package gateway

import (
	"fmt"
	"path/filepath"

	"github.com/keyturn/keyturn/internal/gatewayfile"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/strictyaml"
	"github.com/keyturn/keyturn/providers"
)

const (
	defaultSlots = 2
	maxSlots     = 100
)

// Descriptor describes the type gateway: issuer.
func Descriptor() providers.Descriptor {
	return providers.Descriptor{
		Type:    "gateway",
		Summary: "mints keys for an API gateway that checks them against a file of salted hashes",
		Account: func() any { return new(Account) },
		Issuer: providers.MakeWithAccount(func(e providers.Environment, account *Account, c *Config) (providers.Issuer, error) {
			return open(e, *account, *c)
		}),
		Capabilities: capabilities(Account{Slots: maxSlots}),
	}
}

// Account is one gateway.
type Account struct {
	// KeyFile is where the gateway reads its keys.
	KeyFile string `json:"keyFile"`
	// UsageFile is where it reports their last use; the key file with .usage after it by default.
	UsageFile string `json:"usageFile,omitempty"`
	// Slots is how many keys a principal may have, disabled ones included; 2 by default.
	Slots int `json:"slots,omitempty"`
	// UsageLag is how late the usage file may be; 1s by default.
	UsageLag inventory.Duration `json:"usageLag,omitzero"`
}

func (a Account) usageFile() string {
	if a.UsageFile == "" {
		return gatewayfile.UsageFileOf(a.KeyFile)
	}
	return a.UsageFile
}

func (a Account) slots() int {
	if a.Slots == 0 {
		return defaultSlots
	}
	return a.Slots
}

// Problems tells what is wrong with the account.
func (a *Account) Problems() []strictyaml.Problem {
	var list []strictyaml.Problem
	add := func(field, what, write string) {
		list = append(list, strictyaml.Problem{Field: field, What: what, Write: write})
	}
	for _, f := range []struct{ field, path string }{{"keyFile", a.KeyFile}, {"usageFile", a.UsageFile}} {
		switch {
		case f.path == "" && f.field == "keyFile":
			add(f.field, "is missing", "the absolute path of the file that the gateway reads its keys from")
		case f.path != "" && (!filepath.IsAbs(f.path) || filepath.Clean(f.path) != f.path):
			add(f.field, "is not an absolute, clean path", "a path such as /etc/edge/keys.json")
		}
	}
	if a.KeyFile != "" && a.UsageFile == a.KeyFile {
		add("usageFile", "is the key file", "another path, or nothing")
	}
	if a.Slots != 0 && (a.Slots < 2 || a.Slots > maxSlots) {
		add("slots", fmt.Sprintf("is %d, and a rotation needs 2 at least", a.Slots), fmt.Sprintf("a number from 2 to %d", maxSlots))
	}
	if a.UsageLag != 0 && a.UsageLag.Std() < gatewayfile.UsageLag {
		add("usageLag", fmt.Sprintf("is %s, and a gateway reports within %s", a.UsageLag, gatewayfile.UsageLag), "1s or longer")
	}
	return list
}

// Config is the gateway's part of a credential.
type Config struct {
	// Principal is whose keys are meant: the client, as the gateway knows it.
	Principal string `json:"principal"`
}

// Principals implements providers.IssuerConfig.
func (c *Config) Principals() []string { return []string{c.Principal} }

// Problems tells what is wrong with the configuration.
func (c *Config) Problems() []strictyaml.Problem {
	if gatewayfile.NameForm.MatchString(c.Principal) {
		return nil
	}
	return []strictyaml.Problem{{
		Field: "principal", What: "is not a name of 1 to 128 letters, digits and . _ @ / : -",
		Write: "whose key it is, such as payments-api",
	}}
}

func capabilities(a Account) key.Capabilities {
	return key.Capabilities{
		Slots: a.slots(), CanDisable: true, CanNarrow: true, CanExpire: true,
		ReportsUsage: true, UsageLag: max(a.UsageLag.Std(), gatewayfile.UsageLag), ReportsRefusals: true,
	}
}
