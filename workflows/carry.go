package workflows

import (
	"errors"

	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/internal/inventory"
)

// Bounds of one run. Temporal suggests to continue as new at 4,096 events or 4 MiB by default, and takes no more than 2,000
// updates and 10,000 signals a run. What a person approved counts for one run alone, so that a run with an open gate, or with a
// key that was disabled by its approvals, goes on up to these.
const (
	maxRequests = 1800
	maxEvents   = 10_000
	maxBytes    = 10 << 20
)

// errFull ends a run at a safe point, to go on in the next one.
var errFull = errors.New("this run has become too long and goes on in the next one; what was approved in it counts no more")

// measure looks how long the run has become.
func (r *rotation) measure() {
	info := workflow.GetInfo(r.ctx)
	full := r.requests >= maxRequests || info.GetCurrentHistoryLength() >= maxEvents || info.GetCurrentHistorySize() >= maxBytes
	if bound := r.Status.Gate != nil || r.signedOff() || r.approved || r.Disabled; !bound {
		full = full || info.GetContinueAsNewSuggested()
	}
	r.full = r.full || full
}

// signedOff tells whether the mint that comes next stands on approvals of the sign-off gate.
func (r *rotation) signedOff() bool {
	gate := r.credential.Approvals.For(inventory.GateSignoff)
	return gate != nil && gate.Count > 0 && r.At == partIssue && r.Status.Incoming.IsZero()
}

// continueAsNew ends the run, after the last request was answered.
func (r *rotation) continueAsNew() error {
	r.watches++ // what a watch has found goes on
	r.cancelWatch()
	r.note("going on in a new run: this one has become too long")
	r.settleUp()
	if r.signedOff() {
		r.At = partSignoff
	}
	next := r.in
	next.Carried = &r.State
	return workflow.NewContinueAsNewError(r.ctx, Rotation, next)
}

// settleUp answers every request, and writes what the next run has no room for.
func (r *rotation) settleUp() {
	for r.drain(); r.Outbox.crowded(); r.drain() {
		r.write(func() bool { return !r.Outbox.crowded() })
	}
}

// handOver ends the run at a safe point, to go on as the emergency of its credential, with what is done.
func (r *rotation) handOver() error {
	r.stopWatch()
	r.unwatchDisabled()
	r.note("the emergency goes on from here")
	r.settleUp()
	next := r.in
	next.Settle, next.Retire, next.Review, next.Emergency, next.Carried = "", "", nil, r.takeover, &r.State
	r.Turn, r.Unheard = nil, nil // that one tells of its own
	return workflow.NewContinueAsNewError(workflow.WithWorkflowTaskQueue(r.ctx, EmergencyQueue), EmergencyRotation, next)
}

// goOn takes over from the run before. A watch takes a new baseline.
func (r *rotation) goOn() {
	for _, v := range r.Verdicts {
		r.remembered += size(v)
	}
	if r.delivered() || r.Promoted {
		r.startWatch()
	}
	unheard := r.Unheard
	r.Unheard = nil
	for _, m := range unheard {
		r.tellOn(m)
	}
	r.refresh()
}
