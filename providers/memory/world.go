// Package memory is a world in one process: an issuer, a store, consumers, signals and a notifier that
// really work, keep every promise of package providers strictly, and keep a ledger of all that ever
// happened to a key. Tests of rotations run in it, and judge by the ledger instead of by what keyturn says.
//
// A World can be made difficult: it loses replies, throttles, hangs, answers late about what changed, and
// calls hooks around each operation, where a test may block or kill.
package memory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
)

// Op names an operation, for hooks, faults and the ledger.
type Op string

// The operations.
const (
	OpCapabilities Op = "capabilities"
	OpList         Op = "list"
	OpIssue        Op = "issue"
	OpImport       Op = "import"
	OpIdentify     Op = "identify"
	OpDestroy      Op = "destroy"
	OpDisable      Op = "disable"
	OpEnable       Op = "enable"
	OpSelfTest     Op = "self-test"
	OpCheckRights  Op = "check-rights"
	OpUses         Op = "uses"
	OpPrincipals   Op = "principals"
	OpProbe        Op = "probe"

	OpVersions    Op = "versions"
	OpRead        Op = "read"
	OpReadLabel   Op = "read-label"
	OpStage       Op = "stage"
	OpPromote     Op = "promote"
	OpPrune       Op = "prune"
	OpMetadata    Op = "metadata"
	OpPutMetadata Op = "put-metadata"

	OpDeliver Op = "deliver"
	OpReach   Op = "reach"
	OpHolds   Op = "holds"
	OpPurge   Op = "purge"
	OpAttest  Op = "attest"
	OpCheck   Op = "check"
	OpSample  Op = "sample"
	OpNotify  Op = "notify"

	OpFreeze   Op = "freeze"
	OpUnfreeze Op = "unfreeze"

	// OpRequest is a consumer's use of its key. It is in the ledger when it was refused.
	OpRequest Op = "request"
	// OpReload is in the ledger alone: an instance begins to use another key.
	OpReload Op = "reload"
)

// Phase is when a hook is called.
type Phase string

// The phases. Before: nothing has happened yet. After: the effect has happened, the reply is on its way.
const (
	Before Phase = "before"
	After  Phase = "after"
)

// ErrReplyLost is what a caller sees whose call took effect and whose reply got lost.
var ErrReplyLost = errors.New("connection reset: the reply got lost")

// World is everything outside keyturn. Any number of goroutines may use it.
type World struct {
	now func() time.Time

	mu            sync.Mutex
	principals    map[string]*principal
	stores        map[string]*store
	instances     map[string]*instance
	notifications []providers.Notification
	freezes       map[string]providers.Freeze
	ledger        []Event
	lacks         []string
	outlives      string
	deny          string

	trouble sync.Mutex // guards the following; not held during effects and hooks
	hooks   map[Op][]func(Phase)
	faults  map[Op][]fault
	gates   map[Op][]chan struct{}
	befall  func(context.Context, Call) error
}

// SetLacks says which rights Probe finds the worker to lack.
func (w *World) SetLacks(lacks ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lacks = lacks
}

// Call is one phase of one call of an operation.
type Call struct {
	Op    Op
	Phase Phase
	// Instance is to which one; empty for what is not about instances.
	Instance string
}

// NewWorld makes an empty World with this clock; the real one when nil. The clock must be safe for use by
// many goroutines, and may be a test environment's that skips time.
func NewWorld(now func() time.Time) *World {
	if now == nil {
		now = time.Now
	}
	return &World{
		now:        now,
		principals: map[string]*principal{}, stores: map[string]*store{}, instances: map[string]*instance{},
		hooks: map[Op][]func(Phase){}, faults: map[Op][]fault{}, gates: map[Op][]chan struct{}{},
	}
}

// On calls hook around each operation op from now on, whoever calls it. The World is not locked then: the
// hook may use it, block, or panic as a process dies.
func (w *World) On(op Op, hook func(Phase)) {
	w.trouble.Lock()
	defer w.trouble.Unlock()
	w.hooks[op] = append(w.hooks[op], hook)
}

// Befall calls hook around each call of every operation, with the caller's context. Its error is what the caller
// sees: before the effect there is none then, after it the reply is lost. It may block or panic, as hooks may.
func (w *World) Befall(hook func(context.Context, Call) error) {
	w.trouble.Lock()
	defer w.trouble.Unlock()
	w.befall = hook
}

// fault is what happens to one call; the zero fault is none.
type fault struct {
	refuse    error
	loseReply bool
}

// LoseReply lets the next calls of op take effect, and their callers see ErrReplyLost.
func (w *World) LoseReply(op Op, times int) { w.addFaults(op, fault{loseReply: true}, times) }

// Throttle refuses the next calls of op with providers.ErrThrottled, without effect.
func (w *World) Throttle(op Op, times int) { w.Fail(op, providers.ErrThrottled, times) }

// Fail refuses the next calls of op with an error, without effect; a nil error lets them pass.
func (w *World) Fail(op Op, err error, times int) { w.addFaults(op, fault{refuse: err}, times) }

func (w *World) addFaults(op Op, f fault, times int) {
	w.trouble.Lock()
	defer w.trouble.Unlock()
	w.faults[op] = append(w.faults[op], slices.Repeat([]fault{f}, times)...)
}

// Hang holds each call of op before its effect, until release or the end of the call's context.
func (w *World) Hang(op Op) (release func()) {
	gate := make(chan struct{})
	w.trouble.Lock()
	defer w.trouble.Unlock()
	w.gates[op] = append(w.gates[op], gate)
	return sync.OnceFunc(func() {
		w.trouble.Lock()
		defer w.trouble.Unlock()
		w.gates[op] = slices.DeleteFunc(w.gates[op], func(g chan struct{}) bool { return g == gate })
		close(gate)
	})
}

// do runs one operation: hooks, faults, and in between its effect, which happens whole or not at all.
func (w *World) do(ctx context.Context, op Op, effect func(now time.Time) error) error {
	return w.doAt(ctx, op, "", effect)
}

// doAt is do for an operation on an instance.
func (w *World) doAt(ctx context.Context, op Op, instance string, effect func(now time.Time) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	f := w.prepare(op)
	for _, gate := range f.gates {
		select {
		case <-gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for _, hook := range f.hooks {
		hook(Before)
	}
	if f.befall != nil {
		if err := f.befall(ctx, Call{op, Before, instance}); err != nil {
			return fmt.Errorf("%s: %w", op, err)
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if f.refuse != nil {
		return fmt.Errorf("%s: %w", op, f.refuse)
	}
	if err := w.locked(effect); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	for _, hook := range f.hooks {
		hook(After)
	}
	if f.befall != nil {
		if err := f.befall(ctx, Call{op, After, instance}); err != nil {
			return fmt.Errorf("%s: %w", op, err)
		}
	}
	if f.loseReply {
		return fmt.Errorf("%s: %w", op, ErrReplyLost)
	}
	return nil
}

func (w *World) locked(effect func(now time.Time) error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return effect(w.now().UTC())
}

type preparation struct {
	fault
	hooks  []func(Phase)
	gates  []chan struct{}
	befall func(context.Context, Call) error
}

// prepare takes the call's fault, hooks and gates.
func (w *World) prepare(op Op) preparation {
	w.trouble.Lock()
	defer w.trouble.Unlock()
	p := preparation{hooks: slices.Clone(w.hooks[op]), gates: slices.Clone(w.gates[op]), befall: w.befall}
	if waiting := w.faults[op]; len(waiting) > 0 {
		p.fault, w.faults[op] = waiting[0], waiting[1:]
	}
	return p
}

// copied returns a bundle that no other shares memory with: callers close theirs.
func copied(b secret.Bundle) secret.Bundle {
	fields := map[string]secret.Value{}
	for _, name := range b.Names() {
		v, _ := b.Field(name)
		fields[name] = secret.New(v.Reveal())
	}
	return secret.NewBundle(fields)
}
