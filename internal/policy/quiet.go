package policy

import (
	"time"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
)

// reportLate is by how much more than its lag an issuer's report of uses may be behind: a gateway restarts. Two clocks that nobody sets
// besides drift apart by clockDrift at most, for each unit of time.
const (
	reportLate = 5 * time.Minute
	clockDrift = 1.0 / 10000
)

// quiet judges whether it is known that nobody uses a key any more which consumers had before they got another one: since is when
// the last of them had that, and to its record. RetiringNotQuiet passes with time, UsageStale when the issuer's reports go on.
func (f Facts) quiet(c inventory.Credential, k key.Info, since time.Time, to key.Owned) Decision {
	if d := f.upToDate(k, to.AttestedAt, to.AttestedReport); !d.OK {
		return d
	}
	if until := f.quietUntil(c, k, since, to.AttestedReport); f.At.Before(until) {
		by := ""
		if k.LastUsedBy != "" {
			by = ", by " + k.LastUsedBy
		}
		return refuse(RetiringNotQuiet, "key %s must be quiet for %s, so until %s at least (last used %s%s)",
			k.KeyID, inventory.Duration(quietWindow(c, f)), until.UTC().Format(time.RFC3339), ago(k.LastUsedAt), by)
	}
	return allow("key %s is quiet", k.KeyID)
}

// quietUntil is until when such a key has to be watched at least. The window counts from since by our clock, and what is used in it
// takes the issuer's lag to be told. The last use is held against the report that tells of it, both by the reporter's clock, whatever
// ours says: a report that is hours old proves nothing of these hours. One that has no time of its own counts as old as the lag, from
// when it was asked for. reported is what the report's time was when the last of them had the other key.
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

// upToDate judges whether the issuer's report of uses goes on. The reporter's clock may be another than ours: so its times are held
// against a moment of which both are known, at by ours and reported by the reporter's; zero when none is. Where the two clocks agree
// now, a report of now is one, whatever they said then: a clock may have been set.
func (f Facts) upToDate(k key.Info, at, reported time.Time) Decision {
	if !f.Capabilities.ReportsUsage || k.ReportedAt.IsZero() {
		return allow("the issuer does not say as of when it reports uses")
	}
	looked := f.At.Add(-f.LookedFor)
	behind := looked.Sub(k.ReportedAt).Abs()
	if !at.IsZero() && !reported.IsZero() {
		since := looked.Sub(at)
		// One that went on for longer than the time between was set: whether it goes on, that time does not tell.
		behind = min(behind, max((since-k.ReportedAt.Sub(reported)).Abs()-time.Duration(float64(since)*clockDrift), 0))
	}
	if behind > f.Capabilities.UsageLag+reportLate {
		return refuse(UsageStale, "the issuer's report of uses is as of %s, by its own clock, and has not gone on as it should: whether anybody uses key %s since is not known. See that the gateways which report can write",
			k.ReportedAt.UTC().Format(time.RFC3339), k.KeyID)
	}
	return allow("the issuer reports uses until now")
}

// Reported is as of when the issuer told the facts' uses, by its own clock; zero where its reports have no time.
func (f Facts) Reported() time.Time {
	var at time.Time
	for _, k := range f.Keys {
		at = latest(at, k.ReportedAt)
	}
	return at
}
