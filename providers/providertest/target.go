package providertest

import (
	"context"
	"io/fs"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
)

// TargetSetup is the world of a target.
type TargetSetup struct {
	// Open makes a consumer with the instances "a" and "b", which have no key yet.
	Open func(t T) TargetWorld
}

// TargetWorld is a consumer, and what can be seen of it.
type TargetWorld struct {
	Target providers.Target
	// Read is what an instance reads as its key; "" for none. An error, unless there is none yet, means
	// that it could not start now.
	Read func(instance string) (string, error)
	// Mark is equal as long as an instance was not disturbed.
	Mark func(instance string) any
	// Mode is that of an instance's file, WantMode what it should be; nil where there are no files.
	Mode     func(instance string) fs.FileMode
	WantMode fs.FileMode
	// Break makes an instance unreachable; nil when that cannot be done.
	Break func(instance string)
	// Copies counts the keys that an instance keeps beside the one that it uses, and Mint makes a key that
	// Purge can tell from others; for a Purger.
	Copies func(instance string) int
	Mint   func(keyID string) secret.Bundle
	Faults
}

// Target proves that a target keeps the promises of providers.Target, and of Purger if it is one.
func Target(t *testing.T, s TargetSetup) {
	t.Helper()
	run(t, TargetCases(s))
}

// TargetCases are the promises of providers.Target, and of providers.Purger and providers.Holder where it is one.
func TargetCases(s TargetSetup) []Case {
	var cases []Case
	for _, c := range []struct {
		name string
		run  func(t T, w TargetWorld)
	}{
		{"an instance gets its key, and no other instance does", deliver},
		{"a delivery leads back again", deliverBack},
		{"delivering what is there disturbs nobody", deliverAgain},
		{"a reader sees the old key or the new one, whole", deliverAtomically},
		{"deliveries at once end with one of the keys, whole", deliverAtOnce},
		{"the key can be read by those who should, and by nobody else", deliverMode},
		{"to reach changes nothing", reach},
		{"what cannot be reached is an error, and the others get theirs", unreachable},
		{"the caller's bundle is left as it was", deliverKeepsBundle},
		{"a delivery whose reply got lost can be made again", deliverReplyLost},
		{"what is throttled has no effect and passes later", deliverThrottled},
		{"an ended context has no effect", deliverExpired},
		{"a delivery that is cancelled halfway ends, and can be made again", deliverInterrupted},
		{"copies of a retired key are purged, and the live key is not", purge},
		{"a target that can tells what is in place, and changes nothing", holds},
		{"no error tells a key", targetErrors},
	} {
		cases = append(cases, Case{c.name, func(t T) { c.run(t, s.Open(t)) }})
	}
	return cases
}

func delivery(t T, instance, keyID, value string) providers.Delivery {
	return providers.Delivery{
		Instance: instance, Key: key.Ref{Principal: "p", KeyID: keyID}, Bundle: bundleOf(t, secret.ValueField, value),
	}
}

func (w TargetWorld) give(t T, instance, keyID, value string) {
	t.Helper()
	require.NoError(t, w.Target.Deliver(t.Context(), delivery(t, instance, keyID, value)))
	w.has(t, instance, value)
}

func (w TargetWorld) has(t T, instance, want string) {
	t.Helper()
	got, err := w.Read(instance)
	require.NoError(t, err)
	assert.True(t, same(want, got), "instance %s does not have the key that it should", instance)
}

func deliver(t T, w TargetWorld) {
	w.give(t, "a", "k1", firstValue)
	w.has(t, "b", "")
	w.give(t, "b", "k2", secondValue)
	w.has(t, "a", firstValue)
}

func deliverBack(t T, w TargetWorld) {
	for range 2 {
		w.give(t, "a", "k1", firstValue)
		w.give(t, "a", "k2", secondValue)
	}
}

func deliverAgain(t T, w TargetWorld) {
	w.give(t, "a", "k1", firstValue)
	before := w.Mark("a")
	for range 3 {
		w.give(t, "a", "k1", firstValue)
	}
	assert.Equal(t, before, w.Mark("a"), "the instance was disturbed")
	w.give(t, "a", "k2", secondValue)
	assert.NotEqual(t, before, w.Mark("a"), "a mark that never changes proves nothing")
}

// wholes are two keys of different length, so that a mix of them is neither.
func wholes() [2]string {
	long := make([]byte, 200_000)
	for i := range long {
		long[i] = 'a' + byte(i%26)
	}
	return [2]string{string(long), firstValue}
}

func deliverAtomically(t T, w TargetWorld) {
	keys := wholes()
	w.give(t, "a", "k0", keys[0])
	stop := make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() {
		for {
			got, err := w.Read("a")
			if !assert.NoError(t, err, "at every moment there is a key") || //nolint:testifylint // no FailNow outside of the test's goroutine
				!assert.True(t, got == keys[0] || got == keys[1], "a mix") {
				return
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	for i := range 40 {
		require.NoError(t, w.Target.Deliver(t.Context(), delivery(t, "a", "k", keys[(i+1)%2])))
	}
	close(stop)
	reader.Wait()
}

func deliverAtOnce(t T, w TargetWorld) {
	keys := wholes()
	deliveries := []providers.Delivery{delivery(t, "a", "k0", keys[0]), delivery(t, "a", "k1", keys[1])}
	atOnce(8, func(i int) { assert.NoError(t, w.Target.Deliver(t.Context(), deliveries[i%2])) })
	got, err := w.Read("a")
	require.NoError(t, err)
	assert.True(t, got == keys[0] || got == keys[1], "a mix")
}

func deliverMode(t T, w TargetWorld) {
	if w.Mode == nil {
		skip(t, "the target writes no files")
		return
	}
	w.give(t, "a", "k1", firstValue)
	assert.Equal(t, w.WantMode, w.Mode("a"))
	w.give(t, "a", "k2", secondValue)
	assert.Equal(t, w.WantMode, w.Mode("a"))
}

func reach(t T, w TargetWorld) {
	require.NoError(t, w.Target.Reach(t.Context(), "a"))
	w.has(t, "a", "")
	w.give(t, "a", "k1", firstValue)
	before := w.Mark("a")
	require.NoError(t, w.Target.Reach(t.Context(), "a"))
	assert.Equal(t, before, w.Mark("a"))
	w.has(t, "a", firstValue)
}

func unreachable(t T, w TargetWorld) {
	if w.Break == nil {
		skip(t, "the setup cannot make an instance unreachable")
		return
	}
	w.Break("a")
	for _, err := range []error{w.Target.Reach(t.Context(), "a"), w.Target.Deliver(t.Context(), delivery(t, "a", "k1", firstValue))} {
		require.Error(t, err)
		assertFit(t, err, []byte(firstValue))
	}
	w.give(t, "b", "k1", firstValue)
}

func deliverKeepsBundle(t T, w TargetWorld) {
	d := delivery(t, "a", "k1", firstValue)
	before := copyOf(t, d.Bundle)
	require.NoError(t, w.Target.Deliver(t.Context(), d))
	assert.True(t, before.Equal(d.Bundle), "the caller closes the bundle, nobody else")
	d.Bundle.Close()
	w.has(t, "a", firstValue)
}

func deliverReplyLost(t T, w TargetWorld) {
	w.loseReply(t, OpDeliver, func() error { return w.Target.Deliver(t.Context(), delivery(t, "a", "k1", firstValue)) })
	w.has(t, "a", firstValue)
	before := w.Mark("a")
	w.give(t, "a", "k1", firstValue)
	assert.Equal(t, before, w.Mark("a"))
}

func deliverThrottled(t T, w TargetWorld) {
	w.give(t, "a", "k1", firstValue)
	w.throttled(t, OpDeliver, func() error { return w.Target.Deliver(t.Context(), delivery(t, "a", "k2", secondValue)) }, []byte(secondValue))
	w.has(t, "a", firstValue)
	w.give(t, "a", "k2", secondValue)
}

func deliverExpired(t T, w TargetWorld) {
	w.give(t, "a", "k1", firstValue)
	require.ErrorIs(t, w.Target.Deliver(expired(t), delivery(t, "a", "k2", secondValue)), context.Canceled)
	require.ErrorIs(t, w.Target.Reach(expired(t), "a"), context.Canceled)
	w.has(t, "a", firstValue)
}

func deliverInterrupted(t T, w TargetWorld) {
	w.give(t, "a", "k1", firstValue)
	w.interrupted(t, OpDeliver, func(ctx context.Context) error { return w.Target.Deliver(ctx, delivery(t, "a", "k2", secondValue)) })
	w.has(t, "a", firstValue)
	w.give(t, "a", "k2", secondValue)
}

func purge(t T, w TargetWorld) {
	p, ok := w.Target.(providers.Purger)
	if !ok || w.Copies == nil {
		skip(t, "the target keeps no copies")
		return
	}
	mint := func(keyID string) providers.Delivery {
		b := w.Mint(keyID)
		t.Cleanup(b.Close)
		return providers.Delivery{Instance: "a", Key: key.Ref{Principal: "p", KeyID: keyID, Fingerprint: b.Fingerprint()}, Bundle: b}
	}
	first, second := mint("k1"), mint("k2")
	holdsSecond := func() {
		t.Helper()
		v, _ := second.Bundle.Field(secret.ValueField)
		w.has(t, "a", string(v.Reveal()))
	}
	require.NoError(t, w.Target.Deliver(t.Context(), first))
	require.NoError(t, w.Target.Deliver(t.Context(), second))
	require.Equal(t, 1, w.Copies("a"))
	require.Error(t, p.Purge(t.Context(), "a", second.Key), "the live key")
	holdsSecond()
	for range 2 {
		require.NoError(t, p.Purge(t.Context(), "a", first.Key))
		assert.Zero(t, w.Copies("a"))
	}
	holdsSecond()
}

func holds(t T, w TargetWorld) {
	h, ok := w.Target.(providers.Holder)
	if !ok {
		skip(t, "the target cannot tell what is in place")
		return
	}
	first, second := delivery(t, "a", "k1", firstValue), delivery(t, "a", "k2", secondValue)
	is := func(d providers.Delivery, want bool) {
		t.Helper()
		before, _ := w.Read("a")
		got, err := h.Holds(t.Context(), d)
		require.NoError(t, err)
		assert.Equal(t, want, got, "key %s", d.Key.KeyID)
		w.has(t, "a", before)
	}
	is(first, false)
	w.give(t, "a", "k1", firstValue)
	mark := w.Mark("a")
	is(first, true)
	is(second, false)
	is(delivery(t, "b", "k1", firstValue), false)
	assert.Equal(t, mark, w.Mark("a"), "the instance was disturbed")
	w.give(t, "a", "k2", secondValue)
	is(first, false)
	is(second, true)
	_, err := h.Holds(expired(t), second)
	require.ErrorIs(t, err, context.Canceled)
	for _, instance := range []string{"nobody-knows-it", "../a"} {
		held, err := h.Holds(t.Context(), delivery(t, instance, "k1", firstValue))
		assert.False(t, held)
		require.Error(t, err, "instance %q", instance)
		assertFit(t, err, []byte(firstValue))
	}
}

func targetErrors(t T, w TargetWorld) {
	for _, instance := range []string{"nobody-knows-it", "../a", "", "a/b", "a\x00b", "a\nb"} {
		err := w.Target.Deliver(t.Context(), delivery(t, instance, "k1", firstValue))
		require.Error(t, err, "instance %q", instance)
		assertFit(t, err, []byte(firstValue))
		err = w.Target.Reach(t.Context(), instance)
		require.Error(t, err, "instance %q", instance)
		assertFit(t, err)
	}
}
