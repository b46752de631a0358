// Package workerconfig is the worker's own configuration: what may happen. It lies on the worker's
// host and never travels through Temporal.
package workerconfig

import (
	"cmp"

	"github.com/keyturn/keyturn/internal/accesslog"
	"github.com/keyturn/keyturn/internal/inventory"
)

// APIVersion is the version of the YAML that this package reads.
const APIVersion = "keyturn/worker/v1"

// Config is one keyturn-worker.yaml.
type Config struct {
	APIVersion string `json:"apiVersion"`
	// Accounts are the configured instances of issuer and store types, by name.
	Accounts map[string]Account `json:"accounts"`
	// Trust names the files of the keys that may sign. Empty: nothing signed is accepted.
	Trust Trust `json:"trust,omitzero"`
	// Bounds of what may be done, by environment. An environment that is not listed may do nothing.
	Bounds map[string]Bounds `json:"bounds"`
	// Programs that exec may run, by name: an absolute path and arguments.
	Programs map[string][]string `json:"programs,omitempty"`
	// Notify are the notifiers; an optional name lets an inventory choose.
	Notify []Notifier `json:"notify,omitempty"`
	// WebUI is the address of Temporal's Web UI, such as https://temporal.internal: messages lead there.
	WebUI string `json:"webUI,omitempty"`
	// Freeze are the hooks that keep others from deploying while an incident replaces exposed keys.
	Freeze []FreezeHook `json:"freeze,omitempty"`
	// AccessLogs are where a misuse review looks for uses of an exposed key, beside the issuer's own record.
	AccessLogs []accesslog.Log `json:"accessLogs,omitempty"`
	// MaxRotations is how many routine rotations run at once, over all workers, in the environments that have no bound of their own;
	// DefaultMaxRotations when zero. One lasts as long as its waits, mostly the overlap. What a person begins does not count.
	MaxRotations int `json:"maxRotations,omitempty"`
	// Audit is where the audit record is kept beside Temporal's history.
	Audit Audit `json:"audit,omitzero"`

	// Digest is the SHA-256 of the file, in hex: which configuration an activity ran under.
	Digest string `json:"-"`
}

// DefaultMaxRotations is enough for 5,000 keys that are rotated every 90 days and take four.
const DefaultMaxRotations = 250

// Slots is how many routine rotations of an environment run at once, and whether those are its own: of is the environment then, and
// empty where it shares them with others.
func (c *Config) Slots(environment string) (of string, limit int) {
	if own := c.Bounds[environment].MaxRotations; own > 0 {
		return environment, own
	}
	return "", cmp.Or(c.MaxRotations, DefaultMaxRotations)
}

// Account is a named instance of an issuer or store type. Its other fields are the type's own.
type Account struct {
	Type string
	// Quota bounds the activities that call the account, by all workers together, where it is an issuer's. Where its type can,
	// each worker keeps its own calls below it, too: one activity makes several.
	Quota Rate
	// Scan: Sweep looks at every key of the account for those that nobody declared, within the bounds. It may need
	// rights that rotations do not: AWS's ListUsers.
	Scan bool
	// Settings is the type's account configuration, already decoded; nil for a type without.
	Settings any
}

// Trust is who may sign.
type Trust struct {
	Inventory []InventoryTrust  `json:"inventory,omitempty"`
	Approvers map[string]string `json:"approvers,omitempty"`
	// Incidents is the file of those who may declare that keys are exposed: by their word keys are destroyed at once, without
	// evidence and approval. Left out: nobody.
	Incidents string `json:"incidents,omitempty"`
	// BreakGlass names, by environment, the approver groups of which one member's signature passes a gate that asks for more, or for
	// others. What they pass so is owed a review. Left out: nobody's does.
	BreakGlass map[string][]string `json:"breakGlass,omitempty"`
}

// InventoryTrust names the signers of specs for some environments.
type InventoryTrust struct {
	Environments   []string `json:"environments"`
	AllowedSigners string   `json:"allowedSigners"`
}

// Bounds are what specs of one environment may ask for. An empty list allows nothing of its kind, but for
// Accounts and Programs that are left out.
type Bounds struct {
	// Accounts are those that specs of the environment may name. Left out, as it may be where there is one
	// environment, all: an account serves one environment, or who signs for the least of them has all its keys.
	Accounts []string `json:"accounts,omitempty"`
	// Principals are globs of issuer principals.
	Principals []string `json:"principals,omitempty"`
	// StorePaths are globs of secret paths; * does not cross a slash, ** does.
	StorePaths []string `json:"storePaths,omitempty"`
	// FileRoots are absolute folders that targets may write below.
	FileRoots []string `json:"fileRoots,omitempty"`
	// Hosts are host:port that a key or a probe may reach; the host may begin with "*.".
	Hosts []string `json:"hosts,omitempty"`
	// Programs are the names of those that may be run; all when left out.
	Programs []string `json:"programs,omitempty"`
	// MinRisk, MinApprovals and MinOverlap are the least that a spec must ask for.
	MinRisk      inventory.Risk     `json:"minRisk,omitempty"`
	MinApprovals int                `json:"minApprovals,omitempty"`
	MinOverlap   inventory.Duration `json:"minOverlap,omitzero"`
	// SignedApprovals: the revoke gate must ask for trust signed.
	SignedApprovals bool `json:"signedApprovals,omitempty"`
	// MaxRotations is how many routine rotations of the environment run at once, over all workers, beside those of others; left out, it
	// shares the slots of the configuration's own maxRotations.
	MaxRotations int `json:"maxRotations,omitempty"`
	// MaxUnpromoted is how many routine rotations of the environment are between issue and promotion at once, over all workers, so that
	// whatever is wrong with all new keys is wrong with so many; left out, as many as run. What a person begins does not count.
	MaxUnpromoted int `json:"maxUnpromoted,omitempty"`
}

// Notifier is a notifier type with its own fields, and the name an inventory may choose it by.
type Notifier struct {
	Type string
	Name string
	// Settings is the type's configuration, already decoded.
	Settings any
}

// FreezeHook is a freezer type with its own fields.
type FreezeHook struct {
	Type string
	// Settings is the type's configuration, already decoded.
	Settings any
}

// Collector is a collector type with its own fields.
type Collector struct {
	Type string
	// Settings is the type's configuration, already decoded.
	Settings any
}

// Audit configures the audit record.
type Audit struct {
	// File gets one JSON event a line, 0600; "" for none beside Temporal's history.
	File string `json:"file,omitempty"`
	// Sink gets a copy of each event that is in the file: in their order, at least once, whenever it takes them.
	Sink Collector `json:"sink,omitzero"`
	// Retention is how long Temporal must keep the history of a rotation that has ended, by your own rules. Doctor
	// holds the namespace against it; without one it says what the namespace has.
	Retention inventory.Duration `json:"retention,omitzero"`
}
