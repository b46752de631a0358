package webhook

import (
	"context"
	"fmt"
	"time"

	"github.com/keyturn/keyturn/providers"
)

// The types of the events that a freeze makes. Both have data.incident; the first has data.until, when it ends by itself, too.
const (
	frozenType   = "dev.keyturn.deployments.frozen"
	unfrozenType = "dev.keyturn.deployments.unfrozen"
)

// freezer posts freezes as notifications of two types.
type freezer notifier

var _ providers.Freezer = (*freezer)(nil)

// Freeze implements providers.Freezer. Its errors are those of Notify.
func (f *freezer) Freeze(ctx context.Context, freeze providers.Freeze) error {
	until := freeze.Until.UTC().Format(time.RFC3339)
	err := (*notifier)(f).post(ctx, notified(providers.Notification{
		ID: freeze.Incident + "/frozen/" + until, Type: frozenType, Severity: providers.Action,
		Subject: "Deployments are frozen by " + freeze.Incident, Body: freeze.Reason + "\n" + freeze.Override,
		Data: map[string]string{"incident": freeze.Incident, "until": until}, At: time.Now().UTC(),
	}))
	if err != nil {
		return fmt.Errorf("freezing by webhook: %w", err)
	}
	return nil
}

// Unfreeze implements providers.Freezer.
func (f *freezer) Unfreeze(ctx context.Context, incident string) error {
	err := (*notifier)(f).post(ctx, notified(providers.Notification{
		ID: incident + "/unfrozen", Type: unfrozenType, Severity: providers.Info,
		Subject: "Deployments are not frozen any more by " + incident, Data: map[string]string{"incident": incident}, At: time.Now().UTC(),
	}))
	if err != nil {
		return fmt.Errorf("unfreezing by webhook: %w", err)
	}
	return nil
}
