package activities_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/converter"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/incident"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/temporaltest"
)

// specRun is a run that says which spec it follows.
type specRun struct {
	aRun
	spec inventory.SignedSpec
}

func (r *specRun) QueryWorkflow(context.Context, string, string, string, ...any) (converter.EncodedValue, error) {
	return temporaltest.Answer{Of: r.spec}, nil
}

// Which exposed keys are dead issuer and store say, at each moment of an emergency.
func TestExposedKeysAreSeenAsTheyAre(t *testing.T) {
	t.Parallel()
	c := newCase(t)
	c.declare("key-old")
	leak, err := incident.Peek(c.emergency.Declaration)
	require.NoError(t, err)
	sees := func(want activities.ExposedKeys) {
		t.Helper()
		var seen activities.ExposedKeys
		c.execute("LookAtExposed", activities.ExposedInput{Credential: "payments-api", Spec: c.spec, Incident: leak.Incident, Keys: []string{"key-old", "mistyped"}}, &seen)
		assert.Equal(t, want, seen)
	}
	sees(activities.ExposedKeys{Alive: []string{"key-old"}})
	for _, step := range []string{"Issue", "DeliverWave", "Promote"} {
		c.run(step)
	}
	sees(activities.ExposedKeys{Alive: []string{"key-old"}, Held: true})
	c.run("Contain")
	sees(activities.ExposedKeys{Dead: []string{"key-old"}, Held: true})
	c.run("Record")
	sees(activities.ExposedKeys{Dead: []string{"key-old"}})
}

// A spec that may name another issuer than the key has proves nothing of it; one that no Schedule has comes from the run that rotated last.
func TestBySpecExposedKeysAreSeen(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		input func(c *crashCase) activities.ExposedInput
		wrong string // empty when it is seen
	}{
		"the one that is given": {func(c *crashCase) activities.ExposedInput {
			return activities.ExposedInput{Credential: "payments-api", Spec: c.spec}
		}, ""},
		"that of the run that rotated it last": {func(c *crashCase) activities.ExposedInput {
			c.do.Index, c.do.Runs = nil, &specRun{spec: c.spec}
			return activities.ExposedInput{Credential: "payments-api"}
		}, ""},
		"none, as nobody has one": {func(c *crashCase) activities.ExposedInput {
			c.do.Index = nil
			return activities.ExposedInput{Credential: "payments-api"}
		}, "left the inventory"},
		"the one that its Schedule has": {func(*crashCase) activities.ExposedInput { return activities.ExposedInput{Credential: "payments-api"} }, ""},
		"one that is none, which a run has": {func(c *crashCase) activities.ExposedInput {
			c.do.Index, c.do.Runs = nil, &specRun{}
			return activities.ExposedInput{Credential: "payments-api"}
		}, "spec"},
		"that of another credential": {func(c *crashCase) activities.ExposedInput {
			return activities.ExposedInput{Credential: "billing-api", Spec: c.spec}
		}, `it is that of "payments-api"`},
		"one that is older than a key": {func(c *crashCase) activities.ExposedInput {
			_, err := c.world.Store("payments-api").PutMetadata(c.t.Context(), key.Metadata{Generation: 101})
			require.NoError(c.t, err)
			return activities.ExposedInput{Credential: "payments-api", Spec: c.spec}
		}, "older than the one by which keys were issued"},
		"one of an inventory that has not got it": {func(c *crashCase) activities.ExposedInput {
			_, err := c.world.Store("payments-api").PutMetadata(c.t.Context(), key.Metadata{Inventory: "others", Environment: "production"})
			require.NoError(c.t, err)
			return activities.ExposedInput{Credential: "payments-api", Spec: c.spec}
		}, "does not govern them"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCase(t)
			input := x.input(c)
			input.Keys = []string{"key-old"}
			var seen activities.ExposedKeys
			err := c.attempt("LookAtExposed", input, &seen, 1)
			if x.wrong == "" {
				require.NoError(t, err)
				assert.Equal(t, []string{"key-old"}, seen.Alive)
				return
			}
			require.ErrorContains(t, err, x.wrong)
		})
	}
}
