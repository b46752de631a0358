package workflows

import (
	"fmt"
	"strings"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/outside"
	"github.com/keyturn/keyturn/internal/policy"
)

// end records the rotation and makes its report, after the last decision was answered.
func (r *rotation) end(err error) (Report, error) {
	r.ignoreWatch()
	t := &Turn{Outcome: Completed, Reason: policy.Allowed, Message: "The incoming key is in use everywhere, and the retiring one is dead."}
	switch {
	case err != nil:
		t = asTurn(err)
	case r.reviewed != "":
		t.Message = r.reviewed
	case r.in.Emergency != nil:
		t.Message = r.contained()
	case r.in.Ends() != "":
		t.Message = fmt.Sprintf("Key %s is dead; the current key is %s, as before.", r.Status.Retiring.KeyID, r.Status.Incoming.KeyID)
	case r.Plan.Retiring == nil && r.Plan.Resume == nil:
		t.Message = "The incoming key is in use everywhere; there was none to retire."
	}
	if s := r.superseded(); s != nil { // while there was no safe point
		t = s
	}
	r.conclude(t)
	severity := notifyInfo
	if t.Outcome != Completed {
		severity = notifyAlert
	}
	r.tell(severity, "ended", "Rotation "+string(t.Outcome), t.Message)
	for r.drain(); !r.Outbox.isEmpty(); r.drain() {
		r.write(r.Outbox.isEmpty)
	}
	if s := r.superseded(); s != nil {
		t = s // the news came while the end was written; what it found is in the report
	}
	r.close(t)
	r.show()
	if t.Outcome == Failed {
		return r.Report, temporal.NewNonRetryableApplicationError(t.Message, FailedType, nil, r.Report)
	}
	return r.Report, nil
}

// conclude writes the end into store and audit record. What it finds there, not what the run believes,
// decides whether the end is clean.
func (r *rotation) conclude(t *Turn) {
	if !r.changed() || t.Outcome == Superseded {
		r.happened(audit.RotationEnded, map[string]string{"outcome": string(t.Outcome), "message": t.Message})
		_ = r.log() // what is left is written before the run ends
		return
	}
	r.enter(PhaseRecord, "Cleaning up and writing the record.")
	input := activities.RecordInput{Rotation: *r.acting(), Outcome: string(t.Outcome), Message: t.Message, Settling: r.in.Ends() != ""}
	var recorded activities.Recorded
	record := recording
	if r.in.Emergency != nil {
		record = record.urgent()
	}
	if err := r.run(record, act.Record, &input, &recorded); err != nil {
		r.note("the record is incomplete: %s", cause(err))
		r.unrecorded(t, cause(err))
		return
	}
	r.Report.RotateBy, r.Report.NextRun, r.Report.Debt = recorded.RotateBy, recorded.NextRun, recorded.Debt
	for _, left := range recorded.Left {
		r.note("%s", left)
	}
	t.found(recorded, r.in.Ends() != "")
}

// found takes the outcome from the record: it is what issuer and store say. A run that ends one key brought nobody to another.
func (t *Turn) found(recorded activities.Recorded, endsOne bool) {
	was, owes := t.Outcome, len(recorded.Debt) > 0
	if was != Refused {
		t.Outcome = Outcome(recorded.Outcome)
	}
	var parts []string
	switch {
	case t.Outcome == was && !owes:
		return
	case t.Outcome == CompletedWithDebt && endsOne:
		parts = append(parts, "The current key stays as it was")
	case t.Outcome == CompletedWithDebt:
		parts = append(parts, "The incoming key is in use everywhere")
	case t.Outcome != was && was == Completed: // what its message says is not so
		parts = append(parts, fmt.Sprintf("Every step of the rotation was done, and by what issuer and store say it ended as %s", t.Outcome))
	case t.Outcome != was:
		parts = append(parts, fmt.Sprintf("%s But that is not what issuer and store say: it ended as %s", t.Message, t.Outcome))
	default:
		parts = append(parts, t.Message)
	}
	if owes {
		parts = append(parts, "still owed: "+describeDebt(recorded.Debt))
	}
	t.Message = outside.Lines(strings.Join(append(parts, recorded.Left...), "; "), 4*outside.MaxText)
}

// unrecorded ends a rotation whose end nobody could look at: what is not seen is owed, and told in the audit record alone.
func (r *rotation) unrecorded(t *Turn, why string) {
	for _, k := range []key.Ref{r.Status.Retiring, r.Status.Incoming} {
		if !k.IsZero() {
			r.Report.Debt = append(r.Report.Debt, activities.Debt{Kind: activities.DebtNotSeen, About: k.KeyID, Since: workflow.Now(r.ctx).UTC()})
		}
	}
	if t.Outcome == Completed {
		t.Outcome, t.Message = CompletedWithDebt, "The steps of the rotation are behind it."
	}
	t.Message = outside.Lines(fmt.Sprintf("%s But what is true at issuer and store now could not be looked at: %s. Still owed: %s", t.Message, why, describeDebt(r.Report.Debt)), 4*outside.MaxText)
	r.happened(audit.RotationEnded, map[string]string{"outcome": string(t.Outcome), "message": t.Message})
	_ = r.log()
}

func describeDebt(debt []activities.Debt) string {
	var parts []string
	for _, d := range debt {
		parts = append(parts, d.Kind+" "+d.About)
	}
	return strings.Join(parts, ", ")
}

// close makes the report and shows it.
func (r *rotation) close(t *Turn) {
	r.Report.Outcome, r.Report.Reason, r.Report.Message = t.Outcome, t.Reason, t.Message
	r.Report.Retiring, r.Report.Incoming = r.Status.Retiring, r.Status.Incoming
	r.Report.Refusals, r.Report.Verdicts = r.Plan.Refusals, reported(r.Verdicts)
	if t.Outcome == Superseded {
		r.Report.Open = r.open()
	}
	r.note("%s: %s", t.Outcome, t.Message)
	r.Report.EndedAt, r.Report.Timeline = workflow.Now(r.ctx), r.Status.Timeline
	r.Status.Report = &r.Report
	ended := []temporal.SearchAttributeUpdate{AttributePhase.ValueSet(string(PhaseEnded)), AttributeOutcome.ValueSet(string(t.Outcome))}
	if !r.Report.RotateBy.IsZero() {
		ended = append(ended, AttributeRotateBy.ValueSet(r.Report.RotateBy))
	}
	_ = workflow.UpsertTypedSearchAttributes(r.ctx, ended...)
	r.indexed = PhaseEnded
	r.enter(PhaseEnded, t.Message)
}
