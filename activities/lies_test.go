package activities_test

import (
	"context"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/signed"
	"github.com/keyturn/keyturn/providers/memory"
)

// lies are what an input may say that is not so, by the type of the field. Whoever writes to the namespace can start any activity
// of a rotation with any input, at any time: none of it decides an effect.
var lies = map[reflect.Type]func(c *crashCase) []any{
	reflect.TypeFor[inventory.SignedSpec](): func(*crashCase) []any { return nil }, // TestHostileSpecs and signed_test.go
	reflect.TypeFor[string](): func(*crashCase) []any {
		return []any{"", "another-run", "completed", "rolled-back", strings.Repeat("x", 100)}
	},
	reflect.TypeFor[[]string](): func(*crashCase) []any {
		return []any{[]string{"nobody"}, []string{"canary"}, []string{"checkout/a", "checkout/a"}}
	},
	reflect.TypeFor[int]():  func(*crashCase) []any { return []any{-1, 0, 2, 1 << 40} },
	reflect.TypeFor[bool](): func(*crashCase) []any { return []any{true, false} },
	reflect.TypeFor[time.Time](): func(c *crashCase) []any {
		return []any{time.Time{}, c.now().Add(-1000 * time.Hour), c.now().Add(1000 * time.Hour)}
	},
	reflect.TypeFor[key.Ref](): func(c *crashCase) []any {
		foreign := key.Ref{Principal: "payments-other", KeyID: "key-foreign", StoreVersion: c.retiring.StoreVersion}
		swapped := key.Ref{Principal: c.retiring.Principal, KeyID: c.retiring.KeyID, StoreVersion: c.incoming.StoreVersion, Fingerprint: c.incoming.Fingerprint}
		return []any{key.Ref{}, c.retiring, c.incoming, foreign, swapped}
	},
	reflect.TypeFor[[]policy.Verdict](): func(c *crashCase) []any {
		old := policy.Verdict{Action: policy.Approve, Accepted: true, By: "ann", At: c.now().Add(-1000 * time.Hour)}
		no := policy.Verdict{Action: policy.Reject, Accepted: true, By: "ann", At: c.now()}
		return []any{[]policy.Verdict(nil), []policy.Verdict{no}, []policy.Verdict{{By: "ann"}, old}}
	},
	reflect.TypeFor[*activities.Emergency](): func(c *crashCase) []any {
		c.declare("key-old", "key-foreign")
		truly := *c.emergency
		unsigned, forged, earlier := truly, truly, truly
		unsigned.Declaration.Signature = ""
		forged.Declaration.Body = []byte(strings.Replace(string(truly.Declaration.Body), "key-foreign", "key-forged!", 1))
		earlier.Since = c.now().Add(-1000 * time.Hour)
		c.emergency = nil
		return []any{(*activities.Emergency)(nil), &activities.Emergency{}, &unsigned, &forged, &earlier}
	},
	reflect.TypeFor[policy.Start](): func(*crashCase) []any {
		return []any{policy.Start{}, policy.Start{Now: true}, policy.Start{Fired: true}}
	},
	reflect.TypeFor[signed.Envelope]():   func(*crashCase) []any { return []any{signed.Envelope{}} },
	reflect.TypeFor[[]policy.Readings](): func(*crashCase) []any { return []any{make([]policy.Readings, 3)} },
	reflect.TypeFor[map[string]time.Time](): func(c *crashCase) []any {
		return []any{map[string]time.Time{"key-old": c.now().Add(-100 * time.Hour), "key-foreign": c.now()}}
	},
	reflect.TypeFor[[]inventory.SignedSpec](): func(c *crashCase) []any { return []any{[]inventory.SignedSpec{{}, c.spec, c.spec}} },
	reflect.TypeFor[[]signed.Envelope](): func(*crashCase) []any {
		return []any{[]signed.Envelope{{}, {Body: []byte(`{"credentials":["payments-api"]}`), Signature: "mallory's"}}}
	},
	reflect.TypeFor[activities.Named]():      func(c *crashCase) []any { return []any{c.named(), activities.Named{Credential: "payments-other"}} },
	reflect.TypeFor[[]activities.Named]():    func(c *crashCase) []any { return []any{[]activities.Named{c.named(), {}}} },
	reflect.TypeFor[activities.ScanCursor](): func(*crashCase) []any { return []any{activities.ScanCursor{}} },
	reflect.TypeFor[[]activities.Entry](): func(c *crashCase) []any {
		return []any{[]activities.Entry{{Named: c.named(), Account: "edge", Principals: []string{"payments-other"}}}}
	},
	reflect.TypeFor[[]policy.Finding](): func(*crashCase) []any {
		return []any{[]policy.Finding{{Kind: "retired-key-alive", Credential: "payments-api", About: "key-old"}}}
	},
	reflect.TypeFor[activities.Frozen]():   func(*crashCase) []any { return []any{activities.Frozen{Done: []string{"memory (1 of 1)"}}} },
	reflect.TypeFor[activities.News]():     func(*crashCase) []any { return []any{activities.NewsEnded, activities.NewsUnconfirmed} },
	reflect.TypeFor[map[string][]string](): func(*crashCase) []any { return []any{map[string][]string{"payments-api": {"key-old"}}} },
	reflect.TypeFor[time.Duration]():       func(*crashCase) []any { return []any{-time.Hour, 1000 * time.Hour} },
	reflect.TypeFor[[]audit.Event](): func(c *crashCase) []any {
		return []any{[]audit.Event{{ID: "seen/first-run/key.destroyed", Type: audit.KeyDestroyed, Time: c.now().Add(time.Hour), Actor: "worker"}}}
	},
}

// stages are how far the rotation has come.
var stages = map[string][]string{
	"before it began":   nil,
	"issued":            {"Issue"},
	"delivered":         {"Issue", "DeliverWave"},
	"promoted":          {"Issue", "DeliverWave", "Promote"},
	"after the overlap": {"Issue", "DeliverWave", "Promote", "GatherEvidence"},
	"disabled":          {"Issue", "DeliverWave", "Promote", "Disable"},
	"delivered back":    {"Issue", "DeliverWave", "DeliverBack"},
	"turned back":       {"Issue", "DeliverWave", "Promote", "DeliverBack", "RestoreLabels"},
}

// TestNoInputDecidesAnEffect starts every activity of a rotation, at every stage of it, with every lie in every field of its input.
func TestNoInputDecidesAnEffect(t *testing.T) {
	t.Parallel()
	typ := reflect.TypeFor[*activities.Activities]()
	for i := range typ.NumMethod() {
		method := typ.Method(i)
		if method.Type.NumIn() < 3 || !carries(method.Type.In(2)) {
			continue
		}
		for stage, steps := range stages {
			t.Run(method.Name+" "+stage, func(t *testing.T) {
				t.Parallel()
				c := reached(t, steps...)
				c.world.SetPrincipal("payments-other", memory.Strict())
				c.world.AddKey("payments-other", "key-foreign", c.now())
				c.lasts = 500 * time.Millisecond // nothing is meant to last
				for _, field := range fieldsOf(method.Type.In(2)) {
					made := lies[field.Type]
					require.NotNil(t, made, "say how a %s lies", field.Type)
					for n, lie := range made(c) {
						in := c.honest(method.Type.In(2))
						in.FieldByIndex(field.Index).Set(reflect.ValueOf(lie).Convert(field.Type))
						_ = c.attempt(method.Name, in.Interface(), nil, 1)
						c.wait(time.Minute)
						c.nobodyIsHarmed(fmt.Sprintf("%s lies with %d", field.Name, n))
					}
				}
			})
		}
	}
}

// TestNoInputBesideThoseOfARotationHasAnEffect does so with all other activities, of which none changes a key, a store or a consumer.
func TestNoInputBesideThoseOfARotationHasAnEffect(t *testing.T) {
	t.Parallel()
	typ := reflect.TypeFor[*activities.Activities]()
	for i := range typ.NumMethod() {
		method := typ.Method(i)
		if method.Type.NumIn() < 3 || carries(method.Type.In(2)) {
			continue
		}
		for _, stage := range []string{"after the overlap", "disabled"} {
			t.Run(method.Name+" "+stage, func(t *testing.T) {
				t.Parallel()
				c := reached(t, stages[stage]...)
				c.world.SetPrincipal("payments-other", memory.Strict())
				c.world.AddKey("payments-other", "key-foreign", c.now())
				c.lasts = 500 * time.Millisecond
				keys, versions, metadata := c.keys(), c.versions(), c.metadata()
				for n, in := range c.lying(method.Type.In(2)) {
					_ = c.attempt(method.Name, in, nil, 1)
					when := fmt.Sprintf("lie %d: %+v", n, in)
					c.nobodyIsHarmed(when)
					assert.Equal(t, keys, c.keys(), when)
					assert.Equal(t, versions, c.versions(), when)
					assert.Equal(t, metadata.Keys, c.metadata().Keys, when)
					assert.Empty(t, c.world.Freezes(), when)
				}
			})
		}
	}
}

// lying are inputs of a type, each with one lie, in one of its fields if it has any.
func (c *crashCase) lying(in reflect.Type) (list []any) {
	if made := lies[in]; made != nil {
		return append(made(c), reflect.Zero(in).Interface())
	}
	require.Equal(c.t, reflect.Struct, in.Kind(), "say how a %s lies", in)
	for _, field := range fieldsOf(in) {
		made := lies[field.Type]
		require.NotNil(c.t, made, "say how a %s lies", field.Type)
		for _, lie := range append(made(c), reflect.Zero(field.Type).Interface()) {
			v := reflect.New(in).Elem()
			for name, value := range map[string]any{"Spec": c.spec, "Credential": "payments-api", "Account": "edge", "Incident": "incident/leak", "End": true} {
				if f := v.FieldByName(name); f.IsValid() {
					f.Set(reflect.ValueOf(value))
				}
			}
			v.FieldByIndex(field.Index).Set(reflect.ValueOf(lie).Convert(field.Type))
			list = append(list, v.Interface())
		}
	}
	return list
}

// carries tells whether an input is of a rotation.
func carries(in reflect.Type) bool {
	if in.Kind() != reflect.Struct {
		return false
	}
	field, has := in.FieldByName("Rotation")
	return has && field.Anonymous || in == reflect.TypeFor[activities.Rotation]()
}

// fieldsOf lists the fields of an input, those of the embedded Rotation among them.
func fieldsOf(in reflect.Type) (list []reflect.StructField) {
	for _, f := range reflect.VisibleFields(in) {
		if !f.Anonymous {
			list = append(list, f)
		}
	}
	return list
}

// honest is an input as the rotation would have it.
func (c *crashCase) honest(in reflect.Type) reflect.Value {
	v := reflect.New(in).Elem()
	if in == reflect.TypeFor[activities.Rotation]() {
		v.Set(reflect.ValueOf(c.subject()))
		return v
	}
	v.FieldByName("Rotation").Set(reflect.ValueOf(c.subject()))
	for name, value := range map[string]any{
		"Key": c.incoming, "Wave": "all", "Ordinal": 1, "Outcome": "completed", "What": "gate", "Severity": "action",
		"Approvals": []policy.Verdict{{Action: policy.Approve, Accepted: true, By: "ann", At: c.now()}},
	} {
		if f := v.FieldByName(name); f.IsValid() {
			f.Set(reflect.ValueOf(value))
		}
	}
	return v
}

// nobodyIsHarmed holds the World against what must be true whatever anybody says.
func (c *crashCase) nobodyIsHarmed(when string) {
	c.t.Helper()
	for _, name := range fleet {
		assert.True(c.t, c.world.Accepts("payments-api", c.world.Using(name)), "%s: %s has a key that is refused", when, name)
	}
	assert.LessOrEqual(c.t, len(c.keys()), 2, "%s: never more keys than slots", when)
	assert.True(c.t, c.world.Accepts("payments-other", "key-foreign"), "%s: a key that is not ours is touched", when)
	current, err := c.world.Store("payments-api").ReadLabel(context.Background(), key.Current)
	require.NoError(c.t, err, when)
	defer current.Close()
	id, err := c.world.Issuer("payments-api").Identify(context.Background(), current)
	require.NoError(c.t, err, when)
	assert.True(c.t, c.world.Accepts("payments-api", id), "%s: CURRENT is a key that is refused", when)
}
