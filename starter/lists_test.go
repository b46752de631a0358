package main

import (
	"bytes"
	"encoding/json"
	"reflect"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/workflows"
)

// results has one of every type that a command shows, with nothing in it.
var results = []any{
	applied{}, []change{{}}, []awaited{{}}, workflows.Confirmed{}, policy.Verdict{}, policy.Examine(policy.Installation{}), plannedIncident{Credentials: []affected{{}}, Quotas: []paced{{}}},
	workflows.IncidentStatus{Credentials: make([]workflows.IncidentMember, 1)}, []listedIncident{{}}, reviewedIncident{}, []entry{{}}, policy.Plan{Waves: make([]policy.Wave, 1)}, workflows.Reviewed{}, begun{},
	workflows.Report{}, workflows.ScanReport{}, prepared{}, standing{}, []runningRotation{{}}, sweeps{},
	[]int(nil), map[string]any{"list": []string(nil)},
}

func TestAnEmptyListIsAListInEveryResult(t *testing.T) {
	t.Parallel()
	for _, result := range results {
		var out bytes.Buffer
		require.NoError(t, (&terminal{output: "json", out: &out}).show(result, nil))
		assert.NotContains(t, out.String(), "null", "%T", result)
	}
	var out bytes.Buffer
	require.NoError(t, (&terminal{output: "json", out: &out}).show(policy.Plan{}, nil))
	assert.Contains(t, out.String(), `"steps": []`)
}

func TestAResultWithListsIsTheSameResult(t *testing.T) {
	t.Parallel()
	full := standing{Status: workflows.Status{
		Credential: "payments-api", Waves: []workflows.WaveStatus{{Name: "canary", Instances: []string{"a"}}}, Gate: &policy.OpenGate{Gate: "revoke"},
		Evidence: &policy.Evidence{Missing: []policy.Decision{{Message: "x"}}}, Report: &workflows.Report{Timeline: []workflows.Moment{{What: "begun", At: after(1)}}},
	}}
	before, err := json.Marshal(full)
	require.NoError(t, err)
	now, err := json.Marshal(withLists(full))
	require.NoError(t, err)
	assert.JSONEq(t, string(before), string(now))
	assert.Nil(t, withLists(nil))
	assert.Equal(t, reflect.TypeOf(full), reflect.TypeOf(withLists(full)))
}
