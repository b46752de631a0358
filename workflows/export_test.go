package workflows

import (
	"fmt"

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
