// Package log tells people through the worker's own log.
package log

import (
	"context"
	"log/slog"
	"maps"
	"slices"

	"github.com/keyturn/keyturn/internal/outside"
	"github.com/keyturn/keyturn/providers"
)

// Descriptor describes the type log: notifier.
func Descriptor() providers.Descriptor {
	return providers.Descriptor{
		Type:    "log",
		Summary: "writes notifications into the worker's log",
		Notifier: providers.Make(func(providers.Environment, *Config) (providers.Notifier, error) {
			return notifier{}, nil
		}),
	}
}

// Config has no fields: form and place of the log are the worker's.
type Config struct{}

type notifier struct{}

// Notify implements providers.Notifier. The log is slog's default one at the moment of the call.
func (notifier) Notify(ctx context.Context, n providers.Notification) error {
	data := make([]any, 0, len(n.Data))
	for _, name := range slices.Sorted(maps.Keys(n.Data)) {
		data = append(data, slog.String(name, n.Data[name]))
	}
	slog.LogAttrs(ctx, level(n.Severity), outside.Text(n.Subject, outside.MaxText),
		slog.String("id", n.ID),
		slog.String("type", n.Type),
		slog.String("severity", string(n.Severity)),
		slog.String("credential", n.Credential),
		slog.String("owner", n.Owner),
		slog.String("body", n.Body),
		slog.Time("at", n.At),
		slog.Group("data", data...),
	)
	return nil
}

// level is how loud a notification is: an alert must not be lost by a filter for warnings.
func level(s providers.Severity) slog.Level {
	switch s {
	case providers.Alert:
		return slog.LevelError
	case providers.Action:
		return slog.LevelWarn
	default:
		return slog.LevelInfo
	}
}
