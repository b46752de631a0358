package invariant

import (
	"slices"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/workflows"
)

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
