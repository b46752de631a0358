package activities_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"
	"golang.org/x/crypto/ssh"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/signed"
	"github.com/keyturn/keyturn/internal/workerconfig"
	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/memory"
)

// What Temporal's test environment calls things.
const (
	testNamespace = "default-test-namespace"
	testRun       = "default-test-run-id"
)

// signedCase is a crashCase whose worker trusts ann to sign specs and olga, of the owners, to approve.
type signedCase struct {
	*crashCase
	ann, olga, mallory     ssh.Signer
	inventory, owners, mob string
	// approved is what the revoke gate was passed with, for approvedOf as the incoming key.
	approved   *policy.Verdict
	approvedOf key.Ref
}

func newKey(t *testing.T) ssh.Signer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	signer, err := ssh.NewSignerFromKey(private)
	require.NoError(t, err)
	return signer
}

func trust(t *testing.T, file, name string, k ssh.Signer) {
	t.Helper()
	require.NoError(t, os.WriteFile(file, append([]byte(name+" "), ssh.MarshalAuthorizedKey(k.PublicKey())...), 0o600))
}

func newSignedCase(t *testing.T) *signedCase {
	t.Helper()
	folder := t.TempDir()
	c := &signedCase{
		crashCase: newCase(t), ann: newKey(t), olga: newKey(t), mallory: newKey(t),
		inventory: filepath.Join(folder, "inventory"), owners: filepath.Join(folder, "owners"), mob: filepath.Join(folder, "mob"),
	}
	trust(t, c.inventory, "ann", c.ann)
	trust(t, c.owners, "olga", c.olga)
	trust(t, c.mob, "mallory", c.mallory)
	config, err := workerconfig.Load("keyturn-worker.yaml", []byte(caseConfig+c.trusts()), c.do.Descriptors)
	require.NoError(t, err)
	c.do.Config = func() *workerconfig.Config { return config }
	c.do.Namespace = testNamespace
	c.sign(c.ann, func(s *inventory.Spec) {})
	return c
}

// trusts is the trust of the case's worker configuration.
func (c *signedCase) trusts() string {
	return "trust:\n  inventory: [{environments: [test], allowedSigners: \"" + c.inventory + "\"}, {environments: [play], allowedSigners: \"" + c.mob + "\"}]\n" +
		"  approvers: {owners: \"" + c.owners + "\", mob: \"" + c.mob + "\"}\n"
}

// sign signs the case's spec, changed.
func (c *signedCase) sign(by ssh.Signer, change func(*inventory.Spec)) {
	c.t.Helper()
	spec, err := c.spec.Peek()
	require.NoError(c.t, err)
	spec.Namespace = testNamespace
	spec.Credential.Approvals.Revoke = &inventory.Approval{Count: 1, Trust: inventory.TrustSigned, From: []string{"owners"}, ApprovalExpires: inventory.Duration(24 * time.Hour)}
	change(&spec)
	packed, err := inventory.NewSpec(spec)
	require.NoError(c.t, err)
	c.spec, err = packed.Sign(by)
	require.NoError(c.t, err)
}

// approval is a decision as a workflow would hand it to Disable.
func (c *signedCase) approval(by ssh.Signer, change func(*policy.SignedRequest)) policy.Verdict {
	c.t.Helper()
	body := policy.SignedRequest{
		Schema: policy.RequestSchema, Action: policy.Approve, Nonce: rand.Text(), SignedAt: c.now(),
		Bound: policy.Bound{
			Namespace: testNamespace, Workflow: "rotation/payments-api", Run: testRun, Rotation: "first-run",
			Gate: inventory.GateRevoke, Evidence: "digest", Retiring: c.retiring.KeyID, Incoming: c.incoming.KeyID,
		},
	}
	change(&body)
	e, err := signed.Sign(signed.Decision, body, by)
	require.NoError(c.t, err)
	return policy.Verdict{Action: policy.Approve, Accepted: true, At: c.now(), Signed: &e}
}

func asSigned(*policy.SignedRequest) {}

func (c *signedCase) refusal(err error) *temporal.ApplicationError {
	c.t.Helper()
	var refused *temporal.ApplicationError
	require.ErrorAs(c.t, err, &refused)
	return refused
}

func TestWhatASpecMustProve(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		prepare func(*signedCase)
		want    string
		says    string
	}{
		"one signed by who may is taken": {func(*signedCase) {}, "", ""},
		"one whose body was changed": {func(c *signedCase) {
			c.spec.Body = json.RawMessage(strings.Replace(string(c.spec.Body), `"charges"`, `"theft"`, 1))
		}, activities.TypeSpec, "does not hold"},
		"one signed by a stranger":              {func(c *signedCase) { c.sign(c.mallory, func(*inventory.Spec) {}) }, activities.TypeUntrusted, "not trusted"},
		"one signed by who left":                {func(c *signedCase) { trust(c.t, c.inventory, "bob", newKey(c.t)) }, activities.TypeUntrusted, "not trusted"},
		"one for another namespace":             {func(c *signedCase) { c.sign(c.ann, func(s *inventory.Spec) { s.Namespace = "prod" }) }, activities.TypeSpec, `namespace "prod"`},
		"one without signature":                 {func(c *signedCase) { c.spec.Signature = "" }, activities.TypeSpec, "--sign"},
		"one that is to be used no more":        {func(c *signedCase) { c.sign(c.ann, func(s *inventory.Spec) { s.NotAfter = c.now() }) }, activities.TypeSpec, "to be used until"},
		"one of a generation far in the future": {func(c *signedCase) { c.sign(c.ann, func(s *inventory.Spec) { s.Generation = 1 << 62 }) }, activities.TypeSpec, "more than 1h ahead: set right the clock of whoever signed it"},
		"one of an environment that its signer may not sign for": {func(c *signedCase) {
			c.sign(c.mallory, func(s *inventory.Spec) { s.Credential.Environment = "test" })
		}, activities.TypeUntrusted, `environment "test"`},
		"one whose envelope names another environment beside, to be held against other signers": {func(c *signedCase) {
			c.sign(c.mallory, func(*inventory.Spec) {})
			body := string(c.spec.Body)
			c.spec.Body = json.RawMessage(body[:len(body)-1] + `,"Credential":{"environment":"play"}}`)
		}, activities.TypeSpec, ""},
		"a signature for another purpose": {func(c *signedCase) {
			e, err := signed.Sign(signed.Decision, c.spec.Body, c.ann)
			require.NoError(c.t, err)
			c.spec.Envelope = e
		}, activities.TypeSpec, "does not hold"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newSignedCase(t)
			tc.prepare(c)
			for _, activity := range []string{"Accept", "Issue"} {
				var input any = activities.IssueInput{Rotation: c.subject(), Ordinal: 1}
				if activity == "Accept" {
					input = c.spec
				}
				err := c.attempt(activity, input, nil, 3)
				if tc.want == "" {
					require.NoError(t, err)
					continue
				}
				refused := c.refusal(err)
				assert.Equal(t, tc.want, refused.Type(), "%v", err)
				assert.Contains(t, refused.Message(), tc.says)
				assert.True(t, refused.NonRetryable())
				assert.Len(t, c.world.Happened(memory.OpIssue), 1, "nothing was minted")
			}
		})
	}
}

func TestAcceptSaysWhoSigned(t *testing.T) {
	t.Parallel()
	c := newSignedCase(t)
	var accepted activities.Accepted
	c.execute("Accept", c.spec, &accepted)
	assert.Equal(t, activities.Accepted{Signer: "ann", SignerKey: ssh.FingerprintSHA256(c.ann.PublicKey())}, accepted)
}

func TestTrustComesBack(t *testing.T) {
	t.Parallel()
	c := newSignedCase(t)
	c.execute("AwaitTrust", c.spec, nil)
	trust(t, c.inventory, "bob", newKey(t))
	c.executeToNotYet("AwaitTrust", c.spec)
	c.execute("Notify", activities.NotifyInput{Rotation: c.subject(), Message: activities.Message{What: "held", Severity: "alert", At: c.now()}}, nil)
	assert.Len(t, c.world.Notifications(), 1, "that a spec is not trusted any more is told")
	trust(t, c.inventory, "ann", c.ann)
	c.execute("AwaitTrust", c.spec, nil)
}

// acting are the activities that change issuer, store or consumers.
func (c *signedCase) acting() map[string]any {
	if c.approved == nil || c.approvedOf != c.incoming { // what a key was disabled on counts at its destroying
		given := c.approval(c.olga, asSigned)
		c.approved, c.approvedOf = &given, c.incoming
	}
	revoke := activities.RevokeInput{Rotation: c.subject(), Approvals: []policy.Verdict{*c.approved}}
	return map[string]any{
		"Issue":         activities.IssueInput{Rotation: c.subject(), Ordinal: 1},
		"DeliverWave":   activities.WaveInput{Rotation: c.subject(), Key: c.incoming, Wave: "all"},
		"Promote":       c.subject(),
		"Disable":       revoke,
		"Destroy":       revoke,
		"Enable":        c.subject(),
		"RestoreLabels": c.subject(),
		"Discard":       c.subject(),
		"Record":        activities.RecordInput{Rotation: c.subject(), Outcome: "completed"},
	}
}

// No activity with an effect takes a spec older than the one that a key was last issued with, nor one of
// another credential, nor one that is not signed by who may, whatever came before it.
func TestEveryEffectAsksForTheSpecItself(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*signedCase){
		"an older spec": func(c *signedCase) { c.sign(c.ann, func(s *inventory.Spec) { s.Generation-- }) },
		"a stranger's":  func(c *signedCase) { c.sign(c.mallory, func(*inventory.Spec) {}) },
		"another credential's": func(c *signedCase) {
			c.sign(c.ann, func(s *inventory.Spec) { s.Credential.Name = "payments-other" })
		},
		"an unsigned one": func(c *signedCase) { c.spec.Signature = "" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newSignedCase(t)
			for _, step := range []string{"Issue", "DeliverWave", "Promote"} {
				c.run(step)
			}
			c.passOverlap()
			before := len(c.world.Ledger())
			spoil(c)
			for activity, input := range c.acting() {
				assert.Error(t, c.attempt(activity, input, nil, 2), activity)
			}
			assert.Len(t, c.world.Ledger(), before, "nothing was changed")
		})
	}
}

func TestWhatDisableAndDestroyTakeForAnApproval(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		approval func(c *signedCase) policy.Verdict
		want     policy.Reason
	}{
		"one that is signed for this run and these keys": {func(c *signedCase) policy.Verdict { return c.approval(c.olga, asSigned) }, policy.Allowed},
		"one that only says so": {func(c *signedCase) policy.Verdict {
			return policy.Verdict{Action: policy.Approve, Accepted: true, By: "olga", Verified: true, Groups: []string{"owners"}, At: c.now()}
		}, policy.ApprovalsMissing},
		"one of another group":                        {func(c *signedCase) policy.Verdict { return c.approval(c.mallory, asSigned) }, policy.ApprovalsMissing},
		"one of who signs specs but does not approve": {func(c *signedCase) policy.Verdict { return c.approval(c.ann, asSigned) }, policy.ApprovalsMissing},
		"one for another run": {func(c *signedCase) policy.Verdict {
			return c.approval(c.olga, func(r *policy.SignedRequest) { r.Run = "before-the-reset" })
		}, policy.ApprovalsMissing},
		"one for another rotation": {func(c *signedCase) policy.Verdict {
			return c.approval(c.olga, func(r *policy.SignedRequest) { r.Rotation = "earlier" })
		}, policy.ApprovalsMissing},
		"one for another credential": {func(c *signedCase) policy.Verdict {
			return c.approval(c.olga, func(r *policy.SignedRequest) { r.Workflow = "rotation/payments-other" })
		}, policy.ApprovalsMissing},
		"one for another key": {func(c *signedCase) policy.Verdict {
			return c.approval(c.olga, func(r *policy.SignedRequest) { r.Retiring = "key-other" })
		}, policy.ApprovalsMissing},
		"one for another namespace": {func(c *signedCase) policy.Verdict {
			return c.approval(c.olga, func(r *policy.SignedRequest) { r.Namespace = "staging" })
		}, policy.ApprovalsMissing},
		"a rejection": {func(c *signedCase) policy.Verdict {
			return c.approval(c.olga, func(r *policy.SignedRequest) { r.Action = policy.Reject })
		}, policy.ApprovalsMissing},
		"one of the sign-off gate": {func(c *signedCase) policy.Verdict {
			return c.approval(c.olga, func(r *policy.SignedRequest) { r.Gate = inventory.GateSignoff })
		}, policy.ApprovalsMissing},
		"one that is too old, whatever the history says": {func(c *signedCase) policy.Verdict {
			return c.approval(c.olga, func(r *policy.SignedRequest) { r.SignedAt = c.now().Add(-25 * time.Hour) })
		}, policy.ApprovalsMissing},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newSignedCase(t)
			for _, step := range []string{"Issue", "DeliverWave", "Promote"} {
				c.run(step)
			}
			c.passOverlap()
			input := activities.RevokeInput{Rotation: c.subject(), Approvals: []policy.Verdict{tc.approval(c)}}
			var d policy.Decision
			c.execute("Disable", input, &d)
			assert.Equal(t, tc.want, d.Reason, d.Message)
			if tc.want != policy.Allowed {
				assert.Contains(t, c.keys(), "key-old active")
				return
			}
			c.wait(31 * time.Minute)
			var destroyed activities.Destroyed
			c.execute("Destroy", activities.RevokeInput{Rotation: c.subject()}, &destroyed)
			assert.Equal(t, policy.ApprovalsMissing, destroyed.Decision.Reason, "that it was disabled is not enough")
			c.execute("Destroy", input, &destroyed)
			assert.True(t, destroyed.Decision.OK, destroyed.Decision.Message)
		})
	}
}

// An approval authorises one disabling. When that is taken back, it is used up.
func TestAnApprovalCountsOnce(t *testing.T) {
	t.Parallel()
	c := newSignedCase(t)
	for _, step := range []string{"Issue", "DeliverWave", "Promote"} {
		c.run(step)
	}
	c.passOverlap()
	input := activities.RevokeInput{Rotation: c.subject(), Approvals: []policy.Verdict{c.approval(c.olga, asSigned)}}
	var d policy.Decision
	for range 2 { // a repetition of the same disabling is the same
		c.execute("Disable", input, &d)
		require.True(t, d.OK, d.Message)
	}
	c.execute("Enable", c.subject(), nil)
	c.execute("Disable", input, &d)
	assert.Equal(t, policy.ApprovalsMissing, d.Reason)
	assert.Contains(t, c.keys(), "key-old active")
	input.Approvals = append(input.Approvals, c.approval(c.olga, asSigned))
	c.execute("Disable", input, &d)
	assert.True(t, d.OK, d.Message)
}

func TestProveSaysWhoAndInWhichGroups(t *testing.T) {
	t.Parallel()
	c := newSignedCase(t)
	c.sign(c.ann, func(s *inventory.Spec) {
		s.Credential.Approvals.Signoff = &inventory.Approval{Count: 1, Trust: inventory.TrustSigned, From: []string{"mob", "owners"}}
	})
	good, stranger := c.approval(c.olga, asSigned), c.approval(c.ann, asSigned)
	forged := *good.Signed
	forged.Body = json.RawMessage(strings.Replace(string(forged.Body), "digest", "better", 1))
	var proofs []policy.Proof
	c.execute("Prove", activities.ProveInput{Spec: c.spec, Decisions: []signed.Envelope{*good.Signed, forged, *stranger.Signed}}, &proofs)
	require.Len(t, proofs, 3)
	assert.Equal(t, "olga", proofs[0].By.Name)
	assert.Equal(t, []string{"owners"}, proofs[0].Groups)
	assert.Equal(t, c.retiring.KeyID, proofs[0].Request.Retiring)
	assert.Contains(t, proofs[1].Problem, "does not hold")
	assert.Contains(t, proofs[2].Problem, "not among the allowed signers")
	for _, p := range proofs[1:] {
		assert.Empty(t, p.Groups)
		assert.Empty(t, p.By)
	}
}

// What a rogue workflow with a signed spec could try: each activity by itself, in an order and with keys
// of its choice.
func TestARogueWorkflowDestroysNothing(t *testing.T) {
	t.Parallel()
	overlap := func(t *testing.T) *signedCase {
		c := newSignedCase(t)
		for _, step := range []string{"Issue", "DeliverWave", "Promote"} {
			c.run(step)
		}
		c.passOverlap()
		// The retiring key was minted by a rotation, too, as every one but the first is.
		m := c.metadata()
		for i := range m.Keys {
			if m.Keys[i].KeyID == c.retiring.KeyID {
				m.Keys[i].Rotation = "earlier-run"
			}
		}
		_, err := c.world.Store("payments-api").PutMetadata(t.Context(), m)
		require.NoError(t, err)
		return c
	}
	alive := func(c *signedCase) {
		c.t.Helper()
		assert.ElementsMatch(c.t, []string{"key-old active", c.incoming.KeyID + " active"}, c.keys())
		assert.Equal(c.t, []key.Label{key.Current}, c.versions()[c.incoming.StoreVersion])
		assert.Equal(c.t, []key.Label{key.Previous}, c.versions()[c.retiring.StoreVersion])
	}
	swapped := func(c *signedCase) activities.Rotation {
		r := c.subject()
		r.Retiring, r.Incoming = r.Incoming, r.Retiring
		return r
	}
	t.Run("the retiring key discarded as that of the rotation that minted it", func(t *testing.T) {
		t.Parallel()
		c := overlap(t)
		r := c.subject()
		r.ID = "earlier-run"
		_ = c.attempt("Discard", r, nil, 1)
		alive(c)
	})
	t.Run("a way back that was none, to discard the retiring key after it", func(t *testing.T) {
		t.Parallel()
		c := overlap(t)
		require.Error(t, c.attempt("RestoreLabels", swapped(c), nil, 1))
		_ = c.attempt("Discard", c.subject(), nil, 1)
		alive(c)
	})
	t.Run("the key in use disabled and destroyed", func(t *testing.T) {
		t.Parallel()
		c := overlap(t)
		in := activities.RevokeInput{Rotation: swapped(c), Approvals: []policy.Verdict{c.approval(c.olga, asSigned)}}
		_ = c.attempt("Disable", in, nil, 1)
		_ = c.attempt("Destroy", in, nil, 1)
		alive(c)
	})
	t.Run("fingerprints that are not those of the keys", func(t *testing.T) {
		t.Parallel()
		c := overlap(t)
		for _, name := range fleet {
			c.world.Give(name, must(c.world.Store("payments-api").Read(t.Context(), c.retiring.StoreVersion)))
		}
		r := c.subject()
		r.Retiring.Fingerprint, r.Incoming.Fingerprint = "", r.Retiring.Fingerprint
		in := activities.RevokeInput{Rotation: r, Approvals: []policy.Verdict{c.approval(c.olga, asSigned)}}
		var d policy.Decision
		c.execute("Disable", in, &d)
		assert.Equal(t, policy.InstanceNotConverged, d.Reason, "instances are on the retiring key, whatever it is called")
		alive(c)
	})
	t.Run("the value of a live key pruned as that of a dead one", func(t *testing.T) {
		t.Parallel()
		c := overlap(t)
		r := c.subject()
		r.Retiring = key.Ref{KeyID: "long-dead", StoreVersion: c.retiring.StoreVersion, Fingerprint: c.retiring.Fingerprint}
		_ = c.attempt("Record", activities.RecordInput{Rotation: r, Outcome: "completed"}, nil, 1)
		alive(c)
	})
	t.Run("a dead key delivered", func(t *testing.T) {
		t.Parallel()
		c := overlap(t)
		var d policy.Decision
		c.execute("Disable", activities.RevokeInput{Rotation: c.subject(), Approvals: []policy.Verdict{c.approval(c.olga, asSigned)}}, &d)
		require.True(t, d.OK, d.Message)
		err := c.attempt("DeliverWave", activities.WaveInput{Rotation: c.subject(), Key: c.retiring, Wave: "x"}, nil, 1)
		require.ErrorContains(t, err, "not active")
		require.Error(t, c.attempt("RestoreLabels", c.subject(), nil, 1), "nor made CURRENT")
		c.use()
	})
	t.Run("a stranger's key enabled", func(t *testing.T) {
		t.Parallel()
		c := overlap(t)
		c.world.AddKey("payments-api", "stranger", c.now())
		ref := key.Ref{Principal: "payments-api", KeyID: "stranger"}
		require.NoError(t, c.world.Issuer("payments-api").(providers.Disabler).Disable(t.Context(), ref))
		r := c.subject()
		r.Retiring = ref
		require.NoError(t, c.attempt("Enable", r, nil, 1), "keyturn did not disable it")
		assert.Contains(t, c.keys(), "stranger disabled")
	})
	t.Run("events that pose as a worker's", func(t *testing.T) {
		t.Parallel()
		c := overlap(t)
		c.execute("Log", []audit.Event{
			{ID: "first-run/key.destroyed/key-old", Type: audit.KeyDestroyed, Actor: "worker", Time: c.now()},
			{ID: "first-run/overlap.extended/7", Type: audit.OverlapExtended, Actor: "worker", Credential: "another", Run: "another", Time: c.now().AddDate(1, 0, 0)},
		}, nil)
		trail, err := audit.Read(c.auditFile)
		require.NoError(t, err)
		last := trail.Events[len(trail.Events)-1]
		assert.Equal(t, "told/first-run/overlap.extended/7", last.ID)
		assert.Equal(t, []string{"workflow", "payments-api"}, []string{last.Actor, last.Credential})
		assert.NotEqual(t, "another", last.Run)
		assert.False(t, last.Time.After(c.now()), "nothing has happened that is yet to come")
		assert.Empty(t, c.recorded(audit.KeyDestroyed), "a workflow sees no key destroyed")
	})
	t.Run("an event that would have the ID of a worker's, so that readers keep it alone", func(t *testing.T) {
		t.Parallel()
		c := newCase(t)
		r := c.subject()
		r.ID = "told/x" // nobody has checked what a rotation is called
		r.Events = []audit.Event{{ID: "x/" + string(audit.KeyIssued) + "/key-new", Type: audit.PlanMade, Time: c.now()}}
		c.execute("Issue", activities.IssueInput{Rotation: r, Ordinal: 1}, nil)
		c.auditHas(audit.KeyIssued)
	})
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// That Inspect looked at the rights before is only what a history says.
func TestRightsAreCheckedBeforeTheMint(t *testing.T) {
	t.Parallel()
	c := newCase(t)
	settings := memory.Strict()
	settings.Objections = []string{"policy AdministratorAccess is not among the scopes"}
	c.world.SetPrincipal("payments-api", settings)
	err := c.attempt("Issue", activities.IssueInput{Rotation: c.subject(), Ordinal: 1}, nil, 1)
	require.ErrorContains(t, err, "AdministratorAccess")
	assert.Len(t, c.world.Happened(memory.OpIssue), 1)
	var plan policy.Plan
	c.execute("Inspect", c.subject(), &plan)
	require.Len(t, plan.Refusals, 1)
	assert.Equal(t, policy.RightsRefused, plan.Refusals[0].Reason)
}
