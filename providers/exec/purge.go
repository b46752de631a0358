package exec

import (
	"context"
	"fmt"

	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
)

type purger struct{ asker }

var _ providers.Purger = (*purger)(nil)

// Purge implements providers.Purger.
func (p *purger) Purge(ctx context.Context, instance string, k key.Ref) error {
	output, err := p.put(ctx, request{Operation: "purge", Instance: instance, Key: k}, secret.Bundle{})
	if err == nil {
		err = judge(output, false)
	}
	if err != nil {
		return fmt.Errorf("purging with program %s: %w", p.config.Program, err)
	}
	return nil
}
