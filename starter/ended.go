package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/api/serviceerror"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"

	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/outside"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/schedule"
	"github.com/keyturn/keyturn/workflows"
)

// ending is how Temporal ended a run that left no report, and what is true since.
type ending struct {
	// As is terminated, timed-out, canceled or failed.
	As string    `json:"as"`
	At time.Time `json:"at"`
	// By is who ended it, and Why what they said, as far as anybody did.
	By  string `json:"by,omitempty"`
	Why string `json:"why,omitempty"`
	// Was is what the run was doing; empty when nobody knows.
	Was string `json:"was,omitempty"`
	// Keys is what is true of both keys now; none when no worker looked, and Problem is why.
	Keys    []keyNow `json:"keys,omitempty"`
	Problem string   `json:"problem,omitempty"`
	// Refusals say why the next rotation would not begin; none when it would.
	Refusals []policy.Decision `json:"refusals,omitempty"`
	// Next is the command that goes on from there, with -f FILE where the credential is not applied.
	Next string `json:"next"`
	// asks is what the run was begun with.
	asks workflows.RotationInput
}

// keyNow is what is true of a key after its run has ended.
type keyNow struct {
	Role workflows.KeyRole `json:"role"`
	Key  key.Ref           `json:"key"`
	Is   string            `json:"is"`
}

// endings are the ways in which Temporal ends a run that did not end itself.
var endings = map[enumspb.WorkflowExecutionStatus]string{
	enumspb.WORKFLOW_EXECUTION_STATUS_TERMINATED: "terminated",
	enumspb.WORKFLOW_EXECUTION_STATUS_TIMED_OUT:  "timed-out",
	enumspb.WORKFLOW_EXECUTION_STATUS_CANCELED:   "canceled",
	enumspb.WORKFLOW_EXECUTION_STATUS_FAILED:     "failed",
}

// endWithoutReport makes the status one of a run that Temporal ended: what it waited for, nobody waits for any more.
func (s *standing) endWithoutReport(ctx context.Context, c client.Client, info *workflowpb.WorkflowExecutionInfo) {
	e := &ending{
		As: cmp.Or(endings[info.GetStatus()], strings.ToLower(info.GetStatus().String())), At: info.GetCloseTime().AsTime(), Was: s.Doing,
		Next: "keyturn rotate " + s.Credential,
	}
	id, run := info.GetExecution().GetWorkflowId(), info.GetExecution().GetRunId()
	if last := c.GetWorkflowHistory(ctx, id, run, false, enumspb.HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT); last.HasNext() {
		if event, err := last.Next(); err == nil {
			e.By, e.Why = saidAtTheEnd(event)
		}
	}
	if first := c.GetWorkflowHistory(ctx, id, run, false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT); first.HasNext() {
		if event, err := first.Next(); err == nil {
			e.asks = askedFor(event)
			s.RequestedBy, s.Reason, s.Ends = plain(e.asks.RequestedBy), plain(e.asks.Reason), plain(e.asks.Ends())
			e.goesOnWith(s.Credential)
		}
	}
	if s.Phase == "" { // no worker says where it was: the index does
		fields := info.GetSearchAttributes().GetIndexedFields()
		s.Phase = workflows.Phase(decode(fields[workflows.AttributePhase.GetName()]))
		s.Owner = decode(fields[workflows.AttributeOwner.GetName()])
	}
	s.WaitsFor, s.UnblockedBy, s.NoWayBack, s.Until, s.Gate, s.Since = "", "", "", time.Time{}, nil, e.At
	s.Ended = e
	s.Doing = e.message()
}

// saidAtTheEnd is who ended a run by its last event, and what they said.
func saidAtTheEnd(last *historypb.HistoryEvent) (by, why string) {
	ended := last.GetWorkflowExecutionTerminatedEventAttributes()
	return plain(ended.GetIdentity()), plain(cmp.Or(ended.GetReason(), last.GetWorkflowExecutionFailedEventAttributes().GetFailure().GetMessage()))
}

// askedFor is what a run was begun with, as far as it can be read: anybody may have begun it, with anything.
func askedFor(first *historypb.HistoryEvent) (in workflows.RotationInput) {
	payloads := first.GetWorkflowExecutionStartedEventAttributes().GetInput().GetPayloads()
	if len(payloads) == 0 || converter.GetDefaultDataConverter().FromPayload(payloads[0], &in) != nil {
		return workflows.RotationInput{}
	}
	return in
}

// message says what happened, what is true now, and what to do next.
func (e *ending) message() string {
	var b strings.Builder
	said := map[string]string{"timed-out": "ended by its time-out", "failed": "ended by an error that is none of keyturn's own"}[e.As]
	fmt.Fprintf(&b, "The run was %s at %s", cmp.Or(said, e.As), clock(e.At))
	if e.By != "" {
		b.WriteString(" by " + e.By)
	}
	if e.Why != "" {
		b.WriteString(" (" + e.Why + ")")
	}
	b.WriteString(". It left no report, and took nothing back. ")
	switch {
	case e.Problem != "":
		b.WriteString("What is true of both keys is not known: " + e.Problem + ". ")
	case len(e.Keys) > 0:
		b.WriteString("What is true of both keys is below. ")
	}
	switch {
	case e.asks.Ends() != "": // which no rotation goes on with
		fmt.Fprintf(&b, "It was to end key %s, and did nothing else. To go on: %s", plain(e.asks.Ends()), e.Next)
	case len(e.Refusals) > 0:
		fmt.Fprintf(&b, "The next rotation would be refused: mend what is below, see it with: %s, and then go on with: %s", strings.Replace(e.Next, "rotate", "plan", 1), e.Next)
	default:
		fmt.Fprintf(&b, "The next rotation goes on from there: %s", e.Next)
	}
	return b.String()
}

// goesOnWith names the command that goes on with what the run was to do: it was no rotation, when it was to end one key.
func (e *ending) goesOnWith(credential string) {
	switch {
	case e.asks.Retire != "":
		e.Next = policy.RetireWith(credential, e.asks.Retire)
	case e.asks.Settle != "":
		e.Next = "keyturn sweep --now"
	}
}

// lookSince is how long a worker may take to say what is true of the keys of a run that was ended.
const lookSince = 20 * time.Second

// isApplied tells whether the next rotation needs no file: also of a run that was begun by name, and where nobody can tell.
func (e *ending) isApplied(ctx context.Context, c client.Client, credential string) bool {
	spec, err := e.asks.Spec.Peek()
	if err != nil {
		return true
	}
	_, err = c.ScheduleClient().GetHandle(ctx, schedule.ID(spec.Inventory, credential)).Describe(ctx)
	var missing *serviceerror.NotFound
	return !errors.As(err, &missing)
}

// lookAfterTheEnd sees how to go on, and asks a worker what is true of both keys now.
func (s *standing) lookAfterTheEnd(ctx context.Context, c client.Client, tell func(string)) {
	e := s.Ended
	if e == nil {
		return
	}
	defer func() { s.Doing = e.message() }()
	ctx, cancel := context.WithTimeout(ctx, lookSince)
	defer cancel()
	if !e.isApplied(ctx, c, s.Credential) {
		e.Next += " -f FILE"
	}
	if s.unheard {
		e.Problem = "no worker answers; start one, and ask again"
		return
	}
	if len(e.asks.Spec.Body) == 0 {
		e.asks.Credential = s.Credential
	}
	plan, err := lookAt(ctx, c, workflows.TaskQueue, s.Credential, workflows.InspectInput{Spec: e.asks.Spec, Credential: e.asks.Credential}, tell)
	if err != nil {
		e.Problem = plain(err.Error())
		return
	}
	e.Keys, e.Refusals = keysNow(plan), plan.Refusals
	if ends := e.asks.Ends(); ends != "" {
		e.Keys, e.Refusals = keysBeside(plan, ends), nil // what a rotation would be refused for keeps nobody from it
	}
	for _, k := range e.Keys {
		switch k.Role {
		case workflows.RoleRetiring:
			s.Retiring = k.Key
		case workflows.RoleIncoming:
			s.Incoming = k.Key
		}
	}
}

// keysNow is what a plan says of the keys that an ended run left: what a rotation would go on with, replace or discard.
func keysNow(p policy.Plan) (keys []keyNow) {
	add := func(role workflows.KeyRole, k key.Ref, is ...string) {
		keys = append(keys, keyNow{Role: role, Key: k, Is: strings.Join(is, ", ")})
	}
	r := p.Resume
	switch {
	case r == nil && p.Retiring != nil:
		add(workflows.RoleRetiring, *p.Retiring, "current")
	case r != nil && r.Retiring != nil && r.Disabled:
		add(workflows.RoleRetiring, *r.Retiring, "disabled")
	case r != nil && r.Retiring != nil:
		add(workflows.RoleRetiring, *r.Retiring, "active", "not current any more")
	case r != nil && !r.IsCurrent() && p.Retiring != nil:
		add(workflows.RoleRetiring, *p.Retiring, "current")
	}
	switch {
	case r != nil && r.IsCurrent():
		add(workflows.RoleIncoming, r.Incoming, "current")
	case r != nil && r.Delivered:
		add(workflows.RoleIncoming, r.Incoming, "pending", "consumers may have it")
	case r != nil:
		add(workflows.RoleIncoming, r.Incoming, "pending", "no consumer was sent to it")
	}
	for _, k := range p.Discard {
		add(workflows.RoleIncoming, k, "never current", "the next rotation destroys it first")
	}
	return keys
}

// keysBeside is what a plan says of the one key that an ended run was to end, and of the current one.
func keysBeside(p policy.Plan, ends string) (keys []keyNow) {
	left := keyNow{Role: workflows.RoleRetiring, Key: key.Ref{KeyID: ends}, Is: "not left over any more: destroyed, or in use"}
	for _, k := range p.Left {
		if k.Key.KeyID == ends {
			left.Key, left.Is = k.Key, string(k.State)+", not current any more"
		}
	}
	for _, k := range p.Discard {
		if k.KeyID == ends {
			left.Key, left.Is = k, "never current"
		}
	}
	for _, k := range keysNow(p) {
		switch {
		case k.Key.KeyID == ends:
			left.Key, left.Is = k.Key, k.Is
		case strings.HasPrefix(k.Is, "current"):
			k.Role, left.Key.Principal = workflows.RoleIncoming, k.Key.Principal
			keys = append(keys, k)
		}
	}
	return append([]keyNow{left}, keys...)
}

// rows are the names and values of an ending, beside its message.
func (e *ending) rows() (rows [][]string) {
	if e.Was != "" {
		rows = append(rows, []string{"was doing", e.Was})
	}
	for _, k := range e.Keys {
		rows = append(rows, []string{string(k.Role) + " key", keyName(k.Key) + ": " + k.Is})
	}
	for _, d := range e.Refusals {
		rows = append(rows, []string{string(d.Reason), d.Message})
	}
	return append(rows, []string{"go on with", e.Next})
}

// printEnded shows a run that Temporal ended.
func (t *terminal) printEnded(w io.Writer, s standing) {
	fmt.Fprintf(w, "%s  %s\n", t.bold(plain(s.Credential+": "+s.Ended.As)), outside.Line(s.Doing, 4*outside.MaxText))
	rows := [][]string{}
	if by := s.Asked(); by != "" {
		rows = append(rows, []string{"asked for by", by})
	}
	if s.Phase != "" {
		rows = append(rows, []string{"in phase", string(s.Phase)})
	}
	if len(s.Ended.Keys) == 0 { // as the run knew them
		if !s.Retiring.IsZero() {
			rows = append(rows, []string{"retiring key", keyName(s.Retiring) + ", as the run knew it"})
		}
		if !s.Incoming.IsZero() {
			rows = append(rows, []string{"incoming key", keyName(s.Incoming) + ", as the run knew it"})
		}
	}
	columns(w, append(rows, s.Ended.rows()...)...)
	if len(s.Timeline) > 0 {
		fmt.Fprintln(w)
		printTimeline(w, s.Timeline)
	}
}
