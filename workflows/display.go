package workflows

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/outside"
	"github.com/keyturn/keyturn/internal/policy"
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
	// AttributeIndex is of Schedules alone: what a listing shows beyond the others, as name=value.
	AttributeIndex = temporal.NewSearchAttributeKeyKeywordList("KeyturnIndex")
)

// Severities of what people are told.
const (
	notifyInfo   = "info"
	notifyAction = "action"
	notifyAlert  = "alert"
)

// SearchAttributes are those by which a rotation is found from its first moment on, for whoever starts it. Values too long for
// the store of search attributes would end the workflow, so they are cut; validation refuses them long before.
func SearchAttributes(c inventory.Credential) temporal.SearchAttributes {
	var labels []string
	total := 0
	for _, k := range workflow.DeterministicKeys(c.Labels) {
		label := k + "=" + c.Labels[k]
		if total += len(label) + 8; total > 2000 {
			break
		}
		labels = append(labels, label)
	}
	return temporal.NewSearchAttributes(
		AttributeCredential.ValueSet(keyword(c.Name)),
		AttributeOwner.ValueSet(keyword(c.Owner)),
		AttributeEnvironment.ValueSet(keyword(c.Environment)),
		AttributeRisk.ValueSet(keyword(string(c.Risk))),
		AttributeIssuer.ValueSet(keyword(c.Issuer.Type)),
		AttributeLabels.ValueSet(labels),
		AttributePhase.ValueSet(string(PhaseInspect)),
	)
}

// index makes the run findable by what its credential is.
func (r *rotation) index() {
	r.indexed = PhaseInspect
	named := r.credential
	named.Name = r.Status.Credential
	_ = workflow.UpsertTypedSearchAttributes(r.ctx, SearchAttributes(named).Copy())
}

// keyword bounds a search attribute.
func keyword(s string) string { return outside.Cut(s, 255) }

// passing are the phases that pass in moments: a search for them would find nothing, so that they are not
// worth an event of the history. Evidence is searchable once it lacks something.
var passing = []Phase{PhaseInspect, PhasePromote, PhaseEvidence, PhaseDisable, PhaseRevoke, PhaseRecord}

// enter begins a phase.
func (r *rotation) enter(p Phase, doing string) {
	if !slices.Contains(passing, p) {
		r.findable(p)
	}
	r.Status.Phase, r.Status.Doing, r.Status.Since = p, doing, workflow.Now(r.ctx)
	r.Status.WaitsFor, r.Status.UnblockedBy, r.Status.Until = "", "", time.Time{}
	r.refresh()
}

// findable lets the run be searched for by its phase, and from its plan on by when it is overdue.
func (r *rotation) findable(p Phase) {
	if r.indexed == p {
		return
	}
	attributes := []temporal.SearchAttributeUpdate{AttributePhase.ValueSet(string(p))}
	if r.indexed == PhaseInspect && !r.Plan.RotateBy.IsZero() {
		attributes = append(attributes, AttributeRotateBy.ValueSet(r.Plan.RotateBy))
	}
	_ = workflow.UpsertTypedSearchAttributes(r.ctx, attributes...)
	r.indexed = p
}

// waitFor says what it takes to go on, and who can do that.
func (r *rotation) waitFor(what, unblockedBy string) {
	r.Status.WaitsFor, r.Status.UnblockedBy = what, unblockedBy
	r.refresh()
}

// until says when a timed wait ends.
func (r *rotation) until(end time.Time) {
	r.Status.Until = end
	r.refresh()
}

// maxTimeline bounds the timeline; its middle goes first.
const maxTimeline = 200

// note adds a line to the timeline.
func (r *rotation) note(format string, args ...any) {
	if len(r.Status.Timeline) == maxTimeline {
		r.Status.Timeline = slices.Delete(r.Status.Timeline, maxTimeline/2, maxTimeline/2+1)
	}
	r.Status.Timeline = append(r.Status.Timeline, Moment{At: workflow.Now(r.ctx), Phase: r.Status.Phase, What: clip(fmt.Sprintf(format, args...))})
	r.refresh()
}

// maxKeyMoments bounds how much is told of the two keys; what came in the middle goes first.
const maxKeyMoments = 50

// became tells what one of the two keys is from now on.
func (r *rotation) became(k KeyRole, s KeyState) {
	if r.latest(k) == s {
		return
	}
	if len(r.Status.Keys) == maxKeyMoments {
		r.Status.Keys = slices.Delete(r.Status.Keys, maxKeyMoments/2, maxKeyMoments/2+1)
	}
	r.Status.Keys = append(r.Status.Keys, KeyMoment{At: workflow.Now(r.ctx), Key: k, State: s})
}

// enabled says that the retiring key is again what it was before it was disabled.
func (r *rotation) enabled() {
	for _, m := range slices.Backward(r.Status.Keys) {
		if m.Key == RoleRetiring && m.State != KeyDisabled {
			r.became(RoleRetiring, m.State)
			return
		}
	}
	r.became(RoleRetiring, KeyPrevious)
}

// maxNotices bounds what is kept of them: the first ones, and the last.
const maxNotices = 50

// notice adds what everybody who looks should know, once.
func (r *rotation) notice(format string, args ...any) {
	text := clip(fmt.Sprintf(format, args...))
	if !slices.Contains(r.Status.Notices, text) {
		if len(r.Status.Notices) == maxNotices {
			r.Status.Notices = slices.Delete(r.Status.Notices, maxNotices/2, maxNotices/2+1)
		}
		r.Status.Notices = append(r.Status.Notices, text)
	}
	r.refresh()
}

// reply is a notice to whoever sent a signal, who gets no other answer: of one that is sent again it is the last notice again, with the time.
func (r *rotation) reply(format string, args ...any) {
	const at = " (at "
	text := outside.Cut(clip(fmt.Sprintf(format, args...)), maxSaid-len(at+"15:04:05 UTC)"))
	r.Status.Notices = slices.DeleteFunc(r.Status.Notices, func(n string) bool { return strings.HasPrefix(n, text+at) })
	r.notice("%s%s%s)", text, at, workflow.Now(r.ctx).UTC().Format("15:04:05 UTC"))
}

// refresh has the status shown in the Web UI, before the workflow task ends.
func (r *rotation) refresh() { r.stale = true }

// keepShown shows the status, once however many changes came before: thousands of requests in one task must not write a page
// each. It adds nothing to the history.
func (r *rotation) keepShown(ctx workflow.Context) {
	for workflow.Await(ctx, func() bool { return r.stale }) == nil {
		r.show()
	}
}

func (r *rotation) show() {
	r.stale = false
	workflow.SetCurrentDetails(r.ctx, r.shown().Markdown(workflow.Now(r.ctx)))
}

// shown is the status as it is shown.
func (r *rotation) shown() Status {
	s := r.Status
	if s.NoWayBack = ""; !r.over() {
		s.NoWayBack = r.noWayBack(workflow.Now(r.ctx))
	}
	if s.OnlyForward = ""; !r.Plan.MadeAt.IsZero() && !r.over() {
		s.OnlyForward = r.onlyForward()
	}
	unknown := workflow.GetUnhandledSignalNames(r.ctx)
	slices.Sort(unknown)
	for _, name := range unknown[:min(len(unknown), 5)] {
		s.Notices = append(slices.Clip(s.Notices), clip(fmt.Sprintf("a signal %q was sent, which no rotation takes: it takes approve, reject, extend and rollback", name)))
	}
	switch here := r.standpoint(); {
	case here.NoWayBack != "":
		s.UnblockedBy = withoutRollback(s.UnblockedBy)
	default:
		s.TurnBack = fmt.Sprintf("keyturn rollback %s --reason WHY", s.Credential)
		if here.Disabled && here.Revoke != nil && here.Revoke.Count > 0 && here.Revoke.Trust != inventory.TrustAny {
			s.TurnBack += " --sign KEY"
		}
	}
	r.foresee(&s)
	return s
}

// next says what a rotation does after a phase, when all goes well.
var next = map[Phase]string{
	PhaseSignoff:     "the incoming key is issued, and brought to the consumers wave by wave",
	PhaseIssue:       "the incoming key is brought to the consumers wave by wave, the canary first",
	PhaseDeliver:     "the incoming key becomes CURRENT, and both keys are accepted for the overlap",
	PhaseOverlap:     "it is proved that nobody needs the retiring key, and who has to approve its end is asked",
	PhaseEvidence:    "who has to approve the end of the retiring key is asked, and then it is taken away",
	PhaseRevokeGate:  "the retiring key is disabled, where its issuer can, and then destroyed",
	PhaseDisableSoak: "the retiring key is destroyed for good",
	PhaseRollback:    "the run ends, with the consumers on the retiring key",
}

// orRollback ends what a wait says of who can end it, where a rollback would.
const orRollback = "; or: rollback"

// withoutRollback takes the offer of a rollback away, which nobody would be granted.
func withoutRollback(unblockedBy string) string {
	for _, offer := range []string{orRollback, orRollback + ", which ends it", ", rollback"} {
		if others, offered := strings.CutSuffix(unblockedBy, offer); offered {
			return others
		}
	}
	return unblockedBy
}

// Asked says who asked for the run, and why, as they say; empty when nobody did.
func (s Status) Asked() string {
	switch {
	case s.RequestedBy == "":
		return s.Reason
	case s.Reason == "":
		return s.RequestedBy
	}
	return s.RequestedBy + ": " + s.Reason
}

// maxSaid bounds, in bytes, one text of a status.
const maxSaid = 1000

// clip bounds a text that may come from outside, and leaves nothing in it that a terminal obeys. It may be
// called again.
func clip(s string) string { return outside.Lines(s, maxSaid) }

// Markdown is the status as the Web UI shows it: first whose it is, who asked, what it waits for, and how to decide.
func (s Status) Markdown(now time.Time) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("### %s: %s", text(s.Credential), text(string(s.Phase)))
	line("")
	line("%s", text(s.Doing))
	line("")
	if s.Owner != "" {
		line("- **Owner:** %s", text(s.Owner))
	}
	if s.Ends != "" {
		line("- **Ends:** key %s, and does nothing else", text(s.Ends))
	}
	if by := s.Asked(); by != "" {
		line("- **Asked for by:** %s", text(by))
	}
	if s.Generation > 0 && s.Report == nil {
		line("- **Spec:** the one that was applied %s, which this run keeps; one that is applied meanwhile counts from the next rotation", time.UnixMilli(s.Generation).UTC().Format(time.RFC3339))
	}
	if s.WaitsFor != "" {
		line("- **Waits for:** %s", text(s.WaitsFor))
		line("- **Unblocked by:** %s", text(s.UnblockedBy))
	}
	if g := s.Gate; g != nil {
		line("- **%s gate:** %s", text(string(g.Gate)), g.Progress(now))
		line("- **Approve with:** %s", code(g.Command(s.Credential)))
		if signal := g.Signal(); signal != "" {
			line("- **Or send the signal** %s **with:** %s", code(string(policy.Approve)), code(signal))
		} else {
			line("- **Or send the signal** %s **with** what that prints with %s", code(string(policy.Approve)), code("--print"))
		}
	}
	if s.Gate != nil && len(s.Notices) > 0 { // such as what was wrong with a signal, where the next one is written
		line("- **Last note:** %s", text(s.Notices[len(s.Notices)-1]))
	}
	if !s.Until.IsZero() {
		line("- **Until:** %s", s.Until.UTC().Format(time.RFC3339))
	}
	if s.Takes != "" {
		line("- **Takes:** %s", text(s.Takes))
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
	if then := next[s.Phase]; then != "" && s.Ends == "" && len(s.Incidents) == 0 {
		line("- **Next:** %s", then)
	}
	if !s.Soonest.IsZero() {
		line("- **ETA:** the rotation ends %s at the earliest; people and evidence may take longer", s.Soonest.UTC().Format(time.RFC3339))
	}
	if s.Budget != "" {
		line("- **Error budget:** %s; what the last look counted is said by %s", text(s.Budget), code("keyturn status "+s.Credential))
	}
	if s.TurnBack != "" {
		line("- **If you are worried:** %s turns it back, and leaves the consumers on the retiring key", code(s.TurnBack))
	}
	if len(s.Waves) > 0 {
		line("\n| wave | instances | state |\n|---|---|---|")
		for _, w := range s.Waves {
			names := w.Instances
			if len(names) > 10 {
				names = append(slices.Clone(names[:10]), fmt.Sprintf("and %d more", len(w.Instances)-10))
			}
			line("| %s | %s | %s |", text(w.Name), text(strings.Join(names, ", ")), text(w.Progress()))
		}
		for _, w := range s.Waves {
			whereTo := "Did not get there"
			if w.State == waveDelivering {
				whereTo = "Not there yet"
			}
			for _, one := range w.Missing() {
				line("\n> **%s:** wave %s: %s", whereTo, text(w.Name), text(one))
			}
		}
	}
	for _, n := range s.Notices {
		line("\n> **Note:** %s", text(n))
	}
	if len(s.Timeline) > 0 {
		line("")
		for _, m := range s.Timeline {
			line("1. %s %s", m.At.UTC().Format(time.DateTime), text(m.What))
		}
	}
	return b.String()
}

// markdown takes the meaning from all that has one inside a line, for the Web UI's renderer: also from the
// colon, without which no address becomes a link, and from dashes and dots, of which it makes typographic ones: a flag of a command
// that was copied from there would be none.
var markdown = strings.NewReplacer("\\", "\\\\", "`", "\\`", "*", "\\*", "_", "\\_", "[", "\\[", "]", "\\]", "<", "&lt;", ">", "&gt;",
	"|", "\\|", "#", "\\#", "!", "\\!", "&", "&amp;", ":", "\\:", "~", "\\~", "^", "\\^", "$", "&#36;", "{", "\\{", "}", "\\}",
	"--", `\-\-`, "...", `\.\.\.`)

// code is a text to be copied as it stands, which ends neither its span nor the line.
func code(s string) string {
	return "`" + strings.ReplaceAll(strings.Join(strings.Fields(clip(s)), " "), "`", "'") + "`"
}

// asJSON is what text shows as code: JSON to be sent, whose quotes would become typographic ones, and no escape keeps them.
var asJSON = regexp.MustCompile("\\{\"[^{}|`]*\"\\}")

// text makes a text safe inside Markdown: it neither formats nor breaks a line, which two spaces would, too. JSON in it can be copied.
func text(s string) string {
	s = strings.Join(strings.Fields(clip(s)), " ")
	var b strings.Builder
	end := 0
	for _, found := range asJSON.FindAllStringIndex(s, -1) {
		b.WriteString(markdown.Replace(s[end:found[0]]) + code(s[found[0]:found[1]]))
		end = found[1]
	}
	return b.String() + markdown.Replace(s[end:])
}
