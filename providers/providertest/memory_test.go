package providertest_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/memory"
	"github.com/keyturn/keyturn/providers/providertest"
)

// Package memory passes each suite here, and is then the ground on which bugs are planted.

var errNoRoute = errors.New("no route to host")

func faults(w *memory.World) providertest.Faults {
	return providertest.Faults{
		LoseReply: func(op providertest.Op) { w.LoseReply(memory.Op(op), 1) },
		Throttle:  func(op providertest.Op) { w.Throttle(memory.Op(op), 1) },
		Hang:      func(op providertest.Op) func() { return w.Hang(memory.Op(op)) },
	}
}

// issuerIn makes a World with two principals; wrap may plant a bug.
func issuerIn(settings memory.PrincipalSettings, wrap func(*memory.World, providers.Issuer) providers.Issuer) providertest.IssuerSetup {
	return providertest.IssuerSetup{
		KnowsTokens: settings.KnowsTokens, DatesReports: settings.DatesReports,
		Open: func(providertest.T) providertest.IssuerWorld {
			w := memory.NewWorld(nil)
			w.SetPrincipal("p", settings)
			w.SetPrincipal("q", settings)
			return providertest.IssuerWorld{
				Issuer: wrap(w, w.Issuer("p")), Other: w.Issuer("q"), Principal: "p",
				Use: func(b secret.Bundle) error { return w.Use(b, "test") }, Faults: faults(w),
				Silence: func() func() {
					silent := settings
					silent.ReportLag = 24 * time.Hour
					w.SetPrincipal("p", silent)
					return func() { w.SetPrincipal("p", settings) }
				},
			}
		},
	}
}

func asItIs(_ *memory.World, i providers.Issuer) providers.Issuer { return i }

func storeIn(wrap func(*memory.World, providers.Store) providers.Store) providertest.StoreSetup {
	return providertest.StoreSetup{Open: func(providertest.T) providertest.StoreWorld {
		w := memory.NewWorld(nil)
		open := func(path string) providers.Store { return wrap(w, w.Store(path)) }
		return providertest.StoreWorld{
			Store: open("a"), Other: open("b"), Reopen: func() providers.Store { return open("a") }, Faults: faults(w),
		}
	}}
}

func targetIn(wrap func(*memory.World, providers.Target) providers.Target) providertest.TargetSetup {
	return providertest.TargetSetup{Open: func(t providertest.T) providertest.TargetWorld {
		w := memory.NewWorld(nil)
		w.SetPrincipal("p", memory.Strict())
		for _, name := range []string{"a", "b"} {
			w.SetInstance(name, memory.InstanceSettings{KeepsCopies: true})
		}
		opened, err := w.Descriptor().Target.Open(providers.Environment{}, nil, new(memory.InstanceConfig))
		require.NoError(t, err)
		return providertest.TargetWorld{
			Target: wrap(w, opened),
			Read: func(instance string) (string, error) {
				b, _ := w.Held(instance)
				v, _ := b.Field(secret.ValueField)
				return string(v.Reveal()), nil
			},
			// A second delivery in the same moment is another event of the ledger, too.
			Mark: func(instance string) any {
				_, at := w.Held(instance)
				return [2]any{at, len(w.Happened(memory.OpDeliver))}
			},
			Break: func(instance string) {
				w.SetInstance(instance, memory.InstanceSettings{Unreachable: errNoRoute})
			},
			Copies: w.Copies,
			Mint:   func(keyID string) secret.Bundle { return w.AddKey("p", keyID, time.Now()) },
			Faults: faults(w),
		}
	}}
}

func TestMemoryIssuer(t *testing.T) {
	t.Parallel()
	likeAWS := memory.PrincipalSettings{Capabilities: key.Capabilities{
		Slots: 2, CanDisable: true, ReportsUsage: true, UsageLag: 50 * time.Millisecond,
		ConsistentWithin: 40 * time.Millisecond, Fields: []string{"accessKeyID", "secretAccessKey"},
	}}
	bare := memory.PrincipalSettings{Capabilities: key.Capabilities{Slots: 3}}
	endless := memory.Strict()
	endless.Slots = 0
	late := memory.Strict()
	late.UsageLag, late.ConsistentWithin = 50*time.Millisecond, 40*time.Millisecond
	for name, settings := range map[string]memory.PrincipalSettings{
		"one that can do everything":                   memory.Strict(),
		"one like AWS IAM, late and without tokens":    likeAWS,
		"one that can neither disable, end nor report": bare,
		"one without slots":                            endless,
		"one that is late with all":                    late,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			providertest.Issuer(t, issuerIn(settings, asItIs))
		})
	}
}

func TestMemoryIssuerTellsTimesByItsOwnClock(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	w := memory.NewWorld(func() time.Time { return now })
	settings := memory.Strict()
	settings.ClockSkew = -3 * time.Hour
	w.SetPrincipal("p", settings)
	b := w.AddKey("p", "k", now)
	listed := func() key.Info {
		t.Helper()
		list, err := w.Issuer("p").List(t.Context())
		require.NoError(t, err)
		require.Len(t, list, 1)
		return list[0]
	}
	require.NoError(t, w.Use(b, "somebody"))
	nine := now.Add(-3 * time.Hour)
	got := listed()
	assert.Equal(t, [3]time.Time{nine, nine, nine}, [3]time.Time{got.CreatedAt, got.LastUsedAt, got.ReportedAt})

	settings.ReportLag = time.Hour
	w.SetPrincipal("p", settings)
	now = now.Add(30 * time.Minute)
	require.NoError(t, w.Use(b, "somebody"))
	got = listed()
	assert.Equal(t, nine, got.ReportedAt, "a report that is late from now on does not get older")
	assert.Equal(t, nine, got.LastUsedAt)
	now = now.Add(time.Hour)
	got = listed()
	assert.Equal(t, nine.Add(30*time.Minute), got.ReportedAt)
	assert.Equal(t, nine.Add(30*time.Minute), got.LastUsedAt)
}

func TestMemoryStore(t *testing.T) {
	t.Parallel()
	providertest.Store(t, storeIn(func(_ *memory.World, s providers.Store) providers.Store { return s }))
}

func TestMemoryTarget(t *testing.T) {
	t.Parallel()
	providertest.Target(t, targetIn(func(_ *memory.World, target providers.Target) providers.Target { return target }))
}

func TestMemoryAuditLog(t *testing.T) {
	t.Parallel()
	providertest.AuditLog(t, issuerIn(memory.Strict(), asItIs))
}

// listerIn makes a World whose account is listed; wrap may plant a bug.
func listerIn(wrap func(*memory.World, providers.Lister) providers.Lister) providertest.ListerSetup {
	return providertest.ListerSetup{Open: func(providertest.T) providertest.ListerWorld {
		w := memory.NewWorld(nil)
		return providertest.ListerWorld{
			Lister: wrap(w, w.Descriptor().Account().(providers.Lister)), Faults: faults(w),
			Principal: func(name string, keys int) providers.Issuer {
				w.SetPrincipal(name, memory.Strict())
				for n := range keys {
					w.AddKey(name, fmt.Sprintf("%s-key-%d", name, n), time.Now().Add(-time.Hour+time.Duration(n)*time.Minute))
				}
				return w.Issuer(name)
			},
		}
	}}
}

func TestMemoryLister(t *testing.T) {
	t.Parallel()
	providertest.Lister(t, listerIn(func(_ *memory.World, l providers.Lister) providers.Lister { return l }))
}

// purgerIn makes a World whose instances cache; wrap may plant a bug.
func purgerIn(wrap func(providers.Purger) providers.Purger) providertest.PurgerSetup {
	return providertest.PurgerSetup{Open: func(t providertest.T, peer providertest.Peer) providertest.PurgerWorld {
		w := memory.NewWorld(nil)
		for _, name := range []string{"a", "b"} {
			w.SetInstance(name, memory.InstanceSettings{Caches: time.Hour})
		}
		switch peer {
		case providertest.Ill, providertest.Telltale:
			w.SetInstance("a", memory.InstanceSettings{Unreachable: errNoRoute})
		case providertest.Silent:
			t.Cleanup(w.Hang(memory.OpPurge))
		}
		opened, err := w.Descriptor().Purge.Open(providers.Environment{}, nil, new(memory.InstanceConfig))
		require.NoError(t, err)
		return providertest.PurgerWorld{Purger: wrap(opened), Purged: w.Purged}
	}}
}

func TestMemoryPurger(t *testing.T) {
	t.Parallel()
	providertest.Purger(t, purgerIn(func(p providers.Purger) providers.Purger { return p }))
}
