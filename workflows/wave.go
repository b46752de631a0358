package workflows

import (
	"fmt"
	"strings"

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
	for i, w := range r.plan.Waves {
		if !w.ByPromotion && r.status.Waves[i].State != wavePassed {
			if err := r.wave(i, w); err != nil {
				return err
			}
		}
	}
	return nil
}

// follow waits for the consumers that read CURRENT by themselves.
func (r *rotation) follow() error {
	for i, w := range r.plan.Waves {
		if w.ByPromotion && r.status.Waves[i].State != wavePassed {
			if err := r.wave(i, w); err != nil {
				return err
			}
		}
	}
	return nil
}

// wave delivers to one wave and watches it.
func (r *rotation) wave(i int, w policy.Wave) error {
	r.enter(PhaseDeliver, fmt.Sprintf("Delivering the incoming key to wave %s (%d of %d).", w.Name, i+1, len(r.plan.Waves)))
	r.delivered = true
	r.status.NoWayBack = r.onlyForward()
	r.status.Waves[i].State = waveDelivering
	r.waitFor("every instance of wave "+w.Name+" to attest the incoming key and to pass its check", "whoever runs these instances; or: rollback")
	input := activities.WaveInput{Rotation: *r.acting(), Key: r.status.Incoming, Wave: w.Name, Instances: w.Instances}
	var result activities.WaveResult
	if err := r.step(delivering(r.credential, w.Name), act.DeliverWave, &input, &result); err != nil {
		r.status.Waves[i].State = waveFailed
		return err
	}
	if !result.Decision.OK {
		r.status.Waves[i].State = waveFailed
		return turnedBack(result.Decision.Reason, "wave %s did not converge within %s: %s", w.Name, r.credential.WaveTimeout, result.Decision.Message)
	}
	r.status.Waves[i].State = waveSoaking
	if err := r.soak(i, w, result.Signals); err != nil {
		r.status.Waves[i].State = waveFailed
		return err
	}
	r.status.Waves[i].State = wavePassed
	r.note("wave %s passed: %s on key %s", w.Name, strings.Join(w.Instances, ", "), r.status.Incoming.KeyID)
	return nil
}
