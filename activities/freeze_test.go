package activities_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/incident"
	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/memory"
)

// Who has no declaration that is signed by one who may, or wants more than that can have, freezes nothing.
func TestWhatFreezesDeployments(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		lasts   time.Duration
		prepare func(*crashCase)
		refused string
	}{
		"a declaration":                             {30 * time.Minute, func(*crashCase) {}, ""},
		"one that is renewed for long":              {30 * time.Minute, func(c *crashCase) { c.wait(20 * time.Hour) }, ""},
		"not one that is renewed for too long":      {30 * time.Minute, func(c *crashCase) { c.wait(25 * time.Hour) }, "sign another one"},
		"not for longer than an hour at once":       {61 * time.Minute, func(*crashCase) {}, "lasts at most"},
		"not one that nobody signed":                {30 * time.Minute, func(c *crashCase) { c.emergency.Declaration.Signature = "" }, "not signed"},
		"not one that is signed for the time to be": {30 * time.Minute, func(c *crashCase) { c.wait(-time.Hour) }, "which is to come"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCase(t)
			c.declare("key-old")
			x.prepare(c)
			until := c.now().Add(x.lasts)
			err := c.attempt("Freeze", activities.FreezeInput{Emergency: *c.emergency, Until: until}, nil, 1)
			if x.refused != "" {
				refused := (&signedCase{crashCase: c}).refusal(err)
				assert.Equal(t, activities.TypeDeclaration, refused.Type())
				assert.Contains(t, refused.Message(), x.refused)
				assert.Empty(t, c.world.Freezes())
				return
			}
			require.NoError(t, err)
			require.Len(t, c.world.Freezes(), 1)
			f := c.world.Freezes()[0]
			assert.Equal(t, incident.ID("leak"), f.Incident)
			assert.Equal(t, []string{"payments-api"}, f.Credentials)
			assert.True(t, until.Equal(f.Until))
			assert.Contains(t, f.Override, "keyturn incident unfreeze incident/leak")
			c.wait(time.Second)
			c.execute("Freeze", activities.FreezeInput{Emergency: *c.emergency, Until: until}, nil)
			events := c.recorded(audit.DeploymentsFrozen)
			require.Len(t, events, 2, "each time is on record, whatever the input says")
			assert.Equal(t, "payments-api", events[0].Credential)
			assert.Equal(t, map[string]string{"incident": "incident/leak", "hooks": "memory (1 of 1)", "failed": "", "until": until.UTC().Format(time.RFC3339)}, events[0].Detail)
			c.wait(x.lasts)
			assert.Empty(t, c.world.Freezes(), "it ends by itself")
		})
	}
}

// A hook that fails is told by name, without what it said.
func TestAFreezeHookThatFails(t *testing.T) {
	t.Parallel()
	c := newCase(t)
	c.declare("key-old")
	c.world.Fail(memory.OpFreeze, providers.ErrDenied, 1)
	var frozen activities.Frozen
	c.execute("Freeze", activities.FreezeInput{Emergency: *c.emergency, Until: c.now().Add(time.Minute)}, &frozen)
	assert.Empty(t, frozen.Done)
	require.Len(t, frozen.Failed, 1)
	assert.Contains(t, frozen.Failed[0], "memory (1 of 1): ")
	c.execute("Freeze", activities.FreezeInput{Emergency: *c.emergency, Until: c.now().Add(time.Minute)}, &frozen)
	assert.Equal(t, []string{"memory (1 of 1)"}, frozen.Done)
}
