package activities

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
)

// WaveInput asks to bring a key to some instances.
type WaveInput struct {
	Rotation
	// Key is the incoming one, or in a rollback the retiring one.
	Key key.Ref `json:"key"`
	// Wave names the wave, for people.
	Wave string `json:"wave"`
	// Instances are "consumer" or "consumer/instance"; all of the credential when empty.
	Instances []string `json:"instances,omitempty"`
	// Deadline is when instances that have not converged are given up.
	Deadline time.Time `json:"deadline"`
}

// WaveResult is how far a wave came.
type WaveResult struct {
	Decision policy.Decision `json:"decision"`
	// Stragglers are the instances that did not converge.
	Stragglers []policy.Instance `json:"stragglers,omitempty"`
}

// DeliverWave brings the key to every instance of a wave at once, and waits until each attests it
// and, but in a rollback, passes its check. One bad instance does not hide the others. Instances that pull are only waited for.
// Called again it redelivers, which disturbs nobody who has the key. Not to have converged by the
// deadline is an answer, not an error.
func (a *Activities) DeliverWave(ctx context.Context, in WaveInput) (WaveResult, error) {
	s, err := a.openForEffect(ctx, in.Rotation)
	if err != nil {
		return WaveResult{}, forTemporal(err)
	}
	result, err := a.deliverWave(ctx, s, in)
	if err != nil {
		return WaveResult{}, forTemporal(fmt.Errorf("delivering key %s of %q to wave %s: %w", in.Key.KeyID, s.spec.Credential.Name, in.Wave, err))
	}
	return result, nil
}

func (a *Activities) deliverWave(ctx context.Context, s *site, in WaveInput) (WaveResult, error) {
	bundle, err := s.store.Read(ctx, in.Key.StoreVersion)
	if err != nil {
		return WaveResult{}, fmt.Errorf("reading version %s: %w", in.Key.StoreVersion, err)
	}
	defer bundle.Close()
	id, _, err := s.identify(ctx, bundle)
	if err != nil {
		return WaveResult{}, err
	}
	if id != in.Key.KeyID {
		return WaveResult{}, fmt.Errorf("%w: version %s does not hold live key %s", ErrSpec, in.Key.StoreVersion, in.Key.KeyID)
	}
	if err := a.markDelivered(ctx, s, in.Key); err != nil {
		return WaveResult{}, err
	}
	begun := a.event(ctx, in.Rotation, s, audit.KeyDelivered, in.Wave+"/"+in.Key.KeyID, map[string]string{"wave": in.Wave, "key": in.Key.KeyID, "instances": strings.Join(in.Instances, ", ")})
	if err := a.Audit.Append(ctx, begun); err != nil {
		return WaveResult{}, err
	}
	ctx, cancel := context.WithDeadline(ctx, time.Now().Add(in.Deadline.Sub(a.Now())))
	defer cancel()
	beat, stop := a.heartbeat(ctx)
	defer stop()

	var mu sync.Mutex
	var seen []policy.Instance
	var deliveries fanOut
	for _, c := range s.consumers {
		for _, name := range c.InstanceNames() {
			if len(in.Instances) > 0 && !slices.Contains(in.Instances, policy.InstanceName(c.Name, name)) {
				continue
			}
			deliveries.do(func() {
				last := a.converge(beat, s, c, name, in, bundle)
				mu.Lock()
				defer mu.Unlock()
				seen = append(seen, last)
			})
		}
	}
	deliveries.wait()
	if cause := context.Cause(beat); cause != nil && !errors.Is(cause, context.DeadlineExceeded) {
		return WaveResult{}, cause // cancelled, or the worker stops: another attempt will tell
	}
	return a.judgeWave(context.WithoutCancel(ctx), s, in, seen)
}

func (a *Activities) judgeWave(ctx context.Context, s *site, in WaveInput, seen []policy.Instance) (WaveResult, error) {
	result := WaveResult{Decision: in.judge(seen)}
	for _, i := range seen {
		if d := in.judge([]policy.Instance{i}); !d.OK {
			result.Stragglers = append(result.Stragglers, i)
		}
	}
	outcome := audit.WavePassed
	if !result.Decision.OK {
		outcome = audit.WaveFailed
	}
	return result, a.Audit.Append(ctx, a.event(ctx, in.Rotation, s, outcome, in.Wave+"/"+in.Key.KeyID,
		map[string]string{"wave": in.Wave, "key": in.Key.KeyID, "decision": result.Decision.Message}))
}

// judge tells whether instances are where they shall be: on the incoming key and well, or, in a rollback,
// on the retiring key, well or not.
func (in WaveInput) judge(instances []policy.Instance) policy.Decision {
	if in.Key == in.Retiring {
		return policy.IsBack(instances, in.Key)
	}
	return policy.MayDeliverNext(instances, in.Key)
}

// converge delivers to one instance and watches it until it attests the key alone and is well, or time
// is over. It returns what was seen last.
func (a *Activities) converge(ctx context.Context, s *site, c consumer, name string, in WaveInput, bundle secret.Bundle) policy.Instance {
	one := c
	one.Instances = []string{name}
	seen := policy.Instance{Consumer: c.Name, Instance: name, Wave: c.wave, Pulls: c.pulls}
	delivered := c.pulls
	for {
		if !delivered {
			err := c.target.Deliver(ctx, providers.Delivery{Instance: name, Key: in.Key, Bundle: bundle})
			if err != nil && ctx.Err() == nil {
				seen.NotAttesting = capText("delivering: " + err.Error())
			}
			if final(err) {
				return seen
			}
			delivered = err == nil
		}
		if delivered {
			// What was seen before the deadline stays: a look that the deadline cut short tells nothing.
			if now := s.instances(ctx, []consumer{one}, []key.Info{{KeyID: in.Retiring.KeyID}, {KeyID: in.Incoming.KeyID}}, false)[0]; ctx.Err() == nil {
				seen = now
			}
			if in.judge([]policy.Instance{seen}).OK {
				return seen
			}
		}
		if wait(ctx, a.PollEvery) != nil {
			return seen
		}
	}
}

// markDelivered notes in the metadata that a key is about to reach consumers: from then on it is
// destroyed only after it was quiet.
func (a *Activities) markDelivered(ctx context.Context, s *site, ref key.Ref) error {
	m, err := s.store.Metadata(ctx)
	if err != nil {
		return fmt.Errorf("reading metadata of the store: %w", err)
	}
	mine := owned(&m, ref)
	if !mine.DeliveredAt.IsZero() {
		return nil
	}
	mine.DeliveredAt = a.Now().UTC()
	if err := s.store.PutMetadata(ctx, m); err != nil {
		return fmt.Errorf("recording the delivery of key %s: %w", ref.KeyID, err)
	}
	return nil
}

// heartbeatEvery is well below the heartbeat time-out of the long activities.
const heartbeatEvery = 5 * time.Second

// heartbeat keeps a long activity alive, and ends the returned context when it is cancelled.
func (a *Activities) heartbeat(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	activity.RecordHeartbeat(ctx)
	go func() {
		for wait(ctx, heartbeatEvery) == nil {
			activity.RecordHeartbeat(ctx)
		}
	}()
	return ctx, cancel
}

// Promote moves CURRENT to the incoming key by compare-and-swap, once every instance that is delivered
// to attests it. Called again it finds that done. A refusal is an answer, not an error.
func (a *Activities) Promote(ctx context.Context, r Rotation) (policy.Decision, error) {
	s, err := a.openForEffect(ctx, r)
	if err != nil {
		return policy.Decision{}, forTemporal(err)
	}
	d, err := a.promote(ctx, s, r)
	if err != nil {
		return policy.Decision{}, forTemporal(fmt.Errorf("promoting key %s of %q: %w", r.Incoming.KeyID, s.spec.Credential.Name, err))
	}
	return d, nil
}

func (a *Activities) promote(ctx context.Context, s *site, r Rotation) (policy.Decision, error) {
	facts, err := s.facts(ctx, true)
	if err != nil {
		return policy.Decision{}, err
	}
	d := policy.MayPromote(facts, r.Retiring, r.Incoming)
	if !d.OK {
		return d, nil
	}
	if err := s.store.Promote(ctx, r.Retiring.StoreVersion, r.Incoming.StoreVersion); err != nil {
		return d, err
	}
	m := facts.Metadata
	mine := owned(&m, r.Incoming)
	if mine.PromotedAt.IsZero() {
		mine.PromotedAt = a.Now().UTC()
	}
	if !r.Retiring.IsZero() {
		// An adopted key becomes ours on record; and that the retiring one was CURRENT is certain now, even
		// if the process that promoted it died before it could write so.
		if before := owned(&m, r.Retiring); before.PromotedAt.IsZero() {
			before.PromotedAt = a.Now().UTC()
		}
	}
	if err := s.store.PutMetadata(ctx, m); err != nil {
		return d, fmt.Errorf("recording the promotion: %w", err)
	}
	return d, a.Audit.Append(ctx, a.event(ctx, r, s, audit.KeyPromoted, r.Incoming.KeyID, nil))
}
