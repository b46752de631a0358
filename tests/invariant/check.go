package invariant

import (
	"fmt"
	"time"
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

func clock(at time.Time) string { return at.UTC().Format(time.RFC3339) }
