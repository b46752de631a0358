package activities_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/internal/workerconfig"
	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/memory"
)

// reached is a case after these steps.
func reached(t *testing.T, steps ...string) *crashCase {
	t.Helper()
	c := newCase(t)
	for _, step := range steps {
		c.run(step)
	}
	return c
}

func TestPromotionLosesNoMembersOfTheSecret(t *testing.T) {
	t.Parallel()
	c := reached(t, "Issue", "DeliverWave")
	store := c.world.Store("payments-api")
	// Somebody edits the secret: CURRENT gets a new version with the same key and one member more.
	edited, err := store.Read(t.Context(), c.retiring.StoreVersion)
	require.NoError(t, err)
	c.retiring.StoreVersion = c.world.AddVersion("payments-api", edited.With(secret.NewBundle(map[string]secret.Value{"endpoint": secret.New([]byte("https://new.example"))})))
	var d policy.Decision
	c.execute("Promote", c.subject(), &d)
	assert.Equal(t, policy.CurrentMoved, d.Reason, d.Message)
	assert.Contains(t, d.Message, "rotate again")
	assert.Equal(t, []key.Label{key.Current}, c.versions()[c.retiring.StoreVersion])
}

func TestEnableLeavesAKeyThatSomebodyElseDisabled(t *testing.T) {
	t.Parallel()
	c := reached(t, "Issue", "DeliverWave", "Promote")
	require.NoError(t, c.world.Issuer("payments-api").(providers.Disabler).Disable(t.Context(), c.retiring))
	c.run("Enable")
	assert.Contains(t, c.keys(), "key-old disabled")
	c.run("Disable") // finds it so
	c.run("Enable")
	assert.Contains(t, c.keys(), "key-old disabled")
	c.run("Destroy") // after the soak
}

// An intent that outlives a mint that made no key would claim the next key that somebody else makes.
func TestARefusedMintLeavesNoIntent(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		err  error
		left bool
	}{
		"all slots are taken":       {providers.ErrSlotsFull, false},
		"it may not":                {providers.ErrDenied, false},
		"the request is wrong":      {providers.ErrInvalid, false},
		"nobody knows how it ended": {memory.ErrReplyLost, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCase(t)
			c.world.Fail(memory.OpIssue, x.err, 1)
			require.Error(t, c.attempt("Issue", activities.IssueInput{Rotation: c.subject(), Ordinal: 1}, nil, 1))
			assert.Equal(t, x.left, len(c.metadata().Intents) > 0)
		})
	}
}

func TestAPrincipalThatIsNotTheCredentialsIsRefusedBeforeTheIntent(t *testing.T) {
	t.Parallel()
	c := newCase(t)
	r := c.subject()
	r.Retiring.Principal = "payroll"
	require.ErrorContains(t, c.attempt("Issue", activities.IssueInput{Rotation: r, Ordinal: 1}, nil, 1), `"payroll" is not its principal`)
	assert.Empty(t, c.metadata().Intents)
	assert.Equal(t, []string{"key-old active"}, c.keys())
}

// A key that the issuer does not list yet is not gone.
func TestOneLookDoesNotProveThatAKeyIsGone(t *testing.T) {
	t.Parallel()
	c := reached(t, "Issue", "DeliverWave")
	settings := memory.Strict()
	settings.KnowsTokens, settings.ConsistentWithin = false, 20*time.Millisecond
	c.world.SetPrincipal("payments-api", settings)
	// It was minted this moment, so that the first list does not have it.
	var once sync.Once
	c.world.On(memory.OpList, func(phase memory.Phase) {
		if phase == memory.After {
			once.Do(func() { c.wait(time.Second) })
		}
	})
	c.executeToNotYet("Discard", c.subject())
	assert.Contains(t, c.keys(), c.incoming.KeyID+" active", "instances hold it")
}

// A mint whose key the issuer does not list yet has made one all the same.
func TestAnIntentIsNotForgottenBeforeItsKeyShows(t *testing.T) {
	t.Parallel()
	c := newCase(t)
	settings := memory.Strict()
	settings.KnowsTokens, settings.ConsistentWithin = false, 20*time.Millisecond
	c.world.SetPrincipal("payments-api", settings)
	c.world.LoseReply(memory.OpIssue, 1)
	require.Error(t, c.attempt("Issue", activities.IssueInput{Rotation: c.subject(), Ordinal: 1}, nil, 1))
	var once sync.Once
	c.world.On(memory.OpList, func(phase memory.Phase) {
		if phase == memory.After {
			once.Do(func() { c.wait(time.Second) })
		}
	})
	var d policy.Decision
	c.execute("Discard", c.subject(), &d)
	assert.True(t, d.OK, d.Message)
	c.wait(time.Second) // the issuer settles
	assert.Equal(t, []string{"key-old active"}, c.keys())
}

// Temporal runs one step of a rotation at a time. An attempt that outlived its time-out, and a workflow that
// means harm, run another beside it.
func TestActivitiesTakeTurnsAtASecret(t *testing.T) {
	t.Parallel()
	c := reached(t, "Issue")
	release := c.world.Hang(memory.OpDeliver)
	defer release()
	delivers := make(chan struct{})
	delivering := sync.OnceFunc(func() { close(delivers) })
	c.world.On(memory.OpPutMetadata, func(memory.Phase) { delivering() })
	var both sync.WaitGroup
	both.Go(func() {
		_ = c.attempt("DeliverWave", activities.WaveInput{Rotation: c.subject(), Key: c.incoming, Wave: "canary"}, nil, 1)
	})
	select {
	case <-delivers: // it holds the secret
	case <-time.After(patience):
		require.Fail(t, "DeliverWave hangs")
	}
	var promoted error
	done := make(chan struct{})
	both.Go(func() {
		defer close(done)
		promoted = c.attempt("Promote", c.subject(), nil, 1)
	})
	select {
	case <-done:
		assert.Fail(t, "Promote acted while DeliverWave did")
	case <-time.After(50 * time.Millisecond):
	}
	release()
	both.Wait()
	assert.NoError(t, promoted)
}

// What only looks is bound, too: a check may run a program and call a host.
func TestWhatOnlyLooksStaysInBounds(t *testing.T) {
	t.Parallel()
	c := newCase(t)
	narrow, err := workerconfig.Load("keyturn-worker.yaml", []byte(`
apiVersion: keyturn/worker/v1
accounts: {edge: {type: memory}, vault: {type: memory}}
bounds: {test: {principals: ["payroll"], storePaths: ["payroll"]}}
`), c.do.Descriptors)
	require.NoError(t, err)
	c.do.Config = func() *workerconfig.Config { return narrow }
	for _, name := range []string{"Watch", "AwaitHealth", "AwaitTraffic"} {
		require.ErrorContains(t, c.attempt(name, c.subject(), nil, 1), "bounds.test.principals", name)
	}
	require.ErrorContains(t, c.attempt("HadTraffic", activities.TrafficInput{Rotation: c.subject()}, nil, 1), "bounds.test.principals")
	require.ErrorContains(t, c.attempt("GatherEvidence", activities.EvidenceInput{Rotation: c.subject()}, nil, 1), "bounds.test.principals")
	assert.Len(t, c.world.Ledger(), 1, "the case's own key")
}

func TestEvidenceIsToldAgainWhenItIsLate(t *testing.T) {
	t.Parallel()
	c := reached(t, "Issue", "DeliverWave", "Promote")
	c.use()
	c.wait(2 * time.Minute) // the issuer tells of it
	in := activities.EvidenceInput{Rotation: c.subject(), Late: c.now().Add(time.Minute)}
	var e policy.Evidence
	c.execute("GatherEvidence", in, &e)
	require.False(t, e.Complete)
	in.Shown = e.Lacks()
	c.executeToNotYet("GatherEvidence", in)
	c.wait(time.Minute)
	c.execute("GatherEvidence", in, &e)
	assert.Equal(t, in.Shown, e.Lacks())
}

// A worker that judged a moment ago, while another one promoted: the key in CURRENT is not destroyed.
func TestTheKeyThatHasBecomeCurrentIsNotDestroyed(t *testing.T) {
	t.Parallel()
	c := reached(t, "Issue")
	store := c.world.Store("payments-api")
	var judged sync.Once
	c.world.On(memory.OpAttest, func(phase memory.Phase) { // after the facts of the store were read
		if phase == memory.After {
			judged.Do(func() {
				assert.NoError(t, store.Promote(t.Context(), c.retiring.StoreVersion, c.incoming.StoreVersion))
			})
		}
	})
	c.wait(31 * time.Minute)
	require.ErrorContains(t, c.attempt("Discard", c.subject(), nil, 1), "it has become CURRENT")
	assert.ElementsMatch(t, []string{"key-old active", c.incoming.KeyID + " active"}, c.keys())
}

// The process dies when the key is disabled, and somebody uses it before the next attempt: that one refuses, and leaves
// nobody refused.
func TestADisablingThatIsRefusedInTheMiddleIsTakenBack(t *testing.T) {
	t.Parallel()
	c := reached(t, "Issue", "DeliverWave", "Promote")
	c.passOverlap()
	old, err := c.world.Store("payments-api").Read(t.Context(), c.retiring.StoreVersion)
	require.NoError(t, err)
	c.world.SetInstance("night-batch", memory.InstanceSettings{})
	c.world.Give("night-batch", old)
	var once sync.Once
	c.world.On(memory.OpDisable, func(phase memory.Phase) {
		if phase == memory.After {
			once.Do(func() {
				assert.Error(t, c.world.Request("night-batch"))
				c.wait(2 * time.Minute) // the issuer's lag
				panic("the process dies")
			})
		}
	})
	approved := []policy.Verdict{{Action: policy.Approve, Accepted: true, By: "ann", At: c.now()}}
	var d policy.Decision
	c.execute("Disable", activities.RevokeInput{Rotation: c.subject(), Approvals: approved}, &d)
	assert.Equal(t, policy.RetiringNotQuiet, d.Reason, d.Message)
	assert.Contains(t, c.keys(), "key-old active")
	assert.NoError(t, c.world.Request("night-batch"))
	c.auditHas(audit.KeyEnabled)
}

// Somebody whom nobody declared is refused with the disabled key: that is told, is one event however often it is looked
// at, and keeps the key from being destroyed when the soak is over.
func TestAKeyThatIsMissedIsNotDestroyed(t *testing.T) {
	t.Parallel()
	c := reached(t, "Issue", "DeliverWave", "Promote")
	c.passOverlap()
	old, err := c.world.Store("payments-api").Read(t.Context(), c.retiring.StoreVersion)
	require.NoError(t, err)
	c.world.SetInstance("night-batch", memory.InstanceSettings{})
	c.world.Give("night-batch", old)
	in := activities.RevokeInput{Rotation: c.subject(), Approvals: []policy.Verdict{{Action: policy.Approve, Accepted: true, By: "ann", At: c.now()}}}
	var d policy.Decision
	c.execute("Disable", in, &d)
	require.True(t, d.OK, d.Message)
	c.wait(10 * time.Minute)
	require.Error(t, c.world.Request("night-batch"))
	c.wait(25 * time.Minute) // the soak is over
	for range 2 {
		c.execute("AwaitMissed", c.subject(), &d)
		assert.Equal(t, policy.RetiringMissed, d.Reason, d.Message)
	}
	assert.Len(t, c.recorded(audit.KeyMissed), 1)
	var gone activities.Destroyed
	c.execute("Destroy", in, &gone)
	assert.Equal(t, policy.RetiringMissed, gone.Decision.Reason, gone.Decision.Message)
	assert.Contains(t, c.keys(), "key-old disabled")
}

// The verdict on a rollback is that of a test, where there is one: nobody is sent back to a key that is refused, whatever the issuer
// lists, and a run that cannot turn back leaves no note that it did.
func TestNothingLeadsBackToAKeyThatIsRefused(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		test  error
		times int
		want  policy.Reason
	}{
		"a test passes":                 {nil, 1000, policy.Allowed},
		"it is refused":                 {fmt.Errorf("%w: at the edge", providers.ErrKeyRefused), 1000, policy.RetiringKeyNotLive},
		"it is refused once":            {fmt.Errorf("%w: at the edge", providers.ErrKeyRefused), 1, policy.Allowed},
		"nobody knows whether it works": {errors.New("503"), 1000, policy.Allowed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := reached(t, "Issue", "DeliverWave")
			c.world.Fail(memory.OpSelfTest, x.test, x.times)
			before := len(c.world.Ledger())
			var d policy.Decision
			c.execute("LookBack", c.subject(), &d)
			assert.Equal(t, x.want, d.Reason, d.Message)
			assert.Len(t, c.world.Ledger(), before, "a look changes nothing")
			err := c.attempt("RestoreLabels", c.subject(), nil, 1)
			assert.Equal(t, x.want == policy.Allowed, err == nil, "%v", err)
			minted, _ := c.metadata().Key(c.incoming.KeyID)
			assert.Equal(t, x.want == policy.Allowed, !minted.TurnedBackAt.IsZero())
		})
	}
}

// A worker whose clock is wrong says of no key that it has ended.
func TestALookBackIsByTheRightClock(t *testing.T) {
	t.Parallel()
	c := reached(t, "Issue", "DeliverWave")
	asked := c.subject()
	asked.AskedAt = c.now().Add(-2 * time.Hour)
	require.ErrorContains(t, c.attempt("LookBack", asked, nil, 1), "the clock of this worker is not that of Temporal")
	asked.AskedAt = c.now().Add(-30 * time.Second)
	require.NoError(t, c.attempt("LookBack", asked, nil, 1))
	c.do.Ahead = func(context.Context) time.Duration { return 2 * time.Hour }
	var lists, checks atomic.Int32
	c.world.On(memory.OpList, func(memory.Phase) { lists.Add(1) })
	c.world.On(memory.OpCheck, func(memory.Phase) { checks.Add(1) })
	c.isNotYet(c.attempt("Watch", c.subject(), nil, 1))
	assert.Zero(t, lists.Load(), "which keys have ended is judged by the clock")
	assert.NotZero(t, checks.Load(), "whether consumers are well is not")
}

// A key that the issuer does not list is not destroyed unjudged: whether it is gone, the probe tells.
func TestAKeyThatIsNotListedIsNotDestroyed(t *testing.T) {
	t.Parallel()
	c := reached(t, "Issue", "DeliverWave", "Promote")
	c.passOverlap()
	unlisted := &unlisting{}
	c.do.Descriptors = []providers.Descriptor{c.world.Descriptor()}
	mint := c.do.Descriptors[0].Issuer.Open
	c.do.Descriptors[0].Issuer.Open = func(e providers.Environment, account, config any) (providers.Issuer, error) {
		whole, err := mint(e, account, config)
		unlisted.Issuer, unlisted.Disabler, unlisted.SelfTester = whole, whole.(providers.Disabler), whole.(providers.SelfTester)
		return unlisted, err
	}
	unlisted.keyID = c.retiring.KeyID
	revoke := activities.RevokeInput{Rotation: c.subject()}
	var d policy.Decision
	c.execute("Disable", revoke, &d)
	assert.Equal(t, policy.KeyGone, d.Reason, "nobody was asked")
	err := c.attempt("Destroy", revoke, nil, 1)
	require.ErrorContains(t, err, "is destroyed and not refused")
	assert.Contains(t, c.keys(), "key-old active")
}

// unlisting is an issuer that does not list a key.
type unlisting struct {
	providers.Issuer
	providers.Disabler
	providers.SelfTester
	keyID string
}

func (u *unlisting) List(ctx context.Context) ([]key.Info, error) {
	list, err := u.Issuer.List(ctx)
	return slices.DeleteFunc(list, func(k key.Info) bool { return k.KeyID == u.keyID }), err
}
