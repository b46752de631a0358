package gateway

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/keyturn/keyturn/internal/gatewayfile"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/outside"
	"github.com/keyturn/keyturn/providers"
)

var (
	_ providers.Lister = (*Account)(nil)
	_ providers.Prober = (*Account)(nil)
)

// pageOfPrincipals is how many principals a page has.
const pageOfPrincipals = 500

// Principals implements providers.Lister. A page is asked for by the last name of the one before.
func (a *Account) Principals(ctx context.Context, page string) (names []string, next string, err error) {
	f, err := a.read(ctx)
	if err != nil {
		return nil, "", fmt.Errorf("listing principals: %w", err)
	}
	for _, r := range f.Keys {
		if r.Principal > page {
			names = append(names, r.Principal)
		}
	}
	slices.Sort(names)
	if names = slices.Compact(names); len(names) > pageOfPrincipals {
		names = names[:pageOfPrincipals]
		next = names[pageOfPrincipals-1]
	}
	return names, next, nil
}

// Keys implements providers.Lister.
func (a *Account) Keys(ctx context.Context, principal string) ([]key.Info, error) {
	i := issuer{account: *a, principal: principal}
	return i.List(ctx)
}

func (a *Account) read(ctx context.Context) (*gatewayfile.KeyFile, error) {
	i := issuer{account: *a}
	return i.read(ctx)
}

func (a *Account) usage() (*gatewayfile.Usage, error) {
	u, err := gatewayfile.ReadUsage(a.usageFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading usage file %q: there is none; start the gateway, or correct the account's usageFile", a.usageFile())
	}
	return u, mapped(err)
}

// mapped is an error of the two files with the sentinel that activities know, where there is one. That a file is missing
// or malformed says nothing about keys, and may pass.
func mapped(err error) error {
	if errors.Is(err, gatewayfile.ErrOthersMayWrite) {
		return fmt.Errorf("%w: %w", providers.ErrDenied, err)
	}
	return err
}

// Files are those that a change replaces: each is of whoever did that last.
func (a *Account) Files() []string { return []string{a.KeyFile, a.UsageFile} }

// Probe implements providers.Prober: it reads both files, and sees whether the key file can be replaced.
func (a *Account) Probe(ctx context.Context, _ providers.Environment, _ providers.ProbeInput) (providers.Probed, error) {
	if _, err := a.read(ctx); err != nil {
		return providers.Probed{}, err
	}
	var probed providers.Probed
	if _, err := a.usage(); err != nil {
		probed.Lacks = append(probed.Lacks, fmt.Sprintf("%v: without it nobody knows whether a key is in use, and nothing is revoked", err))
	}
	if err := gatewayfile.TryKeys(ctx, a.KeyFile); err != nil {
		probed.Lacks = append(probed.Lacks, fmt.Sprintf("the key file is replaced in its folder %q, which user %d cannot do (%s): give the worker's user the right",
			filepath.Dir(a.KeyFile), os.Geteuid(), outside.Text(err.Error(), outside.MaxText)))
	}
	return probed, nil
}
