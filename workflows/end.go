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
	t := &turn{outcome: Completed, reason: policy.Allowed, message: "The incoming key is in use everywhere, and the retiring one is dead."}
	if err != nil {
		t = asTurn(err)
	} else if r.plan.Retiring == nil && r.plan.Resume == nil {
		t.message = "The credential has its first key."
	}
	if s := r.superseded(); s != nil { // while there was no safe point
		t = s
	}
	r.conclude(t)
	severity := notifyInfo
	if t.outcome != Completed {
		severity = notifyAlert
	}
	r.tell(severity, "ended", "Rotation "+string(t.outcome), t.message)
	for r.drain(); !r.outbox.isEmpty() && r.emptied(); r.drain() {
		r.write(r.outbox.isEmpty)
	}
	if s := r.superseded(); s != nil {
		t = s // the news came while the end was written; what it found is in the report
	}
	r.close(t)
	r.show()
	if t.outcome == Failed {
		return r.report, temporal.NewNonRetryableApplicationError(t.message, FailedType, nil, r.report)
	}
	return r.report, nil
}

// conclude writes the end into store and audit record. What it finds there, not what the run believes,
// decides whether the end is clean.
func (r *rotation) conclude(t *turn) {
	if !r.changed || t.outcome == Superseded {
		r.happened(audit.RotationEnded, map[string]string{"outcome": string(t.outcome), "message": t.message})
		_ = r.log() // what is left is written before the run ends
		return
	}
	r.enter(PhaseRecord, "Cleaning up and writing the record.")
	input := activities.RecordInput{Rotation: *r.acting(), Outcome: string(t.outcome), Message: t.message, Settling: r.in.Settle != ""}
	var recorded activities.Recorded
	if err := r.run(recording, act.Record, &input, &recorded); err != nil {
		r.note("the record is incomplete: %s", cause(err))
		r.unrecorded(t, cause(err))
		return
	}
	r.report.RotateBy, r.report.NextRun, r.report.Debt = recorded.RotateBy, recorded.NextRun, recorded.Debt
	for _, left := range recorded.Left {
		r.note("%s", left)
	}
	t.found(recorded)
}

// found takes the outcome from the record: it is what issuer and store say.
func (t *turn) found(recorded activities.Recorded) {
	was, owes := t.outcome, len(recorded.Debt) > 0
	if recorded.Outcome != "" && was != Refused {
		t.outcome = Outcome(recorded.Outcome)
	} else if owes && was == Completed {
		t.outcome = CompletedWithDebt
	}
	var parts []string
	switch {
	case t.outcome == was && !owes:
		return
	case t.outcome == CompletedWithDebt:
		parts = append(parts, "The incoming key is in use everywhere")
	case t.outcome != was:
		parts = append(parts, fmt.Sprintf("%s But that is not what issuer and store say: it ended as %s", t.message, t.outcome))
	default:
		parts = append(parts, t.message)
	}
	if owes {
		parts = append(parts, "still owed: "+describeDebt(recorded.Debt))
	}
	t.message = outside.Lines(strings.Join(append(parts, recorded.Left...), "; "), 4*outside.MaxText)
}

// unrecorded ends a rotation whose end nobody could look at: what is not seen is owed, and told in the audit record alone.
func (r *rotation) unrecorded(t *turn, why string) {
	for _, k := range []key.Ref{r.status.Retiring, r.status.Incoming} {
		if !k.IsZero() {
			r.report.Debt = append(r.report.Debt, activities.Debt{Kind: activities.DebtNotSeen, About: k.KeyID, Since: workflow.Now(r.ctx).UTC()})
		}
	}
	if t.outcome == Completed {
		t.outcome = CompletedWithDebt
	}
	t.message = outside.Lines(fmt.Sprintf("%s But what is true at issuer and store now could not be looked at: %s. Still owed: %s", t.message, why, describeDebt(r.report.Debt)), 4*outside.MaxText)
	r.happened(audit.RotationEnded, map[string]string{"outcome": string(t.outcome), "message": t.message})
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
func (r *rotation) close(t *turn) {
	r.over = true
	r.report.Outcome, r.report.Reason, r.report.Message = t.outcome, t.reason, t.message
	r.report.Retiring, r.report.Incoming = r.status.Retiring, r.status.Incoming
	r.report.Refusals = r.plan.Refusals
	if t.outcome == Superseded {
		r.report.Open = r.open()
	}
	r.status.NoWayBack = ""
	r.note("%s: %s", t.outcome, t.message)
	r.report.EndedAt, r.report.Timeline = workflow.Now(r.ctx), r.status.Timeline
	r.status.Report = &r.report
	ended := []temporal.SearchAttributeUpdate{AttributePhase.ValueSet(string(PhaseEnded)), AttributeOutcome.ValueSet(string(t.outcome))}
	if !r.report.RotateBy.IsZero() {
		ended = append(ended, AttributeRotateBy.ValueSet(r.report.RotateBy))
	}
	_ = workflow.UpsertTypedSearchAttributes(r.ctx, ended...)
	r.indexed = PhaseEnded
	r.enter(PhaseEnded, t.message)
}

// open lists what a superseded run leaves.
func (r *rotation) open() []string {
	var open []string
	if k := r.status.Incoming; !k.IsZero() && r.in.Settle == "" {
		open = append(open, fmt.Sprintf("incoming key %s is issued, in store version %s", k.KeyID, k.StoreVersion))
	} else if r.changed && r.in.Settle == "" {
		open = append(open, "an incoming key may have been minted: the store's metadata has the intent")
	}
	for _, w := range r.status.Waves {
		if w.State != waveWaiting {
			open = append(open, fmt.Sprintf("wave %s is %s", w.Name, w.State))
		}
	}
	if r.disabled {
		open = append(open, fmt.Sprintf("retiring key %s may be disabled", r.status.Retiring.KeyID))
	}
	return open
}
