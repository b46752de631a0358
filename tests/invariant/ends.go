package invariant

import (
	"slices"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/workflows"
)

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
