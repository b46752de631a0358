package workflows

import (
	"bytes"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/signed"
)

// hold waits until the worker configuration lets the spec be followed again, or somebody who is trusted signed it anew, and
// gives the input the signature that counts then.
func (r *rotation) hold(why string, input any, stop func() error) error {
	before := r.Status
	r.holding = true
	defer func() { r.holding = false }()
	r.note("held: %s", why)
	defer r.tellWhile("held", "Rotation held: the worker configuration does not let its spec be followed any more", why)()
	r.Status.Doing = "Held: " + why
	r.waitFor("a trusted signature of the spec this rotation follows, within the bounds", "whoever keeps the worker configuration; or a trusted signer, with: keyturn rotate "+r.Status.Credential+" -f FILE --sign KEY")
	for trusted := false; !trusted; {
		r.resigned = false
		ctx, cancel := workflow.WithCancel(r.ctx)
		done := trusting.start(ctx, r.Queue, act.AwaitTrust, r.in.Spec)
		err := workflow.Await(r.ctx, func() bool { return done.IsReady() || r.resigned || stop() != nil })
		answered := done.IsReady() // by itself; once cancelled it is ready, too
		cancel()
		switch {
		case err != nil:
			return err
		case answered:
			if err := done.Get(r.ctx, nil); err != nil {
				return err
			}
			trusted = true
		case stop() != nil:
			return stop()
		}
	}
	if in, ok := input.(interface{ Resign(inventory.SignedSpec) }); ok {
		in.Resign(r.in.Spec)
	}
	r.note("the spec may be followed again; going on")
	r.Status.Doing, r.Status.WaitsFor, r.Status.UnblockedBy = before.Doing, before.WaitsFor, before.UnblockedBy
	r.refresh()
	return nil
}

// Resign is the action of signing a held rotation's spec anew.
const Resign policy.Action = "resign"

// resign takes another signature of the very same spec, once a worker trusts it.
func (r *rotation) resign(ctx workflow.Context, s inventory.SignedSpec) policy.Verdict {
	if !r.holding {
		return notHeld(workflow.Now(ctx))
	}
	v := policy.Verdict{Action: Resign, At: workflow.Now(ctx)}
	theirs, err := signed.Canonical(s.Body)
	ours, ownErr := signed.Canonical(r.in.Spec.Body)
	if err != nil || ownErr != nil || !bytes.Equal(theirs, ours) {
		v.Reason, v.Message = policy.OtherRotation, "it is not the spec that this rotation follows"
		return v
	}
	var accepted activities.Accepted
	if err := accepting.start(ctx, r.Queue, act.Recognise, s).Get(ctx, &accepted); err != nil {
		v.Reason, v.Message = policy.SignatureBad, "the signature is not taken: "+cause(err)
		return v
	}
	r.in.Spec, r.resigned = s, true
	r.Signer = signed.Signer{Name: accepted.Signer, Key: accepted.SignerKey}
	v.Accepted, v.Reason, v.By, v.Verified = true, policy.Accepted, accepted.Signer, true
	v.Message = "the rotation goes on"
	r.note("%s signed the spec anew", accepted.Signer)
	return v
}

func notHeld(now time.Time) policy.Verdict {
	return policy.Verdict{Action: Resign, At: now, Reason: policy.WrongPhase, Message: "the rotation is not held: its spec is trusted"}
}
