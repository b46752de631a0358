package providertest

import (
	"context"
	"slices"
	"sort"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
)

// StoreSetup is the world of a store.
type StoreSetup struct {
	// Open opens two secrets that do not exist yet.
	Open func(t T) StoreWorld
}

// StoreWorld is a secret in a store, and what can be done around it.
type StoreWorld struct {
	// Store is the secret's, Other that of another secret in the same account.
	Store, Other providers.Store
	// Reopen opens the first secret once more, as another process would.
	Reopen func() providers.Store
	Faults
}

// Store proves that a store keeps the promises of providers.Store.
func Store(t *testing.T, s StoreSetup) {
	t.Helper()
	run(t, StoreCases(s))
}

// StoreCases are the promises of providers.Store.
func StoreCases(s StoreSetup) []Case {
	var cases []Case
	for _, c := range []struct {
		name string
		run  func(t T, w StoreWorld)
	}{
		{"a secret that does not exist has nothing", emptySecret},
		{"a staged version has PENDING alone, and is not read by default", stagePending},
		{"a default read after staging still yields CURRENT", stageKeepsCurrent},
		{"staging again with one token finds the same version", stageAgain},
		{"one token holds one bundle", stageConflict},
		{"one token stages one version when many stage at once", stageAtOnce},
		{"foreign fields are kept", foreignFields},
		{"a stored bundle shares nothing with the caller's", storedIsIndependent},
		{"versions are listed oldest first, with token and time", versionsListed},
		{"promoting moves CURRENT, PREVIOUS and PENDING", promoteMoves},
		{"promoting can be done again", promoteAgain},
		{"promoting is a compare-and-swap", promoteConflict},
		{"promoting leads back again", promoteBack},
		{"of many promotions at once exactly one wins", promoteAtOnce},
		{"CURRENT cannot be pruned, and anything else can, twice", prune},
		{"a version's ID is never given twice", idsAreNew},
		{"metadata can be kept before any version exists, and outlives them", metadata},
		{"another secret is not touched", otherSecret},
		{"another process sees the same", reopened},
		{"a change whose reply got lost can be made again", storeReplyLost},
		{"what is throttled has no effect and passes later", storeThrottled},
		{"an ended context has no effect", storeExpired},
		{"a call that is cancelled halfway ends, and can be made again", storeInterrupted},
		{"no error tells a secret", storeErrors},
	} {
		cases = append(cases, Case{c.name, func(t T) { c.run(t, s.Open(t)) }})
	}
	return cases
}

// Values of the suite, long enough to be noticed in an error.
const firstValue, secondValue, thirdValue = "first-secret-value-0001", "second-secret-value-0002", "third-secret-value-0003"

func (w StoreWorld) stage(t T, token, value string) string {
	t.Helper()
	id, err := w.Store.Stage(t.Context(), token, bundleOf(t, secret.ValueField, value))
	require.NoError(t, err)
	require.NotEmpty(t, id)
	return id
}

// current stages a value and promotes it from nothing.
func (w StoreWorld) current(t T, token, value string) string {
	t.Helper()
	id := w.stage(t, token, value)
	require.NoError(t, w.Store.Promote(t.Context(), "", id))
	return id
}

// labels are those of each version.
func (w StoreWorld) labels(t T) map[string][]providers.Label {
	t.Helper()
	list, err := w.Store.Versions(t.Context())
	require.NoError(t, err)
	all := map[string][]providers.Label{}
	for _, v := range list {
		sorted := slices.Clone(v.Labels)
		slices.Sort(sorted)
		all[v.ID] = sorted
	}
	return all
}

// holds asserts which version bears which label, and that these are all versions.
func (w StoreWorld) holds(t T, want map[string][]providers.Label) {
	t.Helper()
	got := w.labels(t)
	for id, labels := range want {
		assert.ElementsMatch(t, labels, got[id], "labels of %s", id)
	}
	assert.Len(t, got, len(want))
}

// reads asserts what a consumer reads; "" for nothing.
func (w StoreWorld) reads(t T, l providers.Label, want string) {
	t.Helper()
	b, err := w.Store.ReadLabel(t.Context(), l)
	defer b.Close()
	if want == "" {
		require.ErrorIs(t, err, providers.ErrNotFound)
		return
	}
	require.NoError(t, err)
	v, _ := b.Field(secret.ValueField)
	assert.True(t, want == string(v.Reveal()), "label %q does not yield what it should", l)
}

func emptySecret(t T, w StoreWorld) {
	w.holds(t, nil)
	for _, l := range []providers.Label{"", providers.Current, providers.Pending, providers.Previous} {
		w.reads(t, l, "")
	}
	_, err := w.Store.Read(t.Context(), "v1")
	require.ErrorIs(t, err, providers.ErrNotFound)
	require.ErrorIs(t, w.Store.Promote(t.Context(), "", "v1"), providers.ErrNotFound)
	require.NoError(t, w.Store.Prune(t.Context(), "v1"))
	m, err := w.Store.Metadata(t.Context())
	require.NoError(t, err)
	assert.Equal(t, providers.Metadata{}, m)
}

func stagePending(t T, w StoreWorld) {
	id := w.stage(t, firstToken, firstValue)
	w.holds(t, map[string][]providers.Label{id: {providers.Pending}})
	w.reads(t, providers.Pending, firstValue)
	w.reads(t, providers.Current, "")
	w.reads(t, "", "")
	next := w.stage(t, secondToken, secondValue)
	w.holds(t, map[string][]providers.Label{id: {}, next: {providers.Pending}})
}

func stageKeepsCurrent(t T, w StoreWorld) {
	first := w.current(t, firstToken, firstValue)
	second := w.stage(t, secondToken, secondValue)
	w.holds(t, map[string][]providers.Label{first: {providers.Current}, second: {providers.Pending}})
	w.reads(t, "", firstValue)
	w.reads(t, providers.Current, firstValue)
	w.reads(t, providers.Pending, secondValue)
}

func stageAgain(t T, w StoreWorld) {
	first := w.current(t, firstToken, firstValue)
	second := w.stage(t, secondToken, secondValue)
	assert.Equal(t, second, w.stage(t, secondToken, secondValue))
	w.holds(t, map[string][]providers.Label{first: {providers.Current}, second: {providers.Pending}})
	assert.Equal(t, first, w.stage(t, firstToken, firstValue), "also when it is CURRENT")
	w.reads(t, "", firstValue)
	w.reads(t, providers.Pending, secondValue)
}

func stageConflict(t T, w StoreWorld) {
	id := w.stage(t, firstToken, firstValue)
	for _, other := range []secret.Bundle{
		bundleOf(t, secret.ValueField, secondValue),
		bundleOf(t, secret.ValueField, firstValue, "more", secondValue),
	} {
		_, err := w.Store.Stage(t.Context(), firstToken, other)
		require.ErrorIs(t, err, providers.ErrConflict)
		assertFit(t, err, []byte(firstValue), []byte(secondValue))
	}
	w.holds(t, map[string][]providers.Label{id: {providers.Pending}})
	w.reads(t, providers.Pending, firstValue)
}

func stageAtOnce(t T, w StoreWorld) {
	ids, errs := make([]string, 6), make([]error, 6)
	b := bundleOf(t, secret.ValueField, firstValue)
	atOnce(len(ids), func(i int) { ids[i], errs[i] = w.Store.Stage(t.Context(), firstToken, b) })
	for i := range ids {
		require.NoError(t, errs[i])
		assert.Equal(t, ids[0], ids[i])
	}
	w.holds(t, map[string][]providers.Label{ids[0]: {providers.Pending}})
}

func foreignFields(t T, w StoreWorld) {
	first, err := w.Store.Stage(t.Context(), firstToken, bundleOf(t, secret.ValueField, firstValue, "endpoint", "https://example.com"))
	require.NoError(t, err)
	require.NoError(t, w.Store.Promote(t.Context(), "", first))
	second := w.stage(t, secondToken, secondValue)
	for range 2 {
		b, err := w.Store.Read(t.Context(), second)
		require.NoError(t, err)
		assert.True(t, bundleOf(t, secret.ValueField, secondValue, "endpoint", "https://example.com").Equal(b), "the new key over the foreign fields")
		b.Close()
		require.NoError(t, w.Store.Promote(t.Context(), first, second))
	}
	assert.Equal(t, second, w.stage(t, secondToken, secondValue), "foreign fields are no part of what a token holds")
}

func storedIsIndependent(t T, w StoreWorld) {
	given := bundleOf(t, secret.ValueField, firstValue)
	id, err := w.Store.Stage(t.Context(), firstToken, given)
	require.NoError(t, err)
	v, _ := given.Field(secret.ValueField)
	assert.True(t, string(v.Reveal()) == firstValue, "the caller closes the bundle, nobody else")
	given.Close()
	for range 2 {
		b, err := w.Store.Read(t.Context(), id)
		require.NoError(t, err)
		v, _ := b.Field(secret.ValueField)
		assert.True(t, string(v.Reveal()) == firstValue)
		b.Close()
	}
}

func versionsListed(t T, w StoreWorld) {
	before := time.Now()
	want := []string{w.current(t, firstToken, firstValue)}
	time.Sleep(2 * time.Millisecond) // so that they differ in age
	want = append(want, w.stage(t, secondToken, secondValue))
	list, err := w.Store.Versions(t.Context())
	require.NoError(t, err)
	var ids []string
	for i, v := range list {
		ids = append(ids, v.ID)
		assert.WithinRange(t, v.CreatedAt, before.Add(-time.Second), time.Now().Add(time.Second))
		if v.Token != "" {
			assert.Equal(t, []string{firstToken, secondToken}[i], v.Token)
		}
	}
	assert.Equal(t, want, ids)
	assert.True(t, sort.SliceIsSorted(list, func(i, j int) bool { return list[i].CreatedAt.Before(list[j].CreatedAt) }))
}

func promoteMoves(t T, w StoreWorld) {
	first := w.current(t, firstToken, firstValue)
	w.holds(t, map[string][]providers.Label{first: {providers.Current}})
	second := w.stage(t, secondToken, secondValue)
	require.NoError(t, w.Store.Promote(t.Context(), first, second))
	w.holds(t, map[string][]providers.Label{first: {providers.Previous}, second: {providers.Current}})
	w.reads(t, "", secondValue)
	w.reads(t, providers.Previous, firstValue)
	w.reads(t, providers.Pending, "")
}

func promoteAgain(t T, w StoreWorld) {
	first := w.current(t, firstToken, firstValue)
	require.NoError(t, w.Store.Promote(t.Context(), "", first), "from nothing")
	second := w.stage(t, secondToken, secondValue)
	for range 3 {
		require.NoError(t, w.Store.Promote(t.Context(), first, second))
		w.holds(t, map[string][]providers.Label{first: {providers.Previous}, second: {providers.Current}})
	}
}

func promoteConflict(t T, w StoreWorld) {
	first := w.current(t, firstToken, firstValue)
	second := w.stage(t, secondToken, secondValue)
	third := w.stage(t, secondToken+"-3", thirdValue)
	want := w.labels(t)
	require.ErrorIs(t, w.Store.Promote(t.Context(), second, third), providers.ErrConflict, "CURRENT is on a third version")
	require.ErrorIs(t, w.Store.Promote(t.Context(), "", third), providers.ErrConflict, "there is a CURRENT")
	require.ErrorIs(t, w.Store.Promote(t.Context(), first, "v999"), providers.ErrNotFound)
	w.holds(t, want)
	w.reads(t, "", firstValue)
}

func promoteBack(t T, w StoreWorld) {
	first := w.current(t, firstToken, firstValue)
	second := w.stage(t, secondToken, secondValue)
	for range 2 {
		require.NoError(t, w.Store.Promote(t.Context(), first, second))
		require.NoError(t, w.Store.Promote(t.Context(), second, first))
		w.holds(t, map[string][]providers.Label{first: {providers.Current}, second: {providers.Previous}})
		w.reads(t, "", firstValue)
	}
}

func promoteAtOnce(t T, w StoreWorld) {
	first := w.current(t, firstToken, firstValue)
	ids, errs := make([]string, 6), make([]error, 6)
	for i := range ids {
		ids[i] = w.stage(t, secondToken+"-"+string(rune('a'+i)), secondValue+string(rune('a'+i)))
	}
	atOnce(len(ids), func(i int) { errs[i] = w.Store.Promote(t.Context(), first, ids[i]) })
	winner := ""
	for i, err := range errs {
		if err == nil {
			assert.Empty(t, winner, "two win")
			winner = ids[i]
			continue
		}
		assert.ErrorIs(t, err, providers.ErrConflict)
	}
	got := w.labels(t)
	assert.Contains(t, got[winner], providers.Current)
	assert.Equal(t, []providers.Label{providers.Previous}, got[first])
}

func prune(t T, w StoreWorld) {
	first := w.current(t, firstToken, firstValue)
	second := w.stage(t, secondToken, secondValue)
	require.NoError(t, w.Store.Promote(t.Context(), first, second))
	third := w.stage(t, secondToken+"-3", thirdValue)
	require.ErrorIs(t, w.Store.Prune(t.Context(), second), providers.ErrDenied)
	w.reads(t, "", secondValue)
	for range 2 {
		require.NoError(t, w.Store.Prune(t.Context(), first), "PREVIOUS")
		require.NoError(t, w.Store.Prune(t.Context(), third), "PENDING")
	}
	w.holds(t, map[string][]providers.Label{second: {providers.Current}})
	for _, gone := range []string{first, third} {
		_, err := w.Store.Read(t.Context(), gone)
		require.ErrorIs(t, err, providers.ErrNotFound)
		require.ErrorIs(t, w.Store.Promote(t.Context(), second, gone), providers.ErrNotFound)
	}
	w.reads(t, providers.Previous, "")
	w.reads(t, providers.Pending, "")
}

func idsAreNew(t T, w StoreWorld) {
	first := w.stage(t, firstToken, firstValue)
	require.NoError(t, w.Store.Prune(t.Context(), first))
	second := w.stage(t, secondToken, secondValue)
	assert.NotEqual(t, first, second, "what named one value must never name another")
}

// record is a Metadata with something everywhere.
func record() providers.Metadata {
	at := time.Date(2026, 3, 1, 12, 30, 0, 123456789, time.UTC)
	return providers.Metadata{
		Generation: 1760000000123,
		Intent:     &providers.MintIntent{Rotation: "r-1", Ordinal: 2, At: at, Known: []string{"k1", "k2"}},
		Keys: []providers.OwnedKey{{
			Ref:      key.Ref{Principal: "p", KeyID: "k1", StoreVersion: "v1", Fingerprint: "fp:0011"},
			IssuedAt: at, Rotation: "r-1", DeliveredAt: at.Add(1), PromotedAt: at.Add(2), DisabledAt: at.Add(3),
		}},
		LastRotation: &providers.LastRotation{ID: "r-0", Outcome: "completed", At: at},
		RotateBy:     at.Add(90 * 24 * time.Hour),
		Debt:         []providers.Debt{{Kind: "retired-key-alive", About: "k0 \"<&>\" é", Since: at}},
	}
}

func metadata(t T, w StoreWorld) {
	want := record()
	kept := func(want providers.Metadata) {
		t.Helper()
		got, err := w.Store.Metadata(t.Context())
		require.NoError(t, err)
		assert.Equal(t, want, got)
	}
	require.NoError(t, w.Store.PutMetadata(t.Context(), want))
	w.holds(t, nil)
	kept(record())
	want.Keys[0].KeyID, want.Intent.Known[0] = "changed by the caller", "too"
	kept(record())
	first := w.current(t, firstToken, firstValue)
	second := w.stage(t, secondToken, secondValue)
	require.NoError(t, w.Store.Promote(t.Context(), first, second))
	require.NoError(t, w.Store.Prune(t.Context(), first))
	kept(record())
	less := providers.Metadata{Generation: 7}
	for range 2 {
		require.NoError(t, w.Store.PutMetadata(t.Context(), less))
		kept(less) // replaced, not merged
	}
	w.reads(t, "", secondValue)
}

func otherSecret(t T, w StoreWorld) {
	w.current(t, firstToken, firstValue)
	require.NoError(t, w.Store.PutMetadata(t.Context(), record()))
	other := StoreWorld{Store: w.Other}
	emptySecret(t, other)
	id := other.current(t, firstToken, secondValue)
	other.holds(t, map[string][]providers.Label{id: {providers.Current}})
	other.reads(t, "", secondValue)
	w.reads(t, "", firstValue)
}

func reopened(t T, w StoreWorld) {
	first := w.current(t, firstToken, firstValue)
	second := w.stage(t, secondToken, secondValue)
	require.NoError(t, w.Store.PutMetadata(t.Context(), record()))
	again := StoreWorld{Store: w.Reopen()}
	again.holds(t, map[string][]providers.Label{first: {providers.Current}, second: {providers.Pending}})
	again.reads(t, "", firstValue)
	m, err := again.Store.Metadata(t.Context())
	require.NoError(t, err)
	assert.Equal(t, record(), m)
	require.NoError(t, again.Store.Promote(t.Context(), first, second))
	w.reads(t, "", secondValue)
}

func storeReplyLost(t T, w StoreWorld) {
	first := w.current(t, firstToken, firstValue)
	w.loseReply(t, OpStage, func() error {
		_, err := w.Store.Stage(t.Context(), secondToken, bundleOf(t, secret.ValueField, secondValue))
		return err
	})
	second := w.stage(t, secondToken, secondValue)
	w.holds(t, map[string][]providers.Label{first: {providers.Current}, second: {providers.Pending}})
	promote := func() error { return w.Store.Promote(t.Context(), first, second) }
	w.loseReply(t, OpPromote, promote)
	w.reads(t, "", secondValue)
	require.NoError(t, promote())
	put := func() error { return w.Store.PutMetadata(t.Context(), record()) }
	w.loseReply(t, OpPutMetadata, put)
	require.NoError(t, put())
	drop := func() error { return w.Store.Prune(t.Context(), first) }
	w.loseReply(t, OpPrune, drop)
	require.NoError(t, drop())
	w.holds(t, map[string][]providers.Label{second: {providers.Current}})
}

// calls are those of every operation, on a secret with a CURRENT and a PENDING version.
func (w StoreWorld) calls(t T, first, second string) map[Op]func(ctx context.Context) error {
	third := bundleOf(t, secret.ValueField, thirdValue)
	return map[Op]func(ctx context.Context) error{
		OpVersions:    func(ctx context.Context) error { _, err := w.Store.Versions(ctx); return err },
		OpRead:        func(ctx context.Context) error { _, err := w.Store.Read(ctx, first); return err },
		OpReadLabel:   func(ctx context.Context) error { _, err := w.Store.ReadLabel(ctx, ""); return err },
		OpStage:       func(ctx context.Context) error { _, err := w.Store.Stage(ctx, secondToken+"-3", third); return err },
		OpPromote:     func(ctx context.Context) error { return w.Store.Promote(ctx, first, second) },
		OpPrune:       func(ctx context.Context) error { return w.Store.Prune(ctx, second) },
		OpMetadata:    func(ctx context.Context) error { _, err := w.Store.Metadata(ctx); return err },
		OpPutMetadata: func(ctx context.Context) error { return w.Store.PutMetadata(ctx, record()) },
	}
}

// withTwo makes a secret with a CURRENT and a PENDING version, and a check that it is still so.
func (w StoreWorld) withTwo(t T) (calls map[Op]func(ctx context.Context) error, unchanged func()) {
	t.Helper()
	first := w.current(t, firstToken, firstValue)
	second := w.stage(t, secondToken, secondValue)
	return w.calls(t, first, second), func() {
		t.Helper()
		w.holds(t, map[string][]providers.Label{first: {providers.Current}, second: {providers.Pending}})
		w.reads(t, "", firstValue)
		m, err := w.Store.Metadata(t.Context())
		require.NoError(t, err)
		assert.Equal(t, providers.Metadata{}, m)
	}
}

func storeThrottled(t T, w StoreWorld) {
	calls, unchanged := w.withTwo(t)
	for op, call := range calls {
		w.throttled(t, op, func() error { return call(t.Context()) }, []byte(firstValue), []byte(secondValue), []byte(thirdValue))
	}
	unchanged()
	require.NoError(t, calls[OpPromote](t.Context()))
	w.reads(t, "", secondValue)
}

func storeExpired(t T, w StoreWorld) {
	calls, unchanged := w.withTwo(t)
	for op, call := range calls {
		assert.ErrorIs(t, call(expired(t)), context.Canceled, "%s", op)
	}
	unchanged()
}

func storeInterrupted(t T, w StoreWorld) {
	calls, unchanged := w.withTwo(t)
	for _, op := range []Op{OpStage, OpPromote, OpPrune, OpPutMetadata} {
		w.interrupted(t, op, calls[op])
	}
	unchanged()
	require.NoError(t, calls[OpPromote](t.Context()))
	w.reads(t, "", secondValue)
}

func storeErrors(t T, w StoreWorld) {
	first := w.current(t, firstToken, firstValue)
	second := w.stage(t, secondToken, secondValue)
	_, conflict := w.Store.Stage(t.Context(), secondToken, bundleOf(t, secret.ValueField, thirdValue))
	_, missing := w.Store.Read(t.Context(), "v999")
	errs := []error{
		conflict, missing, w.Store.Promote(t.Context(), "v999", second), w.Store.Promote(t.Context(), first, "v999"), w.Store.Prune(t.Context(), first),
	}
	for _, call := range w.calls(t, first, second) {
		errs = append(errs, call(expired(t)))
	}
	for _, err := range errs {
		require.Error(t, err)
		assertFit(t, err, []byte(firstValue), []byte(secondValue), []byte(thirdValue))
	}
}
