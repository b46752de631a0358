package invariant

import (
	"fmt"
	"slices"
	"time"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/workflows"
)

// Invariant is one of the design's invariants.
type Invariant string

// The invariants that Check judges. I8 and I12 have tests of their own.
const (
	I1  Invariant = "I1"  // every consumer holds a key that the issuer accepts
	I2  Invariant = "I2"  // never more keys than slots; no key destroyed that is not ours
	I3  Invariant = "I3"  // disabling needs attested instances, quiet and approvals
	I4  Invariant = "I4"  // until destroy, rollback succeeds
	I5  Invariant = "I5"  // after revoke the key is refused everywhere
	I6  Invariant = "I6"  // one live rotation for each credential
	I7  Invariant = "I7"  // every key ends current, revoked, or as debt
	I9  Invariant = "I9"  // an approval authorises one action, once
	I10 Invariant = "I10" // the audit is complete and in causal order
	I11 Invariant = "I11" // every rotation ends, or says who must act
	// Unseen is no invariant: a part of Seen is missing, and was not named as untold.
	Unseen Invariant = "unseen"
)

// Violation is one invariant that did not hold.
type Violation struct {
	Invariant Invariant
	// Rule names what was judged, as NotJudged does.
	Rule string
	// What is wrong, in a sentence.
	What string
}

func (v Violation) String() string { return fmt.Sprintf("%s (%s): %s", v.Invariant, v.Rule, v.What) }

// rule judges one thing. needs are the parts without which it cannot.
type rule struct {
	invariant Invariant
	name      string
	needs     []Part
	alone     bool // it holds where nobody else acts
	judge     func(s Seen, wrong wrongFunc)
}

// rules is every rule of Check, in the order of the invariants.
var rules = []rule{
	{I1, "no request is refused", []Part{Traffic}, true, noneRefused},
	{I1, "a user that nobody declared is refused until it is noticed", []Part{Traffic, Times}, true, undeclaredNoticed},
	{I1, "nobody is sent to a key that is refused", nil, false, sentToRefused},
	{I1, "no key goes unless another one works", []Part{Holding}, false, anotherWorks},
	{I1, "no key in use is taken away", []Part{Holding}, false, inUseStays},
	{I1, "no key is taken away while it is CURRENT", nil, false, currentStays},
	{I1, "the canary goes first", []Part{Holding}, false, calm(canaryFirst)},
	{I1, "each wave soaks", []Part{Holding, Times}, false, calm(wavesSoak)},
	{I1, "CURRENT moves after the deliveries", []Part{Holding}, false, calm(promotedLast)},
	{I2, "never more keys than slots", nil, false, withinSlots},
	{I2, "strangers are untouched", nil, false, strangersUntouched},
	{I2, "strangers live on", []Part{Keys}, false, strangersLive},
	{I2, "nobody else's CURRENT is overwritten", nil, false, promotedFrom},
	{I3, "every instance is on CURRENT when the retiring key goes", []Part{Holding}, false, converged},
	{I3, "the retiring key was quiet", []Part{Uses, Times}, false, calm(quiet)},
	{I3, "the overlap has passed", []Part{Times}, false, calm(overlapped)},
	{I3, "a key is disabled before it is destroyed, for the soak", []Part{Times}, false, calm(soaked)},
	{I9, "each revoking has its own approvals", []Part{Decisions, Times}, false, calm(approved)},
	{I9, "a rejected gate stays closed", []Part{Decisions}, false, rejected},
	{I4, "a rollback ends well", nil, true, noFailure},
	{I4, "a rollback that was accepted is carried out", []Part{Decisions}, false, carriedOut},
	{I4, "after a rollback the retiring key is active", []Part{Keys}, true, retiringActive},
	{I4, "after a rollback the retiring key is CURRENT", []Part{Versions}, false, retiringCurrent},
	{I4, "after a rollback everybody holds the retiring key", []Part{Holding}, false, retiringHeld},
	{I5, "a destroyed key is refused", []Part{Control}, false, deadRefused},
	{I5, "after a rotation the retiring key is dead, or debt", []Part{Keys}, false, retiringDead},
	{I6, "one rotation at a time", []Part{Trail}, false, oneAtATime},
	{I6, "one key is incoming at a time", nil, false, oneIncoming},
	{I7, "every key is accounted for", []Part{Keys}, false, accounted},
	{I7, "labels are right", []Part{Versions}, false, labels},
	{I7, "after a rotation everybody holds CURRENT", []Part{Holding, Versions}, false, everybodyCurrent},
	{I7, "the metadata is clean", []Part{Metadata, Keys}, false, metadataClean},
	{I10, "the record is whole", []Part{Trail}, false, undamaged},
	{I10, "each effect is recorded", []Part{Trail}, false, recorded},
	{I10, "each decision is recorded", []Part{Trail, Decisions}, false, decisionsRecorded},
	{I10, "the record is in causal order", []Part{Trail}, false, causal},
	{I11, "the run ended, or waits for somebody", nil, false, ended},
}

// calm is a rule that an emergency waives: it brings another key to all at once, and waits for nobody's approval, quiet or overlap.
func calm(judge func(Seen, wrongFunc)) func(Seen, wrongFunc) {
	return func(s Seen, wrong wrongFunc) {
		if !s.Policy.Emergency {
			judge(s, wrong)
		}
	}
}

// Check returns what is wrong; nothing when all invariants held as far as they could be judged.
func Check(s Seen) []Violation {
	list := missing(s)
	for _, r := range rules {
		if s.told(r.needs...) && (!r.alone || !s.Others) {
			r.judge(s, func(format string, args ...any) {
				list = append(list, Violation{r.invariant, r.name, fmt.Sprintf(format, args...)})
			})
		}
	}
	return list
}

// NotJudged names the rules that Check cannot judge without these parts.
func NotJudged(untold ...Part) []string {
	var names []string
	for _, r := range rules {
		if !(Seen{Untold: untold}).told(r.needs...) {
			names = append(names, string(r.invariant)+" "+r.name)
		}
	}
	return names
}

// missing tells of parts that are not there and were not said to be untold.
func missing(s Seen) (list []Violation) {
	changed := len(s.happened(Issued, Disabled, Destroyed, Promoted)) > 0
	for _, m := range []struct {
		part   Part
		absent bool
	}{
		{Keys, s.End.Keys == nil},
		{Versions, s.End.Versions == nil},
		{Metadata, s.End.Metadata == nil},
		{Holding, s.End.Holds == nil},
		{Control, s.End.DeadRefused == nil},
		{Trail, len(s.Trail.Events) == 0},
		{Times, changed && s.Events[0].At.IsZero()},
		{Traffic, changed && s.told(Uses) && len(s.happened(Used, Refused)) == 0},
		{Decisions, s.Report == nil && s.Status == nil},
	} {
		if m.absent && s.told(m.part) {
			list = append(list, Violation{Unseen, string(m.part), "nothing was seen of it: name it in Untold when this system cannot tell it"})
		}
	}
	return list
}

type wrongFunc = func(format string, args ...any)

func noneRefused(s Seen, wrong wrongFunc) {
	for _, e := range s.happened(Refused) {
		if s.declared(e.Instance) {
			wrong("a request of %s was refused at %s, with key %q", e.Instance, clock(e.At), e.Key)
		}
	}
}

func (s Seen) declared(name string) bool {
	return slices.ContainsFunc(s.Before.Instances, func(i Instance) bool { return i.Name == name })
}

// undeclaredNoticed sees how long a disabled key is refused to somebody of whom keyturn was not told, until it is enabled
// again. It is not destroyed, where the issuer has told of that use by then.
func undeclaredNoticed(s Seen, wrong wrongFunc) {
	if s.Policy.Noticed == 0 {
		return
	}
	within := s.Policy.Noticed + s.Policy.Lag + s.Policy.Slack
	disabled, since := false, map[string]time.Time{}
	for _, e := range s.Events {
		if e.Key != s.Before.Current || e.Key == "" {
			continue
		}
		switch e.Kind {
		case Disabled:
			disabled = true
		case Enabled:
			disabled, since = false, map[string]time.Time{}
		case Destroyed:
			for who, first := range since {
				if s.Policy.Quiet > 0 && e.At.Sub(first) > within {
					wrong("%s, which nobody declared, was refused with the disabled key %s at %s, and it was destroyed at %s all the same",
						who, e.Key, clock(first), clock(e.At))
					return
				}
			}
			disabled, since = false, map[string]time.Time{}
		case Refused:
			first, before := since[e.Instance]
			switch {
			case !disabled || s.declared(e.Instance):
			case !before:
				since[e.Instance] = e.At
			case e.At.Sub(first) > within:
				wrong("%s, which nobody declared, was refused with the disabled key %s from %s to %s, and that is to be noticed in %s",
					e.Instance, e.Key, clock(first), clock(e.At), within)
				return
			}
		}
	}
}

func inUseStays(s Seen, wrong wrongFunc) {
	for n, e := range s.Events {
		if e.Kind != Disabled && e.Kind != Destroyed || e.Theirs {
			continue
		}
		for _, i := range s.Before.Instances {
			if s.holding(i, n) == e.Key && s.states(n)[e.Key] == key.Active {
				wrong("key %s was %s at %s, while %s used it", e.Key, e.Kind, clock(e.At), i.Name)
			}
		}
	}
}

func currentStays(s Seen, wrong wrongFunc) {
	for n, e := range s.Events {
		if (e.Kind == Disabled || e.Kind == Destroyed) && s.current(n) == e.Key && !e.Theirs {
			wrong("key %s was %s at %s, while it was CURRENT", e.Key, e.Kind, clock(e.At))
		}
	}
}

// sentToRefused sees that nobody is sent to a key that the issuer refuses.
func sentToRefused(s Seen, wrong wrongFunc) {
	for n, e := range s.Events {
		if (e.Kind == Delivered || e.Kind == Promoted) && !e.Theirs && e.Key != "" && s.states(n)[e.Key] != key.Active {
			wrong("key %s was %s at %s, and it is refused (%s)", e.Key, e.Kind, clock(e.At), s.states(n)[e.Key])
		}
	}
}

// anotherWorks sees that a key that consumers had is taken away only where each of them uses another one that works.
func anotherWorks(s Seen, wrong wrongFunc) {
	for n, e := range s.Events {
		if e.Kind != Disabled && e.Kind != Destroyed || e.Theirs {
			continue
		}
		had := func(b Event) bool { return (b.Kind == Delivered || b.Kind == Using) && b.Key == e.Key }
		if e.Key != s.Before.Current && !slices.ContainsFunc(s.Events[:n], had) {
			continue
		}
		for _, i := range s.Before.Instances {
			if holds := s.holding(i, n); holds != e.Key && s.states(n)[holds] != key.Active {
				wrong("key %s was %s at %s, and %s is left with key %s, which is refused", e.Key, e.Kind, clock(e.At), i.Name, holds)
			}
		}
	}
}

// firstUse is when an instance first used the key.
func (s Seen) firstUse(instance, keyID string) (at int, ok bool) {
	at = slices.IndexFunc(s.Events, func(e Event) bool { return e.Kind == Using && e.Instance == instance && e.Key == keyID })
	return at, at >= 0
}

// earlier calls with each pair of an instance that got a new key, and one of the waves before.
func (s Seen) earlier(judge func(first, later Instance, began, got int)) {
	for n, e := range s.Events {
		if e.Kind != Delivered && e.Kind != Using || !s.isNew(e.Key) {
			continue
		}
		at := slices.IndexFunc(s.Before.Instances, func(i Instance) bool { return i.Name == e.Instance })
		if at < 0 {
			continue
		}
		later := s.Before.Instances[at]
		again := slices.ContainsFunc(s.Events[:n], func(b Event) bool {
			return b.Instance == e.Instance && b.Key == e.Key && (b.Kind == Delivered || b.Kind == Using)
		})
		if again {
			continue
		}
		for _, first := range s.Before.Instances {
			if first.Wave < later.Wave {
				began, ok := s.firstUse(first.Name, e.Key)
				if !ok {
					began = len(s.Events)
				}
				judge(first, later, began, n)
			}
		}
	}
}

// isNew tells whether a key did not exist before.
func (s Seen) isNew(keyID string) bool {
	return !slices.ContainsFunc(s.Before.Keys, func(k Key) bool { return k.ID == keyID })
}

func canaryFirst(s Seen, wrong wrongFunc) {
	s.earlier(func(first, later Instance, began, got int) {
		if began > got {
			wrong("%s of wave %d got key %s before %s of wave %d used it", later.Name, later.Wave, s.Events[got].Key, first.Name, first.Wave)
		}
	})
}

func wavesSoak(s Seen, wrong wrongFunc) {
	s.earlier(func(first, later Instance, began, got int) {
		if began < got && s.Events[got].At.Sub(s.Events[began].At) < s.Policy.WaveSoak-s.Policy.Slack {
			wrong("%s of wave %d got key %s only %s after %s of wave %d", later.Name, later.Wave, s.Events[got].Key,
				s.Events[got].At.Sub(s.Events[began].At), first.Name, first.Wave)
		}
	})
}

func promotedLast(s Seen, wrong wrongFunc) {
	for n, e := range s.Events {
		if e.Kind != Promoted || !s.isNew(e.Key) {
			continue
		}
		for _, i := range s.Before.Instances {
			if holds := s.holding(i, n); !i.Follows && !i.Batch && holds != e.Key {
				wrong("key %s became CURRENT at %s, while %s used key %q", e.Key, clock(e.At), i.Name, holds)
			}
		}
	}
}

func withinSlots(s Seen, wrong wrongFunc) {
	live := map[string]bool{}
	for _, k := range s.Before.Keys {
		live[k.ID] = true
	}
	for _, e := range s.happened(Issued, Destroyed) {
		if e.Kind == Destroyed {
			delete(live, e.Key)
			continue
		}
		live[e.Key] = true
		if s.Before.Slots > 0 && len(live) > s.Before.Slots {
			wrong("with key %s there were %d keys at %s, and %d slots", e.Key, len(live), clock(e.At), s.Before.Slots)
		}
	}
}

func strangersUntouched(s Seen, wrong wrongFunc) {
	for _, e := range s.happened(Disabled, Enabled, Destroyed) {
		if s.stranger(e.Key) && !e.Theirs {
			wrong("key %s is not ours, and was %s at %s", e.Key, e.Kind, clock(e.At))
		}
	}
}

func strangersLive(s Seen, wrong wrongFunc) {
	for _, k := range s.Before.Keys {
		if k.Standing == Stranger && s.End.Keys[k.ID] != k.State {
			wrong("key %s is not ours; it was %s before and is %q at the end", k.ID, k.State, s.End.Keys[k.ID])
		}
	}
}

// promotedFrom sees that CURRENT moves from where keyturn last left it. A move by somebody else is no event, so that
// whoever promotes over it gives itself away.
func promotedFrom(s Seen, wrong wrongFunc) {
	current := s.Before.Version
	for _, e := range s.happened(Promoted) {
		if e.From != current {
			wrong("CURRENT was moved from version %q to %s at %s, and keyturn knew it on version %q", e.From, e.Version, clock(e.At), current)
		}
		current = e.Version
	}
}

// revokings calls with each event that takes the retiring key away: its disabling, or its destroying by an issuer
// that cannot disable.
func (s Seen) revokings(judge func(n int, e Event)) {
	for n, e := range s.Events {
		if e.Key == s.Before.Current && e.Key != "" && !e.Theirs && (e.Kind == Disabled || e.Kind == Destroyed && !s.Policy.CanDisable) {
			judge(n, e)
		}
	}
}

func converged(s Seen, wrong wrongFunc) {
	s.revokings(func(n int, e Event) {
		for _, i := range s.Before.Instances {
			if holds := s.holding(i, n); holds != s.current(n) {
				wrong("key %s was %s at %s, while %s used key %s and CURRENT was %s", e.Key, e.Kind, clock(e.At), i.Name, holds, s.current(n))
			}
		}
	})
}

func quiet(s Seen, wrong wrongFunc) {
	s.revokings(func(_ int, e Event) {
		until := e.At.Add(-s.Policy.Lag - s.Policy.Slack)
		since := e.At.Add(-s.Policy.Lag - s.Policy.Quiet + s.Policy.Slack)
		for _, u := range s.happened(Used) {
			if u.Key == e.Key && s.Policy.Quiet > 0 && u.At.After(since) && u.At.Before(until) {
				wrong("key %s was %s at %s, and had been used at %s, within its quiet window", e.Key, e.Kind, clock(e.At), clock(u.At))
				return
			}
		}
	})
}

func overlapped(s Seen, wrong wrongFunc) {
	s.revokings(func(n int, e Event) {
		promoted := time.Time{}
		for _, p := range s.Events[:n] {
			if p.Kind == Promoted {
				promoted = p.At
			}
		}
		switch {
		case promoted.IsZero():
			wrong("key %s was %s at %s, before another was CURRENT", e.Key, e.Kind, clock(e.At))
		case e.At.Sub(promoted) < s.Policy.Overlap-s.Policy.Slack:
			wrong("key %s was %s %s after another became CURRENT, and the overlap is %s", e.Key, e.Kind, e.At.Sub(promoted), s.Policy.Overlap)
		}
	})
}

func soaked(s Seen, wrong wrongFunc) {
	if !s.Policy.CanDisable {
		return
	}
	disabled := time.Time{}
	for _, e := range s.Events {
		switch {
		case e.Key != s.Before.Current || e.Key == "":
		case e.Kind == Destroyed && e.Theirs:
		case e.Kind == Disabled:
			disabled = e.At
		case e.Kind == Enabled:
			disabled = time.Time{}
		case e.Kind == Destroyed && disabled.IsZero():
			wrong("key %s was destroyed at %s without having been disabled", e.Key, clock(e.At))
		case e.Kind == Destroyed && e.At.Sub(disabled) < s.Policy.DisableSoak-s.Policy.Slack:
			wrong("key %s was destroyed %s after it was disabled, and the soak is %s", e.Key, e.At.Sub(disabled), s.Policy.DisableSoak)
		}
	}
}

// approved counts for each revoking the people who approved since its gate opened, and not for an earlier one.
func approved(s Seen, wrong wrongFunc) {
	if s.Policy.Approvals == 0 {
		return
	}
	before := time.Time{}
	s.revokings(func(_ int, e Event) {
		since := before
		for _, opened := range s.Trail.Events {
			if opened.Type == audit.GateOpened && opened.Detail["gate"] == string(inventory.GateRevoke) && opened.Time.After(since) && !opened.Time.After(e.At) {
				since = opened.Time
			}
		}
		people := map[string]bool{}
		for _, v := range s.verdicts() {
			if v.Accepted && v.Action == policy.Approve && v.Gate == inventory.GateRevoke && v.At.After(before) && !v.At.Before(since) && !v.At.After(e.At) {
				people[v.By] = true
			}
		}
		if len(people) < s.Policy.Approvals {
			wrong("key %s was %s at %s with %d approvals of its own, and the gate asks for %d", e.Key, e.Kind, clock(e.At), len(people), s.Policy.Approvals)
		}
		before = e.At
	})
}

// verdicts are what people decided, by the report, or by the gate that is open.
func (s Seen) verdicts() []policy.Verdict {
	switch {
	case s.Report != nil:
		return s.Report.Verdicts
	case s.Status != nil && s.Status.Gate != nil:
		return s.Status.Gate.Approvals
	}
	return nil
}

// rejected sees that nothing follows from a gate that somebody rejected.
func rejected(s Seen, wrong wrongFunc) {
	for _, v := range s.accepted(policy.Reject) {
		if s.completed() {
			wrong("%s rejected the %s gate, and the run ended as %s", v.By, v.Gate, s.outcome())
		}
		for _, e := range s.Events {
			later := s.told(Times) && e.At.After(v.At)
			switch {
			case v.Gate == inventory.GateSignoff && e.Kind == Issued,
				v.Gate == inventory.GateRevoke && e.Key == s.Before.Current && (e.Kind == Destroyed || e.Kind == Disabled && later):
				wrong("%s rejected the %s gate, and key %s was %s at %s", v.By, v.Gate, e.Key, e.Kind, clock(e.At))
			}
		}
	}
}

// carriedOut sees that a rotation turns back when it said so. It does not say so any more once the retiring key is being
// destroyed.
func carriedOut(s Seen, wrong wrongFunc) {
	if s.outcome() == workflows.Superseded {
		return // an exposed key is not brought back
	}
	for _, v := range s.accepted(policy.Rollback) {
		if s.completed() {
			wrong("the rollback that %s asked for was accepted, and the run ended as %s", v.Person(), s.outcome())
		}
		for _, e := range s.happened(Destroyed) {
			if e.Key == s.Before.Current && !e.Theirs {
				wrong("the rollback that %s asked for was accepted, and the retiring key %s was destroyed at %s", v.Person(), e.Key, clock(e.At))
			}
		}
	}
}

func noFailure(s Seen, wrong wrongFunc) {
	if s.outcome() == workflows.Failed && !s.Policy.MayFail {
		wrong("the run failed, though all trouble passes: %s", s.Report.Message)
	}
}

// turnedBack tells whether there is a key to which the run says it turned back.
func (s Seen) turnedBack() bool { return s.outcome() == workflows.RolledBack && s.Before.Current != "" }

func retiringActive(s Seen, wrong wrongFunc) {
	if state := s.End.Keys[s.Before.Current]; s.turnedBack() && state != key.Active {
		wrong("the run was rolled back, and the retiring key %s is %q", s.Before.Current, state)
	}
}

func retiringCurrent(s Seen, wrong wrongFunc) {
	if !s.turnedBack() {
		return
	}
	if current := s.inCurrent(); current != "" && current != s.Before.Current {
		wrong("the run was rolled back, and CURRENT is key %s, not the retiring key %s", current, s.Before.Current)
	}
}

func retiringHeld(s Seen, wrong wrongFunc) {
	if !s.turnedBack() {
		return
	}
	for _, i := range s.Before.Instances {
		if holds := s.End.Holds[i.Name]; holds != s.Before.Current {
			wrong("the run was rolled back, and %s uses key %q, not the retiring key %s", i.Name, holds, s.Before.Current)
		}
	}
}

// known tells whether anybody can have a key's value: it existed before, or was stored.
func (s Seen) known(keyID string) bool {
	return !s.isNew(keyID) || slices.ContainsFunc(s.happened(Staged), func(e Event) bool { return e.Key == keyID })
}

func deadRefused(s Seen, wrong wrongFunc) {
	for _, e := range s.happened(Destroyed) {
		refused, tried := s.End.DeadRefused[e.Key]
		switch {
		case !tried && !s.known(e.Key): // its value died with whoever minted it
		case !tried:
			wrong("nobody tried the destroyed key %s", e.Key)
		case !refused:
			wrong("the destroyed key %s is still accepted", e.Key)
		}
	}
}

func retiringDead(s Seen, wrong wrongFunc) {
	_, alive := s.End.Keys[s.Before.Current]
	if s.completed() && alive && !s.owed(s.Before.Current) {
		wrong("the run completed, and the retiring key %s is %s and not reported as debt", s.Before.Current, s.End.Keys[s.Before.Current])
	}
}

// effects are the types of audit events that stand for a change.
var effects = []audit.Type{
	audit.MintIntended, audit.OrphanDestroyed, audit.KeyIssued, audit.KeyDelivered, audit.KeyPromoted, audit.KeyDisabled,
	audit.KeyEnabled, audit.KeyDestroyed, audit.LabelsRestored, audit.KeyDiscarded, audit.VersionPruned,
}

func oneAtATime(s Seen, wrong wrongFunc) {
	over := map[string]bool{}
	now := ""
	for _, e := range s.Trail.Events {
		switch {
		case e.Type == audit.RotationEnded:
			over[e.Rotation] = true
			if now == e.Rotation {
				now = ""
			}
		case e.Type == audit.RotationTerminated && now == e.Rotation: // by an incident, which it did not answer
			now = ""
		case !slices.Contains(effects, e.Type):
		case now != "" && now != e.Rotation:
			wrong("rotation %s acted (%s) while rotation %s had not ended", e.Rotation, e.Type, now)
		case over[e.Rotation]:
			wrong("rotation %s acted (%s) after it had ended", e.Rotation, e.Type)
		default:
			now = e.Rotation
		}
	}
}

// oneIncoming sees in the issuer's ledger that nobody else mints while a minted key is neither CURRENT nor destroyed.
func oneIncoming(s Seen, wrong wrongFunc) {
	incoming := ""
	for _, e := range s.happened(Issued, Promoted, Destroyed) {
		switch {
		case e.Kind != Issued:
			if e.Key == incoming {
				incoming = ""
			}
		case incoming != "":
			wrong("key %s was issued at %s, while key %s was neither CURRENT nor destroyed", e.Key, clock(e.At), incoming)
		default:
			incoming = e.Key
		}
	}
}

func accounted(s Seen, wrong wrongFunc) {
	if s.Report == nil || s.outcome() == workflows.Failed || s.outcome() == workflows.Superseded {
		return
	}
	ids := map[string]bool{}
	for _, k := range s.Before.Keys {
		if k.Standing != Stranger && s.outcome() != workflows.Refused {
			ids[k.ID] = true
		}
	}
	for _, e := range s.happened(Issued) {
		ids[e.Key] = true
	}
	for id := range ids {
		state, alive := s.End.Keys[id]
		if alive && id != s.currentAtEnd() && !s.owed(id) {
			wrong("key %s is %s at the end, not CURRENT and not reported as debt", id, state)
		}
	}
}

// inCurrent is the key in CURRENT at the end.
func (s Seen) inCurrent() string {
	for _, v := range s.End.Versions {
		if slices.Contains(v.Labels, key.Current) {
			return v.Key
		}
	}
	return ""
}

// currentAtEnd is the key that counts at the end; one that was adopted may be in no store.
func (s Seen) currentAtEnd() string {
	if current := s.inCurrent(); current != "" {
		return current
	}
	return s.current(len(s.Events))
}

func labels(s Seen, wrong wrongFunc) {
	if s.Report == nil || s.outcome() == workflows.Failed || s.outcome() == workflows.Superseded {
		return
	}
	on := map[key.Label]int{}
	for _, v := range s.End.Versions {
		if v.Standing == Stranger {
			continue
		}
		for _, l := range v.Labels {
			on[l]++
		}
		_, alive := s.End.Keys[v.Key]
		if s.outcome() != workflows.Refused && s.told(Keys) && !alive && !s.owed(v.ID) && !s.owed(v.Key) { // of which nobody could look
			wrong("version %s %v is left of key %q, which is dead", v.ID, v.Labels, v.Key)
		}
		if slices.Contains(v.Labels, key.Pending) && s.outcome() != workflows.Refused && !s.owed(v.ID) {
			wrong("version %s still bears PENDING", v.ID)
		}
	}
	for l, n := range on {
		if n > 1 {
			wrong("%d versions bear %s", n, l)
		}
	}
	if incoming := s.Report.Incoming.KeyID; s.completed() && s.inCurrent() != incoming {
		wrong("the run completed, and CURRENT is key %q, not the incoming key %s", s.inCurrent(), incoming)
	}
}

func everybodyCurrent(s Seen, wrong wrongFunc) {
	if !s.completed() {
		return
	}
	for _, i := range s.Before.Instances {
		if holds := s.End.Holds[i.Name]; holds != s.inCurrent() && !s.owed(i.Name) {
			wrong("the run completed, and %s uses key %q, not CURRENT, which is %s", i.Name, holds, s.inCurrent())
		}
	}
}

func metadataClean(s Seen, wrong wrongFunc) {
	unrecorded := s.Report != nil && slices.ContainsFunc(s.Report.Debt, func(d key.Debt) bool { return d.Kind == activities.DebtNotSeen })
	if m := s.End.Metadata; m != nil && !unrecorded && (s.completed() || s.outcome() == workflows.RolledBack) {
		for _, i := range m.Intents {
			// One whose call may still make a key is left to the next rotation, twice that long with the issuer's time to show it.
			if ended := m.LastRotation; len(m.Debt) == 0 && (ended == nil || !ended.At.Before(i.At.Add(2*i.Within))) {
				wrong("the mint intent of rotation %s is left", i.Rotation)
			}
		}
		for _, k := range m.Keys {
			if _, alive := s.End.Keys[k.KeyID]; !alive && !s.owed(k.KeyID) { // of which copies may be left
				wrong("the metadata names key %s, which is dead", k.KeyID)
			}
		}
		if m.Inventory == "" || m.Environment == "" {
			if len(s.happened(Issued)) > 0 && s.completed() {
				wrong("the metadata does not say to which inventory and environment the credential belongs")
			}
		}
		if k, ours := m.Key(s.Report.Incoming.KeyID); s.outcome() == workflows.Completed {
			switch {
			case !ours || k.PromotedAt.IsZero():
				wrong("the metadata does not say that key %s became CURRENT", s.Report.Incoming.KeyID)
			case k.VerifiedAt.IsZero():
				wrong("the metadata does not say that key %s was seen to work", k.KeyID)
			case k.KeptAt.IsZero():
				wrong("the metadata does not say that key %s is kept, so that the rotation could still be turned back", k.KeyID)
			}
		}
		switch last := m.LastRotation; {
		case last == nil || last.ID != s.Report.Rotation:
			wrong("the metadata does not say that rotation %s ended", s.Report.Rotation)
		case last.Outcome != string(s.outcome()):
			wrong("the metadata says that the rotation ended as %s, and the report %s", last.Outcome, s.outcome())
		}
		if len(m.Debt) != len(s.Report.Debt) {
			wrong("the metadata has %d debts, and the report %d", len(m.Debt), len(s.Report.Debt))
		}
	}
}

func ended(s Seen, wrong wrongFunc) {
	switch {
	case s.Report != nil && s.Report.Outcome == "":
		wrong("the run ended without an outcome")
	case s.Report != nil && s.Report.Message == "":
		wrong("the run ended as %s and does not say why", s.Report.Outcome)
	case s.Report == nil && (s.Status == nil || s.Status.WaitsFor == "" || s.Status.UnblockedBy == ""):
		wrong("the run neither ended nor says for whom it waits")
	}
}

func clock(at time.Time) string { return at.UTC().Format(time.RFC3339) }
