package activities

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/patience"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
)

// Every effect goes one way: the lease (openForEffect), the facts of this moment, what policy says of them, the effect, and then
// its record and event. What stands in an input only says what is asked for.

// judgement is what an effect is judged by.
type judgement struct {
	// gather looks at issuer, store and, where that matters, consumers.
	gather func(context.Context) (policy.Facts, error)
	// may judges; it is pure.
	may func(policy.Facts) policy.Decision
	// kept is the ID of the key that consumers are sent to, or left with: empty for none.
	kept func(policy.Facts) string
}

// judge gathers the facts, and judges.
func (s *site) judge(ctx context.Context, j judgement) (policy.Facts, policy.Decision, error) {
	facts, err := j.gather(ctx)
	if err != nil {
		return facts, policy.Decision{}, err
	}
	return s.judgeBy(ctx, facts, j)
}

// judgeBy judges by facts of this moment, and, where they allow the effect, again with what a test of the key says that is kept.
// That nobody could test it is an error that passes.
func (s *site) judgeBy(ctx context.Context, facts policy.Facts, j judgement) (policy.Facts, policy.Decision, error) {
	d := j.may(facts)
	if !d.OK {
		return facts, d, nil
	}
	facts, err := s.tested(ctx, facts, j.kept(facts))
	if err == nil && s.stillJudged(facts) != nil { // the test took its time
		tests := facts.Tests
		facts, err = j.gather(ctx)
		facts.Tests = tests
	}
	if err != nil {
		return facts, policy.Decision{}, err
	}
	if d = j.may(facts); d.Reason == policy.KeyNotTested {
		return facts, d, errors.New(d.Message)
	}
	return facts, d, nil
}

// judgedFor is how long what was judged holds.
const judgedFor = 5 * time.Second

// stillJudged is asked right before an effect. When the process stood still, or waited for a lock, since the facts were gathered, the
// attempt that follows judges again.
func (s *site) stillJudged(facts policy.Facts) error {
	if age := s.now().Sub(facts.At); age > judgedFor {
		return fmt.Errorf("%s have passed since it was judged: judging again", age.Round(time.Second))
	}
	return nil
}

// testWithin bounds one test of a key before an effect, the time that a refusal gets to settle aside.
const testWithin = 30 * time.Second

// testable tells whether something can test a key.
func (s *site) testable() bool {
	_, can := s.issuer.(providers.SelfTester)
	return can || len(s.verify) > 0
}

// tested adds to the facts what a test of a key says right now. One that no test can be made of, since its value is in no store or
// nothing tests keys, gets none, nor does one that the issuer does not list as active: that is answer enough.
//
// A test may be a use of the key by the issuer's record. So what was seen of others' uses is noted before it, and until when
// the test may be one: whenever the process dies, a test is never taken for a consumer.
func (s *site) tested(ctx context.Context, facts policy.Facts, keyID string) (policy.Facts, error) {
	if _, done := facts.Tests[keyID]; done && s.stillJudged(facts) == nil || !s.triable(facts, keyID) {
		return facts, nil
	}
	defer s.beating(ctx)()
	if facts.Capabilities.ReportsUsage {
		var err error
		until, used := s.now().Add(testWithin+facts.Capabilities.ConsistentWithin).UTC(), facts.SeenUsed(keyID)
		note := func(mine *key.Owned) { mine.TestedUntil, mine.UsedAt = until, used }
		if facts.Metadata, err = s.amendKey(ctx, facts.Metadata, facts.Named(key.Ref{KeyID: keyID}), note); err != nil {
			return facts, fmt.Errorf("noting that key %s is tested: %w", keyID, err)
		}
	}
	return s.tried(ctx, facts, keyID)
}

// testedNowAndThen is tested for what waits and looks often: a test hides what consumers used the key for before it, until the issuer
// has told of uses after it. So it waits for that, and the last test counts until then.
func (s *site) testedNowAndThen(ctx context.Context, facts policy.Facts, keyID string) (policy.Facts, error) {
	mine, _ := facts.Metadata.Key(keyID)
	if s.now().Before(mine.TestedUntil.Add(keysWithin + facts.Capabilities.UsageLag)) {
		return facts, nil
	}
	return s.tested(ctx, facts, keyID)
}

// triable tells whether a test can be made of a key.
func (s *site) triable(facts policy.Facts, keyID string) bool {
	k, live := facts.Live(keyID)
	return live && k.State == key.Active && facts.Named(key.Ref{KeyID: keyID}).StoreVersion != "" && s.testable()
}

// tried is tested without a note of it.
func (s *site) tried(ctx context.Context, facts policy.Facts, keyID string) (policy.Facts, error) {
	if !s.triable(facts, keyID) {
		return facts, nil
	}
	ref := facts.Named(key.Ref{KeyID: keyID})
	bundle, err := s.read(ctx, ref, toTest)
	if err != nil {
		return facts, fmt.Errorf("reading version %s to test the key: %w", ref.StoreVersion, err)
	}
	defer bundle.Close()
	result, err := s.test(ctx, ref, bundle, facts.Capabilities.ConsistentWithin)
	if err != nil {
		return facts, err
	}
	facts.Tests = map[string]policy.Test{keyID: result}
	return facts, nil
}

// askedAgain is how long after a refusal a key is tried again, at an issuer that needs no time to settle.
const askedAgain = time.Second

// test tries a key in every way there is. A refusal counts when it lasts: an issuer may answer as before a change for a while, and
// whatever is before it may err for a moment, so that one refusal alone never counts. An error means that the activity ends.
func (s *site) test(ctx context.Context, ref key.Ref, bundle secret.Bundle, settling time.Duration) (policy.Test, error) {
	bounded, done := context.WithTimeout(ctx, testWithin+settling)
	defer done()
	for waiting := settle(settling, 1); ; {
		err := s.try(bounded, ref, bundle)
		switch {
		case err == nil:
			return policy.Test{Result: policy.TestPasses}, nil
		case ctx.Err() != nil:
			return policy.Test{}, ctx.Err()
		case !errors.Is(err, providers.ErrKeyRefused):
			return policy.Test{Result: policy.TestUnknown, Why: capText(err.Error())}, nil
		case waiting.over():
			return policy.Test{Result: policy.TestRefused, Why: capText(err.Error())}, nil
		}
		if err := patience.Pause(ctx, min(cmp.Or(settling, askedAgain), askedAgain)); err != nil {
			return policy.Test{}, err
		}
	}
}

// testOver notes, with another change of its record, that the test of a key that was made before is over.
func (s *site) testOver(mine *key.Owned) {
	if now := s.now().UTC(); mine.TestedUntil.After(now) {
		mine.TestedUntil = now
	}
}

// beating keeps the attempt alive until the returned function is called.
func (s *site) beating(ctx context.Context) (stop func()) {
	ctx, stop = context.WithCancel(ctx)
	go func() {
		for patience.Pause(ctx, heartbeatEvery) == nil {
			_ = s.counts(ctx) // whether the attempt still counts is asked before the effect
		}
	}()
	return stop
}

// prune drops a version, by facts of this moment; one that is gone is none to drop. What forbids it may be over when it is looked at
// again.
func (s *site) prune(ctx context.Context, version string) error {
	facts, d, err := s.judge(ctx, judgement{
		gather: func(ctx context.Context) (policy.Facts, error) { return s.facts(ctx, false) },
		may:    func(f policy.Facts) policy.Decision { return policy.MayPrune(s.spec.Credential, f, version) },
		kept:   func(policy.Facts) string { return "" },
	})
	switch {
	case err != nil:
		return err
	case !d.OK:
		return notYet(d.Message, 0)
	}
	return s.drop(ctx, facts, version)
}

// drop prunes a version as it was judged.
func (s *site) drop(ctx context.Context, judged policy.Facts, version string) error {
	if _, err := s.unchanged(ctx, judged, ""); err != nil {
		return err
	}
	if err := s.store.Prune(ctx, version); !errors.Is(err, providers.ErrNotFound) {
		return err
	}
	return nil
}

// forbidden is the error of an effect that policy does not let be.
func forbidden(ctx context.Context, d policy.Decision) error {
	refusing(ctx, d)
	return fmt.Errorf("%w: %s", ErrRefused, d.Message)
}
