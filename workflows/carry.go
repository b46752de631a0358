package workflows

import (
	"errors"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
)

// Carried is what a run whose history is full hands to the next one, which goes on from there. Nothing trusts it: each
// activity with an effect looks for itself.
type Carried struct {
	// At is the part of Rotation that the next run goes on with, from its beginning.
	At     string        `json:"at"`
	Queue  string        `json:"queue"`
	Plan   policy.Plan   `json:"plan"`
	Status Status        `json:"status"`
	Report Report        `json:"report"`
	Events []audit.Event `json:"events,omitempty"`
	// Numbered goes on, so that no two events have one ID.
	Numbered    int         `json:"numbered"`
	Turn        *CarriedEnd `json:"turn,omitempty"`
	Changed     bool        `json:"changed,omitempty"`
	Delivered   bool        `json:"delivered,omitempty"`
	Promoted    bool        `json:"promoted,omitempty"`
	Disabled    bool        `json:"disabled,omitempty"`
	RollingBack bool        `json:"rollingBack,omitempty"`
	OverlapEnds time.Time   `json:"overlapEnds,omitzero"`
	// Breach is why the run was paused.
	Breach *policy.Decision `json:"breach,omitempty"`
	// RetiringGone: people were told that the issuer accepts the retiring key no more.
	RetiringGone bool `json:"retiringGone,omitempty"`
	// IncomingEnds is the incoming key's own end.
	IncomingEnds time.Time `json:"incomingEnds,omitzero"`
}

// CarriedEnd is what a run was turning to when it was full.
type CarriedEnd struct {
	Outcome Outcome       `json:"outcome"`
	Reason  policy.Reason `json:"reason"`
	Message string        `json:"message"`
}

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
	if bound := r.status.Gate != nil || r.signedOff() || r.approved || r.disabled; !bound {
		full = full || info.GetContinueAsNewSuggested()
	}
	if full && !r.full {
		r.full = r.bounded()
	}
}

// signedOff tells whether the mint that comes next stands on approvals of the sign-off gate.
func (r *rotation) signedOff() bool {
	gate := r.credential.Approvals.For(inventory.GateSignoff)
	return gate != nil && gate.Count > 0 && r.at == partIssue && r.status.Incoming.IsZero()
}

// bounded tells whether this run is kept from growing without end; those that began before that was so are not.
func (r *rotation) bounded() bool {
	return workflow.GetVersion(r.ctx, "bounded", workflow.DefaultVersion, 1) >= 1
}

// continueAsNew ends the run, after the last request was answered.
func (r *rotation) continueAsNew() error {
	breach := r.breach
	r.stopWatch()
	r.note("going on in a new run: this one has become too long")
	for r.drain(); r.outbox.crowded(); r.drain() {
		r.write(func() bool { return !r.outbox.crowded() })
	}
	next := r.in
	next.Carried = &Carried{
		At: r.at, Queue: r.queue, Plan: r.plan, Status: r.status, Report: r.report, Events: r.outbox.along(), Numbered: r.numbered,
		Changed: r.changed, Delivered: r.delivered, Promoted: r.promoted, Disabled: r.disabled, RollingBack: r.rollingBack,
		OverlapEnds: r.overlapEnds, IncomingEnds: r.incomingEnds, Breach: breach, RetiringGone: r.retiringGone,
	}
	if r.signedOff() {
		next.Carried.At = partSignoff
	}
	if t := r.turn; t != nil {
		next.Carried.Turn = &CarriedEnd{Outcome: t.outcome, Reason: t.reason, Message: t.message}
	}
	return workflow.NewContinueAsNewError(r.ctx, Rotation, next)
}

// resume takes over from the run before. A watch takes a new baseline.
func (r *rotation) resume(c Carried) {
	r.at, r.queue, r.plan, r.status, r.report, r.numbered = c.At, c.Queue, c.Plan, c.Status, c.Report, c.Numbered
	r.outbox.add(c.Events...)
	r.changed, r.delivered, r.promoted, r.disabled, r.rollingBack = c.Changed, c.Delivered, c.Promoted, c.Disabled, c.RollingBack
	r.overlapEnds, r.incomingEnds, r.retiringGone = c.OverlapEnds, c.IncomingEnds, c.RetiringGone
	if t := c.Turn; t != nil {
		r.turn = &turn{outcome: t.Outcome, reason: t.Reason, message: t.Message}
	}
	for _, v := range c.Report.Verdicts {
		r.verdicts[v.ID] = v
		r.remembered += size(v)
	}
	if r.delivered && !r.rollingBack && c.Breach == nil { // a pause begins the watch anew at its end
		r.startWatch()
	}
	r.breach = c.Breach
	r.refresh()
}
