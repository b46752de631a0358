package policy

import (
	"slices"
	"strings"
	"time"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
)

// Readings are the samples of one health signal, oldest first. The first is the baseline: what went
// wrong before it is not held against the rotation.
type Readings []key.Sample

// Add appends a sample and forgets those that the window no longer needs: one at or before its
// begin is kept, to count from.
func (r Readings) Add(s key.Sample, window time.Duration) Readings {
	r = append(r, s)
	begin := s.At.Add(-window)
	for len(r) > 2 && !r[1].At.After(begin) {
		r = r[1:]
	}
	// A window that is long against the interval would keep many: thin out the middle.
	for len(r) > maxReadings {
		r = append(r[:1:1], r[2:]...)
	}
	return r
}

// Since forgets all of a signal that has not answered since then: it says nothing of now.
func (r Readings) Since(begin time.Time) Readings {
	if len(r) > 0 && r[len(r)-1].At.Before(begin) {
		return nil
	}
	return r
}

// maxReadings bounds what a watch carries from attempt to attempt.
const maxReadings = 60

// over counts errors and total within the readings.
func (r Readings) over() (errors, total float64) {
	last := r[len(r)-1]
	if last.Window > 0 {
		return last.Errors, last.Total
	}
	// A counter that falls was restarted: it counts from zero again.
	for i := 1; i < len(r); i++ {
		was, is := r[i-1], r[i]
		if is.Total < was.Total || is.Errors < was.Errors {
			was = key.Sample{}
		}
		errors += is.Errors - was.Errors
		total += is.Total - was.Total
	}
	return errors, total
}

// BudgetHolds judges the error budget over all signals added up. Only the reason BudgetBreached turns a
// rotation back; the
// reasons BudgetNoData and BudgetTooLittle mean that nothing can be said, which is not a breach.
func BudgetHolds(b inventory.ErrorBudget, signals []Readings) Decision {
	var errors, total float64
	seen := false
	for _, r := range signals {
		if len(r) == 0 || len(r) == 1 && r[0].Window == 0 {
			continue
		}
		seen = true
		e, t := r.over()
		errors, total = errors+e, total+t
	}
	switch {
	case !seen:
		return refuse(BudgetNoData, "no health signal has two readings yet")
	case total < float64(b.MinTotal):
		return refuse(BudgetTooLittle, "%.0f requests in the window, fewer than the %d that a ratio needs", total, b.MinTotal)
	case total > 0 && errors/total > b.Ratio:
		return refuse(BudgetBreached, "%.0f of %.0f requests failed in %s: %.2f%%, above the budget of %.2f%%",
			errors, total, b.Window, 100*errors/total, 100*b.Ratio)
	}
	return allow("%.0f of %.0f requests failed, within the budget of %.2f%%", errors, total, 100*b.Ratio)
}

// HadTraffic judges whether there were enough requests for the error budget to say something, whatever it says.
func HadTraffic(b inventory.ErrorBudget, signals []Readings) Decision {
	d := BudgetHolds(b, signals)
	if d.Reason == BudgetNoData || d.Reason == BudgetTooLittle {
		return d
	}
	return allow("%s", d.Message)
}

// Blind is the decision on health signals none of which answers: whether the change does harm is not known. silent says of each
// why it does not.
func Blind(silent []string) Decision {
	return refuse(BudgetBlind, "no health signal answers, so that nobody knows whether the change does harm: %s", strings.Join(silent, "; "))
}

// BothAccepted judges whether the issuer accepts the keys that a rotation goes on with: the incoming one, and the retiring one,
// unless keyturn itself takes it away. A zero ref is not judged.
func BothAccepted(c inventory.Credential, f Facts, retiring, incoming key.Ref) Decision {
	if why := f.refused(incoming); !incoming.IsZero() && why != "" {
		return refuse(IncomingNotLive, "the incoming key %s %s: whoever has it is refused", incoming.KeyID, why)
	}
	k, live := f.Live(retiring.KeyID)
	mine, recorded := f.Metadata.Key(retiring.KeyID)
	promoted, _ := f.Metadata.Key(incoming.KeyID) // before that keyturn takes no retiring key away, and may have no record of it
	taken := !mine.DisablingAt.IsZero() || !mine.DisabledAt.IsZero() ||
		!live && !recorded && !slices.Contains(c.Adopt, retiring.KeyID) && !promoted.PromotedAt.IsZero()
	why := f.refused(retiring)
	switch {
	case retiring.IsZero() || taken || why == "":
		return allow("the issuer accepts both keys")
	case live && !expired(k, f.At):
		return refuse(RetiringKeyDisabled, "the retiring key %s %s, and keyturn did not do that: whoever still has it is refused", retiring.KeyID, why)
	}
	return refuse(RetiringGone, "the retiring key %s %s: whoever still has it is refused, and there is no way back to it", retiring.KeyID, why)
}

// refused is why the issuer accepts a key no more, empty when it does.
func (f Facts) refused(ref key.Ref) string {
	k, live := f.Live(ref.KeyID)
	switch {
	case !live:
		return "is not at the issuer any more"
	case expired(k, f.At):
		return "ended " + k.ExpiresAt.UTC().Format(time.RFC3339)
	case k.State != key.Active:
		return "is not active at the issuer any more"
	}
	return ""
}
