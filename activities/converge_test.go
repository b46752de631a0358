package activities_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/memory"
)

// aWave is a case with one consumer of n instances; more are further lines of the consumer, terms of the credential.
func aWave(t *testing.T, n int, more, terms string, bend func(*providers.Descriptor)) (*crashCase, []string) {
	t.Helper()
	var names []string
	for i := range n {
		names = append(names, fmt.Sprintf("web-i%d", i))
	}
	c := newCaseOf(t, waveInventory(n, more, terms), names, bend)
	c.run("Issue")
	return c, names
}

func waveInventory(n int, more, terms string) string {
	var short []string
	for i := range n {
		short = append(short, fmt.Sprintf("i%d", i))
	}
	text := caseInventory[:strings.Index(caseInventory, "    consumers:")] + "    consumers:\n      - name: web\n        instances: [" + strings.Join(short, ", ") + "]\n" +
		`        target: {type: memory, instance: "web-{instance}"}
        check: {type: memory, instance: "web-{instance}"}
        attestation: {type: memory, instance: "web-{instance}"}
` + more
	return strings.Replace(text, "    overlap: 1h\n", "    overlap: 1h\n"+terms, 1)
}

const withHook = `        purge: {type: memory, instance: "web-{instance}"}
`

func (c *crashCase) wave() activities.WaveInput {
	return activities.WaveInput{Rotation: c.subject(), Key: c.incoming, Wave: "all"}
}

func (c *crashCase) deliver(in activities.WaveInput) (result activities.WaveResult) {
	c.t.Helper()
	require.NoError(c.t, c.attempt("DeliverWave", in, &result, 5))
	return result
}

// looksOnce lets the time of a wave be over, by the clock of the case, once somebody was given the key: all are looked at once.
func (c *crashCase) looksOnce() {
	c.world.On(memory.OpDeliver, func(phase memory.Phase) {
		if phase == memory.After {
			c.wait(wavesLast)
		}
	})
}

// endsWave returns a hook that lets the time of the wave be over, by the clock of the case, once op was tried on each of
// failing, and each of well was checked. It closes all then.
func (c *crashCase) endsWave(failing []string, op memory.Op, well []string, all chan struct{}) func(memory.Call) {
	var mu sync.Mutex
	awaited := map[memory.Call]bool{}
	for _, name := range failing {
		awaited[memory.Call{Op: op, Phase: memory.Before, Instance: name}] = true
	}
	for _, name := range well {
		awaited[memory.Call{Op: memory.OpCheck, Phase: memory.After, Instance: name}] = true
	}
	return func(call memory.Call) {
		mu.Lock()
		defer mu.Unlock()
		if !awaited[call] {
			return
		}
		delete(awaited, call)
		if len(awaited) == 0 {
			c.wait(wavesLast)
			close(all)
		}
	}
}

// calls counts the calls of operations on each instance, by attempt.
type calls struct {
	mu    sync.Mutex
	count map[string]int
}

func (n *calls) add(attempt int32, c memory.Call) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.count == nil {
		n.count = map[string]int{}
	}
	n.count[fmt.Sprintf("%d %s %s %s", attempt, c.Phase, c.Op, c.Instance)]++
}

func (n *calls) of(attempt int32, op memory.Op, phase memory.Phase, instance string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.count[fmt.Sprintf("%d %s %s %s", attempt, phase, op, instance)]
}

// The process dies at each moment of each instance, and takes all that it does at once with it. The attempt that follows
// delivers to nobody again who had converged, and has a statement of everybody.
func TestADeliveryGoesOnAtTheInstanceWhereItStopped(t *testing.T) {
	t.Parallel()
	for _, parallel := range []int{1, 4} {
		for _, op := range []memory.Op{memory.OpDeliver, memory.OpPurge, memory.OpAttest, memory.OpCheck} {
			for _, phase := range []memory.Phase{memory.Before, memory.After} {
				for _, victim := range []int{0, 2, 5} {
					t.Run(fmt.Sprintf("it dies %s %s of instance %d, with %d at once", phase, op, victim, parallel), func(t *testing.T) {
						t.Parallel()
						c, names := aWave(t, 6, withHook, fmt.Sprintf("    waveParallel: %d\n", parallel), nil)
						var seen calls
						var dead atomic.Bool
						c.world.Befall(func(ctx context.Context, call memory.Call) error {
							attempt := activity.GetInfo(ctx).Attempt
							if attempt == 1 && (dead.Load() || call == memory.Call{Op: op, Phase: phase, Instance: names[victim]}) {
								dead.Store(true)
								panic("the process dies")
							}
							seen.add(attempt, call)
							return nil
						})
						result := c.deliver(c.wave())
						require.True(t, result.Decision.OK, result.Decision.Message)
						assert.True(t, dead.Load())
						again := 0
						for _, name := range names {
							assert.Equal(t, c.incoming.KeyID, c.world.Using(name))
							assert.Equal(t, 1, seen.of(2, memory.OpAttest, memory.After, name), "%s is seen by the attempt that judges", name)
							had := seen.of(1, memory.OpCheck, memory.After, name)
							if parallel == 1 && had == 1 {
								assert.Zero(t, seen.of(2, memory.OpDeliver, memory.Before, name), "%s had converged", name)
								assert.Zero(t, seen.of(2, memory.OpPurge, memory.Before, name), "%s had converged", name)
							} else if had == 0 {
								assert.Equal(t, 1, seen.of(2, memory.OpPurge, memory.After, name), "%s had not converged", name)
							}
							again += seen.of(2, memory.OpDeliver, memory.After, name)
						}
						assert.Positive(t, again)
					})
				}
			}
		}
	}
}

func TestWhoLostTheKeySinceGetsItAgain(t *testing.T) {
	t.Parallel()
	c, names := aWave(t, 3, "", "    waveParallel: 1\n", nil)
	old, _ := c.world.Held(names[0])
	var done atomic.Int32
	var lost atomic.Value
	c.world.Befall(func(ctx context.Context, call memory.Call) error {
		if activity.GetInfo(ctx).Attempt == 1 && call.Op == memory.OpDeliver && call.Phase == memory.Before && done.Load() > 0 {
			// The second one is about to get it; the first, which had converged, is restored from a snapshot.
			for _, name := range names {
				if lost.Load() == nil && c.world.Using(name) == c.incoming.KeyID {
					c.world.Give(name, old)
					lost.Store(name)
				}
			}
			panic("the process dies")
		}
		if call.Op == memory.OpCheck && call.Phase == memory.After && call.Instance != "" { // of an instance, no smoke test
			done.Add(1)
		}
		return nil
	})
	result := c.deliver(c.wave())
	require.True(t, result.Decision.OK, result.Decision.Message)
	require.NotNil(t, lost.Load())
	for _, name := range names {
		assert.Equal(t, c.incoming.KeyID, c.world.Using(name), "memory alone converges nobody")
	}
}

// A cache may take the old value again, from a store that still tells it, before anybody has seen the key in use.
func TestWhoTookTheOldKeyAgainGetsTheKeyAgain(t *testing.T) {
	t.Parallel()
	c, names := aWave(t, 2, withHook, "", nil)
	old, _ := c.world.Held(names[0])
	var purged atomic.Int32
	c.world.Befall(func(_ context.Context, call memory.Call) error {
		if call.Op == memory.OpPurge && call.Phase == memory.After && call.Instance == names[0] && purged.Add(1) <= 2 {
			c.world.Give(names[0], old)
		}
		return nil
	})
	result := c.deliver(c.wave())
	require.True(t, result.Decision.OK, result.Decision.Message)
	assert.Equal(t, c.incoming.KeyID, c.world.Using(names[0]))
	assert.Equal(t, int32(3), purged.Load())
	assert.Equal(t, 1, c.world.Purged(names[1]), "who states the key is not disturbed again")
}

// It is not purged at each look.
func TestWhoNeverStatesTheKeyIsGivenItAFewTimes(t *testing.T) {
	t.Parallel()
	c, names := aWave(t, 1, withHook, "", nil)
	c.world.SetInstance(names[0], memory.InstanceSettings{NeverReloads: true})
	var looks atomic.Int32
	c.world.Befall(func(_ context.Context, call memory.Call) error {
		if call.Op == memory.OpAttest && call.Phase == memory.Before && looks.Add(1) == 100 {
			c.wait(wavesLast) // its time is over
		}
		return nil
	})
	result := c.deliver(c.wave())
	assert.False(t, result.Decision.OK)
	assert.Equal(t, 3, c.world.Purged(names[0]), "at first, and after 20 and 60 looks")
}

// What converged first is looked at again when others took long: it may have lost the key meanwhile.
func TestTheEndOfAWaveRestsOnFreshStatements(t *testing.T) {
	t.Parallel()
	c, names := aWave(t, 2, "", "", nil)
	old, _ := c.world.Held(names[0])
	c.world.SetInstance(names[1], memory.InstanceSettings{Unhealthy: errors.New("it starts")})
	var once sync.Once
	var looks atomic.Int32
	c.world.Befall(func(_ context.Context, call memory.Call) error {
		if call.Op == memory.OpCheck && call.Phase == memory.Before && call.Instance == names[1] && looks.Add(1) == 3 {
			once.Do(func() {
				c.world.Give(names[0], old)
				c.world.SetInstance(names[1], memory.InstanceSettings{})
			})
		}
		return nil
	})
	result := c.deliver(c.wave())
	require.True(t, result.Decision.OK, result.Decision.Message)
	assert.Equal(t, c.incoming.KeyID, c.world.Using(names[0]))
}

// Neither the queue nor the clock of the worker that goes on takes anything of a wave's time: who needs some looks has them.
func TestAWaveHasItsWholeTime(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct{ queued, skew time.Duration }{
		"no worker takes it for longer than it may last":     {queued: 24 * wavesLast},
		"the clock of the worker that goes on is far ahead":  {skew: 2 * wavesLast},
		"the clock of the worker that goes on is far behind": {skew: -2 * wavesLast},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, names := aWave(t, 2, "", "", nil)
			c.world.SetInstance(names[1], memory.InstanceSettings{Unhealthy: errors.New("it starts")})
			in := c.wave()
			c.wait(x.queued)
			var skew atomic.Int64
			c.do.Now = func() time.Time { return c.now().Add(time.Duration(skew.Load())) }
			var looks atomic.Int32
			c.world.Befall(func(ctx context.Context, call memory.Call) error {
				if activity.GetInfo(ctx).Attempt == 2 { // by another worker
					skew.Store(int64(x.skew))
				}
				if call == (memory.Call{Op: memory.OpCheck, Phase: memory.Before, Instance: names[1]}) {
					switch looks.Add(1) {
					case 2:
						panic("the process dies")
					case 5:
						c.world.SetInstance(names[1], memory.InstanceSettings{})
					}
				}
				return nil
			})
			result := c.deliver(in)
			assert.True(t, result.Decision.OK, result.Decision.Message)
			assert.GreaterOrEqual(t, looks.Load(), int32(5))
		})
	}
}

// What attempts spend counts, all of them together.
func TestTheTimeOfAWaveIsThatOfAllItsAttempts(t *testing.T) {
	t.Parallel()
	c, names := aWave(t, 1, "", "", nil)
	c.world.SetInstance(names[0], memory.InstanceSettings{NeverReloads: true})
	var looks, again atomic.Int32
	c.world.Befall(func(ctx context.Context, call memory.Call) error {
		switch {
		case call.Op != memory.OpAttest || call.Phase != memory.Before:
		case activity.GetInfo(ctx).Attempt == 2:
			again.Add(1)
			c.wait(wavesLast / 2)
		default:
			switch looks.Add(1) {
			case 1:
				c.wait(wavesLast / 2)
			case 25: // it was given the key again, which a heartbeat tells first
				panic("the process dies")
			}
		}
		return nil
	})
	result := c.deliver(c.wave())
	assert.Equal(t, policy.InstanceNotConverged, result.Decision.Reason)
	assert.Contains(t, result.Decision.Message, "web/i0")
	assert.Equal(t, int32(1), again.Load(), "its time was over then")
}

// The process dies when the time is spent, before it could answer.
func TestAnAttemptThatBeginsWhenTheTimeIsSpentLooksOnce(t *testing.T) {
	t.Parallel()
	for name, mute := range map[string]error{"all is well": nil, "somebody is silent by then": errors.New("no route to host")} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, names := aWave(t, 1, "", "", nil)
			var spent atomic.Bool
			var seen calls
			c.world.Befall(func(ctx context.Context, call memory.Call) error {
				attempt := activity.GetInfo(ctx).Attempt
				seen.add(attempt, call)
				switch {
				case attempt > 1:
				case call == memory.Call{Op: memory.OpCheck, Phase: memory.After, Instance: names[0]}:
					c.wait(wavesLast)
					c.world.SetInstance(names[0], memory.InstanceSettings{Mute: mute})
					spent.Store(true)
				case spent.Load() && call.Op == memory.OpList:
					panic("the process dies")
				}
				return nil
			})
			result := c.deliver(c.wave())
			assert.Equal(t, mute == nil, result.Decision.OK, result.Decision.Message)
			assert.Equal(t, 1, seen.of(2, memory.OpAttest, memory.Before, names[0]))
			if mute != nil {
				assert.Contains(t, result.Decision.Message, mute.Error())
			}
		})
	}
}

// Which rights a delivery changes is asked for the plan.
func TestThePlanTellsWhichRightsChange(t *testing.T) {
	t.Parallel()
	c := newCase(t)
	c.world.SetInstance("canary", memory.InstanceSettings{ChangesRights: "the mode of its file, 0640, becomes 0600"})
	var plan policy.Plan
	c.execute("Inspect", c.subject(), &plan)
	assert.Contains(t, strings.Join(plan.Warnings, "\n"), "canary: the mode of its file, 0640, becomes 0600")
}

// One that hangs, and more that fail than may be tried at once, hold up nobody.
func TestHalfOfTheInstancesFailing(t *testing.T) {
	t.Parallel()
	c, names := aWave(t, 200, "", "    waveParallel: 8\n", nil)
	for _, name := range names[:100] {
		c.world.SetInstance(name, memory.InstanceSettings{Unreachable: errors.New("no route to host")})
	}
	all := make(chan struct{})
	seen := c.endsWave(names[:100], memory.OpDeliver, names[100:], all)
	c.world.Befall(func(ctx context.Context, call memory.Call) error {
		seen(call)
		if call.Op == memory.OpDeliver && call.Phase == memory.Before && call.Instance == names[7] {
			select {
			case <-all:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	result := c.deliver(c.wave())
	assert.False(t, result.Decision.OK)
	assert.Equal(t, 100, len(result.Stragglers)+result.More)
	assert.Contains(t, result.Decision.Message, "and 99 more of 200 instances")
	for i, name := range names {
		if i >= 100 {
			assert.Equal(t, c.incoming.KeyID, c.world.Using(name), "one bad instance does not hide the others")
		} else {
			assert.Equal(t, "key-old", c.world.Using(name))
		}
	}
	for _, s := range result.Stragglers {
		assert.NotEmpty(t, s.NotAttesting)
	}
}

func TestNoMoreThanThePolicySaysAreTriedAtOnce(t *testing.T) {
	t.Parallel()
	c, _ := aWave(t, 40, "", "    waveParallel: 3\n", nil)
	var running, most atomic.Int32
	c.world.Befall(func(_ context.Context, call memory.Call) error {
		if call.Op == memory.OpDeliver && call.Phase == memory.Before {
			n := running.Add(1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
		}
		if call.Op == memory.OpDeliver && call.Phase == memory.After {
			running.Add(-1)
		}
		return nil
	})
	assert.True(t, c.deliver(c.wave()).Decision.OK)
	assert.LessOrEqual(t, most.Load(), int32(3))
}

// A history and a heartbeat take what thousands of instances leave.
func TestThousandsOfInstancesFitIntoAHistory(t *testing.T) {
	t.Parallel()
	c, names := aWave(t, 2000, "", "", nil)
	trouble := errors.New(strings.Repeat("no route to host; ", 100))
	for _, name := range names[:1000] {
		c.world.SetInstance(name, memory.InstanceSettings{Unreachable: trouble, Unhealthy: trouble})
	}
	var most atomic.Int64
	c.heartbeat = func(details converter.EncodedValues) {
		var kept map[string]any
		if details.HasValues() && details.Get(&kept) == nil {
			text, _ := json.Marshal(kept)
			most.Store(max(most.Load(), int64(len(text))))
		}
	}
	seen := c.endsWave(names[:1000], memory.OpDeliver, names[1000:], make(chan struct{}))
	c.world.Befall(func(_ context.Context, call memory.Call) error {
		seen(call)
		return nil
	})
	result := c.deliver(c.wave())
	text, err := json.Marshal(result)
	require.NoError(t, err)
	assert.Less(t, len(text), 64<<10, "a result of 1000 stragglers")
	assert.Equal(t, 1000, len(result.Stragglers)+result.More)
	assert.Positive(t, most.Load())
	assert.Less(t, most.Load(), int64(1<<10), "a heartbeat of 2000 instances")
}

// Who does not answer at the end is said to, and what it stated before.
func TestWhatAStragglerStatedBeforeItFellSilentIsTold(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	var c *crashCase
	c, _ = aWave(t, 1, "        replicas: 1\n", "", func(d *providers.Descriptor) {
		open := d.Attestor.Open
		d.Attestor.Open = func(e providers.Environment, a, cfg any) (providers.Attestor, error) {
			whole, err := open(e, a, cfg)
			return fallsSilent{whole, &asked, func() { c.wait(wavesLast) }}, err
		}
	})
	result := c.deliver(c.wave())
	assert.Equal(t, "web/i0 does not state which key it uses: it is away; before, it stated [key-old]", result.Decision.Message)
}

// fallsSilent states the old key once, and then nothing.
type fallsSilent struct {
	providers.Attestor
	asked *atomic.Int32
	gone  func()
}

func (s fallsSilent) Attest(ctx context.Context, instances []string) ([]key.Statement, error) {
	if s.asked.Add(1) > 1 {
		s.gone()
		return nil, errors.New("it is away")
	}
	list, err := s.Attestor.Attest(ctx, instances)
	for i := range list {
		list[i].Keys = []string{"key-old"}
	}
	return list, err
}

// keysOf are the sorted keys of a map.
func keysOf[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// A spec with steps: each wave delivers to its own instances, and what is seen of one says in which it is.
func TestInstancesKnowTheirStep(t *testing.T) {
	t.Parallel()
	c, _ := aWave(t, 10, "", "    waveSteps: [10%, 50%]\n", nil)
	var plan policy.Plan
	c.execute("Inspect", c.subject(), &plan)
	sizes := map[string]int{}
	for _, w := range plan.Waves {
		sizes[w.Name] = len(w.Instances)
	}
	assert.Equal(t, map[string]int{"rest-10%": 1, "rest-50%": 4, "rest": 5}, sizes)
	assert.Equal(t, []string{"rest", "rest-10%", "rest-50%"}, keysOf(sizes))
	in := c.wave()
	in.Wave, in.Instances = plan.Waves[1].Name, plan.Waves[1].Instances
	for _, i := range []string{"web-i0", "web-i1", "web-i2", "web-i3", "web-i4", "web-i5", "web-i6", "web-i7", "web-i8", "web-i9"} {
		c.world.SetInstance(i, memory.InstanceSettings{Mute: errors.New("not now")})
	}
	c.looksOnce()
	result := c.deliver(in)
	require.Len(t, result.Stragglers, 4)
	for _, s := range result.Stragglers {
		assert.Equal(t, "rest-50%", s.Wave)
	}
	assert.Len(t, c.world.Happened(memory.OpDeliver), 4, "to nobody else")
}
