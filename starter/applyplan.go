package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/schedule"
)

// What apply does with one credential.
const (
	actCreate = "create"
	actChange = "change"
	actPause  = "pause"
	actResume = "resume"
	actKeep   = "keep"
	actRemove = "remove"
	actLeave  = "leave"
)

// change is one line of what apply would do.
type change struct {
	Action     string  `json:"action"`
	Inventory  string  `json:"inventory"`
	Credential string  `json:"credential"`
	Fields     []field `json:"fields,omitempty"`
	// Notes are what somebody who applies should know.
	Notes []string `json:"notes,omitempty"`

	spec inventory.Spec
	seen schedule.Entry
}

// field is one difference between two specs.
type field struct {
	Field string `json:"field"`
	From  string `json:"from,omitempty"`
	To    string `json:"to,omitempty"`
}

func (f field) change() string { return cmp.Or(f.From, "none") + " -> " + cmp.Or(f.To, "none") }

// wanted is a credential as a file has it.
type wanted struct {
	file   string
	spec   inventory.Spec
	digest string
	claims []inventory.Claim
}

// signing is with which key specs are signed, and until when they may be used.
type signing struct {
	signer string // the key's fingerprint; empty without --sign
	valid  time.Duration
	// later: nothing is written now, so that whoever only looks needs no key.
	later bool
}

// notAfter is the end of what is signed now; zero for none.
func (s signing) notAfter(now time.Time) time.Time {
	if s.signer == "" || s.valid == 0 {
		return time.Time{}
	}
	return now.Add(s.valid).UTC().Truncate(time.Second)
}

// renews tells whether a signature with this end is made again: past half of its time.
func (s signing) renews(ends, now time.Time) bool {
	if s.valid == 0 {
		return !ends.IsZero()
	}
	return ends.IsZero() || ends.Before(now.Add(s.valid/2))
}

func stamp(at time.Time) string {
	if at.IsZero() {
		return ""
	}
	return at.UTC().Format(time.RFC3339)
}

// lay compares what files want with what there is, and refuses what may not be: all of it at once.
func lay(own []string, want []wanted, there []schedule.Entry, with signing, prune bool, now time.Time) ([]change, []error) {
	var problems []error
	names := map[string]int{} // credentials of the files
	claimed := map[string]string{}
	for i, w := range want {
		name := w.spec.Credential.Name
		if first, twice := names[name]; twice {
			problems = append(problems, fmt.Errorf("%s: credential %q is in %s too: give each its own name", w.file, name, want[first].file))
			continue
		}
		names[name] = i
		for _, c := range w.claims {
			if first, taken := claimed[c.String()]; taken && first != name {
				problems = append(problems, fmt.Errorf("%s: credential %q has the same %s as %q of %s: give each its own", w.file, name, c, first, want[names[first]].file))
			}
			claimed[c.String()] = name
		}
	}
	var plan []change
	seen := map[string]schedule.Entry{}
	for _, e := range there {
		i, declared := names[e.Credential]
		switch {
		case declared && want[i].spec.Inventory == e.Inventory:
			seen[e.Credential] = e
			continue
		case declared:
			problems = append(problems, fmt.Errorf("%s: credential %q belongs to inventory %q: remove it there first, or give it another name", want[i].file, e.Credential, e.Inventory))
		}
		ours := slices.Contains(own, e.Inventory)
		removed := prune && ours && !declared
		for _, c := range e.Claims {
			name, taken := claimed[c.String()]
			if !taken || removed {
				continue
			}
			w := want[names[name]]
			if ours {
				problems = append(problems, fmt.Errorf("%s: credential %q has the %s that credential %q has, which is in the file no more: remove that with --prune", w.file, name, c, e.Credential))
			} else {
				problems = append(problems, fmt.Errorf("%s: credential %q has the %s that credential %q of inventory %q has: two inventories never touch the same key", w.file, name, c, e.Credential, e.Inventory))
			}
		}
		if ours && !declared {
			plan = append(plan, leaving(e, removed))
		}
	}
	for i, w := range want {
		if names[w.spec.Credential.Name] != i {
			continue // there twice, as was said
		}
		e, known := seen[w.spec.Credential.Name]
		c := compare(w, e, known, with, now)
		switch unsigned := c.Action != actCreate && c.Action != actKeep && e.Signer != "" && with.signer == ""; {
		case unsigned && with.later:
			c.Notes = append(c.Notes, fmt.Sprintf("it is signed by %s: whoever applies it signs it again, with --sign KEY", e.Signer))
		case unsigned:
			problems = append(problems, fmt.Errorf("%s: credential %q is signed by %s and changes: sign it again, with --sign KEY", w.file, e.Credential, e.Signer))
		}
		plan = append(plan, c)
	}
	slices.SortStableFunc(plan, func(a, b change) int {
		return cmp.Or(cmp.Compare(a.Inventory, b.Inventory), cmp.Compare(a.Credential, b.Credential))
	})
	return plan, problems
}

func leaving(e schedule.Entry, remove bool) change {
	c := change{Action: actLeave, Inventory: e.Inventory, Credential: e.Credential, seen: e,
		Notes: []string{"it is in the file no more and goes on being rotated; --prune removes it"}}
	if e.Problem != "" {
		c.Notes = []string{e.Problem + "; it is in the file no more, and rotates nothing: --prune removes it"}
	}
	if remove {
		c.Action = actRemove
		c.Notes = []string{"no rotation will begin by itself any more; its keys stay as they are"}
		if e.State.KeyID != "" {
			c.Notes = append(c.Notes, "the store's CURRENT is key "+e.State.KeyID+", which consumers may use: it stays alive until somebody destroys it at the issuer")
		}
	}
	return c
}

// compare finds what becomes of one credential.
func compare(w wanted, e schedule.Entry, known bool, with signing, now time.Time) change {
	c := change{Action: actCreate, Inventory: w.spec.Inventory, Credential: w.spec.Credential.Name, spec: w.spec, seen: e}
	paused := w.spec.Credential.Schedule.Paused
	if !known {
		if paused != "" {
			c.Notes = append(c.Notes, "paused: "+paused)
		}
		return c
	}
	c.Action = actKeep
	content := schedule.Content{Paused: e.Paused, Note: e.Note}
	switch {
	case paused != "" && !e.Paused:
		c.Action = actPause
	case paused == "" && content.PausedByInventory():
		c.Action = actResume
	case w.digest != e.Digest, e.Problem != "":
		c.Action = actChange
	}
	switch {
	case with.signer == "":
	case with.signer != e.Signer:
		c.Fields = append(c.Fields, field{"signer", e.Signer, with.signer})
	case with.renews(e.NotAfter, now):
		c.Fields = append(c.Fields, field{"notAfter", stamp(e.NotAfter), stamp(with.notAfter(now))})
	}
	if c.Action == actKeep && len(c.Fields) > 0 {
		c.Action = actChange
	}
	if e.Paused && !content.PausedByInventory() {
		c.Notes = append(c.Notes, strings.TrimSuffix("it stays paused, as somebody made it: "+e.Note, ": "))
	}
	return c
}

// differences compares what two credentials say, field by field.
func differences(from, to inventory.Credential) ([]field, error) {
	before, err := flat(from)
	if err != nil {
		return nil, err
	}
	after, err := flat(to)
	if err != nil {
		return nil, err
	}
	names := maps.Clone(before)
	maps.Copy(names, after)
	var fields []field
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if before[name] != after[name] {
			fields = append(fields, field{name, before[name], after[name]})
		}
	}
	return fields, nil
}

// flat is a credential as paths with their values.
func flat(c inventory.Credential) (map[string]string, error) {
	text, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	var value any
	if err := json.Unmarshal(text, &value); err != nil {
		return nil, err
	}
	paths := map[string]string{}
	var walk func(path string, v any)
	walk = func(path string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for name, below := range v {
				walk(strings.TrimPrefix(path+"."+name, "."), below)
			}
		case []any:
			for i, below := range v {
				walk(fmt.Sprintf("%s[%d]", path, i), below)
			}
		default:
			paths[path] = fmt.Sprint(v)
		}
	}
	walk("", value)
	return paths, nil
}
