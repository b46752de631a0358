package tests

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/tests/invariant"
	"github.com/keyturn/keyturn/workflows"
)

// judge sees that every exposed key is dead and nothing else, that each credential is on one key that works, and that ledger and record agree.
func (m *manyExposed) judge(status workflows.IncidentStatus) {
	t := m.t
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	assert.Equal(t, workflows.Contained, status.Outcome, status.Message)
	trail, err := audit.Read(m.place.Audit)
	require.NoError(t, err)
	require.Len(t, status.Credentials, len(m.names))
	second := 0
	for _, member := range status.Credentials {
		name := member.Credential
		var report workflows.Report
		require.NoError(t, m.client().GetWorkflow(t.Context(), workflows.WorkflowID(name), "").Get(t.Context(), &report))
		seen := m.seen(name, report, trail)
		for _, violation := range invariant.Check(seen) {
			assert.Fail(t, violation.String(), name)
		}
		events, happened := m.events[name], map[audit.Type]int{}
		for _, e := range seen.Trail.Events {
			happened[e.Type]++
		}
		for _, once := range []audit.Type{audit.EmergencyBegun, audit.KeyIssued, audit.KeyDestroyed, audit.ProbeRefused, audit.RotationEnded} {
			if happened[audit.RotationTerminated] > 0 { // its emergency did not answer for a minute, and another one saw it through
				assert.GreaterOrEqual(t, happened[once], 1, "%s of %s", once, name)
				continue
			}
			assert.Equal(t, 1, happened[once], "%s of %s", once, name)
		}
		var issued, destroyed []string
		for _, e := range events {
			switch e.Kind {
			case invariant.Issued:
				issued = append(issued, e.Key)
			case invariant.Destroyed:
				destroyed = append(destroyed, e.Key)
			case invariant.Disabled, invariant.Enabled, invariant.Staged, invariant.Promoted, invariant.Pruned, invariant.Delivered, invariant.Using, invariant.Refused, invariant.Used:
			}
		}
		current := report.Incoming.KeyID
		assert.Equal(t, current, member.Current.KeyID, name)
		require.Contains(t, issued, current, name)
		gone := slices.DeleteFunc(slices.Clone(issued), func(id string) bool { return id == current }) // minted by who died before it was stored
		second += len(gone)
		assert.ElementsMatch(t, append(gone, "old-"+name), destroyed, "no other key of %s", name)
		assert.Equal(t, len(gone), happened[audit.OrphanDestroyed], "keys of %s that were lost are on record", name)
		assert.Equal(t, map[key.Label]string{key.Current: m.stores[name].labels[key.Current]}, withoutPrevious(m.stores[name].labels), name)
		good, err := m.accepts(m.users[name].Key())
		assert.True(t, err == nil && good && m.idOf(m.users[name].Key()) == current, "the consumer of %s uses key %s (%v)", name, m.idOf(m.users[name].Key()), err)
		if t.Failed() {
			for _, e := range events {
				t.Logf("%s: %+v", name, e)
			}
			break
		}
	}
	assert.LessOrEqual(t, m.inOneTask(), 20, "Temporal ends a run of which one task asks for more than fits into a message")
	live := map[string]int{}
	for id := range m.keys {
		live[m.owners[id]]++
	}
	want := map[string]int{credential: 1} // nobody named it
	for _, name := range m.names {
		want[name] = 1
	}
	assert.Equal(t, want, live)
	assert.Empty(t, m.refused, "requests refused")
	assert.Greater(t, m.sent, 20, "traffic flowed")
	t.Logf("%d exposed keys, dead after %s, %s until the end; %d changes; struck: %s; %d keys were minted a second time, and the first ended",
		len(m.names), status.ContainedAt.Sub(status.Since).Round(100*time.Millisecond), status.EndedAt.Sub(status.Since).Round(100*time.Millisecond), m.changes, strings.Join(m.struck, "; "), second)
}

// inOneTask is for how much at most one workflow task of the incident asked with which its declaration goes along. What it asked for is
// the same when it is replayed.
func (m *manyExposed) inOneTask() (most int) {
	m.t.Helper()
	asked, whole := map[int64]int{}, historyOf(m.t, m.client(), "incident/many", "")
	require.NoError(m.t, patientReplayer(m.t).ReplayWorkflowHistoryWithOptions(silent, whole, worker.ReplayWorkflowHistoryOptions{
		OriginalExecution: workflow.Execution{ID: "incident/many"},
	}))
	for _, e := range whole.Events {
		if a := e.GetStartChildWorkflowExecutionInitiatedEventAttributes(); a != nil {
			asked[a.GetWorkflowTaskCompletedEventId()]++
		}
		if a := e.GetActivityTaskScheduledEventAttributes(); a.GetActivityType().GetName() == "Follow" {
			asked[a.GetWorkflowTaskCompletedEventId()]++
		}
	}
	for _, n := range asked {
		most = max(most, n)
	}
	return most
}

// withoutPrevious are a store's labels but for what was CURRENT before.
func withoutPrevious(labels map[key.Label]string) map[key.Label]string {
	rest := maps.Clone(labels)
	delete(rest, key.Previous)
	return rest
}

// seen is all that is known of one credential.
func (m *manyExposed) seen(name string, report workflows.Report, trail audit.Trail) invariant.Seen {
	m.t.Helper()
	is := m.stores[name]
	end := invariant.End{Keys: map[string]key.State{}, Versions: []invariant.Version{}, Metadata: &is.metadata, Holds: map[string]string{}, DeadRefused: map[string]bool{}}
	for id, state := range m.keys {
		if m.owners[id] == name {
			end.Keys[id] = state
		}
	}
	for id, keyID := range is.versions {
		version := invariant.Version{ID: id, Key: keyID}
		for label, on := range is.labels {
			if on == id {
				version.Labels = append(version.Labels, label)
			}
		}
		end.Versions = append(end.Versions, version)
	}
	end.Holds["shop"] = m.idOf(m.users[name].Key())
	for _, e := range m.events[name] {
		if value, known := m.values[e.Key]; known && e.Kind == invariant.Destroyed {
			accepted, err := m.accepts(value)
			end.DeadRefused[e.Key] = err == nil && !accepted
		}
	}
	own := audit.Trail{Damaged: trail.Damaged}
	for _, e := range trail.Events {
		if e.Credential == name {
			own.Events = append(own.Events, e)
		}
	}
	return invariant.Seen{
		Events: m.events[name], Before: m.before[name], End: end, Report: &report, Trail: own,
		Policy: invariant.Policy{Emergency: true}, Untold: []invariant.Part{invariant.Times, invariant.Uses, invariant.Traffic},
	}
}
