package awsaccount_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/awsaccount"
	"github.com/keyturn/keyturn/providers"
)

// paced is an account at an AWS that counts its calls, and answers with a status.
func paced(t *testing.T, perSecond float64, status int) (ask func(context.Context) error, calls *atomic.Int32) {
	t.Helper()
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLEOFAWORKER")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "the-key-of-the-worker")
	calls = new(atomic.Int32)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		calls.Add(1)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, "<GetCallerIdentityResponse><GetCallerIdentityResult/></GetCallerIdentityResponse>")
	}))
	t.Cleanup(server.Close)
	account := &awsaccount.Account{Region: "eu-central-1", Endpoint: server.URL}
	if perSecond > 0 {
		account.Pace(perSecond)
	}
	return func(ctx context.Context) error {
		c, err := account.Config(ctx)
		require.NoError(t, err)
		_, err = sts.NewFromConfig(c).GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
		return awsaccount.Error("asking", err)
	}, calls
}

const hourly = 1.0 / 3600 // nobody waits that long

func TestTheQuotaOfAnAccountCountsCalls(t *testing.T) {
	within := func(t *testing.T) context.Context {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		t.Cleanup(cancel)
		return ctx
	}
	t.Run("those beyond it are not sent", func(t *testing.T) {
		ask, calls := paced(t, hourly, http.StatusOK)
		require.NoError(t, ask(within(t)))
		err := ask(within(t))
		require.ErrorIs(t, err, providers.ErrThrottled)
		require.ErrorContains(t, err, "asking: throttled: the account's quota in the worker configuration lets no call through in time")
		assert.Equal(t, int32(1), calls.Load())
	})
	t.Run("the SDK's own attempts count", func(t *testing.T) {
		ask, calls := paced(t, hourly, http.StatusServiceUnavailable)
		require.ErrorIs(t, ask(within(t)), providers.ErrThrottled)
		assert.Equal(t, int32(1), calls.Load(), "of three that it makes")
	})
	t.Run("a second's worth goes at once", func(t *testing.T) {
		ask, calls := paced(t, 5, http.StatusOK)
		for range 5 {
			require.NoError(t, ask(within(t)))
		}
		assert.Equal(t, int32(5), calls.Load())
	})
	t.Run("without one there is no bound", func(t *testing.T) {
		ask, calls := paced(t, 0, http.StatusOK)
		for range 20 {
			require.NoError(t, ask(within(t)))
		}
		assert.Equal(t, int32(20), calls.Load())
	})
	t.Run("who waits is free to go", func(t *testing.T) {
		ask, calls := paced(t, hourly, http.StatusOK)
		require.NoError(t, ask(within(t)))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- ask(ctx) }()
		cancel()
		require.ErrorIs(t, <-ended, context.Canceled)
		assert.Equal(t, int32(1), calls.Load())
	})
}
