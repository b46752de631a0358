package policy

import (
	"fmt"
	"strings"
	"time"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
)

// freshFrom is when no declared cache has the key any more that consumers had before they got another one.
func freshFrom(c inventory.Credential, converged time.Time) time.Time {
	if converged.IsZero() {
		return converged
	}
	return converged.Add(c.LongestCache().Std())
}

// overlapEnd is when the overlap has passed: it begins when the caches have run out.
func overlapEnd(c inventory.Credential, incoming key.Owned) time.Time {
	return freshFrom(c, incoming.PromotedAt).Add(c.Overlap.Std())
}

// forgotten judges whether consumers can still go on with a key, from a cache or in a run of a batch job that began with
// it, after another one was delivered to them: delivered is when that began, and it may have taken as long as a wave may.
func forgotten(c inventory.Credential, f Facts, away key.Ref, delivered time.Time) Decision {
	lasts := (c.LongestCache() + c.LongestBatch()).Std() // a run may begin with what a cache has
	if until := delivered.Add(c.WaveTimeout.Std() + lasts); lasts > 0 && f.At.Before(until) {
		return refuse(CachesNotOver, "caches and runs of batch jobs may have key %s until %s", away.KeyID, until.UTC().Format(time.RFC3339))
	}
	return allow("no cache has key %s any more", away.KeyID)
}

// tooShort refuses an overlap in which a run of a batch job does not end.
func tooShort(c inventory.Credential) []Decision {
	var no []Decision
	for _, consumer := range c.Consumers {
		if consumer.LongestRun > c.Overlap {
			no = append(no, refuse(OverlapTooShort, "a run of %s may last %s, and the overlap is %s: a run that began with the retiring key would be cut off; ask for an overlap of at least %s",
				consumer.Name, consumer.LongestRun, c.Overlap, consumer.LongestRun))
		}
	}
	return no
}

// tellsLate refuses a wave that is over before the issuer may have reported a use of the key, where that report is the attestation:
// each rotation would turn back.
func tellsLate(c inventory.Credential, f Facts) []Decision {
	var no []Decision
	lag := f.Capabilities.UsageLag
	for _, consumer := range c.Consumers {
		if c.AttestsByUsage(consumer) && c.WaveTimeout.Std() <= lag {
			no = append(no, refuse(WaveBelowLag, "waveTimeout is %s, and %s is attested by the issuer account's report of uses, which is up to %s late: ask for more than that",
				c.WaveTimeout, consumer.Name, inventory.Duration(lag)))
		}
	}
	return no
}

// notParted says which waves get the key all at once though the policy has steps.
func notParted(c inventory.Credential, plan Plan) []string {
	if len(c.WaveSteps) == 0 {
		return nil
	}
	for _, w := range plan.Waves {
		if w.ByPromotion && w.Name == inventory.RestWave {
			return []string{fmt.Sprintf("waveSteps do not part those who read the store by themselves: promoting gives the key to all %d of them at once", len(w.Instances))}
		}
	}
	return nil
}

// seldomSeen says which batch jobs are a canary whose soak may not see them run.
func seldomSeen(c inventory.Credential) (w []string) {
	for _, consumer := range c.Consumers {
		if consumer.Wave == inventory.CanaryWave && consumer.IsBatch() {
			w = append(w, fmt.Sprintf("%s is a batch job in the canary wave: whether it works with the incoming key is seen only if it runs in the wave's soak", consumer.Name))
		}
	}
	return w
}

// Missed judges whether somebody used a key since keyturn disabled it, and is refused now: whom nobody declared, or a
// consumer that has it again. An issuer that lost its record of uses may report one that was none. With UsageStale that is not known,
// until its reports go on.
func Missed(f Facts, disabled key.Ref) Decision {
	k, live := f.Live(disabled.KeyID)
	owned, _ := f.Metadata.Key(disabled.KeyID)
	since := owned.DisablingAt
	if since.IsZero() { // somebody else disabled it, and keyturn found it so
		since = owned.DisabledAt
	}
	misused := !f.notExposed(disabled.KeyID).OK // who uses it is not who should have it back
	if !live || k.State != key.Disabled || since.IsZero() || !f.Capabilities.ReportsUsage || misused {
		return allow("nobody is known to miss key %s", disabled.KeyID)
	}
	if !owned.DisablingReport.IsZero() && !k.ReportedAt.IsZero() {
		since = owned.DisablingReport // the reporter's clock is not ours
	}
	// What was used right before is reported late, by a clock that may run ahead.
	if since := since.Add(clockGrain); k.LastUsedAt.After(since) {
		by := ""
		if k.LastUsedBy != "" {
			by = " by " + k.LastUsedBy
		}
		return refuse(RetiringMissed, "key %s was used%s at %s, after it was disabled, by what the issuer reports: a consumer that went back to it, or somebody whom the inventory does not name, still needs it",
			disabled.KeyID, by, k.LastUsedAt.UTC().Format(time.RFC3339))
	}
	if d := f.upToDate(k, owned.DisablingAt, owned.DisablingReport); !d.OK {
		return d
	}
	return allow("key %s was not used since it was disabled", disabled.KeyID)
}

// tellsMissed tells whether an issuer shows who uses a key that it has disabled.
func tellsMissed(c key.Capabilities) bool { return c.CanDisable && c.ReportsRefusals }

// maxListed bounds the instances that a sentence names.
const maxListed = 12

// listed names instances, and says how many more there are.
func listed(names []string) string {
	if len(names) <= maxListed {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:maxListed], ", "), len(names)-maxListed)
}
