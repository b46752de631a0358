package workflows_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/incident"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/memory"
	"github.com/keyturn/keyturn/workflows"
)

// retires runs what a person begins for a leftover key.
func (s *stage) retires(keyID string) workflows.Report {
	s.t.Helper()
	s.traffic(5 * time.Hour)
	report, err := s.execute(workflows.RotationInput{Spec: s.spec(), Retire: keyID, Reason: "no slot is free", RequestedBy: "ann"})
	require.NoError(s.t, err)
	s.allFell()
	return report
}

// leave has a rotation that did not end leave a key, which is PENDING and was never delivered.
func (s *stage) leave() key.Ref {
	s.t.Helper()
	ctx := context.Background()
	settings := memory.Strict()
	settings.UsageLag, settings.Slots = time.Minute, 3
	s.world.SetPrincipal("payments-api", settings)
	issued, err := s.world.Issuer("payments-api").Issue(ctx, providers.IssueRequest{Token: policy.Token("cut-off", 1)})
	require.NoError(s.t, err)
	store := s.world.Store("payments-api")
	version, err := store.Stage(ctx, policy.Token("cut-off", 1), issued.Bundle)
	require.NoError(s.t, err)
	left := key.Ref{Principal: "payments-api", KeyID: issued.Key.KeyID, StoreVersion: version, Fingerprint: issued.Bundle.Fingerprint()}
	m, err := store.Metadata(ctx)
	require.NoError(s.t, err)
	m.Keys = append(m.Keys, key.Owned{Ref: left, Rotation: "cut-off", IssuedAt: s.env.Now()})
	_, err = store.PutMetadata(ctx, m)
	require.NoError(s.t, err)
	return left
}

// imports makes the key that consumers use one that was imported, and adopts another that existed before keyturn.
func (s *stage) imports() (second string) {
	s.t.Helper()
	bundle, _ := s.world.Held("canary")
	at := s.env.Now().Add(-time.Hour)
	_, err := s.world.Store("payments-api").PutMetadata(context.Background(), key.Metadata{Keys: []key.Owned{{
		Ref:        key.Ref{Principal: "payments-api", KeyID: "key-old", StoreVersion: s.first, Fingerprint: bundle.Fingerprint()},
		PromotedAt: at, AttestedAt: at,
	}}})
	require.NoError(s.t, err)
	s.world.AddKey("payments-api", "stranger", s.began.Add(-time.Hour))
	s.credential.Adopt = []string{"stranger"}
	return "stranger"
}

func TestALeftoverKeyIsRetiredOnApproval(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		prepare func(*stage) (keyID string)
		was     workflows.KeyState
		keys    []string
		happens []string
	}{
		"the debt of an earlier rotation": {func(s *stage) string {
			retired, _ := s.owe()
			return retired.KeyID
		}, workflows.KeyPrevious, []string{"new-1 active"}, []string{"disable key-old", "destroy key-old"}},
		"one that somebody has disabled": {func(s *stage) string {
			retired, _ := s.owe()
			require.NoError(s.t, s.world.Issuer("payments-api").(providers.Disabler).Disable(context.Background(), retired))
			return retired.KeyID
		}, workflows.KeyDisabled, []string{"new-1 active"}, []string{"disable key-old", "destroy key-old"}},
		"a second one that the spec adopts": {func(s *stage) string { return s.imports() },
			workflows.KeyPrevious, []string{"key-old active"}, []string{"disable stranger", "destroy stranger"}},
		"one of a rotation that did not end, which nobody ever had": {func(s *stage) string {
			s.owe()
			return s.leave().KeyID
		}, workflows.KeyPending, []string{"key-old active", "new-1 active"}, []string{"disable new-2", "destroy new-2"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			keyID := c.prepare(s)
			var told workflows.Status
			s.every(time.Minute, 4*time.Hour, func() {
				if now := s.status(); now.Gate != nil {
					told = now
				}
			})
			s.approve()
			report := s.retires(keyID)
			require.NotEqual(t, workflows.Failed, report.Outcome, report.Message)
			require.NotEqual(t, workflows.Refused, report.Outcome, report.Message)
			assert.Equal(t, keyID, report.Retiring.KeyID)
			assert.NotEmpty(t, report.Probe)
			assert.Equal(t, c.keys, s.keys())
			assert.Equal(t, c.happens, s.happened(memory.OpDisable, memory.OpEnable, memory.OpDestroy, memory.OpDeliver))
			assert.Zero(t, s.refused(), "no request was refused")
			m := s.metadata()
			_, known := m.Key(keyID)
			assert.False(t, known, "nothing is kept of it")
			assert.Nil(t, m.Lease)
			for version, labels := range s.versions() {
				assert.NotContains(t, labels, key.Pending, version)
			}
			// What it is, and which key, everybody is told.
			require.NotEmpty(t, told.Keys, "the gate was open")
			assert.Equal(t, keyID, told.Ends)
			assert.Equal(t, keyID, told.Retiring.KeyID)
			assert.Contains(t, told.Keys, workflows.KeyMoment{At: told.Keys[1].At, Key: workflows.RoleRetiring, State: c.was})
			assert.Equal(t, "ann: no slot is free", told.Asked())
			assert.Contains(t, told.Markdown(s.env.Now()), "**Ends:** key "+keyID)
			trail, err := audit.Read(s.auditFile)
			require.NoError(t, err)
			require.NotEmpty(t, trail.Events)
			asked := trail.Events[0]
			for _, e := range trail.Events {
				if e.Type == audit.RotationRequested {
					asked = e
				}
			}
			assert.Equal(t, map[string]string{"by": "ann", "reason": "no slot is free", "retire": keyID}, asked.Detail)
			for _, kind := range []audit.Type{audit.PlanMade, audit.EvidenceComplete, audit.GateOpened, audit.KeyDisabled, audit.KeyDestroyed, audit.ProbeRefused, audit.RotationEnded} {
				assert.Contains(t, s.trail(), kind)
			}
		})
	}
}

// Whoever names a key for another reason, by mistake or by malice, has nothing changed; what they are told says what to do.
func TestAKeyThatMayNotBeRetiredStays(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		prepare func(*stage) (keyID string)
		reason  policy.Reason
		says    string
	}{
		"the current one": {func(s *stage) string { _, current := s.owe(); return current.KeyID }, policy.KeyCurrent, "keyturn rotate payments-api"},
		"the only one":    {func(*stage) string { return "key-old" }, policy.KeyCurrent, "keyturn rotate payments-api"},
		"one of another credential": {func(s *stage) string {
			s.owe()
			s.world.SetPrincipal("billing-api", memory.Strict())
			s.world.AddKey("billing-api", "key-of-billing", s.began)
			return "key-of-billing"
		}, policy.KeyGone, "does not exist"},
		"a stranger's": {func(s *stage) string {
			s.owe()
			s.world.AddKey("payments-api", "stranger", s.began)
			return "stranger"
		}, policy.NotOurs, "name it under adopt"},
		"one that a consumer states": {func(s *stage) string {
			old, err := s.world.Store("payments-api").Read(context.Background(), s.first)
			require.NoError(s.t, err)
			s.owe()
			s.world.Give("checkout-a", old)
			return "key-old"
		}, policy.RetiringStillHeld, "checkout/a uses key key-old"},
		"an exposed one": {func(s *stage) string {
			retired, _ := s.owe()
			m := s.metadata()
			m.Exposed = map[string]string{retired.KeyID: "incident/leak"}
			_, err := s.world.Store("payments-api").PutMetadata(context.Background(), m)
			require.NoError(s.t, err)
			return retired.KeyID
		}, policy.KeyExposed, "keyturn emergency payments-api"},
		"one beside a key that keyturn did not make CURRENT": {func(s *stage) string {
			s.world.AddKey("payments-api", "stranger", s.began.Add(-time.Hour))
			s.credential.Adopt = []string{"stranger"}
			return "stranger"
		}, policy.NotPromoted, "keyturn-worker import payments-api"},
		"any, by a spec that nobody signed, where that counts": {func(s *stage) string {
			retired, _ := s.owe()
			s.do.AllowUnsigned = false
			return retired.KeyID
		}, policy.SpecRefused, "unsigned"},
		"what is no name of a key": {func(s *stage) string { s.owe(); return misleading }, policy.KeyGone, "does not exist"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			keyID := c.prepare(s)
			keys := s.keys()
			outside := &findings{}
			outside.watch(s)
			s.approve()
			report := s.retires(keyID)
			assert.Equal(t, workflows.Refused, report.Outcome)
			assert.Equal(t, c.reason, report.Reason, report.Message)
			assert.Contains(t, report.Message, c.says)
			assert.Equal(t, keys, s.keys())
			assert.Empty(t, s.happened(memory.OpDisable, memory.OpDestroy, memory.OpDeliver))
			assert.Nil(t, s.metadata().Lease, "it held nothing")
			assert.Empty(t, outside.list)
		})
	}
}

func TestAKeyThatWasToBeRetiredIsLeftAsItWas(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		prepare func(*stage)
		outcome workflows.Outcome
		says    string
		happens []string
	}{
		"somebody says no": {func(s *stage) {
			s.request("revoke-gate", time.Hour, "reject", policy.Request{Gate: "revoke", By: "ben", Reason: "a batch needs it in April"})
		}, workflows.Refused, "a batch needs it in April", nil},
		"nobody decides": {func(*stage) {}, workflows.Refused, "to ask for it again: keyturn retire payments-api --key ", nil},
		"it is asked for when it is disabled": {func(s *stage) {
			s.approve()
			s.every(time.Minute, 4*time.Hour, func() {
				if len(s.happened(memory.OpDisable)) > 0 && len(s.happened(memory.OpEnable)) == 0 {
					s.env.SignalWorkflow("rollback", policy.Request{By: "ann", Reason: "errors"})
				}
			})
		}, workflows.RolledBack, "errors", []string{"disable new-2", "enable new-2"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			s.owe()
			left := s.leave()
			c.prepare(s)
			keys := s.keys()
			report := s.retires(left.KeyID)
			assert.Equal(t, c.outcome, report.Outcome, report.Message)
			assert.Contains(t, report.Message, c.says)
			assert.Equal(t, keys, s.keys())
			assert.Equal(t, c.happens, s.happened(memory.OpDisable, memory.OpEnable, memory.OpDestroy, memory.OpDeliver))
		})
	}
}

// An incident that comes meanwhile has the run become its emergency, which ends no leftover key.
func TestARunThatRetiresAKeyHandsOverToAnEmergency(t *testing.T) {
	t.Parallel()
	c := newCrisis(t)
	retired, current := c.owe()
	c.in("evidence", time.Minute, func() {
		c.env.SignalWorkflow(workflows.CompromisedName, workflows.Compromised{Incident: incident.ID("leak"), Emergency: c.declared([]string{current.KeyID})})
	})
	c.traffic(time.Hour)
	_, err := c.execute(workflows.RotationInput{Spec: c.spec(), Retire: retired.KeyID})
	in, over := c.next(err)
	require.True(t, over, "%v", err)
	assert.Empty(t, in.Ends())
	assert.NotNil(t, in.Emergency)
}
