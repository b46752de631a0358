package providertest

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/providers"
)

// ListerSetup is the world of an account that lists its keys.
type ListerSetup struct {
	// Open makes an account without principals of the test's.
	Open func(t T) ListerWorld
}

// ListerWorld is an account, and what can be done around it.
type ListerWorld struct {
	Lister providers.Lister
	// Principal makes a principal with as many keys, and returns the issuer of them.
	Principal func(name string, keys int) providers.Issuer
	// Names are those of principals that the account has besides those of the suite.
	Names []string
	Faults
}

// OpPrincipals is the call that lists principals.
const OpPrincipals Op = "principals"

// Lister proves that an account keeps the promises of providers.Lister.
func Lister(t *testing.T, s ListerSetup) {
	t.Helper()
	run(t, ListerCases(s))
}

// ListerCases are the promises of providers.Lister.
func ListerCases(s ListerSetup) []Case {
	var cases []Case
	for _, c := range []struct {
		name string
		run  func(t T, w ListerWorld)
	}{
		{"an account without keys has none", noPrincipals},
		{"every principal is on one page, whatever the pages are", allPrincipals},
		{"a page that is asked for again is the same", samePage},
		{"the keys of a principal are those that its issuer lists, disabled ones too", keysOfPrincipal},
		{"a principal that does not exist has no keys", keysOfNobody},
		{"what is throttled passes later", listerThrottled},
		{"an ended context ends a call", listerExpired},
		{"a call that is cancelled halfway ends", listerInterrupted},
	} {
		cases = append(cases, Case{c.name, func(t T) { c.run(t, s.Open(t)) }})
	}
	return cases
}

// everyone lists all principals, page by page.
func everyone(t T, l providers.Lister) []string {
	t.Helper()
	const tooMany = 1000
	var names []string
	page := ""
	for range tooMany {
		more, next, err := l.Principals(t.Context(), page)
		require.NoError(t, err)
		names = append(names, more...)
		if next == "" {
			return names
		}
		require.NotEqual(t, page, next, "each page leads on")
		page = next
	}
	require.Fail(t, "the pages never end")
	return nil
}

// own are names without those that were there before.
func own(w ListerWorld, names []string) []string {
	kept := slices.DeleteFunc(slices.Clone(names), func(n string) bool { return slices.Contains(w.Names, n) })
	slices.Sort(kept)
	return kept
}

func noPrincipals(t T, w ListerWorld) {
	for _, name := range own(w, everyone(t, w.Lister)) {
		keys, err := w.Lister.Keys(t.Context(), name)
		require.NoError(t, err)
		assert.Empty(t, keys, "%s", name)
	}
}

func allPrincipals(t T, w ListerWorld) {
	var want []string
	for n := range 11 {
		name := fmt.Sprintf("team-%02d", n)
		w.Principal(name, 1)
		want = append(want, name)
	}
	assert.Equal(t, want, own(w, everyone(t, w.Lister)))
}

func samePage(t T, w ListerWorld) {
	for n := range 5 {
		w.Principal(fmt.Sprintf("team-%02d", n), 1)
	}
	first, next, err := w.Lister.Principals(t.Context(), "")
	require.NoError(t, err)
	again, nextAgain, err := w.Lister.Principals(t.Context(), "")
	require.NoError(t, err)
	assert.Equal(t, first, again)
	assert.Equal(t, next, nextAgain)
}

func keysOfPrincipal(t T, w ListerWorld) {
	issuer := w.Principal("team", 2)
	w.Principal("other", 1)
	listed, err := issuer.List(t.Context())
	require.NoError(t, err)
	require.Len(t, listed, 2)
	if disabler, can := issuer.(providers.Disabler); can {
		require.NoError(t, disabler.Disable(t.Context(), key.Ref{Principal: "team", KeyID: listed[0].KeyID}))
		listed, err = issuer.List(t.Context())
		require.NoError(t, err)
		assert.Equal(t, key.Disabled, listed[0].State)
	}
	keys, err := w.Lister.Keys(t.Context(), "team")
	require.NoError(t, err)
	assert.Equal(t, undated(listed), undated(keys))
}

// undated are keys without the time of the report, which another report may follow.
func undated(keys []key.Info) []key.Info {
	for n := range keys {
		keys[n].ReportedAt = time.Time{}
	}
	return keys
}

func keysOfNobody(t T, w ListerWorld) {
	w.Principal("team", 1)
	keys, err := w.Lister.Keys(t.Context(), "nobody-at-all")
	require.NoError(t, err)
	assert.Empty(t, keys)
}

func listerThrottled(t T, w ListerWorld) {
	w.Principal("team", 1)
	w.throttled(t, OpPrincipals, func() error { _, _, err := w.Lister.Principals(t.Context(), ""); return err })
	w.throttled(t, OpList, func() error { _, err := w.Lister.Keys(t.Context(), "team"); return err })
	keys, err := w.Lister.Keys(t.Context(), "team")
	require.NoError(t, err)
	assert.Len(t, keys, 1)
}

func listerExpired(t T, w ListerWorld) {
	w.Principal("team", 1)
	_, _, err := w.Lister.Principals(expired(t), "")
	require.Error(t, err)
	_, err = w.Lister.Keys(expired(t), "team")
	require.Error(t, err)
}

func listerInterrupted(t T, w ListerWorld) {
	w.Principal("team", 1)
	w.interrupted(t, OpPrincipals, func(ctx context.Context) error {
		_, _, err := w.Lister.Principals(ctx, "")
		return err
	})
}
