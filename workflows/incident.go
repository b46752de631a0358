package workflows

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/incident"
	"github.com/keyturn/keyturn/internal/inventory"
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

	unknown string // what it has that this build does not know
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
	// PauseAlarmAt is when it is said next that the incident pauses; zero when it was not said.
	PauseAlarmAt time.Time `json:"pauseAlarmAt,omitzero"`
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
	// begins are the credentials whose emergency is a child of this run: its result is its end, whatever is told of that.
	begins map[string]bool
	// told is what was told of credentials, by their names, and not looked into yet; doubted are those of which an end was told that is
	// none; looking is how many are being looked into.
	told    map[string]Report
	doubted map[string]bool
	looking map[string]bool
	// over: every emergency has ended; thaw is why people end the freeze before that; freezing is done once that has ended.
	over     bool
	freezing workflow.WaitGroup
}

// Incident ends the exposed keys of some credentials: it starts the emergency of each, or has the rotation that runs become that, and
// waits for their ends. Its workflow ID is incident.ID of a name. Nothing is touched when its declaration proves nothing. It is
// finished by what it began with: a cancellation of it stops nothing.
func Incident(ctx workflow.Context, in IncidentInput) (IncidentStatus, error) {
	own, _ := workflow.NewDisconnectedContext(ctx)
	i := &incidentRun{ctx: workflow.WithPriority(own, temporal.Priority{PriorityKey: UrgentPriority}), in: in, tells: workflow.NewMutex(own), turns: workflow.NewMutex(own), freezing: workflow.NewWaitGroup(own)}
	i.begins, i.told, i.doubted, i.looking = map[string]bool{}, map[string]Report{}, map[string]bool{}, map[string]bool{}
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
	err := workflow.SetQueryHandlerWithOptions(ctx, StatusName, func() (IncidentStatus, error) { return i.standing(), nil },
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
	i.listenForPause()
	workflow.Go(i.ctx, i.keepShown)
	confirmed := true
	switch wrong := mistyped(ctx, in.unknown, in.Carried != nil); {
	case wrong != nil:
		err = wrong
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
	workflow.Go(i.ctx, i.watchPause)
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
		return m.Outcome == "" && !m.Unconfirmed && !m.Held && !i.Asked[m.Credential] && !i.waitsForOthers(m)
	})
}

// drain waits until what has arrived is taken: what comes with the last task of a run is not lost.
func (i *incidentRun) drain() {
	for {
		before := i.heard
		gaveWay := false // which lets every receiver take what has arrived for it
		workflow.Go(i.ctx, func(workflow.Context) { gaveWay = true })
		_ = workflow.Await(i.ctx, func() bool {
			return gaveWay && i.confirming == 0 && i.telling == 0 && len(i.looking) == 0 && workflow.AllHandlersFinished(i.ctx)
		})
		if before == i.heard {
			return
		}
	}
}

// ends is the end of an incident that ended no key.
func (i *incidentRun) ends(outcome Outcome, message string) IncidentStatus {
	i.Status.Outcome, i.Status.Message, i.Status.EndedAt, i.Status.Paused = outcome, message, workflow.Now(i.ctx), nil
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
		_ = sleep(ctx, 100*time.Millisecond, "before the next emergencies are begun")
		i.task, i.asked = workflow.GetInfo(ctx).GetCurrentHistoryLength(), 0
	}
	i.asked++
}

// prove sees who declared the incident.
func (i *incidentRun) prove() error {
	if len(i.in.More) >= incident.MaxParts {
		return fmt.Errorf("it has %s: at most %d, of %d credentials each", policy.Counted(len(i.in.More)+1, "declaration"), incident.MaxParts, incident.MaxCredentials)
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

// listen takes the news of emergencies. Anybody may send some: what they say of keys counts once it was looked up.
func (i *incidentRun) listen(ctx workflow.Context) {
	signals := workflow.GetSignalChannelWithOptions(ctx, NewsName, workflow.SignalChannelOptions{Description: "How an emergency stands, or that it has ended; sent by emergencies"})
	for {
		var told EmergencyNews
		signals.Receive(ctx, &told)
		i.heard++
		m := i.member(told.Credential)
		switch {
		case m == nil || m.Outcome != "": // nobody waits for it
		case told.Report.Outcome != "" && i.begins[m.Credential]: // it has a result
		case told.Report.Outcome == "" && i.told[m.Credential].Outcome != "": // an end comes later
		default:
			i.told[m.Credential] = told.Report
			i.lookInto(ctx, m)
		}
	}
}

// lookInto sees beside whether what was told of a credential is so, until nothing more was told.
func (i *incidentRun) lookInto(ctx workflow.Context, m *IncidentMember) {
	if i.looking[m.Credential] {
		return
	}
	i.looking[m.Credential] = true
	workflow.Go(ctx, func(ctx workflow.Context) {
		defer delete(i.looking, m.Credential)
		for {
			report, more := i.told[m.Credential]
			if !more {
				return
			}
			delete(i.told, m.Credential)
			var seen activities.ExposedKeys
			input := activities.ExposedInput{Credential: m.Credential, Spec: i.in.Specs[m.Credential], Incident: i.Status.Incident, Keys: m.Exposed}
			i.turn(ctx)
			err := seeing.start(ctx, EmergencyQueue, act.LookAtExposed, input).Get(ctx, &seen)
			if m.Outcome == "" {
				i.believe(m, report, seen, err)
			}
		}
	})
}

// believe takes of what was told of a credential what issuer and store bear out: that keys are dead, and that its emergency has ended, once
// none is alive and that end is recorded. One of which another end was told is looked after at once, and begun anew where it has ended.
func (i *incidentRun) believe(m *IncidentMember, report Report, seen activities.ExposedKeys, unseen error) {
	report = i.kept(m.Credential, report)
	ends := report.Outcome != ""
	if unseen != nil {
		i.doubted[m.Credential] = i.doubted[m.Credential] || ends
		i.became(m, "somebody told how its keys stand, and nobody can tell whether that is so: "+cause(unseen))
		return
	}
	report.Contained = i.notAlive(m.Exposed, report.Contained, seen)
	i.dead(m, report.Contained)
	switch {
	case ends && len(seen.Alive) > 0:
		i.doubted[m.Credential] = true
		i.became(m, "its emergency is said to have ended, and has not: the issuer still has "+strings.Join(seen.Alive, ", "))
	case ends && seen.Held:
		i.doubted[m.Credential] = true
		i.became(m, "its emergency is said to have ended, and has not recorded that")
	case ends:
		i.News[m.Credential] = report
	case len(m.alive(m.Contained)) == 0:
		m.Current = report.Incoming
		i.became(m, "every exposed key is dead, and the emergency is ending")
	}
}

// notAlive are those of the exposed keys that are not alive, with what was told of their end.
func (i *incidentRun) notAlive(exposed []string, told []ContainedKey, seen activities.ExposedKeys) (dead []ContainedKey) {
	for _, id := range exposed {
		if slices.Contains(seen.Alive, id) {
			continue
		}
		k := ContainedKey{KeyID: id, At: workflow.Now(i.ctx)}
		if at := slices.IndexFunc(told, func(k ContainedKey) bool { return k.KeyID == id }); at >= 0 {
			k = told[at]
		}
		k.Absent = !slices.Contains(seen.Dead, id)
		dead = append(dead, k)
	}
	return dead
}

// dead notes which exposed keys are dead. None dies later than it was seen dead, or before the incident began.
func (i *incidentRun) dead(m *IncidentMember, keys []ContainedKey) {
	m.Contained = nil
	now := workflow.Now(i.ctx)
	for _, k := range keys {
		known := slices.ContainsFunc(m.Contained, func(o ContainedKey) bool { return o.KeyID == k.KeyID })
		if known || !slices.Contains(m.Exposed, k.KeyID) {
			continue
		}
		if k.At.After(now) || k.At.Before(i.Status.Since) {
			k.At = now
		}
		k.Probe = outside.Lines(k.Probe, maxMember)
		m.Contained = append(m.Contained, k)
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

// awaitOthers waits for the emergencies of those that a credential was made with.
func (i *incidentRun) awaitOthers(ctx workflow.Context, m *IncidentMember) {
	if !i.waitsForOthers(*m) {
		return
	}
	i.became(m, "waits for "+strings.Join(i.in.After[m.Credential], ", ")+", which it was made with")
	if left := i.Half.Sub(workflow.Now(ctx)); left > 0 {
		_, _ = awaitAtMost(ctx, left, summary(m.Credential+" waits for what its key was made with"), func() bool { return !i.waitsForOthers(*m) })
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
	m.Outcome, m.Message, m.Current, m.Debt = report.Outcome, outside.Lines(report.Message, maxMember), named(report.Incoming), report.Debt
	i.misused(m, report.Misuse)
	m.State = string(NotContained)
	if len(m.alive(m.Contained)) == 0 {
		m.State = string(Contained)
	}
	i.note("%s: %s: %s", m.Credential, m.State, m.Message)
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
	i.Status.EndedAt, i.Status.Paused = workflow.Now(i.ctx), nil
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
	workflow.SetCurrentDetails(i.ctx, i.standing().Markdown())
}
