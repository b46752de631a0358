package log_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/log"
	"github.com/keyturn/keyturn/providers/providertest"
)

func open(t require.TestingT) providers.Notifier {
	d := log.Descriptor().Notifier
	n, err := d.Open(providers.Environment{}, nil, d.Config())
	require.NoError(t, err)
	return n
}

// capture makes a log of JSON the default one until the test ends. The handler locks for itself.
func capture(t interface{ Cleanup(func()) }) *bytes.Buffer {
	before := slog.Default()
	t.Cleanup(func() { slog.SetDefault(before) })
	lines := new(bytes.Buffer)
	slog.SetDefault(slog.New(slog.NewJSONHandler(lines, nil)))
	return lines
}

func TestNotifierConforms(t *testing.T) {
	providertest.Notifier(t, providertest.NotifierSetup{Local: true, Open: func(t providertest.T, _ providertest.Peer) (providers.Notifier, func() []providers.Notification) {
		lines := capture(t)
		return open(t), func() []providers.Notification {
			var all []providers.Notification
			for line := range strings.Lines(lines.String()) {
				var n struct {
					providers.Notification
					Msg string `json:"msg"`
				}
				require.NoError(t, json.Unmarshal([]byte(line), &n))
				n.Subject = n.Msg
				all = append(all, n.Notification)
			}
			return all
		}
	}})
}

func TestSeverityIsTheLevel(t *testing.T) {
	for severity, level := range map[providers.Severity]string{providers.Info: "INFO", providers.Action: "WARN", providers.Alert: "ERROR"} {
		lines := capture(t)
		require.NoError(t, open(t).Notify(t.Context(), providers.Notification{ID: "1", Severity: severity}))
		assert.Contains(t, lines.String(), `"level":"`+level+`"`)
	}
}

func TestTheSubjectStaysOnOneLineInAnyHandler(t *testing.T) {
	lines := capture(t)
	slog.SetDefault(slog.New(slog.NewTextHandler(lines, nil)))
	require.NoError(t, open(t).Notify(t.Context(), providers.Notification{ID: "1", Subject: "a\nlevel=ERROR \x1b[2J", Body: "b\n\x1b[2J"}))
	assert.Equal(t, 1, strings.Count(lines.String(), "\n"))
	assert.NotContains(t, lines.String(), "\x1b")
}
