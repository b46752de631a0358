package policy

import (
	"time"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
)

// Reasons why debt is not taken up.
const (
	NotPromoted      Reason = "current-never-promoted"
	RunInTheWay      Reason = "rotation-running"
	RotationsPaused  Reason = "paused"
	EvidenceLacking  Reason = "evidence-lacking"
	SignatureExpired Reason = "signature-expired"
)

// MayTakeUp judges whether the revoke gate may be opened again for a retired key that is still alive: everything
// that disabling needs is proved, but for approvals. Its message says what happens next, or what to do.
func MayTakeUp(c SweptCredential, retired string, now time.Time) Decision {
	credential, f := c.Spec.Credential, c.Facts
	current, hasCurrent := f.Version(key.Current)
	owned, _ := f.Metadata.Key(current.KeyID)
	live, alive := f.Live(current.KeyID)
	away, _ := f.Live(retired)
	byHand := "destroy it at the issuer if nobody uses it"
	switch {
	case f.Standings(credential.Adopt)[retired] != StandingRetired || !hasCurrent || !alive:
		return refuse(NotOurs, "it is not a retired key beside a current one")
	case c.Run.Running:
		return refuse(RunInTheWay, "a rotation runs, and may end it")
	case owned.PromotedAt.IsZero():
		return refuse(NotPromoted, "keyturn did not make the current key CURRENT, so that it cannot prove that everybody is on it: %s, or rotate", byHand)
	case c.Paused != "":
		return refuse(RotationsPaused, "it is not taken up while routine rotations are paused (%s): end the pause, or %s", c.Paused, byHand)
	case !c.Spec.NotAfter.IsZero() && !now.Before(c.Spec.NotAfter):
		return refuse(SignatureExpired, "it is taken up once the spec is applied again, signed: keyturn apply -f FILE --sign KEY")
	}
	if d := blackout(credential, now); !d.OK {
		return refuse(d.Reason, "it is taken up after the blackout: %s", d.Message)
	}
	if e := Gather(credential, f, f.Ref(away), f.Ref(live)); !e.Complete {
		return refuse(EvidenceLacking, "it is taken up once nobody needs it. What is missing: %s", e.Missing[0].Message)
	}
	return allow("Sweep opens the revoke gate for it: approve with: keyturn approve %s --gate revoke", credential.Name)
}

// DebtRetryAfter is how long after the end of a credential's last run its debt is taken up again: who rejected it,
// or let the request expire, is not asked each hour.
const DebtRetryAfter = 24 * time.Hour

// TakeUp names the retired key to be taken up now, the oldest first; empty for none.
func TakeUp(c SweptCredential, retryAfter time.Duration, now time.Time) string {
	if !c.Run.ClosedAt.IsZero() && now.Before(c.Run.ClosedAt.Add(retryAfter)) {
		return ""
	}
	for _, k := range c.Facts.Keys {
		if MayTakeUp(c, k.KeyID, now).OK {
			return k.KeyID
		}
	}
	return ""
}

// Settlement is what a run would do that ends a retired key which is still alive.
type Settlement struct {
	Plan Plan `json:"plan"`
	// Current is the key that everybody uses.
	Current key.Ref `json:"current,omitzero"`
	// Disabled: the retired key is disabled already, so that a turn leaves it so.
	Disabled bool `json:"disabled,omitempty"`
}

// Settle plans the end of a retired key that is still alive. It refuses for every reason but that evidence is not
// complete yet, which the run waits for.
func Settle(spec inventory.Spec, f Facts, retired string, cannotApprove func(inventory.Approval) string) Settlement {
	c := spec.Credential
	s := Settlement{Plan: Plan{Credential: c.Name, MadeAt: f.At, CanDisable: f.Capabilities.CanDisable, TellsMissed: tellsMissed(f.Capabilities)}}
	no := func(r Reason, format string, args ...any) {
		s.Plan.Refusals = append(s.Plan.Refusals, refuse(r, format, args...))
	}
	if len(f.Denied) > 0 {
		s.Plan.Refusals = append(outOfBounds(f.Denied), impassable(c, f, cannotApprove)...)
		return s
	}
	s.Plan.Refusals = impassable(c, f, cannotApprove)
	if f.Metadata.Generation > spec.Generation {
		no(StaleSpec, "%s", stale(spec, f.Metadata))
	}
	k, live := f.Live(retired)
	current, _ := f.Version(key.Current)
	now, alive := f.Live(current.KeyID)
	switch {
	case !live:
		no(NotOurs, "key %s does not exist any more: nothing is owed", retired)
	case f.Standings(c.Adopt)[retired] != StandingRetired:
		no(NotOurs, "key %s is not a retired key of %s", retired, c.Name)
	case !alive || now.State != key.Active:
		no(RetiringKeyNotLive, "the store's CURRENT is no active key, so that the retired one is not taken away")
	default:
		ref := f.Ref(k)
		s.Plan.Retiring, s.Plan.RetiringExpires, s.Current, s.Disabled = &ref, k.ExpiresAt, f.Ref(now), k.State == key.Disabled
		s.Plan.CanRollBack = false
	}
	return s
}
