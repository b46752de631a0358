package activities_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/incident"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/workerconfig"
	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/memory"
)

// declare has the worker trust somebody who declares that these keys are exposed: from then on the activities act by that.
func (c *crashCase) declare(keys ...string) {
	c.t.Helper()
	file, ines := filepath.Join(c.t.TempDir(), "incidents"), newKey(c.t)
	trust(c.t, file, "ines", ines)
	config, err := workerconfig.Load("keyturn-worker.yaml", fmt.Appendf(nil, "%strust: {incidents: %q}\n", caseConfig, file), c.do.Descriptors)
	require.NoError(c.t, err)
	c.do.Config = func() *workerconfig.Config { return config }
	declaration, err := incident.Declaration{
		Incident: incident.ID("leak"), Reason: "key in a public repository", Deadline: incident.DefaultDeadline,
		Exposed: map[string][]string{"payments-api": keys}, Nonce: "n1", SignedAt: c.now(), Expires: c.now().Add(time.Hour),
	}.Sign(ines)
	require.NoError(c.t, err)
	c.emergency = &activities.Emergency{Declaration: declaration, Since: c.now()}
}

func (c *crashCase) isContained() {
	t := c.t
	assert.True(t, c.died.Load(), "the process died at the moment that the line names")
	assert.Equal(t, []string{c.incoming.KeyID + " active"}, c.keys())
	assert.Equal(t, map[string][]key.Label{c.incoming.StoreVersion: {key.Current}}, c.versions())
	m := c.metadata()
	assert.Empty(t, m.Intents)
	assert.Empty(t, m.Debt)
	assert.Nil(t, m.Incident, "the declaration is used up")
	c.everybodyHolds(c.incoming)
	c.auditHas(audit.EmergencyBegun, audit.KeyIssued, audit.KeyPromoted, audit.KeyDestroyed, audit.ProbeRefused, audit.RotationEnded)
}

// contains is the answer of Contain for a key.
func (c *crashCase) contains(keyID string) (d activities.Destroyed, err error) {
	c.t.Helper()
	return d, c.attempt("Contain", activities.ContainInput{Rotation: c.subject(), Key: key.Ref{KeyID: keyID}}, &d, 1)
}

// An exposed key goes when every instance is on another one that works, and not before; once the deadline has passed, whoever uses it.
func TestWhenAnExposedKeyIsDestroyed(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		steps   []string
		prepare func(*crashCase)
		want    policy.Reason
	}{
		"not while there is no other":               {nil, func(*crashCase) {}, policy.CurrentMoved},
		"not before CURRENT is another one":         {[]string{"Issue", "DeliverWave"}, func(*crashCase) {}, policy.CurrentMoved},
		"not while an instance holds it":            {[]string{"Issue", "DeliverWave", "Promote"}, (*crashCase).straggler, policy.InstanceNotConverged},
		"not while the other one is refused":        {[]string{"Issue", "DeliverWave", "Promote"}, func(c *crashCase) { c.world.Fail(memory.OpSelfTest, providers.ErrKeyRefused, 1000) }, policy.IncomingNotLive},
		"as soon as everybody is on another":        {[]string{"Issue", "DeliverWave", "Promote"}, func(*crashCase) {}, policy.Allowed},
		"after the deadline, though it is CURRENT":  {nil, func(c *crashCase) { c.wait(16 * time.Minute) }, policy.Allowed},
		"after the deadline, whoever holds it":      {[]string{"Issue", "DeliverWave", "Promote"}, func(c *crashCase) { c.straggler(); c.wait(16 * time.Minute) }, policy.Allowed},
		"not by a time that only the workflow says": {nil, func(c *crashCase) { c.emergency.Since = c.now().Add(-100 * time.Hour) }, policy.CurrentMoved},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCase(t)
			c.declare("key-old")
			for _, step := range x.steps {
				c.run(step)
			}
			x.prepare(c)
			d, err := c.contains("key-old")
			require.NoError(t, err)
			assert.Equal(t, x.want, d.Decision.Reason, d.Decision.Message)
			assert.Equal(t, x.want == policy.Allowed, len(c.world.Happened(memory.OpDestroy)) == 1)
			if x.want == policy.Allowed {
				c.auditHas(audit.EmergencyBegun, audit.KeyDestroyed, audit.ProbeRefused)
			}
		})
	}
}

// straggler has one instance hold the retiring key.
func (c *crashCase) straggler() {
	bundle, err := c.world.Store("payments-api").Read(c.t.Context(), c.retiring.StoreVersion)
	require.NoError(c.t, err)
	c.world.Give("checkout-b", bundle)
}

// Nothing is destroyed but what the declaration lists, and only as long as it may begin something, or has begun it.
func TestADeclarationBindsWhatIsDestroyed(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		key     string
		prepare func(*crashCase)
		says    string
	}{
		"a key that it does not list": {"key-new", func(*crashCase) {}, "it does not list this key"},
		"without one":                 {"key-old", func(c *crashCase) { c.emergency = nil }, "it does not list this key"},
		"one that nobody signed":      {"key-old", func(c *crashCase) { c.emergency.Declaration.Signature = "" }, "not signed"},
		"one that is too old":         {"key-old", func(c *crashCase) { c.wait(66 * time.Minute) }, "sign another one"},
		"where nobody may declare any": {"key-old", func(c *crashCase) {
			config, err := workerconfig.Load("keyturn-worker.yaml", []byte(caseConfig), c.do.Descriptors)
			require.NoError(c.t, err)
			c.do.Config = func() *workerconfig.Config { return config }
		}, "names nobody under trust.incidents"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCase(t)
			c.declare("key-old")
			x.prepare(c)
			_, err := c.contains(x.key)
			refused := (&signedCase{crashCase: c}).refusal(err)
			assert.Equal(t, activities.TypeDeclaration, refused.Type(), "%v", refused)
			assert.Contains(t, refused.Message(), x.says)
			assert.Empty(t, c.world.Happened(memory.OpDestroy))
			assert.Equal(t, []string{"key-old active"}, c.keys())
		})
	}
}

// What a declaration has begun for a credential it ends, however long that takes and whoever is trusted then. The record uses it up.
func TestADeclarationHoldsToTheEnd(t *testing.T) {
	t.Parallel()
	c := newCase(t)
	c.declare("key-old")
	c.run("Issue")
	require.NotNil(t, c.metadata().Incident)
	assert.Equal(t, incident.ID("leak"), c.metadata().Incident.ID)
	c.wait(5 * time.Hour)
	config, err := workerconfig.Load("keyturn-worker.yaml", []byte(caseConfig), c.do.Descriptors)
	require.NoError(t, err)
	c.do.Config = func() *workerconfig.Config { return config }
	for _, step := range []string{"DeliverWave", "Promote", "Contain", "Record"} {
		c.run(step)
	}
	assert.Equal(t, []string{c.incoming.KeyID + " active"}, c.keys())
	assert.Nil(t, c.metadata().Incident)
	c.byRun = "another-run"
	_, err = c.contains("key-old")
	assert.ErrorContains(t, err, "names nobody under trust.incidents")
}

// Where the issuer lets nobody destroy the key, it is disabled, and said to be alive; no routine rotation enables it again.
func TestAnExposedKeyThatCannotBeDestroyedIsDisabled(t *testing.T) {
	t.Parallel()
	c := newCase(t)
	c.declare("key-old")
	for _, step := range []string{"Issue", "DeliverWave", "Promote"} {
		c.run(step)
	}
	c.world.Fail(memory.OpDestroy, providers.ErrDenied, 100)
	d, err := c.contains("key-old")
	require.NoError(t, err)
	assert.Equal(t, policy.NotDestroyed, d.Decision.Reason, d.Decision.Message)
	assert.Equal(t, []string{"key-old disabled", c.incoming.KeyID + " active"}, c.keys())
	c.auditHas(audit.KeyDisabled)
	c.execute("Record", activities.RecordInput{Rotation: c.subject(), Outcome: "completed"}, nil)
	assert.Equal(t, key.OutcomeFailed, c.metadata().LastRotation.Outcome, "an exposed key is alive")
	c.emergency, c.byRun = nil, "the-next-run"
	var enabled policy.Decision
	c.execute("Enable", c.subject(), &enabled)
	assert.Equal(t, policy.RetiringKeyDisabled, enabled.Reason)
	assert.Contains(t, c.keys(), "key-old disabled")
}

// An exposed key of which there is no record is ended like any other, whenever the process dies; one that never was is not said to be.
func TestAnExposedKeyWithoutARecord(t *testing.T) {
	t.Parallel()
	c := newCase(t)
	settings := memory.Strict()
	settings.Slots, settings.UsageLag = 3, time.Minute
	c.world.SetPrincipal("payments-api", settings)
	c.world.AddKey("payments-api", "stranger", c.now())
	c.declare("stranger", "mistyped")
	c.world.On(memory.OpDestroy, func(p memory.Phase) {
		if p == memory.After && !c.died.Swap(true) {
			panic("the process dies")
		}
	})
	_, err := c.contains("stranger")
	require.Error(t, err)
	d, err := c.contains("stranger")
	require.NoError(t, err)
	assert.Equal(t, policy.KeyGone, d.Decision.Reason, d.Decision.Message)
	assert.Contains(t, d.Probe, "its value is in no store")
	assert.Equal(t, []string{"key-old active"}, c.keys())
	c.auditHas(audit.KeyDestroyed)
	d, err = c.contains("mistyped")
	require.NoError(t, err)
	assert.Equal(t, policy.KeyAbsent, d.Decision.Reason, d.Decision.Message)
	c.auditHas(audit.KeyDestroyed)
}

// Who approves nothing, signs off nothing and waits for nobody: an emergency mints, though the spec may not begin a rotation any more.
func TestAnEmergencyAsksNobody(t *testing.T) {
	t.Parallel()
	c := newCase(t)
	spec, err := c.spec.Peek()
	require.NoError(t, err)
	spec.Credential.Approvals.Signoff = &inventory.Approval{Count: 1, Trust: inventory.TrustAny}
	spec.NotAfter = c.now().Add(-time.Hour)
	c.spec, err = inventory.NewSpec(spec)
	require.NoError(t, err)
	require.Error(t, c.attempt("Issue", activities.IssueInput{Rotation: c.subject(), Ordinal: 1}, nil, 1))
	c.declare("key-old")
	c.run("Issue")
	assert.Len(t, c.keys(), 2)
}
