package workflows

import (
	"cmp"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
)

// act names the activities; its methods are never called here.
var act *activities.Activities

// rotation is one run: what it knows of its rotation, and what counts in this run alone.
type rotation struct {
	State
	// ctx is disconnected from a cancellation of the run, which is taken as a request to roll back.
	ctx        workflow.Context
	in         RotationInput
	credential inventory.Credential

	requests int // signals and updates so far
	// full: the run ends at the next safe point, and the next one goes on.
	full bool
	// signoffs are the approvals that passed the sign-off gate.
	signoffs []policy.Verdict
	// approved: the revoke gate was passed, and what it allows is not over.
	approved bool
	// holding: the spec's signature is not trusted now; resigned: another one was taken.
	holding, resigned bool
	pausing           bool // for the breach
	judging           bool // what the watch has found: nothing goes on before it is known what that means
	cancelWatch       func()
	unwatchDisabled   func()              // ends the watch of a disabled key
	watches           int                 // begun so far; only the last one counts
	unwatched         bool                // but for its keys, until the overlap begins
	leave             workflow.CancelFunc // gives back the slot of those that are not promoted yet; nil for none
	indexed           Phase               // by which the run is found
	remembered        int                 // how large the verdicts are, in bytes
	proved, refusals  int                 // signed decisions looked at, and decisions refused, since the gate opened
	// lookedBack is when it was looked up why there is no way back, onlyOn; empty when there is one.
	lookedBack time.Time
	onlyOn     string
	unproved   []*unproved
	unread     bool // no worker could read the spec
	// converged is the key that an emergency has seen everybody on last.
	converged string
	// reviewed says what a run has reviewed that does nothing else.
	reviewed string
	// takeover is by what the next run is the emergency of the credential; nil while nothing is exposed.
	takeover   *Emergency
	background workflow.WaitGroup
	stale      bool // what is shown
}

func newRotation(ctx workflow.Context, in RotationInput) (*rotation, error) {
	info := workflow.GetInfo(ctx)
	own, _ := workflow.NewDisconnectedContext(ctx)
	if in.Emergency != nil {
		own = workflow.WithPriority(own, temporal.Priority{PriorityKey: UrgentPriority}) // of all its activities
	}
	r := &rotation{ctx: own, in: in, cancelWatch: func() {}, unwatchDisabled: func() {}, background: workflow.NewWaitGroup(ctx)}
	name, _ := activities.Credential(info.WorkflowExecution.ID)
	if in.Carried != nil {
		r.State = *in.Carried
	} else {
		r.Queue, r.Report = TaskQueue, Report{Credential: name, StartedAt: workflow.Now(ctx)}
	}
	// Which rotation it is does not stand in an input.
	r.Status.Credential, r.Status.Rotation = name, cmp.Or(info.FirstRunID, info.WorkflowExecution.RunID) // the test environment knows no first run
	r.Report.Rotation = r.Status.Rotation
	r.Status.RequestedBy, r.Status.Reason, r.Status.Ends = clip(in.RequestedBy), clip(in.Reason), clip(in.Ends())
	r.read(in.Spec)
	workflow.Go(r.ctx, r.keepShown)
	if err := r.listen(ctx); err != nil {
		return nil, err
	}
	if in.Carried != nil {
		r.goOn()
		return r, nil
	}
	r.indexed = PhaseInspect
	if name, _ := workflow.GetTypedSearchAttributes(ctx).GetKeyword(AttributeCredential); name == "" { // else whoever started it has
		r.index()
	}
	if in.Reason != "" || in.RequestedBy != "" || in.Now || in.Retire != "" {
		asked := map[string]string{"by": in.RequestedBy, "reason": in.Reason}
		if in.Now {
			asked["now"] = "whatever the calendar says"
		}
		if in.Retire != "" {
			asked["retire"] = clip(in.Retire)
		}
		r.happened(audit.RotationRequested, asked)
	}
	return r, nil
}

// read makes a spec the run's own. The worker reads it strictly, in an activity; here it is only followed.
func (r *rotation) read(spec inventory.SignedSpec) {
	r.in.Spec = spec
	if known, err := spec.Peek(); err == nil {
		r.credential, r.Status.Owner, r.Status.Generation = known.Credential, known.Credential.Owner, known.Generation
	}
}

// subject is what an activity is told that only looks.
func (r *rotation) subject() *activities.Rotation {
	subject := &activities.Rotation{Spec: r.in.Spec, ID: r.Status.Rotation, Retiring: r.Status.Retiring, Incoming: r.Status.Incoming}
	if r.in.Emergency != nil {
		subject.Emergency = &r.in.Emergency.Emergency
	}
	return subject
}

// acting is what an activity is told that changes or records something: what has happened meanwhile goes along.
func (r *rotation) acting() *activities.Rotation {
	r.flush()
	subject := r.subject()
	subject.Events = r.Outbox.along()
	return subject
}

// safePoint is between two steps: here a turn is taken, and a pause is kept.
func (r *rotation) safePoint() error {
	r.measure()
	if r.judging {
		// A turn that is known waits for nothing; the end of this run alone does, or what the watch has found would be lost.
		judged := func() bool { return !r.judging || r.turned() != nil }
		if err := workflow.Await(r.ctx, judged); err != nil {
			return err
		}
	}
	if err := r.stop(); err != nil {
		return err
	}
	if r.Breach != nil && !r.pausing && !r.rollingBack() {
		return r.pause()
	}
	return nil
}

// wait waits until the deadline, which may move, or until done; a turn ends it. A zero deadline never
// comes.
func (r *rotation) wait(what string, deadline func() time.Time, done func() bool) error {
	return r.waitReminding(what, deadline, done, nil)
}

// waitReminding is wait, and reminds people each day that it lasts. One timer does both: each costs events.
func (r *rotation) waitReminding(what string, deadline func() time.Time, done func() bool, remind func()) error {
	if done == nil {
		done = func() bool { return false }
	}
	var next time.Time
	if remind != nil {
		next = workflow.Now(r.ctx).Add(remindAgain)
	}
	for {
		r.flush()
		if err := r.safePoint(); err != nil {
			return err
		}
		end := deadline()
		if done() || !end.IsZero() && !workflow.Now(r.ctx).Before(end) {
			return nil
		}
		if !next.IsZero() && !workflow.Now(r.ctx).Before(next) {
			remind()
			next = workflow.Now(r.ctx).Add(remindAgain)
		}
		r.until(end)
		wakes := end
		if end.IsZero() || !next.IsZero() && next.Before(end) {
			wakes = next
		}
		moved := func() bool {
			return r.stop() != nil || r.Breach != nil || done() || !deadline().Equal(end) || len(r.Outbox.events) > 2*maxAlong || r.Outbox.size > 2*maxAlongSize
		}
		var err error
		if wakes.IsZero() {
			err = workflow.Await(r.ctx, moved)
		} else {
			_, err = awaitAtMost(r.ctx, wakes.Sub(workflow.Now(r.ctx)), summary(what), moved)
		}
		if err != nil {
			return err
		}
	}
}
