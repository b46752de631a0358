package activities_test

import (
	"context"
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/signed"
	"github.com/keyturn/keyturn/internal/workerconfig"
	"github.com/keyturn/keyturn/providers/memory"
)

// glassCase is a signedCase whose gates ask for two owners, in whose environment sally of the on-call people may break glass. It is right
// before the disabling.
type glassCase struct {
	*signedCase
	sally ssh.Signer
}

func newGlassCase(t *testing.T) *glassCase {
	t.Helper()
	c := &glassCase{signedCase: newSignedCase(t), sally: newKey(t)}
	oncall := filepath.Join(t.TempDir(), "oncall")
	trust(t, oncall, "sally", c.sally)
	trusts := strings.Replace(c.trusts(), "mob: \""+c.mob+"\"}", "mob: \""+c.mob+"\", oncall: \""+oncall+"\"}\n  breakGlass: {test: [oncall]}", 1)
	config, err := workerconfig.Load("keyturn-worker.yaml", []byte(caseConfig+trusts), c.do.Descriptors)
	require.NoError(t, err)
	c.do.Config = func() *workerconfig.Config { return config }
	c.sign(c.ann, func(s *inventory.Spec) { s.Credential.Approvals.Revoke.Count = 2 })
	for _, step := range []string{"Issue", "DeliverWave", "Promote"} {
		c.run(step)
	}
	c.passOverlap()
	return c
}

// alone makes an approval one by break-glass.
func alone(r *policy.SignedRequest) { r.BreakGlass, r.Reason = true, "bob is away" }

func (c *glassCase) disable(approvals ...policy.Verdict) (d policy.Decision) {
	c.t.Helper()
	c.execute("Disable", activities.RevokeInput{Rotation: c.subject(), Approvals: approvals}, &d)
	return d
}

// Who is on call disables a key alone by their signature, by nobody else's, and by no word in an input; that it is owed a review stands in
// the store before the key is touched.
func TestOnePersonAloneDisables(t *testing.T) {
	t.Parallel()
	c := newGlassCase(t)
	for name, one := range map[string]policy.Verdict{
		"an owner, whom nobody names for it":    c.approval(c.olga, alone),
		"who is on call, as an ordinary one":    c.approval(c.sally, asSigned),
		"mallory, of a group that nobody names": c.approval(c.mallory, alone),
	} {
		one.BreakGlass, one.Verified, one.By = true, true, "sally" // as a history may say
		d := c.disable(one)
		assert.Equal(t, policy.ApprovalsMissing, d.Reason, "%s: %s", name, d.Message)
	}
	assert.Empty(t, c.metadata().BrokenGlass)
	assert.Empty(t, c.recorded(audit.GlassBroken))

	c.world.Befall(func(_ context.Context, call memory.Call) error {
		if call.Op == memory.OpDisable {
			assert.Len(t, c.metadata().BrokenGlass, 1, "before the key is touched")
		}
		return nil
	})
	approval := c.approval(c.sally, alone)
	for range 2 {
		d := c.disable(approval)
		require.True(t, d.OK, d.Message)
	}
	broken := c.metadata().BrokenGlass
	require.Len(t, broken, 1)
	assert.Equal(t, []string{"sally", "bob is away", "revoke"}, []string{broken[0].By, broken[0].Reason, broken[0].Gate})
	assert.Len(t, c.recorded(audit.GlassBroken), 1)
	c.wait(31 * time.Minute)
	var destroyed activities.Destroyed
	c.execute("Destroy", activities.RevokeInput{Rotation: c.subject(), Approvals: []policy.Verdict{approval}}, &destroyed)
	require.True(t, destroyed.Decision.OK, destroyed.Decision.Message)
	assert.Len(t, c.metadata().BrokenGlass, 1)
}

// second trusts one more owner.
func (c *glassCase) second() ssh.Signer {
	c.t.Helper()
	bob := newKey(c.t)
	text, err := os.ReadFile(c.owners)
	require.NoError(c.t, err)
	require.NoError(c.t, os.WriteFile(c.owners, append(append(text, "bob "...), ssh.MarshalAuthorizedKey(bob.PublicKey())...), 0o600))
	return bob
}

// What two owners approved is owed no review.
func TestTwoOwnersBreakNothing(t *testing.T) {
	t.Parallel()
	c := newGlassCase(t)
	d := c.disable(c.approval(c.olga, asSigned), c.approval(c.second(), asSigned), c.approval(c.sally, alone))
	require.True(t, d.OK, d.Message)
	assert.Empty(t, c.metadata().BrokenGlass)
}

// Whatever makes the approvals of two owners too few, what was done on the one by break-glass beside them is owed a review.
func TestWhatTwoOwnersDoNotReachBreaksGlass(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(c *glassCase, two []policy.Verdict) (approved []policy.Verdict){
		"the issuer tells of no use of the key, so that one more has to approve": func(c *glassCase, two []policy.Verdict) []policy.Verdict {
			settings := memory.Strict()
			settings.KnowsTokens, settings.ReportsUsage, settings.UsageLag = false, false, time.Minute
			c.world.SetPrincipal("payments-api", settings)
			c.wait(2 * time.Hour)
			return two
		},
		"they are too old": func(c *glassCase, two []policy.Verdict) []policy.Verdict {
			c.wait(25 * time.Hour)
			return two
		},
		"they are used up by a disabling that was taken back": func(c *glassCase, two []policy.Verdict) []policy.Verdict {
			require.True(c.t, c.disable(two...).OK)
			c.execute("Enable", c.subject(), nil)
			assert.Empty(c.t, c.metadata().BrokenGlass)
			return two
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newGlassCase(t)
			approvals := prepare(c, []policy.Verdict{c.approval(c.olga, asSigned), c.approval(c.second(), asSigned)})
			d := c.disable(approvals...)
			require.Equal(t, policy.ApprovalsMissing, d.Reason, d.Message)
			d = c.disable(append(approvals, c.approval(c.sally, alone))...)
			require.True(t, d.OK, d.Message)
			require.Len(t, c.metadata().BrokenGlass, 1)
			assert.Equal(t, "sally", c.metadata().BrokenGlass[0].By)
		})
	}
}

func (c *glassCase) review(by ssh.Signer, change func(*policy.GlassReview)) signed.Envelope {
	c.t.Helper()
	r := policy.GlassReview{Namespace: testNamespace, Credential: "payments-api", Comment: "the evidence was complete", SignedAt: c.now()}
	for _, b := range c.metadata().BrokenGlass {
		r.Of = append(r.Of, b.ID)
	}
	change(&r)
	e, err := r.Sign(by)
	require.NoError(c.t, err)
	return e
}

// A day later no routine rotation begins until somebody else has looked at it who might have approved it.
func TestBreakGlassIsReviewedBySomebodyElse(t *testing.T) {
	t.Parallel()
	c := newGlassCase(t)
	require.True(t, c.disable(c.approval(c.sally, alone)).OK)
	warned := false
	overdue := func() bool {
		var plan policy.Plan
		c.execute("Inspect", c.subject(), &plan)
		warned = strings.Contains(strings.Join(plan.Warnings, "\n"), "no routine rotation begins before that is done")
		for _, d := range plan.Refusals {
			if d.Reason == policy.ReviewOverdue {
				assert.Contains(t, d.Message, "sally passed the revoke gate alone")
				assert.Contains(t, d.Message, "keyturn review rotation/payments-api --sign KEY")
				return true
			}
		}
		return false
	}
	assert.False(t, overdue(), "there is time yet")
	assert.True(t, warned)
	c.wait(25 * time.Hour)
	assert.True(t, overdue())

	same := func(*policy.GlassReview) {}
	for name, x := range map[string]struct {
		review signed.Envelope
		says   string
	}{
		"who broke it":             {c.review(c.sally, same), "somebody else has to review it"},
		"a stranger":               {c.review(c.mallory, same), "not among the allowed signers"},
		"another credential's":     {c.review(c.olga, func(r *policy.GlassReview) { r.Credential = "payments-other" }), "it reviews payments-other"},
		"another namespace's":      {c.review(c.olga, func(r *policy.GlassReview) { r.Namespace = "staging" }), "staging"},
		"of what nobody did":       {c.review(c.olga, func(r *policy.GlassReview) { r.Of = append(r.Of, rand.Text()) }), "has the ID"},
		"an approval as if it was": {*c.approval(c.olga, alone).Signed, "review refused"},
	} {
		refused := c.refusal(c.attempt("ReviewBreakGlass", activities.GlassReviewInput{Rotation: c.subject(), Review: x.review}, nil, 2))
		assert.Equal(t, activities.TypeReview, refused.Type(), name)
		assert.ErrorContains(t, refused, x.says, name)
	}
	assert.True(t, overdue())

	review, second, broken := c.review(c.olga, same), c.review(c.second(), same), c.review(c.sally, same)
	for range 2 {
		var done activities.GlassReviewed
		c.execute("ReviewBreakGlass", activities.GlassReviewInput{Rotation: c.subject(), Review: review}, &done)
		assert.Equal(t, "olga", done.By)
		assert.Len(t, done.Of, 1, "and who repeats it is told the same")
	}
	assert.False(t, overdue())
	m := c.metadata()
	assert.Empty(t, m.BrokenGlass)
	assert.Nil(t, m.Lease, "it is all that the run does")
	for name, late := range map[string]signed.Envelope{"somebody after them": second, "who broke it, after them": broken} {
		refused := c.refusal(c.attempt("ReviewBreakGlass", activities.GlassReviewInput{Rotation: c.subject(), Review: late}, nil, 2))
		assert.ErrorContains(t, refused, "somebody else has reviewed it before", name)
	}
	assert.Len(t, c.recorded(audit.GlassReviewed), 1)
}

// The worker dies before and after the review is written: it is recorded once.
func TestAReviewThatIsInterrupted(t *testing.T) {
	t.Parallel()
	for _, phase := range []memory.Phase{memory.Before, memory.After} {
		c := newGlassCase(t)
		require.True(t, c.disable(c.approval(c.sally, alone)).OK)
		input := activities.GlassReviewInput{Rotation: c.subject(), Review: c.review(c.olga, func(*policy.GlassReview) {})}
		c.dies(death{memory.OpPutMetadata, 1, phase, ""})
		c.execute("ReviewBreakGlass", input, nil)
		require.True(t, c.died.Load())
		assert.Empty(t, c.metadata().BrokenGlass)
		assert.Len(t, c.recorded(audit.GlassReviewed), 1)
	}
}
