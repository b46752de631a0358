package file

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/keyturn/keyturn/internal/atomicfile"
	"github.com/keyturn/keyturn/internal/strictyaml"
	"github.com/keyturn/keyturn/providers"
)

// LockConfig is the lock file that freezes deployments: whoever deploys looks for it. It is JSON, a providers.Freeze, and holds until
// its "until": one that nobody removed is none any more after that.
type LockConfig struct {
	// Path of the file. Only keyturn's user may write to its folder.
	Path string `json:"path"`
}

// Problems tells what is wrong with the configuration.
func (c *LockConfig) Problems() []strictyaml.Problem {
	if cleanAbsolute(c.Path) && c.Path != "/" {
		return nil
	}
	return []strictyaml.Problem{{Field: "path", What: "is not an absolute, clean path", Write: "a file such as /run/keyturn/deployments-frozen"}}
}

// lockMode lets everybody read it: nothing in it is secret, and those who deploy are other users.
const lockMode fs.FileMode = 0o644

type freezer struct{ config LockConfig }

var _ providers.Freezer = (*freezer)(nil)

// Freeze implements providers.Freezer. Of several incidents the one counts that froze last.
func (f *freezer) Freeze(ctx context.Context, freeze providers.Freeze) error {
	text, err := json.MarshalIndent(freeze, "", "  ")
	if err == nil {
		err = f.within(ctx, func(dir *os.Root, name string) error {
			return atomicfile.Write(dir, name, append(text, '\n'), lockMode, nil)
		})
	}
	if err != nil {
		return fmt.Errorf("writing the lock file of deployments: %w", err)
	}
	return nil
}

// Unfreeze implements providers.Freezer.
func (f *freezer) Unfreeze(ctx context.Context, incident string) error {
	err := f.within(ctx, func(dir *os.Root, name string) error {
		text, err := readFile(dir, name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		var held providers.Freeze
		if err == nil {
			err = json.Unmarshal(text, &held)
		}
		if err != nil || held.Incident != incident { // a file that is none of ours stays
			return err
		}
		return atomicfile.Remove(dir, name)
	})
	if err != nil {
		return fmt.Errorf("removing the lock file of deployments: %w", err)
	}
	return nil
}

// within does something in the folder of the lock file, alone.
func (f *freezer) within(ctx context.Context, do func(dir *os.Root, name string) error) error {
	folder, name := filepath.Split(f.config.Path)
	if err := trustFolder(folder); err != nil {
		return err
	}
	unlock, err := atomicfile.LockDir(ctx, folder)
	if err != nil {
		return err
	}
	defer unlock()
	dir, err := os.OpenRoot(folder)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	return do(dir, name)
}
