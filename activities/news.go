package activities

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/keyturn/keyturn/internal/incident"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/outside"
	"github.com/keyturn/keyturn/internal/signed"
	"github.com/keyturn/keyturn/providers"
)

// News is what there is to tell of an incident.
type News string

// What is told of each incident, if it comes to that.
const (
	// NewsUnconfirmed: credentials wait until somebody signs for them.
	NewsUnconfirmed News = "unconfirmed"
	// NewsUnsigned: nobody ever signed for it, and it has ended.
	NewsUnsigned News = "unsigned"
	// NewsBegun: it is declared, and its emergencies begin.
	NewsBegun News = "begun"
	// NewsLate: its deadline has passed, and an exposed key may be alive.
	NewsLate News = "late"
	// NewsContained: every exposed key is dead, and consumers may still be on their way to another one.
	NewsContained News = "contained"
	// NewsPaused: somebody wants it to begin nothing further, and credentials wait for the end of that; NewsResumed: it goes on.
	NewsPaused  News = "paused"
	NewsResumed News = "resumed"
	// NewsEnded: its emergencies have ended.
	NewsEnded News = "ended"
)

// NewsInput is what there is to tell of an incident.
type NewsInput struct {
	Emergency
	// More are its other declarations.
	More []signed.Envelope `json:"more,omitempty"`
	News News              `json:"news"`
	At   time.Time         `json:"at"`
	// Deadline is when exposed keys are destroyed whoever uses them.
	Deadline time.Time `json:"deadline,omitzero"`
	// Alive are the exposed keys that were not seen dead, by credential; Owed the credentials of which something is owed.
	Alive map[string][]string `json:"alive,omitempty"`
	Owed  []string            `json:"owed,omitempty"`
	// Unconfirmed are the credentials that wait until somebody signs for them.
	Unconfirmed []string `json:"unconfirmed,omitempty"`
	// Held are those whose emergency does not begin while the incident pauses.
	Held []string `json:"held,omitempty"`
}

// TellOfIncident tells all notifiers of an incident, by a declaration that is signed and whose incident may go on, or that there is none.
// The words are keyturn's and the declaration's: whoever writes to the namespace can have none of their own sent. One that fails does not
// keep the others from hearing; it is tried again, with the same ID. ErrDeclaration.
func (a *Activities) TellOfIncident(ctx context.Context, in NewsInput) error {
	id := activity.GetInfo(ctx).WorkflowExecution.ID
	subject, body, err := in.unsigned(id)
	if in.News != NewsUnconfirmed && in.News != NewsUnsigned {
		d, by, lasts, proved := a.declaredIn(append([]signed.Envelope{in.Declaration}, in.More...))
		switch {
		case proved != nil:
			return forTemporal(proved)
		case lasts: // else what the declaration says is not told again, and keyturn's own words are
			subject, body = in.text(d, by)
			id, err = d.Incident, nil
		}
		if d.Drill {
			subject = "DRILL: " + subject
		}
	}
	if err != nil {
		return forTemporal(err)
	}
	return forTemporal(a.send(ctx, providers.Notification{
		ID: id + "/" + string(in.News) + "/" + in.At.UTC().Format(time.RFC3339), Type: "dev.keyturn.incident." + string(in.News), Severity: providers.Alert,
		Subject: subject, Body: outside.Lines(body, maxBody), At: in.At,
	}, nil))
}

// declaredIn is what several declarations of an incident say together, and whether all may be followed still.
func (a *Activities) declaredIn(declarations []signed.Envelope) (all incident.Declaration, by string, lasts bool, err error) {
	lasts = true
	for n, e := range declarations {
		d, who, err := a.declaration(Emergency{Declaration: e})
		if err != nil {
			return all, "", false, err
		}
		if n > 0 && d.Incident != all.Incident {
			return all, "", false, fmt.Errorf("%w: it is of %s, and another one of %s", ErrDeclaration, d.Incident, all.Incident)
		}
		lasts = lasts && d.Lasts(a.Now()) == nil
		if n == 0 {
			all, by = d, who
			continue
		}
		maps.Copy(all.Exposed, d.Exposed)
	}
	return all, by, lasts, nil
}

// unsigned is what people read of an incident for which nobody has signed, or whose declaration is too old to be told: names of credentials
// have a form, and are no words. ErrDeclaration out of an incident.
func (in NewsInput) unsigned(id string) (subject, body string, err error) {
	if !incident.IsID(id) {
		return "", "", fmt.Errorf("telling of an incident: %w: not in one", ErrDeclaration)
	}
	form := func(names []string) string {
		return some(slices.DeleteFunc(names, func(name string) bool { return !inventory.IsName(name) }))
	}
	waits, alive := form(slices.Clone(in.Unconfirmed)), form(slices.Sorted(maps.Keys(in.Alive)))
	switch {
	case in.News == NewsUnconfirmed:
		return "An incident waits for a signature: nothing is destroyed before",
			fmt.Sprintf("NOT CONTAINED: somebody says that a key is exposed of %s, and nobody whom trust.incidents names has signed for it. Is it so, sign: keyturn incident confirm %s --sign KEY", waits, id), nil
	case in.News == NewsUnsigned:
		return "NOT CONTAINED: nobody signed for an incident, and it has ended",
			fmt.Sprintf("NOT CONTAINED: somebody said that a key is exposed of %s, and nobody whom trust.incidents names signed for it in time. Is it so, begin another one: keyturn emergency ... --sign KEY", waits), nil
	case in.News == NewsPaused:
		return "NOT CONTAINED: an incident is paused",
			fmt.Sprintf("NOT CONTAINED: somebody paused it, and nothing begins for %s until it goes on: keyturn incident resume %s", form(slices.Clone(in.Held)), id), nil
	case in.News == NewsResumed:
		return "An incident goes on after a pause", "See how it stands with: keyturn incident show " + id, nil
	case len(in.Alive) > 0:
		return "NOT CONTAINED: an incident is older than its declaration", fmt.Sprintf("NOT CONTAINED: a key of %s may be alive. See why with: keyturn incident show %s", alive, id), nil
	}
	return "An incident is older than its declaration: every exposed key is dead", "See how it stands with: keyturn incident show " + id, nil
}

// text is what people read: what is not contained first.
func (in NewsInput) text(d incident.Declaration, by string) (subject, body string) {
	var alive, owed, held []string
	for _, name := range slices.Sorted(maps.Keys(d.Exposed)) {
		keys := slices.DeleteFunc(slices.Clone(d.Keys(name)), func(id string) bool { return !slices.Contains(in.Alive[name], id) })
		if len(keys) > 0 {
			alive = append(alive, fmt.Sprintf("%s (%s)", name, strings.Join(keys, ", ")))
		}
		if slices.Contains(in.Owed, name) {
			owed = append(owed, name)
		}
		if slices.Contains(in.Held, name) {
			held = append(held, name)
		}
	}
	follow := "Follow it with: keyturn incident show " + d.Incident
	because := fmt.Sprintf("%s, declared by %s: %s.", d.Incident, by, strings.TrimSuffix(d.Reason, "."))
	switch {
	case in.News == NewsBegun:
		return "Incident: keys are exposed",
			fmt.Sprintf("%s Exposed: %s. Each is destroyed as soon as its consumers are on another key, and %s whoever still uses it. %s", because, some(alive), in.Deadline.UTC().Format(time.RFC3339), follow)
	case in.News == NewsLate:
		return "NOT CONTAINED: an incident's deadline has passed", fmt.Sprintf("NOT CONTAINED YET: %s. The deadline was %s. %s %s", some(alive), in.Deadline.UTC().Format(time.RFC3339), because, follow)
	case in.News == NewsContained:
		return "Incident contained: every exposed key is dead", fmt.Sprintf("%s Consumers may still be on their way to another key. %s", because, follow)
	case in.News == NewsPaused:
		return "NOT CONTAINED: an incident is paused",
			fmt.Sprintf("NOT CONTAINED: somebody paused it, and nothing begins for %s, not at the deadline either, until it goes on: keyturn incident resume %s. %s", some(held), d.Incident, because)
	case in.News == NewsResumed:
		return "An incident goes on after a pause", because + " " + follow
	case len(alive) > 0:
		return "NOT CONTAINED: an incident has ended, and an exposed key may be alive", fmt.Sprintf("NOT CONTAINED: %s. %s See why with: keyturn incident show %s", some(alive), because, d.Incident)
	case len(owed) > 0:
		return "Incident ended: every exposed key is dead, and something is owed", fmt.Sprintf("Owed: %s. %s See what with: keyturn incident show %s", some(owed), because, d.Incident)
	}
	return "Incident ended: every exposed key is dead, and all consumers are on another one", because
}

// mostNamed bounds what one message lists: an incident may be of hundreds.
const mostNamed = 20

func some(names []string) string {
	if len(names) <= mostNamed {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:mostNamed], ", "), len(names)-mostNamed)
}
