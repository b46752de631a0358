package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/sandbox/internal/devserver"
)

// served is what `sandbox server -o json` prints, in one line, once the server can be used.
type served struct {
	Address   string `json:"address"`
	UI        string `json:"ui,omitempty"`
	Namespace string `json:"namespace"`
	Database  string `json:"database,omitempty"`
	PID       int    `json:"pid"`
}

func newServer() *cobra.Command {
	var (
		o               devserver.Options
		output, logFile string
		retention       inventory.Duration
	)
	cmd := &cobra.Command{
		Use:   "server",
		Short: "Runs a Temporal server and its Web UI, until Ctrl-C",
		Long: `Runs a Temporal server and its Web UI on loopback, until Ctrl-C, for people without a cluster and for
tests. Its namespace "default" has keyturn's search attributes. Everybody on this machine may use it.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "text" && output != "json" {
				return fmt.Errorf("-o %s: write text or json", output)
			}
			o.Retention = retention.Std()
			// A port that was asked for must be had; another than the usual one will do.
			o.OrAnotherPort, o.OrAnotherUIPort = !cmd.Flags().Changed("port"), !cmd.Flags().Changed("ui-port")
			o.Waiting = func(line string) { fmt.Fprintln(cmd.ErrOrStderr(), line) }
			if logFile != "" {
				f, err := os.OpenFile(logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
				if err != nil {
					return fmt.Errorf("opening --log-file: %w", err)
				}
				o.Log = f // the end of the process closes it: the server's last goroutines may still write after it has stopped
			}
			return serve(cmd.Context(), o, output, cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.File, "db", "", "SQLite database that keeps the state; made when it does not exist (default in memory: gone at the end)")
	f.IntVar(&o.Port, "port", devserver.DefaultPort, "port of the frontend; 0 for a free one (default the usual port, or a free one when it is taken)")
	f.IntVar(&o.UIPort, "ui-port", devserver.DefaultUIPort, "port of the Web UI; likewise")
	f.TextVar(&retention, "retention", retention, "how long closed workflows are kept, such as 7d, or for tests 5s; 0s for 3d in a new database, and what an existing one has")
	f.IntVar(&o.SuggestContinueAsNew, "suggest-continue-as-new", 0, "for tests: after how many events of its history a workflow is told to continue as new (default what Temporal has)")
	f.BoolVar(&o.Headless, "headless", false, "without the Web UI")
	f.StringVar(&logFile, "log-file", "", "file that the server's warnings are added to (default they are discarded)")
	f.StringVarP(&output, "output", "o", "text", "text or json: where the server is, in one line")
	return cmd
}

// serve runs the server until ctx ends.
func serve(ctx context.Context, o devserver.Options, output string, out io.Writer) error {
	begun := time.Now()
	s, err := devserver.Start(ctx, o)
	if err != nil {
		return err
	}
	defer s.Stop()
	if err := announce(out, output, served{
		Address: s.Address(), UI: s.UIURL(), Namespace: devserver.Namespace, Database: o.File, PID: os.Getpid(),
	}, time.Since(begun)); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

func announce(out io.Writer, output string, s served, took time.Duration) error {
	if output == "json" {
		return json.NewEncoder(out).Encode(s)
	}
	ui, database := s.UI, s.Database
	if ui == "" {
		ui = "none"
	}
	if database == "" {
		database = "in memory: gone at the end"
	}
	_, err := fmt.Fprintf(out, `Temporal is ready (%s), with keyturn's search attributes.
  frontend   %s   namespace %s
  Web UI     %s
  database   %s
%s`, took.Round(10*time.Millisecond), s.Address, s.Namespace, ui, database, howToUse(s.Address))
	return err
}

// howToUse is said last: what keyturn and temporal do not find by themselves, loudly.
func howToUse(address string) string {
	if address == fmt.Sprintf("127.0.0.1:%d", devserver.DefaultPort) {
		return "Use it with TEMPORAL_ADDRESS=" + address + ", end it with Ctrl-C.\n"
	}
	return fmt.Sprintf(`End it with Ctrl-C.

ATTENTION: the port is not the usual %d, so that keyturn and temporal do not find this server by themselves. In each terminal, first:

  export TEMPORAL_ADDRESS=%s
`, devserver.DefaultPort, address)
}
