package activities

import (
	"context"
	"slices"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/keyturn/keyturn/internal/policy"
)

// ProgressName is the signal by which a delivery that takes long tells its run how far it is: a Progress.
const ProgressName = "delivery-progress"

// WaveBack is the name of the wave by which a rollback delivers. How far that is nobody is told, since a rollback shows no waves.
const WaveBack = "rollback"

// Progress is how far a delivery is, for people who look at the run. Anybody may send one, and nothing rests on it.
type Progress struct {
	// KeyID is that of the key that is delivered, Wave the name of the wave.
	KeyID string `json:"keyId"`
	Wave  string `json:"wave"`
	// Result is what would be the result of the delivery if it ended now.
	Result WaveResult `json:"result"`
}

// Tell tells the run of the activity, by a signal, how far its delivery is.
func Tell(ctx context.Context, p Progress) error {
	run := activity.GetInfo(ctx).WorkflowExecution
	return activity.GetClient(ctx).SignalWorkflow(ctx, run.ID, run.RunID, ProgressName, p)
}

// tellAfter is how long an attempt to deliver takes before it tells its run how far it is. It does so again after twice that, and so on:
// each costs the history four events.
const tellAfter = 30 * time.Second

// tell tells the run how far the wave is, when that is due. Where nobody hears it, the next one tells.
func (c *convergence) tell(ctx context.Context) {
	if c.Tell == nil || c.in.Wave == WaveBack || c.Now().Sub(c.began) < c.due {
		return
	}
	c.due *= 2
	c.mu.Lock()
	seen := slices.Clone(c.latest)
	c.mu.Unlock()
	p := Progress{KeyID: c.in.Key.KeyID, Wave: c.in.Wave, Result: stragglers(policy.Decision{}, slices.DeleteFunc(seen, c.in.converged))}
	ctx, cancel := context.WithTimeout(ctx, heartbeatEvery)
	defer cancel()
	_ = c.Tell(ctx, p)
}
