// Package schedule keeps one Temporal Schedule for each credential: it has the signed spec by value, and an
// index of what is true of the credential. It is for clients of Temporal; workflows never know it.
package schedule

import (
	"errors"
	"fmt"
	"strings"
	"time"

	schedulepb "go.temporal.io/api/schedule/v1"
	"go.temporal.io/sdk/client"

	"github.com/keyturn/keyturn/internal/inventory"
)

// The sentinels.
var (
	// ErrNotFound: no Schedule has the credential.
	ErrNotFound = errors.New("it is in no applied inventory")
	// ErrAmbiguous: several inventories have a credential of this name.
	ErrAmbiguous = errors.New("several inventories have it")
	// ErrExists: there is a Schedule of this ID already.
	ErrExists = errors.New("it has a Schedule already")
	// ErrOvertaken: the Schedule has another spec than the one that the change was made from.
	ErrOvertaken = errors.New("somebody else has applied another spec meanwhile")
	// ErrUnreadable: the Schedule has no spec of the credential, so that it rotates nothing. Somebody else than
	// keyturn has written it; it can be written over, or deleted.
	ErrUnreadable = errors.New("its Schedule cannot be read")
	// ErrConflict: others went on changing the Schedule at the same time. Trying again is harmless.
	ErrConflict = errors.New("others are changing its Schedule at the same time")
)

const prefix = "keyturn/"

// ID is the ID of a credential's Schedule.
func ID(inventory, credential string) string { return prefix + inventory + "/" + credential }

// Split takes an ID apart; ok is false for that of another Schedule.
func Split(id string) (inventory, credential string, ok bool) {
	rest, ours := strings.CutPrefix(id, prefix)
	inventory, credential, parts := strings.Cut(rest, "/")
	return inventory, credential, ours && parts && inventory != "" && credential != "" && !strings.Contains(credential, "/")
}

// Schedules are those of one namespace. It is safe for concurrent use.
type Schedules struct {
	client    client.Client
	namespace string
	catalog   inventory.Catalog
}

// New returns the Schedules of the namespace that the client is connected to.
func New(c client.Client, namespace string, catalog inventory.Catalog) *Schedules {
	return &Schedules{client: c, namespace: namespace, catalog: catalog}
}

// Entry is a Schedule as listings have it. It is an index: whoever may write to the namespace may have
// written it, and what is in the stores' metadata is the truth.
type Entry struct {
	Inventory   string            `json:"inventory"`
	Credential  string            `json:"credential"`
	Owner       string            `json:"owner"`
	Environment string            `json:"environment"`
	Risk        inventory.Risk    `json:"risk"`
	Labels      map[string]string `json:"labels,omitempty"`
	Details
	// Generation is the time at which the spec was made, in Unix milliseconds.
	Generation int64 `json:"generation"`
	// Signer is the fingerprint of the key that signed the spec; empty for an unsigned one.
	Signer string `json:"signer,omitempty"`
	// NotAfter is until when a rotation may begin by the spec; zero for ever.
	NotAfter    time.Time          `json:"notAfter,omitzero"`
	RotateEvery inventory.Duration `json:"rotateEvery"`
	// State is the copy of what the store says.
	State inventory.State `json:"state"`
	// Paused: no routine rotation begins; Note says why.
	Paused bool   `json:"paused,omitempty"`
	Note   string `json:"note,omitempty"`
	// NextRuns are the next moments at which the Schedule fires, the jitter not counted; none while it is paused.
	NextRuns []time.Time `json:"nextRuns,omitempty"`
	// Problem is why the Schedule itself cannot be read: then it rotates nothing, and the rest is what its index says.
	Problem string `json:"problem,omitempty"`
}

// Details are what the memo has of the spec.
type Details struct {
	// Digest names the spec, whoever signed it.
	Digest  string            `json:"digest"`
	Purpose string            `json:"purpose"`
	Policy  string            `json:"policy,omitempty"`
	Scopes  []string          `json:"scopes,omitempty"`
	Claims  []inventory.Claim `json:"claims"`
	// DependsOn names credentials that this one was made with.
	DependsOn []string `json:"dependsOn,omitempty"`
}

// Issuer names the issuer as people know it: type, account and principals.
func (d Details) Issuer() string {
	var principals []string
	where := ""
	for _, c := range d.Claims {
		if c.Role == inventory.RoleIssuer {
			where, principals = c.Type+"/"+c.Account, append(principals, c.Name)
		}
	}
	if where == "" {
		return ""
	}
	return where + "/" + strings.Join(principals, "+")
}

// Described is a Schedule itself, asked for alone.
type Described struct {
	Entry
	// Signed is the spec as it is in the Schedule. Nothing is proved of it here.
	Signed inventory.SignedSpec
	// Spec is the same, read.
	Spec  inventory.Spec
	token []byte
	raw   *schedulepb.Schedule
}

// Content is what a Schedule of a credential is made of.
type Content struct {
	Signed inventory.SignedSpec
	State  inventory.State
	Paused bool
	Note   string
}

// pausedBy begins the note of a pause that the inventory declares: others are of people, and stay.
const pausedBy = "paused by the inventory: "

// Declare takes another spec for the content. The state stays, and so does a pause that a person made; one
// that the inventory declared follows the inventory.
func (c *Content) Declare(signed inventory.SignedSpec) error {
	spec, err := signed.Peek()
	if err != nil {
		return fmt.Errorf("reading spec: %w", err)
	}
	c.Signed = signed
	why, declared := spec.Credential.Schedule.Paused, c.PausedByInventory()
	switch {
	case why != "" && (declared || !c.Paused):
		c.Paused, c.Note = true, pausedBy+why
	case why == "" && declared:
		c.Paused, c.Note = false, ""
	}
	c.keepCadence(spec.Credential)
	return nil
}

// keepCadence makes the rotate-by one that follows from the age of the key.
func (c *Content) keepCadence(credential inventory.Credential) {
	if issued := c.State.KeyIssuedAt; !issued.IsZero() {
		c.State.RotateBy = issued.Add(credential.RotateEvery.Std()).UTC()
	}
}

// PausedByInventory tells whether the pause was declared, and not made by a person.
func (c *Content) PausedByInventory() bool { return c.Paused && strings.HasPrefix(c.Note, pausedBy) }
