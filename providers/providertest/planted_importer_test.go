package providertest_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
)

func (i *buggyIssuer) Prepare(ctx context.Context) ([]string, error) {
	return i.Issuer.(providers.Importer).Prepare(ctx)
}

func (i *buggyIssuer) Import(ctx context.Context, r providers.ImportRequest, b secret.Bundle) (key.Info, error) {
	told := key.Info{Principal: "p", KeyID: r.KeyID, State: key.Active, CreatedAt: time.Now()}
	importer := i.Issuer.(providers.Importer)
	switch _, err := i.find(ctx, key.Ref{KeyID: r.KeyID}); {
	case i.bugs.importsNothing:
		b = secret.Single(secret.New([]byte("another value altogether, which nobody has")))
	case i.bugs.importsOver && err == nil:
		_ = i.Issuer.Destroy(ctx, key.Ref{KeyID: r.KeyID})
	case i.bugs.importsOnce && err == nil:
		return key.Info{}, providers.ErrConflict
	case i.bugs.importsLate:
		ctx = context.WithoutCancel(ctx)
	}
	info, err := importer.Import(ctx, r, b)
	switch {
	case i.bugs.importsAnything && errors.Is(err, providers.ErrInvalid):
		return told, nil
	case i.bugs.importTells && err != nil:
		v, _ := b.Field(secret.ValueField)
		return info, fmt.Errorf("%w: %s", err, v.Reveal())
	}
	return info, err
}
