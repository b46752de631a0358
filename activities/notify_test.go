package activities_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/activities"
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
		c.execute("Notify", activities.NotifyInput{Rotation: c.subject(), What: "gate-revoke", Severity: "action", Body: "Approve with: keyturn approve payments-api", At: c.now()}, nil)
		told := c.world.Notifications()
		require.Len(t, told, 1)
		assert.Equal(t, want, told[0].Body)
		assert.Equal(t, "rotation/payments-api", told[0].Data["workflow"])
	}
}
