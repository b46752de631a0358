package activities_test

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/memory"
)

// Whoever is asked comes from the message to the run by one click, where the worker knows where its Web UI is.
func TestAMessageLinksToItsRun(t *testing.T) {
	t.Parallel()
	for web, want := range map[string]string{
		"": "Approve with: keyturn approve payments-api",
		"https://temporal.internal/": "Approve with: keyturn approve payments-api\n" +
			"See https://temporal.internal/namespaces/default-test-namespace/workflows/rotation%2Fpayments-api/default-test-run-id",
	} {
		c := newCase(t)
		c.do.Config().WebUI, c.do.Namespace = web, "default-test-namespace"
		c.execute("Notify", activities.NotifyInput{Rotation: c.subject(), Message: activities.Message{What: "gate-revoke", Severity: "action", Body: "Approve with: keyturn approve payments-api", At: c.now()}}, nil)
		told := c.world.Notifications()
		require.Len(t, told, 1)
		assert.Equal(t, want, told[0].Body)
		assert.Equal(t, "rotation/payments-api", told[0].Data["workflow"])
	}
}

// A receiver that says when it wants to be asked again is asked then, and no later than a minute after.
func TestAReceiverIsAskedAgainWhenItSays(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		says, after time.Duration
	}{
		"it says nothing":        {0, 0},
		"it says when":           {20 * time.Second, 20 * time.Second},
		"it says: in many hours": {5 * time.Hour, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCase(t)
			c.world.Fail(memory.OpNotify, providers.Later(errors.New("too many messages"), x.says), 1)
			err := c.attempt("Notify", activities.NotifyInput{Rotation: c.subject(), Message: activities.Message{What: "paused", Severity: "alert", At: c.now()}}, nil, 1)
			var failed *temporal.ApplicationError
			require.ErrorAs(t, err, &failed)
			assert.Equal(t, x.after, failed.NextRetryDelay())
		})
	}
}
