package activities

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"go.temporal.io/sdk/activity"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/outside"
	"github.com/keyturn/keyturn/internal/patience"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/providers"
)

// Account is an issuer account of the worker configuration, as far as workflows may know it.
type Account struct {
	Name string `json:"name"`
	Type string `json:"type"`
	// Quota: calls to it are bounded, and go to its own queue.
	Quota bool `json:"quota,omitempty"`
	// CanList: it can be scanned; Scan: the worker configuration asks Sweep to.
	CanList bool `json:"canList,omitempty"`
	Scan    bool `json:"scan,omitempty"`
}

// Accounts lists the issuer accounts of the worker configuration, by name. It calls nobody.
func (a *Activities) Accounts(context.Context) ([]Account, error) {
	config := a.Config()
	list := []Account{}
	for _, name := range slices.Sorted(maps.Keys(config.Accounts)) {
		account := config.Accounts[name]
		if d := a.descriptor(account.Type); d.Issuer != nil {
			list = append(list, Account{Name: name, Type: account.Type, Quota: account.Quota.PerSecond > 0, CanList: d.CanList(), Scan: account.Scan})
		}
	}
	return list, nil
}

func (a *Activities) descriptor(typ string) providers.Descriptor {
	o := opener{descriptors: a.Descriptors}
	return o.find(inventory.Provider{Type: typ})
}

// ScanCursor is where a scan of an account goes on: after Done principals of a page. The zero one is the begin.
type ScanCursor struct {
	Page string `json:"page,omitempty"`
	Done int    `json:"done,omitempty"`
}

// ScanAccountInput asks for some of an account's keys.
type ScanAccountInput struct {
	Account string     `json:"account"`
	From    ScanCursor `json:"from,omitzero"`
}

// ScanPage is some of an account's keys.
type ScanPage struct {
	Keys []policy.SeenKey `json:"keys,omitempty"`
	// OutOfBounds counts principals that no environment's bounds allow: their keys were not looked at.
	OutOfBounds int `json:"outOfBounds,omitempty"`
	// Next is where to go on; nil at the end.
	Next *ScanCursor `json:"next,omitempty"`
}

// keysAPage bounds an answer: some 300 KB.
const keysAPage = 1000

// longestOutside bounds a text that an issuer tells of a key.
const longestOutside = 120

// ScanAccount lists keys of an account, of every principal that the bounds of the worker configuration allow in
// some environment. It changes nothing, and needs no spec: what it tells are names.
func (a *Activities) ScanAccount(ctx context.Context, in ScanAccountInput) (ScanPage, error) {
	page, err := a.scan(ctx, in)
	if err != nil {
		return ScanPage{}, forTemporal(fmt.Errorf("scanning account %q: %w", in.Account, err))
	}
	return page, nil
}

func (a *Activities) scan(ctx context.Context, in ScanAccountInput) (ScanPage, error) {
	var out ScanPage
	config := a.Config()
	account, known := config.Accounts[in.Account]
	if !known {
		return out, fmt.Errorf("%w: the worker configuration has no such account", providers.ErrNotFound)
	}
	lister, can := account.Settings.(providers.Lister)
	if !can {
		return out, fmt.Errorf("%w: accounts of type %s cannot list all their keys", providers.ErrUnsupported, account.Type)
	}
	names, next, err := lister.Principals(ctx, in.From.Page)
	if err != nil {
		return out, err
	}
	for i, name := range names {
		if i < in.From.Done {
			continue
		}
		environments := config.EnvironmentsOf(name)
		if len(environments) == 0 {
			out.OutOfBounds++
			continue
		}
		keys, err := lister.Keys(ctx, name)
		if err != nil {
			return out, err
		}
		for _, k := range keys {
			k.LastUsedBy = outside.Text(k.LastUsedBy, longestOutside)
			out.Keys = append(out.Keys, policy.SeenKey{Account: in.Account, Type: account.Type, Info: k, Environments: environments})
		}
		activity.RecordHeartbeat(ctx)
		if len(out.Keys) >= keysAPage && i+1 < len(names) {
			out.Next = &ScanCursor{Page: in.From.Page, Done: i + 1}
			return out, nil
		}
	}
	if next != "" {
		out.Next = &ScanCursor{Page: next}
	}
	return out, nil
}

// SurveyInput asks what is true of credentials: of specs by value, or of those that are applied, by name.
type SurveyInput struct {
	Specs []inventory.SignedSpec `json:"specs,omitempty"`
	Named []Named                `json:"named,omitempty"`
	// ByName: no issuer and no store is looked at.
	ByName bool `json:"byName,omitempty"`
}

// Survey looks at the issuer and the store of each credential. One that cannot be looked at is told of with its
// problem; only the end of the activity's own time is an error. It changes nothing.
func (a *Activities) Survey(ctx context.Context, in SurveyInput) ([]policy.Declared, error) {
	var list []policy.Declared
	look := func(signed inventory.SignedSpec) error {
		d := a.claim(signed)
		if !in.ByName {
			d, _, _ = a.survey(ctx, signed, false)
		}
		list = append(list, d)
		activity.RecordHeartbeat(ctx)
		return ctx.Err()
	}
	for _, signed := range in.Specs {
		if err := look(signed); err != nil {
			return nil, err
		}
	}
	for _, n := range in.Named {
		signed, err := a.Applied.SpecIn(ctx, n)
		switch {
		case errors.Is(err, ErrLeft):
			continue // it was removed since it was listed
		case errors.Is(err, ErrSpec):
			list = append(list, policy.Declared{Inventory: n.Inventory, Credential: n.Credential, Problem: outside.Text(err.Error(), outside.MaxText/2)})
			continue
		case err != nil:
			return nil, forTemporal(err)
		}
		if err := look(signed); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// claim is what a spec says of itself. Whoever may write to the namespace may have sent it: until it is proved,
// that is for display.
func (a *Activities) claim(signed inventory.SignedSpec) policy.Declared {
	peek, err := signed.Peek()
	if err != nil {
		return policy.Declared{}
	}
	c := peek.Credential
	return policy.Declared{Inventory: peek.Inventory, Credential: c.Name, Account: c.Issuer.Account, RotateEvery: c.RotateEvery, Principals: a.principals(c.Issuer)}
}

// survey looks at one credential, and at its instances when wanted. The site is nil when its spec is refused.
func (a *Activities) survey(ctx context.Context, signed inventory.SignedSpec, instances bool) (d policy.Declared, s *site, facts policy.Facts) {
	d = a.claim(signed)
	s, err := a.openWithin(Rotation{Spec: signed})
	for look := 1; err == nil; look++ {
		facts, err = s.facts(ctx, instances)
		if err == nil || final(err) || look == looks {
			break
		}
		err = patience.Pause(ctx, a.PollEvery)
	}
	var run policy.Run
	if err == nil {
		run, err = a.run(ctx, s.spec.Credential.Name)
	}
	if err != nil {
		d.Problem = outside.Text(err.Error(), outside.MaxText/2)
		return d, s, facts
	}
	d.Principals, d.Standings, d.Running, d.Run = s.principals, facts.Standings(s.spec.Credential.Adopt), run.Running, run
	for _, standing := range d.Standings {
		d.KnowsCurrent = d.KnowsCurrent || standing == policy.StandingCurrent
	}
	return d, s, facts
}

// principals are those that an issuer's part of a credential names; none when it cannot be read.
func (a *Activities) principals(p inventory.Provider) []string {
	d := a.descriptor(p.Type)
	if d.Issuer == nil {
		return nil
	}
	config, is := d.Issuer.Config().(providers.IssuerConfig)
	if !is || p.Decode(config) != nil {
		return nil
	}
	return config.Principals()
}
