package gateway

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/keyturn/keyturn/internal/gatewayfile"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/internal/strictyaml"
	"github.com/keyturn/keyturn/providers"
)

// issuer mints and revokes the keys of one principal. All its truth is in the files: two issuers, in two
// processes, are one.
type issuer struct {
	account   Account
	principal string
	now       func() time.Time
}

var (
	_ providers.Disabler   = (*issuer)(nil)
	_ providers.SelfTester = (*issuer)(nil)
)

func open(e providers.Environment, a Account, c Config) (*issuer, error) {
	for _, p := range slices.Concat(a.Problems(), c.Problems()) {
		return nil, fmt.Errorf("opening gateway: %w: %s", providers.ErrInvalid, problemText(p))
	}
	i := &issuer{account: a, principal: c.Principal, now: e.Now}
	if i.now == nil {
		i.now = time.Now
	}
	return i, nil
}

func problemText(p strictyaml.Problem) string { return p.Field + " " + p.What + "; write " + p.Write }

// Capabilities implements providers.Issuer.
func (i *issuer) Capabilities(ctx context.Context) (key.Capabilities, error) {
	return capabilities(i.account), ctx.Err()
}

// List implements providers.Issuer. Without a usage file that can be read there is no list: a key of
// which nobody knows whether it is in use must not look quiet.
func (i *issuer) List(ctx context.Context) ([]key.Info, error) {
	f, err := i.read(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing keys of %q: %w", i.principal, err)
	}
	usage, err := i.account.usage()
	if err != nil {
		return nil, fmt.Errorf("listing keys of %q: %w", i.principal, err)
	}
	infos := []key.Info{}
	for _, r := range f.Keys {
		if r.Principal == i.principal {
			info := infoOf(r)
			info.LastUsedAt, info.LastUsedBy = usage.Of(r)
			info.ReportedAt = usage.AsOf
			infos = append(infos, info)
		}
	}
	slices.SortStableFunc(infos, func(a, b key.Info) int { return a.CreatedAt.Compare(b.CreatedAt) })
	return infos, nil
}

func (i *issuer) read(ctx context.Context) (*gatewayfile.KeyFile, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	f, err := gatewayfile.ReadKeys(i.account.KeyFile)
	return f, mapped(err)
}

func (i *issuer) change(ctx context.Context, edit func(*gatewayfile.KeyFile) error) error {
	return mapped(gatewayfile.ChangeKeys(ctx, i.account.KeyFile, edit))
}

func infoOf(r gatewayfile.Record) key.Info {
	return key.Info{
		Principal: r.Principal, KeyID: r.ID, State: r.State,
		CreatedAt: r.CreatedAt, ExpiresAt: r.ExpiresAt, Token: r.Token,
	}
}

// Issue implements providers.Issuer. It knows tokens.
func (i *issuer) Issue(ctx context.Context, req providers.IssueRequest) (providers.Issued, error) {
	issued, err := i.issue(ctx, req)
	if err != nil {
		issued.Bundle.Close()
		return providers.Issued{}, fmt.Errorf("issuing key for %q: %w", i.principal, err)
	}
	return issued, nil
}

func (i *issuer) issue(ctx context.Context, req providers.IssueRequest) (providers.Issued, error) {
	now := i.now().UTC()
	switch {
	case req.Token == "":
		return providers.Issued{}, fmt.Errorf("%w: there is no token", providers.ErrInvalid)
	case req.Principal != "" && req.Principal != i.principal:
		return providers.Issued{}, fmt.Errorf("%w: this is the issuer of another principal than the one that is asked for", providers.ErrInvalid)
	case !req.ExpiresAt.IsZero() && !req.ExpiresAt.After(now):
		return providers.Issued{}, fmt.Errorf("%w: the key would have expired at %s", providers.ErrInvalid, req.ExpiresAt.UTC().Format(time.RFC3339))
	}
	id, value := gatewayfile.Mint()
	plain := []byte(value)
	defer clear(plain)
	r := gatewayfile.Record{
		ID: id, Principal: i.principal, Scopes: req.Scopes, State: key.Active,
		CreatedAt: now, ExpiresAt: req.ExpiresAt.UTC(), Token: req.Token,
	}
	r.SetValue(plain)
	issued := providers.Issued{Key: infoOf(r), Bundle: secret.Single(secret.New(plain))}
	return issued, i.change(ctx, func(f *gatewayfile.KeyFile) error {
		have := 0
		for _, k := range f.Keys {
			if k.Token == req.Token {
				return fmt.Errorf("%w: it minted key %s", providers.ErrTokenUsed, k.ID)
			}
			if k.Principal == i.principal {
				have++
			}
		}
		if slots := i.account.slots(); have >= slots {
			return fmt.Errorf("%w: %d of %d", providers.ErrSlotsFull, have, slots)
		}
		f.Keys = append(f.Keys, r)
		return nil
	})
}

// Identify implements providers.Issuer.
func (i *issuer) Identify(ctx context.Context, b secret.Bundle) (string, error) {
	r, err := i.find(ctx, b)
	if err != nil {
		return "", fmt.Errorf("identifying key of %q: %w", i.principal, err)
	}
	return r.ID, nil
}

// SelfTest implements providers.SelfTester: it judges as the gateway will with its next request.
func (i *issuer) SelfTest(ctx context.Context, b secret.Bundle) error {
	r, err := i.find(ctx, b)
	switch {
	case errors.Is(err, providers.ErrNotFound):
		err = fmt.Errorf("%w: it is no live key", providers.ErrKeyRefused)
	case err == nil && r.State == key.Disabled:
		err = fmt.Errorf("%w: key %s is disabled", providers.ErrKeyRefused, r.ID)
	case err == nil && r.Expired(i.now()):
		err = fmt.Errorf("%w: key %s has expired", providers.ErrKeyRefused, r.ID)
	}
	if err != nil {
		return fmt.Errorf("testing key of %q: %w", i.principal, err)
	}
	return nil
}

func (i *issuer) find(ctx context.Context, b secret.Bundle) (*gatewayfile.Record, error) {
	f, err := i.read(ctx)
	if err != nil {
		return nil, err
	}
	value, _ := b.Field(secret.ValueField)
	plain := value.Reveal()
	defer clear(plain)
	r := f.Index().Find(plain)
	if r == nil || r.Principal != i.principal {
		return nil, providers.ErrNotFound
	}
	return r, nil
}

// Disable implements providers.Disabler.
func (i *issuer) Disable(ctx context.Context, k key.Ref) error {
	return i.setState(ctx, "disabling", k, key.Disabled)
}

// Enable implements providers.Disabler.
func (i *issuer) Enable(ctx context.Context, k key.Ref) error {
	return i.setState(ctx, "enabling", k, key.Active)
}

func (i *issuer) setState(ctx context.Context, doing string, k key.Ref, state key.State) error {
	err := i.change(ctx, func(f *gatewayfile.KeyFile) error {
		at := f.Owned(i.principal, k.KeyID)
		switch {
		case at < 0:
			return providers.ErrNotFound
		case f.Keys[at].State == state:
			return gatewayfile.ErrUnchanged
		}
		f.Keys[at].State = state
		return nil
	})
	if err != nil {
		return fmt.Errorf("%s key %q of %q: %w", doing, k.KeyID, i.principal, err)
	}
	return nil
}

// Destroy implements providers.Issuer.
func (i *issuer) Destroy(ctx context.Context, k key.Ref) error {
	err := i.change(ctx, func(f *gatewayfile.KeyFile) error {
		at := f.Owned(i.principal, k.KeyID)
		if at < 0 {
			return gatewayfile.ErrUnchanged
		}
		f.Keys = slices.Delete(f.Keys, at, at+1)
		return nil
	})
	if err != nil {
		return fmt.Errorf("destroying key %q of %q: %w", k.KeyID, i.principal, err)
	}
	return nil
}
