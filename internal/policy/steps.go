package policy

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/keyturn/keyturn/internal/inventory"
)

// steps writes the plan out for people, and adds up its waits.
func steps(c inventory.Credential, f Facts, plan Plan) ([]Step, inventory.Duration) {
	var list []Step
	var takes inventory.Duration
	add := func(phase, undo, format string, args ...any) {
		list = append(list, Step{Phase: phase, What: fmt.Sprintf(format, args...), Undo: undo})
	}
	const destroyIncoming = "destroy the incoming key"

	if gate := c.Approvals.Signoff; gate != nil && gate.Count > 0 && (plan.Resume == nil || !plan.Resume.IsCurrent()) {
		add("signoff", "nothing to undo", "wait for %s", approvers(*gate))
	}
	if len(plan.TakeBack) > 0 {
		add("issue", "", "deliver the current key to %s again, left by a rotation that did not end", listed(plan.TakeBack))
	}
	for _, k := range plan.Discard {
		add("issue", "", "destroy key %s, which was minted for a rotation that did not end, once it is quiet", k.KeyID)
	}
	switch r := plan.Resume; {
	case r == nil:
		add("issue", destroyIncoming, "mint a key for %s and store it as PENDING", strings.Join(principals(f, plan), ", "))
		add("issue", destroyIncoming, "try the incoming key: issuer self-test where there is one, %s", Counted(len(c.Verify), "smoke test"))
	case r.IsCurrent():
		add("promote", moving(plan), "go on with rotation %s, which did not end: its key %s is CURRENT", r.Rotation, r.Incoming.KeyID)
	default:
		add("issue", destroyIncoming, "go on with rotation %s, which did not end: its key %s is minted, stored as PENDING and works", r.Rotation, r.Incoming.KeyID)
	}
	promoted := plan.Resume != nil && plan.Resume.IsCurrent()
	promote := func() {
		add("promote", moving(plan), "move CURRENT to the incoming key; PREVIOUS keeps the retiring one")
		promoted = true
	}
	for _, w := range plan.Waves {
		if plan.Passed(w) { // by the rotation that it goes on with
			continue
		}
		if w.ByPromotion && !promoted { // they read CURRENT: it moves before them, and after all others
			promote()
		}
		verb := "deliver to"
		if w.ByPromotion {
			verb = "wait for the own reads of"
		}
		add("deliver", redelivery(plan), "wave %s: %s %s; every instance attests it; watch for %s%s",
			w.Name, verb, listed(w.Instances), w.Soak, traffic(c))
		takes += w.Soak
	}
	if !promoted {
		promote()
	}
	if plan.Retiring == nil {
		add("record", "", "no key to revoke: this is the credential's first")
		return list, takes
	}
	caches := ""
	if ttl := c.LongestCache(); ttl > 0 {
		caches = fmt.Sprintf("caches run out within %s; then ", ttl)
		takes += ttl
	}
	add("overlap", redelivery(plan), "%sboth keys are accepted for %s; then until the retiring key was quiet for %s", caches, c.Overlap, c.QuietWindow)
	takes += max(c.Overlap, c.QuietWindow)
	if gate := Needs(c, inventory.GateRevoke, f.unseen(c, plan.Retiring.KeyID)); gate != nil && gate.Count > 0 {
		add("revoke-gate", redelivery(plan), "wait for %s", approvers(*gate))
	}
	if plan.CanDisable {
		add("disable", "enable the retiring key again", "disable %s and watch for %s", plan.Retiring.KeyID, c.DisableSoak)
		takes += c.DisableSoak
	}
	add("revoke", "", "destroy %s, and see that it is refused", plan.Retiring.KeyID)
	add("record", "", "prune its stored version, set rotate-by, write the audit record, tell %s", c.Owner)
	return list, takes
}

// traffic is what a soak that an error budget guards waits for beside time.
func traffic(c inventory.Credential) string {
	b := c.ErrorBudget
	if b == nil || b.MinTotal == 0 {
		return ""
	}
	then := "go on without"
	if gate := c.Approvals.For(inventory.GateHold); gate != nil && gate.Count > 0 {
		then = "wait for " + approvers(*gate) + " at the hold gate"
	}
	return fmt.Sprintf(", and until there were %s; when there were too few for %s, %s", Counted(b.MinTotal, "request"), cmp.Or(b.MaxHold, inventory.DefaultMaxHold), then)
}

// redelivery and moving take back what brought the incoming key to consumers: by nothing, where there is no way back.
func redelivery(plan Plan) string {
	if !plan.CanRollBack {
		return ""
	}
	return "redeliver the retiring key"
}

func moving(plan Plan) string {
	if !plan.CanRollBack {
		return ""
	}
	return "move the labels back"
}

func approvers(a inventory.Approval) string {
	who := "anybody"
	if len(a.From) > 0 {
		who = strings.Join(a.From, " or ")
	}
	return Counted(a.Count, "approval") + " from " + who
}

func principals(f Facts, plan Plan) []string {
	if plan.Retiring != nil {
		return []string{plan.Retiring.Principal}
	}
	if len(f.Keys) > 0 {
		return []string{f.Keys[0].Principal}
	}
	return []string{"the principal"}
}
