package providertest_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/memory"
	"github.com/keyturn/keyturn/providers/providertest"
)

// Skip ends a case, as a test's does, without skipping the test that looks for bugs.
func (r *recorder) Skip(...any) { runtime.Goexit() }

type issuerBugs struct {
	tokenForgotten, tokenUnlisted, slotMore, disabledNeedsNoSlot, destroyOnce, destroyIsDisable, destroyNothing, destroysAll     bool
	disableNothing, enableDestroyed, listsDestroyed, newestFirst, hidesDisabled, selfTestAlways, identifiesAnything, identifyUse bool
	tellsKey, throttledIsPlain, throttledActs, deaf, actsWhenExpired, noExpiry, noUsage, usageOfAll, lateForever, closesBundle   bool
	anyPrincipal, sharedPrincipals, otherClock, datedWhenAsked, older, undated, usedLater, hidesRefusals                         bool
	importsNothing, importsOver, importsOnce, importsAnything, importTells, importsLate                                          bool
}

// buggyIssuer is memory's issuer with bugs.
type buggyIssuer struct {
	providers.Issuer
	w    *memory.World
	bugs issuerBugs
	n    atomic.Int32
}

func (i *buggyIssuer) ctx(ctx context.Context) context.Context {
	if i.bugs.actsWhenExpired || i.bugs.deaf {
		return context.WithoutCancel(ctx)
	}
	return ctx
}

func (i *buggyIssuer) refine(err error, b secret.Bundle) error {
	switch {
	case err != nil && i.bugs.tellsKey:
		v, _ := b.Field(secret.ValueField)
		return fmt.Errorf("%w: %s", err, v.Reveal())
	case errors.Is(err, providers.ErrThrottled) && i.bugs.throttledIsPlain:
		return errors.New("slow down")
	}
	return err
}

func (i *buggyIssuer) Issue(ctx context.Context, r providers.IssueRequest) (providers.Issued, error) {
	if i.bugs.tokenForgotten {
		n := i.n.Add(1)
		r.Token = fmt.Sprintf("%s/%d", r.Token, n)
	}
	if i.bugs.anyPrincipal {
		r.Principal = ""
	}
	if i.bugs.noExpiry {
		r.ExpiresAt = time.Time{}
	}
	issued, err := i.Issuer.Issue(i.ctx(ctx), r)
	if errors.Is(err, providers.ErrThrottled) && i.bugs.throttledActs {
		_, _ = i.Issuer.Issue(ctx, r)
	}
	if errors.Is(err, providers.ErrSlotsFull) {
		list, _ := i.Issuer.List(ctx)
		disabled := slices.ContainsFunc(list, func(k key.Info) bool { return k.State == key.Disabled })
		if i.bugs.slotMore || i.bugs.disabledNeedsNoSlot && disabled {
			b := i.w.AddKey("p", "beyond", time.Now())
			return providers.Issued{Key: key.Info{Principal: "p", KeyID: "beyond", State: key.Active, CreatedAt: time.Now()}, Bundle: b}, nil
		}
	}
	return issued, i.refine(err, secret.Bundle{})
}

func (i *buggyIssuer) Capabilities(ctx context.Context) (key.Capabilities, error) {
	can, err := i.Issuer.Capabilities(ctx)
	can.ReportsRefusals = true
	return can, err
}

func (i *buggyIssuer) List(ctx context.Context) ([]key.Info, error) {
	list, err := i.Issuer.List(ctx)
	for n := range list {
		switch {
		case i.bugs.tokenUnlisted:
			list[n].Token = ""
		case i.bugs.noUsage:
			list[n].LastUsedAt = time.Time{}
		case i.bugs.usageOfAll:
			list[n].LastUsedAt = time.Now()
		case i.bugs.usedLater && !list[n].LastUsedAt.IsZero():
			list[n].LastUsedAt = list[n].LastUsedAt.Add(time.Hour)
		case i.bugs.otherClock:
			list[n].ReportedAt = list[n].ReportedAt.Add(time.Hour)
		case i.bugs.datedWhenAsked:
			list[n].ReportedAt = time.Now()
		case i.bugs.older:
			list[n].ReportedAt = list[n].ReportedAt.Add(-time.Second * time.Duration(i.n.Add(1)))
		case i.bugs.undated:
			list[n].ReportedAt = time.Time{}
		}
	}
	if i.bugs.newestFirst {
		slices.Reverse(list)
	}
	if i.bugs.hidesDisabled {
		list = slices.DeleteFunc(list, func(k key.Info) bool { return k.State == key.Disabled })
	}
	if i.bugs.listsDestroyed {
		for _, e := range i.w.Happened(memory.OpDestroy) {
			list = append(list, key.Info{Principal: "p", KeyID: e.KeyID, State: key.Disabled})
		}
	}
	if i.bugs.lateForever && len(list) > 1 {
		list = list[:1]
	}
	return list, i.refine(err, secret.Bundle{})
}

func (i *buggyIssuer) Identify(ctx context.Context, b secret.Bundle) (string, error) {
	if i.bugs.identifyUse {
		_ = i.w.Use(b, "identify")
	}
	id, err := i.Issuer.Identify(ctx, b)
	if i.bugs.identifiesAnything && errors.Is(err, providers.ErrNotFound) {
		return "some-key", nil
	}
	return id, i.refine(err, b)
}

func (i *buggyIssuer) Destroy(ctx context.Context, k key.Ref) error {
	switch {
	case i.bugs.destroyNothing:
		return nil
	case i.bugs.destroyIsDisable:
		return i.Issuer.(providers.Disabler).Disable(ctx, k)
	case i.bugs.destroyOnce:
		if _, err := i.find(ctx, k); err != nil {
			return err
		}
	case i.bugs.destroysAll:
		list, _ := i.Issuer.List(ctx)
		for _, other := range list {
			_ = i.Issuer.Destroy(ctx, key.Ref{KeyID: other.KeyID})
		}
	case i.bugs.sharedPrincipals:
		_ = i.w.Issuer("q").Destroy(ctx, k)
	}
	return i.Issuer.Destroy(i.ctx(ctx), k)
}

func (i *buggyIssuer) find(ctx context.Context, k key.Ref) (key.Info, error) {
	list, err := i.Issuer.List(ctx)
	if err != nil {
		return key.Info{}, err
	}
	at := slices.IndexFunc(list, func(have key.Info) bool { return have.KeyID == k.KeyID })
	if at < 0 {
		return key.Info{}, providers.ErrNotFound
	}
	return list[at], nil
}

func (i *buggyIssuer) Disable(ctx context.Context, k key.Ref) error {
	if i.bugs.disableNothing {
		return nil
	}
	return i.Issuer.(providers.Disabler).Disable(ctx, k)
}

func (i *buggyIssuer) Enable(ctx context.Context, k key.Ref) error {
	err := i.Issuer.(providers.Disabler).Enable(ctx, k)
	if i.bugs.enableDestroyed && errors.Is(err, providers.ErrNotFound) {
		return nil
	}
	return err
}

func (i *buggyIssuer) SelfTest(ctx context.Context, b secret.Bundle) error {
	if i.bugs.closesBundle {
		defer b.Close()
	}
	err := i.Issuer.(providers.SelfTester).SelfTest(ctx, b)
	if i.bugs.selfTestAlways && errors.Is(err, providers.ErrKeyRefused) {
		return nil
	}
	return i.refine(err, b)
}

func TestIssuerSuiteFindsBugs(t *testing.T) {
	t.Parallel()
	cases := func(bugs issuerBugs) []providertest.Case {
		settings := memory.Strict()
		settings.ReportsRefusals = !bugs.hidesRefusals
		return providertest.IssuerCases(issuerIn(settings, func(w *memory.World, i providers.Issuer) providers.Issuer {
			return &buggyIssuer{Issuer: i, w: w, bugs: bugs}
		}))
	}
	planted(t, cases, map[string]issuerBugs{
		"issuing is not tied to the token":                 {tokenForgotten: true},
		"an orphan does not tell its token":                {tokenUnlisted: true},
		"a key more than slots":                            {slotMore: true},
		"a disabled key leaves its slot":                   {disabledNeedsNoSlot: true},
		"a key can be destroyed once only":                 {destroyOnce: true},
		"destroying is only disabling":                     {destroyIsDisable: true},
		"destroying does nothing":                          {destroyNothing: true},
		"destroying takes the other keys along":            {destroysAll: true},
		"destroying reaches another principal's keys":      {sharedPrincipals: true},
		"disabling does nothing":                           {disableNothing: true},
		"enabling a destroyed key succeeds":                {enableDestroyed: true},
		"destroyed keys are listed":                        {listsDestroyed: true},
		"the newest key comes first":                       {newestFirst: true},
		"disabled keys are not listed":                     {hidesDisabled: true},
		"a second key is never listed":                     {lateForever: true},
		"the self-test always passes":                      {selfTestAlways: true},
		"the self-test closes the bundle":                  {closesBundle: true},
		"any bundle is identified as some key":             {identifiesAnything: true},
		"identifying uses the key":                         {identifyUse: true},
		"an error tells the key":                           {tellsKey: true},
		"throttling is not told":                           {throttledIsPlain: true},
		"what was throttled happened":                      {throttledActs: true},
		"it does not honour its context":                   {deaf: true},
		"the end of a key is ignored":                      {noExpiry: true},
		"no use is reported":                               {noUsage: true},
		"a key that was never used has a last use":         {usageOfAll: true},
		"a key is minted for whatever principal is asked":  {anyPrincipal: true},
		"a report is dated by another clock than its uses": {otherClock: true},
		"a report has a use that comes after it":           {usedLater: true},
		"a report is as of when it is asked for":           {datedWhenAsked: true},
		"a report gets older":                              {older: true},
		"a report loses its time":                          {undated: true},
		"who is refused is not told, though it is said":    {hidesRefusals: true},
		"an imported key is accepted by nobody":            {importsNothing: true},
		"an import takes the place of another key":         {importsOver: true},
		"a key can be imported once only":                  {importsOnce: true},
		"an import takes whatever it is given":             {importsAnything: true},
		"the error of an import tells the key":             {importTells: true},
		"an import does not honour its context":            {importsLate: true},
	})
}

type targetBugs struct {
	nothing, disturbs, onlyFirst, wrongInstance, reachDelivers, closesKey, tellsKey, deaf, hidesFailure, purgesNothing, purgesLive, anyInstance, torn bool
	holdsAnything, holdsNothing, holdsDelivers, holdsUnknown                                                                                          bool
}

// buggyTarget is memory's target with bugs.
type buggyTarget struct {
	providers.Target
	w    *memory.World
	bugs targetBugs
	n    atomic.Int32
}

func (b *buggyTarget) Deliver(ctx context.Context, d providers.Delivery) error {
	n := b.n.Add(1)
	switch {
	case b.bugs.nothing, b.bugs.onlyFirst && n > 1:
		return nil
	case b.bugs.closesKey:
		defer d.Bundle.Close()
	case b.bugs.deaf:
		ctx = context.WithoutCancel(ctx)
	case b.bugs.torn:
		v, _ := d.Bundle.Field(secret.ValueField)
		half := secret.Single(secret.New(v.Reveal()[:v.Len()/2]))
		_ = b.Target.Deliver(ctx, providers.Delivery{Instance: d.Instance, Key: d.Key, Bundle: half})
		runtime.Gosched()
	case b.bugs.disturbs:
		_ = b.Target.Deliver(ctx, providers.Delivery{Instance: d.Instance, Bundle: secret.Single(secret.New([]byte("other")))})
	case b.bugs.wrongInstance:
		_ = b.Target.Deliver(ctx, providers.Delivery{Instance: "b", Key: d.Key, Bundle: d.Bundle})
	}
	err := b.Target.Deliver(ctx, d)
	switch {
	case err != nil && b.bugs.tellsKey:
		v, _ := d.Bundle.Field(secret.ValueField)
		return fmt.Errorf("%w: %s", err, v.Reveal())
	case b.bugs.hidesFailure && errors.Is(err, errNoRoute):
		return nil
	case b.bugs.anyInstance && errors.Is(err, providers.ErrNotFound):
		return nil
	}
	return err
}

func (b *buggyTarget) Reach(ctx context.Context, instance string) error {
	if b.bugs.reachDelivers {
		_ = b.Target.Deliver(ctx, providers.Delivery{Instance: instance, Bundle: secret.Single(secret.New([]byte("probe")))})
	}
	return b.Target.Reach(ctx, instance)
}

func (b *buggyTarget) Purge(ctx context.Context, instance string, k key.Ref) error {
	err := b.Target.(providers.Purger).Purge(ctx, instance, k)
	if b.bugs.purgesNothing && err == nil {
		return b.Target.Deliver(ctx, providers.Delivery{Instance: instance, Bundle: secret.Single(secret.New([]byte("one more")))})
	}
	if b.bugs.purgesLive && err != nil {
		return nil
	}
	return err
}

func (b *buggyTarget) Holds(ctx context.Context, d providers.Delivery) (bool, error) {
	if b.bugs.holdsDelivers {
		_ = b.Target.Deliver(ctx, d)
	}
	held, err := b.Target.(providers.Holder).Holds(ctx, d)
	switch {
	case err != nil && b.bugs.holdsUnknown:
		return false, nil
	case b.bugs.holdsAnything:
		return true, err
	case b.bugs.holdsNothing:
		return false, err
	}
	return held, err
}

func TestTargetSuiteFindsBugs(t *testing.T) {
	t.Parallel()
	cases := func(bugs targetBugs) []providertest.Case {
		return providertest.TargetCases(targetIn(func(w *memory.World, target providers.Target) providers.Target {
			return &buggyTarget{Target: target, w: w, bugs: bugs}
		}))
	}
	planted(t, cases, map[string]targetBugs{
		"a key is delivered in two parts":       {torn: true},
		"nothing is delivered":                  {nothing: true},
		"only the first key is delivered":       {onlyFirst: true},
		"a delivery passes by another key":      {disturbs: true},
		"a delivery goes to the wrong one, too": {wrongInstance: true},
		"reaching delivers":                     {reachDelivers: true},
		"it closes the caller's bundle":         {closesKey: true},
		"an error tells the key":                {tellsKey: true},
		"it does not honour its context":        {deaf: true},
		"an unreachable instance is no error":   {hidesFailure: true},
		"an unknown instance is no error":       {anyInstance: true},
		"purging leaves a copy":                 {purgesNothing: true},
		"purging the live key is no error":      {purgesLive: true},
		"any key is in place":                   {holdsAnything: true},
		"no key is ever in place":               {holdsNothing: true},
		"looking delivers":                      {holdsDelivers: true},
		"what cannot be looked at is no error":  {holdsUnknown: true},
	})
}

type purgerBugs struct {
	nothing, everybody, once, needsKey, hidesFailure, anyInstance, deaf bool
}

// buggyPurger is memory's purge hook with bugs.
type buggyPurger struct {
	providers.Purger
	bugs purgerBugs
	n    atomic.Int32
}

func (b *buggyPurger) Purge(ctx context.Context, instance string, k key.Ref) error {
	switch {
	case b.bugs.nothing, b.bugs.once && b.n.Add(1) > 1, b.bugs.needsKey && k.IsZero():
		return nil
	case b.bugs.everybody:
		_ = b.Purger.Purge(ctx, "b", k)
	case b.bugs.deaf:
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
	}
	err := b.Purger.Purge(ctx, instance, k)
	if b.bugs.hidesFailure && errors.Is(err, errNoRoute) || b.bugs.anyInstance && errors.Is(err, providers.ErrNotFound) {
		return nil
	}
	return err
}

func TestPurgerSuiteFindsBugs(t *testing.T) {
	t.Parallel()
	cases := func(bugs purgerBugs) []providertest.Case {
		return providertest.PurgerCases(purgerIn(func(p providers.Purger) providers.Purger { return &buggyPurger{Purger: p, bugs: bugs} }))
	}
	planted(t, cases, map[string]purgerBugs{
		"nothing is purged":                  {nothing: true},
		"others are purged, too":             {everybody: true},
		"only the first time counts":         {once: true},
		"without a key nothing is purged":    {needsKey: true},
		"an instance in trouble is no error": {hidesFailure: true},
		"an unknown instance is no error":    {anyInstance: true},
		"it does not honour its context":     {deaf: true},
	})
}
