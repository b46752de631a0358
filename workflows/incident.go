package workflows

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/incident"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/outside"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/signed"
)

// IncidentInput begins an incident: with a declaration that is signed by one whom trust.incidents names; or without, and then no key is
// destroyed until somebody confirms it by one.
type IncidentInput struct {
	Declaration signed.Envelope `json:"declaration,omitzero"`
	// More are further declarations of the same incident, of other credentials: one is of a hundred at most, since it goes along with the
	// emergency of each.
	More []signed.Envelope `json:"more,omitempty"`
	// Credentials are those of which a key is exposed, as somebody says who does not sign, and Reason is why. Suspects are the keys, where
	// they say that, too: those in use when it began, which the one who signs is shown.
	Credentials []string            `json:"credentials,omitempty"`
	Reason      string              `json:"reason,omitempty"`
	Suspects    map[string][]string `json:"suspects,omitempty"`
	// Specs are those of credentials that no Schedule has, by name; all others are found.
	Specs map[string]inventory.SignedSpec `json:"specs,omitempty"`
	// After says of credentials which others were made with: one's emergency begins when theirs have ended, or half of the time until
	// the deadline has passed.
	After map[string][]string `json:"after,omitempty"`
	// NoFreeze: deployments go on.
	NoFreeze bool `json:"noFreeze,omitempty"`
	// ExposedSince is since when somebody else may have had the keys: uses of others before tell what is usual. Zero when nobody knows.
	ExposedSince time.Time `json:"exposedSince,omitzero"`
	// RequestedBy is for the record.
	RequestedBy string `json:"requestedBy,omitempty"`
	// Carried is set by a run that goes on in this one.
	Carried *CarriedIncident `json:"carried,omitempty"`
}

// CarriedIncident is what one run of an incident hands to the next.
type CarriedIncident struct {
	Status       IncidentStatus    `json:"status"`
	Declarations []signed.Envelope `json:"declarations"`
	// By is the declaration of each credential, by its place.
	By map[string]int `json:"by"`
	// Half is when half of the time until the deadline has passed: then nothing waits for another credential any more.
	Half time.Time `json:"half,omitzero"`
	// LateAt is when it is said next that an exposed key may be alive; Contained: it was said that none is.
	LateAt    time.Time `json:"lateAt,omitzero"`
	Contained bool      `json:"contained,omitempty"`
	// Asked are the credentials whose emergency was begun, or asked for, and News what came of some and was not taken yet.
	Asked map[string]bool   `json:"asked,omitempty"`
	News  map[string]Report `json:"news,omitempty"`
	// Thaw is who wanted deployments to go on.
	Thaw string `json:"thaw,omitempty"`
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
	DeclaredBy string `json:"declaredBy,omitempty"`
	// Drill: no key leaked.
	Drill bool      `json:"drill,omitempty"`
	Since time.Time `json:"since"`
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
	State string `json:"state"`
	// Unconfirmed: nobody has signed for it yet, or not in time. Suspects are the keys that somebody named who did not sign.
	Unconfirmed bool           `json:"unconfirmed,omitempty"`
	Suspects    []string       `json:"suspects,omitempty"`
	Outcome     Outcome        `json:"outcome,omitempty"`
	Message     string         `json:"message,omitempty"`
	Contained   []ContainedKey `json:"contained,omitempty"`
	// Current is the key that consumers are sent to now.
	Current key.Ref           `json:"current,omitzero"`
	Debt    []activities.Debt `json:"debt,omitempty"`
	// Misuse is what is known of who used the exposed keys, the most alarming alone; that of the emergency has more.
	Misuse *policy.Misuse `json:"misuse,omitempty"`
}

// IncidentMoment is one line of an incident's timeline.
type IncidentMoment struct {
	At   time.Time `json:"at"`
	What string    `json:"what"`
}

// incidentRun is one run of an incident.
type incidentRun struct {
	ctx workflow.Context
	in  IncidentInput
	// CarriedIncident is by what it acts, and what it said so far; begun: its emergencies begin, so that no credential comes to it.
	CarriedIncident
	begun bool
	// signatures is how many declarations came so far, confirming how many are being proved, telling how many messages are on their way,
	// and heard how many signals were taken.
	signatures, confirming, telling, heard int
	// tells is held by who tells people: what comes later is told later.
	tells workflow.Mutex
	// turns is held by who waits for the next workflow task; asked counts what was asked for in the one that begins at task.
	turns       workflow.Mutex
	task, asked int
	stale       bool // what is shown
	// over: every emergency has ended; thaw is why people end the freeze before that; freezing is done once that has ended.
	over     bool
	freezing workflow.WaitGroup
}

// Incident ends the exposed keys of some credentials: it starts the emergency of each, or has the rotation that runs become that, and
// waits for their ends. Its workflow ID is incident.ID of a name. Nothing is touched when its declaration proves nothing. It is
// finished by what it began with: a cancellation of it stops nothing.
func Incident(ctx workflow.Context, in IncidentInput) (IncidentStatus, error) {
	own, _ := workflow.NewDisconnectedContext(ctx)
	i := &incidentRun{ctx: workflow.WithPriority(own, temporal.Priority{PriorityKey: 1}), in: in, tells: workflow.NewMutex(own), turns: workflow.NewMutex(own), freezing: workflow.NewWaitGroup(own)}
	i.CarriedIncident = CarriedIncident{Status: IncidentStatus{Incident: workflow.GetInfo(ctx).WorkflowExecution.ID, Since: workflow.Now(ctx)}, By: map[string]int{}, Asked: map[string]bool{}, News: map[string]Report{}}
	if in.Carried != nil {
		i.CarriedIncident = *in.Carried
		if len(i.Declarations) == 0 || i.By == nil {
			return i.Status, temporal.NewNonRetryableApplicationError("what an incident goes on with has no declaration: nothing was touched", FailedType, nil)
		}
		if i.Asked == nil {
			i.Asked = map[string]bool{}
		}
		if i.News == nil {
			i.News = map[string]Report{}
		}
	}
	err := workflow.SetQueryHandlerWithOptions(ctx, StatusName, func() (IncidentStatus, error) { return i.Status, nil },
		workflow.QueryHandlerOptions{Description: "Where the incident stands: which exposed key is dead, and which is not"})
	if err != nil {
		return i.Status, err
	}
	err = workflow.SetQueryHandlerWithOptions(ctx, DeclarationsName, func() ([]signed.Envelope, error) { return i.Declarations, nil },
		workflow.QueryHandlerOptions{Description: "The declarations by which the incident acts, with their signatures"})
	if err != nil {
		return i.Status, err
	}
	if err := i.listenForConfirmation(); err != nil {
		return i.Status, err
	}
	workflow.Go(i.ctx, i.keepShown)
	confirmed := true
	switch {
	case in.Carried != nil:
	case len(in.Declaration.Body) > 0:
		err = i.prove()
	default:
		confirmed, err = i.unsigned()
	}
	switch {
	case err != nil:
		return i.ends(Refused, "Nothing was touched: "+cause(err)), nil
	case !confirmed:
		return i.ends(NotContained, fmt.Sprintf("NOT CONTAINED: nobody signed for it within %s, so that no key was destroyed. The rotations that it began go on.", inventory.Duration(confirmWithin))), nil
	}
	workflow.Go(i.ctx, i.listen)
	if i.begun = true; in.Carried == nil {
		i.LateAt = i.Status.Deadline.Add(lateAfter)
		i.tell(i.ctx, activities.NewsBegun)
	}
	workflow.Go(i.ctx, i.watchDeadline)
	if !in.NoFreeze {
		i.freezing.Add(1)
		workflow.Go(i.ctx, i.freeze)
	}
	left := 0
	for n := range i.Status.Credentials {
		m := &i.Status.Credentials[n]
		if m.Outcome != "" {
			continue
		}
		left++
		workflow.Go(i.ctx, func(ctx workflow.Context) {
			i.awaitOthers(ctx, m)
			i.contain(ctx, m)
			left--
		})
	}
	_ = workflow.Await(i.ctx, func() bool { return left == 0 || i.full() })
	if left > 0 {
		i.drain()
	}
	if left > 0 {
		in.Carried, in.Declaration, in.More = &i.CarriedIncident, signed.Envelope{}, nil
		return i.Status, workflow.NewContinueAsNewError(i.ctx, Incident, in)
	}
	i.over = true
	i.end()
	i.tell(i.ctx, activities.NewsEnded)
	i.freezing.Wait(i.ctx)
	i.close()
	return i.Status, nil
}

// full tells whether the history is long enough, every emergency was begun, and nothing of this run's is waited for: its emergencies go on,
// and tell the next run.
func (i *incidentRun) full() bool {
	if !workflow.GetInfo(i.ctx).GetContinueAsNewSuggested() || i.telling > 0 {
		return false
	}
	return !slices.ContainsFunc(i.Status.Credentials, func(m IncidentMember) bool {
		return m.Outcome == "" && !m.Unconfirmed && !i.Asked[m.Credential] && !i.waitsForOthers(m)
	})
}

// drain waits until what has arrived is taken: what comes with the last task of a run is not lost.
func (i *incidentRun) drain() {
	for {
		before := i.heard
		gaveWay := false // which lets every receiver take what has arrived for it
		workflow.Go(i.ctx, func(workflow.Context) { gaveWay = true })
		_ = workflow.Await(i.ctx, func() bool {
			return gaveWay && i.confirming == 0 && i.telling == 0 && workflow.AllHandlersFinished(i.ctx)
		})
		if before == i.heard {
			return
		}
	}
}

// ends is the end of an incident that ended no key.
func (i *incidentRun) ends(outcome Outcome, message string) IncidentStatus {
	i.Status.Outcome, i.Status.Message, i.Status.EndedAt = outcome, message, workflow.Now(i.ctx)
	i.close()
	return i.Status
}

// close waits for what goes on beside: nobody is left without an answer.
func (i *incidentRun) close() {
	_ = workflow.Await(i.ctx, func() bool { return i.telling == 0 && workflow.AllHandlersFinished(i.ctx) })
	i.show()
}

// atOnce is in how much of what one workflow task asks for the declaration goes along: Temporal ends a run of which one task asks for more
// than fits into a message.
const atOnce = 20

// turn is asked for before each of those. Who comes while all others do, since a worker was away, waits for the next task.
func (i *incidentRun) turn(ctx workflow.Context) {
	if i.turns.Lock(ctx) != nil {
		return
	}
	defer i.turns.Unlock()
	task := workflow.GetInfo(ctx).GetCurrentHistoryLength() // of this task, however often it is replayed
	if task != i.task {
		i.task, i.asked = task, 0
	}
	if i.asked == atOnce {
		_ = workflow.Sleep(ctx, 100*time.Millisecond)
		i.task, i.asked = workflow.GetInfo(ctx).GetCurrentHistoryLength(), 0
	}
	i.asked++
}

// prove sees who declared the incident.
func (i *incidentRun) prove() error {
	if len(i.in.More) >= incident.MaxParts {
		return fmt.Errorf("it has %d declarations: at most %d, of %d credentials each", len(i.in.More)+1, incident.MaxParts, incident.MaxCredentials)
	}
	for _, one := range append([]signed.Envelope{i.in.Declaration}, i.in.More...) {
		declared, err := i.proved(i.ctx, one)
		if err == nil {
			err = i.accept(one, declared)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// proved is what a declaration proves that is one of this incident.
func (i *incidentRun) proved(ctx workflow.Context, declaration signed.Envelope) (declared activities.Declared, err error) {
	input := activities.DeclarationInput{Emergency: activities.Emergency{Declaration: declaration, Since: i.Status.Since}}
	if err := declaring.start(ctx, TaskQueue, act.ProveDeclaration, input).Get(ctx, &declared); err != nil {
		return declared, err
	}
	if d := declared.Declaration; d.Incident != i.Status.Incident {
		return declared, fmt.Errorf("the declaration is one of %q, and this is %q", d.Incident, i.Status.Incident)
	}
	return declared, nil
}

// emergency is by what that of a credential acts.
func (i *incidentRun) emergency(credential string) *Emergency {
	return &Emergency{
		Emergency: activities.Emergency{Declaration: i.Declarations[min(i.By[credential], len(i.Declarations)-1)], Since: i.Status.Since},
		Incidents: []string{i.Status.Incident}, ExposedSince: i.in.ExposedSince,
	}
}

// listen takes the news of emergencies.
func (i *incidentRun) listen(ctx workflow.Context) {
	signals := workflow.GetSignalChannelWithOptions(ctx, NewsName, workflow.SignalChannelOptions{Description: "How an emergency stands, or that it has ended; sent by emergencies"})
	for {
		var told EmergencyNews
		signals.Receive(ctx, &told)
		i.heard++
		if told.Report.Outcome != "" {
			i.News[told.Credential] = told.Report
			continue
		}
		for n := range i.Status.Credentials {
			if m := &i.Status.Credentials[n]; m.Credential == told.Credential && m.Outcome == "" {
				m.Current = told.Report.Incoming
				i.dead(m, told.Report.Contained)
				if len(m.alive(m.Contained)) == 0 {
					i.became(m, "every exposed key is dead, and the emergency is ending")
				}
			}
		}
	}
}

// dead notes of which keys somebody saw that they are dead.
func (i *incidentRun) dead(m *IncidentMember, keys []ContainedKey) {
	m.Contained = keys
	for _, k := range keys {
		if !k.Absent && k.At.After(i.Status.ContainedAt) {
			i.Status.ContainedAt = k.At
		}
	}
}

// contained tells whether every exposed key is dead.
func (i *incidentRun) contained() bool {
	dead, exposed := i.Status.Dead()
	return dead == exposed
}

// Past the deadline it is said how often that an exposed key may be alive. The first time is late enough for what the deadline sets off
// to end.
const (
	lateAfter = time.Minute
	lateAgain = time.Hour
)

// watchDeadline says that the deadline has passed, as long as an exposed key may be alive, and when all are dead.
func (i *incidentRun) watchDeadline(ctx workflow.Context) {
	for {
		if i.Contained {
			_ = workflow.Await(ctx, func() bool { return i.over || !i.contained() }) // the end may know better
			i.Contained = false
		}
		intime, _ := workflow.AwaitWithTimeout(ctx, i.LateAt.Sub(workflow.Now(ctx)), func() bool { return i.over || i.contained() })
		switch {
		case i.over:
			return
		case intime:
			i.Contained, i.Status.Message = true, ""
			i.note("contained: every exposed key is dead")
			i.tell(ctx, activities.NewsContained)
			continue
		}
		var alive []string
		for _, m := range i.Status.Credentials {
			if left := m.alive(m.Contained); len(left) > 0 {
				alive = append(alive, fmt.Sprintf("%s (%s): %s", m.Credential, strings.Join(left, ", "), m.State))
			}
		}
		i.Status.Message = outside.Lines("NOT CONTAINED YET, and the deadline has passed: "+strings.Join(alive, "; "), 4*outside.MaxText)
		i.note("%s", i.Status.Message)
		i.tell(ctx, activities.NewsLate)
		i.LateAt = workflow.Now(ctx).Add(lateAgain)
	}
}

// tell has all notifiers told how the incident stands; nothing waits for that but its end.
func (i *incidentRun) tell(ctx workflow.Context, news activities.News) {
	input := activities.NewsInput{News: news, At: workflow.Now(ctx).UTC(), Deadline: i.Status.Deadline, Alive: map[string][]string{}}
	if len(i.Declarations) > 0 {
		input.Declaration, input.More = i.Declarations[0], i.Declarations[1:]
	}
	for _, m := range i.Status.Credentials {
		if left := m.alive(m.Contained); len(left) > 0 {
			input.Alive[m.Credential] = left
		} else if m.Outcome != Completed {
			input.Owed = append(input.Owed, m.Credential)
		}
		if m.Unconfirmed {
			input.Unconfirmed = append(input.Unconfirmed, m.Credential)
		}
	}
	i.telling++
	workflow.Go(ctx, func(ctx workflow.Context) {
		defer func() { i.telling-- }()
		if i.tells.Lock(ctx) != nil {
			return
		}
		defer i.tells.Unlock()
		if err := announcing.start(ctx, EmergencyQueue, act.TellOfIncident, input).Get(ctx, nil); err != nil {
			i.note("not everybody was told that it is %s: %s", news, cause(err))
		}
	})
}

// awaitOthers waits for the emergencies of those that a credential was made with.
func (i *incidentRun) awaitOthers(ctx workflow.Context, m *IncidentMember) {
	if !i.waitsForOthers(*m) {
		return
	}
	i.became(m, "waits for "+strings.Join(i.in.After[m.Credential], ", ")+", which it was made with")
	if left := i.Half.Sub(workflow.Now(ctx)); left > 0 {
		_, _ = workflow.AwaitWithTimeout(ctx, left, func() bool { return !i.waitsForOthers(*m) })
	}
}

// waitsForOthers tells whether an emergency has not ended that a credential waits for, and has the time to.
func (i *incidentRun) waitsForOthers(m IncidentMember) bool {
	after := i.in.After[m.Credential]
	return workflow.Now(i.ctx).Before(i.Half) && slices.ContainsFunc(i.Status.Credentials, func(o IncidentMember) bool {
		return o.Outcome == "" && o.Credential != m.Credential && slices.Contains(after, o.Credential)
	})
}

// maxMember bounds what an incident keeps of each end: it may be of thousands, and its status is one value.
const maxMember = 400

// ended takes over what an emergency says of its end.
func (i *incidentRun) ended(m *IncidentMember, report Report) {
	i.dead(m, report.Contained)
	m.Outcome, m.Message, m.Current, m.Debt = report.Outcome, outside.Lines(report.Message, maxMember), report.Incoming, report.Debt
	i.misused(m, report.Misuse)
	m.State = string(NotContained)
	if len(m.alive(m.Contained)) == 0 {
		m.State = string(Contained)
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

// Progress says how many exposed keys are dead at a time, and when all will be if it goes on like that; empty when it has ended, or nobody
// has signed for it.
func (s IncidentStatus) Progress(now time.Time) string {
	dead, exposed := s.Dead()
	if s.Outcome != "" || exposed == 0 {
		return ""
	}
	line := fmt.Sprintf("%d of %d exposed keys are dead", dead, exposed)
	if elapsed := now.Sub(s.Since); dead > 0 && dead < exposed && elapsed > 0 {
		all := s.Since.Add(time.Duration(float64(elapsed) * float64(exposed) / float64(dead)))
		line += ", at this rate all by " + all.UTC().Format(time.TimeOnly)
	}
	return line
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
	if len(i.Status.Timeline) == maxTimeline {
		i.Status.Timeline = slices.Delete(i.Status.Timeline, maxTimeline/2, maxTimeline/2+1)
	}
	i.Status.Timeline = append(i.Status.Timeline, IncidentMoment{workflow.Now(i.ctx), clip(fmt.Sprintf(format, args...))})
	i.stale = true
}

// end says how it all ended, what is not contained first.
func (i *incidentRun) end() {
	var alive, owed []string
	for _, m := range i.Status.Credentials {
		if left := m.alive(m.Contained); len(left) > 0 {
			alive = append(alive, fmt.Sprintf("%s (%s): %s", m.Credential, strings.Join(left, ", "), m.Message))
		} else if m.Outcome != Completed {
			owed = append(owed, fmt.Sprintf("%s: %s", m.Credential, m.Message))
		}
	}
	took := i.Status.ContainedAt.Sub(i.Status.Since).Round(time.Second)
	switch {
	case len(alive) > 0:
		i.Status.Outcome, i.Status.Message = NotContained, "NOT CONTAINED: "+strings.Join(append(alive, owed...), "; ")
	case len(owed) > 0:
		i.Status.Outcome, i.Status.Message = ContainedWithDebt, fmt.Sprintf("Every exposed key is dead, after %s. Still owed: %s", took, strings.Join(owed, "; "))
	default:
		i.Status.Outcome, i.Status.Message = Contained, fmt.Sprintf("Every exposed key is dead, after %s, and all consumers are on another one.", took)
	}
	i.Status.Message = outside.Lines(i.Status.Message, 4*outside.MaxText)
	i.Status.EndedAt = workflow.Now(i.ctx)
	i.note("%s", i.Status.Message)
}

// keepShown shows the status, once however many notes came before: a page for each of hundreds of credentials takes longer than a workflow
// task may, when another worker goes on with the incident.
func (i *incidentRun) keepShown(ctx workflow.Context) {
	for workflow.Await(ctx, func() bool { return i.stale }) == nil {
		i.show()
	}
}

func (i *incidentRun) show() {
	i.stale = false
	workflow.SetCurrentDetails(i.ctx, i.Status.Markdown())
}

// mostRows bounds the credentials on a page of the Web UI: those with a key that may be alive come first.
const mostRows = 100

// Markdown is the incident as the Web UI shows it.
func (s IncidentStatus) Markdown() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	if s.Message != "" {
		line("**%s**", text(s.Message))
		line("")
	}
	line("### %s%s: %s", map[bool]string{true: "DRILL "}[s.Drill], text(s.Incident), text(s.Reason))
	line("")
	line("- **Declared by:** %s", text(cmp.Or(s.DeclaredBy, "nobody who may")))
	line("- **Begun:** %s", s.Since.UTC().Format(time.RFC3339))
	if !s.Deadline.IsZero() {
		line("- **Deadline:** %s; then exposed keys end whoever uses them", s.Deadline.UTC().Format(time.RFC3339))
	}
	if n := len(s.Timeline); n > 0 && s.Outcome == "" {
		if progress := s.Progress(s.Timeline[n-1].At); progress != "" {
			line("- **Progress:** %s", progress)
		}
	}
	if !s.FrozenUntil.IsZero() {
		line("- **Deployments are frozen** until %s, or the end; override with `keyturn incident unfreeze %s`", s.FrozenUntil.UTC().Format(time.RFC3339), text(s.Incident))
	}
	if len(s.Credentials) > 0 {
		line("\n| credential | exposed | state | dead since | current |\n|---|---|---|---|---|")
		rows := slices.Clone(s.Credentials)
		slices.SortStableFunc(rows, func(a, b IncidentMember) int { return len(b.alive(b.Contained)) - len(a.alive(a.Contained)) })
		for n, m := range rows {
			if n == mostRows {
				line("| and %d more, see `keyturn incident show %s` | | | | |", len(rows)-n, text(s.Incident))
				break
			}
			var dead []string
			for _, k := range m.Contained {
				dead = append(dead, fmt.Sprintf("%s %s", k.KeyID, k.At.UTC().Format(time.TimeOnly)))
			}
			line("| %s | %s | %s | %s | %s |", text(m.Credential), text(strings.Join(m.Exposed, ", ")), text(m.State), text(strings.Join(dead, ", ")), text(m.Current.KeyID))
		}
	}
	if lines := s.MisuseLines(); len(lines) > 0 {
		line("\n#### Who used the exposed keys, unusual uses first\n")
		for _, l := range lines {
			line("- %s", text(l))
		}
	}
	line("")
	for _, m := range s.Timeline {
		line("1. %s %s", m.At.UTC().Format(time.TimeOnly), text(m.What))
	}
	return b.String()
}
