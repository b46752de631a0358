package workflows

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/outside"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/signed"
)

// ConfirmName is the update, and the signal, by which somebody signs for an incident that waits for that: a Confirmation. The update's
// result is who signed it.
const ConfirmName = "confirm"

// Confirmation has an incident act by a declaration: one that began without, or whose declaration is too old for what has not begun.
type Confirmation struct {
	Declaration signed.Envelope `json:"declaration"`
}

// Confirmed is what became of it.
type Confirmed struct {
	By string `json:"by"`
}

// MaxUnsigned is how many credentials an incident may be of for which nobody signed.
const MaxUnsigned = 10

// So long an incident waits for a signature, saying so each hour.
const (
	confirmWithin = 24 * time.Hour
	confirmAgain  = time.Hour
)

// unsigned does what may be done without a signature: it begins the routine rotation of each credential, canary first, so that there is
// another key by the time that somebody signs. It tells whether somebody did.
func (i *incidentRun) unsigned() (bool, error) {
	names := slices.Clone(i.in.Credentials)
	slices.Sort(names)
	names = slices.Compact(names)
	switch {
	case len(names) == 0:
		return false, errors.New(`it has no "declaration", and names no "credentials": write one of them; keyturn emergency does that for you`)
	case len(names) > MaxUnsigned:
		return false, fmt.Errorf("it names %s, and nobody signed for it: without a signature it may be %d", policy.Counted(len(names), "credential"), MaxUnsigned)
	case strings.TrimSpace(i.in.Reason) == "":
		return false, errors.New(`it gives no "reason"`)
	}
	i.Status.Reason = clip(i.in.Reason)
	for _, name := range names {
		i.Status.Credentials = append(i.Status.Credentials, IncidentMember{Credential: name, State: "beginning", Unconfirmed: true, Suspects: bounded(i.in.Suspects[name])})
	}
	i.note("begun, and nobody has signed for it: %s", i.Status.Reason)
	for _, name := range names {
		if i.rotate(name); i.signatures > 0 { // somebody was as quick
			return true, nil
		}
	}
	i.Status.Message = fmt.Sprintf("NOT CONTAINED: nobody has signed for it, so that no key is destroyed before somebody does whom trust.incidents names: keyturn incident confirm %s --sign KEY", i.Status.Incident)
	i.stale = true
	for until := i.Status.Since.Add(confirmWithin); workflow.Now(i.ctx).Before(until); {
		i.tell(i.ctx, activities.NewsUnconfirmed)
		if signed, _ := awaitAtMost(i.ctx, confirmAgain, "a signature of the incident, then asking again", func() bool { return i.signatures > 0 }); signed {
			i.Status.Message = ""
			return true, nil
		}
	}
	i.tell(i.ctx, activities.NewsUnsigned)
	return false, nil
}

// rotate begins the routine rotation of a credential, unless one runs.
func (i *incidentRun) rotate(name string) {
	input := RotationInput{Credential: name, Reason: i.Status.Incident + ": " + i.Status.Reason, RequestedBy: i.in.RequestedBy}
	if spec, given := i.in.Specs[name]; given {
		input.Spec = spec
	}
	child := workflow.ExecuteChildWorkflow(workflow.WithChildOptions(i.ctx, workflow.ChildWorkflowOptions{
		WorkflowID: WorkflowID(name), TaskQueue: TaskQueue, ParentClosePolicy: enums.PARENT_CLOSE_POLICY_ABANDON,
		WorkflowIDReusePolicy: enums.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE, StaticSummary: summary("rotation of " + name),
	}), Rotation, input)
	err := child.GetChildWorkflowExecution().Get(i.ctx, nil)
	m := i.member(name)
	switch {
	case m == nil || !m.Unconfirmed: // somebody has signed meanwhile
	case err == nil:
		i.became(m, "rotates as a routine; waits for a signature")
	case temporal.IsWorkflowExecutionAlreadyStartedError(err):
		i.became(m, "a rotation runs already; waits for a signature")
	default:
		i.became(m, "no rotation of it can begin; waits for a signature: "+cause(err))
	}
}

// confirm has the incident act by a declaration from now on.
func (i *incidentRun) confirm(ctx workflow.Context, c Confirmation) (Confirmed, error) {
	i.confirming++
	defer func() { i.confirming-- }()
	declared, err := i.proved(ctx, c.Declaration)
	if err == nil {
		err = i.accept(c.Declaration, declared)
	}
	if err != nil {
		i.note("a confirmation was not taken: %s", cause(err))
		return Confirmed{}, temporal.NewNonRetryableApplicationError("not confirmed: "+cause(err), activities.TypeDeclaration, nil)
	}
	return Confirmed{By: declared.By}, nil
}

// waits refuses a confirmation that nothing waits for.
func (i *incidentRun) waits(workflow.Context, Confirmation) error {
	if !slices.ContainsFunc(i.Status.Credentials, func(m IncidentMember) bool { return m.Unconfirmed }) {
		return temporal.NewNonRetryableApplicationError("nothing of this incident waits for a signature; see how it stands with: keyturn incident show "+i.Status.Incident, activities.TypeDeclaration, nil)
	}
	return nil
}

// listenForConfirmation takes confirmations, as an update and as a signal.
func (i *incidentRun) listenForConfirmation() error {
	const description = `Sign for an incident that waits for it; sent by keyturn incident confirm, e.g. {"declaration":{...}}`
	update := func(ctx workflow.Context, c Confirmation) (Confirmed, error) {
		own, _ := workflow.NewDisconnectedContext(ctx)
		return i.confirm(own, c)
	}
	err := workflow.SetUpdateHandlerWithOptions(i.ctx, ConfirmName, update, workflow.UpdateHandlerOptions{Description: description, Validator: i.waits})
	if err != nil {
		return err
	}
	signals := workflow.GetSignalChannelWithOptions(i.ctx, ConfirmName, workflow.SignalChannelOptions{Description: description})
	workflow.Go(i.ctx, func(ctx workflow.Context) {
		for {
			var c Confirmation
			signals.Receive(ctx, &c)
			i.heard++
			if err := i.waits(ctx, c); err != nil {
				i.note("a confirmation was not taken: %s", cause(err))
				continue
			}
			_, _ = i.confirm(ctx, c)
		}
	})
	return nil
}

// accept has the incident act by a declaration that is proved: for all credentials that it lists, and that act by no other.
func (i *incidentRun) accept(declaration signed.Envelope, declared activities.Declared) error {
	d := declared.Declaration
	names := workflow.DeterministicKeys(d.Exposed)
	if i.begun && !slices.ContainsFunc(names, func(name string) bool { m := i.member(name); return m != nil && m.Unconfirmed }) {
		return errors.New("it is of nothing that waits for a signature")
	}
	for _, name := range names {
		switch m := i.member(name); {
		case m == nil && i.begun:
			return fmt.Errorf("%s is not one of its credentials", name)
		case m != nil && !m.Unconfirmed && !i.begun:
			return fmt.Errorf("%s is listed twice", name)
		case m != nil && m.Unconfirmed:
			for _, id := range m.Exposed {
				if !slices.Contains(d.Keys(name), id) {
					return fmt.Errorf("it leaves out key %s of %s", id, name)
				}
			}
		}
	}
	i.Declarations = append(i.Declarations, declaration)
	i.signatures++
	for _, name := range names {
		switch m := i.member(name); {
		case m == nil:
			i.Status.Credentials = append(i.Status.Credentials, IncidentMember{Credential: name, Exposed: d.Keys(name), State: "beginning"})
		case m.Unconfirmed:
			m.Exposed, m.Unconfirmed = d.Keys(name), false
		default:
			continue // it acts by another one
		}
		i.By[name] = len(i.Declarations) - 1
	}
	if i.begun {
		i.note("declared again by %s, for %s", declared.By, strings.Join(names, ", "))
		return nil
	}
	i.Status.Reason, i.Status.DeclaredBy, i.Status.Drill, i.Status.Deadline = d.Reason, declared.By, d.Drill, d.Begun(i.Status.Since).Add(d.Deadline.Std())
	i.Half = i.Status.Deadline.Add(-d.Deadline.Std() / 2)
	if len(i.Declarations) == 1 {
		i.note("declared by %s: %s", declared.By, d.Reason)
	}
	i.Status.Credentials = slices.DeleteFunc(i.Status.Credentials, func(m IncidentMember) bool {
		if m.Unconfirmed {
			i.note("%s: no key of it is exposed, as %s says; its rotation goes on", m.Credential, declared.By)
		}
		return m.Unconfirmed
	})
	return nil
}

// member is the credential with this name; nil for none.
func (i *incidentRun) member(name string) *IncidentMember {
	n := slices.IndexFunc(i.Status.Credentials, func(m IncidentMember) bool { return m.Credential == name })
	if n < 0 {
		return nil
	}
	return &i.Status.Credentials[n]
}

// signedAnew waits until somebody signs again for a credential by whose declaration nothing was begun, and says so each hour. It tells
// whether somebody did.
func (i *incidentRun) signedAnew(ctx workflow.Context, m *IncidentMember, why string) bool {
	m.Unconfirmed, m.Message = true, outside.Lines(why, maxMember)
	i.became(m, "its declaration was refused, and it waits for another one: keyturn incident confirm "+i.Status.Incident+" --sign KEY: "+m.Message)
	for until := workflow.Now(ctx).Add(confirmWithin); m.Unconfirmed && workflow.Now(ctx).Before(until); {
		i.tell(ctx, activities.NewsUnconfirmed)
		_, _ = awaitAtMost(ctx, confirmAgain, summary("a signature for "+m.Credential+", then asking again"), func() bool { return !m.Unconfirmed })
	}
	signed := !m.Unconfirmed
	m.Unconfirmed, m.Message = false, ""
	return signed
}

// bounded are the first of some key IDs, of a length that key IDs have.
func bounded(ids []string) (few []string) {
	for _, id := range ids[:min(len(ids), 5)] {
		few = append(few, outside.Text(id, 200))
	}
	return few
}
