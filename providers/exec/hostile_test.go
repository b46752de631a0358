package exec_test

import (
	"context"
	"io"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/exec"
	"github.com/keyturn/keyturn/providers/providertest"
)

// hostile makes this binary a program that answers with one of the hostile replies, by its name: on its
// standard output when it says that all is well, else on its standard error.
const hostile = "exec-hostile"

func misbehave(name string) {
	_, _ = io.Copy(io.Discard, os.Stdin)
	for _, r := range providertest.Replies() {
		if r.Name != name {
			continue
		}
		if r.Status == 200 {
			r.Write(context.Background(), os.Stdout, secret.Single(secret.New([]byte(apiKey))))
			return
		}
		r.Write(context.Background(), os.Stderr, secret.Single(secret.New([]byte(apiKey))))
		os.Exit(1)
	}
}

func TestHostilePrograms(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	require.NoError(t, err)
	environment := func(r providertest.Reply) providers.Environment {
		return providers.Environment{Now: time.Now, Program: func(string) ([]string, error) { return []string{self, hostile, r.Name}, nil }}
	}
	for name, c := range map[string]struct {
		sent secret.Bundle
		open func(t providertest.T, e providers.Environment) func(ctx context.Context) (any, error)
	}{
		"a smoke test of a key": {secret.Single(secret.New([]byte(apiKey))), func(t providertest.T, e providers.Environment) func(ctx context.Context) (any, error) {
			check, err := exec.Descriptor().Check.Open(e, nil, &exec.Config{Program: "ask", Timeout: patient})
			require.NoError(t, err)
			return func(ctx context.Context) (any, error) { return nil, check.Check(ctx, input()) }
		}},
		"a health check": {secret.Bundle{}, func(t providertest.T, e providers.Environment) func(ctx context.Context) (any, error) {
			check, err := exec.Descriptor().Check.Open(e, nil, &exec.Config{Program: "ask", Timeout: patient})
			require.NoError(t, err)
			return func(ctx context.Context) (any, error) {
				return nil, check.Check(ctx, providers.CheckInput{Instance: "a"})
			}
		}},
		"a purge": {secret.Bundle{}, func(t providertest.T, e providers.Environment) func(ctx context.Context) (any, error) {
			p, err := exec.Descriptor().Purge.Open(e, nil, &exec.Config{Program: "ask", Timeout: patient})
			require.NoError(t, err)
			return func(ctx context.Context) (any, error) { return nil, p.Purge(ctx, "a", key.Ref{KeyID: "k"}) }
		}},
		"an attestation": {secret.Bundle{}, func(t providertest.T, e providers.Environment) func(ctx context.Context) (any, error) {
			a, err := exec.Descriptor().Attestor.Open(e, nil, &exec.Config{Program: "ask", Timeout: patient})
			require.NoError(t, err)
			return func(ctx context.Context) (any, error) {
				return a.Attest(ctx, []string{"a"})
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			providertest.Hostile(t, providertest.HostileSetup{Sent: c.sent, Content: true, Open: func(t providertest.T, r providertest.Reply) (func(context.Context) (any, error), func() int64) {
				return c.open(t, environment(r)), nil // what it keeps of an output without end, TestReplies shows
			}})
		})
	}
}
