package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/outside"
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

// files lists the inventories of paths: a folder stands for the .yaml and .yml files in it and below, but for
// those whose name begins with a dot.
func files(paths []string) ([]string, error) {
	var list []string
	for _, path := range paths {
		info, err := os.Stat(path)
		if path == "-" || err != nil || !info.IsDir() {
			list = append(list, path) // what is not there is reported when it is read
			continue
		}
		before := len(list)
		err = filepath.WalkDir(path, func(at string, d fs.DirEntry, err error) error {
			switch hidden := at != path && strings.HasPrefix(d.Name(), "."); {
			case err != nil:
				return err
			case hidden && d.IsDir():
				return fs.SkipDir
			case !hidden && !d.IsDir() && slices.Contains([]string{".yaml", ".yml"}, filepath.Ext(at)):
				list = append(list, at)
			}
			return nil
		})
		if err != nil {
			return nil, usage("reading inventories in %s: %w", path, err)
		}
		if len(list) == before {
			return nil, usage("%s has no .yaml and no .yml file", path)
		}
	}
	return list, nil
}

// spec finds one credential of a file, as a rotation takes it.
func (t *terminal) spec(file, name string) (inventory.Spec, error) {
	if file == "" {
		return inventory.Spec{}, usage("say which inventory has %s, with -f FILE", name)
	}
	inv, err := t.load(file)
	if err != nil {
		return inventory.Spec{}, err
	}
	var names []string
	for _, c := range inv.Credentials {
		if c.Name == name {
			return inventory.Spec{Inventory: inv.Name, Generation: time.Now().UnixMilli(), Credential: c}, nil
		}
		names = append(names, c.Name)
	}
	return inventory.Spec{}, exit(exitNotFound, fmt.Errorf("%s has no credential %q; it has %s", file, name, strings.Join(names, ", ")))
}

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
				File        string `json:"file"`
				Inventory   string `json:"inventory,omitempty"`
				Credentials int    `json:"credentials"`
				Errors      any    `json:"errors,omitempty"`
				// Advice is no error.
				Advice strictyaml.Errors `json:"advice,omitempty"`
			}
			var results []checked
			var problems []error
			for _, file := range list {
				inv, err := t.load(file)
				if err != nil {
					problems = append(problems, err)
					results = append(results, checked{File: file, Errors: details(err)})
					continue
				}
				results = append(results, checked{File: file, Inventory: inv.Name, Credentials: len(inv.Credentials), Advice: inv.Advice})
			}
			if err := t.show(results, func(w io.Writer) {
				for _, r := range results {
					if r.Errors == nil {
						fmt.Fprintf(w, "%s: inventory %s is valid, %d credentials\n", r.File, r.Inventory, r.Credentials)
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
