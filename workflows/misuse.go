package workflows

import (
	"fmt"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/outside"
	"github.com/keyturn/keyturn/internal/policy"
)

// beginMisuseReview has it asked who used the exposed keys, once they are dead, or are not: nothing waits for that but the emergency's end.
func (r *rotation) beginMisuseReview() workflow.Future {
	input := activities.MisuseInput{Rotation: *r.acting(), ExposedSince: r.in.Emergency.ExposedSince, Dead: map[string]time.Time{}}
	input.Events = nil // it writes none of them
	for _, k := range r.Report.Contained {
		if !k.Absent {
			input.Dead[k.KeyID] = k.At
		}
	}
	return reviewingMisuse.start(r.ctx, r.Queue, act.ReviewMisuse, input)
}

// endMisuseReview takes what was found into the report. That nobody found anything out is noted, and fails nothing.
func (r *rotation) endMisuseReview(review workflow.Future) {
	var m policy.Misuse
	if err := review.Get(r.ctx, &m); err != nil {
		r.note("who used the exposed keys is not known: %s", cause(err))
		return
	}
	r.Report.Misuse = &m
	switch {
	case m.Unusual > 0:
		r.note("somebody used the exposed keys as nobody should: %d unusual uses, the first of them %s", m.Unusual, m.Uses[0])
	case len(m.Uses) > 0:
		r.note("nothing unusual is known of who used the exposed keys")
	default:
		r.note("no use of the exposed keys is known")
	}
}

// Bounds of what an incident has of reviews: it may be of hundreds of credentials, and its status is one value.
const (
	mostMemberUses   = 5
	mostIncidentUses = 200
	mostMemberUnseen = 10
	mostUnseenText   = 300
	// mostInFull is how many members have more than uses and numbers.
	mostInFull = 40
)

// misused takes over the most alarming of what an emergency found.
func (i *incidentRun) misused(m *IncidentMember, found *policy.Misuse) {
	if found == nil {
		return
	}
	i.Status.misused(m, *found)
	if found.Unusual > 0 {
		i.note("%s: somebody used the exposed keys as nobody should: %d unusual uses", m.Credential, found.Unusual)
	}
}

// misused gives a member what there is room for.
func (s *IncidentStatus) misused(m *IncidentMember, found policy.Misuse) {
	before, members, denied := 0, 0, false
	for _, other := range s.Credentials {
		if other.Credential != m.Credential && other.Misuse != nil {
			before += len(other.Misuse.Uses)
			members++
			denied = denied || other.Misuse.Deny != ""
		}
	}
	kept := found
	left := min(mostMemberUses, max(0, mostIncidentUses-before))
	if len(kept.Uses) > left {
		for _, u := range kept.Uses[left:] {
			kept.Omitted += u.Count
		}
		kept.Uses = kept.Uses[:left]
	}
	kept.Unseen = nil
	if members >= mostInFull { // those that come after have the same to say
		kept.Tellers = nil
		if denied {
			kept.Outlives, kept.Deny = "", ""
		}
	} else {
		for _, what := range found.Unseen[:min(len(found.Unseen), mostMemberUnseen)] {
			kept.Unseen = append(kept.Unseen, outside.Text(what, mostUnseenText))
		}
	}
	m.Misuse = &kept
}

// MisuseLines say who used the exposed keys, unusual uses first, what is not known of that, and what outlives the keys. What is the
// same for several credentials is said once.
func (s IncidentStatus) MisuseLines() (lines []string) {
	said := map[string]bool{}
	once := func(line string) {
		if line != "" && !said[line] {
			said[line] = true
			lines = append(lines, line)
		}
	}
	for _, unusual := range []bool{true, false} {
		for _, m := range s.Credentials {
			if m.Misuse == nil {
				continue
			}
			for _, u := range m.Misuse.Uses {
				if u.Kind.Unusual() == unusual {
					once(m.Credential + ": " + u.String())
				}
			}
		}
	}
	for _, m := range s.Credentials {
		switch {
		case m.Misuse == nil:
		case m.Misuse.Omitted > 0:
			once(fmt.Sprintf("%s: and %s more, of which its own report, or its sources, have the rest", m.Credential, policy.Counted(m.Misuse.Omitted, "use")))
		case len(m.Misuse.Uses) == 0:
			once(m.Credential + ": no use is known")
		}
	}
	for _, m := range s.Credentials {
		if m.Misuse == nil {
			continue
		}
		for _, what := range m.Misuse.Unseen {
			once("Not known: " + what)
		}
		once(m.Misuse.Outlives)
		if m.Misuse.Deny != "" && !said["deny"] {
			said["deny"] = true
			once(m.Misuse.Deny)
		}
	}
	return lines
}
