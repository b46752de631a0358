package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/internal/host"
)

// healthAddress is where a worker tells how it is, when nothing else is said.
const healthAddress = "127.0.0.1:8089"

const (
	// readyWithin bounds what a worker may take to find out whether it is ready.
	readyWithin = 5 * time.Second
	// maxReason bounds what is read of why it is not.
	maxReason = 1 << 10
)

// serveHealth answers /healthz while the process lives, /readyz while it polls and can work, and /metrics.
func serveHealth(ctx context.Context, address string, polling *atomic.Pointer[host.Host], metrics http.Handler, logger *slog.Logger) (stop func(), err error) {
	if address == "" {
		return func() {}, nil
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listening for health checks: %w; choose another --health-address", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := ready(r.Context(), polling.Load()); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.Handle("GET /metrics", metrics)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			logger.Error("health checks are not served any more", "error", err)
		}
	}()
	logger.Info("serving health checks", "address", listener.Addr().String())
	return func() { _ = server.Close() }, nil
}

func ready(ctx context.Context, polling *host.Host) error {
	if polling == nil {
		return errors.New("it does not poll: it has just been started, or is being stopped")
	}
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	return polling.Ready(ctx)
}

// newHealth asks the worker that runs on this host. It is for container images, which have nothing else to ask with.
func newHealth() *cobra.Command {
	var address string
	cmd := &cobra.Command{
		Use:   "health",
		Short: "Asks the worker on this host whether it is ready",
		Long: `Asks the worker that runs on this host whether it is ready: it polls, Temporal answers for its namespace, and its
audit file can be written. This is /readyz of the worker, for a container's health check.

Exit codes: 0 it is ready, 1 it is not, or does not answer; then a line says why.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := askReady(cmd.Context(), address); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), "ready")
			return nil
		},
	}
	cmd.Flags().StringVar(&address, "health-address", healthAddress, "--health-address of the worker")
	return cmd
}

func askReady(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*readyWithin)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/readyz", http.NoBody)
	if err != nil || address == "" || request.URL.Host != address {
		return usage(fmt.Errorf("--health-address is %q: write HOST:PORT", address))
	}
	direct := &http.Transport{} // it goes to this host, by no proxy
	defer direct.CloseIdleConnections()
	answer, err := (&http.Client{Transport: direct}).Do(request)
	if err != nil {
		return fmt.Errorf("asking the worker at %s: %w: does it run, with this --health-address?", address, err)
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode == http.StatusOK {
		return nil
	}
	why, err := io.ReadAll(io.LimitReader(answer.Body, maxReason))
	if err != nil {
		return fmt.Errorf("asking the worker at %s: %w", address, err)
	}
	return fmt.Errorf("the worker at %s is not ready (status %d): %s", address, answer.StatusCode, strings.TrimSpace(string(why)))
}
