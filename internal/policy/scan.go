package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
)

// Custody says who looks after a key at an issuer.
type Custody string

// The custodies.
const (
	// Managed: a credential of an inventory has the key.
	Managed Custody = "managed"
	// Unmanaged: nobody declared it.
	Unmanaged Custody = "unmanaged"
	// Orphaned: keyturn minted it or had it, and nothing looks after it any more.
	Orphaned Custody = "orphaned"
)

// Mark is what else should be known of a key.
type Mark string

// The marks.
const (
	// MarkDisabled: it is disabled, and lives on: whoever may can enable it again.
	MarkDisabled Mark = "disabled-alive"
	// MarkOverAge: it is older than its credential's cryptoperiod, or than keys that nobody declared may be.
	MarkOverAge Mark = "over-age"
	// MarkNotLooked: its credential's store could not be looked at.
	MarkNotLooked Mark = "not-looked"
)

// SeenKey is one key of an issuer account, as the issuer tells.
type SeenKey struct {
	Account string `json:"account"`
	Type    string `json:"type"`
	key.Info
	// Environments are those whose bounds allow the principal.
	Environments []string `json:"environments,omitempty"`
}

// Declared is a credential of an inventory, with what its own store says of its keys.
type Declared struct {
	Inventory  string `json:"inventory"`
	Credential string `json:"credential"`
	// Account is that of its issuer.
	Account     string             `json:"account"`
	Principals  []string           `json:"principals"`
	RotateEvery inventory.Duration `json:"rotateEvery,omitzero"`
	// Standings of its live keys, by key ID; nil when the store was not looked at.
	Standings map[string]Standing `json:"standings,omitempty"`
	// KnowsCurrent: one of them is the key in use.
	KnowsCurrent bool `json:"knowsCurrent,omitempty"`
	// Running: a rotation of it runs now.
	Running bool `json:"running,omitempty"`
	// Run is the latest one, for those who look on in the same process.
	Run Run `json:"-"`
	// Problem is why the store could not be looked at.
	Problem string `json:"problem,omitempty"`
}

// ScannedKey is a key with what a scan thinks of it.
type ScannedKey struct {
	SeenKey
	Custody    Custody  `json:"custody"`
	Inventory  string   `json:"inventory,omitempty"`
	Credential string   `json:"credential,omitempty"`
	Standing   Standing `json:"standing,omitempty"`
	Marks      []Mark   `json:"marks,omitempty"`
	// Advice is what to do; empty when nothing needs to be done.
	Advice string `json:"advice,omitempty"`
}

// Declarations are credentials by the principals that they declare.
type Declarations map[[2]string]*Declared

// Declare indexes credentials. Of two that declare one principal the first counts.
func Declare(list []Declared) Declarations {
	index := Declarations{}
	for _, d := range list {
		for _, p := range d.Principals {
			if at := [2]string{d.Account, p}; index[at] == nil {
				index[at] = &d
			}
		}
	}
	return index
}

// Judge says who looks after a key. maxAge is how old a key may be that nobody declared.
func (d Declarations) Judge(k SeenKey, maxAge time.Duration, now time.Time) ScannedKey {
	s := ScannedKey{SeenKey: k}
	owner := d[[2]string{k.Account, k.Principal}]
	s.Custody, s.Standing, s.Advice = custody(k, owner)
	if owner != nil {
		s.Inventory, s.Credential = owner.Inventory, owner.Credential
		if owner.RotateEvery > 0 {
			maxAge = owner.RotateEvery.Std()
		}
		if owner.Problem != "" {
			s.Marks = append(s.Marks, MarkNotLooked)
		}
	}
	if k.State == key.Disabled {
		s.Marks = append(s.Marks, MarkDisabled)
		s.advise("it is disabled and can be enabled again: when nobody missed it, destroy it at the issuer")
	}
	if age := now.Sub(k.CreatedAt); !k.CreatedAt.IsZero() && age > maxAge {
		s.Marks = append(s.Marks, MarkOverAge)
		if s.Custody == Managed && k.State == key.Active && owner != nil && !owner.Running {
			s.advise(fmt.Sprintf("it is older than %s: rotate %s", inventory.Duration(maxAge), owner.Credential))
		}
	}
	return s
}

// advise gives advice where there is none yet.
func (s *ScannedKey) advise(text string) {
	if s.Advice == "" {
		s.Advice = text
	}
}

func custody(k SeenKey, owner *Declared) (c Custody, standing Standing, advice string) {
	switch {
	case owner == nil && k.Token != "":
		return Orphaned, "", "keyturn minted it, and no inventory has its principal any more. Consumers may still use it: declare the credential again, or destroy the key at the issuer once its last use is long past"
	case owner == nil && k.State == key.Disabled:
		return Unmanaged, "", "" // nobody uses it: what a disabled key is told of holds
	case owner == nil:
		return Unmanaged, "", "declare it (inventory scan --emit writes a beginning), or destroy it at the issuer if nobody uses it"
	case owner.Standings == nil:
		if owner.Problem != "" {
			return Managed, "", "whether it is " + owner.Credential + "'s could not be seen: " + owner.Problem
		}
		return Managed, "", ""
	}
	standing = owner.Standings[k.KeyID]
	switch {
	case standing == StandingCurrent, owner.Running && slices.Contains([]Standing{StandingIncoming, StandingRetired, StandingOrphan}, standing):
		return Managed, standing, ""
	case owner.Running && standing == "":
		return Managed, "", "" // minted since the store was looked at
	case standing == StandingRetired && !owner.KnowsCurrent:
		return Managed, standing, "which key of " + owner.Credential + " is in use is not known: put its value into the store, or name it alone under adopt"
	case standing == StandingRetired:
		return Orphaned, standing, "it was retired and is still alive: take it up again with: keyturn sweep --now"
	case standing == StandingIncoming, standing == StandingOrphan:
		return Orphaned, standing, "it is left of a rotation that did not end: the next rotation of " + owner.Credential + " destroys it"
	case standing == StandingUnproved:
		return Unmanaged, standing, "it may be of a mint that was interrupted, and it is not proved whose it is; while it is active no rotation begins: see keyturn plan " + owner.Credential
	}
	return Unmanaged, StandingUnknown, fmt.Sprintf("it is not of %s, whose principal it is: name it under adopt there, or destroy it at the issuer if nobody uses it; while it is active no rotation begins", owner.Credential)
}

// MarkText is a key's custody and marks in one cell.
func (s ScannedKey) MarkText() string {
	var parts []string
	for _, m := range s.Marks {
		parts = append(parts, string(m))
	}
	return strings.Join(parts, ", ")
}

// Count counts keys of one kind: by custody and by mark.
type Count map[string]int

// Add counts a key.
func (c Count) Add(s ScannedKey) {
	c[string(s.Custody)]++
	for _, m := range s.Marks {
		c[string(m)]++
	}
}
