package main

import (
	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/internal/inventory"
)

func newSchema(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use: "schema", Short: "Prints the JSON Schema of the inventory, for editors", Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			schema, err := inventory.Schema(catalog())
			if err != nil {
				return err
			}
			_, err = t.out.Write(append(schema, '\n'))
			return err
		},
	}
}
