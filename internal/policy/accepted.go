package policy

import (
	"time"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
)

// TestResult is what a test of a key says.
type TestResult string

// The results. Unknown is never taken for one of the others: there was no answer, or a server's error.
const (
	TestPasses  TestResult = "passes"
	TestRefused TestResult = "refused"
	TestUnknown TestResult = "unknown"
)

// Test is what a test of a key said, and, unless it passes, why.
type Test struct {
	Result TestResult
	Why    string
}

// accepted judges a key that consumers are sent to, or are left with when another one is taken away: the issuer lists it as
// active, it has not ended, nor is about to, and a test of it passes. Every effect that leaves consumers with a key asks it of
// the facts of that moment; reason is how the one who asks calls a key that is not accepted. A test that nobody could make holds
// what asks: KeyNotTested, which may pass.
func (f Facts) accepted(c inventory.Credential, keyID string, reason Reason) Decision {
	if d := f.notRefused(c, keyID, reason); !d.OK {
		return d
	}
	if t := f.Tests[keyID]; t.Result == TestUnknown {
		return refuse(KeyNotTested, "whether key %s works is not known: %s", keyID, t.Why)
	}
	return allow("key %s is active", keyID)
}

// notRefused is accepted for the way back to a key: there, a test that nobody could make holds nothing.
func (f Facts) notRefused(c inventory.Credential, keyID string, reason Reason) Decision {
	k, live := f.Live(keyID)
	switch t := f.Tests[keyID]; {
	case !live || k.State != key.Active:
		return refuse(reason, "key %s is not active at the issuer", keyID)
	case t.Result == TestRefused:
		return refuse(reason, "the issuer lists key %s as active, and a test of it is refused: %s", keyID, t.Why)
	}
	return f.lasts(c, k, reason)
}

// lasts judges whether a key has not ended, nor is about to.
func (f Facts) lasts(c inventory.Credential, k key.Info, reason Reason) Decision {
	if !k.ExpiresAt.IsZero() && !f.At.Before(beforeEnd(c, k.ExpiresAt)) {
		return refuse(reason, "key %s ends %s: nobody is sent to it, or left with it, so shortly before", k.KeyID, k.ExpiresAt.UTC().Format(time.RFC3339))
	}
	return allow("key %s lasts", k.KeyID)
}

// CurrentWorks judges whether the key in CURRENT, if it is one of ours, is active at the issuer: a rotation that ends well leaves
// consumers with one.
func CurrentWorks(f Facts) Decision {
	v, _ := f.Version(key.Current)
	keyID := v.KeyID
	for _, mine := range f.Metadata.Keys {
		if keyID == "" && v.ID != "" && mine.StoreVersion == v.ID { // its value is no live key any more
			keyID = mine.KeyID
		}
	}
	if k, _ := f.Live(keyID); keyID != "" && k.State != key.Active {
		return refuse(KeyNotWorking, "key %s, which is CURRENT, is not active at the issuer, so that whoever uses it is refused", keyID)
	}
	return allow("the key in CURRENT is active")
}

// beforeEnd is until when a key that ends by itself is relied on: bringing consumers to another one may take as long as
// a wave may.
func beforeEnd(c inventory.Credential, end time.Time) time.Time { return end.Add(-c.WaveTimeout.Std()) }

// expired: a key that the issuer no longer accepts needs no quiet window and no overlap.
func expired(k key.Info, at time.Time) bool { return !k.ExpiresAt.IsZero() && !at.Before(k.ExpiresAt) }

// OverlapEnds is when an overlap ends that would last until then: before either key does. A zero end is none.
func OverlapEnds(c inventory.Credential, until time.Time, ends ...time.Time) time.Time {
	for _, end := range ends {
		if last := beforeEnd(c, end); !end.IsZero() && last.Before(until) {
			until = last
		}
	}
	return until
}
