package providertest

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/outside"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
)

// OpUses is the call that asks who used a key.
const OpUses Op = "uses"

// AuditLog proves that an issuer keeps the promises of providers.AuditLog. It tells of uses within moments.
func AuditLog(t *testing.T, s IssuerSetup) {
	t.Helper()
	run(t, AuditLogCases(s))
}

// AuditLogCases are the promises of providers.AuditLog.
func AuditLogCases(s IssuerSetup) []Case {
	var cases []Case
	for _, c := range []struct {
		name string
		run  func(t T, w issuerWorld, log providers.AuditLog)
	}{
		{"a use is told, and that of no other key", useIsTold},
		{"a use from before the time that is asked for is not told", olderUse},
		{"the uses of a key are told when it is destroyed, too", usesOfADeadKey},
		{"of a key that never was there is none, and that is no error", usesOfNoKey},
		{"what is throttled passes later", usesThrottled},
		{"an ended context ends a call", usesExpired},
	} {
		cases = append(cases, Case{c.name, func(t T) {
			w := s.Open(t)
			log, can := w.Issuer.(providers.AuditLog)
			require.True(t, can, "it is a providers.AuditLog")
			capabilities, err := w.Issuer.Capabilities(t.Context())
			require.NoError(t, err)
			c.run(t, issuerWorld{IssuerWorld: w, can: capabilities, knowsTokens: s.KnowsTokens, datesReports: s.DatesReports}, log)
		}})
	}
	return cases
}

// used mints a key and uses it.
func (w issuerWorld) used(t T) (key.Ref, secret.Bundle) {
	t.Helper()
	ref, b := w.issue(t, firstToken)
	w.works(t, b)
	return ref, b
}

// told awaits a use of a key, and judges all that is told.
func (w issuerWorld) told(t T, log providers.AuditLog, ref key.Ref, since time.Time) {
	t.Helper()
	var uses key.Uses
	eventually(t, w.can.UsageLag+w.can.ConsistentWithin, "the use is told", func() bool {
		var err error
		uses, err = log.Uses(t.Context(), ref, since)
		return err == nil && len(uses.List) > 0
	})
	assert.NotEmpty(t, uses.Teller, "it says who tells")
	for _, u := range uses.List {
		assert.Equal(t, ref.KeyID, u.KeyID)
		assert.Positive(t, u.Count)
		assert.False(t, u.Last.Before(u.First), "it ends after it began")
		assert.False(t, u.Last.Before(since), "it is one since then")
		assert.False(t, u.Last.After(time.Now().Add(time.Second)), "not in the future")
		for _, text := range []string{u.Action, u.Principal, u.Source, u.Region, u.Error} {
			assert.Equal(t, outside.Text(text, 256), text, "a name is short, and on one line")
		}
	}
}

func useIsTold(t T, w issuerWorld, log providers.AuditLog) {
	began := time.Now().Add(-time.Second)
	ref, _ := w.used(t)
	unused, _ := w.issue(t, secondToken)
	w.told(t, log, ref, began)
	uses, err := log.Uses(t.Context(), unused, began)
	require.NoError(t, err)
	assert.Empty(t, uses.List)
}

func olderUse(t T, w issuerWorld, log providers.AuditLog) {
	ref, _ := w.used(t)
	w.told(t, log, ref, time.Now().Add(-time.Hour))
	uses, err := log.Uses(t.Context(), ref, time.Now().Add(time.Minute))
	require.NoError(t, err)
	assert.Empty(t, uses.List)
}

func usesOfADeadKey(t T, w issuerWorld, log providers.AuditLog) {
	began := time.Now().Add(-time.Second)
	ref, b := w.used(t)
	w.told(t, log, ref, began)
	require.NoError(t, w.Issuer.Destroy(t.Context(), ref))
	w.refused(t, b)
	w.told(t, log, ref, began)
}

func usesOfNoKey(t T, w issuerWorld, log providers.AuditLog) {
	w.used(t)
	uses, err := log.Uses(t.Context(), key.Ref{Principal: w.Principal, KeyID: "no-key-of-anybody"}, time.Now().Add(-time.Hour))
	require.NoError(t, err)
	assert.Empty(t, uses.List)
}

func usesThrottled(t T, w issuerWorld, log providers.AuditLog) {
	ref, _ := w.used(t)
	w.throttled(t, OpUses, func() error { _, err := log.Uses(t.Context(), ref, time.Time{}); return err })
	w.told(t, log, ref, time.Time{})
}

func usesExpired(t T, w issuerWorld, log providers.AuditLog) {
	ref, _ := w.used(t)
	_, err := log.Uses(expired(t), ref, time.Time{})
	require.Error(t, err)
}
