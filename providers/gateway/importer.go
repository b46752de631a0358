package gateway

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/keyturn/keyturn/internal/gatewayfile"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
)

var _ providers.Importer = (*issuer)(nil)

// Prepare implements providers.Importer: it makes a missing key file, and with that a missing usage file, whose record begins now. A
// key file whose usage file alone is missing has a gateway that does not report, which nobody but that gateway can mend.
func (i *issuer) Prepare(ctx context.Context) (made []string, err error) {
	keyFile, usageFile := i.account.KeyFile, i.account.usageFile()
	if exists, err := exists(keyFile); exists || err != nil {
		return nil, err
	}
	// The usage file comes first, so that what is cut short in between is made by the next call.
	reported, err := exists(usageFile)
	if err == nil && !reported {
		_, err = gatewayfile.Report(ctx, usageFile, nil, func(string) bool { return true }, i.now().UTC())
		made = append(made, usageFile)
	}
	if err == nil {
		err = gatewayfile.Create(ctx, keyFile)
		made = append(made, keyFile)
	}
	if err != nil {
		return nil, fmt.Errorf("making the gateway's files: %w", err)
	}
	return made, nil
}

func exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Import implements providers.Importer.
func (i *issuer) Import(ctx context.Context, r providers.ImportRequest, b secret.Bundle) (key.Info, error) {
	if err := ctx.Err(); err != nil {
		return key.Info{}, fmt.Errorf("importing key of %q: %w", i.principal, err)
	}
	value, _ := b.Field(secret.ValueField)
	plain := value.Reveal()
	defer clear(plain)
	id, says := gatewayfile.ParseToken(string(plain))
	if r.KeyID != "" {
		id = r.KeyID
	} else if !says {
		return key.Info{}, fmt.Errorf("importing key of %q: %w: it does not say its ID, so that it needs one", i.principal, providers.ErrInvalid)
	}
	existing := ExistingKey{Principal: i.principal, KeyID: id, Scopes: r.Scopes, CreatedAt: i.now()}
	if err := AddKey(ctx, i.account.KeyFile, existing, value); err != nil {
		return key.Info{}, err
	}
	added, err := i.find(ctx, b)
	if err != nil {
		return key.Info{}, fmt.Errorf("importing key of %q: %w", i.principal, err)
	}
	return infoOf(*added), nil
}
