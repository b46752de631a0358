package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/workflows"
)

const lives = "../workflows/testdata/histories/"

// past reads a run of which the tests of workflows have the history.
func past(t *testing.T, file string) *pastRun {
	t.Helper()
	text, err := os.Open(file)
	require.NoError(t, err)
	defer text.Close()
	whole, err := client.HistoryFromJSON(text, client.HistoryJSONOptions{})
	require.NoError(t, err)
	started := whole.Events[0].GetWorkflowExecutionStartedEventAttributes()
	run := newPastRun(strings.TrimPrefix(started.GetWorkflowId(), "rotation/"), "", started.GetOriginalExecutionRunId())
	for _, e := range whole.Events {
		run.take(e)
	}
	return run
}

func recordOf(file []audit.Event, runs ...*pastRun) record {
	r := record{Credential: "payments-api", Events: merge(file, runs), Unread: []string{}}
	r.Rotations = summarize(r.Events, runs)
	return r
}

func printed(r record) string {
	var out bytes.Buffer
	(&terminal{out: &out}).printRecord(&out, r)
	return out.String()
}

// What an auditor asks first is answered by the history alone, for every way that a rotation may go.
func TestAHistoryAloneAnswersWhatAnAuditorAsksFirst(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		file         string
		says, silent []string
	}{
		"completed": {"v0/completed.json", []string{
			"payments-api: completed", "approved by   ann (unverified) ", "approved by   ben (unverified) ", "revoke gate",
			"evidence      3 instances on the incoming key, none on the retiring one", "(digest ",
			"retiring key  bench-completed-key-old: disabled ", "(history), destroyed ", "(history), seen refused ", "refused by the issuer's self-test",
			"incoming key  bench-completed-key-2: issued ", "still owed    nothing", "gate.opened", "gate.closed",
		}, []string{"enabled", "approved by   nobody"}},
		"rejected at the gate": {"v0/rejected-at-the-revoke-gate.json", []string{
			"payments-api: rolled-back", "reject by     ann (unverified) ", "batch job tonight", "approved by   nobody, as far as it is known",
			"key-old: nothing was done to it", "key-2: issued ", ", destroyed ",
		}, []string{"disabled", "key.enabled"}},
		"enabled again in the soak": {"v0/paused-in-the-disable-soak.json", []string{
			"key-old: disabled ", ", enabled again ", "rollback by   ann (unverified)", "errors at checkout",
		}, []string{"probe.refused"}},
		"refused":   {"v0/refused.json", []string{"payments-api: refused", "plan.refused", "evidence      none, as far as it is known"}, []string{"key.issued"}},
		"with debt": {"v0/completed-with-debt.json", []string{"payments-api: completed-with-debt", "debt.found"}, []string{"still owed    nothing"}},
		"an emergency": {"v0/emergency/alone.json", []string{
			"asked for     key in a public repository", "incident      incident/lives; see: keyturn incident show incident/lives", "key-old: destroyed ",
		}, []string{"approved by   nobody"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			shown := printed(recordOf(nil, past(t, lives+c.file)))
			for _, text := range c.says {
				assert.Contains(t, shown, text)
			}
			for _, text := range c.silent {
				assert.NotContains(t, shown, text)
			}
		})
	}
}

// Whatever a release wrote can be read: the outcome is that of the report.
func TestTheHistoriesOfEveryReleaseAreTold(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(lives + "*/*.json")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		run := past(t, file)
		r := recordOf(nil, run)
		require.Len(t, r.Rotations, 1, file)
		if run.Report != nil {
			assert.Equal(t, string(run.Report.Outcome), r.Rotations[0].Outcome, file)
			assert.NotEmpty(t, r.Events, file)
		}
		for _, e := range r.Events {
			assert.Equal(t, run.credential, e.Credential, file)
		}
	}
}

var noon = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

// saw is what a worker writes into its file of a change.
func saw(t audit.Type, run string, at time.Time, detail map[string]string) audit.Event {
	return audit.Event{
		ID: "seen/r1/" + string(t) + "/" + at.String(), Time: at, Type: t, Credential: "payments-api", Rotation: "r1", Run: run, Actor: "worker",
		Keys: map[string]key.Ref{audit.Retiring: {KeyID: "k1"}, audit.Incoming: {KeyID: "k2"}}, Detail: detail,
	}
}

// stepped is the same as a history has it: asked for a minute before it was done.
func stepped(t audit.Type, run string, at time.Time) recorded {
	e := saw(t, run, at, map[string]string{})
	e.ID = "history/" + e.ID
	return recorded{Event: e, Source: fromHistory, since: at.Add(-time.Minute)}
}

func TestEachHappeningIsToldOnceAsTheFileHasIt(t *testing.T) {
	t.Parallel()
	gate := saw(audit.GateOpened, "run1", noon, nil)
	lie := gate
	lie.Detail = map[string]string{"gate": "signoff"}
	for name, c := range map[string]struct {
		file    []audit.Event
		history []recorded
		want    []source
	}{
		"what a workflow told is known by its ID": {[]audit.Event{gate}, []recorded{{Event: lie, Source: fromHistory}}, []source{fromFile}},
		"what a worker did within the step is that step": {
			[]audit.Event{saw(audit.KeyDisabled, "run1", noon.Add(-30*time.Second), nil)}, []recorded{stepped(audit.KeyDisabled, "run1", noon)}, []source{fromFile},
		},
		"clocks differ a little": {
			[]audit.Event{saw(audit.KeyDisabled, "run1", noon.Add(skew), nil)}, []recorded{stepped(audit.KeyDisabled, "run1", noon)}, []source{fromFile},
		},
		"a second disabling, of which another worker's file has the event, is told, too": {
			[]audit.Event{saw(audit.KeyDisabled, "run1", noon, nil)}, []recorded{stepped(audit.KeyDisabled, "run1", noon), stepped(audit.KeyDisabled, "run1", noon.Add(time.Hour))},
			[]source{fromFile, fromHistory},
		},
		"so is that of another run":   {[]audit.Event{saw(audit.KeyDisabled, "run1", noon, nil)}, []recorded{stepped(audit.KeyDisabled, "run2", noon)}, []source{fromFile, fromHistory}},
		"and that of another key":     {[]audit.Event{saw(audit.KeyDestroyed, "run1", noon, map[string]string{"key": "k3"})}, []recorded{stepped(audit.KeyDestroyed, "run1", noon)}, []source{fromFile, fromHistory}},
		"a run that was reset is one": {nil, []recorded{stepped(audit.KeyIssued, "run1", noon), stepped(audit.KeyIssued, "run1", noon)}, []source{fromHistory}},
		"without a history":           {[]audit.Event{gate}, nil, []source{fromFile}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got []source
			for _, e := range merge(c.file, []*pastRun{{Rotation: "r1", Run: "run1", Events: c.history}}) {
				got = append(got, e.Source)
			}
			assert.Equal(t, c.want, got)
		})
	}
}

// Without any history the file says it all, and the words of a worker go before those of a workflow.
func TestAFileAloneAnswersWhatAnAuditorAsksFirst(t *testing.T) {
	t.Parallel()
	told := func(t audit.Type, after time.Duration, detail map[string]string) audit.Event {
		e := saw(t, "run1", noon.Add(after), detail)
		e.ID, e.Actor, e.Keys = "told/"+e.ID, "workflow", nil
		return e
	}
	file := []audit.Event{
		told(audit.RotationRequested, 0, map[string]string{"by": "eve", "reason": "quarterly"}),
		saw(audit.KeyIssued, "run1", noon.Add(time.Minute), nil),
		saw(audit.EvidenceComplete, "run1", noon.Add(2*time.Minute), map[string]string{"digest": "d0", "evidence": "too early"}),
		saw(audit.EvidenceComplete, "run1", noon.Add(3*time.Minute), map[string]string{"digest": "d1", "evidence": "3 instances"}),
		told(audit.DecisionRejected, 4*time.Minute, map[string]string{"action": "approve", "gate": "revoke", "by": "eve (unverified)", "verdict": "sign it", "id": "v0"}),
		told(audit.DecisionAccepted, 5*time.Minute, map[string]string{"action": "approve", "gate": "revoke", "by": "ann@example.com", "id": "v1"}),
		saw(audit.KeyDisabled, "run1", noon.Add(6*time.Minute), map[string]string{"evidence": "d1", "approved": "ann@example.com"}),
		saw(audit.EvidenceComplete, "run1", noon.Add(7*time.Minute), map[string]string{"digest": "d2", "evidence": "too late"}),
		saw(audit.KeyDestroyed, "run1", noon.Add(8*time.Minute), map[string]string{"key": "k1", "approved": "ann@example.com"}),
		saw(audit.ProbeRefused, "run1", noon.Add(9*time.Minute), map[string]string{"key": "k1", "probe": "refused by all"}),
		saw(audit.DebtFound, "run1", noon.Add(10*time.Minute), map[string]string{"kind": "copies-left", "about": "k1"}),
		saw(audit.RotationEnded, "run1", noon.Add(11*time.Minute), map[string]string{"outcome": "completed-with-debt"}),
		told(audit.RotationEnded, 12*time.Minute, map[string]string{"outcome": "completed", "message": "all is well"}),
	}
	r := recordOf(file)
	require.Len(t, r.Rotations, 1)
	s := r.Rotations[0]
	assert.Equal(t, "completed-with-debt", s.Outcome)
	assert.Equal(t, "eve", s.RequestedBy)
	assert.Equal(t, &stated{At: noon.Add(3 * time.Minute), Digest: "d1", Says: "3 instances", Source: fromFile}, s.Evidence)
	assert.Equal(t, []string{"copies-left k1"}, s.Debt)
	require.Len(t, s.Decisions, 2)
	assert.Equal(t, []bool{false, false, true, true}, []bool{s.Decisions[0].Accepted, s.Decisions[0].Proved, s.Decisions[1].Accepted, s.Decisions[1].Proved})
	at := func(after time.Duration) *moment { return &moment{At: noon.Add(after), Source: fromFile} }
	assert.Contains(t, s.Keys, keyRecord{
		Key: "k1", Role: workflows.RoleRetiring, Disabled: at(6 * time.Minute), Destroyed: at(8 * time.Minute), Refused: at(9 * time.Minute),
		Probe: "refused by all", Approved: "ann@example.com",
	})
	assert.Equal(t, []string{"r1"}, gone(r.Events, nil))
	forged := recordOf([]audit.Event{told(audit.DecisionAccepted, 5*time.Minute, map[string]string{"action": "approve", "gate": "revoke", "by": "ann@example.com", "id": "v1"})})
	assert.Contains(t, printed(forged), "ann@example.com (by a signature, as the run says)", "anybody who writes to the namespace may have told it")
	assert.False(t, forged.Rotations[0].Decisions[0].Proved)
	shown := printed(r)
	assert.Contains(t, shown, "approved by   ann@example.com (by a signature that the worker verified which acted on it)")
	assert.Contains(t, shown, "not taken     approve by eve (unverified)")
}

// A list that is empty is one in JSON, too.
func TestAnEmptyListIsNoNull(t *testing.T) {
	t.Parallel()
	text, err := json.Marshal(recordOf(nil, &pastRun{Rotation: "r1", Run: "r1", As: "running"}))
	require.NoError(t, err)
	assert.JSONEq(t, `{"credential":"payments-api","rotations":[{"rotation":"r1","runs":["r1"],"outcome":"running","decisions":[],"keys":[],"debt":[]}],"events":[],"unread":[]}`, string(text))
}

// Whoever writes a history or owns a file draws nothing on the terminal of who reads it.
func TestTheRecordObeysNobody(t *testing.T) {
	t.Parallel()
	evil := "\x1b[2J\u202e"
	e := saw(audit.DecisionAccepted, evil, noon, map[string]string{evil: evil, "by": evil, "action": evil, "why": evil, "gate": evil})
	e.Actor, e.Type = evil, audit.Type(evil)
	e.Keys[audit.Incoming] = key.Ref{KeyID: evil}
	other := saw(audit.KeyIssued, evil, noon, map[string]string{"key": evil})
	decision := e
	decision.ID, decision.Type = "d", audit.DecisionAccepted
	run := &pastRun{Rotation: "r1", Run: evil, As: evil, RequestedBy: evil, Why: evil, Incidents: []string{evil}}
	r := recordOf([]audit.Event{e, other, decision}, run)
	r.Unread = []string{evil}
	shown := printed(r)
	assert.NotContains(t, shown, "\x1b")
	assert.NotContains(t, shown, "\u202e")
}

func TestWhatAWorkerLeavesOutIsSaid(t *testing.T) {
	t.Parallel()
	const others = "the audit files of other workers than w1, which answered, where they have files of their own"
	for name, c := range map[string]struct {
		answer workflows.AuditAnswer
		why    string
		want   []string
	}{
		"nobody answers": {workflows.AuditAnswer{}, "no worker polls", []string{"the audit files of the workers: no worker polls"}},
		"no file":        {workflows.AuditAnswer{Worker: "w1"}, "", []string{"an audit file: the configuration of worker w1, which answered, names none"}},
		"all was read":   {workflows.AuditAnswer{Worker: "w1", Recorded: true}, "", []string{others}},
		"cut, damaged, renamed and broken off": {
			workflows.AuditAnswer{Worker: "w1", Recorded: true, Problem: "denied", Excerpt: audit.Excerpt{Left: 3, Damaged: 2, Renamed: 1}}, "", []string{
				"all of the audit file of worker w1: denied", "3 older events of the audit file, for which there is no room; name a rotation with --rotation",
				"2 lines of the audit file, damaged: of whom they told nobody knows", "1 older file beside the audit file, renamed away", others,
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, c.want, notRead(c.answer, c.why))
		})
	}
}

// A run that ends one leftover key is told as such, by its history as by the file.
func TestTheRecordSaysWhichKeyARunWasToEnd(t *testing.T) {
	t.Parallel()
	run := newPastRun("payments-api", "", "run")
	in, err := converter.GetDefaultDataConverter().ToPayloads(workflows.RotationInput{Retire: "key-left", Reason: "no slot is free", RequestedBy: "ann"})
	require.NoError(t, err)
	run.begin(in)
	asked := audit.Event{ID: "e1", Type: audit.RotationRequested, Time: ten, Credential: "payments-api", Rotation: "r", Run: "run", Detail: map[string]string{"by": "ann", "reason": "no slot is free", "retire": "key-left"}}
	for name, r := range map[string]record{"history": recordOf(nil, run), "file": recordOf([]audit.Event{asked})} {
		require.Len(t, r.Rotations, 1, name)
		assert.Equal(t, "key-left", r.Rotations[0].Ends, name)
		assert.Contains(t, printed(r), "was to end    key key-left, and nothing else", name)
		assert.Contains(t, printed(r), "ann (unverified): no slot is free", name)
	}
}
