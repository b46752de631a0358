package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
)

// UseKind is how a use of an exposed key is judged.
type UseKind string

// The kinds, the most alarming first.
const (
	// UsedDead: the key was accepted after it was seen dead.
	UsedDead UseKind = "accepted after its end"
	// TriedDead: somebody tried it after it was seen dead.
	TriedDead UseKind = "tried after its end"
	// UsedByStranger: from where nobody used the key before the time of exposure, and no instance of a consumer is.
	UsedByStranger UseKind = "never seen before"
	// UsedOtherwise: from where the key was used before, for what it never was.
	UsedOtherwise UseKind = "for something new"
	// UsedByAnybody: nobody said when the key was exposed, so that nothing tells who is a stranger.
	UsedByAnybody UseKind = "not known whose"
	// TriedByConsumer: an instance that has no other key yet, or who used it before, tried it after its end.
	TriedByConsumer UseKind = "tried after its end by who used it before"
	// UsedAsExpected: by an instance of a consumer, or as before the time of exposure.
	UsedAsExpected UseKind = "expected"
)

var useKinds = []UseKind{UsedDead, TriedDead, UsedByStranger, UsedOtherwise, UsedByAnybody, TriedByConsumer, UsedAsExpected}

// Unusual tells whether somebody should look at it.
func (k UseKind) Unusual() bool {
	return k == UsedDead || k == TriedDead || k == UsedByStranger || k == UsedOtherwise
}

// JudgedUse is one group of uses.
type JudgedUse struct {
	key.Use
	Kind UseKind `json:"kind"`
}

// String is the use in one line, for people.
func (u JudgedUse) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s", u.Kind, u.KeyID)
	part := func(word, text string) {
		if text != "" {
			b.WriteString(" " + word + text)
		}
	}
	part("from ", cmp.Or(u.Source, "nowhere that is known"))
	part("as ", u.Principal)
	part("in ", u.Region)
	part("", u.Action)
	if u.Error != "" {
		b.WriteString(" (" + u.Error + ")")
	}
	fmt.Fprintf(&b, ", %s, %s", Counted(u.Count, "time"), u.First.UTC().Format(time.RFC3339))
	if !u.Last.Equal(u.First) {
		b.WriteString(" to " + u.Last.UTC().Format(time.RFC3339))
	}
	return b.String()
}

// Misuse is what is known of who used the exposed keys of a credential.
type Misuse struct {
	// From is since when it was asked for, Since when the keys may have been exposed: zero when nobody said.
	From  time.Time `json:"from"`
	Since time.Time `json:"since,omitzero"`
	// Uses are the most alarming first, at most MostUses. Unusual counts all groups that somebody should look at, and Omitted the uses that
	// are in no group here.
	Uses    []JudgedUse `json:"uses,omitempty"`
	Unusual int         `json:"unusual,omitempty"`
	Omitted int         `json:"omitted,omitempty"`
	// Tellers are who was asked and has answered, Unseen what they could not tell.
	Tellers []string `json:"tellers,omitempty"`
	Unseen  []string `json:"unseen,omitempty"`
	// Outlives says what works without the exposed keys, Deny is the policy that ends it.
	Outlives string `json:"outlives,omitempty"`
	Deny     string `json:"deny,omitempty"`
}

// Bounds of a Misuse, which goes into histories, once for each credential of an incident.
const (
	MostUses   = 20
	mostUnseen = 20
)

// Told is what is judged of uses.
type Told struct {
	From, Since time.Time
	// Dead says when each exposed key was seen dead; of one that was not there is nothing.
	Dead map[string]time.Time
	// Uses are what each source told, Unseen what else is not known.
	Uses   []key.Uses
	Unseen []string
}

// ReviewUses compares the uses of exposed keys with what is expected: the instances of the credential's consumers, and what was done
// before the time of exposure.
func ReviewUses(c inventory.Credential, told Told) Misuse {
	m := Misuse{From: told.From, Since: told.Since}
	usual := expected(c, told)
	var all []JudgedUse
	for _, t := range told.Uses {
		m.Tellers = append(m.Tellers, t.Teller)
		m.Unseen = append(m.Unseen, t.Unseen...)
		m.Omitted += t.Omitted
		m.Outlives, m.Deny = cmp.Or(m.Outlives, t.Outlives), cmp.Or(m.Deny, t.Deny)
		for _, u := range t.List {
			all = append(all, JudgedUse{u, usual.kind(u, told)})
		}
	}
	if !told.Since.IsZero() && len(usual.before) == 0 {
		m.Unseen = append(m.Unseen, "No use is known from before "+told.Since.UTC().Format(time.RFC3339)+": what is usual is not known either.")
	}
	m.Unseen = append(m.Unseen, told.Unseen...)
	slices.SortStableFunc(all, func(a, b JudgedUse) int {
		return cmp.Or(slices.Index(useKinds, a.Kind)-slices.Index(useKinds, b.Kind), b.Last.Compare(a.Last))
	})
	for n, u := range all {
		if u.Kind.Unusual() {
			m.Unusual++
		}
		if n >= MostUses {
			m.Omitted += u.Count
		}
	}
	m.Uses = all[:min(len(all), MostUses)]
	slices.Sort(m.Tellers)
	m.Tellers, m.Unseen = slices.Compact(m.Tellers), unique(m.Unseen)
	m.Unseen = m.Unseen[:min(len(m.Unseen), mostUnseen)]
	return m
}

func unique(list []string) (once []string) {
	for _, one := range list {
		if !slices.Contains(once, one) {
			once = append(once, one)
		}
	}
	return once
}

// usual is who may use a key, for what.
type usual struct {
	instances []string
	// before are the sources from before the time of exposure, with what they did.
	before map[string][]string
}

func expected(c inventory.Credential, told Told) usual {
	u := usual{before: map[string][]string{}}
	for _, consumer := range c.Consumers {
		u.instances = append(u.instances, consumer.Name)
		for _, name := range consumer.InstanceNames() {
			u.instances = append(u.instances, name, InstanceName(consumer.Name, name))
		}
	}
	for _, t := range told.Uses {
		for _, one := range t.List { // one that was refused makes nobody familiar
			if one.First.Before(told.Since) && one.Error == "" && one.Source != "" {
				u.before[one.Source] = append(u.before[one.Source], one.Action)
			}
		}
	}
	return u
}

// clocksDiffer is by how much the clocks of issuers and logs may be ahead of Temporal's.
const clocksDiffer = time.Minute

func (u usual) kind(one key.Use, told Told) UseKind {
	dead, ended := told.Dead[one.KeyID]
	ended = ended && one.Last.After(dead.Add(clocksDiffer))
	actions, known := u.before[one.Source]
	ours := slices.Contains(u.instances, one.Source)
	switch {
	case ended && one.Error == "":
		return UsedDead
	case ended && (ours || known):
		return TriedByConsumer
	case ended:
		return TriedDead
	case ours, one.Last.Before(told.Since):
		return UsedAsExpected
	case told.Since.IsZero():
		return UsedByAnybody
	case !known:
		return UsedByStranger
	case !slices.Contains(actions, one.Action):
		return UsedOtherwise
	}
	return UsedAsExpected
}
