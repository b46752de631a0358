package workflows

import (
	"errors"
	"time"

	"go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/activities"
)

// How an incident waits for a rotation that it asked to become an emergency.
const (
	// askAgain is how long one that does not answer is given until it is asked once more, and takeoverTimeout until it is ended.
	askAgain        = 15 * time.Second
	takeoverTimeout = time.Minute
	// One that has heard is asked now and then whether it still answers.
	firstLook, lastLook = time.Minute, 15 * time.Minute
)

// contain begins the emergency of a credential, as often as it takes for one to come to its end: as a child, or, while a rotation runs,
// by asking that. A rotation that ends in between is followed by a child, and so is whatever does not answer, which is ended.
func (i *incidentRun) contain(ctx workflow.Context, m *IncidentMember) {
	input := RotationInput{Credential: m.Credential, Emergency: i.emergency(m.Credential), Reason: i.Status.Reason, RequestedBy: i.in.RequestedBy}
	if spec, given := i.in.Specs[m.Credential]; given {
		input.Spec = spec
	}
	if m.Unconfirmed && !i.signedAnew(ctx, m, m.Message) { // since the run before
		i.ended(m, Report{Outcome: Failed, Message: "nobody signed for it again"})
		return
	}
	told := func() bool { _, told := i.News[m.Credential]; return told }
	follows := i.Asked[m.Credential] // what the run before began, or asked, tells this one
	for pause := time.Second; ; pause = min(2*pause, time.Minute) {
		if follows {
			follows = false
			i.awaitEnd(ctx, m, told, func() error { return i.takeOver(ctx, m) }, activities.TakeoverHeard)
			if i.tookNews(m) {
				return
			}
			continue
		}
		delete(i.News, m.Credential) // of one that ended before
		i.mayBegin(ctx, m)
		input.Emergency = i.emergency(m.Credential)
		child := workflow.ExecuteChildWorkflow(workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{
			WorkflowID: WorkflowID(m.Credential), TaskQueue: EmergencyQueue, ParentClosePolicy: enums.PARENT_CLOSE_POLICY_ABANDON,
			WorkflowIDReusePolicy: enums.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE, Priority: temporal.Priority{PriorityKey: UrgentPriority},
			StaticSummary: summary("emergency of " + m.Credential),
		}), EmergencyRotation, input)
		err := child.GetChildWorkflowExecution().Get(ctx, nil)
		switch {
		case err == nil:
			i.Asked[m.Credential], i.begins[m.Credential] = true, true
			i.became(m, "containing")
			i.awaitEnd(ctx, m, child.IsReady, func() error { return nil }, "")
			report, ended := i.reported(child, ctx)
			if i.looking[m.Credential] { // that its keys are dead is said before; whoever tells something all the time holds up nothing
				_, _ = awaitAtMost(ctx, firstLook, summary("a look at the exposed keys of "+m.Credential), func() bool { return !i.looking[m.Credential] })
			}
			delete(i.begins, m.Credential)
			if ended && report.Unconfirmed && i.signedAnew(ctx, m, report.Message) {
				continue
			}
			if ended {
				i.ended(m, report)
				return
			}
			i.became(m, "its emergency was stopped: "+report.Message)
		case temporal.IsWorkflowExecutionAlreadyStartedError(err):
			i.awaitEnd(ctx, m, told, func() error { return i.takeOver(ctx, m) }, "")
			if i.tookNews(m) {
				return
			}
		default:
			i.became(m, "cannot begin: "+cause(err))
		}
		_ = sleep(ctx, pause, summary("before trying again to begin the emergency of "+m.Credential))
	}
}

// tookNews takes what an emergency told of its end that is no child of this run, and that is so. It tells whether there was any.
func (i *incidentRun) tookNews(m *IncidentMember) bool {
	report, news := i.News[m.Credential]
	delete(i.News, m.Credential)
	if news {
		i.ended(m, report)
	}
	return news
}

// takeOver asks the rotation that runs to become the emergency.
func (i *incidentRun) takeOver(ctx workflow.Context, m *IncidentMember) error {
	i.turn(ctx)
	err := workflow.SignalExternalWorkflow(ctx, WorkflowID(m.Credential), "", CompromisedName, Compromised{
		Incident: i.Status.Incident, Reason: i.Status.Reason, Emergency: i.emergency(m.Credential),
	}).Get(ctx, nil)
	if err == nil {
		i.Asked[m.Credential] = true
		i.became(m, "asked the rotation that runs")
	}
	return err
}

// awaitEnd waits until what has the credential's workflow ID has ended, and sees now and then whether it answers, after asking it. What
// does not for a while is ended, and so is what has only heard when the deadline has passed. is how it stood when it was asked last; empty
// when it was not.
func (i *incidentRun) awaitEnd(ctx workflow.Context, m *IncidentMember, over func() bool, ask func() error, is activities.Takeover) {
	var silent time.Time // since when it does not answer; zero when it does
	for every, wait := firstLook, askAgain; ; {
		asked := workflow.Now(ctx)
		if is != activities.TakeoverHeard && is != activities.TakeoverActs && ask() != nil && silent.IsZero() {
			wait = time.Second // it has ended, or takes no signal any more
		}
		if left := i.Status.Deadline.Add(takeoverTimeout).Sub(asked); left > 0 {
			wait = min(wait, max(left, askAgain), firstLook) // it is not left alone before the deadline, nor until it has to be ended
		}
		_, _ = awaitAtMost(ctx, wait, summary("the emergency of "+m.Credential+", then looking after it"), func() bool { return over() || i.doubted[m.Credential] })
		if over() {
			return
		}
		delete(i.doubted, m.Credential)
		input := activities.TakeoverInput{DeclarationInput: activities.DeclarationInput{Credential: m.Credential}, Incident: i.Status.Incident}
		input.End = !silent.IsZero() && workflow.Now(ctx).Sub(silent) >= takeoverTimeout
		input.Late = is == activities.TakeoverHeard && workflow.Now(ctx).Sub(i.Status.Deadline) >= takeoverTimeout
		if input.End || input.Late {
			input.Emergency = i.emergency(m.Credential).Emergency
		}
		i.turn(ctx)
		if err := following.start(ctx, EmergencyQueue, act.Follow, input).Get(ctx, &is); err != nil {
			if isType(err, activities.TypeDeclaration) && i.signedAnew(ctx, m, cause(err)) {
				continue
			}
			i.became(m, "nobody can tell how its rotation stands: "+cause(err))
			wait, every = every, min(2*every, lastLook)
			continue
		}
		switch is {
		case activities.TakeoverHeard, activities.TakeoverActs:
			i.became(m, map[activities.Takeover]string{activities.TakeoverHeard: "the rotation that runs has heard", activities.TakeoverActs: "containing"}[is])
			silent, wait, every = time.Time{}, every, min(2*every, lastLook)
		case activities.TakeoverSilent:
			if wait = askAgain; silent.IsZero() {
				silent = asked
			}
			i.became(m, "what runs does not answer; it is ended "+silent.Add(takeoverTimeout).UTC().Format(time.TimeOnly))
		case activities.TakeoverEnded:
			if silent.IsZero() {
				i.note("%s: the rotation that ran had heard, was not the emergency when the deadline had passed, and was ended", m.Credential)
			} else {
				i.note("%s: what ran did not answer, and was ended", m.Credential)
			}
			return
		default:
			return
		}
	}
}

// reported waits for the end of a child. It is none when the child was stopped: its keys may be alive.
func (i *incidentRun) reported(child workflow.ChildWorkflowFuture, ctx workflow.Context) (report Report, ended bool) {
	err := child.Get(ctx, &report)
	var failed *temporal.ApplicationError
	switch {
	case err == nil:
		return report, true
	case errors.As(err, &failed) && failed.Type() == FailedType:
		if !failed.HasDetails() || failed.Details(&report) != nil {
			report = Report{Outcome: Failed, Message: cause(err)}
		}
		return report, true
	}
	return Report{Message: cause(err)}, false
}
