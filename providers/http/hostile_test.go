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
	type open func(t providertest.T, address string) func(ctx context.Context) error
	for name, c := range map[string]struct {
		sent    secret.Bundle
		content bool
		open    open
	}{
		"a smoke test of a key": {sent: bundle(), open: func(t providertest.T, address string) func(ctx context.Context) error {
			check := openCheck(t, keyturnhttp.CheckConfig{URL: address, Header: "Authorization: Bearer {value}"})
			return func(ctx context.Context) error { return check.Check(ctx, providers.CheckInput{Bundle: bundle()}) }
		}},
		"an attestation": {content: true, open: func(t providertest.T, address string) func(ctx context.Context) error {
			a := openAttestor(t, keyturnhttp.AttestationConfig{URL: address})
			return func(ctx context.Context) error {
				_, err := a.Attest(ctx, []string{"a"})
				return err
			}
		}},
		"a purge": {open: func(t providertest.T, address string) func(ctx context.Context) error {
			p := openPurger(t, keyturnhttp.PurgeConfig{URL: address})
			return func(ctx context.Context) error { return p.Purge(ctx, "a", key.Ref{KeyID: "k"}) }
		}},
		"a health signal": {content: true, open: func(t providertest.T, address string) func(ctx context.Context) error {
			h := openHealth(t, keyturnhttp.HealthConfig{URL: address})
			return func(ctx context.Context) error {
				_, err := h.Sample(ctx, time.Minute)
				return err
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			providertest.Hostile(t, providertest.HostileSetup{Sent: c.sent, Content: c.content, Open: func(t providertest.T, r providertest.Reply) (func(context.Context) error, func() int64) {
				address, taken := r.Serve(t, c.sent)
				return c.open(t, address), taken
			}})
		})
	}
}
