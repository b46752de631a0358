package activities_test

import (
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/memory"
)

// What a rogue workflow could reach by activities alone. It chooses their order and input, and their time-outs too: so
// a process that dies at a bad moment is something that it picks.

// inOverlap is a signed case in its overlap, which has passed.
func inOverlap(t *testing.T) *signedCase {
	t.Helper()
	c := newSignedCase(t)
	for _, step := range []string{"Issue", "DeliverWave", "Promote"} {
		c.run(step)
	}
	c.passOverlap()
	return c
}

// A spec that asks for less governs no credential of somebody else, whoever signed it.
func TestASpecOfAnotherInventoryOrEnvironmentIsRefused(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*signedCase){
		"another inventory, signed by who may": func(c *signedCase) {
			c.sign(c.ann, func(s *inventory.Spec) { s.Inventory, s.Credential.Approvals = "another-team", inventory.Approvals{} })
		},
		"another environment, signed by who may sign for that": func(c *signedCase) {
			c.bounds(`bounds: {play: {accounts: [edge, vault], principals: ["*"], storePaths: ["**"]}, test: {accounts: [edge, vault], `)
			c.sign(c.mallory, func(s *inventory.Spec) {
				s.Credential.Environment, s.Credential.Approvals = "play", inventory.Approvals{}
			})
		},
		"another environment, signed by nobody, where nobody needs to": func(c *signedCase) {
			c.bounds(`bounds: {lab: {accounts: [edge, vault], principals: ["*"], storePaths: ["**"]}, test: {accounts: [edge, vault], `)
			c.sign(c.mallory, func(s *inventory.Spec) {
				s.Credential.Environment, s.Credential.Approvals = "lab", inventory.Approvals{}
			})
			c.spec.Signature = ""
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := inOverlap(t)
			assert.Equal(t, "payments", c.metadata().Inventory)
			assert.Equal(t, "test", c.metadata().Environment)
			before := len(c.world.Ledger())
			change(c)
			for activity, input := range c.acting() {
				require.ErrorContains(t, c.attempt(activity, input, nil, 2), "belongs to inventory", activity)
			}
			assert.Len(t, c.world.Ledger(), before, "nothing was changed")
		})
	}
}

// Before its first key a credential belongs to nobody, and a mint that was refused does not change that.
func TestARefusedMintClaimsNothing(t *testing.T) {
	t.Parallel()
	c := newSignedCase(t)
	c.world.Fail(memory.OpIssue, providers.ErrSlotsFull, 1)
	require.Error(t, c.attempt("Issue", activities.IssueInput{Rotation: c.subject(), Ordinal: 1}, nil, 1))
	assert.Empty(t, c.metadata().Inventory)
}

// readyFor is a rotation in which this activity has something to do.
func readyFor(t *testing.T, activity string) *signedCase {
	t.Helper()
	before, known := map[string][]string{
		"Issue": {}, "DeliverWave": {"Issue"}, "Promote": {"Issue", "DeliverWave"},
		"Enable": {"Issue", "DeliverWave", "Promote", "Disable"}, "RestoreLabels": {"Issue", "DeliverWave", "Promote"},
		"Discard": {"Issue", "DeliverWave", "DeliverBack"}, "Disable": {"Issue", "DeliverWave", "Promote"},
		"Destroy": {"Issue", "DeliverWave", "Promote", "Disable"}, "Record": {"Issue", "DeliverWave", "Promote", "Disable", "Destroy"},
	}[activity]
	require.True(t, known, "say what comes before %s", activity)
	c := newSignedCase(t)
	for _, step := range before {
		if step == "Disable" || step == "Destroy" { // on approvals that are signed
			c.passOverlap()
			c.execute(step, c.acting()[step], nil)
			continue
		}
		c.run(step)
	}
	c.passOverlap()
	return c
}

// That a gate was passed before is only what a history says: no key is minted without the approvals themselves.
func TestNoKeyIsMintedWithoutTheSignOff(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		approvals func(c *signedCase) []policy.Verdict
		want      bool
	}{
		"none at all": {func(*signedCase) []policy.Verdict { return nil }, false},
		"one that only says so": {func(c *signedCase) []policy.Verdict {
			return []policy.Verdict{{Action: policy.Approve, Gate: inventory.GateSignoff, Accepted: true, By: "olga", Verified: true, Groups: []string{"owners"}, At: c.now()}}
		}, false},
		"one of the revoke gate": {func(c *signedCase) []policy.Verdict {
			return []policy.Verdict{c.approval(c.olga, func(r *policy.SignedRequest) { r.Incoming = "" })}
		}, false},
		"one of somebody who does not approve": {func(c *signedCase) []policy.Verdict { return []policy.Verdict{c.signoff(c.mallory, asSigned)} }, false},
		"one for another key than the current": {func(c *signedCase) []policy.Verdict {
			return []policy.Verdict{c.signoff(c.olga, func(r *policy.SignedRequest) { r.Retiring = "key-other" })}
		}, false},
		"one that is too old": {func(c *signedCase) []policy.Verdict {
			return []policy.Verdict{c.signoff(c.olga, func(r *policy.SignedRequest) { r.SignedAt = c.now().Add(-25 * time.Hour) })}
		}, false},
		"one that is signed for this very mint": {func(c *signedCase) []policy.Verdict { return []policy.Verdict{c.signoff(c.olga, asSigned)} }, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newSignedCase(t)
			c.sign(c.ann, func(s *inventory.Spec) {
				s.Credential.Approvals.Signoff = &inventory.Approval{Count: 1, Trust: inventory.TrustSigned, From: []string{"owners"}, ApprovalExpires: inventory.Duration(24 * time.Hour)}
			})
			in := activities.IssueInput{Rotation: c.subject(), Ordinal: 1, Approvals: tc.approvals(c)}
			in.Retiring = key.Ref{} // what is told of it does not count
			err := c.attempt("Issue", in, nil, 1)
			if !tc.want {
				require.ErrorContains(t, err, "0 of 1 approval of the signoff gate")
				assert.Equal(t, []string{"key-old active"}, c.keys())
				assert.Empty(t, c.metadata().Intents)
				return
			}
			require.NoError(t, err)
			assert.Len(t, c.keys(), 2)
			in.Approvals = nil
			require.NoError(t, c.attempt("Issue", in, nil, 1), "what is minted and staged may be finished")
			assert.Len(t, c.keys(), 2)
		})
	}
}

// signoff is an approval of the sign-off gate, as a workflow would hand it to Issue.
func (c *signedCase) signoff(by ssh.Signer, change func(*policy.SignedRequest)) policy.Verdict {
	c.t.Helper()
	return c.approval(by, func(r *policy.SignedRequest) {
		r.Gate, r.Incoming, r.Evidence = inventory.GateSignoff, "", ""
		change(r)
	})
}

// That a workflow turns back from a key that does not work is only what an honest one does.
func TestAKeyThatWasNotSeenToWorkIsNeitherDeliveredNorPromoted(t *testing.T) {
	t.Parallel()
	c := newCase(t)
	c.world.Fail(memory.OpCheck, providers.ErrKeyRefused, 1_000_000)
	var issued activities.Issued
	c.execute("Issue", activities.IssueInput{Rotation: c.subject(), Ordinal: 1}, &issued)
	require.False(t, issued.Decision.OK)
	c.incoming = issued.Key
	err := c.attempt("DeliverWave", activities.WaveInput{Rotation: c.subject(), Key: c.incoming, Wave: "all"}, nil, 1)
	require.ErrorContains(t, err, "not seen to work")
	var d policy.Decision
	c.execute("Promote", c.subject(), &d)
	assert.Equal(t, policy.KeyNotWorking, d.Reason, d.Message)
	c.everybodyHolds(c.retiring)
	c.run("Discard")
	assert.Equal(t, []string{"key-old active"}, c.keys())
}

// keyturn tries each key, and an issuer does not tell by whom it was used: that is no use by a consumer.
func TestATryOfKeyturnIsNoUse(t *testing.T) {
	t.Parallel()
	c := reached(t, "Issue")
	tried, err := c.world.Store("payments-api").Read(t.Context(), c.incoming.StoreVersion)
	require.NoError(t, err)
	require.NoError(t, c.world.Use(tried, "the self-test, as the issuer records it"))
	c.run("DeliverWave")
	c.run("Promote")
	c.wait(3 * time.Hour)
	var e policy.Evidence
	c.execute("GatherEvidence", activities.EvidenceInput{Rotation: c.subject()}, &e)
	require.Len(t, e.Missing, 1)
	assert.Equal(t, policy.IncomingNotUsed, e.Missing[0].Reason)
	c.use()
	c.wait(2 * time.Minute)
	c.execute("GatherEvidence", activities.EvidenceInput{Rotation: c.subject()}, &e)
	assert.True(t, e.Complete, "%v", e.Missing)
}

// other is a second worker of the case, which does not know of the first.
func (c *crashCase) other() *activities.Activities {
	return &activities.Activities{
		Config: c.do.Config, Descriptors: c.do.Descriptors, Catalog: c.do.Catalog, Audit: c.do.Audit, Namespace: c.do.Namespace,
		AllowUnsigned: c.do.AllowUnsigned, Now: c.now, PollEvery: c.do.PollEvery,
	}
}

// by runs something on another worker.
func (c *crashCase) by(worker *activities.Activities, do func()) {
	first := c.do
	c.do = worker
	defer func() { c.do = first }()
	do()
}

// An approval authorises one disabling, whenever the process dies and whoever takes it back.
func TestAnApprovalOfADisablingThatWasTakenBackIsSpent(t *testing.T) {
	t.Parallel()
	for name, takeBack := range map[string]func(c *signedCase, in activities.RevokeInput){
		"by a workflow, after the process died in the middle": func(c *signedCase, in activities.RevokeInput) {
			var once sync.Once
			c.world.On(memory.OpDisable, func(p memory.Phase) {
				if p == memory.After {
					once.Do(func() { c.world.Fail(memory.OpPutMetadata, os.ErrDeadlineExceeded, 1) })
				}
			})
			require.Error(c.t, c.attempt("Disable", in, nil, 1))
			c.execute("Enable", c.subject(), nil)
		},
		"by hand": func(c *signedCase, in activities.RevokeInput) {
			c.execute("Disable", in, nil)
			require.NoError(c.t, c.world.Issuer("payments-api").(providers.Disabler).Enable(c.t.Context(), c.retiring))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := inOverlap(t)
			in := activities.RevokeInput{Rotation: c.subject(), Approvals: []policy.Verdict{c.approval(c.olga, asSigned)}}
			takeBack(c, in)
			require.Contains(t, c.keys(), "key-old active")
			var d policy.Decision
			for range 2 {
				c.execute("Disable", in, &d)
				assert.Equal(t, policy.ApprovalsMissing, d.Reason, d.Message)
				assert.Contains(t, c.keys(), "key-old active")
			}
			in.Approvals = append(in.Approvals, c.approval(c.olga, asSigned))
			c.execute("Disable", in, &d)
			assert.True(t, d.OK, d.Message)
		})
	}
}

// An intent that was left in a world of an issuer like IAM: no tokens, and uses are told late. Whoever makes a key by
// hand then makes what looks like the lost one.
func TestAKeyThatSomebodyMadeDuringAMintIsNotDestroyed(t *testing.T) {
	t.Parallel()
	issue := func(c *crashCase) error {
		return c.attempt("Issue", activities.IssueInput{Rotation: c.subject(), Ordinal: 1}, nil, 1)
	}
	interrupted := func(t *testing.T) *crashCase {
		c := newCase(t)
		settings := memory.Strict()
		settings.KnowsTokens, settings.UsageLag, settings.Slots = false, 30*time.Minute, 3
		c.world.SetPrincipal("payments-api", settings)
		c.world.Fail(memory.OpIssue, os.ErrDeadlineExceeded, 1) // between the intent and the call
		require.Error(t, issue(c))
		require.Len(t, c.metadata().Intents, 1)
		return c
	}
	t.Run("one that was used before it was claimed is given back once that is told", func(t *testing.T) {
		t.Parallel()
		c := interrupted(t)
		c.wait(30 * time.Second)
		theirs := c.world.AddKey("payments-api", "made-by-hand", c.now())
		require.NoError(t, c.world.Use(theirs, "somebody"))
		for range 2 {
			c.executeToNotYet("Issue", activities.IssueInput{Rotation: c.subject(), Ordinal: 1})
			assert.Contains(t, c.keys(), "made-by-hand disabled")
			c.wait(10 * time.Minute)
		}
		c.executeToNotYet("Discard", c.subject())
		c.wait(15 * time.Minute)
		require.ErrorContains(t, issue(c), "somebody else's")
		assert.Contains(t, c.keys(), "made-by-hand active")
		require.NoError(t, c.world.Use(theirs, "somebody"))
		c.auditHas(audit.OrphanDisabled, audit.OrphanReleased)
		var plan policy.Plan
		c.execute("Inspect", c.subject(), &plan)
		require.Len(t, plan.Refusals, 1)
		assert.Equal(t, policy.UnknownActiveKey, plan.Refusals[0].Reason)
	})
	t.Run("one that was made later than a call lasts is somebody else's", func(t *testing.T) {
		t.Parallel()
		c := interrupted(t)
		c.wait(policy.MintWithin + time.Second)
		c.world.AddKey("payments-api", "made-by-hand", c.now())
		require.NoError(t, issue(c))
		assert.Contains(t, c.keys(), "made-by-hand active")
	})
	t.Run("one that nobody used is destroyed when that is known", func(t *testing.T) {
		t.Parallel()
		c := interrupted(t)
		c.world.AddKey("payments-api", "made-by-hand", c.now())
		c.executeToNotYet("Issue", activities.IssueInput{Rotation: c.subject(), Ordinal: 1})
		c.wait(29 * time.Minute)
		c.executeToNotYet("Issue", activities.IssueInput{Rotation: c.subject(), Ordinal: 1})
		c.wait(time.Minute)
		require.NoError(t, issue(c))
		assert.NotContains(t, strings.Join(c.keys(), " "), "made-by-hand")
	})
}

// What a workflow tells is never recorded as what a worker saw.
func TestTheRecordSaysWhatFactsSay(t *testing.T) {
	t.Parallel()
	ends := func(c *signedCase) (list []audit.Event) {
		trail, err := audit.Read(c.auditFile)
		require.NoError(t, err)
		for _, e := range trail.Events {
			if e.Type == audit.RotationEnded {
				list = append(list, e)
			}
		}
		return list
	}
	record := func(c *signedCase, outcome, message string) {
		c.execute("Record", activities.RecordInput{Rotation: c.subject(), Outcome: outcome, Message: message}, nil)
	}
	t.Run("no key is destroyed that was nowhere", func(t *testing.T) {
		t.Parallel()
		c := inOverlap(t)
		r := c.subject()
		r.Retiring = key.Ref{Principal: "payments-api", KeyID: "of-somebody", StoreVersion: c.retiring.StoreVersion}
		require.NoError(t, c.attempt("Destroy", activities.RevokeInput{Rotation: r}, nil, 1))
		text, err := os.ReadFile(c.auditFile)
		require.NoError(t, err)
		assert.NotContains(t, string(text), "of-somebody")
		assert.NotContains(t, string(text), string(audit.ProbeRefused))
	})
	t.Run("no rotation is completed before it is", func(t *testing.T) {
		t.Parallel()
		c := newSignedCase(t)
		c.run("Issue")
		for _, lie := range []string{"completed", "rolled-back", "all is well"} {
			record(c, lie, "olga said so")
			assert.Equal(t, "failed", c.metadata().LastRotation.Outcome, lie)
		}
		for _, e := range ends(c) {
			assert.Equal(t, "failed", e.Detail["outcome"])
			assert.Equal(t, "completed: olga said so", e.Detail["told"])
			assert.Contains(t, e.ID, testRun)
		}
		assert.Len(t, ends(c), 1, "an end for each run and outcome")
	})
	t.Run("a rotation of another name did not end so", func(t *testing.T) {
		t.Parallel()
		c := inOverlap(t)
		r := c.subject()
		r.ID = "made-up"
		c.execute("Record", activities.RecordInput{Rotation: r, Outcome: "completed"}, nil)
		assert.Equal(t, "failed", c.metadata().LastRotation.Outcome)
		record(c, "completed", "")
		assert.Equal(t, "completed-with-debt", c.metadata().LastRotation.Outcome, "the honest end")
	})
}

// A version is pruned when it held a key of keyturn's that is dead, not because somebody names it.
func TestOnlyVersionsOfOwnDeadKeysArePruned(t *testing.T) {
	t.Parallel()
	c := newSignedCase(t)
	c.world.AddVersion("payments-api", secret.Single(secret.New([]byte("somebody else's value, 0123456789"))))
	before := c.versions()
	r := c.subject()
	for version := range before {
		r.Retiring = key.Ref{KeyID: "none", StoreVersion: version}
		require.NoError(t, c.attempt("Record", activities.RecordInput{Rotation: r, Outcome: "completed"}, nil, 1))
	}
	assert.Equal(t, before, c.versions())
}

// Whoever may start workflows cannot make keyturn send texts of their choice.
func TestATextIsSentForWhoSignsSpecsAlone(t *testing.T) {
	t.Parallel()
	c := newSignedCase(t)
	tell := func() error {
		return c.attempt("Notify", activities.NotifyInput{Rotation: c.subject(), Message: activities.Message{What: "gate", Severity: "action", Subject: "click here", Body: "https://evil.example", At: c.now()}}, nil, 1)
	}
	require.NoError(t, tell())
	c.sign(c.mallory, func(*inventory.Spec) {})
	require.NoError(t, tell(), "that it is not trusted is told, in other words")
	c.sign(c.ann, func(s *inventory.Spec) { s.Credential.Name = "payments-other" })
	require.ErrorContains(t, tell(), "is not its rotation")
	sent := c.world.Notifications()
	require.Len(t, sent, 2)
	assert.Equal(t, "click here", sent[0].Subject)
	assert.Equal(t, "The spec of payments-api is not trusted", sent[1].Subject)
	assert.NotContains(t, sent[1].Body, "evil")
}

// A key that was found disabled stays so while people approve once more, when it was refused to be destroyed: what they approve then
// counts, too.
func TestASecondApprovalOfAKeyThatIsDisabledCounts(t *testing.T) {
	t.Parallel()
	c := inOverlap(t)
	require.NoError(t, c.world.Issuer("payments-api").(providers.Disabler).Disable(t.Context(), c.retiring))
	disable := func() activities.RevokeInput {
		in := activities.RevokeInput{Rotation: c.subject(), Approvals: []policy.Verdict{c.approval(c.olga, asSigned)}}
		var d policy.Decision
		c.execute("Disable", in, &d)
		require.True(t, d.OK, d.Message)
		return in
	}
	disable()
	since, _ := c.metadata().Key("key-old")
	var left policy.Decision
	c.execute("Enable", c.subject(), &left)
	assert.Equal(t, policy.RetiringKeyDisabled, left.Reason, "keyturn did not disable it, and says that it is left so")
	second := disable()
	now, _ := c.metadata().Key("key-old")
	assert.Len(t, now.Approvals, 2)
	assert.Equal(t, since.DisabledAt, now.DisabledAt, "the soak goes on")
	c.wait(31 * time.Minute)
	var destroyed activities.Destroyed
	c.execute("Destroy", second, &destroyed)
	assert.True(t, destroyed.Decision.OK, destroyed.Decision.Message)
}
