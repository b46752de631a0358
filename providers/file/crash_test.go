package file

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/memory"
)

// What holds if the process dies after any step of a change:
//
//	folder     an empty secret, or one that lacks its folder of values; nothing can be read yet
//	value      a value that the state does not know: it is no version; the next change removes it
//	state      the change happened. A consumer's default read may still yield the CURRENT before, whose
//	           value is there until the link has moved; the next change moves it
//	link       the change happened; values that are no version any more may be left
//	removal    all is done
//
// The store can be read all the time, and the same call again ends as if nothing had been.

var errCrash = errors.New("crash")

func openCrashing(t require.TestingT, root string, crashAt int) (s *store, steps *[]string) {
	s, err := openStore(providers.Environment{Now: time.Now}, Account{Root: root}, StoreConfig{Path: "team/a"})
	require.NoError(t, err)
	steps = new([]string)
	s.wrote = func(step string) error {
		if *steps = append(*steps, step); len(*steps) == crashAt {
			return errCrash
		}
		return nil
	}
	return s, steps
}

func single(value string) secret.Bundle { return secret.Single(secret.New([]byte(value))) }

// life is all that a rotation does to a store.
var life = []struct {
	name string
	do   func(ctx context.Context, s *store) error
}{
	{"metadata", func(ctx context.Context, s *store) error {
		_, err := s.PutMetadata(ctx, key.Metadata{Generation: 1})
		return err
	}},
	{"stage first", func(ctx context.Context, s *store) error { _, err := s.Stage(ctx, "t1", single("one")); return err }},
	{"promote first", func(ctx context.Context, s *store) error { return s.Promote(ctx, "", "v1") }},
	{"stage second", func(ctx context.Context, s *store) error { _, err := s.Stage(ctx, "t2", single("two")); return err }},
	{"promote second", func(ctx context.Context, s *store) error { return s.Promote(ctx, "v1", "v2") }},
	{"prune first", func(ctx context.Context, s *store) error { return s.Prune(ctx, "v1") }},
}

func read(t *testing.T, s *store, l key.Label) string {
	t.Helper()
	b, err := s.ReadLabel(t.Context(), l)
	if errors.Is(err, providers.ErrNotFound) {
		return ""
	}
	require.NoError(t, err)
	v, _ := b.Field(secret.ValueField)
	return string(v.Reveal())
}

func TestACrashAfterAnyStepLeavesAReadableStore(t *testing.T) {
	t.Parallel()
	crashes := map[string]bool{}
	for at, op := range life {
		for crashAt := 1; ; crashAt++ {
			root := t.TempDir()
			before, _ := openCrashing(t, root, 0)
			for _, earlier := range life[:at] {
				require.NoError(t, earlier.do(t.Context(), before))
			}
			was := read(t, before, "")
			dying, steps := openCrashing(t, root, crashAt)
			err := op.do(t.Context(), dying)
			if len(*steps) < crashAt {
				require.NoError(t, err)
				break
			}
			name := fmt.Sprintf("%s, after step %d (%s)", op.name, crashAt, (*steps)[crashAt-1])
			crashes[(*steps)[crashAt-1]] = true
			require.ErrorIs(t, err, errCrash, name)

			after, _ := openCrashing(t, root, 0)
			versions, err := after.Versions(t.Context())
			require.NoError(t, err, name)
			for _, v := range versions {
				_, err := after.Read(t.Context(), v.ID)
				require.NoError(t, err, "%s: version %s can be read", name, v.ID)
			}
			_, err = after.Metadata(t.Context())
			require.NoError(t, err, name)
			current := read(t, after, key.Current)
			assert.Contains(t, []string{was, current}, read(t, after, ""), "%s: a consumer reads the key before or after", name)
			if was != "" {
				assert.NotEmpty(t, read(t, after, ""), "%s: a consumer always reads one", name)
			}

			for _, rest := range life[at:] { // the same call again, then the rest of the life
				require.NoError(t, rest.do(t.Context(), after), "%s: then %s", name, rest.name)
				assert.Equal(t, read(t, after, key.Current), read(t, after, ""), "%s: after %s the link is right", name, rest.name)
			}
			versions, err = after.Versions(t.Context())
			require.NoError(t, err)
			require.Len(t, versions, 1, name)
			assert.Equal(t, "v2", versions[0].ID, name)
			assert.Equal(t, []key.Label{key.Current}, versions[0].Labels, name)
			values, err := os.ReadDir(filepath.Join(root, "team/a/versions"))
			require.NoError(t, err)
			assert.Len(t, values, 1, "%s: no value is left over", name)
		}
	}
	assert.Equal(t, map[string]bool{"folder": true, "value": true, "state": true, "link": true, "removal": true}, crashes,
		"every kind of step was crashed at")
}

// A value half written is no version, and does not stay.
func TestHalfAValueIsRemoved(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	s, _ := openCrashing(t, root, 0)
	_, err := s.PutMetadata(t.Context(), key.Metadata{})
	require.NoError(t, err)
	for _, name := range []string{".v1.json.new", "v7.json"} {
		require.NoError(t, os.WriteFile(filepath.Join(root, "team/a/versions", name), []byte(`{"value":"ha`), 0o600))
	}
	id, err := s.Stage(t.Context(), "t1", single("one"))
	require.NoError(t, err)
	values, err := os.ReadDir(filepath.Join(root, "team/a/versions"))
	require.NoError(t, err)
	require.Len(t, values, 1)
	assert.Equal(t, id+".json", values[0].Name())
}

// Whatever sequence of calls: the file store and the one in memory, written apart, answer the same. It
// crashes now and then, and the call is then made again.
func TestTheStoreIsThatOfMemory(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		ctx := context.Background()
		root, err := os.MkdirTemp("", "store")
		require.NoError(t, err)
		defer func() { _ = os.RemoveAll(root) }()
		model := memory.NewWorld(nil).Store("a")
		version := rapid.SampledFrom([]string{"", "v1", "v2", "v3", "v4", "v9"})
		for range rapid.IntRange(1, 25).Draw(t, "calls") {
			call := drawCall(t, model, version)
			crashing, steps := openCrashing(t, root, rapid.IntRange(0, 4).Draw(t, "crash"))
			got := call(ctx, crashing)
			if errors.Is(got, errCrash) {
				s, _ := openCrashing(t, root, 0)
				got = call(ctx, s)
			}
			want := call(ctx, model)
			for _, sentinel := range []error{providers.ErrNotFound, providers.ErrConflict, providers.ErrDenied, providers.ErrInvalid} {
				require.Equal(t, errors.Is(want, sentinel), errors.Is(got, sentinel), "%v, not %v, after %v", got, want, *steps)
			}
			require.Equal(t, want == nil, got == nil, "%v, not %v", got, want)
			s, _ := openCrashing(t, root, 0)
			require.Equal(t, seen(ctx, t, model), seen(ctx, t, s))
		}
	})
}

func drawCall(t *rapid.T, model providers.Store, version *rapid.Generator[string]) func(context.Context, providers.Store) error {
	token := rapid.SampledFrom([]string{"t1", "t2", "t3"}).Draw(t, "token")
	value := rapid.SampledFrom([]string{"one", "two"}).Draw(t, "value")
	from, to := version.Draw(t, "from"), version.Draw(t, "to")
	switch rapid.IntRange(0, 3).Draw(t, "call") {
	case 0:
		return func(ctx context.Context, s providers.Store) error {
			_, err := s.Stage(ctx, token, single(value))
			return err
		}
	case 1:
		return func(ctx context.Context, s providers.Store) error { return s.Promote(ctx, from, to) }
	case 2:
		return func(ctx context.Context, s providers.Store) error { return s.Prune(ctx, to) }
	}
	stale := rapid.Bool().Draw(t, "stale")
	read := sync.OnceValues(func() (key.Metadata, error) { return model.Metadata(context.Background()) })
	return func(ctx context.Context, s providers.Store) error {
		m, err := read()
		if err != nil {
			return err
		}
		m.Generation = int64(len(token + value))
		if stale {
			m.Revision = ""
		}
		_, err = s.PutMetadata(ctx, m)
		return err
	}
}

// seen is all that can be read of a store.
func seen(ctx context.Context, t require.TestingT, s providers.Store) map[string]any {
	all := map[string]any{}
	versions, err := s.Versions(ctx)
	require.NoError(t, err)
	for _, v := range versions {
		b, err := s.Read(ctx, v.ID)
		require.NoError(t, err)
		value, _ := b.Field(secret.ValueField)
		all[v.ID] = [3]any{v.Token, fmt.Sprint(slices.Sorted(slices.Values(v.Labels))), string(value.Reveal())}
	}
	for _, l := range []key.Label{"", key.Current, key.Pending, key.Previous} {
		b, err := s.ReadLabel(ctx, l)
		value, _ := b.Field(secret.ValueField)
		all["label "+string(l)] = [2]any{errors.Is(err, providers.ErrNotFound), string(value.Reveal())}
	}
	m, err := s.Metadata(ctx)
	require.NoError(t, err)
	all["metadata"] = m
	return all
}

func FuzzParseState(f *testing.F) {
	f.Add([]byte(`{"schema":"keyturn/file-store/v1","last":1,"versions":[{"id":"v1","token":"t","fields":["value"],"createdAt":"2026-01-01T00:00:00Z","labelledAt":"2026-01-01T00:00:00Z"}],"labels":{"CURRENT":"v1"}}`))
	f.Add([]byte(`{"schema":"keyturn/file-store/v1","last":0,"versions":null,"labels":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := parseState(data)
		if err != nil {
			return
		}
		// Whatever is accepted obeys the rules, and goes on to.
		now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		v := s.add("a token of its own", []string{"value"}, now)
		_ = s.promote(s.Labels[key.Current], v.ID, now)
		_ = s.prune(s.Labels[key.Previous])
		if what := s.wrong(); what != "" {
			t.Fatal(what)
		}
	})
}
