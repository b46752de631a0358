package workflows

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
)

// soak watches a wave that has the incoming key. Where an error budget guards that, the wave is held until there were as many
// requests as the budget needs to say something, or until people let it go on without. Waves that were delivered to before that
// was so have no signals to count from, and are not held.
func (r *rotation) soak(i int, w policy.Wave) error {
	end := r.Soak.Since.Add(w.Soak.Std())
	r.waitFor("the wave's soak", "time"+orRollback)
	if err := r.wait("soak of wave "+w.Name, func() time.Time { return end }, nil); err != nil || len(r.Soak.Signals) == 0 {
		return err
	}
	if r.Soak.Held.IsZero() {
		var had policy.Decision
		err := counting.start(r.ctx, r.Queue, act.HadTraffic, activities.TrafficInput{Rotation: *r.subject(), Signals: r.Soak.Signals}).Get(r.ctx, &had)
		r.Status.Waves[i].Budget = clip(had.Message)
		if err == nil && had.OK {
			return nil
		}
		r.Status.Waves[i].State, r.Soak.Held = waveHeld, workflow.Now(r.ctx)
		r.note("held: %s", tooFew(w, r.credential.ErrorBudget))
	}
	return r.holdForTraffic(i, w)
}

// tooFew is why a wave is held.
func tooFew(w policy.Wave, b *inventory.ErrorBudget) string {
	return fmt.Sprintf("wave %s had fewer than %s, which the error budget needs to say something", w.Name, policy.Counted(b.MinTotal, "request"))
}

// holdForTraffic waits past the soak. After the longest hold it asks people, until they decide or there were enough requests.
func (r *rotation) holdForTraffic(i int, w policy.Wave) error {
	b := r.credential.ErrorBudget
	until := r.Soak.Held.Add(cmp.Or(b.MaxHold, inventory.DefaultMaxHold).Std())
	why := tooFew(w, b)
	enough, stop := r.awaitTraffic()
	defer stop()
	for !enough() {
		r.enter(PhaseDeliver, "Held: "+why+".")
		r.waitFor(fmt.Sprintf("%s in %s", policy.Counted(b.MinTotal, "request"), b.Window), "traffic; when there is too little, whoever passes the hold gate, which opens then"+orRollback)
		if err := r.wait("requests for the error budget", func() time.Time { return until }, enough); err != nil {
			return err
		}
		if enough() {
			break
		}
		// Which wave is meant is what a decision is bound to.
		_, err := r.openGate(inventory.GateHold, PhaseDeliver, fmt.Sprintf("Waiting for approval to go on without an error budget: %s.", why), "wave "+w.Name, false, enough)
		if errors.Is(err, errGateExpired) {
			continue
		}
		if err == nil && !enough() {
			r.Status.Waves[i].Budget = "it went on without an error budget, as people decided"
			r.note("going on after wave %s without an error budget", w.Name)
		}
		return err
	}
	r.Status.Waves[i].Budget = fmt.Sprintf("%d requests or more came while it was held", b.MinTotal)
	r.note("the health signals have had enough requests")
	return nil
}

// awaitTraffic looks for the requests that an error budget needs until there were enough, or it is stopped.
func (r *rotation) awaitTraffic() (enough func() bool, stop func()) {
	had := false
	ctx, cancel := workflow.WithCancel(r.ctx)
	workflow.Go(ctx, func(ctx workflow.Context) {
		had = awaitingTraffic(r.credential).start(ctx, r.Queue, act.AwaitTraffic, r.subject()).Get(ctx, nil) == nil
	})
	return func() bool { return had }, cancel
}
