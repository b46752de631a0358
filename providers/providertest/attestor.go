package providertest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
)

// Instance is how one instance behaves that is asked which keys it uses.
type Instance struct {
	// Peer is Well, Ill, Telltale or Silent.
	Peer Peer
	// Keys are those that it uses when it is well: one, or two while it reloads.
	Keys []secret.Bundle
}

// AttestorSetup is the world of an attestor.
type AttestorSetup struct {
	// Open starts the instances and opens the attestor for them. Others do not exist. now is the attestor's clock, which it
	// reads once for each statement, when it has it.
	Open func(t T, instances map[string]Instance, now func() time.Time) providers.Attestor
	// States is how a key is called in a statement; by its fingerprint when nil.
	States func(b secret.Bundle) string
	// OneKey: an instance of this system never uses two keys at once.
	OneKey bool
}

// Attestor proves that an attestor keeps the promises of providers.Attestor.
func Attestor(t *testing.T, s AttestorSetup) {
	t.Helper()
	run(t, AttestorCases(s))
}

// AttestorCases are the promises of providers.Attestor.
func AttestorCases(s AttestorSetup) []Case {
	if s.States == nil {
		s.States = secret.Bundle.Fingerprint
	}
	well := func(keys ...int) Instance {
		i := Instance{Peer: Well}
		for _, k := range keys {
			i.Keys = append(i.Keys, bundle(k))
		}
		return i
	}
	first, second := s.States(bundle(1)), s.States(bundle(2))
	cases := []Case{
		{"each instance states its key", func(t T) {
			a := s.Open(t, map[string]Instance{"a": well(1), "b": well(2)}, time.Now)
			got, err := a.Attest(t.Context(), []string{"a", "b"})
			require.NoError(t, err)
			assert.Equal(t, map[string][]string{"a": {first}, "b": {second}}, stated(t, got))
		}},
		{"only those who are asked answer", func(t T) {
			a := s.Open(t, map[string]Instance{"a": well(1), "b": well(2)}, time.Now)
			got, err := a.Attest(t.Context(), []string{"b"})
			require.NoError(t, err)
			assert.Equal(t, map[string][]string{"b": {second}}, stated(t, got))
			got, err = a.Attest(t.Context(), nil)
			require.NoError(t, err)
			assert.Empty(t, got)
		}},
		{"an instance in trouble neither answers nor hides the others", func(t T) {
			for _, peer := range []Peer{Ill, Telltale} {
				a := s.Open(t, map[string]Instance{"a": well(1), "down": {Peer: peer}, "c": well(2)}, time.Now)
				got, err := a.Attest(t.Context(), []string{"a", "down", "c"})
				require.Error(t, err, "an instance that says nothing is no quiet success")
				require.ErrorContains(t, err, "down", "the error says who")
				assertFit(t, err)
				assert.Equal(t, map[string][]string{"a": {first}, "c": {second}}, stated(t, got))
			}
		}},
		{"an instance that does not exist states nothing", func(t T) {
			a := s.Open(t, map[string]Instance{"a": well(1)}, time.Now)
			got, err := a.Attest(t.Context(), []string{"a", "ghost"})
			require.Error(t, err)
			assert.Equal(t, map[string][]string{"a": {first}}, stated(t, got))
		}},
		{"a silent instance costs no more than the deadline, and nobody else's statement", func(t T) {
			ctx, due, returned := untilDue(t)
			var heard atomic.Int32
			a := s.Open(t, map[string]Instance{"a": well(1), "silent": {Peer: Silent}, "c": well(2)}, func() time.Time {
				if heard.Add(1) == 2 {
					due()
				}
				return time.Now()
			})
			got, err := a.Attest(ctx, []string{"silent", "a", "c"})
			returned()
			require.Error(t, err)
			assert.Equal(t, map[string][]string{"a": {first}, "c": {second}}, stated(t, got))
		}},
		{"a cancelled question ends", func(t T) {
			a := s.Open(t, map[string]Instance{"silent": {Peer: Silent}}, time.Now)
			ctx, returned := cancelledHalfway(t)
			got, err := a.Attest(ctx, []string{"silent"})
			returned()
			require.Error(t, err)
			assert.Empty(t, got)
		}},
		{"a hundred instances are asked at once and each answers for itself", func(t T) {
			instances, want := map[string]Instance{}, map[string][]string{}
			var names []string
			for i := range 100 {
				name := fmt.Sprintf("i%d", i)
				names = append(names, name)
				instances[name], want[name] = well(i), []string{s.States(bundle(i))}
			}
			a := s.Open(t, instances, time.Now)
			got, err := a.Attest(t.Context(), names)
			require.NoError(t, err)
			assert.Equal(t, want, stated(t, got))
		}},
		{"questions are asked at the same time", func(t T) {
			a := s.Open(t, map[string]Instance{"a": well(1)}, time.Now)
			var all sync.WaitGroup
			for range 8 {
				all.Go(func() {
					if got, err := a.Attest(t.Context(), []string{"a"}); assert.NoError(t, err) {
						assert.Len(t, got, 1)
					}
				})
			}
			all.Wait()
		}},
	}
	if s.OneKey {
		return cases
	}
	return append(cases, Case{"an instance may hold two keys while it reloads", func(t T) {
		a := s.Open(t, map[string]Instance{"a": well(1, 2)}, time.Now)
		got, err := a.Attest(t.Context(), []string{"a"})
		require.NoError(t, err)
		assert.Equal(t, map[string][]string{"a": {first, second}}, stated(t, got))
	}})
}

// bundle makes a key that is strong enough for a fingerprint; each number has its own.
func bundle(number int) secret.Bundle {
	sum := sha256.Sum256([]byte(strconv.Itoa(number)))
	return secret.Single(secret.New([]byte("key_" + hex.EncodeToString(sum[:]))))
}

// stated maps the statements by instance, after a look at what each must have.
func stated(t T, statements []key.Statement) map[string][]string {
	t.Helper()
	keys := map[string][]string{}
	for _, s := range statements {
		assert.False(t, s.ObservedAt.IsZero(), "a statement says when")
		assert.NotEmpty(t, s.Source, "a statement says by whom")
		assert.NotContains(t, keys, s.Instance, "one statement for each instance")
		keys[s.Instance] = slices.Clone(s.Keys)
	}
	return keys
}
