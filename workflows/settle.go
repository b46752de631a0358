package workflows

import (
	"errors"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
)

// settle is a run that ends a retired key which an earlier one left alive, by the same gate and with the same proofs.
// It mints and delivers nothing. Nobody decides in time: it ends, since a rotation may be due, and the next sweep
// opens the gate again.
func (r *rotation) settle() error {
	return r.through([]phase{{"inspect", r.inspectDebt}, {partRevoke, r.revokeDebt}}, r.leaveDebt)
}

// inspectDebt finds the retired key and the one that everybody uses.
func (r *rotation) inspectDebt() error {
	if err := r.accept(act.Accept); err != nil {
		return err
	}
	subject := r.subject()
	subject.Retiring.KeyID = r.in.Settle
	var s policy.Settlement
	if err := r.ask(inspecting, act.InspectDebt, subject, &s); err != nil {
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
	r.became(RoleRetiring, map[bool]KeyState{false: KeyPrevious, true: KeyDisabled}[s.Disabled])
	r.happened(audit.PlanMade, map[string]string{"retiring": r.Status.Retiring.KeyID, "settles": "a retired key that was left alive"})
	r.note("the retired key %s was left alive beside %s", r.Status.Retiring.KeyID, r.Status.Incoming.KeyID)
	return nil
}

// revokeDebt takes the retired key away, on evidence and approval.
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
		return refused(policy.ApprovalsMissing, "nobody decided on the revoke gate in time; a later sweep opens it again")
	}
	if err != nil {
		return err
	}
	r.startWatch()
	gone, err := r.disableAndDestroy(approvals)
	if err == nil && !gone {
		return turnedBack(policy.EvidenceLacking, "what the approval stood on gave way; a later sweep opens the gate again")
	}
	return err
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
		r.became(RoleRetiring, KeyPrevious)
	}
	return t
}
