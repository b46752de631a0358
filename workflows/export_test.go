package workflows

import (
	"fmt"

	"go.temporal.io/sdk/temporal"

	"github.com/keyturn/keyturn/internal/policy"
)

// MembersWith are the members of an incident of which the same was found.
func MembersWith(members int, found policy.Misuse) []IncidentMember {
	s := IncidentStatus{Credentials: make([]IncidentMember, members)}
	for n := range s.Credentials {
		s.Credentials[n].Credential = fmt.Sprint("payments-", n)
		s.misused(&s.Credentials[n], found)
	}
	return s.Credentials
}

// PrioritiesIn are those of activities in a run of a priority: of what ends a key, of what comes afterwards, and of what lets others go first.
func PrioritiesIn(p int) (ends, afterwards, yields int) {
	of := temporal.Priority{PriorityKey: p}
	return containing.priority(of).PriorityKey, recording.priority(of).PriorityKey, looking.priority(of).PriorityKey
}
