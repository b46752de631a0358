package workflows

import (
	"errors"
	"fmt"
	"strings"

	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/policy"
)

// The states of a wave.
const (
	waveWaiting    = "waiting"
	waveDelivering = "delivering"
	waveSoaking    = "soaking"
	waveHeld       = "held" // past its soak, for want of requests
	wavePassed     = "passed"
	waveFailed     = "failed"
	waveTurnedBack = "turned-back"
)

// deliver brings the incoming key to the consumers, wave by wave, the canary first.
func (r *rotation) deliver() error {
	r.startWatch()
	if err := r.awaitUnpromoted(); err != nil { // another slot, where the run before had one
		return err
	}
	for i, w := range r.Plan.Waves {
		if !w.ByPromotion && r.Status.Waves[i].State != wavePassed {
			if err := r.wave(i, w); err != nil {
				return err
			}
		}
	}
	return nil
}

// follow waits for the consumers that read CURRENT by themselves.
func (r *rotation) follow() error {
	for i, w := range r.Plan.Waves {
		if w.ByPromotion && r.Status.Waves[i].State != wavePassed {
			if err := r.wave(i, w); err != nil {
				return err
			}
		}
	}
	return nil
}

// wave delivers to one wave and watches it. One that the run before has delivered to is watched on.
func (r *rotation) wave(i int, w policy.Wave) error {
	r.enter(PhaseDeliver, fmt.Sprintf("Delivering the incoming key to wave %s (%d of %d).", w.Name, i+1, len(r.Plan.Waves)))
	var err error
	if r.Soak == nil { // else the run before delivered to it
		err = r.deliverTo(i, w)
	}
	if err == nil {
		err = r.soak(i, w)
	}
	switch {
	case errors.Is(err, errFull): // the next run goes on with the wave as it stands
		return err
	case err != nil:
		r.Status.Waves[i].State = waveFailed
	default:
		r.Status.Waves[i].State = wavePassed
		r.note("wave %s passed: %s on key %s", w.Name, strings.Join(w.Instances, ", "), r.Status.Incoming.KeyID)
	}
	r.Soak = nil
	return err
}

// deliverTo brings the incoming key to one wave. It has converged when that ends well, and soaks.
func (r *rotation) deliverTo(i int, w policy.Wave) error {
	r.Status.Waves[i].State = waveDelivering
	r.waitFor("every instance of wave "+w.Name+" to attest the incoming key and to pass its check", "whoever runs these instances"+orRollback)
	input := activities.WaveInput{Rotation: *r.acting(), Key: r.Status.Incoming, Wave: w.Name, Instances: w.Instances}
	var result activities.WaveResult
	if err := r.step(delivering(r.credential, w.Name), act.DeliverWave, &input, &result); err != nil {
		return err
	}
	r.Status.Waves[i].heard(result, r.there)
	if !result.Decision.OK {
		return turnedBack(result.Decision.Reason, "wave %s did not converge within %s: %s", w.Name, r.credential.WaveTimeout, result.Decision.Message)
	}
	r.Status.Waves[i].State, r.Soak = waveSoaking, &Soak{Since: workflow.Now(r.ctx), Signals: result.Signals}
	return nil
}
