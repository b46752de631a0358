package main

import (
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/charmbracelet/x/ansi"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/workflows"
)

var anew = flag.Bool("update", false, "write testdata/pictures anew")

// ten is when the rotations of these tests begin.
var ten = time.Date(2026, time.March, 2, 10, 0, 0, 0, time.UTC)

func after(minutes float64) time.Time { return ten.Add(time.Duration(minutes * float64(time.Minute))) }

// drawn is a picture, when and on what it is drawn.
type drawn struct {
	picture
	now   time.Time
	paper paper
}

func every(phases ...string) (steps []policy.Step) {
	for _, p := range phases {
		steps = append(steps, policy.Step{Phase: p})
	}
	return steps
}

// running is a rotation that has begun, of a credential with a canary and forty instances in three waves.
func running(phase workflows.Phase, since, now float64, change func(*drawn)) drawn {
	fleet := func(from, to int) (names []string) {
		for i := from; i < to; i++ {
			names = append(names, fmt.Sprintf("checkout/%02d", i))
		}
		return names
	}
	soak := inventory.Duration(10 * time.Minute)
	d := drawn{now: after(now), paper: paper{width: 120, zone: time.UTC}, picture: picture{
		status: standing{Status: workflows.Status{
			Credential: "payments-api", Owner: "payments@example.com", Phase: phase, Since: after(since),
			Waves: []workflows.WaveStatus{
				{Name: "canary", Instances: []string{"checkout-canary"}, State: "waiting"},
				{Name: "first", Instances: fleet(0, 8), State: "waiting"}, {Name: "rest", Instances: fleet(8, 40), State: "waiting"},
			},
			Retiring: key.Ref{Principal: "payments-api", KeyID: "key-2025-11"},
			Keys:     []workflows.KeyMoment{{At: ten, Key: workflows.RoleRetiring, State: workflows.KeyCurrent}},
			Notices:  []string{"nobody is asked before a key is issued"},
			Timeline: []workflows.Moment{{At: ten, Phase: workflows.PhaseInspect, What: "ann@example.com signed the spec"}},
		}},
		plan: policy.Plan{
			MadeAt: ten, CanDisable: true, CanRollBack: true, Retiring: &key.Ref{KeyID: "key-2025-11"},
			Steps: every("issue", "issue", "deliver", "deliver", "deliver", "promote", "overlap", "revoke-gate", "disable", "revoke", "record"),
			Waves: []policy.Wave{{Name: "canary", Soak: soak}, {Name: "first", Soak: soak}, {Name: "rest", Soak: soak}},
		},
		spec: inventory.Credential{
			Name: "payments-api", Terms: inventory.Terms{
				QuietWindow: inventory.Duration(6 * time.Hour),
				ErrorBudget: &inventory.ErrorBudget{Ratio: 0.01, Window: inventory.Duration(5 * time.Minute), MinTotal: 50},
			},
		},
	}}
	d.heard = d.now
	change(&d)
	return d
}

func (d *drawn) happened(at float64, phase workflows.Phase, what string) {
	d.status.Timeline = append(d.status.Timeline, workflows.Moment{At: after(at), Phase: phase, What: what})
}

func (d *drawn) became(at float64, k workflows.KeyRole, s workflows.KeyState) {
	d.status.Keys = append(d.status.Keys, workflows.KeyMoment{At: after(at), Key: k, State: s})
}

func (d *drawn) issued() {
	d.status.Incoming = key.Ref{Principal: "payments-api", KeyID: "key-2026-03"}
	d.became(1, workflows.RoleIncoming, workflows.KeyPending)
	d.happened(1, workflows.PhaseIssue, "issued key key-2026-03, stored as PENDING in version v7")
}

// delivered is the rotation with so many waves passed.
func (d *drawn) passed(waves int) {
	d.issued()
	for i := range d.status.Waves[:waves] {
		d.status.Waves[i].State = "passed"
		d.happened(float64(2+11*(i+1)), workflows.PhaseDeliver, "wave "+d.status.Waves[i].Name+" passed")
	}
}

func (d *drawn) promoted() {
	d.passed(3)
	d.became(36, workflows.RoleIncoming, workflows.KeyCurrent)
	d.became(36, workflows.RoleRetiring, workflows.KeyPrevious)
	d.happened(36, workflows.PhasePromote, "promoted key key-2026-03 to CURRENT")
}

// failing are readings, one each half minute, of so many errors of a thousand requests.
func (d *drawn) failing(errors ...float64) {
	for i, e := range errors {
		d.errors = append(d.errors, reading{at: after(float64(i) / 2), errors: e, total: 1000})
	}
}

func (d *drawn) ended(at float64, outcome workflows.Outcome, message string) {
	d.status.Phase, d.status.WaitsFor, d.status.UnblockedBy, d.status.Until = workflows.PhaseEnded, "", "", time.Time{}
	d.status.Report = &workflows.Report{
		Credential: "payments-api", Outcome: outcome, Message: message, StartedAt: ten, EndedAt: after(at),
		Retiring: d.status.Retiring, Incoming: d.status.Incoming, Timeline: d.status.Timeline,
	}
}

const day = 24 * 60.0

// pictures are what a person may see of rotations, from their begin to each end.
func pictures() map[string]drawn {
	overlap := func(d *drawn) {
		d.promoted()
		d.status.Doing, d.status.WaitsFor, d.status.UnblockedBy = "Both keys are accepted.", "the end of the overlap", "time; or: extend, rollback"
		d.status.Until = after(36 + 2*day)
		d.failing(0, 1, 1, 2, 4, 3, 2, 6, 5, 3, 1, 2, 0, 1)
	}
	gate := func(d *drawn) {
		d.promoted()
		d.failing(0, 1, 0)
		d.status.Doing = "Waiting for approval to revoke the retiring key: 41 instances on the incoming key, none on the retiring one."
		d.status.WaitsFor, d.status.UnblockedBy = "the revoke gate: 3 must approve", "payments-owners, with approve; or reject"
		d.status.Until = after(3100 + 3*day)
		d.status.Gate = &policy.OpenGate{
			Gate: inventory.GateRevoke, Needs: inventory.Approval{Count: 3, From: []string{"payments-owners"}, ApprovalExpires: inventory.Duration(24 * time.Hour)}, OpenedAt: after(3100),
			Approvals: []policy.Verdict{approvedBy("ann@example.com", after(3100)), approvedBy("bob@example.com", after(3100)), approvedBy("eve@example.com", after(3100-2*day))},
		}
		d.status.Evidence = &policy.Evidence{Complete: true}
	}
	rollback := func(d *drawn) {
		d.passed(1)
		d.status.Waves[1].State = "failed"
		d.failing(0, 1, 2, 2, 6, 14, 37, 52)
		d.happened(17, workflows.PhaseDeliver, "watch: 52 of 1000 requests failed in 5m: 5.20%, above the budget of 1.00%")
		d.status.Doing = "Turning back to the retiring key: 52 of 1000 requests failed in 5m: 5.20%, above the budget of 1.00%"
		d.status.WaitsFor, d.status.UnblockedBy = "every instance to attest the retiring key again", "whoever runs these instances"
		d.became(17.5, workflows.RoleRetiring, workflows.KeyCurrent)
	}
	on := func(p paper, d drawn) drawn {
		p.zone = time.UTC
		d.paper = p
		return d
	}
	return map[string]drawn{
		"begin": running(workflows.PhaseInspect, 0, 0.05, func(d *drawn) {
			d.status.Status = workflows.Status{
				Credential: "payments-api", Owner: "payments@example.com", Phase: workflows.PhaseInspect, Since: ten,
				Doing: "Looking at issuer, store and consumers; nothing is changed yet.",
			}
			d.plan = policy.Plan{}
		}),
		"canary": running(workflows.PhaseDeliver, 2, 6, func(d *drawn) {
			d.passed(0)
			d.status.Waves[0].State = "soaking"
			d.status.Doing, d.status.WaitsFor, d.status.UnblockedBy = "Delivering the incoming key to wave canary (1 of 3).", "the wave's soak", "time; or: rollback"
			d.status.Until = after(12.5)
			d.errors = []reading{{at: after(3), errors: 1, total: 12}}
		}),
		"half of 40 instances": running(workflows.PhaseDeliver, 24, 25, func(d *drawn) {
			d.passed(2)
			d.status.Waves[2].State, d.delivered = "delivering", 20
			d.status.Doing = "Delivering the incoming key to wave rest (3 of 3)."
			d.status.WaitsFor = "every instance of wave rest to attest the incoming key and to pass its check"
			d.status.UnblockedBy = "whoever runs these instances; or: rollback"
			d.failing(0, 0, 1, 0)
		}),
		"overlap": running(workflows.PhaseOverlap, 36, 36+day, overlap),
		"overlap, nobody answers": running(workflows.PhaseOverlap, 36, 36+day, func(d *drawn) {
			overlap(d)
			d.heard, d.silent = after(30+day), "the rotation of payments-api is running, and no worker answers for it; start a worker, nothing is lost"
		}),
		"terminated": running(workflows.PhaseDeliver, 24, 26, func(d *drawn) {
			d.passed(2)
			d.status.Doing = "The run was terminated at 10:25:00 by ann@laptop (by mistake). It left no report, and took nothing back. What is true of both keys is below. The next rotation goes on from there: keyturn rotate payments-api"
			d.status.Ended = &ending{
				As: "terminated", At: after(25), Was: "Delivering the incoming key to wave rest (3 of 3).", Next: "keyturn rotate payments-api",
				Keys: []keyNow{
					{workflows.RoleRetiring, key.Ref{Principal: "payments-api", KeyID: "key-2025-11"}, "current"},
					{workflows.RoleIncoming, key.Ref{Principal: "payments-api", KeyID: "key-2026-03"}, "pending, consumers may have it"},
				},
			}
		}),
		"begin, nobody answers": running(workflows.PhaseInspect, 0, 1, func(d *drawn) {
			d.picture = picture{status: standing{Status: workflows.Status{Credential: "payments-api"}}, silent: "the rotation of payments-api is running, and no worker answers for it; start one, nothing is lost"}
		}),
		"evidence lacks": running(workflows.PhaseEvidence, 36+2*day, 36+2*day+90, func(d *drawn) {
			d.promoted()
			d.status.Doing = "Gathering the evidence that nobody needs the retiring key."
			missing := "the retiring key was used 2026-03-04T09:06:00Z, and must be quiet for 6h"
			d.status.WaitsFor, d.status.UnblockedBy = missing, "whoever runs the consumers named; or: rollback"
			d.status.Evidence = &policy.Evidence{QuietSince: after(2*day - 54), Missing: []policy.Decision{{Reason: policy.RetiringNotQuiet, Message: missing}}}
		}),
		"gate waits": running(workflows.PhaseRevokeGate, 3100, 3130, gate),
		"held for want of traffic": running(workflows.PhaseDeliver, 14, 40, func(d *drawn) {
			d.passed(1)
			d.status.Waves[1].State = "held"
			d.errors = []reading{{at: after(39), errors: 0, total: 3}}
			d.status.Doing = "Held: wave first had fewer than the 50 requests in 5m that the error budget needs to say something."
			d.status.WaitsFor, d.status.UnblockedBy = "50 requests in 5m", "traffic; when there is too little, whoever passes the hold gate, which opens then; or: rollback"
			d.status.Until = after(14 + day)
		}),
		"disable soak": running(workflows.PhaseDisableSoak, 3200, 3900, func(d *drawn) {
			d.promoted()
			d.failing(0, 1, 0)
			d.became(3200, workflows.RoleRetiring, workflows.KeyDisabled)
			d.happened(3200, workflows.PhaseDisable, "disabled key key-2025-11")
			d.status.Doing, d.status.WaitsFor, d.status.UnblockedBy = "The retiring key is disabled; watching whether anybody misses it.", "the soak after disabling", "time; or: rollback"
			d.status.Until = after(3200 + day)
		}),
		"paused by a breach": running(workflows.PhaseDeliver, 13, 20, func(d *drawn) {
			d.passed(1)
			d.status.Waves[1].State = "soaking"
			d.failing(0, 1, 2, 2, 6, 14, 37, 52, 40, 22, 12)
			d.happened(17, workflows.PhaseDeliver, "watch: 52 of 1000 requests failed in 5m: 5.20%, above the budget of 1.00%")
			d.status.Doing = "Paused: 52 of 1000 requests failed in 5m: 5.20%, above the budget of 1.00%"
			d.status.WaitsFor, d.status.UnblockedBy = "the error budget and the checks to hold again", "whoever can mend the cause; or: rollback"
		}),
		"emergency in the overlap": running(workflows.PhaseContain, 40, 41, func(d *drawn) {
			d.promoted()
			d.plan = policy.Plan{}
			d.status.Waves = []workflows.WaveStatus{{Name: "all", Instances: d.status.Waves[2].Instances, State: "delivering"}}
			d.happened(40, workflows.PhaseContain, "incident/leak: key in a public repository. Exposed: key-2025-11")
			d.status.Doing = "Ending key-2025-11, exposed by incident/leak: key in a public repository"
			d.status.WaitsFor, d.status.UnblockedBy = "every consumer to be on another key", "time: at the deadline it goes on without those that are not"
			d.status.Until = after(55)
		}),
		"rolling back": running(workflows.PhaseRollback, 17, 18, rollback),
		"rolled back": running(workflows.PhaseEnded, 25, 30, func(d *drawn) {
			rollback(d)
			for i := range d.status.Waves[:2] {
				d.status.Waves[i].State = "turned-back"
			}
			d.became(25, workflows.RoleIncoming, workflows.KeyDestroyed)
			d.happened(25, workflows.PhaseRollback, "every consumer is on the retiring key; 1 unwanted key destroyed")
			d.ended(25, workflows.RolledBack, "52 of 1000 requests failed in 5m: 5.20%, above the budget of 1.00%")
		}),
		"refused": running(workflows.PhaseEnded, 0, 1, func(d *drawn) {
			d.happened(0.1, workflows.PhaseInspect, "refused: the issuer allows 2 keys and has 2")
			d.ended(0.1, workflows.Refused, "the issuer allows 2 keys and has 2 (and 1 more reasons)")
			d.status.Report.Refusals = []policy.Decision{
				{Reason: policy.SlotsFull, Message: "the issuer allows 2 keys and has 2: key-2025-11 (current, active), key-x (unknown, active); destroy one that is not in use"},
				{Reason: policy.UnknownActiveKey, Message: "key key-x of payments-api is active, was created 2026-02-01T00:00:00Z, and is not ours: name it under adopt, or destroy it at the issuer"},
			}
		}),
		"done": running(workflows.PhaseEnded, 4640, 5000, func(d *drawn) {
			d.promoted()
			d.failing(0, 1, 0)
			d.became(3200, workflows.RoleRetiring, workflows.KeyDisabled)
			d.became(4640, workflows.RoleRetiring, workflows.KeyDestroyed)
			d.happened(4640, workflows.PhaseRevoke, "destroyed key key-2025-11: refused by the issuer")
			d.happened(4640, workflows.PhaseRecord, "completed: The incoming key is in use everywhere, and the retiring one is dead.")
			d.ended(4640, workflows.Completed, "The incoming key is in use everywhere, and the retiring one is dead.")
			d.status.Report.RotateBy, d.status.Report.Probe = after(90*day), "refused by the issuer"
		}),
		"a retired key is settled": running(workflows.PhaseRevokeGate, 3100, 3130, func(d *drawn) {
			d.plan = policy.Plan{MadeAt: ten, Retiring: &key.Ref{KeyID: "key-2025-11"}}
			d.status.Waves, d.status.Keys, d.status.Timeline = nil, nil, nil
			d.became(0, workflows.RoleIncoming, workflows.KeyCurrent)
			d.became(0, workflows.RoleRetiring, workflows.KeyDisabled)
			d.status.Incoming = key.Ref{KeyID: "key-2026-03"}
			d.status.Doing = "Waiting for approval to revoke the retiring key."
		}),
		"a rotation that says nothing of its keys": running(workflows.PhaseOverlap, 36, 36+day, func(d *drawn) {
			overlap(d)
			d.status.Keys = nil
		}),
		"those who read the store follow": running(workflows.PhaseDeliver, 24, 25, func(d *drawn) {
			d.promoted()
			d.plan.Steps = every("issue", "deliver", "promote", "deliver", "deliver", "overlap", "revoke", "record")
			d.plan.CanDisable = false
		}),
		"twelve waves": running(workflows.PhaseDeliver, 24, 25, func(d *drawn) {
			d.issued()
			d.status.Waves = nil
			for i := range 12 {
				state := "waiting"
				switch {
				case i < 5:
					state = "passed"
				case i == 5:
					state = "delivering"
				}
				d.status.Waves = append(d.status.Waves, workflows.WaveStatus{Name: fmt.Sprintf("wave-%d", i+1), Instances: make([]string, 10*(i+1)), State: state})
			}
			d.delivered = 13
		}),
		"narrow":            on(paper{width: 80}, running(workflows.PhaseOverlap, 36, 36+day, overlap)),
		"narrow gate":       on(paper{width: 80, height: 23}, running(workflows.PhaseRevokeGate, 3100, 3130, gate)),
		"wide":              on(paper{width: 200, height: 50}, running(workflows.PhaseRollback, 17, 18, rollback)),
		"low":               on(paper{width: 100, height: 12}, running(workflows.PhaseOverlap, 36, 36+day, overlap)),
		"nothing but ASCII": on(paper{width: 100, ascii: true}, running(workflows.PhaseOverlap, 36, 36+day, overlap)),
		"colours":           on(paper{width: 100, colors: true}, running(workflows.PhaseRollback, 17, 18, rollback)),
	}
}

func approvedBy(who string, at time.Time) policy.Verdict {
	return policy.Verdict{Action: policy.Approve, Accepted: true, By: who, Verified: true, Groups: []string{"payments-owners"}, At: at}
}

// The pictures are kept in testdata/pictures: look at them when they change. -update writes them anew.
func TestPictures(t *testing.T) {
	t.Parallel()
	for name, d := range pictures() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := d.draw(d.now, d.paper)
			within(t, got, d.paper)
			file := filepath.Join("testdata", "pictures", strings.ReplaceAll(strings.ReplaceAll(name, ",", ""), " ", "-")+".txt")
			if *anew {
				require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
				require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
			}
			want, err := os.ReadFile(file)
			require.NoError(t, err)
			assert.Equal(t, string(want), got)
		})
	}
}

// within sees that a picture fits on its paper, and that a terminal obeys nothing in it but colours.
func within(t require.TestingT, text string, on paper) {
	rows := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if on.height > 0 {
		require.LessOrEqual(t, len(rows), on.height)
	}
	for _, row := range rows {
		require.LessOrEqual(t, ansi.StringWidth(row), max(on.width, narrowest), row)
		plain := row
		if on.colors {
			plain = sgr.ReplaceAllString(row, "")
		}
		require.Equal(t, -1, strings.IndexFunc(plain, func(r rune) bool { return !unicode.IsPrint(r) || on.ascii && r > unicode.MaxASCII }), "%q", row)
	}
}

var sgr = regexp.MustCompile("\x1b\\[[0-9;]*m")

func TestABudgetThatIsNextToNothingIsDrawn(t *testing.T) {
	t.Parallel()
	p, on := picture{heard: ten, errors: []reading{{ten, 0, 100}, {after(1), 0, 200}}}, paper{width: 80, zone: time.UTC}
	p.spec.ErrorBudget = &inventory.ErrorBudget{Ratio: math.SmallestNonzeroFloat64}
	within(t, p.draw(ten, on), on)
}

// Whatever a rotation says, and whatever the size of the terminal, the picture fits and is only looked at.
func TestEveryPictureFits(t *testing.T) {
	t.Parallel()
	text := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"", "payments-api", "日本語の鍵", "\x1b]0;pwned\a\x1b[2J", "a\u0301\u202e", strings.Repeat("long ", 300)}))
	moment := rapid.Map(rapid.Int64Range(-1<<40, 1<<50), func(n int64) time.Time { return ten.Add(time.Duration(n)) })
	phase := rapid.SampledFrom([]workflows.Phase{"", "inspect", "issue", "deliver", "overlap", "evidence", "revoke-gate", "disable-soak", "rollback", "record", "ended", "else"})
	ref := rapid.Custom(func(t *rapid.T) key.Ref {
		return key.Ref{Principal: text.Draw(t, "principal"), KeyID: text.Draw(t, "id")}
	})
	rapid.Check(t, func(t *rapid.T) {
		s := workflows.Status{
			Credential: text.Draw(t, "credential"), Owner: text.Draw(t, "owner"), Phase: phase.Draw(t, "phase"), Since: moment.Draw(t, "since"),
			Doing: text.Draw(t, "doing"), WaitsFor: text.Draw(t, "waits"), UnblockedBy: text.Draw(t, "by"), NoWayBack: text.Draw(t, "no way back"),
			Retiring: ref.Draw(t, "retiring"), Incoming: ref.Draw(t, "incoming"), Notices: rapid.SliceOfN(text, 0, 9).Draw(t, "notices"),
		}
		if rapid.Bool().Draw(t, "timed") {
			s.Until = moment.Draw(t, "until")
		}
		if rapid.Bool().Draw(t, "gate") {
			s.Gate = &policy.OpenGate{Gate: inventory.Gate(text.Draw(t, "gate")), Needs: inventory.Approval{Count: rapid.Int().Draw(t, "count")}}
		}
		if rapid.Bool().Draw(t, "ended") {
			s.Report = &workflows.Report{Outcome: workflows.Outcome(text.Draw(t, "outcome")), Message: text.Draw(t, "message"), StartedAt: moment.Draw(t, "started"), EndedAt: moment.Draw(t, "end")}
		}
		var end *ending
		if rapid.Bool().Draw(t, "terminated") {
			end = &ending{As: text.Draw(t, "as"), Was: text.Draw(t, "was"), Keys: []keyNow{{Key: ref.Draw(t, "left"), Is: text.Draw(t, "is")}}, Next: text.Draw(t, "next")}
		}
		for range rapid.IntRange(0, 14).Draw(t, "waves") {
			s.Waves = append(s.Waves, workflows.WaveStatus{
				Name: text.Draw(t, "wave"), Instances: make([]string, rapid.IntRange(0, 2000).Draw(t, "instances")),
				State: rapid.SampledFrom([]string{"", "waiting", "delivering", "soaking", "passed", "failed", "turned-back"}).Draw(t, "state"),
			})
		}
		for range rapid.IntRange(0, 9).Draw(t, "moments") {
			s.Timeline = append(s.Timeline, workflows.Moment{At: moment.Draw(t, "at"), Phase: phase.Draw(t, "of"), What: text.Draw(t, "what")})
			s.Keys = append(s.Keys, workflows.KeyMoment{
				At: moment.Draw(t, "became"), Key: rapid.SampledFrom([]workflows.KeyRole{"retiring", "incoming", ""}).Draw(t, "role"),
				State: workflows.KeyState(rapid.SampledFrom([]string{"pending", "current", "previous", "disabled", "destroyed", "else", ""}).Draw(t, "is")),
			})
		}
		p := picture{status: standing{Status: s, Ended: end}, delivered: rapid.Int().Draw(t, "delivered"), silent: text.Draw(t, "silent"), heard: ten}
		p.spec.ErrorBudget = &inventory.ErrorBudget{Ratio: rapid.Float64().Draw(t, "ratio")}
		for range rapid.IntRange(0, 4).Draw(t, "readings") {
			p.errors = append(p.errors, reading{at: moment.Draw(t, "read"), errors: rapid.Float64().Draw(t, "errors"), total: rapid.Float64().Draw(t, "total")})
		}
		on := paper{
			width: rapid.IntRange(0, 250).Draw(t, "width"), height: rapid.IntRange(0, 60).Draw(t, "height"), zone: time.UTC,
			ascii: rapid.Bool().Draw(t, "ascii"), colors: rapid.Bool().Draw(t, "colors"),
		}
		within(t, p.draw(moment.Draw(t, "now"), on), on)
	})
}
