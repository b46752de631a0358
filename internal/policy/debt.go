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
	switch {
	case f.Standings(credential.Adopt)[retired] != StandingRetired || !hasCurrent || !alive:
		return refuse(NotOurs, "it is not a retired key beside a current one")
	case c.Run.Running:
		return refuse(RunInTheWay, "a rotation runs, and may end it")
	case owned.PromotedAt.IsZero():
		return refuse(NotPromoted, "keyturn did not make the current key CURRENT, so that it cannot prove that everybody is on it: import that key on the worker's host (keyturn-worker import %s -f FILE --config FILE), or rotate it (keyturn rotate %s)", credential.Name, credential.Name)
	case c.Paused != "":
		return refuse(RotationsPaused, "it is not taken up while routine rotations are paused (%s): end the pause, or ask for its end: %s", c.Paused, RetireWith(credential.Name, retired))
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

// Settlement is what a run would do that ends one key which was left alive.
type Settlement struct {
	Plan Plan `json:"plan"`
	// Current is the key that everybody uses.
	Current key.Ref `json:"current,omitzero"`
	// Disabled: the key is disabled already, so that a turn leaves it so.
	Disabled bool `json:"disabled,omitempty"`
	// Unkept: it never became CURRENT, or was turned back from.
	Unkept bool `json:"unkept,omitempty"`
}

// Settle plans the end of a key that was left alive: of a retired one, which Sweep takes up, or, where a person asks, of whatever
// MayRetire allows. It refuses for every reason but that evidence is not complete yet, which the run waits for.
func Settle(spec inventory.Spec, f Facts, keyID string, asked bool, cannotApprove func(inventory.Approval) string) Settlement {
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
	if f.Held != "" {
		no(Held, "%s", f.Held)
	}
	may := maySettle(c, f, keyID)
	if asked {
		may = MayRetire(c, f, keyID)
	}
	if !may.OK {
		s.Plan.Refusals = append(s.Plan.Refusals, may)
		return s
	}
	k, _ := f.Live(keyID)
	current, _ := f.Version(key.Current)
	kept, _ := f.Live(current.KeyID)
	ref := f.Ref(k)
	s.Plan.Retiring, s.Plan.RetiringExpires, s.Current, s.Disabled = &ref, k.ExpiresAt, f.Ref(kept), k.State == key.Disabled
	s.Unkept = f.Standings(c.Adopt)[keyID] == StandingIncoming
	return s
}

// maySettle judges whether a run may begin that ends a retired key which is still alive.
func maySettle(c inventory.Credential, f Facts, retired string) Decision {
	_, live := f.Live(retired)
	current, _ := f.Version(key.Current)
	kept, alive := f.Live(current.KeyID)
	switch {
	case !live:
		return refuse(NotOurs, "key %s does not exist any more: nothing is owed", retired)
	case f.Standings(c.Adopt)[retired] != StandingRetired:
		return refuse(NotOurs, "key %s is not a retired key of %s", retired, c.Name)
	case !alive || kept.State != key.Active:
		return refuse(RetiringKeyNotLive, "the store's CURRENT is no active key, so that the retired one is not taken away")
	}
	return allow("key %s is retired, and left alive beside %s", retired, kept.KeyID)
}
