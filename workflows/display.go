package workflows

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/activities"
)

// The search attributes, as setup registers them.
var (
	AttributeCredential  = temporal.NewSearchAttributeKeyKeyword("KeyturnCredential")
	AttributeOwner       = temporal.NewSearchAttributeKeyKeyword("KeyturnOwner")
	AttributeEnvironment = temporal.NewSearchAttributeKeyKeyword("KeyturnEnvironment")
	AttributeRisk        = temporal.NewSearchAttributeKeyKeyword("KeyturnRisk")
	AttributeIssuer      = temporal.NewSearchAttributeKeyKeyword("KeyturnIssuer")
	AttributePhase       = temporal.NewSearchAttributeKeyKeyword("KeyturnPhase")
	AttributeOutcome     = temporal.NewSearchAttributeKeyKeyword("KeyturnOutcome")
	AttributeLabels      = temporal.NewSearchAttributeKeyKeywordList("KeyturnLabels")
	AttributeRotateBy    = temporal.NewSearchAttributeKeyTime("KeyturnRotateBy")
)

// Severities of what people are told.
const (
	notifyInfo   = "info"
	notifyAction = "action"
	notifyAlert  = "alert"
)

// index makes the run findable by what its credential is. Values too long for the store of search
// attributes would end the workflow, so they are cut; validation refuses them long before.
func (r *rotation) index() {
	var labels []string
	for _, k := range workflow.DeterministicKeys(r.credential.Labels) {
		labels = append(labels, k+"="+r.credential.Labels[k])
	}
	total := 0
	for i, l := range labels {
		if total += len(l) + 8; total > 2000 {
			labels = labels[:i]
			break
		}
	}
	_ = workflow.UpsertTypedSearchAttributes(r.ctx,
		AttributeCredential.ValueSet(keyword(r.status.Credential)),
		AttributeOwner.ValueSet(keyword(r.credential.Owner)),
		AttributeEnvironment.ValueSet(keyword(r.credential.Environment)),
		AttributeRisk.ValueSet(keyword(string(r.credential.Risk))),
		AttributeIssuer.ValueSet(keyword(r.credential.Issuer.Type)),
		AttributeLabels.ValueSet(labels),
	)
}

func keyword(s string) string {
	const longest = 255
	if len(s) > longest {
		return strings.ToValidUTF8(s[:longest], "")
	}
	return s
}

// enter begins a phase.
func (r *rotation) enter(p Phase, doing string) {
	if r.status.Phase != p {
		_ = workflow.UpsertTypedSearchAttributes(r.ctx, AttributePhase.ValueSet(string(p)))
	}
	r.status.Phase, r.status.Doing, r.status.Since = p, doing, workflow.Now(r.ctx)
	r.status.WaitsFor, r.status.UnblockedBy, r.status.Until = "", "", time.Time{}
	r.refresh()
}

// waitFor says what it takes to go on, and who can do that.
func (r *rotation) waitFor(what, unblockedBy string) {
	r.status.WaitsFor, r.status.UnblockedBy = what, unblockedBy
	r.refresh()
}

// until says when a timed wait ends.
func (r *rotation) until(end time.Time) {
	r.status.Until = end
	r.refresh()
}

// maxTimeline bounds the timeline; its middle goes first.
const maxTimeline = 200

// note adds a line to the timeline.
func (r *rotation) note(format string, args ...any) {
	if len(r.status.Timeline) == maxTimeline {
		r.status.Timeline = slices.Delete(r.status.Timeline, maxTimeline/2, maxTimeline/2+1)
	}
	r.status.Timeline = append(r.status.Timeline, Moment{At: workflow.Now(r.ctx), Phase: r.status.Phase, What: clip(fmt.Sprintf(format, args...))})
	r.refresh()
}

// notice adds what everybody who looks should know; repeated ones and those past a bound are dropped.
func (r *rotation) notice(format string, args ...any) {
	text := clip(fmt.Sprintf(format, args...))
	if len(r.status.Notices) < 50 && !slices.Contains(r.status.Notices, text) {
		r.status.Notices = append(r.status.Notices, text)
	}
	r.refresh()
}

// refresh shows the status in the Web UI. It adds nothing to the history.
func (r *rotation) refresh() {
	workflow.SetCurrentDetails(r.ctx, r.status.Markdown())
}

// tell notifies people in the background; the run waits for it before it ends.
func (r *rotation) tell(severity, what, subject, body string) {
	input := activities.NotifyInput{
		Rotation: activities.Rotation{Spec: r.in.Spec, ID: r.id},
		What:     what, Severity: severity, Subject: clip(subject), Body: clip(body), At: workflow.Now(r.ctx),
	}
	r.background.Add(1)
	workflow.Go(r.ctx, func(ctx workflow.Context) {
		defer r.background.Done()
		if err := workflow.ExecuteActivity(notifying.context(ctx, r.credential), act.Notify, input).Get(ctx, nil); err != nil {
			r.notice("people could not be told of %q: %s", what, cause(err))
		}
	})
}

// try runs an activity whose failing is only worth a notice.
func (r *rotation) try(o step, activity, input, output any) {
	if err := r.run(o, activity, input, output); err != nil {
		r.notice("could not %s: %s", o.summary, cause(err))
	}
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
	r.status.Phase = PhaseEnded
	r.enter(PhaseEnded, t.message)
}

// open lists what a superseded run leaves.
func (r *rotation) open() []string {
	var open []string
	if k := r.status.Incoming; !k.IsZero() {
		open = append(open, fmt.Sprintf("incoming key %s is issued, in store version %s", k.KeyID, k.StoreVersion))
	} else if r.changed {
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

// clip bounds a text that may come from outside.
func clip(s string) string {
	const longest = 1000
	if len(s) > longest {
		return strings.ToValidUTF8(s[:longest], "") + "…"
	}
	return s
}

// Markdown is the status as the Web UI shows it.
func (s Status) Markdown() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("### %s: %s", text(s.Credential), s.Phase)
	line("")
	line("%s", text(s.Doing))
	line("")
	if s.WaitsFor != "" {
		line("- **Waits for:** %s", text(s.WaitsFor))
		line("- **Unblocked by:** %s", text(s.UnblockedBy))
	}
	if !s.Until.IsZero() {
		line("- **Until:** %s", s.Until.UTC().Format(time.RFC3339))
	}
	if !s.Retiring.IsZero() {
		line("- **Retiring key:** %s", text(s.Retiring.KeyID))
	}
	if !s.Incoming.IsZero() {
		line("- **Incoming key:** %s", text(s.Incoming.KeyID))
	}
	if s.Evidence != nil {
		line("- **Evidence:** %s", text(s.Evidence.Describe()))
	}
	if s.NoWayBack != "" {
		line("- **No way back:** %s", text(s.NoWayBack))
	}
	if len(s.Waves) > 0 {
		line("\n| wave | instances | state |\n|---|---|---|")
		for _, w := range s.Waves {
			names := w.Instances
			if len(names) > 10 {
				names = append(slices.Clone(names[:10]), fmt.Sprintf("and %d more", len(w.Instances)-10))
			}
			line("| %s | %s | %s |", text(w.Name), text(strings.Join(names, ", ")), w.State)
		}
	}
	for _, n := range s.Notices {
		line("\n> %s", text(n))
	}
	if len(s.Timeline) > 0 {
		line("")
		for _, m := range s.Timeline {
			line("1. %s %s", m.At.UTC().Format(time.TimeOnly), text(m.What))
		}
	}
	return b.String()
}

// text makes a text safe inside Markdown: it neither formats nor breaks a line.
var markdown = strings.NewReplacer("\\", "\\\\", "`", "\\`", "*", "\\*", "_", "\\_", "[", "\\[", "]", "\\]", "<", "&lt;", ">", "&gt;",
	"|", "\\|", "#", "\\#", "!", "\\!", "\n", " ", "\r", " ", "\x1b", "")

func text(s string) string { return markdown.Replace(clip(s)) }
