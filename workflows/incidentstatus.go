package workflows

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
)

// The outcomes of an incident, and the states of its credentials.
const (
	// Contained: every exposed key is dead, and all consumers are on another one.
	Contained Outcome = "contained"
	// ContainedWithDebt: every exposed key is dead, and something is still owed.
	ContainedWithDebt Outcome = "contained-with-debt"
	// NotContained: an exposed key may be alive.
	NotContained Outcome = "not-contained"
)

// IncidentStatus is where an incident stands, and its result.
type IncidentStatus struct {
	Incident string `json:"incident"`
	Reason   string `json:"reason,omitempty"`
	// DeclaredBy signed the declaration.
	DeclaredBy string `json:"declaredBy,omitempty"`
	// Drill: no key leaked.
	Drill bool      `json:"drill,omitempty"`
	Since time.Time `json:"since"`
	// Deadline is when exposed keys are destroyed whoever uses them.
	Deadline time.Time `json:"deadline,omitzero"`
	// Outcome is empty while it goes on.
	Outcome Outcome `json:"outcome,omitempty"`
	// Paused: nothing further begins.
	Paused *IncidentPause `json:"paused,omitempty"`
	// Message says first what is not contained.
	Message string `json:"message,omitempty"`
	// ContainedAt is when the last exposed key was seen dead.
	ContainedAt time.Time `json:"containedAt,omitzero"`
	EndedAt     time.Time `json:"endedAt,omitzero"`
	// FrozenUntil is when the freeze of deployments ends by itself; zero when there is none.
	FrozenUntil time.Time        `json:"frozenUntil,omitzero"`
	Credentials []IncidentMember `json:"credentials,omitempty"`
	Timeline    []IncidentMoment `json:"timeline,omitempty"`
}

// IncidentMember is one credential of an incident.
type IncidentMember struct {
	Credential string   `json:"credential"`
	Exposed    []string `json:"exposed"`
	// State is what goes on, and at the end how that ended.
	State string `json:"state"`
	// Unconfirmed: nobody has signed for it yet, or not in time. Suspects are the keys that somebody named who did not sign.
	Unconfirmed bool     `json:"unconfirmed,omitempty"`
	Suspects    []string `json:"suspects,omitempty"`
	// Held: its emergency has not begun, or not again, since the incident pauses.
	Held      bool           `json:"held,omitempty"`
	Outcome   Outcome        `json:"outcome,omitempty"`
	Message   string         `json:"message,omitempty"`
	Contained []ContainedKey `json:"contained,omitempty"`
	// Current is the key that consumers are sent to now.
	Current key.Ref           `json:"current,omitzero"`
	Debt    []activities.Debt `json:"debt,omitempty"`
	// Misuse is what is known of who used the exposed keys, the most alarming alone; that of the emergency has more.
	Misuse *policy.Misuse `json:"misuse,omitempty"`
}

// IncidentMoment is one line of an incident's timeline.
type IncidentMoment struct {
	At   time.Time `json:"at"`
	What string    `json:"what"`
}

// Dead counts the exposed keys that are dead, and all that are exposed.
func (s IncidentStatus) Dead() (dead, exposed int) {
	for _, m := range s.Credentials {
		exposed += len(m.Exposed)
		dead += len(m.Exposed) - len(m.alive(m.Contained))
	}
	return dead, exposed
}

// Progress says how many exposed keys are dead at a time, and when all will be if it goes on like that; empty when it has ended, or nobody
// has signed for it.
func (s IncidentStatus) Progress(now time.Time) string {
	dead, exposed := s.Dead()
	if s.Outcome != "" || exposed == 0 {
		return ""
	}
	line := fmt.Sprintf("%d of %d exposed keys are dead", dead, exposed)
	if elapsed := now.Sub(s.Since); s.Paused == nil && dead > 0 && dead < exposed && elapsed > 0 {
		all := s.Since.Add(time.Duration(float64(elapsed) * float64(exposed) / float64(dead)))
		line += ", at this rate all by " + all.UTC().Format(time.TimeOnly)
	}
	return line
}

// alive are the exposed keys that are not among those that somebody saw dead.
func (m IncidentMember) alive(dead []ContainedKey) []string {
	return slices.DeleteFunc(slices.Clone(m.Exposed), func(id string) bool {
		return slices.ContainsFunc(dead, func(k ContainedKey) bool { return k.KeyID == id && !k.Absent })
	})
}

// DebtLines say what each credential still owes, and since when.
func (s IncidentStatus) DebtLines() (lines []string) {
	for _, m := range s.Credentials {
		for _, d := range m.Debt {
			lines = append(lines, fmt.Sprintf("%s: %s %s, since %s", m.Credential, d.Kind, d.About, d.Since.UTC().Format(time.RFC3339)))
		}
	}
	return lines
}

// mostRows bounds the credentials on a page of the Web UI: those with a key that may be alive come first.
const mostRows = 100

// Markdown is the incident as the Web UI shows it.
func (s IncidentStatus) Markdown() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	if s.Message != "" {
		line("**%s**", text(s.Message))
		line("")
	}
	if paused := s.PauseLine(); paused != "" {
		line("**%s**", text(paused))
		line("")
	}
	line("### %s%s: %s", map[bool]string{true: "DRILL "}[s.Drill], text(s.Incident), text(s.Reason))
	line("")
	line("- **Declared by:** %s", text(cmp.Or(s.DeclaredBy, "nobody who may")))
	line("- **Begun:** %s", s.Since.UTC().Format(time.RFC3339))
	if !s.Deadline.IsZero() {
		line("- **Deadline:** %s; then exposed keys end whoever uses them", s.Deadline.UTC().Format(time.RFC3339))
	}
	if n := len(s.Timeline); n > 0 && s.Outcome == "" {
		if progress := s.Progress(s.Timeline[n-1].At); progress != "" {
			line("- **Progress:** %s", progress)
		}
	}
	if !s.FrozenUntil.IsZero() {
		line("- **Deployments are frozen** until %s, or the end; override with %s", s.FrozenUntil.UTC().Format(time.RFC3339), code("keyturn incident unfreeze "+s.Incident))
	}
	if len(s.Credentials) > 0 {
		line("\n| credential | exposed | state | dead since | current |\n|---|---|---|---|---|")
		rows := slices.Clone(s.Credentials)
		slices.SortStableFunc(rows, func(a, b IncidentMember) int { return len(b.alive(b.Contained)) - len(a.alive(a.Contained)) })
		for n, m := range rows {
			if n == mostRows {
				line("| and %d more, see %s | | | | |", len(rows)-n, code("keyturn incident show "+s.Incident))
				break
			}
			var dead []string
			for _, k := range m.Contained {
				dead = append(dead, fmt.Sprintf("%s %s", k.KeyID, k.At.UTC().Format(time.TimeOnly)))
			}
			line("| %s | %s | %s | %s | %s |", text(m.Credential), text(strings.Join(m.Exposed, ", ")), text(m.State), text(strings.Join(dead, ", ")), text(m.Current.KeyID))
		}
	}
	if lines := s.DebtLines(); len(lines) > 0 {
		line("\n#### Still owed; %s says what to do about each\n", code("keyturn sweep"))
		for _, l := range lines[:min(len(lines), mostRows)] {
			line("- %s", text(l))
		}
		if more := len(lines) - mostRows; more > 0 {
			line("- and %d more, see %s", more, code("keyturn incident show "+s.Incident))
		}
	}
	if lines := s.MisuseLines(); len(lines) > 0 {
		line("\n#### Who used the exposed keys, unusual uses first\n")
		for _, l := range lines {
			line("- %s", text(l))
		}
	}
	line("")
	for _, m := range s.Timeline {
		line("1. %s %s", m.At.UTC().Format(time.TimeOnly), text(m.What))
	}
	return b.String()
}
