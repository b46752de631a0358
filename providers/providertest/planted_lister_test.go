package providertest_test

import (
	"context"
	"slices"
	"testing"

	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/memory"
	"github.com/keyturn/keyturn/providers/providertest"
)

// brokenLister is one with a bug.
type brokenLister struct {
	providers.Lister
	bugs listerBugs
}

type listerBugs struct{ firstPageOnly, endless, skipsOne, hidesDisabled, mixesUp, nobodyIsAnError, deaf bool }

func (b brokenLister) Principals(ctx context.Context, page string) ([]string, string, error) {
	if b.bugs.deaf {
		ctx = context.WithoutCancel(ctx)
	}
	names, next, err := b.Lister.Principals(ctx, page)
	switch {
	case b.bugs.firstPageOnly:
		next = ""
	case b.bugs.endless:
		next = page + "+"
		names, _, err = b.Lister.Principals(ctx, "")
	case b.bugs.skipsOne && len(names) > 2:
		names = names[1:]
	}
	return names, next, err
}

func (b brokenLister) Keys(ctx context.Context, principal string) ([]key.Info, error) {
	if b.bugs.mixesUp && principal == "team" {
		principal = "other"
	}
	keys, err := b.Lister.Keys(ctx, principal)
	if b.bugs.hidesDisabled {
		keys = slices.DeleteFunc(keys, func(k key.Info) bool { return k.State == key.Disabled })
	}
	if b.bugs.nobodyIsAnError && err == nil && len(keys) == 0 {
		return nil, providers.ErrNotFound
	}
	return keys, err
}

func TestPlantedLister(t *testing.T) {
	t.Parallel()
	planted(t, func(bugs listerBugs) []providertest.Case {
		return providertest.ListerCases(listerIn(func(_ *memory.World, l providers.Lister) providers.Lister { return brokenLister{l, bugs} }))
	}, map[string]listerBugs{
		"only the first page is listed":               {firstPageOnly: true},
		"the pages never end":                         {endless: true},
		"a principal is left out":                     {skipsOne: true},
		"disabled keys are not listed":                {hidesDisabled: true},
		"the keys of another principal are listed":    {mixesUp: true},
		"a principal that does not exist is an error": {nobodyIsAnError: true},
		"a context that has ended is not noticed":     {deaf: true},
	})
}
