package workflows

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/signed"
)

// requests are what a person can ask a rotation for: each an update, whose result is the verdict, and a
// signal of the same name.
var requests = []struct {
	action      policy.Action
	description string
}{
	{policy.Approve, "Approve the gate that waits, e.g. " + policy.Example(policy.Approve)},
	{policy.Reject, "Reject the gate that waits, e.g. " + policy.Example(policy.Reject)},
	{policy.Extend, "Make the overlap longer, e.g. " + policy.Example(policy.Extend)},
	{policy.Rollback, "Turn back to the retiring key, e.g. " + policy.Example(policy.Rollback)},
}

// listen takes requests, and the news of an incident, until the run has ended.
func (r *rotation) listen(ctx workflow.Context) error {
	err := workflow.SetQueryHandlerWithOptions(ctx, StatusName, func() (Status, error) { return r.shown(), nil },
		workflow.QueryHandlerOptions{Description: "Where the rotation stands, what it waits for, and who can unblock it"})
	if err != nil {
		return err
	}
	err = workflow.SetQueryHandlerWithOptions(ctx, PlanName, func() (policy.Plan, error) { return r.Plan, nil },
		workflow.QueryHandlerOptions{Description: "The plan that the rotation follows"})
	if err != nil {
		return err
	}
	for _, q := range requests {
		update := func(ctx workflow.Context, req policy.Request) (policy.Verdict, error) {
			r.requested()
			if req.ID == "" {
				req.ID = "update/" + workflow.GetCurrentUpdateInfo(ctx).ID
			}
			ctx = uncancelled(ctx)
			proof := r.prove(ctx, req)
			return r.decide(q.action, req, proof, r.lookBackFor(ctx, q.action)), nil
		}
		if err := workflow.SetUpdateHandlerWithOptions(ctx, string(q.action), update,
			workflow.UpdateHandlerOptions{Description: q.description, Validator: r.placed(q.action)}); err != nil {
			return err
		}
		r.receive(ctx, string(q.action), q.description, func(ctx workflow.Context, payload converter.RawValue) error {
			req, err := r.request(payload)
			if err != nil {
				return fmt.Errorf("%w; write it as %s", err, policy.Example(q.action))
			}
			if req.ID == "" {
				req.ID = fmt.Sprintf("signal/%d", r.Numbered)
			}
			proof := r.prove(ctx, req)
			if v := r.decide(q.action, req, proof, r.lookBackFor(ctx, q.action)); !v.Accepted {
				r.reply("%s by signal was not taken: %s", q.action, v.Message)
			}
			return nil
		})
	}
	r.receive(ctx, CompromisedName, `An incident takes the credential over; sent by incidents`, func(ctx workflow.Context, payload converter.RawValue) error {
		var c Compromised
		if converter.GetDefaultDataConverter().FromPayload(payload.Payload(), &c) != nil {
			return errors.New("it is not what an incident tells")
		}
		if c.Emergency == nil {
			r.notice("an incident that wants to take over was not followed: it brings no declaration; begin one with: keyturn emergency")
			return nil
		}
		r.takenOver(ctx, c)
		return nil
	})
	r.receive(ctx, activities.ProgressName, `How far a delivery is; sent by activities`, func(_ workflow.Context, payload converter.RawValue) error {
		var p activities.Progress
		if converter.GetDefaultDataConverter().FromPayload(payload.Payload(), &p) != nil {
			return errors.New("it is not what an activity tells")
		}
		r.progress(p)
		return nil
	})
	resign := func(ctx workflow.Context, s inventory.SignedSpec) (policy.Verdict, error) {
		return r.resign(uncancelled(ctx), s), nil
	}
	err = workflow.SetUpdateHandlerWithOptions(ctx, ResignName, resign,
		workflow.UpdateHandlerOptions{
			Description: "Sign the spec of a held rotation anew; sent by keyturn rotate --sign",
			Validator: func(ctx workflow.Context, _ inventory.SignedSpec) error {
				if r.holding {
					return nil
				}
				return atTheDoor(notHeld(workflow.Now(ctx)))
			},
		})
	if err != nil {
		return err
	}
	err = workflow.SetQueryHandlerWithOptions(ctx, SpecName, func() (inventory.SignedSpec, error) { return r.in.Spec, nil },
		workflow.QueryHandlerOptions{Description: "The spec that the rotation follows, with its signature"})
	if err != nil {
		return err
	}
	workflow.Go(ctx, func(ctx workflow.Context) {
		ctx.Done().Receive(ctx, nil)
		if ctx.Err() == nil || r.over() {
			return
		}
		r.background.Add(1)
		workflow.Go(r.ctx, func(ctx workflow.Context) {
			defer r.background.Done()
			why := r.lookBackFor(ctx, policy.Rollback)
			if v := r.decide(policy.Rollback, policy.Request{ID: "cancel", By: "whoever cancelled the run", Reason: "the run was cancelled"}, nil, why); !v.Accepted {
				then := ""
				if v.Reason == policy.SignatureNeeded {
					then = fmt.Sprintf(". Turn back with: keyturn rollback %s --reason … --sign KEY", r.Status.Credential)
				}
				r.notice("the run was cancelled, which was not taken: %s%s", v.Message, then)
			}
		})
	})
	return nil
}

// uncancelled is the context of an update for what it needs activities for: a cancellation of the run is a request to roll back, and
// ends none, nor the update that it comes in.
func uncancelled(ctx workflow.Context) workflow.Context {
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	return ctx
}

// placed refuses an update that has no place now, whoever sends it: that writes nothing into the history, so that a script which
// asks again and again fills no run. One that has its verdict gets that. The refusal carries the verdict.
func (r *rotation) placed(action policy.Action) func(workflow.Context, policy.Request) error {
	return func(ctx workflow.Context, req policy.Request) error {
		id := cmp.Or(req.ID, "update/"+workflow.GetCurrentUpdateInfo(ctx).ID)
		if nonce := req.Nonce(); nonce != "" {
			id = "signed/" + nonce
		}
		if _, known := r.verdict(id); known {
			return nil
		}
		here := r.standpoint()
		v := policy.Misplaced(action, req, here)
		if v.Reason == "" && r.refusals >= maxRefusals && req.Signed == nil { // signed ones are bounded by their proofs
			v = policy.Judge(action, req, nil, here)
		}
		if v.Reason == "" || v.Accepted {
			return nil
		}
		return atTheDoor(v)
	}
}

// atTheDoor is how a validator refuses: with the verdict.
func atTheDoor(v policy.Verdict) error {
	return temporal.NewNonRetryableApplicationError(v.Message, string(v.Reason), nil, v)
}

// receive handles each signal of a name. It is received raw: one that does not decode is reported, where
// the SDK would drop it silently.
func (r *rotation) receive(ctx workflow.Context, name, description string, handle func(workflow.Context, converter.RawValue) error) {
	signals := workflow.GetSignalChannelWithOptions(ctx, name, workflow.SignalChannelOptions{Description: description})
	workflow.Go(r.ctx, func(ctx workflow.Context) {
		for {
			var payload converter.RawValue
			signals.Receive(ctx, &payload)
			r.Numbered++
			r.requested()
			r.background.Add(1)
			if err := handle(ctx, payload); err != nil {
				r.reply("a signal %q could not be read: %s", name, err)
			}
			r.background.Done()
		}
	})
}

// requested counts what people, or whoever floods the run, have sent.
func (r *rotation) requested() {
	r.requests++
	r.measure()
}

// What a rotation remembers of decisions, and how many of them it reports.
const (
	maxVerdicts     = 1000
	maxVerdictsSize = 256 << 10
	maxReported     = 200
)

// remember keeps a verdict, so that a repeated decision gets it again.
func (r *rotation) remember(v policy.Verdict) {
	r.Verdicts = append(r.Verdicts, v)
	r.remembered += size(v)
	for len(r.Verdicts) > maxVerdicts || r.remembered > maxVerdictsSize && len(r.Verdicts) > 1 {
		i := leastWanted(r.Verdicts)
		r.remembered -= size(r.Verdicts[i])
		r.Verdicts = slices.Delete(r.Verdicts, i, i+1)
	}
}

// reported are the verdicts that a report has room for.
func reported(verdicts []policy.Verdict) []policy.Verdict {
	verdicts = slices.Clone(verdicts)
	for len(verdicts) > maxReported {
		i := leastWanted(verdicts)
		verdicts = slices.Delete(verdicts, i, i+1)
	}
	return verdicts
}

// leastWanted is the verdict that goes first where there is no room: the oldest refusals do, and only then what was carried out.
func leastWanted(verdicts []policy.Verdict) int {
	return max(0, slices.IndexFunc(verdicts, func(v policy.Verdict) bool { return !v.Accepted }))
}

// decide judges a request, whichever way it came, and does what an accepted one asks for. The same ID
// gets its first verdict again. noWayBack is why a rollback cannot succeed by what was looked up for it; empty when it can.
func (r *rotation) decide(action policy.Action, req policy.Request, proof *policy.Proof, noWayBack string) policy.Verdict {
	if proof != nil && proof.Problem == "" {
		req.ID = "signed/" + proof.Request.Nonce // however often and under whatever names it is sent
	}
	if v, known := r.verdict(req.ID); known {
		return v
	}
	here := r.standpoint()
	here.NoWayBack = cmp.Or(here.NoWayBack, noWayBack)
	v := policy.Judge(action, req, proof, here)
	r.remember(v)
	kind := audit.DecisionRejected
	if v.Accepted {
		kind = audit.DecisionAccepted
		r.carryOut(v)
	} else {
		r.refusals++
		workflow.GetLogger(r.ctx).Warn("decision not taken", "action", string(action), "reason", string(v.Reason), "message", v.Message)
	}
	r.happened(kind, map[string]string{"action": string(action), "gate": string(v.Gate), "by": v.Person(), "why": v.Why, "verdict": v.Message, "id": v.ID})
	r.refresh()
	return v
}

// request is what a signal asks for. A name that is misspelt is said, and nothing is assumed in its place.
func (r *rotation) request(payload converter.RawValue) (req policy.Request, err error) {
	if string(payload.Payload().GetMetadata()[converter.MetadataEncoding]) != converter.MetadataEncodingJSON {
		return req, errors.New("it is not JSON")
	}
	return policy.ReadRequest(payload.Payload().GetData())
}

func (r *rotation) standpoint() policy.Standpoint {
	info := workflow.GetInfo(r.ctx)
	s := policy.Standpoint{
		Now: workflow.Now(r.ctx), Gate: r.Status.Gate,
		Here: policy.Bound{
			Namespace: info.Namespace, Workflow: info.WorkflowExecution.ID, Run: info.WorkflowExecution.RunID,
			Rotation: r.Status.Rotation, Retiring: r.Status.Retiring.KeyID, Incoming: r.Status.Incoming.KeyID,
		},
		Disabled: r.Disabled, Revoke: r.credential.Approvals.Revoke,
		InOverlap: r.Status.Phase == PhaseOverlap, OverlapEnds: r.OverlapEnds, LatestEnd: r.lastOverlapEnd,
		NoWayBack: r.noWayBack(workflow.Now(r.ctx)), Requester: r.Signer, RotateBy: r.RotateBy,
	}
	if r.turned() != nil { // the gate closes as soon as this task goes on
		s.Gate = nil
	}
	switch {
	case r.over() || r.Status.Phase == PhaseRecord:
		s.NoWayBack = "the rotation has ended"
	case r.in.Emergency != nil:
		s.NoWayBack = "it is an emergency: nothing leads back to an exposed key"
	case r.rollingBack():
		s.NoWayBack = "it is turning back already"
	case r.Turn != nil && r.Turn.Outcome == Superseded:
		s.NoWayBack = r.Turn.Message
	}
	return s
}

// maxRefusals is how many decisions are refused on record for one gate. Whatever else is refused after them is so at the door, or a
// script that asks again and again would close the gate to everybody.
const maxRefusals = 100

// maxProofs bounds how many signed decisions are looked at for one gate, whoever floods it: then the gate
// must open again.
const maxProofs = 100

// unproved is a signed decision that waits for its proof.
type unproved struct {
	decision signed.Envelope
	proof    *policy.Proof
}

// prove has a worker find out who signed a request; nil for an unsigned one. Requests that come while
// others are proved go together.
func (r *rotation) prove(ctx workflow.Context, req policy.Request) *policy.Proof {
	switch {
	case req.Signed == nil:
		return nil
	case r.proved >= maxProofs:
		return &policy.Proof{Problem: fmt.Sprintf("there were %d signed decisions already since the gate opened; it takes more when it opens again", maxProofs)}
	}
	r.proved++
	waiting := &unproved{decision: *req.Signed}
	r.unproved = append(r.unproved, waiting)
	if len(r.unproved) == 1 {
		r.background.Add(1)
		workflow.Go(r.ctx, r.proveAll)
	}
	if err := workflow.Await(ctx, func() bool { return waiting.proof != nil }); err != nil {
		return &policy.Proof{Problem: err.Error()}
	}
	return waiting.proof
}

// proveAll proves what waits, and what comes meanwhile after that, until nothing does.
func (r *rotation) proveAll(ctx workflow.Context) {
	defer r.background.Done()
	for len(r.unproved) > 0 {
		batch := slices.Clone(r.unproved)
		input := activities.ProveInput{Spec: r.in.Spec}
		for _, u := range batch {
			input.Decisions = append(input.Decisions, u.decision)
		}
		var proofs []policy.Proof
		err := proving.start(ctx, r.Queue, act.Prove, input).Get(ctx, &proofs)
		for i, u := range batch {
			switch {
			case err != nil:
				u.proof = &policy.Proof{Problem: "no worker could verify it: " + cause(err)}
			case i < len(proofs):
				u.proof = &proofs[i]
			default:
				u.proof = &policy.Proof{Problem: "no worker has verified it"}
			}
		}
		r.unproved = r.unproved[len(batch):]
	}
}

// carryOut does what an accepted verdict means.
func (r *rotation) carryOut(v policy.Verdict) {
	by := v.Person()
	switch v.Action {
	case policy.Approve:
		r.Status.Gate.Approvals = append(r.Status.Gate.Approvals, v)
		if v.BreakGlass {
			r.toldOfBreakGlass(v.By, string(v.Gate), v.Why)
		}
		r.note("%s approved the %s gate", by, v.Gate)
	case policy.Reject:
		r.note("%s rejected the %s gate: %s", by, v.Gate, v.Why)
		r.wantBack(RejectedByPerson, "%s rejected the %s gate: %s", by, v.Gate, v.Why)
	case policy.Extend:
		r.OverlapEnds = r.OverlapEnds.Add(v.Extension.Std())
		r.note("%s extended the overlap by %s", by, v.Extension)
		r.happened(audit.OverlapExtended, map[string]string{"by": by, "extension": v.Extension.String()})
	case policy.Rollback:
		r.note("%s asked for a rollback: %s", by, v.Why)
		r.wantBack(AskedByPerson, "%s asked for a rollback: %s", by, v.Why)
	}
}

// drain answers every request that has arrived, and waits for what runs in the background, until both
// are done: a run that ended earlier would lose them.
func (r *rotation) drain() {
	for {
		before := r.Numbered
		// Giving way once lets every receiver take what has arrived for it.
		gaveWay := false
		workflow.Go(r.ctx, func(workflow.Context) { gaveWay = true })
		_ = workflow.Await(r.ctx, func() bool { return gaveWay && workflow.AllHandlersFinished(r.ctx) })
		r.background.Wait(r.ctx)
		if before == r.Numbered {
			return
		}
	}
}
