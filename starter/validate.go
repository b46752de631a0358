package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/internal/outside"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/strictyaml"
)

func newValidate(t *terminal) *cobra.Command {
	var paths []string
	cmd := &cobra.Command{
		Use: "validate -f FILE", Short: "Checks an inventory strictly, offline", Args: noArgs,
		Long: "Checks an inventory strictly and offline. All errors are shown at once, each with file, line and column,\nthe field, what is wrong and what to write.",
		RunE: func(*cobra.Command, []string) error {
			if len(paths) == 0 {
				return usage("say which inventory, with -f FILE")
			}
			list, err := files(paths)
			if err != nil {
				return err
			}
			type checked struct {
				File        string            `json:"file"`
				Inventory   string            `json:"inventory,omitempty"`
				Credentials int               `json:"credentials"`
				Errors      strictyaml.Errors `json:"errors,omitempty"`
				// Advice is no error.
				Advice strictyaml.Errors `json:"advice,omitempty"`
			}
			var results []checked
			var problems []error
			for _, file := range list {
				inv, err := t.load(file)
				if err != nil {
					problems = append(problems, err)
					results = append(results, checked{File: file, Errors: wrongIn(file, err)})
					continue
				}
				results = append(results, checked{File: file, Inventory: inv.Name, Credentials: len(inv.Credentials), Advice: inv.Advice})
			}
			if err := t.show(results, func(w io.Writer) {
				for _, r := range results {
					if r.Errors == nil {
						fmt.Fprintf(w, "%s: inventory %s is valid, %s\n", r.File, r.Inventory, policy.Counted(r.Credentials, "credential"))
					}
					for _, a := range r.Advice {
						fmt.Fprintln(w, "advice: "+outside.Text(a.String(), 4*outside.MaxText))
					}
				}
			}); err != nil {
				return err
			}
			if len(problems) == 0 {
				return nil
			}
			if t.output != "table" {
				return exit(exitUsage, nil)
			}
			return exit(exitUsage, joined(problems))
		},
	}
	cmd.Flags().StringArrayVarP(&paths, "file", "f", nil, "an inventory, a folder of them, or - for standard input; may be repeated")
	return cmd
}

// joined puts the errors below each other.
func joined(problems []error) error {
	var lines []string
	for _, err := range problems {
		lines = append(lines, err.Error())
	}
	return errors.New(strings.Join(lines, "\n"))
}

// wrongIn are the errors of a file; that it cannot be read is one, too.
func wrongIn(file string, err error) strictyaml.Errors {
	var all strictyaml.Errors
	if errors.As(err, &all) {
		return all
	}
	return strictyaml.Errors{{File: file, Line: 1, Column: 1, What: err.Error()}}
}
