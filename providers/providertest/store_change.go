package providertest

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
)

func promoteMoves(t T, w StoreWorld) {
	first := w.current(t, firstValue)
	w.holds(t, map[string][]key.Label{first: {key.Current}})
	second := w.stage(t, secondToken, secondValue)
	require.NoError(t, w.Store.Promote(t.Context(), first, second))
	w.holds(t, map[string][]key.Label{first: {key.Previous}, second: {key.Current}})
	w.reads(t, "", secondValue)
	w.reads(t, key.Previous, firstValue)
	w.reads(t, key.Pending, "")
}

func promoteAgain(t T, w StoreWorld) {
	first := w.current(t, firstValue)
	require.NoError(t, w.Store.Promote(t.Context(), "", first), "from nothing")
	second := w.stage(t, secondToken, secondValue)
	for range 3 {
		require.NoError(t, w.Store.Promote(t.Context(), first, second))
		w.holds(t, map[string][]key.Label{first: {key.Previous}, second: {key.Current}})
	}
}

func promoteConflict(t T, w StoreWorld) {
	first := w.current(t, firstValue)
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
	first := w.current(t, firstValue)
	second := w.stage(t, secondToken, secondValue)
	for range 2 {
		require.NoError(t, w.Store.Promote(t.Context(), first, second))
		require.NoError(t, w.Store.Promote(t.Context(), second, first))
		w.holds(t, map[string][]key.Label{first: {key.Current}, second: {key.Previous}})
		w.reads(t, "", firstValue)
	}
}

func promoteAtOnce(t T, w StoreWorld) {
	first := w.current(t, firstValue)
	ids := make([]string, 6)
	for i := range ids {
		ids[i] = w.stage(t, secondToken+"-"+string(rune('a'+i)), secondValue+string(rune('a'+i)))
	}
	if w.forgetful { // the two that have labels
		require.NoError(t, w.Store.Promote(t.Context(), first, ids[5]))
		first, ids = ids[5], []string{first, w.stage(t, secondToken+"-g", thirdValue)}
	}
	errs := make([]error, len(ids))
	atOnce(len(ids), func(i int) { errs[i] = w.Store.Promote(t.Context(), first, ids[i]) })
	winner := ""
	for i, err := range errs {
		if err == nil {
			assert.Empty(t, winner, "two win")
			winner = ids[i]
			continue
		}
		if w.forgetful && errors.Is(err, providers.ErrNotFound) {
			continue // the winner took its last label before it was looked for
		}
		require.ErrorIs(t, err, providers.ErrConflict)
	}
	got := w.labels(t)
	assert.Contains(t, got[winner], key.Current)
	assert.Equal(t, []key.Label{key.Previous}, got[first])
	assert.NotEmpty(t, winner, "one wins")
}

func prune(t T, w StoreWorld) {
	first := w.current(t, firstValue)
	second := w.stage(t, secondToken, secondValue)
	require.NoError(t, w.Store.Promote(t.Context(), first, second))
	third := w.stage(t, secondToken+"-3", thirdValue)
	require.ErrorIs(t, w.Store.Prune(t.Context(), second), providers.ErrDenied)
	w.reads(t, "", secondValue)
	for range 2 {
		require.NoError(t, w.Store.Prune(t.Context(), first), "PREVIOUS")
		require.NoError(t, w.Store.Prune(t.Context(), third), "PENDING")
	}
	w.holds(t, map[string][]key.Label{second: {key.Current}})
	for _, gone := range []string{first, third} {
		_, err := w.Store.Read(t.Context(), gone)
		require.ErrorIs(t, err, providers.ErrNotFound)
		require.ErrorIs(t, w.Store.Promote(t.Context(), second, gone), providers.ErrNotFound)
	}
	w.reads(t, key.Previous, "")
	w.reads(t, key.Pending, "")
}

func idsAreNew(t T, w StoreWorld) {
	first := w.stage(t, firstToken, firstValue)
	require.NoError(t, w.Store.Prune(t.Context(), first))
	second := w.stage(t, secondToken, secondValue)
	assert.NotEqual(t, first, second, "what named one value must never name another")
}

// record is a Metadata with something everywhere.
func record() key.Metadata {
	at := time.Date(2026, 3, 1, 12, 30, 0, 123456789, time.UTC)
	return key.Metadata{
		Inventory: "payments", Environment: "production",
		Generation: 1760000000123,
		Lease:      &key.Lease{Namespace: "default", Workflow: "rotation/payments-api", Rotation: "r-1", Run: "run-1", Term: key.LeaseTerm},
		Ended:      "run-0",
		Incident:   &key.Incident{ID: "incident/leak", Digest: "d0", At: at, Ending: []string{"k9"}, Disabling: []string{"k8"}},
		Intents: []key.Intent{
			{Rotation: "r-1", Ordinal: 2, Run: "run-1", Principal: "p", At: at, Within: 90 * time.Second, Known: []string{"k1", "k2"}},
			{Rotation: "r-1", Ordinal: 2, Run: "run-2", Principal: "p", At: at.Add(time.Second), Within: time.Minute, Known: []string{"k1"}},
		},
		Keys: []key.Owned{{
			Ref:      key.Ref{Principal: "p", KeyID: "k1", StoreVersion: "v1", Fingerprint: "fp:0011"},
			IssuedAt: at, Rotation: "r-1", VerifiedAt: at.Add(5), TestedUntil: at.Add(8), UsedAt: at.Add(9), Delivering: map[string]time.Time{"run/1/2": at}, AttestedAt: at, AttestedReport: at, DisablingReport: at, DisablingRun: "run", DisablingEvidence: "e0", ProbedAt: at, DeliveredAt: at.Add(1), TurnedBackAt: at.Add(7), PromotedAt: at.Add(2), KeptAt: at.Add(6), DisablingAt: at.Add(3),
			DisabledAt: at.Add(4), Approvals: []string{"nonce-2"}, Spent: []string{"nonce-0", "nonce-1"},
		}},
		Exposed:      map[string]string{"k1": "incident/leak"},
		LastRotation: &key.LastRotation{ID: "r-0", Outcome: "completed", At: at, Ended: []string{"key-ended"}},
		RotateBy:     at.Add(90 * 24 * time.Hour),
		Debt:         []key.Debt{{Kind: "retired-key-alive", About: "k0 \"<&>\" é", Since: at}},
		BrokenGlass:  []key.BrokenGlass{{ID: "nonce-3", Rotation: "r-0", Gate: "revoke", By: "ann", ByKey: "SHA256:abc", Reason: "bob is away", At: at}},

		GlassReviewed: []key.GlassReview{{
			BrokenGlass: key.BrokenGlass{ID: "nonce-4", Rotation: "r-0", Gate: "signoff", By: "ann", ByKey: "SHA256:abc", Reason: "bob is away", At: at},
			ReviewedBy:  "bob", ReviewedByKey: "SHA256:def",
		}},
	}
}

// put writes metadata over what is there.
func (w StoreWorld) put(t T, m key.Metadata) key.Revision {
	t.Helper()
	m.Revision = w.metadata(t).Revision
	now, err := w.Store.PutMetadata(t.Context(), m)
	require.NoError(t, err)
	return now
}

func (w StoreWorld) metadata(t T) key.Metadata {
	t.Helper()
	m, err := w.Store.Metadata(t.Context())
	require.NoError(t, err)
	return m
}

// keeps asserts what the metadata is, but for its revision.
func (w StoreWorld) keeps(t T, want key.Metadata) {
	t.Helper()
	got := w.metadata(t)
	assert.NotEmpty(t, got.Revision, "what was written has a revision")
	got.Revision = ""
	assert.Equal(t, want, got)
}

func metadata(t T, w StoreWorld) {
	want := record()
	w.put(t, want)
	w.holds(t, nil)
	w.keeps(t, record())
	want.Keys[0].KeyID, want.Intents[0].Known[0] = "changed by the caller", "too"
	w.keeps(t, record())
	got := w.metadata(t)
	got.Keys[0].KeyID, got.Lease.Run = "changed by who read it", "too"
	w.keeps(t, record())
	first := w.current(t, firstValue)
	second := w.stage(t, secondToken, secondValue)
	require.NoError(t, w.Store.Promote(t.Context(), first, second))
	require.NoError(t, w.Store.Prune(t.Context(), first))
	w.keeps(t, record())
	less := key.Metadata{Generation: 7}
	for range 2 {
		w.put(t, less)
		w.keeps(t, less) // replaced, not merged
	}
	w.reads(t, "", secondValue)
}

func metadataConflict(t T, w StoreWorld) {
	refused := func(m key.Metadata, why string) {
		t.Helper()
		before := w.metadata(t)
		_, err := w.Store.PutMetadata(t.Context(), m)
		require.ErrorIs(t, err, providers.ErrConflict, why)
		assertFit(t, err)
		assert.Equal(t, before, w.metadata(t), why)
	}
	of := func(generation int64, r key.Revision) key.Metadata {
		return key.Metadata{Generation: generation, Revision: r}
	}
	assert.Empty(t, w.metadata(t).Revision, "there is none yet")
	refused(of(1, "0123456789abcdef0123456789abcdef"), "nothing was written yet")
	first := w.put(t, of(1, ""))
	refused(of(2, ""), "there is one already")
	second := w.put(t, of(2, ""))
	refused(of(3, first), "somebody wrote since")
	refused(of(1, ""), "the first write once more, and another came after it")
	third := w.put(t, of(1, ""))
	refused(of(3, first), "it says what it said then, and was written since")
	fourth := w.put(t, of(1, ""))
	refused(of(3, third), "a write that changes nothing is one, too")
	seen := []key.Revision{first, second, third, fourth}
	slices.Sort(seen)
	assert.Len(t, slices.Compact(seen), 4, "no revision comes twice")
	assert.Equal(t, fourth, w.metadata(t).Revision, "writing tells the revision that reading tells")
	again, err := w.Reopen().Metadata(t.Context())
	require.NoError(t, err)
	assert.Equal(t, fourth, again.Revision, "another process sees the same")
}

func metadataAtOnce(t T, w StoreWorld) {
	for round := range int64(4) { // the first is that of the first write
		before := w.metadata(t)
		revisions, errs := make([]key.Revision, 6), make([]error, 6)
		atOnce(len(errs), func(i int) {
			m := before
			m.Generation = 10*round + int64(i) + 1
			for range 5 { // what is neither an answer nor a refusal is asked again, as an activity would
				if revisions[i], errs[i] = w.Store.PutMetadata(t.Context(), m); errs[i] == nil || errors.Is(errs[i], providers.ErrConflict) {
					break
				}
			}
		})
		after, won := w.metadata(t), 0
		for i, err := range errs {
			if err != nil {
				require.ErrorIs(t, err, providers.ErrConflict)
				continue
			}
			won++
			assert.Equal(t, 10*round+int64(i)+1, after.Generation, "what the winner wrote is there")
			assert.Equal(t, revisions[i], after.Revision)
		}
		assert.Equal(t, 1, won, "exactly one wins round %d", round+1)
	}
}

// metadataReplyLost: the writer whose reply got lost asks again, and must not think that another one won.
func metadataReplyLost(t T, w StoreWorld) {
	for range 2 { // the first write, and one over another
		m := record()
		m.Revision = w.metadata(t).Revision
		put := func() error { _, err := w.Store.PutMetadata(t.Context(), m); return err }
		w.loseReply(t, OpPutMetadata, put)
		w.keeps(t, record())
		now, err := w.Store.PutMetadata(t.Context(), m)
		require.NoError(t, err)
		assert.Equal(t, w.metadata(t).Revision, now)
		w.keeps(t, record())
		w.put(t, key.Metadata{Generation: 7})
		require.ErrorIs(t, put(), providers.ErrConflict, "now another one did")
	}
}

func otherSecret(t T, w StoreWorld) {
	w.current(t, firstValue)
	w.put(t, record())
	other := StoreWorld{Store: w.Other}
	emptySecret(t, other)
	id := other.current(t, secondValue)
	other.holds(t, map[string][]key.Label{id: {key.Current}})
	other.reads(t, "", secondValue)
	w.reads(t, "", firstValue)
}

func reopened(t T, w StoreWorld) {
	first := w.current(t, firstValue)
	second := w.stage(t, secondToken, secondValue)
	w.put(t, record())
	again := StoreWorld{Store: w.Reopen()}
	again.holds(t, map[string][]key.Label{first: {key.Current}, second: {key.Pending}})
	again.reads(t, "", firstValue)
	again.keeps(t, record())
	require.NoError(t, again.Store.Promote(t.Context(), first, second))
	w.reads(t, "", secondValue)
}

func storeReplyLost(t T, w StoreWorld) {
	first := w.current(t, firstValue)
	w.loseReply(t, OpStage, func() error {
		_, err := w.Store.Stage(t.Context(), secondToken, bundleOf(t, secret.ValueField, secondValue))
		return err
	})
	second := w.stage(t, secondToken, secondValue)
	w.holds(t, map[string][]key.Label{first: {key.Current}, second: {key.Pending}})
	promote := func() error { return w.Store.Promote(t.Context(), first, second) }
	w.loseReply(t, OpPromote, promote)
	w.reads(t, "", secondValue)
	require.NoError(t, promote())
	drop := func() error { return w.Store.Prune(t.Context(), first) }
	w.loseReply(t, OpPrune, drop)
	require.NoError(t, drop())
	w.holds(t, map[string][]key.Label{second: {key.Current}})
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
		OpPutMetadata: func(ctx context.Context) error { _, err := w.Store.PutMetadata(ctx, record()); return err },
	}
}

// withTwo makes a secret with a CURRENT and a PENDING version, and a check that it is still so.
func (w StoreWorld) withTwo(t T) (calls map[Op]func(ctx context.Context) error, unchanged func()) {
	t.Helper()
	first := w.current(t, firstValue)
	second := w.stage(t, secondToken, secondValue)
	return w.calls(t, first, second), func() {
		t.Helper()
		w.holds(t, map[string][]key.Label{first: {key.Current}, second: {key.Pending}})
		w.reads(t, "", firstValue)
		assert.Equal(t, key.Metadata{}, w.metadata(t))
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
		require.ErrorIs(t, call(expired(t)), context.Canceled, "%s", op)
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
	first := w.current(t, firstValue)
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
