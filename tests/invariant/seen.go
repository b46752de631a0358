// Package invariant judges rotations from outside: by ledgers of issuer, store, consumers and traffic, and not by
// what keyturn says of itself. The simulation and the black-box tests of faults all end with its Check.
package invariant

import (
	"slices"
	"time"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/workflows"
)

// Kind is what happened.
type Kind string

// The kinds of events. What was refused did not happen, but for a refused request.
const (
	Issued    Kind = "issued"
	Disabled  Kind = "disabled"
	Enabled   Kind = "enabled"
	Destroyed Kind = "destroyed"
	// Staged, Promoted and Pruned are about Version; Promoted moves CURRENT to it, away from From.
	Staged   Kind = "staged"
	Promoted Kind = "promoted"
	Pruned   Kind = "pruned"
	// Delivered: Instance was given Key. Using: it uses that from now on, by delivery or because it read the store.
	Delivered Kind = "delivered"
	Using     Kind = "using"
	// Refused: a request of Instance was refused. Used: the issuer accepted one, of whomever.
	Refused Kind = "refused"
	Used    Kind = "used"
)

// Event is one thing that happened outside keyturn.
type Event struct {
	At   time.Time
	Kind Kind
	// Key is a key ID; of Staged and Promoted it is the key in Version.
	Key           string
	Version, From string
	Instance      string
	// Theirs: somebody else did it than keyturn.
	Theirs bool
}

// Standing is whose a key or a version is.
type Standing string

// The standings.
const (
	Ours     Standing = "ours"
	Adopted  Standing = "adopted"
	Stranger Standing = "stranger"
)

// Key is a key that existed before the rotation.
type Key struct {
	ID       string
	State    key.State
	Standing Standing
}

// Instance is a declared instance of a consumer.
type Instance struct {
	Name string
	// Wave counts from 0, the canary, in the order of the plan: instances that read CURRENT by themselves form waves
	// after those that are delivered to.
	Wave int
	// Holds is the key that it used before.
	Holds string
	// Follows: it reads CURRENT by itself, so that it gets a key when that is promoted.
	Follows bool
	// Batch: a run of it goes on with the key that it began with, whatever is delivered meanwhile.
	Batch bool
}

// Before is the world in which the rotation began.
type Before struct {
	// Slots is how many keys the principal may have; 0 for no limit.
	Slots int
	Keys  []Key
	// Current is the key in CURRENT, or the adopted key: the one that the rotation retires. Empty for a first key.
	Current string
	// Version is the version in CURRENT; empty for none.
	Version   string
	Instances []Instance
}

// Version is a stored version at the end, and the key in it.
type Version struct {
	ID     string
	Labels []key.Label
	Key    string
	// Standing is Stranger for one that somebody else put there; empty is Ours.
	Standing Standing
}

// End is the world as the rotation left it. A nil part is one that nobody looked at, which must be told in Untold.
type End struct {
	// Keys are the issuer's live keys.
	Keys     map[string]key.State
	Versions []Version
	Metadata *key.Metadata
	// Holds is the key that each declared instance uses.
	Holds map[string]string
	// DeadRefused tells for each destroyed key whether a control request with it was refused.
	DeadRefused map[string]bool
}

// Policy is what the credential asks for.
type Policy struct {
	// Quiet is the quiet window, and Lag how late the issuer reports usage; Quiet is 0 where it reports none.
	Quiet, Lag time.Duration
	// Overlap is the least time between promoting and revoking.
	Overlap, WaveSoak time.Duration
	// DisableSoak is the least time between disabling and destroying; CanDisable tells whether the issuer can.
	DisableSoak time.Duration
	CanDisable  bool
	// Approvals is how many people the revoke gate asks.
	Approvals int
	// Noticed is how long it may take until what is watched shows that somebody undeclared is refused; 0 where it may
	// never show.
	Noticed time.Duration
	// Slack is how long an activity may take between its last look and its effect, and how exact times are.
	Slack time.Duration
	// MayFail: the world has trouble that does not pass, so that the run may end as failed.
	MayFail bool
	// Emergency: the run ended exposed keys by the declaration of an incident.
	Emergency bool
}

// Part is a part of Seen that not every system can tell.
type Part string

// The parts.
const (
	Times     Part = "times" // events are in order, but their times mean nothing
	Traffic   Part = "traffic"
	Uses      Part = "uses"
	Holding   Part = "holding" // which key an instance uses, and when
	Keys      Part = "keys"
	Versions  Part = "versions"
	Metadata  Part = "metadata"
	Control   Part = "control"
	Trail     Part = "trail"
	Decisions Part = "decisions"
)

// Seen is all that is known of one rotation of one credential.
type Seen struct {
	// Events are in the order of happening.
	Events []Event
	Before Before
	End    End
	// Report is how the run ended; nil when it has not. Status is then what it says that it waits for.
	Report *workflows.Report
	Status *workflows.Status
	// Trail is the audit record of the credential.
	Trail  audit.Trail
	Policy Policy
	// Others acted on issuer, store or consumers meanwhile, in ways that events may not show. Then not all is keyturn's to keep.
	Others bool
	// Untold are the parts that this system cannot tell. What rests on them is not judged: see NotJudged. A part that
	// is missing and not named here is a violation, so that nothing passes in silence.
	Untold []Part
}

func (s Seen) told(parts ...Part) bool {
	return !slices.ContainsFunc(parts, func(p Part) bool { return slices.Contains(s.Untold, p) })
}

// outcome is how the run ended; empty when it has not.
func (s Seen) outcome() workflows.Outcome {
	if s.Report == nil {
		return ""
	}
	return s.Report.Outcome
}

// completed tells whether the run says that the incoming key is in use.
func (s Seen) completed() bool {
	return s.outcome() == workflows.Completed || s.outcome() == workflows.CompletedWithDebt
}

// owed tells whether the report names something as debt.
func (s Seen) owed(about string) bool {
	return s.Report != nil && slices.ContainsFunc(s.Report.Debt, func(d key.Debt) bool { return d.About == about })
}

// accepted are the decisions of one kind that the report has as taken.
func (s Seen) accepted(action policy.Action) []policy.Verdict {
	return slices.DeleteFunc(slices.Clone(s.verdicts()), func(v policy.Verdict) bool { return !v.Accepted || v.Action != action })
}

func (s Seen) happened(kinds ...Kind) []Event {
	return slices.DeleteFunc(slices.Clone(s.Events), func(e Event) bool { return !slices.Contains(kinds, e.Kind) })
}

// holding is the key that an instance uses after the first n events.
func (s Seen) holding(i Instance, n int) string {
	now := i.Holds
	for _, e := range s.Events[:n] {
		if e.Instance == i.Name && e.Kind == Using {
			now = e.Key
		}
	}
	return now
}

// current is the key in CURRENT after the first n events.
func (s Seen) current(n int) string {
	now := s.Before.Current
	for _, e := range s.Events[:n] {
		if e.Kind == Promoted {
			now = e.Key
		}
	}
	return now
}

// states are those of all keys after the first n events; a dead one has none.
func (s Seen) states(n int) map[string]key.State {
	now := map[string]key.State{}
	for _, k := range s.Before.Keys {
		now[k.ID] = k.State
	}
	for _, e := range s.Events[:n] {
		switch e.Kind {
		case Issued, Enabled:
			now[e.Key] = key.Active
		case Disabled:
			now[e.Key] = key.Disabled
		case Destroyed:
			delete(now, e.Key)
		}
	}
	return now
}

func (s Seen) stranger(keyID string) bool {
	return slices.ContainsFunc(s.Before.Keys, func(k Key) bool { return k.ID == keyID && k.Standing == Stranger })
}
