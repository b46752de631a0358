package webhook

import (
	"context"
	"fmt"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/providers"
)

// auditType begins the types of the events: dev.keyturn.audit.key.issued.
const auditType = "dev.keyturn.audit."

// collector posts audit events, one at a time. The ID is that of the happening, whichever worker recorded it.
type collector notifier

var _ providers.Collector = (*collector)(nil)

// Collect implements providers.Collector. Its errors are those of Notify.
func (c *collector) Collect(ctx context.Context, e audit.Numbered) error {
	posted := event{ID: e.ID, Type: auditType + string(e.Type), Subject: e.Credential, Time: e.Time, Data: e}
	if err := (*notifier)(c).post(ctx, posted); err != nil {
		return fmt.Errorf("handing an audit event over by webhook: %w", err)
	}
	return nil
}
