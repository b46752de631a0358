package activities

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/key"
)

func TestWhatAnAttemptReadsAgainIsOnRecordOnce(t *testing.T) {
	t.Parallel()
	var said []string
	var failing error
	r := &reads{record: func(_ context.Context, id string, _ key.Ref, _ map[string]string) error {
		if failing == nil {
			said = append(said, id)
		}
		return failing
	}}
	ctx := ByProgram(t.Context(), key.LeaseOfImport, "run")
	tell := func(version string, why purpose) error {
		return r.tell(ctx, key.Ref{StoreVersion: version}, version, why)
	}

	failing = errors.New("no space left on device")
	require.ErrorIs(t, tell("v1", toTest), failing, "what cannot be recorded is not read")
	failing = nil
	for range 2 {
		require.NoError(t, tell("v1", toTest))
		require.NoError(t, tell("v1", toDeliver))
		require.NoError(t, tell("v2", toTest))
	}
	assert.Equal(t, []string{"run//1/test/v1", "run//1/delivery/v1", "run//1/test/v2"}, said)
}
