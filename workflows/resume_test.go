package workflows_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/providers/memory"
	"github.com/keyturn/keyturn/workflows"
)

// lost ends a run at its n-th activity, before that begins, as a run ends that somebody terminates or that is lost with its
// server: nothing of it runs any more.
func lost(id string, at int) *step {
	return &step{id: id, at: at, do: func(name string) { panic("the run is lost before " + name) }}
}

// A rotation that is lost at any of its activities, or is reset to before its first one, is gone on with by the next run: no
// second key is minted, nobody is refused, nothing is left over.
func TestTheNextRunGoesOnFromWhereOneWasLost(t *testing.T) {
	t.Parallel()
	whole, s := &step{id: "first"}, newStage(t)
	s.coarse()
	_, err := s.over(workflows.RotationInput{Spec: s.spec()}, whole)
	require.NoError(t, err)
	require.Greater(t, whole.n, 10)
	for how, id := range map[string]string{"terminated, and begun again": "second", "reset": "first"} {
		for at := 2; at <= whole.n; at++ { // the first one only looks
			t.Run(fmt.Sprintf("%s at activity %d", how, at), func(t *testing.T) {
				t.Parallel()
				s := newStage(t)
				s.coarse()
				_, err := s.over(workflows.RotationInput{Spec: s.spec()}, lost("first", at))
				require.ErrorContains(t, err, "the run is lost before ")
				report, err := s.over(workflows.RotationInput{Spec: s.spec()}, &step{id: id})
				require.NoError(t, err)
				assert.Equal(t, workflows.Completed, report.Outcome, report.Message)
				assert.Empty(t, report.Debt)
				assert.Zero(t, s.refused(), "requests refused")
				assert.Equal(t, []string{"issue new-1"}, s.happened(memory.OpIssue))
				assert.Equal(t, []string{"new-1 active"}, s.keys())
				assert.Len(t, s.versions(), 1)
				m := s.metadata()
				assert.Nil(t, m.Lease)
				assert.Empty(t, m.Debt)
				assert.Len(t, m.Keys, 1)
				assert.False(t, m.Keys[0].KeptAt.IsZero())
			})
		}
	}
}
