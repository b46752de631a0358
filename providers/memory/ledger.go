package memory

import (
	"slices"
	"time"
)

// Event is one thing that happened, whether or not its caller got to know. What was refused did not
// happen, except that a refused request did.
type Event struct {
	// Seq counts from 1 in the order of happening.
	Seq int
	At  time.Time
	Op  Op
	// The following say to what, as far as they apply. Version of a promotion is where CURRENT went,
	// From where it was.
	Principal, KeyID, Token, Path, Version, From, Instance string
}

// Ledger returns all events so far: issue, disable, enable, destroy, stage, promote, prune, put-metadata,
// deliver, reload, purge, notify, and each request that was refused. A call that found all as it should be is not
// in it.
func (w *World) Ledger() []Event {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.ledger)
}

// Happened returns the events of some operations.
func (w *World) Happened(ops ...Op) []Event {
	return slices.DeleteFunc(w.Ledger(), func(e Event) bool { return !slices.Contains(ops, e.Op) })
}

// note adds to the ledger. The World is locked.
func (w *World) note(now time.Time, e Event) {
	e.Seq, e.At = len(w.ledger)+1, now
	w.ledger = append(w.ledger, e)
}
