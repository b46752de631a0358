package activities_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/memory"
)

// briefly is how long an attempt lasts where somebody hangs: half of it is waited for who never answers.
const briefly = 8 * time.Second

// says is a health signal: what it says the n-th time that it is asked, from 1.
type says func(n int) (key.Sample, error)

// signal is a health signal that says something.
type signal struct {
	c    **crashCase
	says says
	n    *atomic.Int32
}

func (s signal) Sample(ctx context.Context, _ time.Duration) (key.Sample, error) {
	if err := ctx.Err(); err != nil {
		return key.Sample{}, err
	}
	sample, err := s.says(int(s.n.Add(1)))
	sample.At = (*s.c).now()
	return sample, err
}

// budgeted is a case with an error budget of 1% in 5 minutes, and these health signals.
func budgeted(t *testing.T, signals ...says) *crashCase {
	t.Helper()
	text := strings.Replace(caseInventory, "    issuer:", fmt.Sprintf("    errorBudget: {ratio: 0.01, window: 5m, minTotal: 10}\n    health: [%s]\n    issuer:",
		strings.TrimSuffix(strings.Repeat("{type: memory}, ", len(signals)), ", ")), 1)
	var c *crashCase
	opened, asked := 0, make([]atomic.Int32, len(signals))
	c = newCaseOf(t, text, fleet, func(d *providers.Descriptor) {
		d.Health = &providers.Maker[providers.HealthSignal]{Config: d.Health.Config, Open: func(providers.Environment, any, any) (providers.HealthSignal, error) {
			i := opened % len(signals)
			opened++
			return signal{&c, signals[i], &asked[i]}, nil
		}}
	})
	return c
}

// hangs lets the calls of an operation on one instance hang, after the first ones.
func (c *crashCase) hangs(op memory.Op, instance string, after int32) {
	c.lasts = briefly
	var calls atomic.Int32
	c.world.Befall(func(ctx context.Context, call memory.Call) error {
		if call.Op == op && call.Phase == memory.Before && call.Instance == instance && calls.Add(1) > after {
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	})
}

func requests(errors, total float64) says {
	return func(n int) (key.Sample, error) {
		return key.Sample{Errors: errors * float64(n), Total: total * float64(n)}, nil
	}
}

func silent(err error) says { return func(int) (key.Sample, error) { return key.Sample{}, err } }

// until says one thing the first n times and another one then.
func (s says) until(n int, then says) says {
	return func(call int) (key.Sample, error) {
		if call <= n {
			return s(call)
		}
		return then(call)
	}
}

var (
	errGone  = errors.New("sampling: it answers 404 Not Found, with 9 bytes")
	errQuiet = fmt.Errorf("sampling: %w: it answers 204", providers.ErrNoData)
)

func TestWatch(t *testing.T) {
	t.Parallel()
	well := requests(0, 100)
	for name, tc := range map[string]struct {
		signals []says
		steps   []string
		prepare func(*crashCase)
		want    policy.Reason // none: it goes on watching
		says    []string
	}{
		"a breach that is seen while a check hangs": {
			signals: []says{requests(50, 100)}, prepare: func(c *crashCase) { c.hangs(memory.OpCheck, "canary", 0) }, want: policy.BudgetBreached,
		},
		"a check that fails, and then hangs": {
			signals: []says{well}, want: policy.CheckFailing,
			prepare: func(c *crashCase) {
				c.world.Fail(memory.OpCheck, errors.New("503"), 6)
				c.hangs(memory.OpCheck, "canary", 2)
			},
			says: []string{"canary failed its check 3 times in a row: no answer before the look had to end"},
		},
		"a lease that cannot be renewed, since the store hangs, hides no breach": {
			signals: []says{requests(50, 100)}, prepare: func(c *crashCase) { c.hangs(memory.OpMetadata, "", 0) }, want: policy.BudgetBreached,
		},
		"health signals none of which answers": {
			signals: []says{silent(errGone), silent(errors.New("no route to host"))}, want: policy.BudgetBlind,
			says: []string{"health[0] (memory): sampling: it answers 404 Not Found, with 9 bytes", "health[1] (memory): no route to host"},
		},
		"health signals that do not answer twice":         {signals: []says{silent(errGone).until(2, well)}},
		"one of two health signals that answers":          {signals: []says{silent(errGone), well}},
		"a health signal without data is none in trouble": {signals: []says{silent(errQuiet)}},
		"both keys are accepted":                          {signals: []says{well}, steps: []string{"Issue"}},
		"the incoming key was disabled by hand": {
			signals: []says{well}, steps: []string{"Issue"}, want: policy.IncomingNotLive,
			prepare: func(c *crashCase) {
				c.byHand(func(i issuer) error { return i.Disable(t.Context(), c.incoming) })
			},
		},
		"the retiring key was disabled by hand": {
			signals: []says{well}, steps: []string{"Issue"}, want: policy.RetiringKeyDisabled,
			prepare: func(c *crashCase) {
				c.byHand(func(i issuer) error { return i.Disable(t.Context(), c.retiring) })
			},
		},
		"the retiring key was destroyed by hand": {
			signals: []says{well}, steps: []string{"Issue", "DeliverWave", "Promote"}, want: policy.RetiringGone,
			prepare: func(c *crashCase) {
				c.byHand(func(i issuer) error { return i.Destroy(t.Context(), c.retiring) })
			},
		},
		"the retiring key was disabled by keyturn": {signals: []says{well}, steps: []string{"Issue", "DeliverWave", "Promote", "Disable"}},
		"an issuer that does not tell": {
			signals: []says{well}, steps: []string{"Issue"}, prepare: func(c *crashCase) { c.world.Fail(memory.OpList, errors.New("no route to host"), 100) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := budgeted(t, tc.signals...)
			for _, step := range tc.steps {
				c.run(step)
			}
			if tc.prepare != nil {
				tc.prepare(c)
			}
			var d policy.Decision
			err := c.attempt("Watch", c.subject(), &d, 5)
			if tc.want == "" {
				c.isNotYet(err)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, tc.want, d.Reason, d.Message)
			for _, text := range tc.says {
				assert.Contains(t, d.Message, text)
			}
		})
	}
}

// byHand is somebody at the issuer.
func (c *crashCase) byHand(do func(issuer) error) {
	c.t.Helper()
	require.NoError(c.t, do(c.world.Issuer("payments-api").(issuer)))
}

type issuer interface {
	providers.Issuer
	providers.Disabler
}

// A look of a pause comes each minute here.
func TestAwaitHealth(t *testing.T) {
	t.Parallel()
	well := requests(0, 100)
	for name, tc := range map[string]struct {
		signal  says
		prepare func(*crashCase)
		looks   int // after which it resumes; 0 for never
	}{
		"a whole window without a breach":               {signal: well, looks: 6},
		"a breach begins the window anew":               {signal: requests(0, 100).until(3, requests(50, 100)).until(4, requests(0, 1e6)), looks: 10},
		"sources without data, over a whole window":     {signal: silent(errQuiet), looks: 6},
		"too little traffic, over a whole window":       {signal: requests(0, 1), looks: 6},
		"sources that do not answer":                    {signal: silent(errGone)},
		"sources that answer again":                     {signal: silent(errGone).until(3, well), looks: 9},
		"a breach that is the last that a source tells": {signal: requests(50, 100).until(2, silent(errQuiet)), looks: 13},
		"an instance that fails its check": {signal: well, prepare: func(c *crashCase) {
			c.world.SetInstance("canary", memory.InstanceSettings{Unhealthy: errors.New("503")})
		}},
		"an incoming key that is disabled": {signal: well, prepare: func(c *crashCase) {
			c.byHand(func(i issuer) error { return i.Disable(t.Context(), c.incoming) })
		}},
		"an issuer that does not tell whether the keys are accepted": {signal: well, prepare: func(c *crashCase) {
			c.world.Fail(memory.OpList, errors.New("no route to host"), 100)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var c *crashCase
			looks := 0
			c = budgeted(t, func(n int) (key.Sample, error) {
				looks = n
				c.wait(time.Minute)
				return tc.signal(n)
			})
			c.run("Issue")
			if tc.prepare != nil {
				tc.prepare(c)
			}
			looks = 0
			err := c.attempt("AwaitHealth", c.subject(), nil, 20)
			if tc.looks == 0 {
				c.isNotYet(err)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, tc.looks, looks)
		})
	}
}

// Without a budget, one good look may be luck.
// Nothing is ever well again for whoever has a key that is gone: a pause must not wait for that.
func TestAwaitHealthEndsWhenTheRetiringKeyIsGone(t *testing.T) {
	t.Parallel()
	c := reached(t, "Issue", "DeliverWave")
	require.NoError(t, c.world.Issuer("payments-api").Destroy(t.Context(), c.retiring))
	c.isNotYet(c.attempt("AwaitHealth", c.subject(), nil, 2)) // a list may lack it for a moment
	assert.Equal(t, activities.TypeGone, (&signedCase{crashCase: c}).refusal(c.attempt("AwaitHealth", c.subject(), nil, 3)).Type())
}

// That the retiring key is gone is no finding of one look, whatever was wrong in those before: an issuer may list it again.
func TestAKeyIsGoneWhenItIsNotListedInARow(t *testing.T) {
	t.Parallel()
	for name, activity := range map[string]string{"in a pause": "AwaitHealth", "in a watch": "Watch"} {
		for until, gone := range map[int]bool{3: false, 9: true} {
			t.Run(name+", for "+map[bool]string{false: "one look", true: "good"}[gone], func(t *testing.T) {
				t.Parallel()
				c := reached(t, "Issue")
				unlisted := &unlisting{}
				c.do.Descriptors = []providers.Descriptor{c.world.Descriptor()}
				mint := c.do.Descriptors[0].Issuer.Open
				c.do.Descriptors[0].Issuer.Open = func(e providers.Environment, account, config any) (providers.Issuer, error) {
					whole, err := mint(e, account, config)
					unlisted.Issuer, unlisted.Disabler, unlisted.SelfTester = whole, whole.(providers.Disabler), whole.(providers.SelfTester)
					return unlisted, err
				}
				c.byHand(func(i issuer) error { return i.Disable(t.Context(), c.retiring) })
				looks := 0
				c.world.On(memory.OpList, func(at memory.Phase) {
					if at != memory.Before {
						return
					}
					unlisted.keyID = ""
					if looks++; looks >= 3 && looks <= until {
						unlisted.keyID = c.retiring.KeyID
					}
				})
				var d policy.Decision
				err := c.attempt(activity, c.subject(), &d, 8)
				switch {
				case activity == "Watch":
					require.NoError(t, err)
					assert.Equal(t, gone, d.Reason == policy.RetiringGone, d.Message)
				case gone:
					assert.True(t, isType(err, activities.TypeGone), "%v", err)
				default:
					c.isNotYet(err)
				}
			})
		}
	}
}

func TestAwaitHealthWithoutABudgetLooksAgain(t *testing.T) {
	t.Parallel()
	c := newCase(t)
	c.isNotYet(c.attempt("AwaitHealth", c.subject(), nil, 2))
	require.NoError(t, c.attempt("AwaitHealth", c.subject(), nil, 3))
}

// What hangs is one instance's trouble: the others are seen, and who does not answer is told.
func TestOneHangingAttestationHidesNobody(t *testing.T) {
	t.Parallel()
	const silent = "canary does not state which key it uses: no answer before the look had to end"
	t.Run("in the evidence", func(t *testing.T) {
		t.Parallel()
		c := reached(t, "Issue", "DeliverWave", "Promote")
		c.passOverlap()
		c.hangs(memory.OpAttest, "canary", 0)
		var e policy.Evidence
		c.execute("GatherEvidence", activities.EvidenceInput{Rotation: c.subject()}, &e)
		require.Len(t, e.Missing, 1)
		assert.Equal(t, silent, e.Missing[0].Message)
	})
	t.Run("in the plan", func(t *testing.T) {
		t.Parallel()
		c := newCase(t)
		c.hangs(memory.OpAttest, "canary", 0)
		var plan policy.Plan
		c.execute("Inspect", c.subject(), &plan)
		require.Len(t, plan.Refusals, 1)
		assert.Equal(t, silent, plan.Refusals[0].Message)
	})
}

func TestThePlanNamesHealthSignalsThatSayNothing(t *testing.T) {
	t.Parallel()
	c := budgeted(t, requests(0, 100), silent(errGone), silent(errQuiet))
	var plan policy.Plan
	c.execute("Inspect", c.subject(), &plan)
	assert.False(t, plan.Refused(), "%v", plan.Refusals)
	text := strings.Join(plan.Warnings, "\n")
	assert.NotContains(t, text, "health[0]")
	assert.Contains(t, text, "health[1] (memory): "+errGone.Error())
	assert.Contains(t, text, "health[2] (memory): "+errQuiet.Error())
}

func TestAwaitTraffic(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		signal says
		enough bool
	}{
		"as many requests as the ratio needs": {requests(0, 10), true},
		"a breach is enough to say something": {requests(50, 100), true},
		"too few in the window":               {requests(0, 9), false},
		"a signal without data":               {silent(errQuiet), false},
		"a signal that does not answer":       {silent(errGone), false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var c *crashCase
			c = budgeted(t, func(n int) (key.Sample, error) {
				c.wait(10 * time.Minute) // so that the window has the last two readings
				return tc.signal(n)
			})
			err := c.attempt("AwaitTraffic", c.subject(), nil, 4)
			if tc.enough {
				require.NoError(t, err)
				return
			}
			c.isNotYet(err)
		})
	}
}

// A soak counts its requests from when its wave had converged.
func TestASoakCountsItsRequests(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		signal says
		want   policy.Reason
	}{
		"as many as the ratio needs":             {requests(0, 10), policy.Allowed},
		"too few":                                {requests(0, 9), policy.BudgetTooLittle},
		"a signal that falls silent":             {requests(0, 10).until(1, silent(errGone)), policy.BudgetNoData},
		"a signal that was silent when it began": {silent(errGone).until(1, requests(0, 10)), policy.BudgetNoData},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := budgeted(t, tc.signal)
			c.run("Issue")
			var wave activities.WaveResult
			c.execute("DeliverWave", activities.WaveInput{Rotation: c.subject(), Key: c.incoming, Wave: "all"}, &wave)
			require.Len(t, wave.Signals, 1)
			c.wait(10 * time.Minute)
			var d policy.Decision
			c.execute("HadTraffic", activities.TrafficInput{Rotation: c.subject(), Signals: wave.Signals}, &d)
			assert.Equal(t, tc.want, d.Reason, d.Message)
			if d.OK {
				assert.Equal(t, "0 of 10 requests failed, within the budget of 1.00%", d.Message)
			}
		})
	}
	t.Run("not where no budget needs them, nor on the way back", func(t *testing.T) {
		t.Parallel()
		c := newCase(t)
		c.run("Issue")
		var wave activities.WaveResult
		c.execute("DeliverWave", activities.WaveInput{Rotation: c.subject(), Key: c.incoming, Wave: "all"}, &wave)
		assert.Empty(t, wave.Signals)
		c = budgeted(t, requests(0, 10))
		c.run("Issue")
		c.execute("DeliverWave", activities.WaveInput{Rotation: c.subject(), Key: c.retiring, Wave: "rollback"}, &wave)
		assert.Empty(t, wave.Signals)
	})
}
