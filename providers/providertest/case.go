// Package providertest has one conformance suite for each interface of package providers. A provider's
// test describes how to set up its world and calls the suite; whoever passes keeps what the interface
// promises. Nothing here is linked into keyturn itself.
package providertest

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/outside"
)

// T is what a suite needs of *testing.T. It is an interface so that a suite can be run against planted
// bugs, and must fail.
type T interface {
	require.TestingT
	Helper()
	Cleanup(func())
	Context() context.Context
	TempDir() string
}

// Case is one promise of an interface, and the test of it.
type Case struct {
	Name string
	Run  func(t T)
}

// run runs the cases as subtests.
func run(t *testing.T, cases []Case) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) { c.Run(t) })
	}
}

// Peer is how the other side behaves.
type Peer string

// The behaviours. A setup imitates each as well as its system can.
const (
	// Well: it answers as it should.
	Well Peer = "well"
	// Ill: it answers that it has trouble, which will pass.
	Ill Peer = "ill"
	// Telltale: Ill, and its answer repeats what it was sent, at length and with control characters.
	Telltale Peer = "telltale"
	// Refusing: it understands and says no, to the key or to the request.
	Refusing Peer = "refusing"
	// Throttling: it is asked too often.
	Throttling Peer = "throttling"
	// Silent: it takes the request and never answers.
	Silent Peer = "silent"
)

const (
	// patience is the deadline of calls that nobody answers.
	patience = 100 * time.Millisecond
	// tooLate is how long after it a call returns that does not honour its context. Whatever ends a call besides must
	// take longer, so that a setup gives its provider a time-out of a minute or more.
	tooLate = 30 * time.Second
)

// briefly returns a context that ends soon, and a check that the call came back then.
func briefly(t T) (ctx context.Context, returned func()) {
	t.Helper()
	return within(t, patience)
}

// within is briefly with a deadline of one's own.
func within(t T, deadline time.Duration) (ctx context.Context, returned func()) {
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	t.Cleanup(cancel)
	begun := time.Now()
	return ctx, func() {
		t.Helper()
		assert.Less(t, time.Since(begun), deadline+tooLate, "a call ends with its context")
	}
}

// untilDue is like briefly, with a deadline that comes when due is called. That it is called is checked, too.
func untilDue(t T) (ctx context.Context, due, returned func()) {
	t.Helper()
	waits := untilDone{t.Context(), make(chan struct{})}
	var came time.Time
	due = sync.OnceFunc(func() { came = time.Now(); close(waits.done) })
	hung := time.AfterFunc(grace, due)
	t.Cleanup(func() { hung.Stop() })
	return waits, due, func() {
		t.Helper()
		assert.True(t, hung.Stop(), "what the deadline waits for happens")
		if assert.Error(t, waits.Err(), "the call waits for its deadline") {
			assert.Less(t, time.Since(came), tooLate, "a call ends with its context")
		}
	}
}

// untilDone is a context whose deadline has come when done is closed.
type untilDone struct {
	context.Context
	done chan struct{}
}

func (u untilDone) Done() <-chan struct{} { return u.done }

func (u untilDone) Err() error {
	select {
	case <-u.done:
		return context.DeadlineExceeded
	default:
		return nil
	}
}

// cancelledHalfway is like briefly, with a context that is cancelled in the middle of a call.
func cancelledHalfway(t T) (ctx context.Context, returned func()) {
	ctx, cancel := context.WithCancel(t.Context())
	stop := time.AfterFunc(patience, cancel)
	t.Cleanup(func() { stop.Stop(); cancel() })
	begun := time.Now()
	return ctx, func() {
		t.Helper()
		assert.Less(t, time.Since(begun), tooLate, "a call ends with its context")
	}
}

// assertFit asserts that an error may be shown: bounded, on one line for each thing that failed, and
// without the secrets.
func assertFit(t T, err error, secrets ...[]byte) {
	t.Helper()
	const own = 512 // bytes that a provider adds in its own words
	assert.LessOrEqual(t, len(err.Error()), outside.MaxText+own, "the outside world's part of an error is at most 1 KiB")
	for line := range strings.Lines(err.Error()) {
		at := strings.IndexFunc(strings.TrimSuffix(line, "\n"), func(r rune) bool { return !unicode.IsPrint(r) })
		assert.Equal(t, -1, at, "an error has no control characters")
	}
	for _, s := range secrets {
		if len(s) > 0 {
			assert.NotContains(t, err.Error(), string(s), "an error has no secret")
		}
	}
}
