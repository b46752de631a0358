package providertest

import (
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
	// ForgetsUnlabelled: a version without labels is as good as pruned.
	ForgetsUnlabelled bool
}

// StoreWorld is a secret in a store, and what can be done around it.
type StoreWorld struct {
	// Store is the secret's, Other that of another secret in the same account.
	Store, Other providers.Store
	// Reopen opens the first secret once more, as another process would.
	Reopen func() providers.Store
	Faults
	forgetful bool
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
		{"metadata is written over the revision that was read, and no other", metadataConflict},
		{"of many writers of metadata at once exactly one wins", metadataAtOnce},
		{"a write of metadata whose reply got lost is no conflict for its writer", metadataReplyLost},
		{"another secret is not touched", otherSecret},
		{"another process sees the same", reopened},
		{"a change whose reply got lost can be made again", storeReplyLost},
		{"what is throttled has no effect and passes later", storeThrottled},
		{"an ended context has no effect", storeExpired},
		{"a call that is cancelled halfway ends, and can be made again", storeInterrupted},
		{"no error tells a secret", storeErrors},
	} {
		cases = append(cases, Case{c.name, func(t T) {
			w := s.Open(t)
			w.forgetful = s.ForgetsUnlabelled
			c.run(t, w)
		}})
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

// current stages a value with the first token and promotes it from nothing.
func (w StoreWorld) current(t T, value string) string {
	t.Helper()
	id := w.stage(t, firstToken, value)
	require.NoError(t, w.Store.Promote(t.Context(), "", id))
	return id
}

// labels are those of each version.
func (w StoreWorld) labels(t T) map[string][]key.Label {
	t.Helper()
	list, err := w.Store.Versions(t.Context())
	require.NoError(t, err)
	all := map[string][]key.Label{}
	for _, v := range list {
		sorted := slices.Clone(v.Labels)
		slices.Sort(sorted)
		all[v.ID] = sorted
	}
	return all
}

// holds asserts which version bears which label, and that these are all versions.
func (w StoreWorld) holds(t T, want map[string][]key.Label) {
	t.Helper()
	got := w.labels(t)
	for id, labels := range want {
		if len(labels) == 0 && w.forgetful {
			delete(want, id)
			continue
		}
		assert.ElementsMatch(t, labels, got[id], "labels of %s", id)
	}
	assert.Len(t, got, len(want))
}

// reads asserts what a consumer reads; "" for nothing.
func (w StoreWorld) reads(t T, l key.Label, want string) {
	t.Helper()
	b, err := w.Store.ReadLabel(t.Context(), l)
	if want == "" {
		require.ErrorIs(t, err, providers.ErrNotFound)
		return
	}
	require.NoError(t, err)
	defer b.Close()
	v, _ := b.Field(secret.ValueField)
	assert.True(t, same(want, string(v.Reveal())), "label %q does not yield what it should", l)
}

func emptySecret(t T, w StoreWorld) {
	w.holds(t, nil)
	for _, l := range []key.Label{"", key.Current, key.Pending, key.Previous} {
		w.reads(t, l, "")
	}
	_, err := w.Store.Read(t.Context(), "v1")
	require.ErrorIs(t, err, providers.ErrNotFound)
	require.ErrorIs(t, w.Store.Promote(t.Context(), "", "v1"), providers.ErrNotFound)
	require.NoError(t, w.Store.Prune(t.Context(), "v1"))
	m, err := w.Store.Metadata(t.Context())
	require.NoError(t, err)
	assert.Equal(t, key.Metadata{}, m)
}

func stagePending(t T, w StoreWorld) {
	id := w.stage(t, firstToken, firstValue)
	w.holds(t, map[string][]key.Label{id: {key.Pending}})
	w.reads(t, key.Pending, firstValue)
	w.reads(t, key.Current, "")
	w.reads(t, "", "")
	next := w.stage(t, secondToken, secondValue)
	w.holds(t, map[string][]key.Label{id: {}, next: {key.Pending}})
}

func stageKeepsCurrent(t T, w StoreWorld) {
	first := w.current(t, firstValue)
	second := w.stage(t, secondToken, secondValue)
	w.holds(t, map[string][]key.Label{first: {key.Current}, second: {key.Pending}})
	w.reads(t, "", firstValue)
	w.reads(t, key.Current, firstValue)
	w.reads(t, key.Pending, secondValue)
}

func stageAgain(t T, w StoreWorld) {
	first := w.current(t, firstValue)
	second := w.stage(t, secondToken, secondValue)
	assert.Equal(t, second, w.stage(t, secondToken, secondValue))
	w.holds(t, map[string][]key.Label{first: {key.Current}, second: {key.Pending}})
	assert.Equal(t, first, w.stage(t, firstToken, firstValue), "also when it is CURRENT")
	w.reads(t, "", firstValue)
	w.reads(t, key.Pending, secondValue)
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
	w.holds(t, map[string][]key.Label{id: {key.Pending}})
	w.reads(t, key.Pending, firstValue)
}

func stageAtOnce(t T, w StoreWorld) {
	ids, errs := make([]string, 6), make([]error, 6)
	b := bundleOf(t, secret.ValueField, firstValue)
	atOnce(len(ids), func(i int) { ids[i], errs[i] = w.Store.Stage(t.Context(), firstToken, b) })
	for i := range ids {
		require.NoError(t, errs[i])
		assert.Equal(t, ids[0], ids[i])
	}
	w.holds(t, map[string][]key.Label{ids[0]: {key.Pending}})
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
	assert.True(t, same(firstValue, string(v.Reveal())), "the caller closes the bundle, nobody else")
	given.Close()
	for range 2 {
		b, err := w.Store.Read(t.Context(), id)
		require.NoError(t, err)
		v, _ := b.Field(secret.ValueField)
		assert.True(t, same(firstValue, string(v.Reveal())))
		b.Close()
	}
}

func versionsListed(t T, w StoreWorld) {
	before := time.Now()
	want := []string{w.current(t, firstValue)}
	pause(2 * time.Millisecond) // so that they differ in age
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
