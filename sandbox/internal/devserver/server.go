// Package devserver runs a Temporal server with its Web UI inside this process, on loopback: for the
// demonstration, for tests and for people without a cluster. It is no server for production.
package devserver

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	uiserver "github.com/temporalio/ui-server/v2/server"
	"go.temporal.io/api/namespace/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/log"
	"go.temporal.io/server/temporal"
	"google.golang.org/protobuf/types/known/durationpb"

	keyturn "github.com/keyturn/keyturn/internal/namespace"
)

// Namespace is the one namespace that the server comes with.
const Namespace = client.DefaultNamespace

// DefaultRetention is how long closed workflows are kept when Options do not say.
const DefaultRetention = 3 * 24 * time.Hour

// ReadyWithin ends a start that hangs. A slow machine may need minutes; each sayEvery it is told that they pass.
const (
	ReadyWithin = 10 * time.Minute
	sayEvery    = 15 * time.Second
)

// loopback is the only address that anything listens on.
const loopback = "127.0.0.1"

// Options say what to run. The zero Options are a server in memory on free ports, with the Web UI.
type Options struct {
	// File is the SQLite database; empty for one in memory. It is made when it does not exist, its folder
	// is not. Only one server at a time can have it.
	File string
	// Port of the frontend and UIPort of the Web UI; 0 for any free one. Starting fails on a taken one, unless another one
	// will do.
	Port, UIPort                   int
	OrAnotherPort, OrAnotherUIPort bool
	// Retention of closed workflows. When zero, a new database gets DefaultRetention and an existing one
	// keeps its own. When set, it is kept to the second, as tests need.
	Retention time.Duration
	// SuggestContinueAsNew is after how many events of its history a workflow is told to continue as new; Temporal's own
	// default when zero.
	SuggestContinueAsNew int
	// Headless is without the Web UI.
	Headless bool
	// Log gets the server's warnings and errors as lines of JSON; nil to discard them.
	Log io.Writer
	// Waiting is told, a line each time, that starting takes long; nil to tell nobody. It is not called once Start has returned.
	Waiting func(line string)
}

// Server is a running server. Its methods may be called from many goroutines at once.
type Server struct {
	ports    ports
	uiURL    string
	database *database
	temporal temporal.Server
	ui       *uiserver.Server
	stop     sync.Once
}

// Start returns when the namespace can be used: workflows started with keyturn's search attributes,
// listed by them, and shown by the Web UI. ctx bounds the starting alone.
func Start(ctx context.Context, o Options) (*Server, error) {
	s := &Server{}
	if err := patiently(ctx, o.Waiting, func(ctx context.Context) error { return s.start(ctx, o) }); err != nil {
		s.Stop()
		return nil, fmt.Errorf("starting Temporal: %w", err)
	}
	return s, nil
}

// patiently gives start its time, and says meanwhile that it goes on.
func patiently(ctx context.Context, say func(line string), start func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, ReadyWithin)
	defer cancel()
	ended, said := make(chan struct{}), make(chan struct{})
	defer func() { close(ended); <-said }()
	go func() {
		defer close(said)
		ticker := time.NewTicker(sayEvery)
		defer ticker.Stop()
		for begun := time.Now(); ; {
			select {
			case <-ended:
				return
			case <-ticker.C:
				if say != nil {
					say(fmt.Sprintf("Temporal is still starting after %s; it has %s.", time.Since(begun).Round(time.Second), ReadyWithin))
				}
			}
		}
	}()
	return start(ctx)
}

func (s *Server) start(ctx context.Context, o Options) (err error) {
	if s.ports, err = hold(o); err != nil {
		return err
	}
	retention := o.Retention
	if retention == 0 {
		retention = DefaultRetention
	}
	if s.database, err = openDatabase(o.File, retention); err != nil {
		return err
	}
	server, err := newServer(s.database.sql, s.ports, o)
	if err != nil {
		return err
	}
	s.temporal = server
	if err := server.Start(); err != nil {
		return err
	}
	if err := s.ready(ctx, o.Retention); err != nil {
		return err
	}
	if o.Headless {
		return nil
	}
	return s.startUI(ctx, s.ports[webUI])
}

// Address is the host:port of the frontend.
func (s *Server) Address() string { return s.ports.address() }

// UIURL is the address of the Web UI, without a slash at its end; empty when there is none.
func (s *Server) UIURL() string { return s.uiURL }

// RunURL is the page of a workflow run in the Web UI; empty when there is none.
func (s *Server) RunURL(workflowID, runID string) string {
	if s.uiURL == "" {
		return ""
	}
	return s.uiURL + "/namespaces/" + Namespace + "/workflows/" + url.PathEscape(workflowID) + "/" + url.PathEscape(runID)
}

// Stop ends the Web UI, then the server, and gives the database free. Clients and workers should have
// been closed before. It may be called twice.
func (s *Server) Stop() {
	s.stop.Do(func() {
		if s.ui != nil {
			s.ui.Stop()
		}
		if s.temporal != nil {
			_ = s.temporal.Stop() // there is nothing left to do about it
		}
		s.ports.close() // those that nobody came to serve
		if s.database != nil {
			s.database.close()
		}
	})
}

// ready waits until the namespace can be used with keyturn's search attributes, and sets its retention.
func (s *Server) ready(ctx context.Context, retention time.Duration) error {
	c, err := client.NewLazyClient(client.Options{
		HostPort: s.Address(), Namespace: Namespace, Logger: log.NewStructuredLogger(slog.New(slog.DiscardHandler)),
	})
	if err != nil {
		return err
	}
	defer c.Close()
	if err := await(ctx, "the frontend", func() error {
		_, err := c.CheckHealth(ctx, &client.CheckHealthRequest{})
		return err
	}); err != nil {
		return err
	}
	if err := setRetention(ctx, c, retention); err != nil {
		return err
	}
	// A new database has the attributes. One of an older keyturn may lack some.
	if _, err := keyturn.Register(ctx, c, Namespace); err != nil {
		return err
	}
	return await(ctx, "the search attributes", func() error {
		conditions := slices.Sorted(maps.Keys(keyturn.Attributes()))
		_, err := c.CountWorkflow(ctx, &workflowservice.CountWorkflowExecutionsRequest{
			Query: strings.Join(conditions, " IS NULL AND ") + " IS NULL",
		})
		return err
	})
}

// setRetention gives a namespace that existed before the retention that is wanted now.
func setRetention(ctx context.Context, c client.Client, retention time.Duration) error {
	described, err := c.WorkflowService().DescribeNamespace(ctx, &workflowservice.DescribeNamespaceRequest{Namespace: Namespace})
	if err != nil {
		return fmt.Errorf("describing namespace %q: %w", Namespace, err)
	}
	if retention == 0 || described.GetConfig().GetWorkflowExecutionRetentionTtl().AsDuration() == retention {
		return nil
	}
	if _, err := c.WorkflowService().UpdateNamespace(ctx, &workflowservice.UpdateNamespaceRequest{
		Namespace: Namespace,
		Config:    &namespace.NamespaceConfig{WorkflowExecutionRetentionTtl: durationpb.New(retention)},
	}); err != nil {
		return fmt.Errorf("setting the retention of namespace %q: %w", Namespace, err)
	}
	return nil
}

// await asks until there is no error. The error of a wait that took too long is the last one.
func await(ctx context.Context, what string, ask func() error) error {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := ask()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w: %w", what, context.Cause(ctx), err)
		case <-ticker.C:
		}
	}
}

// answers asks a URL once.
func answers(ctx context.Context, address string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("asking %s: it answers %s", address, resp.Status)
	}
	return nil
}
