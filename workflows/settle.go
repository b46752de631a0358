package workflows

import (
	"errors"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
)

// settle is a run that ends one key which was left alive, at Sweep's word or at a person's, by the same gate and with the same
// proofs. It mints and delivers nothing. Nobody decides in time: it ends, since a rotation may be due, and the gate is opened again
// by the next sweep, or by who asks anew.
func (r *rotation) settle() error {
	return r.through([]phase{{"inspect", r.inspectDebt}, {partRevoke, r.revokeDebt}}, r.leaveDebt)
}

// inspectDebt finds the key to be ended and the one that everybody uses.
func (r *rotation) inspectDebt() error {
	if err := r.accept(act.Accept); err != nil {
		return err
	}
	subject := activities.DebtInput{Rotation: *r.subject(), Asked: r.in.Retire != ""}
	subject.Retiring.KeyID = r.in.Ends()
	var s policy.Settlement
	if err := r.ask(inspecting, act.InspectDebt, &subject, &s); err != nil {
		return refusal(err, "issuer or store could not be looked at")
	}
	r.Plan, r.FoundDisabled = s.Plan, s.Disabled
	if s.Plan.Refused() {
		first := s.Plan.Refusals[0]
		r.happened(audit.PlanRefused, map[string]string{"reason": string(first.Reason), "message": first.Message})
		return refused(first.Reason, "%s", first.Message)
	}
	r.Status.Retiring, r.Status.Incoming = *s.Plan.Retiring, s.Current
	r.became(RoleIncoming, KeyCurrent)
	standing, left := KeyPrevious, "a retired key that was left alive"
	if s.Unkept {
		standing, left = KeyPending, "a key that never became CURRENT, or was turned back from"
	}
	r.became(RoleRetiring, map[bool]KeyState{false: standing, true: KeyDisabled}[s.Disabled])
	r.happened(audit.PlanMade, map[string]string{"retiring": r.Status.Retiring.KeyID, "settles": left})
	r.note("key %s is %s, beside the current one, %s", r.Status.Retiring.KeyID, left, r.Status.Incoming.KeyID)
	return nil
}

// revokeDebt takes the key away, on evidence and approval.
func (r *rotation) revokeDebt() error {
	if !r.FoundDisabled { // as it was found it stays until the gate is passed
		if err := r.enableUntilApproved(); err != nil {
			return err
		}
	}
	evidence, err := r.evidence()
	if err != nil {
		return err
	}
	approvals, err := r.gate(inventory.GateRevoke, &evidence)
	if errors.Is(err, errGateExpired) {
		return refused(policy.ApprovalsMissing, "nobody decided on the revoke gate in time; %s", r.opensAgain())
	}
	if err != nil {
		return err
	}
	r.startWatch()
	gone, err := r.disableAndDestroy(approvals)
	if err == nil && !gone {
		return turnedBack(policy.EvidenceLacking, "what the approval stood on gave way; %s", r.opensAgain())
	}
	return err
}

// opensAgain says how the gate is opened again for a key that this run leaves.
func (r *rotation) opensAgain() string {
	if r.in.Retire != "" {
		return "to ask for it again: " + policy.RetireWith(r.Status.Credential, r.Status.Retiring.KeyID)
	}
	return "a later sweep opens the gate again"
}

// leaveDebt ends the run with the retired key as it was found. There is nothing to deliver: everybody has the key
// in CURRENT.
func (r *rotation) leaveDebt(err error) error {
	if errors.Is(err, errFull) {
		return err
	}
	t := asTurn(err)
	switch {
	case t.Outcome == Superseded, t.Outcome == Refused:
		return t
	case !r.changed():
		return refused(t.Reason, "%s; nothing was changed", t.Message)
	}
	r.stopWatch()
	if !r.rollingBack() { // else the run before began it
		r.enter(PhaseRollback, "Leaving the retired key as it was: "+t.Message)
		r.happened(audit.RollbackBegun, map[string]string{"reason": string(t.Reason), "message": t.Message})
	}
	if r.Turn == nil {
		r.Turn = t
	}
	if r.Disabled && !r.FoundDisabled {
		err := r.insist("Enabling the retired key again", func() error { return r.run(enabling, act.Enable, r.acting(), nil) })
		if errors.Is(err, errFull) {
			return err
		}
		if err != nil {
			return failed(t.Reason, "%s. The retired key %s could not be enabled again: %s", t.Message, r.Status.Retiring.KeyID, cause(err))
		}
		r.Disabled = false
		r.enabled()
	}
	return t
}
