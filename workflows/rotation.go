package workflows

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/signed"
)

// Rotation rotates the key of one credential. Its workflow ID is rotation/<credential>, so that Temporal
// allows one at a time.
func Rotation(ctx workflow.Context, in RotationInput) (Report, error) {
	r, err := newRotation(ctx, in)
	if err != nil {
		return Report{}, err
	}
	err = r.rotate()
	r.leaveUnpromoted()
	switch {
	case errors.Is(err, errFull):
		return Report{}, r.continueAsNew()
	case r.takeover != nil && r.superseded() != nil:
		return Report{}, r.handOver()
	}
	return r.end(err)
}

// Parts of a rotation that are asked for by name.
const (
	partSignoff = "signoff"
	partIssue   = "issue"
	partDeliver = "deliver"
	partPromote = "promote"
	partRevoke  = "revoke"
)

// rotate is the routine rotation, phase by phase. Whatever turns it, a refusal, a breach, a person or an
// incident, ends the phase with a *Turn; so does trouble that does not pass.
func (r *rotation) rotate() error {
	switch {
	case r.in.Review != nil:
		return r.review()
	case r.in.Ends() != "":
		return r.settle()
	}
	return r.through([]phase{
		{"inspect", r.inspect},
		{partSignoff, r.signoff},
		{partIssue, r.issue},
		{partDeliver, r.onward("Delivering the incoming key", r.deliver)}, // to whom the key is brought
		{partPromote, r.onward("Promoting the incoming key", r.promote)},
		{"follow", r.onward("Delivering the incoming key", r.follow)}, // those who read the store by themselves
		{"overlap", r.overlap},
		{partRevoke, r.onward("Revoking the retiring key", r.revoke)},
	}, r.turnBack)
}

// phase is a part of a rotation, and its name.
type phase struct {
	name string
	do   func() error
}

// through does one phase after the other, from the one that the run before has come to, and goes back from where that is wanted.
func (r *rotation) through(phases []phase, back func(error) error) error {
	if r.Turn != nil { // the run before was turning back
		return back(r.Turn)
	}
	reached := r.At == ""
	for _, p := range phases {
		if reached = reached || p.name == r.At; !reached || r.didBefore(p.name) {
			continue // the run before did it
		}
		r.At = p.name
		if err := p.do(); err != nil {
			return back(err)
		}
	}
	return nil
}

// accept sees that the workers take the spec, as by tells.
func (r *rotation) accept(by any) error {
	r.enter(PhaseInspect, "Looking at issuer, store and consumers; nothing is changed yet.")
	if err := mistyped(r.ctx, r.in.unknown, r.in.Carried != nil); err != nil && r.in.Emergency == nil {
		return refused(policy.SpecRefused, "%s", err)
	}
	if err := r.resolve(); err != nil {
		return err
	}
	if r.in.Credential == "" && len(r.in.Spec.Body) == 0 {
		return refused(policy.SpecRefused, "the input names no credential: write it as {\"credential\":%q}", r.Status.Credential)
	}
	if r.credential.Name == "" || r.Status.Credential != r.credential.Name {
		workflow.GetLogger(r.ctx).Warn("refused: the workflow ID is not that of the spec's rotation", "credential", r.credential.Name)
		return refused(policy.SpecRefused, "the workflow ID must be %q, so that a credential has one rotation at a time", WorkflowID(r.credential.Name))
	}
	var accepted activities.Accepted
	if err := r.ask(accepting, by, r.in.Spec, &accepted); err != nil {
		r.unread = isType(err, activities.TypeSpec)
		return refusal(err, "the worker does not take the spec")
	}
	r.Bounded = accepted.Unpromoted
	r.Queue, r.Signer = issuerQueue(r.credential, accepted), signed.Signer{Name: accepted.Signer, Key: accepted.SignerKey}
	if accepted.Notice != "" {
		r.notice("%s", accepted.Notice)
	} else {
		r.note("%s signed the spec", accepted.Signer)
	}
	return nil
}

// start is how it was begun.
func (r *rotation) start() policy.Start {
	return policy.Start{Fired: workflow.GetInfo(r.ctx).ParentWorkflowExecution != nil, Now: r.in.Now}
}

// inspect gathers the facts, and plans. Nothing has been changed when it refuses.
func (r *rotation) inspect() error {
	if err := r.accept(act.Accept); err != nil {
		return err
	}
	subject := r.subject()
	subject.Start = r.start()
	if err := r.ask(inspecting, act.Inspect, subject, &r.Plan); err != nil {
		return refusal(err, "issuer, store or consumers could not be looked at")
	}
	for _, w := range r.Plan.Warnings {
		r.notice("%s", w)
	}
	for _, w := range r.Plan.Waves {
		r.Status.Waves = append(r.Status.Waves, WaveStatus{Name: w.Name, Instances: w.Instances, State: waveWaiting})
	}
	if r.Plan.Retiring != nil {
		r.Status.Retiring = *r.Plan.Retiring
		r.became(RoleRetiring, KeyCurrent)
	}
	r.happened(audit.PlanMade, map[string]string{"retiring": r.Status.Retiring.KeyID, "refusals": strconv.Itoa(len(r.Plan.Refusals)), "takes": r.Plan.Takes.String()})
	if r.Plan.Refused() {
		first := r.Plan.Refusals[0]
		more := ""
		if n := len(r.Plan.Refusals) - 1; n > 0 {
			more = fmt.Sprintf(" (and %d more reasons)", n)
		}
		r.happened(audit.PlanRefused, map[string]string{"reason": string(first.Reason), "message": first.Message})
		left := ""
		if u := r.Plan.Resume; u != nil {
			left = fmt.Sprintf("; rotation %s, which did not end, is left as it stands, with its key %s: the next one goes on with it", u.Rotation, u.Incoming.KeyID)
		}
		return refused(first.Reason, "%s%s%s", first.Message, more, left)
	}
	if r.Plan.Resume != nil {
		r.takeUp(*r.Plan.Resume)
	}
	return nil
}

// resolve finds the spec of a rotation that was begun by name.
func (r *rotation) resolve() error {
	if r.in.Credential == "" || len(r.in.Spec.Body) > 0 {
		return nil
	}
	var spec inventory.SignedSpec
	err := r.ask(resolving, act.Resolve, r.in.Credential, &spec)
	if isType(err, activities.TypeLeft) {
		return refused(policy.LeftInventory, "%s is in no applied inventory: it left the inventory, or was never in one", r.in.Credential)
	}
	if err != nil {
		return refusal(err, "the spec of "+r.in.Credential+" was not found")
	}
	r.read(spec)
	r.index()
	return nil
}

// signoff waits for approval before anything is changed.
func (r *rotation) signoff() error {
	for {
		approvals, err := r.gate(inventory.GateSignoff, nil)
		if !errors.Is(err, errGateExpired) {
			r.signoffs = approvals
			return err
		}
	}
}

// issue mints the incoming key, stages it, and sees that it works before anybody depends on it; before that it
// clears away what earlier rotations left.
func (r *rotation) issue() error {
	r.flush()                             // now, or a turn that comes meanwhile would find something to turn back
	if err := r.safePoint(); err != nil { // nothing is changed yet
		return err
	}
	r.enter(PhaseIssue, r.issuing())
	if err := r.awaitUnpromoted(); err != nil {
		return err
	}
	r.Ordinal = max(r.Ordinal, 1)
	if len(r.Plan.TakeBack) > 0 {
		if err := r.redeliver(r.Plan.TakeBack); err != nil {
			return err
		}
		r.note("%s taken back from a rotation that did not end", strings.Join(r.Plan.TakeBack, ", "))
	}
	if len(r.Plan.Discard) > 0 {
		r.waitFor("what earlier rotations left to be quiet before it is destroyed", "time"+orRollback)
		var d policy.Decision
		if err := r.step(discarding(r.credential), act.Discard, r.acting(), &d); err != nil {
			return err
		}
		if !d.OK {
			return turnedBack(d.Reason, "a key of an earlier rotation cannot be cleared away: %s", d.Message)
		}
	}
	input := activities.IssueInput{Rotation: *r.acting(), Ordinal: r.Ordinal, Approvals: r.signoffs}
	input.Start = r.start()
	if r.Plan.Resume != nil {
		input.Resume = r.Plan.Resume.Incoming
	}
	var issued activities.Issued
	if err := r.step(issuing(r.credential), act.Issue, &input, &issued); err != nil {
		return err
	}
	r.Status.Incoming, r.IncomingEnds, r.RotateBy = issued.Key, issued.Ends, issued.RotateBy
	r.became(RoleIncoming, map[bool]KeyState{false: KeyPending, true: KeyCurrent}[r.Promoted])
	if r.Plan.Resume == nil {
		r.note("issued key %s, stored as PENDING in version %s", issued.Key.KeyID, issued.Key.StoreVersion)
	}
	if !issued.Decision.OK {
		return turnedBack(issued.Decision.Reason, "the incoming key does not work: %s", issued.Decision.Message)
	}
	if r.Promoted {
		r.startWatch()
	}
	if r.Disabled { // waits may follow, in which nobody sees who misses it
		return r.enableUntilApproved()
	}
	return nil
}

// promote makes the incoming key CURRENT.
func (r *rotation) promote() error {
	r.enter(PhasePromote, "Moving CURRENT to the incoming key.")
	r.Promoted = true
	var d policy.Decision
	if err := r.step(promoting, act.Promote, r.acting(), &d); err != nil {
		return err
	}
	if !d.OK {
		r.Promoted = false
		return turnedBack(d.Reason, "the incoming key may not be promoted: %s", d.Message)
	}
	r.became(RoleIncoming, KeyCurrent)
	if r.Plan.Retiring != nil {
		r.became(RoleRetiring, KeyPrevious)
	}
	r.note("promoted key %s to CURRENT", r.Status.Incoming.KeyID)
	r.leaveUnpromoted()
	return nil
}

// overlap keeps both keys accepted, and ends before either ends by itself.
func (r *rotation) overlap() error {
	if r.Plan.Retiring == nil {
		return nil
	}
	r.enter(PhaseOverlap, "Both keys are accepted.")
	if r.unwatched {
		r.unwatched = false
		r.startWatch()
	}
	if r.OverlapEnds.IsZero() { // else the run before began it
		r.OverlapEnds = workflow.Now(r.ctx).Add((r.credential.LongestCache() + r.credential.Overlap).Std())
		if last := r.lastOverlapEnd(r.OverlapEnds); last.Before(r.OverlapEnds) {
			r.OverlapEnds = last
			r.note("a key ends by itself before the overlap would: it ends %s, while both are accepted", last.UTC().Format(time.RFC3339))
		}
		r.happened(audit.OverlapBegun, map[string]string{"until": r.OverlapEnds.UTC().Format(time.RFC3339)})
	}
	r.waitFor("the end of the overlap", "time; or: extend, rollback")
	return r.wait("overlap", func() time.Time { return r.OverlapEnds }, nil)
}

// lastOverlapEnd is when an overlap ends that would last until then.
func (r *rotation) lastOverlapEnd(until time.Time) time.Time {
	return policy.OverlapEnds(r.credential, until, r.Plan.RetiringExpires, r.IncomingEnds)
}
