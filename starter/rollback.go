package main

import (
	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/internal/policy"
)

func newRollback(t *terminal) *cobra.Command {
	d := &decision{action: policy.Rollback}
	return d.command(t, "rollback CREDENTIAL --reason WHY", "Turns a rotation back to the retiring key")
}
