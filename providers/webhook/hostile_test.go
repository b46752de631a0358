package webhook_test

import (
	"context"
	"testing"

	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers/providertest"
	"github.com/keyturn/keyturn/providers/webhook"
)

func TestHostileReceivers(t *testing.T) {
	t.Parallel()
	sent := secret.Single(secret.New([]byte(token)))
	providertest.Hostile(t, providertest.HostileSetup{Sent: sent, Open: func(t providertest.T, r providertest.Reply) (func(context.Context) (any, error), func() int64) {
		address, taken := r.Serve(t, sent)
		n := open(t, webhook.Config{URL: address, TokenFile: tokenFile(t, token, 0o600)})
		return func(ctx context.Context) (any, error) { return nil, n.Notify(ctx, message()) }, taken
	}})
}
