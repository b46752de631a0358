package main

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/policy"
)

func TestMetrics(t *testing.T) {
	t.Parallel()
	m, err := newMetrics(slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	scrape := func() string {
		answer := httptest.NewRecorder()
		m.handler.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		require.Equal(t, 200, answer.Code)
		return answer.Body.String()
	}
	assert.Contains(t, scrape(), "go_goroutines")
	assert.NotContains(t, scrape(), "keyturn_findings", "before the worker is connected it knows nothing")

	asked := 0
	var report policy.SweepReport
	var found bool
	var trouble error
	m.sweep.From(func(context.Context) (policy.SweepReport, bool, error) { asked++; return report, found, trouble })
	assert.NotContains(t, scrape(), "keyturn_findings", "no sweep has ended")
	assert.Equal(t, 1, asked)
	report, found = policy.SweepReport{Counts: map[policy.FindingKind]int{policy.FoundOverdue: 7}, Credentials: 40, EndedAt: time.Unix(1_800_000_000, 0)}, true
	m.sweep.asked = time.Time{}
	text := scrape()
	assert.Contains(t, text, `keyturn_findings{kind="overdue"} 7`)
	assert.Contains(t, text, `keyturn_findings{kind="rotation-stuck"} 0`, "a kind that was not found is zero, not absent")
	assert.Contains(t, text, "keyturn_sweep_credentials 40")
	assert.Contains(t, text, "keyturn_sweep_last_end_timestamp_seconds 1.8e+09")
	scrape()
	assert.Equal(t, 2, asked, "Temporal is asked once a minute at most")
	m.sweep.asked, trouble = time.Time{}, errors.New("no route")
	assert.Contains(t, scrape(), `keyturn_findings{kind="overdue"} 7`)

	m.sdk.WithTags(map[string]string{"namespace": "keyturn"}).Counter("temporal_request").Inc(3)
	assert.Contains(t, scrape(), `temporal_request{namespace="keyturn"} 3`)
}
