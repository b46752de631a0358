package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
)

// Plan is what a rotation would do now, and whether it may: the dry run.
type Plan struct {
	Credential string `json:"credential"`
	// MadeAt is when the facts were gathered.
	MadeAt time.Time `json:"madeAt"`
	// Retiring is the key that the rotation replaces; none for a first key.
	Retiring *key.Ref `json:"retiring,omitempty"`
	// RetiringExpires is the retiring key's own end; zero for none.
	RetiringExpires time.Time `json:"retiringExpires,omitzero"`
	// RotateBy is until when the retiring key is to be rotated; zero where nobody knows how old it is.
	RotateBy time.Time `json:"rotateBy,omitzero"`
	// Resume is the rotation that did not end and that this one goes on with; nil for none.
	Resume *Resume `json:"resume,omitempty"`
	// Discard are keys of ours that were minted and never promoted: they are destroyed first.
	Discard []key.Ref `json:"discard,omitempty"`
	// Left are retired keys of ours that are still alive, beside the one that the rotation replaces: it ends none of them.
	Left []LeftKey `json:"left,omitempty"`
	// TakeBack are the instances that use such a key, of a rotation that did not end: the current key is
	// delivered to them again before that one is destroyed.
	TakeBack []string `json:"takeBack,omitempty"`
	Waves    []Wave   `json:"waves,omitempty"`
	Steps    []Step   `json:"steps"`
	// Takes is the time of all waits together, approvals not counted.
	Takes inventory.Duration `json:"takes"`
	// CanDisable: revoking has a way back until the key is destroyed.
	CanDisable bool `json:"canDisable"`
	// TellsMissed: the issuer tells who misses the key when it is disabled, which is watched then.
	TellsMissed bool `json:"tellsMissed,omitempty"`
	// CanRollBack: the retiring key can be delivered again; NoWayBack is why it cannot.
	CanRollBack bool   `json:"canRollBack"`
	NoWayBack   string `json:"noWayBack,omitempty"`
	// WayBackEnds is when there is no way back any more, though the retiring key is not destroyed yet: it ends by itself soon
	// after. Zero when it does not.
	WayBackEnds time.Time `json:"wayBackEnds,omitzero"`
	// Quota is how many calls a second the issuer's account lets through, all rotations together; 0 for no bound.
	Quota float64 `json:"quota,omitempty"`
	// Unreviewed are the approvals by break-glass that nobody has reviewed.
	Unreviewed []key.BrokenGlass `json:"unreviewed,omitempty"`
	// Refusals say why the rotation may not begin; none when it may.
	Refusals []Decision `json:"refusals,omitempty"`
	// Warnings are what an approver should know.
	Warnings []string `json:"warnings,omitempty"`
}

// LeftKey is a key of ours that no rotation ends.
type LeftKey struct {
	Key   key.Ref   `json:"key"`
	State key.State `json:"state"`
}

// Wave is a group of instances that is delivered to together.
type Wave struct {
	Name string `json:"name"`
	// Instances are "consumer" or "consumer/instance".
	Instances []string `json:"instances"`
	// Soak is how long the wave is watched before the next one: the policy's, once its consumers' caches have run out.
	Soak inventory.Duration `json:"soak"`
	// ByPromotion: the instances read CURRENT by themselves, so that promoting delivers to them.
	ByPromotion bool `json:"byPromotion,omitempty"`
}

// Step is one line of a plan.
type Step struct {
	Phase string `json:"phase"`
	What  string `json:"what"`
	// Undo says how the step is taken back; empty when it cannot be.
	Undo string `json:"undo,omitempty"`
}

// Refused tells whether the plan may not be carried out.
func (p Plan) Refused() bool { return len(p.Refusals) > 0 }

// Blips tells whether all refusals are of a kind that a second look may not find again: an instance that
// was asked just when it could not answer.
func Blips(refusals []Decision) bool {
	return len(refusals) > 0 && !slices.ContainsFunc(refusals, func(d Decision) bool {
		return !slices.Contains([]Reason{ConsumerUnreachable, ConsumerUnhealthy, ConsumerNotAttesting}, d.Reason)
	})
}

// Make judges the facts and lays out the rotation; what the calendar says of it is Begun's. pulls tells whether a target type's consumers read
// the store by themselves; cannotApprove says why a gate could never be passed, empty when it can.
func Make(spec inventory.Spec, f Facts, pulls func(targetType string) bool, cannotApprove func(inventory.Approval) string) Plan {
	c := spec.Credential
	plan := Plan{
		Credential: c.Name, MadeAt: f.At, RotateBy: StateOf(c, f).RotateBy, Unreviewed: f.Metadata.BrokenGlass,
		CanDisable:  f.Capabilities.CanDisable,
		TellsMissed: tellsMissed(f.Capabilities),
		CanRollBack: true,
		Waves:       waves(c, pulls),
	}
	if len(f.Denied) > 0 {
		// Nothing was looked at, and nothing is told of what may be there.
		return Plan{Credential: c.Name, MadeAt: f.At, Refusals: append(outOfBounds(f.Denied), impassable(c, f, cannotApprove)...)}
	}
	standings := f.Standings(c.Adopt)
	plan.Resume = unfinished(c, f, standings)
	for _, k := range f.Keys {
		ref, standing := f.Ref(k), standings[k.KeyID]
		switch {
		case plan.retires(ref, standing):
			plan.Retiring, plan.RetiringExpires = &ref, k.ExpiresAt
			plan.NoWayBack, plan.WayBackEnds = noWayBack(c, f, plan)
			plan.CanRollBack = plan.NoWayBack == ""
		case plan.goesOnWith(k.KeyID), Spared(c, f, ref):
		case standing == StandingIncoming, standing == StandingOrphan:
			plan.Discard = append(plan.Discard, ref)
		case standing == StandingRetired:
			plan.Left = append(plan.Left, LeftKey{Key: ref, State: k.State})
		}
	}
	plan.Discard = slices.DeleteFunc(plan.Discard, func(r key.Ref) bool { return IsAlone(c, f, r) })
	if plan.Retiring != nil && plan.CanRollBack {
		plan.TakeBack = onAnyOf(f.Instances, plan.Discard)
	}
	plan.Refusals = mayIssue(spec, f, plan, standings, cannotApprove)
	plan.Warnings = warnings(c, f, plan, standings)
	plan.Steps, plan.Takes = steps(c, f, plan)
	return plan
}

// stale says of which generation a spec is, and by which one a key was issued already.
func stale(spec inventory.Spec, m key.Metadata) string {
	signed := func(generation int64) string { return time.UnixMilli(generation).UTC().Format(time.RFC3339) }
	return fmt.Sprintf("the spec is of generation %d (signed %s), and a key was already issued with generation %d (%s): use the newer spec. If this one is newer, the clock of who signed it is behind: set it right, and sign again",
		spec.Generation, signed(spec.Generation), m.Generation, signed(m.Generation))
}

// retires tells whether the plan is to retire this key: the one in CURRENT, or that was so before the rotation that it goes
// on with.
func (p Plan) retires(ref key.Ref, standing Standing) bool {
	if p.Resume != nil && p.Resume.IsCurrent() {
		return p.Resume.Retiring != nil && ref == *p.Resume.Retiring
	}
	return standing == StandingCurrent
}

// noWayBack is why the retiring key cannot be gone back to, empty when it can, and until when that is so where it ends by
// itself: one that ends before all have the incoming key is no way back.
func noWayBack(c inventory.Credential, f Facts, plan Plan) (why string, ends time.Time) {
	if d := f.notExposed(plan.Retiring.KeyID); !d.OK {
		return d.Message, ends
	}
	if plan.Retiring.StoreVersion == "" {
		return "the value of the retiring key is in no store", ends
	}
	if plan.RetiringExpires.IsZero() {
		return "", ends
	}
	ends = beforeEnd(c, plan.RetiringExpires)
	delivered := f.At
	for i, w := range plan.Waves {
		if i < len(plan.Waves)-1 {
			delivered = delivered.Add(w.Soak.Std())
		}
	}
	if !delivered.Before(ends) {
		return "the retiring key ends by itself " + plan.RetiringExpires.UTC().Format(time.RFC3339), ends
	}
	return "", ends
}

// onAnyOf names the instances that use one of the keys.
func onAnyOf(instances []Instance, keys []key.Ref) []string {
	var names []string
	for _, i := range instances {
		if i.Statement != nil && slices.ContainsFunc(keys, i.Statement.Holds) {
			names = append(names, i.Name())
		}
	}
	return names
}

func waves(c inventory.Credential, pulls func(string) bool) []Wave {
	var before, after []Wave
	for _, w := range c.Waves(pulls) {
		pushed := Wave{Name: w.Name, Soak: c.WaveSoak}
		pulled := Wave{Name: w.Name, Soak: c.WaveSoak, ByPromotion: true}
		for _, consumer := range w.Consumers {
			into := &pushed
			if pulls(consumer.Target.Type) && w.Name != inventory.CanaryWave {
				into = &pulled
			}
			into.Soak = max(into.Soak, c.WaveSoak+consumer.CacheTTL)
			for _, i := range consumer.InstanceNames() {
				into.Instances = append(into.Instances, InstanceName(consumer.Name, i))
			}
		}
		if len(pushed.Instances) > 0 {
			before = append(before, pushed)
		}
		if len(pulled.Instances) > 0 {
			after = append(after, pulled)
		}
	}
	return append(before, after...)
}

// mayIssue lists every reason against the rotation, so that a person mends all of them at once.
func mayIssue(spec inventory.Spec, f Facts, plan Plan, standings map[string]Standing, cannotApprove func(inventory.Approval) string) []Decision {
	c := spec.Credential
	var no []Decision
	add := func(r Reason, format string, args ...any) { no = append(no, refuse(r, format, args...)) }

	no = append(no, impassable(c, f, cannotApprove)...)
	if f.StoreProblem != "" {
		add(StoreRefused, "issuer and store cannot be used as they are: %s", f.StoreProblem)
		return no
	}
	if d := Governs(spec, f.Metadata); !d.OK {
		no = append(no, d)
	}
	if f.Held != "" {
		add(Held, "%s", f.Held)
	}
	if overdue := ReviewsOverdue(f.Metadata, f.At); len(overdue) > 0 {
		add(ReviewOverdue, "%s: %s", unreviewed(overdue), HowToReview(c.Name))
	}
	if f.Metadata.Generation > spec.Generation {
		add(StaleSpec, "%s", stale(spec, f.Metadata))
	}
	no = append(no, keyRefusals(c, f, plan, standings)...)
	if f.Capabilities.ReportsUsage && c.QuietWindow.Std() < f.Capabilities.UsageLag {
		add(QuietBelowLag, "quietWindow is %s, and the issuer account reports usage up to %s late: ask for at least that",
			c.QuietWindow, inventory.Duration(f.Capabilities.UsageLag))
	}
	for _, objection := range f.RightsObjections {
		add(RightsRefused, "%s", objection)
	}
	if c.Expires > 0 && !f.Capabilities.CanExpire {
		add(CannotExpire, "expires is set, and keys of this issuer cannot expire: remove it")
	}
	no = append(append(no, tooShort(c)...), tellsLate(c, f)...)
	if gate := c.Approvals.Signoff; plan.NoWayBack != "" && !plan.WayBackEnds.IsZero() && (gate == nil || gate.Count == 0) {
		add(SignoffNeeded, "there is no way back from this rotation, since %s: somebody must sign it off; ask for that with approvals.signoff", plan.NoWayBack)
	}
	if plan.Retiring != nil {
		no = append(no, instanceRefusals(f, plan)...)
	} else {
		for _, i := range f.Instances {
			if i.Unreachable != "" {
				add(ConsumerUnreachable, "%s cannot be delivered to: %s", i.Name(), i.Unreachable)
			}
		}
	}
	return no
}

// Governs judges whether a spec is of the inventory and environment that the credential belongs to by the
// store's record of it. A credential that no key was issued for yet belongs to nobody.
func Governs(spec inventory.Spec, m key.Metadata) Decision {
	environment := spec.Credential.Environment
	if m.Inventory == "" && m.Environment == "" || m.Inventory == spec.Inventory && m.Environment == environment {
		return allow("it is of inventory %q and environment %q", spec.Inventory, environment)
	}
	return refuse(OtherOwner, "the secret belongs to inventory %q and environment %q, and the spec is of %q and %q: "+
		"to move it, whoever may write the store removes keyturn's record of it there while no rotation runs",
		m.Inventory, m.Environment, spec.Inventory, environment)
}

// outOfBounds refuses for each bound that is broken, once.
func outOfBounds(denied []string) []Decision {
	var no []Decision
	for _, d := range slices.Compact(slices.Sorted(slices.Values(denied))) {
		no = append(no, refuse(SpecRefused, "%s", d))
	}
	return no
}

// impassable refuses gates that nobody could ever pass.
func impassable(c inventory.Credential, f Facts, cannotApprove func(inventory.Approval) string) []Decision {
	var no []Decision
	unseen := len(f.Denied) == 0 && !f.Capabilities.ReportsUsage // else it was not even asked
	for _, gate := range []inventory.Gate{inventory.GateSignoff, inventory.GateRevoke} {
		if a := Needs(c, gate, unseen); a != nil {
			if why := cannotApprove(*a); why != "" {
				no = append(no, refuse(TrustNotVerifiable, "the %s gate asks for %s with trust %q: %s", gate, Counted(a.Count, "approval"), a.Trust, why))
			}
		}
	}
	return no
}

func keyRefusals(c inventory.Credential, f Facts, plan Plan, standings map[string]Standing) []Decision {
	var no []Decision
	add := func(r Reason, format string, args ...any) { no = append(no, refuse(r, format, args...)) }

	current, hasCurrent := f.Version(key.Current)
	switch {
	case plan.Resume != nil:
	case hasCurrent && plan.Retiring == nil && f.endedOfOurs(current):
	case hasCurrent && plan.Retiring == nil:
		add(RetiringKeyNotLive, "the store's CURRENT (version %s) is no live key of %s: put the value that consumers use into it, or destroy the secret to begin with a first key",
			current.ID, c.Issuer.Type)
	case hasCurrent || plan.Retiring != nil:
	case len(c.Adopt) > 1 && len(f.Keys) > 1:
		add(AmbiguousRetiringKey, "the store has no CURRENT and adopt names %d keys: name the one in use, or put its value into the store", len(c.Adopt))
	case len(c.Adopt) > 0:
		add(AdoptedKeyMissing, "adopt names %s, which is no active key of the principal, and the store has no CURRENT", c.Adopt[0])
	}
	if plan.Retiring != nil && plan.Resume == nil {
		if k, _ := f.Live(plan.Retiring.KeyID); k.State == key.Disabled {
			add(RetiringKeyDisabled, "the current key %s is disabled at the issuer: enable it, or handle an exposed key as an emergency", k.KeyID)
		}
	}
	rivals := firstKeys(c, f, plan, standings)
	if len(rivals) > 0 {
		no = append(no, undecided(c, f, rivals))
	}
	for _, k := range f.Keys {
		switch standings[k.KeyID] {
		case StandingUnknown:
			if k.State == key.Active {
				add(UnknownActiveKey, "key %s of %s is active, was created %s, and is not ours: name it under adopt (then %s ends it), or destroy it at the issuer",
					k.KeyID, k.Principal, k.CreatedAt.UTC().Format(time.RFC3339), RetireWith(c.Name, k.KeyID))
			}
		case StandingIncoming:
			if plan.goesOnWith(k.KeyID) || Spared(c, f, f.Ref(k)) || slices.Contains(rivals, f.Ref(k)) {
				continue
			}
			if plan.Retiring == nil && !f.notExposed(k.KeyID).OK && IsAlone(c, f, f.Ref(k)) {
				add(KeyExposed, "key %s of a rotation that did not end is exposed, and there is no other that consumers could go back to: keyturn emergency %s --key %s=%s --sign KEY --reason ...",
					k.KeyID, c.Name, c.Name, k.KeyID)
				continue
			}
			if owned, _ := f.Metadata.Key(k.KeyID); plan.Retiring == nil && !owned.DeliveredAt.IsZero() && len(onAnyOf(f.Instances, []key.Ref{f.Ref(k)})) == 0 {
				add(UnfinishedRotation, "key %s of a rotation that did not end was delivered, and there is no earlier key to go back to: make it CURRENT on the worker's host (keyturn-worker import %s -f FILE --config FILE), or destroy it at the issuer if nobody uses it", k.KeyID, c.Name)
			}
			if plan.Retiring != nil && !f.notExposed(plan.Retiring.KeyID).OK {
				add(KeyExposed, "key %s of a rotation that did not end cannot be gone on with, and the current key %s is exposed: keyturn emergency %s --key %s=%s --sign KEY --reason ...",
					k.KeyID, plan.Retiring.KeyID, c.Name, c.Name, plan.Retiring.KeyID)
				continue
			}
			for _, name := range onAnyOf(f.Instances, []key.Ref{f.Ref(k)}) {
				if !slices.Contains(plan.TakeBack, name) {
					add(UnfinishedRotation, "%s uses key %s of a rotation that did not end, and there is no earlier key in the store to go back to: make that key CURRENT on the worker's host (keyturn-worker import %s -f FILE --config FILE)",
						name, k.KeyID, c.Name)
				}
			}
		}
	}
	no = append(no, Unclear(f, c.Adopt)...)
	undone := slices.ContainsFunc(no, func(d Decision) bool { return d.Reason == UnfinishedRotation }) // which frees a slot, once it is
	if kept := len(f.Keys) - len(plan.Discard); plan.Resume == nil && !undone && f.Capabilities.Slots > 0 && kept >= f.Capabilities.Slots {
		add(SlotsFull, "%s", slotsTaken(c, f, standings, kept))
	}
	return no
}

// CurrentEnded tells whether the key in CURRENT was ours, and is not listed by the issuer. One look alone does not prove that it is gone.
func CurrentEnded(f Facts) bool {
	current, _ := f.Version(key.Current)
	return f.endedOfOurs(current)
}

// endedOfOurs tells whether a version holds a key of ours that the issuer does not know any more: somebody destroyed it, or it ended. A
// rotation gives consumers another one, as a first key.
func (f Facts) endedOfOurs(v StoredKey) bool {
	return v.KeyID == "" && slices.ContainsFunc(f.Metadata.Keys, func(k key.Owned) bool {
		_, live := f.Live(k.KeyID)
		return k.StoreVersion == v.ID && !live
	})
}

func instanceRefusals(f Facts, plan Plan) []Decision {
	retiring := *plan.Retiring
	onItsWay := func(i Instance) bool { // to the incoming key, or back from one
		return slices.Contains(plan.TakeBack, i.Name()) || plan.Resume != nil && i.Statement.Holds(plan.Resume.Incoming)
	}
	var no []Decision
	add := func(r Reason, format string, args ...any) { no = append(no, refuse(r, format, args...)) }
	for _, i := range f.Instances {
		if i.Unreachable != "" {
			add(ConsumerUnreachable, "%s cannot be delivered to: %s", i.Name(), i.Unreachable)
		}
		if i.Unhealthy != "" {
			when := "before anything was changed"
			if plan.Resume != nil {
				when = "in a rotation that did not end"
			}
			add(ConsumerUnhealthy, "%s fails its check %s: %s", i.Name(), when, i.Unhealthy)
		}
		switch {
		case i.NotAttesting != "":
			add(ConsumerNotAttesting, "%s does not state which key it uses: %s", i.Name(), i.NotAttesting)
		case i.Statement == nil || onItsWay(i):
		case i.Statement.Split:
			add(ConsumerOnOtherKey, "the replicas of %s do not all use the current key %s: asked again and again, it states %v", i.Name(), retiring.KeyID, i.Statement.Keys)
		case !i.Statement.Holds(retiring) && !otherName(i.Statement.Keys, f, retiring):
			add(ConsumerOnOtherKey, "%s states key %v, not the current key %s", i.Name(), i.Statement.Keys, retiring.KeyID)
		}
	}
	return named(no)
}

// otherName tells whether a statement may name the retiring key in a way that we cannot match: its
// value is in no store, so that its fingerprint is not known, and the stated key is none of the known.
func otherName(stated []string, f Facts, retiring key.Ref) bool {
	if retiring.Fingerprint != "" || len(stated) == 0 {
		return false
	}
	return !slices.ContainsFunc(f.Keys, func(k key.Info) bool {
		return slices.ContainsFunc(stated, f.Ref(k).Is)
	})
}

func warnings(c inventory.Credential, f Facts, plan Plan, standings map[string]Standing) []string {
	var w []string
	if due := f.Metadata.BrokenGlass; len(due) > 0 && len(ReviewsOverdue(f.Metadata, f.At)) == 0 {
		w = append(w, fmt.Sprintf("%s: from %s on no routine rotation begins before that is done: %s", unreviewed(due), due[0].At.Add(ReviewWithin).UTC().Format(time.RFC3339), HowToReview(c.Name)))
	}
	for _, gate := range []inventory.Gate{inventory.GateSignoff, inventory.GateRevoke} {
		if a := c.Approvals.For(gate); a != nil && a.Count > 0 && a.Trust == inventory.TrustAny {
			w = append(w, fmt.Sprintf("trust is any: whoever may write to the Temporal namespace can approve the %s gate", gate))
		}
	}
	if a := c.Approvals.Revoke; a == nil || a.Count == 0 {
		w = append(w, "nobody is asked before the retiring key is revoked")
	}
	switch {
	case plan.NoWayBack != "":
		w = append(w, plan.NoWayBack+": after the first delivery a rollback is impossible")
	case !plan.WayBackEnds.IsZero():
		w = append(w, fmt.Sprintf("the retiring key ends by itself %s: a rollback is possible until %s", plan.RetiringExpires.UTC().Format(time.RFC3339), plan.WayBackEnds.UTC().Format(time.RFC3339)))
	}
	if plan.Retiring == nil && CurrentEnded(f) {
		w = append(w, "the key in CURRENT does not exist at the issuer any more: whoever uses it is refused until the incoming one is delivered")
	}
	if early := readEarly(f.Instances); len(early) > 0 {
		w = append(w, strings.Join(early, ", ")+" may read the incoming key as soon as it is staged, before it is tested: whoever reads PENDING must keep the key in use while that one is refused")
	}
	if !f.Capabilities.CanDisable {
		w = append(w, "the issuer cannot disable a key: revoking has no way back")
	}
	if !f.Capabilities.ReportsUsage {
		w = append(w, "the issuer does not report usage: that the retiring key is quiet is known from attestations alone")
	}
	if a := c.Approvals.Revoke; plan.Retiring != nil && f.unseen(c, plan.Retiring.KeyID) {
		if a == nil || a.Count == 0 {
			w = append(w, "the issuer tells of no use of the retiring key, and nobody is asked: that no attestation names it is all that is known")
		} else {
			w = append(w, fmt.Sprintf("the issuer tells of no use of the retiring key: while that is so, the revoke gate asks for one approval more, %d", a.Count+1))
		}
	}
	if f.Untestable {
		w = append(w, "nothing tests a key: neither the issuer nor verify can, so that the issuer's list is the answer. Add a smoke test under verify")
	}
	if f.Capabilities.CanDisable && !plan.TellsMissed {
		w = append(w, "the issuer does not report who is refused with a disabled key: that somebody misses the retiring one shows in the error budget alone, before it is destroyed")
	}
	if plan.TellsMissed && c.DisableSoak.Std() < f.Capabilities.UsageLag {
		w = append(w, fmt.Sprintf("disableSoak is %s, and the issuer account reports usage up to %s late: that somebody misses the disabled key may show when it is destroyed already",
			c.DisableSoak, inventory.Duration(f.Capabilities.UsageLag)))
	}
	if len(c.Scopes) > 0 && !f.Capabilities.CanNarrow {
		w = append(w, "the issuer cannot narrow a key: it gets all its principal's rights")
	}
	w = append(append(append(w, notParted(c, plan)...), seldomSeen(c)...), changedRights(f)...)
	if c.ErrorBudget == nil {
		w = append(w, "no error budget: only checks and attestations can turn the rotation back by themselves")
	}
	for _, signal := range f.SilentSignals {
		w = append(w, "a health signal of the error budget says nothing now: "+signal)
	}
	for _, k := range f.Keys {
		switch standings[k.KeyID] {
		case StandingRetired:
			said := fmt.Sprintf("retired key %s is still alive (%s)", k.KeyID, k.State)
			if plan.Retiring == nil || plan.Retiring.KeyID != k.KeyID { // else this rotation ends it
				said += ": end it with: " + RetireWith(c.Name, k.KeyID)
			}
			w = append(w, said)
		case StandingUnknown:
			if k.State == key.Disabled {
				w = append(w, fmt.Sprintf("key %s is disabled and not ours: it is left alone", k.KeyID))
			}
		}
	}
	return w
}
