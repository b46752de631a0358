package workflows

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/outside"
)

// Past the deadline it is said how often that an exposed key may be alive. The first time is late enough for what the deadline sets off
// to end.
const (
	lateAfter = time.Minute
	lateAgain = time.Hour
)

// watchDeadline says that the deadline has passed, as long as an exposed key may be alive, and when all are dead.
func (i *incidentRun) watchDeadline(ctx workflow.Context) {
	for {
		if i.Contained {
			_ = workflow.Await(ctx, func() bool { return i.over || !i.contained() }) // the end may know better
			i.Contained = false
		}
		intime, _ := awaitAtMost(ctx, i.LateAt.Sub(workflow.Now(ctx)), "all exposed keys to be dead, then an alarm", func() bool { return i.over || i.contained() })
		switch {
		case i.over:
			return
		case intime:
			i.Contained, i.Status.Message = true, ""
			i.note("contained: every exposed key is dead")
			i.tell(ctx, activities.NewsContained)
			continue
		}
		var alive []string
		for _, m := range i.Status.Credentials {
			if left := m.alive(m.Contained); len(left) > 0 {
				alive = append(alive, fmt.Sprintf("%s (%s): %s", m.Credential, strings.Join(left, ", "), m.State))
			}
		}
		i.Status.Message = outside.Lines("NOT CONTAINED YET, and the deadline has passed: "+strings.Join(alive, "; "), 4*outside.MaxText)
		i.note("%s", i.Status.Message)
		i.tell(ctx, activities.NewsLate)
		i.LateAt = workflow.Now(ctx).Add(lateAgain)
	}
}

// What an incident keeps of the end of an emergency: what is owed, and who used the keys, in bytes.
const (
	maxOwed   = 100
	maxMisuse = 64 << 10
)

// kept is of an end that was told what an incident has a use for, and room for: whoever writes to the namespace may tell it, at any length.
func (i *incidentRun) kept(credential string, r Report) Report {
	few := Report{
		Incident: outside.Text(r.Incident, maxMember), Outcome: Outcome(outside.Text(string(r.Outcome), maxMember)), Unconfirmed: r.Unconfirmed,
		Message: outside.Lines(r.Message, maxMember), Incoming: named(r.Incoming), Misuse: r.Misuse,
	}
	for _, k := range r.Contained {
		if m := i.member(credential); m != nil && slices.Contains(m.Exposed, k.KeyID) && len(few.Contained) < len(m.Exposed) {
			k.Probe = outside.Lines(k.Probe, maxMember)
			few.Contained = append(few.Contained, k)
		}
	}
	for _, d := range r.Debt[:min(len(r.Debt), maxOwed)] {
		d.Kind, d.About = outside.Text(d.Kind, maxMember), outside.Text(d.About, maxMember)
		few.Debt = append(few.Debt, d)
	}
	if more := len(r.Debt) - maxOwed; more > 0 {
		i.note("%s: %d more are owed than are kept here", credential, more)
	}
	if text, err := json.Marshal(r.Misuse); err != nil || len(text) > maxMisuse {
		few.Misuse = nil
		i.note("%s: what was told of who used its keys is longer than keyturn tells it, and was left out", credential)
	}
	return few
}

// named is a key as an incident shows it.
func named(k key.Ref) key.Ref {
	return key.Ref{
		Principal: outside.Text(k.Principal, maxMember), KeyID: outside.Text(k.KeyID, maxMember),
		StoreVersion: outside.Text(k.StoreVersion, maxMember), Fingerprint: outside.Text(k.Fingerprint, maxMember),
	}
}

// tell has all notifiers told how the incident stands; nothing waits for that but its end.
func (i *incidentRun) tell(ctx workflow.Context, news activities.News) {
	input := activities.NewsInput{News: news, At: workflow.Now(ctx).UTC(), Deadline: i.Status.Deadline, Alive: map[string][]string{}, Held: i.paused()}
	if len(i.Declarations) > 0 {
		input.Declaration, input.More = i.Declarations[0], i.Declarations[1:]
	}
	for _, m := range i.Status.Credentials {
		if left := m.alive(m.Contained); len(left) > 0 {
			input.Alive[m.Credential] = left
		} else if m.Outcome != Completed {
			input.Owed = append(input.Owed, m.Credential)
		}
		if m.Unconfirmed {
			input.Unconfirmed = append(input.Unconfirmed, m.Credential)
		}
	}
	i.telling++
	workflow.Go(ctx, func(ctx workflow.Context) {
		defer func() { i.telling-- }()
		if i.tells.Lock(ctx) != nil {
			return
		}
		defer i.tells.Unlock()
		if err := announcing.start(ctx, EmergencyQueue, act.TellOfIncident, input).Get(ctx, nil); err != nil {
			i.note("not everybody was told that it is %s: %s", news, cause(err))
		}
	})
}
