package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/internal/connection"
	"github.com/keyturn/keyturn/internal/namespace"
	"github.com/keyturn/keyturn/internal/outside"
	"github.com/keyturn/keyturn/internal/policy"
)

func newDoctor(t *terminal) *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "doctor", Short: "Checks the installation, and says of each failed check what to do", Args: noArgs,
		Long: `Checks connection, server, namespace, retention, search attributes, deployment, workers and their task queues,
whether the workers have one configuration, trust, clocks, each account (reached, and with which rights lacking,
as far as reads tell), and the Schedule of Sweep. It changes nothing.

Exit code 0: all is well, or there are warnings alone. 1: a check failed.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout+30*time.Second)
			defer cancel()
			options, err := t.options()
			if err != nil {
				return err
			}
			found := policy.Installation{Problems: map[string]string{}}
			if c, err := connection.Dial(ctx, options); err != nil {
				found.Problems[policy.CheckConnection] = err.Error()
			} else {
				defer c.Close()
				found = namespace.Look(ctx, c, options.HostPort, options.Namespace, timeout)
			}
			checks := policy.Examine(found)
			if err := t.show(checks, func(w io.Writer) { t.printChecks(w, checks) }); err != nil {
				return err
			}
			if policy.Failed(checks) {
				return exit(exitFailed, nil)
			}
			return nil
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 45*time.Second, "how long to wait for the workers' answers")
	return cmd
}

func (t *terminal) printChecks(w io.Writer, checks []policy.Check) {
	failed, warned := 0, 0
	for _, c := range checks {
		mark := map[policy.CheckState]string{
			policy.CheckOK: "ok      ", policy.CheckWarning: "warning ", policy.CheckFailed: t.bold("FAILED") + "  ", policy.CheckSkipped: "skipped ",
		}[c.State]
		fmt.Fprintf(w, "%s  %s: %s\n", mark, c.Name, outside.Text(c.Message, 4*outside.MaxText))
		if c.Do != "" {
			fmt.Fprintf(w, "          what to do: %s\n", outside.Text(c.Do, outside.MaxText))
		}
		switch c.State {
		case policy.CheckFailed:
			failed++
		case policy.CheckWarning:
			warned++
		}
	}
	verdict := "All is well."
	if failed+warned > 0 {
		verdict = fmt.Sprintf("%d failed, %s.", failed, policy.Counted(warned, "warning"))
	}
	fmt.Fprintf(w, "\n%s\n", strings.TrimSpace(verdict))
}
