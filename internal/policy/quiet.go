package policy

import (
	"time"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
)

// quietUntil is until when a key has to be watched at least, which consumers had before they got another one, until it is known
// that nobody uses it any more: since is when the last of them had the other one, reported what the issuer's report of uses
// was then.
//
// The window counts from there by our clock, and what is used in it takes the issuer's lag to be told. The last use is held
// against the report that tells of it, both by the reporter's clock, whatever ours says: a report that is hours old proves
// nothing of these hours. One that has no time of its own counts as old as the lag, from when it was asked for.
func (f Facts) quietUntil(c inventory.Credential, k key.Info, since, reported time.Time) time.Time {
	window, lag := c.QuietWindow.Std(), f.Capabilities.UsageLag
	until := since.Add(window + lag)
	if !f.Capabilities.ReportsUsage {
		return until
	}
	last := k.LastUsedAt
	report := f.At.Add(-f.LookedFor - lag)
	if !k.ReportedAt.IsZero() {
		last, report = latest(last, reported), k.ReportedAt
	}
	if last.IsZero() {
		return until
	}
	return latest(until, f.At.Add(last.Add(window).Sub(report)))
}

// Reported is as of when the issuer told the facts' uses, by its own clock; zero where its reports have no time.
func (f Facts) Reported() time.Time {
	var at time.Time
	for _, k := range f.Keys {
		at = latest(at, k.ReportedAt)
	}
	return at
}
