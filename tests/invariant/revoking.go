package invariant

import (
	"time"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/workflows"
)

// revokings calls with each event that takes the retiring key away: its disabling, or its destroying by an issuer
// that cannot disable.
func (s Seen) revokings(judge func(n int, e Event)) {
	for n, e := range s.Events {
		if e.Key == s.Before.Current && e.Key != "" && !e.Theirs && (e.Kind == Disabled || e.Kind == Destroyed && !s.Policy.CanDisable) {
			judge(n, e)
		}
	}
}

func converged(s Seen, wrong wrongFunc) {
	s.revokings(func(n int, e Event) {
		for _, i := range s.Before.Instances {
			if holds := s.holding(i, n); holds != s.current(n) {
				wrong("key %s was %s at %s, while %s used key %s and CURRENT was %s", e.Key, e.Kind, clock(e.At), i.Name, holds, s.current(n))
			}
		}
	})
}

func quiet(s Seen, wrong wrongFunc) {
	s.revokings(func(_ int, e Event) {
		until := e.At.Add(-s.Policy.Lag - s.Policy.Slack)
		since := e.At.Add(-s.Policy.Lag - s.Policy.Quiet + s.Policy.Slack)
		for _, u := range s.happened(Used) {
			if u.Key == e.Key && s.Policy.Quiet > 0 && u.At.After(since) && u.At.Before(until) {
				wrong("key %s was %s at %s, and had been used at %s, within its quiet window", e.Key, e.Kind, clock(e.At), clock(u.At))
				return
			}
		}
	})
}

func overlapped(s Seen, wrong wrongFunc) {
	s.revokings(func(n int, e Event) {
		promoted := time.Time{}
		for _, p := range s.Events[:n] {
			if p.Kind == Promoted {
				promoted = p.At
			}
		}
		switch {
		case promoted.IsZero():
			wrong("key %s was %s at %s, before another was CURRENT", e.Key, e.Kind, clock(e.At))
		case e.At.Sub(promoted) < s.Policy.Overlap-s.Policy.Slack:
			wrong("key %s was %s %s after another became CURRENT, and the overlap is %s", e.Key, e.Kind, e.At.Sub(promoted), s.Policy.Overlap)
		}
	})
}

func soaked(s Seen, wrong wrongFunc) {
	if !s.Policy.CanDisable {
		return
	}
	disabled := time.Time{}
	for _, e := range s.Events {
		switch {
		case e.Key != s.Before.Current || e.Key == "":
		case e.Kind == Destroyed && e.Theirs:
		case e.Kind == Disabled:
			disabled = e.At
		case e.Kind == Enabled:
			disabled = time.Time{}
		case e.Kind == Destroyed && disabled.IsZero():
			wrong("key %s was destroyed at %s without having been disabled", e.Key, clock(e.At))
		case e.Kind == Destroyed && e.At.Sub(disabled) < s.Policy.DisableSoak-s.Policy.Slack:
			wrong("key %s was destroyed %s after it was disabled, and the soak is %s", e.Key, e.At.Sub(disabled), s.Policy.DisableSoak)
		}
	}
}

// approved counts for each revoking the people who approved since its gate opened, and not for an earlier one.
func approved(s Seen, wrong wrongFunc) {
	if s.Policy.Approvals == 0 {
		return
	}
	before := time.Time{}
	s.revokings(func(_ int, e Event) {
		since := before
		for _, opened := range s.Trail.Events {
			if opened.Type == audit.GateOpened && opened.Detail["gate"] == string(inventory.GateRevoke) && opened.Time.After(since) && !opened.Time.After(e.At) {
				since = opened.Time
			}
		}
		people := map[string]bool{}
		for _, v := range s.verdicts() {
			if v.Accepted && v.Action == policy.Approve && v.Gate == inventory.GateRevoke && v.At.After(before) && !v.At.Before(since) && !v.At.After(e.At) {
				people[v.By] = true
			}
		}
		if len(people) < s.Policy.Approvals {
			wrong("key %s was %s at %s with %d approvals of its own, and the gate asks for %d", e.Key, e.Kind, clock(e.At), len(people), s.Policy.Approvals)
		}
		before = e.At
	})
}

// verdicts are what people decided, by the report, or by the gate that is open.
func (s Seen) verdicts() []policy.Verdict {
	switch {
	case s.Report != nil:
		return s.Report.Verdicts
	case s.Status != nil && s.Status.Gate != nil:
		return s.Status.Gate.Approvals
	}
	return nil
}

// rejected sees that nothing follows from a gate that somebody rejected.
func rejected(s Seen, wrong wrongFunc) {
	for _, v := range s.accepted(policy.Reject) {
		if s.completed() {
			wrong("%s rejected the %s gate, and the run ended as %s", v.By, v.Gate, s.outcome())
		}
		for _, e := range s.Events {
			later := s.told(Times) && e.At.After(v.At)
			switch {
			case v.Gate == inventory.GateSignoff && e.Kind == Issued,
				v.Gate == inventory.GateRevoke && e.Key == s.Before.Current && (e.Kind == Destroyed || e.Kind == Disabled && later):
				wrong("%s rejected the %s gate, and key %s was %s at %s", v.By, v.Gate, e.Key, e.Kind, clock(e.At))
			}
		}
	}
}

// carriedOut sees that a rotation turns back when it said so. It does not say so any more once the retiring key is being
// destroyed.
func carriedOut(s Seen, wrong wrongFunc) {
	if s.outcome() == workflows.Superseded {
		return // an exposed key is not brought back
	}
	for _, v := range s.accepted(policy.Rollback) {
		if s.completed() {
			wrong("the rollback that %s asked for was accepted, and the run ended as %s", v.Person(), s.outcome())
		}
		for _, e := range s.happened(Destroyed) {
			if e.Key == s.Before.Current && !e.Theirs {
				wrong("the rollback that %s asked for was accepted, and the retiring key %s was destroyed at %s", v.Person(), e.Key, clock(e.At))
			}
		}
	}
}
