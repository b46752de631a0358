package main

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/keyturn/keyturn/internal/inventory"
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
	spec, err := inv.Spec(name, time.Now())
	if err != nil {
		return spec, exit(exitNotFound, fmt.Errorf("%s has %w", file, err))
	}
	return spec, nil
}
