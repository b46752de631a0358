package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/internal/version"
)

func newVersion(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Says which build this is", Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			return t.show(map[string]string{"build": version.ID()}, func(w io.Writer) { fmt.Fprintln(w, "keyturn", version.ID()) })
		},
	}
}
