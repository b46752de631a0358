package memory

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
)

// PrincipalSettings say what kind of issuer a principal has: one like AWS IAM has two Slots, no tokens, two
// Fields and a long UsageLag.
type PrincipalSettings struct {
	key.Capabilities
	// KnowsTokens: a token mints one live key. Otherwise each Issue mints another key.
	KnowsTokens bool
	// Objections are what CheckRights answers.
	Objections []string
	// DatesReports: key.Info has ReportedAt.
	DatesReports bool
	// ReportLag is how old the report of uses is, where that is more than UsageLag: nobody reports. A report never gets
	// older, so that it stands still when the lag grows.
	ReportLag time.Duration
	// ClockSkew is by how much the issuer's clock is ahead of the World's; below zero, behind. It tells all times by it.
	ClockSkew time.Duration
}

// Strict are the settings of an issuer that can do everything, at once.
func Strict() PrincipalSettings {
	return PrincipalSettings{
		KnowsTokens: true, DatesReports: true,
		Capabilities: key.Capabilities{
			Slots: 2, CanDisable: true, CanNarrow: true, CanExpire: true, ReportsUsage: true, ReportsRefusals: true,
		},
	}
}

type principal struct {
	name     string
	settings PrincipalSettings
	keys     []*issuedKey // destroyed ones, too
	reported time.Time    // until when uses are in the report
}

// issuedKey is one key, with all that ever happened to it.
type issuedKey struct {
	info    key.Info
	bundle  secret.Bundle
	scopes  []string
	changes []change
	uses    []use
}

// use is one use of a key.
type use struct {
	at            time.Time
	from, refused string
}

// change is a moment from which on a key has another state.
type change struct {
	at    time.Time
	state key.State
}

// destroyed is a state that no issuer tells.
const destroyed key.State = "destroyed"

// stateAt returns the key's state at a moment; "" before it was issued.
func (k *issuedKey) stateAt(at time.Time) key.State {
	state := key.State("")
	for _, c := range k.changes {
		if !c.at.After(at) {
			state = c.state
		}
	}
	return state
}

// state is the true state, whatever the issuer may still answer.
func (k *issuedKey) state() key.State { return k.changes[len(k.changes)-1].state }

func (k *issuedKey) live() bool { return k.state() != destroyed }

// SetPrincipal makes a principal, or changes the settings of one.
func (w *World) SetPrincipal(name string, s PrincipalSettings) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if p := w.principals[name]; p != nil {
		p.settings = s
		return
	}
	w.principals[name] = &principal{name: name, settings: s}
}

// AddKey makes a key that existed before keyturn, past slots and tokens. createdAt is when it was issued.
// It returns the key's value, which the caller owns.
func (w *World) AddKey(principal, keyID string, createdAt time.Time) secret.Bundle {
	w.mu.Lock()
	defer w.mu.Unlock()
	k := w.principals[principal].mint(createdAt.UTC(), keyID)
	w.note(w.now().UTC(), Event{Op: OpIssue, Principal: principal, KeyID: keyID})
	return copied(k.bundle)
}

// SetEnd has a key end by itself, by the issuer's clock.
func (w *World) SetEnd(principal, keyID string, at time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if k := w.principals[principal].liveKey(keyID); k != nil {
		k.info.ExpiresAt = at.UTC()
	}
}

func (p *principal) mint(at time.Time, keyID string) *issuedKey {
	fields := map[string]secret.Value{}
	for _, name := range p.fields() {
		fields[name] = secret.New([]byte("mem_" + rand.Text() + rand.Text()))
	}
	k := &issuedKey{
		info:    key.Info{Principal: p.name, KeyID: keyID, State: key.Active, CreatedAt: at},
		bundle:  secret.NewBundle(fields),
		changes: []change{{at, key.Active}},
	}
	p.keys = append(p.keys, k)
	return k
}

func (p *principal) fields() []string {
	if len(p.settings.Fields) == 0 {
		return []string{secret.ValueField}
	}
	return p.settings.Fields
}

// visible is the moment that reads show: the issuer answers late by as much as it may.
func (p *principal) visible(now time.Time) time.Time { return now.Add(-p.settings.ConsistentWithin) }

// find returns the key that a bundle holds, the latest one where a value came back, also a destroyed one; nil for none.
func (p *principal) find(b secret.Bundle) *issuedKey {
	own := b.Only(p.fields()...)
	for _, k := range slices.Backward(p.keys) {
		if k.bundle.Equal(own) {
			return k
		}
	}
	return nil
}

// liveKey returns a key by its ID; nil for a destroyed one.
func (p *principal) liveKey(id string) *issuedKey {
	for _, k := range p.keys {
		if k.info.KeyID == id && k.live() {
			return k
		}
	}
	return nil
}

// clock is what the issuer's clock shows at a moment.
func (p *principal) clock(at time.Time) time.Time { return at.Add(p.settings.ClockSkew) }

// report is until when uses are in what the issuer reports now.
func (p *principal) report(now time.Time) time.Time {
	if until := now.Add(-max(p.settings.UsageLag, p.settings.ReportLag)); until.After(p.reported) {
		p.reported = until
	}
	return p.reported
}

// accepts tells whether the issuer lets a key through that it shows at now.
func (p *principal) accepts(k *issuedKey, now time.Time) bool {
	expired := !k.info.ExpiresAt.IsZero() && !p.clock(now).Before(k.info.ExpiresAt)
	return k.stateAt(p.visible(now)) == key.Active && !expired
}

// keyOf returns the key that a bundle holds, of whatever principal. The World is locked.
func (w *World) keyOf(b secret.Bundle) (*principal, *issuedKey) {
	for _, p := range w.principals {
		if k := p.find(b); k != nil {
			return p, k
		}
	}
	return nil, nil
}

// Use uses a key as somebody called from. nil: it was accepted; providers.ErrKeyRefused: it was not. The
// attempt counts as a use unless the key is destroyed, or disabled where the issuer does not report refusals.
func (w *World) Use(b secret.Bundle, from string) error {
	return w.locked(func(now time.Time) error { return w.use(now, b, from) })
}

func (w *World) use(now time.Time, b secret.Bundle, from string) error {
	p, k := w.keyOf(b)
	if k == nil {
		return fmt.Errorf("%w: it is no key", providers.ErrKeyRefused)
	}
	state := k.stateAt(p.visible(now))
	if state == key.Active || state == key.Disabled && p.settings.ReportsRefusals {
		used := use{at: now, from: from}
		if !p.accepts(k, now) {
			used.refused = "refused"
		}
		k.uses = append(k.uses, used)
	}
	if !p.accepts(k, now) {
		return fmt.Errorf("%w: key %s", providers.ErrKeyRefused, k.info.KeyID)
	}
	return nil
}

// Accepts tells whether a request with a key would be accepted now, that of a destroyed one too.
func (w *World) Accepts(principal, keyID string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.principals[principal]
	return slices.ContainsFunc(p.keys, func(k *issuedKey) bool { return k.info.KeyID == keyID && p.accepts(k, w.now().UTC()) })
}

// Scopes returns what a key may do.
func (w *World) Scopes(principal, keyID string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if k := w.principals[principal].liveKey(keyID); k != nil {
		return slices.Clone(k.scopes)
	}
	return nil
}

// issuer serves one principal.
type issuer struct {
	w         *World
	principal string
}

// disabling is an issuer that can disable, too.
type disabling struct{ issuer }

var (
	_ providers.Issuer        = issuer{}
	_ providers.SelfTester    = issuer{}
	_ providers.RightsChecker = issuer{}
	_ providers.AuditLog      = issuer{}
	_ providers.Disabler      = disabling{}
)

func (i issuer) do(ctx context.Context, op Op, effect func(p *principal, now time.Time) error) error {
	return i.w.do(ctx, op, func(now time.Time) error {
		p := i.w.principals[i.principal]
		if p == nil {
			return fmt.Errorf("%w: principal %q", providers.ErrNotFound, i.principal)
		}
		return effect(p, now)
	})
}

// Capabilities implements providers.Issuer.
func (i issuer) Capabilities(ctx context.Context) (c key.Capabilities, err error) {
	err = i.do(ctx, OpCapabilities, func(p *principal, _ time.Time) error {
		c = p.settings.Capabilities
		return nil
	})
	return c, err
}

// List implements providers.Issuer.
func (i issuer) List(ctx context.Context) (list []key.Info, err error) {
	err = i.do(ctx, OpList, func(p *principal, now time.Time) error {
		for _, k := range p.keys {
			if state := k.stateAt(p.visible(now)); state != "" && state != destroyed {
				list = append(list, k.told(p, state, now))
			}
		}
		slices.SortStableFunc(list, func(a, b key.Info) int { return a.CreatedAt.Compare(b.CreatedAt) })
		return nil
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

// told is what the issuer tells of the key.
func (k *issuedKey) told(p *principal, state key.State, now time.Time) key.Info {
	info := k.info
	info.State, info.CreatedAt = state, p.clock(k.info.CreatedAt)
	if !p.settings.KnowsTokens {
		info.Token = ""
	}
	if !p.settings.ReportsUsage {
		return info
	}
	until := p.report(now)
	for _, u := range k.uses {
		if !u.at.After(until) {
			info.LastUsedAt, info.LastUsedBy = p.clock(u.at), u.from
		}
	}
	if p.settings.DatesReports {
		info.ReportedAt = p.clock(until)
	}
	return info
}

// Issue implements providers.Issuer.
func (i issuer) Issue(ctx context.Context, r providers.IssueRequest) (issued providers.Issued, err error) {
	err = i.do(ctx, OpIssue, func(p *principal, now time.Time) error {
		if err := p.mayIssue(r, now); err != nil {
			return err
		}
		k := p.mint(now, fmt.Sprintf("%s-key-%d", p.name, len(p.keys)+1))
		k.info.Token, k.info.ExpiresAt = r.Token, r.ExpiresAt.UTC()
		if p.settings.CanNarrow {
			k.scopes = slices.Clone(r.Scopes)
		}
		i.w.note(now, Event{Op: OpIssue, Principal: p.name, KeyID: k.info.KeyID, Token: r.Token})
		issued = providers.Issued{Key: k.told(p, key.Active, now), Bundle: copied(k.bundle)}
		return nil
	})
	if err != nil {
		issued.Bundle.Close()
		return providers.Issued{}, err
	}
	return issued, nil
}

func (p *principal) mayIssue(r providers.IssueRequest, now time.Time) error {
	switch {
	case r.Token == "":
		return fmt.Errorf("%w: there is no token", providers.ErrInvalid)
	case r.Principal != "" && r.Principal != p.name:
		return fmt.Errorf("%w: this is the issuer of another principal", providers.ErrInvalid)
	case !r.ExpiresAt.IsZero() && !p.settings.CanExpire:
		return fmt.Errorf("%w: keys cannot expire here", providers.ErrUnsupported)
	case !r.ExpiresAt.IsZero() && !r.ExpiresAt.After(p.clock(now)):
		return fmt.Errorf("%w: the key would have expired", providers.ErrInvalid)
	}
	live := 0
	for _, k := range p.keys {
		if !k.live() {
			continue
		}
		if p.settings.KnowsTokens && k.info.Token == r.Token {
			return fmt.Errorf("%w: it minted key %s", providers.ErrTokenUsed, k.info.KeyID)
		}
		live++
	}
	if slots := p.settings.Slots; slots > 0 && live >= slots {
		return fmt.Errorf("%w: %d of %d", providers.ErrSlotsFull, live, slots)
	}
	return nil
}

// Identify implements providers.Issuer.
func (i issuer) Identify(ctx context.Context, b secret.Bundle) (keyID string, err error) {
	err = i.do(ctx, OpIdentify, func(p *principal, now time.Time) error {
		k := p.find(b)
		if k == nil {
			return providers.ErrNotFound
		}
		if state := k.stateAt(p.visible(now)); state == "" || state == destroyed {
			return providers.ErrNotFound
		}
		keyID = k.info.KeyID
		return nil
	})
	if err != nil {
		return "", err
	}
	return keyID, nil
}

// Destroy implements providers.Issuer.
func (i issuer) Destroy(ctx context.Context, ref key.Ref) error {
	err := i.change(ctx, OpDestroy, ref, destroyed)
	if errors.Is(err, errNoKey) {
		return nil
	}
	return err
}

// Disable implements providers.Disabler.
func (i disabling) Disable(ctx context.Context, ref key.Ref) error {
	return i.change(ctx, OpDisable, ref, key.Disabled)
}

// Enable implements providers.Disabler.
func (i disabling) Enable(ctx context.Context, ref key.Ref) error {
	return i.change(ctx, OpEnable, ref, key.Active)
}

// errNoKey tells a missing key from a missing principal.
var errNoKey = fmt.Errorf("%w: no such key", providers.ErrNotFound)

func (i issuer) change(ctx context.Context, op Op, ref key.Ref, to key.State) error {
	return i.do(ctx, op, func(p *principal, now time.Time) error {
		k := p.liveKey(ref.KeyID)
		switch {
		case k == nil:
			return errNoKey
		case k.state() == to:
			return nil
		}
		k.changes = append(k.changes, change{now, to})
		i.w.note(now, Event{Op: op, Principal: p.name, KeyID: ref.KeyID})
		return nil
	})
}

// SelfTest implements providers.SelfTester.
func (i issuer) SelfTest(ctx context.Context, b secret.Bundle) error {
	return i.do(ctx, OpSelfTest, func(p *principal, now time.Time) error {
		if k := p.find(b); k == nil || !p.accepts(k, now) {
			return providers.ErrKeyRefused
		}
		return nil
	})
}

// CheckRights implements providers.RightsChecker.
func (i issuer) CheckRights(ctx context.Context, _ []string) (objections []string, err error) {
	err = i.do(ctx, OpCheckRights, func(p *principal, _ time.Time) error {
		objections = slices.Clone(p.settings.Objections)
		return nil
	})
	return objections, err
}

// Uses implements providers.AuditLog.
func (i issuer) Uses(ctx context.Context, ref key.Ref, since time.Time) (key.Uses, error) {
	uses := key.Uses{Teller: "the issuer's record"}
	err := i.do(ctx, OpUses, func(p *principal, now time.Time) error {
		var tally key.Tally
		for _, k := range p.keys {
			for _, u := range k.uses {
				at := p.clock(u.at)
				if k.info.KeyID == ref.KeyID && !u.at.After(p.report(now)) && !at.Before(since) {
					tally.Add(key.Use{KeyID: ref.KeyID, Action: "request", Source: u.from, Error: u.refused}, at)
				}
			}
		}
		uses.List, uses.Omitted = tally.List()
		uses.Outlives, uses.Deny = i.w.outlives, i.w.deny
		if lag := now.Sub(p.report(now)); lag > 0 {
			uses.Unseen = []string{fmt.Sprintf("Uses of the last %s may be missing.", lag)}
		}
		return nil
	})
	return uses, err
}

// UsedAt are the times of the uses of a key that its issuer tells of.
func (w *World) UsedAt(principal, keyID string) (times []time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.principals[principal]
	if p == nil {
		return nil
	}
	for _, k := range p.keys {
		for _, u := range k.uses {
			if k.info.KeyID == keyID && !u.at.After(p.report(w.now().UTC())) {
				times = append(times, p.clock(u.at))
			}
		}
	}
	return times
}

// SetOutliving says what the issuer tells of what outlives its keys, and the policy that ends that.
func (w *World) SetOutliving(what, deny string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.outlives, w.deny = what, deny
}
