package main

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/schedule"
	"github.com/keyturn/keyturn/workflows"
)

func TestLabelSelectors(t *testing.T) {
	t.Parallel()
	labelled := func(labels map[string]string) entry { return entry{Entry: schedule.Entry{Labels: labels}} }
	for text, x := range map[string]struct{ yes, no map[string]string }{
		"team=payments":          {map[string]string{"team": "payments"}, map[string]string{"team": "others"}},
		"team==payments":         {map[string]string{"team": "payments"}, nil},
		"team!=payments":         {nil, map[string]string{"team": "payments"}},
		"tier":                   {map[string]string{"tier": ""}, nil},
		"!tier":                  {nil, map[string]string{"tier": "1"}},
		"team=payments, tier!=1": {map[string]string{"team": "payments", "tier": "2"}, map[string]string{"team": "payments", "tier": "1"}},
		"a.b/c=d-e_f":            {map[string]string{"a.b/c": "d-e_f"}, nil},
		"":                       {nil, nil},
	} {
		matches, ok := parseSelector(text)
		require.True(t, ok, text)
		assert.True(t, matches(labelled(x.yes)), text)
		if text != "" {
			assert.False(t, matches(labelled(x.no)), text)
		}
	}
	for _, query := range []string{"KeyturnRisk = 'high'", "KeyturnOwner='a' AND KeyturnRisk='b'", "!tier=1", "a=b,,c=d", "KeyturnLabels IN ('team=payments')"} {
		_, ok := parseSelector(query)
		assert.False(t, ok, "%s is for Temporal", query)
	}
}

func FuzzSelector(f *testing.F) {
	for _, seed := range []string{"team=payments", "team==payments", "team!=payments", "!tier", "team=payments, tier!=1", "!tier=1", "a=b,,c=d", "KeyturnRisk = 'high'", ""} {
		f.Add(seed, "team", "payments")
	}
	f.Fuzz(func(t *testing.T, text, label, value string) {
		matches, ok := parseSelector(text)
		if !ok {
			return
		}
		assert.NotContains(t, text, "'", "what is quoted is a query of Temporal's")
		e := entry{Entry: schedule.Entry{Labels: map[string]string{label: value}}}
		twice, ok := parseSelector(text + " , " + text)
		assert.Equal(t, text != "", ok)
		if ok {
			assert.Equal(t, matches(e), twice(e), "conditions that are said twice are the same")
		}
		if strings.Contains(text, ",") || text == "" {
			return
		}
		var opposite string
		if equal := strings.IndexByte(text, '='); equal >= 0 {
			name := strings.TrimRight(text[:equal], "!")
			opposite = name + "!=" + strings.TrimPrefix(text[equal+1:], "=")
			if strings.Contains(text, "!=") {
				opposite = name + "=" + text[equal+1:]
			}
		} else if plain, not := strings.CutPrefix(strings.TrimSpace(text), "!"); not {
			opposite = plain
		} else {
			opposite = "!" + plain
		}
		against, ok := parseSelector(opposite)
		if assert.True(t, ok, "%q has an opposite: %q", text, opposite) {
			assert.NotEqual(t, matches(e), against(e), "%q and %q", text, opposite)
		}
	})
}

func TestWhatBecomesOfACredential(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	want := wanted{file: "f.yaml", digest: "d1", spec: inventory.Spec{Inventory: "payments", Credential: inventory.Credential{Name: "a"}}}
	paused := want
	paused.spec.Credential.Schedule.Paused = "audit"
	is := schedule.Entry{Inventory: "payments", Credential: "a", Details: schedule.Details{Digest: "d1"}, Signer: "ann"}
	with := func(change func(*schedule.Entry)) schedule.Entry {
		e := is
		change(&e)
		return e
	}
	by := schedule.Content{}
	for name, x := range map[string]struct {
		want   wanted
		is     schedule.Entry
		known  bool
		with   signing
		action string
	}{
		"a new one is made":                       {want, schedule.Entry{}, false, signing{}, actCreate},
		"the same stays":                          {want, is, true, signing{signer: "ann"}, actKeep},
		"the same stays when nobody signs":        {want, is, true, signing{}, actKeep},
		"another signer signs again":              {want, is, true, signing{signer: "bea"}, actChange},
		"another body changes":                    {want, with(func(e *schedule.Entry) { e.Digest = "d2" }), true, signing{signer: "ann"}, actChange},
		"a signature that ends is made without":   {want, with(func(e *schedule.Entry) { e.NotAfter = now.Add(time.Hour) }), true, signing{signer: "ann"}, actChange},
		"one that ends late enough stays":         {want, with(func(e *schedule.Entry) { e.NotAfter = now.Add(60 * time.Hour) }), true, signing{signer: "ann", valid: 100 * time.Hour}, actKeep},
		"one past half of its time is made again": {want, with(func(e *schedule.Entry) { e.NotAfter = now.Add(40 * time.Hour) }), true, signing{signer: "ann", valid: 100 * time.Hour}, actChange},
		"a pause is declared":                     {paused, with(func(e *schedule.Entry) { e.Digest = "d0" }), true, signing{signer: "ann"}, actPause},
		"a pause that somebody ended comes back":  {paused, is, true, signing{signer: "ann"}, actPause},
		"a pause of a person stays":               {want, with(func(e *schedule.Entry) { e.Paused, e.Note = true, "by hand" }), true, signing{signer: "ann"}, actKeep},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, x.action, compare(x.want, x.is, x.known, x.with, now).Action)
		})
	}
	spec, err := inventory.NewSpec(paused.spec)
	require.NoError(t, err)
	require.NoError(t, by.Declare(spec))
	declared := with(func(e *schedule.Entry) { e.Paused, e.Note = by.Paused, by.Note })
	assert.Equal(t, actResume, compare(want, declared, true, signing{signer: "ann"}, now).Action)
}

// All that is in the way is said at once, and nothing is laid out over what is not ours.
func TestWhatApplyRefuses(t *testing.T) {
	t.Parallel()
	claim := func(name string) []inventory.Claim {
		return []inventory.Claim{{Role: inventory.RoleIssuer, Type: "gateway", Account: "edge", Name: name}}
	}
	want := func(file, in, name, principal string) wanted {
		return wanted{file: file, digest: "new", claims: claim(principal), spec: inventory.Spec{Inventory: in, Credential: inventory.Credential{Name: name}}}
	}
	is := func(in, name, principal, signer string) schedule.Entry {
		return schedule.Entry{Inventory: in, Credential: name, Signer: signer, Details: schedule.Details{Digest: "old", Claims: claim(principal)}}
	}
	_, problems := lay([]string{"payments"},
		[]wanted{want("a.yaml", "payments", "a", "p1"), want("b.yaml", "payments", "a", "p2"), want("b.yaml", "payments", "b", "p1"), want("b.yaml", "payments", "c", "p3"), want("b.yaml", "payments", "d", "p4")},
		[]schedule.Entry{is("others", "c", "p9", ""), is("others", "x", "p4", ""), is("payments", "a", "p1", "ann")},
		signing{}, true, time.Now())
	var texts string
	for _, p := range problems {
		texts += p.Error() + "\n"
	}
	for _, part := range []string{
		`b.yaml: credential "a" is in a.yaml too`, `b.yaml: credential "b" has the same issuer gateway/edge/p1 as "a" of a.yaml`,
		`b.yaml: credential "c" belongs to inventory "others"`, `credential "d" has the issuer gateway/edge/p4 that credential "x" of inventory "others" has`,
		`a.yaml: credential "a" is signed by ann and changes: sign it again`,
	} {
		assert.Contains(t, texts, part)
	}
	assert.Len(t, problems, 5)

	// Whoever only looks, as a pull request does, has no key.
	plan, problems := lay([]string{"payments"}, []wanted{want("a.yaml", "payments", "a", "p1")}, []schedule.Entry{is("payments", "a", "p1", "ann")}, signing{later: true}, true, time.Now())
	require.Empty(t, problems)
	assert.Equal(t, actChange, plan[0].Action)
	assert.Equal(t, []string{"it is signed by ann: whoever applies it signs it again, with --sign KEY"}, plan[0].Notes)
}

// Who removes a credential hears which key lives on without it.
func TestWhatPruneLeaves(t *testing.T) {
	t.Parallel()
	e := schedule.Entry{Inventory: "payments", Credential: "a", State: inventory.State{KeyID: "key-1"}}
	plan, problems := lay([]string{"payments"}, []wanted{{spec: inventory.Spec{Inventory: "payments", Credential: inventory.Credential{Name: "b"}}}}, []schedule.Entry{e}, signing{}, true, time.Now())
	require.Empty(t, problems)
	require.Len(t, plan, 2)
	assert.Equal(t, actRemove, plan[0].Action)
	assert.Contains(t, plan[0].Notes[1], "CURRENT is key key-1")
	plan, problems = lay([]string{"payments"}, nil, []schedule.Entry{e, {Inventory: "others", Credential: "x"}}, signing{}, true, time.Now())
	require.Empty(t, problems)
	require.Len(t, plan, 1, "the last one of its inventory, and none of another")
	assert.Equal(t, actRemove, plan[0].Action)
	e.State.KeyID = ""
	assert.Len(t, leaving(e, true).Notes, 1, "it is not known")
}

func TestHowAnEntryIsDescribed(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	e := schedule.Entry{
		Credential: "a", NextRuns: []time.Time{now.Add(-time.Hour), now.Add(time.Hour)},
		State: inventory.State{KeyIssuedAt: now.Add(-100 * 24 * time.Hour), RotateBy: now.Add(-10 * 24 * time.Hour)},
	}
	line := describe(e, map[string]runningRotation{"a": {Phase: workflows.PhaseOverlap}}, nil, now)
	assert.True(t, line.Overdue)
	assert.Equal(t, "100d", age(line.KeyAge))
	assert.Equal(t, workflows.PhaseOverlap, line.Phase)
	assert.Equal(t, now.Add(time.Hour), line.NextRun, "one that is over is none")
	e.Paused = true
	assert.True(t, describe(e, nil, nil, now).NextRun.IsZero())
	cut := map[string]cutOff{"a": {As: "terminated", At: now, began: now.Add(-time.Hour)}}
	e.State.LastRotation = now.Add(-2 * time.Hour)
	assert.Equal(t, "terminated", describe(e, nil, cut, now).CutOff.As)
	e.State.LastRotation = now.Add(-time.Minute)
	assert.Nil(t, describe(e, nil, cut, now).CutOff, "it had recorded its end, or another one did since")
	assert.Equal(t, "'=1+1", cell("=1+1"), "a spreadsheet would compute it")
}
