package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/user"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/log"
	"golang.org/x/term"

	"github.com/keyturn/keyturn/internal/commandline"
	"github.com/keyturn/keyturn/internal/connection"
)

// csvToo are commands that write CSV, too.
var csvToo = []string{"inventory", "scan"}

// terminal is what every command has: its streams, how to print, and how to connect.
type terminal struct {
	in       io.Reader
	out, err io.Writer

	output  string
	noColor bool
	quiet   bool

	where connection.Flags
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
	if text := coded.words(); text != "" {
		t.output = outputAsked(args, t.output)
		t.fail(text, coded.code)
	}
	return coded.code
}

// outputAsked is what -o says wherever it stands, since flags are not read past a wrong one, nor for an unknown command.
func outputAsked(args []string, read string) string {
	flags := pflag.NewFlagSet("keyturn", pflag.ContinueOnError)
	flags.ParseErrorsAllowlist.UnknownFlags = true
	flags.SetOutput(io.Discard)
	asked := flags.StringP("output", "o", read, "")
	_ = flags.Parse(args) // what is wrong with it is being told
	return *asked
}

func newRoot(t *terminal) *cobra.Command {
	root := &cobra.Command{
		Use:   "keyturn",
		Short: "Rotates API keys without downtime",
		Long: `keyturn rotates API keys without downtime: it issues a new key while the old one lives, delivers it in
waves, watches errors and usage, and revokes the old one only on evidence and approval.

` + exitCodes,
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
	f := root.PersistentFlags()
	f.StringVarP(&t.output, "output", "o", "table", "table, json or yaml")
	f.BoolVar(&t.noColor, "no-color", false, "plain text, also on a terminal")
	f.BoolVarP(&t.quiet, "quiet", "q", false, "only errors, and results asked for with -o")
	t.where.Add(root)
	root.AddCommand(
		newValidate(t),
		newSchema(t),
		newSetup(t),
		newDoctor(t),
		newApply(t),
		newInventory(t),
		newPlan(t),
		newRotate(t),
		newRetire(t),
		newEmergency(t),
		newIncident(t),
		newReview(t),
		newStatus(t),
		newSweep(t),
		newApprovals(t),
		newApprove(t),
		newReject(t),
		newExtend(t),
		newRollback(t),
		newAudit(t),
		newVersion(t),
	)
	t.complete(root)
	commandline.Strict(root, wrongUse)
	return root
}

// wrongUse gives an error of the command line its code, unless it has one.
func wrongUse(err error) error {
	var coded *exitError
	if errors.As(err, &coded) {
		return err
	}
	return exit(exitUsage, err)
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

// connect reaches Temporal.
func (t *terminal) connect(ctx context.Context) (c client.Client, namespace string, err error) {
	options, err := t.options()
	if err != nil {
		return nil, "", err
	}
	c, err = connection.Dial(ctx, options)
	return c, options.Namespace, err
}

// options say where Temporal is. The SDK's own log stays out of the output: what matters comes as an error.
func (t *terminal) options() (client.Options, error) {
	options, err := t.where.Options()
	if err != nil {
		return options, exit(exitUsage, err)
	}
	options.Logger = log.NewStructuredLogger(slog.New(slog.DiscardHandler))
	return options, nil
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
