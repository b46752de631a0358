package workflows

import (
	"cmp"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
)

// act names the activities; its methods are never called here.
var act *activities.Activities

// rotation is the state of one run.
type rotation struct {
	// ctx is disconnected from a cancellation of the run, which is taken as a request to roll back.
	ctx        workflow.Context
	in         RotationInput
	credential inventory.Credential
	queue      string // where calls to the issuer go
	id         string
	plan       policy.Plan
	status     Status
	report     Report
	outbox     outbox
	numbered   int // events and signals so far, for their IDs
	requests   int // signals and updates of this run

	// at is the part of the rotation that is going on.
	at string
	// turn is what ends the routine way at the next safe point.
	turn *turn
	// full: the run ends at the next safe point, and the next one goes on.
	full bool
	// breach is a decision of the watch that a pause has yet to answer.
	breach *policy.Decision
	// retiringGone: the issuer accepts the retiring key no more, for good, which people were told.
	retiringGone bool

	changed, delivered, promoted, disabled, rollingBack, over bool
	// approved: the revoke gate was passed, and what it allows is not over.
	approved bool
	// holding: the spec's signature is not trusted now; resigned: another one was taken.
	holding, resigned bool
	overlapEnds       time.Time
	incomingEnds      time.Time        // by itself; zero for never
	signoffs          []policy.Verdict // that passed the sign-off gate
	// debtDisabled: the retired key was disabled before a run that settles began.
	debtDisabled bool
	cancelWatch  func()
	watches      int   // begun so far; only the last one counts
	indexed      Phase // by which the run is found
	verdicts     map[string]policy.Verdict
	remembered   int // their size, in bytes
	proved       int // signed decisions looked at since the gate opened
	unproved     []*unproved
	background   workflow.WaitGroup
	stale        bool // what is shown
}

func newRotation(ctx workflow.Context, in RotationInput) (*rotation, error) {
	info := workflow.GetInfo(ctx)
	own, _ := workflow.NewDisconnectedContext(ctx)
	r := &rotation{
		ctx: own, in: in, queue: TaskQueue, id: cmp.Or(info.FirstRunID, info.WorkflowExecution.RunID), // the test environment knows no first run

		cancelWatch: func() {}, verdicts: map[string]policy.Verdict{}, background: workflow.NewWaitGroup(ctx),
	}
	// The worker reads the spec strictly, in an activity. Here it is only followed.
	if spec, err := in.Spec.Peek(); err == nil {
		r.credential = spec.Credential
	}
	name, _ := activities.Credential(info.WorkflowExecution.ID)
	r.status = Status{Credential: name, Owner: r.credential.Owner, Rotation: r.id}
	r.report = Report{Credential: name, Rotation: r.id, StartedAt: workflow.Now(ctx)}
	workflow.Go(r.ctx, r.keepShown)
	if err := r.listen(ctx); err != nil {
		return nil, err
	}
	if in.Carried != nil {
		r.resume(*in.Carried)
		return r, nil
	}
	r.indexed = PhaseInspect
	if name, _ := workflow.GetTypedSearchAttributes(ctx).GetKeyword(AttributeCredential); name == "" { // else whoever started it has
		r.index()
	}
	if in.Reason != "" || in.RequestedBy != "" {
		r.happened(audit.RotationRequested, map[string]string{"by": in.RequestedBy, "reason": in.Reason})
	}
	return r, nil
}

// subject is what an activity is told that only looks.
func (r *rotation) subject() *activities.Rotation {
	return &activities.Rotation{Spec: r.in.Spec, ID: r.id, Retiring: r.status.Retiring, Incoming: r.status.Incoming}
}

// acting is what an activity is told that changes or records something: what has happened meanwhile goes along.
func (r *rotation) acting() *activities.Rotation {
	r.flush()
	subject := r.subject()
	subject.Events = r.outbox.along()
	return subject
}

// safePoint is between two steps: here a turn is taken, and a pause is kept.
func (r *rotation) safePoint() error {
	r.measure()
	if err := r.stop(); err != nil {
		return err
	}
	if r.breach != nil && !r.rollingBack {
		return r.pause()
	}
	return nil
}

// wait waits until the deadline, which may move, or until done; a turn ends it. A zero deadline never
// comes.
func (r *rotation) wait(what string, deadline func() time.Time, done func() bool) error {
	if done == nil {
		done = func() bool { return false }
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
		r.until(end)
		moved := func() bool {
			return r.stop() != nil || r.breach != nil || done() || !deadline().Equal(end) || len(r.outbox.events) > 2*maxAlong || r.outbox.size > 2*maxAlongSize
		}
		var err error
		if end.IsZero() {
			err = workflow.Await(r.ctx, moved)
		} else {
			_, err = workflow.AwaitWithOptions(r.ctx, workflow.AwaitOptions{
				Timeout: end.Sub(workflow.Now(r.ctx)), TimerOptions: workflow.TimerOptions{Summary: summary(what)},
			}, moved)
		}
		if err != nil {
			return err
		}
	}
}
