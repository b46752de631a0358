package awsiam

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/awsaccount"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/providertest"
)

// An endpoint that poses as AWS, or a proxy before it, answers whatever it likes.
func TestHostileEndpoint(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLEOFAWORKER")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "the-key-of-the-worker")
	t.Setenv("AWS_MAX_ATTEMPTS", "1")
	sent := secret.NewBundle(map[string]secret.Value{
		defaultKeyIDField: secret.New([]byte("AKIAIOSFODNN7EXAMPLE")), defaultSecretField: secret.New([]byte("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")),
	})
	ref := key.Ref{KeyID: "AKIAIOSFODNN7EXAMPLE"}
	for name, c := range map[string]struct {
		sent secret.Bundle
		ask  func(ctx context.Context, i *issuer) error
	}{
		"listing": {secret.Bundle{}, func(ctx context.Context, i *issuer) error {
			_, err := i.List(ctx)
			return err
		}},
		"issuing": {secret.Bundle{}, func(ctx context.Context, i *issuer) error {
			_, err := i.Issue(ctx, providers.IssueRequest{Token: "t"})
			return err
		}},
		"testing a key": {sent, func(ctx context.Context, i *issuer) error { return i.SelfTest(ctx, sent) }},
		"checking rights": {secret.Bundle{}, func(ctx context.Context, i *issuer) error {
			_, err := i.policies(ctx)
			return err
		}},
		"who the worker is": {secret.Bundle{}, func(ctx context.Context, i *issuer) error {
			_, err := i.checkIdentity(ctx)
			return err
		}},
		"disabling":  {secret.Bundle{}, func(ctx context.Context, i *issuer) error { return i.Disable(ctx, ref) }},
		"destroying": {secret.Bundle{}, func(ctx context.Context, i *issuer) error { return i.Destroy(ctx, ref) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			providertest.Hostile(t, providertest.HostileSetup{Sent: c.sent, Content: true, Open: func(t providertest.T, r providertest.Reply) (func(context.Context) error, func() int64) {
				address, taken := r.Serve(t, c.sent)
				account := &Account{Account: awsaccount.Account{Region: "eu-central-1", Endpoint: address}}
				require.Empty(t, account.Problems())
				return func(ctx context.Context) error {
					return c.ask(ctx, &issuer{account: account, config: Config{Principal: "payments-api"}})
				}, taken
			}})
		})
	}
}
