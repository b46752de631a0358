package providertest_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/memory"
	"github.com/keyturn/keyturn/providers/providertest"
)

// brokenAuditLog is one with a bug.
type brokenAuditLog struct {
	providers.Issuer
	bugs auditLogBugs
}

type auditLogBugs struct{ silent, whoever, ignoresSince, forgetsTheDead, unknownIsAnError, throttledIsNothing, deaf, tellsAll, nobodyTells bool }

func (b brokenAuditLog) Uses(ctx context.Context, k key.Ref, since time.Time) (key.Uses, error) {
	if b.bugs.deaf {
		ctx = context.WithoutCancel(ctx)
	}
	if b.bugs.ignoresSince {
		since = time.Time{}
	}
	log := b.Issuer.(providers.AuditLog)
	uses, err := log.Uses(ctx, k, since)
	alive, _ := b.List(context.WithoutCancel(ctx))
	switch is := func(i key.Info) bool { return i.KeyID == k.KeyID }; {
	case b.bugs.silent:
		uses.List = nil
	case b.bugs.whoever:
		for _, other := range alive {
			of, _ := log.Uses(ctx, key.Ref{KeyID: other.KeyID}, since)
			for _, u := range of.List {
				u.KeyID = k.KeyID
				uses.List = append(uses.List, u)
			}
		}
	case b.bugs.forgetsTheDead && !slices.ContainsFunc(alive, is):
		uses.List = nil
	case b.bugs.unknownIsAnError && !slices.ContainsFunc(alive, is) && len(uses.List) == 0:
		err = providers.ErrNotFound
	case b.bugs.throttledIsNothing && err != nil && ctx.Err() == nil:
		return key.Uses{Teller: "nobody"}, nil
	case b.bugs.tellsAll:
		for n := range uses.List {
			uses.List[n].Source = strings.Repeat("somebody ", 100)
		}
	case b.bugs.nobodyTells:
		uses.Teller = ""
	}
	return uses, err
}

func TestPlantedAuditLog(t *testing.T) {
	t.Parallel()
	planted(t, func(bugs auditLogBugs) []providertest.Case {
		return providertest.AuditLogCases(issuerIn(memory.Strict(), func(_ *memory.World, i providers.Issuer) providers.Issuer { return brokenAuditLog{i, bugs} }))
	}, map[string]auditLogBugs{
		"it tells of no use":                        {silent: true},
		"it tells of other keys' uses":              {whoever: true},
		"it tells of all times":                     {ignoresSince: true},
		"it forgets a key that is destroyed":        {forgetsTheDead: true},
		"a key that never was is an error":          {unknownIsAnError: true},
		"one that is throttled tells of no uses":    {throttledIsNothing: true},
		"a context that has ended is not noticed":   {deaf: true},
		"what somebody calls themselves has no end": {tellsAll: true},
		"it does not say who tells":                 {nobodyTells: true},
	})
}
