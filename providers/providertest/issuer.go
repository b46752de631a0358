package providertest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
)

// IssuerSetup is the world of an issuer.
type IssuerSetup struct {
	// Open makes two principals without keys at one account.
	Open func(t T) IssuerWorld
	// KnowsTokens: a token mints one live key. Otherwise each Issue mints another.
	KnowsTokens bool
}

// IssuerWorld is a principal at an issuer, and what can be done around it.
type IssuerWorld struct {
	// Issuer is the principal's, Other that of another principal.
	Issuer, Other providers.Issuer
	// Principal is its name.
	Principal string
	// Use uses a key as a consumer does. nil: it was accepted; providers.ErrKeyRefused: it was not.
	Use func(b secret.Bundle) error
	Faults
}

// Issuer proves that an issuer keeps the promises of providers.Issuer, and of the optional interfaces that
// it has.
func Issuer(t *testing.T, s IssuerSetup) {
	t.Helper()
	run(t, IssuerCases(s))
}

// IssuerCases are the promises of providers.Issuer, Disabler and SelfTester.
func IssuerCases(s IssuerSetup) []Case {
	var cases []Case
	for _, c := range []struct {
		name string
		run  func(t T, w issuerWorld)
	}{
		{"it says the same of itself each time", capabilitiesHold},
		{"a principal without keys has none", noKeys},
		{"an issued key is listed as it was issued", issuedIsListed},
		{"an issued key works, and has the fields that make up a key", issuedWorks},
		{"keys are listed oldest first", oldestFirst},
		{"a key ends when it was asked to", keyExpires},
		{"a key for another principal is refused", anotherPrincipal},
		{"one token mints one key, where tokens are known", oneTokenOneKey},
		{"a token whose key is destroyed can be used again", tokenIsFreed},
		{"after a lost reply the key can be found and replaced", issueReplyLost},
		{"no key is minted beyond the slots, and a disabled one takes a slot", slotsFull},
		{"slots hold when many ask at once", slotsHoldUnderLoad},
		{"one token mints one key when many ask at once", tokenHoldsUnderLoad},
		{"a destroyed key is refused and not listed, however often it is destroyed", destroyTwice},
		{"a key that never was can be destroyed", destroyUnknown},
		{"the keys of another principal are out of reach", othersKeys},
		{"a disabled key is refused until it is enabled", disableAndEnable},
		{"a destroyed key can be neither disabled nor enabled", disableDestroyed},
		{"a change whose reply got lost can be made again", changeReplyLost},
		{"a self-test tells which keys work", selfTest},
		{"a bundle is never taken for another key", identify},
		{"the last use is reported within the lag", lastUsed},
		{"what is throttled has no effect and passes later", issuerThrottled},
		{"an ended context has no effect", issuerExpired},
		{"a call that is cancelled halfway ends, and can be made again", issuerInterrupted},
		{"no error tells a key", issuerErrors},
	} {
		cases = append(cases, Case{c.name, func(t T) {
			w := issuerWorld{IssuerWorld: s.Open(t), knowsTokens: s.KnowsTokens}
			can, err := w.Issuer.Capabilities(t.Context())
			require.NoError(t, err)
			w.can = can
			c.run(t, w)
		}})
	}
	return cases
}

// issuerWorld is what a case works with.
type issuerWorld struct {
	IssuerWorld
	can         providers.IssuerCapabilities
	knowsTokens bool
}

// tokens of the suite.
const firstToken, secondToken = "6ba7b810-9dad-51d1-80b4-00c04fd430c8", "6ba7b811-9dad-51d1-80b4-00c04fd430c8"

func (w issuerWorld) list(t T) []key.Info {
	t.Helper()
	list, err := w.Issuer.List(t.Context())
	require.NoError(t, err)
	return list
}

func (w issuerWorld) listed(t T, id string) (key.Info, bool) {
	t.Helper()
	for _, k := range w.list(t) {
		if k.KeyID == id {
			return k, true
		}
	}
	return key.Info{}, false
}

// await awaits what the issuer shows of its keys.
func (w issuerWorld) await(t T, what string, holds func([]key.Info) bool) {
	t.Helper()
	eventually(t, w.can.ConsistentWithin, what, func() bool { return holds(w.list(t)) })
}

// issue mints a key, and awaits that it is listed.
func (w issuerWorld) issue(t T, token string) (key.Ref, secret.Bundle) {
	t.Helper()
	issued, err := w.Issuer.Issue(t.Context(), providers.IssueRequest{Token: token})
	require.NoError(t, err)
	t.Cleanup(issued.Bundle.Close)
	w.await(t, "an issued key is listed", func([]key.Info) bool { _, ok := w.listed(t, issued.Key.KeyID); return ok })
	return key.Ref{Principal: issued.Key.Principal, KeyID: issued.Key.KeyID}, issued.Bundle
}

func (w issuerWorld) works(t T, b secret.Bundle) {
	t.Helper()
	eventually(t, w.can.ConsistentWithin, "the key is accepted", func() bool { return w.Use(b) == nil })
}

func (w issuerWorld) refused(t T, b secret.Bundle) {
	t.Helper()
	eventually(t, w.can.ConsistentWithin, "the key is refused", func() bool { return is(w.Use(b), providers.ErrKeyRefused) })
}

// disabler returns the issuer as one that can disable; nil after it was asserted that it cannot.
func (w issuerWorld) disabler(t T) providers.Disabler {
	t.Helper()
	d, ok := w.Issuer.(providers.Disabler)
	if w.can.CanDisable {
		require.True(t, ok, "an issuer that says that it can disable has the methods")
		return d
	}
	if ok {
		ref, _ := w.issue(t, firstToken)
		assert.ErrorIs(t, d.Disable(t.Context(), ref), providers.ErrUnsupported)
	}
	return nil
}

func capabilitiesHold(t T, w issuerWorld) {
	again, err := w.Issuer.Capabilities(t.Context())
	require.NoError(t, err)
	assert.Equal(t, w.can, again)
	assert.False(t, w.can.Slots < 0 || w.can.Slots == 1, "with one slot no key can be replaced without downtime")
	assert.GreaterOrEqual(t, w.can.ConsistentWithin, time.Duration(0))
	assert.True(t, w.can.ReportsUsage || w.can.UsageLag == 0, "a lag of nothing")
}

func noKeys(t T, w issuerWorld) { assert.Empty(t, w.list(t)) }

func issuedIsListed(t T, w issuerWorld) {
	before := time.Now()
	issued, err := w.Issuer.Issue(t.Context(), providers.IssueRequest{Token: firstToken, Principal: w.Principal})
	require.NoError(t, err)
	defer issued.Bundle.Close()
	assert.Equal(t, w.Principal, issued.Key.Principal)
	assert.NotEmpty(t, issued.Key.KeyID)
	assert.Equal(t, key.Active, issued.Key.State)
	assert.WithinRange(t, issued.Key.CreatedAt, before.Add(-time.Second), time.Now().Add(time.Second))
	assert.Zero(t, issued.Key.ExpiresAt, "it was not asked to end")
	if w.knowsTokens {
		assert.Equal(t, firstToken, issued.Key.Token)
	}
	w.await(t, "the key is listed", func(list []key.Info) bool { return len(list) == 1 })
	got := w.list(t)[0]
	assert.True(t, got.CreatedAt.Equal(issued.Key.CreatedAt))
	got.CreatedAt = issued.Key.CreatedAt
	assert.Equal(t, issued.Key, got)
}

func issuedWorks(t T, w issuerWorld) {
	_, b := w.issue(t, firstToken)
	fields := w.can.Fields
	if len(fields) == 0 {
		fields = []string{secret.ValueField}
	}
	assert.ElementsMatch(t, fields, b.Names())
	w.works(t, b)
	assert.ErrorIs(t, w.Use(bundleOf(t, secret.ValueField, "no-key-of-this-issuer-at-all")), providers.ErrKeyRefused)
}

func oldestFirst(t T, w issuerWorld) {
	var want []string
	for i := range max(min(w.can.Slots, 3), 2) {
		ref, _ := w.issue(t, fmt.Sprintf("%s-%d", firstToken, i))
		want = append(want, ref.KeyID)
		time.Sleep(2 * time.Millisecond) // so that they differ in age
	}
	var got []string
	for _, k := range w.list(t) {
		got = append(got, k.KeyID)
	}
	assert.Equal(t, want, got)
}

func keyExpires(t T, w issuerWorld) {
	ask := func(at time.Time) (providers.Issued, error) {
		return w.Issuer.Issue(t.Context(), providers.IssueRequest{Token: firstToken, ExpiresAt: at})
	}
	if !w.can.CanExpire {
		_, err := ask(time.Now().Add(time.Hour))
		assert.True(t, is(err, providers.ErrUnsupported, providers.ErrInvalid), "an end that is not kept is refused: %v", err)
		assert.Empty(t, w.list(t))
		return
	}
	_, err := ask(time.Now().Add(-time.Hour))
	require.ErrorIs(t, err, providers.ErrInvalid, "a key that has ended already")
	end := time.Now().Add(w.can.ConsistentWithin + time.Second).Truncate(time.Millisecond)
	issued, err := ask(end)
	require.NoError(t, err)
	defer issued.Bundle.Close()
	assert.True(t, end.Equal(issued.Key.ExpiresAt), "%s, not %s", end, issued.Key.ExpiresAt)
	w.works(t, issued.Bundle)
	eventually(t, time.Until(end)+w.can.ConsistentWithin, "an ended key is refused", func() bool {
		return is(w.Use(issued.Bundle), providers.ErrKeyRefused)
	})
	assert.False(t, time.Now().Before(end), "not before its end")
}

func anotherPrincipal(t T, w issuerWorld) {
	_, err := w.Issuer.Issue(t.Context(), providers.IssueRequest{Token: firstToken, Principal: w.Principal + "-of-somebody-else"})
	require.ErrorIs(t, err, providers.ErrInvalid)
	assert.Empty(t, w.list(t))
}

func oneTokenOneKey(t T, w issuerWorld) {
	ref, b := w.issue(t, firstToken)
	again, err := w.Issuer.Issue(t.Context(), providers.IssueRequest{Token: firstToken})
	defer again.Bundle.Close()
	want := 1
	switch {
	case !w.knowsTokens:
		require.NoError(t, err)
		assert.NotEqual(t, ref.KeyID, again.Key.KeyID)
		want = 2
	case err == nil:
		assert.Equal(t, ref.KeyID, again.Key.KeyID)
		assert.True(t, b.Equal(again.Bundle), "the secret of the same key")
	default:
		require.ErrorIs(t, err, providers.ErrTokenUsed)
		assert.Empty(t, again.Bundle.Names())
	}
	w.await(t, "no other key is listed", func(list []key.Info) bool { return len(list) == want })
}

func tokenIsFreed(t T, w issuerWorld) {
	ref, _ := w.issue(t, firstToken)
	require.NoError(t, w.Issuer.Destroy(t.Context(), ref))
	again, b := w.issue(t, firstToken)
	assert.NotEqual(t, ref.KeyID, again.KeyID, "a key ID is never given twice")
	w.works(t, b)
}

func issueReplyLost(t T, w issuerWorld) {
	w.loseReply(t, OpIssue, func() error {
		issued, err := w.Issuer.Issue(t.Context(), providers.IssueRequest{Token: firstToken})
		issued.Bundle.Close()
		return err
	})
	w.await(t, "the orphan is listed", func(list []key.Info) bool { return len(list) == 1 })
	orphan := w.list(t)[0]
	if w.knowsTokens {
		assert.Equal(t, firstToken, orphan.Token, "the orphan is known by its token")
	}
	require.NoError(t, w.Issuer.Destroy(t.Context(), key.Ref{Principal: orphan.Principal, KeyID: orphan.KeyID}))
	ref, b := w.issue(t, firstToken)
	w.works(t, b)
	w.await(t, "only the new key is left", func(list []key.Info) bool { return len(list) == 1 && list[0].KeyID == ref.KeyID })
}

func slotsFull(t T, w issuerWorld) {
	if w.can.Slots == 0 {
		skip(t, "the issuer has no slots")
		return
	}
	var first key.Ref
	for i := range w.can.Slots {
		ref, _ := w.issue(t, fmt.Sprintf("%s-%d", firstToken, i))
		if i == 0 {
			first = ref
		}
	}
	full := func(why string) {
		t.Helper()
		_, err := w.Issuer.Issue(t.Context(), providers.IssueRequest{Token: secondToken})
		require.ErrorIs(t, err, providers.ErrSlotsFull, why)
		assert.Len(t, w.list(t), w.can.Slots)
	}
	full("no slot is free")
	if w.can.CanDisable {
		require.NoError(t, w.disabler(t).Disable(t.Context(), first))
		full("a disabled key keeps its slot")
	}
	require.NoError(t, w.Issuer.Destroy(t.Context(), first))
	_, b := w.issue(t, secondToken)
	w.works(t, b)
}

// atOnce calls f from n goroutines.
func atOnce(n int, f func(i int)) {
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { f(i) })
	}
	all.Wait()
}

func slotsHoldUnderLoad(t T, w issuerWorld) {
	if w.can.Slots == 0 || w.can.Slots > 16 {
		skip(t, "the issuer has no slots, or too many")
		return
	}
	errs := make([]error, w.can.Slots+4)
	atOnce(len(errs), func(i int) {
		_, errs[i] = w.Issuer.Issue(t.Context(), providers.IssueRequest{Token: fmt.Sprintf("%s-%d", firstToken, i)})
	})
	minted := 0
	for _, err := range errs {
		if err == nil {
			minted++
			continue
		}
		assert.ErrorIs(t, err, providers.ErrSlotsFull)
	}
	assert.Equal(t, w.can.Slots, minted)
	w.await(t, "as many keys as slots", func(list []key.Info) bool { return len(list) == w.can.Slots })
}

func tokenHoldsUnderLoad(t T, w issuerWorld) {
	if !w.knowsTokens {
		skip(t, "the issuer knows no tokens")
		return
	}
	errs := make([]error, 6)
	atOnce(len(errs), func(i int) {
		_, errs[i] = w.Issuer.Issue(t.Context(), providers.IssueRequest{Token: firstToken})
	})
	for _, err := range errs {
		assert.True(t, err == nil || is(err, providers.ErrTokenUsed), "%v", err)
	}
	w.await(t, "one key is listed", func(list []key.Info) bool { return len(list) == 1 })
}

func destroyTwice(t T, w issuerWorld) {
	ref, b := w.issue(t, firstToken)
	stays, other := w.issue(t, secondToken)
	w.works(t, b)
	for range 2 {
		require.NoError(t, w.Issuer.Destroy(t.Context(), ref))
		w.refused(t, b)
		w.await(t, "it is not listed", func(list []key.Info) bool { return len(list) == 1 && list[0].KeyID == stays.KeyID })
	}
	w.works(t, other)
}

func destroyUnknown(t T, w issuerWorld) {
	stays, _ := w.issue(t, firstToken)
	require.NoError(t, w.Issuer.Destroy(t.Context(), key.Ref{Principal: w.Principal, KeyID: "NEVER-WAS"}))
	_, ok := w.listed(t, stays.KeyID)
	assert.True(t, ok)
}

func othersKeys(t T, w issuerWorld) {
	other := issuerWorld{IssuerWorld: w.IssuerWorld, can: w.can, knowsTokens: w.knowsTokens}
	other.Issuer = w.Other
	ref, b := other.issue(t, firstToken)
	w.works(t, b)
	assert.Empty(t, w.list(t), "it is not listed here")
	_, err := w.Issuer.Identify(t.Context(), b)
	require.ErrorIs(t, err, providers.ErrNotFound)
	_ = w.Issuer.Destroy(t.Context(), ref) // an error or not: it has no effect
	if d := w.disabler(t); d != nil {
		assert.Error(t, d.Disable(t.Context(), ref))
	}
	time.Sleep(w.can.ConsistentWithin)
	assert.NoError(t, w.Use(b))
	info, ok := other.listed(t, ref.KeyID)
	require.True(t, ok)
	assert.Equal(t, key.Active, info.State)
}

func disableAndEnable(t T, w issuerWorld) {
	d := w.disabler(t)
	if d == nil {
		return
	}
	ref, b := w.issue(t, firstToken)
	_, other := w.issue(t, secondToken)
	state := func(want key.State) {
		t.Helper()
		w.await(t, "the state is listed", func([]key.Info) bool { info, ok := w.listed(t, ref.KeyID); return ok && info.State == want })
	}
	for range 2 { // there and back, twice
		for range 2 {
			require.NoError(t, d.Disable(t.Context(), ref))
			w.refused(t, b)
			state(key.Disabled)
		}
		w.works(t, other)
		for range 2 {
			require.NoError(t, d.Enable(t.Context(), ref))
			w.works(t, b)
			state(key.Active)
		}
	}
}

func disableDestroyed(t T, w issuerWorld) {
	d := w.disabler(t)
	if d == nil {
		return
	}
	ref, b := w.issue(t, firstToken)
	require.NoError(t, w.Issuer.Destroy(t.Context(), ref))
	w.refused(t, b)
	require.ErrorIs(t, d.Disable(t.Context(), ref), providers.ErrNotFound)
	require.ErrorIs(t, d.Enable(t.Context(), ref), providers.ErrNotFound)
	w.refused(t, b)
}

func changeReplyLost(t T, w issuerWorld) {
	ref, b := w.issue(t, firstToken)
	if d := w.disabler(t); d != nil {
		w.loseReply(t, OpDisable, func() error { return d.Disable(t.Context(), ref) })
		w.refused(t, b)
		require.NoError(t, d.Disable(t.Context(), ref))
		w.loseReply(t, OpEnable, func() error { return d.Enable(t.Context(), ref) })
		w.works(t, b)
		require.NoError(t, d.Enable(t.Context(), ref))
	}
	w.loseReply(t, OpDestroy, func() error { return w.Issuer.Destroy(t.Context(), ref) })
	w.refused(t, b)
	require.NoError(t, w.Issuer.Destroy(t.Context(), ref))
	w.await(t, "nothing is left", func(list []key.Info) bool { return len(list) == 0 })
}

func selfTest(t T, w issuerWorld) {
	tester, ok := w.Issuer.(providers.SelfTester)
	if !ok {
		skip(t, "the issuer has no self-test")
		return
	}
	ref, b := w.issue(t, firstToken)
	whole := copyOf(t, b)
	says := func(refused bool, when string) {
		t.Helper()
		eventually(t, w.can.ConsistentWithin, when, func() bool {
			err := tester.SelfTest(t.Context(), b)
			return refused && is(err, providers.ErrKeyRefused) || !refused && err == nil
		})
	}
	says(false, "a live key works")
	if d := w.disabler(t); d != nil {
		require.NoError(t, d.Disable(t.Context(), ref))
		says(true, "a disabled key is refused")
		require.NoError(t, d.Enable(t.Context(), ref))
		says(false, "an enabled key works")
	}
	require.NoError(t, w.Issuer.Destroy(t.Context(), ref))
	says(true, "a destroyed key is refused")
	assert.ErrorIs(t, tester.SelfTest(t.Context(), bundleOf(t, secret.ValueField, "no-key-of-this-issuer-at-all")), providers.ErrKeyRefused)
	assert.True(t, whole.Equal(b), "the caller closes the bundle, nobody else")
}

func identify(t T, w issuerWorld) {
	first, b := w.issue(t, firstToken)
	second, c := w.issue(t, secondToken)
	named := func(b secret.Bundle, want string) {
		t.Helper()
		got, err := w.Issuer.Identify(t.Context(), b)
		require.NoError(t, err)
		assert.Equal(t, want, got)
	}
	foreign := bundleOf(t, "endpoint", "https://example.com")
	named(b, first.KeyID)
	named(c, second.KeyID)
	named(foreign.With(b), first.KeyID) // foreign fields do not matter
	if w.can.ReportsUsage {
		info, _ := w.listed(t, first.KeyID)
		assert.Zero(t, info.LastUsedAt, "to be identified is no use")
	}
	if d := w.disabler(t); d != nil {
		require.NoError(t, d.Disable(t.Context(), first))
		named(b, first.KeyID) // a disabled key lives
	}
	require.NoError(t, w.Issuer.Destroy(t.Context(), first))
	eventually(t, w.can.ConsistentWithin, "a destroyed key is no key", func() bool {
		_, err := w.Issuer.Identify(t.Context(), b)
		return is(err, providers.ErrNotFound)
	})
	named(c, second.KeyID)
	for _, none := range []secret.Bundle{{}, foreign, bundleOf(t, secret.ValueField, "no-key-of-this-issuer-at-all")} {
		_, err := w.Issuer.Identify(t.Context(), none)
		require.ErrorIs(t, err, providers.ErrNotFound)
	}
}

func lastUsed(t T, w issuerWorld) {
	ref, b := w.issue(t, firstToken)
	unused, _ := w.issue(t, secondToken)
	if w.can.UsageLag > longestLag {
		skip(t, "usage is reported too late to wait for")
		return
	}
	w.works(t, b)
	used := time.Now()
	require.NoError(t, w.Use(b))
	if w.can.ReportsUsage {
		eventually(t, w.can.UsageLag+w.can.ConsistentWithin, "the use is reported", func() bool {
			info, _ := w.listed(t, ref.KeyID)
			return !info.LastUsedAt.Before(used.Add(-time.Second))
		})
	} else {
		info, _ := w.listed(t, ref.KeyID)
		assert.Zero(t, info.LastUsedAt, "an issuer that does not report usage tells none")
	}
	info, _ := w.listed(t, ref.KeyID)
	assert.False(t, info.LastUsedAt.After(time.Now().Add(time.Second)), "not in the future")
	info, _ = w.listed(t, unused.KeyID)
	assert.Zero(t, info.LastUsedAt, "a key that was never used")
}

// calls are those of every operation with one key.
func (w issuerWorld) calls(t T, ref key.Ref, b secret.Bundle) map[Op]func(ctx context.Context) error {
	calls := map[Op]func(ctx context.Context) error{
		OpList: func(ctx context.Context) error { _, err := w.Issuer.List(ctx); return err },
		OpIssue: func(ctx context.Context) error {
			issued, err := w.Issuer.Issue(ctx, providers.IssueRequest{Token: secondToken})
			issued.Bundle.Close()
			return err
		},
		OpIdentify: func(ctx context.Context) error { _, err := w.Issuer.Identify(ctx, b); return err },
		OpDestroy:  func(ctx context.Context) error { return w.Issuer.Destroy(ctx, ref) },
	}
	if d := w.disabler(t); d != nil {
		calls[OpDisable] = func(ctx context.Context) error { return d.Disable(ctx, ref) }
	}
	if s, ok := w.Issuer.(providers.SelfTester); ok {
		calls[OpSelfTest] = func(ctx context.Context) error { return s.SelfTest(ctx, b) }
	}
	return calls
}

// unchanged asserts that the one key is still there and works.
func (w issuerWorld) unchanged(t T, ref key.Ref, b secret.Bundle) {
	t.Helper()
	time.Sleep(w.can.ConsistentWithin)
	list := w.list(t)
	require.Len(t, list, 1)
	assert.Equal(t, ref.KeyID, list[0].KeyID)
	assert.Equal(t, key.Active, list[0].State)
	assert.NoError(t, w.Use(b))
}

// passes asserts that each call succeeds now, the one that ends the key last.
func passes(t T, calls map[Op]func(ctx context.Context) error) {
	t.Helper()
	for _, op := range []Op{OpList, OpIdentify, OpSelfTest, OpIssue, OpDisable, OpDestroy} {
		if call := calls[op]; call != nil {
			assert.NoError(t, call(t.Context()), "%s", op)
		}
	}
}

func issuerThrottled(t T, w issuerWorld) {
	ref, b := w.issue(t, firstToken)
	w.works(t, b)
	calls := w.calls(t, ref, b)
	for op, call := range calls {
		w.throttled(t, op, func() error { return call(t.Context()) }, values(b)...)
	}
	w.unchanged(t, ref, b)
	passes(t, calls)
}

func issuerExpired(t T, w issuerWorld) {
	ref, b := w.issue(t, firstToken)
	w.works(t, b)
	for op, call := range w.calls(t, ref, b) {
		assert.ErrorIs(t, call(expired(t)), context.Canceled, "%s", op)
	}
	w.unchanged(t, ref, b)
}

func issuerInterrupted(t T, w issuerWorld) {
	ref, b := w.issue(t, firstToken)
	w.works(t, b)
	calls := w.calls(t, ref, b)
	for _, op := range []Op{OpIssue, OpDisable, OpDestroy} {
		if calls[op] != nil {
			w.interrupted(t, op, calls[op])
		}
	}
	w.unchanged(t, ref, b)
	passes(t, calls)
}

func issuerErrors(t T, w issuerWorld) {
	ref, b := w.issue(t, firstToken)
	secrets := values(b)
	require.NoError(t, w.Issuer.Destroy(t.Context(), ref))
	eventually(t, w.can.ConsistentWithin, "the key is gone", func() bool {
		_, err := w.Issuer.Identify(t.Context(), b)
		return err != nil
	})
	_, err := w.Issuer.Identify(t.Context(), b)
	assertFit(t, err, secrets...)
	if s, ok := w.Issuer.(providers.SelfTester); ok {
		err := s.SelfTest(t.Context(), b)
		require.Error(t, err)
		assertFit(t, err, secrets...)
	}
	for op, call := range w.calls(t, ref, b) {
		err := call(expired(t))
		require.Error(t, err, "%s", op)
		assertFit(t, err, secrets...)
	}
}
