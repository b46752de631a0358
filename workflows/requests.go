package workflows

import (
	"fmt"

	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/policy"
)

// requests are what a person can ask a rotation for: each an update, whose result is the verdict, and a
// signal of the same name.
var requests = []struct {
	action      policy.Action
	description string
}{
	{policy.Approve, `Approve the gate that waits, e.g. {"gate":"revoke","by":"you"}`},
	{policy.Reject, `Reject the gate that waits, e.g. {"gate":"revoke","by":"you","reason":"..."}`},
	{policy.Extend, `Make the overlap longer, e.g. {"by":"you","extension":"2h"}`},
	{policy.Rollback, `Turn back to the retiring key, e.g. {"by":"you","reason":"..."}`},
}

// listen takes requests, and the news of an incident, until the run has ended.
func (r *rotation) listen(ctx workflow.Context) error {
	err := workflow.SetQueryHandlerWithOptions(ctx, StatusName, func() (Status, error) { return r.status, nil },
		workflow.QueryHandlerOptions{Description: "Where the rotation stands, what it waits for, and who can unblock it"})
	if err != nil {
		return err
	}
	err = workflow.SetQueryHandlerWithOptions(ctx, PlanName, func() (policy.Plan, error) { return r.plan, nil },
		workflow.QueryHandlerOptions{Description: "The plan that the rotation follows"})
	if err != nil {
		return err
	}
	for _, q := range requests {
		update := func(ctx workflow.Context, req policy.Request) (policy.Verdict, error) {
			if req.ID == "" {
				req.ID = "update/" + workflow.GetCurrentUpdateInfo(ctx).ID
			}
			return r.decide(q.action, req), nil
		}
		if err := workflow.SetUpdateHandlerWithOptions(ctx, string(q.action), update,
			workflow.UpdateHandlerOptions{Description: q.description}); err != nil {
			return err
		}
		r.receive(ctx, string(q.action), q.description, func(payload converter.RawValue) error {
			var req policy.Request
			if err := converter.GetDefaultDataConverter().FromPayload(payload.Payload(), &req); err != nil {
				return err
			}
			if req.ID == "" {
				req.ID = fmt.Sprintf("signal/%d", r.numbered)
			}
			if v := r.decide(q.action, req); !v.Accepted {
				r.notice("%s by signal was not taken: %s", q.action, v.Message)
			}
			return nil
		})
	}
	r.receive(ctx, CompromisedName, `An incident takes the credential over; sent by incidents`, func(payload converter.RawValue) error {
		var c Compromised
		if err := converter.GetDefaultDataConverter().FromPayload(payload.Payload(), &c); err != nil {
			return err
		}
		r.compromised(c)
		return nil
	})
	workflow.Go(ctx, func(ctx workflow.Context) {
		ctx.Done().Receive(ctx, nil)
		if ctx.Err() != nil && !r.over {
			r.decide(policy.Rollback, policy.Request{ID: "cancel", Reason: "the run was cancelled"})
		}
	})
	return nil
}

// receive handles each signal of a name. It is received raw: one that does not decode is reported, where
// the SDK would drop it silently.
func (r *rotation) receive(ctx workflow.Context, name, description string, handle func(converter.RawValue) error) {
	signals := workflow.GetSignalChannelWithOptions(ctx, name, workflow.SignalChannelOptions{Description: description})
	workflow.Go(r.ctx, func(ctx workflow.Context) {
		for {
			var payload converter.RawValue
			signals.Receive(ctx, &payload)
			r.numbered++
			if err := handle(payload); err != nil {
				r.notice("a signal %q could not be read: %s", name, err)
			}
		}
	})
}

// maxVerdicts bounds what a run remembers and reports of decisions.
const maxVerdicts = 200

// decide judges a request, whichever way it came, and does what an accepted one asks for. The same ID
// gets its first verdict again.
func (r *rotation) decide(action policy.Action, req policy.Request) policy.Verdict {
	if v, known := r.verdicts[req.ID]; known {
		return v
	}
	v := policy.Judge(action, req, r.standpoint())
	if len(r.verdicts) < maxVerdicts {
		r.verdicts[v.ID] = v
		r.report.Verdicts = append(r.report.Verdicts, v)
	}
	kind := audit.DecisionRejected
	if v.Accepted {
		kind = audit.DecisionAccepted
		r.carryOut(v, req)
	}
	r.happened(kind, map[string]string{"action": string(action), "by": v.By, "why": v.Why, "verdict": v.Message, "id": v.ID})
	r.refresh()
	return v
}

func (r *rotation) standpoint() policy.Standpoint {
	s := policy.Standpoint{
		Now: workflow.Now(r.ctx), Run: workflow.GetInfo(r.ctx).WorkflowExecution.RunID, Gate: r.status.Gate,
		InOverlap: r.status.Phase == PhaseOverlap, OverlapEnds: r.overlapEnds, LatestEnd: r.plan.RetiringExpires,
		NoWayBack: r.status.NoWayBack,
	}
	switch {
	case r.over || r.status.Phase == PhaseRecord:
		s.NoWayBack = "the rotation has ended"
	case r.rollingBack:
		s.NoWayBack = "it is turning back already"
	}
	return s
}

// carryOut does what an accepted verdict means.
func (r *rotation) carryOut(v policy.Verdict, req policy.Request) {
	by := v.By
	if by == "" {
		by = "somebody unnamed"
	}
	switch v.Action {
	case policy.Approve:
		r.status.Gate.Approvals = append(r.status.Gate.Approvals, v)
		r.note("%s approved the %s gate", by, v.Gate)
	case policy.Reject:
		r.note("%s rejected the %s gate: %s", by, v.Gate, v.Why)
		r.turn = turnedBack(RejectedByPerson, "%s rejected the %s gate: %s", by, v.Gate, v.Why)
	case policy.Extend:
		r.overlapEnds = r.overlapEnds.Add(req.Extension.Std())
		r.note("%s extended the overlap by %s", by, req.Extension)
		r.happened(audit.OverlapExtended, map[string]string{"by": by, "extension": req.Extension.String()})
	case policy.Rollback:
		r.note("%s asked for a rollback: %s", by, v.Why)
		r.turn = turnedBack(AskedByPerson, "%s asked for a rollback: %s", by, v.Why)
	}
}

// Reasons of turns that people or incidents make.
const (
	RejectedByPerson policy.Reason = "rejected"
	AskedByPerson    policy.Reason = "asked"
	Exposed          policy.Reason = "exposed"
)

// compromised stops the routine way at the next safe point, a rollback too: an exposed key must not be
// brought back. The incident's emergency goes on from what is true then.
func (r *rotation) compromised(c Compromised) {
	r.note("incident %s: %s", c.Incident, c.Reason)
	r.happened(audit.TakenOver, map[string]string{"incident": c.Incident, "reason": c.Reason})
	if !r.over {
		r.turn = &turn{outcome: Superseded, reason: Exposed, message: "Superseded by " + c.Incident + ": " + c.Reason}
	}
}

// drain answers every request that has arrived, and waits for what runs in the background, until both
// are done: a run that ended earlier would lose them.
func (r *rotation) drain() {
	for {
		before := r.numbered + len(r.report.Verdicts)
		// Giving way once lets every receiver take what has arrived for it.
		gaveWay := false
		workflow.Go(r.ctx, func(workflow.Context) { gaveWay = true })
		_ = workflow.Await(r.ctx, func() bool { return gaveWay && workflow.AllHandlersFinished(r.ctx) })
		r.background.Wait(r.ctx)
		if before == r.numbered+len(r.report.Verdicts) {
			return
		}
	}
}
