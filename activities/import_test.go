package activities_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
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

// existingKey is what the fleet used before keyturn.
const existingKey = "sk-live-4f9c1e7a2b8d60c35e91"

// importCase is a World whose consumers use a key that issuer and store know nothing of.
type importCase struct {
	*crashCase
	runs int
}

func newImportCase(t *testing.T) *importCase {
	t.Helper()
	c := &importCase{crashCase: caseWithoutKey(t, caseInventory, fleet, nil)}
	for _, name := range fleet {
		c.world.Give(name, c.bundle())
	}
	return c
}

func (c *importCase) bundle() secret.Bundle { return secret.Single(secret.New([]byte(existingKey))) }

// input imports the key as a person would, by another run of the program each time.
func (c *importCase) input() activities.ImportInput {
	c.runs++
	return activities.ImportInput{
		Spec: c.spec, Run: fmt.Sprintf("import-%d", c.runs), KeyID: "key-2024", By: "ann",
		Read: func([]string) (secret.Bundle, error) { return c.bundle(), nil },
	}
}

// imports runs one import, which may die.
func (c *importCase) imports(in activities.ImportInput) (done activities.Imported, err error) {
	defer func() {
		if died := recover(); died != nil {
			err = fmt.Errorf("it died: %v", died)
		}
	}()
	return activities.Import(c.t.Context(), c.do, in)
}

// turnsBack has whatever tests the key refuse it, in the next import.
func (c *importCase) turnsBack() {
	for _, instance := range []string{"canary", "checkout-a", "checkout-b"} {
		c.world.SetInstance(instance, memory.InstanceSettings{Mute: errors.New("connection refused")})
	}
	c.world.Fail(memory.OpSelfTest, providers.ErrKeyRefused, 2)
}

// isImported asserts what an import leaves, and that the first rotation can turn back to the key.
func (c *importCase) isImported() {
	t := c.t
	assert.Equal(t, []string{"key-2024 active"}, c.keys())
	versions := c.versions()
	require.Len(t, versions, 1)
	m := c.metadata()
	assert.Nil(t, m.Lease, "the lease is given back")
	assert.Equal(t, "payments", m.Inventory)
	require.Len(t, m.Keys, 1)
	c.retiring = m.Keys[0].Ref
	assert.Equal(t, "key-2024", c.retiring.KeyID)
	assert.Equal(t, []key.Label{key.Current}, versions[c.retiring.StoreVersion])
	assert.Equal(t, c.bundle().Fingerprint(), c.retiring.Fingerprint)
	c.auditHas(audit.KeyImported)
	for _, name := range fleet {
		require.NoError(t, c.world.Request(name), "no request is refused")
	}
	for _, step := range []string{"Inspect", "Issue", "DeliverWave", "Promote", "DeliverBack", "RestoreLabels", "Discard", "RecordBack"} {
		c.run(step)
	}
	assert.Equal(t, []string{"key-2024 active"}, c.keys())
	c.everybodyHolds(c.retiring)
}

func TestDeathsOfAnImport(t *testing.T) {
	t.Parallel()
	for _, d := range []death{
		{memory.OpMetadata, 1, memory.Before, "nothing was done; the next import begins anew"},
		{memory.OpPutMetadata, 1, memory.Before, "nobody holds the lease; the next import takes it and begins anew"},
		{memory.OpPutMetadata, 1, memory.After, "the import holds the lease; the next one takes it at once, and no rotation does for its term"},
		{memory.OpImport, 1, memory.Before, "the issuer has no key; the next import brings it"},
		{memory.OpImport, 1, memory.After, "the issuer accepts the key, and no store has it; the next import finds it and stages it"},
		{memory.OpStage, 1, memory.Before, "the issuer accepts the key, and no store has it; the next import finds it and stages it"},
		{memory.OpStage, 1, memory.After, "the key is PENDING; the next import finds it there and tests it"},
		{memory.OpPutMetadata, 2, memory.Before, "the key is PENDING and was not tested; the next import tests it"},
		{memory.OpPutMetadata, 2, memory.After, "that the key is tested is written; the next import tests it again"},
		{memory.OpSelfTest, 1, memory.After, "the key was tested; the next import tests it again"},
		{memory.OpPromote, 1, memory.Before, "the key is PENDING; the next import moves CURRENT to it"},
		{memory.OpPromote, 1, memory.After, "the key is CURRENT, which is not on record; the next import finds it so and records it"},
		{memory.OpPutMetadata, 3, memory.Before, "the key is CURRENT, which is not on record; the next import finds it so and records it"},
		{memory.OpPutMetadata, 3, memory.After, "all is recorded but the event; the next import writes that"},
		{memory.OpPutMetadata, 4, memory.Before, "all is done, and the lease is held; the next import takes it and gives it back"},
		{memory.OpPutMetadata, 4, memory.After, "all is done; the next import finds it so"},
	} {
		t.Run(fmt.Sprintf("it dies %s call %d of %s: %s", d.phase, d.call, d.op, d.then), func(t *testing.T) {
			t.Parallel()
			c := newImportCase(t)
			c.dies(d)
			_, err := c.imports(c.input())
			require.ErrorContains(t, err, "it died")
			require.True(t, c.died.Load(), "the process died at the moment that the line names")
			for range 2 {
				_, err = c.imports(c.input())
				require.NoError(t, err)
			}
			c.isImported()
		})
	}
}

// An import that is turned back and dies on the way has said before what it brings.
func TestDeathsOfAnImportThatIsTurnedBack(t *testing.T) {
	t.Parallel()
	for _, d := range []death{
		{memory.OpPrune, 1, memory.Before, "the key is at the issuer and PENDING; the next import begins with it"},
		{memory.OpPrune, 1, memory.After, "the key is at the issuer alone; the next import begins with it"},
		{memory.OpDestroy, 1, memory.Before, "the key is at the issuer alone; the next import begins with it"},
		{memory.OpDestroy, 1, memory.After, "neither has it; the next import brings it anew"},
	} {
		t.Run(fmt.Sprintf("it dies %s call %d of %s: %s", d.phase, d.call, d.op, d.then), func(t *testing.T) {
			t.Parallel()
			c := newImportCase(t)
			c.turnsBack()
			c.dies(d)
			in := c.input()
			in.Unattested = true
			_, err := c.imports(in)
			require.ErrorContains(t, err, "it died")
			begun := c.recorded(audit.ImportBegun)
			require.Len(t, begun, 1)
			assert.Equal(t, "key-2024", begun[0].Keys[audit.Imported].KeyID)
			assert.Equal(t, in.Run, begun[0].Run)
			for _, name := range fleet {
				c.world.SetInstance(name, memory.InstanceSettings{})
			}
			_, err = c.imports(c.input())
			require.NoError(t, err)
			c.isImported()
		})
	}
}

func TestAnImportChangesNothingButWhatItMay(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		before func(c *importCase, in *activities.ImportInput)
		is     error
		says   string
	}{
		"while a rotation holds the lease": {func(c *importCase, _ *activities.ImportInput) {
			_, err := c.world.Store("payments-api").PutMetadata(c.t.Context(), key.Metadata{Lease: &key.Lease{Workflow: "rotation/payments-api", Rotation: "r", Run: "r", Term: key.LeaseTerm}})
			require.NoError(c.t, err)
		}, activities.ErrHeld, "rotation/payments-api"},
		"another key is CURRENT": {func(c *importCase, _ *activities.ImportInput) {
			c.world.AddVersion("payments-api", c.world.AddKey("payments-api", "key-other", c.now()))
		}, activities.ErrRefused, "has another value"},
		"a value that is no key is CURRENT": {func(c *importCase, _ *activities.ImportInput) {
			c.world.AddVersion("payments-api", secret.Single(secret.New([]byte("some-value-that-no-issuer-ever-gave"))))
		}, activities.ErrRefused, "has another value"},
		"another value is PENDING": {func(c *importCase, _ *activities.ImportInput) {
			_, err := c.world.Store("payments-api").Stage(c.t.Context(), "token", secret.Single(secret.New([]byte("staged-by-a-rotation-that-ended"))))
			require.NoError(c.t, err)
		}, activities.ErrRefused, "PENDING"},
		"a mint is not resolved": {func(c *importCase, _ *activities.ImportInput) {
			_, err := c.world.Store("payments-api").PutMetadata(c.t.Context(), key.Metadata{Intents: []key.Intent{{Rotation: "broken-off", Ordinal: 1, At: c.now()}}})
			require.NoError(c.t, err)
		}, activities.ErrRefused, "broken-off"},
		"an incident said that it is exposed": {func(c *importCase, _ *activities.ImportInput) {
			_, err := c.world.Store("payments-api").PutMetadata(c.t.Context(), key.Metadata{Exposed: map[string]string{"key-2024": "incident/leak"}})
			require.NoError(c.t, err)
		}, activities.ErrRefused, "exposed"},
		"no slot is free": {func(c *importCase, _ *activities.ImportInput) {
			c.world.AddKey("payments-api", "one", c.now())
			c.world.AddKey("payments-api", "two", c.now())
		}, activities.ErrRefused, "slots"},
		"a consumer uses another key": {func(c *importCase, _ *activities.ImportInput) {
			c.world.Give("checkout-b", secret.Single(secret.New([]byte("another-key-that-checkout-b-has"))))
		}, activities.ErrRefused, "checkout/b states key"},
		"a consumer does not say": {func(c *importCase, _ *activities.ImportInput) {
			c.world.SetInstance("checkout-a", memory.InstanceSettings{Mute: errors.New("connection refused")})
		}, activities.ErrRefused, "checkout/a does not state"},
		"the ID is that of another key": {func(c *importCase, in *activities.ImportInput) {
			c.world.AddKey("payments-api", "key-2024", c.now())
		}, activities.ErrRefused, "key key-2024 of the issuer has another value"},
		"the issuer knows it by another ID": {func(c *importCase, in *activities.ImportInput) {
			_, err := c.world.Issuer("payments-api").(providers.Importer).Import(c.t.Context(), providers.ImportRequest{KeyID: "known"}, c.bundle())
			require.NoError(c.t, err)
		}, providers.ErrConflict, "known"},
		"nobody names it": {func(c *importCase, in *activities.ImportInput) { in.KeyID = "" }, providers.ErrInvalid, "ID"},
		"the bounds do not allow the spec": {func(c *importCase, _ *activities.ImportInput) {
			narrow, err := workerconfig.Load("keyturn-worker.yaml", []byte(strings.Replace(caseConfig, `storePaths: ["payments-*"]`, `storePaths: ["others-*"]`, 1)), c.do.Descriptors)
			require.NoError(c.t, err)
			c.do.Config = func() *workerconfig.Config { return narrow }
		}, activities.ErrOutOfBounds, "payments-api"},
		"the spec is unsigned, and signatures are demanded": {func(c *importCase, _ *activities.ImportInput) { c.do.AllowUnsigned = false }, activities.ErrSpec, "unsigned"},
		"another inventory governs the credential": {func(c *importCase, _ *activities.ImportInput) {
			_, err := c.world.Store("payments-api").PutMetadata(c.t.Context(), key.Metadata{Inventory: "another", Environment: "test"})
			require.NoError(c.t, err)
		}, activities.ErrSpec, "another"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newImportCase(t)
			in := c.input()
			x.before(c, &in)
			keys, versions, lease := c.keysOrNone(), c.versions(), c.metadata().Lease
			_, err := c.imports(in)
			require.ErrorIs(t, err, x.is)
			assert.ErrorContains(t, err, x.says)
			assert.NotContains(t, err.Error(), existingKey)
			assert.Equal(t, keys, c.keysOrNone(), "the issuer is as it was")
			assert.Equal(t, versions, c.versions(), "the store is as it was")
			assert.Equal(t, lease, c.metadata().Lease, "the lease is whose it was")
			c.auditHasNot(audit.KeyImported)
		})
	}
}

func (c *importCase) keysOrNone() []string {
	list, err := c.world.Issuer("payments-api").List(context.Background())
	require.NoError(c.t, err)
	var ids []string
	for _, k := range list {
		ids = append(ids, k.KeyID)
	}
	return ids
}

func (c *crashCase) auditHasNot(not audit.Type) {
	trail, err := audit.Read(c.auditFile)
	require.NoError(c.t, err)
	for _, e := range trail.Events {
		assert.NotEqual(c.t, not, e.Type)
	}
}

// What the operator knows better goes on, and is on record.
func TestAnImportGoesOnWithoutAttestationWhenAskedTo(t *testing.T) {
	t.Parallel()
	c := newImportCase(t)
	c.world.SetInstance("checkout-a", memory.InstanceSettings{Mute: errors.New("connection refused")})
	in := c.input()
	in.Unattested = true
	done, err := c.imports(in)
	require.NoError(t, err)
	require.Len(t, done.Unattested, 1)
	assert.Contains(t, done.Unattested[0], "checkout/a")
	mine, _ := c.metadata().Key("key-2024")
	assert.True(t, mine.AttestedAt.IsZero())
	said := c.recorded(audit.KeyImported)
	require.Len(t, said, 1)
	assert.Contains(t, said[0].Detail["unattested"], "checkout/a")
	assert.Equal(t, "ann", said[0].Actor)

	c.world.SetInstance("checkout-a", memory.InstanceSettings{})
	c.world.Give("checkout-a", c.bundle())
	_, err = c.imports(c.input())
	require.NoError(t, err)
	mine, _ = c.metadata().Key("key-2024")
	assert.False(t, mine.AttestedAt.IsZero(), "once it is attested, the next import writes that")
}

// A key that does not work is not CURRENT, and what is true is said.
func TestAKeyThatIsRefusedIsNotImported(t *testing.T) {
	t.Parallel()
	c := newImportCase(t)
	c.world.Fail(memory.OpSelfTest, providers.ErrKeyRefused, 2) // as often as a refusal is asked for
	_, err := c.imports(c.input())
	require.ErrorIs(t, err, activities.ErrRefused)
	assert.ErrorContains(t, err, "not CURRENT")
	assert.Empty(t, c.versions(), "nothing is left in the way of another value")
	assert.Empty(t, c.metadata().Keys)
	assert.Nil(t, c.metadata().Lease)
	_, err = c.imports(c.input())
	require.NoError(t, err)
	c.isImported()
}

// A value that was mistaken is accepted no longer, where nobody uses it: the right one may have its name then.
func TestAMistakenKeyIsNotLeftAtTheIssuer(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		before func(c *importCase)
		says   string
		left   []string
	}{
		"nobody uses it":       {func(*importCase) {}, "neither issuer nor store has it", nil},
		"the issuer had it":    {func(c *importCase) { c.knows(c.bundle()) }, "the issuer has the key, and it is not CURRENT", []string{"key-2024"}},
		"a consumer states it": {func(c *importCase) { c.world.SetInstance("checkout-a", memory.InstanceSettings{}) }, "checkout/a states that it uses it", []string{"key-2024"}},
		"somebody used it": {func(c *importCase) {
			c.world.On(memory.OpStage, func(p memory.Phase) {
				if p == memory.After {
					_ = c.world.Request("checkout-a")
					c.wait(2 * time.Minute) // until that is told
				}
			})
		}, "somebody has used it", []string{"key-2024"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newImportCase(t)
			c.turnsBack()
			x.before(c)
			in := c.input()
			in.Unattested = true
			_, err := c.imports(in)
			require.ErrorIs(t, err, activities.ErrRefused)
			assert.ErrorContains(t, err, x.says)
			assert.Equal(t, x.left, c.keysOrNone())
			assert.Empty(t, c.versions())
			assert.Empty(t, c.metadata().Keys)
			gone := c.recorded(audit.KeyDiscarded)
			require.Equal(t, x.left == nil, len(gone) == 1, "it is on record")
			if len(gone) == 1 {
				assert.Contains(t, gone[0].Detail["why"], "nobody was seen to use it: ")
				assert.Equal(t, "key-2024", gone[0].Detail["key"])
			}
			in = c.input()
			in.Unattested = true
			_, err = c.imports(in)
			require.NoError(t, err)
		})
	}
}

// knows has the issuer know the key by its ID.
func (c *importCase) knows(b secret.Bundle) {
	c.t.Helper()
	_, err := c.world.Issuer("payments-api").(providers.Importer).Import(c.t.Context(), providers.ImportRequest{KeyID: "key-2024"}, b)
	require.NoError(c.t, err)
}

// What a store has already, put there by hand, stays where it is.
func TestAKeyThatTheStoreHasIsRecorded(t *testing.T) {
	t.Parallel()
	c := newImportCase(t)
	version := c.world.AddVersion("payments-api", c.bundle())
	done, err := c.imports(c.input())
	require.NoError(t, err)
	assert.Equal(t, version, done.Key.StoreVersion)
	c.isImported()
}

// No rotation acts between two steps of an import: it would take the key for one that nobody declared.
func TestNoRotationActsDuringAnImport(t *testing.T) {
	t.Parallel()
	c := newImportCase(t)
	c.dies(death{op: memory.OpImport, call: 1, phase: memory.After})
	_, err := c.imports(c.input())
	require.Error(t, err)
	assert.Equal(t, []policy.Reason{policy.Held, policy.UnknownActiveKey}, c.plans(c.do))
	_, err = c.imports(c.input())
	require.NoError(t, err)
	assert.Empty(t, c.plans(c.do))
}

// An import that another one took over from writes nothing any more.
func TestAnImportIsFenced(t *testing.T) {
	t.Parallel()
	for _, op := range []memory.Op{memory.OpImport, memory.OpStage, memory.OpPromote} {
		t.Run(string(op), func(t *testing.T) {
			t.Parallel()
			c := newImportCase(t)
			before := map[memory.Op]memory.Op{memory.OpImport: memory.OpAttest, memory.OpStage: memory.OpImport, memory.OpPromote: memory.OpSelfTest}[op]
			var once atomic.Bool // several instances are asked at once
			c.world.On(before, func(p memory.Phase) {
				if p != memory.After || !once.CompareAndSwap(false, true) {
					return
				}
				m := c.metadata()
				taken := *m.Lease
				taken.Run = "another-import"
				m.Lease = &taken
				_, err := c.world.Store("payments-api").PutMetadata(t.Context(), m)
				assert.NoError(t, err)
			})
			_, err := c.imports(c.input())
			require.ErrorIs(t, err, activities.ErrHeld)
			assert.Empty(t, c.world.Happened(op))
			assert.Equal(t, "another-import", c.metadata().Lease.Run, "nor gives it back what it has not")
		})
	}
}

// Import is called by a program of the worker's host alone: whoever may write to the namespace can start no activity of it.
func TestNoWorkflowCanImport(t *testing.T) {
	t.Parallel()
	_, is := any(new(activities.Activities)).(interface {
		Import(context.Context, activities.ImportInput) (activities.Imported, error)
	})
	assert.False(t, is)
	c := newImportCase(t)
	c.workflow = key.LeaseOfImport
	assert.ErrorContains(t, c.attempt("Promote", c.subject(), nil, 1), "is not its rotation")
}

// Nothing of the key is in what an import leaves beside issuer and store.
func TestAnImportTellsNothingOfTheKey(t *testing.T) {
	t.Parallel()
	c := newImportCase(t)
	done, err := c.imports(c.input())
	require.NoError(t, err)
	told, err := json.Marshal(done)
	require.NoError(t, err)
	record, err := os.ReadFile(c.auditFile)
	require.NoError(t, err)
	kept, err := json.Marshal(c.metadata())
	require.NoError(t, err)
	for _, text := range []string{string(told), string(record), string(kept)} {
		assert.NotContains(t, text, existingKey[8:])
	}
}

// An import that lasts keeps the lease.
func TestAnImportRenewsTheLease(t *testing.T) {
	t.Parallel()
	writes := func(lasts time.Duration) int {
		c := newImportCase(t)
		c.world.On(memory.OpStage, func(p memory.Phase) {
			if p == memory.Before {
				c.wait(lasts)
			}
		})
		_, err := c.imports(c.input())
		require.NoError(t, err)
		return len(c.world.Happened(memory.OpPutMetadata))
	}
	assert.Equal(t, writes(0)+1, writes(31*time.Minute))
}
