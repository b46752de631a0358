package invariant

import (
	"slices"
	"strings"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/workflows"
)

func undamaged(s Seen, wrong wrongFunc) {
	for _, d := range s.Trail.Damaged {
		wrong("%s", d)
	}
}

// about names the key that an event is about.
func about(e audit.Event) string {
	switch e.Type {
	case audit.KeyDelivered, audit.WavePassed, audit.KeyDiscarded, audit.OrphanDisabled, audit.OrphanReleased:
		return e.Detail["key"]
	case audit.KeyIssued, audit.KeyVerified, audit.KeyPromoted:
		return e.Keys[audit.Incoming].KeyID
	case audit.KeyDisabled, audit.KeyEnabled, audit.KeyDestroyed, audit.ProbeRefused, audit.LabelsRestored:
		return e.Keys[audit.Retiring].KeyID
	}
	return ""
}

// count is how many events of the types the record has, about a key unless that is empty.
func (s Seen) count(keyID string, types ...audit.Type) (n int) {
	for _, e := range s.Trail.Events {
		if slices.Contains(types, e.Type) && (keyID == "" || about(e) == keyID) {
			n++
		}
	}
	return n
}

// recorded sees that the record has an event for each effect that the ledgers have.
func recorded(s Seen, wrong wrongFunc) {
	changes := map[Kind]map[string]int{}
	for _, e := range s.Events {
		if e.Theirs {
			continue
		}
		if changes[e.Kind] == nil {
			changes[e.Kind] = map[string]int{}
		}
		changes[e.Kind][e.Key]++
	}
	for _, want := range []struct {
		effect Kind
		types  []audit.Type
	}{
		{Disabled, []audit.Type{audit.KeyDisabled, audit.OrphanDisabled}},
		{Enabled, []audit.Type{audit.KeyEnabled, audit.OrphanReleased}},
		{Delivered, []audit.Type{audit.KeyDelivered}},
	} {
		for keyID, n := range changes[want.effect] {
			have := s.count(keyID, want.types...)
			if have == 0 || want.effect != Delivered && have < n && s.Report != nil {
				wrong("key %s was %s %d times, and the record has it %d times", keyID, want.effect, n, have)
			}
		}
	}
	for keyID := range changes[Promoted] {
		if keyID != s.Before.Current && s.count(keyID, audit.KeyPromoted) == 0 && s.Report != nil && s.outcome() != workflows.RolledBack {
			wrong("key %s became CURRENT, and the record does not say so", keyID)
		}
		if keyID == s.Before.Current && s.count("", audit.LabelsRestored) == 0 && s.Report != nil {
			wrong("CURRENT went back to key %s, and the record does not say so", keyID)
		}
	}
	// An orphan is named by the ID of its event alone.
	orphans := s.count("", audit.OrphanDestroyed)
	for keyID := range changes[Destroyed] {
		if s.count(keyID, audit.KeyDestroyed, audit.KeyDiscarded) > 0 {
			continue
		}
		if orphans--; orphans < 0 {
			wrong("key %s was destroyed, and the record does not say so", keyID)
		}
	}
	if issued, intended := len(s.happened(Issued)), s.count("", audit.MintIntended); issued > 0 && intended == 0 {
		wrong("%d keys were issued, and the record has no intent", issued)
	}
	for _, e := range s.happened(Staged) {
		if s.count(e.Key, audit.KeyIssued, audit.KeyDiscarded) == 0 && s.Report != nil {
			wrong("key %s was staged, and the record does not have it as issued", e.Key)
		}
	}
	for _, e := range s.happened(Pruned) {
		if s.Report != nil && !s.prunedInRecord(e.Version) {
			wrong("version %s was pruned, and the record does not say so", e.Version)
		}
	}
	if s.Report != nil && s.outcome() != workflows.Superseded {
		switch ends := s.ends(); {
		case len(ends) != 1:
			wrong("the record has %d ends of the rotation", len(ends))
		case ends[0] != string(s.outcome()):
			wrong("the record says that the rotation ended as %s, and the report %s", ends[0], s.outcome())
		}
	}
}

// prunedInRecord tells whether the record has the end of a version, or of the key that was staged in it, which goes
// with its version.
func (s Seen) prunedInRecord(version string) bool {
	for _, e := range s.Trail.Events {
		if (e.Type == audit.VersionPruned || e.Type == audit.PendingWithdrawn) && strings.HasSuffix(e.ID, "/"+version) {
			return true
		}
	}
	for _, e := range s.happened(Staged) {
		if e.Version == version && s.count(e.Key, audit.KeyDiscarded) > 0 {
			return true
		}
	}
	return false
}

// decisionsRecorded sees that the record has each decision on which the run acted.
func decisionsRecorded(s Seen, wrong wrongFunc) {
	if s.Report == nil {
		return // it goes into the record with what is done next
	}
	for _, v := range s.verdicts() {
		if v.Accepted && !slices.ContainsFunc(s.Trail.Events, func(e audit.Event) bool {
			return e.Type == audit.DecisionAccepted && e.Detail["id"] == v.ID && e.Detail["action"] == string(v.Action)
		}) {
			wrong("the %s of %s was accepted, and the record does not say so", v.Action, v.Person())
		}
	}
}

// ends are the outcomes that the record has: not of a run that Temporal ended after it had recorded its end, and before it was over. The one that sees its
// work through records an end of its own.
func (s Seen) ends() (outcomes []string) {
	terminated := map[string]bool{}
	for _, e := range s.Trail.Events {
		terminated[e.Rotation] = terminated[e.Rotation] || e.Type == audit.RotationTerminated
	}
	for _, e := range s.Trail.Events {
		if e.Type == audit.RotationEnded && !terminated[e.Rotation] {
			outcomes = append(outcomes, e.Detail["outcome"])
		}
	}
	return outcomes
}

// orders are pairs of which the first comes before the second, for the same key where both name one.
var orders = [][2]audit.Type{
	{audit.RotationStarted, audit.MintIntended},
	{audit.MintIntended, audit.KeyIssued},
	{audit.KeyIssued, audit.KeyVerified},
	{audit.KeyVerified, audit.KeyPromoted},
	{audit.KeyIssued, audit.KeyPromoted},
	{audit.KeyPromoted, audit.OverlapBegun},
	{audit.OverlapBegun, audit.EvidenceComplete},
	{audit.EvidenceComplete, audit.KeyDisabled},
	{audit.EvidenceComplete, audit.KeyDestroyed},
	{audit.KeyDisabled, audit.KeyEnabled},
	{audit.KeyDestroyed, audit.ProbeRefused},
	{audit.ProbeRefused, audit.VersionPruned},
	{audit.GateOpened, audit.GateClosed},
	{audit.RollbackBegun, audit.LabelsRestored},
}

// inEmergency are those of an emergency, which gathers no evidence: nothing is done before it has begun.
var inEmergency = [][2]audit.Type{
	{audit.EmergencyBegun, audit.RotationStarted},
	{audit.EmergencyBegun, audit.MintIntended},
	{audit.MintIntended, audit.KeyIssued},
	{audit.KeyIssued, audit.KeyVerified},
	{audit.KeyVerified, audit.KeyPromoted},
	{audit.KeyPromoted, audit.KeyDelivered},
	{audit.EmergencyBegun, audit.KeyDestroyed},
	{audit.KeyDestroyed, audit.ProbeRefused},
}

// leftover tells whether an earlier rotation left a key, which this one may destroy before it mints.
func (s Seen) leftover() bool {
	return slices.ContainsFunc(s.Before.Keys, func(k Key) bool { return k.Standing == Ours && k.ID != s.Before.Current })
}

// causal sees that no event of the record comes before what it follows from.
func causal(s Seen, wrong wrongFunc) {
	first := func(t audit.Type) int {
		return slices.IndexFunc(s.Trail.Events, func(e audit.Event) bool { return e.Type == t })
	}
	must := orders
	if s.Policy.Emergency {
		must = inEmergency
	}
	for _, o := range must {
		cause, effect := first(o[0]), first(o[1])
		if o[1] == audit.ProbeRefused && cause < 0 { // a discarded key is probed, too, when its copies are left
			cause = first(audit.KeyDiscarded)
		}
		theirs := s.Others && o[1] == audit.ProbeRefused && cause < 0 // of a key that others destroyed
		if effect >= 0 && (cause < 0 || cause > effect) && !theirs {
			wrong("%s is in the record before %s, from which it follows", o[1], o[0])
		}
	}
	if cause, effect := first(audit.MintIntended), first(audit.OrphanDestroyed); effect >= 0 && !s.leftover() && (cause < 0 || cause > effect) {
		wrong("%s is in the record before %s, from which it follows", audit.OrphanDestroyed, audit.MintIntended)
	}
	issued := map[string]bool{}
	for n, e := range s.Trail.Events {
		switch {
		case e.Type == audit.KeyIssued:
			issued[about(e)] = true
		case e.Type == audit.KeyDelivered && s.isNew(about(e)) && !issued[about(e)]:
			wrong("key %s is delivered in the record before it is issued", about(e))
		case e.Type == audit.RotationEnded:
			for _, after := range s.Trail.Events[n+1:] {
				if slices.Contains(effects, after.Type) && after.Rotation == e.Rotation {
					wrong("%s is in the record after the end of its rotation", after.Type)
				}
			}
		}
	}
	if disabling := s.count("", audit.KeyDisabled); s.Policy.Approvals > 0 && disabling > 0 {
		if closed := first(audit.GateClosed); closed < 0 || closed > first(audit.KeyDisabled) {
			wrong("%s is in the record before the gate was closed", audit.KeyDisabled)
		}
	}
}
