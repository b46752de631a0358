package workflows_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/providers/memory"
	"github.com/keyturn/keyturn/workflows"
)

// enlarge gives the credential one consumer of n instances, in steps, instead of its own.
func (s *stage) enlarge(n int, steps ...inventory.WaveStep) (names []string) {
	provider := func() inventory.Provider {
		return inventory.Provider{Type: "memory", Config: json.RawMessage(`{"type":"memory","instance":"web-{instance}"}`)}
	}
	check, attestation := provider(), provider()
	web := inventory.Consumer{Name: "web", Target: provider(), Check: &check, Attestation: &attestation}
	held, _ := s.world.Held("canary")
	for i := range n {
		web.Instances = append(web.Instances, fmt.Sprintf("i%d", i))
		names = append(names, fmt.Sprintf("web-i%d", i))
		s.world.SetInstance(names[i], memory.InstanceSettings{})
		s.world.Give(names[i], held)
	}
	s.credential.Consumers, s.credential.WaveSteps = []inventory.Consumer{web}, steps
	return names
}

func (s *stage) refusedOf(names []string) (n int) {
	for _, name := range names {
		_, refused := s.world.Requests(name)
		n += refused
	}
	return n
}

func TestWavesBySteps(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	names := s.enlarge(50, "1%", "10%", "50%")
	s.use(names, 4*time.Hour)
	s.approve()
	// In the soak of each step, just so many have the key.
	for i, want := range []int{1, 5, 25, 50} {
		step := []string{"rest-1%", "rest-10%", "rest-50%", "rest"}[i]
		s.in(step+" soaking", time.Duration(2*i+1)*time.Minute, func() { assert.Len(t, s.world.Happened(memory.OpDeliver), want, step) })
	}
	var waves []string
	s.in("overlap", 10*time.Minute, func() {
		for _, w := range s.status().Waves {
			waves = append(waves, fmt.Sprintf("%s %d %s", w.Name, len(w.Instances), w.State))
		}
	})
	report := s.run()
	require.Equal(t, workflows.Completed, report.Outcome, report.Message)
	assert.Zero(t, s.refusedOf(names))
	assert.Equal(t, []string{"rest-1% 1 passed", "rest-10% 4 passed", "rest-50% 20 passed", "rest 25 passed"}, waves)
}

// The first step is the canary in effect: what breaks on the new key there, breaks nowhere else.
func TestTheFirstStepThatBreaksIsTheOnlyOne(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	names := s.enlarge(50, "10%", "50%")
	s.use(names, 2*time.Hour)
	s.in("rest-10% soaking", 10*time.Second, func() {
		for _, e := range s.world.Happened(memory.OpDeliver) {
			s.world.SetInstance(e.Instance, memory.InstanceSettings{Unhealthy: errors.New("HTTP 500 since the reload")})
		}
	})
	report := s.run()
	require.Equal(t, workflows.RolledBack, report.Outcome, report.Message)
	assert.Zero(t, s.refusedOf(names))
	touched := map[string]bool{}
	for _, e := range s.world.Happened(memory.OpDeliver) {
		touched[e.Instance] = true
	}
	assert.Len(t, touched, 5, "the rest was never touched")
	assert.Equal(t, []string{"key-old active"}, s.keys())
}

func TestHalfOfAWaveFailingTurnsBack(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	names := s.enlarge(200, "1%")
	s.use(names, 2*time.Hour)
	s.impatient()
	s.in("rest-1% soaking", time.Minute, func() {
		bad := 0
		for _, name := range names {
			if touched := slices.ContainsFunc(s.world.Happened(memory.OpDeliver), func(e memory.Event) bool { return e.Instance == name }); !touched && bad < 100 {
				bad++
				s.world.SetInstance(name, memory.InstanceSettings{NeverReloads: true})
			}
		}
	})
	report := s.run()
	require.Equal(t, workflows.RolledBack, report.Outcome, report.Message)
	assert.Contains(t, report.Message, "wave rest did not converge")
	assert.Contains(t, report.Message, "and 99 more of 198 instances")
	assert.Zero(t, s.refusedOf(names))
	for _, name := range names {
		assert.Equal(t, "key-old", s.world.Using(name))
	}
}

// Every kind of consumer that goes on with a key that it had: nobody is refused, forwards and back.
func TestWhoGoesOnWithAKeyIsNotCutOff(t *testing.T) {
	t.Parallel()
	hook := inventory.Provider{Type: "memory", Config: json.RawMessage(`{"type":"memory","instance":"checkout-{instance}"}`)}
	for name, prepare := range map[string]func(*stage){
		"a cache that runs out": func(s *stage) {
			s.credential.Consumers[1].CacheTTL = minutes(10)
			s.world.SetInstance("checkout-a", memory.InstanceSettings{Caches: 10 * time.Minute})
			s.world.SetInstance("checkout-b", memory.InstanceSettings{Caches: 5 * time.Minute})
		},
		"a cache that is purged": func(s *stage) {
			s.credential.Consumers[1].Purge = &hook
			for _, name := range fleet[1:] {
				s.world.SetInstance(name, memory.InstanceSettings{Caches: 1000 * time.Hour})
			}
		},
		"a batch job": func(s *stage) {
			s.credential.Consumers[1].LongestRun = minutes(12)
			for _, name := range fleet[1:] {
				s.world.SetInstance(name, memory.InstanceSettings{RunsEvery: 15 * time.Minute, RunsFor: 12 * time.Minute})
			}
		},
		"a batch job that says nothing at all": func(s *stage) {
			s.credential.Consumers[1].LongestRun = minutes(12)
			s.credential.Consumers[1].Check, s.credential.Consumers[1].Attestation = nil, nil
			for _, name := range fleet[1:] {
				s.world.SetInstance(name, memory.InstanceSettings{RunsEvery: 15 * time.Minute, RunsFor: 12 * time.Minute})
			}
		},
	} {
		for place, after := range map[string]time.Duration{"": 0, "overlap": 15 * time.Minute, "canary soaking": time.Minute} {
			t.Run(name+map[bool]string{true: ", turned back in " + place}[place != ""], func(t *testing.T) {
				t.Parallel()
				s := newStage(t)
				prepare(s)
				s.traffic(8 * time.Hour)
				s.approve()
				want := workflows.Completed
				if place != "" {
					want = workflows.RolledBack
					s.request(place, after, "rollback", policy.Request{By: "ann", Reason: "errors"})
				}
				report := s.run()
				require.Equal(t, want, report.Outcome, report.Message)
				assert.Zero(t, s.refused(), "no request was refused")
				assert.Len(t, s.keys(), 1)
			})
		}
	}
}

// A job that nobody declared wakes up with the retiring key while that is disabled: the key is enabled again at the next
// look, and stays so until it was quiet.
func TestWhoMissesTheDisabledKeyGetsItBack(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	settings := memory.Strict()
	settings.UsageLag = 0
	s.world.SetPrincipal("payments-api", settings)
	s.credential.Health[0].Config = json.RawMessage(`{"type":"memory","instances":["canary","checkout-a","checkout-b"]}`) // of those who are declared
	s.traffic(6 * time.Hour)
	s.approve()
	old, _ := s.world.Held("canary")
	s.world.SetInstance("night-batch", memory.InstanceSettings{})
	s.world.Give("night-batch", old)
	var woke, served time.Time
	refused := 0
	var wake func()
	wake = func() {
		if len(s.world.Happened(memory.OpDisable)) > 0 {
			if woke.IsZero() {
				woke = s.env.Now()
			}
			if s.world.Request("night-batch") == nil {
				served = s.env.Now()
				return
			}
			refused++
		}
		s.at(10*time.Second, wake)
	}
	s.at(10*time.Minute, wake)
	report := s.run()
	require.Equal(t, workflows.Completed, report.Outcome, report.Message)
	assert.Zero(t, s.refused())
	assert.Positive(t, refused)
	require.False(t, served.IsZero())
	assert.LessOrEqual(t, served.Sub(woke), 40*time.Second, "refused for no longer than the watch interval of 30 s, and the request after it")
	assert.Equal(t, []string{"issue new-1", "disable key-old", "enable key-old", "disable key-old", "destroy key-old"},
		s.happened(memory.OpIssue, memory.OpDisable, memory.OpEnable, memory.OpDestroy))
	var told []string
	for _, n := range s.world.Notifications() {
		told = append(told, n.Subject+": "+n.Body)
	}
	assert.Contains(t, fmt.Sprint(told), "used by night-batch")
}

// The issuer's reports stand still once the key is disabled, and somebody whom nobody declared is refused: that nobody is seen to miss
// the key proves nothing then, people are told, and it is not destroyed. It is enabled instead, and whoever needs it is seen later.
func TestReportsThatStandStillDestroyNothing(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	settings := memory.Strict()
	settings.UsageLag = 0
	s.world.SetPrincipal("payments-api", settings)
	s.credential.Health[0].Config = json.RawMessage(`{"type":"memory","instances":["canary","checkout-a","checkout-b"]}`)
	s.credential.DisableSoak = minutes(30)
	s.traffic(9 * time.Hour)
	s.approve()
	old, _ := s.world.Held("canary")
	s.world.SetInstance("night-batch", memory.InstanceSettings{})
	s.world.Give("night-batch", old)
	var disabled atomic.Int64
	s.world.On(memory.OpDisable, func(p memory.Phase) {
		if p == memory.After && disabled.CompareAndSwap(0, s.clock.Load().Now().UnixNano()) {
			silent := settings
			silent.ReportLag = 100 * time.Hour
			s.world.SetPrincipal("payments-api", silent)
		}
	})
	needed := time.Duration(0) // for how long it is needed after that
	s.every(time.Minute, 9*time.Hour, func() {
		if at := disabled.Load(); at > 0 && needed < 2*time.Hour {
			needed = s.env.Now().Sub(time.Unix(0, at))
			_ = s.world.Request("night-batch")
		}
		if needed > time.Hour {
			s.world.SetPrincipal("payments-api", settings)
		}
	})
	report := s.run()
	require.Equal(t, workflows.Completed, report.Outcome, report.Message)
	assert.Zero(t, s.refused())
	assert.Equal(t, []string{"issue new-1", "disable key-old", "enable key-old", "disable key-old", "destroy key-old"},
		s.happened(memory.OpIssue, memory.OpDisable, memory.OpEnable, memory.OpDestroy))
	destroyed := s.world.Happened(memory.OpDestroy)[0].At
	assert.Greater(t, destroyed.Sub(time.Unix(0, disabled.Load())), 2*time.Hour+5*time.Minute, "it was quiet before")
	var told []string
	for _, n := range s.world.Notifications() {
		told = append(told, n.Subject+": "+n.Body)
	}
	assert.Contains(t, fmt.Sprint(told), "has not gone on as it should")
}

func TestTheEvidenceIsGatheredAgainWhenTheKeyIsMissed(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.approveAt(atGate)
	s.answers["AwaitMissed"] = func(n int) (any, error) {
		if n == 2 {
			return policy.Decision{Reason: policy.RetiringMissed, Message: "key key-old was used by night-batch"}, nil
		}
		return nil, nil
	}
	s.every(20*time.Minute, atGate+6*time.Hour, func() {
		if gate := s.status().Gate; gate != nil && s.env.Now().Sub(s.began) > atGate && len(gate.Approvals) == 0 {
			s.ask(policy.Approve, policy.Request{Gate: "revoke", By: "ann"}, nil)
		}
	})
	report := s.run()
	require.Equal(t, workflows.Completed, report.Outcome, report.Message)
	again := slices.Index(s.asked, "enable")
	require.Positive(t, again)
	// At once, and as a step of the soak that ends: beside each other, so that the slower one may come after the evidence.
	assert.Equal(t, "disable with 1 approvals", s.asked[again-1])
	assert.ElementsMatch(t, []string{"enable", "enable", "gather"}, s.asked[again:again+3])
	assert.Equal(t, []string{"disable with 1 approvals", "destroy with 1 approvals"}, s.asked[again+3:again+5])
}

// What fails for good is trust or rights that somebody took away, maybe for a moment: it is said once, and tried again.
func TestAWatchOfTheDisabledKeyThatFailsIsToldAndBegunAgain(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.credential.DisableSoak = minutes(60)
	s.approveAt(atGate)
	s.answers["AwaitMissed"] = func(int) (any, error) {
		return nil, temporal.NewNonRetryableApplicationError("listing keys at the issuer: access denied", activities.TypeDenied, nil)
	}
	report := s.run()
	require.Equal(t, workflows.Completed, report.Outcome, report.Message)
	assert.GreaterOrEqual(t, s.called("AwaitMissed"), 6)
	told := 0
	for _, n := range s.notes {
		if strings.Contains(n.Body, "access denied") {
			told++
		}
	}
	assert.Equal(t, 1, told)
}

// Destroying judges by itself, from facts of its own: the key is enabled, and its evidence gathered anew.
func TestAKeyThatIsNotDestroyedIsEnabled(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.approveAt(atGate)
	s.answers["Destroy"] = func(int) (any, error) { return activities.Destroyed{Decision: no(policy.RetiringMissed)}, nil }
	turned := false
	s.answers["GatherEvidence"] = func(n int) (any, error) {
		if s.has("enable") && !turned { // nobody need sign that: the key is not disabled any more
			turned = true
			s.ask(policy.Rollback, policy.Request{By: "ann", Reason: "somebody needs it"}, nil)
		}
		return nil, nil
	}
	report := s.run()
	assert.Equal(t, workflows.RolledBack, report.Outcome, report.Message)
	assert.Contains(t, s.asked, "enable")
}
