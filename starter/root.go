package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"slices"

	"github.com/spf13/cobra"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/envconfig"
	"go.temporal.io/sdk/log"
	"golang.org/x/term"

	"github.com/keyturn/keyturn/internal/version"
)

// The exit codes, stable for scripts.
const (
	exitDone       = 0
	exitFailed     = 1
	exitUsage      = 2
	exitRefused    = 3
	exitNotFound   = 4
	exitTimedOut   = 5
	exitRolledBack = 6
)

// exitError ends the program with a code. An error without text was already shown.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

func exit(code int, err error) error { return &exitError{code: code, err: err} }

func usage(format string, args ...any) error { return exit(exitUsage, fmt.Errorf(format, args...)) }

// csvToo are commands that write CSV, too.
var csvToo = []string{"inventory", "scan"}

// terminal is what every command has: its streams, how to print, and how to connect.
type terminal struct {
	in       io.Reader
	out, err io.Writer

	output  string
	noColor bool
	quiet   bool

	address, namespace, profile string
}

// run executes one command line and returns the exit code.
func run(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) int {
	t := &terminal{in: in, out: out, err: errOut}
	root := newRoot(t)
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errOut)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	var coded *exitError
	if !errors.As(err, &coded) {
		coded = &exitError{code: classify(err), err: err}
	}
	if text := coded.Error(); text != "" {
		t.fail(text, coded.code)
	}
	return coded.code
}

// classify gives an error of the server its code.
func classify(err error) int {
	var missing *serviceerror.NotFound
	switch {
	case errors.As(err, &missing):
		return exitNotFound
	case errors.Is(err, context.DeadlineExceeded):
		return exitTimedOut
	}
	return exitFailed
}

func newRoot(t *terminal) *cobra.Command {
	root := &cobra.Command{
		Use:   "keyturn",
		Short: "Rotates API keys without downtime",
		Long: `keyturn rotates API keys without downtime: it issues a new key while the old one lives, delivers it in
waves, watches errors and usage, and revokes the old one only on evidence and approval.

Exit codes: 0 done, 1 failed, 2 usage or invalid input, 3 refused by policy, 4 not found,
5 timed out waiting, 6 rolled back.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case t.output == "table", t.output == "json", t.output == "yaml", t.output == "csv" && slices.Contains(csvToo, cmd.Name()):
				return nil
			}
			return usage("-o %s: write table, json or yaml", t.output)
		},
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return exit(exitUsage, err) })
	f := root.PersistentFlags()
	f.StringVarP(&t.output, "output", "o", "table", "table, json or yaml")
	f.BoolVar(&t.noColor, "no-color", false, "plain text, also on a terminal")
	f.BoolVarP(&t.quiet, "quiet", "q", false, "only errors, and results asked for with -o")
	f.StringVar(&t.address, "address", "", "host:port of the Temporal frontend (default from Temporal's environment configuration)")
	f.StringVar(&t.namespace, "namespace", "", "Temporal namespace")
	f.StringVar(&t.profile, "profile", "", "profile of Temporal's environment configuration")
	root.AddCommand(
		newValidate(t),
		newSchema(t),
		newSetup(t),
		newDoctor(t),
		newApply(t),
		newInventory(t),
		newPlan(t),
		newRotate(t),
		newStatus(t),
		newSweep(t),
		newApprovals(t),
		newApprove(t),
		newReject(t),
		newExtend(t),
		newRollback(t),
		newVersion(t),
	)
	return root
}

func newVersion(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Says which build this is", Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			return t.show(map[string]string{"build": version.ID()}, func(w io.Writer) { fmt.Fprintln(w, "keyturn", version.ID()) })
		},
	}
}

// noArgs and oneCredential check arguments with the exit code of usage.
func noArgs(cmd *cobra.Command, args []string) error {
	if err := cobra.NoArgs(cmd, args); err != nil {
		return exit(exitUsage, err)
	}
	return nil
}

func oneCredential(_ *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usage("name one credential")
	}
	return nil
}

// connect reaches Temporal by its standard environment configuration; flags go first.
func (t *terminal) connect(ctx context.Context) (client.Client, string, error) {
	c, namespace, _, err := t.dial(ctx)
	return c, namespace, err
}

// dial is connect, and tells the address, too, once it is known.
func (t *terminal) dial(ctx context.Context) (c client.Client, namespace, address string, err error) {
	options, err := envconfig.LoadClientOptions(envconfig.LoadClientOptionsRequest{ConfigFileProfile: t.profile})
	if err != nil {
		return nil, "", "", usage("reading Temporal's environment configuration: %w", err)
	}
	if t.address != "" {
		options.HostPort = t.address
	}
	if options.HostPort == "" {
		options.HostPort = client.DefaultHostPort
	}
	if t.namespace != "" {
		options.Namespace = t.namespace
	}
	if options.Namespace == "" {
		options.Namespace = client.DefaultNamespace
	}
	options.Logger = log.NewStructuredLogger(silent)
	c, err = client.DialContext(ctx, options)
	if err != nil {
		return nil, "", options.HostPort, fmt.Errorf("connecting to Temporal at %s: %w; say where it is with --address or TEMPORAL_ADDRESS", options.HostPort, err)
	}
	return c, options.Namespace, options.HostPort, nil
}

// colored tells whether the output is for a person's terminal.
func (t *terminal) colored() bool {
	return !t.noColor && os.Getenv("NO_COLOR") == "" && t.interactive()
}

// interactive tells whether the output is a terminal.
func (t *terminal) interactive() bool {
	f, ok := t.out.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// me is who decides when --as does not say: the user of this machine.
func me() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return ""
}
