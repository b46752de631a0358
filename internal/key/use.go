package key

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

// Use is what is known of some uses of a key that are alike in all but their time. Its texts are names in a form that whoever tells
// of them has checked; what is not told is empty.
type Use struct {
	KeyID string    `json:"keyID"`
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
	// Count is how often it was seen: at least so often, where a source tells of the last use alone.
	Count int `json:"count"`
	// Action is what was asked for, Principal as whom, Source from where: an address, a service, an instance's name.
	Action    string `json:"action,omitempty"`
	Principal string `json:"principal,omitempty"`
	Source    string `json:"source,omitempty"`
	Region    string `json:"region,omitempty"`
	// Error is why it was refused; empty where it was not, as far as is known.
	Error string `json:"error,omitempty"`
}

// Uses is what one source tells of the uses of a key.
type Uses struct {
	// Teller is who tells, for people.
	Teller string `json:"teller"`
	List   []Use  `json:"list,omitempty"`
	// Omitted counts uses that are in no group of the list, since there were too many.
	Omitted int `json:"omitted,omitempty"`
	// Unseen is what the teller cannot tell, as sentences for people: silence about that is no evidence.
	Unseen []string `json:"unseen,omitempty"`
	// Outlives says what was, or may have been, derived from the key and works without it; Deny is the text of a policy that ends
	// that. Both are empty where nothing outlives a key.
	Outlives string `json:"outlives,omitempty"`
	Deny     string `json:"deny,omitempty"`
}

// Bounds of a Tally.
const (
	// fineGroups is how many groups tell each action apart, and mostGroups how many there are.
	fineGroups = 500
	mostGroups = 1000
)

// OtherActions is the action of uses whose own is not kept, since there were too many different ones.
const OtherActions = "others"

// Tally gathers uses that are alike. It is bounded, whoever uses the key in however many ways: then actions are not told apart any
// more, and at last uses are only counted. The zero Tally is empty.
type Tally struct {
	groups  map[Use]*Use
	omitted int
}

// Add counts a use at a time; those of u do not matter.
func (t *Tally) Add(u Use, at time.Time) {
	u.First, u.Last, u.Count, u.Source = time.Time{}, time.Time{}, 0, Host(u.Source)
	if t.groups == nil {
		t.groups = map[Use]*Use{}
	}
	g := t.groups[u]
	if g == nil && len(t.groups) >= fineGroups {
		u.Action = OtherActions
		g = t.groups[u]
	}
	switch {
	case g == nil && len(t.groups) >= mostGroups:
		t.omitted++
		return
	case g == nil:
		made := u
		made.First, made.Last = at, at
		g = &made
		t.groups[u] = g
	}
	g.Count++
	if at.Before(g.First) {
		g.First = at
	}
	if at.After(g.Last) {
		g.Last = at
	}
}

// Host is a source without the port, which is another one with each connection.
func Host(source string) string {
	if at, err := netip.ParseAddrPort(source); err == nil {
		return at.Addr().String()
	}
	return source
}

// List returns the groups, the latest first, and how many uses are in none.
func (t *Tally) List() (list []Use, omitted int) {
	for _, g := range t.groups {
		list = append(list, *g)
	}
	slices.SortFunc(list, func(a, b Use) int {
		return cmp.Or(b.Last.Compare(a.Last), cmp.Compare(a.Source, b.Source), cmp.Compare(a.Action, b.Action), cmp.Compare(a.Error, b.Error),
			cmp.Compare(a.Region, b.Region), cmp.Compare(a.Principal, b.Principal))
	})
	return list, t.omitted
}
