package workflows

import (
	"fmt"
	"slices"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/outside"
	"github.com/keyturn/keyturn/internal/policy"
)

// maxBehind bounds how many instances a wave names that are not where they should be, and maxWhy, in bytes, why one is not.
const (
	maxBehind = 10
	maxWhy    = 200
)

// progress shows how far the delivery is that is going on. It is for people alone: anybody may have sent it.
func (r *rotation) progress(p activities.Progress) {
	i := slices.IndexFunc(r.Status.Waves, func(w WaveStatus) bool { return w.Name == p.Wave && w.State == waveDelivering })
	if i < 0 || p.KeyID != r.Status.Incoming.KeyID {
		return // of a delivery that is over
	}
	w := &r.Status.Waves[i]
	p.Result.Stragglers = p.Result.Stragglers[:min(len(p.Result.Stragglers), len(w.Instances), 2*maxBehind)]
	p.Result.More = min(max(p.Result.More, 0), len(w.Instances)-len(p.Result.Stragglers))
	w.heard(p.Result, r.there)
	w.SeenAt = workflow.Now(r.ctx)
	r.refresh()
}

// there tells whether an instance is where a delivery of the incoming key brings it: well, too, but in an emergency.
func (r *rotation) there(one policy.Instance) policy.Decision {
	if r.in.Emergency != nil {
		return policy.IsBack([]policy.Instance{one}, r.Status.Incoming)
	}
	return policy.MayDeliverNext([]policy.Instance{one}, r.Status.Incoming)
}

// heard notes what a delivery found of the instances of a wave.
func (w *WaveStatus) heard(result activities.WaveResult, judge func(policy.Instance) policy.Decision) {
	w.Behind, w.More, w.SeenAt = nil, 0, time.Time{}
	w.Attested = len(w.Instances) - len(result.Stragglers) - result.More
	for _, i := range result.Stragglers {
		if d := judge(i); !d.OK {
			w.Behind = append(w.Behind, outside.Lines(d.Message, maxWhy))
		}
	}
	if n := len(w.Behind) - maxBehind; n > 0 {
		w.Behind, w.More = w.Behind[:maxBehind], n
	}
	w.More += result.More
}

// Progress says how far the instances of a wave are, and how much of the error budget was used when it had soaked.
func (w WaveStatus) Progress() string {
	text := w.State
	switch known := w.Attested > 0 || len(w.Behind) > 0; {
	case w.State == waveWaiting:
		text += ": not delivered to yet"
	case w.State == waveDelivering && !w.SeenAt.IsZero():
		text += fmt.Sprintf(": %d of %d attest the incoming key, and are well, as of %s", w.Attested, len(w.Instances), w.SeenAt.UTC().Format(time.TimeOnly))
	case w.State == waveDelivering:
		text += ": each instance is to attest the incoming key, and to pass its check"
	case w.State == waveTurnedBack:
		text += ": back on the retiring key"
	case w.State == waveFailed && !known:
		text += ": which instances have the incoming key is not known"
	default:
		text += fmt.Sprintf(": %d of %d attested the incoming key, and were well", w.Attested, len(w.Instances))
	}
	if w.Budget != "" {
		text += "; " + w.Budget
	}
	return text
}

// Missing names the instances of a wave that did not get where they should be, and why.
func (w WaveStatus) Missing() []string {
	missing := slices.Clone(w.Behind)
	if w.More > 0 {
		missing = append(missing, fmt.Sprintf("and %d more", w.More))
	}
	return missing
}

// budget says how many requests may fail, and what becomes of the rotation when more do; empty where nothing counts them.
func (r *rotation) budget() string {
	b := r.credential.ErrorBudget
	if b == nil || r.in.Emergency != nil || r.Status.Ends != "" {
		return ""
	}
	then := "it turns back"
	if b.OnBreach == inventory.BreachPause {
		then = "it pauses"
	}
	return fmt.Sprintf("at most %.2f%% of the requests in %s may fail, where there are %d or more, or %s", 100*b.Ratio, b.Window, b.MinTotal, then)
}

// takes says how long that takes which is going on, by what bounds it in the run itself; empty where a timer ends it, or where nothing is
// known that bounds it.
func (r *rotation) takes(now time.Time) string {
	const noLimit = "there is no time limit"
	tried := func(o step) string {
		return fmt.Sprintf("moments as a rule; where it fails, it is tried again for about %s", inventory.Duration(o.total))
	}
	c, quiet := r.credential, r.credential.QuietWindow
	switch {
	case r.over() || r.in.Emergency != nil || !r.Status.Until.IsZero():
		return ""
	case r.pausing && c.ErrorBudget != nil:
		return fmt.Sprintf("until all was well for %s; %s", c.ErrorBudget.Window, noLimit)
	case r.pausing || r.Status.Gate != nil:
		return noLimit
	}
	switch r.Status.Phase {
	case PhaseInspect:
		return "moments as a rule; where nobody answers, it is asked again until somebody does"
	case PhaseIssue:
		return tried(issuing(c))
	case PhaseDeliver:
		return fmt.Sprintf("until %s at the latest, while a worker runs: the wave has %s", r.Status.Since.Add(c.WaveTimeout.Std()).UTC().Format(time.RFC3339), c.WaveTimeout)
	case PhasePromote:
		return tried(promoting)
	case PhaseEvidence:
		e := r.Status.Evidence
		if e == nil {
			return "moments as a rule, and until the retiring key was quiet for " + quiet.String()
		}
		if ends := e.QuietSince.Add(quiet.Std()); !e.QuietSince.IsZero() && ends.After(now) {
			return fmt.Sprintf("not before %s: until then the retiring key has to be quiet; %s", ends.UTC().Format(time.RFC3339), noLimit)
		}
		return noLimit
	case PhaseDisable:
		return tried(disabling)
	case PhaseRevoke:
		return fmt.Sprintf("moments as a rule; where it fails, it is tried again for %s, and what is not proved then is debt", inventory.Duration(destroyingLasts))
	case PhaseRollback:
		return fmt.Sprintf("until each instance attests the retiring key, and the incoming one was quiet for %s; %s", quiet, noLimit)
	case PhaseRecord:
		return tried(recording)
	}
	return ""
}

// soonest is before when the rotation cannot end, by the waits that are left: people and evidence may take longer. It is zero where that
// is not known.
func (r *rotation) soonest(now time.Time) time.Time {
	if r.over() || r.in.Emergency != nil || r.Status.Ends != "" || r.Status.Phase == PhaseInspect || r.rollingBack() || r.turned() != nil {
		return time.Time{}
	}
	end := now
	for i, w := range r.Plan.Waves {
		switch state := r.Status.Waves[i].State; {
		case state == wavePassed || r.didBefore(partDeliver) && !w.ByPromotion:
		case r.Soak != nil && (state == waveSoaking || state == waveHeld):
			end = latest(end, r.Soak.Since.Add(w.Soak.Std()))
		default:
			end = end.Add(w.Soak.Std())
		}
	}
	if r.Plan.Retiring == nil {
		return end
	}
	if r.OverlapEnds.IsZero() {
		end = r.lastOverlapEnd(end.Add((r.credential.LongestCache() + r.credential.Overlap).Std()))
	}
	end = latest(end, r.OverlapEnds)
	switch phase := r.Status.Phase; {
	case !r.Plan.CanDisable || phase == PhaseRevoke || phase == PhaseRecord:
		return end
	case phase == PhaseDisableSoak:
		return latest(end, r.Status.Until)
	}
	return end.Add(r.credential.DisableSoak.Std())
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// foresee adds to what is shown how long it takes yet, and what is allowed to fail meanwhile.
func (r *rotation) foresee(s *Status) {
	now := workflow.Now(r.ctx)
	s.Takes, s.Soonest, s.Budget = r.takes(now), r.soonest(now), r.budget()
}
