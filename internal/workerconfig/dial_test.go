package workerconfig_test

import (
	"context"
	"errors"
	"net"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/workerconfig"
)

// An address that nobody answers at holds up no other one of the same name.
func TestADeadAddressHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	ended := make(chan string, 2)
	live, peer := net.Pipe()
	t.Cleanup(func() { _ = peer.Close() })
	dial := func(ctx context.Context, address string) (net.Conn, error) {
		switch address {
		case "silent":
			<-ctx.Done()
			ended <- address
			return nil, ctx.Err()
		case "refuses":
			return nil, errors.New("refused")
		}
		return live, nil
	}
	for _, addresses := range [][]string{{"live"}, {"silent", "live"}, {"refuses", "live"}, {"silent", "refuses", "live"}} {
		conn, err := workerconfig.FirstOf(t.Context(), addresses, dial)
		require.NoError(t, err, addresses)
		assert.Equal(t, live, conn)
	}
	assert.Equal(t, []string{"silent", "silent"}, []string{<-ended, <-ended}, "what is not wanted any more is not gone on with")

	_, err := workerconfig.FirstOf(t.Context(), []string{"refuses", "refuses"}, dial)
	require.ErrorContains(t, err, "refused\nrefused")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = workerconfig.FirstOf(ctx, []string{"silent"}, dial)
	require.ErrorIs(t, err, context.Canceled)
}

// A connection that comes when another one was taken is closed.
func TestAConnectionThatComesTooLateIsClosed(t *testing.T) {
	t.Parallel()
	taken, late := net.Pipe()
	first, peer := net.Pipe()
	t.Cleanup(func() { _, _ = first.Close(), peer.Close() })
	conn, err := workerconfig.FirstOf(t.Context(), []string{"slow", "quick"}, func(ctx context.Context, address string) (net.Conn, error) {
		if address == "quick" {
			return first, nil
		}
		<-ctx.Done()
		return taken, nil
	})
	require.NoError(t, err)
	assert.Equal(t, first, conn)
	_, err = late.Read(make([]byte, 1))
	require.Error(t, err, "its other end sees that it was closed")
}
