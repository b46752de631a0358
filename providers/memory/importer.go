package memory

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
)

var _ providers.Importer = issuer{}

// Prepare implements providers.Importer: a World has all that it needs.
func (i issuer) Prepare(context.Context) ([]string, error) { return nil, nil }

// Import implements providers.Importer.
func (i issuer) Import(ctx context.Context, r providers.ImportRequest, b secret.Bundle) (info key.Info, err error) {
	err = i.do(ctx, OpImport, func(p *principal, now time.Time) error {
		own := b.Only(p.fields()...)
		of, known := i.w.keyOf(b)
		switch {
		case r.KeyID == "", len(own.Names()) != len(p.fields()):
			return fmt.Errorf("%w: the ID or a field of the key is missing", providers.ErrInvalid)
		case known != nil && known.live() && of == p && known.info.KeyID == r.KeyID:
			info = known.told(p, known.state(), now)
			return nil
		case known != nil && known.live():
			return fmt.Errorf("%w: it is key %q of %q", providers.ErrConflict, known.info.KeyID, of.name)
		case i.w.has(r.KeyID):
			return fmt.Errorf("%w: the ID is that of another key", providers.ErrConflict)
		}
		k := &issuedKey{
			info:    key.Info{Principal: p.name, KeyID: r.KeyID, State: key.Active, CreatedAt: now},
			bundle:  copied(own),
			changes: []change{{now, key.Active}},
		}
		if p.settings.CanNarrow {
			k.scopes = slices.Clone(r.Scopes)
		}
		p.keys = append(p.keys, k)
		i.w.note(now, Event{Op: OpImport, Principal: p.name, KeyID: r.KeyID})
		info = k.told(p, key.Active, now)
		return nil
	})
	return info, err
}

// has tells whether a live key of any principal has this ID. The World is locked.
func (w *World) has(keyID string) bool {
	for _, p := range w.principals {
		if p.liveKey(keyID) != nil {
			return true
		}
	}
	return false
}
