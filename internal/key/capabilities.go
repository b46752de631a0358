package key

import "time"

// Capabilities are what an issuer can do. The static ones of a type are the best that any of
// its accounts has (and UsageLag the least); an Issuer answers for its account.
type Capabilities struct {
	// Slots is how many keys a principal may have, disabled ones included; 0 for no limit.
	Slots int `json:"slots,omitempty"`
	// CanDisable: Disable and Enable exist, so that revoking has a way back.
	CanDisable bool `json:"canDisable"`
	// CanNarrow: a key gets the scopes that are asked for. Otherwise it has its principal's rights.
	CanNarrow bool `json:"canNarrow"`
	// CanExpire: a key may be given an end.
	CanExpire bool `json:"canExpire"`
	// ReportsUsage: Info has LastUsedAt, late by at most UsageLag.
	ReportsUsage bool          `json:"reportsUsage"`
	UsageLag     time.Duration `json:"usageLag,omitempty"`
	// ReportsRefusals: who is refused with a disabled key is reported as its use. Otherwise nobody may tell who misses it.
	ReportsRefusals bool `json:"reportsRefusals"`
	// Fields are the names of the bundle's fields that make up a key; just "value" when empty. All others
	// in a store's version are foreign.
	Fields []string `json:"fields,omitempty"`
	// ConsistentWithin is how long after a change the issuer may still answer as before it.
	ConsistentWithin time.Duration `json:"consistentWithin,omitempty"`
}
