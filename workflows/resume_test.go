package workflows_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
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

// A run may be lost inside an activity, too: the labels have moved, and that they did is not on record. What the store says decides.
func TestTheNextRunGoesOnFromLabelsWhoseMoveIsNotOnRecord(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		turn   func(*stage)
		after  string
		unmark func(*key.Owned)
		minted []string
	}{
		"CURRENT is the incoming key": {
			func(*stage) {}, "Promote", func(k *key.Owned) { k.PromotedAt = time.Time{} }, []string{"issue new-1"},
		},
		"CURRENT is the retiring key again": {
			func(s *stage) {
				s.request("overlap", 12*time.Minute, "rollback", policy.Request{By: "ann", Reason: "errors"})
			},
			"RestoreLabels", func(k *key.Owned) { k.PromotedAt = k.TurnedBackAt.Add(-time.Second) }, []string{"issue new-1", "issue new-2"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			play := func(s *stage, watch *step) error {
				s.coarse()
				s.anew(watch)
				s.traffic(3 * time.Hour)
				s.approve()
				c.turn(s)
				_, err := s.execute(workflows.RotationInput{Spec: s.spec()})
				return err
			}
			whole, s := &step{id: "first"}, newStage(t)
			require.NoError(t, play(s, whole))
			at := slices.IndexFunc(whole.asked, func(a asked) bool { return a.name == c.after })
			require.Positive(t, at)

			s = newStage(t)
			require.ErrorContains(t, play(s, lost("first", at+2)), "the run is lost before ")
			m := s.metadata()
			for i := range m.Keys {
				if m.Keys[i].KeyID != "key-old" {
					c.unmark(&m.Keys[i])
				}
			}
			_, err := s.world.Store("payments-api").PutMetadata(context.Background(), m)
			require.NoError(t, err)

			report, err := s.over(workflows.RotationInput{Spec: s.spec()}, &step{id: "second"})
			require.NoError(t, err)
			assert.Equal(t, workflows.Completed, report.Outcome, report.Message)
			assert.Empty(t, report.Debt)
			assert.Zero(t, s.refused(), "requests refused")
			assert.Equal(t, c.minted, s.happened(memory.OpIssue))
			assert.Len(t, s.keys(), 1)
			assert.Len(t, s.versions(), 1)
		})
	}
}

// Its retiring key is gone by the time a rotation is gone on with: CURRENT moves away from what is no key any more.
func TestARotationIsGoneOnWithThoughItsRetiringKeyIsGone(t *testing.T) {
	t.Parallel()
	whole, s := &step{id: "first"}, newStage(t)
	s.coarse()
	_, err := s.over(workflows.RotationInput{Spec: s.spec()}, whole)
	require.NoError(t, err)
	at := slices.IndexFunc(whole.asked, func(a asked) bool { return a.name == "Promote" })

	s = newStage(t)
	s.coarse()
	_, err = s.over(workflows.RotationInput{Spec: s.spec()}, lost("first", at+1))
	require.ErrorContains(t, err, "the run is lost before Promote")
	require.NoError(t, s.world.Issuer("payments-api").Destroy(context.Background(), key.Ref{Principal: "payments-api", KeyID: "key-old"}))
	report, err := s.over(workflows.RotationInput{Spec: s.spec()}, &step{id: "second"})
	require.NoError(t, err)
	assert.Equal(t, workflows.Completed, report.Outcome, report.Message)
	assert.Zero(t, s.refused(), "everybody had the incoming key")
	assert.Equal(t, []string{"new-1 active"}, s.keys())
	assert.Equal(t, map[string][]key.Label{report.Incoming.StoreVersion: {key.Current}}, s.versions())
}
