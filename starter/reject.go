package main

import (
	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/internal/policy"
)

func newReject(t *terminal) *cobra.Command {
	d := &decision{action: policy.Reject}
	cmd := d.command(t, "reject CREDENTIAL --gate GATE --reason WHY", "Rejects a gate: the rotation turns back, or ends before it began")
	d.gateFlag(cmd)
	return cmd
}
