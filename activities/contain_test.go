package activities_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"

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
	c.declareFor("payments-api", keys...)
}

func (c *crashCase) declareFor(credential string, keys ...string) {
	c.t.Helper()
	c.declareWith(func(*incident.Declaration) {}, credential, keys...)
}

// declareWith bends the declaration.
func (c *crashCase) declareWith(bend func(*incident.Declaration), credential string, keys ...string) {
	c.t.Helper()
	file, ines := filepath.Join(c.t.TempDir(), "incidents"), newKey(c.t)
	trust(c.t, file, "ines", ines)
	config, err := workerconfig.Load("keyturn-worker.yaml", fmt.Appendf(nil, "%sfreeze: [{type: memory}]\ntrust: {incidents: %q}\n", caseConfig, file), c.do.Descriptors)
	require.NoError(c.t, err)
	c.do.Config = func() *workerconfig.Config { return config }
	d := incident.Declaration{
		Incident: incident.ID("leak"), Reason: "key in a public repository", Deadline: incident.DefaultDeadline,
		Exposed: map[string][]string{credential: keys}, Nonce: "n1", SignedAt: c.now(), Expires: c.now().Add(time.Hour),
	}
	bend(&d)
	declaration, err := d.Sign(ines)
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
	assert.Empty(t, m.Exposed, "it is gone")
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
		"not while there is no other":                         {nil, func(*crashCase) {}, policy.CurrentMoved},
		"not before CURRENT is another one":                   {[]string{"Issue", "DeliverWave"}, func(*crashCase) {}, policy.CurrentMoved},
		"not while an instance holds it":                      {[]string{"Issue", "DeliverWave", "Promote"}, (*crashCase).straggler, policy.InstanceNotConverged},
		"not while the other one is refused":                  {[]string{"Issue", "DeliverWave", "Promote"}, func(c *crashCase) { c.world.Fail(memory.OpSelfTest, providers.ErrKeyRefused, 1000) }, policy.IncomingNotLive},
		"as soon as everybody is on another":                  {[]string{"Issue", "DeliverWave", "Promote"}, func(*crashCase) {}, policy.Allowed},
		"after the deadline, though it is CURRENT":            {nil, func(c *crashCase) { c.wait(16 * time.Minute) }, policy.Allowed},
		"after the deadline, whoever holds it":                {[]string{"Issue", "DeliverWave", "Promote"}, func(c *crashCase) { c.straggler(); c.wait(16 * time.Minute) }, policy.Allowed},
		"before there is another, where it has the last slot": {nil, func(c *crashCase) { c.world.AddKey("payments-api", "stranger", c.now()) }, policy.Allowed},
		"not while a mint that was interrupted has the last slot": {nil, func(c *crashCase) {
			c.world.Fail(memory.OpSelfTest, errors.New("the issuer is away"), 1000)
			require.Error(c.t, c.attempt("Issue", activities.IssueInput{Rotation: c.subject(), Ordinal: 1}, nil, 1))
			require.Len(c.t, c.keys(), 2)
		}, policy.CurrentMoved},
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
		"a drill, of a credential that is not there for drills": {"key-old", func(c *crashCase) {
			c.declareWith(func(d *incident.Declaration) { d.Drill = true }, "payments-api", "key-old")
		}, `it is a drill, and "payments-api" is not labelled drill=true`},
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

// Nor does one that had disabled it itself, before it was taken over: that it is exposed is known for as long as it lives.
func TestAnExposedKeyThatWasDisabledBeforeIsNotEnabled(t *testing.T) {
	t.Parallel()
	c := newCase(t)
	for _, step := range []string{"Issue", "DeliverWave", "Promote", "Disable"} {
		c.run(step)
	}
	c.declare("key-old")
	c.world.Fail(memory.OpDestroy, providers.ErrDenied, 100)
	d, err := c.contains("key-old")
	require.NoError(t, err)
	require.Equal(t, policy.NotDestroyed, d.Decision.Reason, d.Decision.Message)
	c.execute("Record", activities.RecordInput{Rotation: c.subject(), Outcome: "completed"}, nil)
	require.Equal(t, map[string]string{"key-old": incident.ID("leak")}, c.metadata().Exposed)
	c.emergency, c.byRun = nil, "the-next-run"
	var enabled policy.Decision
	c.execute("Enable", c.subject(), &enabled)
	assert.Equal(t, policy.RetiringKeyDisabled, enabled.Reason)
	assert.Contains(t, enabled.Message, "exposed, by incident/leak")
	assert.Contains(t, c.keys(), "key-old disabled")
}

// An exposed key of which there is no record is ended like any other; one that never was is not said to be.
func TestAnExposedKeyThatNeverWas(t *testing.T) {
	t.Parallel()
	c := newCase(t)
	c.declare("mistyped")
	d, err := c.contains("mistyped")
	require.NoError(t, err)
	assert.Equal(t, policy.KeyAbsent, d.Decision.Reason, d.Decision.Message)
	assert.Empty(t, c.recorded(audit.KeyDestroyed))
}

// An emergency that ended an exposed key and did not live to say so is followed by another one, which does not take that key for one that
// never was, however many come.
func TestAnExposedKeyThatAnEmergencyBeforeEnded(t *testing.T) {
	t.Parallel()
	c := newCase(t)
	c.declare("key-old", "mistyped")
	for _, step := range []string{"Issue", "DeliverWave", "Promote", "Contain", "Record"} {
		c.run(step)
	}
	assert.Equal(t, []string{"key-old"}, c.metadata().LastRotation.Ended)
	for _, run := range []string{"the-next-run", "the-one-after"} {
		c.byRun = run
		before := len(c.world.Ledger())
		d, err := c.contains("key-old")
		require.NoError(t, err)
		assert.Equal(t, policy.Decision{OK: true, Reason: policy.KeyGone, Message: d.Decision.Message}, d.Decision)
		assert.Contains(t, d.Decision.Message, "was ended by the last rotation")
		d, err = c.contains("mistyped")
		require.NoError(t, err)
		assert.Equal(t, policy.KeyAbsent, d.Decision.Reason, d.Decision.Message)
		assert.Len(t, c.recorded(audit.KeyDestroyed), 1)
		for _, done := range c.world.Ledger()[before:] {
			assert.NotEqual(t, memory.OpDestroy, done.Op)
		}
		again := c.subject()
		again.ID = run
		c.execute("Record", activities.RecordInput{Rotation: again, Outcome: "completed"}, nil)
	}
	assert.Equal(t, []string{"key-old"}, c.metadata().LastRotation.Ended)
}

// What a death leaves where an emergency goes another way than the usual one.
func TestDeathsOfAnEmergency(t *testing.T) {
	t.Parallel()
	nobodyMay := func(c *crashCase) { c.world.Fail(memory.OpDestroy, providers.ErrDenied, 100) }
	unrecorded := func(c *crashCase) {
		settings := memory.Strict()
		settings.Slots, settings.UsageLag = 3, time.Minute
		c.world.SetPrincipal("payments-api", settings)
		c.world.AddKey("payments-api", "stranger", c.now())
	}
	for name, x := range map[string]struct {
		exposed string
		prepare func(*crashCase)
		before  []string
		step    string
		deaths  []death
		keys    func(*crashCase) []string
		once    []audit.Type
	}{
		"its first effect": {
			"key-old", func(*crashCase) {}, nil, "Issue",
			[]death{
				{memory.OpPutMetadata, 2, memory.Before, "the run holds the lease, and by which declaration is not written; the repeated activity proves it again"},
				{memory.OpPutMetadata, 2, memory.After, "it is written, and nothing minted; the repeated activity goes on by it"},
			},
			func(c *crashCase) []string { return []string{"key-old active", c.incoming.KeyID + " active"} },
			[]audit.Type{audit.EmergencyBegun, audit.KeyIssued},
		},
		"a key that nobody may destroy": {
			"key-old", nobodyMay, []string{"Issue", "DeliverWave", "Promote"}, "Contain",
			[]death{
				{memory.OpDestroy, 1, memory.Before, "nothing was changed; the repeated activity asks the issuer"},
				{memory.OpPutMetadata, 2, memory.After, "that it begins to disable the key is written, and the key active; the repeated activity disables it"},
				{memory.OpDisable, 1, memory.Before, "that it begins to disable the key is written, and the key active; the repeated activity disables it"},
				{memory.OpDisable, 1, memory.After, "the key is disabled, and the event missing; the repeated activity knows that it was keyturn, and writes that"},
			},
			func(c *crashCase) []string { return []string{"key-old disabled", c.incoming.KeyID + " active"} },
			[]audit.Type{audit.EmergencyBegun, audit.KeyDisabled},
		},
		"a key of which there is no record": {
			"stranger", unrecorded, nil, "Contain",
			[]death{
				{memory.OpPutMetadata, 4, memory.After, "that it begins to destroy the key is written, and the key alive; the repeated activity destroys it"},
				{memory.OpDestroy, 1, memory.Before, "that it begins to destroy the key is written, and the key alive; the repeated activity destroys it"},
				{memory.OpDestroy, 1, memory.After, "the key is gone; the repeated activity knows by the note that it was there"},
			},
			func(*crashCase) []string { return []string{"key-old active"} },
			[]audit.Type{audit.EmergencyBegun, audit.KeyDestroyed, audit.ProbeRefused},
		},
	} {
		for _, d := range x.deaths {
			t.Run(fmt.Sprintf("%s, it dies %s call %d of %s: %s", name, d.phase, d.call, d.op, d.then), func(t *testing.T) {
				t.Parallel()
				c := newCase(t)
				c.declare(x.exposed)
				for _, step := range x.before {
					c.run(step)
				}
				x.prepare(c)
				c.dies(d)
				for range 2 { // an activity whose reply is lost is run again
					if x.step != "Contain" {
						c.run(x.step)
						continue
					}
					c.execute("Contain", activities.ContainInput{Rotation: c.subject(), Key: key.Ref{KeyID: x.exposed}}, &activities.Destroyed{})
				}
				assert.True(t, c.died.Load(), "the process died at the moment that the line names")
				assert.Equal(t, x.keys(c), c.keys())
				c.auditHas(x.once...)
			})
		}
	}
}

// What cannot be disabled now, since the issuer does not answer, is tried again: that it may not be destroyed is not the end of it.
func TestTroubleOfDisablingPasses(t *testing.T) {
	t.Parallel()
	c := newCase(t)
	c.declare("key-old")
	for _, step := range []string{"Issue", "DeliverWave", "Promote"} {
		c.run(step)
	}
	c.world.Fail(memory.OpDestroy, providers.ErrDenied, 100)
	c.world.Fail(memory.OpDisable, errors.New("the issuer is away"), 1)
	_, err := c.contains("key-old")
	var failed *temporal.ApplicationError
	require.ErrorAs(t, err, &failed)
	assert.False(t, failed.NonRetryable(), "%v", err)
	_, err = c.contains("key-old")
	require.NoError(t, err)
	assert.Equal(t, []string{"key-old disabled", c.incoming.KeyID + " active"}, c.keys())
}

// Who approves nothing, signs off nothing and waits for nobody: an emergency mints, though the spec may not begin a rotation any more.
// Neither to replace an exposed key, nor to end it.
func TestAnEmergencyAsksNoCalendar(t *testing.T) {
	t.Parallel()
	c := newCase(t)
	c.rewrite(func(credential *inventory.Credential) {
		credential.Schedule.At = "03:00"
		credential.Schedule.Blackouts = []inventory.Blackout{{From: "2026-02-20", To: "2026-04-01", Why: "launch"}}
	})
	var plan policy.Plan
	c.execute("Inspect", c.subject(), &plan)
	require.Contains(t, fmt.Sprint(plan.Refusals), "a blackout lasts until", "a routine rotation does")
	c.declare("key-old")
	for _, step := range []string{"Issue", "DeliverWave", "Promote"} {
		c.run(step)
	}
	d, err := c.contains("key-old")
	require.NoError(t, err)
	assert.True(t, d.Decision.OK, d.Decision.Message)
	assert.Equal(t, []string{c.incoming.KeyID + " active"}, c.keys())
}

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

// A key that is gone is probed with its stored value, also by an attempt that finds it gone: what is accepted still is not said to be dead.
func TestAnExposedKeyIsProbedWheneverTheProcessDied(t *testing.T) {
	t.Parallel()
	c := newCase(t)
	c.declare("key-old")
	for _, step := range []string{"Issue", "DeliverWave", "Promote"} {
		c.run(step)
	}
	c.dies(death{op: memory.OpDestroy, call: 1, phase: memory.After})
	_, err := c.contains("key-old")
	require.Error(t, err)
	require.True(t, c.died.Load())
	d, err := c.contains("key-old")
	require.NoError(t, err)
	assert.True(t, d.Decision.OK, d.Decision.Message)
	assert.Contains(t, d.Probe, "refused by the issuer's self-test")
}
