package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/strictyaml"
	"github.com/keyturn/keyturn/providers/all"
)

func catalog() inventory.Catalog { return all.Catalog(all.Descriptors()...) }

// maxFile bounds what is read of an inventory file: a little more than the reader takes, so that it can
// say that the file is too large.
const maxFile = 4 << 20

// load reads and checks one inventory; "-" is the standard input.
func (t *terminal) load(file string) (*inventory.Inventory, error) {
	in := t.in
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, usage("reading inventory: %w", err)
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, maxFile))
	if err != nil {
		return nil, usage("reading inventory %s: %w", file, err)
	}
	inv, err := inventory.Load(file, data, catalog())
	if err != nil {
		return nil, exit(exitUsage, err)
	}
	return inv, nil
}

// spec packs one credential of a file as a rotation takes it.
func (t *terminal) spec(file, name string) (inventory.SignedSpec, inventory.Credential, error) {
	if file == "" {
		return inventory.SignedSpec{}, inventory.Credential{}, usage("say which inventory has %s, with -f FILE", name)
	}
	inv, err := t.load(file)
	if err != nil {
		return inventory.SignedSpec{}, inventory.Credential{}, err
	}
	var names []string
	for _, c := range inv.Credentials {
		if c.Name == name {
			spec, err := inventory.NewSpec(inv.Name, time.Now().UnixMilli(), c)
			return spec, c, err
		}
		names = append(names, c.Name)
	}
	return inventory.SignedSpec{}, inventory.Credential{}, exit(exitNotFound,
		fmt.Errorf("%s has no credential %q; it has %s", file, name, strings.Join(names, ", ")))
}

func newValidate(t *terminal) *cobra.Command {
	var files []string
	cmd := &cobra.Command{
		Use: "validate -f FILE", Short: "Checks an inventory strictly, offline", Args: noArgs,
		Long: "Checks an inventory strictly and offline. All errors are shown at once, each with file, line and column,\nthe field, what is wrong and what to write.",
		RunE: func(*cobra.Command, []string) error {
			if len(files) == 0 {
				return usage("say which inventory, with -f FILE")
			}
			type checked struct {
				File        string `json:"file"`
				Inventory   string `json:"inventory,omitempty"`
				Credentials int    `json:"credentials"`
				Errors      any    `json:"errors,omitempty"`
			}
			var results []checked
			var problems []error
			for _, file := range files {
				inv, err := t.load(file)
				if err != nil {
					problems = append(problems, err)
					results = append(results, checked{File: file, Errors: details(err)})
					continue
				}
				results = append(results, checked{File: file, Inventory: inv.Name, Credentials: len(inv.Credentials)})
			}
			if err := t.show(results, func(w io.Writer) {
				for _, r := range results {
					if r.Errors == nil {
						fmt.Fprintf(w, "%s: inventory %s is valid, %d credentials\n", r.File, r.Inventory, r.Credentials)
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
	cmd.Flags().StringArrayVarP(&files, "file", "f", nil, "the inventory; - for standard input; may be repeated")
	return cmd
}

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

// joined puts the errors below each other.
func joined(problems []error) error {
	var lines []string
	for _, err := range problems {
		lines = append(lines, err.Error())
	}
	return errors.New(strings.Join(lines, "\n"))
}

// details returns the single errors of an inventory for programs, or the text.
func details(err error) any {
	var list strictyaml.Errors
	if errors.As(err, &list) {
		return list
	}
	return err.Error()
}
