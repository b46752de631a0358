package schedule

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/google/uuid"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	schedulepb "go.temporal.io/api/schedule/v1"
	sdkpb "go.temporal.io/api/sdk/v1"
	"go.temporal.io/api/serviceerror"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/converter"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/outside"
	"github.com/keyturn/keyturn/internal/patience"
	"github.com/keyturn/keyturn/workflows"
)

// catchUp is how late a Schedule still fires after an outage of Temporal.
const catchUp = time.Hour

// identity is who Temporal's history says has changed a Schedule.
const identity = "keyturn"

// made is all that Temporal keeps of a Schedule.
type made struct {
	schedule   *schedulepb.Schedule
	attributes *commonpb.SearchAttributes
	memo       *commonpb.Memo
}

func (s *Schedules) make(content Content) (id string, m made, err error) {
	spec, err := content.Signed.Peek()
	if err != nil {
		return "", m, fmt.Errorf("reading spec: %w", err)
	}
	c := spec.Credential
	e := Entry{Inventory: spec.Inventory, Credential: c.Name, State: content.State}
	if err := e.declare(s.catalog, content.Signed, spec); err != nil {
		return "", m, err
	}
	if m.attributes, m.memo, err = e.write(c.Issuer.Type); err != nil {
		return "", m, err
	}
	action, err := start(content, c)
	if err != nil {
		return "", m, err
	}
	m.schedule = &schedulepb.Schedule{
		Spec:   when(c, content.State),
		Action: &schedulepb.ScheduleAction{Action: &schedulepb.ScheduleAction_StartWorkflow{StartWorkflow: action}},
		Policies: &schedulepb.SchedulePolicies{
			OverlapPolicy: enumspb.SCHEDULE_OVERLAP_POLICY_SKIP, CatchupWindow: durationpb.New(catchUp),
		},
		State: &schedulepb.ScheduleState{Paused: content.Paused, Notes: content.Note},
	}
	return ID(spec.Inventory, c.Name), m, nil
}

// start is what the Schedule starts. Its memo has the state: there it changes together with the rest, while
// search attributes may be read a moment late.
func start(content Content, c inventory.Credential) (*workflowpb.NewWorkflowExecutionInfo, error) {
	convert := converter.GetDefaultDataConverter()
	state, err := convert.ToPayload(content.State)
	if err != nil {
		return nil, fmt.Errorf("packing the state of %q: %w", c.Name, err)
	}
	input, err := convert.ToPayloads(workflows.RotationInput{Spec: content.Signed, Reason: "scheduled", RequestedBy: "schedule"})
	if err != nil {
		return nil, fmt.Errorf("packing the spec of %q: %w", c.Name, err)
	}
	name, err := convert.ToPayload(c.Name)
	if err != nil {
		return nil, err
	}
	summary, err := convert.ToPayload("scheduled rotation of " + c.Name)
	if err != nil {
		return nil, err
	}
	details, err := convert.ToPayload(fmt.Sprintf("%s\n\nOwner: %s", c.Purpose, c.Owner))
	if err != nil {
		return nil, err
	}
	return &workflowpb.NewWorkflowExecutionInfo{
		WorkflowId: workflows.ScheduledID(c.Name), WorkflowType: &commonpb.WorkflowType{Name: workflows.ScheduledName},
		TaskQueue: &taskqueuepb.TaskQueue{Name: workflows.TaskQueue, Kind: enumspb.TASK_QUEUE_KIND_NORMAL}, Input: input,
		SearchAttributes: &commonpb.SearchAttributes{IndexedFields: map[string]*commonpb.Payload{workflows.AttributeCredential.GetName(): name}},
		Memo:             &commonpb.Memo{Fields: map[string]*commonpb.Payload{memoName: state}},
		UserMetadata:     &sdkpb.UserMetadata{Summary: summary, Details: details},
	}, nil
}

// Create makes the Schedule of a spec. ErrExists.
func (s *Schedules) Create(ctx context.Context, content Content) error {
	id, m, err := s.make(content)
	if err != nil {
		return err
	}
	request := &workflowservice.CreateScheduleRequest{
		Namespace: s.namespace, ScheduleId: id, Schedule: m.schedule, Identity: identity, RequestId: uuid.NewString(),
		Memo: m.memo, SearchAttributes: m.attributes,
	}
	_, err = patience.Call(ctx, func() (*workflowservice.CreateScheduleResponse, error) {
		return s.client.WorkflowService().CreateSchedule(ctx, request)
	})
	var exists *serviceerror.WorkflowExecutionAlreadyStarted
	var alsoExists *serviceerror.AlreadyExists
	switch {
	case errors.As(err, &exists), errors.As(err, &alsoExists):
		return fmt.Errorf("creating Schedule %s: %w", id, ErrExists)
	case err != nil:
		return fmt.Errorf("creating Schedule %s: %w", id, err)
	}
	return nil
}

// conflicts is how often a change is tried that others keep overtaking.
const conflicts = 20

// Update changes a Schedule from what it is at that moment: change gets that, and answers whether anything is
// to be written. It may be called several times, since a change that others have made meanwhile is never
// written over, nor is it always known at once that a change took; so it must do the same twice as once.
// A Schedule that cannot be read has no spec in its Content. ErrNotFound, ErrConflict.
func (s *Schedules) Update(ctx context.Context, inventory, credential string, change func(*Content) (bool, error)) error {
	for range conflicts {
		found, err := s.Describe(ctx, inventory, credential)
		if err != nil && !errors.Is(err, ErrUnreadable) {
			return err
		}
		content := Content{Signed: found.Signed, State: found.State, Paused: found.Paused, Note: found.Note}
		write, err := change(&content)
		if err != nil || !write {
			return err
		}
		id, m, err := s.make(content)
		if err != nil {
			return err
		}
		if id != ID(inventory, credential) {
			return fmt.Errorf("updating Schedule %s: the spec is of %s", ID(inventory, credential), id)
		}
		// Actions that are counted, and whatever else of its state is not ours, stay.
		m.schedule.State.LimitedActions = found.raw.GetState().GetLimitedActions()
		m.schedule.State.RemainingActions = found.raw.GetState().GetRemainingActions()
		took, err := s.write(ctx, id, found, m)
		if err != nil || took {
			return err
		}
		if err := patience.Pause(ctx, time.Duration(50+rand.IntN(200))*time.Millisecond); err != nil { //nolint:gosec // only spreads
			return err
		}
	}
	return fmt.Errorf("updating the Schedule of %q: %w", credential, ErrConflict)
}

// write sends an update, and tells whether it took: one that somebody overtook does not.
func (s *Schedules) write(ctx context.Context, id string, found Described, m made) (bool, error) {
	request := &workflowservice.UpdateScheduleRequest{
		Namespace: s.namespace, ScheduleId: id, Schedule: m.schedule, ConflictToken: found.token,
		Identity: identity, RequestId: uuid.NewString(), SearchAttributes: m.attributes, Memo: m.memo,
	}
	update := func() (*workflowservice.UpdateScheduleResponse, error) {
		return s.client.WorkflowService().UpdateSchedule(ctx, request)
	}
	_, err := patience.Call(ctx, update)
	if isPrecondition(err, "memo") { // a workflow-backed Schedule keeps its first one
		request.Memo = nil
		_, err = patience.Call(ctx, update)
	}
	switch {
	case isPrecondition(err, "conflict"):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("updating Schedule %s: %w", id, err)
	}
	// A workflow-backed Schedule takes the update as a signal, and drops it silently when the token is old.
	for range 100 {
		now, err := s.Describe(ctx, found.Inventory, found.Credential)
		if err != nil && !errors.Is(err, ErrUnreadable) {
			return false, err
		}
		if !bytes.Equal(now.token, found.token) {
			return same(now.raw, m.schedule), nil
		}
		if err := patience.Pause(ctx, 50*time.Millisecond); err != nil {
			return false, err
		}
	}
	return false, fmt.Errorf("updating Schedule %s: the server has not taken it within 5s; try again", id)
}

func isPrecondition(err error, about string) bool {
	var precondition *serviceerror.FailedPrecondition
	return errors.As(err, &precondition) && strings.Contains(precondition.Message, about)
}

// same compares what a change may touch.
func same(a, b *schedulepb.Schedule) bool {
	input := func(s *schedulepb.Schedule) []byte {
		all := bytes.Clone(s.GetAction().GetStartWorkflow().GetMemo().GetFields()[memoName].GetData())
		for _, p := range s.GetAction().GetStartWorkflow().GetInput().GetPayloads() {
			all = append(all, p.GetData()...)
		}
		return all
	}
	return a.GetState().GetPaused() == b.GetState().GetPaused() && a.GetState().GetNotes() == b.GetState().GetNotes() &&
		a.GetSpec().GetStartTime().AsTime().Equal(b.GetSpec().GetStartTime().AsTime()) && bytes.Equal(input(a), input(b))
}

// Declare gives a Schedule another spec, over the one of generation seen: ErrOvertaken when it has another one
// by now. One that cannot be read is written over. Its state stays, and so does a pause that a person made.
func (s *Schedules) Declare(ctx context.Context, signed inventory.SignedSpec, seen int64) error {
	spec, err := signed.Peek()
	if err != nil {
		return fmt.Errorf("reading spec: %w", err)
	}
	return s.Update(ctx, spec.Inventory, spec.Credential.Name, func(c *Content) (bool, error) {
		if len(c.Signed.Body) == 0 {
			return true, c.Declare(signed)
		}
		found, err := c.Signed.Peek()
		switch {
		case err != nil:
			return false, fmt.Errorf("reading spec: %w", err)
		case found.Generation == spec.Generation:
			return false, nil // it took, and others went on from there
		case found.Generation != seen:
			return false, fmt.Errorf("declaring %q: %w", spec.Credential.Name, ErrOvertaken)
		}
		return true, c.Declare(signed)
	})
}

// Observe keeps the copy of what the store says of a credential, from which the next run follows. It writes
// nothing when that is what the Schedule has already. What was observed by an older spec, as a rotation does that
// runs while another one is applied, counts by the cadence of the Schedule's own.
func (s *Schedules) Observe(ctx context.Context, inventory, credential string, state inventory.State) error {
	return s.Update(ctx, inventory, credential, func(c *Content) (bool, error) {
		spec, err := c.Signed.Peek()
		if err != nil {
			return false, fmt.Errorf("reading spec: %w", err)
		}
		before := c.State
		c.State = Rounded(state)
		c.keepCadence(spec.Credential)
		return c.State != before, nil
	})
}

// Rounded is a state as the index keeps it.
func Rounded(s inventory.State) inventory.State {
	for _, at := range []*time.Time{&s.KeyIssuedAt, &s.KeyExpires, &s.RotateBy, &s.LastRotation} {
		if !at.IsZero() {
			*at = at.UTC().Truncate(time.Second)
		}
	}
	s.KeyID = outside.Cut(s.KeyID, maxKeyID)
	return s
}

// Pause keeps a Schedule from firing until Unpause; why is its note.
func (s *Schedules) Pause(ctx context.Context, inventory, credential, why string) error {
	return s.Update(ctx, inventory, credential, func(c *Content) (bool, error) {
		changed := !c.Paused || c.Note != why
		c.Paused, c.Note = true, why
		return changed, nil
	})
}

// Unpause lets a Schedule fire again.
func (s *Schedules) Unpause(ctx context.Context, inventory, credential, why string) error {
	return s.Update(ctx, inventory, credential, func(c *Content) (bool, error) {
		changed := c.Paused
		c.Paused, c.Note = false, why
		return changed, nil
	})
}

// Delete removes a Schedule; what it has begun goes on. One that is not there is no error.
func (s *Schedules) Delete(ctx context.Context, inventory, credential string) error {
	_, err := patience.Call(ctx, func() (*workflowservice.DeleteScheduleResponse, error) {
		return s.client.WorkflowService().DeleteSchedule(ctx, &workflowservice.DeleteScheduleRequest{
			Namespace: s.namespace, ScheduleId: ID(inventory, credential), Identity: identity,
		})
	})
	var missing *serviceerror.NotFound
	if err != nil && !errors.As(err, &missing) {
		return fmt.Errorf("deleting the Schedule of %q: %w", credential, err)
	}
	return nil
}
