package policy

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
)

func TestJudgeAScannedKey(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	const day = 24 * time.Hour
	seen := func(change func(*SeenKey)) SeenKey {
		k := SeenKey{Account: "edge", Type: "gateway", Info: key.Info{Principal: "payments-api", KeyID: "k1", State: key.Active, CreatedAt: now.Add(-day)}}
		change(&k)
		return k
	}
	asItIs := func(*SeenKey) {}
	declared := func(standing Standing, change func(*Declared)) Declarations {
		d := Declared{Inventory: "payments", Credential: "payments", Account: "edge", Principals: []string{"payments-api"}, RotateEvery: inventory.Duration(30 * day)}
		if standing != "" {
			d.Standings, d.KnowsCurrent = map[string]Standing{"k1": standing}, true
		}
		change(&d)
		return Declare([]Declared{d})
	}
	quiet := func(*Declared) {}
	running := func(d *Declared) { d.Running = true }
	for name, c := range map[string]struct {
		key      SeenKey
		declared Declarations
		custody  Custody
		marks    []Mark
		advice   string // "": none
	}{
		"the current key of a credential":                     {seen(asItIs), declared(StandingCurrent, quiet), Managed, nil, ""},
		"the incoming key of a rotation that runs":            {seen(asItIs), declared(StandingIncoming, running), Managed, nil, ""},
		"the retired key of a rotation that runs":             {seen(asItIs), declared(StandingRetired, running), Managed, nil, ""},
		"a key that was minted while it was looked":           {seen(asItIs), declared(StandingCurrent, func(d *Declared) { d.Running, d.Standings = true, map[string]Standing{} }), Managed, nil, ""},
		"a retired key that nothing looks after":              {seen(asItIs), declared(StandingRetired, quiet), Orphaned, nil, "still alive"},
		"adopted keys of which none is known to be in use":    {seen(asItIs), declared(StandingRetired, func(d *Declared) { d.KnowsCurrent = false }), Managed, nil, "which key of payments is in use"},
		"an incoming key whose rotation is gone":              {seen(asItIs), declared(StandingIncoming, quiet), Orphaned, nil, "the next rotation"},
		"a key that a mint intent proves":                     {seen(asItIs), declared(StandingOrphan, quiet), Orphaned, nil, "the next rotation"},
		"a stranger at a declared principal":                  {seen(asItIs), declared(StandingUnknown, quiet), Unmanaged, nil, "name it under adopt there"},
		"a stranger at a declared principal, in a rotation":   {seen(asItIs), declared(StandingUnknown, running), Unmanaged, nil, "name it under adopt there"},
		"a key of a principal that nobody declares":           {seen(func(k *SeenKey) { k.Principal = "batch" }), declared(StandingCurrent, quiet), Unmanaged, nil, "--emit"},
		"the same principal at another account":               {seen(func(k *SeenKey) { k.Account = "other" }), declared(StandingCurrent, quiet), Unmanaged, nil, "--emit"},
		"a key that keyturn minted, its credential forgotten": {seen(func(k *SeenKey) { k.Principal, k.Token = "batch", "t" }), declared(StandingCurrent, quiet), Orphaned, nil, "Consumers may still use it: declare the credential again, or destroy the key at the issuer once its last use is long past"},
		"a store that cannot be looked at": {seen(asItIs), declared("", func(d *Declared) { d.Problem = "denied" }), Managed,
			[]Mark{MarkNotLooked}, "could not be seen: denied"},
		"a credential whose store was not to be looked at": {seen(asItIs), declared("", quiet), Managed, nil, ""},
		"a disabled key that nobody declares": {seen(func(k *SeenKey) { k.Principal, k.State = "batch", key.Disabled }), declared(StandingCurrent, quiet), Unmanaged,
			[]Mark{MarkDisabled}, "when nobody missed it, destroy it at the issuer"},
		"a disabled current key":                        {seen(func(k *SeenKey) { k.State = key.Disabled }), declared(StandingCurrent, quiet), Managed, []Mark{MarkDisabled}, "disabled"},
		"a current key past its cryptoperiod":           {seen(func(k *SeenKey) { k.CreatedAt = now.Add(-31 * day) }), declared(StandingCurrent, quiet), Managed, []Mark{MarkOverAge}, "rotate payments"},
		"a current key past it, in a rotation":          {seen(func(k *SeenKey) { k.CreatedAt = now.Add(-31 * day) }), declared(StandingCurrent, running), Managed, []Mark{MarkOverAge}, ""},
		"a key that nobody declares, younger than that": {seen(func(k *SeenKey) { k.Principal, k.CreatedAt = "batch", now.Add(-31*day) }), declared(StandingCurrent, quiet), Unmanaged, nil, "--emit"},
		"a key that nobody declares, too old":           {seen(func(k *SeenKey) { k.Principal, k.CreatedAt = "batch", now.Add(-91*day) }), declared(StandingCurrent, quiet), Unmanaged, []Mark{MarkOverAge}, "--emit"},
		"an issuer that tells no age":                   {seen(func(k *SeenKey) { k.CreatedAt = time.Time{} }), declared(StandingCurrent, quiet), Managed, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := c.declared.Judge(c.key, 90*day, now)
			assert.Equal(t, c.custody, s.Custody)
			assert.Equal(t, c.marks, s.Marks)
			if c.advice == "" {
				assert.Empty(t, s.Advice)
			} else {
				assert.Contains(t, s.Advice, c.advice)
			}
		})
	}
}
