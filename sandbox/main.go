// Command sandbox is keyturn on one machine, with nothing to install: it runs Temporal with its Web UI, a
// gateway that checks keys, consumers that call it all the time, and what keyturn needs to rotate their
// key. Nothing in it is for production.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/internal/version"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second one ends the process at once: not everything that starts can be told to end
	err := newRoot().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "sandbox:", err)
		os.Exit(1)
	}
}

func newRoot() *cobra.Command {
	var o demoOptions
	root := &cobra.Command{
		Use:   "sandbox",
		Short: "Runs keyturn on this machine, with Temporal, a gateway and consumers",
		Long: `Runs Temporal with its Web UI, a gateway that checks keys, three consumers that call it all the time, and a
rotation of the key that they use, until Ctrl-C. All of it listens on loopback only.`,
		Version:       version.ID(),
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return runDemo(cmd.Context(), o, cmd.OutOrStdout()) },
	}
	addDemoFlags(root, &o)
	root.AddCommand(newServer(), newDemoServices(), newAWS(), newEmergency())
	return root
}

func addDemoFlags(cmd *cobra.Command, o *demoOptions) {
	cmd.Flags().StringVar(&o.folder, "folder", "", "folder of the state (default a new temporary one)")
	cmd.Flags().BoolVar(&o.once, "once", false, "approve by itself, end with one line of JSON once the rotation has, and remove a temporary folder after a success")
}
