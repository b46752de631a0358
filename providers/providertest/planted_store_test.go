package providertest_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/memory"
	"github.com/keyturn/keyturn/providers/providertest"
)

type storeBugs struct {
	stageMovesCurrent, stageKeepsPending, stageForgetsToken, stageTakesOther, dropsForeign, sharesMemory                     bool
	promoteBlind, promoteOnce, promoteKeepsPending, promoteNoPrevious, promoteNothing, pruneCurrent, pruneOnce, pruneNothing bool
	reusesIDs, losesMetadata, metadataNeedsVersion, mergesMetadata, newestFirst, tellsSecret, deaf, onePath                  bool
	metadataBlind, metadataFirstBlind, metadataOnce, metadataByContent, metadataConflicts                                    bool
}

// buggyStore is memory's store with bugs.
type buggyStore struct {
	providers.Store
	w    *memory.World
	bugs storeBugs
	n    atomic.Int32
}

func (s *buggyStore) Stage(ctx context.Context, token string, b secret.Bundle) (string, error) {
	if s.bugs.deaf {
		ctx = context.WithoutCancel(ctx)
	}
	if s.bugs.stageForgetsToken {
		n := s.n.Add(1)
		token = fmt.Sprintf("%s/%d", token, n)
	}
	before := s.current(ctx)
	id, err := s.Store.Stage(ctx, token, b)
	switch {
	case err != nil && s.bugs.tellsSecret:
		v, _ := b.Field(secret.ValueField)
		return "", fmt.Errorf("%w: %s", err, v.Reveal())
	case errors.Is(err, providers.ErrConflict) && s.bugs.stageTakesOther:
		return s.Store.Stage(ctx, token+"'", b)
	case err == nil && s.bugs.stageMovesCurrent:
		_ = s.Store.Promote(ctx, before, id)
	case err == nil && s.bugs.dropsForeign:
		s.w.Foreign("a", secret.NewBundle(map[string]secret.Value{"endpoint": secret.New(nil)}))
	}
	return id, err
}

func (s *buggyStore) current(ctx context.Context) string {
	list, _ := s.Store.Versions(ctx)
	for _, v := range list {
		if v.Has(key.Current) {
			return v.ID
		}
	}
	return ""
}

func (s *buggyStore) Promote(ctx context.Context, from, to string) error {
	switch {
	case s.bugs.promoteNothing:
		return nil
	case s.bugs.promoteBlind:
		from = s.current(ctx)
	case s.bugs.promoteOnce && s.current(ctx) == to:
		return providers.ErrConflict
	}
	return s.Store.Promote(ctx, from, to)
}

func (s *buggyStore) Versions(ctx context.Context) ([]key.Version, error) {
	list, err := s.Store.Versions(ctx)
	for i := range list {
		list[i].Labels = slices.DeleteFunc(slices.Clone(list[i].Labels), func(l key.Label) bool {
			return l == key.Previous && s.bugs.promoteNoPrevious
		})
		if s.bugs.promoteKeepsPending && list[i].Has(key.Current) {
			list[i].Labels = append(list[i].Labels, key.Pending)
		}
		if s.bugs.stageKeepsPending && len(list[i].Labels) == 0 {
			list[i].Labels = append(list[i].Labels, key.Pending)
		}
		if s.bugs.reusesIDs {
			list[i].ID = fmt.Sprintf("v%d", i+1)
		}
	}
	if s.bugs.newestFirst {
		slices.Reverse(list)
	}
	return list, err
}

func (s *buggyStore) Read(ctx context.Context, id string) (secret.Bundle, error) {
	b, err := s.Store.Read(ctx, id)
	if s.bugs.sharesMemory && err == nil {
		v, _ := b.Field(secret.ValueField)
		v.Close()
	}
	return b, err
}

func (s *buggyStore) Prune(ctx context.Context, id string) error {
	switch {
	case s.bugs.pruneNothing:
		return nil
	case s.bugs.pruneCurrent && s.current(ctx) == id:
		return nil
	case s.bugs.pruneOnce:
		if _, err := s.Store.Read(ctx, id); err != nil {
			return err
		}
	}
	return s.Store.Prune(ctx, id)
}

func (s *buggyStore) Metadata(ctx context.Context) (key.Metadata, error) {
	m, err := s.Store.Metadata(ctx)
	if s.bugs.metadataByContent {
		m.Revision = byContent(m)
	}
	return m, err
}

// byContent is a revision that comes again when the same is written again.
func byContent(m key.Metadata) key.Revision {
	if m.Revision == "" {
		return ""
	}
	m.Revision = ""
	next, _ := m.Next()
	return next
}

func (s *buggyStore) PutMetadata(ctx context.Context, m key.Metadata) (key.Revision, error) {
	list, _ := s.Store.Versions(ctx)
	before, _ := s.Store.Metadata(ctx)
	switch next, _ := m.Next(); {
	case s.bugs.metadataNeedsVersion && len(list) == 0:
		return "", providers.ErrNotFound
	case s.bugs.losesMetadata:
		m.Debt = nil
	case s.bugs.mergesMetadata:
		m.Keys = append(before.Keys, m.Keys...)
	case s.bugs.metadataBlind, s.bugs.metadataFirstBlind && m.Revision == "", s.bugs.metadataByContent && m.Revision == byContent(before):
		m.Revision = before.Revision
	case s.bugs.metadataOnce && before.Revision == next:
		return "", providers.ErrConflict
	}
	now, err := s.Store.PutMetadata(ctx, m)
	switch {
	case s.bugs.metadataConflicts && errors.Is(err, providers.ErrConflict):
		return before.Revision, nil
	case s.bugs.metadataByContent && err == nil:
		return byContent(key.Metadata{Generation: m.Generation, Revision: now}), nil
	}
	return now, err
}

func TestStoreSuiteFindsBugs(t *testing.T) {
	t.Parallel()
	cases := func(bugs storeBugs) []providertest.Case {
		return providertest.StoreCases(storeIn(func(w *memory.World, s providers.Store) providers.Store {
			if bugs.onePath {
				s = w.Store("a")
			}
			return &buggyStore{Store: s, w: w, bugs: bugs}
		}))
	}
	planted(t, cases, map[string]storeBugs{
		"staging moves CURRENT":                 {stageMovesCurrent: true},
		"PENDING is on two versions":            {stageKeepsPending: true},
		"staging is not tied to the token":      {stageForgetsToken: true},
		"a token takes another bundle":          {stageTakesOther: true},
		"foreign fields are dropped":            {dropsForeign: true},
		"a read bundle is closed":               {sharesMemory: true},
		"promoting compares nothing":            {promoteBlind: true},
		"promoting again is a conflict":         {promoteOnce: true},
		"the promoted version keeps PENDING":    {promoteKeepsPending: true},
		"promoting gives no PREVIOUS":           {promoteNoPrevious: true},
		"promoting does nothing":                {promoteNothing: true},
		"pruning CURRENT is no error":           {pruneCurrent: true},
		"a version can be pruned once only":     {pruneOnce: true},
		"pruning does nothing":                  {pruneNothing: true},
		"metadata loses its debt":               {losesMetadata: true},
		"metadata needs a version":              {metadataNeedsVersion: true},
		"metadata is merged":                    {mergesMetadata: true},
		"metadata is written over any other":    {metadataBlind: true},
		"the first metadata is written blindly": {metadataFirstBlind: true},
		"metadata cannot be written again":      {metadataOnce: true},
		"a revision of metadata comes again":    {metadataByContent: true},
		"a lost race for metadata is not told":  {metadataConflicts: true},
		"the newest version comes first":        {newestFirst: true},
		"an error tells the secret":             {tellsSecret: true},
		"it does not honour its context":        {deaf: true},
		"two secrets are one":                   {onePath: true},
		"versions are called by their position": {reusesIDs: true},
	})
}
