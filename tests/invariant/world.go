package invariant

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/providers/memory"
)

// InMemory is a World in which a rotation is seen.
type InMemory struct {
	World           *memory.World
	Principal, Path string
	Before          Before
	// From is how many events the ledger had before the rotation began.
	From int
	// Theirs tells what others did; nil when nobody did anything.
	Theirs func(memory.Event) bool
}

var kindsOf = map[memory.Op]Kind{
	memory.OpIssue: Issued, memory.OpDisable: Disabled, memory.OpEnable: Enabled, memory.OpDestroy: Destroyed,
	memory.OpStage: Staged, memory.OpPromote: Promoted, memory.OpPrune: Pruned,
	memory.OpDeliver: Delivered, memory.OpReload: Using, memory.OpRequest: Refused,
}

// keyIn names the key in each version that ever was of ours.
func (w InMemory) keyIn() map[string]string {
	in, minted := map[string]string{}, map[string]string{}
	if w.Before.Version != "" {
		in[w.Before.Version] = w.Before.Current
	}
	for _, e := range w.World.Ledger() {
		switch e.Op {
		case memory.OpIssue:
			minted[e.Token] = e.KeyID
		case memory.OpStage:
			in[e.Version] = minted[e.Token]
		}
	}
	return in
}

// Events are the World's ledger, with the uses of all keys. A World that refuses to tell panics: outside an activity it refuses nothing.
func (w InMemory) Events() (list []Event) {
	in, known := w.keyIn(), map[string]bool{}
	for _, k := range w.Before.Keys {
		known[k.ID] = true
	}
	for _, e := range w.World.Ledger()[w.From:] {
		kind, ok := kindsOf[e.Op]
		if !ok {
			continue
		}
		event := Event{At: e.At, Kind: kind, Key: e.KeyID, Version: e.Version, From: e.From, Instance: e.Instance, Theirs: w.Theirs != nil && w.Theirs(e)}
		if e.Version != "" {
			event.Key = in[e.Version]
		}
		known[e.KeyID] = known[e.KeyID] || e.Op == memory.OpIssue
		list = append(list, event)
	}
	for _, id := range slices.Sorted(maps.Keys(known)) {
		if !known[id] {
			continue
		}
		for _, at := range w.World.UsedAt(w.Principal, id) {
			list = append(list, Event{At: at, Kind: Used, Key: id})
		}
	}
	slices.SortStableFunc(list, func(a, b Event) int { return a.At.Compare(b.At) })
	return list
}

// End is the World as it is now, after these events.
func (w InMemory) End(events []Event) End {
	ctx := context.Background()
	end := End{Keys: map[string]key.State{}, Versions: []Version{}, Holds: map[string]string{}, DeadRefused: map[string]bool{}}
	keys, err := w.World.Issuer(w.Principal).List(ctx)
	in := w.keyIn()
	versions, verr := w.World.Store(w.Path).Versions(ctx)
	m, merr := w.World.Store(w.Path).Metadata(ctx)
	if err := errors.Join(err, verr, merr); err != nil {
		panic(err)
	}
	for _, k := range keys {
		end.Keys[k.KeyID] = k.State
	}
	for _, v := range versions {
		version := Version{ID: v.ID, Labels: v.Labels, Key: in[v.ID]}
		if _, ours := in[v.ID]; !ours {
			version.Standing = Stranger
		}
		end.Versions = append(end.Versions, version)
	}
	end.Metadata = &m
	for _, i := range w.Before.Instances {
		end.Holds[i.Name] = w.World.Using(i.Name)
	}
	for _, e := range events {
		if e.Kind == Destroyed {
			end.DeadRefused[e.Key] = !w.World.Accepts(w.Principal, e.Key)
		}
	}
	return end
}
