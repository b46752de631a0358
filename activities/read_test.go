package activities_test

import (
	"context"
	"os"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
)

// seenRead is a store whose values are read by nobody before that is on record: that of all cases.
type seenRead struct {
	providers.Store
	c *crashCase
}

func (s seenRead) Read(ctx context.Context, version string) (secret.Bundle, error) {
	s.onRecord(version)
	return s.Store.Read(ctx, version)
}

func (s seenRead) ReadLabel(ctx context.Context, label key.Label) (secret.Bundle, error) {
	s.onRecord("label " + string(label))
	return s.Store.ReadLabel(ctx, label)
}

func (s seenRead) onRecord(version string) {
	told := slices.ContainsFunc(s.c.reads(), func(e audit.Event) bool { return e.Detail["version"] == version })
	assert.True(s.c.t, told, "version %s is read, and no event says so", version)
}

// reads are the events of values that were read.
func (c *crashCase) reads() []audit.Event {
	trail, err := audit.Read(c.auditFile)
	if os.IsNotExist(err) {
		return nil
	}
	assert.NoError(c.t, err)
	return slices.DeleteFunc(trail.Events, func(e audit.Event) bool { return e.Type != audit.ValueRead })
}

func onlyOnRecord(c *crashCase, d *providers.Descriptor) {
	made := *d.Store
	open := made.Open
	made.Open = func(e providers.Environment, account, config any) (providers.Store, error) {
		store, err := open(e, account, config)
		return seenRead{store, c}, err
	}
	d.Store = &made
}

func TestAReadSaysWhoReadsWhichKeyAndForWhat(t *testing.T) {
	t.Parallel()
	c := newCase(t)
	for _, step := range []string{"Issue", "DeliverWave"} {
		c.run(step)
	}
	reads := c.reads()
	type said struct{ activity, purpose, key string }
	var all []said
	for _, e := range reads {
		assert.Equal(t, "worker", e.Actor)
		assert.Equal(t, "payments-api", e.Credential)
		assert.NotEmpty(t, e.Keys[audit.ReadKey].StoreVersion)
		if e.Detail["key"] == c.incoming.KeyID {
			assert.Equal(t, c.incoming.Fingerprint, e.Keys[audit.ReadKey].Fingerprint)
			all = append(all, said{e.Detail["activity"], e.Detail["for"], "incoming"})
		}
	}
	assert.Contains(t, all, said{"Issue", "verification", "incoming"})
	assert.Contains(t, all, said{"DeliverWave", "delivery", "incoming"})
}
