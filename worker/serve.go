package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"

	"github.com/spf13/cobra"
	"go.temporal.io/sdk/log"

	"github.com/keyturn/keyturn/internal/commandline"
	"github.com/keyturn/keyturn/internal/connection"
	"github.com/keyturn/keyturn/internal/host"
	"github.com/keyturn/keyturn/internal/namespace"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/version"
	"github.com/keyturn/keyturn/internal/workerconfig"
	"github.com/keyturn/keyturn/providers/all"
)

type options struct {
	config                     string
	temporal                   connection.Flags
	buildID, health, logFormat string
	logLevel                   slog.Level
	allowUnsigned              bool
}

func newRoot() *cobra.Command {
	root := newRun("keyturn-worker --config FILE")
	root.Long += `

Exit codes: 0 it was told to stop, 1 failed, 2 the command line or the worker configuration is wrong,
5 Temporal did not answer in time; import has more.`
	root.Version = version.ID()
	root.SilenceUsage, root.SilenceErrors = true, true
	root.AddCommand(newRun("run --config FILE"), newImport(), newHealth(), &cobra.Command{
		Use: "version", Short: "Prints the build", Args: cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) { fmt.Fprintln(cmd.OutOrStdout(), "keyturn-worker "+version.ID()) },
	})
	commandline.Strict(root, usage)
	return root
}

// newRun runs the worker: without a command, too.
func newRun(use string) *cobra.Command {
	var o options
	level := "info"
	cmd := &cobra.Command{
		Use:   use,
		Short: "Runs keyturn's workflows and activities",
		Long: `Runs keyturn's workflows and activities, within what the worker configuration allows. On SIGHUP it reads
that again: all of it comes into force, or none, and then the log says why.

The connection comes from Temporal's standard environment configuration (TEMPORAL_ADDRESS,
TEMPORAL_NAMESPACE, TEMPORAL_PROFILE and the TOML file); flags go first.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.logLevel.UnmarshalText([]byte(level)); err != nil {
				return usage(fmt.Errorf("reading --log-level: %w", err))
			}
			return serve(cmd.Context(), o, cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.config, "config", "keyturn-worker.yaml", "the worker configuration")
	o.temporal.Add(cmd)
	f.StringVar(&o.buildID, "build-id", version.ID(), "build ID of the deployment version")
	f.StringVar(&o.health, "health-address", healthAddress, `address of /healthz, /readyz and /metrics; "" for none`)
	f.StringVar(&o.logFormat, "log-format", "text", "text or json")
	f.StringVar(&level, "log-level", "info", "debug, info, warn or error")
	f.BoolVar(&o.allowUnsigned, "allow-unsigned", false, "accept unsigned specs for environments without trusted signers; said on every run")
	return cmd
}

func serve(ctx context.Context, o options, out io.Writer) error {
	logger, err := newLogger(o, out)
	if err != nil {
		return usage(err)
	}
	config, err := o.load()
	if err != nil {
		return usage(err)
	}
	again := make(chan os.Signal, 1)
	signal.Notify(again, syscall.SIGHUP)
	defer signal.Stop(again)
	outliveReaders()
	temporal, err := o.temporal.Options()
	if err != nil {
		return usage(err)
	}
	temporal.Logger = log.NewStructuredLogger(logger)
	stamp := host.NewStamp(logger)
	temporal.DataConverter = stamp

	var polling atomic.Pointer[host.Host]
	measured, err := newMetrics(logger)
	if err != nil {
		return err
	}
	temporal.MetricsHandler = measured.sdk
	stopHealth, err := serveHealth(ctx, o.health, &polling, measured.handler, logger)
	if err != nil {
		return err
	}
	defer stopHealth()
	c, err := connection.Dial(ctx, temporal)
	if err != nil {
		return err
	}
	defer c.Close()
	measured.sweep.From(func(ctx context.Context) (policy.SweepReport, bool, error) { return namespace.LatestSweep(ctx, c) })

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	h, err := host.Start(ctx, c, host.Options{
		Namespace: temporal.Namespace, BuildID: o.buildID, Config: config, Descriptors: all.Descriptors(),
		AllowUnsigned: o.allowUnsigned, Stamp: stamp, Log: logger,
	}, cancel)
	if err != nil {
		return err
	}
	polling.Store(h)
	logger.Info("worker is running", "build", o.buildID, "namespace", temporal.Namespace, "config", o.config, "digest", config.Digest)
	for running := true; running; {
		select {
		case <-again:
			o.reload(h, logger)
		case <-ctx.Done():
			running = false
		}
	}
	polling.Store(nil)
	logger.Info("worker is stopping: running activities may end")
	h.Stop()
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return fmt.Errorf("running worker: %w", cause)
	}
	return nil
}

// outliveReaders: whoever reads the log, or the audit events, may go. Writing is an error then, and no end of this process.
func outliveReaders() { signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) }

// load reads the worker configuration.
func (o options) load() (*workerconfig.Config, error) {
	config, err := workerconfig.LoadFile(o.config, all.Descriptors())
	if err == nil && !o.allowUnsigned && len(config.Trust.Inventory) == 0 {
		err = fmt.Errorf("%s names nobody under trust.inventory, so that no spec could be accepted: name who signs, or start with --allow-unsigned, which accepts specs from whoever may write to the namespace", o.config)
	}
	return config, err
}

// reload reads the worker configuration again, and puts it in force when all of it is right.
func (o options) reload(h *host.Host, logger *slog.Logger) {
	config, err := o.load()
	if err == nil {
		err = h.Reload(config)
	}
	if err != nil {
		logger.Error("the worker configuration was not reloaded: the one before stays in force", "config", o.config, "error", err)
		return
	}
	logger.Info("the worker configuration is reloaded", "config", o.config, "digest", config.Digest)
}

func newLogger(o options, out io.Writer) (*slog.Logger, error) {
	handler := &slog.HandlerOptions{Level: o.logLevel}
	switch o.logFormat {
	case "json":
		return slog.New(slog.NewJSONHandler(out, handler)), nil
	case "text":
		return slog.New(slog.NewTextHandler(out, handler)), nil
	}
	return nil, fmt.Errorf("--log-format is %q: write text or json", o.logFormat)
}
