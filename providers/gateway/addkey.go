package gateway

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/keyturn/keyturn/internal/gatewayfile"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/outside"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
)

// ExistingKey is a key that the gateway accepted before keyturn.
type ExistingKey struct {
	Principal string
	// KeyID is any name; a key in the form that keyturn mints has its own in it, and keeps that.
	KeyID  string
	Scopes []string
	// CreatedAt is now when zero, ExpiresAt never.
	CreatedAt, ExpiresAt time.Time
}

// AddKey registers a key that exists already, in whatever form, and makes the key file when it is
// missing. Slots do not bound it. Again with the same value is not an error; providers.ErrConflict when
// the ID has another value or principal, or the value another ID.
func AddKey(ctx context.Context, path string, k ExistingKey, value secret.Value) error {
	if err := mapped(addKey(ctx, path, k, value)); err != nil {
		return fmt.Errorf("adding key %q: %w", outside.Text(k.KeyID, 128), err)
	}
	return nil
}

func addKey(ctx context.Context, path string, k ExistingKey, value secret.Value) error {
	plain := value.Reveal()
	defer clear(plain)
	id, ours := gatewayfile.ParseToken(string(plain))
	switch {
	case len(plain) == 0:
		return fmt.Errorf("%w: it is empty", providers.ErrInvalid)
	case ours && id != k.KeyID:
		return fmt.Errorf("%w: the key says that its ID is %q", providers.ErrInvalid, id)
	}
	r := gatewayfile.Record{
		ID: k.KeyID, Principal: k.Principal, Scopes: k.Scopes, State: key.Active,
		CreatedAt: k.CreatedAt.UTC(), ExpiresAt: k.ExpiresAt.UTC(), Imported: !ours,
	}
	if r.CreatedAt.IsZero() {
		r.CreatedAt = time.Now().UTC()
	}
	r.SetValue(plain)
	if what := r.Wrong(); what != "" {
		return fmt.Errorf("%w: %s", providers.ErrInvalid, what)
	}
	if err := gatewayfile.Create(ctx, path); err != nil {
		return err
	}
	return gatewayfile.ChangeKeys(ctx, path, func(f *gatewayfile.KeyFile) error {
		taken := slices.IndexFunc(f.Keys, func(r gatewayfile.Record) bool { return r.ID == k.KeyID })
		known := f.Index().Find(plain)
		switch {
		case taken < 0 && known == nil:
			f.Keys = append(f.Keys, r)
			return nil
		case known != nil && known.ID == k.KeyID && known.Principal == k.Principal:
			return gatewayfile.ErrUnchanged
		case known != nil:
			return fmt.Errorf("%w: the value is that of key %q of %q", providers.ErrConflict, known.ID, known.Principal)
		}
		return fmt.Errorf("%w: the ID is that of another key, of %q", providers.ErrConflict, f.Keys[taken].Principal)
	})
}
