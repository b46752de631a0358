package key

import "time"

// Label is a staging label of a store.
type Label string

// The labels. A version bears any number of them, a label is on at most one version.
const (
	Current  Label = "CURRENT"
	Pending  Label = "PENDING"
	Previous Label = "PREVIOUS"
)

// Version is one version of a stored secret.
type Version struct {
	ID     string  `json:"id"`
	Labels []Label `json:"labels,omitempty"`
	// Token is the one that Stage was called with, where the store remembers it; often it is the ID. Its case
	// does not count.
	Token     string    `json:"token,omitempty"`
	CreatedAt time.Time `json:"createdAt"`
	// LabelledAt is when the version last got a label, zero where the store does not tell.
	LabelledAt time.Time `json:"labelledAt,omitzero"`
}

// Has tells whether the version bears the label.
func (v Version) Has(l Label) bool {
	for _, have := range v.Labels {
		if have == l {
			return true
		}
	}
	return false
}
