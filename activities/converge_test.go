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
	"github.com/keyturn/keyturn/internal/audit"
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

func TestCachesArePurgedWithEachDelivery(t *testing.T) {
	t.Parallel()
	c, names := aWave(t, 2, withHook, "", nil)
	for _, name := range names {
		c.world.SetInstance(name, memory.InstanceSettings{Caches: 1000 * time.Hour})
	}
	require.True(t, c.deliver(c.wave()).Decision.OK)
	for _, name := range names {
		assert.Equal(t, c.incoming.KeyID, c.world.Using(name))
	}
	back := c.wave()
	back.Key = c.retiring
	require.True(t, c.deliver(back).Decision.OK)
	var purged []string
	for _, e := range c.world.Happened(memory.OpPurge) {
		purged = append(purged, e.Instance+" "+e.KeyID)
	}
	slices.Sort(purged)
	assert.Equal(t, []string{names[0] + " key-old", names[0] + " " + c.incoming.KeyID, names[1] + " key-old", names[1] + " " + c.incoming.KeyID}, purged)
}

func TestAPurgeThatFailsIsTheReasonOfAStraggler(t *testing.T) {
	t.Parallel()
	c, names := aWave(t, 2, withHook, "", nil)
	seen := c.endsWave(names[1:], memory.OpPurge, names[:1], make(chan struct{}))
	c.world.Befall(func(_ context.Context, call memory.Call) error {
		seen(call)
		if call.Op == memory.OpPurge && call.Instance == names[1] {
			return errors.New("the cache answers 500")
		}
		return nil
	})
	result := c.deliver(c.wave())
	require.Len(t, result.Stragglers, 1)
	assert.Contains(t, result.Decision.Message, "web/i1")
	assert.Contains(t, result.Decision.Message, "purging its caches")
	assert.Contains(t, result.Decision.Message, "the cache answers 500")
}

// revoke brings a delivered key to the end of its rotation: only the record is left.
func (c *crashCase) revoke(names []string) {
	c.t.Helper()
	c.run("DeliverWave")
	c.run("Promote")
	c.wait(2 * time.Minute)
	for _, name := range names {
		require.NoError(c.t, c.world.Request(name))
	}
	c.wait(2 * time.Hour)
	var d policy.Decision
	approved := []policy.Verdict{{Action: policy.Approve, Accepted: true, By: "ann", At: c.now()}}
	c.execute("Disable", activities.RevokeInput{Rotation: c.subject(), Approvals: approved}, &d)
	require.True(c.t, d.OK, d.Message)
	c.wait(31 * time.Minute)
	c.execute("Destroy", activities.RevokeInput{Rotation: c.subject(), Approvals: approved}, nil)
}

// recorded are the events of a type in the audit record.
func (c *crashCase) recorded(of audit.Type) []audit.Event {
	c.t.Helper()
	trail, err := audit.Read(c.auditFile)
	require.NoError(c.t, err)
	return slices.DeleteFunc(trail.Events, func(e audit.Event) bool { return e.Type != of })
}

func TestTheEndOfAKeyIsPurgedToo(t *testing.T) {
	t.Parallel()
	c, names := aWave(t, 2, withHook, "", nil)
	c.revoke(names)
	before := c.world.Purged(names[0])
	c.run("Record")
	assert.Equal(t, before+1, c.world.Purged(names[0]))
	assert.Equal(t, before+1, c.world.Purged(names[1]))
}

// One Record may end two keys: what was removed of which is in the record.
func TestThePurgeOfEachDeadKeyIsRecorded(t *testing.T) {
	t.Parallel()
	c, names := aWave(t, 2, withHook, "", nil)
	c.revoke(names)
	m := c.metadata()
	m.Keys = append(m.Keys, key.Owned{Ref: key.Ref{Principal: "payments-api", KeyID: "key-earlier"}}) // whose rotation was terminated
	_, err := c.world.Store("payments-api").PutMetadata(t.Context(), m)
	require.NoError(t, err)
	c.run("Record")
	var purged []string
	for _, e := range c.recorded(audit.CopiesPurged) {
		purged = append(purged, e.Detail["key"]+" at "+e.Detail["instance"])
	}
	slices.Sort(purged)
	assert.Equal(t, []string{"key-earlier at web/i0", "key-earlier at web/i1", "key-old at web/i0", "key-old at web/i1"}, purged)
}

// An instance whose hook fails does not keep the end of the rotation from being written. What it may keep is debt, and
// the next record purges it again.
func TestAPurgeThatFailsIsDebtOfTheRecord(t *testing.T) {
	t.Parallel()
	c, names := aWave(t, 2, withHook, "", nil)
	c.revoke(names)
	var broken atomic.Bool
	broken.Store(true)
	c.world.Befall(func(_ context.Context, call memory.Call) error {
		if call.Op == memory.OpPurge && call.Instance == names[1] && broken.Load() {
			return errors.New("connection refused")
		}
		return nil
	})
	var got activities.Recorded
	record := activities.RecordInput{Rotation: c.subject(), Outcome: "completed"}
	for range 2 { // called again it finds the same
		require.NoError(t, c.attempt("Record", record, &got, 1))
		require.Len(t, got.Debt, 1)
		assert.Equal(t, "copies-left key-old", got.Debt[0].Kind+" "+got.Debt[0].About)
		m := c.metadata()
		assert.Equal(t, got.Debt, m.Debt)
		assert.Equal(t, "completed-with-debt", m.LastRotation.Outcome)
		_, named := m.Key("key-old")
		assert.True(t, named, "the record of the dead key is kept until its copies are gone")
		mine, _ := m.Key(c.incoming.KeyID)
		assert.False(t, mine.KeptAt.IsZero())
		assert.NotContains(t, c.versions(), c.retiring.StoreVersion)
		assert.Len(t, c.recorded(audit.RotationEnded), 1)
		debts := c.recorded(audit.DebtFound)
		require.Len(t, debts, 1)
		assert.Contains(t, debts[0].Detail["why"], "purging failed at web/i1: purge: connection refused")
	}

	broken.Store(false)
	before := c.world.Purged(names[1])
	record.ID = "second-run" // of a rotation that changed nothing
	var next activities.Recorded
	require.NoError(t, c.attempt("Record", record, &next, 1))
	assert.Empty(t, next.Debt)
	assert.Equal(t, before+1, c.world.Purged(names[1]))
	_, named := c.metadata().Key("key-old")
	assert.False(t, named)
	assert.Len(t, c.recorded(audit.VersionPruned), 1, "the version went once")
}

// An instance that just starts is tried again.
func TestAPurgeOfADeadKeyIsPatient(t *testing.T) {
	t.Parallel()
	c, names := aWave(t, 2, withHook, "", nil)
	c.revoke(names)
	var tries atomic.Int32
	c.world.Befall(func(_ context.Context, call memory.Call) error {
		if call.Op == memory.OpPurge && call.Phase == memory.Before && call.Instance == names[1] && tries.Add(1) < 5 {
			return errors.New("connection refused: it starts")
		}
		return nil
	})
	var got activities.Recorded
	require.NoError(t, c.attempt("Record", activities.RecordInput{Rotation: c.subject(), Outcome: "completed"}, &got, 1))
	assert.Empty(t, got.Debt)
}

// A rollback ends a key, too: the incoming one, whose copies go with it, or are debt.
func TestTheCopiesOfADiscardedKeyArePurged(t *testing.T) {
	t.Parallel()
	for name, broken := range map[string]bool{"all instances forget it": false, "one cannot": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, names := aWave(t, 2, withHook, "", nil)
			c.run("DeliverWave")
			c.run("DeliverBack")
			before := c.world.Purged(names[0])
			c.world.Befall(func(_ context.Context, call memory.Call) error {
				if call.Op == memory.OpPurge && call.Instance == names[1] && broken {
					return errors.New("connection refused")
				}
				return nil
			})
			c.run("Discard")
			assert.Equal(t, before+1, c.world.Purged(names[0]))
			assert.Equal(t, []string{"key-old active"}, c.keys())
			c.run("Discard") // called again, it finds nothing more to do
			assert.Equal(t, before+1, c.world.Purged(names[0]))
			assert.Len(t, c.recorded(audit.KeyDiscarded), 1)

			var got activities.Recorded
			require.NoError(t, c.attempt("Record", activities.RecordInput{Rotation: c.subject(), Outcome: "rolled-back"}, &got, 1))
			m := c.metadata()
			_, named := m.Key(c.incoming.KeyID)
			assert.Equal(t, broken, named)
			assert.Equal(t, broken, m.Owes("copies-left", c.incoming.KeyID))
			assert.Equal(t, got.Debt, m.Debt)
			assert.Equal(t, "rolled-back", m.LastRotation.Outcome)
			assert.Empty(t, c.recorded(audit.VersionPruned), "its version went with the key")
		})
	}
}

// A batch job that is not running states nothing: what counts is the copy that its next run begins with.
func TestABatchJobIsJudgedByWhatItsNextRunBeginsWith(t *testing.T) {
	t.Parallel()
	c, names := aWave(t, 2, "        longestRun: 30m\n", "", nil)
	// At noon a run begins, each hour, and lasts 20 minutes.
	for _, name := range names {
		c.world.SetInstance(name, memory.InstanceSettings{RunsEvery: time.Hour, RunsFor: 20 * time.Minute})
	}
	stated := func() map[string][]string {
		var plan policy.Plan
		c.execute("Inspect", c.subject(), &plan)
		states := map[string][]string{}
		for _, r := range plan.Refusals {
			states[string(r.Reason)] = append(states[string(r.Reason)], r.Message)
		}
		return states
	}
	assert.Empty(t, stated(), "running with the retiring key")
	c.wait(30 * time.Minute)
	assert.Empty(t, stated(), "not running")
	c.wait(30 * time.Minute)
	for _, name := range names {
		require.NoError(t, c.world.Request(name))
	}
	// A run is going on, with the retiring key, to which the next one will not begin any more.
	c.run("DeliverWave")
	assert.Equal(t, "key-old", c.world.Using(names[0]), "the run goes on with the key that it began with")
	c.run("Promote")
	var e policy.Evidence
	err := c.attempt("GatherEvidence", activities.EvidenceInput{Rotation: c.subject(), Shown: "something else"}, &e, 1)
	require.NoError(t, err)
	assert.Contains(t, e.Lacks(), "web/i0 still holds key key-old besides", "who is asked while it runs")
	// Its run is over. The next one has the incoming key, and then it is used.
	c.wait(30 * time.Minute)
	for _, s := range []time.Duration{30 * time.Minute, 4 * time.Hour} {
		c.wait(s)
		for _, name := range names {
			require.NoError(t, c.world.Request(name))
		}
	}
	c.wait(30 * time.Minute) // idle again
	require.NoError(t, c.attempt("GatherEvidence", activities.EvidenceInput{Rotation: c.subject()}, &e, 1))
	assert.True(t, e.Complete, "%v", e.Missing)
	assert.Equal(t, "what its next run begins with", e.Instances[0].Source)

	// A copy that is no key of the store is no statement.
	foreign := c.world.AddKey("payments-api", "not-ours", c.now())
	c.world.Give(names[1], foreign)
	require.NoError(t, c.attempt("GatherEvidence", activities.EvidenceInput{Rotation: c.subject(), Shown: "something else"}, &e, 1))
	assert.Contains(t, e.Lacks(), "the copy that its next run begins with is none that keyturn knows: put there, byte for byte, what its target writes")
}

// The first rotation of a key that existed before, whose value is in no store: nobody can compare the copy of a batch job,
// as nobody can match the fingerprint that others state.
func TestABatchJobMayUseAnAdoptedKeyThatNoStoreHas(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		batch string
		store bool // has the value
		want  string
	}{
		"a server states a fingerprint that nobody can match": {"", false, ""},
		"a batch job has a copy that nobody can compare":      {"        longestRun: 30m\n", false, ""},
		"one that can be compared is held to it":              {"        longestRun: 30m\n", true, "web/i0 does not state which key it uses: the copy that its next run begins with is none that keyturn knows"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := strings.ReplaceAll(waveInventory(1, c.batch, "    adopt: [key-adopted]\n"), "payments-api}", "payments-adopted}")
			k := newCaseOf(t, text, []string{"web-i0"}, nil)
			k.world.SetPrincipal("payments-adopted", memory.Strict())
			bundle := k.world.AddKey("payments-adopted", "key-adopted", k.now().Add(-time.Hour))
			k.world.Give("web-i0", bundle)
			if c.store {
				k.world.AddVersion("payments-adopted", bundle)
				k.world.Give("web-i0", k.world.AddKey("payments-api", "another", k.now()))
			}
			subject := k.subject()
			subject.Retiring = key.Ref{}
			var plan policy.Plan
			k.execute("Inspect", subject, &plan)
			require.NotNil(t, plan.Retiring)
			assert.Equal(t, "key-adopted", plan.Retiring.KeyID)
			if c.want == "" {
				assert.Empty(t, plan.Refusals)
				return
			}
			require.Len(t, plan.Refusals, 1)
			assert.Contains(t, plan.Refusals[0].Message, c.want)
		})
	}
}

// usage is an attestation by the issuer's record of uses: it tells with which key a batch job ran last.
type usage struct {
	keyID string
	at    time.Time
}

func (u usage) Attest(_ context.Context, instances []string) ([]key.Statement, error) {
	return []key.Statement{{Instance: instances[0], Keys: []string{u.keyID}, UsedAt: u.at, ObservedAt: u.at, Source: "usage"}}, nil
}

func TestABatchJobDoesNotRunWithTheKeyThatItUsedLast(t *testing.T) {
	t.Parallel()
	last := time.Date(2026, 3, 1, 11, 30, 0, 0, time.UTC)
	c, _ := aWave(t, 1, "        longestRun: 30m\n", "", func(d *providers.Descriptor) {
		d.Attestor.Open = func(providers.Environment, any, any) (providers.Attestor, error) { return usage{"key-old", last}, nil }
	})
	result := c.deliver(c.wave())
	require.True(t, result.Decision.OK, result.Decision.Message)
	c.run("Promote")
	var e policy.Evidence
	require.NoError(t, c.attempt("GatherEvidence", activities.EvidenceInput{Rotation: c.subject(), Shown: "something else"}, &e, 1))
	require.Len(t, e.Instances, 1)
	assert.Equal(t, []string{c.incoming.Fingerprint}, e.Instances[0].Keys)
	assert.NotContains(t, e.Lacks(), "still holds key key-old")
}

// balancer answers for an instance with one of its replicas after another.
type balancer struct {
	providers.Attestor
	asked *atomic.Int32
	// late are the keys that the third replica states, nil for what the others do.
	late func() []string
}

func (b balancer) Attest(ctx context.Context, instances []string) ([]key.Statement, error) {
	list, err := b.Attestor.Attest(ctx, instances)
	if b.asked.Add(1)%3 == 0 && b.late() != nil {
		for i := range list {
			list[i].Keys = b.late()
		}
	}
	return list, err
}

func TestOneReplicaThatStaysBehindIsNoticed(t *testing.T) {
	t.Parallel()
	var behind atomic.Bool
	behind.Store(true)
	var asked atomic.Int32
	var c *crashCase
	c, names := aWave(t, 1, "        replicas: 3\n", "", func(d *providers.Descriptor) {
		open := d.Attestor.Open
		d.Attestor.Open = func(e providers.Environment, a, cfg any) (providers.Attestor, error) {
			whole, err := open(e, a, cfg)
			return balancer{whole, &asked, func() []string {
				if !behind.Load() {
					return nil
				}
				if asked.Load() > 3*15 {
					c.wait(wavesLast) // it has had several looks
				}
				return []string{"key-old"}
			}}, err
		}
	})
	result := c.deliver(c.wave())
	assert.Equal(t, policy.InstanceNotConverged, result.Decision.Reason)
	assert.Contains(t, result.Decision.Message, "the replicas of web/i0 do not all use key")
	assert.Equal(t, c.incoming.KeyID, c.world.Using(names[0]))
	assert.True(t, result.Stragglers[0].Statement.Split)

	behind.Store(false)
	assert.True(t, c.deliver(c.wave()).Decision.OK)
	assert.GreaterOrEqual(t, asked.Load(), int32(15), "five questions for each replica")
}

// slow answers only while it is asked as often at once as one look may ask an instance, but for the first question.
type slow struct {
	providers.Attestor
	asked, waiting *atomic.Int32
	full           chan struct{}
	broken         bool
}

func (s slow) Attest(ctx context.Context, instances []string) ([]key.Statement, error) {
	if s.asked.Add(1) == 1 {
		return s.Attestor.Attest(ctx, instances)
	}
	if s.waiting.Add(1) == 20 {
		close(s.full)
	}
	select {
	case <-s.full:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if s.broken {
		return nil, errors.New("the third replica answers 503")
	}
	return s.Attestor.Attest(ctx, instances)
}

func TestReplicasAreAskedAtOnce(t *testing.T) {
	t.Parallel()
	for name, broken := range map[string]bool{"all of them answer": false, "one that does not answer ends it": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var asked, waiting atomic.Int32
			full := make(chan struct{})
			c, _ := aWave(t, 1, "        replicas: 20\n", "", func(d *providers.Descriptor) {
				open := d.Attestor.Open
				d.Attestor.Open = func(e providers.Environment, a, cfg any) (providers.Attestor, error) {
					whole, err := open(e, a, cfg)
					return slow{whole, &asked, &waiting, full, broken}, err
				}
			})
			if broken {
				c.looksOnce()
			}
			result := c.deliver(c.wave())
			assert.Equal(t, !broken, result.Decision.OK, result.Decision.Message)
			if broken {
				assert.Contains(t, result.Decision.Message, "it answered 1 times of 100, within 30s at most: the third replica answers 503")
				assert.Less(t, asked.Load(), int32(50))
			} else {
				assert.Equal(t, int32(100), asked.Load())
			}
		})
	}
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
