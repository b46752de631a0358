package main

import (
	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/internal/policy"
)

func newExtend(t *terminal) *cobra.Command {
	d := &decision{action: policy.Extend}
	cmd := d.command(t, "extend CREDENTIAL --by DURATION", "Makes the overlap longer")
	cmd.Flags().StringVar(&d.extend, "by", "", "how much longer, such as 2h or 1d")
	return cmd
}
