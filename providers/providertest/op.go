package providertest

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
)

// Op names a call, for the faults of a setup.
type Op string

// The calls of issuers, stores and targets.
const (
	OpList     Op = "list"
	OpIssue    Op = "issue"
	OpImport   Op = "import"
	OpIdentify Op = "identify"
	OpDestroy  Op = "destroy"
	OpDisable  Op = "disable"
	OpEnable   Op = "enable"
	OpSelfTest Op = "self-test"

	OpVersions    Op = "versions"
	OpRead        Op = "read"
	OpReadLabel   Op = "read-label"
	OpStage       Op = "stage"
	OpPromote     Op = "promote"
	OpPrune       Op = "prune"
	OpMetadata    Op = "metadata"
	OpPutMetadata Op = "put-metadata"

	OpDeliver Op = "deliver"
	OpReach   Op = "reach"
)

// Faults are what a setup can do to the calls of its system. One that is nil cannot be done, and what
// needs it is skipped.
type Faults struct {
	// LoseReply lets the next call of op take effect and return an error. Where it is nil the suite itself
	// throws the reply away.
	LoseReply func(op Op)
	// Throttle refuses the next call of op with providers.ErrThrottled, without effect.
	Throttle func(op Op)
	// Hang holds calls of op before their effect, until release.
	Hang func(op Op) (release func())
}

// loseReply makes a call whose caller never gets to know that it took effect.
func (f Faults) loseReply(t T, op Op, call func() error) {
	t.Helper()
	if f.LoseReply == nil {
		require.NoError(t, call(), "the reply that is then thrown away")
		return
	}
	f.LoseReply(op)
	require.Error(t, call(), "the reply got lost")
}

// throttled asserts that a call is refused, and passes the next time.
func (f Faults) throttled(t T, op Op, call func() error, secrets ...[]byte) {
	t.Helper()
	if f.Throttle == nil {
		skip(t, "the setup cannot throttle")
		return
	}
	f.Throttle(op)
	err := call()
	require.ErrorIs(t, err, providers.ErrThrottled, "%s", op)
	assertFit(t, err, secrets...)
}

// interrupted asserts that a call ends soon when its context is cancelled in the middle of it.
func (f Faults) interrupted(t T, op Op, call func(ctx context.Context) error) {
	t.Helper()
	if f.Hang == nil {
		skip(t, "the setup cannot hold a call")
		return
	}
	release := f.Hang(op)
	defer release()
	ctx, returned := cancelledHalfway(t)
	done := make(chan error, 1)
	go func() { done <- call(ctx) }()
	select {
	case err := <-done:
		returned()
		require.Error(t, err, "%s", op)
		require.ErrorIs(t, err, context.Canceled, "%s", op)
	case <-time.After(tooLate):
		release()
		<-done //nolint:errcheck // whatever it says now is too late
		require.Fail(t, "the call did not end with its context", "%s", op)
	}
}

// skip ends the case with a line that says why, where T can.
func skip(t T, why string) {
	if s, ok := t.(interface{ Skip(args ...any) }); ok {
		s.Skip(why)
	}
}

// expired is a context that has ended.
func expired(t T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

const (
	// grace is how much later than promised something may happen: on a busy machine it does, and more is a hang.
	grace = time.Minute
	// longestLag is how long the suite is ready to wait for one thing.
	longestLag = time.Minute
)

// eventually awaits a condition that the system promises to hold within some time.
func eventually(t T, within time.Duration, what string, holds func() bool) {
	t.Helper()
	wait := max(within/20, 5*time.Millisecond)
	for end := time.Now().Add(within + grace); !holds(); wait += wait / 4 {
		if time.Now().After(end) {
			require.Fail(t, what, "not within %s", within)
		}
		pause(wait)
	}
}

// pause lets time pass where time itself is what counts: so that ages differ, or to see that nothing
// happens any more.
func pause(d time.Duration) { <-time.After(d) }

// same compares secrets, which an assertion that prints both sides must not see.
func same(a, b string) bool { return a == b }

// bundleOf makes a bundle of names and values, which the test closes at its end.
func bundleOf(t T, pairs ...string) secret.Bundle {
	fields := map[string]secret.Value{}
	for pair := range slices.Chunk(pairs, 2) {
		fields[pair[0]] = secret.New([]byte(pair[1]))
	}
	b := secret.NewBundle(fields)
	t.Cleanup(b.Close)
	return b
}

// copyOf is a bundle that shares no memory with b.
func copyOf(t T, b secret.Bundle) secret.Bundle {
	var pairs []string
	for _, name := range b.Names() {
		v, _ := b.Field(name)
		pairs = append(pairs, name, string(v.Reveal()))
	}
	return bundleOf(t, pairs...)
}

// is tells whether err wraps one of the sentinels.
func is(err error, sentinels ...error) bool {
	return slices.ContainsFunc(sentinels, func(s error) bool { return errors.Is(err, s) })
}
