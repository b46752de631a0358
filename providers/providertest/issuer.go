package providertest

import (
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
	// DatesReports: what is reported of uses has a time of its own, key.Info.ReportedAt.
	DatesReports bool
}

// IssuerWorld is a principal at an issuer, and what can be done around it.
type IssuerWorld struct {
	// Issuer is the principal's, Other that of another principal.
	Issuer, Other providers.Issuer
	// Principal is its name.
	Principal string
	// Use uses a key as a consumer does. nil: it was accepted; providers.ErrKeyRefused: it was not.
	Use func(b secret.Bundle) error
	// Silence lets nobody report uses until resume; nil where that cannot be done.
	Silence func() (resume func())
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
		{"a use and the report of it have their times from one clock", reportHasTheClockOfUses},
		{"a report gets younger without uses, and never older", reportGetsYounger},
		{"a report stands still while nobody reports", staleReport},
		{"who is refused with a disabled key is reported, where the issuer says so", refusalsReported},
		{"what is throttled has no effect and passes later", issuerThrottled},
		{"an ended context has no effect", issuerExpired},
		{"a call that is cancelled halfway ends, and can be made again", issuerInterrupted},
		{"no error tells a key", issuerErrors},
		{"an imported key works beside others until it is destroyed", importing(importedWorks)},
		{"a key can be imported again, and after a lost reply", importing(importedTwice)},
		{"an imported key takes the place of no other", importing(importedConflicts)},
		{"what cannot be a key is not imported", importing(importedInvalid)},
		{"an import that ends without effect tells no key", importing(importErrors)},
	} {
		cases = append(cases, Case{c.name, func(t T) {
			w := issuerWorld{IssuerWorld: s.Open(t), knowsTokens: s.KnowsTokens, datesReports: s.DatesReports}
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
	can          key.Capabilities
	knowsTokens  bool
	datesReports bool
}

// tokens of the suite.
const firstToken, secondToken = "6ba7b810-9dad-51d1-80b4-00c04fd430c8", "6ba7b811-9dad-51d1-80b4-00c04fd430c8" //nolint:gosec // they open nothing

func (w issuerWorld) list(t T) []key.Info {
	t.Helper()
	list, err := w.Issuer.List(t.Context())
	require.NoError(t, err)
	for _, k := range list {
		assert.Equal(t, w.datesReports, !k.ReportedAt.IsZero(), "a report has a time of its own always, or never")
		assert.False(t, w.datesReports && k.LastUsedAt.After(k.ReportedAt), "a report has no use that comes after it")
	}
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
		require.ErrorIs(t, d.Disable(t.Context(), ref), providers.ErrUnsupported)
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
	assert.True(t, w.can.CanDisable || !w.can.ReportsRefusals, "no key is disabled that somebody could be refused with")
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
	got.CreatedAt, got.ReportedAt = issued.Key.CreatedAt, issued.Key.ReportedAt
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
	require.ErrorIs(t, w.Use(bundleOf(t, secret.ValueField, "no-key-of-this-issuer-at-all")), providers.ErrKeyRefused)
}

func oldestFirst(t T, w issuerWorld) {
	var want []string
	for i := range max(min(w.can.Slots, 3), 2) {
		ref, _ := w.issue(t, fmt.Sprintf("%s-%d", firstToken, i))
		want = append(want, ref.KeyID)
		pause(2 * time.Millisecond) // so that they differ in age
	}
	var got []string
	for _, k := range w.list(t) {
		got = append(got, k.KeyID)
	}
	assert.Equal(t, want, got)
}

func keyExpires(t T, w issuerWorld) {
	ask := func(token string, at time.Time) (providers.Issued, error) {
		issued, err := w.Issuer.Issue(t.Context(), providers.IssueRequest{Token: token, ExpiresAt: at})
		t.Cleanup(issued.Bundle.Close)
		if err == nil {
			assert.True(t, at.Equal(issued.Key.ExpiresAt), "%s, not %s", at, issued.Key.ExpiresAt)
		}
		return issued, err
	}
	if !w.can.CanExpire {
		_, err := ask(firstToken, time.Now().Add(time.Hour))
		assert.True(t, is(err, providers.ErrUnsupported, providers.ErrInvalid), "an end that is not kept is refused: %v", err)
		assert.Empty(t, w.list(t))
		return
	}
	_, err := ask(firstToken, time.Now().Add(-time.Hour))
	require.ErrorIs(t, err, providers.ErrInvalid, "a key that has ended already")
	lasting, err := ask(firstToken, time.Now().Add(time.Hour).Truncate(time.Millisecond))
	require.NoError(t, err)
	w.works(t, lasting.Bundle)

	var end time.Time
	var issued providers.Issued
	ended := func() bool { return !time.Now().Before(end) }
	for lasts := w.can.ConsistentWithin + time.Second; ; lasts *= 2 {
		end = time.Now().Add(lasts).Truncate(time.Millisecond)
		if issued, err = ask(secondToken, end); err == nil || !ended() { // else its end came before it did
			break
		}
	}
	require.NoError(t, err)
	eventually(t, time.Until(end), "a key works until it ends", func() bool { return w.Use(issued.Bundle) == nil || ended() })
	eventually(t, time.Until(end)+w.can.ConsistentWithin, "an ended key is refused", func() bool {
		return is(w.Use(issued.Bundle), providers.ErrKeyRefused)
	})
	assert.True(t, ended(), "not before its end")
}

func anotherPrincipal(t T, w issuerWorld) {
	_, err := w.Issuer.Issue(t.Context(), providers.IssueRequest{Token: firstToken, Principal: w.Principal + "-of-somebody-else"})
	require.ErrorIs(t, err, providers.ErrInvalid)
	assert.Empty(t, w.list(t))
}

func oneTokenOneKey(t T, w issuerWorld) {
	ref, b := w.issue(t, firstToken)
	again, err := w.Issuer.Issue(t.Context(), providers.IssueRequest{Token: firstToken})
	t.Cleanup(again.Bundle.Close)
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
		require.ErrorIs(t, err, providers.ErrSlotsFull)
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
