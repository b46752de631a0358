package workflows

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/outside"
	"github.com/keyturn/keyturn/internal/signed"
)

// IncidentInput begins an incident: with a declaration that is signed by one whom trust.incidents names.
type IncidentInput struct {
	Declaration signed.Envelope `json:"declaration"`
	// Specs are those of credentials that no Schedule has, by name; all others are found.
	Specs map[string]inventory.SignedSpec `json:"specs,omitempty"`
	// After says of credentials which others were made with: one's emergency begins when theirs have ended, or half of the time until
	// the deadline has passed.
	After map[string][]string `json:"after,omitempty"`
	// NoFreeze: deployments go on.
	NoFreeze bool `json:"noFreeze,omitempty"`
	// RequestedBy is for the record.
	RequestedBy string `json:"requestedBy,omitempty"`
}

// The outcomes of an incident, and the states of its credentials.
const (
	// Contained: every exposed key is dead, and all consumers are on another one.
	Contained Outcome = "contained"
	// ContainedWithDebt: every exposed key is dead, and something is still owed.
	ContainedWithDebt Outcome = "contained-with-debt"
	// NotContained: an exposed key may be alive.
	NotContained Outcome = "not-contained"
)

// IncidentStatus is where an incident stands, and its result.
type IncidentStatus struct {
	Incident string `json:"incident"`
	Reason   string `json:"reason,omitempty"`
	// DeclaredBy signed the declaration.
	DeclaredBy string    `json:"declaredBy,omitempty"`
	Since      time.Time `json:"since"`
	// Deadline is when exposed keys are destroyed whoever uses them.
	Deadline time.Time `json:"deadline,omitzero"`
	// Outcome is empty while it goes on.
	Outcome Outcome `json:"outcome,omitempty"`
	// Message says first what is not contained.
	Message string `json:"message,omitempty"`
	// ContainedAt is when the last exposed key was seen dead.
	ContainedAt time.Time `json:"containedAt,omitzero"`
	EndedAt     time.Time `json:"endedAt,omitzero"`
	// FrozenUntil is when the freeze of deployments ends by itself; zero when there is none.
	FrozenUntil time.Time        `json:"frozenUntil,omitzero"`
	Credentials []IncidentMember `json:"credentials,omitempty"`
	Timeline    []IncidentMoment `json:"timeline,omitempty"`
}

// IncidentMember is one credential of an incident.
type IncidentMember struct {
	Credential string   `json:"credential"`
	Exposed    []string `json:"exposed"`
	// State is what goes on, and at the end how that ended.
	State     string         `json:"state"`
	Outcome   Outcome        `json:"outcome,omitempty"`
	Message   string         `json:"message,omitempty"`
	Contained []ContainedKey `json:"contained,omitempty"`
	// Current is the key that consumers are sent to now.
	Current key.Ref           `json:"current,omitzero"`
	Debt    []activities.Debt `json:"debt,omitempty"`
}

// IncidentMoment is one line of an incident's timeline.
type IncidentMoment struct {
	At   time.Time `json:"at"`
	What string    `json:"what"`
}

// incidentRun is one run of an incident.
type incidentRun struct {
	ctx    workflow.Context
	in     IncidentInput
	status IncidentStatus
	// news are the ends that emergencies told of, by credential.
	news map[string]Report
	// over: every emergency has ended; thaw is why people end the freeze before that; freezing is done once that has ended.
	over     bool
	thaw     string
	freezing workflow.WaitGroup
}

// Incident ends the exposed keys of some credentials: it starts the emergency of each, or has the rotation that runs become that, and
// waits for their ends. Its workflow ID is incident.ID of a name. Nothing is touched when its declaration proves nothing. It is
// finished by what it began with: a cancellation of it stops nothing.
func Incident(ctx workflow.Context, in IncidentInput) (IncidentStatus, error) {
	own, _ := workflow.NewDisconnectedContext(ctx)
	i := &incidentRun{ctx: workflow.WithPriority(own, temporal.Priority{PriorityKey: 1}), in: in, news: map[string]Report{}, freezing: workflow.NewWaitGroup(own)}
	i.status = IncidentStatus{Incident: workflow.GetInfo(ctx).WorkflowExecution.ID, Since: workflow.Now(ctx)}
	err := workflow.SetQueryHandlerWithOptions(ctx, StatusName, func() (IncidentStatus, error) { return i.status, nil },
		workflow.QueryHandlerOptions{Description: "Where the incident stands: which exposed key is dead, and which is not"})
	if err != nil {
		return i.status, err
	}
	if err := i.prove(); err != nil {
		i.status.Outcome, i.status.Message, i.status.EndedAt = Refused, "Nothing was touched: "+cause(err), workflow.Now(i.ctx)
		i.show()
		return i.status, nil
	}
	workflow.Go(i.ctx, i.listen)
	if !in.NoFreeze {
		i.freezing.Add(1)
		workflow.Go(i.ctx, i.freeze)
	}
	done := workflow.NewWaitGroup(i.ctx)
	for n := range i.status.Credentials {
		done.Add(1)
		workflow.Go(i.ctx, func(ctx workflow.Context) {
			defer done.Done()
			if n >= atOnce { // their inputs do not fit into one workflow task
				_ = workflow.Sleep(ctx, time.Duration(n/atOnce)*100*time.Millisecond)
			}
			i.awaitOthers(ctx, &i.status.Credentials[n])
			i.follow(ctx, &i.status.Credentials[n])
		})
	}
	done.Wait(i.ctx)
	i.over = true
	i.end()
	i.freezing.Wait(i.ctx)
	return i.status, nil
}

// atOnce is how many emergencies begin in one workflow task.
const atOnce = 20

// prove sees who declared the incident, and that it is this one.
func (i *incidentRun) prove() error {
	var declared activities.Declared
	if err := declaring.start(i.ctx, TaskQueue, act.ProveDeclaration, activities.DeclarationInput{Emergency: i.emergency().Emergency}).Get(i.ctx, &declared); err != nil {
		return err
	}
	d := declared.Declaration
	if d.Incident != i.status.Incident {
		return fmt.Errorf("the declaration is one of %q, and this is %q", d.Incident, i.status.Incident)
	}
	i.status.Reason, i.status.DeclaredBy, i.status.Deadline = d.Reason, declared.By, i.status.Since.Add(d.Deadline.Std())
	for _, name := range workflow.DeterministicKeys(d.Exposed) {
		i.status.Credentials = append(i.status.Credentials, IncidentMember{Credential: name, Exposed: d.Keys(name), State: "beginning"})
	}
	i.note("declared by %s: %s", declared.By, d.Reason)
	return nil
}

// emergency is by what that of each credential acts.
func (i *incidentRun) emergency() *Emergency {
	return &Emergency{
		Emergency: activities.Emergency{Declaration: i.in.Declaration, Since: i.status.Since},
		Incidents: []string{i.status.Incident},
	}
}

// How long a freeze of deployments lasts that nobody renews, how often it is renewed, and how often one is that a hook has not.
const (
	freezeLasts   = 30 * time.Minute
	freezeRenews  = 10 * time.Minute
	freezeRetries = 30 * time.Second
)

// freeze keeps others from deploying while the incident goes on, where the worker configuration has hooks for that. Nothing waits for it,
// and should this run end without its doing, the freeze does so by itself.
func (i *incidentRun) freeze(ctx workflow.Context) {
	defer i.freezing.Done()
	signals := workflow.GetSignalChannelWithOptions(ctx, UnfreezeName, workflow.SignalChannelOptions{Description: "Have deployments go on before the incident has ended; sent by keyturn incident unfreeze"})
	workflow.Go(ctx, func(ctx workflow.Context) {
		var asked Unfreeze
		signals.Receive(ctx, &asked)
		i.thaw = cmp.Or(asked.By, "somebody")
	})
	said := ""
	for over := false; !over; {
		until := workflow.Now(ctx).Add(freezeLasts)
		frozen, err := i.hooks(ctx, act.Freeze, until)
		nothing := i.status.FrozenUntil.IsZero()
		switch {
		case err != nil && nothing:
			i.note("deployments are not frozen: %s", cause(err))
			return
		case err != nil:
			frozen.Failed = []string{cause(err)}
		case len(frozen.Done)+len(frozen.Failed) == 0:
			return // there are no hooks
		}
		if len(frozen.Done) > 0 {
			i.status.FrozenUntil = until
			i.show()
		}
		if now := frozen.text("frozen by"); now != said {
			said = now
			i.note("deployments: %s; override with: keyturn incident unfreeze %s", now, i.status.Incident)
		}
		again := freezeRenews
		if len(frozen.Failed) > 0 {
			again = freezeRetries
		}
		over, _ = workflow.AwaitWithTimeout(ctx, again, func() bool { return i.over || i.thaw != "" })
	}
	if i.thaw != "" {
		i.note("deployments go on, as %s asked for", i.thaw)
	}
	for range 3 {
		frozen, err := i.hooks(ctx, act.Unfreeze, time.Time{})
		if err == nil && len(frozen.Failed) == 0 {
			i.status.FrozenUntil = time.Time{}
			i.note("deployments: %s", frozen.text("unfrozen by"))
			return
		}
		said = frozen.text("unfrozen by")
		if err != nil {
			said = cause(err)
		}
		_ = workflow.Sleep(ctx, 10*time.Second)
	}
	i.note("deployments may be frozen until %s, when that ends by itself: %s", i.status.FrozenUntil.UTC().Format(time.RFC3339), said)
}

// hooks asks all freeze hooks.
func (i *incidentRun) hooks(ctx workflow.Context, activity any, until time.Time) (frozen frozenHooks, err error) {
	err = freezing.start(ctx, EmergencyQueue, activity, activities.FreezeInput{Emergency: i.emergency().Emergency, Until: until}).Get(ctx, &frozen)
	return frozen, err
}

// frozenHooks is what hooks answered.
type frozenHooks activities.Frozen

func (f frozenHooks) text(done string) string {
	var parts []string
	if len(f.Done) > 0 {
		parts = append(parts, done+" "+strings.Join(f.Done, ", "))
	}
	if len(f.Failed) > 0 {
		parts = append(parts, "failed: "+strings.Join(f.Failed, "; "))
	}
	return strings.Join(parts, "; ")
}

// listen takes the news of emergencies that are none of its children.
func (i *incidentRun) listen(ctx workflow.Context) {
	signals := workflow.GetSignalChannelWithOptions(ctx, EndedName, workflow.SignalChannelOptions{Description: "An emergency has ended; sent by emergencies"})
	for {
		var told EmergencyEnded
		signals.Receive(ctx, &told)
		i.news[told.Credential] = told.Report
	}
}

// awaitOthers waits for the emergencies of those that a credential was made with.
func (i *incidentRun) awaitOthers(ctx workflow.Context, m *IncidentMember) {
	after := i.in.After[m.Credential]
	over := func() bool {
		return !slices.ContainsFunc(i.status.Credentials, func(o IncidentMember) bool {
			return o.Outcome == "" && o.Credential != m.Credential && slices.Contains(after, o.Credential)
		})
	}
	if over() {
		return
	}
	i.became(m, "waits for "+strings.Join(after, ", ")+", which it was made with")
	_, _ = workflow.AwaitWithTimeout(ctx, i.status.Deadline.Sub(i.status.Since)/2, over)
}

// How an incident waits for a rotation that it asked to become an emergency.
const (
	// askAgain is how long one that does not answer is given until it is asked once more, and takeoverTimeout until it is ended.
	askAgain        = 15 * time.Second
	takeoverTimeout = time.Minute
	// One that has heard is asked now and then whether it still answers.
	lookAgain, longestLook = time.Minute, 15 * time.Minute
)

// follow begins the emergency of a credential, as often as it takes for one to come to its end: as a child, or, while a rotation runs,
// by asking that. A rotation that ends in between is followed by a child, and so is whatever does not answer, which is ended.
func (i *incidentRun) follow(ctx workflow.Context, m *IncidentMember) {
	input := RotationInput{Credential: m.Credential, Emergency: i.emergency(), Reason: i.status.Reason, RequestedBy: i.in.RequestedBy}
	if spec, given := i.in.Specs[m.Credential]; given {
		input.Spec = spec
	}
	told := func() bool { _, told := i.news[m.Credential]; return told }
	for pause := time.Second; ; pause = min(2*pause, time.Minute) {
		child := workflow.ExecuteChildWorkflow(workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{
			WorkflowID: WorkflowID(m.Credential), TaskQueue: EmergencyQueue, ParentClosePolicy: enums.PARENT_CLOSE_POLICY_ABANDON,
			WorkflowIDReusePolicy: enums.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE, Priority: temporal.Priority{PriorityKey: 1},
			StaticSummary: summary("emergency of " + m.Credential),
		}), EmergencyRotation, input)
		err := child.GetChildWorkflowExecution().Get(ctx, nil)
		switch {
		case err == nil:
			i.became(m, "containing")
			i.attend(ctx, m, child.IsReady, func() error { return nil })
			report, ended := i.reported(child, ctx)
			if ended {
				i.ended(m, report)
				return
			}
			i.became(m, "its emergency was stopped: "+report.Message)
		case temporal.IsWorkflowExecutionAlreadyStartedError(err):
			i.attend(ctx, m, told, func() error { return i.ask(ctx, m) })
			report, news := i.news[m.Credential]
			delete(i.news, m.Credential)
			if news && (report.Incident == i.status.Incident || len(m.alive(report.Contained)) == 0) {
				i.ended(m, report)
				return
			}
			if news {
				i.became(m, "another emergency has ended, which did not end these keys")
			}
		default:
			i.became(m, "cannot begin: "+cause(err))
		}
		_ = workflow.Sleep(ctx, pause)
	}
}

// ask has the rotation that runs become the emergency.
func (i *incidentRun) ask(ctx workflow.Context, m *IncidentMember) error {
	err := workflow.SignalExternalWorkflow(ctx, WorkflowID(m.Credential), "", CompromisedName, Compromised{
		Incident: i.status.Incident, Reason: i.status.Reason, Emergency: i.emergency(),
	}).Get(ctx, nil)
	if err == nil {
		i.became(m, "asked the rotation that runs")
	}
	return err
}

// attend waits until what has the credential's workflow ID has ended, and sees now and then whether it answers, after asking it. What does
// not for a while is ended.
func (i *incidentRun) attend(ctx workflow.Context, m *IncidentMember, over func() bool, ask func() error) {
	var silent time.Time // since when it does not answer; zero when it does
	for every, wait := lookAgain, askAgain; ; {
		asked := workflow.Now(ctx)
		if ask() != nil && silent.IsZero() {
			wait = time.Second // it has ended, or takes no signal any more
		}
		if left := i.status.Deadline.Sub(asked); left > 0 {
			wait = min(wait, max(left, askAgain), lookAgain) // it is not left alone before the deadline
		}
		if ended, _ := workflow.AwaitWithTimeout(ctx, wait, over); ended {
			return
		}
		input := activities.TakeoverInput{DeclarationInput: activities.DeclarationInput{Emergency: i.emergency().Emergency, Credential: m.Credential}}
		input.End = !silent.IsZero() && workflow.Now(ctx).Sub(silent) >= takeoverTimeout
		var is activities.Takeover
		if err := following.start(ctx, EmergencyQueue, act.Follow, input).Get(ctx, &is); err != nil {
			i.became(m, "nobody can tell how its rotation stands: "+cause(err))
			wait, every = every, min(2*every, longestLook)
			continue
		}
		switch is {
		case activities.TakeoverHeard:
			i.became(m, "containing")
			silent, wait, every = time.Time{}, every, min(2*every, longestLook)
		case activities.TakeoverSilent:
			if wait = askAgain; silent.IsZero() {
				silent = asked
			}
			i.became(m, "what runs does not answer; it is ended "+silent.Add(takeoverTimeout).UTC().Format(time.TimeOnly))
		default:
			if input.End {
				i.note("%s: what ran did not answer, and was ended", m.Credential)
			}
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

// ended takes over what an emergency says of its end.
func (i *incidentRun) ended(m *IncidentMember, report Report) {
	m.Outcome, m.Message, m.Contained, m.Current, m.Debt = report.Outcome, report.Message, report.Contained, report.Incoming, report.Debt
	m.State = string(NotContained)
	if len(m.alive(m.Contained)) == 0 {
		m.State = string(Contained)
	}
	for _, k := range m.Contained {
		if k.At.After(i.status.ContainedAt) {
			i.status.ContainedAt = k.At
		}
	}
	i.note("%s: %s: %s", m.Credential, m.State, m.Message)
}

// Dead counts the exposed keys that are dead, and all that are exposed.
func (s IncidentStatus) Dead() (dead, exposed int) {
	for _, m := range s.Credentials {
		exposed += len(m.Exposed)
		dead += len(m.Exposed) - len(m.alive(m.Contained))
	}
	return dead, exposed
}

// alive are the exposed keys that are not among those that somebody saw dead.
func (m IncidentMember) alive(dead []ContainedKey) []string {
	return slices.DeleteFunc(slices.Clone(m.Exposed), func(id string) bool {
		return slices.ContainsFunc(dead, func(k ContainedKey) bool { return k.KeyID == id && !k.Absent })
	})
}

// became notes what goes on with a credential, once.
func (i *incidentRun) became(m *IncidentMember, state string) {
	if m.State != state {
		m.State = state
		i.note("%s: %s", m.Credential, state)
	}
}

func (i *incidentRun) note(format string, args ...any) {
	if len(i.status.Timeline) == maxTimeline {
		i.status.Timeline = slices.Delete(i.status.Timeline, maxTimeline/2, maxTimeline/2+1)
	}
	i.status.Timeline = append(i.status.Timeline, IncidentMoment{workflow.Now(i.ctx), clip(fmt.Sprintf(format, args...))})
	i.show()
}

// end says how it all ended, what is not contained first.
func (i *incidentRun) end() {
	var alive, owed []string
	for _, m := range i.status.Credentials {
		if left := m.alive(m.Contained); len(left) > 0 {
			alive = append(alive, fmt.Sprintf("%s (%s): %s", m.Credential, strings.Join(left, ", "), m.Message))
		} else if m.Outcome != Completed {
			owed = append(owed, fmt.Sprintf("%s: %s", m.Credential, m.Message))
		}
	}
	took := i.status.ContainedAt.Sub(i.status.Since).Round(time.Second)
	switch {
	case len(alive) > 0:
		i.status.Outcome, i.status.Message = NotContained, "NOT CONTAINED: "+strings.Join(append(alive, owed...), "; ")
	case len(owed) > 0:
		i.status.Outcome, i.status.Message = ContainedWithDebt, fmt.Sprintf("Every exposed key is dead, after %s. Still owed: %s", took, strings.Join(owed, "; "))
	default:
		i.status.Outcome, i.status.Message = Contained, fmt.Sprintf("Every exposed key is dead, after %s, and all consumers are on another one.", took)
	}
	i.status.Message = outside.Lines(i.status.Message, 4*outside.MaxText)
	i.status.EndedAt = workflow.Now(i.ctx)
	i.note("%s", i.status.Message)
}

func (i *incidentRun) show() { workflow.SetCurrentDetails(i.ctx, i.status.Markdown()) }

// Markdown is the incident as the Web UI shows it.
func (s IncidentStatus) Markdown() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	if s.Message != "" {
		line("**%s**", text(s.Message))
		line("")
	}
	line("### %s: %s", text(s.Incident), text(s.Reason))
	line("")
	line("- **Declared by:** %s", text(cmp.Or(s.DeclaredBy, "nobody who may")))
	line("- **Begun:** %s", s.Since.UTC().Format(time.RFC3339))
	if !s.Deadline.IsZero() {
		line("- **Deadline:** %s; then exposed keys end whoever uses them", s.Deadline.UTC().Format(time.RFC3339))
	}
	if !s.FrozenUntil.IsZero() {
		line("- **Deployments are frozen** until %s, or the end; override with `keyturn incident unfreeze %s`", s.FrozenUntil.UTC().Format(time.RFC3339), text(s.Incident))
	}
	if len(s.Credentials) > 0 {
		line("\n| credential | exposed | state | dead since | current |\n|---|---|---|---|---|")
		for _, m := range s.Credentials {
			var dead []string
			for _, k := range m.Contained {
				dead = append(dead, fmt.Sprintf("%s %s", k.KeyID, k.At.UTC().Format(time.TimeOnly)))
			}
			line("| %s | %s | %s | %s | %s |", text(m.Credential), text(strings.Join(m.Exposed, ", ")), text(m.State), text(strings.Join(dead, ", ")), text(m.Current.KeyID))
		}
	}
	line("")
	for _, m := range s.Timeline {
		line("1. %s %s", m.At.UTC().Format(time.TimeOnly), text(m.What))
	}
	return b.String()
}
