package patience

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"go.temporal.io/api/serviceerror"
)

func TestACallIsRepeatedWhileTheServerIsBusy(t *testing.T) {
	t.Parallel()
	troubles := map[string]struct {
		err   error
		calls int
	}{
		"the server limits what is asked":      {&serviceerror.ResourceExhausted{}, 3},
		"the server is starting":               {&serviceerror.Unavailable{}, 3},
		"the server did not answer in time":    {&serviceerror.DeadlineExceeded{}, 3},
		"the server dropped the call":          {&serviceerror.Canceled{}, 3},
		"the client did not wait any longer":   {context.DeadlineExceeded, 3},
		"its own workflow is not ready":        {serviceerror.NewMultiOperationExecution("could not be executed", []error{errors.New("aborted"), serviceerror.NewWorkflowNotReady("a task failed")}), 3},
		"the answer broke off":                 {&serviceerror.Internal{}, 3},
		"what was asked for is not there":      {&serviceerror.NotFound{}, 1},
		"trouble that asking again won't mend": {errors.New("no"), 1},
	}
	for name, trouble := range troubles {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			calls := 0
			_, err := Call(t.Context(), func() (int, error) {
				if calls++; calls == 3 {
					return 0, nil
				}
				return 0, trouble.err
			})
			assert.Equal(t, trouble.calls, calls)
			assert.Equal(t, trouble.calls == 1, err != nil)
		})
	}
}

func TestAnAnswerThatBreaksOffForEverIsTold(t *testing.T) {
	t.Parallel()
	calls := 0
	_, err := Call(t.Context(), func() (int, error) {
		calls++
		return 0, &serviceerror.Internal{}
	})
	assert.Error(t, err)
	assert.Equal(t, broken, calls)
}

func TestACallEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	calls := 0
	_, err := Call(ctx, func() (int, error) {
		calls++
		cancel()
		return 0, &serviceerror.Unavailable{}
	})
	assert.Error(t, err)
	assert.Equal(t, 1, calls)
}
