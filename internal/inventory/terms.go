package inventory

import (
	"fmt"
)

func checkTerms(a at, c Credential, catalog Catalog) {
	for _, d := range []struct {
		field string
		value Duration
	}{
		{"rotateEvery", c.RotateEvery}, {"overlap", c.Overlap}, {"quietWindow", c.QuietWindow}, {"waveSoak", c.WaveSoak},
		{"waveTimeout", c.WaveTimeout}, {"disableSoak", c.DisableSoak}, {"expires", c.Expires},
	} {
		a.within(d.field, d.value, 0, maxTerm)
	}
	if c.RotateEvery <= 0 {
		a.wrong("rotateEvery", "is zero", "write how often the key shall be rotated, such as 90d")
	}
	if c.WaveTimeout <= 0 {
		a.wrong("waveTimeout", "is zero", "write how long a wave may take to converge, such as 15m")
	}
	checkSteps(a, c)
	both := c.Overlap + c.LongestCache() // the overlap begins when the caches have run out
	if c.RotateEvery > 0 && both >= c.RotateEvery {
		caches := ""
		if both > c.Overlap {
			caches = fmt.Sprintf(" and begins %s late for the caches", c.LongestCache())
		}
		a.wrong("overlap", fmt.Sprintf("is %s%s, not shorter than the cadence of %s", c.Overlap, caches, c.RotateEvery), "write a shorter overlap, or rotate less often")
	}
	if c.QuietWindow > c.Overlap {
		a.wrong("quietWindow", fmt.Sprintf("is %s, longer than the overlap of %s", c.QuietWindow, c.Overlap), "write a shorter quietWindow or a longer overlap")
	}
	if c.Expires > 0 && c.Expires <= both {
		a.wrong("expires", fmt.Sprintf("is %s, not longer than the overlap of %s: a key would end before its successor is in use", c.Expires, both), "write a longer life")
	}
	if c.Expires > 0 && c.Expires > both && c.Expires < c.RotateEvery {
		a.wrong("expires", fmt.Sprintf("is %s, shorter than the cadence of %s: a key would end before it is rotated", c.Expires, c.RotateEvery), "write a longer life, or rotate more often")
	}
	if issuer, ok := catalog.Lookup(RoleIssuer, c.Issuer.Type); ok {
		if issuer.ReportsUsage && c.QuietWindow.Std() < issuer.UsageLag {
			a.wrong("quietWindow", fmt.Sprintf("is %s, below the %s with which issuer type %s reports usage at best", c.QuietWindow, Duration(issuer.UsageLag), c.Issuer.Type),
				"write at least "+Duration(issuer.UsageLag).String())
		}
		if c.Expires > 0 && !issuer.CanExpire {
			a.wrong("expires", fmt.Sprintf("is set, and keys of issuer type %s cannot expire", c.Issuer.Type), "remove it")
		}
	}
	if b := c.ErrorBudget; b != nil {
		checkBudget(a, *b, len(c.Health))
	}
	for _, g := range []Gate{GateSignoff, GateRevoke} {
		if approval := c.Approvals.For(g); approval != nil {
			checkApproval(at{report: a.report, path: below(a.path, "approvals."+string(g))}, *approval)
		}
	}
}

func checkBudget(a at, b ErrorBudget, signals int) {
	if signals == 0 {
		a.wrong("errorBudget", "has no health signal to judge by", "declare one under health, or remove the budget")
	}
	if b.Ratio < 0 || b.Ratio > 1 {
		a.wrong("errorBudget.ratio", fmt.Sprintf("is %g", b.Ratio), "write a ratio from 0 to 1, such as 0.01")
	}
	a.within("errorBudget.window", b.Window, Duration(day)/24/60/60, 7*Duration(day))
	if b.MinTotal < 0 {
		a.wrong("errorBudget.minTotal", "is negative", "write the least number of requests for which a ratio means anything")
	}
	a.within("errorBudget.maxHold", b.MaxHold, Duration(day)/24/60/60, 90*Duration(day))
	if b.OnBreach != BreachRollback && b.OnBreach != BreachPause {
		a.wrong("errorBudget.onBreach", fmt.Sprintf("is %q", b.OnBreach), "write rollback or pause")
	}
}

func checkApproval(a at, approval Approval) {
	if approval.Count < 0 || approval.Count > 20 {
		a.wrong("count", fmt.Sprintf("is %d", approval.Count), "write how many people must approve, 0 to 20")
	}
	if approval.Trust != TrustSigned && approval.Trust != TrustAny {
		a.wrong("trust", fmt.Sprintf("is %q", approval.Trust), "write signed or any")
	}
	if approval.Trust == TrustSigned && approval.Count > 0 && len(approval.From) == 0 {
		a.wrong("from", "is missing, and signed approvals come from groups", "name groups of the worker configuration")
	}
	if approval.FourEyes && approval.Trust != TrustSigned {
		a.wrong("fourEyes", "is set, and the trust is "+string(approval.Trust)+": whoever approves may give any name", "write trust: signed, or remove it")
	}
	checkNames(a, "from", approval.From)
	a.within("requestExpires", approval.RequestExpires, 0, 90*Duration(day))
	a.within("approvalExpires", approval.ApprovalExpires, 0, 90*Duration(day))
}

// within refuses a duration beyond its bounds.
func (a at) within(field string, value, least, most Duration) {
	if value < least || value > most {
		a.wrong(field, "is "+value.String(), fmt.Sprintf("write a duration from %s to %s", least, most))
	}
}
