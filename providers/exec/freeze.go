package exec

import (
	"context"
	"fmt"

	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
)

type freezer struct{ asker }

var _ providers.Freezer = (*freezer)(nil)

// Freeze implements providers.Freezer.
func (f *freezer) Freeze(ctx context.Context, freeze providers.Freeze) error {
	return f.tell(ctx, "freeze", freeze)
}

// Unfreeze implements providers.Freezer.
func (f *freezer) Unfreeze(ctx context.Context, incident string) error {
	return f.tell(ctx, "unfreeze", providers.Freeze{Incident: incident})
}

func (f *freezer) tell(ctx context.Context, operation string, freeze providers.Freeze) error {
	output, err := f.put(ctx, request{Operation: operation, Freeze: &freeze}, secret.Bundle{})
	if err == nil {
		err = judge(output, false)
	}
	if err != nil {
		return fmt.Errorf("asking program %s to %s deployments: %w", f.config.Program, operation, err)
	}
	return nil
}
