package providertest

import (
	"context"
	"sync"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
)

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
	other := w
	other.Issuer = w.Other
	ref, b := other.issue(t, firstToken)
	w.works(t, b)
	assert.Empty(t, w.list(t), "it is not listed here")
	_, err := w.Issuer.Identify(t.Context(), b)
	require.ErrorIs(t, err, providers.ErrNotFound)
	_ = w.Issuer.Destroy(t.Context(), ref) // an error or not: it has no effect
	if d := w.disabler(t); d != nil {
		require.Error(t, d.Disable(t.Context(), ref))
	}
	pause(w.can.ConsistentWithin)
	require.NoError(t, w.Use(b))
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
	require.ErrorIs(t, tester.SelfTest(t.Context(), bundleOf(t, secret.ValueField, "no-key-of-this-issuer-at-all")), providers.ErrKeyRefused)
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

// dated skips the case, and says false, where reports have no time of their own or come too late to wait for.
func (w issuerWorld) dated(t T) bool {
	t.Helper()
	dated := w.datesReports && w.can.UsageLag <= longestLag
	if !dated {
		skip(t, "reports have no time of their own, or come too late to wait for")
	}
	return dated
}

// reported awaits a report of a key.
func (w issuerWorld) reported(t T, ref key.Ref, what string, holds func(key.Info) bool) {
	t.Helper()
	eventually(t, w.can.UsageLag+w.can.ConsistentWithin, what, func() bool {
		info, ok := w.listed(t, ref.KeyID)
		return ok && holds(info)
	})
}

func reportHasTheClockOfUses(t T, w issuerWorld) {
	if !w.dated(t) {
		return
	}
	ref, b := w.issue(t, firstToken)
	before, _ := w.listed(t, ref.KeyID)
	w.works(t, b)
	w.reported(t, ref, "the use is reported", func(k key.Info) bool { return !k.LastUsedAt.IsZero() })
	after, _ := w.listed(t, ref.KeyID)
	assert.False(t, after.LastUsedAt.Before(before.ReportedAt), "a use comes after the report that does not have it")
}

func reportGetsYounger(t T, w issuerWorld) {
	if !w.dated(t) {
		return
	}
	ref, _ := w.issue(t, firstToken)
	last, _ := w.listed(t, ref.KeyID)
	for range 3 {
		w.reported(t, ref, "another report", func(k key.Info) bool {
			assert.False(t, k.ReportedAt.Before(last.ReportedAt), "a report does not get older")
			return k.ReportedAt.After(last.ReportedAt)
		})
		last, _ = w.listed(t, ref.KeyID)
	}
}

func staleReport(t T, w issuerWorld) {
	if !w.dated(t) {
		return
	}
	if w.Silence == nil {
		skip(t, "the setup cannot keep anybody from reporting")
		return
	}
	ref, b := w.issue(t, firstToken)
	resume := sync.OnceFunc(w.Silence())
	defer resume()
	stale, _ := w.listed(t, ref.KeyID)
	pause(2 * time.Millisecond) // so that the use comes after the report
	w.works(t, b)
	pause(w.can.UsageLag + w.can.ConsistentWithin)
	still, _ := w.listed(t, ref.KeyID)
	assert.Zero(t, still.LastUsedAt, "nobody reported it")
	assert.True(t, stale.ReportedAt.Equal(still.ReportedAt), "what was not reported yet is not in a report of now")
	resume()
	w.reported(t, ref, "the use is reported afterwards", func(k key.Info) bool {
		return k.ReportedAt.After(stale.ReportedAt) && !k.LastUsedAt.Before(stale.ReportedAt)
	})
}

func refusalsReported(t T, w issuerWorld) {
	d := w.disabler(t)
	if d == nil || !w.can.ReportsRefusals || w.can.UsageLag > longestLag {
		skip(t, "the issuer does not say that it reports refusals, or reports them too late to wait for")
		return
	}
	ref, b := w.issue(t, firstToken)
	w.works(t, b)
	require.NoError(t, d.Disable(t.Context(), ref))
	w.refused(t, b)
	pause(w.can.UsageLag + w.can.ConsistentWithin) // what was accepted until then is reported
	disabled, _ := w.listed(t, ref.KeyID)
	w.reported(t, ref, "the refused use is reported", func(k key.Info) bool {
		require.ErrorIs(t, w.Use(b), providers.ErrKeyRefused)
		return k.LastUsedAt.After(disabled.LastUsedAt)
	})
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
	pause(w.can.ConsistentWithin)
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
		require.ErrorIs(t, call(expired(t)), context.Canceled, "%s", op)
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
