package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	exporter "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/opentelemetry"

	"github.com/keyturn/keyturn/internal/policy"
)

// metrics are what /metrics serves: those of the process, of Temporal's SDK, and what Sweep found last.
type metrics struct {
	sweep   *sweepCollector
	handler http.Handler
	// sdk takes the metrics of Temporal's SDK.
	sdk client.MetricsHandler
}

func newMetrics(logger *slog.Logger) (*metrics, error) {
	registry := prometheus.NewRegistry()
	sweep := &sweepCollector{log: logger}
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), sweep)
	reader, err := exporter.New(exporter.WithRegisterer(registry), exporter.WithoutScopeInfo(), exporter.WithoutTargetInfo())
	if err != nil {
		return nil, fmt.Errorf("preparing metrics: %w", err)
	}
	meter := metric.NewMeterProvider(metric.WithReader(reader)).Meter("temporal-sdk-go")
	return &metrics{
		sweep: sweep, handler: promhttp.HandlerFor(registry, promhttp.HandlerOpts{}),
		sdk: opentelemetry.NewMetricsHandler(opentelemetry.MetricsHandlerOptions{Meter: meter, OnError: func(err error) { logger.Warn("a metric of Temporal's SDK is lost", "error", err) }}),
	}, nil
}

// Each worker answers with what the last sweep found, whichever worker ran it, so that the numbers outlive a
// restart: use max over the workers, not sum.
var (
	descFindings    = prometheus.NewDesc("keyturn_findings", "What the last sweep found, by kind.", []string{"kind"}, nil)
	descCredentials = prometheus.NewDesc("keyturn_sweep_credentials", "How many credentials the last sweep looked at.", nil, nil)
	descSwept       = prometheus.NewDesc("keyturn_sweep_last_end_timestamp_seconds", "When the last sweep ended.", nil, nil)
)

// sweepCollector asks Temporal for the report of the last sweep, once a minute at most.
type sweepCollector struct {
	log *slog.Logger

	mu     sync.Mutex
	latest func(context.Context) (policy.SweepReport, bool, error)
	report policy.SweepReport
	found  bool
	asked  time.Time
}

const (
	askSweepEvery = time.Minute
	askSweepFor   = 5 * time.Second
)

// From tells where the reports come from, once the worker is connected.
func (c *sweepCollector) From(latest func(context.Context) (policy.SweepReport, bool, error)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.latest = latest
}

// Describe implements prometheus.Collector.
func (c *sweepCollector) Describe(out chan<- *prometheus.Desc) {
	out <- descFindings
	out <- descCredentials
	out <- descSwept
}

// Collect implements prometheus.Collector. While no sweep has ended, or Temporal does not answer, it says what it
// knew last: the time of the last end tells how old that is.
func (c *sweepCollector) Collect(out chan<- prometheus.Metric) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.latest != nil && time.Since(c.asked) > askSweepEvery {
		ctx, cancel := context.WithTimeout(context.Background(), askSweepFor)
		defer cancel()
		report, found, err := c.latest(ctx)
		if err != nil {
			c.log.Warn("the last sweep is not known for the metrics", "error", err)
		} else {
			c.report, c.found, c.asked = report, found, time.Now()
		}
	}
	if !c.found {
		return
	}
	for _, kind := range policy.FindingKinds {
		out <- prometheus.MustNewConstMetric(descFindings, prometheus.GaugeValue, float64(c.report.Counts[kind]), string(kind))
	}
	out <- prometheus.MustNewConstMetric(descCredentials, prometheus.GaugeValue, float64(c.report.Credentials))
	out <- prometheus.MustNewConstMetric(descSwept, prometheus.GaugeValue, float64(c.report.EndedAt.Unix()))
}
