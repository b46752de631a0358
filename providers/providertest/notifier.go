package providertest

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/providers"
)

// NotifierSetup is the world of a notifier.
type NotifierSetup struct {
	// Open opens a notifier whose receiver is Well, Ill, Telltale, Refusing, Throttling or Silent. What
	// the receiver understood so far is returned by got.
	Open func(t T, peer Peer) (n providers.Notifier, got func() []providers.Notification)
	// Local: the receiver is this process, which is always well.
	Local bool
}

// Notifier proves that a notifier keeps the promises of providers.Notifier.
func Notifier(t *testing.T, s NotifierSetup) {
	t.Helper()
	run(t, NotifierCases(s))
}

// NotifierCases are the promises of providers.Notifier.
func NotifierCases(s NotifierSetup) []Case {
	cases := []Case{
		{"a message arrives whole", func(t T) {
			for _, severity := range []providers.Severity{providers.Info, providers.Action, providers.Alert} {
				n, got := s.Open(t, Well)
				message := notification("m1")
				message.Severity = severity
				require.NoError(t, n.Notify(t.Context(), message))
				assert.Equal(t, []providers.Notification{message}, got())
			}
		}},
		{"a message without data arrives", func(t T) {
			n, got := s.Open(t, Well)
			message := notification("m1")
			message.Data = nil
			require.NoError(t, n.Notify(t.Context(), message))
			assert.Equal(t, []providers.Notification{message}, got())
		}},
		{"a repeated message keeps its ID", func(t T) {
			n, got := s.Open(t, Well)
			require.NoError(t, n.Notify(t.Context(), notification("m1")))
			require.NoError(t, n.Notify(t.Context(), notification("m1")))
			for _, m := range got() {
				assert.Equal(t, "m1", m.ID)
			}
			assert.NotEmpty(t, got())
		}},
		{"a message cannot forge another", func(t T) {
			n, got := s.Open(t, Well)
			message := notification("m1")
			message.Body = "\",\"id\":\"m2\"}\r\n\r\n{\"id\":\"m3\" id=m4\n"
			require.NoError(t, n.Notify(t.Context(), message))
			require.Len(t, got(), 1)
			assert.Equal(t, "m1", got()[0].ID)
		}},
		{"messages are sent at the same time", func(t T) {
			n, got := s.Open(t, Well)
			var all sync.WaitGroup
			for i := range 8 {
				all.Go(func() { assert.NoError(t, n.Notify(t.Context(), notification(fmt.Sprint(i)))) })
			}
			all.Wait()
			ids := map[string]bool{}
			for _, m := range got() {
				ids[m.ID] = true
			}
			assert.Len(t, ids, 8)
		}},
	}
	if s.Local {
		return cases
	}
	return append(cases, []Case{
		{"a message that did not arrive is an error, and may be sent again", func(t T) {
			for _, peer := range []Peer{Ill, Telltale} {
				n, _ := s.Open(t, peer)
				err := n.Notify(t.Context(), notification("m1"))
				require.Error(t, err)
				assert.False(t, final(err), "trouble that passes is no reason to give up")
				assertFit(t, err)
			}
		}},
		{"a receiver that refuses for good is told from one in trouble", func(t T) {
			n, _ := s.Open(t, Refusing)
			err := n.Notify(t.Context(), notification("m1"))
			require.Error(t, err)
			assert.True(t, final(err), "it wraps ErrInvalid or ErrDenied")
			assertFit(t, err)
		}},
		{"a receiver that is asked too often says so", func(t T) {
			n, _ := s.Open(t, Throttling)
			require.ErrorIs(t, n.Notify(t.Context(), notification("m1")), providers.ErrThrottled)
		}},
		{"a silent receiver costs no more than the deadline", func(t T) {
			n, _ := s.Open(t, Silent)
			ctx, returned := briefly(t)
			err := n.Notify(ctx, notification("m1"))
			returned()
			require.Error(t, err)
			assert.False(t, final(err))
		}},
		{"a cancelled message ends", func(t T) {
			n, _ := s.Open(t, Silent)
			ctx, returned := cancelledHalfway(t)
			err := n.Notify(ctx, notification("m1"))
			returned()
			require.Error(t, err)
			assert.False(t, final(err))
		}},
	}...)
}

// final tells whether trying again is no use.
func final(err error) bool {
	return errors.Is(err, providers.ErrInvalid) || errors.Is(err, providers.ErrDenied)
}

func notification(id string) providers.Notification {
	return providers.Notification{
		ID: id, Type: "dev.keyturn.gate.opened", Severity: providers.Action, Credential: "payments-api",
		Owner: "payments@example.com", Subject: "payments-api waits for an approval",
		Body: "The retiring key key-1 is quiet. Approve with:\n  keyturn approve payments-api --gate revoke\n",
		At:   time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC), Data: map[string]string{"gate": "revoke", "rotation": "r-1"},
	}
}
