package http_test

import (
	"context"
	"testing"
	"time"

	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
	keyturnhttp "github.com/keyturn/keyturn/providers/http"
	"github.com/keyturn/keyturn/providers/providertest"
)

func TestHostilePeers(t *testing.T) {
	t.Parallel()
	type open func(t providertest.T, address string) func(ctx context.Context) (any, error)
	for name, c := range map[string]struct {
		sent    secret.Bundle
		content bool
		open    open
	}{
		"a smoke test of a key": {sent: bundle(), open: func(t providertest.T, address string) func(ctx context.Context) (any, error) {
			check := openCheck(t, keyturnhttp.CheckConfig{URL: address, Header: "Authorization: Bearer {value}"})
			return func(ctx context.Context) (any, error) {
				return nil, check.Check(ctx, providers.CheckInput{Bundle: bundle()})
			}
		}},
		"a health check": {open: func(t providertest.T, address string) func(ctx context.Context) (any, error) {
			check := openCheck(t, keyturnhttp.CheckConfig{URL: address})
			return func(ctx context.Context) (any, error) {
				return nil, check.Check(ctx, providers.CheckInput{Instance: "a"})
			}
		}},
		"an attestation": {content: true, open: func(t providertest.T, address string) func(ctx context.Context) (any, error) {
			a := openAttestor(t, keyturnhttp.AttestationConfig{URL: address})
			return func(ctx context.Context) (any, error) {
				return a.Attest(ctx, []string{"a"})
			}
		}},
		"a purge": {open: func(t providertest.T, address string) func(ctx context.Context) (any, error) {
			p := openPurger(t, keyturnhttp.PurgeConfig{URL: address})
			return func(ctx context.Context) (any, error) { return nil, p.Purge(ctx, "a", key.Ref{KeyID: "k"}) }
		}},
		"a health signal": {content: true, open: func(t providertest.T, address string) func(ctx context.Context) (any, error) {
			h := openHealth(t, keyturnhttp.HealthConfig{URL: address})
			return func(ctx context.Context) (any, error) {
				return h.Sample(ctx, time.Minute)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			providertest.Hostile(t, providertest.HostileSetup{Sent: c.sent, Content: c.content, Open: func(t providertest.T, r providertest.Reply) (func(context.Context) (any, error), func() int64) {
				address, taken := r.Serve(t, c.sent)
				return c.open(t, address), taken
			}})
		})
	}
}
