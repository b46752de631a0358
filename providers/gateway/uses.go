package gateway

import (
	"context"
	"fmt"
	"time"

	"github.com/keyturn/keyturn/internal/gatewayfile"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/providers"
)

var _ providers.AuditLog = (*issuer)(nil)

// Uses implements providers.AuditLog: the usage file has the last use of each key, for a week after a key's end.
func (i *issuer) Uses(ctx context.Context, k key.Ref, since time.Time) (key.Uses, error) {
	uses := key.Uses{
		Teller: "the gateway's usage file",
		Unseen: []string{
			"The gateway keeps the last use of a key alone: of uses before it neither number nor source is known.",
			"A gateway does not know a destroyed key again: who tries it is in the gateway's access log at most.",
		},
	}
	if err := ctx.Err(); err != nil {
		return key.Uses{}, err
	}
	usage, err := i.account.usage()
	if err != nil {
		return key.Uses{}, fmt.Errorf("reading the uses of key %q of %q: %w", k.KeyID, i.principal, err)
	}
	if usage.Since.After(since) {
		uses.Unseen = append(uses.Unseen, fmt.Sprintf("The gateway's record of uses begins at %s.", usage.Since.UTC().Format(time.RFC3339)))
	}
	if last, known := usage.LastUsed[k.KeyID]; known && !last.At.Before(since) {
		uses.List = []key.Use{{KeyID: k.KeyID, First: last.At, Last: last.At, Count: 1, Action: "last use", Source: key.Host(gatewayfile.Sender(last.From))}}
	}
	return uses, nil
}
