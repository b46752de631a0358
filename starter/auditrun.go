package main

import (
	"cmp"
	"strings"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/sdk/converter"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/workflows"
)

// source is where an event is known from.
type source string

// The sources. A worker writes its file by itself; what a history says is worth as much as who may write to the namespace.
const (
	fromFile    source = "file"
	fromHistory source = "history"
)

// recorded is an event, and where it is known from.
type recorded struct {
	audit.Event
	Source source `json:"source"`
	// since is when the step was asked for that made a change: a worker's event of the same lies between the two times. Zero
	// where the event is told by the workflow itself, which has one ID everywhere.
	since time.Time
}

// pastRun is what the history of one run tells. Whoever may write to the namespace may have written it, in another version too.
type pastRun struct {
	Rotation, Run string
	Begun, Ended  time.Time
	// As is how Temporal has it, where the run left no report: running, or as it was ended.
	As               string
	RequestedBy, Why string
	// Ends is the one key that the run was to end, when it was no rotation.
	Ends      string
	Incidents []string
	Events    []recorded
	Verdicts  []policy.Verdict
	Report    *workflows.Report

	credential string
	// disabled: a rollback enables the retiring key whether it was disabled or not.
	disabled bool
	asked    map[int64]scheduledStep
}

// scheduledStep is an activity that was asked for.
type scheduledStep struct {
	name string
	at   time.Time
	in   stepInput
}

// stepInput is what the inputs of a rotation's activities have in common, as far as the record tells it.
type stepInput struct {
	Retiring  key.Ref          `json:"retiring"`
	Incoming  key.Ref          `json:"incoming"`
	Key       key.Ref          `json:"key"`
	Wave      string           `json:"wave"`
	Events    []audit.Event    `json:"events"`
	Approvals []policy.Verdict `json:"approvals"`
}

// runInput is what a run was begun with.
type runInput struct {
	Reason      string `json:"reason"`
	RequestedBy string `json:"requestedBy"`
	Retire      string `json:"retire"`
	Settle      string `json:"settle"`
	Emergency   *struct {
		Incidents []string `json:"incidents"`
	} `json:"emergency"`
	Carried *struct {
		Events   []audit.Event `json:"events"`
		Disabled bool          `json:"disabled"`
	} `json:"carried"`
}

func newPastRun(credential, rotation, run string) *pastRun {
	return &pastRun{Rotation: cmp.Or(rotation, run), Run: run, As: "running", credential: credential, asked: map[int64]scheduledStep{}}
}

// take reads one event of the history; they come in their order.
func (p *pastRun) take(e *historypb.HistoryEvent) {
	at := e.GetEventTime().AsTime()
	switch e.GetEventType() {
	case enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED:
		started := e.GetWorkflowExecutionStartedEventAttributes()
		p.Begun, p.Rotation = at, cmp.Or(started.GetFirstExecutionRunId(), p.Rotation)
		p.begin(started.GetInput())
	case enumspb.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
		asked := e.GetActivityTaskScheduledEventAttributes()
		p.ask(e.GetEventId(), asked.GetActivityType().GetName(), at, asked.GetInput())
	case enumspb.EVENT_TYPE_ACTIVITY_TASK_COMPLETED:
		done := e.GetActivityTaskCompletedEventAttributes()
		p.done(p.asked[done.GetScheduledEventId()], at, done.GetResult())
	case enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_COMPLETED:
		var v policy.Verdict
		if decoded(e.GetWorkflowExecutionUpdateCompletedEventAttributes().GetOutcome().GetSuccess(), &v) && v.ID != "" {
			p.Verdicts = append(p.Verdicts, v)
		}
	default:
		p.end(e, at)
	}
}

func (p *pastRun) begin(input *commonpb.Payloads) {
	var in runInput
	if !decoded(input, &in) {
		return
	}
	p.RequestedBy, p.Why, p.Ends = in.RequestedBy, in.Reason, cmp.Or(in.Retire, in.Settle)
	if in.Emergency != nil {
		p.Incidents = in.Emergency.Incidents
	}
	if in.Carried != nil {
		p.told(in.Carried.Events)
		p.disabled = in.Carried.Disabled
	}
}

func (p *pastRun) ask(id int64, name string, at time.Time, input *commonpb.Payloads) {
	if name == "Log" {
		var events []audit.Event
		if decoded(input, &events) {
			p.told(events)
		}
		return
	}
	step := scheduledStep{name: name, at: at}
	if decoded(input, &step.in) {
		p.told(step.in.Events)
		p.Verdicts = append(p.Verdicts, step.in.Approvals...)
	}
	p.asked[id] = step
}

// told takes what the workflow told of itself, in the form in which a worker writes it into its file.
func (p *pastRun) told(events []audit.Event) {
	for _, e := range events {
		if !e.Type.Told() {
			continue
		}
		e.ID, e.Actor, e.Credential, e.Rotation = "told/"+e.ID, "workflow", p.credential, p.Rotation
		e.Run = cmp.Or(e.Run, p.Run)
		p.Events = append(p.Events, recorded{Event: e, Source: fromHistory})
	}
}

// done takes what a step changed, by its result.
func (p *pastRun) done(s scheduledStep, at time.Time, result *commonpb.Payloads) {
	keys := map[string]key.Ref{}
	if !s.in.Retiring.IsZero() {
		keys[audit.Retiring] = s.in.Retiring
	}
	if !s.in.Incoming.IsZero() {
		keys[audit.Incoming] = s.in.Incoming
	}
	did := func(t audit.Type, k key.Ref, detail map[string]string) {
		if k.KeyID != "" {
			detail["key"] = k.KeyID
		}
		e := audit.Event{Time: at.UTC(), Type: t, Credential: p.credential, Rotation: p.Rotation, Run: p.Run, Actor: "worker", Keys: keys, Detail: detail}
		e.ID = strings.Join([]string{"history", p.Rotation, string(t), about(e), at.UTC().Format(time.RFC3339Nano)}, "/") // the same in a run that was reset
		p.Events = append(p.Events, recorded{Event: e, Source: fromHistory, since: s.at})
	}
	switch s.name {
	case "Issue":
		var r struct {
			Key key.Ref `json:"key"`
		}
		if decoded(result, &r) && !r.Key.IsZero() {
			keys[audit.Incoming] = r.Key
			did(audit.KeyIssued, r.Key, map[string]string{})
		}
	case "DeliverWave":
		var r struct {
			Decision policy.Decision `json:"decision"`
		}
		if decoded(result, &r) {
			did(map[bool]audit.Type{true: audit.WavePassed, false: audit.WaveFailed}[r.Decision.OK], s.in.Key, map[string]string{"wave": s.in.Wave, "decision": r.Decision.Message})
		}
	case "GatherEvidence":
		var r policy.Evidence
		if decoded(result, &r) && r.Complete {
			did(audit.EvidenceComplete, key.Ref{}, map[string]string{"evidence": r.Describe(), "digest": r.Digest})
		}
	case "Destroy", "Contain":
		var r struct {
			Decision policy.Decision `json:"decision"`
			Probe    string          `json:"probe"`
		}
		dying := s.in.Retiring
		if s.name == "Contain" {
			dying = s.in.Key
		}
		switch {
		case !decoded(result, &r):
		case r.Decision.OK && r.Probe != "":
			did(audit.KeyDestroyed, dying, map[string]string{"decision": r.Decision.Message})
			did(audit.ProbeRefused, dying, map[string]string{"probe": r.Probe})
		case r.Decision.Reason == policy.NotDestroyed && s.name == "Contain":
			did(audit.KeyDisabled, dying, map[string]string{"decision": r.Decision.Message})
		}
	case "RestoreLabels":
		did(audit.LabelsRestored, s.in.Retiring, map[string]string{})
	case "Record":
		p.concluded(result, did)
	default:
		p.decided(s, result, did)
	}
}

// decided takes the steps whose result is a decision alone.
func (p *pastRun) decided(s scheduledStep, result *commonpb.Payloads, did func(audit.Type, key.Ref, map[string]string)) {
	made := map[string]struct {
		t audit.Type
		k key.Ref
	}{
		"Promote": {audit.KeyPromoted, s.in.Incoming}, "Disable": {audit.KeyDisabled, s.in.Retiring},
		"Enable": {audit.KeyEnabled, s.in.Retiring}, "Discard": {audit.KeyDiscarded, s.in.Incoming},
	}
	var d policy.Decision
	change, known := made[s.name]
	if known && !change.k.IsZero() && decoded(result, &d) && d.OK && d.Reason != policy.KeyGone && (s.name != "Enable" || p.disabled) {
		p.disabled = s.name == "Disable" || p.disabled && s.name != "Enable"
		did(change.t, change.k, map[string]string{})
	}
}

// concluded takes the end as issuer and store had it.
func (p *pastRun) concluded(result *commonpb.Payloads, did func(audit.Type, key.Ref, map[string]string)) {
	var r struct {
		Outcome string     `json:"outcome"`
		Debt    []key.Debt `json:"debt"`
	}
	if !decoded(result, &r) {
		return
	}
	for _, d := range r.Debt {
		did(audit.DebtFound, key.Ref{}, map[string]string{"kind": d.Kind, "about": d.About})
	}
	did(audit.RotationEnded, key.Ref{}, map[string]string{"outcome": r.Outcome})
}

// end takes the last event of a run.
func (p *pastRun) end(e *historypb.HistoryEvent, at time.Time) {
	as := map[enumspb.EventType]string{
		enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED: "completed", enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED: "failed",
		enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED: "terminated", enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT: "timed-out",
		enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED: "canceled", enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW: "running",
	}[e.GetEventType()]
	if as == "" {
		return
	}
	p.As, p.Ended = as, at
	result := e.GetWorkflowExecutionCompletedEventAttributes().GetResult()
	if failed := e.GetWorkflowExecutionFailedEventAttributes().GetFailure().GetApplicationFailureInfo(); failed.GetType() == workflows.FailedType {
		result = failed.GetDetails()
	}
	var report workflows.Report
	if decoded(result, &report) && report.Outcome != "" {
		p.Report = &report
		p.Verdicts = append(p.Verdicts, report.Verdicts...)
	}
}

// decoded reads the first of some payloads, and tells whether it could.
func decoded(payloads *commonpb.Payloads, into any) bool {
	list := payloads.GetPayloads()
	return len(list) > 0 && converter.GetDefaultDataConverter().FromPayload(list[0], into) == nil
}
