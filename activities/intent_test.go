package activities_test

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/memory"
)

// principal changes the settings of the case's issuer, which knows no tokens.
func (c *crashCase) principal(change func(*memory.PrincipalSettings)) {
	settings := memory.Strict()
	settings.KnowsTokens, settings.UsageLag, settings.Slots = false, time.Minute, 4
	change(&settings)
	c.world.SetPrincipal("payments-api", settings)
}

// loseMint is a mint of which the reply is lost.
func (c *crashCase) loseMint(rotation string) {
	c.t.Helper()
	c.world.LoseReply(memory.OpIssue, 1)
	r := c.subject()
	r.ID = rotation
	require.Error(c.t, c.attempt("Issue", activities.IssueInput{Rotation: r, Ordinal: 1}, nil, 1))
}

// slowMint is a mint of which the reply is lost, and whose key the issuer does not list before lists is called.
func (c *crashCase) slowMint(rotation string) (lists func()) {
	c.t.Helper()
	made := c.now()
	c.world.Fail(memory.OpIssue, errors.New("the connection is gone"), 1)
	r := c.subject()
	r.ID = rotation
	require.Error(c.t, c.attempt("Issue", activities.IssueInput{Rotation: r, Ordinal: 1}, nil, 1))
	return func() { c.world.AddKey("payments-api", "slow", made) }
}

// earlier makes what is in the metadata that of a run before this one.
func (c *crashCase) earlier() {
	c.t.Helper()
	m := c.metadata()
	for i := range m.Intents {
		m.Intents[i].Run = "earlier-run"
	}
	m.Lease.Run = "earlier-run"
	_, err := c.world.Store("payments-api").PutMetadata(c.t.Context(), m)
	require.NoError(c.t, err)
}

// clearAway is what a rotation does first with what it finds.
func (c *crashCase) clearAway() {
	c.t.Helper()
	var d policy.Decision
	c.executeOverLag("Discard", c.subject(), &d)
	require.True(c.t, d.OK, d.Message)
}

// The issuer lists the key of the first only after the second, so that both intents are needed to know it.
func TestAfterTwoInterruptedMintsTheNextRotationCompletes(t *testing.T) {
	t.Parallel()
	for name, apart := range map[string]time.Duration{"one right after the other": 0, "some time apart": 20 * time.Second} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCase(t)
			c.principal(func(*memory.PrincipalSettings) {})
			lists := c.slowMint("first")
			c.wait(apart)
			c.loseMint("second")
			assert.Len(t, c.metadata().Intents, 2)
			lists()
			c.wait(5 * time.Minute)
			require.Len(t, c.keys(), 3)
			var plan policy.Plan
			c.execute("Inspect", c.subject(), &plan)
			require.Empty(t, plan.Refusals)
			assert.Len(t, plan.Discard, 2)

			c.clearAway()
			assert.Equal(t, []string{"key-old active"}, c.keys())
			assert.Empty(t, c.metadata().Intents)
			for _, step := range []string{"Issue", "DeliverWave", "Promote", "Disable", "Destroy", "Record"} {
				c.run(step)
			}
			c.died.Store(true)
			assert.Equal(t, "completed", c.metadata().LastRotation.Outcome)
			assert.Equal(t, []string{c.incoming.KeyID + " active"}, c.keys())
			assert.Empty(t, c.metadata().Intents)
		})
	}
}

// What a mint is judged by is of that moment, however long it took to clear away what an earlier one left: an approval may have grown
// old meanwhile.
func TestAMintIsJudgedAgainWhenClearingAwayTookLong(t *testing.T) {
	t.Parallel()
	c := newCase(t)
	c.principal(func(s *memory.PrincipalSettings) { s.UsageLag = 0 })
	spec, err := c.spec.Peek()
	require.NoError(t, err)
	spec.Credential.Approvals.Signoff = &inventory.Approval{Count: 1, Trust: inventory.TrustAny, ApprovalExpires: inventory.Duration(time.Hour)}
	c.spec, err = inventory.NewSpec(spec)
	require.NoError(t, err)
	given := policy.Verdict{ID: "1", Action: policy.Approve, Gate: inventory.GateSignoff, Accepted: true, By: "olga", At: c.now()}
	input := activities.IssueInput{Rotation: c.subject(), Ordinal: 1, Approvals: []policy.Verdict{given}}
	c.world.LoseReply(memory.OpIssue, 1)
	require.Error(t, c.attempt("Issue", input, nil, 1))
	c.world.On(memory.OpDestroy, func(p memory.Phase) {
		if p == memory.After {
			c.wait(2 * time.Hour)
		}
	})
	require.Error(t, c.attempt("Issue", input, nil, 1))
	assert.Len(t, c.world.Happened(memory.OpIssue), 2, "the key that was there before, and the lost one")
	assert.Equal(t, []string{"key-old active"}, c.keys())
	input.Approvals[0].At = c.now()
	c.execute("Issue", input, nil)
	assert.Len(t, c.world.Happened(memory.OpIssue), 3)
}

// A store may tell of a staged key before the issuer lists it.
func TestAStagedKeyThatTheIssuerIsSlowToListIsNotDead(t *testing.T) {
	t.Parallel()
	c := newCase(t)
	c.principal(func(s *memory.PrincipalSettings) { s.ConsistentWithin = 200 * time.Millisecond })
	c.world.On(memory.OpVersions, func(p memory.Phase) {
		if p == memory.Before { // after keys were listed
			c.wait(250 * time.Millisecond)
		}
	})
	c.world.On(memory.OpStage, func(p memory.Phase) {
		if p == memory.After && !c.died.Swap(true) {
			panic("the process dies")
		}
	})
	c.run("Issue")
	assert.Len(t, c.keys(), 2)
}

// One attempt after another of the same mint, too, without a rotation that begins anew.
func TestAttemptsOfAMintDestroyWhatTheyLost(t *testing.T) {
	t.Parallel()
	c := newCase(t)
	c.principal(func(s *memory.PrincipalSettings) { s.UsageLag = 0 })
	lists := c.slowMint("first-run")
	c.wait(time.Second)
	c.loseMint("first-run")
	lists()
	require.Len(t, c.keys(), 3)
	c.wait(time.Second)
	c.run("Issue")
	assert.ElementsMatch(t, []string{"key-old active", c.incoming.KeyID + " active"}, c.keys())
	assert.Len(t, c.world.Happened(memory.OpDestroy), 2)
	for _, step := range []string{"DeliverWave", "Promote", "Disable", "Destroy", "Record"} {
		c.run(step)
	}
	assert.Empty(t, c.metadata().Intents)
}

// Intents that are left claim the keys of their own times, and no other.
func TestAKeyThatAnOperatorMakesLaterIsNotTouched(t *testing.T) {
	t.Parallel()
	c := newCase(t)
	c.principal(func(s *memory.PrincipalSettings) { s.UsageLag = 0 })
	lists := c.slowMint("first")
	c.wait(20 * time.Second)
	c.loseMint("second")
	c.wait(policy.MintWithin + time.Second)
	c.world.AddKey("payments-api", "made-by-hand", c.now())
	lists()
	c.clearAway()
	assert.ElementsMatch(t, []string{"key-old active", "made-by-hand active"}, c.keys())
	c.run("Issue")
	c.clearAway()
	assert.ElementsMatch(t, []string{"key-old active", "made-by-hand active"}, c.keys())
	assert.Empty(t, c.world.Happened(memory.OpDisable))
}

// A mint that another run began may still make a key when the next one looks.
func TestAMintAfterATakeoverWaitsForTheOneBefore(t *testing.T) {
	t.Parallel()
	in := func(c *crashCase) activities.IssueInput {
		return activities.IssueInput{Rotation: c.subject(), Ordinal: 1}
	}
	t.Run("until the longest issue attempt is over", func(t *testing.T) {
		t.Parallel()
		c := newCase(t)
		lists := c.slowMint("first-run")
		c.earlier()
		c.wait(30 * time.Second)
		minted := len(c.world.Happened(memory.OpIssue))
		c.executeToNotYet("Issue", in(c))
		assert.Len(t, c.world.Happened(memory.OpIssue), minted)
		lists()
		c.wait(31 * time.Second)
		c.run("Issue")
		assert.ElementsMatch(t, []string{"key-old active", c.incoming.KeyID + " active"}, c.keys(), "the late one is known, and gone")
		assert.Empty(t, c.metadata().Intents)
	})
	t.Run("but not when its key is known", func(t *testing.T) {
		t.Parallel()
		c := newCase(t)
		c.principal(func(s *memory.PrincipalSettings) { s.UsageLag = 0 })
		c.loseMint("first-run")
		c.earlier()
		require.NoError(t, c.attempt("Issue", in(c), nil, 1))
		assert.Len(t, c.keys(), 2)
	})
	t.Run("nor for one of its own run", func(t *testing.T) {
		t.Parallel()
		c := newCase(t)
		c.slowMint("first-run")
		c.wait(time.Second)
		c.run("Issue")
		require.Len(t, c.metadata().Intents, 1, "the first may still make a key")
		c.wait(time.Minute)
		for _, step := range []string{"Issue", "DeliverWave", "Promote", "Disable", "Destroy", "Record"} {
			c.run(step)
		}
		assert.Empty(t, c.metadata().Intents)
	})
}

// Of a key whose time cannot be placed nobody can tell whose it is: the run holds until a person acts.
func TestAKeyThatCannotBePlacedHoldsTheMint(t *testing.T) {
	t.Parallel()
	for name, act := range map[string]func(c *crashCase, lost key.Ref){
		"until it is destroyed at the issuer": func(c *crashCase, lost key.Ref) {
			require.NoError(c.t, c.world.Issuer("payments-api").Destroy(c.t.Context(), lost))
		},
		"until it is adopted": func(c *crashCase, lost key.Ref) {
			spec, err := c.spec.Peek()
			require.NoError(c.t, err)
			spec.Credential.Adopt = []string{lost.KeyID}
			c.spec, err = inventory.NewSpec(spec)
			require.NoError(c.t, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCase(t)
			c.principal(func(s *memory.PrincipalSettings) { s.ClockSkew = -time.Hour })
			c.loseMint("first-run")
			listed, err := c.world.Issuer("payments-api").List(t.Context())
			require.NoError(t, err)
			lost := key.Ref{Principal: "payments-api", KeyID: listed[1].KeyID}
			minted := len(c.world.Happened(memory.OpIssue))
			for range 2 {
				c.wait(time.Hour)
				c.executeToNotYet("Issue", activities.IssueInput{Rotation: c.subject(), Ordinal: 1})
			}
			assert.Len(t, c.world.Happened(memory.OpIssue), minted)
			assert.Contains(t, c.keys(), lost.KeyID+" active", "it is not touched")
			var plan policy.Plan
			c.execute("Inspect", c.subject(), &plan)
			require.Len(t, plan.Refusals, 1)
			assert.Equal(t, policy.OrphanUnplaced, plan.Refusals[0].Reason)
			assert.Contains(t, plan.Refusals[0].Message, lost.KeyID)
			c.clearAway()
			assert.Len(t, c.metadata().Intents, 1, "it is not forgotten")

			act(c, lost)
			plan = policy.Plan{}
			c.execute("Inspect", c.subject(), &plan)
			assert.Empty(t, plan.Refusals)
			c.run("Issue")
			assert.Empty(t, c.metadata().Intents)
		})
	}
}

// Where the issuer knows tokens, too: whoever uses the lost key has it.
func TestALostKeyThatIsUsedIsNotDestroyed(t *testing.T) {
	t.Parallel()
	c := newCase(t)
	c.principal(func(s *memory.PrincipalSettings) { s.KnowsTokens, s.UsageLag = true, 0 })
	_, err := c.world.Store("payments-api").PutMetadata(t.Context(), key.Metadata{Intents: []key.Intent{{
		Rotation: "first-run", Ordinal: 1, At: c.now(), Within: policy.MintWithin, Known: []string{"key-old"},
	}}})
	require.NoError(t, err)
	issued, err := c.world.Issuer("payments-api").Issue(t.Context(), providers.IssueRequest{Token: policy.Token("first-run", 1)})
	require.NoError(t, err)
	lost := issued.Key
	require.NoError(t, c.world.Use(issued.Bundle, "somebody"))
	c.executeToNotYet("Issue", activities.IssueInput{Rotation: c.subject(), Ordinal: 1})
	var plan policy.Plan
	c.execute("Inspect", c.subject(), &plan)
	require.Len(t, plan.Refusals, 1)
	assert.Equal(t, policy.OrphanInUse, plan.Refusals[0].Reason)
	assert.Contains(t, c.keys(), lost.KeyID+" active")
	c.clearAway()
	assert.Contains(t, c.keys(), lost.KeyID+" active")
}

// Two inventories have the same principal and path, and start together: the second mints in the middle of the first.
func TestTwoInventoriesThatStartTogether(t *testing.T) {
	t.Parallel()
	type moment struct {
		op    memory.Op
		call  int32
		phase memory.Phase
	}
	var moments []moment
	for _, phase := range []memory.Phase{memory.Before, memory.After} {
		for _, op := range []memory.Op{memory.OpList, memory.OpIssue, memory.OpStage} {
			moments = append(moments, moment{op, 1, phase})
		}
		for call := range int32(4) {
			moments = append(moments, moment{memory.OpPutMetadata, call + 1, phase})
		}
	}
	for _, namespace := range []string{"", "staging"} {
		for _, m := range moments {
			t.Run(fmt.Sprintf("namespace %q, %s call %d of %s", namespace, m.phase, m.call, m.op), func(t *testing.T) {
				t.Parallel()
				c := newCase(t)
				c.principal(func(s *memory.PrincipalSettings) { s.UsageLag = 0 })
				second := c.other()
				second.Namespace = namespace
				spec, err := c.spec.Peek()
				require.NoError(t, err)
				spec.Inventory, spec.Credential.Name = "payroll", "payroll-api"
				theirs := c.subject()
				theirs.ID = "second-run"
				theirs.Spec, err = inventory.NewSpec(spec)
				require.NoError(t, err)
				mint := func() (err error) {
					c.by(second, func() {
						err = c.attemptOf("payroll-api", "Issue", activities.IssueInput{Rotation: theirs, Ordinal: 1}, nil, 1)
					})
					return err
				}
				var calls atomic.Int32
				var errSecond error
				c.world.On(m.op, func(p memory.Phase) {
					if p == m.phase && calls.Add(1) == m.call {
						errSecond = mint()
					}
				})
				errFirst := c.attempt("Issue", activities.IssueInput{Rotation: c.subject(), Ordinal: 1}, nil, 1)
				require.GreaterOrEqual(t, calls.Load(), m.call, "the moment came")

				winner, refused := "payments", errSecond
				if errFirst != nil {
					winner, refused = "payroll", errFirst
				}
				require.NotEqual(t, errFirst == nil, errSecond == nil, "first: %v; second: %v", errFirst, errSecond)
				why := (&signedCase{crashCase: c}).refusal(refused)
				assert.Contains(t, []string{activities.TypeHeld, activities.TypeSpec}, why.Type(), why.Message())
				if winner == "payments" {
					assert.Error(t, mint(), "and is so again")
					c.by(second, func() { assert.Error(t, c.attemptOf("payroll-api", "Discard", theirs, nil, 1)) })
				} else {
					assert.Error(t, c.attempt("Discard", c.subject(), nil, 1))
				}
				assert.Len(t, c.keys(), 2, "the one from before, and the winner's")
				assert.Empty(t, c.world.Happened(memory.OpDestroy))
				assert.Len(t, c.world.Happened(memory.OpStage), 1)
				meta := c.metadata()
				assert.Equal(t, winner, meta.Inventory)
				require.Len(t, meta.Keys, 1)
				assert.Empty(t, meta.Intents)
				pending := c.versions()[meta.Keys[0].StoreVersion]
				assert.Equal(t, []key.Label{key.Pending}, pending)
			})
		}
	}
}
