package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"
	"pgregory.net/rapid"

	"github.com/keyturn/keyturn/internal/incident"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/schedule"
	"github.com/keyturn/keyturn/workflows"
)

// madeWith is a credential that was made with others.
func madeWith(name string, on ...string) entry {
	return entry{Entry: schedule.Entry{Credential: name, Details: schedule.Details{DependsOn: on}}}
}

// What was made with an exposed credential is exposed, too, and follows it; nothing else is.
func TestDownstream(t *testing.T) {
	t.Parallel()
	all := []entry{madeWith("a"), madeWith("b", "a"), madeWith("c", "b"), madeWith("d"), madeWith("e", "d", "a")}
	for name, x := range map[string]struct {
		named map[string]string
		want  []affected
	}{
		"one that nothing was made with": {map[string]string{"c": "named"}, []affected{{Credential: "c", Because: "named", After: []string{}}}},
		"one at the root": {map[string]string{"a": "named"}, []affected{
			{Credential: "a", Because: "named"}, {Credential: "b", Because: "made with a", After: []string{"a"}},
			{Credential: "e", Because: "made with a", After: []string{"a"}}, {Credential: "c", Because: "made with b", After: []string{"b"}},
		}},
		"two that know nothing of each other": {map[string]string{"d": "named", "c": "matches x"}, []affected{
			{Credential: "c", Because: "matches x", After: []string{}}, {Credential: "d", Because: "named"}, {Credential: "e", Because: "made with d", After: []string{"d"}},
		}},
	} {
		got := downstream(all, x.named)
		for i := range got {
			got[i].After = append([]string{}, got[i].After...)
			if i < len(x.want) {
				x.want[i].After = append([]string{}, x.want[i].After...)
			}
		}
		assert.Equal(t, x.want, got, name)
	}
}

// Each comes once, after those that it was made with.
func TestDownstreamIsInOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		var all []entry
		for n := range rapid.IntRange(1, 12).Draw(r, "credentials") {
			var on []string
			for before := range n {
				if rapid.Bool().Draw(r, "made with it") {
					on = append(on, fmt.Sprintf("c%d", before))
				}
			}
			all = append(all, madeWith(fmt.Sprintf("c%d", n), on...))
		}
		first := all[rapid.IntRange(0, len(all)-1).Draw(r, "exposed")].Credential
		all = rapid.Permutation(all).Draw(r, "listed")
		got := downstream(all, map[string]string{first: "named"})
		var names []string
		for _, a := range got {
			for _, on := range a.After {
				if !slices.Contains(names, on) {
					r.Fatalf("%s comes before %s, which it was made with: %v", a.Credential, on, got)
				}
			}
			names = append(names, a.Credential)
		}
		for _, one := range all {
			exposed := one.Credential == first || slices.ContainsFunc(one.DependsOn, func(on string) bool { return slices.Contains(names, on) })
			if exposed != slices.Contains(names, one.Credential) {
				r.Fatalf("%s: affected %v, exposed %v", one.Credential, !exposed, exposed)
			}
		}
	})
}

func TestSuspects(t *testing.T) {
	t.Parallel()
	both := workflows.Status{Retiring: key.Ref{KeyID: "old"}, Incoming: key.Ref{KeyID: "new"}}
	early := workflows.Status{Retiring: key.Ref{KeyID: "old"}}
	done := both
	done.Keys = []workflows.KeyMoment{{Key: workflows.RoleIncoming, State: workflows.KeyCurrent}, {Key: workflows.RoleRetiring, State: workflows.KeyDestroyed}}
	first := workflows.Status{Incoming: key.Ref{KeyID: "new"}}
	for _, x := range []struct {
		status  workflows.Status
		suspect string
		want    []string
	}{
		{both, suspectRetiring, []string{"old"}}, {both, suspectIncoming, []string{"new"}}, {both, suspectBoth, []string{"old", "new"}},
		{early, suspectRetiring, []string{"old"}}, {early, suspectIncoming, []string{}}, {early, suspectBoth, []string{"old"}},
		{done, suspectRetiring, []string{"new"}}, {done, suspectBoth, []string{"new"}},
		{first, suspectRetiring, []string{"new"}}, {first, suspectIncoming, []string{"new"}}, {first, suspectBoth, []string{"new"}},
	} {
		assert.Equal(t, x.want, suspects(x.status, x.suspect), "%v %s", x.status, x.suspect)
	}
}

// began notes how something was begun, and says that Temporal is away.
type began struct {
	client.Client
	options client.StartWorkflowOptions
}

func (b *began) ExecuteWorkflow(_ context.Context, o client.StartWorkflowOptions, _ any, _ ...any) (client.WorkflowRun, error) {
	b.options = o
	return nil, errors.New("away")
}

func TestTheReasonOfAnIncidentIsShownInWholeCharacters(t *testing.T) {
	t.Parallel()
	var b began
	require.Error(t, new(terminal).declare(t.Context(), &b, "incident/leak", "a"+strings.Repeat("é", 100), workflows.IncidentInput{}, false))
	assert.Equal(t, "emergency: a"+strings.Repeat("é", 73)+"…", b.options.StaticSummary)
}

// A quota says how long an incident takes at least; what has none, or was not asked for it, is not said to have one.
func TestWhatPacesAnIncident(t *testing.T) {
	t.Parallel()
	var who []affected
	for n := range 200 {
		a := affected{Credential: fmt.Sprintf("c%d", n), Issuer: "gateway/edge", Exposed: []string{"k"}, quota: 50}
		if n == 7 { // its rotation runs, and tells which key it is
			a.quota = 0
		}
		who = append(who, a)
	}
	who = append(who, affected{Credential: "slow", Issuer: "awsiam/main", Exposed: []string{"k", "l"}, quota: 0.1}, affected{Credential: "free", Issuer: "memory/x"})
	assert.Equal(t, []paced{
		{"awsiam/main", 0.1, 1, inventory.Duration(time.Minute)},
		{"gateway/edge", 50, 200, inventory.Duration(20 * time.Second)},
	}, pacedBy(who))
	var out strings.Builder
	printAffected(&out, incident.Declaration{Deadline: incident.DefaultDeadline}, who)
	assert.Contains(t, out.String(), "gateway/edge lets 50 calls a second through, those of emergencies first: until the exposed keys of 200 credentials are dead it takes 20s at least.")
	assert.NotContains(t, out.String(), "memory/x lets")
}
