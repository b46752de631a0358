package workflows

import (
	"errors"
	"fmt"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
)

// ScheduledRotation is what a credential's Schedule starts. It begins a rotation when one is due and none runs,
// and waits for it; what became of it is the result. Its own end never ends the rotation.
func ScheduledRotation(ctx workflow.Context, in RotationInput) (ScheduledReport, error) {
	s := &scheduled{ctx: ctx, in: in, report: ScheduledReport{Credential: in.Credential}}
	if err := s.run(); err != nil {
		return s.report, err
	}
	_ = workflow.UpsertTypedSearchAttributes(ctx, AttributeCredential.ValueSet(keyword(s.report.Credential)), AttributeOutcome.ValueSet(string(s.report.Outcome)))
	workflow.SetCurrentDetails(ctx, fmt.Sprintf("### %s: %s\n\n%s", text(s.report.Credential), s.report.Outcome, text(s.report.Message)))
	if s.report.Outcome == Failed {
		return s.report, temporal.NewNonRetryableApplicationError(s.report.Message, FailedType, nil, s.report)
	}
	return s.report, nil
}

// scheduled is the state of one firing.
type scheduled struct {
	ctx        workflow.Context
	in         RotationInput
	credential inventory.Credential
	report     ScheduledReport
}

// run ends with the report, or with an error when the run itself was cancelled or could not go on.
func (s *scheduled) run() error {
	spec := s.in.Spec
	if len(spec.Body) == 0 && s.in.Credential != "" {
		if err := s.ask(resolving, act.Resolve, s.in.Credential, &spec); err != nil {
			return s.unresolved(err)
		}
	}
	s.in.Credential = ""
	wanted, err := s.wanted(spec)
	if err != nil || !wanted {
		return err
	}
	return s.rotate()
}

// follow takes a spec for the one to rotate by.
func (s *scheduled) follow(spec inventory.SignedSpec) error {
	peek, err := spec.Peek()
	if err != nil {
		return s.end(Refused, policy.SpecRefused, "what the Schedule has is no spec; apply the inventory again, with --verify")
	}
	s.in.Spec, s.credential, s.report.Credential = spec, peek.Credential, peek.Credential.Name
	return nil
}

// ask executes a step that only looks until it has an answer, or the firing is cancelled.
func (s *scheduled) ask(o step, activity, input, output any) error {
	err := o.start(s.ctx, TaskQueue, activity, input).Get(s.ctx, output)
	if !unanswered(err) {
		return err
	}
	workflow.SetCurrentDetails(s.ctx, fmt.Sprintf("### %s: waits for an answer\n\nIt could not %s: %s. It is tried again and again.", text(s.report.Credential), o.summary, text(cause(err))))
	defer workflow.SetCurrentDetails(s.ctx, "")
	return o.unending().start(s.ctx, TaskQueue, activity, input).Get(s.ctx, output)
}

// unresolved ends a firing that has no spec to rotate by.
func (s *scheduled) unresolved(err error) error {
	switch {
	case temporal.IsCanceledError(err):
		return err
	case isType(err, activities.TypeLeft):
		return s.end(Refused, policy.LeftInventory, "%s is in no applied inventory: it left the inventory, or was never in one; nothing was changed", s.report.Credential)
	case isFinal(err):
		return s.end(Refused, policy.SpecRefused, "%s", cause(err))
	}
	return s.end(Skipped, policy.NotLooked, "it was not looked at: %s", cause(err))
}

// wanted tells whether a rotation shall begin, and has a slot for it then. A wait for one may last days, so that what
// was looked at before is looked at again; so it is by a spec that was applied meanwhile.
func (s *scheduled) wanted(spec inventory.SignedSpec) (bool, error) {
	for held := false; ; {
		if err := s.follow(spec); err != nil || s.ended() {
			return false, err
		}
		look := looking
		if held {
			look = rechecking
		}
		due, accepted, err := s.look(look)
		switch {
		case err != nil:
			return false, err
		case !accepted:
			return true, nil
		case !due.Decision.OK:
			s.report.RotateBy, s.report.NextRun = due.State.RotateBy, due.NextRun
			return false, s.end(Skipped, due.Decision.Reason, "%s", due.Decision.Message)
		}
		waited := false
		if !held {
			looked := workflow.Now(s.ctx)
			if held, err = s.slot(due.State.RotateBy); err != nil || !held {
				return false, err
			}
			waited = workflow.Now(s.ctx).Sub(looked) > min(lookLasts, s.credential.Overlap.Std())
		}
		var standing activities.Standing
		switch err := s.ask(comparing, act.Compare, s.in.Spec, &standing); {
		case err != nil:
			return false, s.unresolved(err)
		case !standing.Decision.OK:
			return false, s.end(Skipped, standing.Decision.Reason, "%s", standing.Decision.Message)
		case len(standing.Newer.Body) > 0:
			spec = standing.Newer
		case !waited:
			return true, nil
		}
	}
}

// lookLasts is how long what was looked at counts, if that is less than an overlap: no whole rotation fits in, of which
// nothing would be seen.
const lookLasts = 10 * time.Second

// look judges by issuer and store whether a rotation is due. A spec that no worker accepts is the rotation's to refuse,
// since it is there that a refusal is recorded, and people are told. What cannot be looked at is the rotation's to find,
// and counts as due: what keeps this credential from being looked at may keep many, so that they need slots all the same.
func (s *scheduled) look(how step) (due activities.Due, accepted bool, err error) {
	var by activities.Accepted
	if s.ask(accepting, act.Accept, s.in.Spec, &by) != nil {
		return due, false, s.ctx.Err()
	}
	subject := activities.Rotation{Spec: s.in.Spec, ID: workflow.GetInfo(s.ctx).FirstRunID, Start: policy.Start{Fired: true, Nominal: nominal(workflow.GetInfo(s.ctx).WorkflowExecution.ID)}}
	if how.start(s.ctx, issuerQueue(s.credential, by), act.LookWhetherDue, subject).Get(s.ctx, &due) == nil {
		return due, true, nil
	}
	if err := s.ctx.Err(); err != nil {
		return due, false, err
	}
	return activities.Due{Decision: policy.Decision{OK: true}}, true, nil
}

// nominal is when a Schedule was to fire: Temporal ends the ID of what it starts with that. It is zero for what a person started.
func nominal(id string) time.Time {
	at, err := time.Parse(time.RFC3339, id[max(0, len(id)-len("2006-01-02T15:04:05Z")):])
	if err != nil {
		return time.Time{}
	}
	return at
}

// slot waits for one, and tells whether it was had. Those who wait find each other by their search attributes, so that
// the most urgent one goes first.
func (s *scheduled) slot(rotateBy time.Time) (bool, error) {
	input := activities.SlotInput{Spec: s.in.Spec, RotateBy: rotateBy, Since: workflow.GetInfo(s.ctx).WorkflowStartTime}
	attributes := []temporal.SearchAttributeUpdate{
		AttributeCredential.ValueSet(keyword(s.credential.Name)), AttributeRisk.ValueSet(keyword(string(s.credential.Risk))),
		AttributeEnvironment.ValueSet(keyword(s.credential.Environment)), AttributePhase.ValueSet(string(PhaseSlot)),
	}
	if !rotateBy.IsZero() {
		attributes = append(attributes, AttributeRotateBy.ValueSet(rotateBy))
	}
	_ = workflow.UpsertTypedSearchAttributes(s.ctx, attributes...)
	workflow.SetCurrentDetails(s.ctx, fmt.Sprintf("### %s: waits for a slot\n\nThe pending activity says how many go first.", text(s.credential.Name)))
	for {
		var slot activities.Slot
		if err := awaitingSlot.start(s.ctx, TaskQueue, act.AwaitSlot, input).Get(s.ctx, &slot); err != nil {
			return false, err
		}
		if !slot.Decision.OK {
			return false, s.end(Skipped, slot.Decision.Reason, "%s", slot.Decision.Message)
		}
		taken, err := takeSlot(s.ctx, policy.Slot{Environment: slot.Environment, Number: slot.Number}, s.credential.Name)
		if err != nil {
			return false, err
		}
		if taken {
			_ = workflow.UpsertTypedSearchAttributes(s.ctx, AttributePhase.ValueUnset())
			workflow.SetCurrentDetails(s.ctx, "")
			return true, nil
		}
		input.Lost = slot.Number
	}
}

// takeSlot starts the slot's workflow, which ends when this run does, however that ends, or ctx.
func takeSlot(ctx workflow.Context, slot policy.Slot, credential string) (bool, error) {
	ctx = workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{
		WorkflowID: SlotID(slot), TaskQueue: TaskQueue, ParentClosePolicy: enumspb.PARENT_CLOSE_POLICY_REQUEST_CANCEL,
		StaticSummary: "a slot of routine rotations, taken by that of " + credential,
	})
	err := workflow.ExecuteChildWorkflow(ctx, RotationSlot).GetChildWorkflowExecution().Get(ctx, nil)
	var already *temporal.ChildWorkflowExecutionAlreadyStartedError
	if errors.As(err, &already) {
		return false, nil
	}
	return err == nil, err
}

// rotate begins the rotation and waits for its end.
func (s *scheduled) rotate() error {
	// Disconnected: a cancellation of this run must not cancel the rotation.
	own, _ := workflow.NewDisconnectedContext(s.ctx)
	name := s.credential.Name
	ctx := workflow.WithChildOptions(own, workflow.ChildWorkflowOptions{
		WorkflowID: WorkflowID(name), TaskQueue: TaskQueue, ParentClosePolicy: enumspb.PARENT_CLOSE_POLICY_ABANDON,
		TypedSearchAttributes: SearchAttributes(s.credential),
		StaticSummary:         "rotation of " + name,
		StaticDetails:         fmt.Sprintf("%s\n\nOwner: %s. Reason: %s", s.credential.Purpose, s.credential.Owner, s.in.Reason),
	})
	child := workflow.ExecuteChildWorkflow(ctx, Rotation, s.in)
	var execution workflow.Execution
	err := child.GetChildWorkflowExecution().Get(ctx, &execution)
	var already *temporal.ChildWorkflowExecutionAlreadyStartedError
	if errors.As(err, &already) {
		running := activities.AlreadyRunning(name)
		return s.end(Skipped, running.Reason, "%s", running.Message)
	}
	if err != nil {
		return err
	}
	s.report.Run = execution.RunID
	if err := workflow.Await(s.ctx, child.IsReady); err != nil {
		return err
	}
	var report Report
	err = child.Get(ctx, &report)
	var failed *temporal.ApplicationError
	reported := errors.As(err, &failed) && failed.Type() == FailedType && failed.Details(&report) == nil
	if err != nil && !reported {
		return s.end(Failed, StepFailed, "the rotation ended without a report: %s; look at it with: keyturn status %s", cause(err), name)
	}
	s.report.RotateBy, s.report.NextRun = report.RotateBy, report.NextRun
	return s.end(report.Outcome, report.Reason, "%s", report.Message)
}

func (s *scheduled) end(outcome Outcome, reason policy.Reason, format string, args ...any) error {
	s.report.Outcome, s.report.Reason, s.report.Message = outcome, reason, fmt.Sprintf(format, args...)
	return nil
}

func (s *scheduled) ended() bool { return s.report.Outcome != "" }

// RotationSlot is taken as long as it runs: until the run that started it has ended.
func RotationSlot(ctx workflow.Context) error {
	ctx.Done().Receive(ctx, nil)
	return nil
}

// resolve is the spec by value, or that of the credential's Schedule.
func resolve(ctx workflow.Context, spec inventory.SignedSpec, credential string) (inventory.SignedSpec, error) {
	if len(spec.Body) > 0 || credential == "" {
		return spec, nil
	}
	err := resolving.start(ctx, TaskQueue, act.Resolve, credential).Get(ctx, &spec)
	return spec, err
}
