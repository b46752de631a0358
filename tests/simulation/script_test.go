package simulation

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/keyturn/keyturn/providers/memory"
	"github.com/keyturn/keyturn/workflows"
)

// opAudit is the writing of the audit record, which is a side effect like the others.
const opAudit memory.Op = "audit"

// kind is what befalls one call.
type kind string

const (
	dieBefore kind = "dies before"
	dieAfter  kind = "dies after"
	loseReply kind = "loses the reply of"
	throttle  kind = "is throttled at"
	fail      kind = "fails at"
	hang      kind = "hangs in"
)

var kinds = []kind{dieBefore, dieAfter, loseReply, throttle, fail, hang}

// fault befalls one call: the n-th, counted from 1, that an activity makes of an operation, on one instance where
// it is about instances. It does not depend on what other activities do at the same time.
type fault struct {
	activity string
	op       memory.Op
	instance string
	call     int
	kind     kind
}

func (f fault) String() string {
	return strings.TrimSpace(fmt.Sprintf("%s %s call %d of %s %s", f.activity, f.kind, f.call, f.op, f.instance))
}

// effects are the operations of each activity at which something can befall it.
var effects = []struct {
	activity string
	ops      []memory.Op
}{
	{"Inspect", []memory.Op{memory.OpList, memory.OpAttest, memory.OpCapabilities}},
	{"Issue", []memory.Op{memory.OpPutMetadata, memory.OpIssue, memory.OpStage, memory.OpSelfTest, memory.OpCheck, opAudit}},
	{"DeliverWave", []memory.Op{memory.OpPutMetadata, memory.OpDeliver, memory.OpPurge, memory.OpPurge, memory.OpHolds, memory.OpAttest, memory.OpCheck, memory.OpRead, opAudit}},
	{"Promote", []memory.Op{memory.OpPromote, memory.OpPutMetadata, memory.OpAttest, opAudit}},
	{"Watch", []memory.Op{memory.OpSample, memory.OpCheck}},
	{"AwaitMissed", []memory.Op{memory.OpList, memory.OpMetadata}},
	{"GatherEvidence", []memory.Op{memory.OpList, memory.OpAttest, memory.OpIdentify, opAudit}},
	{"Disable", []memory.Op{memory.OpPutMetadata, memory.OpDisable, memory.OpAttest, opAudit}},
	{"Enable", []memory.Op{memory.OpPutMetadata, memory.OpEnable, opAudit}},
	{"Destroy", []memory.Op{memory.OpDestroy, memory.OpSelfTest, memory.OpSelfTest, opAudit}},
	{"RestoreLabels", []memory.Op{memory.OpPromote, memory.OpPutMetadata, opAudit}},
	{"Discard", []memory.Op{memory.OpDestroy, memory.OpPrune, memory.OpPurge, memory.OpPutMetadata, opAudit}},
	{"Record", []memory.Op{memory.OpPrune, memory.OpPurge, memory.OpPutMetadata, opAudit}},
	{"Notify", []memory.Op{memory.OpNotify}},
	{"Log", []memory.Op{opAudit}},
}

// onInstances are the operations that are about one instance.
var onInstances = []memory.Op{memory.OpDeliver, memory.OpAttest, memory.OpCheck, memory.OpPurge, memory.OpHolds}

// act is what a person or an incident does at some time.
type act struct {
	after time.Duration
	what  string          // rollback, extend, cancel, reject, compromised
	in    workflows.Phase // when set it is done as soon as the run is seen in it, whenever that is
}

// consumer is one consumer of the inventory.
type consumer struct {
	name, wave string
	instances  []string
	pulls      bool
	cacheTTL   time.Duration // its instances go on with a cached key for so long
	purge      bool          // they do until they are purged, and there is a hook for that
	longestRun time.Duration // it is a batch job
}

// outage is a time in which an instance is not well.
type outage struct {
	instance   string
	what       string // unreachable, unhealthy, mute
	from, long time.Duration
}

// script is what a seed means: the world, and all that befalls it. Nothing else is random, so that the same seed
// gives the same schedule. Each fault waits for a call of one activity, so that the same happens to issuer, store and
// each instance, in the same order; not promised are the order among them within a moment, and times to less than a
// second, since the environment's own goroutines race for those.
type script struct {
	seed uint64

	overlap, quiet, waveSoak, waveTimeout, disableSoak time.Duration
	pauses                                             bool // on a breach, instead of turning back
	approvals, signoffs                                int
	requestExpires                                     time.Duration
	decideAfter                                        time.Duration // how long people take to approve

	tokens, canDisable, reportsUsage bool
	slots                            int
	lag, consistentWithin            time.Duration

	consumers  []consumer
	reload     map[string]time.Duration
	never      string // an instance that never reloads
	outages    []outage
	undeclared time.Duration // until when somebody undeclared uses the retiring key
	wakes      bool          // somebody undeclared wakes up with the retiring key once it is disabled
	unpurged   bool          // nobody can remove what is left of a dead key
	steps      []string      // by which the last consumer's instances are parted
	parallel   int
	breachAt   time.Duration
	stranger   string // "", disabled or active
	adopted    bool
	overtaken  bool // somebody else changes the secret right before it is promoted
	leftover   bool // an earlier rotation died between mint and stage

	faults []fault
	acts   []act
}

func (s script) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d\n", s.seed)
	fmt.Fprintf(&b, "  policy: overlap %s, quiet %s, waveSoak %s, waveTimeout %s, disableSoak %s, %d+%d approvals after %s, requests expire %s, breach pauses %t\n",
		s.overlap, s.quiet, s.waveSoak, s.waveTimeout, s.disableSoak, s.signoffs, s.approvals, s.decideAfter, s.requestExpires, s.pauses)
	fmt.Fprintf(&b, "  issuer: tokens %t, disables %t, reports %t, slots %d, lag %s, consistent within %s\n",
		s.tokens, s.canDisable, s.reportsUsage, s.slots, s.lag, s.consistentWithin)
	for _, c := range s.consumers {
		fmt.Fprintf(&b, "  consumer %s %v, wave %q, pulls %t, cache %s, purge hook %t, longest run %s\n", c.name, c.instances, c.wave, c.pulls, c.cacheTTL, c.purge, c.longestRun)
	}
	fmt.Fprintf(&b, "  steps %v, %d at once, wakes %t, unpurged %t, reload after %v, never %q, undeclared use until %s, breach at %s, stranger %q, adopted %t, leftover %t\n",
		s.steps, s.parallel, s.wakes, s.unpurged, s.reload, s.never, s.undeclared, s.breachAt, s.stranger, s.adopted, s.leftover)
	for _, o := range s.outages {
		fmt.Fprintf(&b, "  %s is %s from %s for %s\n", o.instance, o.what, o.from, o.long)
	}
	for _, f := range s.faults {
		fmt.Fprintf(&b, "  %s\n", f)
	}
	for _, a := range s.acts {
		fmt.Fprintf(&b, "  after %s: %s\n", a.after, a.what)
	}
	return b.String()
}

// dice are the random choices of one seed.
type dice struct{ *rand.Rand }

// in tells true once in n times.
func (d dice) in(n int) bool { return d.IntN(n) == 0 }

func (d dice) minutes(from, to int) time.Duration {
	return time.Duration(from+d.IntN(to-from+1)) * time.Minute
}

func one[T any](d dice, of []T) T { return of[d.IntN(len(of))] }

// write makes the script of a seed.
func write(seed uint64) script {
	d := dice{rand.New(rand.NewPCG(seed, 0x6b657974))}
	s := script{seed: seed, reload: map[string]time.Duration{}}
	s.waveTimeout = d.minutes(10, 20)
	s.overlap = d.minutes(6, 16)
	s.quiet = min(d.minutes(5, 12), s.overlap)
	s.waveSoak, s.disableSoak = d.minutes(5, 7), d.minutes(5, 8)
	s.approvals, s.pauses = d.IntN(3), d.in(4)
	if d.in(8) {
		s.signoffs = 1
	}
	s.decideAfter = d.minutes(1, 6)
	if d.in(5) {
		s.requestExpires, s.decideAfter = 30*time.Minute, d.minutes(15, 40)
	}

	s.tokens, s.canDisable, s.reportsUsage = !d.in(2), !d.in(4), !d.in(5)
	s.slots = one(d, []int{2, 2, 3, 0})
	s.lag = min(one(d, []time.Duration{0, time.Minute, 5 * time.Minute}), s.quiet)
	s.consistentWithin = one(d, []time.Duration{0, 0, 3 * time.Second, 15 * time.Second})

	s.population(d)
	if s.consumers[0].pulls {
		// A canary that reads PENDING has the key before it is verified, and before such an issuer accepts it.
		s.consistentWithin = 0
	}
	s.befalls(d)
	s.people(d)
	s.freshness(d)
	return s
}

// freshness makes consumers that go on with a key that they had, and parts the last one into steps.
func (s *script) freshness(d dice) {
	for i := range s.consumers {
		c := &s.consumers[i]
		if slices.ContainsFunc(c.instances, func(name string) bool { return c.instance(name) == s.never }) {
			continue
		}
		switch d.IntN(8) {
		case 0:
			c.cacheTTL = d.minutes(1, 4)
		case 1, 2:
			c.purge = true
		case 3:
			if i == len(s.consumers)-1 { // the soak of a wave does not wait for the next run of a batch job
				c.longestRun = d.minutes(2, 5)
			}
		}
		for _, name := range c.instances {
			if c.cacheTTL > 0 || c.purge || c.longestRun > 0 {
				s.reload[c.instance(name)] = 0
			}
		}
	}
	if d.in(3) && s.consumers[len(s.consumers)-1].longestRun == 0 {
		s.steps = one(d, [][]string{{"1%"}, {"1%", "50%"}, {"1", "2"}})
	}
	s.parallel, s.wakes = one(d, []int{0, 1, 2}), d.in(8)
	s.unpurged = d.in(6)
}

func (s *script) population(d dice) {
	s.consumers = []consumer{{name: "canary", wave: "canary", instances: []string{"canary"}, pulls: d.in(5)}}
	if d.in(3) {
		s.consumers = append(s.consumers, consumer{name: "early", wave: "early", instances: []string{"early"}, pulls: d.in(5)})
	}
	web := consumer{name: "web", instances: []string{"a", "b", "c"}[:1+d.IntN(3)], pulls: d.in(4)}
	s.consumers = append(s.consumers, web)
	for _, name := range s.fleet() {
		s.reload[name] = one(d, []time.Duration{0, 0, 20 * time.Second, 2 * time.Minute, 5 * time.Minute})
	}
	if s.slots != 2 {
		s.stranger = one(d, []string{"", "", "disabled", "disabled", "active"})
		if s.stranger == "active" && !d.in(3) {
			s.stranger = "disabled"
		}
	}
	s.adopted, s.leftover = d.in(20), d.in(15)
	if s.adopted {
		s.leftover = false
		for i := range s.consumers {
			s.consumers[i].pulls = false // there is nothing in the store to pull
		}
	}
}

func (s *script) befalls(d dice) {
	if d.in(25) {
		s.never = one(d, s.fleet())
	}
	if d.in(5) {
		s.outages = append(s.outages, outage{one(d, s.fleet()), one(d, []string{"unreachable", "unhealthy", "mute"}), d.minutes(0, 45), d.minutes(1, 30)})
	}
	if d.in(6) {
		s.undeclared = d.minutes(5, 60)
	}
	if d.in(8) {
		s.breachAt = d.minutes(3, 45)
	}
	for range d.IntN(7) {
		e := one(d, effects)
		f := fault{activity: e.activity, op: one(d, e.ops), call: 1 + d.IntN(3), kind: one(d, kinds)}
		if slices.Contains(onInstances, f.op) {
			f.instance = one(d, s.fleet())
			if f.activity == "Issue" {
				f.instance = "" // a smoke test
			}
		}
		s.faults = append(s.faults, f)
	}
}

func (s *script) people(d dice) {
	if d.in(4) {
		s.acts = append(s.acts, act{after: d.minutes(0, 50), what: "rollback"})
	}
	for _, rare := range []struct {
		what string
		n    int
	}{{"extend", 10}, {"cancel", 20}, {"reject", 6}, {"compromised", 40}} {
		if d.in(rare.n) {
			s.acts = append(s.acts, act{after: d.minutes(0, 50), what: rare.what})
		}
	}
}

// fleet are the declared instances, as the world names them.
func (s script) fleet() (names []string) {
	for _, c := range s.consumers {
		for _, i := range c.instances {
			names = append(names, c.instance(i))
		}
	}
	return names
}

// instance is the world's name of an instance.
func (c consumer) instance(name string) string {
	if name == c.name {
		return name
	}
	return c.name + "-" + name
}
