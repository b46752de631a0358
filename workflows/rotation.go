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
)

// Rotation rotates the key of one credential. Its workflow ID is rotation/<credential>, so that Temporal
// allows one at a time.
func Rotation(ctx workflow.Context, in RotationInput) (Report, error) {
	r, err := newRotation(ctx, in)
	if err != nil {
		return Report{}, err
	}
	if err = r.rotate(); errors.Is(err, errFull) {
		return Report{}, r.continueAsNew()
	}
	return r.end(err)
}

// Parts of a rotation that a later run may have to begin with.
const (
	partSignoff = "signoff"
	partIssue   = "issue"
	partDeliver = "deliver"
	partPromote = "promote"
)

// rotate is the routine rotation, phase by phase. Whatever turns it, a refusal, a breach, a person or an
// incident, ends the phase with a *turn; so does trouble that does not pass.
func (r *rotation) rotate() error {
	if r.in.Settle != "" {
		return r.settle()
	}
	phases := []struct {
		name string
		do   func() error
	}{
		{"inspect", r.inspect},
		{partSignoff, r.signoff},
		{partIssue, r.issue},
		{partDeliver, r.deliver}, // to whom the key is brought
		{partPromote, r.promote},
		{"follow", r.follow}, // those who read the store by themselves
		{"overlap", r.overlap},
		{"revoke", r.revoke},
	}
	if r.turn != nil { // the run before this one was turning back
		return r.turnBack(r.turn)
	}
	reached := r.at == ""
	for _, phase := range phases {
		if reached = reached || phase.name == r.at; !reached || r.didBefore(phase.name) {
			continue // the run before did it
		}
		r.at = phase.name
		if err := phase.do(); err != nil {
			return r.turnBack(err)
		}
	}
	return nil
}

// accept sees that the workers take the spec.
func (r *rotation) accept() error {
	r.enter(PhaseInspect, "Looking at issuer, store and consumers; nothing is changed yet.")
	if err := r.resolve(); err != nil {
		return err
	}
	if r.credential.Name == "" || r.status.Credential != r.credential.Name {
		workflow.GetLogger(r.ctx).Warn("refused: the workflow ID is not that of the spec's rotation", "credential", r.credential.Name)
		return refused(policy.SpecRefused, "the workflow ID must be %q, so that a credential has one rotation at a time", WorkflowID(r.credential.Name))
	}
	var accepted activities.Accepted
	if err := r.ask(accepting, act.Accept, r.in.Spec, &accepted); err != nil {
		return refusal(err, "the worker does not take the spec")
	}
	r.queue = issuerQueue(r.credential, accepted)
	if accepted.Notice != "" {
		r.notice("%s", accepted.Notice)
	} else {
		r.note("%s signed the spec", accepted.Signer)
	}
	return nil
}

// inspect gathers the facts, and plans. Nothing has been changed when it refuses.
func (r *rotation) inspect() error {
	if err := r.accept(); err != nil {
		return err
	}
	if err := r.ask(inspecting, act.Inspect, r.subject(), &r.plan); err != nil {
		return refusal(err, "issuer, store or consumers could not be looked at")
	}
	for _, w := range r.plan.Warnings {
		r.notice("%s", w)
	}
	for _, w := range r.plan.Waves {
		r.status.Waves = append(r.status.Waves, WaveStatus{Name: w.Name, Instances: w.Instances, State: waveWaiting})
	}
	if r.plan.Retiring != nil {
		r.status.Retiring = *r.plan.Retiring
		r.became(RoleRetiring, KeyCurrent)
	}
	r.happened(audit.PlanMade, map[string]string{"retiring": r.status.Retiring.KeyID, "refusals": strconv.Itoa(len(r.plan.Refusals)), "takes": r.plan.Takes.String()})
	if r.plan.Refused() {
		first := r.plan.Refusals[0]
		more := ""
		if n := len(r.plan.Refusals) - 1; n > 0 {
			more = fmt.Sprintf(" (and %d more reasons)", n)
		}
		r.happened(audit.PlanRefused, map[string]string{"reason": string(first.Reason), "message": first.Message})
		return refused(first.Reason, "%s%s", first.Message, more)
	}
	if r.plan.Resume != nil {
		r.takeUp(*r.plan.Resume)
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
	r.in.Spec = spec
	if found, err := spec.Peek(); err == nil {
		r.credential, r.status.Owner = found.Credential, found.Credential.Owner
	}
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
	if err := r.safePoint(); err != nil { // nothing is changed yet
		return err
	}
	r.enter(PhaseIssue, r.issuing())
	r.changed = true
	if len(r.plan.TakeBack) > 0 {
		if err := r.redeliver(r.plan.TakeBack); err != nil {
			return err
		}
		r.note("%s taken back from a rotation that did not end", strings.Join(r.plan.TakeBack, ", "))
	}
	if len(r.plan.Discard) > 0 {
		r.waitFor("what earlier rotations left to be quiet before it is destroyed", "time; or: rollback")
		var d policy.Decision
		if err := r.step(discarding(r.credential), act.Discard, r.acting(), &d); err != nil {
			return err
		}
		if !d.OK {
			return turnedBack(d.Reason, "a key of an earlier rotation cannot be cleared away: %s", d.Message)
		}
	}
	input := activities.IssueInput{Rotation: *r.acting(), Ordinal: 1, Approvals: r.signoffs}
	if r.plan.Resume != nil {
		input.Resume = r.plan.Resume.Incoming
	}
	var issued activities.Issued
	if err := r.step(issuing(r.credential), act.Issue, &input, &issued); err != nil {
		return err
	}
	r.status.Incoming, r.incomingEnds = issued.Key, issued.Ends
	r.became(RoleIncoming, map[bool]KeyState{false: KeyPending, true: KeyCurrent}[r.promoted])
	if r.plan.Resume == nil {
		r.note("issued key %s, stored as PENDING in version %s", issued.Key.KeyID, issued.Key.StoreVersion)
	}
	if !issued.Decision.OK {
		return turnedBack(issued.Decision.Reason, "the incoming key does not work: %s", issued.Decision.Message)
	}
	if r.promoted {
		r.startWatch()
	}
	return nil
}

// promote makes the incoming key CURRENT.
func (r *rotation) promote() error {
	r.enter(PhasePromote, "Moving CURRENT to the incoming key.")
	r.promoted = true
	if r.plan.Retiring != nil {
		r.status.NoWayBack = r.onlyForward()
	}
	var d policy.Decision
	if err := r.step(promoting, act.Promote, r.acting(), &d); err != nil {
		return err
	}
	if !d.OK {
		if !r.delivered {
			r.status.NoWayBack = "" // nobody has it
		}
		return turnedBack(d.Reason, "the incoming key may not be promoted: %s", d.Message)
	}
	r.became(RoleIncoming, KeyCurrent)
	if r.plan.Retiring != nil {
		r.became(RoleRetiring, KeyPrevious)
	}
	r.note("promoted key %s to CURRENT", r.status.Incoming.KeyID)
	return nil
}

// overlap keeps both keys accepted, and ends before either ends by itself.
func (r *rotation) overlap() error {
	if r.plan.Retiring == nil {
		return nil
	}
	r.enter(PhaseOverlap, "Both keys are accepted.")
	if r.overlapEnds.IsZero() { // else the run before began it
		r.overlapEnds = workflow.Now(r.ctx).Add((r.credential.LongestCache() + r.credential.Overlap).Std())
		if last := r.lastOverlapEnd(r.overlapEnds); last.Before(r.overlapEnds) {
			r.overlapEnds = last
			r.note("a key ends by itself before the overlap would: it ends %s, while both are accepted", last.UTC().Format(time.RFC3339))
		}
		r.happened(audit.OverlapBegun, map[string]string{"until": r.overlapEnds.UTC().Format(time.RFC3339)})
	}
	r.waitFor("the end of the overlap", "time; or: extend, rollback")
	return r.wait("overlap", func() time.Time { return r.overlapEnds }, nil)
}

// lastOverlapEnd is when an overlap ends that would last until then.
func (r *rotation) lastOverlapEnd(until time.Time) time.Time {
	return policy.OverlapEnds(r.credential, until, r.plan.RetiringExpires, r.incomingEnds)
}
