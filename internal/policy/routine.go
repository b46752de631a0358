package policy

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/keyturn/keyturn/internal/inventory"
)

// Reasons why a routine rotation does not begin now.
const (
	AlreadyRunning Reason = "already-running"
	BlackedOut     Reason = "blacked-out"
	WindowClosed   Reason = "window-closed"
	NotDue         Reason = "not-due"
	Repeated       Reason = "repeated"
	LeftInventory  Reason = "left-the-inventory"
)

// MayBegin judges whether the calendar lets a routine rotation begin at a moment.
func MayBegin(c inventory.Credential, at time.Time) Decision {
	if d := blackout(c, at); !d.OK {
		return d
	}
	if !c.Schedule.InWindow(at) {
		return refuse(WindowClosed, "the window is closed; the next one opens %s", moment(c.Next(at), c))
	}
	return allow("the window is open")
}

// Start is how a rotation was begun, which is what the calendar goes by.
type Start struct {
	// Fired: not by a person. What began it has asked whether the window is open, which may close while the rotation begins.
	Fired bool `json:"fired,omitempty"`
	// Nominal is when a Schedule was to fire, the jitter not counted; zero where none did.
	Nominal time.Time `json:"nominal,omitzero"`
	// Now: it shall begin whatever the calendar says.
	Now bool `json:"now,omitempty"`
}

// MayStart judges whether the calendar lets a rotation begin that was begun so. One that resumes another has begun
// already, for the window; a blackout holds for it, too.
func MayStart(c inventory.Credential, start Start, resumes bool, at time.Time) Decision {
	d := MayBegin(c, at)
	if d.OK || d.Reason == WindowClosed && (start.Fired || resumes) {
		return allow("the calendar lets it begin")
	}
	if start.Now {
		return allow("it begins all the same, as was asked: %s", d.Message)
	}
	if until, _, blackedOut := c.Schedule.Blackout(at); blackedOut && c.Schedule.At != "" {
		d.Message += "; the next window opens " + moment(c.Next(until), c)
	}
	return refuse(d.Reason, "%s; to begin it all the same: keyturn rotate %s --now", d.Message, c.Name)
}

// Begun adds to a plan what the calendar says of a rotation that was begun so.
func (p Plan) Begun(c inventory.Credential, start Start) Plan {
	switch d, calendar := MayStart(c, start, p.Resume != nil, p.MadeAt), MayBegin(c, p.MadeAt); {
	case !d.OK:
		p.Refusals = append(p.Refusals, d)
	case start.Now && !calendar.OK:
		p.Warnings = append(p.Warnings, d.Message)
	}
	return p
}

// MayFire judges whether a firing of a Schedule stands for a window. The first of two may have failed: that is no reason for another one an
// hour later.
func MayFire(c inventory.Credential, start Start) Decision {
	if !start.Nominal.IsZero() && c.Schedule.Repeats(start.Nominal) {
		return refuse(Repeated, "the clocks were set back, so that the window opened twice, and this is the second time; the next one opens %s", moment(c.Next(start.Nominal), c))
	}
	return allow("it is the only one of its window")
}

// Slot is one of those that routine rotations need: of an environment that has its own, or of those that all others share.
type Slot struct {
	Environment string
	Number      int
	// Unpromoted: it is one of those between issue and promotion.
	Unpromoted bool
}

// Waiter is a routine rotation that waits for a slot.
type Waiter struct {
	Credential string
	// Environment is empty where it is not known.
	Environment string
	Risk        inventory.Risk
	// RotateBy is zero where nobody knows how old the key is.
	RotateBy time.Time
	// Since is when it was fired.
	Since time.Time
}

// Before tells whether one gets a slot before another: the higher risk, then the earlier rotate-by, an unknown one
// first, then who was fired first. Of times only whole seconds count, as an index may have rounded them.
func (w Waiter) Before(other Waiter) bool {
	second := func(a, b time.Time) int { return a.Truncate(time.Second).Compare(b.Truncate(time.Second)) }
	return cmp.Or(
		cmp.Compare(slices.Index(inventory.Risks, other.Risk), slices.Index(inventory.Risks, w.Risk)),
		second(w.RotateBy, other.RotateBy), second(w.Since, other.Since), cmp.Compare(w.Credential, other.Credential),
	) < 0
}

// IsDue judges whether a routine rotation shall begin: the calendar lets it, and the key is old enough. A key
// whose age nobody knows is.
func IsDue(c inventory.Credential, s inventory.State, at time.Time) Decision {
	due := c.Due(s.RotateBy, s.KeyExpires)
	if at.Before(due) {
		return refuse(NotDue, "the key is to be rotated by %s, which is due from %s on", moment(s.RotateBy, c), moment(due, c))
	}
	if d := MayBegin(c, at); !d.OK {
		return d
	}
	switch {
	case s.KeyID == "":
		return allow("there is no key yet")
	case due.IsZero():
		return allow("nobody knows how old the key is")
	}
	return allow("the key is to be rotated by %s", moment(s.RotateBy, c))
}

// NextRun is the first moment at which a routine rotation may begin and is due.
func NextRun(c inventory.Credential, s inventory.State, now time.Time) time.Time {
	due := c.Due(s.RotateBy, s.KeyExpires)
	if due.Before(now) {
		due = now
	}
	return c.Next(due)
}

// StateOf is what the facts say of the credential's key.
func StateOf(c inventory.Credential, f Facts) inventory.State {
	m := f.Metadata
	s := inventory.State{RotateBy: m.RotateBy, Debt: len(m.Debt)}
	if m.LastRotation != nil {
		s.LastOutcome, s.LastRotation = m.LastRotation.Outcome, m.LastRotation.At
	}
	s.KeyID = f.currentKeyID(c.Adopt)
	if s.KeyID == "" {
		s.RotateBy = time.Time{}
		return s
	}
	if k, live := f.Live(s.KeyID); live {
		s.KeyIssuedAt, s.KeyExpires = k.CreatedAt, k.ExpiresAt
	}
	if mine, ours := m.Key(s.KeyID); ours && !mine.IssuedAt.IsZero() {
		s.KeyIssuedAt = mine.IssuedAt
	}
	if !s.KeyIssuedAt.IsZero() {
		s.RotateBy = RotateBy(c, s.KeyIssuedAt, s.KeyExpires)
	}
	return s
}

// RotateBy is until when a key is to be rotated: after the cadence, and never after its own end, which is zero for none.
func RotateBy(c inventory.Credential, issued, ends time.Time) time.Time {
	by := issued.Add(c.RotateEvery.Std()).UTC()
	if !ends.IsZero() && ends.Before(by) {
		return ends.UTC()
	}
	return by
}

// blackout refuses changes in a blackout.
func blackout(c inventory.Credential, at time.Time) Decision {
	until, why, blackedOut := c.Schedule.Blackout(at)
	if !blackedOut {
		return allow("no blackout")
	}
	if why != "" {
		why = ": " + why
	}
	return refuse(BlackedOut, "a blackout lasts until %s%s", moment(until, c), why)
}

// moment writes a time as the credential's calendar has it.
func moment(at time.Time, c inventory.Credential) string {
	if at.IsZero() {
		return "never"
	}
	return at.In(c.Schedule.Location()).Format(time.RFC3339)
}

// Drift lists where the index differs from the truth, for people.
func Drift(index, truth inventory.State) []string {
	var list []string
	differ := func(what, is, shows string) {
		if is != shows {
			list = append(list, fmt.Sprintf("%s is %s, and the index says %s", what, orNothing(is), orNothing(shows)))
		}
	}
	differ("the key", truth.KeyID, index.KeyID)
	differ("its issue", day(truth.KeyIssuedAt), day(index.KeyIssuedAt))
	differ("its end", day(truth.KeyExpires), day(index.KeyExpires))
	differ("rotate-by", day(truth.RotateBy), day(index.RotateBy))
	differ("the last outcome", truth.LastOutcome, index.LastOutcome)
	differ("the last rotation", day(truth.LastRotation), day(index.LastRotation))
	differ("debt", fmt.Sprint(truth.Debt), fmt.Sprint(index.Debt))
	return list
}

func day(at time.Time) string {
	if at.IsZero() {
		return ""
	}
	return at.UTC().Format(time.RFC3339)
}

func orNothing(s string) string {
	if s == "" {
		return "nothing"
	}
	return s
}
