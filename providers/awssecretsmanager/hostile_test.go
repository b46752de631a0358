package awssecretsmanager

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/awsaccount"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers/providertest"
)

// An endpoint that poses as AWS, or a proxy before it, answers whatever it likes.
func TestHostileEndpoint(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLEOFAWORKER")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "the-key-of-the-worker")
	t.Setenv("AWS_MAX_ATTEMPTS", "1")
	sent := secret.Single(secret.New([]byte("ktg_Zq81mW0pLx7TRe2uA9sVfB3nKcYh5dJt")))
	version := strings.Repeat("v", minToken)
	const putting = "putting the secret"
	for name, ask := range map[string]func(ctx context.Context, s *store) error{
		"listing versions": func(ctx context.Context, s *store) error {
			_, err := s.Versions(ctx)
			return err
		},
		"reading a version": func(ctx context.Context, s *store) error {
			_, err := s.Read(ctx, version)
			return err
		},
		"reading a label": func(ctx context.Context, s *store) error {
			_, err := s.ReadLabel(ctx, key.Current)
			return err
		},
		"staging": func(ctx context.Context, s *store) error {
			_, err := s.Stage(ctx, version, sent)
			return err
		},
		putting: func(ctx context.Context, s *store) error {
			c, err := s.client(ctx)
			require.NoError(t, err)
			_, err = s.put(ctx, c, version, []byte(`{"value":"ktg_Zq81mW0pLx7TRe2uA9sVfB3nKcYh5dJt"}`))
			return err
		},
		"creating": func(ctx context.Context, s *store) error {
			c, err := s.client(ctx)
			require.NoError(t, err)
			return s.create(ctx, c)
		},
		"promoting": func(ctx context.Context, s *store) error { return s.Promote(ctx, "", version) },
		"pruning":   func(ctx context.Context, s *store) error { return s.Prune(ctx, version) },
		"reading metadata": func(ctx context.Context, s *store) error {
			_, err := s.Metadata(ctx)
			return err
		},
		"writing metadata": func(ctx context.Context, s *store) error {
			_, err := s.PutMetadata(ctx, key.Metadata{Generation: 1})
			return err
		},
		"reading the contents of metadata": func(ctx context.Context, s *store) error {
			c, err := s.client(ctx)
			require.NoError(t, err)
			_, err = s.contents(ctx, c, key.Revision(version))
			return err
		},
		"reading metadata in tags": func(ctx context.Context, s *store) error {
			c, err := s.client(ctx)
			require.NoError(t, err)
			_, err = s.tagged(ctx, c)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sent := sent
			if name != putting {
				sent = secret.Bundle{} // nobody else tells it
			}
			providertest.Hostile(t, providertest.HostileSetup{Sent: sent, Content: true, Open: func(t providertest.T, r providertest.Reply) (func(context.Context) (any, error), func() int64) {
				address, taken := r.Serve(t, sent)
				account := &awsaccount.Account{Region: "eu-central-1", Endpoint: address}
				require.Empty(t, account.Problems())
				return func(ctx context.Context) (any, error) {
					return nil, ask(ctx, &store{account: account, name: "payments/api"})
				}, taken
			}})
		})
	}
}
