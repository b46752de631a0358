package main

import (
	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/internal/policy"
)

func newApprove(t *terminal) *cobra.Command {
	d := &decision{action: policy.Approve}
	cmd := d.command(t, "approve CREDENTIAL --gate GATE", "Approves the gate that a rotation waits at")
	d.gateFlag(cmd)
	return cmd
}
