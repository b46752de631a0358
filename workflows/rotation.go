package workflows

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/outside"
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

// deliver brings the incoming key to the consumers, wave by wave, the canary first.
func (r *rotation) deliver() error {
	r.startWatch()
	for i, w := range r.plan.Waves {
		if !w.ByPromotion && r.status.Waves[i].State != wavePassed {
			if err := r.wave(i, w); err != nil {
				return err
			}
		}
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

// follow waits for the consumers that read CURRENT by themselves.
func (r *rotation) follow() error {
	for i, w := range r.plan.Waves {
		if w.ByPromotion && r.status.Waves[i].State != wavePassed {
			if err := r.wave(i, w); err != nil {
				return err
			}
		}
	}
	return nil
}

// wave delivers to one wave and watches it.
func (r *rotation) wave(i int, w policy.Wave) error {
	r.enter(PhaseDeliver, fmt.Sprintf("Delivering the incoming key to wave %s (%d of %d).", w.Name, i+1, len(r.plan.Waves)))
	r.delivered = true
	r.status.NoWayBack = r.onlyForward()
	r.status.Waves[i].State = waveDelivering
	r.waitFor("every instance of wave "+w.Name+" to attest the incoming key and to pass its check", "whoever runs these instances; or: rollback")
	input := activities.WaveInput{Rotation: *r.acting(), Key: r.status.Incoming, Wave: w.Name, Instances: w.Instances}
	var result activities.WaveResult
	if err := r.step(delivering(r.credential, w.Name), act.DeliverWave, &input, &result); err != nil {
		r.status.Waves[i].State = waveFailed
		return err
	}
	if !result.Decision.OK {
		r.status.Waves[i].State = waveFailed
		return turnedBack(result.Decision.Reason, "wave %s did not converge within %s: %s", w.Name, r.credential.WaveTimeout, result.Decision.Message)
	}
	r.status.Waves[i].State = waveSoaking
	if err := r.soak(i, w, result.Signals); err != nil {
		r.status.Waves[i].State = waveFailed
		return err
	}
	r.status.Waves[i].State = wavePassed
	r.note("wave %s passed: %s on key %s", w.Name, strings.Join(w.Instances, ", "), r.status.Incoming.KeyID)
	return nil
}

// onlyForward is why nobody who has the incoming key can be brought back; empty when the retiring one can be delivered again.
func (r *rotation) onlyForward() string {
	switch {
	case r.plan.Retiring == nil:
		return "there is no earlier key to go back to"
	case !r.plan.CanRollBack:
		return cmp.Or(r.plan.NoWayBack, "the value of the retiring key is in no store") // plans of before that was so do not say it
	}
	return ""
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

// revoke takes the retiring key away, on evidence and approval: reversibly first, then for good. When
// what it stands on gives way before the key is destroyed, it begins again with the evidence.
func (r *rotation) revoke() error {
	if r.plan.Retiring == nil {
		return nil
	}
	if r.disabled { // in the run before, by approvals that count for that one alone
		r.note("the retiring key is enabled again, until this run's gate is passed")
		if err := r.step(enabling, act.Enable, r.acting(), nil); err != nil {
			return err
		}
		r.disabled = false
		r.became(RoleRetiring, KeyPrevious)
	}
	for {
		evidence, err := r.evidence()
		if err != nil {
			return err
		}
		approvals, err := r.gate(inventory.GateRevoke, &evidence)
		if errors.Is(err, errGateExpired) {
			continue
		}
		if err != nil {
			return err
		}
		if gone, err := r.disableAndDestroy(approvals); err != nil || gone {
			return err
		}
	}
}

// disableAndDestroy does what the gate allows, and tells whether the retiring key is gone; when it is not, why is in the timeline.
func (r *rotation) disableAndDestroy(approvals []policy.Verdict) (gone bool, err error) {
	r.approved = true
	defer func() { r.approved = false }()
	if r.plan.CanDisable {
		r.enter(PhaseDisable, "Disabling the retiring key; it can be enabled again.")
		var d policy.Decision
		r.disabled = true
		if err := r.step(disabling, act.Disable, &activities.RevokeInput{Rotation: *r.acting(), Approvals: approvals}, &d); err != nil {
			return false, err
		}
		if !d.OK {
			r.note("not disabled: %s", d.Message)
			return false, nil
		}
		r.became(RoleRetiring, KeyDisabled)
		r.note("disabled key %s", r.status.Retiring.KeyID)
		if enabled, err := r.soakDisabled(); err != nil || enabled {
			return false, err
		}
	} else if err := r.safePoint(); err != nil {
		return false, err
	}
	r.enter(PhaseRevoke, "Destroying the retiring key, and seeing that it is refused.")
	r.ignoreWatch()
	r.status.NoWayBack = "the retiring key is being destroyed"
	var destroyed activities.Destroyed
	if err := r.run(destroying, act.Destroy, &activities.RevokeInput{Rotation: *r.acting(), Approvals: approvals}, &destroyed); err != nil {
		// Whether the key is dead is not known: Record looks, and what lives on is debt.
		r.note("destroying key %s did not end well: %s", r.status.Retiring.KeyID, cause(err))
		return true, nil
	}
	if !destroyed.Decision.OK {
		r.note("not destroyed: %s", destroyed.Decision.Message)
		r.status.NoWayBack = r.onlyForward()
		r.startWatch()
		if err := r.step(enabling, act.Enable, r.acting(), nil); err != nil {
			return false, err
		}
		r.disabled = false
		r.became(RoleRetiring, KeyPrevious)
		return false, nil
	}
	r.report.Probe = destroyed.Probe
	r.became(RoleRetiring, KeyDestroyed)
	r.note("destroyed key %s: %s", r.status.Retiring.KeyID, destroyed.Probe)
	return true, nil
}

// turnBack does what a turn asks for, and returns how the rotation ends.
func (r *rotation) turnBack(err error) error {
	if errors.Is(err, errFull) {
		return err
	}
	t := asTurn(err)
	switch {
	case t.outcome == Superseded, t.outcome == Refused:
		return t
	case isType(err, activities.TypeHeld) && r.at == partIssue && r.status.Incoming.IsZero(): // its first effect takes the lease
		r.changed = false
		return refused(policy.Held, "%s", cause(err))
	case !r.changed:
		return refused(t.reason, "%s; nothing was changed", t.message)
	}
	return r.rollBack(t)
}

// rollBack returns every consumer to the retiring key and destroys the incoming one. It can be run from
// any phase, since each of its steps looks at what there is to undo.
func (r *rotation) rollBack(t *turn) error {
	r.stopWatch()
	if !r.rollingBack { // else the run before began it
		r.enter(PhaseRollback, "Turning back to the retiring key: "+t.message)
		r.happened(audit.RollbackBegun, map[string]string{"reason": string(t.reason), "message": t.message})
		r.tell(notifyAlert, "rollback", "Rolling back", t.message)
	}
	r.rollingBack = true
	if r.turn == nil {
		r.turn = t
	}
	if why := r.noWayBack(); why != "" && (r.delivered || r.promoted) {
		return failed(t.reason, "%s. A rollback is impossible: %s", t.message, why)
	}
	if err := r.insist("The rollback", r.undo); err != nil {
		if errors.Is(err, errFull) {
			return err
		}
		if s := asTurn(err); s.outcome == Superseded {
			return s
		}
		return failed(t.reason, "%s. The rollback cannot go on: %s", t.message, cause(err))
	}
	for i := range r.status.Waves {
		if r.status.Waves[i].State != waveWaiting {
			r.status.Waves[i].State = waveTurnedBack
		}
	}
	return t
}

// noWayBack is why a rollback is impossible now; empty when it is possible.
func (r *rotation) noWayBack() string {
	if ends := r.plan.WayBackEnds; r.status.NoWayBack == "" && !ends.IsZero() && !workflow.Now(r.ctx).Before(ends) {
		return "the retiring key ends by itself " + r.plan.RetiringExpires.UTC().Format(time.RFC3339)
	}
	return r.status.NoWayBack
}

func (r *rotation) undo() error {
	if r.plan.Retiring != nil {
		// Asked for whatever this run remembers: one that was reset has forgotten what it did.
		if r.plan.CanDisable {
			if err := r.step(enabling, act.Enable, r.acting(), nil); err != nil {
				return err
			}
		}
		if err := r.step(restoring, act.RestoreLabels, r.acting(), nil); err != nil {
			return err
		}
		r.became(RoleRetiring, KeyCurrent)
		if !r.status.Incoming.IsZero() {
			r.became(RoleIncoming, KeyPending)
		}
	}
	if err := r.redeliver(r.deliveredInstances()); err != nil {
		return err
	}
	var d policy.Decision
	r.waitFor("the incoming key to be quiet before it is destroyed", "time")
	if err := r.step(discarding(r.credential), act.Discard, r.acting(), &d); err != nil {
		return err
	}
	if !d.OK {
		return failed(d.Reason, "%s", d.Message)
	}
	if !r.status.Incoming.IsZero() {
		r.became(RoleIncoming, KeyDestroyed)
	}
	r.note("every consumer is on the retiring key; the incoming one is destroyed")
	return nil
}

// redeliver brings the retiring key back to instances, all at once.
func (r *rotation) redeliver(instances []string) error {
	if len(instances) == 0 || r.plan.Retiring == nil {
		return nil
	}
	r.waitFor("every instance to attest the retiring key again", "whoever runs these instances")
	input := activities.WaveInput{Rotation: *r.acting(), Key: r.status.Retiring, Wave: "rollback", Instances: instances}
	var result activities.WaveResult
	if err := r.step(delivering(r.credential, "rollback"), act.DeliverWave, &input, &result); err != nil {
		return err
	}
	if !result.Decision.OK {
		return fmt.Errorf("%d instances are not back on the retiring key: %s", len(result.Stragglers)+result.More, result.Decision.Message)
	}
	return nil
}

// deliveredInstances are those that may hold the incoming key: they were delivered to, or read CURRENT by
// themselves when it may have moved. Which a rotation that did not end came to is not known.
func (r *rotation) deliveredInstances() []string {
	var names []string
	for i, w := range r.plan.Waves {
		if r.plan.Resume != nil || r.status.Waves[i].State != waveWaiting || w.ByPromotion && r.promoted {
			names = append(names, w.Instances...)
		}
	}
	return names
}

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
